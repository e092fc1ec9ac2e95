//! One VM.

use crate::field::fields;
use crate::{DeviceKind, KernelKind, LoadOrder, MmioKind, Priority, Restart, VmKind, VuartKind};
use crate::{List, Text};
use crate::{MAX_BOOTARGS, MAX_CPUS, MAX_INTX_PINS, MAX_MEMORY_REGIONS, MAX_MMIO_DEVICES};
use crate::{MAX_CLOS, MAX_NAME, MAX_PCI_DEVICES, MAX_TAG, MAX_VUARTS};
use acrn_abi::vm_flags::VmFlags;
use acrn_abi::{Bdf, Gpa, Gsi, Hpa, PcpuId, VmId};

fields! {
    /// One VM.
    compound Vm {
        /// Its number.
        id: VmId,
        /// Its name.
        name: Text<'a, MAX_NAME>,
        /// Who starts it.
        load_order: LoadOrder,
        /// What it is for.
        kind: VmKind,
        /// Whose reset the machine follows: that of the VM with the highest one.
        severity: u8,
        /// Flags.
        flags: VmFlags,
        /// Its CPUs; entry n is vCPU n of a VM that the hypervisor starts. A post-launched VM takes
        /// those of the entries that its Device Model asks for.
        vcpus: List<'a, Vcpu, MAX_CPUS>,
        /// How its vCPUs share a CPU.
        scheduling: Scheduling,
        /// The classes of service that it may choose of, with [`VmFlags::VCAT`].
        virtual_clos: List<'a, VirtualClos, MAX_CLOS>,
        /// Memory, in bytes. 0 for the Service VM, which gets what is left.
        memory_size: u64,
        /// Host memory of a pre-launched VM, in the order of guest addresses.
        memory: List<'a, MemoryRegion, MAX_MEMORY_REGIONS>,
        /// What is loaded, unless a Device Model does that.
        os: Os<'a>,
        /// Its serial ports; number 0 is its console.
        vuarts: List<'a, Vuart, MAX_VUARTS>,
        /// Its PCI devices. Those of the Service VM are what is emulated; it has the physical ones that
        /// nobody else has.
        pci_devices: List<'a, PciDevice, MAX_PCI_DEVICES>,
        /// Devices without PCI.
        mmio_devices: List<'a, MmioDevice, MAX_MMIO_DEVICES>,
        /// Pins of I/O APICs that are its own.
        intx_pins: List<'a, IntxPin, MAX_INTX_PINS>,
        /// Enclave page cache (start, size), 0 for none.
        epc: MemoryRegion,
        /// The VM that this one works with: a TEE with its REE.
        companion: Option<VmId>,
        /// What happens when it has stopped.
        restart: Restart,
        /// Huge pages of 1 GiB that the Service VM's kernel reserves for post-launched VMs.
        huge_pages_1g: u32,
        /// Huge pages of 2 MiB, likewise.
        huge_pages_2m: u32,
    }

    /// A CPU of a VM.
    record Vcpu {
        /// The physical CPU.
        pcpu: PcpuId,
        /// Whether it does real-time work.
        real_time: bool,
        /// Its class of service.
        clos: u8,
    }

    /// How a VM's vCPUs share a CPU.
    record Scheduling {
        /// For fixed priorities.
        priority: Priority,
        /// For borrowed virtual time: the share, 1..=128.
        weight: u8,
        /// How far ahead it may borrow, in units of virtual time.
        warp_value: i32,
        /// For how long, in the scheduler's units.
        warp_limit: u8,
        /// And then not again for how long.
        unwarp_period: u8,
    }

    /// A class of service that a VM may choose.
    record VirtualClos {
        /// The class on the hardware.
        physical: u8,
    }

    /// A range of host memory.
    record MemoryRegion {
        /// Start.
        start: Hpa,
        /// Size, in bytes.
        size: u64,
    }

    /// What is loaded into a VM.
    compound Os {
        /// How.
        kind: KernelKind,
        /// Tag of the kernel's module; empty for none.
        kernel_tag: Text<'a, MAX_TAG>,
        /// Tag of the RAM disk's module; empty for none.
        ramdisk_tag: Text<'a, MAX_TAG>,
        /// Tag of the module with ACPI tables; empty for none.
        acpi_tag: Text<'a, MAX_TAG>,
        /// Boot arguments, unless the module's string has some.
        bootargs: Text<'a, MAX_BOOTARGS>,
        /// Where a raw kernel is loaded.
        load_address: Option<Gpa>,
        /// Where a raw kernel is entered.
        entry_address: Option<Gpa>,
    }

    /// A serial port of a VM.
    record Vuart {
        /// Its number in the VM.
        number: u16,
        /// How the VM sees it.
        kind: VuartKind,
        /// First I/O port, if legacy.
        port: u16,
        /// Interrupt, if legacy; 0 for none.
        irq: u32,
        /// Place on the VM's PCI bus, if PCI.
        vbdf: Bdf,
        /// The other end, unless it is a console.
        target: Option<Target>,
    }

    /// The other end of a vUART.
    record Target {
        /// Its VM.
        vm: VmId,
        /// Its number there.
        vuart: u16,
    }

    /// A PCI device of a VM.
    record PciDevice {
        /// What it is.
        kind: DeviceKind,
        /// Where the VM sees it.
        vbdf: Bdf,
        /// Where it is, if physical.
        pbdf: Bdf,
        /// The region of shared memory or the vUART that it is.
        number: u16,
        /// Windows that are decided for pre-launched VMs; unused ones are empty.
        bars: [Bar; 6],
    }

    /// A window of a PCI device.
    record Bar {
        /// Where the VM sees it.
        gpa: Gpa,
        /// Where it is, if physical.
        hpa: Hpa,
        /// Its size, in bytes; 0 if there is none.
        size: u64,
        /// Whether it is I/O ports, not memory.
        io: bool,
    }

    /// A device without PCI.
    record MmioDevice {
        /// What it is.
        kind: MmioKind,
        /// Where the VM sees it.
        gpa: Gpa,
        /// Where it is.
        hpa: Hpa,
        /// Size of its window, in bytes.
        size: u64,
    }

    /// A pin that belongs to a VM.
    record IntxPin {
        /// Pin of the machine.
        physical: Gsi,
        /// Pin of the VM's I/O APIC.
        guest: Gsi,
    }
}

impl Vm<'_> {
    /// Its CPUs as bits: bit n for CPU n.
    pub fn cpu_mask(&self) -> u64 {
        self.vcpus.iter().fold(0, |mask, vcpu| {
            mask | 1u64.checked_shl(vcpu.pcpu.0.into()).unwrap_or(0)
        })
    }

    /// Its serial port of that number.
    pub fn vuart(&self, number: u16) -> Option<Vuart> {
        self.vuarts.iter().find(|vuart| vuart.number == number)
    }
}
