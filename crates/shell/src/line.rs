//! Editing one line on a serial terminal.
//!
//! Bytes come in one at a time; what the terminal is to show goes out through a closure. The line
//! is ASCII, so a byte is a column. Only backspaces, blanks and the text itself are sent, which
//! every terminal understands.

use crate::help::COMMANDS;
use arrayvec::{ArrayString, ArrayVec};

/// Longest line, in bytes.
pub const MAX_LINE: usize = 128;
/// Lines that are remembered.
pub const HISTORY: usize = 8;

/// A finished line.
pub type Line = ArrayString<MAX_LINE>;

const CTRL_A: u8 = 0x01;
const CTRL_C: u8 = 0x03;
const CTRL_E: u8 = 0x05;
const BACKSPACE: u8 = 0x08;
const TAB: u8 = 0x09;
const CTRL_K: u8 = 0x0B;
const CTRL_U: u8 = 0x15;
const CTRL_W: u8 = 0x17;
const ESCAPE: u8 = 0x1B;
const DELETE: u8 = 0x7F;
const BELL: u8 = 0x07;

/// How much of an escape sequence was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    /// ESC.
    Escape,
    /// ESC `[` or ESC `O`, and the number that followed.
    Control(u8),
}

/// The line being typed.
#[derive(Clone, Debug, Default)]
pub struct LineEditor {
    line: ArrayVec<u8, MAX_LINE>,
    /// Column, at most the length.
    cursor: usize,
    sequence: Sequence,
    /// The byte before was CR: an LF belongs to it.
    after_cr: bool,
    /// Oldest first.
    history: ArrayVec<Line, HISTORY>,
    /// Line of the history that is shown; its length for none.
    recalled: usize,
}

impl LineEditor {
    /// An empty line and no history.
    pub const fn new() -> Self {
        Self {
            line: ArrayVec::new_const(),
            cursor: 0,
            sequence: Sequence::None,
            after_cr: false,
            history: ArrayVec::new_const(),
            recalled: 0,
        }
    }

    /// Takes a byte; returns the line when it ends it. `echo` gets what the terminal is to show,
    /// with CR LF after a finished line. Ctrl-C finishes an empty line.
    pub fn push(&mut self, byte: u8, echo: &mut impl FnMut(u8)) -> Option<Line> {
        let line_feed = core::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
        if line_feed {
            return None;
        }
        match self.sequence {
            Sequence::Escape => {
                let opens = byte == b'[' || byte == b'O';
                self.sequence = if opens {
                    Sequence::Control(0)
                } else {
                    Sequence::None
                };
                None
            }
            Sequence::Control(number) => {
                self.control(number, byte, echo);
                None
            }
            Sequence::None => self.plain(byte, echo),
        }
    }

    /// What was typed so far, for showing it again after a log message.
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.line).unwrap_or_default()
    }

    fn plain(&mut self, byte: u8, echo: &mut impl FnMut(u8)) -> Option<Line> {
        match byte {
            b'\r' | b'\n' => return Some(self.finish(echo)),
            CTRL_C => {
                echo(b'^');
                echo(b'C');
                self.clear();
                return Some(self.finish(echo));
            }
            BACKSPACE | DELETE if self.cursor > 0 => {
                self.left(echo);
                self.delete(echo);
            }
            CTRL_U => self.replace("", echo),
            CTRL_K => {
                while self.cursor < self.line.len() {
                    self.delete(echo);
                }
            }
            CTRL_W => self.erase_word(echo),
            TAB => self.complete(echo),
            CTRL_A => self.home(echo),
            CTRL_E => self.end(echo),
            ESCAPE => self.sequence = Sequence::Escape,
            b' '..=b'~' => self.insert(byte, echo),
            _ => {}
        }
        None
    }

    /// Takes a byte after ESC `[`.
    fn control(&mut self, number: u8, byte: u8, echo: &mut impl FnMut(u8)) {
        if byte.is_ascii_digit() {
            let number = number.saturating_mul(10).saturating_add(byte - b'0');
            self.sequence = Sequence::Control(number);
            return;
        }
        self.sequence = Sequence::None;
        match (byte, number) {
            (b'A', _) => self.recall(self.recalled.wrapping_sub(1), echo),
            (b'B', _) => self.recall(self.recalled + 1, echo),
            (b'C', _) => self.right(echo),
            (b'D', _) if self.cursor > 0 => self.left(echo),
            (b'H', _) | (b'~', 1 | 7) => self.home(echo),
            (b'F', _) | (b'~', 4 | 8) => self.end(echo),
            (b'~', 3) => self.delete(echo),
            // Further parameters, of keys with modifiers: swallow what follows.
            (b';', _) => self.sequence = Sequence::Control(0),
            _ => {}
        }
    }

    fn insert(&mut self, byte: u8, echo: &mut impl FnMut(u8)) {
        if self.line.try_insert(self.cursor, byte).is_err() {
            echo(BELL);
            return;
        }
        self.show_rest(echo);
        self.cursor += 1;
        self.back(self.line.len() - self.cursor, echo);
    }

    /// Removes the byte under the cursor.
    fn delete(&mut self, echo: &mut impl FnMut(u8)) {
        if self.line.pop_at(self.cursor).is_none() {
            return;
        }
        self.show_rest(echo);
        echo(b' ');
        self.back(self.line.len() + 1 - self.cursor, echo);
    }

    /// Removes the blanks before the cursor and the word before these.
    fn erase_word(&mut self, echo: &mut impl FnMut(u8)) {
        for blank in [true, false] {
            let is_one = |line: &[u8], at: usize| (line[at] == b' ') == blank;
            while self.cursor > 0 && is_one(&self.line, self.cursor - 1) {
                self.left(echo);
                self.delete(echo);
            }
        }
    }

    /// Completes the command's name, as far as all commands that begin like it agree. A bell says
    /// that there is nothing to add.
    fn complete(&mut self, echo: &mut impl FnMut(u8)) {
        let typed = self.line.len();
        let mut names = COMMANDS
            .iter()
            .map(|help| help.name.as_bytes())
            .filter(|name| name.starts_with(&self.line) && self.cursor == typed);
        let Some(first) = names.next() else {
            echo(BELL);
            return;
        };
        let shared = |name: &[u8]| first.iter().zip(name).take_while(|(a, b)| a == b).count();
        let mut length = first.len();
        let mut is_alone = true;
        for name in names {
            length = length.min(shared(name));
            is_alone = false;
        }
        first[typed..length]
            .iter()
            .for_each(|&byte| self.insert(byte, echo));
        if is_alone {
            self.insert(b' ', echo);
        } else if length == typed {
            echo(BELL);
        }
    }

    fn left(&mut self, echo: &mut impl FnMut(u8)) {
        self.cursor -= 1;
        echo(BACKSPACE);
    }

    fn right(&mut self, echo: &mut impl FnMut(u8)) {
        if let Some(&byte) = self.line.get(self.cursor) {
            echo(byte);
            self.cursor += 1;
        }
    }

    fn home(&mut self, echo: &mut impl FnMut(u8)) {
        self.back(self.cursor, echo);
        self.cursor = 0;
    }

    fn end(&mut self, echo: &mut impl FnMut(u8)) {
        self.show_rest(echo);
        self.cursor = self.line.len();
    }

    fn back(&self, columns: usize, echo: &mut impl FnMut(u8)) {
        (0..columns).for_each(|_| echo(BACKSPACE));
    }

    /// Shows the line from the cursor on; the terminal's cursor is then at its end.
    fn show_rest(&self, echo: &mut impl FnMut(u8)) {
        self.line
            .iter()
            .skip(self.cursor)
            .for_each(|&byte| echo(byte));
    }

    /// Shows another line instead.
    fn replace(&mut self, text: &str, echo: &mut impl FnMut(u8)) {
        let old = self.line.len();
        self.home(echo);
        self.clear();
        self.line.extend(text.bytes().take(MAX_LINE));
        self.end(echo);
        let surplus = old.saturating_sub(self.line.len());
        (0..surplus).for_each(|_| echo(b' '));
        self.back(surplus, echo);
    }

    /// Shows a line of the history, or an empty one after the newest.
    fn recall(&mut self, index: usize, echo: &mut impl FnMut(u8)) {
        if index > self.history.len() {
            return;
        }
        let text = self.history.get(index).copied().unwrap_or_default();
        self.replace(&text, echo);
        self.recalled = index;
    }

    fn clear(&mut self) {
        self.line.clear();
        self.cursor = 0;
    }

    fn finish(&mut self, echo: &mut impl FnMut(u8)) -> Line {
        echo(b'\r');
        echo(b'\n');
        let line = Line::from(self.text()).unwrap_or_default();
        self.clear();
        if !line.trim().is_empty() && self.history.last() != Some(&line) {
            if self.history.is_full() {
                self.history.remove(0);
            }
            self.history.push(line);
        }
        self.recalled = self.history.len();
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A terminal of one line.
    #[derive(Default)]
    struct Screen {
        cells: Vec<u8>,
        column: usize,
    }

    impl Screen {
        fn show(&mut self, byte: u8) {
            match byte {
                BACKSPACE => self.column -= 1,
                b'\r' => self.column = 0,
                b'\n' => self.cells.clear(),
                BELL => {}
                byte => {
                    self.cells
                        .resize(self.cells.len().max(self.column + 1), b' ');
                    self.cells[self.column] = byte;
                    self.column += 1;
                }
            }
        }
    }

    fn type_into(editor: &mut LineEditor, screen: &mut Screen, bytes: &[u8]) -> Vec<String> {
        let lines = bytes
            .iter()
            .filter_map(|&byte| editor.push(byte, &mut |b| screen.show(b)));
        lines.map(|line| line.to_string()).collect()
    }

    fn lines(bytes: &[u8]) -> Vec<String> {
        type_into(&mut LineEditor::new(), &mut Screen::default(), bytes)
    }

    #[test]
    fn cr_lf_and_both_end_one_line() {
        assert_eq!(lines(b"a\rb\nc\r\nd\r"), ["a", "b", "c", "d"]);
        assert_eq!(lines(b"\r\r\n\r"), ["", "", ""]);
    }

    #[test]
    fn editing_keys_edit() {
        assert_eq!(lines(b"abx\x08c\x7Fd\r"), ["abd"]);
        assert_eq!(lines(b"ac\x1B[Db\r"), ["abc"]);
        assert_eq!(lines(b"bc\x1B[Ha\x1B[Fd\r"), ["abcd"]);
        assert_eq!(lines(b"bc\x1B[1~a\x1B[4~d\x01\x1B[3~\r"), ["bcd"]);
        assert_eq!(lines(b"ab\x1BOD\x1BODx\x1BOC\x1BOCy\r"), ["xaby"]);
        assert_eq!(lines(b"abc\x15d\r"), ["d"]);
        assert_eq!(lines(b"abc\x03d\r"), ["", "d"]);
        assert_eq!(lines(b"one two  \x17x\r"), ["one x"]);
        assert_eq!(lines(b"one\x17\x17\x17x\r"), ["x"]);
        assert_eq!(lines(b"abcd\x1B[D\x1B[D\x0B\x0Bx\r"), ["abx"]);
    }

    #[test]
    fn tab_completes_the_name_of_a_command_as_far_as_it_is_clear() {
        assert_eq!(lines(b"ver\t\r"), ["version "]);
        assert_eq!(lines(b"vm_\tl\t\r"), ["vm_list "]);
        assert_eq!(lines(b"v\t\r"), ["v"]);
        assert_eq!(lines(b"vm_re\t\t1\r"), ["vm_res1"]);
        assert_eq!(lines(b"log\t\r"), ["log"]);
        assert_eq!(lines(b"\tx\t\x1B[D\t\r"), ["x"]);
        assert_eq!(lines(b"dump 0\t\r"), ["dump 0"]);
    }

    #[test]
    fn keys_that_mean_nothing_leave_no_trace() {
        assert_eq!(lines(b"a\x1B[15~\x1B[1;5C\x1Bx\x80\xFF\x02b\r"), ["ab"]);
        assert_eq!(lines(b"\x08\x1B[D\x1B[C\x1B[3~\x1B[Aa\r"), ["a"]);
    }

    #[test]
    fn the_history_keeps_eight_lines_without_repetition() {
        let mut editor = LineEditor::new();
        let mut screen = Screen::default();
        type_into(
            &mut editor,
            &mut screen,
            b"1\r2\r2\r \r3\r4\r5\r6\r7\r8\r9\r",
        );
        let up = |n: usize| b"\x1B[A".repeat(n);
        let mut recall = |keys: Vec<u8>| {
            type_into(
                &mut editor.clone(),
                &mut screen,
                &[keys, b"\r".to_vec()].concat(),
            )
            .remove(0)
        };
        assert_eq!(recall(up(1)), "9");
        assert_eq!(recall(up(8)), "2");
        assert_eq!(recall(up(20)), "2");
        assert_eq!(recall([up(3), b"\x1B[B".to_vec()].concat()), "8");
        assert_eq!(recall([up(2), b"\x1B[B\x1B[B\x1B[B".to_vec()].concat()), "");
    }

    #[test]
    fn a_line_ends_at_its_limit_with_a_bell() {
        let mut bells = 0;
        let mut editor = LineEditor::new();
        for _ in 0..MAX_LINE + 2 {
            editor.push(b'x', &mut |byte| bells += u32::from(byte == BELL));
        }
        assert_eq!((editor.text().len(), bells), (MAX_LINE, 2));
    }

    proptest! {
        #[test]
        fn the_screen_always_shows_the_line_and_the_cursor(
            keys in proptest::collection::vec(
                proptest::sample::select(vec![
                    "\x1B[A", "\x1B[B", "\x1B[C", "\x1B[D", "\x1B[H", "\x1B[F", "\x1B[3~", "\x08",
                    "\x15", "\x17", "\x0B", "\t", "v", "a", "b ", "\r", "hello",
                ]),
                0..80,
            ),
        ) {
            let mut editor = LineEditor::new();
            let mut screen = Screen::default();
            for key in keys {
                type_into(&mut editor, &mut screen, key.as_bytes());
                let shown = String::from_utf8(screen.cells.clone()).unwrap();
                prop_assert_eq!(shown.trim_end(), editor.text().trim_end());
                prop_assert_eq!(screen.column, editor.cursor);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut editor = LineEditor::new();
            for byte in bytes {
                editor.push(byte, &mut |_| ());
            }
        }
    }
}
