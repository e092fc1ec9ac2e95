//! Real-time clock and CMOS memory (Motorola MC146818A data sheet), ports 0x70 and 0x71.
//!
//! The clock is the host's, given as seconds since 1970 with each access, plus an offset that the
//! guest changes by setting the time. Nothing ticks here, so there is no moment at which an
//! update is in progress. Not modelled: alarm, periodic and update interrupts, daylight saving.

/// Index port. Bit 7 masks NMI on real machines and is ignored.
pub const INDEX_PORT: u16 = 0x70;
/// Data port.
pub const DATA_PORT: u16 = 0x71;

mod reg {
    pub const SECONDS: u8 = 0;
    pub const MINUTES: u8 = 2;
    pub const HOURS: u8 = 4;
    pub const WEEKDAY: u8 = 6;
    pub const DAY: u8 = 7;
    pub const MONTH: u8 = 8;
    pub const YEAR: u8 = 9;
    pub const A: u8 = 0xa;
    pub const B: u8 = 0xb;
    pub const C: u8 = 0xc;
    pub const D: u8 = 0xd;
    pub const CENTURY: u8 = 0x32;
}

const A_UPDATE_IN_PROGRESS: u8 = 0x80;
/// 32.768 kHz time base, 1024 Hz rate.
const A_RESET: u8 = 0x26;
const B_SET: u8 = 0x80;
const B_BINARY: u8 = 4;
const B_24_HOURS: u8 = 2;
/// Battery good.
const D_VALID: u8 = 0x80;
const HOURS_PM: u8 = 0x80;

const SECONDS_PER_DAY: i64 = 86_400;
/// 1970-01-01 and 10000-01-01: the four digits that the registers hold, and no earlier epoch.
const TIMES: core::ops::Range<i64> = 0..253_402_300_800;

/// The time that a clock shows, in seconds since 1970; `read` reads one of its registers. `None` when it
/// is in the middle of an update or shows no valid time. Two readings in a row that are alike are right.
pub fn time_of(mut read: impl FnMut(u8) -> u8) -> Option<u64> {
    if read(reg::A) & A_UPDATE_IN_PROGRESS != 0 {
        return None;
    }
    let mut clock = VRtc::new();
    clock.set_memory(reg::B, read(reg::B));
    let mut decoded = |index| clock.decode(read(index));
    let [second, minute, day, month] =
        [reg::SECONDS, reg::MINUTES, reg::DAY, reg::MONTH].map(&mut decoded);
    let year = decoded(reg::YEAR);
    let hour = clock.decode_hour(read(reg::HOURS));
    // Firmware knows where the century is, if anywhere; this century has a while to go.
    let time = Calendar {
        second,
        minute,
        hour,
        day,
        month,
        year: 2000 + u16::from(year),
    };
    time.to_seconds().and_then(|time| u64::try_from(time).ok())
}

/// A point in time as the clock shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Calendar {
    second: u8,
    minute: u8,
    hour: u8,
    day: u8,
    month: u8,
    year: u16,
}

/// The virtual clock with its 128 bytes.
#[derive(Clone, Debug)]
pub struct VRtc {
    index: u8,
    memory: [u8; 128],
    /// Guest time minus host time, in seconds.
    offset: i64,
    /// The time that the guest is composing while updates are off.
    composed: Option<Calendar>,
}

impl VRtc {
    /// A clock that shows the host's time, in BCD and 24 hours as firmware leaves it.
    pub const fn new() -> Self {
        let mut memory = [0; 128];
        memory[reg::A as usize] = A_RESET;
        memory[reg::B as usize] = B_24_HOURS;
        Self {
            index: 0,
            memory,
            offset: 0,
            composed: None,
        }
    }

    /// Sets a byte of CMOS memory that guests read, such as memory sizes; `index` has 7 bits.
    pub fn set_memory(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(index & 0x7f)) {
            *byte = value;
        }
    }

    /// Byte read of one of the two ports, at `now` seconds since 1970.
    pub fn read(&self, port: u16, now: u64) -> u8 {
        if port != DATA_PORT {
            return 0xff;
        }
        match self.index {
            reg::A => self.byte(reg::A) & !A_UPDATE_IN_PROGRESS,
            reg::C => 0,
            reg::D => D_VALID,
            index => self.read_calendar(index, now).unwrap_or(self.byte(index)),
        }
    }

    fn byte(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Byte write of one of the two ports, at `now` seconds since 1970.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            INDEX_PORT => self.index = value & 0x7f,
            DATA_PORT => self.write_data(value, now),
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8, now: u64) {
        match self.index {
            reg::B => {
                let was_set = self.byte(reg::B) & B_SET != 0;
                self.set_memory(reg::B, value);
                match (was_set, value & B_SET != 0) {
                    (false, true) => self.composed = Some(self.calendar(now)),
                    (true, false) => self.apply(now),
                    _ => {}
                }
            }
            reg::C | reg::D => {}
            index if is_calendar(index) => self.write_calendar(index, value, now),
            index => self.set_memory(index, value),
        }
    }

    fn calendar(&self, now: u64) -> Calendar {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let time = now
            .saturating_add(self.offset)
            .clamp(TIMES.start, TIMES.end - 1);
        self.composed
            .unwrap_or_else(|| Calendar::from_seconds(time))
    }

    fn read_calendar(&self, index: u8, now: u64) -> Option<u8> {
        if !is_calendar(index) {
            return None;
        }
        let time = self.calendar(now);
        let value = match index {
            reg::SECONDS => time.second,
            reg::MINUTES => time.minute,
            reg::HOURS => return Some(self.encode_hour(time.hour)),
            reg::WEEKDAY => time.weekday(),
            reg::DAY => time.day,
            reg::MONTH => time.month,
            reg::YEAR => (time.year % 100) as u8,
            _ => (time.year / 100) as u8,
        };
        Some(self.encode(value))
    }

    fn write_calendar(&mut self, index: u8, value: u8, now: u64) {
        let mut time = self.calendar(now);
        let decoded = self.decode(value);
        match index {
            reg::SECONDS => time.second = decoded,
            reg::MINUTES => time.minute = decoded,
            reg::HOURS => time.hour = self.decode_hour(value),
            reg::WEEKDAY => {}
            reg::DAY => time.day = decoded,
            reg::MONTH => time.month = decoded,
            reg::YEAR => time.year = time.year / 100 * 100 + u16::from(decoded % 100),
            _ => time.year = u16::from(decoded % 100) * 100 + time.year % 100,
        }
        self.composed = Some(time);
        if self.byte(reg::B) & B_SET == 0 {
            self.apply(now);
        }
    }

    /// The composed time becomes the clock's; one that no calendar has is dropped.
    fn apply(&mut self, now: u64) {
        let Some(time) = self.composed.take().and_then(Calendar::to_seconds) else {
            return;
        };
        self.offset = time.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
    }

    fn encode(&self, value: u8) -> u8 {
        if self.byte(reg::B) & B_BINARY != 0 {
            value
        } else {
            (value / 10) << 4 | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.byte(reg::B) & B_BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.byte(reg::B) & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let clock_face = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(clock_face) | if hour >= 12 { HOURS_PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.byte(reg::B) & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let afternoon = if value & HOURS_PM != 0 { 12 } else { 0 };
        self.decode(value & !HOURS_PM) % 12 + afternoon
    }
}

impl Default for VRtc {
    fn default() -> Self {
        Self::new()
    }
}

const fn is_calendar(index: u8) -> bool {
    matches!(
        index,
        reg::SECONDS | reg::MINUTES | reg::HOURS | reg::WEEKDAY..=reg::YEAR | reg::CENTURY
    )
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from 1970-01-01 to January 1 of `year`, 1970 or later.
const fn days_before_year(year: i64) -> i64 {
    let before = year - 1;
    (year - 1970) * 365 + (before / 4 - before / 100 + before / 400) - 477
}

const fn days_in_month(year: i64, month: u8) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Calendar {
    /// `time` is in `TIMES`.
    fn from_seconds(time: i64) -> Self {
        let (mut days, seconds) = (time / SECONDS_PER_DAY, time % SECONDS_PER_DAY);
        // A few years too late at most, for the leap days until then.
        let mut year = 1970 + days / 365;
        while days_before_year(year) > days {
            year -= 1;
        }
        days -= days_before_year(year);
        let mut month = 1;
        while month < 12 && days >= days_in_month(year, month) {
            days -= days_in_month(year, month);
            month += 1;
        }
        Self {
            second: (seconds % 60) as u8,
            minute: (seconds / 60 % 60) as u8,
            hour: (seconds / 3600) as u8,
            day: days as u8 + 1,
            month,
            year: year as u16,
        }
    }

    /// `None` when there is no such date or time of day, or it is before 1970.
    fn to_seconds(self) -> Option<i64> {
        let year = i64::from(self.year);
        let valid = self.second < 60
            && self.minute < 60
            && self.hour < 24
            && (1970..10_000).contains(&year)
            && (1..=12).contains(&self.month)
            && (1..=days_in_month(year, self.month)).contains(&self.day.into());
        if !valid {
            return None;
        }
        let months = (1..self.month)
            .map(|month| days_in_month(year, month))
            .sum::<i64>();
        let days = days_before_year(year) + months + i64::from(self.day) - 1;
        let minutes = i64::from(self.hour) * 60 + i64::from(self.minute);
        Some(days * SECONDS_PER_DAY + minutes * 60 + i64::from(self.second))
    }

    /// 1 is Sunday.
    fn weekday(self) -> u8 {
        // 1970-01-01 was a Thursday.
        let days = self.to_seconds().unwrap_or(0) / SECONDS_PER_DAY;
        ((days + 4) % 7) as u8 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Thursday 2024-02-29 15:04:05 UTC.
    const LEAP_DAY: u64 = 1_709_219_045;

    fn get(rtc: &mut VRtc, index: u8, now: u64) -> u8 {
        rtc.write(INDEX_PORT, index, now);
        rtc.read(DATA_PORT, now)
    }

    fn set(rtc: &mut VRtc, index: u8, value: u8, now: u64) {
        rtc.write(INDEX_PORT, index, now);
        rtc.write(DATA_PORT, value, now);
    }

    #[test]
    fn the_time_of_another_clock_is_read_in_both_codes() {
        for b in [B_24_HOURS, B_24_HOURS | B_BINARY, 0] {
            let mut rtc = VRtc::new();
            set(&mut rtc, reg::B, b, LEAP_DAY);
            let time = time_of(|index| get(&mut rtc, index, LEAP_DAY));
            assert_eq!(time, Some(LEAP_DAY), "{b}");
        }
        assert_eq!(time_of(|_| 0xff), None);
        assert_eq!(time_of(|_| 0), None);
    }

    fn shown(rtc: &mut VRtc, now: u64) -> [u8; 8] {
        [
            reg::CENTURY,
            reg::YEAR,
            reg::MONTH,
            reg::DAY,
            reg::WEEKDAY,
            reg::HOURS,
            2,
            0,
        ]
        .map(|index| get(rtc, index, now))
    }

    #[test]
    fn the_clock_shows_the_hosts_time_in_bcd() {
        let mut rtc = VRtc::new();
        assert_eq!(
            shown(&mut rtc, LEAP_DAY),
            [0x20, 0x24, 2, 0x29, 5, 0x15, 4, 5]
        );
        assert_eq!(shown(&mut rtc, 0), [0x19, 0x70, 1, 1, 5, 0, 0, 0]);
        assert_eq!(get(&mut rtc, reg::D, 0), D_VALID);
    }

    #[test]
    fn binary_and_twelve_hours_are_formats() {
        let mut rtc = VRtc::new();
        set(&mut rtc, reg::B, B_BINARY, LEAP_DAY);
        assert_eq!(shown(&mut rtc, LEAP_DAY), [20, 24, 2, 29, 5, 0x83, 4, 5]);
        assert_eq!(get(&mut rtc, reg::HOURS, 0), 12);
        set(&mut rtc, reg::HOURS, 0x8c, 0);
        assert_eq!(get(&mut rtc, reg::HOURS, 0), 0x8c);
        set(&mut rtc, reg::B, B_BINARY | B_24_HOURS, 0);
        assert_eq!(get(&mut rtc, reg::HOURS, 0), 12);
    }

    #[test]
    fn a_composed_time_starts_when_updates_resume() {
        let mut rtc = VRtc::new();
        set(&mut rtc, reg::B, B_SET | B_24_HOURS, LEAP_DAY);
        for (index, value) in [
            (9, 0x30),
            (8, 0x12),
            (7, 0x31),
            (4, 0x23),
            (2, 0x59),
            (0, 0x59),
        ] {
            set(&mut rtc, index, value, LEAP_DAY);
        }
        assert_eq!(get(&mut rtc, reg::YEAR, LEAP_DAY + 9), 0x30);
        set(&mut rtc, reg::B, B_24_HOURS, LEAP_DAY + 10);
        assert_eq!(
            shown(&mut rtc, LEAP_DAY + 10),
            [0x20, 0x30, 0x12, 0x31, 3, 0x23, 0x59, 0x59]
        );
        assert_eq!(
            shown(&mut rtc, LEAP_DAY + 11),
            [0x20, 0x31, 1, 1, 4, 0, 0, 0]
        );
    }

    #[test]
    fn an_impossible_date_is_dropped() {
        let mut rtc = VRtc::new();
        set(&mut rtc, reg::DAY, 0x30, LEAP_DAY);
        set(&mut rtc, reg::MONTH, 0x77, LEAP_DAY);
        set(&mut rtc, reg::HOURS, 0xff, LEAP_DAY);
        assert_eq!(shown(&mut rtc, LEAP_DAY), shown(&mut VRtc::new(), LEAP_DAY));
    }

    #[test]
    fn the_index_has_seven_bits_and_the_rest_is_memory() {
        let mut rtc = VRtc::new();
        set(&mut rtc, 0xff, 0x5a, 0);
        assert_eq!(get(&mut rtc, 0x7f, 0), 0x5a);
        rtc.set_memory(0x34, 7);
        assert_eq!(get(&mut rtc, 0x34, 0), 7);
        assert_eq!(rtc.read(INDEX_PORT, 0), 0xff);
    }

    proptest! {
        #[test]
        fn seconds_and_calendar_are_inverse(time in TIMES) {
            prop_assert_eq!(Calendar::from_seconds(time).to_seconds(), Some(time));
        }

        #[test]
        fn any_traffic_leaves_a_valid_time(
            ops in prop::collection::vec((any::<bool>(), any::<u8>(), any::<u64>()), 0..200),
        ) {
            let mut rtc = VRtc::new();
            for (data, value, now) in ops {
                rtc.write(if data { DATA_PORT } else { INDEX_PORT }, value, now);
                rtc.read(DATA_PORT, now);
                let mut idle = rtc.clone();
                idle.composed = None;
                prop_assert!(idle.calendar(now).to_seconds().is_some());
            }
        }
    }
}
