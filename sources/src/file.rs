//! Source `file`: CSV and NDJSON files by a pattern, plain or gzip.
//!
//! Each file is a chain of its own: its path below the pattern's fixed part is the topic, the queue is 0,
//! and a record's number from 0 is its offset (records that do not fit count, the CSV header does not). So a
//! file that is new in the pattern renumbers nothing, and one that grows goes on where it was read to. Ends
//! when the files have been read; with `follow` the source of that name goes on for ever.

mod config;
mod csv;
pub mod follow;
mod incarnation;
mod input;
mod lines;
mod number;
mod records;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sluice_connect::progress::Stop;
use sluice_connect::task::{Class, Confirm, Needs, Range, Read, SourceQueue, SourceTask, TaskError};

pub use self::config::{FileConfig, FileFormat, FileStart, OnLost};
use self::incarnation::{SameFiles, incarnation};
use self::input::Input;
use self::records::{HEAD_BYTES_MAX, Next, Records};
use crate::envelope::{Mapping, Rows};

/// A longer record is a reject, in bytes as it stands in the (unpacked) file.
pub const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How often the way to a position looks whether a stop is asked for, in records.
const STOP_RECORDS: i64 = 1024;

/// Files that one pattern may match.
const FILES_MAX: usize = 65_536;

/// Files that stay open between reads, so that a runtime that reads them in turn does not start anew
/// each time. The one read longest ago is closed first.
const OPEN_FILES_MAX: usize = 64;

/// Reads files of records.
pub struct FileSource {
    config: FileConfig,
    needs: Needs,
    stop: Arc<Stop>,
    files: Vec<SourceFile>,
    /// Open files, the one read last at the end.
    cursors: Vec<Cursor>,
}

struct SourceFile {
    path: PathBuf,
    topic: Arc<str>,
    incarnation: String,
}

/// An open file and where it stands.
struct Cursor {
    file: usize,
    next: i64,
    records: Records,
    mapping: Mapping,
    /// Bytes of bodies in its last slice.
    body_bytes: usize,
}

impl FileSource {
    /// A source that has not looked at any file yet.
    pub fn new(config: FileConfig) -> Self {
        let (needs, stop) = (Needs::default(), Arc::default());
        Self { config, needs, stop, files: Vec::new(), cursors: Vec::new() }
    }

    /// The same, ending early when `stop` is asked for.
    #[must_use]
    pub fn with_stop(self, stop: Arc<Stop>) -> Self {
        Self { stop, ..self }
    }

    /// The files that the pattern matches now, by path.
    fn find_files(&self) -> Result<Vec<SourceFile>, TaskError> {
        let pattern = &self.config.path;
        let mut files = Vec::new();
        for (path, topic) in matched(pattern)? {
            let incarnation = incarnation(&path)?;
            files.push(SourceFile { path, topic, incarnation });
        }
        if files.is_empty() {
            return Err(TaskError::new(Class::Config, format!("no file matches `{pattern}`")));
        }
        Ok(files)
    }

    fn open_cursor(&self, file: usize) -> Result<Cursor, TaskError> {
        let SourceFile { path, .. } = &self.files[file];
        let (input, place) = (Input::open(path)?, path.display().to_string());
        let Some((records, mapping)) = Records::open(&self.config, input, &place)? else {
            return Err(TaskError::new(Class::Fatal, format!("the header of {place} has no end")));
        };
        Ok(Cursor { file, next: 0, records, mapping, body_bytes: 0 })
    }

    /// The file's cursor at `start`: the open one if it has not passed it, else a new one. It stands before
    /// `start` if a stop is asked for.
    fn cursor_at(&mut self, file: usize, start: i64) -> Result<Cursor, TaskError> {
        let open = self.cursors.iter().position(|c| c.file == file).map(|at| self.cursors.remove(at));
        let mut cursor = match open {
            Some(cursor) if cursor.next <= start => cursor,
            _ => self.open_cursor(file)?,
        };
        // Reading up to the position may take long.
        while cursor.next < start && !(cursor.next % STOP_RECORDS == 0 && self.stop.is_asked()) {
            if let Next::End = cursor.records.next()? {
                let path = self.files[file].path.display();
                return Err(TaskError::new(
                    Class::Config,
                    format!("{path} has {} records, but this pipeline has already read {start}", cursor.next),
                ));
            }
            cursor.next += 1;
        }
        Ok(cursor)
    }
}

impl SourceTask for FileSource {
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError> {
        self.config.check()?;
        self.needs = needs.clone();
        self.cursors.clear();
        self.files = self.find_files()?;
        // A wrong header should stop the pipeline now and not after hours of other files.
        for file in 0..self.files.len() {
            self.open_cursor(file)?;
        }
        Ok(())
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        let queue = |file: &SourceFile| SourceQueue {
            topic: Arc::clone(&file.topic),
            queue: 0,
            incarnation: file.incarnation.clone(),
            first: 0,
            origin: 0,
        };
        Ok(self.files.iter().map(queue).collect())
    }

    fn read(&mut self, topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError> {
        let Some(file) = self.files.iter().position(|f| &*f.topic == topic).filter(|_| queue == 0) else {
            return Err(TaskError::new(Class::Fatal, format!("source file has no queue {topic}/{queue}")));
        };
        if range.start >= range.end {
            return Ok(Read::Idle);
        }
        let mut cursor = self.cursor_at(file, range.start)?;
        if cursor.next < range.start {
            return Ok(Read::Idle);
        }
        let Cursor { next, records, mapping, body_bytes, .. } = &mut cursor;
        let mut rows = Rows::new(&self.needs, mapping, *body_bytes);
        while *next < range.end && (*next == range.start || !rows.is_full(bytes_max)) {
            let place = |records: &Records| format!("{}:{}", self.files[file].path.display(), records.line());
            if let Next::End | Next::Pending = records.push_next(&mut rows, *next, place)? {
                break;
            }
            *next += 1;
        }
        *body_bytes = rows.body_bytes();
        let end = *next;
        let read = if end == range.start {
            Read::Ended
        } else {
            Read::Slice(rows.finish(topic, Range { start: range.start, end })?)
        };
        if self.cursors.len() == OPEN_FILES_MAX {
            self.cursors.remove(0);
        }
        self.cursors.push(cursor);
        Ok(read)
    }

    fn wait(&mut self, _timeout: Duration) {
        // A file is never idle: it has a record or it has ended.
    }

    fn end(&mut self, _topic: &str, _queue: i32) -> Option<i64> {
        None
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        let files = self.files.iter().map(|file| (Arc::clone(&file.topic), file.path.clone()));
        Arc::new(SameFiles(files.collect()))
    }
}

/// The files that a pattern matches now, each with its topic, by path. A path that is no pattern is given as it is.
fn matched(pattern: &str) -> Result<Vec<(PathBuf, Arc<str>)>, TaskError> {
    let is_plain = is_plain(pattern);
    let found = if is_plain { vec![PathBuf::from(pattern)] } else { expand(pattern)? };
    let fixed = fixed_part(pattern);
    let mut files = Vec::with_capacity(found.len());
    for path in found {
        let topic = if is_plain { path.file_name().map(Path::new) } else { Some(path.as_path()) };
        let topic = topic.map(|p| below(p, if is_plain { Path::new("") } else { fixed }));
        let Some(topic) = topic.as_deref().and_then(Path::to_str).filter(|topic| !topic.is_empty()) else {
            let message = format!("path {} has no name in UTF-8", path.display());
            return Err(TaskError::new(Class::Config, message));
        };
        let topic = Arc::from(topic);
        files.push((path, topic));
    }
    Ok(files)
}

/// Whether a path has no wildcard.
fn is_plain(pattern: &str) -> bool {
    !pattern.contains(['*', '?', '['])
}

fn expand(pattern: &str) -> Result<Vec<PathBuf>, TaskError> {
    let paths = glob::glob(pattern)
        .map_err(|e| TaskError::new(Class::Config, format!("pattern `{pattern}` is not valid")).because(e))?;
    let mut found = Vec::new();
    for path in paths {
        let path = match path {
            Ok(path) => path,
            // A folder that went while it was looked at.
            Err(e) if e.error().kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                let message = format!("cannot read {}, which `{pattern}` matches", e.path().display());
                return Err(TaskError::new(Class::Config, message).because(e));
            }
        };
        // A wildcard also meets folders; they are not what is asked for.
        if path.is_dir() {
            continue;
        }
        if found.len() == FILES_MAX {
            return Err(TaskError::new(
                Class::Config,
                format!("`{pattern}` matches more than {FILES_MAX} files"),
            ));
        }
        found.push(path);
    }
    Ok(found)
}

/// The folders of a pattern before its first wildcard.
fn fixed_part(pattern: &str) -> &Path {
    let wildcard = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    Path::new(pattern[..wildcard].rfind('/').map_or("", |slash| &pattern[..=slash]))
}

/// The path below a folder, without a leading `./`.
fn below(path: &Path, folder: &Path) -> PathBuf {
    let named = |path: &Path| path.components().filter(|c| *c != Component::CurDir).collect::<PathBuf>();
    let path = named(path);
    path.strip_prefix(named(folder)).map(Path::to_path_buf).unwrap_or(path)
}

/// Appends UTF-8 text as a JSON string.
fn json_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
