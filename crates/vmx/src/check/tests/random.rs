//! Any values at all: a failed check or none, and never a panic.

use super::*;
use proptest::prelude::*;

fn field() -> impl Strategy<Value = Field> {
    (0..Field::ALL.len()).prop_map(|index| Field::ALL[index])
}

/// Values that are all over, or one bit, or close to nothing.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), (0..64u32).prop_map(|bit| 1 << bit), 0..16u64]
}

proptest! {
    #[test]
    fn some_fields_of_a_valid_vmcs(
        mode in 0..5usize,
        changes in prop::collection::vec((field(), value()), 1..6),
        widths in (0..80u32, 0..80u32),
        narrow: bool,
    ) {
        let (_, mut fields) = modes().into_iter().nth(mode).unwrap();
        for (field, value) in &changes {
            fields.set(*field, *value);
        }
        let mut capabilities = capabilities();
        capabilities.narrow_addresses = narrow;
        let processor = Processor::new(&capabilities, widths.0, widths.1);
        if let Some(failed) = failed_check(&fields, &processor) {
            prop_assert!(failed.to_string().contains(failed.section));
            prop_assert_eq!(failed.value, fields.read(failed.field));
        }
        let _ = check(&fields);
    }

    #[test]
    fn all_fields(values in prop::collection::vec(value(), Field::ALL.len())) {
        let mut fields = long_mode();
        for (field, value) in Field::ALL.iter().zip(values) {
            fields.set(*field, value);
        }
        prop_assert!(check(&fields).is_none_or(|failed| !failed.reason.is_empty()));
    }

    /// A field whose change makes a valid VMCS invalid is named, or one that has to agree with it.
    #[test]
    fn one_field_of_a_valid_vmcs(mode in 0..5usize, field in field(), value in value()) {
        let (_, mut fields) = modes().into_iter().nth(mode).unwrap();
        fields.set(field, value);
        if let Some(failed) = check(&fields) {
            let with = failed.with.map(|(other, _)| other);
            let near = failed.field == field || with == Some(field);
            // A control brings checks of other fields with it.
            let control = (field as u32) >> 10 & 3 == 0;
            let modes = [Field::GuestRflags, Field::GuestCr0, Field::GuestCr4];
            prop_assert!(near || control || modes.contains(&field), "{}: {}", field, failed);
        }
    }
}
