//! Local APIC of a virtual CPU, in xAPIC and x2APIC mode (SDM volume 3A, chapter 10).
//!
//! [`VLapic`] belongs to one vCPU and is touched only on that vCPU's physical CPU, so it has no
//! locks. What other CPUs need is kept apart: they find a target by its [`LapicIdentity`] and
//! leave interrupts in its [`PostedInterrupts`], which the owner drains before it enters the
//! guest. Each register write returns a [`LapicAction`] with what must happen outside.
//!
//! After any write, and after `absorb` or `timer_fire`, the owner asks `highest_pending` again;
//! the answer is one comparison of cached values.
//!
//! Not modelled: relocation of the register page, EOI broadcast suppression, LVT CMCI, remote IRR
//! of LINT pins, the arbitration registers.

mod base;
pub mod handover;
mod icr;
mod identity;
mod msr;
mod page;
mod posted;
mod regs;
mod route;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;

use acrn_abi::Vector;

pub use base::{APIC_BASE_ADDRESS, ApicBase};
pub use icr::{Icr, Shorthand};
pub use identity::LapicIdentity;
pub use page::{Changed, readable};
pub use posted::{Posted, PostedInterrupts};
pub use route::{Targets, route, route_ipi};
pub use timer::MIN_PERIOD;
pub use vectors::VectorSet;

use crate::interrupt::DeliveryMode;
use timer::Timer;

/// Operating mode, from `IA32_APIC_BASE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Hardware-disabled.
    Disabled = 0,
    /// Registers in memory.
    XApic = 1,
    /// Registers as MSRs.
    X2Apic = 2,
}

/// An MSR access that the manual answers with #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpFault;

/// What a register write asks of the vCPU's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum LapicAction {
    /// Nothing outside the local APIC.
    None,
    /// Ask `highest_pending` again: a priority changed or an interrupt was requested.
    PriorityChanged,
    /// The guest finished `vector`; a level-triggered one goes on to the IOAPICs.
    /// Implies `PriorityChanged`.
    Eoi {
        /// The vector that left the ISR.
        vector: Vector,
        /// Whether it was level triggered.
        level: bool,
    },
    /// Deliver this IPI.
    SendIpi(Icr),
    /// Ask `timer_deadline` again; an expiry in the past has been requested already.
    TimerChanged,
    /// Id, logical destination or mode changed: call `publish`, and look at `mode`.
    IdentityChanged,
    /// A local vector table entry other than the timer's or the software-enable bit changed:
    /// `lint0_extint_enabled` and `nmi_via_lint1` may answer differently.
    LvtChanged,
}

/// Interrupt sources of the local APIC, in the order of the local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalSource {
    /// APIC timer. `timer_fire` raises it.
    Timer = 0,
    /// Thermal sensor.
    Thermal = 1,
    /// Performance counter overflow.
    PerformanceCounter = 2,
    /// LINT0 pin: the 8259A.
    Lint0 = 3,
    /// LINT1 pin: NMI.
    Lint1 = 4,
    /// Internal error.
    Error = 5,
}

/// What became of a local interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEvent {
    /// Masked or not deliverable: lost.
    Dropped,
    /// Requested in the IRR.
    Requested,
    /// Not for the IRR: the owner delivers an NMI, SMI, INIT or external interrupt.
    Deliver(DeliveryMode),
}

const LVT_MASKED: u32 = 1 << 16;
const SVR_RESET: u32 = 0xff;
const SVR_ENABLE: u32 = 1 << 8;
/// Vectors below this are reserved for exceptions.
pub const FIRST_LEGAL_VECTOR: u8 = 16;

const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// Local APIC of one virtual CPU.
#[derive(Debug)]
pub struct VLapic {
    irr: VectorSet,
    isr: VectorSet,
    tmr: VectorSet,
    /// Highest vector of IRR and ISR; 0 for none, since vectors below 16 never get in.
    highest_irr: u8,
    highest_isr: u8,
    tpr: u8,
    ppr: u8,
    mode: Mode,
    bsp: bool,
    id: u32,
    ldr: u32,
    dfr: u32,
    svr: u32,
    lvt: [u32; 6],
    icr_low: u32,
    icr_high: u32,
    esr: u32,
    /// Errors since the last write to the ESR.
    esr_pending: u32,
    timer: Timer,
    /// What the register page does not show yet.
    changed: Changed,
}

impl VLapic {
    /// A local APIC after power-on, in xAPIC mode with the LINT pins wired as firmware leaves
    /// them (virtual wire mode: the bootstrap processor takes the 8259A on LINT0, NMI on LINT1).
    ///
    /// One tick of the timer clock, before the divider, is `1 << timer_clock_shift` ticks of the
    /// guest's TSC (0..=16; larger values act as 16).
    pub fn new(apic_id: u32, is_bsp: bool, timer_clock_shift: u8) -> Self {
        let mut lapic = Self::unconnected(apic_id, is_bsp, timer_clock_shift);
        lapic.reset();
        lapic
    }

    /// As [`new`](Self::new) but with the LINT pins not wired yet, for static tables.
    pub const fn unconnected(apic_id: u32, is_bsp: bool, timer_clock_shift: u8) -> Self {
        Self {
            irr: VectorSet::EMPTY,
            isr: VectorSet::EMPTY,
            tmr: VectorSet::EMPTY,
            highest_irr: 0,
            highest_isr: 0,
            tpr: 0,
            ppr: 0,
            mode: Mode::XApic,
            bsp: is_bsp,
            id: apic_id,
            ldr: 0,
            dfr: u32::MAX,
            svr: SVR_RESET,
            lvt: [LVT_MASKED; 6],
            icr_low: 0,
            icr_high: 0,
            esr: 0,
            esr_pending: 0,
            timer: Timer::new(timer_clock_shift),
            changed: Changed::all(),
        }
    }

    /// INIT: every register but the APIC id and `IA32_APIC_BASE` goes back to its power-on value
    /// (SDM 3A, 10.4.7.3). The owner also clears the posted interrupts.
    pub fn reset(&mut self) {
        self.changed = Changed::all();
        self.irr = VectorSet::EMPTY;
        self.isr = VectorSet::EMPTY;
        self.tmr = VectorSet::EMPTY;
        self.highest_irr = 0;
        self.highest_isr = 0;
        self.tpr = 0;
        self.ppr = 0;
        self.ldr = 0;
        self.dfr = u32::MAX;
        self.svr = SVR_RESET;
        self.lvt = [LVT_MASKED; 6];
        if self.bsp {
            self.lvt[LocalSource::Lint0 as usize] = lvt_mode(DeliveryMode::ExtInt);
            self.lvt[LocalSource::Lint1 as usize] = lvt_mode(DeliveryMode::Nmi);
        }
        self.icr_low = 0;
        self.icr_high = 0;
        self.esr = 0;
        self.esr_pending = 0;
        self.timer.reset();
        if self.mode == Mode::X2Apic {
            self.derive_x2apic_ldr();
        }
    }

    /// Back to the state after `new`: reset of the whole VM.
    pub fn power_on(&mut self) {
        self.mode = Mode::XApic;
        self.reset();
    }

    /// Stores the addressing state where other CPUs find it: after construction, `power_on`,
    /// `reset` and `IdentityChanged`.
    pub fn publish(&self, identity: &LapicIdentity) {
        identity.store(self.id, self.ldr, self.dfr, self.mode);
    }

    /// APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Operating mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether interrupts with a vector are accepted: enabled by `IA32_APIC_BASE` and by SVR.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.mode != Mode::Disabled && self.svr & SVR_ENABLE != 0
    }

    /// Moves the posted interrupts to the IRR; whether there were any. One load when not.
    #[inline]
    pub fn absorb(&mut self, posted: &PostedInterrupts) -> bool {
        if posted.is_empty() {
            return false;
        }
        self.absorb_posted(posted);
        true
    }

    fn absorb_posted(&mut self, posted: &PostedInterrupts) {
        self.changed |= Changed::VECTORS;
        let enabled = self.is_enabled();
        let mut illegal = false;
        posted.drain(|word, mut vectors, level| {
            if !enabled {
                return;
            }
            if word == 0 {
                illegal |= vectors & 0xffff != 0;
                vectors &= !0xffff;
            }
            self.irr.merge(word, vectors, vectors);
            self.tmr.merge(word, vectors, level);
        });
        self.highest_irr = self.irr.highest().unwrap_or(0);
        if illegal {
            self.raise_error(ESR_RECEIVE_ILLEGAL_VECTOR);
        }
    }

    /// Requests `vector` from the vCPU's own CPU; whether it is new. A disabled local APIC drops
    /// it, and a vector below 16 is a receive error instead.
    pub fn request(&mut self, vector: Vector, level: bool) -> bool {
        if !self.is_enabled() {
            return false;
        }
        if vector.0 < FIRST_LEGAL_VECTOR {
            self.raise_error(ESR_RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        self.request_legal(vector.0, level)
    }

    fn request_legal(&mut self, vector: u8, level: bool) -> bool {
        self.changed |= Changed::VECTORS;
        if level {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(vector);
        }
        self.highest_irr = self.highest_irr.max(vector);
        self.irr.insert(vector)
    }

    /// The requested vector that may be delivered now: its priority class is above the PPR's.
    #[inline]
    pub fn highest_pending(&self) -> Option<Vector> {
        (self.highest_irr >> 4 > self.ppr >> 4).then_some(Vector(self.highest_irr))
    }

    /// The highest requested vector that only the TPR may hold back: what to open an interrupt
    /// window for, or to compare CR8 with.
    #[inline]
    pub fn pending_ignoring_tpr(&self) -> Option<Vector> {
        (self.highest_irr >> 4 > self.highest_isr >> 4).then_some(Vector(self.highest_irr))
    }

    /// The processor takes `vector`, which `highest_pending` returned: IRR to ISR. False, and
    /// nothing happens, when the vector is not deliverable.
    #[inline]
    pub fn accept(&mut self, vector: Vector) -> bool {
        vector.0 >> 4 > self.ppr >> 4 && self.delivered(vector)
    }

    /// Hardware has delivered `vector`: IRR to ISR, whatever the priorities are now. The guest may
    /// have changed CR8 before the delivery and after it, of which only the last value is known.
    /// False when the vector is not requested.
    #[inline]
    pub fn delivered(&mut self, vector: Vector) -> bool {
        if !self.irr.remove(vector.0) {
            return false;
        }
        if vector.0 == self.highest_irr {
            self.highest_irr = self.irr.highest().unwrap_or(0);
        }
        self.isr.insert(vector.0);
        self.highest_isr = self.highest_isr.max(vector.0);
        self.update_ppr();
        true
    }

    /// The guest's EOI: the highest vector in service is done.
    #[inline]
    pub fn eoi(&mut self) -> LapicAction {
        let vector = self.highest_isr;
        if vector == 0 {
            return LapicAction::None;
        }
        self.changed |= Changed::VECTORS;
        self.isr.remove(vector);
        self.highest_isr = self.isr.highest().unwrap_or(0);
        self.update_ppr();
        LapicAction::Eoi {
            vector: Vector(vector),
            level: self.tmr.contains(vector),
        }
    }

    /// Task priority; CR8 is its upper four bits.
    #[inline]
    pub fn tpr(&self) -> u8 {
        self.tpr
    }

    /// Sets the task priority.
    #[inline]
    pub fn set_tpr(&mut self, tpr: u8) {
        self.tpr = tpr;
        self.update_ppr();
    }

    /// Processor priority.
    #[inline]
    pub fn ppr(&self) -> u8 {
        self.ppr
    }

    #[inline]
    fn update_ppr(&mut self) {
        let in_service = self.highest_isr & 0xf0;
        self.ppr = if self.tpr & 0xf0 >= in_service {
            self.tpr
        } else {
            in_service
        };
    }

    /// Whether `vector` is requested.
    pub fn is_requested(&self, vector: Vector) -> bool {
        self.irr.contains(vector.0)
    }

    /// Whether `vector` is in service.
    pub fn is_in_service(&self, vector: Vector) -> bool {
        self.isr.contains(vector.0)
    }

    /// Whether this CPU takes external interrupts of the 8259A: LINT0 is unmasked in ExtINT mode,
    /// or the local APIC is off, which wires the INTR pin straight to the processor.
    #[inline]
    pub fn lint0_extint_enabled(&self) -> bool {
        let lvt = self.lvt[LocalSource::Lint0 as usize];
        self.mode == Mode::Disabled || lvt & (LVT_MASKED | 0x700) == lvt_mode(DeliveryMode::ExtInt)
    }

    /// Whether an NMI signal on LINT1 reaches this CPU.
    pub fn nmi_via_lint1(&self) -> bool {
        let lvt = self.lvt[LocalSource::Lint1 as usize];
        self.mode == Mode::Disabled || lvt & (LVT_MASKED | 0x700) == lvt_mode(DeliveryMode::Nmi)
    }

    /// Raises a local interrupt through its local vector table entry, edge triggered.
    pub fn trigger(&mut self, source: LocalSource) -> LocalEvent {
        let lvt = self.lvt[source as usize];
        if self.mode == Mode::Disabled || lvt & LVT_MASKED != 0 {
            return LocalEvent::Dropped;
        }
        if source == LocalSource::PerformanceCounter {
            // Taking a counter overflow masks the entry until software opens it again.
            self.lvt[source as usize] |= LVT_MASKED;
            self.changed |= Changed::REGISTERS;
        }
        let mode = match source {
            LocalSource::Timer | LocalSource::Error => DeliveryMode::Fixed,
            _ => DeliveryMode::from_bits((lvt >> 8) as u8),
        };
        match mode {
            DeliveryMode::Fixed => {
                self.request(Vector(lvt as u8), false);
                LocalEvent::Requested
            }
            DeliveryMode::Smi | DeliveryMode::Nmi | DeliveryMode::Init | DeliveryMode::ExtInt => {
                LocalEvent::Deliver(mode)
            }
            _ => LocalEvent::Dropped,
        }
    }

    /// Logs an error. The first since the last write to the ESR raises the error interrupt, so
    /// an error entry with an illegal vector cannot raise itself again.
    #[cold]
    fn raise_error(&mut self, error: u32) {
        let armed = self.esr_pending == 0;
        self.esr_pending |= error;
        let lvt = self.lvt[LocalSource::Error as usize];
        if armed && lvt & LVT_MASKED == 0 {
            if (lvt as u8) < FIRST_LEGAL_VECTOR {
                self.esr_pending |= ESR_RECEIVE_ILLEGAL_VECTOR;
            } else if self.is_enabled() {
                self.request_legal(lvt as u8, false);
            }
        }
    }

    /// Guest TSC value at which `timer_fire` is due; `None` while the timer is disarmed or its
    /// interrupt masked.
    #[inline]
    pub fn timer_deadline(&self) -> Option<u64> {
        if self.lvt[LocalSource::Timer as usize] & LVT_MASKED != 0 {
            return None;
        }
        self.timer.deadline()
    }

    /// TSC ticks from guest TSC `now` until `timer_fire` is due, 0 when it is; `None` as for
    /// [`Self::timer_deadline`].
    #[inline]
    pub fn timer_due_in(&self, now: u64) -> Option<u64> {
        self.timer_deadline()?;
        Some(self.timer.due_in(now))
    }

    /// The guest's TSC has jumped by `change`. A count goes on as if nothing had happened; a TSC
    /// deadline is nearer or farther now.
    pub fn move_tsc(&mut self, change: u64) {
        self.timer.move_tsc(change);
    }

    /// Serves an expiry that is due at guest TSC `now`: requests the timer's vector, which is
    /// returned, and goes on to the next period. Missed periods are merged into one interrupt.
    pub fn timer_fire(&mut self, now: u64) -> Option<Vector> {
        if !self.timer.expire(now) {
            return None;
        }
        let vector = Vector(self.lvt[LocalSource::Timer as usize] as u8);
        (self.trigger(LocalSource::Timer) == LocalEvent::Requested).then_some(vector)
    }
}

/// An unmasked LVT entry with this delivery mode and vector 0.
const fn lvt_mode(mode: DeliveryMode) -> u32 {
    (mode.bits() as u32) << 8
}
