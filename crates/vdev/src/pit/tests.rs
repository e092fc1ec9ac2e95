use super::*;

/// One tick of the clock is one of the timer.
fn pit() -> Pit {
    Pit::new(FREQUENCY)
}

/// Programs a counter with a mode and a count, low byte first.
fn program(pit: &mut Pit, counter: u8, mode: u8, count: u16, now: u64) -> bool {
    let [low, high] = count.to_le_bytes();
    let port = 0x40 + u16::from(counter);
    pit.write(CONTROL, counter << 6 | 0x30 | mode << 1, now);
    assert!(!pit.write(port, low, now));
    pit.write(port, high, now)
}

fn count(pit: &mut Pit, port: u16, now: u64) -> u16 {
    u16::from_le_bytes([pit.read(port, now), pit.read(port, now)])
}

fn output(pit: &mut Pit, now: u64) -> bool {
    pit.read(SYSTEM_CONTROL, now) & 0x20 != 0
}

#[test]
fn a_rate_generator_interrupts_at_each_end_of_its_count() {
    for mode in [2, 3, 6, 7] {
        let mut pit = pit();
        assert!(program(&mut pit, 0, mode, 1000, 50));
        assert_eq!(pit.next_rise(50), Some(1050));
        assert_eq!(pit.next_rise(1049), Some(1050));
        assert_eq!(pit.next_rise(1050), Some(2050));
        assert_eq!(pit.next_rise(1_000_000), Some(1_000_050));
    }
}

#[test]
fn a_one_shot_interrupts_once_and_a_count_of_0_is_the_longest() {
    let mut pit = pit();
    program(&mut pit, 0, 0, 0, 7);
    assert_eq!(pit.next_rise(7), Some(7 + 0x1_0000));
    assert_eq!(pit.next_rise(7 + 0x1_0000), None);
}

#[test]
fn the_interrupt_waits_for_a_whole_count() {
    let mut pit = pit();
    assert_eq!(pit.next_rise(0), None);
    assert!(pit.write(CONTROL, 0x34, 0));
    assert!(!pit.write(0x40, 5, 0));
    assert_eq!(pit.next_rise(0), None);
    assert!(pit.write(0x40, 0, 3));
    assert_eq!(pit.next_rise(3), Some(8));
    assert!(pit.write(CONTROL, 0x30, 4));
    assert_eq!(pit.next_rise(4), None);
}

#[test]
fn counter_0_triggered_by_its_gate_never_interrupts() {
    for mode in [1, 5] {
        let mut pit = pit();
        program(&mut pit, 0, mode, 10, 0);
        assert_eq!(pit.next_rise(0), None, "mode {mode}");
    }
}

#[test]
fn only_what_changes_the_interrupt_is_told() {
    let mut pit = pit();
    program(&mut pit, 0, 2, 10, 0);
    assert!(!pit.write(CONTROL, 0x00, 1), "counter 0 is latched");
    assert!(!pit.write(CONTROL, 0xc2, 1), "it is read back");
    assert!(!program(&mut pit, 2, 0, 10, 1));
    assert!(!pit.write(SYSTEM_CONTROL, 3, 1));
    assert_eq!(pit.next_rise(0), Some(10));
}

#[test]
fn times_are_those_of_the_callers_clock() {
    let mut pit = Pit::new(1_000_000_000);
    program(&mut pit, 0, 2, 1193, 0);
    let first = pit.next_rise(0).unwrap();
    assert!((999_000..1_000_000).contains(&first), "{first}");
    // At its own time a rise is over: the next one is a period later.
    assert_eq!(pit.next_rise(first), Some(2 * first - 1));
}

#[test]
fn the_speakers_counter_measures_time_as_kernels_do_it() {
    let mut pit = pit();
    pit.write(SYSTEM_CONTROL, 1, 0);
    program(&mut pit, 2, 0, 0xffff, 100);
    assert_eq!(count(&mut pit, 0x42, 100), 0xffff);
    assert_eq!(count(&mut pit, 0x42, 100 + 0x1234), 0xffff - 0x1234);
    assert!(!output(&mut pit, 100 + 0xfffe));
    assert!(output(&mut pit, 100 + 0xffff));
    assert!(output(&mut pit, u64::MAX));
}

#[test]
fn a_closed_gate_holds_the_count() {
    let mut pit = pit();
    program(&mut pit, 2, 0, 1000, 0);
    assert_eq!(count(&mut pit, 0x42, 500), 1000);
    pit.write(SYSTEM_CONTROL, 1, 500);
    assert_eq!(count(&mut pit, 0x42, 700), 800);
    pit.write(SYSTEM_CONTROL, 0, 700);
    assert_eq!(count(&mut pit, 0x42, 5000), 800);
    pit.write(SYSTEM_CONTROL, 1, 5000);
    assert_eq!(count(&mut pit, 0x42, 5100), 700);
    assert!(output(&mut pit, 5800));
}

#[test]
fn a_rising_gate_starts_modes_that_it_triggers() {
    let mut pit = pit();
    for mode in [1, 2, 3, 5] {
        pit.write(SYSTEM_CONTROL, 0, 0);
        program(&mut pit, 2, mode, 1000, 0);
        assert_eq!(count(&mut pit, 0x42, 900), 1000, "mode {mode}");
        pit.write(SYSTEM_CONTROL, 1, 900);
        assert!(count(&mut pit, 0x42, 1000) < 1000, "mode {mode}");
    }
}

#[test]
fn outputs_follow_the_mode() {
    for (mode, low) in [(1, 0..10), (2, 9..10), (3, 5..10), (4, 10..11), (5, 10..11)] {
        let mut pit = pit();
        program(&mut pit, 2, mode, 10, 0);
        assert!(output(&mut pit, 0), "mode {mode} before its start");
        pit.write(SYSTEM_CONTROL, 1, 0);
        for now in 0..10 + u64::from(!matches!(mode, 2 | 3)) * 5 {
            let expected = !low.contains(&now);
            assert_eq!(output(&mut pit, now), expected, "mode {mode}, {now}");
        }
    }
}

#[test]
fn a_latched_count_stands_still_until_it_is_read() {
    let mut pit = pit();
    program(&mut pit, 0, 2, 0, 0);
    pit.write(CONTROL, 0x00, 0x100);
    pit.write(CONTROL, 0x00, 0x200);
    assert_eq!(count(&mut pit, 0x40, 0x300), 0xff00);
    assert_eq!(count(&mut pit, 0x40, 0x300), 0xfd00);
}

#[test]
fn single_bytes_are_written_and_read() {
    let mut pit = pit();
    pit.write(CONTROL, 0x14, 0);
    assert!(pit.write(0x40, 0x80, 0));
    assert_eq!(pit.next_rise(0), Some(0x80));
    assert_eq!(pit.read(0x40, 1), 0x7f);
    pit.write(CONTROL, 0x24, 0);
    assert!(pit.write(0x40, 0x80, 0));
    assert_eq!(pit.read(0x40, 1), 0x7f);
}

#[test]
fn read_back_tells_mode_access_and_whether_there_is_a_count() {
    let mut pit = pit();
    pit.write(CONTROL, 0x74, 0);
    pit.write(CONTROL, 0xe4, 0);
    assert_eq!(pit.read(0x41, 0), 0xf4);
    program(&mut pit, 1, 0, 10, 0);
    // Status and count: status is read first.
    pit.write(CONTROL, 0xc4, 4);
    assert_eq!(pit.read(0x41, 20), 0x30);
    assert_eq!(count(&mut pit, 0x41, 20), 6);
}

#[test]
fn refresh_toggles_and_the_control_bits_are_kept() {
    let mut pit = pit();
    pit.write(SYSTEM_CONTROL, 0xff, 0);
    let seen = |pit: &mut Pit, now| pit.read(SYSTEM_CONTROL, now) & 0x1f;
    assert_eq!(seen(&mut pit, 0), 0x03);
    assert_eq!(seen(&mut pit, REFRESH), 0x13);
    assert_eq!(seen(&mut pit, 2 * REFRESH), 0x03);
}

#[test]
fn a_reset_stops_everything() {
    let mut pit = pit();
    program(&mut pit, 0, 2, 100, 0);
    pit.write(SYSTEM_CONTROL, 1, 0);
    pit.reset();
    assert_eq!(pit.next_rise(0), None);
    assert_eq!(pit.read(SYSTEM_CONTROL, 0) & 3, 0);
}

#[test]
fn any_write_at_any_time_is_survived() {
    for hz in [0, 1, FREQUENCY, u64::MAX] {
        let mut pit = Pit::new(hz);
        for command in 0..=255 {
            for (value, now) in [(0, 0), (1, u64::MAX), (0xff, 5)] {
                pit.write(CONTROL, command, now);
                for port in (0x3f..0x45).chain([SYSTEM_CONTROL, 0xffff]) {
                    pit.write(port, value, now);
                    pit.read(port, now);
                    let _ = pit.next_rise(now);
                }
            }
        }
    }
}

#[test]
fn its_ports_are_those_of_a_pc() {
    let owned: Vec<u16> = (0..=u16::MAX).filter(|port| Pit::owns(*port)).collect();
    assert_eq!(owned, [0x40, 0x41, 0x42, 0x43, 0x61]);
}
