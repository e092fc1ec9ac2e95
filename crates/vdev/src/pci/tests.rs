use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Physical configuration space: for each function 64 doublewords and their writable bits.
#[derive(Clone, Default)]
struct Fake(BTreeMap<u16, ([u32; 64], [u32; 64])>);

impl Fake {
    fn set(&mut self, bdf: Bdf, register: u16, value: u32, writable: u32) {
        let (values, mask) = self.0.entry(bdf.0).or_insert(([0; 64], [0; 64]));
        values[usize::from(register / 4)] = value;
        mask[usize::from(register / 4)] = writable;
    }

    fn dword(&self, register: u16) -> u32 {
        self.read(BDF, register, 4)
    }
}

impl ConfigSpace for Fake {
    fn read(&self, bdf: Bdf, register: u16, size: u8) -> u32 {
        assert!(is_regular(register, size));
        let Some((values, _)) = self.0.get(&bdf.0) else {
            return all_ones(size);
        };
        values
            .get(usize::from(register / 4))
            .map_or(0, |value| extract(*value, register, size))
    }

    fn write(&mut self, bdf: Bdf, register: u16, size: u8, value: u32) {
        assert!(is_regular(register, size));
        let Some((values, writable)) = self.0.get_mut(&bdf.0) else {
            return;
        };
        let index = usize::from(register / 4);
        if let (Some(old), Some(writable)) = (values.get_mut(index), writable.get(index)) {
            *old = *old & !writable | merge(*old, register, size, value) & writable;
        }
    }
}

const BDF: Bdf = Bdf(0x0108);
const MSI: u16 = 0x50;
const MSIX: u16 = 0x70;
const EXPRESS: u16 = 0x80;

/// An endpoint with a 4 KiB BAR 0, a 64-bit 8 GiB BAR 2, an I/O BAR 4, a 64 KiB ROM, MSI with 64
/// bits and mask and up to 8 messages, MSI-X with 5 entries, and PCI Express.
fn endpoint() -> Fake {
    let mut fake = Fake::default();
    for (register, value, writable) in [
        (0x00, 0x5678_1234, 0),
        (0x04, 0x0010_0006, 0x0547),
        (0x08, 0x0200_0001, 0),
        (0x0c, 0x0080_0000, 0),
        (0x10, 0xfebf_0000, 0xffff_f000),
        (0x18, 0x0000_000c, 0),
        (0x1c, 0x0000_0004, 0xffff_fffe),
        (0x20, 0x0000_c001, 0x0000_ffe0),
        (0x30, 0x0000_0000, 0xffff_0001),
        (0x34, 0x0000_0050, 0),
        (0x50, 0x0186_7005, 0x0071_0000),
        (0x54, 0, !3),
        (0x58, 0, !0),
        (0x5c, 0, 0xffff),
        (0x60, 0, 0xff),
        (0x70, 0x0004_8011, 0xc000_0000),
        (0x74, 0x0000_2002, 0),
        (0x78, 0x0000_3002, 0),
        (0x80, 0x0002_0010, 0),
        (0x88, 0, 0xffff),
    ] {
        fake.set(BDF, register, value, writable);
    }
    fake
}

fn scanned() -> (Function, Fake) {
    let mut fake = endpoint();
    (Function::scan(BDF, &mut fake).unwrap(), fake)
}

#[test]
fn scanning_sizes_the_bars_and_changes_nothing() {
    let (function, fake) = scanned();
    assert_eq!(fake.0, endpoint().0);
    assert_eq!((function.vendor(), function.device()), (0x1234, 0x5678));
    assert_eq!(
        (function.class(), function.header()),
        (0x02_0000, Header::Endpoint)
    );
    assert!(function.is_multifunction());
    let bars = function.bars().map(|bar| (bar.kind, bar.address, bar.size));
    assert_eq!(bars[0], (BarKind::Memory32, 0xfebf_0000, 0x1000));
    assert_eq!(bars[1], (BarKind::None, 0, 0));
    assert_eq!(bars[2], (BarKind::Memory64, 0x4_0000_0000, 0x2_0000_0000));
    assert_eq!(bars[3].0, BarKind::High);
    assert_eq!(bars[4], (BarKind::Io, 0xc000, 0x20));
    assert_eq!(bars[6], (BarKind::Rom, 0, 0x1_0000));
    assert!(function.bars()[2].prefetchable && !function.bars()[0].prefetchable);
}

#[test]
fn scanning_finds_the_capabilities() {
    let (function, _) = scanned();
    let msi = function.msi().unwrap();
    assert!(msi.offset() == MSI && msi.is_64bit() && msi.is_maskable() && !msi.is_enabled());
    let msix = function.msix().unwrap();
    assert_eq!(
        (msix.offset(), msix.entries(), msix.table_size()),
        (MSIX, 5, 80)
    );
    assert_eq!((msix.table_bar(), msix.table_offset()), (2, 0x2000));
    assert_eq!((msix.pending_bar(), msix.pending_offset()), (2, 0x3000));
    assert_eq!(function.express(), Some(EXPRESS));
}

#[test]
fn an_absent_function_is_none() {
    assert!(Function::scan(Bdf(7), &mut endpoint()).is_none());
}

#[test]
fn a_looping_capability_list_ends() {
    let mut fake = endpoint();
    fake.set(BDF, EXPRESS, 0x0002_5010, 0);
    assert_eq!(Capabilities::new(BDF, &fake).count(), 3);
    assert!(Function::scan(BDF, &mut fake).is_some());
}

#[test]
fn a_capability_that_leaves_its_space_is_ignored() {
    let mut fake = endpoint();
    fake.set(BDF, 0x34, 0xfc, 0);
    fake.set(BDF, 0xfc, 0x0180_0005, 0);
    let function = Function::scan(BDF, &mut fake).unwrap();
    assert!(function.msi().is_none() && function.msix().is_none());
}

#[test]
fn a_64_bit_bar_in_the_last_place_does_not_swallow_the_rom() {
    let mut fake = endpoint();
    fake.set(BDF, 0x24, 0x8000_0004, 0xf000_0000);
    let function = Function::scan(BDF, &mut fake).unwrap();
    assert_eq!(function.bars()[6].kind, BarKind::Rom);
}

#[test]
fn the_guest_sees_its_own_message_and_the_hardware_the_hosts() {
    let (mut function, mut fake) = scanned();
    assert_eq!(
        function.write(MSI + 4, 4, 0xfee0_1000, &mut fake),
        ConfigAction::None
    );
    assert_eq!(function.write(MSI + 8, 4, 0, &mut fake), ConfigAction::None);
    assert_eq!(
        function.write(MSI + 12, 2, 0x41, &mut fake),
        ConfigAction::None
    );
    assert_eq!(function.msi_message(), None);
    let action = function.write(MSI + 2, 2, 0x01b7, &mut fake);
    assert_eq!(action, ConfigAction::MsiChanged);
    let message = function.msi_message().unwrap();
    assert_eq!(
        message,
        MsiMessage {
            address: 0xfee0_1000,
            data: 0x41
        }
    );
    assert_eq!(fake.0, endpoint().0, "nothing reached the hardware");

    let host = MsiMessage::to_apic(2, acrn_abi::Vector(0x80));
    function.program_msi(Some(host), &mut fake);
    assert_eq!(fake.dword(MSI + 4), 0xfee0_2000);
    assert_eq!(fake.dword(MSI + 12), 0x80);
    assert_eq!(fake.dword(MSI) >> 16, 0x0187, "enabled, one message");
    assert_eq!(function.read(MSI + 4, 4, &fake), 0xfee0_1000);
    assert_eq!(function.read(MSI + 12, 4, &fake), 0x41);
    assert_eq!(
        function.read(MSI + 2, 2, &fake),
        0x0181,
        "offers one message only"
    );
    assert_eq!(function.read(MSI, 1, &fake), 5);

    function.program_msi(None, &mut fake);
    assert_eq!(fake.dword(MSI) >> 16, 0x0186);
}

#[test]
fn changing_an_enabled_message_is_reported_once() {
    let (mut function, mut fake) = scanned();
    let _ = function.write(MSI + 2, 2, 1, &mut fake);
    assert_eq!(
        function.write(MSI + 12, 4, 0x51, &mut fake),
        ConfigAction::MsiChanged
    );
    assert_eq!(
        function.write(MSI + 12, 4, 0x51, &mut fake),
        ConfigAction::None
    );
    assert_eq!(
        function.write(MSI + 5, 1, 0x30, &mut fake),
        ConfigAction::MsiChanged
    );
    assert_eq!(function.msi_message().unwrap().address, 0x3000);
}

#[test]
fn the_msi_mask_goes_to_the_hardware() {
    let (mut function, mut fake) = scanned();
    assert_eq!(
        function.write(MSI + 16, 4, 1, &mut fake),
        ConfigAction::None
    );
    assert_eq!(
        (fake.dword(MSI + 16), function.read(MSI + 16, 4, &fake)),
        (1, 1)
    );
}

#[test]
fn a_32_bit_msi_capability_has_its_data_earlier() {
    let mut fake = endpoint();
    fake.set(BDF, MSI, 0x0006_7005, 0x0071_0000);
    fake.set(BDF, 0x58, 0, 0xffff);
    let mut function = Function::scan(BDF, &mut fake).unwrap();
    let _ = function.write(MSI + 8, 4, 0x61, &mut fake);
    let _ = function.write(MSI + 2, 2, 1, &mut fake);
    assert_eq!(
        function.msi_message(),
        Some(MsiMessage {
            address: 0,
            data: 0x61
        })
    );
    function.program_msi(
        Some(MsiMessage::to_apic(1, acrn_abi::Vector(0x99))),
        &mut fake,
    );
    assert_eq!(fake.dword(MSI + 8), 0x99);
}

#[test]
fn msix_control_is_reported_and_programmed_by_the_owner() {
    let (mut function, mut fake) = scanned();
    assert_eq!(
        function.write(MSIX + 3, 1, 0xc0, &mut fake),
        ConfigAction::MsixChanged
    );
    let msix = *function.msix().unwrap();
    assert!(msix.is_enabled() && msix.is_masked());
    assert_eq!(fake.dword(MSIX) >> 30, 0);
    assert_eq!(function.read(MSIX + 2, 2, &fake), 0xc004);
    function.program_msix(true, false, &mut fake);
    assert_eq!(fake.dword(MSIX) >> 30, 2);
}

#[test]
fn sizing_a_bar_does_not_move_it() {
    let (mut function, mut fake) = scanned();
    assert_eq!(
        function.write(0x10, 4, u32::MAX, &mut fake),
        ConfigAction::None
    );
    assert_eq!(function.read(0x10, 4, &fake), 0xffff_f000);
    assert_eq!(fake.dword(0x10), 0xfebf_0000);
    assert_eq!(
        function.write(0x10, 4, 0xfebf_0000, &mut fake),
        ConfigAction::None
    );
    assert_eq!(function.read(0x10, 4, &fake), 0xfebf_0000);
    assert_eq!(
        function.write(0x30, 4, 0xffff_f800, &mut fake),
        ConfigAction::None
    );
    assert_eq!(function.read(0x30, 4, &fake), 0xffff_0000);
    assert_eq!(
        function.write(0x20, 4, u32::MAX, &mut fake),
        ConfigAction::None
    );
    assert_eq!(function.read(0x20, 4, &fake), 0xffe1);
}

#[test]
fn sizing_a_64_bit_bar_by_halves_does_not_move_it() {
    let (mut function, mut fake) = scanned();
    assert_eq!(
        function.write(0x18, 4, u32::MAX, &mut fake),
        ConfigAction::None
    );
    assert_eq!(
        function.write(0x1c, 4, u32::MAX, &mut fake),
        ConfigAction::None
    );
    assert_eq!(function.read(0x18, 4, &fake), 0xc);
    assert_eq!(function.read(0x1c, 4, &fake), 0xffff_fffe);
    assert_eq!(fake.dword(0x1c), 4);
    assert_eq!(function.write(0x18, 4, 0xc, &mut fake), ConfigAction::None);
    assert_eq!(function.write(0x1c, 4, 4, &mut fake), ConfigAction::None);
    assert_eq!(function.bars()[2].address, 0x4_0000_0000);
}

#[test]
fn moving_a_bar_is_reported_and_done() {
    let (mut function, mut fake) = scanned();
    let action = function.write(0x10, 4, 0xe000_0fff, &mut fake);
    let (old, new) = (0xfebf_0000, 0xe000_0000);
    assert_eq!(action, ConfigAction::BarChanged { bar: 0, old, new });
    assert_eq!(fake.dword(0x10), 0xe000_0000);
    let action = function.write(0x1c, 4, 6, &mut fake);
    let (old, new) = (0x4_0000_0000, 0x6_0000_0000);
    assert_eq!(action, ConfigAction::BarChanged { bar: 2, old, new });
    assert_eq!(
        function.write(0x14, 4, 0x1000, &mut fake),
        ConfigAction::None
    );
}

#[test]
fn a_bar_that_the_hardware_forgot_can_be_restored() {
    let (mut function, mut fake) = scanned();
    fake.set(BDF, 0x10, 0, 0xffff_f000);
    assert_eq!(
        function.read(0x10, 4, &fake),
        0,
        "the guest sees that it is gone"
    );
    assert_eq!(
        function.write(0x10, 4, 0xfebf_0000, &mut fake),
        ConfigAction::None
    );
    assert_eq!(fake.dword(0x10), 0xfebf_0000);
}

#[test]
fn virtual_bars_stay_with_the_guest() {
    let (mut function, mut fake) = scanned();
    function.use_virtual_bars(&[0xc000_0123, 0, 0x10_0000_0000, 0, 0x200, 0, 0]);
    assert_eq!(function.read(0x10, 4, &fake), 0xc000_0000);
    assert_eq!(function.read(0x1c, 4, &fake), 0x10);
    let action = function.write(0x10, 4, 0xd000_0000, &mut fake);
    let (old, new) = (0xc000_0000, 0xd000_0000);
    assert_eq!(action, ConfigAction::BarChanged { bar: 0, old, new });
    assert_eq!(fake.0, endpoint().0);
    for register in [0x10, 0x1c, 0x20] {
        fake.write(BDF, register, 4, 0);
    }
    function.restore_physical_bars(&mut fake);
    assert_eq!(fake.0, endpoint().0);
}

#[test]
fn command_changes_are_reported() {
    let (mut function, mut fake) = scanned();
    let action = function.write(0x04, 2, 0x0406, &mut fake);
    assert_eq!(action, ConfigAction::CommandChanged { old: 6, new: 0x406 });
    assert_eq!(
        function.write(0x06, 2, 0xffff, &mut fake),
        ConfigAction::None
    );
    assert_eq!(fake.dword(0x04) & 0xffff, 0x406);
}

#[test]
fn a_function_level_reset_clears_the_shadow() {
    let (mut function, mut fake) = scanned();
    let _ = function.write(MSI + 2, 2, 1, &mut fake);
    let action = function.write(EXPRESS + 9, 1, 0x80, &mut fake);
    assert_eq!(action, ConfigAction::FunctionReset);
    assert_eq!((function.msi_message(), function.command()), (None, 0));
}

#[test]
fn quiescing_stops_messages_and_dma() {
    let (mut function, mut fake) = scanned();
    let _ = function.write(MSI + 2, 2, 1, &mut fake);
    function.program_msi(
        Some(MsiMessage::to_apic(0, acrn_abi::Vector(0x30))),
        &mut fake,
    );
    function.program_msix(true, false, &mut fake);
    function.quiesce(&mut fake);
    assert_eq!(fake.dword(MSI) >> 16 & 1, 0);
    assert_eq!(fake.dword(MSIX) >> 30, 0);
    assert_eq!(fake.dword(0x04) & 0xffff, 2);
    assert!(!function.msi().unwrap().is_enabled());
}

#[test]
fn odd_accesses_are_split_or_ignored() {
    let (mut function, mut fake) = scanned();
    assert_eq!(function.read(0x01, 4, &fake), 0x0656_7812);
    assert_eq!(function.read(MSI - 1, 2, &fake), 0x0500);
    assert_eq!(function.read(4095, 2, &fake), 0xff00);
    assert_eq!(function.read(u16::MAX, 4, &fake), u32::MAX);
    assert_eq!(function.read(0, 8, &fake), u32::MAX);
    assert_eq!(
        function.write(0x03, 4, u32::MAX, &mut fake),
        ConfigAction::None
    );
    assert_eq!(function.write(MSI + 2, 4, 1, &mut fake), ConfigAction::None);
    assert_eq!(function.write(4096, 1, 1, &mut fake), ConfigAction::None);
    assert_eq!(fake.0, endpoint().0);
}

#[test]
fn bridges_lead_to_their_buses_and_loops_end() {
    let mut fake = Fake::default();
    let bridge = Bdf::new(0, 2, 0);
    for (bdf, buses) in [(bridge, 0x0005_0100), (Bdf::new(1, 0, 0), 0x0005_0001)] {
        fake.set(bdf, 0x00, 0x1111_8086, 0);
        fake.set(bdf, 0x0c, 0x0001_0000, 0);
        fake.set(bdf, 0x18, buses, 0x00ff_ffff);
    }
    let nic = Bdf::new(1, 3, 0);
    fake.set(nic, 0x00, 0x2222_8086, 0);
    fake.set(Bdf::new(1, 3, 1), 0x00, 0x2222_8086, 0);
    let mut found = Vec::new();
    enumerate(&[0], &fake, &mut |bdf| found.push(bdf));
    assert_eq!(
        found,
        [bridge, Bdf::new(1, 0, 0), nic],
        "function 1 of a single-function device"
    );

    let mut function = Function::scan(bridge, &mut fake).unwrap();
    let numbers = function.bus_numbers().unwrap();
    assert_eq!(
        numbers,
        BusNumbers {
            primary: 0,
            secondary: 1,
            subordinate: 5
        }
    );
    assert!(numbers.contains(3) && !numbers.contains(6) && !numbers.contains(0));
    assert_eq!(
        function.write(0x1a, 1, 7, &mut fake),
        ConfigAction::BusNumbersChanged
    );
    assert_eq!(function.bus_numbers().unwrap().subordinate, 7);
}

#[test]
fn an_msix_table_reports_the_entry_that_changed() {
    let mut table = MsixTable::new([MsixEntry::RESET; 3]);
    assert_eq!(table.read(12, 4), 1);
    assert_eq!(table.write(16, 8, 0x1_fee0_1003), Some(1));
    assert_eq!(table.write(24, 8, 0x0000_0000_0000_0041), Some(1));
    assert_eq!(table.write(24, 4, 0x41), None);
    let message = MsiMessage {
        address: 0x1_fee0_1000,
        data: 0x41,
    };
    assert_eq!(
        table.entry(1),
        Some(&MsixEntry {
            message,
            masked: false
        })
    );
    assert_eq!((table.read(16, 8), table.read(20, 4)), (0x1_fee0_1000, 1));
    assert_eq!((table.write(48, 4, 1), table.read(48, 4)), (None, u64::MAX));
    assert_eq!((table.write(18, 4, 1), table.write(16, 2, 9)), (None, None));
    assert_eq!((table.write(20, 8, 9), table.write(!7, 8, 9)), (None, None));
    let mut storage = [MsixEntry::default(); 2];
    let mut borrowed = MsixTable::new(&mut storage[..]);
    assert_eq!(borrowed.write(28, 4, 0), Some(1));
    assert_eq!(borrowed.entries().len(), 2);
}

#[test]
fn the_host_bridge_identifies_itself() {
    let bridge = HostBridge::new(0x8086, 0x5af0);
    assert_eq!(bridge.read(0, 4), 0x5af0_8086);
    assert_eq!((bridge.read(0x0b, 1), bridge.read(0x0a, 2)), (6, 0x0600));
    assert_eq!((bridge.read(0x10, 4), bridge.read(0x03, 2)), (0, 0xffff));
}

proptest! {
    #[test]
    fn a_guest_never_programs_physical_messages(
        ops in prop::collection::vec(
            (
                any::<bool>(),
                prop_oneof![0u16..0x100, any::<u16>()],
                prop_oneof![Just(1u8), Just(2u8), Just(4u8), any::<u8>()],
                prop_oneof![any::<u32>(), Just(u32::MAX), Just(0u32)],
            ),
            0..200,
        ),
    ) {
        let (mut function, mut fake) = scanned();
        for (write, register, size, value) in ops {
            if write {
                let _ = function.write(register, size, value, &mut fake);
            } else {
                let read = function.read(register, size, &fake);
                prop_assert!(!matches!(size, 1 | 2) || read <= all_ones(size));
            }
            for register in [MSI, MSI + 4, MSI + 8, MSI + 12, MSIX] {
                prop_assert_eq!(fake.dword(register), endpoint().dword(register));
            }
            for (bar, original) in function.bars().iter().zip(scanned().0.bars()) {
                prop_assert_eq!(bar.size, original.size);
                prop_assert!(bar.size == 0 || bar.address & (bar.size - 1) == 0);
            }
        }
    }
}
