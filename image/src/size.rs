//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, whole MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A MiB.
pub const MIB: u64 = 1 << 20;
/// A TiB more than this is a slip of the pen.
const MOST: u64 = 16 << 40;

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("{text:?} is no size from 1M to 16T: write a number and M, G or T");
        let (number, unit) = match text.chars().last() {
            Some('M' | 'm') => (&text[..text.len() - 1], MIB),
            Some('G' | 'g') => (&text[..text.len() - 1], MIB << 10),
            Some('T' | 't') => (&text[..text.len() - 1], MIB << 20),
            _ => return Err(refused()),
        };
        let number: u64 = number.parse().map_err(|_| refused())?;
        let bytes = number.checked_mul(unit).ok_or_else(refused)?;
        match bytes {
            1..=MOST => Ok(Self(bytes)),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 / MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_and_a_range() {
        assert_eq!("3G".parse(), Ok(Size(3 << 30)));
        assert_eq!("512M".parse(), Ok(Size(512 << 20)));
        for wrong in [
            "",
            "G",
            "5",
            "0M",
            "-1G",
            "17T",
            "99999999999999999999M",
            "4K",
            "1\u{e4}",
        ] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
