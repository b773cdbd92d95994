//! What the snapshots of a table say of files and positions, for `audit`: those that are there, of a table that says
//! itself which of its metadata is the newest.

use std::collections::BTreeSet;

use iceberg::spec::{Manifest, ManifestList, ManifestStatus, TableMetadata};
use sluice_connect::task::{Class, TaskError};

use super::catalog::{last_listed, version_name};
use super::format::begins;
use super::{POSITION, storage};
use crate::disk::failed;
use crate::place::Place;
use crate::table_log::TableLog;

/// Reads all snapshots; `None` if the target is no table, or one of a catalog.
pub(crate) fn read(place: &dyn Place) -> Result<Option<TableLog>, TaskError> {
    let Some(Some(mut version)) = last_listed(place)? else { return Ok(None) };
    // The list may be older than a commit under way.
    while place.has(&version_name(version + 1)).map_err(|e| failed("look at", place.show(""), e))? {
        version += 1;
    }
    let key = version_name(version);
    let damaged = |key: &str| TaskError::new(Class::Config, format!("{} is damaged", place.show(key)));
    let whole = |key: &str| {
        storage::read(place, key)?
            .ok_or_else(|| TaskError::new(Class::Config, format!("{} is missing", place.show(key))))
    };
    let table: TableMetadata = serde_json::from_slice(&whole(&key)?).map_err(|e| damaged(&key).because(e))?;
    let below = |address: &str| {
        storage::key(table.location(), address).map(str::to_owned).ok_or_else(|| {
            let message = format!("{address} lies outside of the table {}", place.show(""));
            TaskError::new(Class::Config, message)
        })
    };
    let mut log = TableLog::default();
    for (key, value) in table.properties() {
        if let Some(chain) = key.strip_prefix(POSITION)
            && let Ok(at) = value.parse()
        {
            log.positions.insert(chain.to_owned(), at);
        }
    }
    // Expired snapshots had files of their own.
    log.is_whole = table.snapshots().all(|snapshot| match snapshot.parent_snapshot_id() {
        Some(parent) => table.snapshot_by_id(parent).is_some(),
        None => begins(&table, snapshot),
    });
    let (mut seen, mut added, mut existing) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for snapshot in table.snapshots() {
        let key = below(snapshot.manifest_list())?;
        let list = ManifestList::parse_with_version(&whole(&key)?, table.format_version());
        for file in list.map_err(|e| damaged(&key).because(e.to_string()))?.entries() {
            if !seen.insert(file.manifest_path.clone()) {
                continue;
            }
            let key = below(&file.manifest_path)?;
            let manifest = Manifest::parse_avro(&whole(&key)?);
            for entry in manifest.map_err(|e| damaged(&key).because(e.to_string()))?.entries() {
                let Some(data) = storage::key(table.location(), entry.file_path()) else { continue };
                let snapshot = entry.snapshot_id().unwrap_or(file.added_snapshot_id);
                match entry.status() {
                    ManifestStatus::Added => drop(added.insert((data.to_owned(), snapshot))),
                    ManifestStatus::Deleted => drop(log.removed.insert(data.to_owned())),
                    // Who merged the manifests keeps what was added.
                    ManifestStatus::Existing => drop(existing.insert(data.to_owned())),
                }
            }
        }
    }
    for (data, _) in added {
        *log.added.entry(data).or_default() += 1;
    }
    for data in existing {
        log.added.entry(data).or_insert(1);
    }
    Ok(Some(log))
}
