//! Memory that VMs share by the configuration: one piece of the host's for each region, and the
//! doorbells between the VMs that the region names.
//!
//! The memory is taken from the machine at boot, belongs to nobody but the region for ever, and keeps
//! its contents while VMs come and go. Each VM of a region has a PCI function for it
//! ([`crate::virtual_pci`]), by which its memory is mapped and its doorbell is rung.

use crate::{memory, virtual_pci, vm};
use acrn_abi::{Hpa, VmId};
use acrn_config_blob::{Config, MAX_SHARED_REGIONS, SharedRegion};
use acrn_vdev::ivshmem::{Ivshmem, Ring};
use acrn_vdev::pci::VirtualFunction;
use arrayvec::ArrayVec;
use spin::Once;

/// A VM's part in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The region.
    pub region: u8,
    /// Its registers.
    pub registers: Ivshmem,
}

impl Member {
    /// Of a VM.
    pub const fn new(vm: VmId, region: u8) -> Self {
        Self {
            region,
            registers: Ivshmem::new(vm.0),
        }
    }
}

struct Region {
    /// Where it is; `None` when there was no memory for it.
    start: Option<Hpa>,
    described: SharedRegion,
}

static REGIONS: Once<ArrayVec<Region, MAX_SHARED_REGIONS>> = Once::new();

fn get(region: u8) -> Option<&'static Region> {
    REGIONS.get()?.get(usize::from(region))
}

/// Takes memory for the regions of the configuration; once, at boot, before the Service VM's is given
/// away.
pub fn reserve(config: &Config<'static>) {
    REGIONS.call_once(|| {
        let regions = config.options.shared_regions.iter().enumerate();
        let with_memory = regions.map(|(index, described)| Region {
            start: take(index as u8, &described),
            described,
        });
        with_memory.take(MAX_SHARED_REGIONS).collect()
    });
}

fn take(region: u8, described: &SharedRegion) -> Option<Hpa> {
    let start = memory::take_shared(region, described.size);
    match start {
        Some(start) => info!(
            "shared memory {}: {} KiB at {start}",
            described.name,
            described.size >> 10
        ),
        None => error!(
            "shared memory {}: there are no {} KiB of free memory in one piece; no VM has it",
            described.name,
            described.size >> 10
        ),
    }
    start
}

/// Where the memory of a region is.
pub fn start(region: u8) -> Option<Hpa> {
    get(region)?.start
}

/// The PCI function by which a VM sees a region; `None` when there is no memory.
pub fn function(region: u8) -> Option<VirtualFunction> {
    let region = get(region)?;
    region.start?;
    Some(Ivshmem::function(
        region.described.size,
        region.described.id,
    ))
}

/// The region of that name and its size.
pub fn find(name: &str) -> Option<(u8, u64)> {
    let mut regions = REGIONS.get()?.iter();
    let index = regions.position(|region| &*region.described.name == name)?;
    Some((index as u8, get(index as u8)?.described.size))
}

/// A VM rings: the other one is interrupted when it has the region too.
pub fn ring(region: u8, ring: Ring) {
    if usize::from(ring.peer) >= vm::MAX_VMS {
        return;
    }
    let peer = vm::get(VmId(ring.peer));
    if let Some(bdf) = virtual_pci::member(peer, region) {
        virtual_pci::raise(peer, bdf, ring.vector);
    }
}

/// An access to the memory where it cannot be mapped. The access lies in the region.
pub fn access(region: u8, offset: u64, size: u8, write: Option<u64>) -> u64 {
    let Some(at) = start(region).and_then(|start| start.checked_add(offset)) else {
        return u64::MAX;
    };
    let mut bytes = write.unwrap_or(0).to_le_bytes();
    let length = usize::from(size.min(8));
    let done = match write {
        Some(_) => memory::write_guest(at, &bytes[..length]),
        None => memory::read_guest(at, &mut bytes[..length]),
    };
    if done {
        u64::from_le_bytes(bytes)
    } else {
        u64::MAX
    }
}
