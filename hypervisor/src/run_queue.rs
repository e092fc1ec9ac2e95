//! The vCPUs of one physical CPU: which slot each has, and the scheduler that decides between
//! them. The policy itself is in the `acrn-sched` crate.

use crate::vcpu::{Vcpu, Wait};
use crate::virt;
use acrn_sched::{CAPACITY, EntityId, Params, Policy, Scheduler};
use core::sync::atomic::Ordering;

/// See the module.
pub struct RunQueue {
    members: [Option<&'static Vcpu>; CAPACITY],
    /// Bit n: slot n is taken.
    taken: u32,
    /// Made with the first member, when the rate of the clock is known.
    scheduler: Option<Scheduler>,
}

/// What the run loop does next.
pub struct Turn {
    /// Slot and vCPU, which is marked as on the CPU; `None` to idle.
    pub picked: Option<(usize, &'static Vcpu)>,
    /// Host TSC at which the turn ends; `u64::MAX` while nobody else wants the CPU.
    pub end: u64,
    /// Host TSC of the earliest timer of all members that the host's timer has to watch;
    /// `u64::MAX` for none.
    pub deadline: u64,
}

impl RunQueue {
    /// Nobody.
    pub const fn new() -> Self {
        Self {
            members: [None; CAPACITY],
            taken: 0,
            scheduler: None,
        }
    }

    /// Takes a vCPU in and returns its slot; `None` when the CPU is full, or one of its vCPUs has its local
    /// APIC and is alone for that. `policy` is that of the CPU, and is asked for once.
    pub fn add(
        &mut self,
        vcpu: &'static Vcpu,
        params: Params,
        policy: impl FnOnce() -> Policy,
    ) -> Option<usize> {
        let is_alone = self.members().any(|member| member.vm().owns_apics());
        if is_alone || vcpu.vm().owns_apics() && self.taken != 0 {
            return None;
        }
        let slot = (!self.taken).trailing_zeros() as usize;
        let member = self.members.get_mut(slot)?;
        let scheduler = self
            .scheduler
            .get_or_insert_with(|| Scheduler::new(policy()));
        scheduler.add(EntityId(slot as u8), params).ok()?;
        *member = Some(vcpu);
        self.taken |= 1 << slot;
        Some(slot)
    }

    fn members(&self) -> impl Iterator<Item = &'static Vcpu> {
        self.members.iter().copied().flatten()
    }

    /// Whether there is no vCPU that is ready or would be if its VM ran.
    pub fn waits_for_nobody(&self) -> bool {
        self.members().all(|vcpu| {
            !vcpu.shared.active.load(Ordering::SeqCst)
                || matches!(vcpu.wait(), Wait::Stopped | Wait::StartUp)
        })
    }

    /// Forgets the vCPU of a slot.
    pub fn remove(&mut self, slot: usize, now: u64) {
        let (Some(member), Some(scheduler)) = (self.members.get_mut(slot), &mut self.scheduler)
        else {
            return;
        };
        *member = None;
        self.taken &= !(1 << slot);
        scheduler.remove(EntityId(slot as u8), now);
    }

    /// Wakes the slots of a set and those whose timer is due, and decides who runs.
    pub fn next_turn(&mut self, woken: u32, now: u64) -> Turn {
        let Some(scheduler) = &mut self.scheduler else {
            return Turn {
                picked: None,
                end: u64::MAX,
                deadline: u64::MAX,
            };
        };
        for (slot, timer) in timers(&self.members, self.taken) {
            if woken >> slot & 1 != 0 || timer <= now {
                scheduler.wake(EntityId(slot as u8), now);
            }
        }
        let picked = scheduler.pick(now).map(|id| usize::from(id.0));
        let picked = picked.and_then(|slot| self.members[slot].map(|vcpu| (slot, vcpu)));
        // While the queue is locked: whoever takes the vCPU out of it can wait for it then.
        if let Some((_, vcpu)) = picked {
            vcpu.shared.on_cpu.store(true, Ordering::SeqCst);
        }
        // The processor watches the one that runs, where it can. One that is due is looked at when
        // its vCPU runs; the host timer need not say it again.
        let watched = match picked {
            Some((slot, _)) if virt::keeps_deadlines() => self.taken & !(1 << slot),
            _ => self.taken,
        };
        let deadline = timers(&self.members, watched)
            .map(|(_, timer)| timer)
            .filter(|timer| *timer > now)
            .min();
        Turn {
            picked,
            end: scheduler.next_tick(now).unwrap_or(u64::MAX),
            deadline: deadline.unwrap_or(u64::MAX),
        }
    }

    /// The vCPU has nothing to do. Its slot may have been given to another one meanwhile.
    pub fn block(&mut self, slot: usize, vcpu: &Vcpu, now: u64) {
        if !self.members[slot].is_some_and(|member| core::ptr::eq(member, vcpu)) {
            return;
        }
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.block(EntityId(slot as u8), now);
        }
    }

    /// Host TSC ticks for which the vCPU has had the CPU; 0 when it is not here.
    pub fn run_time(&mut self, vcpu: &Vcpu, now: u64) -> u64 {
        let is_meant = |member: &Option<&Vcpu>| member.is_some_and(|m| core::ptr::eq(m, vcpu));
        let slot = self.members.iter().position(is_meant);
        let known = slot.zip(self.scheduler.as_mut());
        known.map_or(0, |(slot, scheduler)| {
            scheduler.charge(now);
            scheduler.run_time(EntityId(slot as u8))
        })
    }

    /// The running vCPU lets others go first.
    pub fn yield_now(&mut self, now: u64) {
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.yield_now(now);
        }
    }
}

/// The slots of a set with the times at which their vCPUs' timers are due.
fn timers(
    members: &[Option<&'static Vcpu>; CAPACITY],
    mut slots: u32,
) -> impl Iterator<Item = (usize, u64)> {
    core::iter::from_fn(move || {
        if slots == 0 {
            return None;
        }
        let slot = slots.trailing_zeros() as usize;
        slots &= slots - 1;
        let timer = members[slot].map_or(u64::MAX, |vcpu| {
            vcpu.shared.deadline.load(Ordering::Relaxed)
        });
        Some((slot, timer))
    })
}
