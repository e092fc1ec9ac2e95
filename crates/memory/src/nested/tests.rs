//! The nested table against a map of single pages.

use std::collections::BTreeMap;

use acrn_abi::{Gpa, Hpa, PAGE_SIZE};
use proptest::prelude::*;

use super::*;

/// Frames in a vector; the frame number is the address.
struct VecStore {
    frames: Vec<Option<[u64; 512]>>,
    free: Vec<usize>,
}

impl VecStore {
    fn new(count: usize) -> Self {
        Self {
            frames: vec![None; count],
            free: (0..count).rev().collect(),
        }
    }

    fn left(&self) -> usize {
        self.free.len()
    }
}

impl FrameStore for VecStore {
    fn alloc(&mut self) -> Option<Hpa> {
        let number = self.free.pop()?;
        self.frames[number] = Some([0; 512]);
        Some(Hpa((number as u64 + 0x100) * PAGE_SIZE))
    }
    fn free(&mut self, table: Hpa) {
        let number = (table.0 / PAGE_SIZE) as usize - 0x100;
        self.frames[number].take().expect("a frame is freed once");
        self.free.push(number);
    }
    fn read(&self, table: Hpa, index: usize) -> u64 {
        self.frames[(table.0 / PAGE_SIZE) as usize - 0x100].expect("a live frame")[index]
    }
    fn write(&mut self, table: Hpa, index: usize, value: u64) {
        let number = (table.0 / PAGE_SIZE) as usize - 0x100;
        self.frames[number].as_mut().expect("a live frame")[index] = value;
    }
}

const LIMITS: Limits = Limits {
    guest_bits: 40,
    host_bits: 40,
    gib_pages: true,
};
const KIB4: u64 = PAGE_SIZE;
const MIB2: u64 = 2 << 20;
const GIB1: u64 = 1 << 30;

fn table(store: &mut VecStore) -> NestedTable<Npt> {
    NestedTable::new(store, LIMITS).expect("a root frame")
}

fn map(
    table: &mut NestedTable<Npt>,
    store: &mut VecStore,
    gpa: u64,
    hpa: u64,
    size: u64,
) -> Result<(), MapError> {
    table.map(
        store,
        Gpa(gpa),
        Hpa(hpa),
        size,
        Access::RWX,
        MemType::WriteBack,
    )
}

#[test]
fn the_largest_page_that_fits_is_used() {
    let mut store = VecStore::new(16);
    let mut table = table(&mut store);
    map(&mut table, &mut store, 0, 0, 4 * GIB1).unwrap();
    assert_eq!(table.translate(&store, Gpa(GIB1 + 5)).unwrap().size, GIB1);
    assert_eq!(table.frames(), 2);
    map(&mut table, &mut store, 8 * GIB1, MIB2, GIB1).unwrap();
    let found = table.translate(&store, Gpa(8 * GIB1 + 0x1234)).unwrap();
    assert_eq!((found.size, found.hpa), (MIB2, Hpa(MIB2 + 0x1234)));
    map(&mut table, &mut store, 16 * GIB1, KIB4, MIB2).unwrap();
    assert_eq!(table.translate(&store, Gpa(16 * GIB1)).unwrap().size, KIB4);
}

#[test]
fn without_gib_pages_two_mib_pages_are_used() {
    let mut store = VecStore::new(16);
    let limits = Limits {
        gib_pages: false,
        ..LIMITS
    };
    let mut table = NestedTable::<Ept>::new(&mut store, limits).unwrap();
    table
        .map(
            &mut store,
            Gpa(0),
            Hpa(0),
            GIB1,
            Access::RW,
            MemType::WriteBack,
        )
        .unwrap();
    assert_eq!(table.translate(&store, Gpa(0)).unwrap().size, MIB2);
}

#[test]
fn a_changed_piece_splits_the_large_page_around_it() {
    let mut store = VecStore::new(16);
    let mut table = table(&mut store);
    map(&mut table, &mut store, 0, 0, GIB1).unwrap();
    table
        .protect(&mut store, Gpa(MIB2 + KIB4), KIB4, Access::READ)
        .unwrap();
    let at = |gpa| table.translate(&store, Gpa(gpa)).unwrap();
    assert_eq!((at(0).size, at(MIB2).size), (MIB2, KIB4));
    assert_eq!(at(MIB2 + KIB4).access, Access::READ);
    assert_eq!(at(MIB2 + 2 * KIB4).access, Access::RWX);
    assert_eq!(at(MIB2 + KIB4).hpa, Hpa(MIB2 + KIB4));
    assert_eq!(table.frames(), 4);
}

#[test]
fn a_large_page_over_small_ones_frees_their_table() {
    let mut store = VecStore::new(16);
    let mut table = table(&mut store);
    map(&mut table, &mut store, 0, KIB4, GIB1 - KIB4).unwrap_err();
    map(&mut table, &mut store, 0, KIB4, MIB2).unwrap();
    assert_eq!(table.frames(), 4);
    map(&mut table, &mut store, 0, 0, GIB1).unwrap();
    assert_eq!((table.frames(), store.left()), (2, 14));
}

#[test]
fn running_out_of_frames_changes_nothing() {
    let mut store = VecStore::new(4);
    let mut table = table(&mut store);
    map(&mut table, &mut store, 0, 0, GIB1).unwrap();
    let error = map(&mut table, &mut store, 0, KIB4, 2 * MIB2).unwrap_err();
    assert_eq!(error, MapError::OutOfFrames { needed: 3 });
    assert_eq!((store.left(), table.frames()), (2, 2));
    assert_eq!(table.translate(&store, Gpa(0)).unwrap().size, GIB1);
}

#[test]
fn a_cut_without_a_frame_for_it_is_refused() {
    let mut store = VecStore::new(2);
    let mut table = table(&mut store);
    map(&mut table, &mut store, 0, 0, GIB1).unwrap();
    let error = table.unmap(&mut store, Gpa(0), KIB4).unwrap_err();
    assert_eq!(error, MapError::OutOfFrames { needed: 2 });
    assert!(table.translate(&store, Gpa(0)).is_some());
}

#[test]
fn bad_ranges_are_refused() {
    let mut store = VecStore::new(16);
    let mut table = table(&mut store);
    let mut refuse = |gpa, hpa, size| map(&mut table, &mut store, gpa, hpa, size).unwrap_err();
    assert!(matches!(refuse(1, 0, KIB4), MapError::Misaligned { .. }));
    assert!(matches!(refuse(0, 1, KIB4), MapError::Misaligned { .. }));
    assert!(matches!(refuse(0, 0, 0), MapError::Misaligned { .. }));
    assert!(matches!(refuse(0, 0, 5), MapError::Misaligned { .. }));
    assert!(matches!(
        refuse(1 << 40, 0, KIB4),
        MapError::GuestRange { .. }
    ));
    assert!(matches!(
        refuse(0u64.wrapping_sub(KIB4), 0, KIB4),
        MapError::GuestRange { .. }
    ));
    assert!(matches!(
        refuse((1 << 40) - KIB4, 0, 2 * KIB4),
        MapError::GuestRange { .. }
    ));
    assert!(matches!(
        refuse(0, 1 << 40, KIB4),
        MapError::HostRange { .. }
    ));
    assert!(matches!(
        refuse(0, 0u64.wrapping_sub(KIB4), KIB4),
        MapError::HostRange { .. }
    ));
    let error = table
        .map(
            &mut store,
            Gpa(0),
            Hpa(0),
            KIB4,
            Access::WRITE,
            MemType::WriteBack,
        )
        .unwrap_err();
    assert_eq!(error, MapError::Access(Access::WRITE));
    assert_eq!(table.translate(&store, Gpa(u64::MAX)), None);
    assert_eq!(table.frames(), 1);
}

#[test]
fn destroying_shows_every_leaf_and_frees_every_frame() {
    let mut store = VecStore::new(32);
    let mut table = table(&mut store);
    map(&mut table, &mut store, 0, 0, 2 * GIB1).unwrap();
    map(&mut table, &mut store, 4 * GIB1 + KIB4, 7 * KIB4, KIB4).unwrap();
    let mut seen = Vec::new();
    table.destroy(&mut store, |gpa, hpa, size| seen.push((gpa.0, hpa.0, size)));
    assert_eq!(
        seen,
        [
            (0, 0, GIB1),
            (GIB1, GIB1, GIB1),
            (4 * GIB1 + KIB4, 7 * KIB4, KIB4)
        ]
    );
    assert_eq!(store.left(), 32);
}

#[test]
fn a_visitor_may_end_the_visit() {
    let mut store = VecStore::new(32);
    let mut table = table(&mut store);
    map(&mut table, &mut store, 0, KIB4, 8 * KIB4).unwrap();
    let mut seen = 0;
    let result: Result<(), Option<MapError>> = table.visit(&store, Gpa(KIB4), GIB1, |mapping| {
        assert_eq!(
            (mapping.gpa, mapping.hpa),
            (Gpa(KIB4 * (seen + 1)), Hpa(KIB4 * (seen + 2)))
        );
        seen += 1;
        if seen == 3 { Err(None) } else { Ok(()) }
    });
    assert_eq!((result, seen), (Err(None), 3));
}

#[derive(Clone, Debug)]
enum Step {
    Map {
        gpa: u64,
        hpa: u64,
        pages: u64,
        access: Access,
        mem_type: MemType,
    },
    Unmap {
        gpa: u64,
        pages: u64,
    },
    Protect {
        gpa: u64,
        pages: u64,
        access: Access,
    },
}

/// Page numbers near interesting borders, so that ranges cut, cover and touch large pages.
fn page() -> impl Strategy<Value = u64> {
    (
        0u64..3,
        0u64..4,
        prop_oneof![Just(0u64), 0u64..8, 500u64..512],
    )
        .prop_map(|(gib, mib2, small)| gib * 0x40000 + mib2 * 512 + small)
}

fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![
        1u64..5,
        Just(512),
        500u64..1100,
        Just(0x40000),
        Just(0x40000 + 512)
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::READ), Just(Access::RW), Just(Access::RWX)]
}

fn step() -> impl Strategy<Value = Step> {
    let mem_type = prop_oneof![Just(MemType::WriteBack), Just(MemType::Uncacheable)];
    prop_oneof![
        (page(), page(), pages(), access(), mem_type).prop_map(
            |(gpa, hpa, pages, access, mem_type)| Step::Map {
                gpa,
                hpa,
                pages,
                access,
                mem_type
            }
        ),
        (page(), pages()).prop_map(|(gpa, pages)| Step::Unmap { gpa, pages }),
        (page(), pages(), access()).prop_map(|(gpa, pages, access)| Step::Protect {
            gpa,
            pages,
            access
        }),
    ]
}

/// What is mapped, by page number: one entry for each 4 KiB page.
type Model = BTreeMap<u64, (u64, Access, MemType)>;

fn apply<F: Format>(
    step: &Step,
    table: &mut NestedTable<F>,
    store: &mut VecStore,
    model: &mut Model,
) {
    match *step {
        Step::Map {
            gpa,
            hpa,
            pages,
            access,
            mem_type,
        } => {
            let size = pages * KIB4;
            if table
                .map(
                    store,
                    Gpa(gpa * KIB4),
                    Hpa(hpa * KIB4),
                    size,
                    access,
                    mem_type,
                )
                .is_ok()
            {
                model.extend((0..pages).map(|i| (gpa + i, (hpa + i, access, mem_type))));
            }
        }
        Step::Unmap { gpa, pages } => {
            if table.unmap(store, Gpa(gpa * KIB4), pages * KIB4).is_ok() {
                model.retain(|page, _| !(gpa..gpa + pages).contains(page));
            }
        }
        Step::Protect { gpa, pages, access } => {
            if table
                .protect(store, Gpa(gpa * KIB4), pages * KIB4, access)
                .is_ok()
            {
                model
                    .range_mut(gpa..gpa + pages)
                    .for_each(|(_, entry)| entry.1 = access);
            }
        }
    }
}

fn agrees_with_the_model<F: Format>(steps: &[Step], frames: usize, gib_pages: bool) {
    let mut store = VecStore::new(frames);
    let mut table = NestedTable::<F>::new(
        &mut store,
        Limits {
            gib_pages,
            ..LIMITS
        },
    )
    .unwrap();
    let mut model = Model::new();
    for step in steps {
        apply(step, &mut table, &mut store, &mut model);
        assert_eq!(table.frames() as usize, frames - store.left());
    }
    let mut seen = Model::new();
    let result: Result<(), MapError> = table.visit(&store, Gpa(0), 1 << 40, |m| {
        for page in 0..m.size / KIB4 {
            seen.insert(
                m.gpa.0 / KIB4 + page,
                (m.hpa.0 / KIB4 + page, m.access, m.mem_type),
            );
        }
        Ok(())
    });
    result.unwrap();
    assert!(seen == model, "the visit differs from the model");
    for (page, (hpa, access, mem_type)) in model.iter().step_by(61) {
        let found = table.translate(&store, Gpa(page * KIB4 + 9)).unwrap();
        assert_eq!((found.hpa.0, found.access), (hpa * KIB4 + 9, *access));
        assert_eq!(found.mem_type, *mem_type);
    }
    let mut leaves = 0;
    table.destroy(&mut store, |_, _, size| leaves += size / KIB4);
    assert_eq!((leaves, store.left()), (model.len() as u64, frames));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn npt_agrees_with_a_map_of_pages(
        steps in prop::collection::vec(step(), 1..12),
        frames in prop_oneof![1usize..40, Just(2000)],
        gib_pages: bool,
    ) {
        agrees_with_the_model::<Npt>(&steps, frames, gib_pages);
    }

    #[test]
    fn ept_agrees_with_a_map_of_pages(
        steps in prop::collection::vec(step(), 1..12),
        frames in prop_oneof![1usize..40, Just(2000)],
        gib_pages: bool,
    ) {
        agrees_with_the_model::<Ept>(&steps, frames, gib_pages);
    }
}
