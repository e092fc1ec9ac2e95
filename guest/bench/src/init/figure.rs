//! Series of measurements and what is printed of them.

/// Ticks of the TSC since its reset.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: reading the TSC has no effect; Linux leaves it readable in user mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The smallest and the middle one of a series, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// Smallest.
    pub min: u64,
    /// Middle.
    pub median: u64,
    /// Length of the series.
    pub count: usize,
}

impl Figure {
    /// The figure of a series; none of an empty one.
    pub fn of(mut series: Vec<u64>) -> Option<Self> {
        series.sort_unstable();
        Some(Self {
            min: *series.first()?,
            median: *series.get(series.len() / 2)?,
            count: series.len(),
        })
    }

    /// Prints a line of JSON, less `base` ticks that are not the operation's.
    pub fn print(&self, name: &str, base: u64) {
        println!(
            "{{\"bench\":\"{name}\",\"min\":{},\"median\":{},\"n\":{}}}",
            self.min.saturating_sub(base),
            self.median.saturating_sub(base),
            self.count
        );
    }
}

/// Times `count` calls of an operation. None if one of them fails.
pub fn series(count: usize, mut operation: impl FnMut(usize) -> bool) -> Option<Figure> {
    let mut all = Vec::with_capacity(count);
    for index in 0..count {
        let start = ticks();
        let done = operation(index);
        let end = ticks();
        if !done {
            return None;
        }
        all.push(end.wrapping_sub(start));
    }
    Figure::of(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_a_few_disturbed_calls() {
        let figure = Figure::of(vec![7, 9000, 5, 6, 6]).unwrap();
        assert_eq!((figure.min, figure.median, figure.count), (5, 6, 5));
        assert_eq!(Figure::of(Vec::new()), None);
    }

    #[test]
    fn an_operation_that_fails_has_no_figure() {
        assert_eq!(series(10, |index| index < 9), None);
    }
}
