//! The ways in which a PC's software resets it, and the exit of test programs.

use std::sync::mpsc::Sender;

use super::PortDevice;
use crate::run::Event;

/// Reset control register.
pub const RESET_CONTROL: u16 = 0xcf9;
/// Value that resets when written there.
pub const RESET_VALUE: u8 = 0x0e;
/// Command port of the keyboard controller.
pub const KEYBOARD: u16 = 0x64;
/// System control port A.
pub const PORT_A: u16 = 0x92;
/// Exit port of test programs.
pub const DEBUG_EXIT: u16 = 0xf4;

/// The reset control register at 0xCF9.
pub struct ResetControl {
    value: u8,
    events: Sender<Event>,
}

impl ResetControl {
    /// Tells `events` of resets.
    pub fn new(events: Sender<Event>) -> Self {
        Self { value: 0, events }
    }
}

impl PortDevice for ResetControl {
    fn read(&mut self, _: u16) -> u8 {
        self.value
    }

    fn write(&mut self, _: u16, value: u8) {
        // Bit 1 chooses hard or soft, bit 3 a power cycle, bit 2 does it.
        self.value = value & 0x0a;
        if value & 0x04 != 0 {
            let _ = self.events.send(Event::Reset);
        }
    }

    fn reset(&mut self) {
        self.value = 0;
    }
}

/// The keyboard controller, of which only the reset line is there.
pub struct Keyboard(pub Sender<Event>);

impl PortDevice for Keyboard {
    fn read(&mut self, _: u16) -> u8 {
        // Ready for a command, no key.
        0
    }

    fn write(&mut self, _: u16, value: u8) {
        // "Pulse output line" with bit 0 low.
        if value & 0xf1 == 0xf0 {
            let _ = self.0.send(Event::Reset);
        }
    }

    fn reset(&mut self) {}
}

/// System control port A: fast reset, and the A20 line, which is always open.
pub struct PortA(pub Sender<Event>);

impl PortDevice for PortA {
    fn read(&mut self, _: u16) -> u8 {
        2
    }

    fn write(&mut self, _: u16, value: u8) {
        if value & 1 != 0 {
            let _ = self.0.send(Event::Reset);
        }
    }

    fn reset(&mut self) {}
}

/// Port 0xF4 with `--debugexit`.
pub struct DebugExit(pub Sender<Event>);

impl PortDevice for DebugExit {
    fn read(&mut self, _: u16) -> u8 {
        0
    }

    fn write(&mut self, _: u16, value: u8) {
        let _ = self.0.send(Event::DebugExit(value.into()));
    }

    fn write_wide(&mut self, _: u16, _: u8, value: u32) {
        let _ = self.0.send(Event::DebugExit(value));
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn each_way_resets_and_nothing_else_does() {
        let (sender, events) = mpsc::channel();
        let mut control = ResetControl::new(sender.clone());
        let mut keyboard = Keyboard(sender.clone());
        let mut port = PortA(sender);
        control.write(0, 0x02);
        keyboard.write(0, 0xd1);
        port.write(0, 2);
        assert!(events.try_recv().is_err());
        control.write(0, 0x06);
        keyboard.write(0, 0xfe);
        port.write(0, 3);
        assert_eq!(events.try_iter().count(), 3);
    }
}
