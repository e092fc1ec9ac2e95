//! ACPI tables (ACPI 6.5), made at each start without a compiler.
//!
//! The RSDP is where ACRN has it, at 0xF2400, the other tables follow it; all lie below 1 MiB in
//! a range that the memory map reserves. [`dsdt`] holds the devices.

pub mod dsdt;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acrn_abi::guest_map::TIMER_GSI;
use vm_memory::{Bytes, GuestAddress};

use crate::hsm::sinks::GSI_COUNT;
use crate::legacy::hpet;
use crate::legacy::power::{
    ACPI_DISABLE, ACPI_ENABLE, PM_TIMER, PM1_CONTROL, PM1_EVENT, SMI_COMMAND,
};
use crate::legacy::reset::{RESET_CONTROL, RESET_VALUE};
use crate::pci::GuestRam;
use crate::pci::bus::ECAM_BASE;

/// Where the guest finds the RSDP.
pub const RSDP_ADDRESS: u64 = 0xf_2400;
/// Interrupt line of the system control interrupt.
pub const SCI: u8 = 9;

const TABLES_START: u64 = RSDP_ADDRESS + 0x40;
const TABLES_END: u64 = 0x10_0000;
/// The first table: the firmware control structure.
const CONTROL: u64 = TABLES_START;
/// Its firmware waking vector (5.2.10).
const WAKING_VECTOR: u64 = CONTROL + 12;
const OEM: [u8; 6] = *b"ACRNRS";
const TABLE_ID: [u8; 8] = *b"ACRNDM  ";
const REVISION: u32 = 1;
const HEADER: u32 = 36;
const IOAPIC_ADDRESS: u32 = 0xfec0_0000;
const LAPIC_ADDRESS: u32 = 0xfee0_0000;
/// A month's cell in CMOS that holds the century.
const CENTURY_CELL: u8 = 0x32;

/// What the tables describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Local APIC id of each CPU.
    pub apic_ids: Vec<u32>,
    /// Serial ports that exist, 0 for COM1.
    pub coms: Vec<usize>,
    /// Whether the guest may suspend to RAM.
    pub sleeps: bool,
}

/// The tables do not fit into their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ACPI tables end at {0:#x}, beyond the first megabyte: use fewer CPUs")]
pub struct TablesTooLarge(pub u64);

/// All tables as one piece of memory from [`RSDP_ADDRESS`] on.
///
/// # Errors
/// They do not fit.
pub fn build(platform: &Platform) -> Result<Vec<u8>, TablesTooLarge> {
    let mut area = Area { bytes: Vec::new() };
    let mut facs = FACS::new();
    // Of a version without a waking vector for protected mode.
    facs.version = 0;
    let facs = area.add(bytes(&facs));
    let dsdt = area.add(table(*b"DSDT", 2, |sdt| {
        sdt.append_slice(&dsdt::body(platform))
    }));
    let fadt = area.add(bytes(&fadt(platform, facs, dsdt)));
    let madt = area.add(madt(platform));
    let hpet = area.add(hpet_table());
    let mcfg = area.add(mcfg());
    let mut xsdt = XSDT::new(OEM, TABLE_ID, REVISION);
    for address in [fadt, madt, hpet, mcfg] {
        xsdt.add_entry(address);
    }
    let xsdt = area.add(bytes(&xsdt));
    let mut image = bytes(&Rsdp::new(OEM, xsdt));
    image.resize((TABLES_START - RSDP_ADDRESS) as usize, 0);
    image.extend(area.bytes);
    let end = RSDP_ADDRESS + image.len() as u64;
    if end > TABLES_END {
        return Err(TablesTooLarge(end));
    }
    Ok(image)
}

/// Builds the tables and writes them into guest memory.
///
/// # Errors
/// They do not fit.
pub fn write(ram: &GuestRam, platform: &Platform) -> Result<(), TablesTooLarge> {
    let image = build(platform)?;
    ram.write_slice(&image, GuestAddress(RSDP_ADDRESS))
        .map_err(|_| TablesTooLarge(TABLES_END))
}

/// Where a guest that has suspended wants to be woken in real mode, if it has said so.
pub fn waking_vector(ram: &GuestRam) -> Option<u32> {
    let vector = ram.read_obj::<u32>(GuestAddress(WAKING_VECTOR)).ok()?;
    (1..1 << 20).contains(&vector).then_some(vector)
}

/// Tables one after the other; the FACS needs 64-byte alignment, so all get it.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    fn add(&mut self, table: Vec<u8>) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let address = TABLES_START + self.bytes.len() as u64;
        self.bytes.extend(table);
        address
    }
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

fn table(signature: [u8; 4], revision: u8, fill: impl FnOnce(&mut Sdt)) -> Vec<u8> {
    let mut sdt = Sdt::new(signature, HEADER, revision, OEM, TABLE_ID, REVISION);
    fill(&mut sdt);
    sdt.update_checksum();
    sdt.as_slice().to_vec()
}

fn register(address: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, address.into())
}

/// Fixed description: where the power management registers are.
fn fadt(platform: &Platform, facs: u64, dsdt: u64) -> FADT {
    /// Boot flags: ISA devices are there; a VGA is not.
    const LEGACY_DEVICES: u16 = 1 << 0;
    const NO_VGA: u16 = 1 << 2;
    let mut fadt = FADTBuilder::new(OEM, TABLE_ID, REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_32(dsdt as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    // Buttons, and the clock that wakes, are in fixed registers where these flags are not set.
    if !platform.sleeps {
        fadt = fadt.flag(Flags::SlpButton).flag(Flags::FixRtc);
    }
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(SCI).into();
    fadt.smi_cmd = u32::from(SMI_COMMAND).into();
    fadt.acpi_enable = ACPI_ENABLE;
    fadt.acpi_disable = ACPI_DISABLE;
    fadt.pm1a_evt_blk = u32::from(PM1_EVENT).into();
    fadt.pm1a_cnt_blk = u32::from(PM1_CONTROL).into();
    fadt.pm_tmr_blk = u32::from(PM_TIMER).into();
    (fadt.pm1_evt_len, fadt.pm1_cnt_len, fadt.pm_tmr_len) = (4, 2, 4);
    // Latencies that say: there are no C2 and C3.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.century = CENTURY_CELL;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    fadt.reset_reg = register(RESET_CONTROL, 8, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.x_pm1a_evt_blk = register(PM1_EVENT, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = register(PM1_CONTROL, 16, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = register(PM_TIMER, 32, AccessSize::DwordAccess);
    fadt.finalize()
}

/// CPUs and interrupt controllers (5.2.12).
fn madt(platform: &Platform) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    const LAPIC: u8 = 0;
    const IOAPIC: u8 = 1;
    const SOURCE_OVERRIDE: u8 = 2;
    const LAPIC_NMI: u8 = 4;
    const X2APIC: u8 = 9;
    /// Polarity and trigger: as the bus has them; active high and level.
    const CONFORMS: u16 = 0;
    const LEVEL_HIGH: u16 = 0xd;
    table(*b"APIC", 5, |sdt| {
        sdt.append_slice(&LAPIC_ADDRESS.to_le_bytes());
        sdt.append_slice(&PCAT_COMPAT.to_le_bytes());
        for (uid, id) in (0u32..).zip(&platform.apic_ids) {
            match u8::try_from(*id) {
                Ok(id) if id != u8::MAX => {
                    sdt.append_slice(&[LAPIC, 8, uid as u8, id, 1, 0, 0, 0]);
                }
                _ => {
                    sdt.append_slice(&[X2APIC, 16, 0, 0]);
                    for word in [*id, 1, uid] {
                        sdt.append_slice(&word.to_le_bytes());
                    }
                }
            }
        }
        sdt.append_slice(&[IOAPIC, 12, 0, 0]);
        sdt.append_slice(&IOAPIC_ADDRESS.to_le_bytes());
        sdt.append_slice(&0u32.to_le_bytes());
        for (irq, gsi, flags) in [
            (0, TIMER_GSI.0, CONFORMS),
            (SCI, u32::from(SCI), LEVEL_HIGH),
        ] {
            sdt.append_slice(&[SOURCE_OVERRIDE, 10, 0, irq]);
            sdt.append_slice(&gsi.to_le_bytes());
            sdt.append_slice(&flags.to_le_bytes());
        }
        sdt.append_slice(&[LAPIC_NMI, 6, 0xff, 0, 0, 1]);
    })
}

fn hpet_table() -> Vec<u8> {
    table(*b"HPET", 1, |sdt| {
        sdt.append_slice(&hpet::ID.to_le_bytes());
        // A memory address of 64 bits.
        sdt.append_slice(&[0, 64, 0, 0]);
        sdt.append_slice(&hpet::BASE.to_le_bytes());
        // Number 0, shortest periodic tick, no page protection.
        sdt.append_slice(&[0, 0x80, 0, 0]);
    })
}

fn mcfg() -> Vec<u8> {
    table(*b"MCFG", 1, |sdt| {
        sdt.append_slice(&[0; 8]);
        sdt.append_slice(&ECAM_BASE.to_le_bytes());
        // Segment 0, bus 0 only: a guest looks at all 32 slots of each bus that is named here.
        sdt.append_slice(&[0; 8]);
    })
}

// The line of the highest slot must exist.
const _: () = assert!(16 + 32 <= GSI_COUNT);

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(cpus: u32) -> Platform {
        Platform {
            apic_ids: (0..cpus).collect(),
            coms: vec![0, 1],
            sleeps: true,
        }
    }

    fn at(image: &[u8], address: u64) -> &[u8] {
        &image[(address - RSDP_ADDRESS) as usize..]
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    /// The table at an address, checked.
    fn checked(image: &[u8], address: u64) -> &[u8] {
        let table = at(image, address);
        let table = &table[..u32_at(table, 4) as usize];
        assert_eq!(
            table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
            0
        );
        table
    }

    #[test]
    fn a_guest_finds_all_tables_from_the_rsdp() {
        let image = build(&platform(2)).unwrap();
        assert_eq!(&image[..8], b"RSD PTR ");
        let xsdt = checked(&image, u64_at(&image, 24));
        let names: Vec<_> = xsdt[36..]
            .chunks(8)
            .map(|entry| checked(&image, u64_at(entry, 0))[..4].to_vec())
            .collect();
        assert_eq!(names, [b"FACP", b"APIC", b"HPET", b"MCFG"]);
        let fadt = checked(&image, u64_at(xsdt, 36));
        assert_eq!(&checked(&image, u32_at(fadt, 40).into())[..4], b"DSDT");
        let facs = u64::from(u32_at(fadt, 36));
        assert_eq!((&at(&image, facs)[..4], facs % 64), (b"FACS".as_slice(), 0));
        assert_eq!(facs, CONTROL);
        assert_eq!(
            (u32_at(fadt, 56), u32_at(fadt, 64), fadt[128]),
            (0x400, 0x404, 0x0e)
        );
    }

    #[test]
    fn suspending_is_offered_with_its_button_or_not_at_all() {
        const NO_SLEEP_BUTTON: u32 = 1 << 5;
        for sleeps in [true, false] {
            let platform = Platform {
                sleeps,
                ..platform(1)
            };
            let image = build(&platform).unwrap();
            let xsdt = checked(&image, u64_at(&image, 24));
            let fadt = checked(&image, u64_at(xsdt, 36));
            assert_eq!(u32_at(fadt, 112) & NO_SLEEP_BUTTON == 0, sleeps);
            let dsdt = checked(&image, u32_at(fadt, 40).into());
            assert_eq!(dsdt.windows(4).any(|name| name == b"_S3_"), sleeps);
        }
    }

    #[test]
    fn a_waking_vector_is_an_address_in_the_first_megabyte() {
        let memory = crate::memory::Memory::ordinary(crate::memory::Layout::new(32 << 20)).unwrap();
        write(memory.ram(), &platform(1)).unwrap();
        for (written, read) in [(0, None), (0x9_a000, Some(0x9_a000)), (1 << 20, None)] {
            let at = GuestAddress(WAKING_VECTOR);
            memory.ram().write_obj::<u32>(written, at).unwrap();
            assert_eq!(waking_vector(memory.ram()), read);
        }
    }

    #[test]
    fn sixteen_cpus_fit_with_their_ids() {
        let image = build(&platform(16)).unwrap();
        let xsdt = checked(&image, u64_at(&image, 24));
        let madt = checked(&image, u64_at(xsdt, 44));
        let ids: Vec<_> = (0..16).map(|cpu| madt[44 + 8 * cpu + 3]).collect();
        assert_eq!(ids, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn large_apic_ids_get_the_entry_for_them() {
        let platform = Platform {
            apic_ids: vec![0, 300],
            coms: vec![],
            sleeps: true,
        };
        let image = build(&platform).unwrap();
        let xsdt = checked(&image, u64_at(&image, 24));
        let madt = checked(&image, u64_at(xsdt, 44));
        assert_eq!((madt[52], u32_at(madt, 56)), (9, 300));
    }
}
