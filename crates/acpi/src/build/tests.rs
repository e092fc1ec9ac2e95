//! What is built is read again: by this crate's own parser, and against the byte code that
//! another builder makes.

use super::*;
use crate::Platform;
use crate::testing::Ram;
use acpi_tables::Aml as _;
use acpi_tables::aml;
use acrn_abi::Hpa;

const BASE: Gpa = Gpa(0xe_0000);

fn build(cpus: u32, serial: &[Serial]) -> (Bytes, Platform) {
    let ids: Vec<u32> = (0..cpus).collect();
    let machine = Machine {
        apic_ids: &ids,
        serial,
    };
    let bytes = tables(&machine, BASE);
    let mut ram = Ram::new(0x10_0000);
    ram.put(BASE.0 as usize, &bytes);
    // Found as firmware that is not told finds it.
    let platform = Platform::discover(&ram, &[]).unwrap();
    (bytes, platform)
}

const COM1: Serial = Serial {
    port: 0x3f8,
    irq: 4,
};

#[test]
fn the_parser_finds_everything_and_complains_of_nothing() {
    let (_, platform) = build(3, &[COM1]);
    assert!(platform.problems.is_empty(), "{:?}", platform.problems);
    let ids: Vec<_> = platform.madt.cpus.iter().map(|c| c.apic_id).collect();
    assert_eq!(ids, [0, 1, 2]);
    assert!(platform.madt.has_8259);
    assert_eq!(platform.madt.ioapics[0].address, Hpa(0xfec0_0000));
    assert_eq!(platform.madt.isa(0).gsi.0, 2);
    let sci = platform.madt.isa(SCI);
    assert!(sci.gsi.0 == u32::from(SCI) && sci.level() && !sci.active_low());
    let fadt = platform.fadt.unwrap();
    assert_eq!(fadt.sci_interrupt, u16::from(SCI));
    let ports = [
        fadt.pm1a_event,
        fadt.pm1a_control,
        fadt.pm_timer,
        fadt.reset,
    ];
    let ports = ports.map(|register| register.unwrap().port().unwrap());
    assert_eq!(ports, [0x400, 0x404, 0x408, 0xcf9]);
    assert_eq!(fadt.reset_value, RESET);
    assert_eq!(platform.s5, Some(S5));
    assert!(platform.s3.is_none());
    let ecam = platform.ecam[0];
    assert_eq!((ecam.base, ecam.last_bus), (Hpa(0xe000_0000), 0));
}

#[test]
fn the_largest_tables_have_room() {
    let (bytes, platform) = build(MAX_CPUS as u32, &[COM1; MAX_SERIAL]);
    assert!(!bytes.is_full(), "{}", bytes.len());
    assert_eq!(platform.madt.cpus.len(), MAX_CPUS);
    assert_eq!(platform.s5, Some(S5));
}

#[test]
fn ids_that_need_more_than_a_byte_have_an_entry_that_holds_them() {
    let machine = Machine {
        apic_ids: &[0, 0x1234],
        serial: &[],
    };
    let mut ram = Ram::new(0x10_0000);
    ram.put(BASE.0 as usize, &tables(&machine, BASE));
    let platform = Platform::discover(&ram, &[]).unwrap();
    let ids: Vec<_> = platform.madt.cpus.iter().map(|c| c.apic_id).collect();
    assert_eq!(ids, [0, 0x1234]);
}

/// The same devices by the `acpi_tables` crate.
fn expected() -> Vec<u8> {
    let mut bytes = Vec::new();
    let s5: [&dyn acpi_tables::Aml; 4] = [&5u8, &aml::ZERO, &aml::ZERO, &aml::ZERO];
    aml::Name::new("_S5_".into(), &aml::Package::new(s5.to_vec())).to_aml_bytes(&mut bytes);
    let buses = aml::AddressSpace::new_bus_number(0u16, 0u16);
    let low = aml::AddressSpace::new_io(0u16, 0xcf7u16, None);
    let own = aml::IO::new(0xcf8, 0xcf8, 1, 8);
    let high = aml::AddressSpace::new_io(0xd00u16, 0xffffu16, None);
    let uncached = || aml::AddressSpaceCacheable::NotCacheable;
    let memory =
        aml::AddressSpace::new_memory(uncached(), true, 0x8000_0000u32, 0xdfff_ffffu32, None);
    let more =
        aml::AddressSpace::new_memory(uncached(), true, 0x40_0000_0000u64, 0x7f_ffff_ffffu64, None);
    let pci = aml::ResourceTemplate::new(vec![&buses, &low, &own, &high, &memory, &more]);
    let pci_ids = [
        aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A08")),
        aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03")),
        aml::Name::new("_UID".into(), &aml::ZERO),
        aml::Name::new("_BBN".into(), &aml::ZERO),
        aml::Name::new("_CRS".into(), &pci),
    ];
    let pci = aml::Device::new("PCI0".into(), pci_ids.iter().map(|n| n as _).collect());
    let rtc_ports = aml::IO::new(0x70, 0x70, 1, 2);
    let rtc_id = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0B00"));
    let rtc_list = aml::ResourceTemplate::new(vec![&rtc_ports]);
    let rtc_list = aml::Name::new("_CRS".into(), &rtc_list);
    let rtc = aml::Device::new("RTC_".into(), vec![&rtc_id, &rtc_list]);
    aml::Scope::new("\\_SB_".into(), vec![&pci, &rtc]).to_aml_bytes(&mut bytes);
    bytes
}

#[test]
fn the_byte_code_is_what_another_builder_makes() {
    let mut bytes = Bytes::new();
    devices(&mut bytes, &[]);
    assert_eq!(bytes.as_slice(), expected());
}

#[test]
fn a_serial_port_has_its_ports_and_its_interrupt() {
    let mut bytes = Bytes::new();
    devices(&mut bytes, &[COM1]);
    let ports = [0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8];
    let interrupt = [0x22, 1 << 4, 0];
    let list = [&ports[..], &interrupt, &[0x79, 0]].concat();
    assert!(bytes.windows(list.len()).any(|part| part == list));
    assert!(bytes.windows(4).any(|name| name == b"COM1"));
}
