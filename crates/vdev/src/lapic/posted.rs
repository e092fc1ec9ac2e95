//! Interrupts that other CPUs post for a vCPU.
//!
//! Posting is wait-free: the vector's bit first, then the bit of its word in `summary`. The owner
//! drains in the opposite order, so a bit that it misses has its summary bit still to come. An
//! empty mailbox costs the owner one load.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use acrn_abi::Vector;

/// Mailbox of one vCPU: any CPU posts, only the vCPU's CPU drains (`VLapic::absorb`).
#[derive(Debug, Default)]
pub struct PostedInterrupts {
    irr: [AtomicU64; 4],
    level: [AtomicU64; 4],
    /// Bit n: `irr[n]` may hold something.
    summary: AtomicU32,
}

impl PostedInterrupts {
    /// An empty mailbox.
    pub const fn new() -> Self {
        Self {
            irr: [const { AtomicU64::new(0) }; 4],
            level: [const { AtomicU64::new(0) }; 4],
            summary: AtomicU32::new(0),
        }
    }

    /// Posts `vector`; true when it was not already posted, that is when the vCPU needs a kick.
    pub fn post(&self, vector: Vector, level: bool) -> bool {
        let index = usize::from(vector.0 >> 6);
        let bit = 1u64 << (vector.0 & 63);
        let trigger = &self.level[index];
        // Nearly always right already, and a load is cheaper than a locked operation.
        if (trigger.load(Ordering::Relaxed) & bit != 0) != level {
            if level {
                trigger.fetch_or(bit, Ordering::Relaxed);
            } else {
                trigger.fetch_and(!bit, Ordering::Relaxed);
            }
        }
        let new = self.irr[index].fetch_or(bit, Ordering::Release) & bit == 0;
        if new {
            self.summary.fetch_or(1 << index, Ordering::Release);
        }
        new
    }

    /// Whether nothing is posted; one load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.summary.load(Ordering::Acquire) == 0
    }

    /// Takes everything: `take(word, vectors, level-triggered vectors among them)` per 64 vectors.
    #[inline]
    pub fn drain(&self, mut take: impl FnMut(usize, u64, u64)) {
        let mut summary = self.summary.swap(0, Ordering::Acquire);
        while summary != 0 {
            let index = summary.trailing_zeros() as usize;
            summary &= summary - 1;
            let (Some(irr), Some(level)) = (self.irr.get(index), self.level.get(index)) else {
                return;
            };
            let vectors = irr.swap(0, Ordering::Acquire);
            if vectors != 0 {
                take(index, vectors, level.load(Ordering::Relaxed) & vectors);
            }
        }
    }

    /// Forgets everything: reset of the vCPU.
    pub fn clear(&self) {
        self.drain(|_, _, _| {});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_post_of_a_vector_asks_for_a_kick() {
        let posted = PostedInterrupts::new();
        assert!(posted.is_empty());
        assert!(posted.post(Vector(0x40), false));
        assert!(!posted.post(Vector(0x40), false));
        assert!(posted.post(Vector(0xc1), true));
        let mut seen = Vec::new();
        posted.drain(|word, vectors, level| seen.push((word, vectors, level)));
        assert_eq!(seen, [(1, 1, 0), (3, 2, 2)]);
        assert!(posted.is_empty());
        assert!(posted.post(Vector(0x40), false));
    }

    #[test]
    fn no_post_is_lost_while_the_owner_drains() {
        let posted = PostedInterrupts::new();
        let (mut sent, mut got) = (0u32, 0u32);
        std::thread::scope(|scope| {
            let poster = scope.spawn(|| {
                let mut sent = 0;
                for round in 0..100_000u32 {
                    sent += u32::from(posted.post(Vector(round as u8), false));
                }
                sent
            });
            while !poster.is_finished() {
                posted.drain(|_, vectors, _| got += vectors.count_ones());
            }
            sent = poster.join().unwrap();
        });
        posted.drain(|_, vectors, _| got += vectors.count_ones());
        assert_eq!(sent, got);
    }
}
