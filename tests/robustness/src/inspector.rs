//! What the board inspector reads: tables of the firmware, its AML, and devices' configuration spaces.

use acrn_inspector::aml::{Value, declarations};
use acrn_inspector::cpuid::Cpuid;
use acrn_inspector::host::{list, number};
use acrn_inspector::memory::ranges;
use acrn_inspector::pci::capabilities;
use acrn_inspector::tables::{io_apics, iommus, mmcfg_base, power};

/// Longest path in AML: what fits into a block.
const LONGEST_PATH: usize = 1 << 20;

pub(crate) fn aml(data: &[u8]) {
    let found = declarations(data);
    // Each takes some bytes of the program.
    assert!(found.devices.len() + found.values.len() <= data.len());
    for path in found
        .devices
        .iter()
        .chain(found.values.iter().map(|(path, _)| path))
    {
        assert!(path.starts_with('\\') && path.len() < LONGEST_PATH);
    }
    for (_, value) in &found.values {
        if let Value::Package(elements) = value {
            assert!(elements.len() <= 16);
        }
    }
}

pub(crate) fn aml_seeds() -> Vec<Vec<u8>> {
    let device = b"\x10\x1e\\_SB_\x5b\x82\x16PCI0\x08_HID\x0c\x41\xd0\x0a\x08\x08_UID\x0a\x01";
    let sleep = b"\x14\x08METH\x00\xa4\x00\x08_S5_\x12\x06\x02\x0a\x05\x0a\x06";
    let regions =
        b"\x5b\x80REG_\x01\x0b\x04\x04\x0a\x02\x8aBUF_\x0a\x04FLD_\x06\\A___^B___\x15C___\x06\x00";
    vec![device.to_vec(), sleep.to_vec(), regions.to_vec()]
}

pub(crate) fn board_facts(data: &[u8]) {
    let units = iommus(data);
    assert!(units.len() <= data.len() && io_apics(data).len() <= data.len());
    assert!(units.iter().all(|unit| unit.scopes.len() <= data.len()));
    let _ = (power(data), mmcfg_base(data));
    let found = capabilities(data);
    assert!(
        found
            .msix_entries
            .is_none_or(|entries| (1..=2048).contains(&entries))
    );
    let mut names = found.names.clone();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), found.names.len(), "a capability twice");
    let text = String::from_utf8_lossy(data);
    assert!(list(&text).len() <= 4096);
    assert!(ranges(&text).iter().all(|range| range.first <= range.last));
    let _ = number(&text);
    let cpuid = Cpuid::recording(&text);
    let _ = (
        cpuid.vendor(),
        cpuid.brand(),
        cpuid.signature(),
        cpuid.physical_bits(),
    );
}

pub(crate) fn board_facts_seeds() -> Vec<Vec<u8>> {
    let table = |body: &[u8]| [&[0; 36][..], body].concat();
    let madt = table(&[&[0; 8][..], &[1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]].concat());
    let unit = [
        0, 0, 24, 0, 1, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0, 3, 8, 0, 0, 2, 0xf0, 0x1f, 0,
    ];
    let dmar = table(&[&[0; 12][..], &unit].concat());
    let mut config = vec![0; 0x110];
    (config[6], config[0x34]) = (0x10, 0x40);
    config[0x40..0x44].copy_from_slice(&[5, 0x50, 0, 0]);
    config[0x50..0x54].copy_from_slice(&[0x11, 0, 4, 0]);
    config[0x100..0x104].copy_from_slice(&[0x1f, 0, 1, 0]);
    let map = b"00001000-0009fbff : System RAM\n  80000000-800fffff : PCI Bus 0000:01\n".to_vec();
    let cpuid = b"0 0 16 756e6547 6c65746e 49656e69\n1 0 906ea 0 ffffffff 0\n".to_vec();
    vec![madt, dmar, config, map, cpuid, b"0-3,8".to_vec()]
}
