//! Whose memory is whose.

use super::say;
use crate::memory::{self, Frames, OWNERS};
use acrn_abi::{Hpa, PAGE_SIZE};
use acrn_memory::{Class, Owner};
use core::fmt;

/// Most ranges that are shown. Memory that is lent page by page has many.
const MOST: usize = 64;

/// Use of the pools, pages by owner, and the map. No lock is held while a line is printed.
pub(super) fn show() {
    let (start, size) = memory::pool();
    let (used, free) = Frames::usage();
    say(format_args!("pool {} KiB at {start}", size >> 10));
    say(format_args!(
        "nested-table frames: {used} used, {free} free"
    ));
    say(format_args!("hypervisor {} KiB", kib(Class::Hypervisor)));
    say(format_args!(
        "devices and holes {} KiB",
        kib(Class::Device) + kib(Class::None)
    ));
    say(format_args!("shared {} KiB", kib(Class::Shared)));
    for vm in super::guests::known() {
        say(format_args!(
            "vm{} keeps {} KiB, lends {} KiB, borrows {} KiB",
            vm.id,
            kib(Class::Kept(vm.id)),
            kib(Class::LentBy(vm.id)),
            kib(Class::LentTo(vm.id))
        ));
    }
    map();
}

fn kib(class: Class) -> u64 {
    let guard = OWNERS.lock();
    guard.as_ref().map_or(0, |owners| owners.count(class)) * (PAGE_SIZE >> 10)
}

fn map() {
    say(format_args!(
        "{:<14}{:<14}{:>12}  OWNER",
        "FROM", "TO", "KIB"
    ));
    let mut at = Hpa(0);
    for _ in 0..MOST {
        let run = OWNERS.lock().as_ref().and_then(|owners| owners.run(at));
        let Some((owner, size)) = run else { return };
        let end = Hpa(at.0 + size);
        say(format_args!(
            "{:<#14x}{:<#14x}{:>12}  {}",
            at.0,
            end.0 - 1,
            size >> 10,
            Name(owner)
        ));
        at = end;
    }
    say(format_args!("and more from {at} on"));
}

/// An owner in words.
struct Name(Owner);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Owner::None => f.write_str("nobody"),
            Owner::Hypervisor => f.write_str("hypervisor"),
            Owner::Device => f.write_str("devices"),
            Owner::Shared(region) => write!(f, "shared region {region}"),
            Owner::Vm(id) => write!(f, "vm{id}"),
            Owner::Lent { owner, to } => write!(f, "vm{owner}, lent to vm{to}"),
            Owner::LentJointly { owner, to } => {
                write!(f, "vm{owner}, lent to")?;
                to.iter().try_for_each(|vm| write!(f, " vm{vm}"))
            }
        }
    }
}
