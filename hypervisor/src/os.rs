//! Loading what a VM runs: the modules of its kernel and RAM disk, copied into its memory, and its boot
//! processor at the entry.

use crate::arch::cpu;
use crate::exit;
use crate::memory::{self, BootMemory};
use crate::vcpu::Wait;
use crate::virt::{ControlState, Segment, StartState, gpr};
use crate::vm::Vm;
use acrn_abi::{Gpa, Hpa};
use acrn_boot::bzimage::{self, Initrd, KernelImage, LoadPlan, Search};
use acrn_boot::zero_page::{self, E820Entry};
use acrn_boot::{BootInfo, Module};
use acrn_config_blob::Os as Wanted;
use acrn_memory::{Address, MapError, MemoryKind, MemoryMap, Side};
use core::fmt;

/// Why a VM has no system.
pub enum Error {
    /// No module has this tag.
    NoKernel(arrayvec::ArrayString<{ acrn_config_blob::MAX_TAG }>),
    /// The kernel is not what it should be, or does not fit.
    Kernel(bzimage::Error),
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
            Self::ZeroPage(error) => write!(f, "{error}"),
            Self::Map(error) => write!(f, "nested page tables: {error}"),
            Self::Copy => f.write_str("a boot module does not fit into the VM's memory"),
        }
    }
}

/// What is loaded into a VM.
pub struct Os<'a> {
    kernel: &'a Module,
    ramdisk: Option<&'a Module>,
    /// Boot arguments.
    cmdline: &'a str,
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
        Ok(Self::of(kernel, ramdisk, wanted.bootargs.as_str()))
    }

    /// These modules.
    pub fn of(kernel: &'a Module, ramdisk: Option<&'a Module>, cmdline: &'a str) -> Self {
        Self {
            kernel,
            ramdisk,
            cmdline,
        }
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

/// Loads Linux into a VM that does not run, whose memory is `map`, and sets the boot processor to the
/// 32-bit entry. `rsdp` is where the ACPI tables begin, 0 to let the kernel search.
pub fn load<A: Address, const N: usize>(
    vm: &'static Vm,
    os: &Os<'_>,
    map: &MemoryMap<A, N>,
    rsdp: Gpa,
) -> Result<(), Error> {
    let (kernel, ramdisk) = (os.kernel, os.ramdisk);
    let image =
        KernelImage::read(&BootMemory, kernel.start, kernel.size()).map_err(Error::Kernel)?;
    let initrd = ramdisk.map(|m| Initrd {
        size: m.size(),
        in_place: None,
    });
    // A scratch copy: what is found free is taken from it, the guest's own map stays whole.
    let mut free = map.clone();
    let plan = LoadPlan::choose(&image, initrd, os.cmdline.len() as u64, |search| {
        take(&mut free, search)
    })
    .map_err(Error::Kernel)?;
    if let (Some(module), Some(target)) = (ramdisk, plan.initrd) {
        copy(vm, target, module.start, module.size())?;
    }
    let payload = Hpa(kernel.start.get() + image.payload_offset);
    copy(vm, plan.kernel, payload, image.payload_size)?;
    write_parameters(vm, &image, &plan, os, rsdp, map)?;
    info!(
        "{}: Linux {} at {}, {} vCPUs",
        vm.name(),
        image.version,
        plan.kernel,
        vm.vcpu_count()
    );
    start_state(vm, &plan);
    Ok(())
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

fn write_parameters<A: Address, const N: usize>(
    vm: &Vm,
    image: &KernelImage,
    plan: &LoadPlan,
    os: &Os<'_>,
    rsdp: Gpa,
    map: &MemoryMap<A, N>,
) -> Result<(), Error> {
    let mut page = [0; 4096];
    let e820 = map.iter().map(|block| E820Entry {
        base: Gpa(block.start.to_u64()),
        size: block.size(),
        kind: acrn_boot::MemoryKind(block.kind.to_e820()),
    });
    let initrd_size = os.ramdisk.map_or(0, Module::size);
    zero_page::build(&mut page, image, plan, initrd_size, rsdp, e820).map_err(Error::ZeroPage)?;
    let cmdline = os.cmdline.as_bytes();
    let written = vm.write(plan.zero_page, &page)
        && vm.write(plan.cmdline, cmdline)
        && vm.write(Gpa(plan.cmdline.0 + cmdline.len() as u64), &[0]);
    if written { Ok(()) } else { Err(Error::Copy) }
}

/// 32-bit protected mode without paging, as the boot protocol wants it.
fn start_state(vm: &'static Vm, plan: &LoadPlan) {
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
    local.registers.rip = plan.kernel.0;
    local.registers.gpr[gpr::RSI] = plan.zero_page.0;
    local.pending_io = exit::PendingIo::None;
    vcpu.set_wait(Wait::Nothing);
}
