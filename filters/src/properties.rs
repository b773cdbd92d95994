//! Encoded properties of a message, read in one pass that finds the values of an expression's names.
//!
//! The layout is `protocol`'s: `name 0x01 value 0x02`, repeated; the last 0x02 may be missing. An entry
//! without name or value counts as none, a value may hold 0x01, and the last entry of a name counts.
//!
//! The pass looks for the ends of entries, 64 bytes at a time, and then at the first eight bytes of each
//! entry that starts like a name: they hold a short name with its 0x01, which no other entry has, or begin a
//! long one. What is not wanted goes the same way as what is, since a branch that depends on a message costs
//! more than the work.

use std::collections::HashMap;
use std::hint::select_unpredictable;

use wide::u8x16;

use crate::Name;
use crate::steps;
use crate::value::Scalar;

/// Bytes that are looked through together, one for each bit of a word.
const BLOCK: usize = 64;
const SEPARATOR: u8 = 1;
const END: u8 = 2;
/// Longest name that lies in a word with its separator.
const SHORT_MAX: usize = 7;
/// Places of the names; a power of two.
const PLACES: usize = 256;
/// So many ways to hash are tried, for one by which each name has a place of its own.
const TRIES: u64 = 64;
/// Up to so many first bytes of names are looked for; with more, each entry is looked at.
const FIRSTS_MAX: usize = 4;

/// The names that an expression reads.
#[derive(Debug)]
pub(crate) struct Layout {
    /// By hash.
    table: Box<[Place; PLACES]>,
    factor: u64,
    /// What has no place of its own.
    more: HashMap<u64, usize>,
    /// Names that start with the same eight bytes.
    groups: Vec<Group>,
    /// The first bytes of the names, if they are few.
    firsts: Vec<u8>,
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
        let mut firsts: Vec<u8> = heads.keys().map(|head| head.to_le_bytes()[0]).collect();
        firsts.sort_unstable();
        firsts.dedup();
        firsts.truncate(if firsts.len() > FIRSTS_MAX { 0 } else { FIRSTS_MAX });
        let free = Place { head: 0, found: usize::MAX };
        let mut layout = Self {
            table: Box::new([free; PLACES]),
            factor: 0,
            more: heads.clone(),
            groups,
            firsts,
            none: slots.len(),
        };
        for seed in 1..=TRIES {
            let factor = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut table = Box::new([free; PLACES]);
            let mut more = HashMap::new();
            for (head, found) in &heads {
                match table.get_mut(place(*head, factor)) {
                    Some(place) if place.found == usize::MAX => *place = Place { head: *head, found: *found },
                    _ => _ = more.insert(*head, *found),
                }
            }
            if more.len() < layout.more.len() {
                layout = Self { table, factor, more, ..layout };
            }
            if layout.more.is_empty() {
                break;
            }
        }
        for place in layout.table.iter_mut().filter(|place| place.found == usize::MAX) {
            place.found = layout.none;
        }
        layout
    }

    /// Calls `found` with a slot and the value's place for each entry that may be wanted, in their order: with
    /// the slot after all others for one that is not. Whether all bytes are ASCII.
    #[inline]
    pub(crate) fn scan(&self, encoded: &[u8], mut found: impl FnMut(usize, usize, usize)) -> bool {
        // Whether an entry starts with the next block, and the start of one that goes on there.
        let (mut starts_next, mut open) = (1, None);
        let mut all = u8x16::splat(0);
        // `skip` bytes of the block were looked through before.
        let mut look = |block: &[u8; BLOCK], base: usize, skip: usize| {
            let lanes = block.as_chunks::<16>().0;
            for lane in lanes {
                all |= u8x16::new(*lane);
            }
            let ends = places(lanes, END) >> skip;
            let mut starts = (ends << 1 | starts_next) & u64::MAX >> skip;
            starts_next = ends >> (BLOCK - 1);
            if !self.firsts.is_empty() {
                starts &= self.firsts.iter().fold(0, |found, first| found | places(lanes, *first)) >> skip;
            }
            let mut before = open.take();
            while before.is_some() || starts != 0 {
                let (start, end) = match before.take() {
                    Some(start) => (start, ends),
                    None => {
                        let start = starts.trailing_zeros();
                        starts &= starts - 1;
                        (base + start as usize, ends & u64::MAX << start)
                    }
                };
                if end == 0 {
                    open = Some(start);
                    break;
                }
                let end = base + end.trailing_zeros() as usize;
                let (slot, value) = self.find(encoded, start, end);
                found(select_unpredictable(value < end, slot, self.none), value, end);
            }
            open.is_some()
        };
        let (blocks, rest) = encoded.as_chunks::<BLOCK>();
        let (mut base, mut is_open) = (0, false);
        for block in blocks {
            is_open = look(block, base, 0);
            base += BLOCK;
        }
        let mut last = [0; BLOCK];
        if let (false, Some(block)) = (rest.is_empty(), encoded.last_chunk::<BLOCK>()) {
            is_open = look(block, base, BLOCK - rest.len());
            base = encoded.len();
        } else {
            for (place, byte) in last.iter_mut().zip(rest) {
                *place = *byte;
            }
            is_open |= !rest.is_empty();
        }
        if is_open {
            // The end of all is one of an entry.
            if let Some(end) = last.get_mut(encoded.len() - base) {
                *end = END;
            }
            look(&last, base, 0);
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
        steps::add(1);
        let word = word(encoded, start);
        // The lowest bit is the highest of the first byte that is a separator.
        let zeros = word ^ ONES;
        let separators = zeros.wrapping_sub(ONES) & !zeros & (ONES << 7);
        let first = separators & separators.wrapping_neg();
        let head = word & (first << 1).wrapping_sub(1);
        let place = self.table.get(place(head, self.factor)).copied().unwrap_or_default();
        let mut slot = select_unpredictable(place.head == head, place.found, self.none);
        if !self.more.is_empty() {
            slot = self.find_more(head).unwrap_or(slot);
        }
        if first == 0 {
            return if slot == self.none { (slot, end) } else { self.find_long(slot, encoded, start, end) };
        }
        (slot, start + first.trailing_zeros() as usize / 8 + 1)
    }

    #[inline(never)]
    fn find_more(&self, head: u64) -> Option<usize> {
        self.more.get(&head).copied()
    }

    #[inline(never)]
    fn find_long(&self, group: usize, encoded: &[u8], start: usize, end: usize) -> (usize, usize) {
        let rest = encoded.get(start + 8..end).unwrap_or_default();
        match self.groups.get(group).and_then(|group| group.find(rest)) {
            Some((slot, len)) => (slot, start + 8 + len + 1),
            None => (self.none, end),
        }
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
                steps::add(len);
                Some((*names.get(entry.get(..len)?)?, len))
            }
        }
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below PLACES")]
fn place(head: u64, factor: u64) -> usize {
    (head.wrapping_mul(factor) >> (u64::BITS - PLACES.trailing_zeros())) as usize
}

/// Where a byte is in a block, as bits.
#[inline]
fn places(lanes: &[[u8; 16]], byte: u8) -> u64 {
    lanes.iter().rev().fold(0, |bits, lane| {
        bits << 16 | u64::from(u8x16::new(*lane).simd_eq(u8x16::splat(byte)).to_bitmask())
    })
}

/// The eight bytes from `start` on, those that are not there as 0.
#[inline]
pub(crate) fn word(bytes: &[u8], start: usize) -> u64 {
    match bytes.get(start..start.saturating_add(8)).and_then(<[u8]>::first_chunk::<8>) {
        Some(word) => u64::from_le_bytes(*word),
        None => last_word(bytes, start),
    }
}

#[inline(never)]
fn last_word(bytes: &[u8], start: usize) -> u64 {
    let rest = bytes.get(start..).unwrap_or_default();
    match bytes.last_chunk::<8>() {
        Some(word) if !rest.is_empty() => u64::from_le_bytes(*word) >> (8 * (8 - rest.len())),
        _ => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}
