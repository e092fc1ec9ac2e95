//! The tables of a VM that the hypervisor starts itself: a PC with one I/O APIC, fixed power management
//! hardware, one PCI bus and serial ports. Addresses and ports are those of [`guest_map`].
//!
//! * [`tables`] builds all of them, for one place in the VM's memory;
//! * [`aml`] writes the byte code of the DSDT.

mod aml;
#[cfg(test)]
mod tests;

use crate::checksum;
use crate::sleep::SleepType;
use acrn_abi::{Gpa, guest_map};
use aml::Aml;
use arrayvec::ArrayVec;

/// Room for the largest tables: [`MAX_CPUS`] CPUs and [`MAX_SERIAL`] ports.
pub const CAPACITY: usize = 2048;
/// Most CPUs.
pub const MAX_CPUS: usize = 64;
/// Most serial ports.
pub const MAX_SERIAL: usize = 8;

/// Interrupt of ACPI events, and the pin of the I/O APIC.
pub const SCI: u8 = 9;
/// What the guest writes to PM1 control to switch itself off.
pub const S5: SleepType = SleepType { a: 5, b: 0 };
/// What the guest writes to the reset control register.
const RESET: u8 = 0xe;

type Bytes = ArrayVec<u8, CAPACITY>;

/// A serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial {
    /// First of its eight ports.
    pub port: u16,
    /// Its interrupt, one of the ISA bus.
    pub irq: u8,
}

/// The machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Ids of the local APICs, the boot CPU's first; at most [`MAX_CPUS`].
    pub apic_ids: &'a [u32],
    /// At most [`MAX_SERIAL`].
    pub serial: &'a [Serial],
}

/// Builds the tables for the address `base`, a multiple of 64; the root pointer comes first.
pub fn tables(machine: &Machine<'_>, base: Gpa) -> ArrayVec<u8, CAPACITY> {
    let mut bytes = Bytes::new();
    let mut place = Place {
        bytes: &mut bytes,
        base,
    };
    place.put(&[0; RSDP_SIZE]);
    let facs = place.facs();
    let dsdt = place.table(b"DSDT", 2, |bytes| devices(bytes, machine.serial));
    let fadt = place.table(b"FACP", 6, |bytes| fixed_hardware(bytes, facs, dsdt));
    let madt = place.table(b"APIC", 5, |bytes| interrupts(bytes, machine.apic_ids));
    let mcfg = place.table(b"MCFG", 1, configuration_window);
    let xsdt = place.table(b"XSDT", 1, |bytes| {
        for table in [fadt, madt, mcfg] {
            put(bytes, &table.0.to_le_bytes());
        }
    });
    if let Some(root) = bytes.first_chunk_mut() {
        *root = root_pointer(xsdt);
    }
    bytes
}

fn put(bytes: &mut Bytes, part: &[u8]) {
    let _ = bytes.try_extend_from_slice(part);
}

/// Where tables are put one behind the other.
struct Place<'a> {
    bytes: &'a mut Bytes,
    base: Gpa,
}

impl Place<'_> {
    fn put(&mut self, part: &[u8]) {
        put(self.bytes, part);
    }

    /// The next address that is a multiple of `align`.
    fn align(&mut self, align: usize) -> Gpa {
        while self.bytes.len() % align != 0 && !self.bytes.is_full() {
            self.put(&[0]);
        }
        Gpa(self.base.0 + self.bytes.len() as u64)
    }

    /// A table with the common header (5.2.6) and what `body` writes behind it.
    fn table(&mut self, signature: &[u8; 4], revision: u8, body: impl FnOnce(&mut Bytes)) -> Gpa {
        let at = self.align(16);
        let start = self.bytes.len();
        self.put(signature);
        self.put(&[0; 4]);
        self.put(&[revision, 0]);
        self.put(b"ACRNRSACRNRSVM");
        self.put(&1u32.to_le_bytes());
        self.put(b"ACRN");
        self.put(&1u32.to_le_bytes());
        body(self.bytes);
        let table = &mut self.bytes[start..];
        let length = table.len() as u32;
        if let Some(field) = table.get_mut(4..8) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        checksum::fix(table);
        at
    }

    /// Where a guest says how to wake it (5.2.10).
    fn facs(&mut self) -> Gpa {
        const SIZE: u32 = 64;
        let at = self.align(SIZE as usize);
        self.put(b"FACS");
        self.put(&SIZE.to_le_bytes());
        self.put(&[0; 24]);
        // Version.
        self.put(&[2]);
        self.put(&[0; 31]);
        at
    }
}

const RSDP_SIZE: usize = 36;

/// The root pointer (5.2.5.3).
fn root_pointer(xsdt: Gpa) -> [u8; RSDP_SIZE] {
    let mut bytes = [0; RSDP_SIZE];
    bytes[..8].copy_from_slice(b"RSD PTR ");
    bytes[9..15].copy_from_slice(b"ACRNRS");
    bytes[15] = 2;
    bytes[20] = RSDP_SIZE as u8;
    bytes[24..32].copy_from_slice(&xsdt.0.to_le_bytes());
    bytes[8] = checksum::sum(&bytes[..20]).wrapping_neg();
    bytes[32] = checksum::sum(&bytes).wrapping_neg();
    bytes
}

/// A register in I/O space (5.2.3.2), accessed as a whole.
fn port(port: u16, bits: u8) -> [u8; 12] {
    let access = match bits {
        8 => 1,
        16 => 2,
        _ => 3,
    };
    let [low, high] = port.to_le_bytes();
    [1, bits, 0, access, low, high, 0, 0, 0, 0, 0, 0]
}

/// The FADT's body (5.2.9).
fn fixed_hardware(bytes: &mut Bytes, facs: Gpa, dsdt: Gpa) {
    /// WBINVD works; processors have C1; the sleep button is no fixed feature; the timer has 32 bits;
    /// there is a reset register.
    const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 8 | 1 << 10;
    /// There are ISA devices, but no VGA.
    const BOOT_FLAGS: u16 = 1 << 0 | 1 << 2;
    const EVENT: u16 = guest_map::PORT_PM1A_EVENT;
    const CONTROL: u16 = guest_map::PORT_PM1A_CONTROL;
    const TIMER: u16 = guest_map::PORT_PM_TIMER;
    let mut body = [0; 276 - 36];
    // Offsets are those in the table.
    let mut set = |offset: usize, value: &[u8]| {
        if let Some(field) = body.get_mut(offset - 36..offset - 36 + value.len()) {
            field.copy_from_slice(value);
        }
    };
    set(36, &(facs.0 as u32).to_le_bytes());
    set(40, &(dsdt.0 as u32).to_le_bytes());
    set(46, &u16::from(SCI).to_le_bytes());
    set(56, &EVENT.to_le_bytes());
    set(64, &CONTROL.to_le_bytes());
    set(76, &TIMER.to_le_bytes());
    // Lengths of event block, control block and timer.
    set(88, &[4, 2]);
    set(91, &[4]);
    // C2 and C3 do not exist.
    set(96, &[0xff, 0xff, 0xff, 0xff]);
    set(108, &[0x32]);
    set(109, &BOOT_FLAGS.to_le_bytes());
    set(112, &FLAGS.to_le_bytes());
    set(116, &port(guest_map::PORT_RESET_CONTROL, 8));
    set(128, &[RESET]);
    // ACPI 6.4.
    set(131, &[4]);
    set(132, &facs.0.to_le_bytes());
    set(140, &dsdt.0.to_le_bytes());
    set(148, &port(EVENT, 32));
    set(172, &port(CONTROL, 16));
    set(208, &port(TIMER, 32));
    put(bytes, &body);
}

/// The MADT's body (5.2.12).
fn interrupts(bytes: &mut Bytes, apic_ids: &[u32]) {
    /// There are 8259s.
    const PCAT_COMPAT: u32 = 1;
    put(bytes, &(guest_map::LAPIC_BASE.0 as u32).to_le_bytes());
    put(bytes, &PCAT_COMPAT.to_le_bytes());
    for (uid, id) in apic_ids.iter().take(MAX_CPUS).enumerate() {
        local_apic(bytes, uid as u32, *id);
    }
    put(bytes, &[1, 12, 0, 0]);
    put(bytes, &(guest_map::IOAPIC_BASE.0 as u32).to_le_bytes());
    put(bytes, &0u32.to_le_bytes());
    // The timer's pin is 2; the interrupt of ACPI is level-triggered and active high.
    put(bytes, &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    put(bytes, &[2, 10, 0, SCI, SCI, 0, 0, 0, 0xd, 0]);
    // NMI on LINT1 of all.
    put(bytes, &[4, 6, 0xff, 0, 0, 1]);
}

fn local_apic(bytes: &mut Bytes, uid: u32, id: u32) {
    const ENABLED: u32 = 1;
    match (u8::try_from(uid), u8::try_from(id)) {
        (Ok(uid), Ok(id)) if id < 0xff => put(bytes, &[0, 8, uid, id]),
        _ => {
            put(bytes, &[9, 16, 0, 0]);
            put(bytes, &id.to_le_bytes());
            put(bytes, &ENABLED.to_le_bytes());
            put(bytes, &uid.to_le_bytes());
            return;
        }
    }
    put(bytes, &ENABLED.to_le_bytes());
}

/// The MCFG's body: bus 0.
fn configuration_window(bytes: &mut Bytes) {
    put(bytes, &[0; 8]);
    put(bytes, &guest_map::PCI_ECAM.start.to_le_bytes());
    put(bytes, &[0; 8]);
}

/// The DSDT's body.
fn devices(bytes: &mut Bytes, serial: &[Serial]) {
    let mut aml = Aml(bytes);
    aml.package(b"_S5_", &[S5.a, S5.b, 0, 0]);
    aml.scope(b"_SB_", |aml| {
        aml.device(b"PCI0", host_bridge);
        aml.device(b"RTC_", |aml| {
            aml.id(b"_HID", b"PNP0B00");
            aml.resources(|list| list.ports(guest_map::PORT_RTC, 2));
        });
        for (number, serial) in (1..).zip(serial.iter().take(MAX_SERIAL)) {
            aml.device(&[b'C', b'O', b'M', b'0' + number], |aml| {
                aml.id(b"_HID", b"PNP0501");
                aml.number(b"_UID", number);
                aml.resources(|list| {
                    list.ports(serial.port, 8);
                    list.isa_interrupt(serial.irq);
                });
            });
        }
    });
}

fn host_bridge(aml: &mut Aml<'_>) {
    let (low, high) = (guest_map::PCI_MMIO32, guest_map::PCI_MMIO64);
    aml.id(b"_HID", b"PNP0A08");
    aml.id(b"_CID", b"PNP0A03");
    aml.number(b"_UID", 0);
    aml.number(b"_BBN", 0);
    aml.resources(|list| {
        list.buses(0, 0);
        list.bridge_ports(0, guest_map::PORT_PCI_ADDRESS - 1);
        list.ports(guest_map::PORT_PCI_ADDRESS, 8);
        list.bridge_ports(guest_map::PORT_PCI_ADDRESS + 8, u16::MAX);
        list.memory32(low.start as u32, low.end as u32);
        list.memory64(high.start, high.end);
    });
}
