//! What happens on each exit. One line an exit here; the work is in the modules below.

pub mod cpuid;
pub mod fetch;
pub mod hypercall;
pub mod io;
pub mod ioreq;
pub mod mmio;
pub mod msr;
mod task;

use crate::arch::cpu;
use crate::vcpu::{Local, Vcpu, Wait};
use crate::virt::{Event, Exit, NotAllowed, exception, gpr};
use acrn_abi::Gva;
use acrn_vdev::cpuid::XCR0_ALLOWED;
use core::sync::atomic::Ordering;

pub use ioreq::PendingIo;

/// What the run loop does after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter again.
    Continue,
    /// Let others run; ready to go on.
    Yield,
    /// Not ready any more.
    Block,
}

/// Handles an exit.
#[inline]
pub fn handle(vcpu: &'static Vcpu, local: &mut Local, exit: Exit) -> Next {
    match exit {
        Exit::Cpuid => cpuid::handle(vcpu, local),
        Exit::Msr { write } => msr::handle(vcpu, local, write),
        Exit::Io => io::handle(vcpu, local, local.virt.port_access()),
        Exit::NestedFault => mmio::handle(vcpu, local, local.virt.nested_fault()),
        Exit::EndOfInterrupt(vector) => {
            vcpu.vm().end_of_interrupt(vector);
            Next::Continue
        }
        Exit::Hlt => halt(vcpu, local),
        Exit::Pause => skip(local, 2, Next::Yield),
        Exit::Interrupt | Exit::InterruptWindow | Exit::Nmi => Next::Continue,
        Exit::Deadline => {
            // The run loop looks whether it is due.
            let deadline = vcpu.shared.deadline.load(Ordering::Relaxed);
            local.virt.use_deadline(deadline != u64::MAX);
            Next::Continue
        }
        Exit::NmiWindow => {
            local.virt.end_nmi();
            Next::Continue
        }
        Exit::ControlRegister => control_register(vcpu, local),
        Exit::TaskSwitch => task::handle(vcpu, local),
        Exit::Xsetbv => xsetbv(local),
        // Writing back loses nothing, while INVD would drop other VMs' data.
        Exit::Wbinvd | Exit::Invd => {
            cpu::wbinvd();
            skip(local, 2, Next::Continue)
        }
        Exit::Hypercall => hypercall::handle(vcpu, local),
        Exit::UndefinedOpcode => undefined_opcode(vcpu, local),
        Exit::Exception(vector) => inject(local, vector, (vector == exception::AC).then_some(0)),
        Exit::Refused => inject(local, exception::UD, None),
        Exit::Shutdown => crate::lifecycle::triple_fault(vcpu, local),
        Exit::InvalidState => refused_state(vcpu, local, exit),
        Exit::Unknown => crate::lifecycle::fatal(vcpu, local, "unknown exit", exit),
    }
}

fn skip(local: &mut Local, length: u64, next: Next) -> Next {
    local.virt.advance(&mut local.registers, length);
    next
}

/// Gives the guest an exception instead of what it wanted.
pub fn inject(local: &mut Local, vector: u8, code: Option<u32>) -> Next {
    local.virt.inject(Event::Exception(vector, code));
    Next::Continue
}

/// Gives the guest #GP(0).
pub fn general_protection(local: &mut Local) -> Next {
    inject(local, exception::GP, Some(0))
}

/// Gives the guest #PF.
pub fn page_fault(local: &mut Local, address: Gva, code: u32) -> Next {
    local.virt.set_cr2(address.0);
    inject(local, exception::PF, Some(code))
}

fn halt(vcpu: &Vcpu, local: &mut Local) -> Next {
    vcpu.set_wait(Wait::Halt);
    skip(local, 1, Next::Continue)
}

/// Carries out the HLT of "STI; HLT" between which a host interrupt has come. Were the guest entered
/// again and the shadow of STI lost, an interrupt would be taken before the HLT, and the HLT would wait
/// for the next one.
#[cold]
pub fn halt_in_shadow(vcpu: &Vcpu, local: &mut Local) -> Next {
    const HLT: u8 = 0xf4;
    let mut bytes = [0; fetch::LENGTH];
    let count = fetch::instruction(vcpu, local, &mut bytes);
    match bytes[..count].first() {
        Some(&HLT) if local.virt.control().cpl == 0 => halt(vcpu, local),
        _ => Next::Continue,
    }
}

#[cold]
fn control_register(vcpu: &Vcpu, local: &mut Local) -> Next {
    let memory = |gpa| vcpu.vm().read_word(gpa);
    let done = local
        .virt
        .access_control_register(&mut local.registers, memory);
    match done {
        Ok(()) => Next::Continue,
        Err(NotAllowed) => general_protection(local),
    }
}

#[cold]
fn xsetbv(local: &mut Local) -> Next {
    let g = &local.registers.gpr;
    let value = g[gpr::RDX] << 32 | g[gpr::RAX] & 0xffff_ffff;
    let index = g[gpr::RCX] as u32;
    let control = local.virt.control();
    if control.cr4 & cpu::cr4::OSXSAVE == 0 {
        return inject(local, exception::UD, None);
    }
    let supported = cpu::cpuid(0xd, 0);
    let supported = u64::from(supported.edx) << 32 | u64::from(supported.eax);
    let valid = control.cpl == 0
        && index == 0
        && value & 1 != 0
        && value & !(supported & XCR0_ALLOWED) == 0
        && cpu::try_xsetbv(0, value).is_ok();
    if !valid {
        return general_protection(local);
    }
    local.xcr0 = value;
    skip(local, 3, Next::Continue)
}

/// VMCALL without prefixes.
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];

/// VMCALL of an unmodified guest is #UD where the processor has another instruction for it.
#[cold]
fn undefined_opcode(vcpu: &'static Vcpu, local: &mut Local) -> Next {
    let mut bytes = [0; fetch::LENGTH];
    let count = fetch::instruction(vcpu, local, &mut bytes);
    let plain = count >= VMCALL.len() && bytes.starts_with(&VMCALL);
    if plain || acrn_emulate::is_vmcall(&bytes[..count], fetch::mode(local)) {
        return hypercall::handle(vcpu, local);
    }
    inject(local, exception::UD, None)
}

/// The processor did not enter the guest. QEMU says the same when a guest writes reserved bits to CR3
/// or CR4, which is #GP on processors; should that be refused too, again and again, the VM ends.
#[cold]
fn refused_state(vcpu: &'static Vcpu, local: &mut Local, exit: Exit) -> Next {
    const MOST: u32 = 10_000;
    let mut bytes = [0; fetch::LENGTH];
    let count = fetch::instruction(vcpu, local, &mut bytes);
    let writes_control = match &bytes[..count] {
        [0x0f, 0x22, operands, ..] | [0x40..=0x4f, 0x0f, 0x22, operands, ..] => {
            matches!(operands >> 3 & 7, 3 | 4)
        }
        _ => false,
    };
    local.refused = match local.refused {
        (rip, times) if rip == local.registers.rip => (rip, times + 1),
        _ => (local.registers.rip, 0),
    };
    if writes_control && local.refused.1 < MOST {
        return general_protection(local);
    }
    crate::lifecycle::fatal(vcpu, local, "entry state refused", exit)
}

/// INIT: the vCPU waits for a start-up IPI afterwards, unless it is the bootstrap processor of
/// a VM that has not been started, which cannot be here.
pub fn init_vcpu(vcpu: &Vcpu, local: &mut Local) {
    local.virt.init(&mut local.registers);
    local.lapic.reset();
    local.lapic.publish(&vcpu.vm().identities[vcpu.id.index()]);
    vcpu.shared.posted.clear();
    vcpu.shared.deadline.store(u64::MAX, Ordering::Relaxed);
    local.pending_io = PendingIo::None;
    vcpu.set_wait(Wait::StartUp);
    crate::lapic_passthrough::reconcile(vcpu, local);
}
