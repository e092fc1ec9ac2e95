//! The devices of the DSDT: CPUs, PCI host bridge, what is on the ISA bus, sleep states.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, PackageBuilder, Path, ResourceTemplate, Scope, ZERO,
};

use super::{Platform, SCI};
use crate::legacy::{hpet, power};
use crate::pci::bus::{ECAM_BASE, ECAM_SIZE, HIGH_WINDOW, MEMORY_WINDOW, pin_gsi};

/// First port and interrupt line of COM1 to COM4.
pub const COM_PORTS: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 6), (0x2e8, 7)];

/// Everything behind the table's header.
pub(super) fn body(platform: &Platform) -> Vec<u8> {
    let mut bytes = Vec::new();
    if platform.sleeps {
        sleep_state("_S3_", power::SLEEP_TYPE_S3, &mut bytes);
    }
    sleep_state("_S5_", power::SLEEP_TYPE_S5, &mut bytes);
    let mut devices: Vec<Vec<u8>> = vec![pci_root(), motherboard(), rtc(), pit(), hpet_device()];
    devices.extend(platform.coms.iter().filter_map(|port| com(*port)));
    devices.extend((0..platform.apic_ids.len()).map(cpu));
    let raw: Vec<Raw> = devices.into_iter().map(Raw).collect();
    let children = raw.iter().map(|device| device as &dyn Aml).collect();
    Scope::new("\\_SB_".into(), children).to_aml_bytes(&mut bytes);
    bytes
}

fn sleep_state(name: &str, kind: u8, bytes: &mut Vec<u8>) {
    let values = Package::new(vec![&kind, &kind, &ZERO, &ZERO]);
    Name::new(name.into(), &values).to_aml_bytes(bytes);
}

/// AML that is ready.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// A device with name, hardware id, unique id and resources.
fn device(name: &str, hid: &str, uid: u32, resources: Vec<&dyn Aml>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let id = Name::new("_HID".into(), &EISAName::new(hid));
    let unique = Name::new("_UID".into(), &uid);
    let template = ResourceTemplate::new(resources);
    let current = Name::new("_CRS".into(), &template);
    Device::new(Path::new(name), vec![&id, &unique, &current]).to_aml_bytes(&mut bytes);
    bytes
}

fn edge(line: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, line)
}

fn pci_root() -> Vec<u8> {
    let mut bytes = Vec::new();
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let names = ["_UID", "_BBN", "_SEG", "_ADR"];
    let [uid, bus, segment, address] = names.map(|name| Name::new(name.into(), &ZERO));
    let buses = AddressSpace::new_bus_number(0u16, 0u16);
    let low_ports = AddressSpace::new_io(0u16, 0x0cf7, None);
    let config_ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let high_ports = AddressSpace::new_io(0x0d00u16, 0xffff, None);
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        MEMORY_WINDOW.start as u32,
        (MEMORY_WINDOW.end - 1) as u32,
        None,
    );
    let high_memory = AddressSpace::new_memory(
        AddressSpaceCacheable::Cacheable,
        true,
        HIGH_WINDOW.start,
        HIGH_WINDOW.end - 1,
        None,
    );
    let resources = ResourceTemplate::new(vec![
        &buses,
        &low_ports,
        &config_ports,
        &high_ports,
        &memory,
        &high_memory,
    ]);
    let current = Name::new("_CRS".into(), &resources);
    let routes = Name::new("_PRT".into(), &interrupt_routes());
    Device::new(
        "PCI0".into(),
        vec![
            &hid, &cid, &uid, &bus, &segment, &address, &current, &routes,
        ],
    )
    .to_aml_bytes(&mut bytes);
    bytes
}

/// Which line each pin of each slot drives.
fn interrupt_routes() -> PackageBuilder {
    let mut routes = PackageBuilder::new();
    for slot in 1..32u8 {
        for pin in 0..4u8 {
            let address = u32::from(slot) << 16 | 0xffff;
            let line = pin_gsi(slot, pin + 1).0;
            routes.add_element(&Package::new(vec![&address, &pin, &ZERO, &line]));
        }
    }
    routes
}

/// Reserves what no driver claims, so that nothing else is put there.
fn motherboard() -> Vec<u8> {
    let power = IO::new(power::PM1_EVENT, power::PM1_EVENT, 1, 0x10);
    let control = IO::new(0x61, 0x61, 1, 1);
    let port_a = IO::new(0x92, 0x92, 1, 1);
    let smi = IO::new(power::SMI_COMMAND, power::SMI_COMMAND, 1, 2);
    let ecam = Memory32Fixed::new(true, ECAM_BASE as u32, ECAM_SIZE as u32);
    device(
        "MBRD",
        "PNP0C02",
        0,
        vec![&power, &control, &port_a, &smi, &ecam],
    )
}

fn rtc() -> Vec<u8> {
    let ports = IO::new(0x70, 0x70, 1, 2);
    device("RTC0", "PNP0B00", 0, vec![&ports, &edge(8)])
}

fn pit() -> Vec<u8> {
    let ports = IO::new(0x40, 0x40, 1, 4);
    device("TIMR", "PNP0100", 0, vec![&ports, &edge(0)])
}

fn hpet_device() -> Vec<u8> {
    let registers = Memory32Fixed::new(true, hpet::BASE as u32, hpet::SIZE as u32);
    device("HPET", "PNP0103", 0, vec![&registers])
}

fn com(port: usize) -> Option<Vec<u8>> {
    let (first, line) = *COM_PORTS.get(port)?;
    let ports = IO::new(first, first, 1, 8);
    let number = port as u32 + 1;
    Some(device(
        &format!("COM{number}"),
        "PNP0501",
        number,
        vec![&ports, &edge(line)],
    ))
}

fn cpu(index: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let id = Name::new("_HID".into(), &"ACPI0007");
    let unique = Name::new("_UID".into(), &(index as u32));
    Device::new(Path::new(&format!("CP{index:02X}")), vec![&id, &unique]).to_aml_bytes(&mut bytes);
    bytes
}

// The interrupt of the registers declared above is said in the FADT.
const _: () = assert!(SCI == 9);
