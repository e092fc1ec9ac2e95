//! How vCPUs share a CPU: from the configuration's words to those of the schedulers.

use acrn_config_blob::{Scheduler, Scheduling};
use acrn_sched::{Params, Policy};

/// Longest turn of round robin, in milliseconds.
const SLICE_MS: u64 = 10;
/// Context-switch allowance of borrowed virtual time, in its units of a millisecond.
const CONTEXT_SWITCH_ALLOWANCE: u32 = 5;

/// The policy of a scheduler over a clock with `tick` ticks a millisecond.
pub(crate) const fn policy(scheduler: Scheduler, tick: u64) -> Policy {
    match scheduler {
        Scheduler::Noop => Policy::Noop,
        Scheduler::RoundRobin => Policy::RoundRobin {
            slice: tick.saturating_mul(SLICE_MS),
        },
        Scheduler::Priority => Policy::Priority,
        Scheduler::Bvt => Policy::Bvt {
            mcu: tick,
            csa: CONTEXT_SWITCH_ALLOWANCE,
        },
    }
}

/// What the vCPUs of a VM are entitled to.
pub(crate) fn params(scheduling: &Scheduling) -> Params {
    Params {
        priority: scheduling.priority as u8,
        weight: scheduling.weight,
        // In range: the configuration was judged when it was read.
        warp_value: i16::try_from(scheduling.warp_value).unwrap_or_default(),
        warp_limit: scheduling.warp_limit.into(),
        unwarp_period: scheduling.unwarp_period.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use acrn_config_blob::Priority;
    use acrn_sched::{EntityId, Scheduler as Sched};

    #[test]
    fn each_scheduler_has_its_policy() {
        assert_eq!(policy(Scheduler::Noop, 3), Policy::Noop);
        assert_eq!(
            policy(Scheduler::RoundRobin, 3),
            Policy::RoundRobin { slice: 30 }
        );
        assert_eq!(policy(Scheduler::Priority, 3), Policy::Priority);
        assert_eq!(policy(Scheduler::Bvt, 3), Policy::Bvt { mcu: 3, csa: 5 });
    }

    #[test]
    fn a_high_priority_runs_before_a_low_one() {
        let of = |priority| {
            params(&Scheduling {
                priority,
                weight: 1,
                ..Scheduling::default()
            })
        };
        let mut cpu = Sched::new(policy(Scheduler::Priority, 1));
        for (id, priority) in [(0, Priority::Low), (1, Priority::High)] {
            cpu.add(EntityId(id), of(priority)).unwrap();
            cpu.wake(EntityId(id), 0);
        }
        assert_eq!(cpu.pick(1), Some(EntityId(1)));
    }

    #[test]
    fn weight_and_warp_are_taken_over() {
        let params = params(&Scheduling {
            priority: Priority::Low,
            weight: 3,
            warp_value: -8192,
            warp_limit: 4,
            unwarp_period: 5,
        });
        assert_eq!((params.weight, params.warp_value), (3, -8192));
        assert_eq!((params.warp_limit, params.unwarp_period), (4, 5));
    }
}
