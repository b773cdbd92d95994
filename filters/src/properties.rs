//! Encoded properties of a message, read in one pass into the slots of an expression's names.
//!
//! The layout is `protocol`'s: `name 0x01 value 0x02`, repeated; the last 0x02 may be missing. An entry
//! without name or value counts as none, a value may hold 0x01, and the last entry of a name counts.

use std::ops::Range;

use wide::u8x16;

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
    /// The lengths of the names, modulo 64, as bits.
    lens: u64,
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
        let lens = keys.iter().filter(|key| key.len > 0).fold(0, |lens, key| lens | 1 << (key.len & 63));
        Self { table, keys, lens }
    }

    /// Puts the value of each name into its slot. Values that are not UTF-8 are none, or an error if they
    /// count.
    pub(crate) fn fill<'a>(
        &self,
        encoded: &'a [u8],
        not_utf8_counts: bool,
        values: &mut [Scalar<'a>],
    ) -> Result<(), NotUtf8> {
        // Many values are looked at as text in one go.
        let whole = if self.keys.len() > 2 { str::from_utf8(encoded).ok() } else { None };
        let mut is_utf8 = true;
        let mut start = 0;
        let mut name_end = None;
        let mut base = 0;
        for block in encoded.chunks(BLOCK) {
            let (mut names, mut entries) = separators(block);
            while entries != 0 {
                let bit = entries.trailing_zeros();
                entries &= entries - 1;
                // What lies before the end of the entry is its name's end, if that is not known yet.
                let before = names & !(u64::MAX << bit);
                names &= u64::MAX << bit;
                let at = base + bit as usize;
                let found = match name_end.take() {
                    None if before != 0 => Some(base + before.trailing_zeros() as usize),
                    known => known,
                };
                if let Some(name_end) = found {
                    is_utf8 &= self.entry(encoded, whole, start..at, name_end, values);
                }
                start = at + 1;
            }
            if names != 0 && name_end.is_none() {
                name_end = Some(base + names.trailing_zeros() as usize);
            }
            base += BLOCK;
        }
        if let Some(name_end) = name_end {
            is_utf8 &= self.entry(encoded, whole, start..encoded.len(), name_end, values);
        }
        if is_utf8 || !not_utf8_counts { Ok(()) } else { Err(NotUtf8) }
    }

    /// Puts an entry's value into its slot; whether it was UTF-8, if it was wanted.
    #[inline]
    fn entry<'a>(
        &self,
        encoded: &'a [u8],
        whole: Option<&'a str>,
        entry: Range<usize>,
        name_end: usize,
        values: &mut [Scalar<'a>],
    ) -> bool {
        let len = name_end - entry.start;
        if self.lens >> (len & 63) & 1 == 0 {
            return true;
        }
        let head = head(encoded, entry.start, len);
        let mut place = place(head, len, self.table.len());
        loop {
            let slot = self.table.get(place).map_or(usize::MAX, |slot| usize::from(*slot));
            let Some(key) = self.keys.get(slot) else { return true };
            if key.head == head
                && key.len == len
                && (len <= 8 || encoded.get(entry.start + 8..name_end) == Some(&key.rest))
            {
                if len == 0 || name_end + 1 == entry.end {
                    return true;
                }
                let value = name_end + 1..entry.end;
                let text = match whole {
                    Some(whole) => whole.get(value),
                    None => encoded.get(value).and_then(|value| str::from_utf8(value).ok()),
                };
                if let (Some(text), Some(place)) = (text, values.get_mut(slot)) {
                    *place = Scalar::Text(text);
                }
                return text.is_some();
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }
}

/// The bytes that end names and entries, among up to 64, as bits.
#[inline]
fn separators(block: &[u8]) -> (u64, u64) {
    let mut found = (0, 0);
    let (lanes, rest) = block.as_chunks::<16>();
    let mut take = |bytes: [u8; 16], at: usize| {
        let bytes = u8x16::new(bytes);
        found.0 |= u64::from(bytes.simd_eq(u8x16::splat(1)).to_bitmask()) << (16 * at);
        found.1 |= u64::from(bytes.simd_eq(u8x16::splat(2)).to_bitmask()) << (16 * at);
    };
    for (at, lane) in lanes.iter().enumerate() {
        take(*lane, at);
    }
    if !rest.is_empty() {
        let mut last = [0; 16];
        if let Some(last) = last.get_mut(..rest.len()) {
            last.copy_from_slice(rest);
        }
        take(last, lanes.len());
    }
    found
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
