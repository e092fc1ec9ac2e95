//! Port I/O: the hypervisor's own devices, the policy for the rest, string instructions.

use super::{Next, fetch, general_protection, ioreq, page_fault};
use crate::arch::cpu;
use crate::vcpu::{Local, Vcpu};
use crate::virt::{IoExit, gpr};
use crate::vm::{ConsolePlace, Vm};
use crate::{interval_timer, pci, power, prelaunched, serial, virtual_pci};
use acrn_abi::{Gpa, Gva, PAGE_SIZE, guest_map};
use acrn_emulate::StringIo;
use acrn_emulate::paging::{Access, WalkError};
use acrn_vdev::pci::ConfigAddress;
use acrn_vdev::pit::Pit;
use acrn_vdev::uart::REGISTERS;

/// Answer to a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done; a read gives this value.
    Done(u32),
    /// The Device Model has to answer.
    Forward,
}

/// IN, OUT, INS or OUTS.
#[inline]
pub fn handle(vcpu: &'static Vcpu, local: &mut Local, access: IoExit) -> Next {
    if access.string() {
        return string(vcpu, local, access);
    }
    let value = if access.input() {
        0
    } else {
        local.registers.gpr[gpr::RAX] as u32
    };
    match self::access(
        vcpu,
        access.port(),
        access.size(),
        (!access.input()).then_some(value),
    ) {
        Answer::Done(value) => {
            finish(local, &access, value);
            Next::Continue
        }
        Answer::Forward => ioreq::port(vcpu, local, access, value),
    }
}

/// Puts the value of an IN into the accumulator and goes on behind the instruction.
#[inline]
pub fn finish(local: &mut Local, access: &IoExit, value: u32) {
    if access.input() {
        let rax = &mut local.registers.gpr[gpr::RAX];
        *rax = match access.size() {
            1 => *rax & !0xff | u64::from(value & 0xff),
            2 => *rax & !0xffff | u64::from(value & 0xffff),
            _ => value.into(),
        };
    }
    local.registers.rip = access.next_rip;
    local.virt.finish_instruction(&mut local.registers);
}

fn all_ones(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

/// One access of `size` bytes to a port; `write` is the value of a write.
fn access(vcpu: &'static Vcpu, port: u16, size: u8, write: Option<u32>) -> Answer {
    let vm = vcpu.vm();
    match port {
        0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 if size == 1 => Answer::Done(match write {
            Some(value) => {
                vm.with_pic(|pic| pic.write(port, value as u8));
                0
            }
            None => vm.read_pic(port).into(),
        }),
        _ if let Some(register) = uart_register(vm, port) => {
            let value = crate::console::access(vm, register, size, write.map(u64::from));
            Answer::Done(value as u32)
        }
        _ if let Some((end, register)) = vm.ports.at(port) => {
            let value = serial::access(end, register, size, write.map(u64::from));
            Answer::Done(value as u32)
        }
        _ if vm.is_service() => service_port(vcpu, port, size, write),
        _ if vm.is_pre_launched() => prelaunched::port(vcpu, port, size, write),
        0xcf8 => Answer::Done(config_address(vm, size, write)),
        0xcfc..=0xcff => config_data(vcpu, port, size, write),
        guest_map::PORT_PM_TIMER if size == 4 && write.is_none() => pm_timer(vm),
        _ if Pit::owns(port) && size == 1 => {
            let value = interval_timer::access(vm, port, write.map(|value| value as u8));
            value.map_or(Answer::Forward, |value| Answer::Done(value.into()))
        }
        _ => Answer::Forward,
    }
}

/// The register of the console's UART at a port.
#[inline]
fn uart_register(vm: &Vm, port: u16) -> Option<u8> {
    let ConsolePlace::Ports(place) = vm.uart.lock().place else {
        return None;
    };
    let register = port.wrapping_sub(place.port);
    (register < REGISTERS.into()).then_some(register as u8)
}

/// The PM timer of a User VM, where its Device Model leaves it to the hypervisor.
fn pm_timer(vm: &Vm) -> Answer {
    match &*vm.counters.lock() {
        Some(counters) => Answer::Done(counters.pm_timer(cpu::rdtsc())),
        None => Answer::Forward,
    }
}

/// The PCI address port of a User VM, which is 32 bits wide. It is kept here, so that only
/// accesses to the data port go to the Device Model.
fn config_address(vm: &Vm, size: u8, write: Option<u32>) -> u32 {
    if size != 4 {
        return all_ones(size);
    }
    let mut address = vm.config_address.lock();
    if let Some(value) = write {
        *address = value;
    }
    *address
}

/// The PCI data port of a User VM: some functions are the hypervisor's, the others those of the Device
/// Model.
fn config_data(vcpu: &Vcpu, port: u16, size: u8, write: Option<u32>) -> Answer {
    let vm = vcpu.vm();
    if !ioreq::config_enabled(vm) {
        return Answer::Done(all_ones(size));
    }
    let mut address = ConfigAddress::new();
    address.set(*vm.config_address.lock());
    let answer = address
        .decode(port, size)
        .and_then(|access| virtual_pci::config_access(vcpu, access, write));
    answer.map_or(Answer::Forward, Answer::Done)
}

/// Ports of the Service VM that are not simply the machine's.
fn service_port(vcpu: &'static Vcpu, port: u16, size: u8, write: Option<u32>) -> Answer {
    match port {
        0xcf9 if size == 1 => match write {
            Some(value) if value & 4 != 0 => power::service_reset(vcpu, "port 0xCF9"),
            Some(_) => Answer::Done(0),
            None => Answer::Done(pci::port_access(vcpu, port, size, write)),
        },
        0xcf8 | 0xcfc..=0xcff => Answer::Done(pci::port_access(vcpu, port, size, write)),
        _ if power::is_register(port, size) => power::register(vcpu, port, size, write),
        // The port or one behind it is not the machine's: it answers to bytes.
        _ if size > 1 => by_bytes(vcpu, port, size, write),
        // The controller's reset line is bit 0 of what it pulses.
        0x64 if write.is_some_and(|value| value & 0xf1 == 0xf0) => {
            power::service_reset(vcpu, "the keyboard controller")
        }
        0x92 if write.is_some_and(|value| value & 1 != 0) => {
            power::service_reset(vcpu, "port 0x92")
        }
        0xcfa | 0xcfb => Answer::Done(all_ones(size)),
        _ if crate::console::host_uart_ports().contains(&port) => Answer::Done(all_ones(size)),
        _ if pci::is_withheld_port(port) => Answer::Done(all_ones(size)),
        _ => Answer::Done(host_port(port, size, write)),
    }
}

/// An access that is wider than a port, as a bus of bytes does it.
#[cold]
fn by_bytes(vcpu: &'static Vcpu, port: u16, size: u8, write: Option<u32>) -> Answer {
    let mut value = 0;
    for i in 0..size.min(4) {
        let at = port.wrapping_add(i.into());
        let part = write.map(|value| value >> (8 * i) & 0xff);
        match access(vcpu, at, 1, part) {
            Answer::Done(read) => value |= (read & 0xff) << (8 * i),
            Answer::Forward => value |= 0xff << (8 * i),
        }
    }
    Answer::Done(value)
}

/// The machine's own port, for the Service VM, which owns the devices.
pub fn host_port(port: u16, size: u8, write: Option<u32>) -> u32 {
    // SAFETY: the ports that belong to the hypervisor were sorted out above. What the Service VM
    // makes its devices do is its right; see SECURITY.md about their DMA.
    unsafe {
        match (size, write) {
            (1, Some(v)) => cpu::outb(port, v as u8),
            (2, Some(v)) => cpu::outw(port, v as u16),
            (_, Some(v)) => cpu::outl(port, v),
            (1, None) => return cpu::inb(port).into(),
            (2, None) => return cpu::inw(port).into(),
            (_, None) => return cpu::inl(port),
        }
    }
    0
}

/// INS and OUTS, one element each time; a repeated one comes back for the next.
fn string(vcpu: &'static Vcpu, local: &mut Local, access: IoExit) -> Next {
    let mut bytes = [0; fetch::LENGTH];
    let count = fetch::instruction(vcpu, local, &mut bytes);
    let Ok(instruction) = StringIo::decode(&bytes[..count], fetch::mode(local)) else {
        return general_protection(local);
    };
    if instruction.count(&fetch::View(local)) == 0 {
        local
            .virt
            .advance(&mut local.registers, instruction.length.into());
        return Next::Continue;
    }
    let address = instruction.address(&fetch::View(local));
    let kind = if access.input() {
        Access::Write
    } else {
        Access::Read
    };
    let size = usize::from(access.size().min(4));
    let place = match Place::find(vcpu.vm(), local, address, size, kind) {
        Ok(place) => place,
        Err(error) => return walk_failed(local, error),
    };
    let mut value = [0; 4];
    if !access.input() && !place.read(vcpu.vm(), &mut value[..size]) {
        return general_protection(local);
    }
    let written = u32::from_le_bytes(value);
    let write = (!access.input()).then_some(written);
    match self::access(vcpu, access.port(), access.size(), write) {
        Answer::Done(value) => finish_string(vcpu, local, &instruction, place, value),
        Answer::Forward => ioreq::string_port(vcpu, local, access, instruction, place, written),
    }
}

/// Where an element of INS or OUTS is in the guest's memory: in one page or across two.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    start: Gpa,
    /// Bytes there.
    here: usize,
    /// Where the others are.
    rest: Gpa,
}

impl Place {
    fn find(
        vm: &Vm,
        local: &Local,
        address: Gva,
        size: usize,
        kind: Access,
    ) -> Result<Self, WalkError> {
        let start = fetch::translate(vm, local, address, kind)?;
        let here = size.min((PAGE_SIZE - start.page_offset()) as usize);
        let rest = match here == size {
            true => start,
            false => {
                let next = Gva(address.0.wrapping_add(here as u64));
                fetch::translate(vm, local, next, kind)?
            }
        };
        Ok(Self { start, here, rest })
    }

    fn read(&self, vm: &Vm, bytes: &mut [u8]) -> bool {
        let (first, second) = bytes.split_at_mut(self.here.min(bytes.len()));
        vm.read(self.start, first) && vm.read(self.rest, second)
    }

    fn write(&self, vm: &Vm, bytes: &[u8]) -> bool {
        let (first, second) = bytes.split_at(self.here.min(bytes.len()));
        vm.write(self.start, first) && vm.write(self.rest, second)
    }
}

/// Stores what was read and moves on to the next element or instruction.
pub fn finish_string(
    vcpu: &Vcpu,
    local: &mut Local,
    instruction: &StringIo,
    place: Place,
    value: u32,
) -> Next {
    let size = usize::from(instruction.size.min(4));
    if !instruction.write && !place.write(vcpu.vm(), &value.to_le_bytes()[..size]) {
        return general_protection(local);
    }
    if instruction.advance(&mut fetch::View(local)) {
        local
            .virt
            .advance(&mut local.registers, instruction.length.into());
    } else {
        // Between two repetitions an interrupt is possible.
        local.virt.finish_instruction(&mut local.registers);
    }
    Next::Continue
}

/// Turns a failed guest page walk into the exception that the guest expects.
pub fn walk_failed(local: &mut Local, error: WalkError) -> Next {
    match error {
        WalkError::Fault(fault) => page_fault(local, fault.address, fault.error_code),
        _ => general_protection(local),
    }
}
