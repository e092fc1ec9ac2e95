use super::*;
use crate::info::BootInfo;
use crate::multiboot;
use crate::testing::Ram;
use proptest::prelude::*;

/// A kernel file with one setup sector and a payload of 64 KiB.
pub(crate) fn kernel() -> Vec<u8> {
    let mut file = vec![0u8; 1024 + 0x1_0000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[1]);
    put(0x1FE, &[0x55, 0xAA, 0xEB, 0x6A]);
    put(0x202, b"HdrS");
    put(0x206, &0x020Fu16.to_le_bytes());
    put(0x20E, &0x100u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x236, &0x7Fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x80_0000u32.to_le_bytes());
    put(0x300, b"6.1.0 (me@here)\0");
    file
}

/// Free memory as ranges, of which what was found is taken out.
struct Free(Vec<(u64, u64)>);

impl Free {
    fn find(&mut self, search: Search) -> Option<u64> {
        let fits = |&(start, end): &(u64, u64)| {
            let (start, end) = (start.max(search.min), end.min(search.max));
            let room = end.checked_sub(start)?.checked_sub(search.size)?;
            let at = if search.highest {
                (start + room) / search.align * search.align
            } else {
                start.next_multiple_of(search.align)
            };
            (at >= start && at <= start + room).then_some(at)
        };
        let found = self.0.iter().filter_map(fits);
        let at = if search.highest {
            found.max()
        } else {
            found.min()
        }?;
        let index = self
            .0
            .iter()
            .position(|&(start, end)| start <= at && at < end)?;
        let (start, end) = self.0.remove(index);
        self.0.extend([(start, at), (at + search.size, end)]);
        Some(at)
    }
}

#[test]
fn a_header_is_read() {
    let image = KernelImage::from_slice(&kernel()).unwrap();
    assert_eq!(image.protocol, 0x020F);
    assert_eq!((image.payload_offset, image.payload_size), (1024, 0x1_0000));
    assert_eq!(
        (image.pref_address, image.init_size),
        (0x100_0000, 0x80_0000)
    );
    assert_eq!(
        (image.alignment, image.min_alignment),
        (0x20_0000, 0x20_0000)
    );
    assert_eq!(
        (image.cmdline_size, image.initrd_addr_max),
        (2047, 0x7FFF_FFFF)
    );
    assert_eq!(&image.version[..], "6.1.0 (me@here)");
    assert_eq!(image.header().len(), 0x26C - 0x1F1);
}

#[test]
fn a_file_in_memory_reads_like_a_slice() {
    let mut ram = Ram::new(0x4_0000);
    ram.put(0x1_0000, &kernel());
    let size = kernel().len() as u64;
    assert_eq!(
        KernelImage::read(&ram, Hpa(0x1_0000), size),
        KernelImage::from_slice(&kernel())
    );
    assert_eq!(
        KernelImage::read(&ram, Hpa(u64::MAX), size),
        Err(Error::Unreadable)
    );
}

#[test]
fn what_is_no_kernel_is_named() {
    let changed = |at: usize, byte: u8| {
        let mut file = kernel();
        file[at] = byte;
        KernelImage::from_slice(&file).unwrap_err()
    };
    assert_eq!(KernelImage::from_slice(&[]).unwrap_err(), Error::Empty);
    assert_eq!(
        KernelImage::from_slice(&[1; 100]).unwrap_err(),
        Error::TooShort {
            size: 100,
            needed: 0x290
        }
    );
    assert_eq!(
        KernelImage::from_slice(&[7; 4096]).unwrap_err(),
        Error::NoBootFlag { found: 0x707 }
    );
    assert_eq!(changed(0x202, b'h'), Error::NoHeader { found: *b"hdrS" });
    assert_eq!(changed(0x206, 5), Error::TooOld { version: 0x0205 });
    assert_eq!(changed(0x211, 0), Error::NotBzImage);
    assert_eq!(changed(0x236, 0), Error::Not64Bit { xloadflags: 0 });
    assert_eq!(
        changed(0x230, 3),
        Error::BadField {
            name: "kernel_alignment",
            value: 0x20_0003
        }
    );
    assert!(matches!(
        changed(0x235, 200),
        Error::BadField {
            name: "min_alignment",
            ..
        }
    ));
    assert!(matches!(
        changed(0x25F, 0xFF),
        Error::BadField {
            name: "pref_address",
            ..
        }
    ));
    assert!(matches!(changed(0x1F1, 200), Error::TooShort { .. }));
    assert!(
        Error::TooOld { version: 0x0205 }
            .to_string()
            .contains("2.05")
    );
}

#[test]
fn the_preferred_address_is_taken_when_it_is_free() {
    let image = KernelImage::from_slice(&kernel()).unwrap();
    let mut free = Free(vec![(0, 0xA_0000), (0x10_0000, 0x800_0000)]);
    let initrd = Initrd {
        size: 0x12_3456,
        in_place: None,
    };
    let plan = LoadPlan::choose(&image, Some(initrd), 100, |search| free.find(search)).unwrap();
    assert_eq!(plan.kernel, Gpa(0x100_0000));
    assert_eq!(plan.entry64(), Gpa(0x100_0200));
    assert_eq!(
        plan.initrd,
        Some(Gpa(0x7ED_C000)),
        "the highest page that fits"
    );
    assert_eq!(
        (plan.zero_page, plan.cmdline),
        (Gpa(0x9_E000), Gpa(0x9_F000))
    );
}

#[test]
fn a_taken_address_moves_a_relocatable_kernel_and_stops_another() {
    let mut image = KernelImage::from_slice(&kernel()).unwrap();
    let free = || Free(vec![(0x1000, 0xA_0000), (0x110_0000, 0x800_0000)]);
    let mut find = free();
    let plan = LoadPlan::choose(&image, None, 0, |search| find.find(search)).unwrap();
    assert_eq!(plan.kernel, Gpa(0x120_0000));
    image.relocatable = false;
    let mut find = free();
    let result = LoadPlan::choose(&image, None, 0, |search| find.find(search));
    assert_eq!(
        result,
        Err(Error::NoRoom {
            what: "the kernel",
            size: 0x80_0000
        })
    );
}

#[test]
fn a_ram_disk_stays_where_the_kernel_can_reach_it() {
    let mut image = KernelImage::from_slice(&kernel()).unwrap();
    image.xloadflags = KernelImage::XLF_KERNEL_64;
    let place = |at| {
        let mut free = Free(vec![(0, 0xA_0000), (0x10_0000, 0x800_0000)]);
        let initrd = Initrd {
            size: 0x1000,
            in_place: Some(Gpa(at)),
        };
        LoadPlan::choose(&image, Some(initrd), 0, |search| free.find(search))
            .unwrap()
            .initrd
    };
    assert_eq!(place(0x7FFF_F000), Some(Gpa(0x7FFF_F000)));
    assert_eq!(
        place(0x8000_0000),
        Some(Gpa(0x7FF_F000)),
        "moved below its limit"
    );
    image.xloadflags |= KernelImage::XLF_ABOVE_4G;
    let initrd = Initrd {
        size: 0x1000,
        in_place: Some(Gpa(1 << 33)),
    };
    let mut free = Free(vec![(0, 0xA_0000), (0x10_0000, 0x800_0000)]);
    let plan = LoadPlan::choose(&image, Some(initrd), 0, |search| free.find(search)).unwrap();
    assert_eq!(plan.initrd, Some(Gpa(1 << 33)));
}

#[test]
fn a_command_line_longer_than_the_kernel_takes_is_refused() {
    let image = KernelImage::from_slice(&kernel()).unwrap();
    let result = LoadPlan::choose(&image, None, 2048, |_| Some(0));
    assert_eq!(
        result,
        Err(Error::CmdlineTooLong {
            len: 2048,
            max: 2047
        })
    );
}

proptest! {
    #[test]
    fn a_damaged_kernel_never_panics(
        damage in proptest::collection::vec((0x1F1usize..0x290, any::<u8>()), 0..12),
        answers in proptest::collection::vec(any::<Option<u64>>(), 8),
        size in any::<u64>(),
    ) {
        let mut file = kernel();
        for (at, byte) in damage {
            file[at] = byte;
        }
        if let Ok(image) = KernelImage::from_slice(&file) {
            let mut answers = answers.into_iter();
            let initrd = Initrd { size, in_place: Some(Gpa(size)) };
            let _ = LoadPlan::choose(&image, Some(initrd), size, |_| answers.next().flatten());
        }
    }

    #[test]
    fn random_bytes_never_panic_a_parser(
        bytes in proptest::collection::vec(any::<u8>(), 0..2048),
        at in 0u64..2048,
    ) {
        let _ = KernelImage::from_slice(&bytes);
        let ram = Ram(bytes);
        let mut info = Box::new(BootInfo::new());
        let _ = multiboot::parse(&ram, multiboot::MAGIC_1, Hpa(at), &mut info);
        let _ = multiboot::parse(&ram, multiboot::MAGIC_2, Hpa(at), &mut info);
        let _ = multiboot::parse(&ram, multiboot::MAGIC_2, Hpa(u64::MAX - at), &mut info);
    }

    #[test]
    fn random_tags_never_panic_a_parser(
        tags in proptest::collection::vec(
            (0u32..22, 0u32..64, proptest::collection::vec(any::<u8>(), 56)), 0..20),
    ) {
        let mut bytes = vec![0u8; 8];
        for (kind, size, body) in tags {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((size + 8).to_le_bytes());
            bytes.extend(&body[..(size as usize).min(56)]);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let size = bytes.len() as u32 + 8;
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        bytes.extend([0; 8]);
        let mut info = Box::new(BootInfo::new());
        let _ = multiboot::parse(&Ram(bytes), multiboot::MAGIC_2, Hpa(0), &mut info);
    }
}
