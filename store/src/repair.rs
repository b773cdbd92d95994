//! What an open writes into the log that it found: zeros behind its end, or all that it holds once more.
//!
//! Never decides where the log ends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::Error;
use crate::file::{Disk, DiskFile, Open};
use crate::recovery::segment_files;
use crate::segment;

const ZEROS: &[u8] = &[0; 64 * 1024];

/// Zeroes everything behind `end` and removes the segments that follow. A next one that was made ahead and
/// never written stays. Says how many bytes were there. The first checkpoint makes the zeros durable.
pub(crate) fn zero_after(
    disk: &dyn Disk,
    commit_log: &Path,
    segment_bytes: u64,
    end: u64,
) -> Result<u64, Error> {
    let mut cut = 0;
    let mut unsynced = false;
    // From the last one on, each removal durable before the next, so that no crash leaves a gap.
    for (start, _) in segment_files(commit_log)?.into_iter().rev() {
        if start + segment_bytes <= end {
            break;
        }
        let path = segment::path(commit_log, start);
        let file = disk.open(&path, Open::Existing).map_err(|e| Error::io("open", &path, e))?;
        if start < end {
            cut += zero_file(&*file, end - start).map_err(|e| Error::io("zero", &path, e))?;
            continue;
        }
        let data = data_after(file.file(), 0).map_err(|e| Error::io("read", &path, e))?;
        if data > 0 || start >= end + segment_bytes {
            if unsynced {
                disk.sync_dir(commit_log).map_err(|e| Error::io("sync", commit_log, e))?;
            }
            cut += data;
            disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
            unsynced = true;
        }
    }
    Ok(cut)
}

/// Writes what a file holds once more, so that the next sync takes it to the disk.
pub(crate) fn write_again(file: &dyn DiskFile) -> io::Result<()> {
    let mut bytes = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let len = file.file().read_at(&mut bytes, at)?;
        if len == 0 {
            return Ok(());
        }
        file.write_at(&[bytes.get(..len).unwrap_or_default()], at)?;
        at += len as u64;
    }
}

/// Writes zeros over what is not zero behind a place; gives the bytes up to the last one that was not.
fn zero_file(file: &dyn DiskFile, from: u64) -> io::Result<u64> {
    let mut last = from;
    let mut bytes = vec![0; ZEROS.len()];
    let mut at = from;
    while let Some(data) = next_data(file.file(), at)? {
        at = data;
        let len = file.file().read_at(&mut bytes, at)?;
        if len == 0 {
            break;
        }
        if let Some(nonzero) = last_not_zero(bytes.get(..len).unwrap_or_default()) {
            last = at + nonzero as u64 + 1;
            file.write_at(&[ZEROS.get(..len).unwrap_or(ZEROS)], at)?;
        }
        at += len as u64;
    }
    Ok(last - from)
}

/// Where the last byte of at most a piece of zeros is that is none. Most pieces are all zero, and told by one
/// comparison.
fn last_not_zero(bytes: &[u8]) -> Option<usize> {
    if ZEROS.get(..bytes.len()) == Some(bytes) { None } else { bytes.iter().rposition(|&b| b != 0) }
}

/// Bytes from a place to the last one in the file that is not zero.
fn data_after(file: &File, from: u64) -> io::Result<u64> {
    let mut last = from;
    let mut bytes = vec![0; ZEROS.len()];
    let mut at = from;
    while let Some(data) = next_data(file, at)? {
        at = data;
        let len = file.read_at(&mut bytes, at)?;
        if len == 0 {
            break;
        }
        let found = last_not_zero(bytes.get(..len).unwrap_or_default());
        last = found.map_or(last, |i| at + i as u64 + 1);
        at += len as u64;
    }
    Ok(last - from)
}

/// The next place that is not a hole.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(|_| io::ErrorKind::InvalidData)?;
    match lseek(file, at, Whence::SeekData) {
        Ok(data) => Ok(u64::try_from(data).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
