//! Addresses and identifiers as types, so that a guest address is never mistaken for a host one.

use core::fmt;

/// Size of the smallest page, in bytes.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address as a number.
            pub const fn get(self) -> u64 {
                self.0
            }
            /// This address plus `bytes`; `None` when that overflows.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
            /// The start of the `align`-sized block that holds this address.
            /// `align` is a power of two.
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }
            /// Whether the address is a multiple of `align`, a power of two.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }
            /// Offset within the 4 KiB page.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// Guest physical address.
    Gpa
);
address!(
    /// Host physical address.
    Hpa
);
address!(
    /// Guest virtual (linear) address.
    Gva
);
address!(
    /// Host virtual address, in the hypervisor's own page tables.
    Hva
);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// The number as an array index.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// Absolute number of a VM in the hypervisor.
    VmId(u16)
);
id!(
    /// Number of a virtual CPU within its VM; 0 is the bootstrap processor.
    VcpuId(u16)
);
id!(
    /// Number of a physical CPU, in the order of the MADT; 0 is the bootstrap processor.
    PcpuId(u16)
);
id!(
    /// Global system interrupt (ACPI 6.5, 5.2.13): one input pin of one IOAPIC.
    Gsi(u32)
);
id!(
    /// Interrupt vector.
    Vector(u8)
);

/// PCI bus, device and function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Bdf(pub u16);

impl Bdf {
    /// From bus 0..=255, device 0..=31 and function 0..=7; higher bits are cut off.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16 & 0x1f) << 3 | (function as u16 & 7))
    }
    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }
    /// Device number, 0..=31.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }
    /// Function number, 0..=7.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.bus(),
            self.device(),
            self.function()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bdf_takes_itself_apart() {
        let bdf = Bdf::new(0xab, 0x1f, 7);
        assert_eq!((bdf.bus(), bdf.device(), bdf.function()), (0xab, 0x1f, 7));
    }

    #[test]
    fn adding_past_the_end_of_the_address_space_is_refused() {
        assert_eq!(Gpa(u64::MAX).checked_add(1), None);
    }
}
