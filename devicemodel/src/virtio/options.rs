//! Option strings of devices: `word,key=value,…`.

use crate::pci::DeviceError;

/// One option: a word, or a key with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOption<'a> {
    /// As written.
    pub text: &'a str,
    /// What precedes `=`, or everything.
    pub key: &'a str,
    /// What follows `=`.
    pub value: Option<&'a str>,
}

/// The options of a string in turn. Empty ones are skipped, blanks around them ignored.
pub struct OptionList<'a>(std::str::Split<'a, char>);

impl<'a> OptionList<'a> {
    /// Splits at commas.
    pub fn new(text: &'a str) -> Self {
        Self(text.split(','))
    }
}

impl<'a> Iterator for OptionList<'a> {
    type Item = DeviceOption<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self
            .0
            .by_ref()
            .map(str::trim)
            .find(|text| !text.is_empty())?;
        Some(match text.split_once('=') {
            Some((key, value)) => DeviceOption {
                text,
                key,
                value: Some(value),
            },
            None => DeviceOption {
                text,
                key: text,
                value: None,
            },
        })
    }
}

/// The error for an option that `device` does not take, with the remedy after the colon.
pub fn refuse(device: &'static str, option: &str, remedy: String) -> DeviceError {
    DeviceError::Option {
        device,
        option: option.to_owned(),
        remedy,
    }
}

/// Reads a decimal or 0x-prefixed number.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_split_at_commas_and_the_first_equals_sign() {
        let list: Vec<_> = OptionList::new("ro, serial=a=b,,x")
            .map(|o| (o.key, o.value))
            .collect();
        assert_eq!(list, [("ro", None), ("serial", Some("a=b")), ("x", None)]);
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(
            [number("12"), number("0x1f"), number("-1")],
            [Some(12), Some(31), None]
        );
    }
}
