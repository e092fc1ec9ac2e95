//! Schedulers of one physical CPU, as data structures over a clock.
//!
//! A [`Scheduler`] knows which entities (vCPUs, at most [`CAPACITY`]) are runnable on its CPU and
//! answers who should run now, until when, and whether somebody should run instead. It never
//! reads a clock, arms a timer or switches anything: the hypervisor passes the time into every
//! call, in any unit that grows (TSC ticks, nanoseconds), and acts on the answers:
//!
//! * after [`wake`](Scheduler::wake), and when its timer fires: if
//!   [`should_preempt`](Scheduler::should_preempt) then [`pick`](Scheduler::pick);
//! * after [`block`](Scheduler::block) and [`yield_now`](Scheduler::yield_now): `pick`;
//! * after each `pick`, and each `wake` that did not preempt: arm the timer for
//!   [`next_tick`](Scheduler::next_tick), or stop it when that is `None`. A CPU with one runnable
//!   entity needs no timer, so a lone real-time vCPU is never interrupted.
//!
//! Four policies, chosen for each CPU: [`Policy::Noop`] for one pinned entity,
//! [`Policy::RoundRobin`], [`Policy::Priority`] and borrowed virtual time, [`Policy::Bvt`].
//! Every call takes a time bounded by `CAPACITY`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod bvt;
mod queue;
#[cfg(test)]
mod tests;

use core::fmt;

use bvt::Bvt;
use queue::Queue;

/// Entities that one scheduler can hold.
pub const CAPACITY: usize = 32;

/// Number of an entity on its CPU, below [`CAPACITY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId(pub u8);

impl EntityId {
    const fn index(self) -> usize {
        self.0 as usize
    }

    /// Bit in a set of entities.
    const fn bit(self) -> u32 {
        1 << self.0
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which scheduler to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// One entity, no timer.
    Noop,
    /// Each in turn, for at most `slice`.
    RoundRobin {
        /// Longest turn while others wait, in the caller's unit of time.
        slice: u64,
    },
    /// The runnable entity of the highest priority, in turn among equals when one blocks or
    /// yields; no timer.
    Priority,
    /// Borrowed virtual time (Duda and Cheriton, 1999): shares by weight, with a head start for
    /// entities that need low latency.
    Bvt {
        /// Minimum charging unit: turns are multiples of it. In the caller's unit of time.
        mcu: u64,
        /// Context-switch allowance: how many MCUs the running entity may run beyond its share
        /// before it is replaced.
        csa: u32,
    },
}

/// What an entity is entitled to. Each policy looks at its own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Priority: higher runs first.
    pub priority: u8,
    /// BVT: share of the CPU relative to others, 1..=128.
    pub weight: u8,
    /// BVT: head start in MCUs of virtual time while warped, -8192..=8192; negative is a handicap.
    pub warp_value: i16,
    /// BVT: MCUs that the entity may run warped at a time; 0 is no limit.
    pub warp_limit: u32,
    /// BVT: MCUs between reaching the limit and the next warp.
    pub unwarp_period: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            priority: 1,
            weight: 1,
            warp_value: 0,
            warp_limit: 0,
            unwarp_period: 0,
        }
    }
}

/// Why an entity was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// The number is not below [`CAPACITY`].
    Id(EntityId),
    /// The number is in use.
    Taken(EntityId),
    /// [`Policy::Noop`] has its one entity already.
    Occupied {
        /// That entity.
        by: EntityId,
    },
    /// The weight is not in 1..=128.
    Weight(u8),
    /// The warp value is not in -8192..=8192.
    Warp(i16),
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "entity {id} is not below {CAPACITY}"),
            Self::Taken(id) => write!(f, "entity {id} exists already"),
            Self::Occupied { by } => write!(f, "the CPU belongs to entity {by} alone"),
            Self::Weight(weight) => write!(f, "weight {weight} is not in 1..=128"),
            Self::Warp(value) => write!(f, "warp value {value} is not in -8192..=8192"),
        }
    }
}

impl core::error::Error for AddError {}

/// What all policies have in common.
#[derive(Clone, Debug)]
struct Common {
    /// Sets of entities, one bit each.
    known: u32,
    runnable: u32,
    current: Option<EntityId>,
    /// When `current` was charged last.
    since: u64,
    /// Since then an entity has come, gone, or got or lost something to do.
    changed: bool,
    run_time: [u64; CAPACITY],
}

impl Common {
    /// Runnable entities except the current one.
    fn waiting(&self) -> u32 {
        self.runnable & !self.current.map_or(0, EntityId::bit)
    }

    fn is_runnable(&self, id: EntityId) -> bool {
        id.index() < CAPACITY && self.runnable & id.bit() != 0
    }
}

/// The members of a set in ascending order.
fn members(mut set: u32) -> impl Iterator<Item = EntityId> {
    core::iter::from_fn(move || {
        let id = (set != 0).then(|| EntityId(set.trailing_zeros() as u8));
        set &= set.wrapping_sub(1);
        id
    })
}

#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is no heap, and one of these for each CPU"
)]
enum State {
    Noop,
    Queue(Queue),
    Bvt(Bvt),
}

/// The scheduler of one CPU. See the crate's description for the order of calls.
#[derive(Clone, Debug)]
pub struct Scheduler {
    common: Common,
    state: State,
}

impl Scheduler {
    /// A scheduler without entities.
    pub fn new(policy: Policy) -> Self {
        let common = Common {
            known: 0,
            runnable: 0,
            current: None,
            since: 0,
            changed: true,
            run_time: [0; CAPACITY],
        };
        let state = match policy {
            Policy::Noop => State::Noop,
            Policy::RoundRobin { slice } => State::Queue(Queue::round_robin(slice)),
            Policy::Priority => State::Queue(Queue::priority()),
            Policy::Bvt { mcu, csa } => State::Bvt(Bvt::new(mcu, csa)),
        };
        Self { common, state }
    }

    /// Adds an entity, which is blocked until it is woken.
    ///
    /// # Errors
    /// [`AddError`]; nothing has changed then.
    pub fn add(&mut self, id: EntityId, params: Params) -> Result<(), AddError> {
        if id.index() >= CAPACITY {
            return Err(AddError::Id(id));
        }
        if self.common.known & id.bit() != 0 {
            return Err(AddError::Taken(id));
        }
        match &mut self.state {
            State::Noop => {
                if let Some(by) = members(self.common.known).next() {
                    return Err(AddError::Occupied { by });
                }
            }
            State::Queue(queue) => queue.add(id, &params),
            State::Bvt(bvt) => bvt.add(id, &params)?,
        }
        self.common.known |= id.bit();
        self.common.changed = true;
        self.common.run_time[id.index()] = 0;
        Ok(())
    }

    /// Removes an entity; `false` when there is none of this number.
    pub fn remove(&mut self, id: EntityId, now: u64) -> bool {
        if id.index() >= CAPACITY || self.common.known & id.bit() == 0 {
            return false;
        }
        self.block(id, now);
        self.common.known &= !id.bit();
        self.common.changed = true;
        true
    }

    /// The entity has something to do; `false` when it was runnable already or is unknown.
    pub fn wake(&mut self, id: EntityId, now: u64) -> bool {
        let unknown = id.index() >= CAPACITY || self.common.known & id.bit() == 0;
        if unknown || self.common.is_runnable(id) {
            return false;
        }
        self.charge(now);
        self.common.runnable |= id.bit();
        match &mut self.state {
            State::Noop => {}
            State::Queue(queue) => queue.wake(id),
            State::Bvt(bvt) => bvt.wake(&self.common, id, now),
        }
        true
    }

    /// The entity has nothing to do any more; `false` when it was not runnable.
    pub fn block(&mut self, id: EntityId, now: u64) -> bool {
        if !self.common.is_runnable(id) {
            return false;
        }
        self.charge(now);
        self.common.runnable &= !id.bit();
        self.common.changed = true;
        if self.common.current == Some(id) {
            self.common.current = None;
        }
        if let State::Queue(queue) = &mut self.state {
            queue.block(id);
        }
        true
    }

    /// The running entity lets others go first. It stays runnable.
    pub fn yield_now(&mut self, now: u64) {
        self.charge(now);
        let Some(id) = self.common.current else {
            return;
        };
        match &mut self.state {
            State::Noop => {}
            State::Queue(queue) => queue.yield_now(id),
            State::Bvt(bvt) => bvt.yield_now(),
        }
    }

    /// Accounts for the time since the last call to the running entity.
    pub fn charge(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.common.since);
        if elapsed == 0 && !self.common.changed {
            return;
        }
        self.common.changed = false;
        self.common.since += elapsed;
        if let Some(id) = self.common.current {
            let total = &mut self.common.run_time[id.index()];
            *total = total.saturating_add(elapsed);
            match &mut self.state {
                State::Noop => {}
                State::Queue(queue) => queue.charge(id, elapsed),
                State::Bvt(bvt) => bvt.charge(id, elapsed, now),
            }
        }
        if let State::Bvt(bvt) = &mut self.state {
            bvt.refresh(&self.common, now);
        }
    }

    /// Chooses who runs from now on; `None` is idle.
    pub fn pick(&mut self, now: u64) -> Option<EntityId> {
        self.charge(now);
        let next = match &mut self.state {
            State::Noop => members(self.common.runnable).next(),
            State::Queue(queue) => queue.pick(),
            State::Bvt(bvt) => bvt.pick(&self.common),
        };
        let goes_on = core::mem::replace(&mut self.common.current, next) == next;
        if let (State::Bvt(bvt), Some(id)) = (&mut self.state, next) {
            bvt.picked(&self.common, id, goes_on, now);
        }
        next
    }

    /// Whether [`Scheduler::pick`] would choose another entity than the running one.
    pub fn should_preempt(&mut self, now: u64) -> bool {
        self.charge(now);
        let Some(current) = self.common.current else {
            return self.common.runnable != 0;
        };
        match &self.state {
            State::Noop => false,
            State::Queue(queue) => queue.should_preempt(current),
            State::Bvt(bvt) => bvt.should_preempt(&self.common, now),
        }
    }

    /// When to ask [`Scheduler::should_preempt`] again; `None` when there is nothing to wait for.
    pub fn next_tick(&self, now: u64) -> Option<u64> {
        let current = self.common.current?;
        if self.common.waiting() == 0 {
            return None;
        }
        match &self.state {
            State::Noop => None,
            State::Queue(queue) => queue.next_tick(current, now),
            State::Bvt(bvt) => Some(bvt.next_tick(&self.common, now)),
        }
    }

    /// The running entity.
    pub const fn current(&self) -> Option<EntityId> {
        self.common.current
    }

    /// Whether the entity has something to do.
    pub fn is_runnable(&self, id: EntityId) -> bool {
        self.common.is_runnable(id)
    }

    /// Number of runnable entities, the running one included.
    pub const fn runnable(&self) -> u32 {
        self.common.runnable.count_ones()
    }

    /// Time that an entity has run since it was added, up to the last charge.
    pub fn run_time(&self, id: EntityId) -> u64 {
        self.common.run_time.get(id.index()).copied().unwrap_or(0)
    }
}
