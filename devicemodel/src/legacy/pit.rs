//! Interval timer (8254) at ports 0x40 to 0x43, and the gate of its third counter at 0x61: the hypervisor's
//! model of it, with a thread for the timer interrupt. The guest has this one where the hypervisor does not
//! provide its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use acrn_abi::guest_map::{PORT_PIT, PORT_SYSTEM_CONTROL, TIMER_GSI};
use acrn_vdev::pit;

use super::PortDevice;
use super::alarm::Alarm;
use crate::hsm::sinks::Lines;

/// The model's clock counts nanoseconds.
const CLOCK_HZ: u64 = 1_000_000_000;

/// The timer.
pub struct Pit {
    model: pit::Pit,
    /// Time 0 of the model.
    start: Instant,
    alarm: Alarm,
}

impl Pit {
    /// A timer on `lines`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn new(lines: Arc<Lines>) -> std::io::Result<Arc<Mutex<Self>>> {
        let alarm = Alarm::new("pit", move || lines.pulse(TIMER_GSI))?;
        Ok(Arc::new(Mutex::new(Self {
            model: pit::Pit::new(CLOCK_HZ),
            start: Instant::now(),
            alarm,
        })))
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn read_port(&mut self, port: u16) -> u8 {
        self.model.read(port, self.now())
    }

    fn write_port(&mut self, port: u16, value: u8) {
        let now = self.now();
        if self.model.write(port, value, now) {
            self.restart(now);
        }
    }

    fn restart(&self, now: u64) {
        let Some(first) = self.model.next_rise(now) else {
            return self.alarm.cancel();
        };
        let second = self.model.next_rise(first);
        let period = second.map(|second| Duration::from_nanos(second - first));
        self.alarm
            .set(self.start + Duration::from_nanos(first), period);
    }
}

impl PortDevice for Pit {
    fn read(&mut self, offset: u16) -> u8 {
        self.read_port(PORT_PIT.saturating_add(offset))
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.write_port(PORT_PIT.saturating_add(offset), value);
    }

    fn reset(&mut self) {
        self.model.reset();
        self.alarm.cancel();
    }
}

/// Port 0x61: gate and output of the third counter.
pub struct SystemControl(pub Arc<Mutex<Pit>>);

impl PortDevice for SystemControl {
    fn read(&mut self, _: u16) -> u8 {
        let mut pit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pit.read_port(PORT_SYSTEM_CONTROL)
    }

    fn write(&mut self, _: u16, value: u8) {
        let mut pit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pit.write_port(PORT_SYSTEM_CONTROL, value);
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use acrn_abi::hypercall::IrqLine;

    use super::*;
    use crate::hsm::fake::{Call, FakeHsm};

    fn pit() -> (Arc<FakeHsm>, Arc<Mutex<Pit>>) {
        let hsm = FakeHsm::new();
        let pit = Pit::new(Lines::new(hsm.clone())).unwrap();
        (hsm, pit)
    }

    /// Has counter 0 interrupt each millisecond.
    fn start(pit: &Mutex<Pit>) {
        let mut timer = pit.lock().unwrap();
        timer.write(3, 0x34);
        timer.write(0, 0xa9);
        timer.write(0, 0x04);
    }

    #[test]
    fn counter_0_interrupts_periodically() {
        let (hsm, pit) = pit();
        start(&pit);
        hsm.wait_for(&Call::IrqLine(2, IrqLine::RISING_PULSE));
        hsm.take_calls();
        hsm.wait_for(&Call::IrqLine(2, IrqLine::RISING_PULSE));
    }

    #[test]
    fn it_is_silent_after_a_reset() {
        let (hsm, pit) = pit();
        start(&pit);
        hsm.wait_for(&Call::IrqLine(2, IrqLine::RISING_PULSE));
        pit.lock().unwrap().reset();
        // A pulse may be on its way.
        std::thread::sleep(Duration::from_millis(5));
        hsm.take_calls();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(hsm.take_calls().len(), 0);
    }

    #[test]
    fn the_third_counter_counts_while_its_gate_is_open() {
        let (_hsm, pit) = pit();
        let mut control = SystemControl(pit.clone());
        let mut timer = pit.lock().unwrap();
        timer.write(3, 0xb0);
        timer.write(2, 0xff);
        timer.write(2, 0x00);
        drop(timer);
        assert_eq!(control.read(0) & 0x20, 0);
        control.write(0, 1);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(control.read(0) & 0x21, 0x21, "255 counts take 0.2 ms");
    }
}
