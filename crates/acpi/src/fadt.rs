//! The FADT: fixed power management hardware (5.2.9).

use crate::error::Error;
use crate::table::{Signature, Table};
use acrn_abi::{Hpa, PhysicalMemory};
use zerocopy::{FromBytes, IntoBytes};

/// A register in a generic address structure (5.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Address space: 0 memory, 1 I/O ports, 2 PCI configuration.
    pub space: u8,
    /// Bits.
    pub bits: u8,
    /// Offset in bits.
    pub bit_offset: u8,
    /// Access size: 0 undefined, 1 byte, 2 word, 3 dword, 4 qword.
    pub access: u8,
    /// Address in that space, not zero.
    pub address: u64,
}

impl Register {
    /// [`space`](Self::space) of host memory.
    pub const MEMORY: u8 = 0;
    /// [`space`](Self::space) of I/O ports.
    pub const IO: u8 = 1;
    /// [`space`](Self::space) of PCI configuration on bus 0: device, function and offset in 16-bit
    /// groups of the address.
    pub const PCI: u8 = 2;

    /// The port, of a register in I/O space.
    pub fn port(&self) -> Option<u16> {
        if self.space == Self::IO {
            u16::try_from(self.address).ok()
        } else {
            None
        }
    }

    fn from_bytes(bytes: [u8; 12]) -> Option<Self> {
        let [space, bits, bit_offset, access, address @ ..] = bytes;
        let address = u64::from_le_bytes(address);
        (address != 0).then_some(Self {
            space,
            bits,
            bit_offset,
            access,
            address,
        })
    }
}

/// The table's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fadt {
    /// The DSDT.
    pub dsdt: Hpa,
    /// The FACS, which holds the waking vector; 0 for none.
    pub facs: Hpa,
    /// Interrupt of ACPI events, an ISA interrupt or line.
    pub sci_interrupt: u16,
    /// Port to which the next two go; 0 for none.
    pub smi_command: u32,
    /// Value that turns ACPI mode on.
    pub acpi_enable: u8,
    /// Value that turns ACPI mode off.
    pub acpi_disable: u8,
    /// Status and enable registers.
    pub pm1a_event: Option<Register>,
    /// The second half, if there is one.
    pub pm1b_event: Option<Register>,
    /// Control register: sleep.
    pub pm1a_control: Option<Register>,
    /// The second half, if there is one.
    pub pm1b_control: Option<Register>,
    /// Power management timer, 3.579545 MHz.
    pub pm_timer: Option<Register>,
    /// Register that resets the machine.
    pub reset: Option<Register>,
    /// Value that does.
    pub reset_value: u8,
    /// Sleep control register of hardware-reduced ACPI.
    pub sleep_control: Option<Register>,
    /// IA-PC boot architecture flags.
    pub boot_flags: u16,
    /// Feature flags.
    pub flags: u32,
    /// CMOS index of the century; 0 for none.
    pub century: u8,
}

impl Fadt {
    /// Feature flag: the PM timer has 32 bits, else 24.
    pub const TIMER_32_BIT: u32 = 1 << 8;
    /// Feature flag: the reset register works.
    pub const RESET_SUPPORTED: u32 = 1 << 10;
    /// Feature flag: there is no fixed hardware.
    pub const HARDWARE_REDUCED: u32 = 1 << 20;
    /// Boot flag: there is no CMOS clock.
    pub const NO_CMOS_CLOCK: u16 = 1 << 5;
    /// Boot flag: there is a keyboard controller.
    pub const HAS_8042: u16 = 1 << 1;

    /// Reads the table.
    pub fn parse(memory: &impl PhysicalMemory, table: Table) -> Result<Self, Error> {
        table.check(memory)?;
        // Version 1 has 116 bytes; fields beyond the end of a table are as if they were zero.
        if table.length < 116 {
            return Err(Error::BadLength {
                table: Signature::FADT,
                length: table.length,
            });
        }
        let table = Fields { memory, table };
        let wide = |narrow, wide| match table.get::<u64>(wide) {
            0 => Hpa(table.get::<u32>(narrow).into()),
            address => Hpa(address),
        };
        let flags = table.get(112);
        let reset_works = flags & Self::RESET_SUPPORTED != 0;
        Ok(Self {
            dsdt: wide(40, 140),
            facs: wide(36, 132),
            sci_interrupt: table.get(46),
            smi_command: table.get(48),
            acpi_enable: table.get(52),
            acpi_disable: table.get(53),
            pm1a_event: table.block(56, 88, 148),
            pm1b_event: table.block(60, 88, 160),
            pm1a_control: table.block(64, 89, 172),
            pm1b_control: table.block(68, 89, 184),
            pm_timer: table.block(76, 91, 208),
            reset: Register::from_bytes(table.get(116)).filter(|_| reset_works),
            reset_value: table.get(128),
            sleep_control: Register::from_bytes(table.get(244)),
            boot_flags: table.get(109),
            flags,
            century: table.get(108),
        })
    }
}

/// A table whose missing fields read as zero.
struct Fields<'a, M> {
    memory: &'a M,
    table: Table,
}

impl<M: PhysicalMemory> Fields<'_, M> {
    fn get<T: FromBytes + IntoBytes>(&self, offset: u32) -> T {
        self.table
            .get(self.memory, offset)
            .unwrap_or_else(T::new_zeroed)
    }

    /// A register block: from its extended address if there is one, else from the 32-bit port and
    /// the length in bytes.
    fn block(&self, port: u32, length: u32, extended: u32) -> Option<Register> {
        let bytes = self.get::<u8>(length);
        let plain = || {
            let address = self.get::<u32>(port).into();
            let bits = bytes.saturating_mul(8);
            (address != 0).then_some(Register {
                space: Register::IO,
                bits,
                bit_offset: 0,
                access: 0,
                address,
            })
        };
        Register::from_bytes(self.get(extended)).or_else(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ram, table};

    fn body(size: usize) -> Vec<u8> {
        let mut table = vec![0u8; size];
        let mut put = |at: usize, bytes: &[u8]| {
            if at + bytes.len() <= size {
                table[at..at + bytes.len()].copy_from_slice(bytes);
            }
        };
        put(40, &0x7000u32.to_le_bytes());
        put(46, &[9, 0, 0xB2, 0, 0, 0, 2, 3]);
        put(56, &0x600u32.to_le_bytes());
        put(64, &0x604u32.to_le_bytes());
        put(76, &0x608u32.to_le_bytes());
        put(88, &[4, 2, 0, 4]);
        put(
            112,
            &(Fadt::RESET_SUPPORTED | Fadt::TIMER_32_BIT).to_le_bytes(),
        );
        put(116, &[1, 8, 0, 1, 0xF9, 0x0C, 0, 0, 0, 0, 0, 0, 6]);
        put(172, &[1, 16, 0, 2, 0x04, 0xB0, 0, 0, 0, 0, 0, 0]);
        table.split_off(36)
    }

    fn parse(size: usize) -> Result<Fadt, Error> {
        let mut ram = Ram::new(0x1000);
        ram.put(0x100, &table(*b"FACP", &body(size)));
        Fadt::parse(&ram, Table::locate(&ram, Hpa(0x100)).unwrap())
    }

    #[test]
    fn a_register_that_has_an_extended_address_is_there() {
        let fadt = parse(276).unwrap();
        assert_eq!(fadt.pm1a_control.unwrap().port(), Some(0xB004));
        assert_eq!(fadt.pm1a_event.unwrap().port(), Some(0x600));
        assert_eq!(fadt.pm1a_event.unwrap().bits, 32);
        assert_eq!(fadt.pm1b_control, None);
        assert_eq!(
            (fadt.reset.unwrap().port(), fadt.reset_value),
            (Some(0xCF9), 6)
        );
        assert_eq!(
            (fadt.sci_interrupt, fadt.smi_command, fadt.acpi_enable),
            (9, 0xB2, 2)
        );
        assert_eq!((fadt.dsdt, fadt.sleep_control), (Hpa(0x7000), None));
    }

    #[test]
    fn a_table_of_version_1_lacks_the_rest() {
        let fadt = parse(116).unwrap();
        assert_eq!(fadt.pm1a_control.unwrap().port(), Some(0x604));
        assert_eq!(
            (fadt.reset, fadt.pm_timer.unwrap().port()),
            (None, Some(0x608))
        );
        assert_eq!(
            parse(115),
            Err(Error::BadLength {
                table: Signature::FADT,
                length: 115
            })
        );
    }
}
