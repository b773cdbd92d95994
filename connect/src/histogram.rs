//! Counts of values by size, as Prometheus' histograms have them.

/// How many values were at most as large as each of some bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The bounds, rising, in the unit of the values.
    pub bounds: &'static [u64],
    /// Values up to each bound and above the one before it; the last count is of those above all bounds.
    counts: Vec<u64>,
    /// The sum of all values.
    pub sum: u64,
}

impl Histogram {
    /// One without values.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// Takes a value.
    pub fn add(&mut self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(value);
    }

    /// Each bound with the values that are at most as large.
    pub fn up_to(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().copied().zip(sums)
    }

    /// Values taken.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_up_to_each_bound_that_it_does_not_pass() {
        let mut found = Histogram::new(&[10, 100]);
        for value in [1, 10, 11, 100, 101] {
            found.add(value);
        }
        assert_eq!(found.up_to().collect::<Vec<_>>(), [(10, 2), (100, 4)]);
        assert_eq!((found.count(), found.sum), (5, 223));
    }
}
