//! Serial lines between VMs: which ends they connect, and where each VM sees its end.
//!
//! The lines are those of the configuration, laid at boot. A VM that is made is plugged in at its ends,
//! at legacy ports or with a card on its PCI bus ([`crate::virtual_pci`]); one that goes is unplugged. What a guest
//! does to its UART may change the interrupts of both VMs.
//!
//! A line's lock is taken before those that an interrupt needs, and none is held when it is taken.

use crate::vm::Vm;
use crate::{memory, virtual_pci, vm};
use acrn_abi::{Bdf, Gsi, PAGE_SIZE, VmId};
use acrn_config_blob::Config;
use acrn_config_use::{LineEnd, lines};
use acrn_vdev::serial_link::{SerialLink, Side};
use acrn_vdev::uart;
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::{Mutex, Once};

/// Bytes that wait at each end of a line, besides those that the other UART has received.
const WAITING: usize = 4096;
/// Most ends of a VM at legacy ports.
const MAX_PORTS: usize = acrn_config_blob::MAX_VUARTS;
/// Ports of a UART.
const REGISTERS: u16 = uart::REGISTERS as u16;

/// One end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    line: u16,
    side: Side,
}

/// Where a VM sees its end, and how it is interrupted.
#[derive(Clone, Copy, Debug)]
pub enum Seat {
    /// At ports, with an interrupt line if it has one.
    Ports {
        /// The VM.
        vm: VmId,
        /// Its line, and the number of this source of it.
        line: Option<(Gsi, u8)>,
    },
    /// On a PCI card.
    Card {
        /// The VM.
        vm: VmId,
        /// Place of the card.
        bdf: Bdf,
    },
}

struct Wire {
    link: SerialLink<WAITING>,
    seats: [Option<Seat>; 2],
    /// Interrupts as the VMs know them.
    levels: [bool; 2],
}

struct Line {
    ends: [LineEnd; 2],
    wire: Mutex<Wire>,
}

static LINES: Once<&'static [Line]> = Once::new();

fn all() -> &'static [Line] {
    LINES.get().copied().unwrap_or_default()
}

/// Lays the lines of the configuration; once, at boot.
pub fn lay(config: &Config<'static>) {
    let count = lines(config).count();
    let size = (count * size_of::<Line>()) as u64;
    let Some(place) = memory::allocate_unset(size, PAGE_SIZE) else {
        error!("no memory for {count} serial lines between VMs: there are none");
        return;
    };
    let start = place.get() as *mut Line;
    for (index, ends) in lines(config).enumerate() {
        // SAFETY: aligned room for `count` lines, given out once; this one is inside it.
        unsafe { make(start.add(index), ends) };
    }
    // SAFETY: all of them have been written, and live for ever.
    LINES.call_once(|| unsafe { core::slice::from_raw_parts(start, count) });
}

/// A line is larger than a page: it must not become part of the caller's frame.
///
/// # Safety
/// `place` is aligned room for a line.
#[inline(never)]
unsafe fn make(place: *mut Line, ends: [LineEnd; 2]) {
    let wire = Wire {
        link: SerialLink::new(),
        seats: [None; 2],
        levels: [false; 2],
    };
    let wire = Mutex::new(wire);
    // SAFETY: the caller's duty.
    unsafe { place.write(Line { ends, wire }) };
}

/// The end of a line that is this vUART of the configuration.
pub fn find(wanted: LineEnd) -> Option<End> {
    all().iter().enumerate().find_map(|(index, line)| {
        let side = Side::BOTH
            .into_iter()
            .find(|side| line.ends[side.index()] == wanted)?;
        Some(End {
            line: index as u16,
            side,
        })
    })
}

/// Whether a VM is there at an end.
pub fn is_plugged(end: End) -> bool {
    with(end, |wire| wire.seats[end.side.index()].is_some()).unwrap_or(false)
}

/// The VM at an end is there, with its UART after reset.
pub fn plug(end: End, seat: Seat) {
    with(end, |wire| {
        wire.seats[end.side.index()] = Some(seat);
        wire.link.plug(end.side);
    });
}

/// The VM at an end is gone.
pub fn unplug(end: End) {
    with(end, |wire| {
        wire.link.unplug(end.side);
        wire.tell();
        wire.seats[end.side.index()] = None;
    });
}

/// The VM at an end is off for a while: [`reset`] brings its UART back.
pub fn leave(end: End) {
    with(end, |wire| wire.link.unplug(end.side));
}

/// The VM at an end is reset.
pub fn reset(end: End) {
    with(end, |wire| {
        if wire.seats[end.side.index()].is_some() {
            wire.link.unplug(end.side);
            wire.tell();
            wire.link.plug(end.side);
        }
    });
}

/// Access to the UART at an end, from a register on.
pub fn access(end: End, first: u8, size: u8, write: Option<u64>) -> u64 {
    let work = |wire: &mut Wire| {
        uart::spread(first, size, write, |register, write| match write {
            Some(value) => {
                wire.link.write(end.side, register, value);
                0
            }
            None => wire.link.read(end.side, register),
        })
    };
    with(end, work).unwrap_or(u64::MAX)
}

/// Works on a line and tells both VMs of their interrupts.
fn with<R>(end: End, work: impl FnOnce(&mut Wire) -> R) -> Option<R> {
    let mut wire = all().get(usize::from(end.line))?.wire.lock();
    let result = work(&mut wire);
    wire.tell();
    Some(result)
}

impl Wire {
    /// Brings the interrupts of both ends in step. With the lock of the line, so that nobody undoes a
    /// newer level with an older one.
    fn tell(&mut self) {
        for side in Side::BOTH {
            let level = self.link.irq(side);
            let before = core::mem::replace(&mut self.levels[side.index()], level);
            if level != before {
                if let Some(seat) = &self.seats[side.index()] {
                    seat.signal(level);
                }
            }
        }
    }
}

impl Seat {
    fn signal(&self, level: bool) {
        match *self {
            Self::Ports {
                vm,
                line: Some((gsi, source)),
            } => vm::get(vm).set_shared_line(gsi, source, level),
            Self::Ports { line: None, .. } => {}
            Self::Card { vm, bdf } if level => virtual_pci::raise(vm::get(vm), bdf, 0),
            Self::Card { .. } => {}
        }
    }
}

/// The ends of a VM at legacy ports.
pub struct Ports {
    list: Mutex<ArrayVec<(u16, End), MAX_PORTS>>,
    /// So that exits of a VM without any need no lock.
    any: AtomicBool,
}

impl Ports {
    /// None.
    pub const fn new() -> Self {
        Self {
            list: Mutex::new(ArrayVec::new_const()),
            any: AtomicBool::new(false),
        }
    }

    /// Plugs a VM in at `port` and seven more. `false` when it has as many as there can be.
    pub fn add(&self, vm: &Vm, port: u16, gsi: Option<Gsi>, end: End) -> bool {
        let mut list = self.list.lock();
        // Source 0 of a line is the console.
        let source = list.len() as u8 + 1;
        if list.try_push((port, end)).is_err() {
            return false;
        }
        self.any.store(true, Ordering::Relaxed);
        drop(list);
        let line = gsi.map(|gsi| (gsi, source));
        plug(end, Seat::Ports { vm: vm.id, line });
        true
    }

    /// The end and the register at a port.
    #[inline]
    pub fn at(&self, port: u16) -> Option<(End, u8)> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let list = self.list.lock();
        list.iter().find_map(|(first, end)| {
            let register = port.checked_sub(*first).filter(|r| *r < REGISTERS)?;
            Some((*end, register as u8))
        })
    }

    /// All ports.
    pub fn each(&self) -> impl Iterator<Item = u16> + use<> {
        let list = self.list.lock().clone();
        let ports = list.into_iter().map(|(first, _)| first);
        ports.flat_map(|first| (0..REGISTERS).map(move |register| first + register))
    }

    /// Resets the UARTs of a VM.
    pub fn reset(&self) {
        self.ends().into_iter().for_each(reset);
    }

    /// The VM is off for a while.
    pub fn leave(&self) {
        self.ends().into_iter().for_each(leave);
    }

    fn ends(&self) -> ArrayVec<End, MAX_PORTS> {
        self.list.lock().iter().map(|(_, end)| *end).collect()
    }

    /// Unplugs a VM that goes.
    pub fn clear(&self) {
        let list = core::mem::take(&mut *self.list.lock());
        self.any.store(false, Ordering::Relaxed);
        list.into_iter().for_each(|(_, end)| unplug(end));
    }
}
