//! The file layer: everything that Sluice makes durable is written through here, and nothing is read.
//!
//! [`RealDisk`] asks the operating system; `testkit` has a disk that forgets and tears what was not
//! synced, so that tests can take the power away. Reads go to the real files (mapped or positioned),
//! which both disks keep up to date. It never decides when to sync: its callers do.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nix::fcntl::FallocateFlags;

use crate::segment::Segment;

/// How [`Disk::open`] treats a file that is or is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The file must exist.
    Existing,
    /// Made empty if it does not exist.
    OrCreate,
    /// Made new; an existing one is an error of kind `AlreadyExists`.
    New,
}

/// Makes, names and removes files. What a call did survives power loss only after the matching
/// [`DiskFile::sync`] (bytes and length) or [`Disk::sync_dir`] (names).
pub trait Disk: Debug + Send + Sync {
    /// Opens a file for writing by position.
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a folder with its parents, each name made durable.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes one folder, in a folder that exists; `AlreadyExists` if it is there.
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
    /// Gives `to` the file of `from`, replacing what was there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives the file a second name; `AlreadyExists` if that name is taken.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// One file open for writing.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all of `bufs`, one after the other, at `offset` (bytes from the start).
    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Sets the length in bytes; new bytes read as zero and need no space yet.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space for the first `len` bytes, so that writes there never meet a full disk.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes bytes and length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// The file itself, for mapped and positioned reads.
    fn file(&self) -> &File;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match open {
            Open::Existing => {}
            Open::OrCreate => drop(options.create(true)),
            Open::New => drop(options.create_new(true)),
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        self.create_dir_all(parent)?;
        match fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => self.sync_dir(parent),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    }
}

/// A finished file as bytes over the page cache, without a copy; it has at least one byte, and nobody may write
/// or shorten it any more.
pub fn mapped(file: &File) -> io::Result<Bytes> {
    let segment = Segment::map(file, 0)?;
    let end = segment.end();
    segment.view(0, end).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&self, bufs: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = bufs.iter().map(|b| IoSlice::new(b)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            // The system takes at most 1,024 buffers in one call (IOV_MAX on Linux).
            let now = rest.len().min(1024);
            let position = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            match nix::sys::uio::pwritev(self.0.as_fd(), &rest[..now], position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let len = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(nix::fcntl::fallocate(&self.0, FallocateFlags::empty(), 0, len)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn file(&self) -> &File {
        &self.0
    }
}
