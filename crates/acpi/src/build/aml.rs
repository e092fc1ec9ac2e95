//! ACPI machine language, as much of it as describes a few devices (20.2).

use super::Bytes;

const NAME: u8 = 0x08;
const BYTE: u8 = 0x0a;
const DWORD: u8 = 0x0c;
const SCOPE: u8 = 0x10;
const BUFFER: u8 = 0x11;
const PACKAGE: u8 = 0x12;
const EXTENDED: u8 = 0x5b;
const DEVICE: u8 = 0x82;
/// The end of a list of resources, with a checksum that nobody looks at (6.4.2.9).
const END_TAG: [u8; 2] = [0x79, 0];

/// Writes objects behind each other.
#[derive(Debug)]
pub struct Aml<'a>(pub &'a mut Bytes);

impl Aml<'_> {
    fn put(&mut self, bytes: &[u8]) {
        // The capacity is that of the largest tables, which a test builds.
        let _ = self.0.try_extend_from_slice(bytes);
    }

    /// What `body` writes, with its length in front (20.2.4).
    fn sized(&mut self, body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        body(self);
        let length = self.0.len() - start;
        if length + 1 < 64 {
            let _ = self.0.try_insert(start, (length + 1) as u8);
        } else {
            let length = length + 2;
            let _ = self.0.try_insert(start, (length >> 4) as u8);
            let _ = self.0.try_insert(start, 0x40 | (length & 0xf) as u8);
        }
    }

    /// A scope of the root.
    pub fn scope(&mut self, name: &[u8; 4], body: impl FnOnce(&mut Self)) {
        self.put(&[SCOPE]);
        self.sized(|aml| {
            aml.put(b"\\");
            aml.put(name);
            body(aml);
        });
    }

    /// A device.
    pub fn device(&mut self, name: &[u8; 4], body: impl FnOnce(&mut Self)) {
        self.put(&[EXTENDED, DEVICE]);
        self.sized(|aml| {
            aml.put(name);
            body(aml);
        });
    }

    /// A name for a number.
    pub fn number(&mut self, name: &[u8; 4], value: u8) {
        self.put(&[NAME]);
        self.put(name);
        self.value(value);
    }

    /// A name for a hardware id such as `PNP0501` (19.3.4).
    pub fn id(&mut self, name: &[u8; 4], id: &[u8; 7]) {
        let letter = |at: usize| u32::from(id[at] - b'@') & 0x1f;
        let digit = |at: usize| char::from(id[at]).to_digit(16).unwrap_or(0);
        let vendor = letter(0) << 10 | letter(1) << 5 | letter(2);
        let product = digit(3) << 12 | digit(4) << 8 | digit(5) << 4 | digit(6);
        self.put(&[NAME]);
        self.put(name);
        self.put(&[DWORD]);
        self.put(&(vendor << 16 | product).to_be_bytes());
    }

    /// A name for a list of numbers.
    pub fn package(&mut self, name: &[u8; 4], values: &[u8]) {
        self.put(&[NAME]);
        self.put(name);
        self.put(&[PACKAGE]);
        self.sized(|aml| {
            aml.put(&[values.len() as u8]);
            values.iter().for_each(|value| aml.value(*value));
        });
    }

    fn value(&mut self, value: u8) {
        match value {
            0 | 1 => self.put(&[value]),
            value => self.put(&[BYTE, value]),
        }
    }

    /// The resources that a device uses now, `_CRS`; at most 253 bytes of descriptors.
    pub fn resources(&mut self, list: impl FnOnce(&mut Resources<'_>)) {
        self.put(&[NAME]);
        self.put(b"_CRS");
        self.put(&[BUFFER]);
        self.sized(|aml| {
            let start = aml.0.len();
            list(&mut Resources(aml.0));
            aml.put(&END_TAG);
            let length = (aml.0.len() - start) as u8;
            let _ = aml.0.try_insert(start, length);
            let _ = aml.0.try_insert(start, BYTE);
        });
    }
}

/// Writes resource descriptors (6.4).
#[derive(Debug)]
pub struct Resources<'a>(&'a mut Bytes);

/// General flags of an address space that a bridge passes on: its bounds are fixed (6.4.3.5).
const FIXED: u8 = 0xc;
/// Memory that can be written, not cached.
const MEMORY: u8 = 1;
/// All of a bridge's ports.
const PORTS: u8 = 3;

impl Resources<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let _ = self.0.try_extend_from_slice(bytes);
    }

    /// `size` ports from `first` on.
    pub fn ports(&mut self, first: u16, size: u8) {
        let [low, high] = first.to_le_bytes();
        self.put(&[0x47, 1, low, high, low, high, 1, size]);
    }

    /// An edge-triggered interrupt of the ISA bus.
    pub fn isa_interrupt(&mut self, irq: u8) {
        let [low, high] = 1u16.checked_shl(irq.into()).unwrap_or(0).to_le_bytes();
        self.put(&[0x22, low, high]);
    }

    /// The bus numbers behind a bridge.
    pub fn buses(&mut self, first: u16, last: u16) {
        self.words(2, 0, first, last);
    }

    /// The ports behind a bridge.
    pub fn bridge_ports(&mut self, first: u16, last: u16) {
        self.words(1, PORTS, first, last);
    }

    fn words(&mut self, kind: u8, flags: u8, first: u16, last: u16) {
        self.put(&[0x88, 13, 0, kind, FIXED, flags]);
        let length = last.wrapping_sub(first).wrapping_add(1);
        for word in [0, first, last, 0, length] {
            self.put(&word.to_le_bytes());
        }
    }

    /// Memory below 4 GiB behind a bridge, up to but without `end`.
    pub fn memory32(&mut self, start: u32, end: u32) {
        self.put(&[0x87, 23, 0, 0, FIXED, MEMORY]);
        for word in [0, start, end.wrapping_sub(1), 0, end.wrapping_sub(start)] {
            self.put(&word.to_le_bytes());
        }
    }

    /// Memory behind a bridge, up to but without `end`.
    pub fn memory64(&mut self, start: u64, end: u64) {
        self.put(&[0x8a, 43, 0, 0, FIXED, MEMORY]);
        for word in [0, start, end.wrapping_sub(1), 0, end.wrapping_sub(start)] {
            self.put(&word.to_le_bytes());
        }
    }
}
