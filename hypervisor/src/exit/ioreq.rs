//! Requests to the Device Model: the slot in the shared page, the upcall, and the end of the
//! instruction once the answer is there (reference: ACRN's `struct acrn_io_request`).

use super::{Next, io, mmio};
use crate::memory::{load_guest_u32, load_guest_u64, store_guest_u32, write_guest};
use crate::vcpu::{Local, Vcpu, Wait, request};
use crate::virt::IoExit;
use crate::vm::{self, Vm};
use acrn_abi::hypercall::DEFAULT_UPCALL_VECTOR;
use acrn_abi::ioreq::{
    DIRECTION_READ, DIRECTION_WRITE, Kind, MmioRequest, OFFSET_PAYLOAD, OFFSET_PROCESSED,
    PciRequest, PioRequest, SLOT_SIZE, State,
};
use acrn_abi::{Gpa, Hpa, Vector, guest_map};
use acrn_config_blob::LoadOrder;
use acrn_emulate::{Emulation, StringIo};
use acrn_lifecycle::{Caller, VmRequest};
use core::sync::atomic::{AtomicU8, Ordering};
use zerocopy::IntoBytes;

/// Vector of the upcall into the Service VM.
pub static UPCALL_VECTOR: AtomicU8 = AtomicU8::new(DEFAULT_UPCALL_VECTOR);

/// The instruction that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub enum PendingIo {
    /// None.
    None,
    /// IN or OUT.
    Port(IoExit),
    /// INS or OUTS: the element's memory.
    StringPort(StringIo, io::Place),
    /// A memory access.
    Memory(Emulation),
    /// The VM is ending; no instruction goes on.
    Ending,
}

fn slot(vcpu: &Vcpu) -> Option<Hpa> {
    let page = vcpu.vm().ioreq_page.load(Ordering::Acquire);
    (page != 0).then(|| Hpa(page + (vcpu.id.index() * SLOT_SIZE) as u64))
}

/// Fills the vCPU's slot, tells the Service VM and waits.
fn submit(vcpu: &Vcpu, kind: Kind, payload: &[u8]) -> Next {
    let Some(slot) = slot(vcpu) else {
        vcpu.set_wait(Wait::Stopped);
        return Next::Block;
    };
    vcpu.set_wait(Wait::Io);
    let header = [kind.0, 0];
    write_guest(slot, header.as_bytes());
    write_guest(Hpa(slot.0 + OFFSET_PAYLOAD as u64), payload);
    // Last, after all else: from here on the slot is the Service VM's.
    store_guest_u32(Hpa(slot.0 + OFFSET_PROCESSED as u64), State::PENDING.0);
    call_up();
    vcpu.shared.stats.add(crate::virt::Exit::REASONS - 1, 0);
    Next::Block
}

fn call_up() {
    if let Some(target) = vm::service().vcpu(0) {
        target.post(Vector(UPCALL_VECTOR.load(Ordering::Relaxed)), false);
    }
}

/// The Service VM has turned a local APIC on: a call that came while it was off was lost, over a sleep of the
/// machine for instance, and is made again.
#[cold]
#[inline(never)]
pub fn remind(target: &Vcpu) {
    let waits = |vm: &Vm| {
        vm.origin() == LoadOrder::PostLaunched
            && vm.active_vcpus().any(|vcpu| vcpu.wait() == Wait::Io)
    };
    let receives = target.vm().is_service() && target.id.0 == 0;
    if receives && vm::all().iter().any(waits) {
        call_up();
    }
}

fn submit_port(vcpu: &Vcpu, port: u16, size: u8, write: Option<u32>) -> Next {
    let request = PioRequest {
        direction: if write.is_some() {
            DIRECTION_WRITE
        } else {
            DIRECTION_READ
        },
        reserved: 0,
        address: port.into(),
        size: size.into(),
        value: write.unwrap_or(0),
        padding: 0,
    };
    submit(vcpu, Kind::PORT_IO, request.as_bytes())
}

/// Asks the Device Model about a port.
pub fn port(vcpu: &Vcpu, local: &mut Local, access: IoExit, value: u32) -> Next {
    local.pending_io = PendingIo::Port(access);
    let mask = if access.size() >= 4 {
        u32::MAX
    } else {
        (1 << (8 * access.size())) - 1
    };
    let write = (!access.input()).then_some(value & mask);
    if access.port() == guest_map::PORT_PM1A_CONTROL && write.is_some_and(is_power_off) {
        // Executed once more when the state is in use just now.
        if !announce_end(vcpu.vm()) {
            local.pending_io = PendingIo::None;
            return Next::Yield;
        }
    }
    match access.port() {
        0xcfc..=0xcff => submit_config(vcpu, access.port(), access.size(), write),
        port => submit_port(vcpu, port, access.size(), write),
    }
}

/// Whether the VM's last write to the PCI address port opened the data port.
pub fn config_enabled(vm: &Vm) -> bool {
    *vm.config_address.lock() & CONFIG_ENABLE != 0
}

const CONFIG_ENABLE: u32 = 1 << 31;

/// An access to the PCI data port, as the Service VM's kernel would rewrite it: it has an address
/// latch of its own, which stays unused.
fn submit_config(vcpu: &Vcpu, port: u16, size: u8, write: Option<u32>) -> Next {
    let address = *vcpu.vm().config_address.lock();
    let request = PciRequest {
        direction: if write.is_some() {
            DIRECTION_WRITE
        } else {
            DIRECTION_READ
        },
        reserved: [0; 3],
        size: size.into(),
        value: write.unwrap_or(0),
        bus: address >> 16 & 0xff,
        device: address >> 11 & 0x1f,
        function: address >> 8 & 7,
        // Bits 27:24 reach the extended registers, as on AMD and in Linux.
        register: address & 0xfc | address >> 16 & 0xf00 | u32::from(port & 3),
        padding: 0,
    };
    submit(vcpu, Kind::PCI_CONFIG, request.as_bytes())
}

/// Asks the Device Model about one element of a string instruction.
pub fn string_port(
    vcpu: &Vcpu,
    local: &mut Local,
    access: IoExit,
    instruction: StringIo,
    place: io::Place,
    value: u32,
) -> Next {
    local.pending_io = PendingIo::StringPort(instruction, place);
    submit_port(
        vcpu,
        access.port(),
        access.size(),
        (!access.input()).then_some(value),
    )
}

/// Asks the Device Model about a memory access.
pub fn memory(vcpu: &Vcpu, gpa: Gpa, size: u8, write: Option<u64>) -> Next {
    let request = MmioRequest {
        direction: if write.is_some() {
            DIRECTION_WRITE
        } else {
            DIRECTION_READ
        },
        reserved: 0,
        address: gpa.0,
        size: size.into(),
        value: write.unwrap_or(0),
    };
    submit(vcpu, Kind::MMIO, request.as_bytes())
}

/// What a guest writes to PM1a to power itself off: SLP_TYP 5, SLP_EN.
const S5: u32 = 5 << 10 | 1 << 13;

const fn is_power_off(value: u32) -> bool {
    value & (7 << 10 | 1 << 13) == S5
}

/// A real-time VM ends by itself: from now on its Device Model may take it apart. `false` when that cannot be
/// noted yet, because who holds the state may wait for this very vCPU.
#[cold]
#[inline(never)]
fn announce_end(vm: &Vm) -> bool {
    if !vm.is_real_time() {
        return true;
    }
    let Some(mut state) = vm.state.try_lock() else {
        return false;
    };
    if let Ok(next) = state.on(VmRequest::GuestPowerOff, Caller::Guest, vm.standing()) {
        *state = next;
    }
    true
}

/// Tells the Device Model that the VM wants to power off, as a guest's write to PM1a would, after a triple
/// fault or a fatal exit.
pub fn power_off(vcpu: &Vcpu, local: &mut Local) -> Next {
    end(vcpu, local, request::OFF, || {
        submit_port(vcpu, guest_map::PORT_PM1A_CONTROL, 2, Some(S5))
    })
}

/// Ends the VM as `submit` says, or later, when `request` comes again.
#[cold]
fn end(vcpu: &Vcpu, local: &mut Local, request: u32, submit: impl FnOnce() -> Next) -> Next {
    if !announce_end(vcpu.vm()) {
        vcpu.ask(request);
        return Next::Yield;
    }
    local.pending_io = PendingIo::Ending;
    submit()
}

/// Tells the Device Model that the VM wants to be reset, as a guest's write to the reset control
/// register would.
pub fn reset(vcpu: &Vcpu, local: &mut Local) -> Next {
    const FULL_RESET: u32 = 0xe;
    end(vcpu, local, request::RESET, || {
        submit_port(vcpu, guest_map::PORT_RESET_CONTROL, 1, Some(FULL_RESET))
    })
}

/// The answer is there: ends the instruction.
pub fn complete(vcpu: &'static Vcpu, local: &mut Local) {
    let Some(slot) = slot(vcpu) else { return };
    let processed = Hpa(slot.0 + OFFSET_PROCESSED as u64);
    if load_guest_u32(processed) != Some(State::COMPLETE.0) {
        // Notified without an answer: keep waiting, whoever notified owes it still.
        return;
    }
    // The value is at the same place in all requests (offset 24 of the payload).
    let value = load_guest_u64(Hpa(slot.0 + OFFSET_PAYLOAD as u64 + 24)).unwrap_or(u64::MAX);
    store_guest_u32(processed, State::FREE.0);
    vcpu.set_wait(Wait::Nothing);
    match core::mem::replace(&mut local.pending_io, PendingIo::None) {
        PendingIo::None => {}
        PendingIo::Port(access) => io::finish(local, &access, value as u32),
        PendingIo::StringPort(instruction, place) => {
            io::finish_string(vcpu, local, &instruction, place, value as u32);
        }
        PendingIo::Memory(mut emulation) => {
            let step = emulation.resume(&mut super::fetch::View(local), value);
            mmio::proceed(vcpu, local, emulation, step, None);
        }
        PendingIo::Ending => vcpu.set_wait(Wait::Stopped),
    }
}
