//! What is typed at the console.

use acrn_shell::{COMMANDS, Command, EscapeDetector, LineEditor, Mode};

pub(crate) fn run(data: &[u8]) {
    let mut editor = LineEditor::new();
    let mut escape = EscapeDetector::new();
    let mut column = 0i64;
    for &byte in data {
        let _ = escape.push(byte);
        let line = editor.push(byte, &mut |shown| match shown {
            8 => column -= 1,
            b'\r' => column = 0,
            b'\n' | 7 => {}
            _ => column += 1,
        });
        assert!(column >= 0, "the cursor has left the line");
        assert!(
            editor
                .text()
                .bytes()
                .all(|byte| (b' '..=b'~').contains(&byte))
        );
        if let Some(line) = line {
            if let Some(Err(error)) = Command::parse(&line, Mode::ReadOnly) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
    if let Ok(text) = core::str::from_utf8(data) {
        let _ = Command::parse(text, Mode::Full);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let line = |name: &str| format!("{name} 1 0x1000 ffffffff\r\x1b[A\x1b[D\x08\t\r").into_bytes();
    COMMANDS.iter().map(|command| line(command.name)).collect()
}
