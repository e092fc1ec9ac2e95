//! The host's serial port: the hypervisor's console. 16550 by I/O port or memory.

use super::cpu;
use spin::Once;

/// Where the UART's eight registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// First of eight consecutive I/O ports.
    Port(u16),
    /// Physical address of the first register and the distance of two registers in bytes.
    Memory(u64, u64),
    /// No console.
    Disabled,
}

static LOCATION: Once<Location> = Once::new();

const DATA: u16 = 0;
const IER: u16 = 1;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const LSR_DATA_READY: u8 = 1;
const LSR_THR_EMPTY: u8 = 0x20;
const LSR_BREAK: u8 = 0x10;

/// Sets the port up for 115200 baud 8N1 with FIFOs; the first call decides the place.
pub fn initialise(location: Location) {
    LOCATION.call_once(|| location);
    write(IER, 0);
    write(LCR, 0x80);
    write(DATA, 1);
    write(IER, 0);
    write(LCR, 3);
    write(FCR, 7);
    write(MCR, 0xb);
}

/// The place that was given to [`initialise`].
pub fn location() -> Location {
    LOCATION.get().copied().unwrap_or(Location::Disabled)
}

fn read(register: u16) -> u8 {
    match location() {
        // SAFETY: the UART belongs to the hypervisor alone.
        Location::Port(base) => unsafe { cpu::inb(base + register) },
        Location::Memory(base, stride) => {
            let address = (base + u64::from(register) * stride) as *const u8;
            // SAFETY: a device register that paging maps uncached; it belongs to the hypervisor.
            unsafe { address.read_volatile() }
        }
        Location::Disabled => 0,
    }
}

fn write(register: u16, value: u8) {
    match location() {
        // SAFETY: the UART belongs to the hypervisor alone and does no DMA.
        Location::Port(base) => unsafe { cpu::outb(base + register, value) },
        Location::Memory(base, stride) => {
            let address = (base + u64::from(register) * stride) as *mut u8;
            // SAFETY: a device register that paging maps uncached; it belongs to the hypervisor.
            unsafe { address.write_volatile(value) }
        }
        Location::Disabled => {}
    }
}

/// Sends one byte, waiting a bounded time for room.
pub fn send(byte: u8) {
    if location() == Location::Disabled {
        return;
    }
    for _ in 0..1_000_000 {
        if read(LSR) & LSR_THR_EMPTY != 0 {
            break;
        }
        core::hint::spin_loop();
    }
    write(DATA, byte);
}

/// Takes one received byte; a serial BREAK arrives as NUL, the console's escape.
pub fn receive() -> Option<u8> {
    if location() == Location::Disabled {
        return None;
    }
    let status = read(LSR);
    if status == 0xff || status & LSR_DATA_READY == 0 {
        return None;
    }
    let byte = read(DATA);
    Some(if status & LSR_BREAK != 0 { 0 } else { byte })
}

/// Lets the UART raise its interrupt when a byte arrives.
pub fn enable_receive_interrupt() {
    write(IER, 1);
}
