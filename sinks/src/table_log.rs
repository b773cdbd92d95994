//! What the commits of a Delta Lake table say of files and positions, for `audit`: read as JSON, without the library, in
//! every build. Commits that were cleaned away behind a checkpoint are not looked for.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Where each application stands.
    pub(crate) positions: BTreeMap<String, i64>,
    /// All commits are there.
    pub(crate) is_whole: bool,
}

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
                    log.positions.insert(txn.app_id, txn.version);
                }
            }
        }
        Ok(Some(log))
    }
}

/// A path of the log as it lies below the table; `None` if it is no text.
pub(crate) fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        assert_eq!(decoded("a=b%252Fc/x%20y").as_deref(), Some("a=b%2Fc/x y"));
        assert_eq!(decoded("100%").as_deref(), Some("100%"));
        assert_eq!(decoded("%FF"), None);
    }
}
