use super::*;
use crate::interrupt::{BROADCAST, Destination};
use proptest::prelude::*;

const SVR: u16 = 0xf0;
const EOI: u16 = 0xb0;
const TPR: u16 = 0x80;
const ESR: u16 = 0x280;
const ICR_LOW: u16 = 0x300;
const ICR_HIGH: u16 = 0x310;
const LVT_TIMER: u16 = 0x320;
const LVT_PMC: u16 = 0x340;
const LVT_LINT0: u16 = 0x350;
const LVT_ERROR: u16 = 0x370;
const TIMER_INITIAL: u16 = 0x380;
const TIMER_CURRENT: u16 = 0x390;
const TIMER_DIVIDE: u16 = 0x3e0;

const X2APIC: u64 = 0xfee0_0c00;
const XAPIC: u64 = 0xfee0_0800;
const DISABLED: u64 = 0xfee0_0000;

fn write(lapic: &mut VLapic, offset: u16, value: u32) {
    let _ = lapic.write(offset, value, 0);
}

/// A software-enabled local APIC with id 3, timer clock = TSC, not the bootstrap processor's.
fn enabled() -> VLapic {
    let mut lapic = VLapic::new(3, false, 0);
    write(&mut lapic, SVR, 0x1ff);
    lapic
}

fn x2apic() -> VLapic {
    let mut lapic = enabled();
    let _ = lapic.write_msr(0x1b, X2APIC, 0).unwrap();
    lapic
}

fn take(lapic: &mut VLapic) -> Option<u8> {
    let vector = lapic.highest_pending()?;
    assert!(lapic.accept(vector));
    Some(vector.0)
}

#[test]
fn interrupts_nest_by_priority_class() {
    let mut lapic = enabled();
    assert!(lapic.request(Vector(0x41), false));
    assert!(!lapic.request(Vector(0x41), false));
    assert_eq!(take(&mut lapic), Some(0x41));
    lapic.request(Vector(0x4f), false);
    assert_eq!(lapic.highest_pending(), None);
    lapic.request(Vector(0x51), false);
    assert_eq!(take(&mut lapic), Some(0x51));
    assert_eq!(lapic.read(0xa0, 0), 0x50);
    assert_eq!(
        lapic.write(EOI, 0, 0),
        LapicAction::Eoi {
            vector: Vector(0x51),
            level: false
        }
    );
    assert_eq!(lapic.highest_pending(), None);
    let _ = lapic.eoi();
    assert_eq!(take(&mut lapic), Some(0x4f));
}

#[test]
fn the_tpr_holds_back_its_class_and_those_below() {
    let mut lapic = enabled();
    lapic.request(Vector(0x4f), false);
    lapic.set_tpr(0x40);
    assert_eq!(lapic.highest_pending(), None);
    assert!(!lapic.accept(Vector(0x4f)));
    assert_eq!(lapic.pending_ignoring_tpr(), Some(Vector(0x4f)));
    write(&mut lapic, TPR, 0x3f);
    assert_eq!(lapic.highest_pending(), Some(Vector(0x4f)));
    assert_eq!((lapic.tpr(), lapic.ppr()), (0x3f, 0x3f));
}

#[test]
fn what_hardware_delivered_is_in_service_whatever_the_task_priority_is_now() {
    let mut lapic = enabled();
    lapic.set_tpr(0x50);
    lapic.request(Vector(0x51), false);
    assert!(!lapic.accept(Vector(0x51)));
    assert!(lapic.delivered(Vector(0x51)));
    assert!(!lapic.is_requested(Vector(0x51)) && lapic.is_in_service(Vector(0x51)));
    assert!(!lapic.delivered(Vector(0x51)));
}

#[test]
fn eoi_names_the_trigger_mode_and_an_idle_eoi_does_nothing() {
    let mut lapic = enabled();
    assert_eq!(lapic.eoi(), LapicAction::None);
    lapic.request(Vector(0x61), true);
    take(&mut lapic);
    assert_eq!(lapic.read(0x180 + 0x30, 0), 2);
    assert_eq!(
        lapic.eoi(),
        LapicAction::Eoi {
            vector: Vector(0x61),
            level: true
        }
    );
    lapic.request(Vector(0x61), false);
    take(&mut lapic);
    assert_eq!(
        lapic.eoi(),
        LapicAction::Eoi {
            vector: Vector(0x61),
            level: false
        }
    );
}

#[test]
fn posted_interrupts_arrive_with_their_trigger_mode() {
    let (mut lapic, posted) = (enabled(), PostedInterrupts::new());
    assert!(!lapic.absorb(&posted));
    let _ = posted.post(Vector(0x31), true);
    let _ = posted.post(Vector(0xe0), false);
    assert!(lapic.absorb(&posted));
    assert_eq!(take(&mut lapic), Some(0xe0));
    assert_eq!(
        lapic.eoi(),
        LapicAction::Eoi {
            vector: Vector(0xe0),
            level: false
        }
    );
    assert_eq!(take(&mut lapic), Some(0x31));
    assert_eq!(
        lapic.eoi(),
        LapicAction::Eoi {
            vector: Vector(0x31),
            level: true
        }
    );
}

#[test]
fn a_software_disabled_lapic_drops_new_interrupts_and_keeps_the_old() {
    let (mut lapic, posted) = (enabled(), PostedInterrupts::new());
    lapic.request(Vector(0x31), false);
    write(&mut lapic, SVR, 0xff);
    let _ = posted.post(Vector(0x41), false);
    lapic.absorb(&posted);
    assert!(posted.is_empty());
    assert!(!lapic.request(Vector(0x42), false));
    assert_eq!(take(&mut lapic), Some(0x31));
    assert_eq!(lapic.highest_pending(), None);
}

#[test]
fn software_disabling_masks_every_lvt_entry_until_it_is_rewritten() {
    let mut lapic = enabled();
    write(&mut lapic, LVT_LINT0, 0x700);
    assert!(lapic.lint0_extint_enabled());
    write(&mut lapic, SVR, 0xff);
    assert!(!lapic.lint0_extint_enabled());
    write(&mut lapic, LVT_LINT0, 0x700);
    assert_eq!(lapic.read(LVT_LINT0, 0), 0x1_0700);
    write(&mut lapic, SVR, 0x1ff);
    assert!(!lapic.lint0_extint_enabled());
}

#[test]
fn the_bootstrap_processor_starts_in_virtual_wire_mode() {
    let bsp = VLapic::new(0, true, 0);
    assert!(bsp.lint0_extint_enabled() && bsp.nmi_via_lint1());
    let ap = VLapic::new(1, false, 0);
    assert!(!ap.lint0_extint_enabled() && !ap.nmi_via_lint1());
    assert_eq!(bsp.apic_base().0, 0xfee0_0900);
}

#[test]
fn an_xapic_ipi_needs_the_low_register_written_last() {
    let mut lapic = enabled();
    assert_eq!(lapic.write(ICR_HIGH, 0x0500_0000, 0), LapicAction::None);
    let LapicAction::SendIpi(icr) = lapic.write(ICR_LOW, 0x0000_48f1, 0) else {
        panic!()
    };
    assert_eq!(
        icr.destination,
        Destination {
            id: 5,
            logical: true
        }
    );
    assert_eq!((icr.vector, icr.mode), (Vector(0xf1), DeliveryMode::Fixed));
    let _ = lapic.write(ICR_HIGH, 0xff00_0000, 0);
    let LapicAction::SendIpi(icr) = lapic.write(ICR_LOW, 0x0000_44f1, 0) else {
        panic!()
    };
    assert_eq!(
        (icr.destination.id, icr.mode),
        (BROADCAST, DeliveryMode::Nmi)
    );
}

#[test]
fn a_self_ipi_stays_inside() {
    let mut lapic = enabled();
    assert_eq!(
        lapic.write(ICR_LOW, 0x0004_0055, 0),
        LapicAction::PriorityChanged
    );
    assert_eq!(take(&mut lapic), Some(0x55));
    let mut lapic = x2apic();
    assert_eq!(
        lapic.write_msr(0x83f, 0x56, 0),
        Ok(LapicAction::PriorityChanged)
    );
    assert_eq!(take(&mut lapic), Some(0x56));
    assert_eq!(lapic.write_msr(0x83f, 0x156, 0), Err(GpFault));
    assert_eq!(lapic.read_msr(0x83f, 0), Err(GpFault));
}

#[test]
fn an_illegal_vector_is_an_error_and_not_an_interrupt() {
    let mut lapic = enabled();
    write(&mut lapic, LVT_ERROR, 0xfe);
    assert!(!lapic.request(Vector(0xf), false));
    assert_eq!(lapic.read(ESR, 0), 0);
    assert_eq!(take(&mut lapic), Some(0xfe));
    let _ = lapic.eoi();
    assert_eq!(
        lapic.write(ICR_LOW, 0x0000_000e, 0),
        LapicAction::PriorityChanged
    );
    assert_eq!(
        lapic.highest_pending(),
        None,
        "one error interrupt until the ESR is written"
    );
    write(&mut lapic, ESR, 0);
    assert_eq!(lapic.read(ESR, 0), 0x60);
    write(&mut lapic, ESR, 0);
    assert_eq!(lapic.read(ESR, 0), 0);
}

#[test]
fn an_error_entry_with_an_illegal_vector_does_not_loop() {
    let mut lapic = enabled();
    write(&mut lapic, LVT_ERROR, 0x01);
    lapic.request(Vector(1), false);
    write(&mut lapic, 0x3f0, 0);
    write(&mut lapic, ESR, 0);
    assert_eq!(lapic.read(ESR, 0), 0xc0);
    assert_eq!(lapic.highest_pending(), None);
}

#[test]
fn posted_illegal_vectors_are_errors() {
    let (mut lapic, posted) = (enabled(), PostedInterrupts::new());
    let _ = posted.post(Vector(2), false);
    lapic.absorb(&posted);
    assert_eq!(lapic.pending_ignoring_tpr(), None);
    write(&mut lapic, ESR, 0);
    assert_eq!(lapic.read(ESR, 0), 0x40);
}

#[test]
fn a_performance_interrupt_masks_its_entry() {
    let mut lapic = enabled();
    write(&mut lapic, LVT_PMC, 0x400);
    let nmi = LocalEvent::Deliver(DeliveryMode::Nmi);
    assert_eq!(lapic.trigger(LocalSource::PerformanceCounter), nmi);
    assert_eq!(
        lapic.trigger(LocalSource::PerformanceCounter),
        LocalEvent::Dropped
    );
    assert_eq!(lapic.read(LVT_PMC, 0), 0x1_0400);
}

#[test]
fn mode_transitions_follow_the_manual() {
    let mut lapic = enabled();
    assert_eq!(lapic.write_msr(0x1b, 0xfee0_0400, 0), Err(GpFault));
    assert_eq!(lapic.write_msr(0x1b, 0xfed0_0800, 0), Err(GpFault));
    assert_eq!(lapic.write_msr(0x1b, XAPIC | 1, 0), Err(GpFault));
    assert_eq!(lapic.write_msr(0x1b, XAPIC, 0), Ok(LapicAction::None));
    assert_eq!(
        lapic.write_msr(0x1b, X2APIC, 0),
        Ok(LapicAction::IdentityChanged)
    );
    assert_eq!(lapic.write_msr(0x1b, XAPIC, 0), Err(GpFault));
    assert_eq!(lapic.mode(), Mode::X2Apic);
    assert_eq!(lapic.read(0x20, 0), u32::MAX);
    assert_eq!(
        lapic.write_msr(0x1b, DISABLED, 0),
        Ok(LapicAction::IdentityChanged)
    );
    assert_eq!(lapic.read_msr(0x802, 0), Err(GpFault));
    assert_eq!(lapic.write_msr(0x1b, X2APIC, 0), Err(GpFault));
    assert_eq!(
        lapic.write_msr(0x1b, XAPIC, 0),
        Ok(LapicAction::IdentityChanged)
    );
    assert_eq!(lapic.read(SVR, 0), 0xff, "enabling starts as after a reset");
}

#[test]
fn entering_x2apic_keeps_interrupts_and_derives_the_logical_id() {
    let mut lapic = VLapic::new(0x25, true, 0);
    write(&mut lapic, SVR, 0x1ff);
    lapic.request(Vector(0x31), false);
    let _ = lapic.write_msr(0x1b, X2APIC | 0x100, 0).unwrap();
    assert_eq!(lapic.read_msr(0x802, 0), Ok(0x25));
    assert_eq!(lapic.read_msr(0x80d, 0), Ok(0x0002_0020));
    assert_eq!(lapic.highest_pending(), Some(Vector(0x31)));
    let identity = LapicIdentity::new();
    lapic.publish(&identity);
    assert!(identity.matches(Destination {
        id: 0x0002_0020,
        logical: true
    }));
}

#[test]
fn an_init_keeps_id_and_mode_and_forgets_the_rest() {
    let mut lapic = x2apic();
    lapic.request(Vector(0x31), false);
    take(&mut lapic);
    lapic.request(Vector(0x41), false);
    lapic.set_tpr(0x20);
    let _ = lapic.write_msr(0x832, 0x4_0040, 0).unwrap();
    let _ = lapic.write_msr(0x6e0, 500, 0).unwrap();
    lapic.reset();
    assert_eq!((lapic.mode(), lapic.id()), (Mode::X2Apic, 3));
    assert_eq!(lapic.read_msr(0x80d, 0), Ok(8));
    assert_eq!(lapic.read_msr(0x80f, 0), Ok(0xff));
    assert_eq!(
        (lapic.tpr(), lapic.ppr(), lapic.highest_pending()),
        (0, 0, None)
    );
    assert_eq!(lapic.timer_deadline(), None);
    lapic.power_on();
    assert_eq!(lapic.mode(), Mode::XApic);
}

#[test]
fn reserved_bits_and_absent_registers_fault_in_x2apic_mode() {
    let mut lapic = x2apic();
    for (msr, value) in [
        (0x808, 0x100),
        (0x80b, 1),
        (0x828, 1),
        (0x80f, 0x400),
        (0x832, 0x8_0000),
        (0x832, 1 << 32),
        (0x835, 0x800),
        (0x837, 0x100),
        (0x83e, 4),
        (0x830, 1 << 13),
        (0x830, 1 << 20),
        (0x802, 3),
        (0x803, 0),
        (0x80d, 8),
        (0x80e, 0),
        (0x831, 0),
        (0x839, 0),
        (0x820, 0),
        (0x8ff, 0),
        (0x900, 0),
        (0x7ff, 0),
    ] {
        assert_eq!(
            lapic.write_msr(msr, value, 0),
            Err(GpFault),
            "write {msr:#x} {value:#x}"
        );
    }
    for msr in [
        0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x840, 0x900, 0x801,
    ] {
        assert_eq!(lapic.read_msr(msr, 0), Err(GpFault), "read {msr:#x}");
    }
    let _ = lapic.write_msr(0x835, 0x1_f7ff, 0).unwrap();
    assert_eq!(lapic.read_msr(0x835, 0), Ok(0x1_a7ff));
}

#[test]
fn an_x2apic_ipi_is_one_write() {
    let mut lapic = x2apic();
    let Ok(LapicAction::SendIpi(icr)) = lapic.write_msr(0x830, 0x0000_0100_0000_08f1, 0) else {
        panic!()
    };
    assert_eq!(
        icr.destination,
        Destination {
            id: 0x100,
            logical: true
        }
    );
    assert_eq!(lapic.read_msr(0x830, 0), Ok(0x0000_0100_0000_08f1));
}

#[test]
fn a_tsc_deadline_fires_once() {
    let mut lapic = x2apic();
    let _ = lapic.write_msr(0x6e0, 500, 100).unwrap();
    assert_eq!(lapic.timer_deadline(), None, "ignored in another mode");
    let _ = lapic.write_msr(0x832, 0x4_0040, 100).unwrap();
    assert_eq!(
        lapic.write_msr(0x6e0, 500, 100),
        Ok(LapicAction::TimerChanged)
    );
    assert_eq!(lapic.timer_deadline(), Some(500));
    assert_eq!(lapic.timer_fire(499), None);
    assert_eq!(lapic.timer_fire(501), Some(Vector(0x40)));
    assert_eq!(lapic.read_msr(0x6e0, 501), Ok(0));
    assert_eq!(take(&mut lapic), Some(0x40));
    let _ = lapic.write_msr(0x6e0, 1, 600).unwrap();
    assert_eq!(lapic.timer_deadline(), None);
    assert!(
        lapic.is_requested(Vector(0x40)),
        "a deadline in the past fires at once"
    );
}

#[test]
fn a_masked_timer_expires_unheard() {
    let mut lapic = enabled();
    write(&mut lapic, TIMER_DIVIDE, 0xb);
    write(&mut lapic, LVT_TIMER, 0x1_0040);
    write(&mut lapic, TIMER_INITIAL, 1000);
    assert_eq!(lapic.timer_deadline(), None);
    assert_eq!(lapic.read(TIMER_CURRENT, 400), 600);
    let _ = lapic.write(LVT_TIMER, 0x40, 2000);
    assert_eq!(
        (lapic.timer_deadline(), lapic.highest_pending()),
        (None, None)
    );
}

#[test]
fn an_expiry_before_masking_is_not_lost() {
    let mut lapic = enabled();
    write(&mut lapic, TIMER_DIVIDE, 0xb);
    write(&mut lapic, LVT_TIMER, 0x40);
    write(&mut lapic, TIMER_INITIAL, 1000);
    assert_eq!(lapic.timer_deadline(), Some(1000));
    let _ = lapic.write(LVT_TIMER, 0x1_0040, 1000);
    assert_eq!(lapic.highest_pending(), Some(Vector(0x40)));
}

#[test]
fn a_late_periodic_timer_interrupts_once_and_catches_up() {
    let mut lapic = enabled();
    write(&mut lapic, TIMER_DIVIDE, 0xb);
    write(&mut lapic, LVT_TIMER, 0x2_0040);
    write(&mut lapic, TIMER_INITIAL, 20_000);
    assert_eq!(lapic.timer_fire(20_000 * 1_000_000 + 1), Some(Vector(0x40)));
    assert_eq!(lapic.timer_fire(20_000 * 1_000_000 + 2), None);
    assert_eq!(lapic.timer_deadline(), Some(20_000 * 1_000_001));
    assert_eq!(take(&mut lapic), Some(0x40));
    write(&mut lapic, TIMER_INITIAL, 0);
    assert_eq!(lapic.timer_deadline(), None);
}

#[test]
fn the_version_has_six_lvt_entries() {
    assert_eq!(enabled().read(0x30, 0), 0x0005_0014);
    assert_eq!(enabled().read(0x20, 0), 3 << 24);
}

#[derive(Clone, Debug)]
enum Op {
    Read(u16),
    Write(u16, u32),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    Request(u8, bool),
    Post(u8, bool),
    Take,
    Eoi,
    Fire,
    Trigger(u8),
    Tpr(u8),
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    let offset = prop_oneof![
        (0u16..0x40).prop_map(|register| register << 4),
        any::<u16>()
    ];
    let msr = prop_oneof![
        8 => 0x800u32..0x840,
        1 => Just(0x1b),
        2 => Just(0x6e0),
        1 => any::<u32>(),
    ];
    let value = prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        any::<u8>().prop_map(u64::from),
        (0u64..0x8_0000),
        prop_oneof![Just(X2APIC), Just(XAPIC), Just(DISABLED), Just(0x1ff)],
    ];
    prop_oneof![
        1 => offset.clone().prop_map(Op::Read),
        3 => (offset, value.clone()).prop_map(|(offset, value)| Op::Write(offset, value as u32)),
        1 => msr.clone().prop_map(Op::ReadMsr),
        3 => (msr, value).prop_map(|(msr, value)| Op::WriteMsr(msr, value)),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Op::Request(vector, level)),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Op::Post(vector, level)),
        6 => Just(Op::Take),
        3 => Just(Op::Eoi),
        1 => Just(Op::Fire),
        1 => (0u8..6).prop_map(Op::Trigger),
        1 => any::<u8>().prop_map(Op::Tpr),
        1 => Just(Op::Reset),
    ]
}

fn check(lapic: &VLapic) {
    assert_eq!(lapic.highest_irr, lapic.irr.highest().unwrap_or(0));
    assert_eq!(lapic.highest_isr, lapic.isr.highest().unwrap_or(0));
    assert!(lapic.highest_irr == 0 || lapic.highest_irr >= 16);
    for class in 0..16u8 {
        let in_service = (0..16)
            .filter(|low| lapic.isr.contains(class << 4 | low))
            .count();
        assert!(
            in_service <= 1,
            "class {class} is in service {in_service} times"
        );
    }
    assert!(lapic.ppr >= lapic.highest_isr & 0xf0 && lapic.ppr >> 4 >= lapic.tpr >> 4);
    let class = lapic.highest_pending().map(|vector| vector.0 >> 4);
    assert!(class.is_none_or(|class| class > lapic.ppr >> 4));
    assert!(lapic.highest_pending().is_none() || lapic.pending_ignoring_tpr().is_some());
}

proptest! {
    #[test]
    fn any_traffic_keeps_the_invariants(
        ops in prop::collection::vec((op(), prop_oneof![0u64..100_000, any::<u64>()]), 0..300),
    ) {
        let mut lapic = VLapic::new(3, true, 1);
        let _ = lapic.write(SVR, 0x1ff, 0);
        let posted = PostedInterrupts::new();
        let mut now = 0u64;
        for (op, time) in ops {
            now = now.wrapping_add(time);
            match op {
                Op::Read(offset) => drop(lapic.read(offset, now)),
                Op::Write(offset, value) => drop(lapic.write(offset, value, now)),
                Op::ReadMsr(msr) => drop(lapic.read_msr(msr, now)),
                Op::WriteMsr(msr, value) => drop(lapic.write_msr(msr, value, now)),
                Op::Request(vector, level) => drop(lapic.request(Vector(vector), level)),
                Op::Post(vector, level) => {
                    let _ = posted.post(Vector(vector), level);
                    lapic.absorb(&posted);
                    prop_assert!(posted.is_empty());
                }
                Op::Take => drop(take(&mut lapic)),
                Op::Eoi => drop(lapic.eoi()),
                Op::Fire => {
                    lapic.timer_fire(now);
                    let due = lapic.timer_deadline().is_some_and(|deadline| deadline <= now);
                    prop_assert!(!due || now == u64::MAX);
                }
                Op::Trigger(source) => {
                    let source = [
                        LocalSource::Timer,
                        LocalSource::Thermal,
                        LocalSource::PerformanceCounter,
                        LocalSource::Lint0,
                        LocalSource::Lint1,
                        LocalSource::Error,
                    ][usize::from(source)];
                    lapic.trigger(source);
                }
                Op::Tpr(tpr) => lapic.set_tpr(tpr),
                Op::Reset => lapic.reset(),
            }
            check(&lapic);
        }
    }
}

#[test]
fn a_plain_ipi_goes_where_the_long_way_leads() {
    let identities: [LapicIdentity; 20] = core::array::from_fn(|index| {
        let identity = LapicIdentity::new();
        let mut lapic = VLapic::new(index as u32, false, 0);
        let _ = lapic.set_apic_base(ApicBase(APIC_BASE_ADDRESS | 0xc00));
        assert_eq!(lapic.mode(), Mode::X2Apic);
        lapic.publish(&identity);
        identity
    });
    let mut sender = VLapic::new(0, true, 0);
    let value = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    assert_eq!(sender.plain_ipi(value(1, 0x40)), None, "in xAPIC mode");
    let _ = sender.set_apic_base(ApicBase(APIC_BASE_ADDRESS | 0xd00));
    let highs = (0..24).chain([0xffff_ffff, 0x1_0001, 0x1_0003, 0x1_0008, 0x4]);
    for high in highs {
        for low in [
            0x40, 0x0f, 0x840, 0x4840, 0xc040, 0x140, 0x440, 0x4_0040, 0x1040, 0x8_0040,
        ] {
            let Some((vector, id)) = sender.plain_ipi(value(high, low)) else {
                continue;
            };
            let icr = Icr::from_x2apic(low, high);
            assert_eq!((vector, icr.mode), (icr.vector, DeliveryMode::Fixed));
            assert_eq!(icr.shorthand, Shorthand::None);
            let targets: Vec<usize> = route_ipi(&identities, 0, &icr, 0).collect();
            let known = (id as usize) < identities.len();
            assert!(
                !known || targets == [id as usize],
                "{high:#x} {low:#x}: {targets:?}"
            );
        }
    }
}
