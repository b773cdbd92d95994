//! A disk whose process dies in the middle of an operation.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_store::file::{Disk, DiskFile, Open};

/// From one operation on, nothing works any more, as after a kill.
#[derive(Clone, Debug)]
pub(crate) struct MortalDisk {
    inner: Arc<dyn Disk>,
    operations: Arc<AtomicU64>,
    dies_at: u64,
}

impl MortalDisk {
    /// `dies_at` is the first operation that fails, counted from 1.
    pub(crate) fn new(inner: Arc<dyn Disk>, dies_at: u64) -> Self {
        Self { inner, operations: Arc::default(), dies_at }
    }

    /// Operations that were asked for.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.operations() >= self.dies_at
    }

    fn step(&self) -> io::Result<()> {
        let operation = self.operations.fetch_add(1, Ordering::Relaxed) + 1;
        if operation >= self.dies_at { Err(io::Error::other("the process died here")) } else { Ok(()) }
    }
}

impl Disk for MortalDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.step()?;
        Ok(Arc::new(MortalFile { disk: self.clone(), inner: self.inner.open(path, open)? }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.inner.create_dir_all(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.inner.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        only_hints(to);
        self.inner.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        self.inner.hard_link(from, to)?;
        // The disk that loses power looks for a file under the name by which it was opened last.
        self.inner.open(to, Open::Existing).map(drop)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.inner.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.inner.sync_dir(path)
    }
}

/// A rename may replace what is there.
pub(crate) fn only_hints(to: &Path) {
    assert!(to.ends_with("version-hint.text"), "{} gets its name by a rename", to.display());
}

#[derive(Debug)]
struct MortalFile {
    disk: MortalDisk,
    inner: Arc<dyn DiskFile>,
}

impl DiskFile for MortalFile {
    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let Err(error) = self.disk.step() else { return self.inner.write_at(bufs, offset) };
        // The write that was under way is torn.
        if self.disk.operations() == self.disk.dies_at {
            let first = bufs.first().copied().unwrap_or_default();
            self.inner.write_at(&[&first[..first.len() / 2]], offset)?;
        }
        Err(error)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.step()?;
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.step()?;
        self.inner.allocate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step()?;
        self.inner.sync()
    }

    fn file(&self) -> &File {
        self.inner.file()
    }
}
