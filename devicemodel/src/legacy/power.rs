//! ACPI fixed hardware: PM1 event and control registers, PM timer, SMI command port.
//!
//! Buttons are fixed events: the status bit raises the system control interrupt, and the guest shuts
//! itself down or goes to sleep, which ends with a write of a sleep type. Power button and clock wake a
//! sleeping guest, as the Device Model does on command.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use acrn_abi::guest_map;

use super::PortDevice;
use crate::pci::InterruptLine;
use crate::run::Event;

/// PM1a event block: status, then enable.
pub const PM1_EVENT: u16 = 0x400;
/// PM1a control block.
pub const PM1_CONTROL: u16 = 0x404;
/// PM timer. Where the hypervisor can, it answers reads of all 32 bits.
pub const PM_TIMER: u16 = guest_map::PORT_PM_TIMER;
/// SMI command port.
pub const SMI_COMMAND: u16 = 0xb2;
/// Written there: the guest takes power management over.
pub const ACPI_ENABLE: u8 = 0xa0;
/// Written there: the guest gives it back.
pub const ACPI_DISABLE: u8 = 0xa1;
/// Sleep type of "suspend to RAM".
pub const SLEEP_TYPE_S3: u8 = 3;
/// Sleep type of "soft off".
pub const SLEEP_TYPE_S5: u8 = 5;

const POWER_BUTTON: u16 = 1 << 8;
const SLEEP_BUTTON: u16 = 1 << 9;
const CLOCK: u16 = 1 << 10;
const WAKE: u16 = 1 << 15;
/// Status bits that exist: timer, bus master, global lock, buttons, clock, wake.
const STATUS_BITS: u16 = 0x8731;
/// Bits that raise the interrupt: timer, global lock, power button, sleep button, clock.
const ENABLE_BITS: u16 = 0x0721;
const SCI_ENABLE: u16 = 1 << 0;
const SLEEP_ENABLE: u16 = 1 << 13;
const TIMER_HZ: u128 = 3_579_545;

/// A fixed event (ACPI 4.8.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// Somebody presses the power button.
    PowerButton,
    /// Somebody presses the sleep button.
    SleepButton,
    /// The clock's alarm rings.
    Clock,
}

impl Fixed {
    fn status(self) -> u16 {
        match self {
            Self::PowerButton => POWER_BUTTON,
            Self::SleepButton => SLEEP_BUTTON,
            Self::Clock => CLOCK,
        }
    }
}

/// The registers.
pub struct Power {
    status: u16,
    enable: u16,
    control: u16,
    started: Instant,
    sci: Arc<dyn InterruptLine>,
    events: Sender<Event>,
    /// Whether the guest may suspend to RAM.
    sleeps: bool,
    asleep: bool,
}

impl Power {
    /// With the line of the system control interrupt, for a guest that `sleeps` or not.
    pub fn new(
        sci: Arc<dyn InterruptLine>,
        events: Sender<Event>,
        sleeps: bool,
    ) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            status: 0,
            enable: 0,
            control: 0,
            started: Instant::now(),
            sci,
            events,
            sleeps,
            asleep: false,
        }))
    }

    fn update(&self) {
        self.sci.set(self.status & self.enable & ENABLE_BITS != 0);
    }

    /// An event happens, which wakes a sleeping guest that has enabled it.
    pub fn happens(&mut self, event: Fixed) {
        self.status |= event.status();
        self.wake_if_due();
        self.update();
    }

    fn wake_if_due(&self) {
        if self.asleep && self.status & self.enable & ENABLE_BITS != 0 {
            let _ = self.events.send(Event::Wake);
        }
    }

    /// The guest is woken up: it finds the reason in the status register.
    pub fn wake(&mut self) {
        self.asleep = false;
        self.status |= WAKE;
        self.update();
    }

    fn timer(&self) -> u32 {
        // 32 bits wide; the flag TMR_VAL_EXT says so.
        (self.started.elapsed().as_nanos() * TIMER_HZ / 1_000_000_000) as u32
    }

    fn write_control(&mut self, value: u16) {
        self.control = value & !SLEEP_ENABLE;
        let kind = (value >> 10 & 7) as u8;
        if value & SLEEP_ENABLE != 0 {
            match kind {
                SLEEP_TYPE_S3 if self.sleeps => {
                    self.asleep = true;
                    let _ = self.events.send(Event::Suspend);
                    // What has happened on the way to sleep ends it at once.
                    self.wake_if_due();
                }
                SLEEP_TYPE_S5 => {
                    let _ = self.events.send(Event::PowerOff);
                }
                _ => {
                    log::debug!("the guest asked for sleep state {kind}, which it was not offered")
                }
            }
        }
    }

    fn register(&self, offset: u16) -> u16 {
        match offset {
            0 => self.status,
            2 => self.enable,
            4 => self.control,
            8 => self.timer() as u16,
            10 => (self.timer() >> 16) as u16,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u16, value: u16) {
        match offset {
            0 => self.status &= !(value & STATUS_BITS),
            2 => self.enable = value,
            4 => self.write_control(value),
            _ => {}
        }
        self.update();
    }
}

impl PortDevice for Power {
    fn read(&mut self, offset: u16) -> u8 {
        let [low, high] = self.register(offset & !1).to_le_bytes();
        if offset & 1 == 0 { low } else { high }
    }

    fn write(&mut self, offset: u16, value: u8) {
        let aligned = offset & !1;
        let shift = 8 * (offset & 1);
        // Status bits are cleared by ones, so the other byte must not be written back there.
        let other = if aligned == 0 {
            0
        } else {
            self.register(aligned) & !(0xff << shift)
        };
        self.write_register(aligned, other | u16::from(value) << shift);
    }

    fn read_wide(&mut self, offset: u16, size: u8) -> u32 {
        if offset == PM_TIMER - PM1_EVENT && size == 4 {
            return self.timer();
        }
        let low = u32::from(self.register(offset & !1));
        if size == 4 {
            low | u32::from(self.register((offset & !1).saturating_add(2))) << 16
        } else {
            low
        }
    }

    fn write_wide(&mut self, offset: u16, size: u8, value: u32) {
        self.write_register(offset & !1, value as u16);
        if size == 4 {
            self.write_register((offset & !1).saturating_add(2), (value >> 16) as u16);
        }
    }

    fn reset(&mut self) {
        (self.status, self.enable, self.control) = (0, 0, 0);
        self.asleep = false;
        self.update();
    }

    /// What may wake the guest stays, and so does ACPI mode.
    fn sleep(&mut self) {}
}

/// The port that switches between firmware and operating system.
pub struct SmiCommand(pub Arc<Mutex<Power>>);

impl PortDevice for SmiCommand {
    fn read(&mut self, _: u16) -> u8 {
        0
    }

    fn write(&mut self, _: u16, value: u8) {
        let mut power = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            ACPI_ENABLE => power.control |= SCI_ENABLE,
            ACPI_DISABLE => power.control &= !SCI_ENABLE,
            _ => {}
        }
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{self, Receiver};

    use super::*;

    #[derive(Default)]
    struct Pin(AtomicBool);

    impl InterruptLine for Pin {
        fn set(&self, level: bool) {
            self.0.store(level, Ordering::Relaxed);
        }
    }

    fn power() -> (Arc<Mutex<Power>>, Arc<Pin>, Receiver<Event>) {
        let (sender, events) = mpsc::channel();
        let pin = Arc::new(Pin::default());
        (Power::new(pin.clone(), sender, true), pin, events)
    }

    #[test]
    fn the_button_raises_the_interrupt_until_its_status_is_cleared() {
        let (power, pin, _events) = power();
        let mut power = power.lock().unwrap();
        power.happens(Fixed::PowerButton);
        assert!(!pin.0.load(Ordering::Relaxed), "not enabled yet");
        power.write_wide(2, 2, POWER_BUTTON.into());
        assert!(pin.0.load(Ordering::Relaxed));
        assert_eq!(power.read_wide(0, 2), u32::from(POWER_BUTTON));
        power.write_wide(0, 2, POWER_BUTTON.into());
        assert!(!pin.0.load(Ordering::Relaxed));
    }

    #[test]
    fn sleep_type_5_with_the_enable_bit_is_power_off() {
        let (power, _pin, events) = power();
        let mut power = power.lock().unwrap();
        power.write_wide(4, 2, u32::from(SLEEP_TYPE_S5) << 10);
        assert!(events.try_recv().is_err());
        power.write_wide(
            4,
            2,
            u32::from(SLEEP_TYPE_S5) << 10 | u32::from(SLEEP_ENABLE),
        );
        assert_eq!(events.try_recv(), Ok(Event::PowerOff));
        power.write_wide(4, 2, 1 << 10 | u32::from(SLEEP_ENABLE));
        assert!(events.try_recv().is_err(), "S1 is not offered");
    }

    #[test]
    fn an_enabled_event_wakes_a_sleeping_guest_which_sees_that_it_was_woken() {
        let (power, _pin, events) = power();
        let mut power = power.lock().unwrap();
        power.happens(Fixed::Clock);
        power.write_wide(0, 2, u32::from(CLOCK));
        power.write_wide(
            4,
            2,
            u32::from(SLEEP_TYPE_S3) << 10 | u32::from(SLEEP_ENABLE),
        );
        assert_eq!(events.try_recv(), Ok(Event::Suspend));
        power.sleep();
        power.happens(Fixed::Clock);
        assert!(events.try_recv().is_err(), "not enabled");
        power.write_wide(2, 2, u32::from(POWER_BUTTON));
        power.happens(Fixed::PowerButton);
        assert_eq!(events.try_recv(), Ok(Event::Wake));
        power.wake();
        let status = u32::from(WAKE | CLOCK | POWER_BUTTON);
        assert_eq!(power.read_wide(0, 2), status);
        power.happens(Fixed::PowerButton);
        assert!(events.try_recv().is_err(), "it is awake");
        power.write_wide(
            4,
            2,
            u32::from(SLEEP_TYPE_S3) << 10 | u32::from(SLEEP_ENABLE),
        );
        assert_eq!(events.try_recv(), Ok(Event::Suspend));
        assert_eq!(events.try_recv(), Ok(Event::Wake), "the button is pressed");
    }

    #[test]
    fn acpi_mode_is_switched_by_command() {
        let (power, _pin, _events) = power();
        let mut smi = SmiCommand(power.clone());
        smi.write(0, ACPI_ENABLE);
        assert_eq!(power.lock().unwrap().read_wide(4, 2), u32::from(SCI_ENABLE));
        smi.write(0, ACPI_DISABLE);
        assert_eq!(power.lock().unwrap().read_wide(4, 2), 0);
    }

    #[test]
    fn the_timer_runs() {
        let (power, _pin, _events) = power();
        let mut power = power.lock().unwrap();
        let before = power.read_wide(8, 4);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(power.read_wide(8, 4).wrapping_sub(before) > 7000);
    }

    #[test]
    fn bytes_can_be_written_one_by_one() {
        let (power, _pin, events) = power();
        let mut power = power.lock().unwrap();
        power.happens(Fixed::PowerButton);
        power.write(0, 0xff);
        assert_eq!(
            power.read(1),
            1,
            "the other byte of the status is left alone"
        );
        power.write(5, 0x34);
        assert_eq!(events.try_recv(), Ok(Event::PowerOff));
    }
}
