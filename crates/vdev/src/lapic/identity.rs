//! What other CPUs may know of a vCPU's local APIC: how it is addressed.

use core::sync::atomic::{AtomicU32, Ordering};

use super::Mode;
use crate::interrupt::{BROADCAST, Destination};

/// Published addressing state of one local APIC. The owner stores (`VLapic::publish`), any CPU
/// reads; a reader may see a change late, as on a real bus.
#[derive(Debug)]
pub struct LapicIdentity {
    id: AtomicU32,
    ldr: AtomicU32,
    dfr: AtomicU32,
    mode: AtomicU32,
}

impl LapicIdentity {
    /// A local APIC that nothing reaches until its owner publishes.
    pub const fn new() -> Self {
        Self {
            id: AtomicU32::new(0),
            ldr: AtomicU32::new(0),
            dfr: AtomicU32::new(u32::MAX),
            mode: AtomicU32::new(Mode::Disabled as u32),
        }
    }

    pub(super) fn store(&self, id: u32, ldr: u32, dfr: u32, mode: Mode) {
        self.id.store(id, Ordering::Relaxed);
        self.ldr.store(ldr, Ordering::Relaxed);
        self.dfr.store(dfr, Ordering::Relaxed);
        self.mode.store(mode as u32, Ordering::Release);
    }

    /// APIC id.
    pub fn id(&self) -> u32 {
        self.id.load(Ordering::Relaxed)
    }

    /// Operating mode.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            1 => Mode::XApic,
            2 => Mode::X2Apic,
            _ => Mode::Disabled,
        }
    }

    /// Whether a message for `destination` reaches this local APIC (SDM 3A, 10.6.2 and 10.12.10).
    pub fn matches(&self, destination: Destination) -> bool {
        let Destination { id: dest, logical } = destination;
        match self.mode() {
            Mode::Disabled => false,
            _ if dest == BROADCAST => true,
            Mode::XApic if dest == 0xff => true,
            _ if !logical => dest == self.id(),
            Mode::XApic => self.matches_xapic_logical(dest),
            Mode::X2Apic => {
                let ldr = self.ldr.load(Ordering::Relaxed);
                dest >> 16 == ldr >> 16 && dest & ldr & 0xffff != 0
            }
        }
    }

    fn matches_xapic_logical(&self, dest: u32) -> bool {
        let ldr = self.ldr.load(Ordering::Relaxed) >> 24;
        if dest > 0xff {
            return false;
        }
        match self.dfr.load(Ordering::Relaxed) >> 28 {
            0xf => dest & ldr != 0,
            0x0 => dest >> 4 == ldr >> 4 && dest & ldr & 0xf != 0,
            _ => false,
        }
    }
}

impl Default for LapicIdentity {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lapic(id: u32, ldr: u32, dfr: u32, mode: Mode) -> LapicIdentity {
        let identity = LapicIdentity::new();
        identity.store(id, ldr, dfr, mode);
        identity
    }

    fn matches(identity: &LapicIdentity, id: u32, logical: bool) -> bool {
        identity.matches(Destination { id, logical })
    }

    #[test]
    fn a_disabled_lapic_hears_nothing() {
        let identity = lapic(1, 0xff00_0000, u32::MAX, Mode::Disabled);
        assert!(!matches(&identity, BROADCAST, false));
        assert!(!matches(&identity, 1, false));
    }

    #[test]
    fn xapic_physical_compares_the_whole_id() {
        let identity = lapic(1, 0, u32::MAX, Mode::XApic);
        assert!(matches(&identity, 1, false));
        assert!(!matches(&identity, 0x101, false));
        assert!(matches(&identity, 0xff, false));
        assert!(matches(&identity, BROADCAST, true));
    }

    #[test]
    fn xapic_flat_is_a_bit_mask() {
        let identity = lapic(3, 0x0800_0000, u32::MAX, Mode::XApic);
        assert!(matches(&identity, 0x0a, true));
        assert!(!matches(&identity, 0x07, true));
        assert!(!matches(&identity, 0x108, true));
    }

    #[test]
    fn xapic_cluster_is_a_cluster_and_a_mask() {
        let identity = lapic(3, 0x2400_0000, 0x0fff_ffff, Mode::XApic);
        assert!(matches(&identity, 0x2c, true));
        assert!(!matches(&identity, 0x1c, true));
        assert!(!matches(&identity, 0x23, true));
        assert!(matches(&identity, 0xff, true));
    }

    #[test]
    fn an_undefined_logical_model_matches_nothing() {
        let identity = lapic(3, 0xff00_0000, 0x5fff_ffff, Mode::XApic);
        assert!(!matches(&identity, 0x01, true));
    }

    #[test]
    fn x2apic_cluster_has_16_members_and_255_is_an_ordinary_id() {
        let identity = lapic(0x25, 0x0002_0020, 0, Mode::X2Apic);
        assert!(matches(&identity, 0x0002_0030, true));
        assert!(!matches(&identity, 0x0003_0020, true));
        assert!(!matches(&identity, 0xff, false));
        assert!(matches(&identity, 0x25, false));
        assert!(matches(&identity, BROADCAST, true));
    }
}
