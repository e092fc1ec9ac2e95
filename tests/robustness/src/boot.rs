//! What the boot loader gives: information, kernel, command line.

use crate::Source;
use crate::source::Ram;
use acrn_abi::{Gpa, Hpa};
use acrn_boot::bzimage::{HEADER_OFFSET, Initrd, KernelImage, LoadPlan};
use acrn_boot::cmdline::{Options, guest_words, lookup};
use acrn_boot::elf::Program;
use acrn_boot::multiboot::{MAGIC_1, MAGIC_2, parse};
use acrn_boot::zero_page::{self, E820Entry};
use acrn_boot::{BootInfo, MemoryKind};

pub(crate) fn multiboot(data: &[u8]) {
    let mut source = Source::new(data);
    let magic = match source.u8() % 8 {
        0..4 => MAGIC_1,
        4..7 => MAGIC_2,
        _ => source.u32(),
    };
    let address = Hpa(source.u16().into());
    let mut info = Box::new(BootInfo::new());
    let _ = parse(&Ram(source.rest()), magic, address, &mut info);
    for range in &info.memory {
        assert!(range.base.0.checked_add(range.size).is_some());
    }
    for module in &info.modules {
        assert!(module.start <= module.end);
        let _ = module.tag();
    }
    let _ = (info.kernel(), info.ramdisk(), info.config());
}

/// A program of a pre-launched VM.
pub(crate) fn elf(data: &[u8]) {
    let size = data.len() as u64;
    let ram = Ram(data);
    let Ok(program) = Program::read(&ram, Hpa(0), size) else {
        return;
    };
    assert!(!program.segments.is_empty());
    for segment in &program.segments {
        assert!(segment.filled <= segment.size && segment.size > 0);
        assert!(segment.offset.checked_add(segment.filled).unwrap() <= size);
    }
}

/// One of each class, with a segment of four bytes.
pub(crate) fn elf_seeds() -> Vec<Vec<u8>> {
    let of = |wide: bool| {
        let mut file = vec![0; 200];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1]);
        let word = if wide { 8 } else { 4 };
        let sizes = if wide { 54 } else { 42 };
        let places: [usize; 4] = if wide {
            [8, 24, 32, 40]
        } else {
            [4, 12, 16, 20]
        };
        let head = [
            (16, 2, 2),
            (18, if wide { 62 } else { 3 }, 2),
            (24, 0x10_0004, word),
            (if wide { 32 } else { 28 }, 100, word),
            (sizes, 56, 2),
            (sizes + 2, 1, 2),
            (100, 1, 4),
        ];
        let segment = places.into_iter().zip([180, 0x10_0000, 4, 16]);
        let segment = segment.map(|(at, value)| (100 + at, value, word));
        for (at, value, size) in head.into_iter().chain(segment) {
            let value: u64 = value;
            file[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        file
    };
    vec![of(false), of(true)]
}

/// Information of version 2 with a memory map and a module, and of version 1.
pub(crate) fn multiboot_seeds() -> Vec<Vec<u8>> {
    let tag = |kind: u32, body: &[u8]| {
        let mut tag = [kind.to_le_bytes(), (body.len() as u32 + 8).to_le_bytes()].concat();
        tag.extend(body);
        tag.resize(tag.len().next_multiple_of(8), 0);
        tag
    };
    let words = |list: &[u32]| -> Vec<u8> { list.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let map = words(&[
        24, 0, 0, 0, 0xa_0000, 0, 1, 0, 0x10_0000, 0, 0x100_0000, 0, 1, 0,
    ]);
    let module = [
        words(&[0x10_0000, 0x20_0000]),
        b"Linux_bzImage x=y\0".to_vec(),
    ]
    .concat();
    let mut tags = [tag(6, &map), tag(3, &module), tag(1, b"uart=disabled\0")].concat();
    tags.extend(tag(15, b"RSD PTR \0OEMID \x02"));
    tags.extend(tag(0, &[]));
    let mut two = vec![4, 0, 0];
    two.extend(words(&[tags.len() as u32 + 8, 0]));
    two.extend(tags);
    let mut one = vec![0, 0, 0];
    one.extend(words(&[
        0x6f,
        640,
        1 << 16,
        0,
        0x60,
        1,
        0x70,
        0,
        0,
        0,
        0,
        24,
        0x80,
    ]));
    one.resize(3 + 0x60, 0);
    one.extend(b"loglevel=5\0\0\0\0\0\0");
    one.extend(words(&[0x1000, 0x2000, 0x60, 0]));
    one.extend(words(&[20, 0, 0, 0xa_0000, 0, 1]));
    vec![one, two]
}

pub(crate) fn bzimage(data: &[u8]) {
    let mut source = Source::new(data);
    let (start, claimed) = (Hpa(source.u8().into()), source.value());
    let (initrd, cmdline, place) = (source.value(), source.u16(), source.value());
    let file = source.rest();
    let _ = KernelImage::from_slice(file);
    let size = if claimed % 2 == 0 {
        file.len() as u64
    } else {
        claimed
    };
    let Ok(image) = KernelImage::read(&Ram(file), start, size) else {
        return;
    };
    assert!(
        image
            .payload_offset
            .checked_add(image.payload_size)
            .is_some()
    );
    let initrd = (initrd % 3 != 0).then_some(Initrd {
        size: initrd,
        in_place: (initrd % 2 == 0).then_some(Gpa(place)),
    });
    // Whatever memory there is: the lowest place that was asked for, or none.
    let find = |search: acrn_boot::bzimage::Search| {
        let at = search.min.checked_next_multiple_of(search.align.max(1))?;
        (at.checked_add(search.size)? <= search.max && place % 7 != 0).then_some(at)
    };
    let Ok(plan) = LoadPlan::choose(&image, initrd, cmdline.into(), find) else {
        return;
    };
    let mut page = [0; 4096];
    let e820 = (0..place % 200).map(|n| E820Entry {
        base: Gpa(n << 12),
        size: 4096,
        kind: MemoryKind(n as u32),
    });
    let size = initrd.map_or(0, |initrd| initrd.size);
    let _ = zero_page::build(&mut page, &image, &plan, size, Gpa(place), e820);
}

/// A header as Linux has it.
pub(crate) fn bzimage_seeds() -> Vec<Vec<u8>> {
    let mut file = vec![0; 0x800];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(HEADER_OFFSET, &[1]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &[0x0f, 0x02]);
    put(0x20e, &[0, 1]);
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 21, 3, 0]);
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x10_0000_u32.to_le_bytes());
    put(0x300, b"6.1.0 (x)\0");
    // Start, claimed size (even: that of the file), RAM disk, command line, place.
    let parameters = [0, 4, 0, 4, 0, 5, 0, 16, 0, 4, 0, 8];
    vec![[&parameters[..], &file].concat()]
}

pub(crate) fn cmdline(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let options = Options::parse(&text);
    for problem in &options.problems {
        let _ = problem.to_string();
    }
    let _ = lookup(&text, "uart");
    guest_words(&text).for_each(|word| assert!(!word.is_empty()));
    let _ = acrn_boot::module::classify(&text);
}

pub(crate) fn cmdline_seeds() -> Vec<Vec<u8>> {
    [
        "uart=port@0x3F8 loglevel=5 x=y",
        "uart=bdf@0:1e.2 uart=disabled",
        "uart=mmio@0xfe034000",
        "Linux_bzImage console=ttyS0 root=/dev/vda -- init",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_right_as_they_are() {
        for (seed, magic) in multiboot_seeds().iter().zip([MAGIC_1, MAGIC_2]) {
            let mut info = Box::new(BootInfo::new());
            parse(&Ram(&seed[3..]), magic, Hpa(0), &mut info).unwrap();
            assert!(!info.memory.is_empty() && info.modules.len() == 1);
        }
        let [file] = bzimage_seeds().try_into().unwrap();
        let image = KernelImage::from_slice(&file[12..]).unwrap();
        assert_eq!(image.pref_address, 0x100_0000);
    }
}
