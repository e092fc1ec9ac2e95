//! Disks driven through their registers and rings, on real files.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use tempfile::NamedTempFile;

use super::*;
use crate::pci::PciDevice;
use crate::virtio::testing::{
    DATA, Driver, HOLE, INDIRECT, NEXT, RAM_END, RING_FEATURES, WRITE, wait_for,
};
use crate::virtio::transport::registers::offset;

const SECTORS: u64 = 4096;
const ALL: u64 = u64::MAX;
const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;
const PENDING: u8 = 0xee;

fn image() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(SECTORS * 512).unwrap();
    file
}

fn block(image: &NamedTempFile, options: &str) -> Box<Block> {
    let text = format!("{},{options}", image.path().display());
    Box::new(Block::new(&text, "testvm").unwrap())
}

/// Both engines must behave alike.
fn each_engine(test: impl Fn(&str)) {
    test("aio=threads");
    if worker::probe_uring().is_ok() {
        test("aio=io_uring");
    }
}

fn header(driver: &Driver, kind: u32, sector: u64) {
    driver.put(HEADER, &[kind.to_le_bytes(), [0; 4]].concat());
    driver.put(HEADER + 8, &sector.to_le_bytes());
    driver.put(STATUS, &[PENDING]);
}

/// Makes one request and returns its status and the length reported.
fn request(driver: &mut Driver, kind: u32, sector: u64, len: u32, write: bool) -> (u8, u32) {
    header(driver, kind, sector);
    let mut buffers = vec![(HEADER, 16, false)];
    if len > 0 {
        buffers.push((BUFFER, len, write));
    }
    buffers.push((STATUS, 1, true));
    driver.rings[0].submit(&buffers);
    driver.kick(0);
    let (_, written) = driver.rings[0].wait_used();
    (driver.get(STATUS, 1)[0], written)
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

#[test]
fn what_is_written_is_in_the_file_and_is_read_back() {
    each_engine(|engine| {
        let image = image();
        let mut driver = Driver::start(block(&image, engine), ALL);
        let data: Vec<u8> = (0..8192).map(|n| (n % 251) as u8).collect();
        driver.put(BUFFER, &data);
        assert_eq!(request(&mut driver, OUT, 7, 8192, false), (0, 1));
        let mut found = vec![0; 8192];
        image.as_file().read_exact_at(&mut found, 7 * 512).unwrap();
        assert_eq!(found, data);
        driver.put(BUFFER, &[0; 8192]);
        assert_eq!(request(&mut driver, IN, 7, 8192, true), (0, 8193));
        assert_eq!(driver.get(BUFFER, 8192), data);
        assert_eq!(request(&mut driver, FLUSH, 0, 0, false).0, 0);
    });
}

#[test]
fn many_requests_at_once_all_come_back() {
    each_engine(|engine| {
        let image = image();
        let mut driver = Driver::start(block(&image, engine), ALL);
        for round in 0..20u64 {
            for nth in 0..64u64 {
                let (head, status) = (DATA + nth * 32, DATA + 0x1000 + nth);
                driver.put(head, &[IN.to_le_bytes(), [0; 4]].concat());
                driver.put(head + 8, &((round * nth) % SECTORS).to_le_bytes());
                driver.put(status, &[PENDING]);
                driver.rings[0].submit(&[
                    (head, 16, false),
                    (DATA + 0x2000 + nth * 512, 512, true),
                    (status, 1, true),
                ]);
            }
            driver.kick(0);
            for _ in 0..64 {
                driver.rings[0].wait_used();
            }
            assert_eq!(driver.get(DATA + 0x1000, 64), [0; 64]);
        }
    });
}

#[test]
fn a_buffer_may_be_scattered_and_indirect() {
    each_engine(|engine| {
        let image = image();
        image.as_file().write_all_at(&[0xab; 1024], 0).unwrap();
        let mut driver = Driver::start(block(&image, engine), ALL);
        header(&driver, IN, 0);
        let table = DATA + 0x8000;
        let ring = &mut driver.rings[0];
        // The header in two pieces, data in odd pieces, the last one together with the status.
        for (nth, (at, len, flags)) in [
            (HEADER, 5, NEXT),
            (HEADER + 5, 11, NEXT),
            (BUFFER, 1, NEXT | WRITE),
            (BUFFER + 1, 1000, NEXT | WRITE),
            (BUFFER + 1001, 24, WRITE),
        ]
        .into_iter()
        .enumerate()
        {
            ring.describe_at(table, nth as u16, at, len, (flags, nth as u16 + 1));
        }
        ring.describe(0, table, 5 * 16, (INDIRECT, 0));
        ring.offer(0);
        driver.kick(0);
        assert_eq!(driver.rings[0].wait_used(), (0, 1025));
        assert_eq!(driver.get(BUFFER, 1024), [0xab; 1024]);
        assert_eq!(driver.get(BUFFER + 1024, 1), [0]);
    });
}

#[test]
fn requests_outside_the_disk_fail() {
    each_engine(|engine| {
        let image = image();
        let mut driver = Driver::start(block(&image, engine), ALL);
        for kind in [IN, OUT] {
            let write = kind == IN;
            for (sector, len) in [
                (SECTORS, 512),
                (SECTORS - 1, 1024),
                (u64::MAX, 512),
                (1 << 55, 512),
                (0, 511),
            ] {
                assert_eq!(
                    request(&mut driver, kind, sector, len, write).0,
                    request::IOERR
                );
            }
        }
        assert_eq!(request(&mut driver, 99, 0, 512, true).0, request::UNSUPP);
        assert_eq!(image.as_file().metadata().unwrap().len(), SECTORS * 512);
    });
}

#[test]
fn a_disk_that_shrank_answers_with_errors_and_does_not_grow_again() {
    each_engine(|engine| {
        let image = image();
        let mut driver = Driver::start(block(&image, engine), ALL);
        image.as_file().set_len(100 * 512).unwrap();
        assert_eq!(request(&mut driver, IN, 99, 1024, true).0, request::IOERR);
        assert_eq!(
            request(&mut driver, OUT, 1000, 512, false).0,
            request::IOERR
        );
        assert_eq!(request(&mut driver, IN, 99, 512, true).0, 0);
        assert_eq!(image.as_file().metadata().unwrap().len(), 100 * 512);
    });
}

#[test]
fn the_serial_number_is_reported() {
    let image = image();
    let mut driver = Driver::start(block(&image, "serial=disk-7"), ALL);
    assert_eq!(request(&mut driver, GET_ID, 0, 20, true).0, 0);
    assert_eq!(&driver.get(BUFFER, 7), b"disk-7\0");
}

fn segment(driver: &Driver, first: u64, count: u32, flags: u32) {
    driver.put(BUFFER, &first.to_le_bytes());
    driver.put(
        BUFFER + 8,
        &[count.to_le_bytes(), flags.to_le_bytes()].concat(),
    );
}

#[test]
fn discarded_sectors_give_their_space_back() {
    each_engine(|engine| {
        let mut image = image();
        image
            .as_file_mut()
            .write_all(&vec![0x55; (SECTORS * 512) as usize])
            .unwrap();
        image.as_file().sync_all().unwrap();
        let before = image.as_file().metadata().unwrap().blocks();
        let mut driver = Driver::start(block(&image, &format!("discard,{engine}")), ALL);
        segment(&driver, 0, 2048, 0);
        assert_eq!(request(&mut driver, DISCARD, 0, 16, false).0, 0);
        assert!(image.as_file().metadata().unwrap().blocks() < before);
        for (first, count, flags, status) in [
            (SECTORS, 1, 0, 1),
            (0, u32::MAX, 0, 1),
            (0, 1, 1, 2),
            (u64::MAX, 1, 0, 1),
        ] {
            segment(&driver, first, count, flags);
            assert_eq!(request(&mut driver, DISCARD, 0, 16, false).0, status);
        }
        assert_eq!(
            request(&mut driver, DISCARD, 0, 15, false).0,
            request::IOERR
        );
    });
}

#[test]
fn discard_is_unsupported_where_it_was_not_negotiated() {
    let image = image();
    let mut driver = Driver::start(block(&image, ""), ALL);
    segment(&driver, 0, 8, 0);
    assert_eq!(
        request(&mut driver, DISCARD, 0, 16, false).0,
        request::UNSUPP
    );
}

#[test]
fn zeroed_sectors_read_as_zeros() {
    for flags in [0, 1] {
        let mut image = image();
        image.as_file_mut().write_all(&[0x55; 64 * 512]).unwrap();
        let mut driver = Driver::start(block(&image, ""), ALL);
        segment(&driver, 8, 16, flags);
        assert_eq!(request(&mut driver, ZEROES, 0, 16, false).0, 0);
        let mut found = [0; 64 * 512];
        image.as_file().read_exact_at(&mut found, 0).unwrap();
        let zeros = 8 * 512..24 * 512;
        for (at, byte) in found.iter().enumerate() {
            assert_eq!(*byte, if zeros.contains(&at) { 0 } else { 0x55 });
        }
    }
}

#[test]
fn a_read_only_disk_says_so_and_refuses_changes() {
    let image = image();
    let mut driver = Driver::start(block(&image, "ro,discard"), ALL);
    assert!(has_feature(driver.features(), VIRTIO_BLK_F_RO));
    assert!(!has_feature(driver.features(), VIRTIO_BLK_F_DISCARD));
    for kind in [OUT, DISCARD, ZEROES] {
        assert_eq!(request(&mut driver, kind, 0, 512, false).0, request::IOERR);
    }
    assert_eq!(request(&mut driver, IN, 0, 512, true).0, 0);
    assert_eq!(request(&mut driver, FLUSH, 0, 0, false).0, 0);
}

#[test]
fn an_image_is_for_one_writer_or_many_readers() {
    let image = image();
    let path = image.path().display().to_string();
    let read_only = format!("{path},ro");
    let writer = Block::new(&path, "a").unwrap();
    let refused = Block::new(&path, "b").err().unwrap().to_string();
    assert!(
        refused.contains(&path) && refused.contains("another VM"),
        "{refused}"
    );
    assert!(Block::new(&read_only, "b").is_err());
    drop(writer);
    let _first = Block::new(&read_only, "a").unwrap();
    let _second = Block::new(&read_only, "b").unwrap();
    assert!(Block::new(&path, "c").is_err());
}

#[test]
fn files_that_cannot_serve_as_disks_are_refused_with_a_remedy() {
    let missing = Block::new("/nonexistent/a.img", "vm")
        .err()
        .unwrap()
        .to_string();
    assert!(
        missing.contains("/nonexistent/a.img") && missing.contains("create it"),
        "{missing}"
    );
    let directory = Block::new("/etc,ro", "vm").err().unwrap().to_string();
    assert!(directory.contains("neither a file"), "{directory}");
    let empty = NamedTempFile::new().unwrap();
    let error = Block::new(&empty.path().display().to_string(), "vm")
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("truncate"), "{error}");
    let mut qcow = image();
    qcow.as_file_mut().write_all(b"QFI\xfb\0\0\0\x03").unwrap();
    let error = Block::new(&qcow.path().display().to_string(), "vm")
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("qcow2") && error.contains("qemu-img"),
        "{error}"
    );
}

#[test]
fn a_range_shows_a_part_of_the_file_only() {
    let image = image();
    let mut driver = Driver::start(block(&image, "range=2048/8"), ALL);
    assert_eq!(u64::from_le_bytes(driver.config(0)), 8);
    driver.put(BUFFER, &[7; 512]);
    assert_eq!(request(&mut driver, OUT, 7, 512, false).0, 0);
    assert_eq!(request(&mut driver, OUT, 8, 512, false).0, request::IOERR);
    let mut found = [0; 512];
    image
        .as_file()
        .read_exact_at(&mut found, 2055 * 512)
        .unwrap();
    assert_eq!(found, [7; 512]);
}

#[test]
fn a_drive_without_a_medium_fails_every_access() {
    let mut driver = Driver::start(Box::new(Block::new("nodisk", "vm").unwrap()), ALL);
    assert_eq!(u64::from_le_bytes(driver.config(0)), 0);
    assert_eq!(request(&mut driver, IN, 0, 512, true).0, request::IOERR);
    assert_eq!(request(&mut driver, FLUSH, 0, 0, false).0, 0);
}

#[test]
fn a_medium_is_put_into_an_empty_drive_once() {
    each_engine(|engine| {
        let image = image();
        image.as_file().write_all_at(&[5; 512], 512).unwrap();
        let path = image.path().display().to_string();
        let device = Block::new(&format!("nodisk,{engine}"), "vm").unwrap();
        let mut driver = Driver::start(Box::new(device), ALL);
        driver.write(offset::QUEUE_SELECT, &0u16.to_le_bytes());
        assert!(driver.pci.insert("/nowhere").is_err());
        let generation = driver.read::<1>(offset::CONFIG_GENERATION);
        driver.pci.insert(&path).unwrap();
        assert_ne!(driver.read::<1>(offset::CONFIG_GENERATION), generation);
        assert_eq!(u64::from_le_bytes(driver.config(0)), SECTORS);
        assert_eq!(request(&mut driver, IN, 1, 512, true).0, 0);
        assert_eq!(driver.get(BUFFER, 512), [5; 512]);
        let error = driver.pci.insert(&path).unwrap_err().to_string();
        assert!(error.contains("nodisk"), "{error}");
    });
}

#[test]
fn the_write_cache_can_be_switched_and_a_reset_restores_it() {
    let image = image();
    let mut driver = Driver::start(block(&image, "writeback"), ALL);
    assert_eq!(driver.config::<1>(32), [1]);
    let at = crate::virtio::transport::DEVICE + 32;
    PciDevice::bar_write(
        &mut driver.pci,
        crate::virtio::transport::REGISTER_BAR,
        at,
        &[0],
    );
    assert_eq!(driver.config::<1>(32), [0]);
    driver.put(BUFFER, &[1; 512]);
    assert_eq!(request(&mut driver, OUT, 0, 512, false).0, 0);
    driver.set_status(0);
    assert_eq!(driver.config::<1>(32), [1]);
    // Without flushes every write must be durable.
    driver.bring_up(RING_FEATURES);
    assert_eq!(driver.config::<1>(32), [0]);
}

#[test]
fn the_configuration_describes_the_disk() {
    let image = image();
    let mut driver = Driver::attach(block(
        &image,
        "sectorsize=512/4096,mq=3,discard=64:2:8,writethru",
    ));
    assert_eq!(u64::from_le_bytes(driver.config(0)), SECTORS);
    assert_eq!(u32::from_le_bytes(driver.config(12)), 254);
    assert_eq!(u32::from_le_bytes(driver.config(20)), 512);
    assert_eq!(driver.config::<2>(24), [3, 0]);
    assert_eq!(driver.config::<1>(32), [0]);
    assert_eq!(driver.config::<2>(34), [3, 0]);
    assert_eq!(u32::from_le_bytes(driver.config(36)), 64);
    assert_eq!(driver.read::<2>(offset::NUM_QUEUES), [3, 0]);
    assert_eq!(driver.config::<4>(0xffc), [0; 4]);
}

#[test]
fn every_queue_serves_requests() {
    let image = image();
    let mut driver = Driver::start(block(&image, "mq=4"), ALL);
    header(&driver, IN, 0);
    for queue in 0..4u16 {
        let ring = &mut driver.rings[usize::from(queue)];
        ring.submit(&[(HEADER, 16, false), (BUFFER, 512, true), (STATUS, 1, true)]);
        driver.kick(queue);
        assert_eq!(driver.rings[usize::from(queue)].wait_used().1, 513);
    }
}

#[test]
fn a_reset_waits_for_requests_and_the_disk_works_again_after_it() {
    each_engine(|engine| {
        let image = image();
        let mut driver = Driver::start(block(&image, engine), ALL);
        for _ in 0..10 {
            header(&driver, IN, 0);
            for _ in 0..80 {
                driver.rings[0].submit(&[
                    (HEADER, 16, false),
                    (BUFFER, 4096, true),
                    (STATUS, 1, true),
                ]);
            }
            driver.kick(0);
            driver.set_status(0);
            assert_eq!(driver.status(), 0);
            let used: [u8; 4] = driver.get(0x1_6000, 4).try_into().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
            assert_eq!(
                driver.get(0x1_6000, 4),
                used,
                "a ring changed after the reset"
            );
            driver.bring_up(ALL);
            assert_eq!(request(&mut driver, IN, 0, 512, true), (0, 513));
        }
    });
}

/// Each way to break a ring, as descriptors and available entries.
#[test]
fn broken_rings_stop_the_device_until_it_is_reset() {
    type Breakage = fn(&mut Driver);
    let breakages: [(&str, Breakage); 13] = [
        ("a loop", |d| {
            d.rings[0].describe(0, HEADER, 16, (NEXT, 1));
            d.rings[0].describe(1, HEADER, 16, (NEXT, 0));
            d.rings[0].offer(0);
        }),
        ("a head outside the table", |d| d.rings[0].offer(256)),
        ("a next index outside the table", |d| {
            d.rings[0].describe(0, HEADER, 16, (NEXT, 0xffff));
            d.rings[0].offer(0);
        }),
        ("a buffer in a hole", |d| {
            d.rings[0].submit(&[(HOLE - 8, 16, false), (STATUS, 1, true)]);
        }),
        ("a buffer beyond RAM", |d| {
            d.rings[0].submit(&[(HEADER, 16, false), (RAM_END - 1, 512, true)]);
        }),
        ("a buffer at the end of the address space", |d| {
            d.rings[0].submit(&[(u64::MAX - 3, 16, false), (STATUS, 1, true)]);
        }),
        ("an available index far ahead", |d| {
            d.rings[0].set_available(0x8000)
        }),
        ("an empty indirect table", |d| {
            d.rings[0].describe(0, HEADER, 0, (INDIRECT, 0));
            d.rings[0].offer(0);
        }),
        ("a nested indirect table", |d| {
            d.rings[0].describe_at(BUFFER, 0, BUFFER, 16, (INDIRECT, 0));
            d.rings[0].describe(0, BUFFER, 16, (INDIRECT, 0));
            d.rings[0].offer(0);
        }),
        ("an indirect table outside RAM", |d| {
            d.rings[0].describe(0, u64::MAX - 15, 32, (INDIRECT, 0));
            d.rings[0].offer(0);
        }),
        ("no status byte", |d| {
            d.rings[0].submit(&[(HEADER, 16, false)]);
        }),
        ("only zero-length buffers", |d| {
            d.rings[0].submit(&[(HEADER, 0, false), (STATUS, 0, true)]);
        }),
        ("readable after writable", |d| {
            d.rings[0].submit(&[(BUFFER, 512, true), (HEADER, 16, false), (STATUS, 1, true)]);
        }),
    ];
    each_engine(|engine| {
        let image = image();
        let mut driver = Driver::start(block(&image, engine), ALL);
        for (what, breakage) in breakages {
            header(&driver, IN, 0);

            breakage(&mut driver);
            driver.kick(0);
            driver.wait_broken();
            driver.bring_up(ALL);
            assert_eq!(request(&mut driver, IN, 0, 512, true).0, 0, "after {what}");
        }
    });
}

#[test]
fn a_head_offered_twice_harms_nobody() {
    each_engine(|engine| {
        let image = image();
        let mut driver = Driver::start(block(&image, engine), ALL);
        header(&driver, IN, 0);
        let head =
            driver.rings[0].submit(&[(HEADER, 16, false), (BUFFER, 512, true), (STATUS, 1, true)]);
        driver.rings[0].offer(head);
        driver.kick(0);
        let returned = [driver.rings[0].wait_used().0, driver.rings[0].wait_used().0];
        assert_eq!(returned, [u32::from(head); 2]);
    });
}

#[test]
fn the_default_engine_works_and_is_not_slow() {
    let image = image();
    let mut driver = Driver::start(block(&image, ""), ALL);
    let start = std::time::Instant::now();
    for _ in 0..500 {
        assert_eq!(request(&mut driver, IN, 0, 4096, true).0, 0);
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(8));
}

#[test]
fn stopping_leaves_the_data_in_the_file() {
    let image = image();
    let mut driver = Driver::start(block(&image, "writeback"), ALL);
    driver.put(BUFFER, &[9; 512]);
    request(&mut driver, OUT, 3, 512, false);
    drop(driver);
    let mut file = File::open(image.path()).unwrap();
    file.seek(SeekFrom::Start(3 * 512)).unwrap();
    let mut found = [0; 512];
    std::io::Read::read_exact(&mut file, &mut found).unwrap();
    assert_eq!(found, [9; 512]);
    // The lock is gone with the device.
    wait_for("the lock", || {
        Block::new(&image.path().display().to_string(), "b").ok()
    });
}
