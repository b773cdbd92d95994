//! Consume queue: the index of one queue, files of fixed units in queue-offset order.
//!
//! Rebuilt from the commit log, so losing it costs time and never a message. Sparse files of 300,000 units,
//! written and read by position, never mapped: a full disk is an error there and not a signal. Big-endian:
//!
//! | field        | bytes | meaning                                                |
//! |--------------|------:|--------------------------------------------------------|
//! | `log_offset` |     8 | start of the record in the commit log, in bytes        |
//! | `size`       |     4 | length of the record, in bytes; 0 after the last unit  |
//! | `tag_hash`   |     8 | 32-bit hash of the tag, sign-extended; 0 when untagged |
//!
//! Where no record stands (before the first unit of a file that begins in its middle) the unit is blank:
//! log offset 0, the largest size, no tag. Only so many files are open at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::unistd::{Whence, lseek};

use crate::Error;
use crate::file::{Disk, DiskFile, Open};
use crate::topic::Queue;

/// Length of a unit in bytes.
pub(crate) const UNIT_BYTES: usize = 20;
/// Units of one file.
pub(crate) const FILE_UNITS: i64 = 300_000;
/// Length of one file in bytes.
const FILE_BYTES: u64 = FILE_UNITS as u64 * UNIT_BYTES as u64;
/// The length of a unit as a factor of queue offsets.
const UNIT: i64 = 20;
/// How many consume-queue files are kept open, for reading and for writing each.
const OPEN_FILES_MAX: usize = 256;
const BLANK_SIZE: u32 = 0x7FFF_FFFF;
/// Queue offsets from here on have no place that a file can be named after.
pub(crate) const OFFSET_MAX: i64 = i64::MAX / UNIT - FILE_UNITS;

/// Where one message of a queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Log offset of the record.
    pub(crate) log_offset: u64,
    /// Length of the record in bytes.
    pub(crate) size: u32,
    /// Hash of its tag.
    pub(crate) tag_hash: i64,
}

impl Unit {
    /// Stands where no record is.
    pub(crate) const BLANK: Self = Self { log_offset: 0, size: BLANK_SIZE, tag_hash: 0 };

    /// Whether a record is meant.
    pub(crate) fn is_record(&self) -> bool {
        self.size != 0 && self.size != BLANK_SIZE
    }

    /// Log offset after the record.
    pub(crate) fn end(&self) -> u64 {
        self.log_offset.saturating_add(u64::from(self.size))
    }

    pub(crate) fn encode(&self) -> [u8; UNIT_BYTES] {
        let mut bytes = [0; UNIT_BYTES];
        bytes[..8].copy_from_slice(&self.log_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tag_hash.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; UNIT_BYTES]) -> Self {
        let (log_offset, rest) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let (size, rest) = rest.split_first_chunk().unwrap_or((&[0; 4], &[]));
        Self {
            log_offset: u64::from_be_bytes(*log_offset),
            size: u32::from_be_bytes(*size),
            tag_hash: i64::from_be_bytes(rest.first_chunk().copied().unwrap_or_default()),
        }
    }
}

/// Units in their bytes.
pub(crate) fn units(bytes: &[u8]) -> impl Iterator<Item = Unit> {
    bytes.as_chunks().0.iter().map(Unit::decode)
}

/// What was written and not synced: the next checkpoint does that.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    files: BTreeMap<(u32, i64), Arc<Queue>>,
    dirs: BTreeSet<PathBuf>,
}

impl Unsynced {
    /// Takes over what another one holds.
    pub(crate) fn add(&mut self, other: Self) {
        self.files.extend(other.files);
        self.dirs.extend(other.dirs);
    }
}

/// The consume queues of a store.
#[derive(Debug)]
pub(crate) struct ConsumeQueues {
    dir: PathBuf,
    reading: Mutex<OpenFiles<Arc<File>>>,
    writing: Mutex<OpenFiles<Arc<dyn DiskFile>>>,
}

impl ConsumeQueues {
    /// The queues below a folder.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, reading: Mutex::default(), writing: Mutex::default() }
    }

    /// Writes units from a queue offset on. The bytes are not durable yet.
    pub(crate) fn write(
        &self,
        disk: &dyn Disk,
        queue: &Arc<Queue>,
        mut offset: i64,
        mut units: &[u8],
        unsynced: &mut Unsynced,
    ) -> Result<(), Error> {
        while !units.is_empty() {
            let (start, place) = place(offset);
            let room = usize::try_from(FILE_BYTES - place).unwrap_or(usize::MAX);
            let (now, later) = units.split_at(units.len().min(room));
            let file = self.open_for_writing(disk, queue, start, unsynced)?;
            file.write_at(&[now], place).map_err(|e| Error::io("write", self.path(queue, start), e))?;
            unsynced.files.entry((queue.number, start)).or_insert_with(|| queue.clone());
            offset += i64::try_from(now.len() / UNIT_BYTES).unwrap_or(i64::MAX);
            units = later;
        }
        Ok(())
    }

    /// Fills the file that ends at or after `next` with units that mean no record, up to there.
    pub(crate) fn write_blank(
        &self,
        disk: &dyn Disk,
        queue: &Arc<Queue>,
        next: i64,
        unsynced: &mut Unsynced,
    ) -> Result<(), Error> {
        let (start, _) = place(next - 1);
        let blank = Unit::BLANK.encode().repeat(usize::try_from(next - start).unwrap_or(0));
        self.write(disk, queue, start, &blank, unsynced)
    }

    /// Has the files of a range of units synced by the next checkpoint, and their names too where the last one,
    /// with the queue's end at `durable`, did not.
    pub(crate) fn distrust(
        &self,
        queue: &Arc<Queue>,
        from: i64,
        to: i64,
        durable: i64,
        unsynced: &mut Unsynced,
    ) {
        let (mut start, _) = place(from);
        while start < to {
            unsynced.files.entry((queue.number, start)).or_insert_with(|| queue.clone());
            if start >= durable {
                unsynced.dirs.insert(self.queue_dir(queue));
            }
            start += FILE_UNITS;
        }
        if durable == 0 {
            unsynced.dirs.extend([self.dir.clone(), self.topic_dir(queue)]);
        }
    }

    /// Reads units from a queue offset on, at most to the end of its file, and as many as fit into
    /// `bytes`; gives the bytes read, of whole units.
    pub(crate) fn read(&self, queue: &Queue, offset: i64, bytes: &mut [u8]) -> Result<usize, Error> {
        let (start, place) = place(offset);
        let room = usize::try_from(FILE_BYTES - place).unwrap_or(usize::MAX).min(bytes.len());
        let fail = |e| Error::io("read", self.path(queue, start), e);
        let file = match self.open_for_reading(queue, start) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            opened => opened.map_err(fail)?,
        };
        let mut len = 0;
        while len < room {
            let rest = bytes.get_mut(len..room).unwrap_or_default();
            match file.read_at(rest, place + len as u64) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Ok(len - len % UNIT_BYTES)
    }

    /// The unit at a queue offset; `None` where the file ends before it.
    pub(crate) fn unit(&self, queue: &Queue, offset: i64) -> Result<Option<Unit>, Error> {
        let mut bytes = [0; UNIT_BYTES];
        let len = self.read(queue, offset, &mut bytes)?;
        Ok((len == UNIT_BYTES).then(|| Unit::decode(&bytes)))
    }

    /// The first and the next queue offset as the units tell that point to records in
    /// `log_first..log_end`; `None` if there is no file. Units beyond are left alone.
    pub(crate) fn bounds(
        &self,
        queue: &Queue,
        log_first: u64,
        log_end: u64,
    ) -> Result<Option<(i64, i64)>, Error> {
        let starts = self.files(queue)?;
        let Some(&first_start) = starts.first() else { return Ok(None) };
        let below = |offset: i64| -> Result<bool, Error> {
            Ok(self.unit(queue, offset)?.is_some_and(|u| u.size != 0 && u.log_offset < log_end))
        };
        let mut last = first_start;
        for &start in starts.iter().rev() {
            if below(start)? {
                last = start;
                break;
            }
        }
        let next = partition(last, last + FILE_UNITS, below)?;
        Ok(Some((self.first(queue, first_start, next, log_first)?, next)))
    }

    /// The first queue offset in `from..next` whose record is not below `log_first`; `next` if none.
    pub(crate) fn first(&self, queue: &Queue, from: i64, next: i64, log_first: u64) -> Result<i64, Error> {
        partition(from, next, |offset| {
            Ok(self.unit(queue, offset)?.is_none_or(|u| !u.is_record() || u.log_offset < log_first))
        })
    }

    /// Forgets all units from `next` on. Nothing is written if there are none.
    pub(crate) fn cut(
        &self,
        disk: &dyn Disk,
        queue: &Arc<Queue>,
        next: i64,
        unsynced: &mut Unsynced,
    ) -> Result<(), Error> {
        let (last, place) = place(next);
        for start in self.files(queue)?.into_iter().rev() {
            let path = self.path(queue, start);
            if start > last || (start == last && place == 0) {
                self.close(queue, start);
                disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
                unsynced.files.remove(&(queue.number, start));
                unsynced.dirs.insert(self.queue_dir(queue));
            } else if start == last && has_data(&path, place).map_err(|e| Error::io("read", &path, e))? {
                let file = self.open_for_writing(disk, queue, start, unsynced)?;
                let cut = file.set_len(place).and_then(|()| file.set_len(FILE_BYTES));
                cut.map_err(|e| Error::io("cut", &path, e))?;
                unsynced.files.insert((queue.number, start), queue.clone());
            }
        }
        Ok(())
    }

    /// Removes what is left of a queue whose topic was deleted: its files, or else the folders, which hold nothing then.
    pub(crate) fn clear(
        &self,
        disk: &dyn Disk,
        queue: &Arc<Queue>,
        unsynced: &mut Unsynced,
    ) -> Result<(), Error> {
        if !self.files(queue)?.is_empty() {
            return self.cut(disk, queue, 0, unsynced);
        }
        // Another queue may have its folder there still.
        for dir in [self.queue_dir(queue), self.topic_dir(queue)] {
            let _ = disk.remove_dir(&dir);
        }
        Ok(())
    }

    /// Removes the files that end at or before `first`, but never the one that `next` falls into.
    pub(crate) fn drop_below(
        &self,
        disk: &dyn Disk,
        queue: &Queue,
        first: i64,
        next: i64,
    ) -> Result<(), Error> {
        for start in self.files(queue)? {
            if start + FILE_UNITS <= first && start + FILE_UNITS <= next - next % FILE_UNITS {
                self.close(queue, start);
                let path = self.path(queue, start);
                disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
        }
        Ok(())
    }

    /// Makes durable what was written; on an error it is not known what is.
    pub(crate) fn sync(&self, disk: &dyn Disk, unsynced: &Unsynced) -> Result<(), Error> {
        for (&(number, start), queue) in &unsynced.files {
            let path = self.path(queue, start);
            let open = locked(&self.writing).get(number, start);
            let file = open.map_or_else(|| disk.open(&path, Open::Existing), Ok);
            file.and_then(|f| f.sync()).map_err(|e| Error::io("sync", &path, e))?;
        }
        for dir in &unsynced.dirs {
            disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
        }
        Ok(())
    }

    /// Topics and queues that have a folder, as far as their names can be read.
    pub(crate) fn stored(&self) -> Result<Vec<(String, i32)>, Error> {
        let mut found = Vec::new();
        for topic in names(&self.dir)? {
            let dir = self.dir.join(&topic);
            if dir.is_dir() {
                found.extend(names(&dir)?.into_iter().filter_map(|q| Some((topic.clone(), q.parse().ok()?))));
            }
        }
        Ok(found)
    }

    /// First queue offsets of the files that a queue has, rising.
    fn files(&self, queue: &Queue) -> Result<Vec<i64>, Error> {
        let offset = |name: String| {
            let bytes: i64 = name.parse().ok()?;
            (name.len() == 20 && (0..OFFSET_MAX * UNIT).contains(&bytes)).then_some(bytes / UNIT)
        };
        let mut starts: Vec<i64> = names(&self.queue_dir(queue))?.into_iter().filter_map(offset).collect();
        starts.sort_unstable();
        Ok(starts)
    }

    fn topic_dir(&self, queue: &Queue) -> PathBuf {
        self.dir.join(queue.topic.as_str())
    }

    fn queue_dir(&self, queue: &Queue) -> PathBuf {
        self.topic_dir(queue).join(queue.id.to_string())
    }

    fn path(&self, queue: &Queue, start: i64) -> PathBuf {
        self.queue_dir(queue).join(format!("{:020}", start * UNIT))
    }

    fn open_for_writing(
        &self,
        disk: &dyn Disk,
        queue: &Queue,
        start: i64,
        unsynced: &mut Unsynced,
    ) -> Result<Arc<dyn DiskFile>, Error> {
        if let Some(file) = locked(&self.writing).get(queue.number, start) {
            return Ok(file);
        }
        let path = self.path(queue, start);
        let fail = |e| Error::io("open", &path, e);
        let file = match disk.open(&path, Open::Existing) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parents = [self.topic_dir(queue), self.queue_dir(queue)];
                for (made, parent) in [(&parents[0], &self.dir), (&parents[1], &parents[0])] {
                    match disk.create_dir(made) {
                        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                        done => {
                            done.map_err(fail)?;
                            unsynced.dirs.insert(parent.clone());
                        }
                    }
                }
                unsynced.dirs.insert(parents[1].clone());
                disk.open(&path, Open::OrCreate).map_err(fail)?
            }
            opened => opened.map_err(fail)?,
        };
        if file.file().metadata().map_err(fail)?.len() < FILE_BYTES {
            file.set_len(FILE_BYTES).map_err(fail)?;
        }
        locked(&self.writing).put(queue.number, start, file.clone());
        Ok(file)
    }

    fn open_for_reading(&self, queue: &Queue, start: i64) -> io::Result<Arc<File>> {
        if let Some(file) = locked(&self.reading).get(queue.number, start) {
            return Ok(file);
        }
        let file = Arc::new(File::open(self.path(queue, start))?);
        locked(&self.reading).put(queue.number, start, file.clone());
        Ok(file)
    }

    fn close(&self, queue: &Queue, start: i64) {
        locked(&self.reading).files.remove(&(queue.number, start));
        locked(&self.writing).files.remove(&(queue.number, start));
    }
}

/// The files used last, at most [`OPEN_FILES_MAX`].
#[derive(Debug)]
struct OpenFiles<T> {
    files: HashMap<(u32, i64), (T, u64)>,
    uses: u64,
}

impl<T> Default for OpenFiles<T> {
    fn default() -> Self {
        Self { files: HashMap::new(), uses: 0 }
    }
}

impl<T: Clone> OpenFiles<T> {
    fn get(&mut self, number: u32, start: i64) -> Option<T> {
        let (file, used) = self.files.get_mut(&(number, start))?;
        self.uses += 1;
        *used = self.uses;
        Some(file.clone())
    }

    fn put(&mut self, number: u32, start: i64, file: T) {
        if self.files.len() >= OPEN_FILES_MAX {
            // The older half goes at once, so that the search is paid once for many files.
            let mut uses: Vec<u64> = self.files.values().map(|(_, used)| *used).collect();
            let (_, &mut middle, _) = uses.select_nth_unstable(OPEN_FILES_MAX / 2);
            self.files.retain(|_, (_, used)| *used > middle);
        }
        self.uses += 1;
        self.files.insert((number, start), (file, self.uses));
    }
}

fn locked<T>(files: &Mutex<OpenFiles<T>>) -> std::sync::MutexGuard<'_, OpenFiles<T>> {
    // The files are a cache: one that a panicking thread left behind is still right.
    files.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// First queue offset of the file that a queue offset falls into, and its place there in bytes.
fn place(offset: i64) -> (i64, u64) {
    let inside = offset.rem_euclid(FILE_UNITS);
    (offset - inside, inside.unsigned_abs() * UNIT_BYTES as u64)
}

/// The first offset in `low..high` for which `before` does not hold; it holds for none after that.
fn partition(mut low: i64, mut high: i64, before: impl Fn(i64) -> Result<bool, Error>) -> Result<i64, Error> {
    if low < high && !before(low)? {
        return Ok(low);
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Whether anything but zeros stands in a file from a place on.
fn has_data(path: &Path, place: u64) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut page = [0; 4096];
    let len = file.read_at(&mut page, place)?;
    if page.iter().take(len).any(|&b| b != 0) {
        return Ok(true);
    }
    let from = i64::try_from(place + 4096).map_err(|_| io::ErrorKind::InvalidData)?;
    match lseek(&file, from, Whence::SeekData) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::ENXIO) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Names in a folder; none if there is no such folder.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let fail = |e| Error::io("list", dir, e);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not text is none that a store makes.
        names.extend(entry.map_err(fail)?.file_name().into_string().ok());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_the_bytes_that_rocketmq_writes() {
        let unit = Unit { log_offset: 1000, size: 250, tag_hash: sluice_protocol::message::tag_hash("TagA") };
        let expected = [0, 0, 0, 0, 0, 0, 0x03, 0xe8, 0, 0, 0, 0xfa, 0, 0, 0, 0, 0, 0x27, 0xa8, 0x07];
        assert_eq!(unit.encode(), expected);
        assert_eq!(Unit::decode(&expected), unit);
        assert!(unit.is_record() && !Unit::BLANK.is_record());
    }

    #[test]
    fn the_partition_point_is_found_in_every_range() {
        for point in 0..40 {
            assert_eq!(partition(0, 33, |o| Ok(o < point)).unwrap(), point.min(33));
        }
        assert_eq!(partition(5, 5, |_| Ok(true)).unwrap(), 5);
    }
}
