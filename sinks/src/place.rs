//! What a chain asks of the place where it lies: names that are given once, reads, and lists. Two places: a
//! folder of this machine ([`Folder`], here) and an object store ([`crate::objects`]).
//!
//! A key is a path below the target, its parts separated by `/`; the empty one is the target itself.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};
use sluice_connect::task::TaskError;
use sluice_store::file::{Disk, Open};

use crate::location::Location;
use crate::objects::{self, Objects, StoreConfig};

/// The end of a file that is read at once, in bytes: the footers of most files fit.
pub const TAIL_BYTES: u64 = 64 * 1024;

/// What lies directly below a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The last part of its key.
    pub name: String,
    /// Whether more lies below it.
    pub is_folder: bool,
}

/// A folder of this machine or an object store.
pub trait Place: Debug + Send + Sync {
    /// The key as a person finds it: a path or an address.
    fn show(&self, key: &str) -> String;
    /// Where temporary files of a folder of this place lie on this machine: from there they get their names.
    fn spool(&self, folder: &str) -> PathBuf;
    /// What a key may have, in bytes; each of its parts has a limit of its own ([`crate::name::NAME_BYTES_MAX`]).
    fn key_bytes_max(&self) -> usize;
    /// What lies directly below a folder, in no order; nothing if the folder is not there.
    fn list(&self, folder: &str) -> io::Result<Vec<Entry>>;
    /// Whether something has this name.
    fn has(&self, key: &str) -> io::Result<bool>;
    /// The whole file, cut to `bytes_max`; `None` if it is not there.
    fn read(&self, key: &str, bytes_max: u64) -> io::Result<Option<Bytes>>;
    /// The file's length and its last [`TAIL_BYTES`] bytes; `None` if it is not there.
    fn tail(&self, key: &str) -> io::Result<Option<(u64, Bytes)>>;
    /// So many bytes of a file from `start`, all of them.
    fn read_at(&self, key: &str, start: u64, bytes: usize) -> io::Result<Bytes>;
    /// Gives a finished temporary file its name; `false` if the name is taken, which is never replaced. The name
    /// is durable after [`Place::sync`] of its folder.
    fn put_file(&self, temp: &Path, key: &str) -> io::Result<bool>;
    /// Makes an empty file if there is none; may be lost again in a crash.
    fn mark(&self, key: &str) -> io::Result<()>;
    /// Takes a file's name away; it may be gone already.
    fn remove(&self, key: &str) -> io::Result<()>;
    /// Makes a folder with its parents, durably.
    fn make(&self, folder: &str) -> io::Result<()>;
    /// Makes a folder in one that is there; its name is durable after [`Place::sync`] of that one.
    fn make_one(&self, folder: &str) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync(&self, folder: &str) -> io::Result<()>;
    /// Makes a file's bytes durable, if it is there.
    #[cfg(feature = "delta")]
    fn sync_file(&self, key: &str) -> io::Result<()>;
    /// How libraries read it: a store, and the URL of the target in it, with `/` at its end.
    #[cfg(feature = "delta")]
    fn reader(&self) -> io::Result<(Arc<dyn ObjectStore>, String)>;
    /// The target as tables name it who write whole addresses of their files: nothing in it is encoded, and no `/` is
    /// at its end.
    #[cfg(feature = "iceberg")]
    fn address(&self) -> io::Result<String>;
    /// Gives a finished temporary file its name, in place of what has it: for a hint that may be wrong.
    #[cfg(feature = "iceberg")]
    fn replace(&self, temp: &Path, key: &str) -> io::Result<()>;
}

/// Opens the place of a target; connects to nothing yet.
pub fn open(
    location: &Location,
    store: Option<&StoreConfig>,
    disk: Arc<dyn Disk>,
) -> Result<Arc<dyn Place>, TaskError> {
    match location {
        Location::Folder(root) => Ok(Arc::new(Folder::new(disk, root.clone()))),
        Location::Bucket { bucket, prefix } => {
            let config = store.cloned().unwrap_or_default();
            on_store(objects::client(bucket, &config)?, bucket, prefix, config.spool.as_deref())
        }
    }
}

/// The prefix of a bucket, by a client of one's own; `spool` is a folder of this machine.
pub fn on_store(
    client: Arc<dyn ObjectStore>,
    bucket: &str,
    prefix: &str,
    spool: Option<&Path>,
) -> Result<Arc<dyn Place>, TaskError> {
    Ok(Arc::new(Objects::new(client, format!("s3://{bucket}"), prefix.to_owned(), spool)?))
}

/// The folder that a key lies in.
pub(crate) fn parent(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A folder of this machine.
#[derive(Debug)]
pub(crate) struct Folder {
    disk: Arc<dyn Disk>,
    root: PathBuf,
}

impl Folder {
    pub(crate) fn new(disk: Arc<dyn Disk>, root: PathBuf) -> Self {
        Self { disk, root }
    }

    fn path(&self, key: &str) -> PathBuf {
        // Joining an empty path would end in a separator.
        if key.is_empty() { self.root.clone() } else { self.root.join(key) }
    }

    fn open(&self, key: &str) -> io::Result<Option<File>> {
        found(File::open(self.path(key)))
    }
}

impl Place for Folder {
    fn show(&self, key: &str) -> String {
        self.path(key).display().to_string()
    }

    fn spool(&self, folder: &str) -> PathBuf {
        self.path(folder)
    }

    fn key_bytes_max(&self) -> usize {
        // Eight folders and a file fit any path.
        usize::MAX
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let Some(list) = found(fs::read_dir(self.path(folder)))? else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for entry in list {
            let entry = entry?;
            // Names of ours are all UTF-8.
            let Ok(name) = entry.file_name().into_string() else { continue };
            // A temporary folder may go while this lists.
            let Some(kind) = found(entry.file_type())? else { continue };
            entries.push(Entry { name, is_folder: kind.is_dir() });
        }
        Ok(entries)
    }

    fn has(&self, key: &str) -> io::Result<bool> {
        Ok(found(fs::symlink_metadata(self.path(key)))?.is_some())
    }

    fn read(&self, key: &str, bytes_max: u64) -> io::Result<Option<Bytes>> {
        let Some(file) = self.open(key)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(Some(bytes.into()))
    }

    fn tail(&self, key: &str) -> io::Result<Option<(u64, Bytes)>> {
        let Some(file) = self.open(key)? else { return Ok(None) };
        let len = file.metadata()?.len();
        let start = len.saturating_sub(TAIL_BYTES);
        Ok(Some((len, exactly(&file, start, usize::try_from(len - start).unwrap_or(0))?)))
    }

    fn read_at(&self, key: &str, start: u64, bytes: usize) -> io::Result<Bytes> {
        exactly(&File::open(self.path(key))?, start, bytes)
    }

    fn put_file(&self, temp: &Path, key: &str) -> io::Result<bool> {
        match self.disk.hard_link(temp, &self.path(key)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn mark(&self, key: &str) -> io::Result<()> {
        self.disk.open(&self.path(key), Open::OrCreate).map(drop)
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        found(self.disk.remove(&self.path(key))).map(drop)
    }

    fn make(&self, folder: &str) -> io::Result<()> {
        self.disk.create_dir_all(&self.path(folder))
    }

    fn make_one(&self, folder: &str) -> io::Result<()> {
        match self.disk.create_dir(&self.path(folder)) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn sync(&self, folder: &str) -> io::Result<()> {
        self.disk.sync_dir(&self.path(folder))
    }

    #[cfg(feature = "delta")]
    fn sync_file(&self, key: &str) -> io::Result<()> {
        self.open(key)?.map_or(Ok(()), |file| file.sync_all())
    }

    #[cfg(feature = "delta")]
    fn reader(&self) -> io::Result<(Arc<dyn ObjectStore>, String)> {
        let root = url::Url::from_directory_path(fs::canonicalize(&self.root)?);
        let root = root.map_err(|()| io::Error::from(ErrorKind::InvalidFilename))?;
        Ok((Arc::new(object_store::local::LocalFileSystem::new()), root.into()))
    }

    #[cfg(feature = "iceberg")]
    fn address(&self) -> io::Result<String> {
        // The folder may be still to be made.
        let mut root = std::path::absolute(&self.root)?;
        let mut below = Vec::new();
        let root = loop {
            match found(fs::canonicalize(&root))? {
                Some(there) => break below.iter().rev().fold(there, |path, name| path.join(name)),
                None => match root.file_name().map(ToOwned::to_owned) {
                    Some(name) if root.pop() => below.push(name),
                    _ => return Err(ErrorKind::InvalidFilename.into()),
                },
            }
        };
        let root = root.into_os_string().into_string();
        let root = root.map_err(|_| io::Error::from(ErrorKind::InvalidFilename))?;
        Ok(format!("file://{}", root.trim_end_matches('/')))
    }

    #[cfg(feature = "iceberg")]
    fn replace(&self, temp: &Path, key: &str) -> io::Result<()> {
        self.disk.rename(temp, &self.path(key))
    }
}

/// `None` for what is not there.
pub(crate) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn exactly(file: &File, start: u64, len: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes.into())
}

/// A file of a place, read from its end as the readers of footers do.
pub(crate) struct Stored<'a> {
    place: &'a dyn Place,
    key: &'a str,
    len: u64,
    tail: Bytes,
    position: u64,
}

impl<'a> Stored<'a> {
    /// `None` if the file is not there.
    pub(crate) fn open(place: &'a dyn Place, key: &'a str) -> io::Result<Option<Self>> {
        let tail = place.tail(key)?;
        Ok(tail.map(|(len, tail)| Self { place, key, len, tail, position: 0 }))
    }

    fn range(&self, start: u64, len: usize) -> io::Result<Bytes> {
        let end = start.checked_add(len as u64).filter(|end| *end <= self.len);
        if end.is_none() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let tail_start = self.len - self.tail.len() as u64;
        match start.checked_sub(tail_start).and_then(|at| usize::try_from(at).ok()) {
            Some(at) => Ok(self.tail.slice(at..at + len)),
            None => self.place.read_at(self.key, start, len),
        }
    }
}

impl Length for Stored<'_> {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Stored<'_> {
    type T = io::Cursor<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let rest = usize::try_from(self.len.saturating_sub(start)).unwrap_or(usize::MAX);
        Ok(io::Cursor::new(self.range(start, rest)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        Ok(self.range(start, length)?)
    }
}

impl Read for Stored<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.len.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let bytes = self.range(self.position, rest.min(buf.len()))?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }
}

impl Seek for Stored<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
