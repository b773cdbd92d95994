//! One file of the key index, in `RocketMQ`'s layout: a hash table from keys to the log offsets of their records.
//!
//! Sparse, written and read by position. Big-endian:
//!
//! | field              | bytes | meaning                                                             |
//! |--------------------|------:|---------------------------------------------------------------------|
//! | `begin_ms`, `end_ms` | 8 each | store timestamps of the first and the last record                  |
//! | `begin`, `end`     | 8 each | log offsets of the first and the last record                        |
//! | `slots_used`       |     4 | slots that hold an entry                                            |
//! | `count`            |     4 | entries and 1: entry 0 is never used                                |
//! | slots              | n × 4 | number of the slot's newest entry, 0 for none                       |
//! | entries            | m × 20 | key hash (4), log offset (8), s since `begin_ms` (4), number of the slot's entry before (4) |
//!
//! The slot is the hash modulo their number. Two keys may share a hash: who looks up must look at the records.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Error;
use crate::file::{Disk, DiskFile, Open};

const HEADER_BYTES: u64 = 40;
const SLOT_BYTES: u64 = 4;
const ENTRY_BYTES: usize = 20;
/// Slots that are read and written together.
const PAGE_SLOTS: usize = 1024;

/// How large a file is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) slots: u32,
    /// One more than the entries that it holds.
    pub(crate) entries: u32,
}

impl Shape {
    /// That of `RocketMQ`'s files.
    pub(crate) const ROCKETMQ: Self = Self { slots: 5_000_000, entries: 20_000_000 };

    fn file_bytes(self) -> u64 {
        self.entry_at(self.entries)
    }

    fn slot_at(slot: u64) -> u64 {
        HEADER_BYTES + slot * SLOT_BYTES
    }

    fn entry_at(self, number: u32) -> u64 {
        Self::slot_at(u64::from(self.slots)) + u64::from(number) * ENTRY_BYTES as u64
    }
}

/// A key of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// See [`hash_of`].
    pub(crate) hash: u32,
    pub(crate) log_offset: u64,
    pub(crate) store_timestamp_ms: i64,
}

/// The hash of a key of a topic: Java's of both with `#` between, without its sign.
pub(crate) fn hash_of(topic: &str, key: &str) -> u32 {
    let unit = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    let hash = topic.encode_utf16().chain([u16::from(b'#')]).chain(key.encode_utf16()).fold(0, unit);
    hash.checked_abs().map_or(0, i32::unsigned_abs)
}

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) begin_ms: i64,
    pub(crate) end_ms: i64,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    slots_used: u32,
    pub(crate) count: u32,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&self.begin_ms.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.end_ms.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.begin.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.end.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.slots_used.to_be_bytes());
        bytes[36..].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES as usize]) -> Self {
        let long =
            |at: usize| bytes.get(at..at + 8).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
        let int =
            |at: usize| bytes.get(at..at + 4).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
        Self {
            begin_ms: i64::from_be_bytes(long(0)),
            end_ms: i64::from_be_bytes(long(8)),
            begin: u64::from_be_bytes(long(16)),
            end: u64::from_be_bytes(long(24)),
            slots_used: u32::from_be_bytes(int(32)),
            count: u32::from_be_bytes(int(36)),
        }
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct IndexFile {
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    file: Arc<dyn DiskFile>,
    shape: Shape,
}

impl IndexFile {
    /// Makes a file for a record and those after it.
    pub(crate) fn create(disk: &dyn Disk, path: PathBuf, shape: Shape, first: &Key) -> Result<Self, Error> {
        let file = disk.open(&path, Open::New).map_err(|e| Error::io("create", &path, e))?;
        file.set_len(shape.file_bytes()).map_err(|e| Error::io("create", &path, e))?;
        let (ms, at) = (first.store_timestamp_ms, first.log_offset);
        let header = Header { begin_ms: ms, end_ms: ms, begin: at, end: at, slots_used: 0, count: 1 };
        Ok(Self { path, header, file, shape })
    }

    /// Opens a file; `None` if it can be none.
    pub(crate) fn open(disk: &dyn Disk, path: PathBuf, shape: Shape) -> Result<Option<Self>, Error> {
        let file = disk.open(&path, Open::Existing).map_err(|e| Error::io("open", &path, e))?;
        let len = file.file().metadata().map_err(|e| Error::io("look at", &path, e))?.len();
        let mut bytes = [0; HEADER_BYTES as usize];
        if len != shape.file_bytes() {
            return Ok(None);
        }
        file.file().read_exact_at(&mut bytes, 0).map_err(|e| Error::io("read", &path, e))?;
        let header = Header::decode(&bytes);
        let sound = (2..=shape.entries).contains(&header.count) && header.begin <= header.end;
        Ok(sound.then_some(Self { path, header, file, shape }))
    }

    /// How many more entries it takes.
    pub(crate) fn room(&self) -> usize {
        self.shape.entries.saturating_sub(self.header.count) as usize
    }

    /// Adds keys in the order of their records, as many as there is room for at most. After an error the file is
    /// to be made again.
    pub(crate) fn add(&mut self, keys: &[Key]) -> Result<(), Error> {
        let mut header = self.header;
        let Some(last) = keys.last() else { return Ok(()) };
        (header.end, header.end_ms) = (last.log_offset, last.store_timestamp_ms);
        let mut order: Vec<(u32, u32)> =
            (0..).zip(keys).map(|(i, key)| (key.hash % self.shape.slots, i)).collect();
        order.sort_unstable();
        let mut entries = vec![0; keys.len() * ENTRY_BYTES];
        let mut pages = Vec::new();
        for page in order.chunk_by(|(a, _), (b, _)| a / PAGE_SLOTS as u32 == b / PAGE_SLOTS as u32) {
            let first = page.first().map_or(0, |(slot, _)| slot - slot % PAGE_SLOTS as u32);
            let slots = (self.shape.slots - first).min(PAGE_SLOTS as u32);
            let mut bytes = vec![0; slots as usize * 4];
            let place = Shape::slot_at(u64::from(first));
            self.read(&mut bytes, place)?;
            for &(slot, i) in page {
                let (cells, _) = bytes.as_chunks_mut::<4>();
                let (Some(cell), Some(key)) = (cells.get_mut((slot - first) as usize), keys.get(i as usize))
                else {
                    continue;
                };
                let number = self.header.count + i;
                let before = match u32::from_be_bytes(*cell) {
                    before if before < number => before,
                    _ => 0,
                };
                header.slots_used += u32::from(before == 0);
                *cell = number.to_be_bytes();
                let seconds = (key.store_timestamp_ms - header.begin_ms) / 1000;
                let seconds = i32::try_from(seconds.max(0)).unwrap_or(i32::MAX);
                if let Some(entry) = entries.as_chunks_mut::<ENTRY_BYTES>().0.get_mut(i as usize) {
                    entry[..4].copy_from_slice(&key.hash.to_be_bytes());
                    entry[4..12].copy_from_slice(&key.log_offset.to_be_bytes());
                    entry[12..16].copy_from_slice(&seconds.to_be_bytes());
                    entry[16..].copy_from_slice(&before.to_be_bytes());
                }
            }
            pages.push((place, bytes));
        }
        // A slot never names an entry that is not there.
        self.write(&entries, self.shape.entry_at(header.count))?;
        for (place, bytes) in &pages {
            self.write(bytes, *place)?;
        }
        header.count += u32::try_from(keys.len()).unwrap_or(u32::MAX);
        self.write(&header.encode(), 0)?;
        self.header = header;
        Ok(())
    }

    /// Hands the log offsets of a hash to `take`, the newest first, each with the second that its record was stored
    /// in (its first ms); until there are no more, or `take` says that it has enough.
    pub(crate) fn find(&self, hash: u32, mut take: impl FnMut(u64, i64) -> bool) -> Result<(), Error> {
        let mut slot = [0; 4];
        self.read(&mut slot, Shape::slot_at(u64::from(hash % self.shape.slots)))?;
        let (mut number, mut limit) = (u32::from_be_bytes(slot), self.header.count);
        // Each entry names an older one, so a damaged file can not lead round in a circle.
        while number > 0 && number < limit {
            let mut entry = [0; ENTRY_BYTES];
            self.read(&mut entry, self.shape.entry_at(number))?;
            let int =
                |at: usize| entry.get(at..at + 4).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
            let log_offset = entry.get(4..12).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
            let stored_ms = self.header.begin_ms + 1000 * i64::from(i32::from_be_bytes(int(12)));
            if u32::from_be_bytes(int(0)) == hash && !take(u64::from_be_bytes(log_offset), stored_ms) {
                break;
            }
            (limit, number) = (number, u32::from_be_bytes(int(16)));
        }
        Ok(())
    }

    /// Makes it durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync().map_err(|e| Error::io("sync", &self.path, e))
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), Error> {
        let read: io::Result<()> = self.file.file().read_exact_at(bytes, at);
        read.map_err(|e| Error::io("read", &self.path, e))
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        self.file.write_at(&[bytes], at).map_err(|e| Error::io("write", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::RealDisk;

    const SMALL: Shape = Shape { slots: 1500, entries: 5000 };

    fn key(hash: u32, log_offset: u64) -> Key {
        Key { hash, log_offset, store_timestamp_ms: 1_000_000 + 100 * i64::try_from(log_offset).unwrap() }
    }

    #[test]
    fn what_was_added_is_found_newest_first_however_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<Key> = (0..4000).map(|i| key(u32::try_from(i * i % 1777).unwrap(), i)).collect();
        for (n, step) in [1, 7, 4000].into_iter().enumerate() {
            let path = dir.path().join(n.to_string());
            let mut file = IndexFile::create(&RealDisk, path.clone(), SMALL, &keys[0]).unwrap();
            keys.chunks(step).for_each(|some| file.add(some).unwrap());
            assert_eq!((file.room(), file.header.end), (5000 - 4001, 3999));
            let again = IndexFile::open(&RealDisk, path, SMALL).unwrap().unwrap();
            assert_eq!(again.header, file.header);
            for hash in [0, 1, 49, 1776, 1777, 900] {
                let mut found = Vec::new();
                again
                    .find(hash, |at, ms| {
                        assert_eq!(ms, 1_000_000 + i64::try_from(at).unwrap() / 10 * 1000);
                        found.push(at);
                        true
                    })
                    .unwrap();
                let expected = keys.iter().rev().filter(|key| key.hash == hash).map(|key| key.log_offset);
                assert_eq!(found, expected.collect::<Vec<_>>(), "{hash}");
            }
        }
    }

    #[test]
    fn a_hash_is_that_of_java_and_a_file_has_the_length_of_rocketmq_s() {
        assert_eq!(hash_of("TopicTest", "key1"), 1_655_984_460);
        assert_eq!(hash_of("TopicTest", "7F0000010001000000000000000A0001"), 368_439_493);
        assert_eq!(Shape::ROCKETMQ.file_bytes(), 420_000_040);
    }
}
