//! Which local APICs of a VM get a message.

use super::{LapicIdentity, Shorthand};
use crate::interrupt::{DeliveryMode, Destination};

/// Iterator over the indices of the local APICs that a message reaches.
#[derive(Clone, Debug)]
pub struct Targets<'a> {
    identities: &'a [LapicIdentity],
    destination: Option<Destination>,
    excluded: Option<usize>,
    /// Where the round starts, how many were looked at, how many still may be delivered to.
    start: usize,
    seen: usize,
    wanted: usize,
}

impl Iterator for Targets<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.wanted > 0 && self.seen < self.identities.len() {
            let mut index = self.start + self.seen;
            if index >= self.identities.len() {
                index -= self.identities.len();
            }
            self.seen += 1;
            let identity = self.identities.get(index)?;
            let hit = self.excluded != Some(index)
                && self
                    .destination
                    .is_none_or(|destination| identity.matches(destination));
            if hit {
                self.wanted -= 1;
                return Some(index);
            }
        }
        None
    }
}

/// Targets of a message from an IOAPIC or an MSI. `turn` is a running number of the caller: with
/// lowest-priority delivery the search for the one target starts there, so the load goes round.
pub fn route(
    identities: &[LapicIdentity],
    destination: Destination,
    mode: DeliveryMode,
    turn: usize,
) -> Targets<'_> {
    let lowest = mode == DeliveryMode::LowestPriority;
    Targets {
        identities,
        destination: Some(destination),
        excluded: None,
        start: if lowest {
            turn.checked_rem(identities.len()).unwrap_or(0)
        } else {
            0
        },
        seen: 0,
        wanted: if lowest { 1 } else { identities.len() },
    }
}

/// Targets of an IPI that the local APIC number `sender` of the slice sent. A shorthand reaches
/// the others whatever their ids are; the receiver drops what its state does not let it accept.
pub fn route_ipi<'a>(
    identities: &'a [LapicIdentity],
    sender: usize,
    icr: &super::Icr,
    turn: usize,
) -> Targets<'a> {
    let all = identities.len();
    let mut targets = route(identities, icr.destination, icr.mode, turn);
    match icr.shorthand {
        Shorthand::None => return targets,
        Shorthand::Oneself => {
            targets.start = sender.min(all);
            targets.seen = 0;
            targets.wanted = usize::from(sender < all);
        }
        Shorthand::AllIncludingSelf => {}
        Shorthand::AllExcludingSelf => targets.excluded = Some(sender),
    }
    targets.destination = None;
    targets
}

#[cfg(test)]
mod tests {
    use super::super::{Icr, Mode};
    use super::*;
    use crate::interrupt::BROADCAST;

    fn identities() -> [LapicIdentity; 4] {
        core::array::from_fn(|index| {
            let identity = LapicIdentity::new();
            identity.store(index as u32 * 2, 1 << (24 + index), u32::MAX, Mode::XApic);
            identity
        })
    }

    fn to(id: u32, logical: bool, mode: DeliveryMode, turn: usize) -> Vec<usize> {
        route(&identities(), Destination { id, logical }, mode, turn).collect()
    }

    #[test]
    fn fixed_reaches_every_match() {
        assert_eq!(to(4, false, DeliveryMode::Fixed, 9), [2]);
        assert_eq!(to(0b1010, true, DeliveryMode::Fixed, 9), [1, 3]);
        assert_eq!(to(BROADCAST, false, DeliveryMode::Nmi, 9), [0, 1, 2, 3]);
        assert_eq!(to(1, false, DeliveryMode::Fixed, 9), [] as [usize; 0]);
    }

    #[test]
    fn lowest_priority_goes_round_among_the_matches() {
        let mode = DeliveryMode::LowestPriority;
        assert_eq!(to(0b1010, true, mode, 0), [1]);
        assert_eq!(to(0b1010, true, mode, 2), [3]);
        assert_eq!(to(0b1010, true, mode, 4 + 2), [3]);
        assert_eq!(to(0b0010, true, mode, 3), [1]);
    }

    #[test]
    fn shorthands_need_no_id() {
        let identities = identities();
        let ipi = |low| {
            route_ipi(&identities, 1, &Icr::from_xapic(low, 0x0400_0000), 0).collect::<Vec<_>>()
        };
        assert_eq!(ipi(0x0000_4040), [2]);
        assert_eq!(ipi(0x0004_4040), [1]);
        assert_eq!(ipi(0x0008_4040), [0, 1, 2, 3]);
        assert_eq!(ipi(0x000c_4040), [0, 2, 3]);
    }

    #[test]
    fn a_vm_without_lapics_routes_nowhere() {
        let destination = Destination {
            id: 0,
            logical: false,
        };
        assert_eq!(
            route(&[], destination, DeliveryMode::LowestPriority, 3).count(),
            0
        );
    }
}
