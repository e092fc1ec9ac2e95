//! Ranges of addresses of which pieces are taken.

use crate::board::Ram;

/// A range of addresses, and the pieces of it that are taken.
#[derive(Clone, Debug)]
pub struct Window {
    start: u64,
    end: u64,
    /// Start and end of what is taken, in order, apart from each other.
    taken: Vec<(u64, u64)>,
}

impl Window {
    /// From `start` up to but without `end`.
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end,
            taken: Vec::new(),
        }
    }

    /// Takes a piece out, if and as far as it is in the window.
    pub fn reserve(&mut self, start: u64, size: u64) {
        let end = start.saturating_add(size).min(self.end);
        let start = start.max(self.start);
        if start < end {
            self.taken.push((start, end));
            self.tidy();
        }
    }

    /// Takes the first free piece of that size and alignment (a power of two).
    pub fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        let free = self.free().find_map(|free| {
            let start = free.start.checked_next_multiple_of(align.max(1))?;
            (start.checked_add(size)? <= free.end()).then_some(start)
        })?;
        self.reserve(free, size);
        Some(free)
    }

    /// Whether a piece is in the window and free.
    pub fn is_free(&self, start: u64, size: u64) -> bool {
        let Some(end) = start.checked_add(size) else {
            return false;
        };
        self.free()
            .any(|free| free.start <= start && end <= free.end())
    }

    /// What is free, in order.
    pub fn free(&self) -> impl Iterator<Item = Ram> + use<> {
        let starts = std::iter::once(self.start).chain(self.taken.iter().map(|taken| taken.1));
        let ends = self.taken.iter().map(|taken| taken.0).chain([self.end]);
        let gaps: Vec<_> = starts
            .zip(ends)
            .filter(|(start, end)| start < end)
            .collect();
        gaps.into_iter().map(|(start, end)| Ram {
            start,
            size: end - start,
        })
    }

    fn tidy(&mut self) {
        self.taken.sort_unstable();
        let mut tidy: Vec<(u64, u64)> = Vec::with_capacity(self.taken.len());
        for &(start, end) in &self.taken {
            match tidy.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => tidy.push((start, end)),
            }
        }
        self.taken = tidy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_aligned_inside_and_apart(
            reserved in proptest::collection::vec((0u64..2000, 0u64..300), 0..8),
            wanted in proptest::collection::vec((1u64..200, 0u32..7), 0..20),
        ) {
            let mut window = Window::new(100, 1500);
            reserved.iter().for_each(|&(start, size)| window.reserve(start, size));
            let mut given: Vec<(u64, u64)> = reserved.clone();
            for (size, shift) in wanted {
                let free: u64 = window.free().map(|free| free.size).sum();
                match window.take(size, 1 << shift) {
                    Some(start) => {
                        prop_assert!(start >= 100 && start + size <= 1500 && start % (1 << shift) == 0);
                        for &(other, length) in &given {
                            prop_assert!(start + size <= other || other + length <= start || length == 0);
                        }
                        prop_assert!(!window.is_free(start, 1));
                        given.push((start, size));
                    }
                    None => prop_assert!(shift > 0 || window.free().all(|f| f.size < size), "{} of {}", size, free),
                }
            }
        }
    }
}
