//! The bytes of one file, unpacked if they are gzip, through a window that grows up to one record.
//!
//! Knows no format. Of a file that still grows the end is not the end of its last record: it is waited for. Gzip is told by its first two bytes and may have several members, one after the other.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use sluice_connect::task::TaskError;

/// The window before a long record makes it grow, in bytes.
const WINDOW_BYTES: usize = 256 * 1024;

/// How gzip data begins.
pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What [`Input::fill`] found.
pub(super) enum Filled {
    /// The window is longer now.
    More,
    /// The file ends here.
    End,
    /// The file has no more now, and may get more.
    Pending,
    /// The compressed data is damaged or ends too early, for this reason.
    Broken(String),
}

/// A file read from a place of its own on, whoever else reads it.
pub(super) struct FileAt {
    pub(super) file: Arc<File>,
    pub(super) at: u64,
}

impl Read for FileAt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

enum Reader {
    Plain(FileAt),
    Gzip(Box<MultiGzDecoder<BufReader<FileAt>>>),
}

/// One open file.
pub(super) struct Input {
    path: String,
    reader: Reader,
    /// More may come behind the end.
    is_growing: bool,
    /// Gzip data that ended: what came behind it since is seen by who opens it anew.
    is_stale: bool,
    damage: Option<String>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes before the window, unpacked.
    consumed: u64,
}

/// Whether a file's content is gzip.
pub(super) fn is_gzip(file: &File) -> io::Result<bool> {
    let mut magic = [0; GZIP.len()];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) => Ok(magic == GZIP),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

impl Input {
    /// Opens the file and skips a byte order mark.
    pub(super) fn open(path: &Path) -> Result<Self, TaskError> {
        let shown = path.display().to_string();
        let file = File::open(path).map_err(|e| TaskError::io(format!("cannot read {shown}"), e))?;
        Self::over(Arc::new(file), shown, false, WINDOW_BYTES)
    }

    /// The same of an open file, which may still grow.
    pub(super) fn over(
        file: Arc<File>,
        path: String,
        is_growing: bool,
        window_bytes: usize,
    ) -> Result<Self, TaskError> {
        let is_gzip = is_gzip(&file).map_err(|e| TaskError::io(format!("cannot read {path}"), e))?;
        let file = FileAt { file, at: 0 };
        let reader = if is_gzip {
            Reader::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(64 * 1024, file))))
        } else {
            Reader::Plain(file)
        };
        let mut input = Self {
            path,
            reader,
            is_growing,
            is_stale: false,
            damage: None,
            buffer: vec![0; window_bytes],
            start: 0,
            end: 0,
            consumed: 0,
        };
        // A damaged file says so again when its records are read.
        while input.window().len() < BYTE_ORDER_MARK.len() && matches!(input.fill()?, Filled::More) {}
        if input.window().starts_with(BYTE_ORDER_MARK) {
            input.consume(BYTE_ORDER_MARK.len());
        }
        Ok(input)
    }

    /// Whether the content is gzip.
    pub(super) fn is_gzip(&self) -> bool {
        matches!(self.reader, Reader::Gzip(_))
    }

    /// Bytes before the window, unpacked.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Bytes of a plain file that were read.
    pub(super) fn read_bytes(&self) -> Option<u64> {
        match &self.reader {
            Reader::Plain(file) => Some(file.at),
            Reader::Gzip(_) => None,
        }
    }

    /// Nothing comes behind the end any more.
    pub(super) fn finish(&mut self) {
        self.is_growing = false;
    }

    /// Goes on to a byte of the unpacked content; whether the file has that many.
    pub(super) fn skip_to(&mut self, byte: u64) -> Result<bool, TaskError> {
        if let Reader::Plain(file) = &mut self.reader {
            (self.start, self.end, self.consumed, file.at) = (0, 0, byte, byte);
            return Ok(true);
        }
        while self.consumed < byte {
            let left = usize::try_from(byte - self.consumed).unwrap_or(usize::MAX);
            self.consume(left.min(self.window().len()));
            if self.consumed < byte && !matches!(self.fill()?, Filled::More) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The bytes that were read and not yet consumed.
    pub(super) fn window(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Bytes of memory that the window has now.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Gives up the first `len` bytes of the window.
    pub(super) fn consume(&mut self, len: usize) {
        let len = len.min(self.end - self.start);
        self.start += len;
        self.consumed += len as u64;
    }

    /// Reads on, keeping the window. At the end, or at damage, it says the same each time.
    pub(super) fn fill(&mut self) -> Result<Filled, TaskError> {
        if let Some(reason) = &self.damage {
            return Ok(Filled::Broken(reason.clone()));
        }
        if self.is_stale {
            return Ok(if self.is_growing { Filled::Pending } else { Filled::End });
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let is_gzip = self.is_gzip();
        loop {
            let room = &mut self.buffer[self.end..];
            let read = match &mut self.reader {
                Reader::Plain(file) => file.read(room),
                Reader::Gzip(decoder) => decoder.read(room),
            };
            match read {
                Ok(0) if self.is_growing => {
                    self.is_stale = is_gzip;
                    return Ok(Filled::Pending);
                }
                Ok(0) => return Ok(Filled::End),
                Ok(len) => {
                    self.end += len;
                    return Ok(Filled::More);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // It is still being written.
                Err(e) if is_gzip && self.is_growing && e.kind() == ErrorKind::UnexpectedEof => {
                    self.is_stale = true;
                    return Ok(Filled::Pending);
                }
                // What the system says has a number; the decoder's own findings have none.
                Err(e) if is_gzip && e.raw_os_error().is_none() => {
                    let reason = match e.kind() {
                        ErrorKind::UnexpectedEof => "the gzip data ends too early".to_owned(),
                        _ => format!("the gzip data is damaged: {e}"),
                    };
                    // What the decoder does after an error is not defined, so it is not asked again.
                    self.damage = Some(reason.clone());
                    return Ok(Filled::Broken(reason));
                }
                Err(e) => return Err(TaskError::io(format!("cannot read {}", self.path), e)),
            }
        }
    }
}
