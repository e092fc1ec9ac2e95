use super::*;
use proptest::prelude::*;

/// Initialized as a PC does: vectors 0x20 and 0x28, all unmasked. `icw4` has 1 for x86 mode.
fn pic_with(icw4: u8) -> VPic {
    let mut pic = VPic::new();
    for (port, base, wiring) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
        pic.write(port, 0x11);
        pic.write(port + 1, base);
        pic.write(port + 1, wiring);
        pic.write(port + 1, icw4);
        pic.write(port + 1, 0);
    }
    pic
}

fn pic() -> VPic {
    pic_with(1)
}

fn pulse(pic: &mut VPic, irq: u8) {
    pic.set_irq(irq, true);
    pic.set_irq(irq, false);
}

fn take(pic: &mut VPic) -> Option<u8> {
    pic.has_interrupt().then(|| pic.acknowledge().0)
}

#[test]
fn an_edge_interrupts_once_and_nests_by_priority() {
    let mut pic = pic();
    pic.set_irq(4, true);
    assert_eq!(take(&mut pic), Some(0x24));
    assert_eq!(take(&mut pic), None);
    pulse(&mut pic, 5);
    assert_eq!(take(&mut pic), None, "lower priority waits");
    pulse(&mut pic, 1);
    assert_eq!(take(&mut pic), Some(0x21));
    pic.write(0x20, 0x20);
    assert_eq!(take(&mut pic), None);
    pic.write(0x20, 0x20);
    assert_eq!(take(&mut pic), Some(0x25));
}

#[test]
fn a_level_input_asks_until_its_line_falls() {
    let mut pic = pic();
    pic.write(0x4d1, 0xff);
    assert_eq!(pic.read(0x4d1), 0xde);
    assert!(pic.is_level(11) && !pic.is_level(8));
    pic.set_irq(11, true);
    assert_eq!(take(&mut pic), Some(0x2b));
    assert_eq!(take(&mut pic), None);
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert_eq!(take(&mut pic), Some(0x2b));
    pic.set_irq(11, false);
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert_eq!(take(&mut pic), None);
}

#[test]
fn the_second_chip_interrupts_through_the_first() {
    let mut pic = pic();
    pulse(&mut pic, 12);
    pulse(&mut pic, 3);
    assert_eq!(take(&mut pic), Some(0x2c), "the cascade comes before IRQ 3");
    pic.write(0xa0, 0x20);
    assert_eq!(take(&mut pic), None);
    pic.write(0x20, 0x20);
    assert_eq!(take(&mut pic), Some(0x23));
}

#[test]
fn masking_the_cascade_masks_the_second_chip() {
    let mut pic = pic();
    pic.write(0x21, 4);
    pulse(&mut pic, 8);
    assert!(!pic.has_interrupt());
    pic.write(0x21, 0);
    assert_eq!(take(&mut pic), Some(0x28));
}

#[test]
fn a_request_that_went_away_is_spurious() {
    let mut pic = pic();
    assert_eq!(pic.acknowledge(), Vector(0x27));
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 0, "not in service");
    pic.write(0x4d0, 0xf8);
    pic.set_irq(5, true);
    pic.set_irq(5, false);
    assert_eq!(pic.acknowledge(), Vector(0x27));
}

#[test]
fn masked_edges_are_remembered() {
    let mut pic = pic();
    pic.write(0x21, 0x10);
    assert!(pic.is_masked(4));
    pulse(&mut pic, 4);
    assert_eq!(take(&mut pic), None);
    assert_eq!(pic.read(0x20), 0x10);
    pic.write(0x21, 0);
    assert_eq!(take(&mut pic), Some(0x24));
}

#[test]
fn auto_eoi_leaves_nothing_in_service() {
    let mut pic = pic_with(3);
    pulse(&mut pic, 6);
    assert_eq!(take(&mut pic), Some(0x26));
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 0);
}

#[test]
fn auto_eoi_can_rotate() {
    let mut pic = pic_with(3);
    pic.write(0x20, 0x80);
    pulse(&mut pic, 0);
    assert_eq!(take(&mut pic), Some(0x20));
    pulse(&mut pic, 0);
    pulse(&mut pic, 1);
    assert_eq!(take(&mut pic), Some(0x21));
    assert_eq!(take(&mut pic), Some(0x20));
}

#[test]
fn a_rotating_eoi_puts_the_input_last() {
    let mut pic = pic();
    pulse(&mut pic, 3);
    take(&mut pic);
    pic.write(0x20, 0xa0);
    pulse(&mut pic, 3);
    pulse(&mut pic, 7);
    assert_eq!(take(&mut pic), Some(0x27));
    pic.write(0x20, 0x67);
    assert_eq!(take(&mut pic), Some(0x23));
    pic.write(0x20, 0xe3);
    pic.write(0x20, 0xc7);
    pulse(&mut pic, 7);
    pulse(&mut pic, 0);
    assert_eq!(take(&mut pic), Some(0x20), "set priority: 7 is last again");
}

#[test]
fn special_mask_mode_lets_lower_inputs_through() {
    let mut pic = pic();
    pulse(&mut pic, 3);
    take(&mut pic);
    pic.write(0x21, 8);
    pulse(&mut pic, 5);
    assert_eq!(take(&mut pic), None);
    pic.write(0x20, 0x68);
    assert_eq!(take(&mut pic), Some(0x25));
    pic.write(0x20, 0x20);
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 8, "the masked one stays in service");
    pic.write(0x20, 0x48);
    pulse(&mut pic, 5);
    assert_eq!(take(&mut pic), None);
}

#[test]
fn special_fully_nested_mode_lets_the_second_chip_preempt_itself() {
    let mut pic = pic();
    pic.write(0x20, 0x11);
    for word in [0x20, 4, 0x11, 0] {
        pic.write(0x21, word);
    }
    pulse(&mut pic, 12);
    assert_eq!(take(&mut pic), Some(0x2c));
    pulse(&mut pic, 3);
    assert_eq!(take(&mut pic), None);
    pulse(&mut pic, 9);
    assert_eq!(take(&mut pic), Some(0x29));
}

#[test]
fn poll_acknowledges_without_a_vector() {
    let mut pic = pic();
    pulse(&mut pic, 4);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0x84);
    assert_eq!(take(&mut pic), None);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x21), 0);
    assert_eq!(pic.read(0x21), 0, "poll is over: this is the mask");
}

#[test]
fn reinitializing_forgets_edges_and_keeps_levels() {
    let mut pic = pic();
    pic.write(0x4d0, 0x20);
    pulse(&mut pic, 4);
    pic.set_irq(5, true);
    pic.write(0x20, 0x13);
    pic.write(0x21, 0x47);
    pic.write(0x21, 1);
    assert_eq!(take(&mut pic), Some(0x45));
    pic.set_irq(5, false);
    pic.write(0x20, 0x20);
    assert_eq!(take(&mut pic), None);
}

#[test]
fn inputs_that_do_not_exist_do_nothing() {
    let mut pic = pic();
    pic.set_irq(2, true);
    pic.set_irq(16, true);
    pic.set_irq(255, true);
    assert!(!pic.has_interrupt() && pic.is_masked(16) && !pic.is_level(16));
    assert_eq!(pic.read(0x22), 0xff);
    assert!(VPic::decodes(0x4d1) && !VPic::decodes(0x4d2));
}

proptest! {
    #[test]
    fn a_raised_intr_line_always_yields_a_real_vector(
        ops in prop::collection::vec((0u8..4, any::<u8>(), any::<u8>()), 0..300),
    ) {
        let mut pic = pic();
        let ports = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
        for (kind, which, value) in ops {
            let port = ports[usize::from(which) % ports.len()];
            match kind {
                0 => pic.write(port, value),
                1 => drop(pic.read(port)),
                2 => pic.set_irq(which & 0x1f, value & 1 != 0),
                _ if pic.has_interrupt() => {
                    let input = pic.first.pending().unwrap();
                    let in_service = pic.first.isr;
                    let vector = pic.acknowledge().0;
                    if input != CASCADE {
                        prop_assert_eq!(vector, pic.first.vector_base | input);
                    }
                    prop_assert!(pic.first.auto_eoi || pic.first.isr == in_service | 1 << input);
                }
                _ => drop(pic.acknowledge()),
            }
            prop_assert!(pic.first.first < 8 && pic.second.first < 8);
            prop_assert_eq!(pic.first.irr & 4 != 0, pic.second.pending().is_some());
        }
    }
}
