//! Multiboot information for a program that a VM starts with (Multiboot Specification 0.6.96, 3.3).

use crate::info::MemoryKind;
use crate::zero_page::E820Entry;
use acrn_abi::Gpa;
use arrayvec::ArrayVec;

/// What is in EAX at the entry.
pub const MAGIC: u32 = 0x2bad_b002;
/// Room for the information: the structure, one module and [`MAX_RANGES`] ranges of memory.
pub const CAPACITY: usize = 1024;
/// Most ranges of memory that are told.
pub const MAX_RANGES: usize = 32;

const SIZE: usize = 120;
const MODULE_SIZE: usize = 16;
/// Valid are: sizes of memory, command line, modules, map of memory.
const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6;
const MIB: u64 = 1 << 20;

/// Builds the information for the address `at`, below 4 GiB. `cmdline` is where the command line is, with a
/// zero at its end; the module is a RAM disk.
pub fn build(
    at: Gpa,
    cmdline: Gpa,
    ramdisk: Option<(Gpa, u64)>,
    memory: impl IntoIterator<Item = E820Entry>,
) -> ArrayVec<u8, CAPACITY> {
    let mut bytes = ArrayVec::from([0; CAPACITY]);
    let mut put = |offset: usize, value: u64| {
        if let Some(field) = bytes.get_mut(offset..offset + 4) {
            field.copy_from_slice(&(value as u32).to_le_bytes());
        }
    };
    let (mut lower, mut upper) = (0, 0);
    let first = SIZE + MODULE_SIZE;
    let mut next = first;
    for range in memory.into_iter().take(MAX_RANGES) {
        if range.kind == MemoryKind::RAM {
            match range.base.0 {
                0 => lower = range.size.min(MIB) >> 10,
                MIB => upper = range.size >> 10,
                _ => {}
            }
        }
        // The size does not count itself.
        let words = [
            20,
            range.base.0,
            range.base.0 >> 32,
            range.size,
            range.size >> 32,
            range.kind.0.into(),
        ];
        for word in words {
            put(next, word);
            next += 4;
        }
    }
    put(0, FLAGS.into());
    put(4, lower);
    put(8, upper);
    put(16, cmdline.0);
    if let Some((start, size)) = ramdisk {
        put(20, 1);
        put(24, at.0 + SIZE as u64);
        put(SIZE, start.0);
        put(SIZE + 4, start.0 + size);
    }
    put(44, (next - first) as u64);
    put(48, at.0 + first as u64);
    bytes.truncate(next);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BootInfo;
    use crate::multiboot;
    use crate::testing::Ram;
    use acrn_abi::Hpa;

    #[test]
    fn the_own_parser_reads_it_back() {
        let at = Gpa(0x1000);
        let range = |base, size| E820Entry {
            base: Gpa(base),
            size,
            kind: MemoryKind::RAM,
        };
        let memory = [
            range(0, 0xa_0000),
            range(MIB, 63 * MIB),
            range(1 << 32, MIB),
        ];
        let info = build(at, Gpa(0x2000), Some((Gpa(0x3000), 77)), memory);
        let mut ram = vec![0; 0x4000];
        ram[0x1000..0x1000 + info.len()].copy_from_slice(&info);
        ram[0x2000..0x2006].copy_from_slice(b"a=b c\0");
        let mut found = BootInfo::new();
        multiboot::parse(&Ram(ram), MAGIC, Hpa(at.0), &mut found).unwrap();
        assert_eq!(found.cmdline.as_str(), "a=b c");
        let ranges: Vec<_> = found.memory.iter().map(|r| (r.base.0, r.size)).collect();
        assert_eq!(ranges, [(0, 0xa_0000), (MIB, 63 * MIB), (1 << 32, MIB)]);
        let module = &found.modules[0];
        assert_eq!((module.start, module.end), (Hpa(0x3000), Hpa(0x3000 + 77)));
        assert_eq!(info[4..12], [0x80, 2, 0, 0, 0, 0xfc, 0, 0]);
    }

    #[test]
    fn all_ranges_have_room() {
        let range = E820Entry {
            base: Gpa(0),
            size: 1,
            kind: MemoryKind::RESERVED,
        };
        let info = build(Gpa(0), Gpa(0), None, [range; MAX_RANGES + 1]);
        assert_eq!(info.len(), SIZE + MODULE_SIZE + 24 * MAX_RANGES);
    }
}
