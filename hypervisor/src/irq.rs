//! Interrupts of the host and where they go.
//!
//! Physical interrupts belong to the hypervisor. Each source that a guest may use gets a host
//! vector; the table says which virtual line or message it stands for. Level-triggered pins are
//! masked while the guest works on them and opened again at its EOI.

use crate::arch::{apic, cpu, exception, ioapic};
use crate::exit::ioreq;
use crate::percpu::{self, PerCpu};
use crate::vcpu::{Local, Vcpu, request};
use crate::vm::{self, Vm};
use crate::{console, iommu, lapic_passthrough, run, virt};
use acrn_abi::{Gsi, Vector, VmId};
use acrn_vdev::interrupt::{Delivery, DeliveryMode, Destination};
use acrn_vdev::ioapic::Rte;
use acrn_vdev::lapic::{Icr, LapicAction, Mode, route_ipi};
use core::sync::atomic::Ordering;
use spin::Mutex;

/// First and last vector for devices.
const DEVICE_VECTORS: core::ops::RangeInclusive<u8> = 0x30..=0xef;

/// What a host vector stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Not in use.
    #[default]
    None,
    /// An IOAPIC pin, passed through to a VM under a GSI of that VM.
    Pin {
        /// Host GSI.
        gsi: Gsi,
        /// VM.
        vm: VmId,
        /// GSI in the VM.
        guest: Gsi,
        /// Level triggered.
        level: bool,
    },
    /// A message-signalled interrupt with what the guest programmed.
    Message {
        /// VM.
        vm: VmId,
        /// Message as the guest wants it.
        delivery: Delivery,
    },
}

static SOURCES: Mutex<[Source; 256]> = Mutex::new([Source::None; 256]);

/// Takes a free vector for `source`.
pub fn allocate(source: Source) -> Option<u8> {
    let mut sources = SOURCES.lock();
    let vector = DEVICE_VECTORS
        .clone()
        .find(|v| sources[usize::from(*v)] == Source::None)?;
    sources[usize::from(vector)] = source;
    Some(vector)
}

/// Changes what an allocated vector stands for.
pub fn update(vector: u8, source: Source) {
    if DEVICE_VECTORS.contains(&vector) {
        SOURCES.lock()[usize::from(vector)] = source;
    }
}

/// Gives a vector back.
pub fn release(vector: u8) {
    iommu::block(Vector(vector));
    update(vector, Source::None);
}

/// The local APIC that hardware interrupts for a destination in a VM. It may be any; the one that runs the
/// target saves an IPI, unless it is the VM's own: that would not know the hypervisor's vector.
pub fn receiver(vm: &Vm, destination: Destination) -> u32 {
    let apic_id = |cpu: &PerCpu| cpu.apic_id.load(Ordering::Relaxed);
    vm.target_cpu(destination)
        .filter(|_| !vm.owns_apics())
        .map(|vcpu| apic_id(percpu::get(vcpu.pcpu())))
        .filter(|id| iommu::reaches(*id))
        .unwrap_or_else(|| apic_id(&percpu::all()[0]))
}

/// What a vector stands for.
pub fn source(vector: u8) -> Source {
    SOURCES.lock()[usize::from(vector)]
}

/// Shows every source in use.
pub fn for_each(mut show: impl FnMut(u8, Source)) {
    for vector in DEVICE_VECTORS {
        let source = SOURCES.lock()[usize::from(vector)];
        if source != Source::None {
            show(vector, source);
        }
    }
}

fn find_pin(wanted: Gsi) -> Option<(u8, Source)> {
    let sources = SOURCES.lock();
    DEVICE_VECTORS
        .clone()
        .find_map(|vector| match sources[usize::from(vector)] {
            source @ Source::Pin { gsi, .. } if gsi == wanted => Some((vector, source)),
            _ => None,
        })
}

fn find_guest_pin(wanted_vm: VmId, wanted: Gsi) -> Option<(u8, Gsi)> {
    let sources = SOURCES.lock();
    DEVICE_VECTORS
        .clone()
        .find_map(|vector| match sources[usize::from(vector)] {
            Source::Pin { gsi, vm, guest, .. } if vm == wanted_vm && guest == wanted => {
                Some((vector, gsi))
            }
            _ => None,
        })
}

/// Whether a VM's GSI stands for a host pin.
pub fn is_passed_through(vm: VmId, gsi: Gsi) -> bool {
    find_guest_pin(vm, gsi).is_some()
}

/// The host's own use of a pin: the UART's receive interrupt.
static OWN_PIN: Mutex<Option<Gsi>> = Mutex::new(None);

/// Routes a pin to the hypervisor itself.
pub fn claim_pin(gsi: Gsi, vector: u8, level: bool, active_low: bool) {
    *OWN_PIN.lock() = Some(gsi);
    let receiver = percpu::all()[0].apic_id.load(Ordering::Relaxed);
    let entry = iommu::redirection(gsi, Vector(vector), receiver, level, active_low);
    ioapic::write_entry(gsi, entry);
}

/// The Service VM changed a redirection entry: do the like at the hardware.
pub fn pin_changed(vm: &Vm, gsi: Gsi, rte: Rte) {
    if *OWN_PIN.lock() == Some(gsi) {
        return;
    }
    let found = find_pin(gsi);
    if let Some((_, Source::Pin { vm: owner, .. })) = found {
        if owner != vm.id {
            return;
        }
    }
    if rte.masked() {
        ioapic::set_mask(gsi, true);
        return;
    }
    let source = Source::Pin {
        gsi,
        vm: vm.id,
        guest: gsi,
        level: rte.level(),
    };
    let vector = match found {
        Some((vector, _)) => {
            update(vector, source);
            vector
        }
        None => match allocate(source) {
            Some(vector) => vector,
            None => {
                crate::error!("no host vector left for GSI {gsi}: its interrupts are lost");
                return;
            }
        },
    };
    let receiver = receiver(vm, rte.destination());
    let (level, active_low) = (rte.level(), rte.active_low());
    let entry = iommu::redirection(gsi, Vector(vector), receiver, level, active_low);
    ioapic::write_entry(gsi, entry);
}

/// The guest has handled a passed-through level interrupt: the pin may fire again.
pub fn reopen(vm: &Vm, guest: Gsi) {
    if let Some((_, gsi)) = find_guest_pin(vm.id, guest) {
        ioapic::set_mask(gsi, false);
    }
}

/// Runs from one of the two points that let interrupts in.
pub fn handle_host_interrupt(vector: u8) {
    let this = percpu::current();
    run::note_interrupt(this, vector);
}

/// Acts on an interrupt.
pub fn dispatch(this: &PerCpu, vector: u8) {
    match vector {
        apic::SPURIOUS_VECTOR => return,
        apic::TIMER_VECTOR => run::timer_interrupt(this),
        apic::KICK_VECTOR | apic::NOTIFY_VECTOR => {}
        apic::UART_VECTOR => console::interrupt(this),
        apic::IOMMU_VECTOR => iommu::interrupt(),
        _ => forward(vector),
    }
    apic::end_of_interrupt();
}

fn forward(vector: u8) {
    let source = SOURCES.lock()[usize::from(vector)];
    match source {
        Source::None => {
            if crate::log::limited() {
                crate::debug!("host interrupt {vector:#x} has no owner");
            }
        }
        Source::Pin {
            gsi,
            vm,
            guest,
            level,
        } => {
            let vm = vm::get(vm);
            if level {
                ioapic::set_mask(gsi, true);
                vm.set_line(guest, true);
            } else {
                vm.pulse_line(guest);
            }
        }
        Source::Message { vm, delivery } => vm::get(vm).deliver(delivery),
    }
}

/// An NMI of the host: another CPU is crashing, or the platform reports an error.
pub fn handle_host_nmi() {
    if exception::crashed() {
        cpu::halt_forever();
    }
    if lapic_passthrough::is_call(percpu::current()) {
        return virt::leave_soon();
    }
    // A platform NMI is the Service VM's business.
    if let Some(vcpu) = vm::service().vcpu(0) {
        vcpu.ask(request::NMI);
    }
}

/// Carries out what a write to the local APIC asks for.
#[inline]
pub fn act(vcpu: &'static Vcpu, local: &mut Local, action: LapicAction) {
    match action {
        LapicAction::None | LapicAction::PriorityChanged => {}
        LapicAction::LvtChanged => ioreq::remind(vcpu),
        LapicAction::Eoi { vector, level } => {
            if level {
                vcpu.vm().end_of_interrupt(vector);
            }
        }
        LapicAction::SendIpi(icr) => send_ipi(vcpu, &icr),
        LapicAction::TimerChanged => run::deadline_changed(vcpu, local),
        LapicAction::IdentityChanged => {
            local.lapic.publish(&vcpu.vm().identities[vcpu.id.index()]);
            lapic_passthrough::reconcile(vcpu, local);
        }
    }
}

/// Sends what [`VLapic::plain_ipi`](acrn_vdev::lapic::VLapic::plain_ipi) has found, when the CPU
/// with this id is where ids in order put it, and in x2APIC mode like the sender. Only then are
/// logical ids a matter of the id.
#[inline]
pub fn send_plain(sender: &Vcpu, vector: Vector, id: u32) -> bool {
    let vm = sender.vm();
    let index = id as usize;
    let target = vm.identities.get(index).filter(|identity| {
        index < vm.vcpu_count() && identity.id() == id && identity.mode() == Mode::X2Apic
    });
    let Some(target) = target.and_then(|_| vm.vcpu(index)) else {
        return false;
    };
    target.post(vector, false);
    true
}

fn send_ipi(sender: &Vcpu, icr: &Icr) {
    let vm = sender.vm();
    let identities = &vm.identities[..vm.vcpu_count()];
    // INIT level de-assert does nothing on processors of this century.
    if icr.mode == DeliveryMode::Init && icr.level && !icr.assert {
        return;
    }
    for index in route_ipi(identities, sender.id.index(), icr, 0) {
        let Some(target) = vm.vcpu(index) else {
            continue;
        };
        match icr.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                target.post(icr.vector, false);
            }
            DeliveryMode::Nmi => target.ask(request::NMI),
            DeliveryMode::Init => target.ask(request::INIT),
            DeliveryMode::StartUp => {
                target
                    .shared
                    .sipi_page
                    .store(icr.vector.0, Ordering::SeqCst);
                target.ask(request::SIPI);
            }
            DeliveryMode::Smi | DeliveryMode::Reserved | DeliveryMode::ExtInt => {}
        }
    }
}
