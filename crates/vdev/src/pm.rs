//! Fixed power management hardware (ACPI 6.5, 4.8.3): event and control registers of the PM1a block.
//!
//! There is one event, the power button. The system is always in ACPI mode. The timer of the block is
//! in [`crate::counters`].

/// First port of the events, after status 2 bytes of enable bits.
const STATUS: u16 = 0;
const ENABLE: u16 = 2;
const CONTROL: u16 = 4;

/// The system is in ACPI mode.
const SCI_ENABLED: u16 = 1 << 0;
/// The button, in status and enable register.
const POWER_BUTTON: u16 = 1 << 8;
/// Status bits that exist, which are cleared by writing ones.
const STATUS_BITS: u16 = 1 << 0 | 1 << 4 | 1 << 5 | POWER_BUTTON | 1 << 9 | 1 << 10 | 1 << 15;
const SLEEP_TYPE: u16 = 7 << 10;
/// Write-only: start to sleep.
const SLEEP_ENABLE: u16 = 1 << 13;

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum PmAction {
    /// Nothing.
    None,
    /// The guest goes to sleep, with this type.
    Sleep(u8),
}

/// The registers.
#[derive(Clone, Debug, Default)]
pub struct Pm {
    status: u16,
    enable: u16,
    control: u16,
}

impl Pm {
    /// Bytes of the block.
    pub const SIZE: u16 = 6;

    /// As after power-up.
    pub const fn new() -> Self {
        Self {
            status: 0,
            enable: 0,
            control: 0,
        }
    }

    /// Reads the byte at an offset of the block.
    pub fn read(&self, offset: u16) -> u8 {
        let word = match offset & !1 {
            STATUS => self.status,
            ENABLE => self.enable,
            CONTROL => self.control | SCI_ENABLED,
            _ => return 0xff,
        };
        word.to_le_bytes()[usize::from(offset & 1)]
    }

    /// Writes the byte at an offset of the block.
    pub fn write(&mut self, offset: u16, value: u8) -> PmAction {
        let shift = 8 * (offset & 1);
        let (bits, lane) = (u16::from(value) << shift, 0xff << shift);
        match offset & !1 {
            STATUS => self.status &= !(bits & STATUS_BITS),
            ENABLE => self.enable = self.enable & !lane | bits,
            CONTROL => {
                self.control = (self.control & !lane | bits) & !SLEEP_ENABLE;
                if bits & SLEEP_ENABLE != 0 {
                    return PmAction::Sleep(((self.control & SLEEP_TYPE) >> 10) as u8);
                }
            }
            _ => {}
        }
        PmAction::None
    }

    /// Somebody presses the power button. `false` when the guest does not listen.
    pub fn press_power_button(&mut self) -> bool {
        self.status |= POWER_BUTTON;
        self.sci()
    }

    /// Level of the interrupt line.
    pub fn sci(&self) -> bool {
        self.status & self.enable & POWER_BUTTON != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(pm: &Pm, offset: u16) -> u16 {
        u16::from_le_bytes([pm.read(offset), pm.read(offset + 1)])
    }

    fn write_word(pm: &mut Pm, offset: u16, value: u16) -> PmAction {
        let [low, high] = value.to_le_bytes();
        let first = pm.write(offset, low);
        assert_eq!(first, PmAction::None, "the sleep bit is in the high byte");
        pm.write(offset + 1, high)
    }

    #[test]
    fn the_button_interrupts_a_guest_that_listens_until_it_clears_the_event() {
        let mut pm = Pm::new();
        assert!(!pm.press_power_button());
        assert_eq!(write_word(&mut pm, ENABLE, POWER_BUTTON), PmAction::None);
        assert!(pm.sci() && pm.press_power_button());
        assert_eq!(word(&pm, STATUS), POWER_BUTTON);
        assert_eq!(write_word(&mut pm, STATUS, POWER_BUTTON), PmAction::None);
        assert!(!pm.sci());
        assert_eq!(word(&pm, STATUS), 0);
    }

    #[test]
    fn sleeping_names_the_type_and_leaves_the_write_only_bit_clear() {
        let mut pm = Pm::new();
        let action = write_word(&mut pm, CONTROL, 5 << 10 | SLEEP_ENABLE);
        assert_eq!(action, PmAction::Sleep(5));
        assert_eq!(word(&pm, CONTROL), 5 << 10 | SCI_ENABLED);
        // The type can come first.
        let mut pm = Pm::new();
        assert_eq!(write_word(&mut pm, CONTROL, 3 << 10), PmAction::None);
        assert_eq!(pm.write(CONTROL + 1, 0x2c), PmAction::Sleep(3));
    }

    #[test]
    fn every_access_has_an_answer() {
        let mut pm = Pm::new();
        for offset in 0..=u16::MAX {
            let _ = pm.write(offset, 0);
            let read = pm.read(offset);
            assert!(offset < Pm::SIZE || read == 0xff);
        }
    }
}
