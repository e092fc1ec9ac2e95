//! Linux: bzImage, RAM disk, zero page (`Documentation/arch/x86/boot.rst`).

use super::{Error, Os, copy, protected_mode, take};
use crate::memory::BootMemory;
use crate::vm::Vm;
use acrn_abi::{Gpa, Hpa};
use acrn_boot::Module;
use acrn_boot::bzimage::{Initrd, KernelImage, LoadPlan};
use acrn_boot::zero_page;
use acrn_memory::{Address, MemoryMap};

/// Loads Linux, and sets the boot processor to the 32-bit entry.
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
    let arguments = (os.cmdline.len() + os.more.len()) as u64;
    let plan = LoadPlan::choose(&image, initrd, arguments, |search| take(&mut free, search))
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
    protected_mode(vm, plan.kernel.0, |registers| {
        registers.gpr[crate::virt::gpr::RSI] = plan.zero_page.0;
    });
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
    let initrd_size = os.ramdisk.map_or(0, Module::size);
    let e820 = super::e820(map);
    zero_page::build(&mut page, image, plan, initrd_size, rsdp, e820).map_err(Error::ZeroPage)?;
    let more = Gpa(plan.cmdline.0 + os.cmdline.len() as u64);
    let written = vm.write(plan.zero_page, &page)
        && vm.write(plan.cmdline, os.cmdline.as_bytes())
        && super::write_text(vm, more, os.more);
    if written { Ok(()) } else { Err(Error::Copy) }
}
