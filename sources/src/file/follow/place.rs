//! An open file of a log, and where it is read to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sluice_connect::task::{Class, Needs, Range, Slice, TaskError};

use super::super::config::FileConfig;
use super::super::input::Input;
use super::super::records::{Next, Records};
use super::mark::{FileKey, Mark};
use super::{now, unreadable};
use crate::envelope::{Mapping, Rows};

/// The window of a followed file before a long record makes it grow, in bytes.
const WINDOW_BYTES: usize = 64 * 1024;
/// A file that may grow is not opened before it has so many bytes: a byte order mark, or the first two of gzip, would
/// not be known.
const OPEN_BYTES_MIN: u64 = 3;

/// How a file looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    key: FileKey,
    len: u64,
    modified_ns: i128,
}

impl Stat {
    pub(super) fn new(metadata: &fs::Metadata) -> Self {
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self { key: FileKey::from(metadata), len: metadata.len(), modified_ns }
    }

    /// How the file at a path looks; `None` if there is none.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|metadata| Some(Self::new(&metadata))),
        }
    }
}

/// A file that was read to its end before this one.
pub(super) struct Previous {
    pub(super) key: FileKey,
    file: Arc<File>,
    path: PathBuf,
    len: u64,
}

/// An open file.
pub(super) struct Place {
    pub(super) file: Arc<File>,
    pub(super) key: FileKey,
    /// The name that it was opened by.
    pub(super) path: PathBuf,
    /// The offset of the next record.
    pub(super) next: i64,
    /// Where that record begins.
    pub(super) mark: Mark,
    /// Whether it has its log's name, as far as known.
    pub(super) is_live: bool,
    /// Nothing more comes behind its end.
    pub(super) is_finished: bool,
    /// What was read of it is not there any more.
    pub(super) is_cut: bool,
    /// What was read before is to be published first.
    pub(super) must_hold: bool,
    pub(super) look_at: Option<Instant>,
    pub(super) rotated: Option<Instant>,
    pub(super) previous: Option<Previous>,
    grown: Instant,
    /// How it looked when its end was met.
    seen: Stat,
    records: Option<(Records, Mapping)>,
    /// The byte from which lines are counted.
    counted_from: u64,
    body_bytes: usize,
}

impl Place {
    /// A file whose next record is a mark's.
    pub(super) fn new(file: Arc<File>, key: FileKey, path: &Path, mark: &Mark) -> Result<Self, TaskError> {
        let mark = Mark::of(&file, key, mark.offset, mark.byte).map_err(|e| unreadable(path, e))?;
        Ok(Self {
            file,
            key,
            path: path.to_path_buf(),
            next: mark.offset,
            mark,
            is_live: false,
            is_finished: false,
            is_cut: false,
            must_hold: false,
            look_at: None,
            rotated: None,
            previous: None,
            grown: now(),
            seen: Stat { key, len: 0, modified_ns: 0 },
            records: None,
            counted_from: 0,
            body_bytes: 0,
        })
    }

    /// The same; what was read before is published first, so that a plan holds rows of one file.
    pub(super) fn held(self) -> Self {
        Self { must_hold: true, ..self }
    }

    /// The same, after a file that was read to its end.
    pub(super) fn after(self, before: &Self) -> Self {
        let Self { file, key, path, .. } = before;
        let len = before.seen.len;
        let previous = Previous { key: *key, file: Arc::clone(file), path: path.clone(), len };
        Self { previous: Some(previous), ..self }
    }

    fn stat(&self) -> Result<Stat, TaskError> {
        let metadata = self.file.metadata().map_err(|e| unreadable(&self.path, e))?;
        Ok(Stat::new(&metadata))
    }

    /// Whether it has a name still, by which it can be opened again.
    pub(super) fn is_named(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }

    /// When it was written to last, in ns.
    pub(super) fn modified_ns(&self) -> Result<i128, TaskError> {
        Ok(self.stat()?.modified_ns)
    }

    /// Its records from [`Self::mark`] on; `None` if its beginning is not whole yet.
    pub(super) fn records(&mut self, config: &FileConfig) -> Result<Option<&mut Records>, TaskError> {
        if self.records.is_none() {
            self.seen = self.stat()?;
            if !self.is_finished && self.seen.len < OPEN_BYTES_MIN {
                return Ok(None);
            }
            let shown = self.path.display().to_string();
            let input = Input::over(Arc::clone(&self.file), shown.clone(), !self.is_finished, WINDOW_BYTES)?;
            let Some((mut records, mapping)) = Records::open(config, input, &shown)? else { return Ok(None) };
            self.counted_from = 0;
            if self.mark.byte > records.position() {
                self.counted_from = self.mark.byte;
                if !records.skip_to(self.mark.byte)? {
                    let message = format!("{shown} is shorter than when it was opened: it was cut");
                    return Err(TaskError::new(Class::Retry, message));
                }
            }
            self.records = Some((records, mapping));
        }
        Ok(self.records.as_mut().map(|(records, _)| records))
    }

    /// Reads from `range.start`, which is the next record: rows if there are any, with the mark of the first, and where
    /// it ended. If the file was cut meanwhile there are none, and nothing has moved: what it has now is no rest of it.
    pub(super) fn read(
        &mut self,
        topic: &str,
        config: &FileConfig,
        needs: &Needs,
        range: Range,
        bytes_max: usize,
    ) -> Result<(Option<(Slice, Mark)>, Next), TaskError> {
        let first = self.mark.clone();
        let stat = self.stat()?;
        self.records(config)?;
        let (path, counted_from) = (&self.path, self.counted_from);
        let Some((records, mapping)) = &mut self.records else { return Ok((None, Next::Pending)) };
        let mut rows = Rows::new(needs, mapping, self.body_bytes);
        let mut stopped = Next::Record;
        let mut next = range.start;
        while next < range.end && (next == range.start || !rows.is_full(bytes_max)) {
            let place = |records: &Records| match counted_from {
                0 => format!("{}:{}", path.display(), records.line()),
                _ => format!("{}, byte {}", path.display(), records.start()),
            };
            stopped = records.push_next(&mut rows, next, place)?;
            match stopped {
                Next::Record | Next::Bad(_) => next += 1,
                Next::Pending | Next::End => break,
            }
        }
        let seen = match records.input().read_bytes() {
            Some(len) => Stat { len, ..stat },
            None => stat,
        };
        self.body_bytes = rows.body_bytes();
        if next == range.start {
            self.seen = seen;
            return Ok((None, stopped));
        }
        let (byte, is_packed) = (records.position(), records.input().is_gzip());
        let slice = rows.finish(topic, Range { start: range.start, end: next })?;
        let failed = |e| unreadable(path, e);
        let mark = Mark::of(&self.file, self.key, next, byte).map_err(failed)?;
        // After the mark was made, which must not be of what came after a cut either.
        if !is_packed && !first.holds(&self.file).map_err(failed)? {
            (self.records, self.is_cut) = (None, true);
            return Ok((None, Next::Pending));
        }
        (self.seen, self.next, self.mark) = (seen, next, mark);
        Ok((Some((slice, first)), stopped))
    }

    /// Marks the record that comes next.
    pub(super) fn update_mark(&mut self) -> Result<(), TaskError> {
        let byte = self.records.as_ref().map_or(self.mark.byte, |(records, _)| records.position());
        self.mark = Mark::of(&self.file, self.key, self.next, byte).map_err(|e| unreadable(&self.path, e))?;
        Ok(())
    }

    /// Nothing more comes behind its end.
    pub(super) fn finish(&mut self) {
        self.is_finished = true;
        if self.is_packed() {
            // Packed data that ended is opened anew.
            self.records = None;
        }
        if let Some((records, _)) = &mut self.records {
            records.input().finish();
        }
    }

    fn is_packed(&mut self) -> bool {
        self.records.as_mut().is_some_and(|(records, _)| records.input().is_gzip())
    }

    /// Whether it looks different than when its end was met.
    pub(super) fn has_changed(&mut self) -> Result<bool, TaskError> {
        let stat = self.stat()?;
        if stat == self.seen && !self.is_cut {
            return Ok(false);
        }
        self.grown = now();
        let is_packed = self.is_packed();
        let failed = |e| unreadable(&self.path, e);
        self.is_cut =
            stat.len < self.seen.len || !is_packed && !self.mark.holds(&self.file).map_err(failed)?;
        if is_packed {
            self.records = None;
        } else if !self.is_cut {
            // More of its head may be known now.
            self.update_mark()?;
        }
        Ok(true)
    }

    /// Whether nothing was written for so long, since it was seen that it is rotated, or by its times.
    pub(super) fn is_quiet(&mut self, wait: Duration) -> Result<bool, TaskError> {
        let rotated = *self.rotated.get_or_insert_with(now);
        if rotated.max(self.grown).elapsed() >= wait {
            return Ok(true);
        }
        let metadata = self.file.metadata().map_err(|e| unreadable(&self.path, e))?;
        let changed = metadata.modified().map_err(|e| unreadable(&self.path, e))?;
        let renamed = SystemTime::UNIX_EPOCH
            + Duration::new(u64::try_from(metadata.ctime()).unwrap_or(0), 0)
            // Parts of a second count as a whole one.
            + Duration::from_secs(1);
        Ok(wall_clock().duration_since(changed.max(renamed)).is_ok_and(|age| age >= wait))
    }

    /// Refuses to go on where the file before this one got more: it would be lost without a word.
    pub(super) fn check_previous(&mut self, config: &FileConfig) -> Result<(), TaskError> {
        let Some(previous) = &self.previous else { return Ok(()) };
        let Previous { path, len, .. } = previous;
        let metadata = previous.file.metadata().map_err(|e| unreadable(path, e))?;
        if metadata.len() <= *len {
            if metadata.nlink() == 0 || metadata.len() < *len {
                self.previous = None;
            }
            return Ok(());
        }
        Err(TaskError::new(
            Class::Config,
            format!(
                "{} (or what it was renamed to) got {} bytes more after it had been rotated away and quiet for {:?}, and \
                 its log is read on in the next file already: they are not read. Raise `rotate_wait`; started again, \
                 the pipeline goes on without them",
                path.display(),
                metadata.len() - len,
                config.rotate_wait()
            ),
        ))
    }

    /// How it looked, and when it is looked at next, if all that was there was read.
    pub(super) fn idle(&self) -> Option<(Stat, Instant)> {
        Some((self.seen, self.look_at?))
    }
}

#[expect(clippy::disallowed_methods, reason = "times of files are the system's")]
pub(super) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// The byte behind the last end of a line.
pub(super) fn end_of_last_line(file: &File) -> io::Result<u64> {
    let mut buffer = vec![0; WINDOW_BYTES];
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let len = usize::try_from(end - start).unwrap_or(buffer.len());
        let Some(part) = buffer.get_mut(..len) else { break };
        file.read_exact_at(part, start)?;
        if let Some(at) = memchr::memrchr(b'\n', part) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
