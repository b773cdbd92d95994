//! Finds the first place of a piece in one pass over the code points of a text.

use crate::steps;

/// Most points of a piece with some that take any: its states fill this many bits.
const STATES_MAX: usize = 256;

const WORDS: usize = STATES_MAX / 64;

/// A set of states, the lowest bit first.
type Set = [u64; WORDS];

/// Points that are all given, with the table of Knuth, Morris and Pratt: after a mismatch, how many of the
/// points before it still fit.
#[derive(Clone, Debug)]
pub(super) struct Runs {
    points: Vec<char>,
    kept: Vec<usize>,
}

impl Runs {
    /// `points` are folded already; at least one.
    pub(super) fn new(points: Vec<char>) -> Self {
        let mut kept = vec![0; points.len()];
        let mut fit = 0;
        for at in 1..points.len() {
            while fit > 0 && points.get(at) != points.get(fit) {
                fit = kept.get(fit - 1).copied().unwrap_or_default();
            }
            if points.get(at) == points.get(fit) {
                fit += 1;
            }
            if let Some(place) = kept.get_mut(at) {
                *place = fit;
            }
        }
        Self { points, kept }
    }

    /// The text after the first place where the points fit.
    pub(super) fn after_first<'a>(&self, text: &'a str, fold: impl Fn(char) -> char) -> Option<&'a str> {
        let mut fit = 0;
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let c = fold(c);
            steps::add(1);
            while fit > 0 && self.points.get(fit) != Some(&c) {
                steps::add(1);
                fit = self.kept.get(fit - 1).copied().unwrap_or_default();
            }
            if self.points.get(fit) == Some(&c) {
                fit += 1;
            }
            if fit == self.points.len() {
                return Some(chars.as_str());
            }
        }
        None
    }
}

/// Points of which some take any, with all places where a fit may have begun kept as bits.
#[derive(Clone, Debug)]
pub(super) struct States {
    len: usize,
    /// The states that any point takes.
    any: Set,
    /// By point, in their order: the states that it takes.
    takes: Vec<(char, Set)>,
}

impl States {
    /// `None` if there are too many points; they are folded already, and at least one.
    pub(super) fn new(points: &[Option<char>]) -> Option<Self> {
        if points.len() > STATES_MAX {
            return None;
        }
        let mut any = [0; WORDS];
        let mut known: Vec<char> = points.iter().flatten().copied().collect();
        known.sort_unstable();
        known.dedup();
        let mut takes: Vec<(char, Set)> = known.into_iter().map(|c| (c, [0; WORDS])).collect();
        for (at, point) in points.iter().enumerate() {
            let set = |set: &mut Set| {
                if let Some(word) = set.get_mut(at / 64) {
                    *word |= 1 << (at % 64);
                }
            };
            if point.is_none() {
                set(&mut any);
            }
            for (c, states) in &mut takes {
                if point.is_none_or(|point| point == *c) {
                    set(states);
                }
            }
        }
        Some(Self { len: points.len(), any, takes })
    }

    /// The text after the first place where the points fit.
    pub(super) fn after_first<'a>(&self, text: &'a str, fold: impl Fn(char) -> char) -> Option<&'a str> {
        let words = self.len.div_ceil(64);
        let last = 1 << ((self.len - 1) % 64);
        let mut states = [0; WORDS];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            steps::add(1);
            let c = fold(c);
            let takes = match self.takes.binary_search_by_key(&c, |(c, _)| *c) {
                Ok(at) => self.takes.get(at).map_or(&self.any, |(_, states)| states),
                Err(_) => &self.any,
            };
            let mut carry = 1;
            for (word, takes) in states.iter_mut().zip(takes).take(words) {
                let shifted = *word << 1 | carry;
                carry = *word >> 63;
                *word = shifted & takes;
            }
            if states.get(words - 1).is_some_and(|word| word & last != 0) {
                return Some(chars.as_str());
            }
        }
        None
    }
}
