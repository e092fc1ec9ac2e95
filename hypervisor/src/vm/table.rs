//! The table of VMs: a slot for each number, made at boot.

use super::{MAX_VCPUS, MAX_VMS, Vm};
use crate::memory;
use crate::vcpu::Vcpu;
use acrn_abi::{PAGE_SIZE, VmId};
use core::sync::atomic::{AtomicPtr, Ordering};

/// The table, in the pool: its initial values would only make the image larger.
static VMS: AtomicPtr<Vm> = AtomicPtr::new(core::ptr::null_mut());

/// Makes the table of empty slots; once, at boot. `None` when the pool is too small.
pub fn make_table() -> Option<()> {
    let table = place::<Vm>(MAX_VMS)?;
    for id in 0..MAX_VMS as u16 {
        let vcpus = place::<Vcpu>(MAX_VCPUS)?;
        for index in 0..MAX_VCPUS as u16 {
            // SAFETY: inside the memory that was just taken for this many vCPUs; their VM is
            // written below, before the table is shown to anybody.
            unsafe {
                let home = table.add(id.into()).cast_const();
                fill(vcpus.add(index.into()), || Vcpu::new(home, id, index));
            }
        }
        // SAFETY: all MAX_VCPUS elements have been written and live for ever; likewise the slot
        // is inside the table.
        unsafe {
            let vcpus = core::slice::from_raw_parts(vcpus, MAX_VCPUS);
            fill(table.add(id.into()), || Vm::new(id, vcpus));
        }
    }
    VMS.store(table, Ordering::Release);
    Some(())
}

/// Room for `count` values in the pool, which have yet to be written.
fn place<T>(count: usize) -> Option<*mut T> {
    let size = (size_of::<T>() * count) as u64;
    memory::allocate_unset(size, PAGE_SIZE).map(|start| start.get() as *mut T)
}

/// Makes a value in its place. Values of several pages must not become part of the caller's frame.
///
/// # Safety
/// `place` is aligned room for a value.
#[inline(never)]
unsafe fn fill<T>(place: *mut T, make: impl FnOnce() -> T) {
    // SAFETY: the caller's duty.
    unsafe { place.write(make()) };
}

/// All slots; none before [`make_table`].
#[inline]
pub fn all() -> &'static [Vm] {
    let table = VMS.load(Ordering::Relaxed);
    let count = if table.is_null() { 0 } else { MAX_VMS };
    let table = if table.is_null() {
        core::ptr::dangling()
    } else {
        table.cast_const()
    };
    // SAFETY: once the pointer is set, the whole table is written and lives for ever.
    unsafe { core::slice::from_raw_parts(table, count) }
}

/// A VM by number, which is taken modulo [`MAX_VMS`].
#[inline]
pub fn get(id: VmId) -> &'static Vm {
    let table = VMS.load(Ordering::Relaxed);
    assert!(
        !table.is_null(),
        "VMs are asked for before their table is made"
    );
    // SAFETY: the table has MAX_VMS written elements and lives for ever.
    unsafe { &*table.add(id.index() % MAX_VMS) }
}

/// The Service VM.
#[inline]
pub fn service() -> &'static Vm {
    get(VmId(0))
}
