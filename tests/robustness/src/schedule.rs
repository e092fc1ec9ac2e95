//! Scheduling under a clock that jumps.

use crate::Source;
use acrn_sched::{CAPACITY, EntityId, Params, Policy, Scheduler};

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mut scheduler = Scheduler::new(match source.u8() % 2 {
        0 => Policy::Bvt {
            mcu: source.value(),
            csa: source.u32(),
        },
        _ => Policy::Noop,
    });
    let mut now = 0u64;
    while !source.is_empty() {
        now = now.saturating_add(source.value() >> 8);
        let id = EntityId(source.u8() % CAPACITY as u8);
        match source.u8() % 6 {
            0 => {
                let _ = scheduler.add(id, Params::default());
            }
            1 => {
                scheduler.remove(id, now);
            }
            2 => {
                scheduler.wake(id, now);
            }
            3 => {
                scheduler.block(id, now);
            }
            4 => scheduler.yield_now(now),
            _ => scheduler.charge(now),
        }
        let picked = scheduler.pick(now);
        assert!(picked.is_none_or(|id| scheduler.is_runnable(id)));
        assert_eq!(picked.is_none(), scheduler.runnable() == 0);
        if let Some(end) = scheduler.next_tick(now) {
            assert!(
                end > now || now == u64::MAX,
                "a turn that is over at its begin"
            );
        }
    }
}
