//! Merges the small files of a table in one commit: readers see the rows in their old files or in the new ones, and
//! never in both. The old files stay for those who read an older version, until an engine's `VACUUM` takes them.
//!
//! Only files of equal columns and equal partition values are merged, and none with deleted rows. The commit is made
//! against a version in which all of them still are the table's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::errors::ParquetError;
use arrow::datatypes::SchemaRef;
use bytesize::ByteSize;
use serde_json::{Value, json};
use sluice_connect::plan::PlanFile;
use sluice_connect::task::{Class, TaskError};
use sluice_store::file::{Disk, Open};

use super::actions;
use super::log::{self, ActiveFile, Log, Table};
use crate::compact::{Compacted, codec, format};
use crate::disk::{failed, remove};
use crate::place::{Folder, Place, parent};
use crate::plain;
use crate::records::ROOT;
use crate::table::ATTEMPTS_MAX;
use crate::table_log::decoded;
use crate::temp::TempFolder;

/// Files of one commit; more are left to the next run.
const MERGED_MAX: usize = 10_000;

/// Small files that become one.
struct Group {
    schema: SchemaRef,
    files: Vec<ActiveFile>,
    bytes: u64,
}

/// Merges files of a table in a folder to about `bytes` each; `now_ms` is since 1970-01-01 UTC.
pub(crate) fn compact(
    target: PathBuf,
    disk: Arc<dyn Disk>,
    bytes: ByteSize,
    now_ms: i64,
) -> Result<Compacted, TaskError> {
    let place: Arc<dyn Place> = Arc::new(Folder::new(disk.clone(), target));
    let log = Log::new(place.clone())?;
    let Some(table) = log.table()? else {
        return Err(TaskError::new(Class::Config, format!("{} has no log", log.shown())));
    };
    let groups = choose(&log, &table, place.as_ref(), bytes.as_u64())?;
    if groups.is_empty() {
        return Ok(Compacted::default());
    }
    let root = place.spool(ROOT);
    place.make(ROOT).map_err(|e| failed("make", root.display(), e))?;
    let temp = TempFolder::open(&disk, &root)?;
    let mut merger = Merger { disk, place, temp, now_ms };
    let mut done = Compacted::default();
    let mut lines = vec![json!({"commitInfo": {
        "timestamp": now_ms,
        "operation": "OPTIMIZE",
        "operationParameters": {"targetSize": bytes.as_u64().to_string()},
        "isBlindAppend": false,
        "engineInfo": concat!("sluice/", env!("CARGO_PKG_VERSION")),
    }})];
    for group in &groups {
        let (add, rows) = merger.merge(&table, group)?;
        lines.extend(group.files.iter().map(|file| removal(&table, file, now_ms)));
        lines.push(add);
        done.from += group.files.len() as u64;
        done.to += 1;
        done.rows += rows;
    }
    let replaced: BTreeSet<&str> =
        groups.iter().flat_map(|group| &group.files).map(|file| file.path.as_str()).collect();
    merger.commit(&log, &replaced, &lines)?;
    Ok(done)
}

/// Small files by partition and columns, so many together as come to about the size asked for.
fn choose(log: &Log, table: &Table, place: &dyn Place, bytes: u64) -> Result<Vec<Group>, TaskError> {
    let mut open: BTreeMap<Vec<(String, String)>, Vec<Group>> = BTreeMap::new();
    let mut chosen = Vec::new();
    let mut left = MERGED_MAX;
    for file in log.active(table)? {
        let size = file.size;
        if file.has_deleted_rows || size > bytes / 2 || left == 0 {
            continue;
        }
        // Another table's file may be named by a whole URL.
        let Some(key) = file.key() else { continue };
        let Some(schema) = columns(&place.spool(&key))? else { continue };
        left -= 1;
        let groups = open.entry(file.partition.clone().into_iter().collect()).or_default();
        let at = groups.iter().position(|group| group.schema == schema).unwrap_or_else(|| {
            groups.push(Group { schema, files: Vec::new(), bytes: 0 });
            groups.len() - 1
        });
        let Some(group) = groups.get_mut(at) else { continue };
        group.files.push(file);
        group.bytes += size;
        if group.bytes >= bytes {
            chosen.push(groups.swap_remove(at));
        }
    }
    chosen.extend(open.into_values().flatten());
    chosen.retain(|group| group.files.len() > 1);
    Ok(chosen)
}

/// The columns of a file; `None` if it is not there: a sweep may be under way, and the table is not ours to mend.
fn columns(path: &Path) -> Result<Option<SchemaRef>, TaskError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("open", path.display(), e)),
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(path, e))?;
    Ok(Some(plain::schema(&reader.schema().as_ref().clone().with_metadata(HashMap::default()))))
}

fn damaged(path: &Path, error: ParquetError) -> TaskError {
    TaskError::new(Class::Config, format!("cannot read {}", path.display())).because(error)
}

fn removal(table: &Table, file: &ActiveFile, now_ms: i64) -> Value {
    json!({"remove": {
        "path": file.path,
        "deletionTimestamp": now_ms,
        "dataChange": false,
        "extendedFileMetadata": true,
        "partitionValues": table.partition_values(file),
        "size": file.size,
    }})
}

struct Merger {
    disk: Arc<dyn Disk>,
    place: Arc<dyn Place>,
    temp: TempFolder,
    now_ms: i64,
}

impl Merger {
    /// Writes the rows of a group into one file that has its name; gives its `add` and its rows.
    fn merge(&mut self, table: &Table, group: &Group) -> Result<(Value, u64), TaskError> {
        let keys: Vec<String> = group.files.iter().filter_map(ActiveFile::key).collect();
        let folder = keys.first().map_or("", |key| parent(key));
        let stem = format!("compact-{}.parquet", uuid::Uuid::new_v4());
        let name = if folder.is_empty() { stem } else { format!("{folder}/{stem}") };
        let temp = self.temp.file();
        let mut writer = None;
        let mut rows = 0;
        for key in &keys {
            let path = self.place.spool(key);
            let file = File::open(&path).map_err(|e| failed("open", path.display(), e))?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(&path, e))?;
            let writer = match &mut writer {
                Some(writer) => writer,
                None => {
                    let format = format(codec(reader.metadata()));
                    writer.insert(format.writer(self.disk.clone(), &temp, group.schema.clone())?)
                }
            };
            for batch in reader.build().map_err(|e| damaged(&path, e))? {
                let batch = batch.map_err(|e| damaged(&path, e.into()))?;
                let batch = plain::batch(&batch, &group.schema).map_err(|e| damaged(&path, e.into()))?;
                rows += batch.num_rows() as u64;
                writer.write(&temp, &batch)?;
            }
        }
        let Some(writer) = writer else {
            return Err(TaskError::new(Class::Fatal, "a merge of no files"));
        };
        writer.finish(&temp, &[])?;
        self.name(&temp, &name)?;
        let partition = group.files.first().map(|file| table.partition_values(file)).unwrap_or_default();
        let partition =
            partition.into_iter().map(|(name, value)| (name, value.as_str().map(str::to_owned))).collect();
        let file = PlanFile { name, partition, first: 0, last: 0, rows, text: None };
        let mut add = actions::file(self.place.as_ref(), &file, self.now_ms)?;
        add["add"]["dataChange"] = json!(false);
        Ok((add, rows))
    }

    /// Gives a temporary file its name, durably; `false` if the name is taken.
    fn name(&self, temp: &Path, key: &str) -> Result<bool, TaskError> {
        let named = self.place.put_file(temp, key).map_err(|e| failed("make", self.place.show(key), e))?;
        let folder = parent(key);
        self.place.sync(folder).map_err(|e| failed("sync", self.place.show(folder), e))?;
        remove(self.disk.as_ref(), temp)?;
        Ok(named)
    }

    fn commit(&mut self, log: &Log, replaced: &BTreeSet<&str>, lines: &[Value]) -> Result<(), TaskError> {
        let bytes: String = lines.iter().map(|line| format!("{line}\n")).collect();
        for _ in 0..ATTEMPTS_MAX {
            let Some(table) = log.table()? else { break };
            let there = log.active(&table)?;
            let there: BTreeSet<&str> = there.iter().map(|file| file.path.as_str()).collect();
            if let Some(gone) = replaced.iter().find(|path| !there.contains(**path)) {
                let message = format!("{}: another process took {gone} from it meanwhile", log.shown());
                return Err(TaskError::new(Class::Retry, message));
            }
            let temp = self.temp.file();
            let file = self.disk.open(&temp, Open::New).map_err(|e| failed("make", temp.display(), e))?;
            let written = file.write_at(&[bytes.as_bytes()], 0).and_then(|()| file.sync());
            written.map_err(|e| failed("write", temp.display(), e))?;
            if self.name(&temp, &log::commit_name(table.version() + 1))? {
                return Ok(());
            }
        }
        Err(TaskError::new(Class::Retry, format!("{}: others commit all the time", log.shown())))
    }
}

impl ActiveFile {
    /// Its path below the table; `None` if it is not there.
    fn key(&self) -> Option<String> {
        let key = decoded(&self.path)?;
        let is_below = !self.path.contains("://")
            && key.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !key.contains('\0');
        is_below.then_some(key)
    }
}
