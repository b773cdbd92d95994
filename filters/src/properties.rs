//! Encoded properties of a message, read in one pass into the slots of an expression's names.
//!
//! The layout is `protocol`'s: `name 0x01 value 0x02`, repeated; the last 0x02 may be missing. An entry
//! without name or value counts as none, a value may hold 0x01, and the last entry of a name counts.

use std::mem;

use crate::Name;
use crate::value::Scalar;

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
        let mut entry = Entry { start: 0, name_end: None };
        let (words, tail) = encoded.as_chunks::<8>();
        let mut base = 0;
        for word in words {
            let word = u64::from_le_bytes(*word);
            // The high bit of each byte below 3; bytes above such a one may be marked too.
            let mut marks = word.wrapping_sub(0x0303_0303_0303_0303) & !word & 0x8080_8080_8080_8080;
            while marks != 0 {
                let byte = marks.trailing_zeros() / 8;
                marks &= marks - 1;
                let at = base + byte as usize;
                self.separator(
                    (word >> (byte * 8) & 0xff) as u8,
                    at,
                    encoded,
                    &mut entry,
                    not_utf8_counts,
                    values,
                )?;
            }
            base += 8;
        }
        for (at, byte) in tail.iter().enumerate() {
            self.separator(*byte, base + at, encoded, &mut entry, not_utf8_counts, values)?;
        }
        self.entry(&entry, encoded.len(), encoded, not_utf8_counts, values)
    }

    #[inline]
    fn separator<'a>(
        &self,
        byte: u8,
        at: usize,
        encoded: &'a [u8],
        entry: &mut Entry,
        not_utf8_counts: bool,
        values: &mut [Scalar<'a>],
    ) -> Result<(), NotUtf8> {
        match byte {
            1 if entry.name_end.is_none() => entry.name_end = Some(at),
            2 => {
                let ended = mem::replace(entry, Entry { start: at + 1, name_end: None });
                return self.entry(&ended, at, encoded, not_utf8_counts, values);
            }
            _ => {}
        }
        Ok(())
    }

    #[inline]
    fn entry<'a>(
        &self,
        entry: &Entry,
        end: usize,
        encoded: &'a [u8],
        not_utf8_counts: bool,
        values: &mut [Scalar<'a>],
    ) -> Result<(), NotUtf8> {
        let Some(name_end) = entry.name_end else { return Ok(()) };
        let len = name_end - entry.start;
        if len == 0 || name_end + 1 == end {
            return Ok(());
        }
        let head = head(encoded, entry.start, len);
        let mut place = place(head, len, self.table.len());
        loop {
            let Some((slot, key)) = self
                .table
                .get(place)
                .and_then(|slot| Some((usize::from(*slot), self.keys.get(usize::from(*slot))?)))
            else {
                return Ok(());
            };
            if key.head == head
                && key.len == len
                && (len <= 8 || encoded.get(entry.start + 8..name_end) == Some(&key.rest))
            {
                let value = encoded.get(name_end + 1..end).map(str::from_utf8);
                return match (value, values.get_mut(slot)) {
                    (Some(Ok(text)), Some(value)) => {
                        *value = Scalar::Text(text);
                        Ok(())
                    }
                    (Some(Err(_)), _) if not_utf8_counts => Err(NotUtf8),
                    _ => Ok(()),
                };
            }
            place = (place + 1) % self.table.len();
        }
    }
}

/// An entry that is being read.
struct Entry {
    start: usize,
    name_end: Option<usize>,
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
