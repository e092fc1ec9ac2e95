//! The MSR bitmaps of a guest (SDM volume 3C, 25.6.9), one for each way in which it may have its local APIC.

use crate::arch::cpu::msr;
use crate::virt::MSR_BITMAP_SIZE;
use acrn_vdev::lapic::{self, handover};

/// Bytes of one bitmap.
const SIZE: u64 = 4096;

/// Which of a guest's bitmaps is in force: its distance from the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Bitmap {
    /// Accesses to the local APIC exit.
    Plain = 0,
    /// The processor keeps the guest's x2APIC.
    Virtualized = SIZE,
    /// The guest has the processor's own x2APIC.
    Own = 2 * SIZE,
    /// The same, but its TSC is not the processor's, and so is the deadline.
    OwnOffset = 3 * SIZE,
}

/// The halves of a bitmap; each has a quarter for low and one for high MSRs.
const READ: usize = 0;
const WRITE: usize = 2048;

/// Lets an MSR pass in all bitmaps of intercepted ones, all bits of which are set.
pub fn pass_msr(bitmaps: &mut [u8; MSR_BITMAP_SIZE], index: u32) {
    for bitmap in bitmaps.chunks_exact_mut(SIZE as usize) {
        clear(bitmap, index, READ);
        clear(bitmap, index, WRITE);
    }
}

/// Completes the bitmaps: what of an x2APIC needs no exit.
pub fn finish_msr_bitmap(bitmaps: &mut [u8; MSR_BITMAP_SIZE]) {
    let mut of = |bitmap: Bitmap, index, half| clear(&mut bitmaps[bitmap as usize..], index, half);
    for index in lapic::readable() {
        of(Bitmap::Virtualized, index, READ);
    }
    of(Bitmap::Virtualized, msr::X2APIC_TPR, READ);
    of(Bitmap::Virtualized, msr::X2APIC_TPR, WRITE);
    of(Bitmap::Virtualized, msr::X2APIC_EOI, WRITE);
    for own in [Bitmap::Own, Bitmap::OwnOffset] {
        handover::readable().for_each(|index| of(own, index, READ));
        handover::writable().for_each(|index| of(own, index, WRITE));
    }
    of(Bitmap::Own, msr::TSC_DEADLINE, READ);
    of(Bitmap::Own, msr::TSC_DEADLINE, WRITE);
}

fn clear(bitmap: &mut [u8], index: u32, half: usize) {
    let (quarter, offset) = match index {
        0..=0x1fff => (0, index),
        0xc000_0000..=0xc000_1fff => (1024, index - 0xc000_0000),
        _ => return,
    };
    bitmap[half + quarter + offset as usize / 8] &= !(1 << (offset % 8));
}
