//! The tree of devices: the ACPI namespace with the PCI buses in it.

use crate::model::{Hex, Rest, attribute, item, model, own_text};

model! {
    /// The tree of devices.
    pub struct Devices {
        pub devices: Vec<Node> = item("device", "Device", "A device that is on no bus."),
        pub buses: Vec<Node> = item("bus", "Bus", "A bus."),
    }

    /// A device or bus.
    pub struct Node {
        pub id: Option<String> = attribute("id", "Id",
            "PCI's device number or ACPI's hardware id."),
        pub kind: Option<String> = attribute("type", "Type", "Kind of bus."),
        pub address: Option<Hex> = attribute("address", "Address",
            "Number of a PCI bus; device and function of a PCI device."),
        pub description: Option<String> = attribute("description", "Description", "For people."),
        pub vendor: Option<Hex> = item("vendor", "Vendor", "PCI's vendor."),
        pub identifier: Option<Hex> = item("identifier", "Device", "PCI's device."),
        pub subsystem_vendor: Option<Hex> = item("subsystem_vendor", "Subsystem vendor",
            "PCI's subsystem vendor."),
        pub subsystem: Option<Hex> = item("subsystem_identifier", "Subsystem", "PCI's subsystem."),
        pub class: Option<Hex> = item("class", "Class", "PCI's class code."),
        pub primary_bus: Option<Hex> = item("primary_bus", "Primary bus",
            "Bus on this side of a bridge."),
        pub secondary_bus: Option<Hex> = item("secondary_bus", "Secondary bus",
            "Bus behind a bridge."),
        pub subordinate_bus: Option<Hex> = item("subordinate_bus", "Last bus",
            "Last bus behind a bridge."),
        pub acpi_object: Vec<String> = item("acpi_object", "ACPI object",
            "Its path in the ACPI namespace."),
        pub compatible_id: Vec<String> = item("compatible_id", "Compatible id",
            "ACPI's compatible id."),
        pub acpi_uid: Vec<String> = item("acpi_uid", "ACPI uid", "ACPI's unique id."),
        pub aml_template: Vec<String> = item("aml_template", "AML",
            "The device's AML, for the tables of VMs."),
        pub status: Option<Status> = item("status", "Status", "ACPI's status."),
        pub resources: Vec<Resource> = item("resource", "Resource",
            "Memory, ports or interrupts that it uses."),
        pub capabilities: Vec<Capability> = item("capability", "Capability",
            "PCI capability, or something like it."),
        pub dependencies: Vec<Dependency> = item("dependency", "Dependency",
            "Another device that it needs, or that needs it."),
        pub interrupt_pin_routing: Option<Anything> = item("interrupt_pin_routing", "Interrupt routing",
            "ACPI's routing table."),
        pub displays: Option<Anything> = item("displays", "Displays",
            "Monitors that are connected."),
        pub usb_devices: Vec<UsbDevice> = item("usb_device", "USB device",
            "A USB device that is plugged in."),
        pub devices: Vec<Node> = item("device", "Device", "A device below it."),
        pub buses: Vec<Node> = item("bus", "Bus", "A bus below it."),
    }

    /// ACPI's status of a device.
    pub struct Status {
        pub present: Option<String> = item("present", "Present", "The device is there."),
        pub enabled: Option<String> = item("enabled", "Enabled", "It decodes its resources."),
        pub functioning: Option<String> = item("functioning", "Functioning", "It works."),
    }

    /// Memory, ports or interrupts.
    pub struct Resource {
        pub kind: String = attribute("type", "Type",
            "memory, io_port, irq, interrupt_pin, bus_number or an ACPI name."),
        pub id: Option<String> = attribute("id", "Id", "bar0 to bar5, or a number."),
        pub min: Option<Hex> = attribute("min", "First", "First address."),
        pub max: Option<Hex> = attribute("max", "Last", "Last address."),
        pub len: Option<Hex> = attribute("len", "Length", "Size."),
        pub width: Option<String> = attribute("width", "Width", "Bits of the address."),
        pub prefetchable: Option<String> = attribute("prefetchable", "Prefetchable",
            "Reading has no side effect."),
        pub int: Option<String> = attribute("int", "Interrupts", "Numbers of interrupts."),
        pub pin: Option<String> = attribute("pin", "Pin", "PCI's interrupt pin."),
        pub source: Option<String> = attribute("source", "Source", "Global interrupt of the pin."),
        pub rest: Rest = item("", "More", "Details of some ACPI resources."),
    }

    /// A capability.
    pub struct Capability {
        pub id: String = attribute("id", "Name", "Name of the capability."),
        pub rest: Rest = item("", "More", "Details, different for each capability."),
    }

    /// Another device.
    pub struct Dependency {
        pub kind: String = attribute("type", "Type", "Which way."),
        pub object: String = own_text("Object", "Path in the ACPI namespace."),
    }

    /// A USB device.
    pub struct UsbDevice {
        pub location: Option<String> = attribute("location", "Port", "Bus and port."),
        pub description: Option<String> = attribute("description", "Description", "For people."),
    }

    /// Elements that are kept and not looked at.
    pub struct Anything {
        pub rest: Rest = item("", "Contents", "Details that no tool here needs."),
    }
}
