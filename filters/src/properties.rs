//! Encoded properties of a message, read in one pass into the slots of an expression's names.
//!
//! The layout is `protocol`'s: `name 0x01 value 0x02`, repeated; the last 0x02 may be missing. An entry
//! without name or value counts as none, a value may hold 0x01, and the last entry of a name counts.

use std::ops::Range;

use crate::Name;
use crate::value::Scalar;

/// Bytes that are looked through together, one for each bit of a word.
const BLOCK: usize = 64;
/// Marks a free place.
const FREE: u16 = u16::MAX;

/// The names that an expression reads, found by their first eight bytes and their length.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Slots by hash, each place followed by those of equal hash; a power of two, at least half of it free.
    table: Vec<u16>,
    /// By slot.
    keys: Vec<Key>,
}

#[derive(Debug, Default)]
struct Key {
    head: u64,
    /// Beyond the head.
    rest: Box<[u8]>,
    /// Of the whole name; 0 for what is no property.
    len: usize,
}

/// A value that is not UTF-8 was met, and such values count.
pub(crate) struct NotUtf8;

impl Layout {
    pub(crate) fn new(slots: &[Name]) -> Self {
        let mut table = vec![FREE; (slots.len() * 2).next_power_of_two().max(16)];
        let mut keys = Vec::with_capacity(slots.len());
        for (slot, name) in slots.iter().enumerate() {
            let Name::Property(name) = name else {
                keys.push(Key::default());
                continue;
            };
            let key = Key {
                head: head(name.as_bytes(), 0, name.len()),
                rest: name.as_bytes().get(8..).unwrap_or_default().into(),
                len: name.len(),
            };
            let mut place = place(key.head, key.len, table.len());
            while table.get(place).is_some_and(|slot| *slot != FREE) {
                place = (place + 1) % table.len();
            }
            if let (Some(free), Ok(slot)) = (table.get_mut(place), u16::try_from(slot)) {
                *free = slot;
            }
            keys.push(key);
        }
        Self { table, keys }
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
        let mut start = 0;
        let mut name_end = None;
        let mut base = 0;
        for block in encoded.chunks(BLOCK) {
            let mut marks = separators(block);
            while marks != 0 {
                let at = base + marks.trailing_zeros() as usize;
                marks &= marks - 1;
                match encoded.get(at) {
                    Some(1) if name_end.is_none() => name_end = Some(at),
                    Some(2) => {
                        if let Some(name_end) = name_end.take() {
                            is_utf8 &= self.entry(encoded, start..at, name_end, values);
                        }
                        start = at + 1;
                    }
                    _ => {}
                }
            }
            base += BLOCK;
        }
        if let Some(name_end) = name_end {
            is_utf8 &= self.entry(encoded, start..encoded.len(), name_end, values);
        }
        if is_utf8 || !not_utf8_counts { Ok(()) } else { Err(NotUtf8) }
    }

    /// Puts an entry's value into its slot; whether it was UTF-8, if it was wanted.
    #[inline]
    fn entry<'a>(
        &self,
        encoded: &'a [u8],
        entry: Range<usize>,
        name_end: usize,
        values: &mut [Scalar<'a>],
    ) -> bool {
        let len = name_end - entry.start;
        let head = head(encoded, entry.start, len);
        let mut place = place(head, len, self.table.len());
        loop {
            let slot = self.table.get(place).map_or(usize::MAX, |slot| usize::from(*slot));
            let Some(key) = self.keys.get(slot) else { return true };
            if key.head == head
                && key.len == len
                && (len <= 8 || encoded.get(entry.start + 8..name_end) == Some(&key.rest))
            {
                let Some(value) = encoded.get(name_end + 1..entry.end) else { return true };
                let text = str::from_utf8(value);
                if let (Ok(text), false, Some(place)) =
                    (text, value.is_empty() || len == 0, values.get_mut(slot))
                {
                    *place = Scalar::Text(text);
                }
                return text.is_ok();
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }
}

/// The bytes below 3 of up to 64, as bits.
#[inline]
fn separators(block: &[u8]) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    const UP_TO_128: u64 = 0x7d7d_7d7d_7d7d_7d7d;
    let small = |word: u64| {
        // The high bit of each byte below 3, gathered by a product that shifts each to its place on top.
        let marks = !((word & LOW) + UP_TO_128 | word | LOW);
        (marks >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    };
    let (words, rest) = block.as_chunks::<8>();
    let mut marks = 0;
    for (at, word) in words.iter().enumerate() {
        marks |= small(u64::from_le_bytes(*word)) << (8 * at);
    }
    if !rest.is_empty() {
        let mut last = [u8::MAX; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        marks |= small(u64::from_le_bytes(last)) << (8 * words.len());
    }
    marks
}

/// The first eight bytes of a name, those that it lacks as 0.
#[inline]
fn head(bytes: &[u8], start: usize, len: usize) -> u64 {
    let rest = bytes.get(start..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(word) if len >= 8 => u64::from_le_bytes(*word),
        Some(word) => u64::from_le_bytes(*word) & ((1 << (len * 8)) - 1),
        None => rest.iter().take(len.min(8)).rev().fold(0, |head, byte| head << 8 | u64::from(*byte)),
    }
}

#[inline]
fn place(head: u64, len: usize, places: usize) -> usize {
    let hash = (head ^ len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 40) as usize & (places - 1)
}
