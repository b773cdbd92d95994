//! Folders of tests: in memory where that is possible, and copies as a killed process would leave them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use nix::unistd::{Whence, lseek};
use tempfile::TempDir;

/// Where there is less space in memory, tests lie on the disk; in bytes.
const MEMORY_BYTES_MIN: u64 = 256 << 20;

/// A folder that goes with its value. It lies in memory where the system has enough of it: fault tests make
/// and remove thousands of files, and what a real disk keeps is [`crate::FaultyDisk`]'s part to say.
///
/// # Errors
///
/// What the system refuses.
pub fn scratch() -> io::Result<TempDir> {
    let free = statvfs("/dev/shm").map_or(0, |s| s.blocks_available().saturating_mul(s.fragment_size()));
    if free < MEMORY_BYTES_MIN {
        return TempDir::new();
    }
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new())
}

/// How often a folder that is in use is copied anew.
const COPIES_MAX: usize = 100;

/// Copies a folder with all that is in it; holes stay holes. One that is in use is copied anew if a file of it goes
/// meanwhile, so that the copy has what was there at one time.
///
/// # Errors
///
/// What the system refuses.
pub fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    for _ in 0..COPIES_MAX {
        match copy_once(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && from.exists() => fs::remove_dir_all(to)?,
            copied => return copied,
        }
    }
    copy_once(from, to)
}

fn copy_once(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_once(&entry.path(), &to)?;
        } else {
            copy_file(&File::open(entry.path())?, &File::create(to)?)?;
        }
    }
    Ok(())
}

/// Copies what a file holds into an empty one; holes stay holes.
pub(crate) fn copy_file(from: &File, to: &File) -> io::Result<()> {
    to.set_len(from.metadata()?.len())?;
    let mut bytes = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        at = match lseek(from, at, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let read = from.read_at(&mut bytes, at.unsigned_abs())?;
        to.write_all_at(bytes.get(..read).unwrap_or(&[]), at.unsigned_abs())?;
        at += i64::try_from(read).unwrap_or(i64::MAX);
    }
}
