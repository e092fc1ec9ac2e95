//! Creations that fail for want of a table frame, each at another step: what they took comes back.
//!
//! One VM takes all frames that the hypervisor has, by pages of memory 2 MiB apart, each of which wants
//! a table of its own. Some of these are taken away again, so that just as many frames are free.

use super::vm::UserVm;
use crate::report::Test;
use acrn_abi::hypercall::Errno;

/// Memory that nobody uses, behind this image.
const LENT: u64 = 128 << 20;
const PAGE: u64 = 4096;
const STRIDE: u64 = 2 << 20;
/// More frames than the hypervisor has for a machine of this size.
const MOST: u64 = 20_000;
const OUT_OF_MEMORY: i64 = -(Errno::ENOMEM.0 as i64);

struct Hoard {
    vm: UserVm,
    pages: u64,
}

impl Hoard {
    /// Takes frames until there are none.
    fn fill(&mut self) -> Result<(), i64> {
        while self.pages < MOST {
            let (at, from) = (self.pages * STRIDE, LENT + self.pages * PAGE);
            match self.vm.map(at, from, PAGE) {
                0 => self.pages += 1,
                OUT_OF_MEMORY => return Ok(()),
                other => return Err(other),
            }
        }
        Err(0)
    }

    /// Leaves so many frames to others, or more where a table of tables goes too.
    fn spare(&mut self, frames: u64) -> i64 {
        for _ in 0..frames {
            self.pages -= 1;
            let result = self.vm.unmap(self.pages * STRIDE, PAGE);
            if result != 0 {
                return result;
            }
        }
        0
    }
}

/// All that a Device Model does before its VM starts; what failed first.
fn attempt() -> Result<(), i64> {
    static mut REQUESTS: [u64; 1024] = [0; 1024];
    let page = ((&raw mut REQUESTS) as u64).next_multiple_of(PAGE);
    let vm = UserVm::create(b"wanting", 1)?;
    let results = [
        vm.set_request_page(page),
        vm.map(0, LENT - 8 * PAGE, 8 * PAGE),
        vm.destroy(),
    ];
    results.into_iter().find(|&r| r != 0).map_or(Ok(()), Err)
}

pub(super) fn creation(t: &Test) {
    let mut hoard = match UserVm::create(b"hoarder", 1) {
        Ok(vm) => Hoard { vm, pages: 0 },
        Err(error) => {
            expect!(t, false, "CREATE_VM: {error}");
            return;
        }
    };
    let filled = hoard.fill();
    expect!(t, filled.is_ok(), "frames: {filled:?}");
    let full = hoard.pages;
    let mut failures = 0;
    for frames in 0..8 {
        let spared = hoard.spare(frames);
        expect!(t, spared == 0, "unmapping: {spared}");
        let done = attempt();
        failures += u32::from(done == Err(OUT_OF_MEMORY));
        let fine = done == Ok(()) || done == Err(OUT_OF_MEMORY);
        expect!(t, fine, "with {frames} frames: {done:?}");
        // Once there are enough, more are enough too.
        let monotonous = done.is_ok() || failures == frames as u32 + 1;
        expect!(t, monotonous, "with {frames} frames: {done:?}");
        let filled = hoard.fill();
        let kept = filled.is_ok() && hoard.pages == full;
        expect!(t, kept, "{} of {full} frames: {filled:?}", hoard.pages);
    }
    // A root, and a table on each of the three levels below.
    expect!(t, failures == 4, "{failures} steps have failed");
    let result = hoard.vm.destroy();
    expect!(t, result == 0, "DESTROY_VM: {result}");
}
