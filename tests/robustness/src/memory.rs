//! Memory maps and owners of pages.

use crate::Source;
use acrn_abi::{Hpa, VmId};
use acrn_memory::{Class, HostMap, MemoryKind, Owner, OwnerMap, Side};

const PAGES: u64 = 512;

pub(crate) fn run(data: &[u8]) {
    if data.first().is_some_and(|byte| byte % 2 == 0) {
        map(data);
    } else {
        owners(data);
    }
}

/// A map is sorted and without overlap, whatever firmware said.
fn map(data: &[u8]) {
    let mut source = Source::new(data);
    let mut map = HostMap::new();
    while !source.is_empty() {
        let (start, size) = (Hpa(source.value()), source.value());
        let kind = MemoryKind::from_e820(u32::from(source.u8() % 8));
        let _ = match source.u8() % 3 {
            0 => map.insert(start, size, kind),
            1 => map.set(start, size, kind),
            _ => map.carve(start, size, Some(kind)),
        };
        for pair in map.as_slice().windows(2) {
            assert!(pair[0].start.0 + pair[0].size() <= pair[1].start.0);
        }
        let side = if size % 2 == 0 {
            Side::Lowest
        } else {
            Side::Highest
        };
        let wanted = source.value();
        if let Some(found) = map.find_free(wanted, 4096, start, Hpa(u64::MAX), side) {
            assert!(found >= start && found.0 % 4096 == 0);
            assert_eq!(map.kind_at(found), Some(MemoryKind::Usable));
        }
    }
}

/// No page is lost or made, and what is lent comes back.
fn owners(data: &[u8]) {
    let mut source = Source::new(data);
    let mut pages = [0u16; PAGES as usize];
    let mut owners = OwnerMap::new(&mut pages);
    let _ = owners.set_range(Hpa(0), PAGES * 4096, Owner::Vm(VmId(0)));
    while !source.is_empty() {
        let start =
            Hpa(u64::from(source.u16()) % (PAGES + 8) * 4096 + u64::from(source.u8() % 16 / 15));
        let size = u64::from(source.u8()) * 4096;
        let (from, to) = (
            VmId(u16::from(source.u8() % 4)),
            VmId(u16::from(source.u8() % 4)),
        );
        let _ = match source.u8() % 5 {
            0 => owners.lend(start, size, from, to),
            1 => owners.lend_jointly(start, size, from, to),
            2 => owners.give_back(start, size, to),
            3 => owners.set_range(start, size, Owner::Vm(from)),
            _ => {
                owners.give_back_all(to);
                assert_eq!(owners.count(Class::LentTo(to)), 0);
                Ok(())
            }
        };
        let vms = || (0..4).map(VmId);
        let lent: u64 = vms().map(|vm| owners.count(Class::LentBy(vm))).sum();
        let borrowed: u64 = vms().map(|vm| owners.count(Class::LentTo(vm))).sum();
        let kept: u64 = vms().map(|vm| owners.count(Class::Kept(vm))).sum();
        // Pages may have several borrowers.
        assert!(lent <= borrowed && (lent == 0) == (borrowed == 0));
        assert_eq!(kept + lent, PAGES);
    }
}
