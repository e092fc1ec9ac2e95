//! Configuration space of PCI functions on bus 0, by the ports.

use crate::cpu;

/// Reads a register, whose offset is a multiple of 4, of function 0 of a device.
pub fn read(device: u32, register: u32) -> u32 {
    select(device, register);
    cpu::inl(0xcfc)
}

/// Writes a register as [`read`] reads it.
pub fn write(device: u32, register: u32, value: u32) {
    select(device, register);
    cpu::outl(0xcfc, value);
}

/// Names the register that the ports from 0xcfc on then are.
pub fn select(device: u32, register: u32) {
    cpu::outl(0xcf8, 1 << 31 | device << 11 | register);
}
