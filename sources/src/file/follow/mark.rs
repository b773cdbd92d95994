//! Where a followed file is read to, so that it is found again under another name: `offset` is the record that begins at
//! `byte` of the unpacked content. As a chain's incarnation it is written
//! `<head length>-<head hash>+<device>.<inode>+<offset>@<byte>+<tail length>-<tail hash>`.
//!
//! A file is the same if it has the inode and its content fits: the first bytes, and those before `byte`. Without the
//! inode (a copy, or after compression) the content alone may tell. Positions of files that were not followed hold their
//! head alone, of the packed content, and count from their first record.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use sluice_connect::config::hash;

use super::super::input::{FileAt, is_gzip};

/// Bytes that a head is made of, at most.
const HEAD_BYTES_MAX: usize = 4096;
/// Bytes that a tail is made of, at most.
const TAIL_BYTES_MAX: u64 = 256;

/// What the file system calls a file; another one may get it when this one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl From<&Metadata> for FileKey {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Some bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    len: usize,
    hash: String,
}

impl Part {
    fn of(bytes: &[u8]) -> Self {
        Self { len: bytes.len(), hash: hash(bytes) }
    }

    fn parse(text: &str) -> Option<Self> {
        let (len, hash) = text.split_once('-')?;
        let len = len.parse().ok().filter(|len| *len <= HEAD_BYTES_MAX)?;
        (hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| Self { len, hash: hash.to_owned() })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.len, self.hash)
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) offset: i64,
    pub(super) byte: u64,
    /// `None` in positions of files that were not followed.
    pub(super) key: Option<FileKey>,
    head: Part,
    tail: Part,
}

impl Mark {
    /// The mark of a record that begins at `byte`.
    pub(super) fn of(file: &Arc<File>, key: FileKey, offset: i64, byte: u64) -> io::Result<Self> {
        let head = read(content(file, 0)?, HEAD_BYTES_MAX)?;
        // To unpack all that lies before would cost too much.
        let tail_len = if is_gzip(file)? { 0 } else { byte.min(TAIL_BYTES_MAX) };
        let tail = match usize::try_from(tail_len).unwrap_or(0) {
            0 => Vec::new(),
            len => read(content(file, byte - tail_len)?, len)?,
        };
        Ok(Self { offset, byte, key: Some(key), head: Part::of(&head), tail: Part::of(&tail) })
    }

    /// Whether anything of the file is known beside its key.
    pub(super) fn tells_content(&self) -> bool {
        self.head.len > 0
    }

    /// Whether the same file, as it was known then, has the same head.
    pub(super) fn has_head_of(&self, other: &Self) -> bool {
        self.head == other.head
    }

    /// Whether the file has what was seen of the content, and all bytes before [`Self::byte`].
    pub(super) fn holds(&self, file: &Arc<File>) -> io::Result<bool> {
        let is_packed = is_gzip(file)?;
        let whole = match self.key {
            Some(_) => content(file, 0)?,
            None => Box::new(FileAt { file: Arc::clone(file), at: 0 }),
        };
        if Part::of(&fitting(read(whole, self.head.len))?) != self.head {
            return Ok(false);
        }
        let start = self.byte - self.tail.len as u64;
        if !is_packed && file.metadata()?.len() < self.byte {
            return Ok(false);
        }
        match content(file, start).and_then(|rest| read(rest, self.tail.len)) {
            Ok(tail) => Ok(Part::of(&tail) == self.tail),
            // Packed data that is shorter, or damaged.
            Err(e) if e.raw_os_error().is_none() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reads what [`fmt::Display`] wrote, or the incarnation of a file that was not followed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('+');
        let head = Part::parse(parts.next()?)?;
        let Some(key) = parts.next() else {
            return Some(Self { offset: 0, byte: 0, key: None, head, tail: Part::of(&[]) });
        };
        let (device, inode) = key.split_once('.')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let key = FileKey { device: hex(device)?, inode: hex(inode)? };
        let (offset, byte) = parts.next()?.split_once('@')?;
        let (offset, byte) = (offset.parse().ok()?, byte.parse().ok()?);
        let tail = Part::parse(parts.next()?).filter(|tail| tail.len as u64 <= byte)?;
        let is_whole = offset >= 0 && parts.next().is_none();
        is_whole.then_some(Self { offset, byte, key: Some(key), head, tail })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, byte, key, head, tail } = self;
        match key {
            None => write!(f, "{head}"),
            Some(FileKey { device, inode }) => {
                write!(f, "{head}+{device:x}.{inode:x}+{offset}@{byte}+{tail}")
            }
        }
    }
}

/// What a read gave; packed data that is damaged has nothing.
fn fitting(read: io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    match read {
        Err(e) if e.raw_os_error().is_none() => Ok(Vec::new()),
        other => other,
    }
}

/// The unpacked content from `start` on; an error without a number if it does not reach that far.
fn content(file: &Arc<File>, start: u64) -> io::Result<Box<dyn Read>> {
    let at = |at| FileAt { file: Arc::clone(file), at };
    if !is_gzip(file)? {
        return Ok(Box::new(at(start)));
    }
    let mut unpacked = MultiGzDecoder::new(BufReader::new(at(0)));
    let passed = io::copy(&mut unpacked.by_ref().take(start), &mut io::sink())?;
    if passed < start {
        return Err(io::Error::other("it is shorter"));
    }
    Ok(Box::new(unpacked))
}

/// The next bytes, fewer at the end; what of packed data is not there yet is not there.
fn read(reader: impl Read, len_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match reader.take(len_max as u64).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(e) if e.raw_os_error().is_none() => Ok(bytes),
        Err(e) => Err(e),
    }
}

/// The length of the unpacked content.
pub(super) fn unpacked_len(file: &Arc<File>) -> io::Result<u64> {
    match io::copy(&mut content(file, 0)?, &mut io::sink()) {
        Err(e) if e.raw_os_error().is_some() => Err(e),
        // Damaged data is a reject where it is read.
        other => Ok(other.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    fn mark(bytes: &[u8], byte: u64) -> Mark {
        Mark::of(&file(bytes), FileKey { device: 0x1f, inode: 7 }, 3, byte).unwrap()
    }

    #[test]
    fn a_mark_fits_what_has_grown_and_its_packed_form_and_nothing_else() {
        let bytes = b"one\ntwo\nthree\n";
        let found = mark(bytes, 8);
        assert_eq!(Mark::parse(&found.to_string()), Some(found.clone()));
        let holds = |bytes: &[u8]| found.holds(&file(bytes)).unwrap();
        assert!(holds(bytes));
        assert!(holds(b"one\ntwo\nthree\nfour\n"));
        assert!(!holds(b"one\ntwo\n"), "shorter than the head that was seen");
        assert!(!holds(b"one\ntwO\nthree\nfour\n"));
        assert!(!holds(b""));
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        let packed = packed.finish().unwrap();
        assert!(holds(&packed));
        assert!(!holds(&packed[..12]));
        assert!(!mark(&bytes.repeat(1000), 14_000).holds(&file(&packed)).unwrap());
    }

    #[test]
    fn a_long_file_is_told_by_what_lies_before_the_mark() {
        let line = b"0123456789\n";
        let mut bytes = line.repeat(1000);
        let found = mark(&bytes, 11_000);
        assert!(found.holds(&file(&bytes)).unwrap());
        bytes[10_900] = b'x';
        assert!(!found.holds(&file(&bytes)).unwrap());
    }

    #[test]
    fn the_position_of_a_file_that_was_not_followed_is_its_head() {
        let old = format!("4-{}", hash(b"one\n"));
        let found = Mark::parse(&old).unwrap();
        assert_eq!((found.offset, found.byte, found.key), (0, 0, None));
        assert_eq!(found.to_string(), old);
        assert!(found.holds(&file(b"one\ntwo\n")).unwrap() && !found.holds(&file(b"two\n")).unwrap());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f+.@-]{0,80}") {
            if let Some(mark) = Mark::parse(&text) {
                prop_assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
            }
        }
    }
}
