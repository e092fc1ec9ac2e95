//! Changes of a User VM's memory map.

use acrn_abi::hypercall::{Errno, MemoryRegion, memory};
use acrn_abi::{Gpa, PAGE_SIZE, guest_map};
use acrn_memory::{Access, MemType};
use core::fmt;

/// Most changes in one call. Linux sends one for each 4 KiB page of ordinary memory and cannot
/// allocate an array of more.
pub const MAX_REGIONS: u32 = 128 * 1024;

/// What happens to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Map it.
    Add {
        /// Where it is in the Service VM.
        service: Gpa,
        /// What the User VM may do there.
        access: Access,
        /// Memory type.
        mem_type: MemType,
    },
    /// Unmap whatever is there.
    Delete,
}

/// One change of a range of whole pages that does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Address in the User VM.
    pub gpa: Gpa,
    /// Bytes.
    pub size: u64,
    /// What to do.
    pub change: Change,
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRegion {
    /// No such operation.
    Operation(u32),
    /// Not whole pages, nothing, or beyond the end of the address space.
    Range {
        /// Address in the User VM.
        gpa: Gpa,
        /// Address in the Service VM.
        service: Gpa,
        /// Bytes.
        size: u64,
    },
    /// Unknown bits, no read access, or not exactly one memory type.
    Attributes(u32),
    /// The range covers the registers of an interrupt controller.
    Reserved(Gpa),
}

impl BadRegion {
    /// The result for the caller.
    pub const fn errno(self) -> Errno {
        Errno::EINVAL
    }
}

impl fmt::Display for BadRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(operation) => write!(f, "memory operation {operation} is unknown"),
            Self::Range { gpa, service, size } => write!(
                f,
                "range {gpa} of the User VM, {service} of the Service VM, {size:#x} bytes: not \
                 whole pages of the address space"
            ),
            Self::Attributes(bits) => write!(f, "memory attributes {bits:#x} are not possible"),
            Self::Reserved(gpa) => {
                write!(f, "{gpa} belongs to an interrupt controller of the VM")
            }
        }
    }
}

impl core::error::Error for BadRegion {}

impl Region {
    /// Judges a change.
    ///
    /// # Errors
    /// [`BadRegion`].
    pub fn new(block: &MemoryRegion) -> Result<Self, BadRegion> {
        let (gpa, service, size) = (Gpa(block.user_vm_pa), Gpa(block.service_vm_pa), block.size);
        let bad_range = BadRegion::Range { gpa, service, size };
        let change = match block.operation {
            MemoryRegion::ADD => {
                let (access, mem_type) = attributes(block.attributes)?;
                Change::Add {
                    service,
                    access,
                    mem_type,
                }
            }
            MemoryRegion::DELETE => Change::Delete,
            other => return Err(BadRegion::Operation(other)),
        };
        let service_counts = matches!(change, Change::Add { .. });
        let used = if service_counts { service } else { Gpa(0) };
        if size == 0
            || (gpa.0 | used.0 | size) % PAGE_SIZE != 0
            || gpa.checked_add(size).is_none()
            || used.checked_add(size).is_none()
        {
            return Err(bad_range);
        }
        if service_counts {
            for own in [guest_map::IOAPIC_BASE, guest_map::LAPIC_BASE] {
                if gpa.0 < own.0 + PAGE_SIZE && own.0 < gpa.0 + size {
                    return Err(BadRegion::Reserved(own));
                }
            }
        }
        Ok(Self { gpa, size, change })
    }

    /// Takes `next` in when it continues this range in both address spaces with the same rights.
    /// Then the two are one.
    pub fn join(&mut self, next: &Self) -> bool {
        let (end, total) = (
            self.gpa.checked_add(self.size),
            self.size.checked_add(next.size),
        );
        let (Some(end), Some(total)) = (end, total) else {
            return false;
        };
        let continues = match (self.change, next.change) {
            (
                Change::Add {
                    service,
                    access,
                    mem_type,
                },
                Change::Add {
                    service: next_service,
                    access: next_access,
                    mem_type: next_type,
                },
            ) => {
                service.checked_add(self.size) == Some(next_service)
                    && (access, mem_type) == (next_access, next_type)
            }
            (Change::Delete, Change::Delete) => true,
            _ => false,
        };
        if end != next.gpa || !continues {
            return false;
        }
        self.size = total;
        true
    }
}

fn attributes(bits: u32) -> Result<(Access, MemType), BadRegion> {
    let bad = BadRegion::Attributes(bits);
    if bits & !(memory::RWX | memory::TYPE_MASK) != 0 || bits & memory::READ == 0 {
        return Err(bad);
    }
    let mut access = Access::READ;
    access.set(Access::WRITE, bits & memory::WRITE != 0);
    access.set(Access::EXECUTE, bits & memory::EXECUTE != 0);
    let mem_type = match bits & memory::TYPE_MASK {
        memory::WB => MemType::WriteBack,
        memory::WT => MemType::WriteThrough,
        memory::UC => MemType::Uncacheable,
        memory::WC => MemType::WriteCombining,
        memory::WP => MemType::WriteProtected,
        _ => return Err(bad),
    };
    Ok((access, mem_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RAM: u32 = memory::RWX | memory::WB;

    fn add(gpa: u64, service: u64, size: u64, attributes: u32) -> MemoryRegion {
        MemoryRegion {
            operation: MemoryRegion::ADD,
            attributes,
            user_vm_pa: gpa,
            service_vm_pa: service,
            size,
        }
    }

    fn delete(gpa: u64, size: u64) -> MemoryRegion {
        MemoryRegion {
            operation: MemoryRegion::DELETE,
            user_vm_pa: gpa,
            size,
            ..MemoryRegion::default()
        }
    }

    #[test]
    fn ram_and_registers_map_as_linux_asks() {
        let region = Region::new(&add(0x1000, 0x8000_0000, 0x20_0000, RAM)).unwrap();
        let Change::Add {
            service,
            access,
            mem_type,
        } = region.change
        else {
            panic!("{region:?}");
        };
        assert_eq!(
            (service, access, mem_type),
            (Gpa(0x8000_0000), Access::RWX, MemType::WriteBack)
        );
        let uc = memory::READ | memory::WRITE | memory::UC;
        assert!(Region::new(&add(0x1000, 0x1000, 0x1000, uc)).is_ok());
        let delete = Region::new(&delete(0x1000, 0x1000)).unwrap();
        assert_eq!(delete.change, Change::Delete);
    }

    #[test]
    fn parts_of_pages_and_ends_beyond_the_end_are_refused() {
        for bad in [
            add(1, 0, 0x1000, RAM),
            add(0, 0x800, 0x1000, RAM),
            add(0, 0, 0x1001, RAM),
            add(0, 0, 0, RAM),
            add(0u64.wrapping_sub(0x1000), 0, 0x2000, RAM),
            add(0, 0u64.wrapping_sub(0x1000), 0x1000, RAM),
            delete(0, 0),
            delete(0x1000, 0u64.wrapping_sub(0x1000)),
        ] {
            assert!(
                matches!(Region::new(&bad), Err(BadRegion::Range { .. })),
                "{bad:x?}"
            );
        }
    }

    #[test]
    fn one_memory_type_and_read_access_are_needed() {
        for bits in [
            memory::RWX,
            memory::WRITE | memory::WB,
            RAM | memory::UC,
            RAM | 8,
            RAM | 1 << 31,
        ] {
            assert_eq!(
                Region::new(&add(0, 0, 0x1000, bits)),
                Err(BadRegion::Attributes(bits))
            );
        }
    }

    #[test]
    fn nothing_is_mapped_over_the_interrupt_controllers() {
        let over = Region::new(&add(0xfe00_0000, 0, 0x100_0000, RAM));
        assert_eq!(over, Err(BadRegion::Reserved(guest_map::IOAPIC_BASE)));
        let over = Region::new(&add(0xfee0_0000, 0, 0x1000, RAM));
        assert_eq!(over, Err(BadRegion::Reserved(guest_map::LAPIC_BASE)));
        assert!(Region::new(&add(0xfee0_1000, 0, 0x1000, RAM)).is_ok());
        assert!(Region::new(&add(0xfebf_f000, 0, 0x1000, RAM)).is_ok());
    }

    #[test]
    fn other_operations_are_unknown() {
        let modify = MemoryRegion {
            operation: MemoryRegion::MODIFY,
            ..delete(0, 0x1000)
        };
        assert_eq!(Region::new(&modify), Err(BadRegion::Operation(3)));
    }

    #[test]
    fn neighbours_of_one_kind_become_one() {
        let region = |block| Region::new(&block).unwrap();
        let mut first = region(add(0x1000, 0x5000, 0x1000, RAM));
        assert!(first.join(&region(add(0x2000, 0x6000, 0x1000, RAM))));
        assert_eq!(first, region(add(0x1000, 0x5000, 0x2000, RAM)));
        for other in [
            add(0x4000, 0x7000, 0x1000, RAM),
            add(0x3000, 0x8000, 0x1000, RAM),
            add(0x3000, 0x7000, 0x1000, memory::READ | memory::WB),
            delete(0x3000, 0x1000),
        ] {
            assert!(!first.join(&region(other)), "{other:x?}");
        }
        let mut gone = region(delete(0x1000, 0x1000));
        assert!(gone.join(&region(delete(0x2000, 0x1000))));
        assert_eq!(gone.size, 0x2000);
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_made_of_whole_pages_inside_the_address_space(
            operation in 0u32..4, attributes: u32, gpa: u64, service: u64, size: u64, round: bool,
        ) {
            let cut = if round { !0xfff } else { !0 };
            let block = MemoryRegion {
                operation,
                attributes: if round { RAM } else { attributes },
                user_vm_pa: gpa & cut,
                service_vm_pa: service & cut,
                size: size & cut,
            };
            if let Ok(region) = Region::new(&block) {
                prop_assert!(region.size > 0 && (region.gpa.0 | region.size) % PAGE_SIZE == 0);
                prop_assert!(region.gpa.checked_add(region.size).is_some());
            }
        }
    }
}
