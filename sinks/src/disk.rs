//! What the file sinks share of the disk: errors with their path, and a file written once
//! from front to back.
//!
//! It never decides what must be durable; [`FileOut::finish`] is told so by being called.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_connect::task::{Class, TaskError};
use sluice_store::file::{Disk, DiskFile, Open};

/// Bytes go to the disk in writes of at least this size.
const BUFFER_BYTES: usize = 256 * 1024;

/// A failure of the file system or a store with what was tried and where.
pub(crate) fn failed(op: &str, what: impl Display, cause: io::Error) -> TaskError {
    let message = format!("cannot {op} {what}");
    match cause.kind() {
        // Time does not heal these either.
        ErrorKind::InvalidFilename | ErrorKind::ReadOnlyFilesystem | ErrorKind::Unsupported => {
            TaskError::new(Class::Config, message).because(cause)
        }
        _ => TaskError::io(message, cause),
    }
}

/// Removes a file that may be gone already.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), TaskError> {
    match disk.remove(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", path.display(), e)),
        _ => Ok(()),
    }
}

/// A new file, written from front to back. The file is made at the first write of the buffer, so that many
/// small files hold no descriptors.
#[derive(Debug)]
pub(crate) struct FileOut {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    buffer: Vec<u8>,
    /// Bytes that left the buffer.
    written: u64,
}

impl FileOut {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self { disk, path, file: None, buffer: Vec::new(), written: 0 }
    }

    /// Bytes taken so far.
    pub(crate) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// What the buffer holds in memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// Writes out what the buffer holds, and frees it and the descriptor.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.write_out(&[])?;
        }
        self.buffer = Vec::new();
        self.file = None;
        Ok(())
    }

    /// Writes the rest and makes the file's bytes durable.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.write_out(&[])?;
        self.open()?.sync()
    }

    fn open(&mut self) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let how = if self.written == 0 { Open::New } else { Open::Existing };
        let file = self.disk.open(&self.path, how)?;
        self.file = Some(file.clone());
        Ok(file)
    }

    fn write_out(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.open()?.write_at(&[&self.buffer, bytes], self.written)?;
        self.written += (self.buffer.len() + bytes.len()) as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Write for FileOut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() >= BUFFER_BYTES {
            self.write_out(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    /// Does nothing: nobody reads the file before [`FileOut::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
