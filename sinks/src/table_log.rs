//! What the commits of a table say of files and positions, for `audit`. Those of Delta Lake are read here, as JSON,
//! without the library, in every build; those of Iceberg in [`crate::iceberg`]. Commits that were cleaned away behind a checkpoint are not looked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use sluice_connect::task::{Class, TaskError};

use crate::disk::failed;
use crate::place::Place;
use crate::records::{TABLE_LOG, read};

/// The files and positions of a table's commits.
#[derive(Debug, Default)]
pub(crate) struct TableLog {
    /// Commits by which each file came.
    pub(crate) added: BTreeMap<String, u64>,
    /// Files that are none of the table's any more: another engine wrote their rows anew, or took them away.
    pub(crate) removed: BTreeSet<String>,
    /// Where each chain stands, by what it is written as.
    pub(crate) positions: BTreeMap<String, i64>,
    /// All commits are there.
    pub(crate) is_whole: bool,
}

/// Before the chain in the name of the application that its position stands under.
pub(crate) const DELTA_PREFIX: &str = "sluice/";

/// The actions that matter here.
#[derive(Deserialize)]
struct Action {
    add: Option<Named>,
    remove: Option<Named>,
    txn: Option<Txn>,
}

#[derive(Deserialize)]
struct Named {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
    version: i64,
}

impl TableLog {
    /// Reads all commits; `None` if the target is no table.
    pub(crate) fn read(place: &dyn Place) -> Result<Option<Self>, TaskError> {
        #[cfg(feature = "iceberg")]
        if let Some(log) = crate::iceberg::log::read(place)? {
            return Ok(Some(log));
        }
        Self::read_delta(place)
    }

    fn read_delta(place: &dyn Place) -> Result<Option<Self>, TaskError> {
        let entries = place.list(TABLE_LOG).map_err(|e| failed("list", place.show(TABLE_LOG), e))?;
        let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        names.retain(|name| {
            name.strip_suffix(".json").is_some_and(|n| n.len() == 20 && n.bytes().all(|b| b.is_ascii_digit()))
        });
        if names.is_empty() {
            return Ok(None);
        }
        names.sort();
        let mut log = Self {
            is_whole: names.first().is_some_and(|name| name.starts_with(&"0".repeat(20))),
            ..Self::default()
        };
        for name in names {
            let key = format!("{TABLE_LOG}/{name}");
            let Some(bytes) = read(place, &key)? else { continue };
            for action in serde_json::Deserializer::from_slice(&bytes).into_iter::<Action>() {
                let action = action.map_err(|e| {
                    TaskError::new(Class::Config, format!("{} is damaged", place.show(&key))).because(e)
                })?;
                if let Some(path) = action.add.and_then(|add| decoded(&add.path)) {
                    *log.added.entry(path).or_default() += 1;
                }
                if let Some(path) = action.remove.and_then(|remove| decoded(&remove.path)) {
                    log.removed.insert(path);
                }
                if let Some(txn) = action.txn {
                    let chain = txn.app_id.strip_prefix(DELTA_PREFIX).unwrap_or_default();
                    log.positions.insert(chain.to_owned(), txn.version);
                }
            }
        }
        Ok(Some(log))
    }
}

/// A path of the log as it lies below the table; `None` if it is no text.
pub(crate) fn decoded(path: &str) -> Option<String> {
    percent_decode_str(path).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        assert_eq!(decoded("a=b%252Fc/x%20y").as_deref(), Some("a=b%2Fc/x y"));
        assert_eq!(decoded("100%").as_deref(), Some("100%"));
        assert_eq!(decoded("%FF"), None);
        assert_eq!(decoded("%+1%0").as_deref(), Some("%+1%0"));
    }
}
