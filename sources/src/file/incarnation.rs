//! What tells a file from another one that came under its name: `<n>-<hash>`, the 64-bit FNV-1a hash of
//! its first `n` bytes as they stand on disk. `n` is 4,096, or the length of a shorter file, so that a file
//! that only grows stays the same. Older positions have the hash alone, of up to 4,096 bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_connect::config::hash;
use sluice_connect::task::{Class, Confirm, TaskError};

use super::input::GZIP;

/// Bytes of a file that its incarnation is made of, at most.
const BYTES_MAX: usize = 4096;

/// The incarnation of a file as it is now.
pub(super) fn incarnation(path: &Path) -> Result<String, TaskError> {
    let head = head(path)?;
    Ok(format!("{}-{}", head.len(), hash(&head)))
}

fn head(path: &Path) -> Result<Vec<u8>, TaskError> {
    let failed = |e| TaskError::io(format!("cannot read {}", path.display()), e);
    let mut head = Vec::new();
    File::open(path).map_err(failed)?.take(BYTES_MAX as u64).read_to_end(&mut head).map_err(failed)?;
    Ok(head)
}

/// Keeps no positions, and knows a file again that has grown.
pub(super) struct SameFiles(pub(super) HashMap<Arc<str>, PathBuf>);

impl Confirm for SameFiles {
    fn secure(&self, _topic: &str, _queue: i32, _end: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirm(&self, _topic: &str, _queue: i32, _end: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirmed(&self, _topic: &str, _queue: i32) -> Result<Option<i64>, TaskError> {
        Ok(None)
    }

    fn same(&self, topic: &str, _queue: i32, recorded: &str, current: &str) -> Result<bool, TaskError> {
        if recorded == current {
            return Ok(true);
        }
        let Some(path) = self.0.get(topic) else { return Ok(false) };
        let head = head(path)?;
        let Some((len, digest)) = recorded.split_once('-') else { return Ok(recorded == hash(&head)) };
        let Some(begin) = len.parse().ok().and_then(|len: usize| head.get(..len)) else { return Ok(false) };
        if digest != hash(begin) {
            return Ok(false);
        }
        let was_cut = head.len() > begin.len()
            && !head.starts_with(&GZIP)
            && begin.last().is_some_and(|byte| !matches!(byte, b'\n' | b'\r'));
        if was_cut {
            let message = format!(
                "{} has grown, and its last line had no end when it was read ({} bytes): that line may be stored cut. \
                 To take the file from its beginning, give the pipeline a new name",
                path.display(),
                begin.len()
            );
            return Err(TaskError::new(Class::Config, message));
        }
        Ok(true)
    }
}
