//! Borrowed virtual time.
//!
//! Each entity has an actual virtual time (AVT) that grows, while it runs, inversely to its
//! weight. The entity with the least effective virtual time (EVT) runs; that is the AVT, less the
//! warp while the entity is warped: it borrows from its own future share to run early. The running
//! one is replaced when its EVT has passed the next one's by the context-switch allowance, or
//! at once when somebody wakes whose EVT is not greater. An entity that wakes starts at the least
//! AVT of the runnable ones, so sleeping saves nothing up; but who has not had its share, and now
//! has an interrupt or an answer to look at, need not wait for the end of a turn.
//!
//! An entity with a positive warp value is warped until it has run for `warp_limit` in that
//! state; then it is not, until `unwarp_period` has passed, after which it is again. A block does
//! not reset the limit. A handicap (negative warp value) always applies.

use crate::{AddError, CAPACITY, Common, EntityId, Params, members};

/// Virtual time of one unit of real time at weight 1.
const RATIO: i64 = 1024;
/// When virtual time is moved back to around 0, long before it overflows.
const REBASE: i64 = 1 << 60;
/// Longest time charged at once, so that products stay in range.
const LONGEST: u64 = 1 << 48;

#[derive(Clone, Copy, Debug)]
struct Entity {
    avt: i64,
    weight: i64,
    /// In virtual time.
    warp: i64,
    /// In real time; 0 is none.
    warp_limit: u64,
    unwarp_period: u64,
    is_warped: bool,
    /// Time run in this warp.
    warp_used: u64,
    /// When it may warp again.
    unwarp_until: u64,
}

impl Entity {
    const NONE: Self = Self {
        avt: 0,
        weight: 1,
        warp: 0,
        warp_limit: 0,
        unwarp_period: 0,
        is_warped: false,
        warp_used: 0,
        unwarp_until: 0,
    };

    fn evt(&self) -> i64 {
        if self.is_warped {
            self.avt - self.warp
        } else {
            self.avt
        }
    }

    fn virtual_time(&self, real: u64) -> i64 {
        real.min(LONGEST) as i64 * RATIO / self.weight
    }

    /// Real time in which this entity's virtual time grows by `delta`, rounded up.
    fn real_time(&self, delta: i64) -> u64 {
        let real = i128::from(delta.max(0)) * i128::from(self.weight);
        (real as u128).div_ceil(RATIO as u128) as u64
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Bvt {
    mcu: u64,
    csa: u64,
    entities: [Entity; CAPACITY],
    /// Entities that are warped at times.
    warping: u32,
    /// System virtual time: the least AVT of runnable entities; never goes back.
    svt: i64,
    /// End of the current turn.
    turn_end: u64,
    /// Somebody whose EVT is not greater has appeared.
    is_outdone: bool,
    has_yielded: bool,
}

impl Bvt {
    pub fn new(mcu: u64, csa: u32) -> Self {
        let mcu = mcu.clamp(1, LONGEST >> 16);
        Self {
            mcu,
            csa: mcu.saturating_mul(csa.into()).min(LONGEST),
            entities: [Entity::NONE; CAPACITY],
            warping: 0,
            svt: 0,
            turn_end: 0,
            is_outdone: false,
            has_yielded: false,
        }
    }

    pub fn add(&mut self, id: EntityId, params: &Params) -> Result<(), AddError> {
        if !(1..=128).contains(&params.weight) {
            return Err(AddError::Weight(params.weight));
        }
        if !(-8192..=8192).contains(&params.warp_value) {
            return Err(AddError::Warp(params.warp_value));
        }
        let real = |mcus: u32| self.mcu.saturating_mul(mcus.into());
        self.entities[id.index()] = Entity {
            avt: self.svt,
            weight: params.weight.into(),
            warp: i64::from(params.warp_value) * self.mcu as i64 * RATIO,
            warp_limit: if params.warp_value > 0 {
                real(params.warp_limit)
            } else {
                0
            },
            unwarp_period: real(params.unwarp_period),
            is_warped: params.warp_value != 0,
            ..Entity::NONE
        };
        if params.warp_value > 0 {
            self.warping |= id.bit();
        } else {
            self.warping &= !id.bit();
        }
        Ok(())
    }

    pub fn wake(&mut self, common: &Common, id: EntityId, now: u64) {
        let entity = &mut self.entities[id.index()];
        entity.avt = entity.avt.max(self.svt);
        self.refresh(common, now);
        let Some(current) = common.current else {
            return;
        };
        if self.evt(id) <= self.evt(current) {
            self.is_outdone = true;
        } else if common.waiting().count_ones() == 1 {
            // The turn had no end so far.
            self.begin_turn(common, current, now);
        } else {
            self.turn_end = self.turn_end.min(self.end_of_turn(common, current, now));
        }
    }

    pub fn yield_now(&mut self) {
        self.has_yielded = true;
    }

    pub fn charge(&mut self, id: EntityId, elapsed: u64, now: u64) {
        let entity = &mut self.entities[id.index()];
        entity.avt = entity.avt.saturating_add(entity.virtual_time(elapsed));
        if entity.is_warped && entity.warp_limit > 0 {
            entity.warp_used = entity.warp_used.saturating_add(elapsed);
            if entity.warp_used >= entity.warp_limit {
                entity.is_warped = false;
                entity.unwarp_until = now.saturating_add(entity.unwarp_period);
                self.is_outdone = true;
            }
        }
    }

    /// Lets entities warp again whose time has come, and keeps the system virtual time.
    pub fn refresh(&mut self, common: &Common, now: u64) {
        for id in members(self.warping & common.known) {
            let entity = &mut self.entities[id.index()];
            if !entity.is_warped && now >= entity.unwarp_until {
                entity.is_warped = true;
                entity.warp_used = 0;
                // Only a waiting one can outdo the current.
                self.is_outdone |= common.waiting() & id.bit() != 0;
            }
        }
        let runnable = members(common.runnable).map(|id| self.entities[id.index()].avt);
        let least = runnable.min().unwrap_or(i64::MAX);
        if least != i64::MAX {
            self.svt = self.svt.max(least);
        }
        if self.svt >= REBASE {
            self.rebase();
        }
    }

    fn rebase(&mut self) {
        for entity in &mut self.entities {
            entity.avt = entity.avt.saturating_sub(self.svt).max(-REBASE);
        }
        self.svt = 0;
    }

    /// The least EVT of a set; of equals the one that has waited longer cannot be told, the lower
    /// number is taken.
    fn least(&self, set: u32) -> Option<EntityId> {
        members(set).min_by_key(|id| self.entities[id.index()].evt())
    }

    pub fn pick(&mut self, common: &Common) -> Option<EntityId> {
        let other = self.least(common.waiting());
        let Some(current) = common.current else {
            return other;
        };
        let Some(other) = other else {
            return Some(current);
        };
        Some(if self.goes_first(other, current, common.since) {
            other
        } else {
            current
        })
    }

    /// Whether `other`, which is runnable, replaces the current entity.
    fn goes_first(&self, other: EntityId, current: EntityId, now: u64) -> bool {
        let (its, own) = (self.evt(other), self.evt(current));
        let by_waking = self.is_outdone && its <= own;
        self.has_yielded || by_waking || now >= self.turn_end && its < own
    }

    fn evt(&self, id: EntityId) -> i64 {
        self.entities[id.index()].evt()
    }

    /// Notes that `id` runs from now on. A turn that goes on is not made longer by the decision,
    /// which is taken anew at each interrupt of the CPU.
    pub fn picked(&mut self, common: &Common, id: EntityId, goes_on: bool, now: u64) {
        let end = self.turn_end;
        self.begin_turn(common, id, now);
        if goes_on && now < end {
            self.turn_end = end.min(self.turn_end);
        }
    }

    fn begin_turn(&mut self, common: &Common, id: EntityId, now: u64) {
        self.is_outdone = false;
        self.has_yielded = false;
        self.turn_end = self.end_of_turn(common, id, now);
    }

    /// When `id`'s EVT has passed the next one's by the allowance, in whole MCUs; earlier if its
    /// warp ends before.
    fn end_of_turn(&self, common: &Common, id: EntityId, now: u64) -> u64 {
        let entity = &self.entities[id.index()];
        let Some(next) = self.least(common.runnable & !id.bit()) else {
            return u64::MAX;
        };
        let ahead = entity.real_time(self.evt(next).saturating_sub(entity.evt()));
        let length = ahead.saturating_add(self.csa).div_ceil(self.mcu).max(1);
        let mut length = length.saturating_mul(self.mcu);
        if entity.is_warped && entity.warp_limit > 0 {
            length = length.min(entity.warp_limit - entity.warp_used.min(entity.warp_limit));
        }
        now.saturating_add(length.max(1))
    }

    pub fn should_preempt(&self, common: &Common, now: u64) -> bool {
        let Some(current) = common.current else {
            return common.runnable != 0;
        };
        let Some(other) = self.least(common.waiting()) else {
            return false;
        };
        self.goes_first(other, current, now)
    }

    pub fn next_tick(&self, common: &Common, now: u64) -> u64 {
        let unwarps = members(common.waiting() & self.warping).filter_map(|id| {
            let entity = &self.entities[id.index()];
            (!entity.is_warped).then_some(entity.unwarp_until)
        });
        // A turn that is over without anybody behind goes on for one MCU at a time.
        let end = if self.turn_end > now {
            self.turn_end
        } else {
            now.saturating_add(self.mcu)
        };
        unwarps
            .min()
            .unwrap_or(u64::MAX)
            .min(end)
            .max(now.saturating_add(1))
    }
}
