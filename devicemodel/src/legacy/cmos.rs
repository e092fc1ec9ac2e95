//! Real-time clock and CMOS memory (MC146818), ports 0x70 and 0x71, interrupt line 8.
//!
//! The clock shows the Service VM's time in UTC, moved by what the guest set. Sizes of memory
//! are in the cells where PC firmware puts them.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::PortDevice;
use super::alarm::Alarm;
use super::power::{Fixed, Power};
use crate::memory::Layout;
use crate::pci::InterruptLine;

const SECONDS: usize = 0;
const SECONDS_ALARM: usize = 1;
const MINUTES: usize = 2;
const MINUTES_ALARM: usize = 3;
const HOURS: usize = 4;
const HOURS_ALARM: usize = 5;
const WEEKDAY: usize = 6;
const DAY: usize = 7;
const MONTH: usize = 8;
const YEAR: usize = 9;
const REG_A: usize = 0x0a;
const REG_B: usize = 0x0b;
const REG_C: usize = 0x0c;
const REG_D: usize = 0x0d;
const CENTURY: usize = 0x32;

const A_RATE: u8 = 0x0f;
const B_SET: u8 = 1 << 7;
const B_PERIODIC: u8 = 1 << 6;
const B_ALARM: u8 = 1 << 5;
const B_UPDATE: u8 = 1 << 4;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const C_ANY: u8 = 1 << 7;
const D_VALID: u8 = 1 << 7;
const PM: u8 = 1 << 7;
/// An alarm register with these bits matches everything.
const ANY: u8 = 0xc0;

/// A point in time as the registers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Calendar {
    year: i64,
    month: u8,
    day: u8,
    /// 1 is Sunday.
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Calendar {
    /// From seconds since 1970 (the algorithm counts in eras of 400 years from March on).
    fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        let rest = seconds.rem_euclid(86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Seconds since 1970. Fields out of range are carried over.
    fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = self.year - i64::from(month <= 2);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = year.div_euclid(400) * 146_097 + day_of_era - 719_468;
        days * 86_400
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }
}

/// The clock.
pub struct Cmos {
    cells: [u8; 128],
    index: usize,
    /// Guest's time minus the Service VM's, in seconds.
    offset: i64,
    line: Arc<dyn InterruptLine>,
    /// Told of the alarm, which wakes the guest.
    power: Arc<Mutex<Power>>,
    second: Option<Alarm>,
    periodic: Option<Alarm>,
}

fn host_now() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX / 2),
        Err(_) => 0,
    }
}

impl Cmos {
    /// A clock for a guest with the given memory.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn new(
        line: Arc<dyn InterruptLine>,
        power: Arc<Mutex<Power>>,
        layout: Layout,
    ) -> std::io::Result<Arc<Mutex<Self>>> {
        let mut cells = [0; 128];
        fill_memory_cells(&mut cells, layout);
        let cmos = Self {
            cells,
            index: 0,
            offset: 0,
            line,
            power,
            second: None,
            periodic: None,
        };
        let shared = Arc::new(Mutex::new(cmos));
        let alarm = |name, ring: fn(&mut Self)| {
            let weak: Weak<Mutex<Self>> = Arc::downgrade(&shared);
            Alarm::new(name, move || {
                if let Some(cmos) = weak.upgrade() {
                    ring(&mut cmos.lock().unwrap_or_else(PoisonError::into_inner));
                }
            })
        };
        let second = alarm("rtc-second", Self::second_passed)?;
        let periodic = alarm("rtc-periodic", |cmos| cmos.raise(B_PERIODIC))?;
        let mut cmos = shared.lock().unwrap_or_else(PoisonError::into_inner);
        cmos.second = Some(second);
        cmos.periodic = Some(periodic);
        cmos.reset();
        drop(cmos);
        Ok(shared)
    }

    fn now(&self) -> i64 {
        host_now().saturating_add(self.offset)
    }

    /// Sets flags in register C and the line, if the guest wants to know.
    fn raise(&mut self, flags: u8) {
        self.cells[REG_C] |= flags;
        if self.cells[REG_C] & self.cells[REG_B] & (B_PERIODIC | B_ALARM | B_UPDATE) != 0 {
            self.cells[REG_C] |= C_ANY;
            self.line.set(true);
        }
    }

    fn second_passed(&mut self) {
        let now = Calendar::from_unix(self.now());
        let matches =
            |cell: usize, value: u8| self.cells[cell] & ANY == ANY || self.cells[cell] == value;
        let alarm = matches(SECONDS_ALARM, self.encode(now.second))
            && matches(MINUTES_ALARM, self.encode(now.minute))
            && matches(HOURS_ALARM, self.encode_hour(now.hour));
        self.raise(B_UPDATE | if alarm { B_ALARM } else { 0 });
        if alarm && self.cells[REG_B] & B_ALARM != 0 {
            let mut power = self.power.lock().unwrap_or_else(PoisonError::into_inner);
            power.happens(Fixed::Clock);
        }
    }

    /// Starts and stops the threads that interrupts need.
    fn schedule(&mut self) {
        let b = self.cells[REG_B];
        if let Some(second) = &self.second {
            if b & (B_ALARM | B_UPDATE) != 0 && b & B_SET == 0 {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let left = Duration::from_nanos(1_000_000_000 - u64::from(since.subsec_nanos()));
                second.set(Instant::now() + left, Some(Duration::from_secs(1)));
            } else {
                second.cancel();
            }
        }
        if let Some(periodic) = &self.periodic {
            // Rates 1 and 2 are those of 8 and 9 with a 32.768 kHz crystal.
            let rate = match self.cells[REG_A] & A_RATE {
                0 => None,
                rate @ 1..=2 => Some(rate + 7),
                rate => Some(rate),
            };
            match rate.filter(|_| b & B_PERIODIC != 0) {
                Some(rate) => {
                    let period = Duration::from_nanos(1_000_000_000 / (32_768 >> (rate - 1)));
                    periodic.set(Instant::now() + period, Some(period));
                }
                None => periodic.cancel(),
            }
        }
    }

    fn encode(&self, value: u8) -> u8 {
        if self.cells[REG_B] & B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.cells[REG_B] & B_BINARY != 0 {
            value
        } else {
            (value >> 4).wrapping_mul(10).wrapping_add(value & 0x0f)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.cells[REG_B] & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) {
            12
        } else {
            hour % 12
        };
        self.encode(twelve) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.cells[REG_B] & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let hour = self.decode(value & !PM) % 12;
        hour + if value & PM != 0 { 12 } else { 0 }
    }

    fn get(&self, cell: usize) -> u8 {
        let now = Calendar::from_unix(self.now());
        match cell {
            SECONDS => self.encode(now.second),
            MINUTES => self.encode(now.minute),
            HOURS => self.encode_hour(now.hour),
            WEEKDAY => now.weekday,
            DAY => self.encode(now.day),
            MONTH => self.encode(now.month),
            YEAR => self.encode(now.year.rem_euclid(100) as u8),
            CENTURY => self.encode(now.year.div_euclid(100).rem_euclid(100) as u8),
            other => self.cells.get(other).copied().unwrap_or(0xff),
        }
    }

    fn set_time(&mut self, cell: usize, value: u8) {
        let before = self.now();
        let mut time = Calendar::from_unix(before);
        let number = self.decode(value);
        match cell {
            SECONDS => time.second = number,
            MINUTES => time.minute = number,
            HOURS => time.hour = self.decode_hour(value),
            DAY => time.day = number,
            MONTH => time.month = number,
            YEAR => time.year = time.year.div_euclid(100) * 100 + i64::from(number % 100),
            CENTURY => time.year = i64::from(number % 100) * 100 + time.year.rem_euclid(100),
            _ => return,
        }
        self.offset = self.offset.saturating_add(time.to_unix() - before);
    }
}

/// Sizes of memory, where PC firmware leaves them.
fn fill_memory_cells(cells: &mut [u8; 128], layout: Layout) {
    let mut put = |low: usize, value: u64| {
        let [a, b, ..] = value.min(0xffff).to_le_bytes();
        cells[low] = a;
        cells[low + 1] = b;
    };
    put(0x15, 640);
    let above_1m = (layout.low >> 10).saturating_sub(1024);
    put(0x17, above_1m);
    put(0x30, above_1m);
    put(0x34, layout.low.saturating_sub(16 << 20) >> 16);
    put(0x5b, layout.high >> 16);
    cells[0x5d] = (layout.high >> 32).min(0xff) as u8;
}

impl PortDevice for Cmos {
    fn read(&mut self, offset: u16) -> u8 {
        if offset == 0 {
            return self.index as u8;
        }
        let value = self.get(self.index);
        if self.index == REG_C {
            self.cells[REG_C] = 0;
            self.line.set(false);
        }
        value
    }

    fn write(&mut self, offset: u16, value: u8) {
        if offset == 0 {
            // Bit 7 is the NMI mask.
            self.index = usize::from(value & 0x7f);
            return;
        }
        match self.index {
            SECONDS | MINUTES | HOURS | DAY | MONTH | YEAR | CENTURY => {
                self.set_time(self.index, value);
            }
            REG_A => self.cells[REG_A] = value & 0x7f,
            REG_B => self.cells[REG_B] = value,
            REG_C | REG_D => {}
            index => {
                if let Some(cell) = self.cells.get_mut(index) {
                    *cell = value;
                }
            }
        }
        if matches!(self.index, REG_A | REG_B) {
            self.schedule();
        }
    }

    fn reset(&mut self) {
        self.index = 0;
        self.cells[REG_A] = 0x26;
        self.cells[REG_B] = B_24_HOURS;
        self.cells[REG_C] = 0;
        self.cells[REG_D] = D_VALID;
        self.line.set(false);
        self.schedule();
    }

    /// It has a battery.
    fn sleep(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoLine;

    impl InterruptLine for NoLine {
        fn set(&self, _: bool) {}
    }

    fn cmos() -> Arc<Mutex<Cmos>> {
        let power = Power::new(Arc::new(NoLine), std::sync::mpsc::channel().0, true);
        Cmos::new(Arc::new(NoLine), power, Layout::new(512 << 20)).unwrap()
    }

    fn get(cmos: &Mutex<Cmos>, cell: u8) -> u8 {
        let mut cmos = cmos.lock().unwrap();
        cmos.write(0, cell);
        cmos.read(1)
    }

    fn set(cmos: &Mutex<Cmos>, cell: u8, value: u8) {
        let mut cmos = cmos.lock().unwrap();
        cmos.write(0, cell);
        cmos.write(1, value);
    }

    #[test]
    fn calendar_and_seconds_agree() {
        let leap_day = Calendar::from_unix(951_782_400);
        assert_eq!((leap_day.year, leap_day.month, leap_day.day), (2000, 2, 29));
        assert_eq!(leap_day.weekday, 3);
        for seconds in [
            0,
            951_782_399,
            951_868_800,
            4_102_444_799,
            -1,
            1_700_000_000,
        ] {
            assert_eq!(Calendar::from_unix(seconds).to_unix(), seconds);
        }
    }

    #[test]
    fn a_date_that_the_guest_sets_is_read_back() {
        let cmos = cmos();
        for (cell, value) in [(4, 0x23), (7, 0x05), (8, 0x11), (9, 0x31), (0x32, 0x20)] {
            set(&cmos, cell, value);
        }
        assert_eq!(
            [4, 7, 8, 9, 0x32].map(|cell| get(&cmos, cell)),
            [0x23, 0x05, 0x11, 0x31, 0x20]
        );
    }

    #[test]
    fn twelve_hours_and_binary_are_understood() {
        let cmos = cmos();
        set(&cmos, 11, B_BINARY);
        set(&cmos, 4, 12 | PM);
        assert_eq!(get(&cmos, 4), 12 | PM);
        set(&cmos, 11, B_BINARY | B_24_HOURS);
        assert_eq!(get(&cmos, 4), 12);
        set(&cmos, 11, 0);
        set(&cmos, 4, 0x12);
        set(&cmos, 11, B_BINARY | B_24_HOURS);
        assert_eq!(get(&cmos, 4), 0);
    }

    #[test]
    fn memory_sizes_are_in_their_cells() {
        let cmos = cmos();
        assert_eq!(
            u16::from_le_bytes([get(&cmos, 0x34), get(&cmos, 0x35)]),
            496 * 16
        );
        assert_eq!(get(&cmos, 13), D_VALID);
    }

    #[test]
    fn an_alarm_is_a_wake_up_event() {
        let cmos = cmos();
        set(&cmos, 11, B_ALARM | B_24_HOURS);
        for alarm in [1, 3, 5] {
            set(&cmos, alarm, ANY);
        }
        let mut clock = cmos.lock().unwrap();
        clock.sleep();
        clock.second_passed();
        let status = clock.power.lock().unwrap().read_wide(0, 2);
        assert_eq!(status, 1 << 10);
        clock.cells[HOURS_ALARM] = 0x24;
        clock.power.lock().unwrap().write_wide(0, 2, status);
        clock.second_passed();
        assert_eq!(clock.power.lock().unwrap().read_wide(0, 2), 0);
    }

    #[test]
    fn the_periodic_interrupt_sets_its_flag() {
        let cmos = cmos();
        set(&cmos, 10, 0x26);
        set(&cmos, 11, B_PERIODIC | B_24_HOURS);
        std::thread::sleep(Duration::from_millis(20));
        let c = get(&cmos, 12);
        assert_eq!(c & (C_ANY | B_PERIODIC), C_ANY | B_PERIODIC);
        set(&cmos, 11, B_24_HOURS);
    }

    #[test]
    fn any_write_is_survived() {
        let cmos = cmos();
        for cell in 0..=255 {
            for value in [0, 0x7f, 0x80, 0xff] {
                set(&cmos, cell, value);
                get(&cmos, cell);
            }
        }
    }
}
