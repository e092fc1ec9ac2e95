//! The machine's sleep: suspend to memory (S3), which the Service VM asks for.
//!
//! What is in memory stays: all VMs, their vCPUs and virtual devices. So User VMs are not asked and do not
//! notice. Every CPU takes its vCPU off and turns itself off ([`poll`]); the first one notes what of the
//! hardware is lost, gives the firmware an address of its own to wake at, and has the machine sleep. Behind
//! the trampoline it sets the hardware up again ([`woken`]), starts the other CPUs, and lets the Service VM
//! begin at the address that its kernel has left to be woken at. What is virtual has not lost anything, and
//! goes on: an interrupt that waits for the Service VM waits on.
//!
//! With pre-launched VMs the machine does not sleep: nobody has asked them. The Service VM, which cannot know,
//! is woken at once.

use crate::arch::{self, apic, boot as image, cpu, ioapic, paging, smp, tsc, uart};
use crate::memory::BootMemory;
use crate::percpu::{self, PerCpu};
use crate::static_vm::{self, Owed};
use crate::vcpu::{Vcpu, Wait};
use crate::vm::{self, Vm};
use crate::{boot, console, iommu, lifecycle, memory, pci, power, run, user_vm, virt};
use acrn_abi::{Hpa, PcpuId};
use acrn_acpi::facs;
use acrn_lifecycle::validate::Start;
use acrn_vdev::lapic::VLapic;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The machine is to sleep.
static DUE: AtomicBool = AtomicBool::new(false);
/// CPUs that have turned themselves off for it, as bits.
static OFF: AtomicU32 = AtomicU32::new(0);
/// Where the Service VM wants to be woken.
static VECTOR: AtomicU32 = AtomicU32::new(0);

/// Time that the CPUs may take to turn themselves off.
const OFF_MS: u64 = 1_000;

fn facs_place() -> Hpa {
    let fadt = boot::platform().and_then(|platform| platform.fadt.as_ref());
    fadt.map_or(Hpa(0), |fadt| fadt.facs)
}

/// The Service VM has asked for it by its vCPU, which does not go on.
pub fn service_suspends(vcpu: &Vcpu) {
    vcpu.set_wait(Wait::Stopped);
    let Some(vector) = facs::waking_vector(&BootMemory, facs_place()) else {
        warning!("the Service VM suspends without an address to wake it at: it starts anew");
        return static_vm::owe(vcpu.vm(), Owed::Reset);
    };
    VECTOR.store(vector, Ordering::Relaxed);
    let hindrance = if static_vm::others_run(vcpu.vm()) {
        Some("pre-launched VMs run")
    } else if smp::page().is_none() {
        Some("there is no page below 640 KiB to wake it at")
    } else {
        None
    };
    if let Some(reason) = hindrance {
        warning!("the machine does not sleep: {reason}; the Service VM is woken at once");
        return static_vm::owe(vcpu.vm(), Owed::Wake);
    }
    info!("the Service VM suspends the machine to memory");
    DUE.store(true, Ordering::SeqCst);
    percpu::all().iter().for_each(run::kick);
}

/// Called by the run loop of each CPU, where no vCPU is on it.
#[inline]
pub fn poll(this: &PerCpu) {
    if DUE.load(Ordering::Relaxed) {
        fall_asleep(this);
    }
}

#[cold]
fn fall_asleep(this: &PerCpu) -> ! {
    if this.id() != PcpuId(0) {
        this.online.store(false, Ordering::SeqCst);
        virt::disable();
        cpu::wbinvd();
        OFF.fetch_or(1 << this.id().0, Ordering::SeqCst);
        cpu::halt_forever();
    }
    wait_for_others(this);
    pci::save();
    ioapic::save();
    tsc::stop();
    if let Some(page) = smp::page() {
        smp::open(true);
        smp::lay(page, image::stack_top(), woken, 0);
        wake_at(page.get() as u32);
        virt::disable();
        cpu::wbinvd();
        power::suspend();
    }
    error!("the machine does not sleep");
    woken(0)
}

fn wait_for_others(this: &PerCpu) {
    let others = || {
        let mut others = percpu::all().iter().filter(|cpu| cpu.id() != this.id());
        others.any(|cpu| cpu.online.load(Ordering::SeqCst))
    };
    let (start, limit) = (cpu::rdtsc(), tsc::from_ms(OFF_MS));
    while others() {
        if cpu::rdtsc().wrapping_sub(start) > limit {
            error!("a CPU does not turn itself off for the machine's sleep");
            return;
        }
        core::hint::spin_loop();
    }
}

/// Tells the firmware where the machine goes on.
fn wake_at(vector: u32) {
    for (place, word) in facs::waking_at(&BootMemory, facs_place(), vector)
        .into_iter()
        .flatten()
    {
        memory::write_guest(place, &word);
    }
}

/// The first CPU behind the trampoline: the machine is as after power-up, but for its memory.
extern "C" fn woken(_: u64) -> ! {
    percpu::install(PcpuId(0));
    paging::protect_this_cpu();
    apic::initialise();
    tsc::go_on();
    boot::silence_pics();
    uart::initialise(uart::location());
    pci::restore();
    iommu::wake();
    ioapic::restore();
    if let Some(platform) = boot::platform() {
        console::enable_input(platform);
    }
    arch::rtc::initialise();
    wake_at(VECTOR.load(Ordering::Relaxed));
    DUE.store(false, Ordering::SeqCst);
    wake_service(vm::service());
    start_others();
    info!("the machine is awake");
    run::enter(PcpuId(0))
}

fn start_others() {
    let off = OFF.swap(0, Ordering::SeqCst);
    for cpu in percpu::all() {
        let apic_id = cpu.apic_id.load(Ordering::Relaxed);
        if off & 1 << cpu.id().0 != 0 && !smp::start(cpu.id(), apic_id) {
            error!(
                "CPU {} does not come back from the machine's sleep",
                cpu.id()
            );
        }
    }
    smp::open(false);
}

/// Lets the Service VM, none of whose vCPUs is on a CPU, begin where it wants to be woken. Its first vCPU keeps
/// its local APIC with what waits there; the others wait to be started.
pub fn wake_service(vm: &'static Vm) {
    for vcpu in vm.active_vcpus() {
        // SAFETY: the vCPU is on no CPU: the VM was stopped, or no other CPU runs.
        let local = unsafe { vcpu.local() };
        local.lapic.absorb(&vcpu.shared.posted);
        let lapic = mem::replace(&mut local.lapic, VLapic::unconnected(0, false, 0));
        lifecycle::reset_vcpu(vcpu, local, vcpu.apic_id());
        if vcpu.id.0 == 0 {
            local.lapic = lapic;
            local.lapic.publish(&vm.identities[0]);
            let vector = VECTOR.load(Ordering::Relaxed);
            user_vm::set_registers(vcpu, &Start::real_mode(vector));
        }
    }
    vm.let_run();
}
