//! Where a member that reads everything keeps how far it is: in a file of its own, or in memory alone.
//!
//! The file is JSON as Java's clients write it when they broadcast: `{"offsetTable":{{"brokerName":…,"queueId":…,
//! "topic":…}:OFFSET,…}}`. It is replaced as a whole, so that a crash leaves the old one or the new one.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use sluice_protocol::queue::{MessageQueue, ResetOffsets};
use tokio::sync::Mutex;

use crate::error::Error;
use crate::route::Queue;

/// Longest file that is read, in bytes: some hundred thousand queues.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Offsets of a member.
pub(crate) struct LocalOffsets {
    path: Option<PathBuf>,
    /// Held while the file is written.
    table: Mutex<BTreeMap<MessageQueue, i64>>,
}

impl LocalOffsets {
    /// Those of a file, if there is one; without a path those of memory, which has none yet.
    pub(crate) fn open(path: Option<PathBuf>) -> Result<Self, Error> {
        let table = match &path {
            Some(path) => read(path).map_err(|source| Error::OffsetFile {
                op: "read",
                path: path.clone(),
                source: source.into(),
            })?,
            None => BTreeMap::new(),
        };
        Ok(Self { path, table: Mutex::new(table) })
    }

    /// Where the member is in a queue, if it was there before.
    pub(crate) async fn get(&self, queue: &Queue) -> Option<i64> {
        self.table.lock().await.get(&queue.into()).copied()
    }

    /// Keeps how far the member is; in the file once this returns.
    pub(crate) async fn keep(&self, done: impl IntoIterator<Item = (&Queue, i64)>) -> Result<(), Error> {
        let mut table = self.table.lock().await;
        let mut changed = false;
        for (queue, offset) in done {
            changed |= table.insert(queue.into(), offset) != Some(offset);
        }
        let Some(path) = self.path.clone().filter(|_| changed) else { return Ok(()) };
        let text = ResetOffsets { offset_table: table.clone() }.encode();
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || write(&to, &text)).await;
        let failed = |source| Error::OffsetFile { op: "write", path, source: Arc::new(source) };
        written.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into())).map_err(failed)
    }
}

fn read(path: &Path) -> Result<BTreeMap<MessageQueue, i64>, Box<dyn StdError + Send + Sync>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes").into());
    }
    Ok(ResetOffsets::decode(&text)?.offset_table)
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let mut file = fs::File::create(&name)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(name, path)
}
