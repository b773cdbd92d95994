//! The bytes of one file, unpacked if they are gzip, through a window that grows up to one record.
//!
//! Knows no format. Gzip is told by its first two bytes and may have several members, one after the other.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek};
use std::path::Path;

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
    /// The compressed data is damaged or ends too early, for this reason.
    Broken(String),
}

/// One open file.
pub(super) struct Input {
    path: String,
    reader: Box<dyn Read + Send>,
    is_gzip: bool,
    damage: Option<String>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// Opens the file and skips a byte order mark.
    pub(super) fn open(path: &Path) -> Result<Self, TaskError> {
        let shown = path.display().to_string();
        let failed = |e| TaskError::io(format!("cannot read {shown}"), e);
        let mut file = File::open(path).map_err(failed)?;
        let mut magic = Vec::new();
        Read::by_ref(&mut file).take(GZIP.len() as u64).read_to_end(&mut magic).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let is_gzip = magic == GZIP;
        let reader: Box<dyn Read + Send> = if is_gzip {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(64 * 1024, file)))
        } else {
            Box::new(file)
        };
        let mut input = Self {
            path: shown,
            reader,
            is_gzip,
            damage: None,
            buffer: vec![0; WINDOW_BYTES],
            start: 0,
            end: 0,
        };
        // A damaged file says so again when its records are read.
        while input.window().len() < BYTE_ORDER_MARK.len() && matches!(input.fill()?, Filled::More) {}
        if input.window().starts_with(BYTE_ORDER_MARK) {
            input.consume(BYTE_ORDER_MARK.len());
        }
        Ok(input)
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
        self.start = (self.start + len).min(self.end);
    }

    /// Reads on, keeping the window. At the end, or at damage, it says the same each time.
    pub(super) fn fill(&mut self) -> Result<Filled, TaskError> {
        if let Some(reason) = &self.damage {
            return Ok(Filled::Broken(reason.clone()));
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(Filled::End),
                Ok(len) => {
                    self.end += len;
                    return Ok(Filled::More);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // What the system says has a number; the decoder's own findings have none.
                Err(e) if self.is_gzip && e.raw_os_error().is_none() => {
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
