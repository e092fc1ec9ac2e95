//! The description of a VM that is to be created.

use acrn_abi::hypercall::{Errno, VmCreation};
use acrn_abi::vm_flags::VmFlags;
use acrn_abi::{PcpuId, ioreq};
use arrayvec::ArrayString;
use core::fmt;

/// What the Device Model may ask for and gets. Waiting for I/O by polling is accepted and not
/// done: the result is the same, a sleeping vCPU only leaves the CPU to others meanwhile.
const PROVIDED: VmFlags = VmFlags::IO_COMPLETION_POLLING.union(VmFlags::OBSERVER);
/// What it may ask for in ACRN and does not get: to go on without would be another VM.
const REFUSED: VmFlags = VmFlags::SECURE_WORLD
    .union(VmFlags::LAPIC_PASSTHROUGH)
    .union(VmFlags::RT);

/// A VM that can be made as far as numbers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Name.
    pub name: ArrayString<16>,
    /// Flags without those that only a scenario may set.
    pub flags: VmFlags,
    cpus: u64,
    /// No CPUs were asked for.
    anywhere: bool,
}

/// Why a description is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCreation {
    /// Reserved fields are not zero.
    Reserved,
    /// The name is empty or has bytes that are not printable ASCII.
    Name,
    /// Flags that are not provided.
    Flags(VmFlags),
    /// CPUs that the machine does not have.
    Cpus(u64),
    /// More CPUs than a VM can have vCPUs.
    TooMany(u32),
    /// CPUs that the scenario does not give this VM.
    NotOurs(u64),
}

impl BadCreation {
    /// The result for the caller.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Flags(_) => Errno::ENOSYS,
            _ => Errno::EINVAL,
        }
    }
}

impl fmt::Display for BadCreation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => f.write_str("reserved fields of the creation block are not zero"),
            Self::Name => f.write_str("the name is empty or not printable ASCII"),
            Self::Flags(flags) => write!(f, "the flags {:#x} are not provided", flags.bits()),
            Self::Cpus(mask) => write!(f, "the machine has no CPUs {mask:#x}"),
            Self::TooMany(count) => write!(f, "{count} vCPUs are too many"),
            Self::NotOurs(mask) => {
                write!(f, "the scenario does not give this VM the CPUs {mask:#x}")
            }
        }
    }
}

impl core::error::Error for BadCreation {}

impl Creation {
    /// Judges a description on a machine with `present` CPUs. No affinity means all of them.
    ///
    /// # Errors
    /// [`BadCreation`].
    pub fn new(block: &VmCreation, present: usize) -> Result<Self, BadCreation> {
        if block.reserved0 != 0 || block.reserved1 != 0 {
            return Err(BadCreation::Reserved);
        }
        let text = block.name().ok_or(BadCreation::Name)?;
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadCreation::Name);
        }
        let name = ArrayString::from(text).map_err(|_| BadCreation::Name)?;
        let flags = VmFlags::from_bits_retain(block.vm_flag);
        if flags.intersects(REFUSED) {
            return Err(BadCreation::Flags(flags & REFUSED));
        }
        if flags.contains(VmFlags::OBSERVER) {
            return Ok(Self {
                name,
                flags: VmFlags::OBSERVER,
                cpus: 0,
                anywhere: false,
            });
        }
        let all = u64::MAX
            .checked_shr(64u32.saturating_sub(present as u32))
            .unwrap_or(0);
        let cpus = match block.cpu_affinity {
            0 => all,
            mask => mask,
        };
        if cpus & !all != 0 {
            return Err(BadCreation::Cpus(cpus & !all));
        }
        let count = cpus.count_ones();
        if count == 0 || count > ioreq::SLOTS as u32 {
            return Err(BadCreation::TooMany(count));
        }
        Ok(Self {
            name,
            flags: flags & PROVIDED,
            cpus,
            anywhere: block.cpu_affinity == 0,
        })
    }

    /// The same VM on CPUs of a scenario: it asks for some of them, or gets all.
    ///
    /// # Errors
    /// [`BadCreation::NotOurs`].
    pub fn within(self, allowed: u64) -> Result<Self, BadCreation> {
        let cpus = match self.anywhere {
            true => self.cpus & allowed,
            false => self.cpus,
        };
        let beyond = cpus & !allowed;
        if beyond != 0 || cpus == 0 {
            return Err(BadCreation::NotOurs(beyond));
        }
        Ok(Self { cpus, ..self })
    }

    /// Whether it is no VM that runs: it has no vCPU.
    pub const fn is_observer(&self) -> bool {
        self.flags.contains(VmFlags::OBSERVER)
    }

    /// Number of vCPUs, 1 to 16; none of an observer.
    pub const fn vcpus(&self) -> u16 {
        self.cpus.count_ones() as u16
    }

    /// The CPU of each vCPU, in the order of the vCPUs.
    pub fn cpus(&self) -> impl Iterator<Item = PcpuId> + use<> {
        let cpus = self.cpus;
        (0..64u16).filter(move |n| cpus >> n & 1 != 0).map(PcpuId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &[u8], cpu_affinity: u64) -> VmCreation {
        let mut block = VmCreation {
            cpu_affinity,
            ..VmCreation::default()
        };
        block.name[..name.len()].copy_from_slice(name);
        block
    }

    #[test]
    fn the_lowest_cpu_is_that_of_vcpu_0() {
        let creation = Creation::new(&block(b"vm1", 0b1010), 4).unwrap();
        assert_eq!(creation.vcpus(), 2);
        assert!(creation.cpus().eq([PcpuId(1), PcpuId(3)]));
        assert_eq!(&creation.name[..], "vm1");
    }

    #[test]
    fn no_affinity_means_all_cpus() {
        assert_eq!(Creation::new(&block(b"vm1", 0), 4).unwrap().vcpus(), 4);
        assert_eq!(Creation::new(&block(b"vm1", 0), 16).unwrap().vcpus(), 16);
        let many = Creation::new(&block(b"vm1", 0), 64);
        assert_eq!(many, Err(BadCreation::TooMany(64)));
        assert!(Creation::new(&block(b"vm1", 0), 0).is_err());
    }

    #[test]
    fn cpus_that_are_not_there_are_refused() {
        let creation = Creation::new(&block(b"vm1", 0b1_0001), 4);
        assert_eq!(creation, Err(BadCreation::Cpus(0b1_0000)));
    }

    #[test]
    fn a_vm_of_the_scenario_has_some_of_its_cpus() {
        let on = |mask| Creation::new(&block(b"vm1", mask), 4).unwrap();
        assert!(on(0b0100).within(0b0110).unwrap().cpus().eq([PcpuId(2)]));
        assert_eq!(on(0).within(0b0110).unwrap().vcpus(), 2);
        let beyond = on(0b1100).within(0b0110);
        assert_eq!(beyond, Err(BadCreation::NotOurs(0b1000)));
        assert_eq!(on(0).within(0b1_0000), Err(BadCreation::NotOurs(0)));
    }

    #[test]
    fn a_name_is_one_to_sixteen_printable_characters() {
        for bad in [b"".as_slice(), b"a b", b"a\n", b"\xff"] {
            assert_eq!(Creation::new(&block(bad, 1), 4), Err(BadCreation::Name));
        }
        assert!(Creation::new(&block(b"sixteen_letters_", 1), 4).is_ok());
    }

    #[test]
    fn what_would_make_another_vm_is_refused_and_scenario_flags_are_dropped() {
        let with = |flags: VmFlags| {
            let vm_flag = flags.bits();
            Creation::new(
                &VmCreation {
                    vm_flag,
                    ..block(b"vm1", 1)
                },
                1,
            )
        };
        assert_eq!(
            with(VmFlags::RT | VmFlags::STATELESS),
            Err(BadCreation::Flags(VmFlags::RT))
        );
        assert_eq!(BadCreation::Flags(VmFlags::RT).errno(), Errno::ENOSYS);
        let kept = with(VmFlags::IO_COMPLETION_POLLING | VmFlags::TEE).unwrap();
        assert_eq!(kept.flags, VmFlags::IO_COMPLETION_POLLING);
    }

    #[test]
    fn an_observer_has_no_cpu_whatever_it_asks_for() {
        for cpu_affinity in [0, 1, u64::MAX] {
            let block = VmCreation {
                vm_flag: VmFlags::OBSERVER.bits(),
                ..block(b"acrntrace-1", cpu_affinity)
            };
            let creation = Creation::new(&block, 2).unwrap();
            assert!(creation.is_observer());
            assert_eq!((creation.vcpus(), creation.cpus().count()), (0, 0));
        }
        assert!(!Creation::new(&block(b"vm1", 1), 2).unwrap().is_observer());
    }

    #[test]
    fn reserved_fields_are_zero() {
        let mut bad = block(b"vm1", 1);
        bad.reserved1 = 1;
        assert_eq!(Creation::new(&bad, 1), Err(BadCreation::Reserved));
    }
}
