//! The loop of each physical CPU: pick a vCPU, run it, handle its exits, repeat.
//!
//! Handlers never block. A vCPU that cannot go on is marked with what it waits for and the next
//! one is picked, so one stack a CPU is enough. Host interrupts are let in at two points only:
//! after an exit that reports one, and in the idle wait; no lock is held at either.

use crate::arch::{apic, cpu};
use crate::exit::{self, Next};
use crate::percpu::{self, Calls, PerCpu};
use crate::vcpu::{Local, Vcpu, Wait, request};
use crate::virt::{Event, Exit};
use crate::{interval_timer, irq, lapic_passthrough, stats, trace, virt};
use acrn_abi::PcpuId;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// What the host timer of each CPU is set to; `u64::MAX` for off.
static TIMERS: [AtomicU64; percpu::MAX_CPUS] =
    [const { AtomicU64::new(u64::MAX) }; percpu::MAX_CPUS];

/// Makes another CPU leave its guest or wake up; on the own CPU, leave the fast path.
pub fn kick(cpu: &PerCpu) {
    cpu.call(Calls::ATTENTION);
    if cpu.id() != percpu::current_id() {
        let id = cpu.apic_id.load(Ordering::Relaxed);
        match cpu.is_apic_given() {
            true => apic::send_nmi(id),
            false => apic::send_fixed(id, apic::KICK_VECTOR),
        }
    }
}

/// Turns virtualization on and runs guests for ever.
pub fn enter(id: PcpuId) -> ! {
    if let Err(reason) = virt::enable() {
        crate::error!("CPU {id} is not used: {reason}");
        cpu::halt_forever();
    }
    let this = percpu::current();
    TIMERS[id.index()].store(u64::MAX, Ordering::Relaxed);
    this.online.store(true, Ordering::SeqCst);
    // SAFETY: loads the initial x87 state; nothing of the hypervisor uses the x87.
    unsafe { asm!("fninit", options(nomem, nostack)) };
    let mut loaded: Loaded = None;
    loop {
        schedule(this, &mut loaded);
    }
}

fn schedule(this: &'static PerCpu, loaded: &mut Loaded) {
    this.end_call(Calls::ATTENTION);
    crate::console::poll(this);
    crate::shell::work::poll(this);
    let next_start = crate::static_vm::poll(this).min(interval_timer::poll(this));
    crate::sleep::poll(this);
    let now = cpu::rdtsc();
    let turn = {
        let woken = this.wake.swap(0, Ordering::SeqCst);
        this.queue().lock().next_turn(woken, now)
    };
    let next_look = crate::console::next_look(this, now).min(next_start);
    let deadline = turn.deadline.min(next_look);
    set_timer(this, now, deadline.min(turn.end));
    trace::turn(this, turn.picked.map(|(_, vcpu)| vcpu));
    let Some((slot, vcpu)) = turn.picked else {
        match (
            this.calls().contains(Calls::ATTENTION),
            this.is_apic_given(),
        ) {
            (true, _) => {}
            (false, true) => lapic_passthrough::idle(this),
            (false, false) => {
                virt::before_wait();
                cpu::wait_for_interrupt();
            }
        }
        return;
    };
    let runs = vcpu.shared.active.load(Ordering::SeqCst) && vcpu.vm().may_run();
    let next = if runs {
        // SAFETY: this is the run loop of the vCPU's CPU and `on_cpu` is set.
        let local = unsafe { vcpu.local() };
        local.virt.load(slot, |gpa| vcpu.vm().read_word(gpa));
        lapic_passthrough::reconcile(vcpu, local);
        let deadline = vcpu.shared.deadline.load(Ordering::Relaxed);
        local.virt.use_deadline(deadline != u64::MAX);
        if local.virt.takes_posted() {
            vcpu.shared.posted.listen();
        }
        switch(loaded, vcpu, local);
        stats::mark_first_entry();
        let next = run(this, vcpu, local, slot, turn.end);
        // Saved while `on_cpu` is set: afterwards others may replace the state.
        extended::save(local);
        local.virt.save_msrs();
        local.virt.release();
        if vcpu.shared.posted.end_listening() {
            this.wake.fetch_or(1 << slot, Ordering::SeqCst);
        }
        next
    } else {
        // Its timer is set anew when it may run again.
        vcpu.shared.deadline.store(u64::MAX, Ordering::Relaxed);
        Next::Block
    };
    vcpu.shared.on_cpu.store(false, Ordering::SeqCst);
    // A wake-up between the decision and here has set the bit again: it is seen next time.
    match next {
        Next::Block => this.queue().lock().block(slot, vcpu, cpu::rdtsc()),
        Next::Yield => this.queue().lock().yield_now(cpu::rdtsc()),
        Next::Continue => {}
    }
}

/// Programs the host timer of this CPU when the wanted time differs from what is set.
fn set_timer(this: &PerCpu, now: u64, deadline: u64) {
    let set = &TIMERS[this.id().index()];
    if set.load(Ordering::Relaxed) == deadline {
        return;
    }
    set.store(deadline, Ordering::Relaxed);
    apic::set_timer((deadline != u64::MAX).then(|| deadline.saturating_sub(now)));
}

/// The host timer of this CPU is off, whatever was set: its local APIC changes hands.
pub fn forget_timer(this: &PerCpu) {
    TIMERS[this.id().index()].store(u64::MAX, Ordering::Relaxed);
    apic::set_timer(None);
}

/// The vCPU's own timer changed: have the guest left in time, or bring the host timer forward when
/// needed.
#[inline]
pub fn deadline_changed(vcpu: &Vcpu, local: &mut Local) {
    let now = cpu::rdtsc();
    let guest_now = now.wrapping_add(local.virt.tsc_offset());
    let wait = local.lapic.timer_due_in(guest_now);
    let host = wait.map_or(u64::MAX, |ticks| now.saturating_add(ticks));
    vcpu.shared.deadline.store(host, Ordering::Relaxed);
    if local.virt.use_deadline(wait.is_some()) {
        return;
    }
    let this = percpu::current();
    if host < TIMERS[this.id().index()].load(Ordering::Relaxed) {
        set_timer(this, now, host);
    }
}

/// The host timer fired.
pub fn timer_interrupt(this: &PerCpu) {
    TIMERS[this.id().index()].store(u64::MAX, Ordering::Relaxed);
    this.call(Calls::ATTENTION);
}

/// Brings the extended state of the vCPU in, unless this CPU still has it.
fn switch(loaded: &mut Loaded, vcpu: &'static Vcpu, local: &mut Local) {
    let wanted = (vcpu, vcpu.shared.generation.load(Ordering::SeqCst));
    if loaded.is_some_and(|(old, age)| core::ptr::eq(old, vcpu) && age == wanted.1) {
        return;
    }
    extended::load(local);
    local.virt.load_msrs();
    *loaded = Some(wanted);
}

/// Whose extended state is in this CPU's registers, and of which generation.
type Loaded = Option<(&'static Vcpu, u32)>;

/// XSAVE state and the few registers that hardware does not switch.
mod extended {
    use super::{AtomicU64, Local, Ordering, asm, cpu};
    use cpu::msr;

    /// Every component that a guest may enable. All of them are saved and loaded, whatever the
    /// guest has enabled just now: what it disables it may enable again, and must then find its
    /// own values there and never another guest's.
    static ALL: AtomicU64 = AtomicU64::new(0);

    fn all() -> u64 {
        let known = ALL.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let leaf = cpu::cpuid(0xd, 0);
        let supported = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
        let value = supported & acrn_vdev::cpuid::XCR0_ALLOWED | 1;
        ALL.store(value, Ordering::Relaxed);
        value
    }

    /// Runs `work` with all components enabled, and leaves the guest's XCR0 behind.
    #[inline]
    fn with_all(guest: u64, enabled: u64, work: impl FnOnce()) {
        let all = all();
        if enabled != all {
            let _ = cpu::try_xsetbv(0, all);
        }
        work();
        if guest != all {
            let _ = cpu::try_xsetbv(0, guest);
        }
    }

    /// Saves what is in the registers. XMM0-15 of the guest are in `registers.xmm`: they are
    /// loaded for the moment of saving.
    pub fn save(local: &mut Local) {
        local.tsc_aux = cpu::rdmsr(msr::TSC_AUX);
        local.breakpoints = cpu::read_breakpoints();
        if !cpu::has_xsave() {
            // SAFETY: the area is aligned and larger than the 512 bytes that are written.
            unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut local.xsave, options(nostack)) };
            return;
        }
        // Not every emulator lets XSETBV exit: what is in force is what counts.
        local.xcr0 = cpu::xgetbv();
        with_all(local.xcr0, local.xcr0, || {
            // SAFETY: the area is 64-byte aligned and large enough for every component that XCR0
            // can enable here; XMM registers are caller-saved in this ABI and listed.
            unsafe {
                load_xmm(&local.registers.xmm);
                asm!("xsave64 [{}]", in(reg) &raw mut local.xsave, in("eax") u32::MAX,
                    in("edx") u32::MAX, options(nostack));
            }
        });
    }

    /// Loads a vCPU's state.
    pub fn load(local: &mut Local) {
        // SAFETY: TSC_AUX is data for RDTSCP.
        unsafe { cpu::wrmsr(msr::TSC_AUX, local.tsc_aux) };
        cpu::write_breakpoints(&local.breakpoints);
        if !cpu::has_xsave() {
            // SAFETY: the area holds what FXSAVE wrote or the initial state; XMM registers as
            // below.
            unsafe {
                asm!("fxrstor64 [{}]", in(reg) &raw const local.xsave, out("xmm0") _,
                out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
                out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack));
            }
            return;
        }
        with_all(local.xcr0, 0, || {
            // SAFETY: the area holds what XSAVE wrote or zeros, which is the initial state; the
            // XMM part is overwritten by the entry stub from `registers.xmm`.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) &raw const local.xsave, in("eax") u32::MAX,
                in("edx") u32::MAX, out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _,
                out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                out("xmm14") _, out("xmm15") _, options(nostack));
            }
        });
    }

    unsafe fn load_xmm(xmm: &[[u64; 2]; 16]) {
        // SAFETY: reads 256 aligned bytes.
        unsafe {
            asm!(
                "movups xmm0, [{p}]", "movups xmm1, [{p}+16]", "movups xmm2, [{p}+32]",
                "movups xmm3, [{p}+48]", "movups xmm4, [{p}+64]", "movups xmm5, [{p}+80]",
                "movups xmm6, [{p}+96]", "movups xmm7, [{p}+112]", "movups xmm8, [{p}+128]",
                "movups xmm9, [{p}+144]", "movups xmm10, [{p}+160]", "movups xmm11, [{p}+176]",
                "movups xmm12, [{p}+192]", "movups xmm13, [{p}+208]", "movups xmm14, [{p}+224]",
                "movups xmm15, [{p}+240]",
                p = in(reg) xmm.as_ptr(), out("xmm0") _, out("xmm1") _, out("xmm2") _,
                out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
                out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack, readonly));
        }
    }
}

/// Runs one vCPU until it blocks, its turn ends or its CPU has something else to do
/// ([`Next::Continue`]: it is as ready as before).
fn run(
    this: &'static PerCpu,
    vcpu: &'static Vcpu,
    local: &mut Local,
    slot: usize,
    end: u64,
) -> Next {
    loop {
        if vcpu.shared.requests.load(Ordering::Relaxed) != 0 {
            act_on_requests(vcpu, local);
        }
        if !vcpu.is_ready() && !ends_wait(vcpu, local) {
            return Next::Block;
        }
        gather(vcpu, local);
        let window = vcpu.vm().pic_output() && pic_interrupt(vcpu, local);
        match this.calls() {
            Calls::NONE => {}
            calls if calls.contains(Calls::ATTENTION) => return Next::Continue,
            _ => trace::enter(this, vcpu),
        }
        let exit = local.virt.enter(
            &mut local.registers,
            slot,
            &mut local.lapic,
            window,
            &vcpu.shared.posted,
        );
        let start = cpu::rdtsc();
        let reason = exit.reason();
        this.exits.push(reason, vcpu.tag, local.registers.rip);
        if this.is_traced() {
            trace::exit(this, vcpu, local, start, reason);
        }
        let next = match exit {
            Exit::Interrupt => {
                match local.virt.acknowledged() {
                    Some(vector) => irq::handle_host_interrupt(vector),
                    None => cpu::accept_interrupts(),
                }
                match local.virt.may_lose_shadow() {
                    true => exit::halt_in_shadow(vcpu, local),
                    false => Next::Continue,
                }
            }
            exit => exit::handle(vcpu, local, exit),
        };
        vcpu.shared
            .stats
            .add(reason, cpu::rdtsc().wrapping_sub(start));
        match next {
            Next::Continue => {}
            other => return other,
        }
        // Who stops the VM asks for attention, too.
        if start > end {
            return Next::Continue;
        }
    }
}

#[cold]
fn act_on_requests(vcpu: &'static Vcpu, local: &mut Local) {
    let bits = vcpu.shared.requests.swap(0, Ordering::SeqCst);
    if bits & request::TIMER != 0 {
        deadline_changed(vcpu, local);
    }
    if bits & (request::FLUSH | request::LATE_FLUSH) != 0 {
        local.virt.request_flush();
        local.walks.clear();
    }
    if bits & request::IO_DONE != 0 && vcpu.wait() == Wait::Io {
        exit::ioreq::complete(vcpu, local);
    }
    // The answer on its way must not be taken for that of a later request: INIT comes after it.
    let restart = bits & (request::INIT | request::SIPI);
    if restart != 0 && vcpu.wait() == Wait::Io {
        vcpu.shared.requests.fetch_or(restart, Ordering::SeqCst);
    } else if bits & request::INIT != 0 {
        exit::init_vcpu(vcpu, local);
    }
    if bits & request::SIPI != 0 && vcpu.wait() == Wait::StartUp {
        local.virt.start_up(
            &mut local.registers,
            vcpu.shared.sipi_page.load(Ordering::SeqCst),
        );
        vcpu.set_wait(Wait::Nothing);
        lapic_passthrough::reconcile(vcpu, local);
    }
    if bits & request::NMI != 0 {
        if local.virt.nmi_possible() {
            local.virt.inject(Event::Nmi);
            if vcpu.wait() == Wait::Halt {
                vcpu.set_wait(Wait::Nothing);
            }
        } else {
            vcpu.shared
                .requests
                .fetch_or(request::NMI, Ordering::SeqCst);
            local.virt.request_nmi_window();
        }
    }
    if bits & (request::OFF | request::RESET) != 0 {
        crate::lifecycle::end_by_owner(vcpu, local, bits);
    }
    if bits & request::STOP != 0 {
        vcpu.set_wait(Wait::Stopped);
    }
}

/// Whether what the vCPU waits for has come.
fn ends_wait(vcpu: &Vcpu, local: &mut Local) -> bool {
    // Whatever it waits for, a timer that is due must not wake this CPU over and over.
    gather(vcpu, local);
    let ends = vcpu.wait() == Wait::Halt && wakes_from_halt(vcpu, local);
    if ends {
        vcpu.set_wait(Wait::Nothing);
    }
    ends
}

/// Whether a halted vCPU has something that ends the halt, after [`gather`].
fn wakes_from_halt(vcpu: &Vcpu, local: &Local) -> bool {
    let enabled = local.registers.rflags & 1 << 9 != 0;
    enabled
        && (local.lapic.highest_pending().is_some()
            || local.lapic.lint0_extint_enabled() && vcpu.vm().pic_output())
}

/// Moves posted interrupts and a timer that is due into the local APIC.
#[inline]
fn gather(vcpu: &Vcpu, local: &mut Local) {
    if !vcpu.shared.posted.is_empty() {
        local.lapic.absorb(&vcpu.shared.posted);
    }
    let deadline = vcpu.shared.deadline.load(Ordering::Relaxed);
    if deadline == u64::MAX {
        return;
    }
    match deadline.checked_sub(cpu::rdtsc()) {
        Some(left) => local.virt.set_time_left(left),
        None => timer_due(vcpu, local),
    }
}

#[cold]
fn timer_due(vcpu: &Vcpu, local: &mut Local) {
    let now = crate::vcpu::guest_tsc(local);
    local.lapic.timer_fire(now);
    deadline_changed(vcpu, local);
    // A deadline that is set again is looked at before the entry.
    let deadline = vcpu.shared.deadline.load(Ordering::Relaxed);
    local
        .virt
        .set_time_left(deadline.saturating_sub(cpu::rdtsc()));
}

/// Delivers an interrupt of the 8259 pair if it is this vCPU's and possible now. Returns whether
/// one is waiting for a window.
#[cold]
fn pic_interrupt(vcpu: &Vcpu, local: &mut Local) -> bool {
    if !local.lapic.lint0_extint_enabled() || !vcpu.vm().pic_output() {
        return false;
    }
    if !local.virt.interrupt_possible(&local.registers) {
        return true;
    }
    if let Some(vector) = vcpu.vm().pic_acknowledge() {
        local.virt.inject(Event::External(vector));
    }
    false
}

/// While waiting for other CPUs to flush: does the like for the own vCPU, which is not in its
/// guest now. Two CPUs that wait for each other then both get on.
pub fn note_flush_while_waiting(vcpu: &Vcpu) {
    let bits = vcpu.shared.requests.load(Ordering::SeqCst);
    if bits & request::FLUSH != 0 {
        vcpu.shared
            .requests
            .fetch_or(request::LATE_FLUSH, Ordering::SeqCst);
        vcpu.shared
            .requests
            .fetch_and(!request::FLUSH, Ordering::SeqCst);
    }
}

/// Counts a host interrupt and passes it on.
pub fn note_interrupt(this: &PerCpu, vector: u8) {
    let counter = &this.interrupts[usize::from(vector)];
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    irq::dispatch(this, vector);
}
