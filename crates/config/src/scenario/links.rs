//! What connects VMs: serial lines, shared memory, and the cache that they divide.

use super::Provider;
use crate::model::{Hex, OptionsFrom, Pattern, item, model};
use acrn_abi::Bdf;
use acrn_config_blob::{CacheKind, MAX_NAME, VuartKind};

model! {
    /// Serial lines between VMs.
    pub struct VuartConnections {
        pub list: Vec<VuartConnection> = item("vuart_connection", "Serial line",
            "A serial line between two VMs."),
    }

    /// A serial line between two VMs.
    pub struct VuartConnection {
        pub name: String = item("name", "Name", "A name for people."),
        pub kind: VuartKind = item("type", "Type",
            "How the VMs see it: at an I/O port or as a PCI function.").default("pci"),
        pub endpoints: Vec<VuartEndpoint> = item("endpoint", "End", "One end of the line."),
    }

    /// One end of a serial line.
    pub struct VuartEndpoint {
        pub vm_name: String = item("vm_name", "VM",
            "Name of the VM.").pattern(Pattern::Name(MAX_NAME)).from(OptionsFrom::VmNames),
        pub io_port: Option<Hex> = item("io_port", "I/O port",
            "First I/O port in the VM, for lines of type legacy. Chosen if absent."),
        pub vbdf: Option<Bdf> = item("vbdf", "PCI place",
            "Bus, device and function in the VM, for lines of type pci. Chosen if absent."),
    }

    /// Memory that VMs share.
    pub struct Ivshmem {
        pub regions: Vec<IvshmemRegion> = item("IVSHMEM_REGION", "Region",
            "A region of memory that VMs share."),
    }

    /// A region of memory that VMs share.
    pub struct IvshmemRegion {
        pub name: String = item("NAME", "Name",
            "By which the VMs' tools find it.").pattern(Pattern::Word(27)),
        pub provider: Provider = item("PROVIDED_BY", "Provided by",
            "Who emulates its PCI devices.").default("Hypervisor"),
        pub size: i64 = item("IVSHMEM_SIZE", "Size",
            "A power of two.").default("2").unit("MiB").range(2, 512),
        pub id: i64 = item("IVSHMEM_REGION_ID", "Number",
            "A number that the VMs' drivers see.").default("0").range(0, 0xffff),
        pub members: IvshmemVms = item("IVSHMEM_VMS", "VMs", "The VMs that share it."),
    }

    /// The VMs that share a region.
    pub struct IvshmemVms {
        pub list: Vec<IvshmemVm> = item("IVSHMEM_VM", "VM", "A VM that shares the region."),
    }

    /// A VM that shares a region.
    pub struct IvshmemVm {
        pub vm_name: String = item("VM_NAME", "VM",
            "Name of the VM.").pattern(Pattern::Name(MAX_NAME)).from(OptionsFrom::VmNames).required(),
        pub vbdf: Option<Bdf> = item("VBDF", "PCI place",
            "Bus, device and function in the VM. Chosen if absent."),
    }

    /// How the caches are divided.
    pub struct CacheRegion {
        pub list: Vec<CacheAllocation> = item("CACHE_ALLOCATION", "Cache",
            "A cache and how it is divided.").advanced(),
    }

    /// A cache and how it is divided.
    pub struct CacheAllocation {
        pub id: Hex = item("CACHE_ID", "Number",
            "Which cache of its level: the number in the board file.").advanced(),
        pub level: i64 = item("CACHE_LEVEL", "Level",
            "Level of the cache.").default("3").range(2, 3).advanced(),
        pub policies: Vec<CachePolicy> = item("POLICY", "Share",
            "What a vCPU may fill.").advanced(),
    }

    /// What a vCPU may fill.
    pub struct CachePolicy {
        pub vm: String = item("VM", "VM",
            "Name of the VM.").from(OptionsFrom::VmNames).required().advanced(),
        pub vcpu: i64 = item("VCPU", "vCPU",
            "Number of the vCPU in the VM.").range(0, 63).advanced(),
        pub kind: CacheKind = item("TYPE", "For",
            "What the mask is for.").default("Unified").advanced(),
        pub mask: Hex = item("CLOS_MASK", "Ways",
            "A bit for each way of the cache; the bits are contiguous.").required().advanced(),
    }
}
