//! Firmware's tables.
//!
//! A damaged table is found by its checksum, so the input is a list of changes to a good set of
//! tables, whose sums are put right afterwards (mostly).

use crate::Source;
use crate::source::Ram;
use acrn_acpi::{Platform, checksum};

const RSDP: usize = 0x100;
const XSDT: usize = 0x200;
/// Places of the tables.
const PLACES: [usize; 6] = [0x400, 0x600, 0x800, 0xa00, 0xc00, 0xe00];
const SIZE: usize = 0x1000;

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.resize(36, 0);
    table.extend(body);
    let _ = checksum::fix(&mut table);
    table
}

/// One small machine.
fn machine() -> Vec<u8> {
    let mut ram = vec![0; SIZE];
    let mut put = |at: usize, bytes: &[u8]| ram[at..at + bytes.len()].copy_from_slice(bytes);
    let mut madt = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    madt.extend([0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 1, 0, 0, 0]);
    madt.extend([1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    madt.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 4, 6, 0xff, 5, 0, 1]);
    madt.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    let mut fadt = vec![0; 240];
    fadt[4..8].copy_from_slice(&(PLACES[5] as u32).to_le_bytes());
    fadt[28..32].copy_from_slice(&0x604u32.to_le_bytes());
    fadt[40..44].copy_from_slice(&0x608u32.to_le_bytes());
    fadt[76..80].copy_from_slice(&(1u32 << 10).to_le_bytes());
    fadt[80..92].copy_from_slice(&[1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0]);
    let mut mcfg = vec![0; 8];
    mcfg.extend([0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0]);
    let mut hpet = vec![
        1, 0xa2, 0x86, 0x80, 0, 64, 0, 0, 0, 0, 0xd0, 0xfe, 0, 0, 0, 0,
    ];
    hpet.extend([0, 0, 0x80, 0]);
    let mut dmar = vec![38, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    dmar.extend([0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0]);
    dmar.extend([1, 8, 0, 0, 0, 0, 2, 0]);
    dmar.extend([0, 0, 16, 0, 1, 0, 0, 0, 0, 0x10, 0xd9, 0xfe, 0, 0, 0, 0]);
    dmar.extend([1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0x7d, 0, 0, 0, 0]);
    dmar.extend([0xff, 0xff, 0xff, 0x7d, 0, 0, 0, 0]);
    // Name (_S5, Package (4) { 5, 5, 0, 0 }) and the like for _S3.
    let dsdt = [
        8, b'_', b'S', b'5', b'_', 0x12, 8, 4, 0x0a, 5, 0x0a, 5, 0, 0, 8, b'_', b'S', b'3', b'_',
        0x12, 6, 4, 1, 1, 0, 0,
    ];
    let bodies: [(&[u8; 4], &[u8]); 6] = [
        (b"APIC", &madt),
        (b"FACP", &fadt),
        (b"MCFG", &mcfg),
        (b"HPET", &hpet),
        (b"DMAR", &dmar),
        (b"DSDT", &dsdt),
    ];
    let mut list = Vec::new();
    for ((signature, body), at) in bodies.into_iter().zip(PLACES) {
        put(at, &table(signature, body));
        if signature != b"DSDT" {
            list.extend((at as u64).to_le_bytes());
        }
    }
    put(XSDT, &table(b"XSDT", &list));
    let mut root = b"RSD PTR \0OEMID \x02".to_vec();
    root.extend([0; 4]);
    root.extend(36u32.to_le_bytes());
    root.extend((XSDT as u64).to_le_bytes());
    root.extend([0; 4]);
    root[8] = checksum::sum(&root[..20]).wrapping_neg();
    root[32] = checksum::sum(&root).wrapping_neg();
    put(RSDP, &root);
    ram
}

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let (flags, count) = (source.u8(), source.u8() % 24);
    let mut ram = machine();
    for _ in 0..count {
        let place = usize::from(source.u16()) % SIZE;
        ram[place] = source.u8();
    }
    if flags & 1 == 0 {
        for at in PLACES.into_iter().chain([XSDT]) {
            let length = u32::from_le_bytes([ram[at + 4], ram[at + 5], ram[at + 6], ram[at + 7]]);
            if let Some(table) = ram.get_mut(at..at.saturating_add(length as usize)) {
                let _ = checksum::fix(table);
            }
        }
    }
    let rsdp = if flags & 2 == 0 {
        ram[RSDP..RSDP + 36].to_vec()
    } else {
        source.bytes(36).to_vec()
    };
    if let Ok(platform) = Platform::discover(&Ram(&ram), &rsdp) {
        for problem in &platform.problems {
            let _ = problem.to_string();
        }
        if let Some(dmar) = &platform.dmar {
            for scope in &dmar.scopes {
                assert!(scope.unit < dmar.units.len() && !scope.path.is_empty());
            }
            for region in &dmar.regions {
                assert!(region.size > 0 && region.start.checked_add(region.size).is_some());
            }
        }
        for irq in 0..16 {
            let _ = platform.madt.isa(irq);
        }
        let _ = platform.madt.isa_irq(acrn_abi::Gsi(source.u32()));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // No change at all; a longer MADT; a shorter FADT.
    vec![
        vec![0, 0],
        vec![0, 1, 0x04, 0x04, 0xff],
        vec![0, 1, 0x04, 0x06, 0x80],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_right_as_it_is() {
        let ram = machine();
        let platform = Platform::discover(&Ram(&ram), &ram[RSDP..RSDP + 36]).unwrap();
        assert_eq!((platform.madt.cpus.len(), platform.ecam.len()), (3, 1));
        assert!(platform.hpet.is_some() && platform.fadt.is_some());
        let dmar = platform.dmar.unwrap();
        assert_eq!((dmar.units.len(), dmar.scopes.len()), (2, 1));
        assert_eq!(dmar.regions.len(), 1);
        assert!(platform.s5.is_some_and(|s5| s5.a == 5) && platform.s3.is_some());
    }
}
