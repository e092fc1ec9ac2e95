//! Round robin and priorities: one queue of the runnable entities, whose head runs.
//!
//! Round robin appends and gives turns a length; priorities insert behind the last entity that is
//! not less important, and turns end when the entity blocks or yields.

use arrayvec::ArrayVec;

use crate::{CAPACITY, EntityId, Params};

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    order: ArrayVec<EntityId, CAPACITY>,
    /// All 0 with round robin.
    priorities: [u8; CAPACITY],
    /// Length of a turn; `None` is endless.
    slice: Option<u64>,
    /// What is left of each entity's turn.
    left: [u64; CAPACITY],
}

impl Queue {
    pub fn round_robin(slice: u64) -> Self {
        // A turn of no length would only ever switch.
        Self {
            slice: Some(slice.max(1)),
            ..Self::priority()
        }
    }

    pub fn priority() -> Self {
        Self {
            order: ArrayVec::new(),
            priorities: [0; CAPACITY],
            slice: None,
            left: [0; CAPACITY],
        }
    }

    pub fn add(&mut self, id: EntityId, params: &Params) {
        self.priorities[id.index()] = if self.slice.is_some() {
            0
        } else {
            params.priority
        };
    }

    pub fn wake(&mut self, id: EntityId) {
        self.insert(id);
    }

    pub fn block(&mut self, id: EntityId) {
        self.order.retain(|other| *other != id);
    }

    pub fn yield_now(&mut self, id: EntityId) {
        self.block(id);
        self.insert(id);
    }

    pub fn charge(&mut self, id: EntityId, elapsed: u64) {
        let left = &mut self.left[id.index()];
        *left = left.saturating_sub(elapsed);
    }

    pub fn pick(&mut self) -> Option<EntityId> {
        let head = *self.order.first()?;
        if self.is_over(head) {
            self.yield_now(head);
        }
        self.order.first().copied()
    }

    pub fn should_preempt(&self, current: EntityId) -> bool {
        self.order.first() != Some(&current) || self.order.len() > 1 && self.is_over(current)
    }

    pub fn next_tick(&self, current: EntityId, now: u64) -> Option<u64> {
        self.slice
            .map(|_| now.saturating_add(self.left[current.index()]))
    }

    fn is_over(&self, id: EntityId) -> bool {
        self.slice.is_some() && self.left[id.index()] == 0
    }

    /// Puts an entity, which is not in the queue, behind its equals with a new turn.
    fn insert(&mut self, id: EntityId) {
        let priority = self.priorities[id.index()];
        let behind = |other: &EntityId| self.priorities[other.index()] >= priority;
        let place = self
            .order
            .iter()
            .rposition(behind)
            .map_or(0, |last| last + 1);
        self.left[id.index()] = self.slice.unwrap_or(0);
        // Each id is in the queue at most once, so there is room.
        let _ = self.order.try_insert(place, id);
    }
}
