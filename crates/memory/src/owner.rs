//! Who owns each page of the host's memory.
//!
//! One 16-bit entry for each 4 KiB page from address 0 to the top of memory, in storage of the
//! caller. A page has one owner; a VM's page may at the same time be lent to one other VM (the
//! Service VM lends its memory to User VMs) and keeps its owner meanwhile. A page that is lent can
//! neither be lent again nor change its owner until it is given back. Only pages that were lent jointly
//! may be lent jointly to further VMs, which then share them.
//!
//! Addresses beyond the map (device registers above memory) have no owner: what may be mapped
//! there is the caller's policy.

use core::fmt;

use acrn_abi::{Hpa, PAGE_SIZE, VmId};

/// VM ids that the map can express: 0 to `VM_LIMIT` - 1.
pub const VM_LIMIT: usize = 128;

/// Owner of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A hole, or memory that nobody spoke of: nobody may map it.
    None,
    /// The hypervisor: no guest may map it.
    Hypervisor,
    /// Device registers or firmware tables.
    Device,
    /// A declared shared-memory region.
    Shared(u8),
    /// A VM, which alone uses the page.
    Vm(VmId),
    /// A VM that has lent the page to another.
    Lent {
        /// To whom the page returns.
        owner: VmId,
        /// Who uses it.
        to: VmId,
    },
    /// A VM that has lent the page to others, which share it.
    LentJointly {
        /// To whom the page returns from the last of them.
        owner: VmId,
        /// Who uses it.
        to: Borrowers,
    },
}

/// VMs that share a lent page; never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Borrowers(u8);

impl Borrowers {
    /// VMs with this id and above cannot share pages, nor lend them so.
    pub const LIMIT: u16 = 8;

    /// Whether the VM is among them.
    pub const fn contains(self, vm: VmId) -> bool {
        vm.0 < Self::LIMIT && self.0 >> vm.0 & 1 != 0
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = VmId> {
        (0..Self::LIMIT)
            .map(VmId)
            .filter(move |vm| self.contains(*vm))
    }

    const fn bit(vm: VmId) -> Result<u16, OwnerError> {
        match vm.0 < Self::LIMIT {
            true => Ok(1 << vm.0),
            false => Err(OwnerError::VmId(vm)),
        }
    }
}

// Encoding: 0..=2 plain owners; 0x0100 | region; 0x2000 | owner << 8 | set of borrowers; 0x4000 | VM;
// 0x8000 | owner << 7 | borrower.
const SHARED: u16 = 0x0100;
const JOINTLY: u16 = 0x2000;
const JOINT_OWNER_SHIFT: u16 = 8;
const VM: u16 = 0x4000;
const LENT: u16 = 0x8000;
const VM_BITS: u16 = 7;
const VM_MASK: u16 = VM_LIMIT as u16 - 1;

impl Owner {
    /// Whether the page is lent, to whomever.
    pub const fn is_lent(self) -> bool {
        matches!(self, Self::Lent { .. } | Self::LentJointly { .. })
    }

    /// Whether the page is lent to this VM, alone or with others.
    pub fn is_lent_to(self, vm: VmId) -> bool {
        match self {
            Self::Lent { to, .. } => to == vm,
            Self::LentJointly { to, .. } => to.contains(vm),
            _ => false,
        }
    }

    const fn decode(raw: u16) -> Self {
        if raw & LENT != 0 {
            Self::Lent {
                owner: VmId(raw >> VM_BITS & VM_MASK),
                to: VmId(raw & VM_MASK),
            }
        } else if raw & VM != 0 {
            Self::Vm(VmId(raw & VM_MASK))
        } else if raw & JOINTLY != 0 {
            Self::LentJointly {
                owner: VmId(raw >> JOINT_OWNER_SHIFT & (Borrowers::LIMIT - 1)),
                to: Borrowers(raw as u8),
            }
        } else if raw & SHARED != 0 {
            Self::Shared(raw as u8)
        } else {
            match raw {
                1 => Self::Hypervisor,
                2 => Self::Device,
                _ => Self::None,
            }
        }
    }

    fn encode(self) -> Result<u16, OwnerError> {
        let vm = |id: VmId| {
            if id.index() < VM_LIMIT {
                Ok(id.0)
            } else {
                Err(OwnerError::VmId(id))
            }
        };
        Ok(match self {
            Self::None => 0,
            Self::Hypervisor => 1,
            Self::Device => 2,
            Self::Shared(region) => SHARED | region as u16,
            Self::Vm(id) => VM | vm(id)?,
            Self::Lent { owner, to } => LENT | vm(owner)? << VM_BITS | vm(to)?,
            Self::LentJointly { owner, to } => {
                Borrowers::bit(owner)?;
                JOINTLY | owner.0 << JOINT_OWNER_SHIFT | u16::from(to.0)
            }
        })
    }
}

/// What [`OwnerMap::count`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Pages of [`Owner::None`].
    None,
    /// Pages of [`Owner::Hypervisor`].
    Hypervisor,
    /// Pages of [`Owner::Device`].
    Device,
    /// Pages of all shared regions.
    Shared,
    /// Pages that the VM owns and has not lent.
    Kept(VmId),
    /// Pages that the VM owns and has lent.
    LentBy(VmId),
    /// Pages that are lent to the VM, to it alone or not.
    LentTo(VmId),
}

/// Why a range was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerError {
    /// Address and size must be multiples of 4 KiB and the size not 0.
    Misaligned {
        /// First address.
        hpa: Hpa,
        /// Bytes.
        size: u64,
    },
    /// The range overflows or ends beyond the map.
    Outside {
        /// First address.
        hpa: Hpa,
        /// Bytes.
        size: u64,
    },
    /// This page belongs to somebody who does not allow the operation.
    NotAllowed {
        /// The first such page.
        hpa: Hpa,
        /// Its owner.
        owner: Owner,
    },
    /// The VM id is [`VM_LIMIT`] or above.
    VmId(VmId),
}

impl fmt::Display for OwnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned { hpa, size } => {
                write!(f, "host range {hpa} + {size:#x} is not made of whole pages")
            }
            Self::Outside { hpa, size } => {
                write!(f, "host range {hpa} + {size:#x} is beyond the memory")
            }
            Self::NotAllowed { hpa, owner } => {
                write!(f, "host page {hpa} belongs to {owner:?}")
            }
            Self::VmId(id) => write!(f, "VM id {id} is not below {VM_LIMIT}"),
        }
    }
}

impl core::error::Error for OwnerError {}

#[derive(Clone, Copy, Debug, Default)]
struct VmPages {
    kept: u64,
    lent: u64,
    borrowed: u64,
}

/// The map of all pages. See the module.
#[derive(Debug)]
pub struct OwnerMap<'a> {
    pages: &'a mut [u16],
    plain: [u64; 3],
    shared: u64,
    vms: [VmPages; VM_LIMIT],
}

impl<'a> OwnerMap<'a> {
    /// A map of as many pages as the storage has entries, all of nobody.
    pub fn new(pages: &'a mut [u16]) -> Self {
        pages.fill(0);
        let count = pages.len() as u64;
        Self {
            pages,
            plain: [count, 0, 0],
            shared: 0,
            vms: [VmPages::default(); VM_LIMIT],
        }
    }

    /// The map as it is after start-up: `ranges`, which are ascending and apart, with their owners,
    /// and `rest` for all between. Whatever the storage holds is overwritten, once.
    ///
    /// # Errors
    /// A bad range, one that begins below the end of the one before, a VM id out of range, or an
    /// owner that has lent the range.
    pub fn with_ranges(
        pages: &'a mut [u16],
        rest: Owner,
        ranges: impl IntoIterator<Item = (Hpa, u64, Owner)>,
    ) -> Result<Self, OwnerError> {
        let mut map = Self {
            pages,
            plain: [0; 3],
            shared: 0,
            vms: [VmPages::default(); VM_LIMIT],
        };
        let mut done = 0;
        for (hpa, size, owner) in ranges {
            let range = map.range(hpa, size)?;
            if range.start < done {
                return Err(OwnerError::NotAllowed { hpa, owner });
            }
            map.begin(done..range.start, rest)?;
            done = range.end;
            map.begin(range, owner)?;
        }
        map.begin(done..map.pages.len(), rest)?;
        Ok(map)
    }

    /// Gives pages that nobody has counted yet their first owner.
    fn begin(&mut self, range: core::ops::Range<usize>, owner: Owner) -> Result<(), OwnerError> {
        if owner.is_lent() {
            let hpa = Hpa(range.start as u64 * PAGE_SIZE);
            return Err(OwnerError::NotAllowed { hpa, owner });
        }
        let raw = owner.encode()?;
        let length = range.len() as u64;
        self.pages[range].fill(raw);
        self.tally(raw, |count| *count += length);
        Ok(())
    }

    /// First address beyond the map.
    pub const fn top(&self) -> Hpa {
        Hpa(self.pages.len() as u64 * PAGE_SIZE)
    }

    /// Owner of the page that holds `hpa`; `None` beyond the map.
    pub fn owner(&self, hpa: Hpa) -> Option<Owner> {
        let index = usize::try_from(hpa.0 / PAGE_SIZE).ok()?;
        self.pages.get(index).map(|raw| Owner::decode(*raw))
    }

    /// Owner of the page that holds `hpa`, and the bytes from there on to the next page that
    /// belongs to another; `None` beyond the map.
    pub fn run(&self, hpa: Hpa) -> Option<(Owner, u64)> {
        let index = usize::try_from(hpa.0 / PAGE_SIZE).ok()?;
        let pages = self.pages.get(index..).filter(|pages| !pages.is_empty())?;
        let size = run_length(pages) as u64 * PAGE_SIZE - hpa.0 % PAGE_SIZE;
        Some((Owner::decode(pages[0]), size))
    }

    /// Number of pages of a class; a lookup.
    pub fn count(&self, class: Class) -> u64 {
        let vm = |id: VmId| self.vms.get(id.index()).copied().unwrap_or_default();
        match class {
            Class::None => self.plain[0],
            Class::Hypervisor => self.plain[1],
            Class::Device => self.plain[2],
            Class::Shared => self.shared,
            Class::Kept(id) => vm(id).kept,
            Class::LentBy(id) => vm(id).lent,
            Class::LentTo(id) => vm(id).borrowed,
        }
    }

    /// Checks that `allowed` holds for the owner of every page of the range.
    ///
    /// # Errors
    /// [`OwnerError::NotAllowed`] with the first page for which it does not, or a bad range.
    pub fn check_range(
        &self,
        hpa: Hpa,
        size: u64,
        mut allowed: impl FnMut(Owner) -> bool,
    ) -> Result<(), OwnerError> {
        let range = self.range(hpa, size)?;
        // Neighbours mostly have one owner: ask once for each run.
        let mut at = range.start;
        while at < range.end {
            let owner = Owner::decode(self.pages[at]);
            if !allowed(owner) {
                let hpa = Hpa(at as u64 * PAGE_SIZE);
                return Err(OwnerError::NotAllowed { hpa, owner });
            }
            at += run_length(&self.pages[at..range.end]);
        }
        Ok(())
    }

    /// Gives the range a new owner. For boot and for creating VMs whose memory is set by policy.
    ///
    /// # Errors
    /// A bad range, a VM id out of range, an `owner` that lends, or a page that is lent.
    pub fn set_range(&mut self, hpa: Hpa, size: u64, owner: Owner) -> Result<(), OwnerError> {
        if owner.is_lent() {
            return Err(OwnerError::NotAllowed { hpa, owner });
        }
        let raw = owner.encode()?;
        self.check_range(hpa, size, |owner| !owner.is_lent())?;
        self.rewrite(hpa, size, |_| raw)
    }

    /// Lends pages of `from` to `to`.
    ///
    /// # Errors
    /// A bad range, or a page that `from` does not own or has lent already, be it to the same VM.
    pub fn lend(&mut self, hpa: Hpa, size: u64, from: VmId, to: VmId) -> Result<(), OwnerError> {
        let lent = Owner::Lent { owner: from, to }.encode()?;
        self.check_range(hpa, size, |owner| from != to && owner == Owner::Vm(from))?;
        self.rewrite(hpa, size, |_| lent)
    }

    /// Lends pages of `from` to `to`, which shares them with those that they were lent to in this way
    /// before.
    ///
    /// # Errors
    /// As for [`Self::lend`], or an id from [`Borrowers::LIMIT`] on.
    pub fn lend_jointly(
        &mut self,
        hpa: Hpa,
        size: u64,
        from: VmId,
        to: VmId,
    ) -> Result<(), OwnerError> {
        Borrowers::bit(from)?;
        let bit = Borrowers::bit(to)?;
        self.check_range(hpa, size, |owner| match owner {
            _ if from == to => false,
            Owner::Vm(id) => id == from,
            Owner::LentJointly { owner, to: others } => owner == from && !others.contains(to),
            _ => false,
        })?;
        self.rewrite(hpa, size, |raw| match raw & JOINTLY {
            0 => JOINTLY | from.0 << JOINT_OWNER_SHIFT | bit,
            _ => raw | bit,
        })
    }

    /// Returns pages that are lent to `to` to their owners, or to those that shared them with it.
    ///
    /// # Errors
    /// A bad range, or a page that is not lent to `to`.
    pub fn give_back(&mut self, hpa: Hpa, size: u64, to: VmId) -> Result<(), OwnerError> {
        self.check_range(hpa, size, |owner| owner.is_lent_to(to))?;
        self.rewrite(hpa, size, |raw| returned(raw, to))
    }

    /// Returns everything that is lent to `to`, for the end of a VM, and says how many pages that
    /// were. Looks at pages only until the last one is found.
    pub fn give_back_all(&mut self, to: VmId) -> u64 {
        let total = self.count(Class::LentTo(to));
        for index in 0..self.pages.len() {
            if self.count(Class::LentTo(to)) == 0 {
                break;
            }
            let raw = self.pages[index];
            if Owner::decode(raw).is_lent_to(to) {
                let kept = returned(raw, to);
                self.tally(raw, |count| *count -= 1);
                self.tally(kept, |count| *count += 1);
                self.pages[index] = kept;
            }
        }
        total
    }

    fn range(&self, hpa: Hpa, size: u64) -> Result<core::ops::Range<usize>, OwnerError> {
        if size == 0 || (hpa.0 | size) % PAGE_SIZE != 0 {
            return Err(OwnerError::Misaligned { hpa, size });
        }
        match hpa.checked_add(size) {
            Some(end) if end <= self.top() => {
                Ok((hpa.0 / PAGE_SIZE) as usize..(end.0 / PAGE_SIZE) as usize)
            }
            _ => Err(OwnerError::Outside { hpa, size }),
        }
    }

    /// Replaces the entries of a range, run by run of equal ones, and keeps the counts.
    fn rewrite(&mut self, hpa: Hpa, size: u64, new: impl Fn(u16) -> u16) -> Result<(), OwnerError> {
        let range = self.range(hpa, size)?;
        let mut at = range.start;
        while at < range.end {
            let old = self.pages[at];
            let to = new(old);
            let run = &mut self.pages[at..range.end];
            let length = run_length(run);
            run[..length].fill(to);
            self.tally(old, |count| *count -= length as u64);
            self.tally(to, |count| *count += length as u64);
            at += length;
        }
        Ok(())
    }

    /// Applies `change` to each counter that an entry of this value is part of.
    fn tally(&mut self, raw: u16, change: impl Fn(&mut u64)) {
        match Owner::decode(raw) {
            Owner::None => change(&mut self.plain[0]),
            Owner::Hypervisor => change(&mut self.plain[1]),
            Owner::Device => change(&mut self.plain[2]),
            Owner::Shared(_) => change(&mut self.shared),
            Owner::Vm(id) => change(&mut self.vms[id.index()].kept),
            Owner::Lent { owner, to } => {
                change(&mut self.vms[owner.index()].lent);
                change(&mut self.vms[to.index()].borrowed);
            }
            Owner::LentJointly { owner, to } => {
                change(&mut self.vms[owner.index()].lent);
                to.iter()
                    .for_each(|vm| change(&mut self.vms[vm.index()].borrowed));
            }
        }
    }
}

/// The entry of a page that `to` gives back.
fn returned(raw: u16, to: VmId) -> u16 {
    match Owner::decode(raw) {
        Owner::Lent { owner, .. } => VM | owner.0,
        Owner::LentJointly { owner, to: others } => match u16::from(others.0) & !(1 << to.0) {
            0 => VM | owner.0,
            _ => raw & !(1 << to.0),
        },
        _ => raw,
    }
}

/// Length of the run of equal entries at the start of `pages`.
fn run_length(pages: &[u16]) -> usize {
    /// Entries that are looked at together, without a branch for each.
    const BLOCK: usize = 64;
    let Some(first) = pages.first() else {
        return 0;
    };
    let blocks = pages.chunks_exact(BLOCK);
    let same = |block: &&[u16]| block.iter().fold(0, |all, raw| all | (raw ^ first)) == 0;
    let length = blocks.take_while(same).count() * BLOCK;
    let rest = &pages[length..];
    let in_rest = rest.iter().position(|raw| raw != first);
    length + in_rest.unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: u64 = PAGE_SIZE;
    const SERVICE: VmId = VmId(0);
    const USER: VmId = VmId(1);
    const OTHER: VmId = VmId(2);

    fn lent(owner: VmId, to: VmId) -> Owner {
        Owner::Lent { owner, to }
    }

    #[test]
    fn owners_survive_their_encoding() {
        let top = VmId(VM_LIMIT as u16 - 1);
        let mut all = vec![Owner::None, Owner::Hypervisor, Owner::Device];
        all.extend([
            Owner::Shared(0),
            Owner::Shared(255),
            Owner::Vm(VmId(0)),
            Owner::Vm(top),
        ]);
        all.extend([lent(VmId(0), top), lent(top, VmId(0)), lent(top, top)]);
        for owner in [VmId(0), VmId(Borrowers::LIMIT - 1)] {
            let to = Borrowers(0x81);
            all.push(Owner::LentJointly { owner, to });
        }
        for owner in all {
            assert_eq!(Owner::decode(owner.encode().unwrap()), owner);
        }
        let beyond = VmId(VM_LIMIT as u16);
        assert_eq!(Owner::Vm(beyond).encode(), Err(OwnerError::VmId(beyond)));
    }

    #[test]
    fn a_map_begins_with_ranges_and_their_owners() {
        let mut pages = [0xffff; 16];
        let vm = Owner::Vm(SERVICE);
        let ranges = [(Hpa(P), 2 * P, vm), (Hpa(3 * P), P, Owner::None)];
        let map = OwnerMap::with_ranges(&mut pages, Owner::Device, ranges).unwrap();
        assert_eq!(map.owner(Hpa(0)), Some(Owner::Device));
        assert_eq!(map.owner(Hpa(2 * P)), Some(vm));
        assert_eq!(map.owner(Hpa(15 * P)), Some(Owner::Device));
        let counts = [Class::Device, Class::Kept(SERVICE), Class::None];
        assert_eq!(counts.map(|class| map.count(class)), [13, 2, 1]);
    }

    #[test]
    fn ranges_to_begin_with_must_ascend_and_lend_nothing() {
        let begin = |ranges: [(Hpa, u64, Owner); 2]| {
            OwnerMap::with_ranges(&mut [0; 16], Owner::None, ranges).map(|_| ())
        };
        let device = Owner::Device;
        assert!(begin([(Hpa(0), P, device), (Hpa(P), P, device)]).is_ok());
        assert!(begin([(Hpa(P), P, device), (Hpa(0), P, device)]).is_err());
        assert!(begin([(Hpa(0), 2 * P, device), (Hpa(P), P, device)]).is_err());
        assert!(begin([(Hpa(0), P, device), (Hpa(P), 16 * P, device)]).is_err());
        assert!(begin([(Hpa(0), P, lent(SERVICE, USER)), (Hpa(P), P, device)]).is_err());
    }

    #[test]
    fn a_run_ends_at_the_first_other_entry() {
        for length in [1, 63, 64, 65, 200] {
            for end in [1, 2, 63, 64, 65, 127, 128, 129, 200] {
                let mut pages = vec![7; length];
                pages.iter_mut().skip(end).for_each(|raw| *raw = 8);
                assert_eq!(run_length(&pages), end.min(length));
            }
        }
        assert_eq!(run_length(&[]), 0);
    }

    #[test]
    fn runs_of_one_owner_follow_each_other_to_the_top() {
        let mut pages = [0; 16];
        let mut map = OwnerMap::new(&mut pages);
        map.set_range(Hpa(0), 8 * P, Owner::Vm(SERVICE)).unwrap();
        map.lend(Hpa(2 * P), P, SERVICE, USER).unwrap();
        let vm = Owner::Vm(SERVICE);
        let sizes = [(0, vm, 2), (2, lent(SERVICE, USER), 1), (3, vm, 5)];
        for (page, owner, size) in sizes {
            assert_eq!(map.run(Hpa(page * P)), Some((owner, size * P)));
        }
        assert_eq!(map.run(Hpa(P + 8)), Some((vm, P - 8)));
        assert_eq!(map.run(Hpa(8 * P)), Some((Owner::None, 8 * P)));
        assert_eq!(map.run(Hpa(16 * P)), None);
        assert_eq!(map.run(Hpa(u64::MAX)), None);
    }

    #[test]
    fn a_lent_page_returns_to_its_owner() {
        let mut pages = [0; 16];
        let mut map = OwnerMap::new(&mut pages);
        map.set_range(Hpa(0), 8 * P, Owner::Vm(SERVICE)).unwrap();
        map.lend(Hpa(2 * P), 3 * P, SERVICE, USER).unwrap();
        assert_eq!(map.owner(Hpa(2 * P + 7)), Some(lent(SERVICE, USER)));
        assert_eq!(map.count(Class::Kept(SERVICE)), 5);
        assert_eq!(
            (
                map.count(Class::LentBy(SERVICE)),
                map.count(Class::LentTo(USER))
            ),
            (3, 3)
        );
        map.give_back(Hpa(2 * P), P, USER).unwrap();
        assert_eq!(map.give_back_all(USER), 2);
        assert_eq!(
            (map.count(Class::Kept(SERVICE)), map.count(Class::None)),
            (8, 8)
        );
    }

    #[test]
    fn what_is_lent_jointly_returns_from_the_last_borrower() {
        let mut pages = [0; 16];
        let mut map = OwnerMap::new(&mut pages);
        map.set_range(Hpa(0), 8 * P, Owner::Vm(SERVICE)).unwrap();
        map.lend_jointly(Hpa(0), 4 * P, SERVICE, USER).unwrap();
        map.lend_jointly(Hpa(2 * P), 4 * P, SERVICE, OTHER).unwrap();
        assert!(map.lend_jointly(Hpa(0), P, SERVICE, USER).is_err());
        assert!(map.lend(Hpa(0), P, SERVICE, OTHER).is_err());
        assert!(map.lend_jointly(Hpa(0), P, USER, OTHER).is_err());
        assert!(map.set_range(Hpa(0), P, Owner::Hypervisor).is_err());
        assert!(map.give_back(Hpa(0), P, OTHER).is_err());
        let both = map.owner(Hpa(2 * P)).unwrap();
        assert!(both.is_lent_to(USER) && both.is_lent_to(OTHER) && !both.is_lent_to(SERVICE));
        let counts = |map: &OwnerMap<'_>| {
            [
                Class::Kept(SERVICE),
                Class::LentBy(SERVICE),
                Class::LentTo(USER),
                Class::LentTo(OTHER),
            ]
            .map(|class| map.count(class))
        };
        assert_eq!(counts(&map), [2, 6, 4, 4]);
        assert_eq!(map.give_back_all(USER), 4);
        assert_eq!(counts(&map), [4, 4, 0, 4]);
        map.give_back(Hpa(2 * P), 4 * P, OTHER).unwrap();
        assert_eq!(counts(&map), [8, 0, 0, 0]);
    }

    #[test]
    fn what_is_lent_to_one_vm_is_not_lent_jointly() {
        let mut pages = [0; 4];
        let mut map = OwnerMap::new(&mut pages);
        map.set_range(Hpa(0), 4 * P, Owner::Vm(SERVICE)).unwrap();
        map.lend(Hpa(0), P, SERVICE, USER).unwrap();
        assert!(map.lend_jointly(Hpa(0), P, SERVICE, OTHER).is_err());
        assert!(map.lend_jointly(Hpa(P), P, SERVICE, SERVICE).is_err());
        let beyond = VmId(Borrowers::LIMIT);
        let error = Err(OwnerError::VmId(beyond));
        assert_eq!(map.lend_jointly(Hpa(P), P, SERVICE, beyond), error);
        assert_eq!(map.lend_jointly(Hpa(P), P, beyond, USER), error);
    }

    #[test]
    fn one_foreign_page_refuses_the_whole_loan() {
        let mut pages = [0; 16];
        let mut map = OwnerMap::new(&mut pages);
        map.set_range(Hpa(0), 8 * P, Owner::Vm(SERVICE)).unwrap();
        map.set_range(Hpa(5 * P), P, Owner::Hypervisor).unwrap();
        let error = map.lend(Hpa(0), 8 * P, SERVICE, USER).unwrap_err();
        let hpa = Hpa(5 * P);
        assert_eq!(
            error,
            OwnerError::NotAllowed {
                hpa,
                owner: Owner::Hypervisor
            }
        );
        assert_eq!(map.count(Class::LentTo(USER)), 0);
        assert_eq!(map.owner(Hpa(0)), Some(Owner::Vm(SERVICE)));
    }

    #[test]
    fn a_lent_page_can_not_be_lent_retyped_or_taken_by_others() {
        let mut pages = [0; 16];
        let mut map = OwnerMap::new(&mut pages);
        map.set_range(Hpa(0), 8 * P, Owner::Vm(SERVICE)).unwrap();
        map.lend(Hpa(0), P, SERVICE, USER).unwrap();
        assert!(map.lend(Hpa(0), P, SERVICE, USER).is_err());
        assert!(map.lend(Hpa(0), P, SERVICE, VmId(2)).is_err());
        assert!(map.lend(Hpa(0), P, USER, VmId(2)).is_err());
        assert!(map.set_range(Hpa(0), P, Owner::Hypervisor).is_err());
        assert!(map.give_back(Hpa(0), P, VmId(2)).is_err());
        assert!(map.give_back(Hpa(0), 2 * P, USER).is_err());
        assert!(map.lend(Hpa(P), P, SERVICE, SERVICE).is_err());
        assert_eq!(map.owner(Hpa(0)), Some(lent(SERVICE, USER)));
    }

    #[test]
    fn ranges_outside_the_map_are_refused() {
        let mut pages = [0; 4];
        let mut map = OwnerMap::new(&mut pages);
        let mut refuse = |hpa, size| map.set_range(Hpa(hpa), size, Owner::Device).unwrap_err();
        assert!(matches!(refuse(0, 0), OwnerError::Misaligned { .. }));
        assert!(matches!(refuse(1, P), OwnerError::Misaligned { .. }));
        assert!(matches!(refuse(0, P + 1), OwnerError::Misaligned { .. }));
        assert!(matches!(refuse(4 * P, P), OwnerError::Outside { .. }));
        assert!(matches!(refuse(3 * P, 2 * P), OwnerError::Outside { .. }));
        assert!(matches!(
            refuse(P, 0u64.wrapping_sub(P)),
            OwnerError::Outside { .. }
        ));
        assert_eq!(map.owner(Hpa(4 * P)), None);
        assert_eq!(map.owner(Hpa(u64::MAX)), None);
    }

    proptest! {
        #[test]
        fn counts_match_the_pages_and_lending_needs_ownership(
            steps in prop::collection::vec((0u8..5, 0u64..40, 1u64..12, 0u16..3, 0u16..3), 1..80),
        ) {
            let mut pages = [0; 40];
            let mut map = OwnerMap::new(&mut pages);
            let mut model = [Owner::None; 40];
            for (what, first, count, a, b) in steps {
                let (hpa, size) = (Hpa(first * P), count * P);
                let (a, b) = (VmId(a), VmId(b));
                let done = match what {
                    0 => map.set_range(hpa, size, Owner::Vm(a)),
                    1 => map.set_range(hpa, size, Owner::Hypervisor),
                    2 => map.lend(hpa, size, a, b),
                    3 => map.lend_jointly(hpa, size, a, b),
                    _ => map.give_back(hpa, size, a),
                }.is_ok();
                let new = |old| match (what, old) {
                    (0 | 1, Owner::Lent { .. } | Owner::LentJointly { .. }) => None,
                    (0, _) => Some(Owner::Vm(a)),
                    (1, _) => Some(Owner::Hypervisor),
                    (2, Owner::Vm(owner)) if owner == a && a != b => Some(lent(a, b)),
                    (3, Owner::Vm(owner)) if owner == a && a != b => {
                        Some(Owner::LentJointly { owner, to: Borrowers(1 << b.0) })
                    }
                    (3, Owner::LentJointly { owner, to }) if owner == a && a != b && !to.contains(b) => {
                        Some(Owner::LentJointly { owner, to: Borrowers(to.0 | 1 << b.0) })
                    }
                    (4, Owner::Lent { owner, to }) if to == a => Some(Owner::Vm(owner)),
                    (4, Owner::LentJointly { owner, to }) if to.contains(a) => {
                        Some(match to.0 & !(1 << a.0) {
                            0 => Owner::Vm(owner),
                            rest => Owner::LentJointly { owner, to: Borrowers(rest) },
                        })
                    }
                    _ => None,
                };
                let part = model.get_mut(first as usize..(first + count) as usize);
                let expected = part.as_ref().is_some_and(|p| p.iter().all(|o| new(*o).is_some()));
                prop_assert_eq!(done, expected);
                if let (true, Some(part)) = (done, part) {
                    part.iter_mut().for_each(|o| *o = new(*o).unwrap());
                }
                for (index, owner) in model.iter().enumerate() {
                    prop_assert_eq!(map.owner(Hpa(index as u64 * P)), Some(*owner));
                }
                let tally = |f: &dyn Fn(&Owner) -> bool| model.iter().filter(|o| f(o)).count() as u64;
                prop_assert_eq!(map.count(Class::Kept(a)), tally(&|o| *o == Owner::Vm(a)));
                let by = |o: &Owner| {
                    matches!(o, Owner::Lent { owner, .. } | Owner::LentJointly { owner, .. }
                        if *owner == a)
                };
                prop_assert_eq!(map.count(Class::LentBy(a)), tally(&by));
                let to = |o: &Owner| o.is_lent_to(a);
                prop_assert_eq!(map.count(Class::LentTo(a)), tally(&to));
                prop_assert_eq!(map.count(Class::None), tally(&|o| *o == Owner::None));
            }
        }
    }
}
