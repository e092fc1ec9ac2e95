//! Life and death of VMs: making vCPUs, stopping, and what happens when a guest goes wrong.
//! Decisions on states are those of the `acrn-lifecycle` crate.

use crate::arch::cpu;
use crate::exit::{Next, ioreq, msr};
use crate::vcpu::{Local, Vcpu, Wait, request};
use crate::virt::{self, Exit, Registers, VirtConfig};
use crate::virtual_pci;
use crate::vm::Vm;
use crate::{config, percpu, power, static_vm};
use acrn_abi::PcpuId;
use acrn_config_blob::LoadOrder;
use acrn_lifecycle::{Caller, VmRequest};
use acrn_sched::Params;
use acrn_vdev::lapic::VLapic;
use core::sync::atomic::Ordering;
use spin::{Mutex, Once};

/// I/O permission map: 12 KiB, bit set = intercepted.
#[repr(C, align(4096))]
struct IoBitmap([u8; 12288]);
/// MSR permission map in the form of this machine's vendor.
#[repr(C, align(4096))]
struct MsrBitmap([u8; virt::MSR_BITMAP_SIZE]);

static SERVICE_IO: Once<IoBitmap> = Once::new();
static DENY_IO: Once<IoBitmap> = Once::new();
/// Filled in place: it is too large for a stack.
static MSRS: Mutex<MsrBitmap> = Mutex::new(MsrBitmap([0; virt::MSR_BITMAP_SIZE]));
static MSRS_ARE_FILLED: Once = Once::new();

/// Ports of the Service VM that the hypervisor looks at; the others are the machine's own.
pub fn service_io_bitmap() -> u64 {
    let bitmap = SERVICE_IO.call_once(|| {
        let mut bits = [0u8; 12288];
        let mut trap = |port: u16| bits[usize::from(port / 8)] |= 1 << (port % 8);
        [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x64, 0x92]
            .into_iter()
            .for_each(&mut trap);
        (0xcf8..=0xcff).for_each(&mut trap);
        power::ports().for_each(&mut trap);
        let uart = crate::boot::platform().map_or(0x3f8, |platform| {
            crate::console::service_uart(platform).port
        });
        (uart..uart + 8).for_each(&mut trap);
        crate::console::host_uart_ports().for_each(&mut trap);
        crate::pci::for_each_withheld_port(&mut trap);
        crate::vm::service().ports.each().for_each(&mut trap);
        IoBitmap(bits)
    });
    (&raw const *bitmap) as u64
}

/// Ports of a User VM: none is the machine's.
pub fn user_io_bitmap() -> u64 {
    let bitmap = DENY_IO.call_once(|| IoBitmap([0xff; 12288]));
    (&raw const *bitmap) as u64
}

/// The MSRs that pass through, for every VM.
pub fn msr_bitmap() -> u64 {
    let mut bitmap = MSRS.lock();
    MSRS_ARE_FILLED.call_once(|| {
        bitmap.0.fill(0xff);
        for index in msr::PASS_THROUGH {
            virt::pass_msr(&mut bitmap.0, index);
        }
        virt::finish_msr_bitmap(&mut bitmap.0);
    });
    (&raw const *bitmap) as u64
}

/// Sets a vCPU up on a CPU: reset state, own APIC id, its share of the CPU. `None` when the CPU is full.
pub fn prepare_vcpu(
    vcpu: &'static Vcpu,
    config: &VirtConfig,
    cpu: PcpuId,
    apic_id: u32,
    share: Params,
) -> Option<()> {
    let host = percpu::get(cpu);
    let policy = || config::policy(cpu);
    let slot = host.queue().lock().add(vcpu, share, policy)?;
    vcpu.shared.pcpu.store(cpu.0.into(), Ordering::Relaxed);
    vcpu.shared.slot.store(slot as u32, Ordering::Relaxed);
    vcpu.shared.stats.clear();
    // SAFETY: the VM is not running, so nobody else uses the private part.
    let local = unsafe { vcpu.local() };
    local.virt.configure(config, &vcpu.shared.posted);
    local.virt.set_tsc_offset(0);
    reset_vcpu(vcpu, local, apic_id);
    vcpu.shared.active.store(true, Ordering::SeqCst);
    Some(())
}

/// Takes a vCPU off its CPU for good and waits until it is gone. Its VM is stopped, or it is not
/// the caller's own.
pub fn retire_vcpu(vcpu: &'static Vcpu, caller: Option<&Vcpu>) {
    if !vcpu.shared.active.swap(false, Ordering::SeqCst) {
        return;
    }
    let slot = vcpu.shared.slot.load(Ordering::Relaxed) as usize;
    percpu::get(vcpu.pcpu())
        .queue()
        .lock()
        .remove(slot, cpu::rdtsc());
    vcpu.wake();
    while vcpu.shared.on_cpu.load(Ordering::SeqCst) {
        if let Some(own) = caller {
            crate::run::note_flush_while_waiting(own);
        }
        core::hint::spin_loop();
    }
    vcpu.set_wait(Wait::Stopped);
    vcpu.shared.posted.clear();
    vcpu.shared.requests.store(0, Ordering::SeqCst);
    vcpu.shared.deadline.store(u64::MAX, Ordering::Relaxed);
}

/// vCPUs and devices of a VM as after its creation; its memory stays. The caller has stopped the VM and
/// holds the lock of its state.
pub fn reset_vm(vm: &'static Vm) {
    for vcpu in vm.active_vcpus() {
        // SAFETY: the VM is stopped and its state lock is held by the caller.
        let local = unsafe { vcpu.local() };
        reset_vcpu(vcpu, local, vcpu.apic_id());
    }
    vm.reset_devices();
    vm.ports.reset();
    virtual_pci::reset(vm);
    // The IOAPIC keeps what its sources say, and this source has fallen silent.
    vm.refresh_uart_line();
}

/// Reset state of a vCPU; the bootstrap processor waits for registers, others for SIPI.
pub fn reset_vcpu(vcpu: &Vcpu, local: &mut Local, apic_id: u32) {
    local.registers = Registers::new();
    local.virt.init(&mut local.registers);
    local.lapic = VLapic::new(apic_id, vcpu.id.0 == 0, TIMER_SHIFT);
    local.lapic.publish(&vcpu.vm().identities[vcpu.id.index()]);
    local.xsave.reset();
    local.xcr0 = 1;
    local.tsc_aux = 0;
    local.breakpoints = [0; 4];
    local.msrs = msr::Kept::new();
    local.pending_io = ioreq::PendingIo::None;
    vcpu.shared.posted.clear();
    vcpu.shared.requests.store(0, Ordering::SeqCst);
    vcpu.shared.deadline.store(u64::MAX, Ordering::Relaxed);
    vcpu.shared.generation.fetch_add(1, Ordering::SeqCst);
    vcpu.set_wait(if vcpu.id.0 == 0 {
        Wait::Nothing
    } else {
        Wait::StartUp
    });
}

/// The virtual LAPIC timer counts at the TSC rate divided by 2 to this power.
const TIMER_SHIFT: u8 = 0;

/// A vCPU ran into a triple fault.
pub fn triple_fault(vcpu: &'static Vcpu, local: &mut Local) -> Next {
    end_vm(vcpu, local, "triple fault", true)
}

/// A vCPU cannot go on: its VM stops, with a dump, and its owner is told.
pub fn fatal(vcpu: &'static Vcpu, local: &mut Local, reason: &str, exit: Exit) -> Next {
    error!("vm{} vcpu{}: {reason}: {exit:x?}", vcpu.vm_id(), vcpu.id);
    end_vm(vcpu, local, reason, false)
}

fn end_vm(vcpu: &'static Vcpu, local: &mut Local, reason: &str, triple_fault: bool) -> Next {
    let vm = vcpu.vm();
    error!(
        "vm{} ({}) stops: {reason} on vcpu{}",
        vm.id,
        vm.name(),
        vcpu.id
    );
    dump(local);
    for other in vm.active_vcpus() {
        if !core::ptr::eq(other, vcpu) {
            other.ask(request::STOP);
        }
    }
    if vm.origin() != LoadOrder::PostLaunched {
        vcpu.set_wait(Wait::Stopped);
        if static_vm::restart(vm, triple_fault) {
            return Next::Block;
        }
        // Not waited for: who holds the lock may wait for this vCPU.
        if let Some(mut state) = vm.state.try_lock() {
            if let Ok(next) = state.on(VmRequest::Fatal, Caller::Guest, vm.standing()) {
                *state = next;
            }
        }
        match vm.is_service() {
            true => error!("the Service VM is gone; `vm_reset 0` in the shell starts it again"),
            false => error!(
                "it is gone; `vm_reset {}` in the shell starts it again",
                vm.id
            ),
        }
        crate::console::left(vm.id);
        return Next::Block;
    }
    ioreq::power_off(vcpu, local)
}

/// The operator wants the VM to end or to start anew, which is its Device Model's work: it is told
/// as the guest itself would, once it owes no other answer.
pub fn end_by_owner(vcpu: &Vcpu, local: &mut Local, bits: u32) {
    let bits = bits & (request::OFF | request::RESET);
    if vcpu.wait() == Wait::Io {
        vcpu.shared.requests.fetch_or(bits, Ordering::SeqCst);
        return;
    }
    // Both leave the vCPU waiting for good.
    let _ = if bits & request::OFF != 0 {
        ioreq::power_off(vcpu, local)
    } else {
        ioreq::reset(vcpu, local)
    };
}

/// Registers of a vCPU in the log.
fn dump(local: &Local) {
    let r = &local.registers;
    let c = local.virt.control();
    error!(
        "rip {:#x} rflags {:#x} rsp {:#x} rax {:#x} rcx {:#x} rdx {:#x} rbx {:#x}",
        r.rip, r.rflags, r.gpr[4], r.gpr[0], r.gpr[1], r.gpr[2], r.gpr[3]
    );
    error!(
        "cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x} cpl {}",
        c.cr0, c.cr2, c.cr3, c.cr4, c.efer, c.cpl
    );
    let _ = local.virt.dump(&mut LogOut);
}

/// A writer into the console for multi-line dumps.
struct LogOut;

impl core::fmt::Write for LogOut {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        crate::console::write_log(text);
        Ok(())
    }
}
