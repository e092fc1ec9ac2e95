//! The host's memory: the boot map, the hypervisor's own pool, page ownership, and the one place
//! that touches guest memory.
//!
//! At boot a contiguous *pool* is cut out of the highest memory below 4 GiB. It serves boot-time
//! allocations (stacks, page tables, the ownership map) from its start; what remains becomes the
//! frame pool of the nested tables. Nothing is allocated from anywhere else afterwards.
//!
//! All memory is mapped at its physical address. Guest memory is mapped as user pages, so that
//! with SMAP the only code that can touch it is [`GuestWindow`].

use crate::arch::{boot, cpu};
use acrn_abi::{Hpa, PAGE_SIZE, PhysicalMemory};
use acrn_memory::{FrameStore, HostMap, MemoryKind, Owner, OwnerMap, Side};
use arrayvec::ArrayVec;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Mutex;

/// Firmware's memory map minus what the hypervisor took.
pub static HOST_MAP: Mutex<Option<HostMap>> = Mutex::new(None);
/// Who owns each host page. Set once at boot, before any guest runs.
pub static OWNERS: Mutex<Option<OwnerMap<'static>>> = Mutex::new(None);

static POOL_START: AtomicU64 = AtomicU64::new(0);
static POOL_END: AtomicU64 = AtomicU64::new(0);
static POOL_NEXT: AtomicU64 = AtomicU64::new(0);
static SMAP: AtomicBool = AtomicBool::new(false);
static TOP: AtomicU64 = AtomicU64::new(0);

/// The pool could not be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory {
    /// Bytes that were wanted.
    pub wanted: u64,
}

/// Cuts the pool out of `map` and keeps the map.
pub fn initialise(mut map: HostMap) -> Result<(), NoMemory> {
    let top = map.top(MemoryKind::Usable).get();
    let pages = top.div_ceil(PAGE_SIZE);
    // VMs, stacks and host tables; two bytes of ownership a page; one table frame for each 2 MiB.
    let wanted = (6 << 20) + pages * 2 + (top >> 21) * PAGE_SIZE + (2 << 20);
    let wanted = wanted.next_multiple_of(2 << 20);
    let start = map
        .find_free(
            wanted,
            2 << 20,
            Hpa(1 << 20),
            Hpa(u32::MAX.into()),
            Side::Highest,
        )
        .ok_or(NoMemory { wanted })?;
    map.set(start, wanted, MemoryKind::Reserved)
        .map_err(|_| NoMemory { wanted })?;
    POOL_START.store(start.get(), Ordering::Relaxed);
    POOL_NEXT.store(start.get(), Ordering::Relaxed);
    POOL_END.store(start.get() + wanted, Ordering::Relaxed);
    let end = top.max(1 << 32).next_multiple_of(PAGE_SIZE);
    TOP.store(end, Ordering::Relaxed);
    *HOST_MAP.lock() = Some(map);
    Ok(())
}

/// Host physical address range of the pool.
pub fn pool() -> (Hpa, u64) {
    let start = POOL_START.load(Ordering::Relaxed);
    (Hpa(start), POOL_END.load(Ordering::Relaxed) - start)
}

/// End of the directly mapped host physical addresses: top of memory, at least 4 GiB.
pub fn top() -> u64 {
    TOP.load(Ordering::Relaxed)
}

/// Takes `size` zeroed bytes from the pool, for ever. Boot only; later the rest belongs to
/// [`Frames`].
pub fn allocate_boot(size: u64, align: u64) -> Option<Hpa> {
    let start = allocate_unset(size, align)?;
    // SAFETY: the range is inside the pool and the caller's alone.
    unsafe { core::ptr::write_bytes(start.get() as *mut u8, 0, size as usize) };
    Some(start)
}

/// The same without zeroing; for what is written as a whole.
pub fn allocate_unset(size: u64, align: u64) -> Option<Hpa> {
    let start = POOL_NEXT.load(Ordering::Relaxed).next_multiple_of(align);
    let end = start.checked_add(size)?;
    if end > POOL_END.load(Ordering::Relaxed) {
        return None;
    }
    POOL_NEXT.store(end, Ordering::Relaxed);
    Some(Hpa(start))
}

/// Takes zeroed bytes from the pool, for ever. Boot only.
pub fn boot_bytes(size: u64) -> Option<&'static mut [u8]> {
    let start = allocate_boot(size, PAGE_SIZE)?;
    // SAFETY: this many zeroed bytes of the pool that are given out once.
    Some(unsafe { core::slice::from_raw_parts_mut(start.get() as *mut u8, size as usize) })
}

/// Builds the ownership map: usable memory is `owner`'s, the hypervisor's is its own, the rest
/// are devices.
pub fn build_ownership(owner: Owner) -> Result<(), NoMemory> {
    let pages = (top() / PAGE_SIZE) as usize;
    let wanted = pages as u64 * 2;
    let storage = allocate_unset(wanted, PAGE_SIZE).ok_or(NoMemory { wanted })?;
    // SAFETY: aligned memory of exactly this size that is given out once; it is all written before
    // it is read, and memory of the machine always holds some value.
    let storage = unsafe { core::slice::from_raw_parts_mut(storage.get() as *mut u16, pages) };
    let guard = HOST_MAP.lock();
    let failed = |_| NoMemory { wanted: 0 };
    let blocks = guard.iter().flat_map(|map| map.iter());
    let ranges = blocks.filter_map(|block| {
        let end = (block.start.get() + block.size()) & !(PAGE_SIZE - 1);
        let start = block.start.get().next_multiple_of(PAGE_SIZE);
        let is_memory = matches!(
            block.kind,
            MemoryKind::Usable | MemoryKind::Acpi | MemoryKind::Nvs
        );
        (is_memory && start < end && end <= top()).then(|| (Hpa(start), end - start, owner))
    });
    let mut owners = OwnerMap::with_ranges(storage, Owner::Device, ranges).map_err(failed)?;
    let image = boot::image();
    let end = image.end;
    owners
        .set_range(Hpa(image.start), end - image.start, Owner::Hypervisor)
        .map_err(failed)?;
    let (start, size) = pool();
    owners
        .set_range(start, size, Owner::Hypervisor)
        .map_err(failed)?;
    drop(guard);
    *OWNERS.lock() = Some(owners);
    Ok(())
}

/// Ends boot-time allocation: what is left of the pool becomes frames of nested tables.
pub fn open_frame_pool() {
    let end = POOL_END.load(Ordering::Relaxed);
    let next = POOL_NEXT
        .swap(end, Ordering::Relaxed)
        .next_multiple_of(PAGE_SIZE);
    FRAMES.lock().open(next, end);
}

/// Ranges outside of the pool that the Service VM does not have.
type Claims = ArrayVec<(u64, u64), 16>;

/// Gives a range of the host's memory to somebody, and says what it is from now on. Boot only.
pub fn give(start: Hpa, size: u64, kind: MemoryKind, owner: Owner) {
    if let Some(map) = HOST_MAP.lock().as_mut() {
        let _ = map.set(start, size, kind);
    }
    if let Some(owners) = OWNERS.lock().as_mut() {
        let _ = owners.set_range(start, size, owner);
    }
}

static CLAIMED: Mutex<Claims> = Mutex::new(ArrayVec::new_const());

/// Ranges taken by [`claim`] and [`take_shared`].
pub fn claimed() -> Claims {
    CLAIMED.lock().clone()
}

/// Marks a range as the hypervisor's (the trampoline).
pub fn claim(hpa: Hpa, size: u64) -> bool {
    claim_for(hpa, size, Owner::Hypervisor)
}

fn claim_for(hpa: Hpa, size: u64, owner: Owner) -> bool {
    if CLAIMED.lock().try_push((hpa.get(), size)).is_err() {
        return false;
    }
    OWNERS
        .lock()
        .as_mut()
        .is_some_and(|owners| owners.set_range(hpa, size, owner).is_ok())
}

/// Takes zeroed memory for a region that VMs share, for ever. Boot only, before the Service VM is
/// made. `None` when there is none in one piece.
pub fn take_shared(region: u8, size: u64) -> Option<Hpa> {
    let start = {
        let mut guard = HOST_MAP.lock();
        let map = guard.as_mut()?;
        let align = size.min(2 << 20);
        let start = map.find_free(size, align, Hpa(1 << 20), Hpa(top()), Side::Highest)?;
        map.set(start, size, MemoryKind::Reserved).ok()?;
        start
    };
    if !claim_for(start, size, Owner::Shared(region)) {
        return None;
    }
    let pages = (0..size).step_by(PAGE_SIZE as usize);
    for offset in pages {
        write_guest(Hpa(start.get() + offset), &[0; PAGE_SIZE as usize]);
    }
    Some(start)
}

/// Whether a page belongs to a region that VMs share.
pub fn is_shared(hpa: Hpa) -> bool {
    let guard = OWNERS.lock();
    let owner = guard.as_ref().and_then(|owners| owners.owner(hpa));
    matches!(owner, Some(Owner::Shared(_)))
}

/// Whether `address` lies in the hypervisor's image or pool.
pub fn is_hypervisor_memory(address: u64) -> bool {
    let image = boot::image();
    (image.start..image.end).contains(&address)
        || (POOL_START.load(Ordering::Relaxed)..POOL_END.load(Ordering::Relaxed)).contains(&address)
}

struct FramePool {
    /// First frame never given out, and the end.
    fresh: u64,
    end: u64,
    /// Head of the list of returned frames; the first word of a frame is the next one.
    free: u64,
    used: u64,
}

static FRAMES: Mutex<FramePool> = Mutex::new(FramePool {
    fresh: 0,
    end: 0,
    free: 0,
    used: 0,
});

impl FramePool {
    fn open(&mut self, start: u64, end: u64) {
        self.fresh = start;
        self.end = end;
    }
}

/// The store of nested-table frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames;

impl Frames {
    /// Frames given out, and frames still there.
    pub fn usage() -> (u64, u64) {
        let pool = FRAMES.lock();
        let total = (pool.end - POOL_START.load(Ordering::Relaxed)) / PAGE_SIZE;
        (pool.used, total.saturating_sub(pool.used))
    }
}

impl FrameStore for Frames {
    fn alloc(&mut self) -> Option<Hpa> {
        let mut pool = FRAMES.lock();
        let frame = if pool.free != 0 {
            let frame = pool.free;
            // SAFETY: a frame on the free list is the pool's; its first word is the list.
            pool.free = unsafe { (frame as *const u64).read() };
            frame
        } else {
            let frame = pool.fresh;
            if frame + PAGE_SIZE > pool.end {
                return None;
            }
            pool.fresh += PAGE_SIZE;
            frame
        };
        pool.used += 1;
        drop(pool);
        // SAFETY: the frame is now the caller's alone.
        unsafe { core::ptr::write_bytes(frame as *mut u8, 0, PAGE_SIZE as usize) };
        Some(Hpa(frame))
    }

    fn free(&mut self, table: Hpa) {
        let mut pool = FRAMES.lock();
        // SAFETY: a frame that `alloc` gave out and nobody refers to any more.
        unsafe { (table.get() as *mut u64).write(pool.free) };
        pool.free = table.get();
        pool.used -= 1;
    }

    #[inline]
    fn read(&self, table: Hpa, index: usize) -> u64 {
        // SAFETY: `table` is a frame of the pool; the index stays inside it. Other CPUs may write
        // entries at the same time, hence volatile, as the hardware's walker reads them.
        unsafe { (table.get() as *const u64).add(index & 511).read_volatile() }
    }

    #[inline]
    fn write(&mut self, table: Hpa, index: usize, value: u64) {
        // SAFETY: as for `read`; the table's lock is held by the caller.
        unsafe {
            (table.get() as *mut u64)
                .add(index & 511)
                .write_volatile(value)
        }
    }
}

/// Tells this module that SMAP is on.
pub fn smap_is_on() {
    SMAP.store(true, Ordering::Relaxed);
}

/// The window through which guest memory is reached: user pages may be touched while it lives.
struct GuestWindow;

impl GuestWindow {
    #[inline(always)]
    fn open() -> Self {
        if SMAP.load(Ordering::Relaxed) {
            // SAFETY: sets RFLAGS.AC, which only lets this CPU touch user pages; closed by Drop.
            unsafe { asm!("stac", options(nostack)) };
        }
        Self
    }
}

impl Drop for GuestWindow {
    #[inline(always)]
    fn drop(&mut self) {
        if SMAP.load(Ordering::Relaxed) {
            // SAFETY: ends what `open` began.
            unsafe { asm!("clac", options(nostack)) };
        }
    }
}

/// Whether a host range may be touched through the window: mapped, and not the hypervisor's.
/// Callers have translated a guest address; this is the second lock on the same door.
fn is_guest_range(hpa: Hpa, length: usize) -> bool {
    let Some(end) = hpa.checked_add(length as u64) else {
        return false;
    };
    let image = boot::image();
    let (pool_start, pool_size) = pool();
    let apart = |start: u64, stop: u64| end.get() <= start || hpa.get() >= stop;
    end.get() <= top()
        && apart(image.start, image.end)
        && apart(pool_start.get(), pool_start.get() + pool_size)
}

/// Copies guest memory out. `false` when the range may not be read.
pub fn read_guest(hpa: Hpa, buffer: &mut [u8]) -> bool {
    if !is_guest_range(hpa, buffer.len()) {
        return false;
    }
    let _window = GuestWindow::open();
    // SAFETY: the range is mapped and not the hypervisor's; a guest that changes it meanwhile
    // changes only which bytes are copied.
    unsafe { copy(hpa.get() as *const u8, buffer.as_mut_ptr(), buffer.len()) };
    true
}

/// Copies into guest memory. `false` when the range may not be written.
pub fn write_guest(hpa: Hpa, bytes: &[u8]) -> bool {
    if !is_guest_range(hpa, bytes.len()) {
        return false;
    }
    let _window = GuestWindow::open();
    // SAFETY: the range is mapped and not the hypervisor's.
    unsafe { copy(bytes.as_ptr(), hpa.get() as *mut u8, bytes.len()) };
    true
}

/// String instructions rather than a function of the language: the bytes may change under it.
unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the callers checked both ranges.
    unsafe {
        asm!("rep movsq", "mov ecx, {rest:e}", "rep movsb", rest = in(reg) length & 7,
            inout("rcx") length / 8 => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}

/// Moves guest memory inside host memory, for loading images. Ranges may overlap.
pub fn move_guest(from: Hpa, to: Hpa, length: u64) -> bool {
    if !is_guest_range(from, length as usize) || !is_guest_range(to, length as usize) {
        return false;
    }
    let _window = GuestWindow::open();
    // SAFETY: both ranges are mapped and not the hypervisor's; no guest runs yet.
    unsafe {
        core::ptr::copy(
            from.get() as *const u8,
            to.get() as *mut u8,
            length as usize,
        );
    }
    true
}

/// Reads one aligned word of guest memory in one access; for page tables and shared pages.
#[inline]
pub fn load_guest_u64(hpa: Hpa) -> Option<u64> {
    if hpa.get() & 7 != 0 || !is_guest_range(hpa, 8) {
        return None;
    }
    let _window = GuestWindow::open();
    // SAFETY: aligned, mapped, not the hypervisor's.
    Some(unsafe { (hpa.get() as *const u64).read_volatile() })
}

/// Reads one aligned 32-bit word of guest memory in one access.
#[inline]
pub fn load_guest_u32(hpa: Hpa) -> Option<u32> {
    if hpa.get() & 3 != 0 || !is_guest_range(hpa, 4) {
        return None;
    }
    let _window = GuestWindow::open();
    // SAFETY: aligned, mapped, not the hypervisor's.
    Some(unsafe { (hpa.get() as *const u32).read_volatile() })
}

/// A host address that [`is_guest_range`] allows, with the bytes behind it. Neither the mapping
/// nor the hypervisor's ranges change once guests run, so it stays allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedAddress(u64);

impl CheckedAddress {
    /// Nowhere; for tables whose places are empty. Nothing is read there.
    pub const NONE: Self = Self(0);

    /// Of an aligned word of 8 bytes.
    pub fn word(hpa: Hpa) -> Option<Self> {
        (hpa.get() & 7 == 0 && is_guest_range(hpa, 8)).then_some(Self(hpa.get()))
    }

    /// Of a page.
    pub fn page(hpa: Hpa) -> Option<Self> {
        let size = PAGE_SIZE as usize;
        (hpa.get() % PAGE_SIZE == 0 && is_guest_range(hpa, size)).then_some(Self(hpa.get()))
    }
}

/// Reads a word in one access.
pub fn load_checked(word: CheckedAddress) -> u64 {
    let _window = GuestWindow::open();
    // SAFETY: aligned, mapped, not the hypervisor's.
    unsafe { (word.0 as *const u64).read_volatile() }
}

/// Last offset in a page at which [`fetch_if_unchanged`] reads.
pub const LAST_FETCH: u64 = PAGE_SIZE - 15;

/// Reads 15 bytes at an offset of a page, which is at most [`LAST_FETCH`], provided that each of
/// the words still has its value. `false` if not.
#[inline]
pub fn fetch_if_unchanged(
    words: &[(CheckedAddress, u64)],
    page: CheckedAddress,
    offset: u64,
    buffer: &mut [u8; 15],
) -> bool {
    if offset > LAST_FETCH {
        return false;
    }
    let _window = GuestWindow::open();
    for (word, value) in words {
        // SAFETY: aligned, mapped, not the hypervisor's.
        if unsafe { (word.0 as *const u64).read_volatile() } != *value {
            return false;
        }
    }
    let at = (page.0 + offset) as *const u64;
    // SAFETY: 15 bytes in the page, as two words that share a byte; the guest may change them
    // meanwhile, which changes only what is read.
    let (low, high) = unsafe { (at.read_unaligned(), at.byte_add(7).read_unaligned()) };
    buffer[..8].copy_from_slice(&low.to_le_bytes());
    buffer[7..].copy_from_slice(&high.to_le_bytes());
    true
}

/// Writes one aligned 32-bit word of guest memory after all earlier writes.
#[inline]
pub fn store_guest_u32(hpa: Hpa, value: u32) -> bool {
    if hpa.get() & 3 != 0 || !is_guest_range(hpa, 4) {
        return false;
    }
    core::sync::atomic::fence(Ordering::SeqCst);
    let _window = GuestWindow::open();
    // SAFETY: aligned, mapped, not the hypervisor's.
    unsafe { (hpa.get() as *mut u32).write_volatile(value) };
    true
}

/// Host memory as the boot parsers see it: anything that is mapped.
pub struct BootMemory;

impl PhysicalMemory for BootMemory {
    fn read(&self, address: Hpa, buffer: &mut [u8]) -> bool {
        let limit = top().max(1 << 32);
        match address.checked_add(buffer.len() as u64) {
            Some(end) if end.get() <= limit => {}
            _ => return false,
        }
        let _window = GuestWindow::open();
        // SAFETY: the boot page tables map all of the first 4 GiB and later tables all memory;
        // the copy only reads.
        unsafe {
            copy(
                address.get() as *const u8,
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        true
    }
}

/// Zeroed frames for tables of the host itself, from the pool.
pub fn allocate_table() -> Option<Hpa> {
    allocate_boot(PAGE_SIZE, PAGE_SIZE)
}

/// Makes sure that the processor is what the module assumes.
pub fn enable_protection() {
    let mut value = cpu::read_cr4();
    if cpu::has_smep() {
        value |= cpu::cr4::SMEP;
    }
    if cpu::has_smap() {
        value |= cpu::cr4::SMAP;
        smap_is_on();
    }
    // SAFETY: the hypervisor executes no user page and touches them only in a GuestWindow.
    unsafe { cpu::write_cr4(value) };
}
