//! Loading what a VM runs: the modules of its kernel and RAM disk, copied into its memory, and its boot
//! processor at the entry.

mod linux;
mod program;

use crate::arch::cpu;
use crate::exit;
use crate::memory;
use crate::vcpu::Wait;
use crate::virt::{ControlState, Registers, Segment, StartState};
use crate::vm::Vm;
use acrn_abi::{Gpa, Hpa};
use acrn_boot::bzimage::{self, Search};
use acrn_boot::zero_page::{self, E820Entry};
use acrn_boot::{BootInfo, Module, elf};
use acrn_config_blob::{KernelKind, Os as Wanted};
use acrn_memory::{Address, MapError, MemoryKind, MemoryMap, Side};
use core::fmt;

/// Why a VM has no system.
pub enum Error {
    /// No module has this tag.
    NoKernel(arrayvec::ArrayString<{ acrn_config_blob::MAX_TAG }>),
    /// The kernel is not what it should be, or does not fit.
    Kernel(bzimage::Error),
    /// The ELF program is not what it should be.
    Elf(elf::Error),
    /// The scenario does not say where bytes are loaded.
    NoAddress,
    /// The VM has no free memory of this size, in bytes, at or below this address.
    NoMemory(Gpa, u64),
    /// The zero page cannot be built.
    ZeroPage(zero_page::Error),
    /// Nested tables.
    Map(MapError),
    /// A copy into the VM's memory failed.
    Copy,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel(tag) => write!(
                f,
                "no boot module has the tag {tag}; load the kernel as a module whose string \
                 begins with that word"
            ),
            Self::Kernel(error) => write!(f, "the kernel's module: {error}"),
            Self::Elf(error) => write!(f, "the program's module: {error}"),
            Self::NoAddress => f.write_str("kern_load_addr and kern_entry_addr are missing"),
            Self::NoMemory(at, size) => {
                write!(f, "it has no free memory of {size:#x} bytes at {at}")
            }
            Self::ZeroPage(error) => write!(f, "{error}"),
            Self::Map(error) => write!(f, "nested page tables: {error}"),
            Self::Copy => f.write_str("a boot module does not fit into the VM's memory"),
        }
    }
}

/// What is loaded into a VM.
pub struct Os<'a> {
    kind: KernelKind,
    /// Where bytes are loaded and entered.
    addresses: Option<(Gpa, Gpa)>,
    kernel: &'a Module,
    ramdisk: Option<&'a Module>,
    /// Boot arguments.
    cmdline: &'a str,
    /// Those of the hypervisor, behind them.
    more: &'a str,
}

impl<'a> Os<'a> {
    /// The modules with the tags of the configuration. `vm` is the VM's name.
    pub fn find(info: &'a BootInfo, vm: &str, wanted: &'a Wanted<'static>) -> Result<Self, Error> {
        let kernel = info.module(&wanted.kernel_tag);
        let kernel = kernel.ok_or_else(|| no_kernel(&wanted.kernel_tag))?;
        let ramdisk = info.module(&wanted.ramdisk_tag);
        if ramdisk.is_none() && !wanted.ramdisk_tag.is_empty() {
            warning!(
                "no boot module has the tag {}: {vm} gets no RAM disk",
                wanted.ramdisk_tag
            );
        }
        Ok(Self {
            kind: wanted.kind,
            addresses: wanted.load_address.zip(wanted.entry_address),
            ..Self::linux(kernel, ramdisk, wanted.bootargs.as_str())
        })
    }

    /// Linux out of these modules.
    pub fn linux(kernel: &'a Module, ramdisk: Option<&'a Module>, cmdline: &'a str) -> Self {
        Self {
            kind: KernelKind::BzImage,
            addresses: None,
            kernel,
            ramdisk,
            cmdline,
            more: "",
        }
    }

    /// Boot arguments.
    pub fn arguments(&self) -> &'a str {
        self.cmdline
    }

    /// Further arguments of the hypervisor's, for Linux.
    pub fn with_more_arguments(self, more: &'a str) -> Self {
        Self { more, ..self }
    }

    /// The arguments in the string of the kernel's module instead of others, if there are some.
    pub fn with_arguments_of_module(self) -> Self {
        let cmdline = self.kernel.tag().text.unwrap_or(self.cmdline);
        Self { cmdline, ..self }
    }
}

/// The error of a tag that no module has.
pub fn no_kernel(tag: &str) -> Error {
    let mut text = arrayvec::ArrayString::new();
    let _ = text.try_push_str(tag);
    Error::NoKernel(text)
}

/// Loads a system into a VM that does not run and whose memory is `map`, and sets the boot processor to its
/// entry. `rsdp` is where the ACPI tables begin, 0 to let the system search.
pub fn load<A: Address, const N: usize>(
    vm: &'static Vm,
    os: &Os<'_>,
    map: &MemoryMap<A, N>,
    rsdp: Gpa,
) -> Result<(), Error> {
    match os.kind {
        KernelKind::BzImage => linux::load(vm, os, map, rsdp),
        KernelKind::Elf => program::load_elf(vm, os, map),
        KernelKind::Raw => {
            let (address, entry) = os.addresses.ok_or(Error::NoAddress)?;
            program::load_raw(vm, os, map, address, entry)
        }
    }
}

fn e820<A: Address, const N: usize>(map: &MemoryMap<A, N>) -> impl Iterator<Item = E820Entry> {
    map.iter().map(|block| E820Entry {
        base: Gpa(block.start.to_u64()),
        size: block.size(),
        kind: acrn_boot::MemoryKind(block.kind.to_e820()),
    })
}

/// Writes a text with a zero at its end.
fn write_text(vm: &Vm, at: Gpa, text: &str) -> bool {
    vm.write(at, text.as_bytes()) && vm.write(Gpa(at.0 + text.len() as u64), &[0])
}

/// Takes free memory out of a map.
pub fn take<A: Address, const N: usize>(free: &mut MemoryMap<A, N>, search: Search) -> Option<u64> {
    let side = if search.highest {
        Side::Highest
    } else {
        Side::Lowest
    };
    let (min, max) = (A::from_u64(search.min), A::from_u64(search.max));
    let found = free.find_free(search.size, search.align, min, max, side)?;
    free.set(found, search.size, MemoryKind::Reserved).ok()?;
    Some(found.to_u64())
}

/// Copies host memory into a VM's, a page of the nested table at a time.
fn copy(vm: &Vm, to: Gpa, from: Hpa, size: u64) -> Result<(), Error> {
    let mut done = 0;
    while done < size {
        let at = to.checked_add(done).ok_or(Error::Copy)?;
        let (hpa, left) = {
            let guard = vm.nested.lock();
            let mapping = guard.as_ref().and_then(|table| table.translate(at));
            let mapping = mapping.ok_or(Error::Copy)?;
            (mapping.hpa, mapping.size - (at.0 & (mapping.size - 1)))
        };
        let here = left.min(size - done);
        if !memory::move_guest(Hpa(from.get() + done), hpa, here) {
            return Err(Error::Copy);
        }
        done += here;
    }
    Ok(())
}

/// Lets the boot processor begin at an address, in 32-bit protected mode without paging, with flat segments
/// and registers that `set` chooses.
fn protected_mode(vm: &'static Vm, entry: u64, set: impl FnOnce(&mut Registers)) {
    let flat = |selector, access| Segment {
        selector,
        access,
        limit: u32::MAX,
        base: 0,
    };
    let state = StartState {
        control: ControlState {
            cr0: cpu::cr0::PE | cpu::cr0::ET,
            ..ControlState::default()
        },
        cs: flat(0x10, 0xc09b),
        data: [flat(0x18, 0xc093); 5],
        gdt: (0, 0),
        idt: (0, 0),
        ldt: 0,
        tr: 0,
    };
    let Some(vcpu) = vm.vcpu(0) else { return };
    // SAFETY: the VM does not run.
    let local = unsafe { vcpu.local() };
    local.virt.set_state(&state);
    local.registers.rip = entry;
    set(&mut local.registers);
    local.pending_io = exit::PendingIo::None;
    vcpu.set_wait(Wait::Nothing);
}
