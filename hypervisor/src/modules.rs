//! Boot modules: kernels and RAM disks stay where they are, out of every VM's memory, so that a VM that
//! the hypervisor starts can be started again.

use crate::config;
use crate::memory::{self, BootMemory};
use acrn_abi::{Hpa, PAGE_SIZE};
use acrn_boot::bzimage::KernelImage;
use acrn_boot::module::ModuleKind;
use acrn_boot::{BootInfo, Module};
use acrn_memory::{MemoryKind, Owner, Side};
use arrayvec::ArrayVec;
use spin::Mutex;

/// Host ranges of the modules, in whole pages.
static KEPT: Mutex<ArrayVec<(Hpa, u64), { acrn_boot::info::MAX_MODULES }>> =
    Mutex::new(ArrayVec::new_const());

/// Takes the modules' memory. Before any VM is made.
pub fn keep(info: &mut BootInfo) {
    clear_way(info);
    let mut kept = KEPT.lock();
    for module in &info.modules {
        let (start, size) = pages(module);
        // The configuration has been copied.
        let is_done = module.tag().kind == ModuleKind::Config;
        if is_done {
            hand_over(start, size);
        } else {
            memory::give(start, size, MemoryKind::Reserved, Owner::Hypervisor);
            let _ = kept.try_push((start, size));
        }
    }
}

/// Host ranges that no VM sees.
pub fn kept() -> ArrayVec<(Hpa, u64), { acrn_boot::info::MAX_MODULES }> {
    KEPT.lock().clone()
}

fn pages(module: &Module) -> (Hpa, u64) {
    let start = module.start.align_down(PAGE_SIZE);
    let size = (module.end.get() - start.get()).next_multiple_of(PAGE_SIZE);
    (start, size)
}

/// Makes it ordinary memory of the Service VM.
fn hand_over(start: Hpa, size: u64) {
    let owner = Owner::Vm(crate::vm::service().id);
    memory::give(start, size, MemoryKind::Usable, owner);
}

/// Moves modules away from where the Service VM's kernel would like to be. A loader that puts modules
/// low (GRUB on UEFI) would else leave a kernel that cannot run elsewhere without a place.
fn clear_way(info: &mut BootInfo) {
    let vm = config::setup().service_vm();
    let kernel = match &vm {
        Some(vm) => info.module(&vm.os.kernel_tag),
        None => info.kernel(),
    };
    let image = kernel.map(|k| KernelImage::read(&BootMemory, k.start, k.size()));
    // What is wrong with it is said when it is loaded.
    let Some(Ok(image)) = image else { return };
    let end = image.pref_address.saturating_add(image.init_size);
    for module in &mut info.modules {
        let (first, size) = pages(module);
        if first.get() >= end || module.end.get() <= image.pref_address {
            continue;
        }
        // Without room the kernel may still run elsewhere, with the module where it is.
        let Some(to) = free_place(size, end) else {
            continue;
        };
        if !memory::move_guest(first, to, size) {
            continue;
        }
        let length = module.size();
        module.start = Hpa(to.get() + (module.start.get() - first.get()));
        module.end = Hpa(module.start.get() + length);
        memory::give(to, size, MemoryKind::Reserved, Owner::Hypervisor);
        hand_over(first, size);
    }
}

fn free_place(size: u64, min: u64) -> Option<Hpa> {
    let guard = memory::HOST_MAP.lock();
    let map = guard.as_ref()?;
    map.find_free(size, PAGE_SIZE, Hpa(min), Hpa(memory::top()), Side::Highest)
}
