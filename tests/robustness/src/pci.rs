//! Configuration space of devices, which may be broken, and accesses of a guest to it.

use crate::Source;
use acrn_abi::Bdf;
use acrn_vdev::pci::{
    Capabilities, ConfigAddress, ConfigSpace, Function, MsiMessage, MsixEntry, MsixTable, enumerate,
};

/// A function whose registers are bytes that keep what is written; every other function of bus 0
/// is the same.
struct Device {
    bytes: [u8; 256],
    writes: u32,
}

impl ConfigSpace for Device {
    fn read(&self, bdf: Bdf, register: u16, size: u8) -> u32 {
        if bdf.bus() > 1 || register >= 256 {
            return u32::MAX;
        }
        let byte = |i: u16| u32::from(self.bytes[usize::from((register + i) % 256)]);
        (0..u16::from(size.min(4))).fold(0, |value, i| value | byte(i) << (8 * i))
    }

    fn write(&mut self, _: Bdf, register: u16, size: u8, value: u32) {
        self.writes += 1;
        for i in 0..u16::from(size.min(4)) {
            if let Some(byte) = self.bytes.get_mut(usize::from(register + i)) {
                *byte = (value >> (8 * i)) as u8;
            }
        }
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mut device = Device {
        bytes: [0; 256],
        writes: 0,
    };
    let bytes = source.bytes(256);
    device.bytes[..bytes.len()].copy_from_slice(bytes);
    let bdf = Bdf::new(0, 3, 0);
    assert!(Capabilities::new(bdf, &device).count() <= 64);
    let mut found = 0;
    enumerate(&[0], &device, &mut |_| found += 1);
    assert!(found <= 2 * 256, "{found} functions on two buses");
    let Some(mut function) = Function::scan(bdf, &mut device) else {
        return;
    };
    while !source.is_empty() {
        let (register, size) = (source.u16() % 260, [1, 2, 4][usize::from(source.u8() % 3)]);
        let before = device.writes;
        match source.u8() % 8 {
            0..4 => {
                let _ = function.read(register, size, &device);
            }
            4..7 => {
                let _ = function.write(register, size, source.u32(), &mut device);
            }
            _ => {
                let message = function.msi_message();
                let _ = message.and_then(MsiMessage::decode);
                function.program_msi(message, &mut device);
                function.program_msix(register % 2 == 0, size == 1, &mut device);
            }
        }
        assert!(device.writes - before <= 64, "one access makes many");
        let mut address = ConfigAddress::new();
        address.set(source.u32());
        let _ = address.decode(0xcfc + register % 5, size);
    }
    msix_table(data);
}

fn msix_table(data: &[u8]) {
    let mut source = Source::new(data);
    let mut entries = [MsixEntry::default(); 5];
    let mut table = MsixTable::new(&mut entries[..]);
    while !source.is_empty() {
        let (offset, size) = (
            source.u32() % 100,
            [1, 2, 4, 8][usize::from(source.u8() % 4)],
        );
        let _ = table.read(offset, size);
        if let Some(index) = table.write(offset, size, source.u64()) {
            assert!(table.entry(index).is_some());
        }
    }
}

/// A network adapter with MSI and MSI-X, and accesses to both.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut bytes = vec![0; 256];
    bytes[..16].copy_from_slice(&[
        0x86, 0x80, 0xd3, 0x10, 7, 0, 0x10, 0, 0, 0, 0, 2, 0, 0, 0, 0,
    ]);
    bytes[0x10..0x14].copy_from_slice(&0xfe00_0000_u32.to_le_bytes());
    bytes[0x14..0x18].copy_from_slice(&0xfe01_0004_u32.to_le_bytes());
    bytes[0x34] = 0x50;
    bytes[0x50..0x54].copy_from_slice(&[5, 0x70, 0x80, 0]);
    bytes[0x70..0x7c].copy_from_slice(&[0x11, 0x90, 4, 0, 1, 0, 0, 0, 1, 0x20, 0, 0]);
    bytes[0x90..0x94].copy_from_slice(&[0x10, 0, 2, 0]);
    let mut seed = bytes;
    for register in [4u16, 0x10, 0x14, 0x30, 0x52, 0x54, 0x5c, 0x72] {
        seed.extend(register.to_le_bytes());
        seed.extend([1, 5, 0xff, 0xff, 0, 0, 0, 0, 0, 0x80]);
    }
    vec![seed]
}
