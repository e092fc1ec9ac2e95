//! Options of the hypervisor itself.

use super::{BuildType, CacheRegion, Ivshmem, VuartConnections};
use crate::model::{Hex, OptionsFrom, Pattern, item, model};
use acrn_abi::Bdf;
use acrn_config_blob::{PerformancePolicy, Scheduler, ShellMode};

model! {
    /// Options of the hypervisor.
    pub struct Hv {
        pub build_type: BuildType = item("BUILD_TYPE", "Build type",
            "A debug build has log, shell and trace; a release build leaves them out.")
            .default("debug"),
        pub features: Features = item("FEATURES", "Features", "What the hypervisor offers."),
        pub vuart_connections: VuartConnections = item("vuart_connections", "Serial lines between VMs",
            "Virtual serial lines that connect two VMs."),
        pub debug: DebugOptions = item("DEBUG_OPTIONS", "Debugging", "Console, log and shell."),
        pub memory: HvMemory = item("MEMORY", "Memory",
            "Memory of the hypervisor itself.").advanced(),
        pub capacities: CapacityOptions = item("CAPACITIES", "Capacities",
            "Sizes of the hypervisor's tables.").advanced(),
        pub misc: Misc = item("MISC_CFG", "Miscellaneous", "Workarounds.").hidden(),
        pub hidden_devices: Hidden = item("HIDDEN_PDEV_REGION", "Hidden devices",
            "PCI devices that no VM sees.").hidden(),
        pub cache_region: Option<CacheRegion> = item("CACHE_REGION", "Cache allocation",
            "Which vCPU may fill which part of which cache.").advanced(),
    }

    /// What the hypervisor offers.
    pub struct Features {
        pub relocation: bool = item("RELOC_ENABLED", "Relocation",
            "The boot loader may put the hypervisor anywhere below 4 GiB.").default("y").advanced(),
        pub scheduler: Scheduler = item("SCHEDULER", "Scheduler",
            "How vCPUs share a physical CPU.").default("SCHED_BVT").advanced(),
        pub cpu_schedulers: CpuSchedulers = item("CPU_SCHEDULERS", "Schedulers of single CPUs",
            "CPUs on which another scheduler decides.").advanced().ours(),
        pub multiboot2: bool = item("MULTIBOOT2_ENABLED", "Multiboot 2",
            "Offer the multiboot 2 protocol beside multiboot 1.").default("y").advanced(),
        pub service_supervisor: bool = item("SERVICE_VM_SUPERVISOR_ENABLED", "Service VM supervises",
            "The Service VM may stop real-time VMs too.").default("n").advanced(),
        pub split_lock: bool = item("SPLIT_LOCK_DETECTION_ENABLED", "Find split locks",
            "Raise an exception for locked accesses that cross a cache line; they stall all CPUs.")
            .default("n").advanced(),
        pub uc_lock: bool = item("UC_LOCK_DETECTION_ENABLED", "Find uncached locks",
            "Raise an exception for locked accesses to uncached memory.").default("n").advanced(),
        pub security_vm_fixup: bool = item("SECURITY_VM_FIXUP", "Security VM tables",
            "Adapt TPM and SMBIOS tables for a security VM.").default("n").hidden(),
        pub keep_irq_disabled: bool = item("KEEP_IRQ_DISABLED", "Keep interrupts off",
            "Interrupts stay off while the hypervisor itself runs.").default("n").hidden(),
        pub hyperv: bool = item("HYPERV_ENABLED", "Hyper-V interface",
            "Offer Windows the Hyper-V interface.").default("y").advanced(),
        pub iommu_snoop: bool = item("IOMMU_ENFORCE_SNP", "Enforce snooping",
            "DMA of devices is always coherent with the caches.").default("n").hidden(),
        pub acpi: bool = item("ACPI_PARSE_ENABLED", "Read ACPI tables",
            "Find the machine's devices in its ACPI tables at boot.").default("y").advanced(),
        pub l1d_flush: bool = item("L1D_VMENTRY_ENABLED", "Flush L1 data cache",
            "Flush the level 1 data cache before a VM is entered (L1 terminal fault).")
            .default("n").advanced(),
        pub mce_workaround: bool = item("MCE_ON_PSC_ENABLED", "Machine check workaround",
            "Avoid the machine check that some processors raise when the size of a page changes.")
            .default("y").advanced(),
        pub vuart_rx_buffer: i64 = item("VUART_RX_BUF_SIZE", "vUART receive buffer",
            "Receive buffer of each virtual serial port.")
            .default("256").unit("bytes").range(256, 2560).advanced(),
        pub vuart_tx_buffer: i64 = item("VUART_TX_BUF_SIZE", "vUART transmit buffer",
            "Transmit buffer of each virtual serial port.")
            .default("8192").unit("bytes").range(8192, 81920).advanced(),
        pub vuart_timer_pcpu: i64 = item("VUART_TIMER_PCPU", "vUART timer CPU",
            "Physical CPU on which the timer of the virtual serial ports runs.")
            .default("0").range(0, 63).from(OptionsFrom::BoardCpus).advanced(),
        pub rdt: Rdt = item("RDT", "Cache allocation",
            "Intel Resource Director Technology.").advanced(),
        pub ivshmem: Ivshmem = item("IVSHMEM", "Shared memory", "Memory that VMs share."),
        pub ssram: Option<Ssram> = item("SSRAM", "Software SRAM",
            "Parts of a cache that work as memory.").hidden(),
        pub performance: PerformancePolicy = item("CPU_PERFORMANCE_POLICY", "CPU performance",
            "The frequency that the hypervisor asks for at boot.").default("Performance"),
    }

    /// Schedulers of single CPUs.
    pub struct CpuSchedulers {
        pub list: Vec<CpuScheduler> = item("CPU_SCHEDULER", "CPU",
            "A CPU with another scheduler.").advanced().ours(),
    }

    /// The scheduler of a CPU.
    pub struct CpuScheduler {
        pub pcpu: i64 = item("PCPU_ID", "Physical CPU",
            "The CPU.").range(0, 63).from(OptionsFrom::BoardCpus).required().ours(),
        pub scheduler: Scheduler = item("SCHEDULER", "Scheduler",
            "How vCPUs share it.").required().ours(),
    }

    /// Cache allocation.
    pub struct Rdt {
        pub enabled: bool = item("RDT_ENABLED", "Enabled",
            "Use Cache Allocation Technology where the processor has it.").default("n").advanced(),
        pub cdp: bool = item("CDP_ENABLED", "Code and data",
            "Separate masks for code and data.").default("n").advanced(),
        pub vcat: bool = item("VCAT_ENABLED", "For VMs",
            "VMs may use cache allocation themselves.").default("n").advanced(),
    }

    /// Software SRAM.
    pub struct Ssram {
        pub enabled: bool = item("SSRAM_ENABLED", "Enabled",
            "Use Software SRAM.").default("n").hidden(),
    }

    /// Console, log and shell.
    pub struct DebugOptions {
        pub serial_console: String = item("SERIAL_CONSOLE", "Serial console",
            "Serial port of the machine that the hypervisor uses itself, or None.")
            .pattern(Pattern::Tty).from(OptionsFrom::BoardTtys),
        pub memory_log_level: i64 = item("MEM_LOGLEVEL", "Log in memory",
            "Messages up to this level are kept in memory: 1 fatal, 3 errors, 4 warnings, 5 information, 6 debugging.")
            .default("5").range(0, 6),
        pub trace_hub_log_level: i64 = item("NPK_LOGLEVEL", "Log to the trace hub",
            "Messages up to this level go to the Intel Trace Hub.").default("5").range(0, 6),
        pub console_log_level: i64 = item("CONSOLE_LOGLEVEL", "Log to the console",
            "Messages up to this level go to the serial console.").default("5").range(0, 6),
        pub console_vm: i64 = item("CONSOLE_VM", "First console",
            "Number of the VM whose console the serial console shows at first; 65535 for the shell.")
            .default("65535").range(0, 65535).advanced(),
        pub shell: ShellMode = item("SHELL_MODE", "Shell",
            "What the hypervisor's shell may do.").default("full").ours(),
    }

    /// Memory of the hypervisor itself.
    pub struct HvMemory {
        pub stack_size: Hex = item("STACK_SIZE", "Stack",
            "Stack of each physical CPU.").default("0x2000").unit("bytes").advanced(),
        pub ram_start: Option<Hex> = item("HV_RAM_START", "Start address",
            "Where the hypervisor would like to be loaded, a multiple of 2 MiB.").hidden(),
    }

    /// Sizes of tables.
    pub struct CapacityOptions {
        pub max_vms: i64 = item("MAX_VM_NUM", "VMs",
            "Most VMs at a time.").default("16").range(1, 16).hidden(),
        pub max_ioapics: i64 = item("MAX_IOAPIC_NUM", "I/O APICs",
            "Most I/O APICs.").default("1").range(1, 10).hidden(),
        pub max_pci_buses: i64 = item("MAX_PCI_BUS_NUM", "PCI buses",
            "Most PCI buses; 0 for as many as the board has.").default("0").range(0, 256).hidden(),
        pub max_pci_devices: i64 = item("MAX_PCI_DEV_NUM", "PCI devices",
            "Most PCI devices.").default("96").range(1, 1024).advanced(),
        pub max_ioapic_lines: i64 = item("MAX_IOAPIC_LINES", "I/O APIC pins",
            "Most pins of an I/O APIC.").default("120").range(1, 120).hidden(),
        pub max_interrupts: i64 = item("MAX_PT_IRQ_ENTRIES", "Forwarded interrupts",
            "Most interrupts of passed-through devices.").default("256").range(1, 1024).advanced(),
        pub max_msix: i64 = item("MAX_MSIX_TABLE_NUM", "MSI-X entries",
            "Most MSI-X vectors of a device.").default("64").range(1, 2048).advanced(),
        pub max_emulated_mmio: i64 = item("MAX_EMULATED_MMIO", "Emulated regions",
            "Most emulated memory regions of a VM.").default("16").range(1, 128).advanced(),
    }

    /// Workarounds.
    pub struct Misc {
        pub gpu: Hex = item("GPU_SBDF", "Graphics device",
            "Segment, bus, device and function of the graphics device.").default("0x10").hidden(),
    }

    /// PCI devices that no VM sees.
    pub struct Hidden {
        pub devices: Vec<Bdf> = item("HIDDEN_PDEV", "Hidden device",
            "A PCI device that no VM sees.").hidden(),
    }
}
