//! What a device may reach by DMA, tried with one that copies as it is told: QEMU's `edu`.
//!
//! It has a buffer of its own, and copies between that and any address, those at which messages become interrupts
//! included.

use super::addresses::hidden;
use crate::report::Test;
use crate::trap::count;
use crate::{apic, cpu, params, pci};

/// Vendor 0x1234, device 0x11e8.
const ID: u32 = 0x11e8_1234;
/// The buffer, as the device addresses it.
const BUFFER: u32 = 0x4_0000;
/// Bytes that are copied: less than the buffer has.
const SIZE: u32 = 2048;
/// Registers of QEMU's IOMMU, which has them at a fixed place.
const IOMMU: u64 = 0xfed9_0000;

/// What the guest wants for the device's interrupts.
const VECTOR: u8 = 0x51;
/// The first vector that the hypervisor gives to a device.
const HOST_VECTOR: u32 = 0x30;
/// A message to CPU 0, whose data is the vector. Where interrupts are remapped it names entry 0x20, which is
/// nobody's: the number of an exception.
const MESSAGE: u64 = 0xfee0_0010 | 0x20 << 5;

fn load(address: u64) -> u32 {
    // SAFETY: identity-mapped: own memory, or registers of a device.
    unsafe { (address as *const u32).read_volatile() }
}

fn store(address: u64, value: u32) {
    // SAFETY: as for `load`.
    unsafe { (address as *mut u32).write_volatile(value) }
}

struct Edu {
    device: u32,
    registers: u64,
}

impl Edu {
    const RAISE: u64 = 0x60;
    const ACKNOWLEDGE: u64 = 0x64;
    const SOURCE: u64 = 0x80;
    const TARGET: u64 = 0x88;
    const COUNT: u64 = 0x90;
    const COMMAND: u64 = 0x98;
    const RUN: u32 = 1;
    const TO_MEMORY: u32 = 2;

    fn find() -> Option<Self> {
        let device = (0..32).find(|device| pci::read(*device, 0) == ID)?;
        let registers = u64::from(pci::read(device, 0x10) & !0xf);
        // Decodes memory, and may begin transfers.
        pci::write(device, 4, pci::read(device, 4) | 6);
        print!("edu: device {device:#x} at {registers:#x}\n");
        Some(Self { device, registers })
    }

    /// From an address into the buffer; `false` when the device does not come to the end.
    fn read(&self, from: u64) -> bool {
        self.copy(from as u32, BUFFER, SIZE, Self::RUN)
    }

    /// From the buffer to an address.
    fn write(&self, to: u64) -> bool {
        self.copy(BUFFER, to as u32, SIZE, Self::RUN | Self::TO_MEMORY)
    }

    /// A word from memory to an address.
    fn write_word(&self, from: u64, to: u64) -> bool {
        self.copy(from as u32, BUFFER, 4, Self::RUN)
            && self.copy(BUFFER, to as u32, 4, Self::RUN | Self::TO_MEMORY)
    }

    /// Lets it interrupt by messages.
    fn enable_messages(&self) {
        let mut at = pci::read(self.device, 0x34) & 0xfc;
        while at != 0 && pci::read(self.device, at) & 0xff != 5 {
            at = pci::read(self.device, at) >> 8 & 0xfc;
        }
        let control = pci::read(self.device, at);
        let data = if control & 1 << 23 != 0 {
            at + 12
        } else {
            at + 8
        };
        pci::write(self.device, at + 4, 0xfee0_0000 | apic::id() << 12);
        pci::write(self.device, data, VECTOR.into());
        pci::write(self.device, at, control | 1 << 16);
    }

    /// Raises its interrupt and takes it back.
    fn interrupt(&self) {
        store(self.registers + Self::RAISE, 1);
        store(self.registers + Self::ACKNOWLEDGE, 1);
    }

    fn copy(&self, from: u32, to: u32, size: u32, command: u32) -> bool {
        store(self.registers + Self::SOURCE, from);
        store(self.registers + Self::TARGET, to);
        store(self.registers + Self::COUNT, size);
        store(self.registers + Self::COMMAND, command);
        let done = || load(self.registers + Self::COMMAND) & Self::RUN == 0;
        cpu::wait_for(cpu::ms(10_000), done)
    }
}

/// Words that differ from page to page and from place to place.
fn pattern(page: u64, offset: u64) -> u32 {
    0x5a5a_0000 ^ (page as u32) << 8 ^ offset as u32
}

fn fill(page: u64) {
    (0..u64::from(SIZE))
        .step_by(4)
        .for_each(|offset| store(page + offset, pattern(page, offset)));
}

/// The words at an address that are not what is expected there.
fn differing(page: u64, expected: impl Fn(u64) -> u32) -> usize {
    let offsets = (0..u64::from(SIZE)).step_by(4);
    offsets.filter(|o| load(page + o) != expected(*o)).count()
}

/// The device reaches the guest's memory, and no byte of the hypervisor's.
pub(super) fn confined(t: &Test) {
    let Some(edu) = Edu::find() else {
        return expect!(t, false, "no such device");
    };
    let Some(own) = params::high_memory(3 * 4096, 1 << 32) else {
        return expect!(t, false, "no free memory");
    };
    let (first, second, target) = (own, own + 4096, own + 2 * 4096);
    fill(first);
    fill(second);
    expect!(t, edu.read(first) && edu.write(target), "no copy");
    let wrong = differing(target, |offset| pattern(first, offset));
    expect!(t, wrong == 0, "{wrong} words of own memory are wrong");
    for range in hidden() {
        expect!(t, edu.read(first), "no copy");
        // Were these to succeed, the hypervisor might not live to see the end of the test.
        for page in [range.end - 4096, range.start] {
            expect!(t, edu.write(page), "no end of a write to {page:#x}");
        }
        print!("refused: {:#x}\n", range.start);
        // The buffer gets other words than those that were written.
        expect!(t, edu.read(second), "no copy");
        expect!(t, edu.read(range.start), "no end of a read");
        expect!(t, edu.write(target), "no end of a copy");
        // A read that is refused gives the device zeros, or nothing.
        let zeros = differing(target, |_| 0);
        let seen = zeros.min(differing(target, |offset| pattern(second, offset)));
        expect!(t, seen == 0, "{seen} words of {:#x} are seen", range.start);
    }
}

/// Where interrupts are not remapped, what the device writes becomes one.
pub(super) fn interrupts(t: &Test) {
    let before = attack(t);
    let came = cpu::wait_for(cpu::ms(3000), || count(VECTOR) == before + 1);
    expect!(t, came, "the written message is no interrupt");
}

/// Where they are, the device raises its own interrupt and no other.
pub(super) fn blocked_interrupts(t: &Test) {
    let before = attack(t);
    cpu::wait_for(cpu::ms(300), || count(VECTOR) != before);
    let more = count(VECTOR) - before;
    expect!(t, more == 0, "the written message is {more} interrupts");
}

/// Interrupts as a device may, then writes a message with the host's vector for that by DMA. Returns how
/// many interrupts there were before.
fn attack(t: &Test) -> u64 {
    let (Some(edu), Some(word)) = (Edu::find(), params::high_memory(4096, 1 << 32)) else {
        expect!(t, false, "no such device, or no free memory");
        return 0;
    };
    cpu::enable_interrupts();
    edu.enable_messages();
    let before = count(VECTOR);
    edu.interrupt();
    let came = cpu::wait_for(cpu::ms(3000), || count(VECTOR) == before + 1);
    expect!(t, came, "{} interrupts of its own", count(VECTOR) - before);
    let before = count(VECTOR);
    store(word, HOST_VECTOR);
    expect!(t, edu.write_word(word, MESSAGE), "no end of a write");
    before
}

/// The units are not there for a guest.
pub(super) fn units(t: &Test) {
    store(IOMMU + 0x18, 0);
    let version = load(IOMMU);
    expect!(t, version == u32::MAX, "version {version:#x}");
}
