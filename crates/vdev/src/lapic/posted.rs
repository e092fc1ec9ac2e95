//! Interrupts that other CPUs post for a vCPU.
//!
//! The first half has the layout of a posted-interrupt descriptor (SDM volume 3C, 30.6), so that a
//! processor that can takes what is posted by itself, while it executes the guest. What it may not
//! take is beside: level-triggered vectors, whose EOI has to come back, and those that are errors.
//!
//! Posting is wait-free: the vector's bit first, then the one that says that there is something. The
//! owner takes in the opposite order, so a vector that it misses has that bit still to come. An
//! empty mailbox costs the owner one load.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use acrn_abi::Vector;

/// Mailbox of one vCPU: any CPU posts, only the vCPU's CPU takes (`VLapic::absorb`, or the
/// processor).
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct PostedInterrupts {
    /// Requests that the processor may take (PIR).
    requests: [AtomicU64; 4],
    /// Bits [`OUTSTANDING`], [`ASIDE`] and [`TOUCHED`].
    notification: AtomicU32,
    reserved: [u32; 7],
    /// Requests that only the owner takes.
    aside: [AtomicU64; 4],
    /// The vCPU is on its CPU, and the processor takes requests at a notification.
    listens: AtomicBool,
}

/// A notification for `requests` is on its way (ON); the processor clears it before it takes them.
const OUTSTANDING: u32 = 1 << 0;
/// Something is `aside`.
const ASIDE: u32 = 1 << 8;
/// Something was posted since the owner last looked, whether the processor has taken it or not.
const TOUCHED: u32 = 1 << 9;

/// What a post asks of the poster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Posted {
    /// Nothing: who has posted before has done it, or will.
    Already,
    /// Send the vCPU's CPU the notification vector.
    Notify,
    /// Make the vCPU's CPU look at it.
    Wake,
}

impl PostedInterrupts {
    /// An empty mailbox.
    pub const fn new() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; 4],
            notification: AtomicU32::new(0),
            reserved: [0; 7],
            aside: [const { AtomicU64::new(0) }; 4],
            listens: AtomicBool::new(false),
        }
    }

    /// Posts `vector`.
    #[inline]
    pub fn post(&self, vector: Vector, level: bool) -> Posted {
        let index = usize::from(vector.0 >> 6);
        let bit = 1u64 << (vector.0 & 63);
        if level || vector.0 < super::FIRST_LEGAL_VECTOR {
            self.aside[index].fetch_or(bit, Ordering::SeqCst);
            return match self.announce(ASIDE) {
                true => Posted::Wake,
                false => Posted::Already,
            };
        }
        self.requests[index].fetch_or(bit, Ordering::SeqCst);
        match (
            self.announce(OUTSTANDING),
            self.listens.load(Ordering::SeqCst),
        ) {
            (false, _) => Posted::Already,
            (true, true) => Posted::Notify,
            (true, false) => Posted::Wake,
        }
    }

    /// Whether nobody has said so yet.
    fn announce(&self, what: u32) -> bool {
        self.notification.fetch_or(what | TOUCHED, Ordering::SeqCst) & what == 0
    }

    /// Whether nothing was posted since the last [`Self::drain`]; one load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.notification.load(Ordering::Acquire) == 0
    }

    /// Takes everything: `take(word, vectors, level-triggered vectors among them)` per 64 vectors.
    #[inline]
    pub fn drain(&self, mut take: impl FnMut(usize, u64, u64)) {
        let has_aside = self.notification.swap(0, Ordering::SeqCst) & ASIDE != 0;
        for (index, (requests, aside)) in self.requests.iter().zip(&self.aside).enumerate() {
            let level = if has_aside { take_word(aside) } else { 0 };
            let vectors = take_word(requests) | level;
            if vectors != 0 {
                take(index, vectors, level);
            }
        }
    }

    /// Forgets everything: reset of the vCPU.
    pub fn clear(&self) {
        self.drain(|_, _, _| {});
    }

    /// From now on notifications are enough: the vCPU is on its CPU.
    #[inline]
    pub fn listen(&self) {
        self.listens.store(true, Ordering::SeqCst);
    }

    /// Notifications are not enough any more; whether something was posted that nobody will be
    /// told of again.
    #[inline]
    pub fn end_listening(&self) -> bool {
        self.listens.load(Ordering::Relaxed) && {
            self.listens.store(false, Ordering::SeqCst);
            !self.is_empty()
        }
    }
}

/// Nearly all words are empty, and a load is cheaper than a locked operation.
#[inline]
fn take_word(word: &AtomicU64) -> u64 {
    match word.load(Ordering::Acquire) {
        0 => 0,
        _ => word.swap(0, Ordering::AcqRel),
    }
}

const _: () = {
    assert!(core::mem::offset_of!(PostedInterrupts, requests) == 0);
    assert!(core::mem::offset_of!(PostedInterrupts, notification) == 32);
    assert!(core::mem::offset_of!(PostedInterrupts, aside) == 64);
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn taken(posted: &PostedInterrupts) -> Vec<(usize, u64, u64)> {
        let mut seen = Vec::new();
        posted.drain(|word, vectors, level| seen.push((word, vectors, level)));
        seen
    }

    /// What a processor does at a notification (SDM 30.6).
    fn processor_takes(posted: &PostedInterrupts) -> [u64; 4] {
        posted
            .notification
            .fetch_and(!OUTSTANDING, Ordering::SeqCst);
        core::array::from_fn(|word| posted.requests[word].swap(0, Ordering::SeqCst))
    }

    #[test]
    fn only_the_first_post_asks_for_something() {
        let posted = PostedInterrupts::new();
        assert!(posted.is_empty());
        assert_eq!(posted.post(Vector(0x40), false), Posted::Wake);
        assert_eq!(posted.post(Vector(0x40), false), Posted::Already);
        assert_eq!(posted.post(Vector(0x42), false), Posted::Already);
        assert_eq!(posted.post(Vector(0xc1), true), Posted::Wake);
        assert_eq!(posted.post(Vector(0xc2), true), Posted::Already);
        assert_eq!(taken(&posted), [(1, 5, 0), (3, 6, 6)]);
        assert!(posted.is_empty());
        assert_eq!(posted.post(Vector(0x40), false), Posted::Wake);
    }

    #[test]
    fn a_vcpu_on_its_cpu_is_notified() {
        let posted = PostedInterrupts::new();
        posted.listen();
        assert_eq!(posted.post(Vector(0x40), false), Posted::Notify);
        assert_eq!(posted.post(Vector(0x81), false), Posted::Already);
        assert_eq!(processor_takes(&posted), [0, 1, 2, 0]);
        assert!(
            !posted.is_empty(),
            "the owner has to know that something came"
        );
        assert_eq!(posted.post(Vector(0x40), false), Posted::Notify);
        assert!(posted.end_listening());
        assert_eq!(taken(&posted), [(1, 1, 0)]);
        assert!(!posted.end_listening());
        assert_eq!(posted.post(Vector(0x40), false), Posted::Wake);
    }

    #[test]
    fn the_processor_does_not_take_what_has_to_be_looked_at() {
        let posted = PostedInterrupts::new();
        posted.listen();
        assert_eq!(posted.post(Vector(0x51), true), Posted::Wake);
        assert_eq!(posted.post(Vector(3), false), Posted::Already);
        assert_eq!(posted.post(Vector(0x52), false), Posted::Notify);
        assert_eq!(processor_takes(&posted), [0, 1 << 0x12, 0, 0]);
        assert_eq!(taken(&posted), [(0, 8, 8), (1, 1 << 0x11, 1 << 0x11)]);
    }

    #[test]
    fn no_post_is_lost_while_the_owner_and_the_processor_take() {
        /// On a busy computer each turn takes a time slice.
        const ENOUGH: Duration = Duration::from_secs(2);
        let posted = PostedInterrupts::new();
        posted.listen();
        let (mut sent, mut got, mut asked) = (0u32, 0u32, 0u32);
        std::thread::scope(|scope| {
            let poster = scope.spawn(|| {
                let (mut sent, mut asked) = (0, 0);
                let start = Instant::now();
                while sent < 100_000 && start.elapsed() < ENOUGH {
                    let vector = Vector(0x20 + (sent % 0xe0) as u8);
                    asked += u32::from(posted.post(vector, false) != Posted::Already);
                    // One at a time can be told from another one.
                    while posted.requests[usize::from(vector.0 >> 6)].load(Ordering::SeqCst)
                        >> (vector.0 & 63)
                        & 1
                        != 0
                    {
                        std::thread::yield_now();
                    }
                    sent += 1;
                }
                (sent, asked)
            });
            let mut turn = false;
            while !poster.is_finished() {
                turn = !turn;
                match turn {
                    true => posted.drain(|_, vectors, _| got += vectors.count_ones()),
                    false => {
                        for word in processor_takes(&posted) {
                            got += word.count_ones();
                        }
                    }
                }
            }
            (sent, asked) = poster.join().unwrap();
        });
        posted.drain(|_, vectors, _| got += vectors.count_ones());
        assert_eq!(sent, got);
        assert!(asked > 0 && asked <= sent);
    }
}
