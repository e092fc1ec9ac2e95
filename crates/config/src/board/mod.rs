//! Board files: what the board inspector has found out about a machine.
//!
//! Such a file has two parts. The older one is texts of various tools ([`legacy`] reads those that are
//! still needed), the newer one is structured. Where both say the same, the structured part counts.

mod cpu;
mod device;
mod facts;
pub mod legacy;

pub use cpu::*;
pub use device::*;
pub use facts::{Cpu, PciFunction, Ram};
pub use legacy::{Tty, TtyPlace};

use crate::model::{Hex, Item, attribute, item, model};

model! {
    /// A board.
    pub struct Board {
        pub name: Option<String> = attribute("board", "Board", "Name of the board."),
        pub bios_info: String = item("BIOS_INFO", "Firmware",
            "Vendor and version of the firmware."),
        pub base_board_info: String = item("BASE_BOARD_INFO", "Base board",
            "Manufacturer and product."),
        pub pci_device: String = item("PCI_DEVICE", "PCI devices",
            "What lspci says: devices and their regions."),
        pub pci_vid_pid: String = item("PCI_VID_PID", "PCI ids",
            "What lspci says: vendors and devices as numbers."),
        pub wake_vector_info: String = item("WAKE_VECTOR_INFO", "Wake vector",
            "Where the firmware continues after suspend to RAM."),
        pub reset_register_info: String = item("RESET_REGISTER_INFO", "Reset register",
            "ACPI's reset register."),
        pub pm_info: String = item("PM_INFO", "Power registers", "ACPI's PM1 registers."),
        pub s3_info: String = item("S3_INFO", "Suspend", "Values that suspend the machine."),
        pub s5_info: String = item("S5_INFO", "Power off", "Values that switch the machine off."),
        pub drhd_info: String = item("DRHD_INFO", "IOMMUs", "DMA remapping hardware."),
        pub ivrs_info: String = item("IVRS_INFO", "AMD's IOMMUs",
            "DMA remapping hardware of AMD's.").ours(),
        pub cpu_brand: String = item("CPU_BRAND", "Processor", "What the processor calls itself."),
        pub cx_info: String = item("CX_INFO", "C-states", "Idle states."),
        pub px_info: String = item("PX_INFO", "P-states", "Frequencies."),
        pub mmcfg_base_info: String = item("MMCFG_BASE_INFO", "PCI configuration",
            "Address of the PCI configuration window."),
        pub tpm_info: String = item("TPM_INFO", "TPM",
            "Whether there is a trusted platform module."),
        pub clos_info: String = item("CLOS_INFO", "Cache allocation",
            "Classes of service of the caches."),
        pub iomem_info: String = item("IOMEM_INFO", "Memory map",
            "What Linux says of the machine's addresses."),
        pub block_device_info: String = item("BLOCK_DEVICE_INFO", "Disks",
            "Partitions with file systems."),
        pub ttys_info: String = item("TTYS_INFO", "Serial ports",
            "Serial ports and where they are."),
        pub available_irq_info: String = item("AVAILABLE_IRQ_INFO", "Free interrupts",
            "Interrupts that no device uses."),
        pub total_mem_info: String = item("TOTAL_MEM_INFO", "Memory", "All RAM, in KiB."),
        pub cpu_processor_info: String = item("CPU_PROCESSOR_INFO", "CPUs", "Numbers of the CPUs."),
        pub max_msix_table_num: String = item("MAX_MSIX_TABLE_NUM", "MSI-X entries",
            "Most MSI-X vectors of a device."),
        pub processors: Processors = item("processors", "Processors", "Models and CPUs."),
        pub caches: Caches = item("caches", "Caches", "All caches."),
        pub memory: Memory = item("memory", "Memory", "Ranges of RAM."),
        pub ioapics: IoApics = item("ioapics", "I/O APICs", "All I/O APICs."),
        pub devices: Devices = item("devices", "Devices",
            "The machine's devices as a tree of buses."),
        pub device_classes: DeviceClasses = item("device-classes", "Device classes",
            "Input devices and serial ports."),
    }

    /// Ranges of RAM.
    pub struct Memory {
        pub ranges: Vec<MemoryRange> = item("range", "Range", "A range of RAM."),
    }

    /// A range of RAM.
    pub struct MemoryRange {
        pub id: Option<String> = attribute("id", "Kind", "RAM if absent."),
        pub start: Hex = attribute("start", "Start", "First address."),
        pub end: Hex = attribute("end", "End", "Last address."),
        pub size: i64 = attribute("size", "Size", "Size.").unit("bytes"),
    }

    /// I/O APICs.
    pub struct IoApics {
        pub list: Vec<IoApic> = item("ioapic", "I/O APIC", "An I/O APIC."),
    }

    /// An I/O APIC.
    pub struct IoApic {
        pub id: Option<Hex> = attribute("id", "Number", "Its number in the MADT."),
        pub address: Hex = item("address", "Address", "Address of its registers."),
        pub gsi_base: Hex = item("gsi_base", "First pin", "Its first global interrupt."),
        pub gsi_number: Hex = item("gsi_number", "Pins", "How many pins it has."),
    }

    /// Devices by class.
    pub struct DeviceClasses {
        pub inputs: Inputs = item("inputs", "Input devices", "Keyboards, mice and the like."),
        pub ttys: Ttys = item("ttys", "Serial ports", "Linux's serial ports."),
    }

    /// Input devices.
    pub struct Inputs {
        pub list: Vec<InputDevice> = item("input", "Input device", "An input device."),
    }

    /// An input device.
    pub struct InputDevice {
        pub name: String = item("name", "Name", "Its name."),
        pub phys: String = item("phys", "Place", "Where it is connected."),
    }

    /// Serial ports.
    pub struct Ttys {
        pub list: Vec<SerialDevice> = item("serial", "Serial port", "A serial port."),
    }

    /// A serial port.
    pub struct SerialDevice {
        pub path: String = item("dev_path", "Path", "Its device file."),
        pub kind: String = item("type", "Type",
            "Linux's number of the type; 0 if there is no port."),
    }
}

impl Board {
    /// Everything that is known about the elements of a board file, as a tree.
    pub fn schema() -> &'static [Item] {
        <Self as crate::model::Group>::ITEMS
    }
}

#[cfg(test)]
mod tests;
