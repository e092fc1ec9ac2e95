//! Leaving a VM's console.
//!
//! While the serial port belongs to a VM every byte is the guest's. NUL is the exception: Ctrl-@
//! or Ctrl-Space sends it, and a serial BREAK arrives as one. The byte after it is a command:
//! `e` leaves the console, `n` goes to the next one, another NUL sends a BREAK to the guest.
//! Anything else is the guest's, together with the NUL.

/// What a byte on the serial port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleInput {
    /// Nothing yet: the next byte decides.
    Wait,
    /// The guest gets it.
    Byte(u8),
    /// The guest gets a NUL and then the byte.
    NulAndByte(u8),
    /// The guest gets a BREAK.
    Break,
    /// Back to the shell.
    Leave,
    /// On to the console of the next VM.
    Next,
}

/// Watches what is typed into a VM's console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EscapeDetector {
    after_nul: bool,
}

impl EscapeDetector {
    /// Nothing was typed.
    pub const fn new() -> Self {
        Self { after_nul: false }
    }

    /// Takes a byte.
    pub const fn push(&mut self, byte: u8) -> ConsoleInput {
        if !self.after_nul {
            self.after_nul = byte == 0;
            return if byte == 0 {
                ConsoleInput::Wait
            } else {
                ConsoleInput::Byte(byte)
            };
        }
        self.after_nul = false;
        match byte {
            0 => ConsoleInput::Break,
            b'e' => ConsoleInput::Leave,
            b'n' => ConsoleInput::Next,
            byte => ConsoleInput::NulAndByte(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Vec<ConsoleInput> {
        let mut detector = EscapeDetector::new();
        bytes.iter().map(|&byte| detector.push(byte)).collect()
    }

    #[test]
    fn ordinary_bytes_are_the_guests() {
        assert_eq!(typed(b"e"), [ConsoleInput::Byte(b'e')]);
        assert_eq!(typed(&[0xFF]), [ConsoleInput::Byte(0xFF)]);
    }

    #[test]
    fn nul_and_a_letter_is_for_the_hypervisor() {
        use ConsoleInput::{Break, Byte, Leave, Next, Wait};
        assert_eq!(typed(b"\0e"), [Wait, Leave]);
        assert_eq!(typed(b"\0n"), [Wait, Next]);
        assert_eq!(typed(b"\0\0e"), [Wait, Break, Byte(b'e')]);
    }

    #[test]
    fn a_nul_before_something_else_reaches_the_guest() {
        assert_eq!(
            typed(b"\0x"),
            [ConsoleInput::Wait, ConsoleInput::NulAndByte(b'x')]
        );
    }
}
