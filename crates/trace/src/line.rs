//! Log lines as elements of a ring.
//!
//! A line begins with an element and takes as many as it needs; it ends with a line feed, and what
//! is left of its last element is zero.

use acrn_abi::sbuf::LOG_ELEMENT;
use arrayvec::ArrayVec;

/// Longest line, its end included.
pub const MAX_LINE: usize = 4 * LOG_ELEMENT;

/// The elements of a line, which ends with a line feed.
pub fn elements(line: &[u8]) -> impl ExactSizeIterator<Item = [u8; LOG_ELEMENT]> {
    line.chunks(LOG_ELEMENT).map(|part| {
        let mut element = [0; LOG_ELEMENT];
        element[..part.len()].copy_from_slice(part);
        element
    })
}

/// Makes lines of elements.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    begun: ArrayVec<u8, MAX_LINE>,
}

impl Lines {
    /// Takes an element; gives the line that it ends, without its end. What is too long for a line
    /// is cut there.
    pub fn push(&mut self, element: &[u8]) -> Option<ArrayVec<u8, MAX_LINE>> {
        for &byte in element {
            let ends = byte == b'\n' || byte == 0 || self.begun.try_push(byte).is_err();
            if ends {
                let line = core::mem::take(&mut self.begun);
                return (!line.is_empty()).then_some(line);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(line: &str) -> Vec<String> {
        let mut lines = Lines::default();
        elements(line.as_bytes())
            .filter_map(|element| lines.push(&element))
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_line_of_any_length_comes_out_as_it_went_in() {
        for length in [1, 78, 79, 80, 81, 159, 160, 240, MAX_LINE - 1] {
            let text = "x".repeat(length);
            assert_eq!(through(&format!("{text}\n")), [text], "{length}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        let text = "y".repeat(MAX_LINE + 2);
        assert_eq!(through(&text), ["y".repeat(MAX_LINE)]);
        assert!(through("").is_empty());
    }
}
