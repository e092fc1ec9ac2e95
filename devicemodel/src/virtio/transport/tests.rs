//! The registers as a driver sees them, with the simplest device behind.

use super::registers::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET};
use super::*;
use crate::pci::config::{CAPABILITIES, COMMAND, COMMAND_MEMORY};
use crate::virtio::rng::Rng;
use crate::virtio::testing::{DATA, Driver, RAM_END, RING_FEATURES, wait_for};

const EVENT_IDX: u64 = 1 << 29;
const ALL: u64 = u64::MAX;

fn rng() -> Box<Rng> {
    Box::new(Rng::new("", "testvm").unwrap())
}

fn entropy(driver: &mut Driver) -> (u32, u32) {
    driver.rings[0].submit(&[(DATA, 256, true)]);
    driver.kick(0);
    driver.rings[0].wait_used()
}

/// Programs an MSI-X vector and switches MSI-X on.
fn program_vector(driver: &mut Driver, vector: u16, data: u32) {
    let entry = u64::from(vector) * 16;
    driver
        .pci
        .bar_write(MSIX_BAR, entry, &0xfee0_0000u64.to_le_bytes());
    driver
        .pci
        .bar_write(MSIX_BAR, entry + 8, &data.to_le_bytes());
    driver
        .pci
        .bar_write(MSIX_BAR, entry + 12, &0u32.to_le_bytes());
    let at = capability_at(driver, 0x11, None);
    config_write(driver, at + 2, 2, 0x8000);
}

fn config_write(driver: &mut Driver, reg: u16, size: u8, value: u32) {
    driver.pci.config_mut().write(reg, size, value);
    driver.pci.config_written(reg, size);
}

fn config_read(driver: &mut Driver, reg: u16, size: u8) -> u32 {
    driver.pci.config_reading(reg, size);
    driver.pci.config().read(reg, size)
}

fn capability_at(driver: &Driver, id: u8, kind: Option<u8>) -> u16 {
    let config = driver.pci.config();
    let mut at = u16::from(config.read_u8(CAPABILITIES));
    while config.read_u8(at) != id || kind.is_some_and(|kind| config.read_u8(at + 3) != kind) {
        at = u16::from(config.read_u8(at + 1));
        assert_ne!(at, 0, "no capability {id} of kind {kind:?}");
    }
    at
}

#[test]
fn the_function_is_a_modern_virtio_device() {
    let driver = Driver::attach(rng());
    let config = driver.pci.config();
    assert_eq!(config.read_u32(0), 0x1044_1af4);
    assert_eq!(config.read_u8(8), 1);
    for (kind, offset) in [(CFG_COMMON, 0), (CFG_ISR, 0x1000), (CFG_DEVICE, 0x2000)] {
        let at = capability_at(&driver, 9, Some(kind));
        assert_eq!(
            (config.read_u8(at + 4), config.read_u32(at + 8)),
            (4, offset)
        );
    }
    let notify = capability_at(&driver, 9, Some(CFG_NOTIFY));
    assert_eq!(
        (config.read_u32(notify + 8), config.read_u32(notify + 16)),
        (0x3000, 4)
    );
}

#[test]
fn entropy_arrives_and_differs_each_time() {
    let mut driver = Driver::start(rng(), ALL);
    assert_eq!(entropy(&mut driver).1, 256);
    let first = driver.get(DATA, 256);
    entropy(&mut driver);
    assert_ne!(first, driver.get(DATA, 256));
}

#[test]
fn a_huge_entropy_request_is_answered_in_part() {
    let mut driver = Driver::start(rng(), ALL);
    driver.rings[0].submit(&[(DATA, 0x20_0000, true)]);
    driver.kick(0);
    assert_eq!(driver.rings[0].wait_used().1, 64 << 10);
}

#[test]
fn a_request_without_writable_buffers_comes_back_empty() {
    let mut driver = Driver::start(rng(), ALL);
    driver.rings[0].submit(&[(DATA, 64, false)]);
    driver.kick(0);
    assert_eq!(driver.rings[0].wait_used().1, 0);
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    let mut driver = Driver::attach(rng());
    driver.set_status(ACKNOWLEDGE | DRIVER);
    for (select, bits) in [(0u32, 1u32 << 3), (1, 1)] {
        driver.write(offset::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
        driver.write(offset::DRIVER_FEATURE, &bits.to_le_bytes());
    }
    driver.add_status(FEATURES_OK);
    assert_eq!(driver.status() & FEATURES_OK, 0);
    // Without VERSION_1 the driver is a legacy one.
    driver.write(offset::DRIVER_FEATURE_SELECT, &[0; 4]);
    driver.write(offset::DRIVER_FEATURE, &[0; 4]);
    driver.write(offset::DRIVER_FEATURE_SELECT, &[1, 0, 0, 0]);
    driver.write(offset::DRIVER_FEATURE, &[0; 4]);
    driver.add_status(FEATURES_OK);
    assert_eq!(driver.status() & FEATURES_OK, 0);
    driver.add_status(DRIVER_OK);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
}

#[test]
fn accepted_features_are_fixed() {
    let mut driver = Driver::attach(rng());
    driver.negotiate(ALL);
    driver.write(offset::DRIVER_FEATURE_SELECT, &[0; 4]);
    driver.write(offset::DRIVER_FEATURE, &[0xff; 4]);
    let kept = u32::from_le_bytes(driver.read(offset::DRIVER_FEATURE));
    assert_eq!(u64::from(kept), RING_FEATURES & 0xffff_ffff);
}

#[test]
fn status_bits_are_only_added_and_needs_reset_cannot_be_written() {
    let mut driver = Driver::attach(rng());
    driver.set_status(ACKNOWLEDGE | DRIVER | NEEDS_RESET | 0x30);
    driver.set_status(ACKNOWLEDGE);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_queue_that_is_not_in_ram_needs_a_reset() {
    for (at, place) in [
        (offset::QUEUE_DESC, RAM_END),
        (offset::QUEUE_DRIVER, RAM_END - 8),
        (offset::QUEUE_DEVICE, u64::MAX - 3),
        (offset::QUEUE_DESC, 0x1_0001),
    ] {
        let mut driver = Driver::attach(rng());
        driver.negotiate(ALL);
        driver.write(offset::QUEUE_SELECT, &[0; 2]);
        driver.write(offset::QUEUE_DESC, &0x1_0000u64.to_le_bytes());
        driver.write(offset::QUEUE_DRIVER, &0x1_4000u64.to_le_bytes());
        driver.write(offset::QUEUE_DEVICE, &0x1_6000u64.to_le_bytes());
        driver.write(at, &place.to_le_bytes());
        driver.write(offset::QUEUE_ENABLE, &[1, 0]);
        driver.add_status(DRIVER_OK);
        assert_ne!(driver.status() & NEEDS_RESET, 0, "{place:#x}");
        driver.kick(0);
        driver.bring_up(ALL);
        assert_eq!(entropy(&mut driver).1, 256);
    }
}

#[test]
fn impossible_queue_sizes_need_a_reset() {
    for size in [0u16, 3, 128, 0xffff] {
        let mut driver = Driver::attach(rng());
        driver.negotiate(ALL);
        driver.write(offset::QUEUE_SIZE, &size.to_le_bytes());
        driver.write(offset::QUEUE_DESC, &0x1_0000u64.to_le_bytes());
        driver.write(offset::QUEUE_DRIVER, &0x1_4000u64.to_le_bytes());
        driver.write(offset::QUEUE_DEVICE, &0x1_6000u64.to_le_bytes());
        driver.write(offset::QUEUE_ENABLE, &[1, 0]);
        driver.add_status(DRIVER_OK);
        assert_ne!(driver.status() & NEEDS_RESET, 0, "{size}");
    }
}

#[test]
fn a_queue_that_does_not_exist_reads_as_absent() {
    let mut driver = Driver::attach(rng());
    driver.write(offset::QUEUE_SELECT, &7u16.to_le_bytes());
    driver.write(offset::QUEUE_ENABLE, &[1, 0]);
    assert_eq!(driver.read::<2>(offset::QUEUE_SIZE), [0; 2]);
    assert_eq!(driver.read::<2>(offset::QUEUE_ENABLE), [0; 2]);
    assert_eq!(driver.read::<2>(offset::QUEUE_MSIX_VECTOR), [0xff; 2]);
    driver.kick(7);
    driver.pci.bar_write(REGISTER_BAR, REGISTER_SIZE - 1, &[1]);
}

#[test]
fn without_msix_the_line_is_raised_until_the_isr_is_read() {
    let mut driver = Driver::start(rng(), ALL);
    entropy(&mut driver);
    wait_for("INTx", || driver.bus.line.lock().unwrap().then_some(()));
    assert_ne!(config_read(&mut driver, 6, 2) & 8, 0);
    let mut isr = [0; 1];
    driver.pci.bar_read(REGISTER_BAR, ISR, &mut isr);
    assert_eq!(isr, [1]);
    assert!(!*driver.bus.line.lock().unwrap());
    driver.pci.bar_read(REGISTER_BAR, ISR, &mut isr);
    assert_eq!(isr, [0]);
}

#[test]
fn intx_disable_holds_the_line_down() {
    let mut driver = Driver::start(rng(), ALL);
    config_write(&mut driver, COMMAND, 2, 1 << 10);
    entropy(&mut driver);
    wait_for("the interrupt", || {
        driver.pci.interrupts.intx_pending().then_some(())
    });
    assert!(!*driver.bus.line.lock().unwrap());
    config_write(&mut driver, COMMAND, 2, 0);
    assert!(*driver.bus.line.lock().unwrap());
}

#[test]
fn with_msix_each_queue_sends_its_vector() {
    let mut driver = Driver::attach(rng());
    program_vector(&mut driver, 1, 0x41);
    driver.bring_up(ALL);
    driver.write(offset::QUEUE_MSIX_VECTOR, &1u16.to_le_bytes());
    entropy(&mut driver);
    wait_for("a message", || {
        let sent = driver.bus.messages.lock().unwrap();
        (*sent == [(0xfee0_0000, 0x41)]).then_some(())
    });
    assert!(!*driver.bus.line.lock().unwrap());
}

#[test]
fn a_vector_outside_the_table_is_refused() {
    let mut driver = Driver::attach(rng());
    driver.write(offset::QUEUE_MSIX_VECTOR, &2u16.to_le_bytes());
    assert_eq!(driver.read::<2>(offset::QUEUE_MSIX_VECTOR), [0xff; 2]);
    driver.write(offset::CONFIG_MSIX_VECTOR, &1u16.to_le_bytes());
    assert_eq!(driver.read::<2>(offset::CONFIG_MSIX_VECTOR), [1, 0]);
}

#[test]
fn the_event_index_suppresses_interrupts() {
    let mut driver = Driver::attach(rng());
    program_vector(&mut driver, 0, 0x41);
    driver.bring_up(ALL);
    driver.write(offset::QUEUE_MSIX_VECTOR, &0u16.to_le_bytes());
    driver.rings[0].set_used_event(2);
    let sent = |driver: &Driver| driver.bus.messages.lock().unwrap().len();
    entropy(&mut driver);
    entropy(&mut driver);
    assert_eq!(sent(&driver), 0);
    entropy(&mut driver);
    wait_for("the interrupt", || (sent(&driver) == 1).then_some(()));
}

#[test]
fn the_no_interrupt_flag_suppresses_interrupts() {
    let mut driver = Driver::attach(rng());
    program_vector(&mut driver, 0, 0x41);
    driver.bring_up(ALL & !EVENT_IDX);
    driver.write(offset::QUEUE_MSIX_VECTOR, &0u16.to_le_bytes());
    driver.rings[0].set_flags(1);
    entropy(&mut driver);
    driver.rings[0].set_flags(0);
    entropy(&mut driver);
    wait_for("the interrupt", || {
        (!driver.bus.messages.lock().unwrap().is_empty()).then_some(())
    });
    assert_eq!(driver.bus.messages.lock().unwrap().len(), 1);
}

#[test]
fn an_error_of_the_driver_raises_a_configuration_interrupt() {
    let mut driver = Driver::start(rng(), ALL);
    let generation = driver.read::<1>(offset::CONFIG_GENERATION);
    driver.rings[0].offer(0xffff);
    driver.kick(0);
    driver.wait_broken();
    assert_ne!(driver.read::<1>(offset::CONFIG_GENERATION), generation);
    let mut isr = [0; 1];
    driver.pci.bar_read(REGISTER_BAR, ISR, &mut isr);
    assert_eq!(isr[0] & 2, 2);
}

#[test]
fn doorbells_follow_the_bar() {
    let mut driver = Driver::attach(rng());
    let bells = |driver: &Driver| driver.bus.doorbells.lock().unwrap().clone();
    driver.pci.config_mut().place_bar(4, 0x1_8000_0000);
    driver.pci.bars_moved();
    assert_eq!(bells(&driver), []);
    config_write(&mut driver, COMMAND, 2, COMMAND_MEMORY.into());
    driver.pci.bars_moved();
    assert_eq!(bells(&driver), [IoEventAddress::Mmio(0x1_8000_3000)]);
    driver.pci.config_mut().place_bar(4, 0x1_9000_0000);
    driver.pci.bars_moved();
    assert_eq!(bells(&driver), [IoEventAddress::Mmio(0x1_9000_3000)]);
    driver.pci.stop();
    assert_eq!(bells(&driver), []);
}

#[test]
fn registers_can_be_reached_through_configuration_space() {
    let mut driver = Driver::start(rng(), ALL);
    let window = capability_at(&driver, 9, Some(CFG_PCI));
    config_write(&mut driver, window + 4, 1, 4);
    config_write(&mut driver, window + 8, 4, offset::NUM_QUEUES as u32);
    config_write(&mut driver, window + 12, 4, 2);
    assert_eq!(config_read(&mut driver, window + 16, 2), 1);
    // A doorbell, too.
    driver.rings[0].submit(&[(DATA, 16, true)]);
    config_write(&mut driver, window + 8, 4, NOTIFY as u32);
    config_write(&mut driver, window + 16, 2, 0);
    assert_eq!(driver.rings[0].wait_used().1, 16);
    // Targets that are none do nothing.
    for (bar, at, len) in [
        (1, 0u32, 4u32),
        (4, 0x4000, 1),
        (4, u32::MAX, 4),
        (4, 1, 2),
        (4, 0, 8),
        (4, 0, 0),
    ] {
        config_write(&mut driver, window + 4, 1, bar);
        config_write(&mut driver, window + 8, 4, at);
        config_write(&mut driver, window + 12, 4, len);
        config_write(&mut driver, window + 16, 4, 0xffff_ffff);
        config_read(&mut driver, window + 16, 4);
    }
    assert_ne!(driver.status() & DRIVER_OK, 0);
}

#[test]
fn every_access_to_every_register_is_harmless() {
    let mut driver = Driver::start(rng(), ALL);
    for at in 0..REGISTER_SIZE {
        for len in [1usize, 2, 4, 8] {
            if at + len as u64 > REGISTER_SIZE {
                continue;
            }
            let mut data = [0; 8];
            driver.pci.bar_read(REGISTER_BAR, at, &mut data[..len]);
            driver.pci.bar_write(REGISTER_BAR, at, &[0xff; 8][..len]);
        }
    }
    driver.bring_up(ALL);
    assert_eq!(entropy(&mut driver).1, 256);
}

#[test]
fn unknown_devices_are_named_with_what_exists() {
    let driver = Driver::attach(rng());
    let context = crate::virtio::testing::context(driver.mem.clone(), driver.bus.clone());
    let error = crate::virtio::create("virtio-teapot", "", context)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("virtio-teapot") && error.contains("virtio-blk"),
        "{error}"
    );
}
