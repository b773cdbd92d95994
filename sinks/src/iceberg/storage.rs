//! Manifests and metadata of a table in a [`Place`], as the library asks for them: by whole addresses.
//!
//! A file gets its name once it is whole and its bytes are durable; the names of several are made durable together,
//! before metadata that points to them gets its own. What lies elsewhere than in the table is not read.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use iceberg::io::{
    FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig, StorageFactory,
};
use iceberg::{Error, ErrorKind as Kind, Result};
use serde::{Deserialize, Serialize};
use sluice_connect::task::{Class, TaskError};
use sluice_store::file::{Disk, Open};

use super::METADATA;
use crate::disk::{failed, remove};
use crate::place::{Place, Stored, parent};
use crate::records::ROOT;
use crate::temp::TempFolder;
use parquet::file::reader::Length;

/// No file of a table's metadata is longer, in bytes.
pub(super) const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The files of one table.
#[derive(Debug)]
pub(super) struct Files {
    place: Arc<dyn Place>,
    disk: Arc<dyn Disk>,
    /// The table's address: all of its files begin with it and a `/`.
    address: String,
    /// Made when first needed.
    temp: Mutex<Option<TempFolder>>,
}

impl Files {
    pub(super) fn new(place: Arc<dyn Place>, disk: Arc<dyn Disk>) -> std::result::Result<Self, TaskError> {
        let address = place.address().map_err(|e| failed("find", place.show(""), e))?;
        Ok(Self { place, disk, address, temp: Mutex::new(None) })
    }

    pub(super) fn place(&self) -> &dyn Place {
        self.place.as_ref()
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Puts a file whole, or finds that one stands there: `false`. Its bytes are durable, its name is after
    /// [`Files::sync`].
    pub(super) fn put(&self, key: &str, bytes: &[u8]) -> std::result::Result<bool, TaskError> {
        self.with_temp(key, bytes, |from| {
            let is_new =
                self.place.put_file(from, key).map_err(|e| failed("make", self.place.show(key), e))?;
            remove(self.disk.as_ref(), from).map(|()| is_new)
        })
    }

    /// Puts a file in place of the one that has its name: a hint, which nothing is built on.
    pub(super) fn replace(&self, key: &str, bytes: &[u8]) -> std::result::Result<(), TaskError> {
        self.with_temp(key, bytes, |from| {
            self.place.replace(from, key).map_err(|e| failed("make", self.place.show(key), e))
        })
    }

    fn with_temp<T>(
        &self,
        key: &str,
        bytes: &[u8],
        put: impl FnOnce(&std::path::Path) -> std::result::Result<T, TaskError>,
    ) -> std::result::Result<T, TaskError> {
        let folder = parent(key);
        self.place.make(folder).map_err(|e| failed("make", self.place.show(folder), e))?;
        let mut temp = self.temp.lock().unwrap_or_else(PoisonError::into_inner);
        let temp = match &mut *temp {
            Some(temp) => temp,
            none => {
                let root = self.place.spool(ROOT);
                self.disk.create_dir_all(&root).map_err(|e| failed("make", root.display(), e))?;
                none.insert(TempFolder::open(&self.disk, &root)?)
            }
        };
        let from = temp.file();
        let file = self.disk.open(&from, Open::New).map_err(|e| failed("make", from.display(), e))?;
        let written = file.write_at(&[bytes], 0).and_then(|()| file.sync());
        written.map_err(|e| failed("write", from.display(), e))?;
        put(&from)
    }

    /// Makes the names of all that was put durable.
    pub(super) fn sync(&self) -> std::result::Result<(), TaskError> {
        self.place.sync(METADATA).map_err(|e| failed("sync", self.place.show(METADATA), e))
    }

    /// The whole file; `None` if it is not there.
    pub(super) fn read(&self, key: &str) -> std::result::Result<Option<Bytes>, TaskError> {
        read(self.place.as_ref(), key)
    }
}

/// A whole file of a table's metadata; `None` if it is not there.
pub(super) fn read(place: &dyn Place, key: &str) -> std::result::Result<Option<Bytes>, TaskError> {
    let shown = place.show(key);
    let file = Stored::open(place, key).map_err(|e| failed("read", &shown, e))?;
    let Some(len) = file.map(|file| file.len()) else { return Ok(None) };
    if len > BYTES_MAX {
        let message = format!("{shown} is longer than the limit of {BYTES_MAX} bytes");
        return Err(TaskError::new(Class::Config, message));
    }
    place.read(key, len).map_err(|e| failed("read", &shown, e))
}

/// The path below a table of a file that it names by its address; `None` if it lies elsewhere. Engines write the
/// addresses of a machine's folders with and without a scheme, and `s3` with its older names.
pub(super) fn key<'a>(table: &str, address: &'a str) -> Option<&'a str> {
    let (table, address) = (bare(table), bare(address));
    let key = address.strip_prefix(table)?.strip_prefix('/')?;
    key.split('/').all(|part| !matches!(part, "" | "." | "..")).then_some(key)
}

/// An address without what engines write in several ways.
pub(super) fn bare(address: &str) -> &str {
    for scheme in ["s3://", "s3a://", "s3n://", "file://"] {
        if let Some(rest) = address.strip_prefix(scheme) {
            return rest.trim_end_matches('/');
        }
    }
    address.strip_prefix("file:").unwrap_or(address).trim_end_matches('/')
}

/// A failure of ours on its way through the library.
pub(super) fn through(error: TaskError) -> Error {
    Error::new(Kind::Unexpected, error.message.clone()).with_source(error)
}

/// The library's view of [`Files`]. It can be written out only in name: one that is read back has no files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PlaceStorage {
    #[serde(skip)]
    files: Option<Arc<Files>>,
}

impl PlaceStorage {
    pub(super) fn new(files: Arc<Files>) -> Self {
        Self { files: Some(files) }
    }

    /// Does something with a file. The library's runtime has threads for what blocks.
    fn with<T>(
        &self,
        path: &str,
        work: impl FnOnce(&Files, &str) -> std::result::Result<T, TaskError>,
    ) -> Result<T> {
        let Some(files) = self.files.as_deref() else {
            let message = "a storage that was written out and read back has no files";
            return Err(Error::new(Kind::Unexpected, message));
        };
        let key = key(&files.address, path).ok_or_else(|| {
            let message = format!("{path} lies outside of the table {}: it is not read here", files.address);
            through(TaskError::new(Class::Config, message))
        })?;
        tokio::task::block_in_place(|| work(files, key)).map_err(through)
    }
}

fn is_there<T>(path: &str, found: Option<T>) -> Result<T> {
    found.ok_or_else(|| Error::new(Kind::DataInvalid, format!("{path} is not there")))
}

fn unsupported<T>() -> Result<T> {
    Err(Error::new(Kind::FeatureUnsupported, "nothing of a table is removed here"))
}

#[async_trait]
#[typetag::serde(name = "sluice")]
impl Storage for PlaceStorage {
    async fn exists(&self, path: &str) -> Result<bool> {
        self.with(path, |files, key| {
            files.place.has(key).map_err(|e| failed("look at", files.place.show(key), e))
        })
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let size = self.with(path, |files, key| {
            let file = Stored::open(files.place.as_ref(), key);
            file.map(|file| file.map(|file| file.len())).map_err(|e| failed("read", files.place.show(key), e))
        });
        Ok(FileMetadata { size: is_there(path, size?)? })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        is_there(path, self.with(path, Files::read)?)
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        Ok(Box::new(Reader { storage: self.clone(), path: path.to_owned() }))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let is_new = self.with(path, |files, key| files.put(key, &bytes))?;
        if is_new {
            return Ok(());
        }
        Err(Error::new(Kind::Unexpected, format!("{path} is there already, and nothing is replaced")))
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        Ok(Box::new(Writer { storage: self.clone(), path: path.to_owned(), bytes: Some(Vec::new()) }))
    }

    async fn delete(&self, _path: &str) -> Result<()> {
        unsupported()
    }

    async fn delete_prefix(&self, _path: &str) -> Result<()> {
        unsupported()
    }

    async fn delete_stream(&self, _paths: BoxStream<'static, String>) -> Result<()> {
        unsupported()
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

/// Gives the storage that it holds, whatever the catalog says of others.
#[typetag::serde(name = "sluice")]
impl StorageFactory for PlaceStorage {
    fn build(&self, _config: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}

struct Reader {
    storage: PlaceStorage,
    path: String,
}

#[async_trait]
impl FileRead for Reader {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.storage.with(&self.path, |files, key| {
            let len = range.end.checked_sub(range.start).filter(|len| *len <= BYTES_MAX);
            let bytes = len.and_then(|len| usize::try_from(len).ok()).ok_or(ErrorKind::InvalidInput.into());
            let read = bytes.and_then(|bytes| files.place.read_at(key, range.start, bytes));
            read.map_err(|e| failed("read", files.place.show(key), e))
        })
    }
}

/// Keeps what is written until it is whole.
struct Writer {
    storage: PlaceStorage,
    path: String,
    /// `None` once it is closed.
    bytes: Option<Vec<u8>>,
}

#[async_trait]
impl FileWrite for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let closed = || Error::new(Kind::Unexpected, "a file is written that was closed");
        self.bytes.as_mut().ok_or_else(closed)?.extend_from_slice(&bytes);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let closed = || Error::new(Kind::Unexpected, "a file is closed twice");
        let bytes = self.bytes.take().ok_or_else(closed)?;
        self.storage.write(&self.path, bytes.into()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_below_its_table_however_the_address_is_written() {
        for (table, address) in [
            ("file:///lake/a b", "file:///lake/a b/metadata/v1"),
            ("file:///lake/a b", "/lake/a b/metadata/v1"),
            ("/lake/a b/", "file:/lake/a b/metadata/v1"),
            ("s3://bucket/lake", "s3a://bucket/lake/metadata/v1"),
        ] {
            assert_eq!(key(table, address), Some("metadata/v1"), "{address}");
        }
        for address in [
            "file:///lake/ab/v1",
            "file:///lake/a/../b",
            "file:///lake/a",
            "s3://lake/a/v1",
            "file:///lake/a//b",
        ] {
            assert_eq!(key("file:///lake/a", address), None, "{address}");
        }
    }
}
