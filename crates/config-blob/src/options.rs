//! Options of the hypervisor itself.

use crate::field::fields;
use crate::{CacheKind, ConsoleKind, PerformancePolicy, Scheduler, ShellMode};
use crate::{List, MAX_CACHE_MASKS, MAX_CPUS, MAX_HIDDEN, MAX_REGION_NAME, MAX_SHARED_REGIONS};
use acrn_abi::{Bdf, Hpa, PcpuId};
use arrayvec::ArrayString;

/// Switches. Bits without a name are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u32);

impl Features {
    /// Debug build: shell, log and trace may be there.
    pub const DEBUG: Self = Self(1 << 0);
    /// Cache allocation.
    pub const RDT: Self = Self(1 << 1);
    /// Separate masks for code and data.
    pub const CDP: Self = Self(1 << 2);
    /// Cache allocation by VMs.
    pub const VCAT: Self = Self(1 << 3);
    /// Software SRAM.
    pub const SSRAM: Self = Self(1 << 4);
    /// Hyper-V's interface for VMs.
    pub const HYPERV: Self = Self(1 << 5);
    /// Split locks are found.
    pub const SPLIT_LOCK: Self = Self(1 << 6);
    /// Locks on uncached memory are found.
    pub const UC_LOCK: Self = Self(1 << 7);
    /// Interrupts stay off while the hypervisor runs.
    pub const KEEP_IRQ_DISABLED: Self = Self(1 << 8);
    /// The IOMMU snoops in any case.
    pub const IOMMU_SNOOP: Self = Self(1 << 9);
    /// ACPI tables are read at boot.
    pub const ACPI: Self = Self(1 << 10);
    /// The level 1 data cache is flushed before a VM is entered.
    pub const L1D_FLUSH: Self = Self(1 << 11);
    /// Large pages are never executable (machine check on a change of page size).
    pub const MCE_WORKAROUND: Self = Self(1 << 12);
    /// TPM and SMBIOS data are patched for a security VM.
    pub const SECURITY_VM_FIXUP: Self = Self(1 << 13);
    /// The Service VM supervises real-time VMs too.
    pub const SERVICE_SUPERVISES: Self = Self(1 << 14);
    /// The hypervisor may be loaded anywhere.
    pub const RELOCATION: Self = Self(1 << 15);
    /// Multiboot 2 is offered.
    pub const MULTIBOOT2: Self = Self(1 << 16);
    const ALL: u32 = (1 << 17) - 1;

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
    /// From bits; `None` when one has no name.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::ALL == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }
    /// Whether all of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// These, and `other` when `on`.
    #[must_use]
    pub const fn with(self, other: Self, on: bool) -> Self {
        if on { Self(self.0 | other.0) } else { self }
    }
}

fields! {
    /// Options of the hypervisor itself.
    compound Options {
        /// Switches.
        features: Features,
        /// Level up to which messages are kept in memory, 0..=6.
        memory_log_level: u8,
        /// The same for the trace hub.
        trace_hub_log_level: u8,
        /// The same for the console.
        console_log_level: u8,
        /// The hypervisor's own console.
        console: Console,
        /// What its shell may do.
        shell: ShellMode,
        /// VM whose console is shown at first, or [`NO_VM`](crate::NO_VM).
        console_vm: u16,
        /// How vCPUs share a CPU for which nothing else is said.
        scheduler: Scheduler,
        /// For each CPU of the board, in order.
        cpu_schedulers: List<'a, Scheduler, MAX_CPUS>,
        /// Frequencies.
        performance: PerformancePolicy,
        /// Receive buffer of a vUART, in bytes.
        vuart_rx_buffer: u32,
        /// Transmit buffer of a vUART, in bytes.
        vuart_tx_buffer: u32,
        /// CPU that polls the vUARTs.
        vuart_timer_cpu: PcpuId,
        /// Sizes of tables.
        capacities: Capacities,
        /// Where the hypervisor would like to be, or 0.
        ram_start: Hpa,
        /// Memory that it is expected to need, in bytes.
        ram_size: u64,
        /// Graphics device: segment, bus, device and function.
        gpu: u32,
        /// Regions of memory that VMs share.
        shared_regions: List<'a, SharedRegion, MAX_SHARED_REGIONS>,
        /// Devices that nobody gets.
        hidden_devices: List<'a, HiddenDevice, MAX_HIDDEN>,
        /// Masks of the classes of service. What is not listed may use the whole cache.
        cache_masks: List<'a, CacheMask, MAX_CACHE_MASKS>,
    }

    /// The hypervisor's console.
    record Console {
        /// Where it is.
        kind: ConsoleKind,
        /// Its port, address, or bus, device and function.
        address: u64,
    }

    /// Sizes of tables.
    record Capacities {
        /// Most VMs.
        max_vms: u16,
        /// Most I/O APICs.
        max_ioapics: u16,
        /// Highest PCI bus, or 0 for all.
        max_pci_buses: u16,
        /// Most PCI devices.
        max_pci_devices: u16,
        /// Most pins of an I/O APIC.
        max_ioapic_lines: u16,
        /// Most forwarded interrupts.
        max_interrupts: u16,
        /// Most entries of an MSI-X table.
        max_msix_entries: u16,
        /// Most emulated MMIO regions of a VM.
        max_emulated_mmio: u16,
        /// Stack of a CPU, in bytes.
        stack_size: u32,
    }

    /// A region of memory that VMs share. Its members are the VMs with a
    /// [`PciDevice`](crate::PciDevice) whose `number` is the region's place in the list.
    record SharedRegion {
        /// Its name, by which a Device Model asks for it.
        name: ArrayString<MAX_REGION_NAME>,
        /// A number for the VMs' drivers.
        id: u16,
        /// Its size, in bytes: a power of two.
        size: u64,
    }

    /// A device that nobody gets.
    record HiddenDevice {
        /// Its place.
        bdf: Bdf,
    }

    /// The part of a cache that a class of service may fill.
    record CacheMask {
        /// Level of the cache, 2 or 3.
        level: u8,
        /// What the mask is for.
        kind: CacheKind,
        /// Which cache of that level: its number in CPUID leaf 4's terms.
        cache_id: u32,
        /// The class.
        clos: u8,
        /// The ways.
        mask: u32,
    }
}
