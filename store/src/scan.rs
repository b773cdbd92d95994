//! Reads the commit log from a position on, as far as it is whole. Never writes, never maps: it looks at
//! bytes that may be torn, or that a writer is just writing.
//!
//! A run that the tail vouches for is taken at once. Where the tail says nothing, each record is checked by
//! itself: position, lengths, body, and where we wrote it also that no zero byte stands in its topic or
//! properties, which a torn sector would leave there. An atomic batch of ours is taken whole or not at all;
//! another broker may have copied its mark to a record that stands alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sluice_protocol::record::{
    self, FILLER_BYTES, MAGIC_V1, MAGIC_V2, Record, filler_size, hash_unpatched, records,
};

use crate::Error;
use crate::batch::BatchMark;
use crate::consume_queue::OFFSET_MAX;
use crate::segment;
use crate::tail::TailRun;

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;
/// A batch of no more bytes is read at once. Its mark may claim any length.
const BATCH_BYTES: u64 = 16 << 20;
/// Bytes of a record up to its log offset.
const HEAD_BYTES: usize = 36;

/// A record that is whole.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) record: Record<'a>,
    /// The mark of the batch that begins here.
    pub(crate) mark: Option<BatchMark>,
    /// Whether the tail vouched for its run.
    pub(crate) vouched: bool,
}

/// Where the log is read.
#[derive(Debug)]
pub(crate) struct Scan {
    commit_log: PathBuf,
    base: u64,
    segment_bytes: u64,
    /// Log offset up to which everything was whole.
    pub(crate) at: u64,
    /// What the tail says of runs.
    pub(crate) runs: BTreeMap<u64, TailRun>,
    /// Log offsets of records that no other broker wrote: there marks count, and a zero byte in topic or
    /// properties means torn.
    pub(crate) ours: Range<u64>,
    /// Log offset from which only runs in the tail count: a writer may be at work there.
    pub(crate) vouched_from: u64,
    window: Window,
}

impl Scan {
    /// Reads from `at` on, with nothing known of runs.
    pub(crate) fn new(commit_log: PathBuf, base: u64, segment_bytes: u64, at: u64) -> Self {
        Self {
            commit_log,
            base,
            segment_bytes,
            at,
            runs: BTreeMap::new(),
            ours: 0..0,
            vouched_from: u64::MAX,
            window: Window::default(),
        }
    }

    /// Forgets what was read beyond what was whole, so that the next step looks again.
    pub(crate) fn look_again(&mut self) {
        self.window = Window::default();
    }

    /// Hands the records that follow to `take`, up to `end` or as far as they are whole.
    pub(crate) fn run(
        &mut self,
        end: u64,
        take: &mut dyn FnMut(&Found<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while self.at < end && self.step(take)? {}
        Ok(())
    }

    /// The place of a whole record that stands below `to`, behind what ended the log. It proves that the log
    /// was longer: a torn end has nothing whole behind it.
    pub(crate) fn whole_behind(&mut self, to: u64) -> Result<Option<u64>, Error> {
        let mut at = self.at + self.broken_off()?;
        while at < to {
            let end = self.segment_end(at);
            if !self.window.open(&self.commit_log, end - self.segment_bytes)? {
                return Ok(None);
            }
            let len = WINDOW_BYTES.min(to_len(end.min(to) - at));
            let starts: Vec<u64> = record_starts(self.window.get(at, len)?, at).collect();
            for start in starts {
                let ours = self.ours.contains(&start);
                let bytes = self.record_bytes(start, end - start)?;
                if Record::decode(bytes).is_ok_and(|r| is_whole(&r, start, ours)) {
                    return Ok(Some(start));
                }
            }
            // A head that the window cuts is found again in the next one.
            at = if at + len as u64 >= end.min(to) { end } else { at + (len - HEAD_BYTES) as u64 };
        }
        Ok(None)
    }

    /// Bytes of the batch at the log's end whose later records are missing.
    fn broken_off(&mut self) -> Result<u64, Error> {
        let (at, end) = (self.at, self.segment_end(self.at));
        if !self.ours.contains(&at) || !self.window.open(&self.commit_log, end - self.segment_bytes)? {
            return Ok(0);
        }
        let Some(mark) = mark_of(self.record_bytes(at, end - at)?) else { return Ok(0) };
        let (whole_to, _) = self.whole_to(at, at + mark.bytes.min(end - at), true)?;
        Ok(whole_to - at)
    }

    /// How far records are whole from one place to another, and how many there are.
    fn whole_to(&mut self, mut at: u64, end: u64, strict: bool) -> Result<(u64, u64), Error> {
        let mut count = 0;
        while at < end {
            let record = Record::decode(self.record_bytes(at, end - at)?).ok();
            let Some(record) = record.filter(|record| is_whole(record, at, strict)) else { break };
            at += record.size as u64;
            count += 1;
        }
        Ok((at, count))
    }

    /// The bytes that the record at a log offset has, if it looks like one; none if there is not so much room.
    fn record_bytes(&mut self, at: u64, room: u64) -> Result<&[u8], Error> {
        let size = record::size(self.window.get(at, record::HEAD_BYTES)?).unwrap_or(0);
        self.window.get(at, if size as u64 <= room { size } else { 0 })
    }

    /// The segment that it stands in.
    pub(crate) fn path(&self) -> PathBuf {
        segment::path(&self.commit_log, self.segment_start(self.at))
    }

    /// Log offset at which the segment of a log offset begins.
    pub(crate) fn segment_start(&self, at: u64) -> u64 {
        at - (at - self.base) % self.segment_bytes
    }

    fn segment_end(&self, at: u64) -> u64 {
        self.segment_start(at) + self.segment_bytes
    }

    /// One run, batch, record or filler; whether there was one.
    fn step(&mut self, take: &mut dyn FnMut(&Found<'_>) -> Result<(), Error>) -> Result<bool, Error> {
        let end = self.segment_end(self.at);
        if !self.window.open(&self.commit_log, end - self.segment_bytes)? {
            return Ok(false);
        }
        let at = self.at;
        let room = end - at;
        let ours = self.ours.contains(&at);
        if let Some(run) = self.runs.get(&at).copied()
            && u64::from(run.bytes) <= room
        {
            let bytes = self.window.get(at, run.bytes as usize)?;
            if is_whole_run(bytes, at, run) {
                hand_on(bytes, mark_of(bytes), true, take)?;
                self.at += u64::from(run.bytes);
                return Ok(true);
            }
            if whole_records(bytes, at, true) == run.bytes as usize {
                // Each record looks right and the run does not: nobody can say which of them is wrong.
                return Ok(false);
            }
        }
        let head = self.window.get(at, FILLER_BYTES)?;
        if filler_size(head).is_some_and(|size| u64::from(size) == room) {
            self.at = end;
            return Ok(true);
        }
        if at >= self.vouched_from {
            return Ok(false);
        }
        let record = Record::decode(self.record_bytes(at, room)?).ok().filter(|r| is_whole(r, at, ours));
        let Some(record) = record else { return Ok(false) };
        let Some(mark) = BatchMark::read(record.properties).filter(|_| ours) else {
            take(&Found { record, mark: None, vouched: false })?;
            self.at += record.size as u64;
            return Ok(true);
        };
        // One after the other: what a mark says of a batch's length is not believed before.
        let batch_end = at.saturating_add(mark.bytes);
        // It is looked at twice.
        self.window.get(at, to_len(mark.bytes.min(BATCH_BYTES)))?;
        if mark.records == 0
            || batch_end > end
            || self.whole_to(at, batch_end, true)? != (batch_end, mark.records)
        {
            return Ok(false);
        }
        let mut mark = Some(mark);
        while self.at < batch_end {
            let bytes = self.record_bytes(self.at, batch_end - self.at)?;
            let Ok(record) = Record::decode(bytes) else { return Ok(false) };
            take(&Found { record, mark: mark.take(), vouched: false })?;
            self.at += record.size as u64;
        }
        Ok(true)
    }
}

/// Places in `bytes`, which stand at a log offset, where a record begins as far as its magic and its own log
/// offset tell.
fn record_starts(bytes: &[u8], at: u64) -> impl Iterator<Item = u64> {
    let heads = bytes.windows(HEAD_BYTES).enumerate().filter(move |(i, head)| {
        let magic = head.get(4..8).and_then(|m| m.first_chunk()).map(|m| u32::from_be_bytes(*m));
        let own = head.get(28..36).and_then(|o| o.first_chunk()).map(|o| u64::from_be_bytes(*o));
        matches!(magic, Some(MAGIC_V1 | MAGIC_V2)) && own == Some(at + *i as u64)
    });
    heads.map(move |(i, _)| at + i as u64)
}

/// Hands records on; only the first one of a run or batch carries a mark.
fn hand_on(
    bytes: &[u8],
    mut mark: Option<BatchMark>,
    vouched: bool,
    take: &mut dyn FnMut(&Found<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    for record in records(bytes).flatten() {
        take(&Found { record, mark: mark.take(), vouched })?;
    }
    Ok(())
}

/// The mark on the record at the start of `bytes`.
fn mark_of(bytes: &[u8]) -> Option<BatchMark> {
    BatchMark::read(Record::decode(bytes).ok()?.properties)
}

/// Length in bytes of the records at the start of `bytes` that are whole.
fn whole_records(bytes: &[u8], at: u64, strict: bool) -> usize {
    let mut len = 0;
    for record in records(bytes).map_while(Result::ok) {
        if !is_whole(&record, at + len as u64, strict) {
            break;
        }
        len += record.size;
    }
    len
}

fn is_whole(record: &Record<'_>, at: u64, strict: bool) -> bool {
    record.log_offset == at
        && record.queue_id >= 0
        && (0..OFFSET_MAX).contains(&record.queue_offset)
        && record.check_body_crc()
        && !(strict && (record.properties.contains(&0) || record.topic.as_bytes().contains(&0)))
}

fn is_whole_run(bytes: &[u8], at: u64, run: TailRun) -> bool {
    let mut hasher = crc32fast::Hasher::new();
    let mut len = 0;
    for record in records(bytes).map_while(Result::ok) {
        if record.log_offset != at + len as u64 {
            return false;
        }
        hash_unpatched(&mut hasher, bytes.get(len..len + record.size).unwrap_or(&[]));
        len += record.size;
    }
    len == run.bytes as usize && hasher.finalize() == run.crc
}

fn to_len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A part of one segment in memory.
#[derive(Debug, Default)]
struct Window {
    file: Option<(u64, PathBuf, File)>,
    /// The buffer, which never shrinks: to make it anew costs as much as to read into it.
    bytes: Vec<u8>,
    /// How many of its bytes were read.
    held: usize,
    /// Log offset of the first byte.
    at: u64,
}

impl Window {
    /// Turns to the segment that starts at a log offset; whether there is one.
    fn open(&mut self, commit_log: &std::path::Path, start: u64) -> Result<bool, Error> {
        if self.file.as_ref().is_some_and(|(open, ..)| *open == start) {
            return Ok(true);
        }
        let path = segment::path(commit_log, start);
        self.held = 0;
        self.file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            opened => Some((start, path.clone(), opened.map_err(|e| Error::io("open", &path, e))?)),
        };
        Ok(self.file.is_some())
    }

    /// Bytes from a log offset of the open segment on: `len` of them, fewer where the file ends.
    fn get(&mut self, at: u64, len: usize) -> Result<&[u8], Error> {
        let have = self.at..self.at + self.held as u64;
        if !(have.contains(&at) && at + len as u64 <= have.end) {
            self.fill(at, len.max(WINDOW_BYTES))?;
        }
        let skip = to_len(at - self.at);
        let end = skip.saturating_add(len).min(self.held);
        Ok(self.bytes.get(skip..end).unwrap_or(&[]))
    }

    fn fill(&mut self, at: u64, len: usize) -> Result<(), Error> {
        let Some((start, path, file)) = &self.file else { return Ok(()) };
        let file_len = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        let left = to_len((start + file_len).saturating_sub(at));
        // None of the bytes may stand at another place, if a read fails.
        (self.at, self.held) = (at, 0);
        let wanted = len.min(left);
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        while let Some(rest) = self.bytes.get_mut(self.held..wanted).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, at - start + self.held as u64) {
                Ok(0) => break,
                Ok(n) => self.held += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", path, e)),
            }
        }
        Ok(())
    }
}
