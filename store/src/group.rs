//! Settings of consumer groups: `config/subscriptionGroup.json`, which is `RocketMQ`'s. What they mean is the
//! broker's to know; they are kept as they are. Never writes a file; the checkpoint does.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sluice_protocol::id::GroupName;

use crate::json::DataVersion;

/// The groups that are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupTable {
    version: DataVersion,
    configs: BTreeMap<GroupName, Value>,
    /// What may not be read by whom, of which we make nothing.
    forbidden: Value,
    /// Whether the file must be written again.
    pub(crate) changed: bool,
}

impl GroupTable {
    /// The table in the text of the file. A group whose name is none is left out.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let document = crate::json::lenient(text)?;
        let table = document.get("subscriptionGroupTable").and_then(Value::as_object);
        let configs = table.into_iter().flatten().filter_map(|(name, config)| {
            let name = GroupName::new(name).ok()?;
            config.is_object().then(|| (name, config.clone()))
        });
        let forbidden = document.get("forbiddenTable").cloned().unwrap_or_default();
        Ok(Self {
            version: DataVersion::of(&document),
            configs: configs.collect(),
            forbidden,
            changed: false,
        })
    }

    /// The text of the file.
    pub(crate) fn to_json(&self) -> String {
        let table: Map<String, Value> =
            self.configs.iter().map(|(name, config)| (name.to_string(), config.clone())).collect();
        let forbidden = if self.forbidden.is_null() { json!({}) } else { self.forbidden.clone() };
        json!({ "dataVersion": self.version, "forbiddenTable": forbidden, "subscriptionGroupTable": table })
            .to_string()
    }

    pub(crate) fn get(&self, group: &GroupName) -> Option<&Value> {
        self.configs.get(group)
    }

    pub(crate) fn set(&mut self, group: &GroupName, config: Value, now_ms: i64) {
        self.configs.insert(group.clone(), config);
        self.version.step(now_ms);
        self.changed = true;
    }

    pub(crate) fn remove(&mut self, group: &GroupName, now_ms: i64) {
        self.configs.remove(group);
        self.version.step(now_ms);
        self.changed = true;
    }

    /// All groups in the order of their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &GroupName> {
        self.configs.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_another_broker_is_kept_as_it_is() {
        let text = r#"{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":5},"forbiddenTable":{"g":{"t":1}},
            "subscriptionGroupTable":{"g":{"groupName":"g","retryMaxTimes":16,"unknown":[1]}}}"#;
        let mut table = GroupTable::parse(text).unwrap();
        let group = GroupName::new("h").unwrap();
        table.set(&group, json!({"groupName": "h"}), 7);
        let written: Value = serde_json::from_str(&table.to_json()).unwrap();
        assert_eq!(written["subscriptionGroupTable"]["g"]["unknown"], json!([1]));
        assert_eq!(written["forbiddenTable"], json!({"g": {"t": 1}}));
        assert_eq!(written["dataVersion"], json!({"counter": 4, "stateVersion": 0, "timestamp": 7}));
        assert_eq!(table.names().map(GroupName::as_str).collect::<Vec<_>>(), ["g", "h"]);
    }
}
