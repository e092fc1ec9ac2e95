//! One VM.

use super::{ConsoleVuart, OsType, VirtioDevices};
use crate::model::{Device, Hex, OptionsFrom, Pattern, attribute, item, model};
use acrn_config_blob::{KernelKind, LoadOrder, MAX_NAME, Priority, Restart, VmKind};

/// Boot arguments of a Linux kernel for which none are given.
pub const DEFAULT_BOOTARGS: &str = "rw rootwait root=/dev/nvme0n1p2 console=tty0 console=ttyS0 consoleblank=0 no_timer_check quiet loglevel=3 i915.nuclear_pageflip=1 swiotlb=131072";

model! {
    /// A VM.
    pub struct Vm {
        pub id: i64 = attribute("id", "Number",
            "The VM's number, which is its place in the list, from 0.").range(0, 15).required(),
        pub load_order: LoadOrder = item("load_order", "Load order",
            "Who starts the VM: the hypervisor from boot modules, the hypervisor as the Service VM, or a Device Model in the Service VM.")
            .required(),
        pub name: String = item("name", "Name",
            "1 to 15 letters, digits, _ or -.").pattern(Pattern::Name(MAX_NAME)).required(),
        pub kind: VmKind = item("vm_type", "Type",
            "A standard VM is for general purposes; a real-time VM gets CPUs of its own.")
            .default("STANDARD_VM"),
        pub console_vuart: ConsoleVuart = item("console_vuart", "Console",
            "The virtual serial port that is the VM's console, for the hypervisor's vm_console.")
            .default("None"),
        pub os_type: OsType = item("os_type", "Operating system",
            "Windows needs some devices to behave differently.").default("Non-Windows OS").post(),
        pub vuart0: bool = item("vuart0", "COM1 on the terminal",
            "The Device Model emulates COM1 on its own terminal.").default("n").post(),
        pub vbootloader: bool = item("vbootloader", "UEFI firmware",
            "Boot by the virtual UEFI firmware (OVMF).").default("y").post(),
        pub memory: VmMemory = item("memory", "Memory", "Memory of the VM.").user(),
        pub own_pcpu: bool = item("own_pcpu", "Owns its CPUs",
            "No other VM may run on this VM's CPUs.").default("n").user().hidden(),
        pub cpu_affinity: CpuAffinity = item("cpu_affinity", "CPUs",
            "Physical CPUs that the VM's vCPUs are pinned to. The Service VM gets all that pre-launched VMs leave.")
            .user(),
        pub usb: Usb = item("usb_xhci", "USB", "USB ports that the VM is given.").post(),
        pub lapic_passthrough: bool = item("lapic_passthrough", "Local APIC passed through",
            "The VM drives its CPUs' local APICs itself, for interrupts without exits.")
            .default("n").advanced(),
        pub io_completion_polling: bool = item("io_completion_polling", "Poll for I/O",
            "A vCPU waits for the Device Model actively.").default("n").user().advanced(),
        pub nested_virtualization: bool = item("nested_virtualization_support", "Nested virtualization",
            "The Service VM may run KVM.").default("n").only(false, true, false).advanced(),
        pub virtual_cat: bool = item("virtual_cat_support", "Cache allocation",
            "The VM may use cache allocation within its own share.").default("n").user().advanced(),
        pub virtual_thermal_monitor: bool = item("virtual_thermal_monitor", "Thermal monitor",
            "The VM sees the thermal state of its CPUs.").default("n").advanced(),
        pub virtual_cat_number: i64 = item("virtual_cat_number", "Virtual classes",
            "How many classes of service the VM sees.")
            .default("0").range(0, 128).user().advanced(),
        pub secure_world: bool = item("secure_world_support", "Secure world",
            "A second, secure world for Trusty.").default("n").post().advanced(),
        pub hide_mtrr: bool = item("hide_mtrr_support", "Hide MTRRs",
            "The VM sees no memory type range registers.").default("n").hidden(),
        pub security_vm: bool = item("security_vm", "Security VM",
            "The VM gets the platform's TPM and SMBIOS tables.").default("n").hidden(),
        pub stateless: bool = item("stateless", "Stateless",
            "Nothing is lost when the VM is switched off without a word.")
            .default("n").pre().advanced(),
        pub restart: Restart = item("restart", "Restart",
            "What happens when the VM has stopped by itself.").default("never").ours(),
        pub epc: Epc = item("epc_section", "Enclave page cache",
            "Enclave memory for SGX.").pre().advanced(),
        pub priority: Priority = item("priority", "Priority",
            "For the scheduler with fixed priorities.").default("PRIO_LOW").advanced(),
        pub bvt_weight: i64 = item("bvt_weight", "BVT weight",
            "The VM's share of a CPU in relation to others.").default("1").range(1, 128).advanced(),
        pub bvt_warp_value: i64 = item("bvt_warp_value", "BVT warp",
            "How far ahead the VM may borrow.").default("0").range(-8192, 8192).hidden(),
        pub bvt_warp_limit: i64 = item("bvt_warp_limit", "BVT warp limit",
            "For how long it may borrow.").default("0").range(0, 10).hidden(),
        pub bvt_unwarp_period: i64 = item("bvt_unwarp_period", "BVT unwarp period",
            "How long it must not borrow again.").default("0").range(0, 10).hidden(),
        pub companion_vmid: i64 = item("companion_vmid", "Companion",
            "Number of the VM that this one works with; 65535 for none.")
            .default("65535").range(0, 65535).hidden(),
        pub os_config: OsConfig = item("os_config", "Operating system image",
            "What the hypervisor loads.").only(true, true, false),
        pub mmio_resources: MmioResources = item("mmio_resources", "MMIO devices",
            "Devices without PCI that the VM is given.").pre(),
        pub pt_intx: String = item("pt_intx", "Interrupt pins",
            "Pins of I/O APICs that are the VM's own: pairs of a physical and a virtual pin such as (16, 1), separated by white space.")
            .pre().hidden(),
        pub pci_devs: PciDevs = item("pci_devs", "PCI devices",
            "PCI devices that the VM is given.").user(),
        pub ptm: bool = item("PTM", "Precision time",
            "Precision Time Measurement for the VM's PCI devices.").default("y").user().hidden(),
        pub customized_parameters: String = item("customized_parameters", "More parameters",
            "Words that are appended to the Device Model's command line.").long().post().advanced(),
        pub virtio_devices: VirtioDevices = item("virtio_devices", "Virtio devices",
            "Devices that the Device Model emulates.").post(),
    }

    /// Memory of a VM.
    pub struct VmMemory {
        pub size: i64 = item("size", "Size",
            "Memory of the VM; a multiple of 2.")
            .default("1024").unit("MiB").range(0, 1 << 24).user(),
        pub regions: Vec<HpaRegion> = item("hpa_region", "Host memory",
            "Where the memory is in the machine. Chosen if absent.").pre().advanced(),
    }

    /// A piece of host memory.
    pub struct HpaRegion {
        pub start: Hex = item("start_hpa", "Start",
            "Host address, a multiple of 2 MiB.").required().advanced(),
        pub size: i64 = item("size_hpa", "Size",
            "A multiple of 2.").unit("MiB").range(0, 1 << 24).required().advanced(),
    }

    /// Physical CPUs of a VM.
    pub struct CpuAffinity {
        pub pcpus: Vec<Pcpu> = item("pcpu", "CPU", "A physical CPU; the first is that of vCPU 0."),
    }

    /// A physical CPU of a VM.
    pub struct Pcpu {
        pub id: i64 = item("pcpu_id", "Physical CPU",
            "Number of the CPU.").range(0, 63).from(OptionsFrom::BoardCpus).required(),
        pub real_time: bool = item("real_time_vcpu", "Real-time",
            "The vCPU does real-time work: its cache is kept apart.").default("n"),
    }

    /// USB ports.
    pub struct Usb {
        pub devices: Vec<String> = item("usb_dev", "USB port",
            "Bus and port such as 1-2, and a description.").from(OptionsFrom::BoardUsbDevices),
    }

    /// Enclave page cache.
    pub struct Epc {
        pub base: Hex = item("base", "Start",
            "Start address; whole pages.").default("0x0").advanced(),
        pub size: Hex = item("size", "Size",
            "Size; whole pages.").default("0x0").unit("bytes").advanced(),
    }

    /// What the hypervisor loads.
    pub struct OsConfig {
        pub kern_type: KernelKind = item("kern_type", "Kernel type",
            "Format of the kernel.").default("KERNEL_BZIMAGE"),
        pub kern_mod: String = item("kern_mod", "Kernel tag",
            "First word of the kernel's boot module.")
            .default("Linux_bzImage").pattern(Pattern::Tag(31)),
        pub ramdisk_mod: String = item("ramdisk_mod", "RAM disk tag",
            "First word of the RAM disk's boot module; empty for none.").pattern(Pattern::Tag(31)),
        pub bootargs: String = item("bootargs", "Boot arguments",
            "Command line of the kernel, unless the boot module brings one.")
            .default(DEFAULT_BOOTARGS).pattern(Pattern::Length(2047)).long(),
        pub load_addr: Option<Hex> = item("kern_load_addr", "Load address",
            "Where a raw kernel is loaded in the VM.").when("kern_type", &["KERNEL_RAWIMAGE"]),
        pub entry_addr: Option<Hex> = item("kern_entry_addr", "Entry address",
            "Where a raw kernel is entered.").when("kern_type", &["KERNEL_RAWIMAGE"]),
    }

    /// Devices without PCI.
    pub struct MmioResources {
        pub tpm2: bool = item("TPM2", "TPM 2.0", "The trusted platform module.").default("n").pre(),
        pub p2sb: bool = item("p2sb", "P2SB", "The primary-to-sideband bridge.").default("n").pre(),
    }

    /// PCI devices.
    pub struct PciDevs {
        pub list: Vec<Device> = item("pci_dev", "PCI device",
            "Bus, device and function, and a description.").from(OptionsFrom::BoardPciDevices),
    }
}
