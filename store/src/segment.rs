//! One file of the commit log, read mapped. One of the three places of `unsafe`.
//!
//! Written elsewhere, by position through the file layer; this module never writes. A segment is mapped
//! once, whole, and its bytes are handed out as [`Bytes`] over the map, cut to the range asked for. Only
//! the part below the committed position may be asked for: those bytes never change again.
//!
//! Why not write through the map too: on 2 cores, ext4, the same runs of 32 records of 1 KiB go into a segment
//! at 0.86 to 0.97 times the throughput by `pwritev` (2,300 MiB/s) that they have by a copy into a writable map
//! (2,400 MiB/s). For that little a full or failing disk is an error of one append there, and here a signal
//! that ends the process. `cargo bench -p sluice-store` measures it again.

#![expect(unsafe_code, reason = "maps files")]

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};

/// A range at least this long is given back to the kernel when the last reader drops it, in bytes.
const FORGET_BYTES_MIN: usize = 64 * 1024;

/// What one table of pages maps, in bytes. A page that is missing comes with its neighbours there, since Linux 6.18 with all
/// of its folio, so a map is given back to the kernel by whole tables.
const TABLE_BYTES: usize = 2 * 1024 * 1024;

/// The times of files are this coarse at most: Linux before 6.13 takes them from its timer, at the slowest 100 times a second.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// Name of the segment that starts at a log offset.
pub(crate) fn path(commit_log: &Path, start: u64) -> PathBuf {
    commit_log.join(format!("{start:020}"))
}

/// When the segment that starts at a log offset was written to last, in ns since 1970-01-01 UTC. None if it can not be told,
/// or so lately that one who writes next may give the file the same time.
pub(crate) fn written_ns(commit_log: &Path, start: u64) -> Option<u64> {
    let written = fs::metadata(path(commit_log, start)).and_then(|metadata| metadata.modified()).ok()?;
    written.elapsed().ok().filter(|age| *age >= CLOCK_TICK)?;
    u64::try_from(written.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// One mapped file of the commit log.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Log offset of its first byte.
    start: u64,
    map: MmapRaw,
}

impl Segment {
    /// Maps a file as long as it is now; the descriptor is not kept.
    pub(crate) fn map(file: &File, start: u64) -> io::Result<Arc<Self>> {
        let map = MmapOptions::new().map_raw_read_only(file)?;
        Ok(Arc::new(Self { start, map }))
    }

    /// Log offset of its first byte.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Log offset after its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.map.len() as u64
    }

    /// The bytes between two log offsets, without a copy; `None` if they are not all in this segment.
    /// The caller sees to it that they are below the committed position.
    pub(crate) fn view(self: &Arc<Self>, from: u64, to: u64) -> Option<Bytes> {
        let range = self.range(from, to)?;
        Some(Bytes::from_owner(View { segment: self.clone(), range }))
    }

    fn range(&self, from: u64, to: u64) -> Option<Range<usize>> {
        let start = usize::try_from(from.checked_sub(self.start)?).ok()?;
        let end = usize::try_from(to.checked_sub(self.start)?).ok()?;
        (start <= end && end <= self.map.len()).then_some(start..end)
    }
}

/// A range of a segment that someone reads; it keeps the map alive.
struct View {
    segment: Arc<Segment>,
    range: Range<usize>,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        let map = &self.segment.map;
        // SAFETY: the range was checked against the map's length, and `self` keeps the map. The bytes are
        // below the committed position, so nobody writes them any more, and no process shortens a segment:
        // a torn tail is zeroed in place, and retention removes the name only. Benefit: the body of a
        // message goes from the page cache to its reader without a copy.
        unsafe { slice::from_raw_parts(map.as_ptr().add(self.range.start), self.range.len()) }
    }
}

impl Drop for View {
    /// Gives back the tables that end in the range: whoever reads on needs the last one.
    fn drop(&mut self) {
        let (map, Range { start, end }) = (&self.segment.map, self.range.clone());
        let address = map.as_ptr().addr();
        let table = |at: usize| ((address + at) / TABLE_BYTES * TABLE_BYTES).saturating_sub(address);
        let last = if end == map.len() { end } else { table(end) };
        let (start, end) = if table(start) < last { (table(start), last) } else { (start, end) };
        if end - start < FORGET_BYTES_MIN {
            return;
        }
        // SAFETY: the map is shared with its file and read-only, so the pages stay in the page cache and
        // whoever reads them again gets the same bytes. Benefit: a reader that streams a long log keeps a
        // few MiB of it in its resident memory, not the whole.
        let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_view_shows_what_is_written_by_position_and_outlives_the_segment() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        let segment = Segment::map(&file, 1 << 20).unwrap();
        assert_eq!((segment.start(), segment.end()), (1 << 20, 9 << 20));
        file.write_all_at(&vec![7; 6 << 20], 1000).unwrap();
        let end = (7 << 20) + 1000;
        let view = segment.view((1 << 20) + 1000, end).unwrap();
        let again = segment.view((1 << 20) + 1000, end).unwrap();
        assert!(segment.view(0, 5).is_none() && segment.view(9 << 20, (9 << 20) + 1).is_none());
        drop((segment, file));
        drop(view);
        assert!(again.iter().all(|&b| b == 7), "the pages fault in again");
    }
}
