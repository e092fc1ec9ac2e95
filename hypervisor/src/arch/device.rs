//! Device registers: PCI configuration space by ports and by memory, and any page of device
//! memory through a window of each CPU.

use super::{cpu, paging};
use acrn_abi::{Bdf, Hpa, PAGE_SIZE};
use core::arch::asm;
use spin::Mutex;

/// Guards the address and data ports, which are used as a pair.
static PORTS: Mutex<()> = Mutex::new(());
const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

fn select(bdf: Bdf, register: u16) -> u16 {
    let address = 1 << 31 | u32::from(bdf.0) << 8 | u32::from(register & 0xfc);
    // SAFETY: the hypervisor alone uses the ports: guests' accesses are mediated.
    unsafe { cpu::outl(ADDRESS_PORT, address) };
    DATA_PORT | register & 3
}

/// Reads 1, 2 or 4 bytes in an aligned doubleword of the first 256 bytes of configuration space.
pub fn config_read(bdf: Bdf, register: u16, size: u8) -> u32 {
    let _guard = PORTS.lock();
    let port = select(bdf, register);
    // SAFETY: as for `select`; reads of configuration space touch no memory.
    unsafe {
        match size {
            1 => cpu::inb(port).into(),
            2 => cpu::inw(port).into(),
            _ => cpu::inl(port),
        }
    }
}

/// Writes what [`config_read`] reads.
pub fn config_write(bdf: Bdf, register: u16, size: u8, value: u32) {
    let _guard = PORTS.lock();
    let port = select(bdf, register);
    // SAFETY: as for `select`; what may be written was decided by the callers in `pci`.
    unsafe {
        match size {
            1 => cpu::outb(port, value as u8),
            2 => cpu::outw(port, value as u16),
            _ => cpu::outl(port, value),
        }
    }
}

/// Reads a register of 1, 2 or 4 bytes in the configuration window.
///
/// # Safety
/// `address` is in a window that paging maps, or is not on yet and lies below 4 GiB.
pub unsafe fn ecam_read(address: Hpa, size: u8) -> u32 {
    // SAFETY: mapped, as the caller promises.
    unsafe { load(address.get(), size) as u32 }
}

/// Writes a register of 1, 2 or 4 bytes in the configuration window.
///
/// # Safety
/// As for [`ecam_read`].
pub unsafe fn ecam_write(address: Hpa, size: u8, value: u32) {
    // SAFETY: mapped, as the caller promises.
    unsafe { store(address.get(), size, value.into()) };
}

/// Reads 1, 2, 4 or 8 bytes of device memory, wherever it is; all ones for a place that cannot be
/// reached.
pub fn read(address: Hpa, size: u8) -> u64 {
    match reach(address, size) {
        // SAFETY: the window maps the page.
        Some(address) => unsafe { load(address, size) },
        None => u64::MAX,
    }
}

/// Writes 1, 2, 4 or 8 bytes of device memory. The caller has made sure that it is device memory.
pub fn write(address: Hpa, size: u8, value: u64) {
    if let Some(address) = reach(address, size) {
        // SAFETY: the window maps the page; see above for what is there.
        unsafe { store(address, size, value) };
    }
}

fn reach(address: Hpa, size: u8) -> Option<u64> {
    let offset = address.get() % PAGE_SIZE;
    if offset + u64::from(size) > PAGE_SIZE {
        return None;
    }
    Some(paging::open_window(address.align_down(PAGE_SIZE))? + offset)
}

/// Through EAX, as some processors want it for configuration space (AMD BKDG, "MMIO
/// configuration coding requirements").
unsafe fn load(address: u64, size: u8) -> u64 {
    let value: u64;
    // SAFETY: the caller's duty; device registers may have any value.
    unsafe {
        match size {
            1 => asm!("movzx eax, byte ptr [{}]", in(reg) address, out("rax") value,
                options(nostack, preserves_flags)),
            2 => asm!("movzx eax, word ptr [{}]", in(reg) address, out("rax") value,
                options(nostack, preserves_flags)),
            4 => asm!("mov eax, [{}]", in(reg) address, out("rax") value,
                options(nostack, preserves_flags)),
            _ => asm!("mov rax, [{}]", in(reg) address, out("rax") value,
                options(nostack, preserves_flags)),
        }
    }
    value
}

unsafe fn store(address: u64, size: u8, value: u64) {
    // SAFETY: the caller's duty.
    unsafe {
        match size {
            1 => asm!("mov [{}], al", in(reg) address, in("rax") value,
                options(nostack, preserves_flags)),
            2 => asm!("mov [{}], ax", in(reg) address, in("rax") value,
                options(nostack, preserves_flags)),
            4 => asm!("mov [{}], eax", in(reg) address, in("rax") value,
                options(nostack, preserves_flags)),
            _ => asm!("mov [{}], rax", in(reg) address, in("rax") value,
                options(nostack, preserves_flags)),
        }
    }
}
