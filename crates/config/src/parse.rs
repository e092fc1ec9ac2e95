//! Numbers and places, as files write them.

use acrn_abi::Bdf;

/// A number: decimal, or hexadecimal behind `0x`.
pub fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix takes a plus sign.
    let digits = Some(digits).filter(|digits| digits.chars().all(|c| c.is_digit(radix)))?;
    u64::from_str_radix(digits, radix).ok()
}

/// A hexadecimal number with or without `0x`.
pub fn hex(text: &str) -> Option<u64> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    let digits = Some(digits).filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()))?;
    u64::from_str_radix(digits, 16).ok()
}

/// Bus, device and function such as `00:1f.3`, or with a segment that is zero: `0000:00:1f.3`.
pub fn bdf(text: &str) -> Option<Bdf> {
    let text = match text.strip_prefix("0000:") {
        Some(rest) if rest.contains(':') => rest,
        _ => text,
    };
    let (bus, rest) = text.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let part = |text: &str, max: u64| {
        let short = (1..=2).contains(&text.len());
        hex(text)
            .filter(|&value| short && value <= max)
            .map(|value| value as u8)
    };
    Some(Bdf::new(
        part(bus, 0xff)?,
        part(device, 0x1f)?,
        part(function, 7)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(number("12"), Some(12));
        assert_eq!(number("0x12"), Some(18));
        assert_eq!(hex("fF"), Some(255));
        let bad = ["", "+1", "0x", "1g", "99999999999999999999"];
        assert!(bad.iter().all(|text| number(text).is_none()));
    }

    #[test]
    fn a_place_has_three_parts_in_range() {
        assert_eq!(bdf("00:1f.3"), Some(Bdf::new(0, 0x1f, 3)));
        assert_eq!(bdf("0000:02:00.1"), Some(Bdf::new(2, 0, 1)));
        let bad = ["00:20.0", "00:1f.8", "1f.3", "000:1.0", "00:1f"];
        assert!(bad.iter().all(|text| bdf(text).is_none()));
    }
}
