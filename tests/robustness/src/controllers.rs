//! Registers of the virtual interrupt controllers and of the UART, in any order.

use crate::Source;
use acrn_abi::{Gsi, Vector};
use acrn_vdev::ioapic::VIoApic;
use acrn_vdev::lapic::{
    Icr, LapicAction, LapicIdentity, LocalSource, PostedInterrupts, VLapic, route_ipi,
};
use acrn_vdev::pic::VPic;
use acrn_vdev::rtc::VRtc;
use acrn_vdev::uart::VUart;

/// What must hold of a local APIC at any time.
fn check(lapic: &VLapic) {
    if let Some(vector) = lapic.highest_pending() {
        assert!(lapic.is_requested(vector), "{vector:?} is not requested");
        assert!(vector.0 >= 16, "{vector:?} is an exception's");
        assert!(vector.0 >> 4 > lapic.ppr() >> 4);
        assert!(lapic.pending_ignoring_tpr() == Some(vector));
    }
}

pub(crate) fn lapic(data: &[u8]) {
    let mut source = Source::new(data);
    let posted = PostedInterrupts::new();
    let identities = [const { LapicIdentity::new() }; 4];
    let mut lapics: Vec<VLapic> = (0..4).map(|id| VLapic::new(id, id == 0, 0)).collect();
    for (lapic, identity) in lapics.iter().zip(&identities) {
        lapic.publish(identity);
    }
    let mut now = 1000u64;
    while !source.is_empty() {
        let which = usize::from(source.u8() % 4);
        let lapic = &mut lapics[which];
        now = now.wrapping_add(source.u16().into());
        let mut action = LapicAction::None;
        match source.u8() % 12 {
            0 => {
                let _ = lapic.read(source.u16() % 0x1000, now);
            }
            1..4 => action = lapic.write(source.u16() % 0x400, source.value() as u32, now),
            4..6 => {
                let index = [0x1b, 0x6e0, 0x800 + u32::from(source.u8())];
                let index = index[usize::from(source.u8() % 3)];
                action = lapic
                    .write_msr(index, source.value(), now)
                    .unwrap_or(LapicAction::None);
            }
            6 => {
                let _ = lapic.read_msr(0x800 + u32::from(source.u8()), now);
            }
            7 => {
                let _ = posted.post(Vector(source.u8()), source.u8() % 2 == 0);
                lapic.absorb(&posted);
            }
            8 => {
                if let Some(vector) = lapic.highest_pending() {
                    assert!(lapic.accept(vector) && lapic.is_in_service(vector));
                }
            }
            9 => action = lapic.eoi(),
            10 => {
                let source = [LocalSource::Timer, LocalSource::Lint0, LocalSource::Error];
                let _ = lapic.trigger(source[which % 3]);
                lapic.timer_fire(now);
            }
            _ => lapic.set_tpr(source.u8()),
        }
        if let Some(deadline) = lapic.timer_deadline() {
            assert!(deadline != 0);
        }
        check(lapic);
        match action {
            LapicAction::IdentityChanged => lapic.publish(&identities[which]),
            LapicAction::SendIpi(icr) => send(&identities, which, &icr),
            _ => {}
        }
    }
}

fn send(identities: &[LapicIdentity], from: usize, icr: &Icr) {
    let targets = route_ipi(identities, from, icr, 0);
    assert!(targets.into_iter().all(|index| index < identities.len()));
}

pub(crate) fn ioapic(data: &[u8]) {
    let mut source = Source::new(data);
    let mut ioapic = VIoApic::new(1, Gsi(24), 1 + source.u8() % 120);
    while !source.is_empty() {
        let pin = source.u8();
        match source.u8() % 8 {
            0 => {
                let _ = ioapic.read(source.u16());
            }
            1..4 => {
                let _ = ioapic.write(source.u16() % 0x50, source.u32());
            }
            4 => {
                // The window, through the selection of a register.
                let _ = ioapic.write(0, u32::from(pin));
                let _ = ioapic.write(0x10, source.value() as u32);
            }
            5 => {
                let _ = ioapic.set_level(pin, source.u8() % 2 == 0);
            }
            6 => {
                let _ = ioapic.pulse(pin);
            }
            _ => {
                let mut ended = 0;
                ioapic.end_of_interrupt(Vector(source.u8()), &mut |_, _| ended += 1);
                assert!(ended <= u32::from(ioapic.pins()));
            }
        }
        assert!(ioapic.rte(ioapic.pins()).is_none());
    }
}

pub(crate) fn pic(data: &[u8]) {
    const PORTS: [u16; 7] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x80];
    let mut source = Source::new(data);
    let (mut pic, mut rtc) = (VPic::new(), VRtc::new());
    while !source.is_empty() {
        let port = PORTS[usize::from(source.u8() % 7)];
        match source.u8() % 6 {
            0 => {
                let _ = pic.read(port);
            }
            1..3 => pic.write(port, source.u8()),
            3 => pic.set_irq(source.u8() % 20, source.u8() % 2 == 0),
            4 => {
                if pic.has_interrupt() {
                    let _ = pic.acknowledge();
                }
            }
            _ => {
                let now = source.value();
                rtc.write(0x70 + u16::from(source.u8() % 2), source.u8(), now);
                let _ = rtc.read(0x71, now);
            }
        }
    }
}

pub(crate) fn uart(data: &[u8]) {
    let mut source = Source::new(data);
    let mut uart: VUart = VUart::new();
    let mut sent = 0;
    while !source.is_empty() {
        match source.u8() % 8 {
            0..2 => {
                let _ = uart.read(source.u8() % 9);
            }
            2..5 => uart.write(source.u8() % 9, source.u8()),
            5 => {
                let room = uart.can_receive();
                assert!(
                    uart.receive(source.u8()) || !room,
                    "room, and no byte taken"
                );
            }
            6 => uart.receive_break(),
            _ => {
                let mut count = 0;
                while uart.transmit().is_some() {
                    count += 1;
                    assert!(count <= data.len(), "more is sent than was written");
                }
                sent += count;
            }
        }
        let _ = uart.irq();
    }
    assert!(sent <= data.len());
}
