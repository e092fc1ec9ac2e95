//! Claims about each policy, and about all.

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const BVT: Policy = Policy::Bvt { mcu: MS, csa: 5 };

fn id(n: u8) -> EntityId {
    EntityId(n)
}

fn weight(weight: u8) -> Params {
    Params {
        weight,
        ..Params::default()
    }
}

/// A scheduler whose entities 0.. have these parameters and are runnable at time 0.
fn busy(policy: Policy, params: &[Params]) -> Scheduler {
    let mut scheduler = Scheduler::new(policy);
    for (n, params) in params.iter().enumerate() {
        scheduler.add(id(n as u8), *params).unwrap();
        scheduler.wake(id(n as u8), 0);
    }
    scheduler.pick(0);
    scheduler
}

/// Runs from `from` to `end` as the hypervisor would, with nobody blocking; returns when each turn
/// began and whose it was.
fn run(scheduler: &mut Scheduler, from: u64, end: u64) -> Vec<(u64, EntityId)> {
    let mut turns = Vec::new();
    let mut now = from;
    while now < end {
        if scheduler.should_preempt(now) {
            let next = scheduler.pick(now).expect("somebody is runnable");
            turns.push((now, next));
        }
        let Some(tick) = scheduler.next_tick(now) else {
            break;
        };
        assert!(tick > now, "time goes on");
        now = tick.min(end);
    }
    scheduler.charge(end);
    turns
}

fn share(scheduler: &Scheduler, n: u8, total: u64) -> f64 {
    scheduler.run_time(id(n)) as f64 * 100.0 / total as f64
}

#[test]
fn noop_has_one_entity_and_no_timer() {
    let mut scheduler = busy(Policy::Noop, &[Params::default()]);
    let error = AddError::Occupied { by: id(0) };
    assert_eq!(scheduler.add(id(1), Params::default()), Err(error));
    assert_eq!(
        (scheduler.current(), scheduler.next_tick(5)),
        (Some(id(0)), None)
    );
    scheduler.block(id(0), 10);
    assert_eq!((scheduler.pick(10), scheduler.run_time(id(0))), (None, 10));
    scheduler.wake(id(0), 20);
    assert!(scheduler.should_preempt(20));
    assert_eq!(scheduler.pick(20), Some(id(0)));
}

#[test]
fn a_lone_runnable_entity_needs_no_timer() {
    for policy in [Policy::RoundRobin { slice: 10 * MS }, Policy::Priority, BVT] {
        let mut scheduler = busy(policy, &[Params::default(); 2]);
        scheduler.block(id(1), MS);
        scheduler.pick(MS);
        assert_eq!(scheduler.next_tick(MS), None);
        assert!(!scheduler.should_preempt(1000 * MS));
        assert_eq!(scheduler.pick(1000 * MS), Some(id(0)));
    }
}

#[test]
fn unknown_and_repeated_requests_do_nothing() {
    let mut scheduler = busy(BVT, &[Params::default()]);
    for n in [1, 31, 32, 255] {
        assert!(!scheduler.wake(id(n), 0) && !scheduler.block(id(n), 0));
        assert!(!scheduler.remove(id(n), 0));
    }
    assert!(!scheduler.wake(id(0), 0));
    assert_eq!(
        scheduler.add(id(0), Params::default()),
        Err(AddError::Taken(id(0)))
    );
    assert_eq!(
        scheduler.add(id(32), Params::default()),
        Err(AddError::Id(id(32)))
    );
    assert_eq!(scheduler.add(id(1), weight(0)), Err(AddError::Weight(0)));
    assert_eq!(
        scheduler.add(id(1), weight(129)),
        Err(AddError::Weight(129))
    );
    let warp = Params {
        warp_value: 8193,
        ..Params::default()
    };
    assert_eq!(scheduler.add(id(1), warp), Err(AddError::Warp(8193)));
}

#[test]
fn removing_the_running_entity_lets_the_next_run() {
    for policy in [Policy::RoundRobin { slice: MS }, Policy::Priority, BVT] {
        let mut scheduler = busy(policy, &[Params::default(); 2]);
        let first = scheduler.current().unwrap();
        assert!(scheduler.remove(first, MS));
        let second = scheduler.pick(MS).unwrap();
        assert!(second != first && !scheduler.is_runnable(first));
        scheduler.add(first, Params::default()).unwrap();
        assert_eq!((scheduler.runnable(), scheduler.run_time(first)), (1, 0));
    }
}

#[test]
fn round_robin_gives_each_one_slice() {
    let mut scheduler = busy(
        Policy::RoundRobin { slice: 10 * MS },
        &[Params::default(); 3],
    );
    let turns = run(&mut scheduler, 0, 60 * MS);
    let expected = [(10, 1), (20, 2), (30, 0), (40, 1), (50, 2)];
    assert_eq!(turns, expected.map(|(at, n)| (at * MS, id(n))));
}

#[test]
fn round_robin_goes_on_in_a_turn_that_was_not_over() {
    let mut scheduler = busy(Policy::RoundRobin { slice: 10 }, &[Params::default(); 2]);
    assert_eq!(scheduler.next_tick(4), Some(14));
    scheduler.charge(4);
    assert_eq!(scheduler.next_tick(4), Some(10));
    assert_eq!(scheduler.pick(4), Some(id(0)));
    scheduler.yield_now(5);
    assert!(scheduler.should_preempt(5));
    assert_eq!(scheduler.pick(5), Some(id(1)));
    scheduler.block(id(1), 6);
    assert_eq!(scheduler.pick(6), Some(id(0)));
}

#[test]
fn the_highest_priority_runs_and_equals_take_turns_by_yielding() {
    let high = Params {
        priority: 2,
        ..Params::default()
    };
    let mut scheduler = busy(Policy::Priority, &[Params::default(), high, high]);
    assert_eq!(
        (scheduler.current(), scheduler.next_tick(0)),
        (Some(id(1)), None)
    );
    scheduler.yield_now(1);
    assert_eq!(scheduler.pick(1), Some(id(2)));
    scheduler.block(id(1), 2);
    scheduler.block(id(2), 2);
    assert_eq!(scheduler.pick(2), Some(id(0)));
    scheduler.wake(id(2), 3);
    assert!(scheduler.should_preempt(3));
    assert_eq!(scheduler.pick(3), Some(id(2)));
    scheduler.wake(id(1), 4);
    assert!(!scheduler.should_preempt(4));
}

#[test]
fn bvt_shares_by_weight() {
    let mut scheduler = busy(BVT, &[weight(1), weight(3)]);
    let total = 10_000 * MS;
    let turns = run(&mut scheduler, 0, total);
    assert!((share(&scheduler, 0, total) - 25.0).abs() < 2.0);
    assert!((share(&scheduler, 1, total) - 75.0).abs() < 2.0);
    // The allowance bounds the rate of switches.
    assert!(turns.len() as u64 <= total / (5 * MS));
}

#[test]
fn bvt_does_not_let_a_sleeper_save_up_time() {
    let mut scheduler = busy(BVT, &[weight(1), weight(1)]);
    scheduler.block(id(1), 0);
    scheduler.pick(0);
    let half = 5_000 * MS;
    scheduler.charge(half);
    scheduler.wake(id(1), half);
    run(&mut scheduler, half, 2 * half);
    let late = scheduler.run_time(id(0)) - half;
    assert!((late as f64 * 100.0 / half as f64 - 50.0).abs() < 2.0);
}

#[test]
fn bvt_turns_end_although_interrupts_ask_for_a_decision_more_often() {
    let mut scheduler = busy(BVT, &[weight(1), weight(1)]);
    let mut now = 0;
    while now < 1000 * MS {
        scheduler.pick(now);
        now += MS / 3;
    }
    for n in 0..2 {
        let share = share(&scheduler, n, now);
        assert!((45.0..55.0).contains(&share), "{share}");
    }
}

#[test]
fn bvt_runs_an_entity_as_soon_as_it_wakes_unless_it_is_ahead() {
    let warped = |warp_value| Params {
        warp_value,
        ..weight(1)
    };
    for (warp_value, expected) in [(50, true), (0, true), (-50, false)] {
        let mut scheduler = busy(BVT, &[weight(1), warped(warp_value)]);
        scheduler.block(id(1), 0);
        scheduler.pick(0);
        scheduler.wake(id(1), 100 * MS);
        assert_eq!(scheduler.should_preempt(100 * MS), expected);
        assert_eq!(scheduler.pick(100 * MS) == Some(id(1)), expected);
    }
    let mut scheduler = busy(BVT, &[weight(1), weight(1)]);
    scheduler.block(id(0), 0);
    scheduler.pick(0);
    scheduler.wake(id(0), 0);
    scheduler.block(id(1), 4 * MS);
    scheduler.pick(4 * MS);
    scheduler.wake(id(1), 5 * MS);
    assert!(
        !scheduler.should_preempt(5 * MS),
        "it has had 4 ms, the other one 1 ms"
    );
}

#[test]
fn bvt_gives_who_wakes_often_no_more_than_its_share() {
    let mut scheduler = busy(BVT, &[weight(1), weight(1)]);
    let mut now = 0;
    while now < 10_000 * MS {
        // Entity 1 works for 3 ms at a time, with the shortest of breaks between.
        let mut work = 3 * MS;
        while work > 0 {
            let current = scheduler.pick(now);
            let end = scheduler.next_tick(now).unwrap_or(u64::MAX);
            let step = match current == Some(id(1)) {
                true => work.min(end - now),
                false => end - now,
            };
            now += step;
            if current == Some(id(1)) {
                work -= step;
            }
        }
        scheduler.block(id(1), now);
        scheduler.pick(now);
        now += 1000;
        scheduler.wake(id(1), now);
    }
    let share = scheduler.run_time(id(1)) as f64 * 100.0 / now as f64;
    assert!((33.0..51.0).contains(&share), "{share} %");
}

#[test]
fn bvt_ends_a_warp_at_its_limit_and_grants_it_again_after_the_period() {
    let params = Params {
        warp_value: 100,
        warp_limit: 3,
        unwarp_period: 20,
        ..weight(1)
    };
    let mut scheduler = busy(BVT, &[weight(1), params]);
    assert_eq!(scheduler.current(), Some(id(1)));
    assert_eq!(scheduler.next_tick(0), Some(3 * MS));
    assert!(scheduler.should_preempt(3 * MS));
    assert_eq!(scheduler.pick(3 * MS), Some(id(0)));
    // Unwarped, the two take turns; warped again, it runs at once.
    let turns = run(&mut scheduler, 3 * MS, 24 * MS);
    assert_eq!(turns.last(), Some(&(23 * MS, id(1))));
}

#[test]
fn bvt_keeps_shares_with_warps_and_handicaps() {
    let warped = Params {
        warp_value: 30,
        warp_limit: 10,
        unwarp_period: 7,
        ..weight(1)
    };
    let handicapped = Params {
        warp_value: -30,
        ..weight(2)
    };
    let mut scheduler = busy(BVT, &[warped, handicapped, weight(1)]);
    let total = 20_000 * MS;
    run(&mut scheduler, 0, total);
    assert!((share(&scheduler, 0, total) - 25.0).abs() < 2.0);
    assert!((share(&scheduler, 1, total) - 50.0).abs() < 2.0);
}

#[test]
fn a_bvt_yield_lets_the_other_run_even_if_it_is_ahead() {
    let mut scheduler = busy(BVT, &[weight(1), weight(1)]);
    scheduler.yield_now(MS);
    assert!(scheduler.should_preempt(MS));
    assert_eq!(scheduler.pick(MS), Some(id(1)));
    scheduler.yield_now(9 * MS);
    assert_eq!(scheduler.pick(9 * MS), Some(id(0)));
}

#[test]
fn virtual_time_never_overflows() {
    let mut scheduler = busy(BVT, &[weight(1), weight(128)]);
    let mut now = 0u64;
    for _ in 0..200_000 {
        now = now.saturating_add(1 << 47);
        scheduler.pick(now);
    }
    scheduler.pick(u64::MAX);
    scheduler.pick(0);
    assert!(scheduler.next_tick(u64::MAX).is_some());
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Wake(u8),
    Block(u8),
    Yield,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u8..6).prop_map(Event::Wake),
        (0u8..6).prop_map(Event::Block),
        Just(Event::Yield),
        (0..20 * MS).prop_map(Event::Pass),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        (0..20 * MS).prop_map(|slice| Policy::RoundRobin { slice }),
        Just(Policy::Priority),
        (0..3 * MS, 0u32..8).prop_map(|(mcu, csa)| Policy::Bvt { mcu, csa }),
    ]
}

fn params() -> impl Strategy<Value = Params> {
    (0u8..3, 1u8..=128, -50i16..50, 0u32..10, 0u32..10).prop_map(
        |(priority, weight, warp_value, warp_limit, unwarp_period)| Params {
            priority,
            weight,
            warp_value,
            warp_limit,
            unwarp_period,
        },
    )
}

proptest! {
    #[test]
    fn who_runs_is_runnable_and_time_is_accounted_for(
        policy in policy(),
        params in prop::collection::vec(params(), 6),
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut scheduler = Scheduler::new(policy);
        for (n, params) in params.iter().enumerate() {
            scheduler.add(id(n as u8), *params).unwrap();
        }
        let mut runnable = [false; 6];
        let (mut now, mut busy_time) = (0, 0);
        for event in events {
            match event {
                Event::Wake(n) => {
                    prop_assert_eq!(scheduler.wake(id(n), now), !runnable[usize::from(n)]);
                    runnable[usize::from(n)] = true;
                }
                Event::Block(n) => {
                    prop_assert_eq!(scheduler.block(id(n), now), runnable[usize::from(n)]);
                    runnable[usize::from(n)] = false;
                }
                Event::Yield => scheduler.yield_now(now),
                Event::Pass(time) => {
                    busy_time += if scheduler.current().is_some() { time } else { 0 };
                    now += time;
                }
            }
            let before = scheduler.current();
            let preempt = scheduler.should_preempt(now);
            let next = scheduler.pick(now);
            prop_assert_eq!(preempt, before != next, "{:?} to {:?}", before, next);
            prop_assert_eq!(next.is_some(), runnable.contains(&true));
            prop_assert!(next.is_none_or(|next| runnable[next.index()]));
            prop_assert!(scheduler.next_tick(now).is_none_or(|tick| tick > now));
        }
        let total: u64 = (0..6).map(|n| scheduler.run_time(id(n))).sum();
        prop_assert_eq!(total, busy_time);
    }

    #[test]
    fn nobody_starves_and_bvt_is_fair(
        weights in prop::collection::vec(1u8..=16, 2..6),
        warps in prop::collection::vec((-20i16..20, 0u32..5, 0u32..5), 6),
    ) {
        let params: Vec<_> = weights.iter().zip(&warps).map(|(weight, warp)| Params {
            weight: *weight,
            warp_value: warp.0,
            warp_limit: warp.1,
            unwarp_period: warp.2,
            ..Params::default()
        }).collect();
        let mut scheduler = busy(BVT, &params);
        let total = 20_000 * MS;
        run(&mut scheduler, 0, total);
        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        for (n, weight) in weights.iter().enumerate() {
            let fair = f64::from(*weight) * 100.0 / sum;
            let found = share(&scheduler, n as u8, total);
            prop_assert!((found - fair).abs() < 2.0, "entity {n}: {found} % instead of {fair} %");
        }
    }

    #[test]
    fn round_robin_is_fair(count in 2usize..6, slice in 1u64..20) {
        let policy = Policy::RoundRobin { slice: slice * MS };
        let mut scheduler = busy(policy, &vec![Params::default(); count]);
        let total = 1000 * MS * count as u64;
        run(&mut scheduler, 0, total);
        for n in 0..count {
            let found = share(&scheduler, n as u8, total);
            prop_assert!((found - 100.0 / count as f64).abs() < 2.0);
        }
    }
}
