//! The MultiProcessor table (specification 1.4), which tells Linux of the interrupt
//! controllers where there is no ACPI.

/// Where Linux looks: the last KiB below 640 KiB.
pub const ADDRESS: usize = 0x9_fc00;

const APIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
const IOAPIC_ID: u8 = 1;
const VERSION: u8 = 0x14;
const ISA_LINES: u8 = 16;

/// Floating pointer and table.
pub fn build() -> Vec<u8> {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    // The processor: enabled, bootstrap; it has a local APIC and an FPU.
    let mut processor = vec![0, 0, VERSION, 3];
    processor.extend(0_u32.to_le_bytes());
    processor.extend(0x201_u32.to_le_bytes());
    processor.extend([0; 8]);
    entries.push(processor);
    entries.push(b"\x01\x00ISA   ".to_vec());
    let mut ioapic = vec![2, IOAPIC_ID, 0x11, 1];
    ioapic.extend(IOAPIC.to_le_bytes());
    entries.push(ioapic);
    for line in 0..ISA_LINES {
        entries.push(vec![3, 0, 0, 0, 0, line, IOAPIC_ID, line]);
    }
    // LINT0 is the 8259's, LINT1 the NMI's.
    entries.push(vec![4, 3, 0, 0, 0, 0, 0xff, 0]);
    entries.push(vec![4, 1, 0, 0, 0, 0, 0xff, 1]);

    let mut table = b"PCMP\0\0\x04\0ACRN-RS KVM-BOOT    ".to_vec();
    table.extend([0; 6]);
    table.extend((entries.len() as u16).to_le_bytes());
    table.extend(APIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries.concat());
    let length = (table.len() as u16).to_le_bytes();
    table[4..6].copy_from_slice(&length);
    table[7] = checksum(&table);

    let mut pointer = b"_MP_".to_vec();
    pointer.extend((ADDRESS as u32 + 16).to_le_bytes());
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);
    pointer.extend(table);
    pointer
}

/// The byte that makes the sum zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_and_table_sum_to_zero() {
        let bytes = build();
        let (pointer, table) = bytes.split_at(16);
        assert_eq!(checksum(pointer), 0);
        assert_eq!(checksum(table), 0);
        assert_eq!(
            usize::from(u16::from_le_bytes([table[4], table[5]])),
            table.len()
        );
        assert_eq!(table.len(), 44 + 20 + 8 * 20);
    }
}
