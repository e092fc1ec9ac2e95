//! Interval timer (8254) at ports 0x40 to 0x43, and the gate of its third channel at 0x61.
//!
//! Counters are computed from the time since they were loaded; only channel 0, the timer
//! interrupt, has a thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use acrn_abi::types::Gsi;

use super::PortDevice;
use super::alarm::Alarm;
use crate::hsm::sinks::Lines;

/// Input clock in Hz.
const FREQUENCY: u64 = 1_193_182;
/// Where the timer interrupt goes: the IOAPIC pin that stands for ISA's line 0.
pub const TIMER_GSI: Gsi = Gsi(2);

/// Which byte of a counter is accessed next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Low,
    High,
    Both,
}

struct Channel {
    access: Access,
    mode: u8,
    reload: u32,
    loaded: Instant,
    /// A count was written since the mode was.
    counting: bool,
    gate: bool,
    write_low: Option<u8>,
    read_high_next: bool,
    latch: Option<u16>,
    status: Option<u8>,
}

impl Channel {
    fn new(gate: bool) -> Self {
        Self {
            access: Access::Both,
            mode: 3,
            reload: 0x1_0000,
            loaded: Instant::now(),
            counting: false,
            gate,
            write_low: None,
            read_high_next: false,
            latch: None,
            status: None,
        }
    }

    fn elapsed(&self) -> u64 {
        if !self.counting || !self.gate {
            return 0;
        }
        let nanoseconds = self.loaded.elapsed().as_nanos();
        u64::try_from(nanoseconds * u128::from(FREQUENCY) / 1_000_000_000).unwrap_or(u64::MAX)
    }

    fn count(&self) -> u16 {
        let reload = u64::from(self.reload);
        let elapsed = self.elapsed();
        let value = match self.mode {
            2 => reload - elapsed % reload,
            3 => reload - elapsed.wrapping_mul(2) % reload,
            _ => reload.wrapping_sub(elapsed),
        };
        value as u16
    }

    fn output(&self) -> bool {
        let reload = u64::from(self.reload);
        let elapsed = self.elapsed();
        match self.mode {
            2 => elapsed % reload != reload - 1,
            3 => elapsed % reload < reload.div_ceil(2),
            _ => self.counting && elapsed >= reload,
        }
    }

    /// Time until the output rises, and the period for modes that repeat.
    fn schedule(&self) -> (Duration, Option<Duration>) {
        let nanoseconds = u64::from(self.reload) * 1_000_000_000 / FREQUENCY;
        let time = Duration::from_nanos(nanoseconds);
        (time, matches!(self.mode, 2 | 3).then_some(time))
    }

    fn load(&mut self, count: u16) {
        self.reload = if count == 0 { 0x1_0000 } else { count.into() };
        self.loaded = Instant::now();
        self.counting = true;
    }

    /// Writes a byte; true when the count is complete.
    fn write(&mut self, value: u8) -> bool {
        let count = match (self.access, self.write_low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, None) => {
                self.write_low = Some(value);
                return false;
            }
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
        };
        self.load(count);
        true
    }

    fn read(&mut self) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let [low, high] = self.latch.unwrap_or_else(|| self.count()).to_le_bytes();
        match self.access {
            Access::Low => {
                self.latch = None;
                low
            }
            Access::High => {
                self.latch = None;
                high
            }
            Access::Both => {
                self.read_high_next = !self.read_high_next;
                if self.read_high_next {
                    low
                } else {
                    self.latch = None;
                    high
                }
            }
        }
    }

    fn latch_count(&mut self) {
        if self.latch.is_none() {
            self.latch = Some(self.count());
            self.read_high_next = false;
        }
    }

    fn latch_status(&mut self) {
        if self.status.is_none() {
            let access = match self.access {
                Access::Low => 1,
                Access::High => 2,
                Access::Both => 3,
            };
            let null_count = u8::from(!self.counting) << 6;
            self.status =
                Some(u8::from(self.output()) << 7 | null_count | access << 4 | self.mode << 1);
        }
    }
}

/// The timer.
pub struct Pit {
    channels: [Channel; 3],
    alarm: Option<Alarm>,
    /// Whether HPET has taken the timer interrupt over.
    replaced: Arc<std::sync::atomic::AtomicBool>,
    speaker: u8,
}

impl Pit {
    /// A timer on `lines`, silent while `replaced` says that HPET drives the line.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn new(
        lines: Arc<Lines>,
        replaced: Arc<std::sync::atomic::AtomicBool>,
    ) -> std::io::Result<Arc<Mutex<Self>>> {
        let silent = replaced.clone();
        let alarm = Alarm::new("pit", move || {
            if !silent.load(std::sync::atomic::Ordering::Relaxed) {
                lines.pulse(TIMER_GSI);
            }
        })?;
        let channels = [Channel::new(true), Channel::new(true), Channel::new(false)];
        Ok(Arc::new(Mutex::new(Self {
            channels,
            alarm: Some(alarm),
            replaced,
            speaker: 0,
        })))
    }

    fn restart(&self) {
        let (Some(alarm), [timer, ..]) = (&self.alarm, &self.channels) else {
            return;
        };
        if timer.counting && timer.mode != 1 && timer.mode != 5 {
            let (first, period) = timer.schedule();
            alarm.set(timer.loaded + first, period);
        } else {
            alarm.cancel();
        }
    }

    fn command(&mut self, value: u8) {
        let selected = usize::from(value >> 6);
        let Some(channel) = self.channels.get_mut(selected) else {
            // Read-back: bits 1 to 3 choose channels, low bits 4 and 5 what to latch.
            for (index, channel) in self.channels.iter_mut().enumerate() {
                if value & 2 << index != 0 {
                    if value & 0x20 == 0 {
                        channel.latch_count();
                    }
                    if value & 0x10 == 0 {
                        channel.latch_status();
                    }
                }
            }
            return;
        };
        channel.access = match value >> 4 & 3 {
            0 => return channel.latch_count(),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        // Modes 6 and 7 are 2 and 3.
        channel.mode = match value >> 1 & 7 {
            mode @ 6..=7 => mode - 4,
            mode => mode,
        };
        channel.counting = false;
        channel.write_low = None;
        channel.read_high_next = false;
        channel.latch = None;
        channel.status = None;
        if selected == 0 {
            self.restart();
        }
    }
}

impl PortDevice for Pit {
    fn read(&mut self, offset: u16) -> u8 {
        match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => channel.read(),
            None => 0xff,
        }
    }

    fn write(&mut self, offset: u16, value: u8) {
        match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => {
                let complete = channel.write(value);
                if complete && offset == 0 {
                    self.restart();
                }
            }
            None if offset == 3 => self.command(value),
            None => {}
        }
    }

    fn reset(&mut self) {
        self.channels = [Channel::new(true), Channel::new(true), Channel::new(false)];
        self.speaker = 0;
        self.replaced
            .store(false, std::sync::atomic::Ordering::Relaxed);
        self.restart();
    }
}

/// Port 0x61: gate and output of channel 2.
pub struct SystemControl(pub Arc<Mutex<Pit>>);

impl PortDevice for SystemControl {
    fn read(&mut self, _: u16) -> u8 {
        let pit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = &pit.channels[2];
        // Bit 4 toggles with memory refresh, every 15 microseconds.
        let refresh = (Instant::now() - channel.loaded).as_micros() / 15 % 2;
        pit.speaker | (refresh as u8) << 4 | u8::from(channel.output()) << 5
    }

    fn write(&mut self, _: u16, value: u8) {
        let mut pit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pit.speaker = value & 3;
        let gate = value & 1 != 0;
        let channel = &mut pit.channels[2];
        if gate && !channel.gate {
            // A rising gate starts the count (modes 1, 2, 3, 5) or lets it go on.
            channel.loaded = Instant::now();
        }
        channel.gate = gate;
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use acrn_abi::hypercall::IrqLine;

    use super::*;
    use crate::hsm::fake::{Call, FakeHsm};

    fn pit() -> (Arc<FakeHsm>, Arc<Mutex<Pit>>) {
        let hsm = FakeHsm::new();
        let lines = Lines::new(hsm.clone());
        (
            hsm,
            Pit::new(lines, Arc::new(AtomicBool::new(false))).unwrap(),
        )
    }

    #[test]
    fn channel_0_interrupts_periodically() {
        let (hsm, pit) = pit();
        let mut timer = pit.lock().unwrap();
        timer.write(3, 0x34);
        timer.write(0, 0xa9);
        timer.write(0, 0x04); // 1 ms
        drop(timer);
        hsm.wait_for(&Call::IrqLine(2, IrqLine::RISING_PULSE));
        hsm.take_calls();
        hsm.wait_for(&Call::IrqLine(2, IrqLine::RISING_PULSE));
    }

    #[test]
    fn channel_2_counts_while_its_gate_is_open() {
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

    #[test]
    fn a_latched_count_stands_still() {
        let (_hsm, pit) = pit();
        let mut timer = pit.lock().unwrap();
        timer.write(3, 0x34);
        timer.write(0, 0);
        timer.write(0, 0);
        timer.write(3, 0x00);
        let latched = timer.channels[0].latch.unwrap();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(u16::from_le_bytes([timer.read(0), timer.read(0)]), latched);
        assert!(timer.channels[0].latch.is_none());
    }

    #[test]
    fn read_back_tells_mode_and_access() {
        let (_hsm, pit) = pit();
        let mut timer = pit.lock().unwrap();
        timer.write(3, 0x74);
        timer.write(3, 0xe4);
        assert_eq!(
            timer.read(1) & 0x7f,
            0x74,
            "nothing loaded, both bytes, mode 2"
        );
    }

    #[test]
    fn any_write_is_survived() {
        let (_hsm, pit) = pit();
        for command in 0..=255 {
            for value in [0, 1, 0xff] {
                let mut timer = pit.lock().unwrap();
                timer.write(3, command);
                for port in 0..3 {
                    timer.write(port, value);
                    timer.read(port);
                }
            }
        }
    }
}
