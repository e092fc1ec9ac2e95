//! Devices by which VMs reach each other, in the hands of two hostile guests.

use crate::Source;
use acrn_vdev::ivshmem::{self, Ivshmem};
use acrn_vdev::pci::VirtualFunction;
use acrn_vdev::serial_link::{SerialLink, Side};

/// Accesses of both guests to a serial line; no more can be read than they have written.
pub(crate) fn line(data: &[u8]) {
    let mut source = Source::new(data);
    let mut link: SerialLink<64> = SerialLink::new();
    while !source.is_empty() {
        let side = Side::BOTH[usize::from(source.u8() % 2)];
        match source.u8() % 16 {
            0 => link.plug(side),
            1 => link.unplug(side),
            2..9 => {
                let register = source.u8() % 9;
                link.write(side, register, source.u8());
            }
            _ => {
                let _ = link.read(side, source.u8() % 9);
            }
        }
        let _ = link.irq(side);
    }
    for side in Side::BOTH {
        // Without the divisor in front of the data, and without loopback.
        link.write(side, 3, 0);
        link.write(side, 4, 3);
        let mut count = 0;
        while link.read(side, 5) & 0x81 == 1 {
            let _ = link.read(side, 0);
            count += 1;
            assert!(count <= data.len(), "a line makes bytes up");
        }
    }
}

/// Configuration, table and registers of shared memory.
pub(crate) fn function(data: &[u8]) {
    let mut source = Source::new(data);
    let mut function = Ivshmem::function(2 << 20, source.u16());
    let mut registers = Ivshmem::new(3);
    while !source.is_empty() {
        let size = [1, 2, 4, 8][usize::from(source.u8() % 4)];
        let offset = u64::from(source.u16());
        match source.u8() % 8 {
            0 => {
                let _ = function.read(offset as u16 % 4100, size);
            }
            1..4 => function.write(offset as u16 % 0x60, size, source.u32()),
            4 => function.table_write(offset % 0x1000, size, source.u64()),
            5 => {
                let _ = function.table_read(offset % 0x1000, size);
            }
            6 => function.raise(source.u16() % 12),
            _ => {
                let _ = registers.write(offset % 32, size, source.u32());
                assert_eq!(registers.read(8, 4), 3, "a guest changed its number");
            }
        }
        judge(&mut function);
    }
    function.reset();
    assert!(function.decoded().next().is_none() && function.take_due().is_none());
}

fn judge(function: &mut VirtualFunction) {
    assert_eq!(function.read(0, 4), 0x1110_1af4);
    for (bar, at, size) in function.decoded() {
        assert_eq!(at % size, 0, "BAR {bar} is not aligned");
        assert_eq!(function.locate(at, 1).map(|(_, offset)| offset), Some(0));
        assert!(bar != ivshmem::MEMORY || size == 2 << 20);
    }
    let sent = core::iter::from_fn(|| function.take_due()).take(9).count();
    assert!(sent <= 8, "more messages than vectors");
}
