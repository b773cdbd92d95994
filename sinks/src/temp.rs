//! A folder for files that have no name of their own yet: `_sluice/<pipeline>/tmp-<pid>-<n>`.
//!
//! It holds a locked file `lock` for as long as its task lives; whoever opens one sweeps those whose lock
//! is free, which are left over from runs that crashed. Nothing in it needs to survive: the names that
//! files get elsewhere are made durable there.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_connect::task::{Class, TaskError};
use sluice_store::file::{Disk, DiskFile, Open};
use tracing::info;

use crate::disk::{failed, remove};

const LOCK: &str = "lock";

/// Folders of one process that may stand at the same time.
const FOLDERS_MAX: u32 = 10_000;

/// This task's own folder, removed with its files when dropped.
#[derive(Debug)]
pub(crate) struct TempFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Held for the lock on it.
    _lock: Arc<dyn DiskFile>,
    files: u64,
}

impl TempFolder {
    /// Sweeps what crashed runs left below `parent`, which is there, and makes a folder.
    pub(crate) fn open(disk: &Arc<dyn Disk>, parent: &Path) -> Result<Self, TaskError> {
        sweep(disk.as_ref(), parent)?;
        for n in 0..FOLDERS_MAX {
            let path = parent.join(format!("tmp-{}-{n}", std::process::id()));
            match disk.create_dir(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(failed("make", path.display(), e)),
            }
            if let Some(lock) = take(disk.as_ref(), &path.join(LOCK))? {
                return Ok(Self { disk: disk.clone(), path, _lock: lock, files: 0 });
            }
        }
        let message = format!("{} has {FOLDERS_MAX} temporary folders of this process", parent.display());
        Err(TaskError::new(Class::Fatal, message))
    }

    /// The path of a file that is not there yet.
    pub(crate) fn file(&mut self) -> PathBuf {
        self.files += 1;
        self.path.join(format!("{}.tmp", self.files))
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // What can't be removed here is swept by the next run.
        let _ = clear(self.disk.as_ref(), &self.path);
    }
}

/// The lock file of a folder just made; `None` if another task swept the folder in that moment.
fn take(disk: &dyn Disk, path: &Path) -> Result<Option<Arc<dyn DiskFile>>, TaskError> {
    let lock = match disk.open(path, Open::New) {
        Ok(lock) => lock,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => return Ok(None),
        Err(e) => return Err(failed("make", path.display(), e)),
    };
    match lock.file().try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(e)) => return Err(failed("lock", path.display(), e)),
    }
    // A sweeper may have had the lock before, and removed the file.
    Ok(is_named(lock.as_ref(), path).then_some(lock))
}

/// Whether the path still leads to this file.
fn is_named(lock: &dyn DiskFile, path: &Path) -> bool {
    match (fs::metadata(path), lock.file().metadata()) {
        (Ok(named), Ok(locked)) => named.ino() == locked.ino() && named.dev() == locked.dev(),
        _ => false,
    }
}

fn sweep(disk: &dyn Disk, parent: &Path) -> Result<(), TaskError> {
    for entry in fs::read_dir(parent).map_err(|e| failed("list", parent.display(), e))? {
        let path = entry.map_err(|e| failed("list", parent.display(), e))?.path();
        let is_temp = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"tmp-"));
        if !is_temp {
            continue;
        }
        let lock = path.join(LOCK);
        // Made where it is missing: a task that is about to make it then takes another folder.
        let file = match disk.open(&lock, Open::OrCreate) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(failed("open", lock.display(), e)),
        };
        match file.file().try_lock() {
            // Another sweeper may have been faster.
            Ok(()) if !is_named(file.as_ref(), &lock) => {}
            Ok(()) => {
                clear(disk, &path)?;
                info!(path = %path.display(), "removed the temporary files of a crashed run");
            }
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(e)) => return Err(failed("lock", lock.display(), e)),
        }
    }
    Ok(())
}

/// Removes a folder whose lock is held, the lock last. Once that is gone another sweeper may make it anew, and clear
/// the folder as well.
fn clear(disk: &dyn Disk, path: &Path) -> Result<(), TaskError> {
    let list = match fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        list => list,
    };
    for entry in list.map_err(|e| failed("list", path.display(), e))? {
        if entry.file_name() != LOCK {
            remove(disk, &entry.path())?;
        }
    }
    remove(disk, &path.join(LOCK))?;
    match fs::remove_dir(path) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(failed("remove", path.display(), e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use sluice_store::file::RealDisk;

    use super::*;

    fn disk() -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }

    #[test]
    fn a_crashed_folder_is_swept_and_a_live_one_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let crashed = parent.path().join("tmp-1-0");
        fs::create_dir(&crashed).unwrap();
        fs::write(crashed.join(LOCK), "").unwrap();
        fs::write(crashed.join("1.tmp"), "rows").unwrap();
        let without_lock = parent.path().join("tmp-2-0");
        fs::create_dir(&without_lock).unwrap();
        fs::write(without_lock.join("1.tmp"), "rows").unwrap();
        fs::create_dir(parent.path().join("topic")).unwrap();

        let mut live = TempFolder::open(&disk(), parent.path()).unwrap();
        let file = live.file();
        fs::write(&file, "rows").unwrap();
        let other = TempFolder::open(&disk(), parent.path()).unwrap();

        assert!(file.exists());
        assert_ne!(live.path, other.path);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 3, "both live folders and the topic");
        drop((live, other));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "the topic");
    }
}
