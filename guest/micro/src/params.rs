//! What the hypervisor says in the zero page: command line and memory map.

use core::sync::atomic::{AtomicU64, Ordering};

static ZERO_PAGE: AtomicU64 = AtomicU64::new(0);

/// Remembers where the zero page is.
pub fn remember(zero_page: u64) {
    ZERO_PAGE.store(zero_page, Ordering::Relaxed);
}

fn read<T: Copy>(offset: u64) -> T {
    let address = ZERO_PAGE.load(Ordering::Relaxed) + offset;
    // SAFETY: the boot protocol gives a readable page; the offsets used are inside.
    unsafe { (address as *const T).read_unaligned() }
}

/// The zero page's and the command line's pages.
pub fn own_pages() -> [u64; 2] {
    let cmdline: u32 = read(0x228);
    [
        ZERO_PAGE.load(Ordering::Relaxed) & !0xfff,
        u64::from(cmdline) & !0xfff,
    ]
}

/// The command line.
pub fn command_line() -> &'static str {
    let address = u64::from(read::<u32>(0x228)) as *const u8;
    let mut length = 0;
    // SAFETY: the boot protocol gives a zero-terminated text of at most `cmdline_size` bytes.
    unsafe {
        while length < 2047 && *address.add(length) != 0 {
            length += 1;
        }
        core::str::from_utf8_unchecked(core::slice::from_raw_parts(address, length))
    }
}

/// A range of the memory map.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// 1 for usable memory.
    pub kind: u32,
}

/// The memory map.
pub fn memory_map() -> impl Iterator<Item = Range> {
    let count: u8 = read(0x1e8);
    (0..u64::from(count)).map(|i| {
        let at = 0x2d0 + i * 20;
        let start: u64 = read(at);
        let size: u64 = read(at + 8);
        Range {
            start,
            end: start.wrapping_add(size),
            kind: read(at + 16),
        }
    })
}

/// Usable memory.
pub fn usable() -> impl Iterator<Item = Range> {
    memory_map().filter(|range| range.kind == 1)
}

/// A free page below 640 KiB for real-mode code.
pub fn low_page() -> Option<u64> {
    let taken = own_pages();
    (8..0x90u64).map(|page| page << 12).find(|page| {
        !taken.contains(page) && usable().any(|r| r.start <= *page && page + 4096 <= r.end)
    })
}

/// Free memory of `size` bytes (a multiple of 4096), as high as possible below `limit`.
pub fn high_memory(size: u64, limit: u64) -> Option<u64> {
    let (start, end) = crate::start::image();
    usable()
        .filter_map(|range| {
            let top = range.end.min(limit) & !0xfff;
            let at = top.checked_sub(size)?;
            let apart = top <= start || at >= end;
            (at >= range.start.max(1 << 20) && apart).then_some(at)
        })
        .max()
}
