//! Encoded properties of a message, read in one pass that finds the values of an expression's names.
//!
//! The layout is `protocol`'s: `name 0x01 value 0x02`, repeated; the last 0x02 may be missing. An entry
//! without name or value counts as none, a value may hold 0x01, and the last entry of a name counts.
//!
//! The pass looks for the ends of entries, 64 bytes at a time, and then at the first eight bytes of each
//! entry: they hold a short name with its 0x01, which no other entry has, or begin a long one. What is not
//! wanted goes the same way as what is, since a branch that depends on a message costs more than the work.

use std::collections::HashMap;
use std::hint::select_unpredictable;

use wide::u8x16;

use crate::Name;
use crate::value::Scalar;

/// Bytes that are looked through together, one for each bit of a word.
const BLOCK: usize = 64;
const SEPARATOR: u8 = 1;
const END: u8 = 2;
/// Longest name that lies in a word with its separator.
const SHORT_MAX: usize = 7;
/// So many ways to hash are tried, for one by which each name has a place of its own.
const TRIES: u64 = 64;

/// The names that an expression reads.
#[derive(Debug)]
pub(crate) struct Layout {
    /// By hash; a power of two.
    table: Vec<Place>,
    factor: u64,
    /// How far a product is shifted, for a place in the table.
    shift: u32,
    /// What has no place of its own.
    more: HashMap<u64, usize>,
    /// Names that start with the same eight bytes.
    groups: Vec<Group>,
    /// The slot of what is not wanted: the one after all others.
    none: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// A short name with its separator, or the first eight bytes of a long one.
    head: u64,
    /// The slot of a short name, else the group.
    found: usize,
}

/// What follows the first eight bytes of long names, with its slot. One is compared, many are hashed.
#[derive(Debug)]
enum Group {
    One(Box<[u8]>, usize),
    Many(HashMap<Box<[u8]>, usize>),
}

/// A value that is not UTF-8 was met, and such values count.
pub(crate) struct NotUtf8;

impl Layout {
    pub(crate) fn new(slots: &[Name]) -> Self {
        let mut heads: HashMap<u64, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for (slot, name) in slots.iter().enumerate() {
            let Name::Property(name) = name else { continue };
            let name = name.as_bytes();
            // No entry has such a name.
            if name.is_empty() || name.contains(&SEPARATOR) || name.contains(&END) {
                continue;
            }
            let mut word = [0; 8];
            for (place, byte) in word.iter_mut().zip(name.iter().chain(&[SEPARATOR])) {
                *place = *byte;
            }
            let head = u64::from_le_bytes(word);
            let Some(rest) = name.get(SHORT_MAX + 1..) else {
                heads.insert(head, slot);
                continue;
            };
            match heads.get(&head).and_then(|group| groups.get_mut(*group)) {
                Some(group) => group.insert(rest, slot),
                None => {
                    heads.insert(head, groups.len());
                    groups.push(Group::One(rest.into(), slot));
                }
            }
        }
        let places = (heads.len() * 4).next_power_of_two().max(16);
        let shift = u64::BITS - places.trailing_zeros();
        let mut layout = Self {
            table: Vec::new(),
            factor: 0,
            shift,
            more: heads.clone(),
            groups,
            none: slots.len(),
        };
        for seed in 1..=TRIES {
            let factor = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut table = vec![Place { head: 0, found: usize::MAX }; places];
            let mut more = HashMap::new();
            for (head, found) in &heads {
                match table.get_mut(place(*head, factor, shift)) {
                    Some(place) if place.found == usize::MAX => {
                        *place = Place { head: *head, found: *found };
                    }
                    _ => _ = more.insert(*head, *found),
                }
            }
            if more.len() < layout.more.len() || layout.table.is_empty() {
                layout = Self { table, factor, more, ..layout };
            }
            if layout.more.is_empty() {
                break;
            }
        }
        layout
    }

    /// Calls `found` with a slot and the value's place for each entry, in their order: with the slot after
    /// all others for those that are not wanted. Whether all bytes are ASCII.
    #[inline]
    pub(crate) fn scan(&self, encoded: &[u8], mut found: impl FnMut(usize, usize, usize)) -> bool {
        let mut start = 0;
        let mut all = u8x16::splat(0);
        let mut take = |mut ends: u64, base: usize| {
            while ends != 0 {
                let end = base + ends.trailing_zeros() as usize;
                ends &= ends - 1;
                let (slot, value) = self.find(encoded, start, end);
                found(select_unpredictable(value < end, slot, self.none), value, end);
                start = end + 1;
            }
        };
        let (blocks, rest) = encoded.as_chunks::<BLOCK>();
        let mut base = 0;
        for block in blocks {
            take(ends(block, &mut all), base);
            base += BLOCK;
        }
        if !rest.is_empty() {
            let last = match encoded.last_chunk::<BLOCK>() {
                // What of it was looked through before is shifted out.
                Some(block) => ends(block, &mut all) >> (BLOCK - rest.len()),
                None => {
                    let mut block = [0; BLOCK];
                    for (place, byte) in block.iter_mut().zip(rest) {
                        *place = *byte;
                    }
                    ends(&block, &mut all)
                }
            };
            take(last, base);
        }
        if encoded.last() != Some(&END) {
            // One more ends here.
            take(1, encoded.len());
        }
        all.to_bitmask() == 0
    }

    /// Puts the value of each name into its slot. Values that are not UTF-8 are none, or an error if they
    /// count.
    pub(crate) fn fill<'a>(
        &self,
        encoded: &'a [u8],
        not_utf8_counts: bool,
        values: &mut [Scalar<'a>],
    ) -> Result<(), NotUtf8> {
        let mut is_utf8 = true;
        self.scan(encoded, |slot, start, end| {
            if let (Some(place), Some(value)) = (values.get_mut(slot), encoded.get(start..end)) {
                match str::from_utf8(value) {
                    Ok(text) => *place = Scalar::Text(text),
                    Err(_) => is_utf8 = false,
                }
            }
        });
        if is_utf8 || !not_utf8_counts { Ok(()) } else { Err(NotUtf8) }
    }

    /// The slot of the entry that starts here, and where its value does.
    #[inline(always)]
    fn find(&self, encoded: &[u8], start: usize, end: usize) -> (usize, usize) {
        const ONES: u64 = u64::MAX / 255;
        let word = word(encoded, start);
        // The lowest bit is the highest of the first byte that is a separator.
        let zeros = word ^ ONES;
        let separators = zeros.wrapping_sub(ONES) & !zeros & (ONES << 7);
        let first = separators & separators.wrapping_neg();
        let head = word & (first << 1).wrapping_sub(1);
        let place = self.table.get(place(head, self.factor, self.shift)).copied().unwrap_or_default();
        let mut slot = select_unpredictable(place.head == head, place.found, self.none);
        if !self.more.is_empty() && let Some(found) = self.more.get(&head) {
            slot = *found;
        }
        if first == 0 {
            let rest = encoded.get(start + 8..end).unwrap_or_default();
            return match self.groups.get(slot).and_then(|group| group.find(rest)) {
                Some((slot, len)) => (slot, start + 8 + len + 1),
                None => (self.none, end),
            };
        }
        (slot, start + first.trailing_zeros() as usize / 8 + 1)
    }
}

impl Group {
    fn insert(&mut self, rest: &[u8], slot: usize) {
        if let Self::One(first, of_first) = self {
            *self = Self::Many(HashMap::from([(std::mem::take(first), *of_first)]));
        }
        if let Self::Many(names) = self {
            names.insert(rest.into(), slot);
        }
    }

    /// The slot, and the length of the rest of the name, for the rest of an entry.
    fn find(&self, entry: &[u8]) -> Option<(usize, usize)> {
        match self {
            Self::One(rest, slot) => {
                let is_it = entry.get(rest.len()) == Some(&SEPARATOR) && entry.starts_with(rest);
                is_it.then_some((*slot, rest.len()))
            }
            Self::Many(names) => {
                let len = memchr::memchr(SEPARATOR, entry)?;
                Some((*names.get(entry.get(..len)?)?, len))
            }
        }
    }
}

#[inline]
fn place(head: u64, factor: u64, shift: u32) -> usize {
    (head.wrapping_mul(factor) >> (shift & 63)) as usize
}

/// The bytes that end entries, as bits. `all` gathers the bits of all bytes.
#[inline]
fn ends(block: &[u8; BLOCK], all: &mut u8x16) -> u64 {
    let (lanes, _) = block.as_chunks::<16>();
    lanes.iter().rev().fold(0, |ends, lane| {
        let lane = u8x16::new(*lane);
        *all |= lane;
        ends << 16 | u64::from(lane.simd_eq(u8x16::splat(END)).to_bitmask())
    })
}

/// The eight bytes from `start` on, those that are not there as 0.
#[inline]
pub(crate) fn word(bytes: &[u8], start: usize) -> u64 {
    let rest = bytes.get(start..).unwrap_or_default();
    match (rest.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(word), _) => u64::from_le_bytes(*word),
        (None, Some(word)) if !rest.is_empty() => u64::from_le_bytes(*word) >> (8 * (8 - rest.len())),
        _ => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}
