//! Sink `iceberg`: Parquet files that are committed to a table of Apache Iceberg, as [`crate::table`] says.
//!
//! A commit adds the files of one plan by one append snapshot and moves the chain's position. The position stands in
//! the table's properties, which the same commit sets and which outlive the snapshots that engines expire, and in the
//! summary of the snapshot: where both are there and differ, the table was taken back to an older state.
//!
//! | module     | has                                                                             |
//! |------------|---------------------------------------------------------------------------------|
//! | `catalog`  | who says which metadata is the newest: a REST catalog, or the table's own folder |
//! | `storage`  | manifests and metadata in a [`crate::place::Place`], durably                      |
//! | `schema`   | columns with their ids, of Arrow and of Iceberg                                 |
//! | `metrics`  | what a file's footer says, as manifests have it                                 |
//! | `format`   | the table format: making a table, adding columns, commits                       |
//! | `log`      | what `audit` wants to know                                                      |
//!
//! The format: <https://iceberg.apache.org/spec/>.

#[cfg(feature = "iceberg")]
mod catalog;
#[cfg(feature = "iceberg")]
mod format;
#[cfg(feature = "iceberg")]
pub(crate) mod log;
#[cfg(feature = "iceberg")]
mod metrics;
#[cfg(feature = "iceberg")]
mod schema;
#[cfg(feature = "iceberg")]
mod storage;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::location::Location;
use crate::objects::{Secret, StoreConfig};
use crate::parquet::{Codec, ParquetConfig, RowGroup};
use crate::rotate::{Rotate, open_partitions_default, positive_count};

#[cfg(feature = "iceberg")]
pub use format::{Iceberg, IcebergSink};

/// What a build without the feature says of sink `iceberg`.
pub(crate) const WITHOUT_ICEBERG: &str =
    "this build of sluice has no Iceberg: build it with `--features iceberg`";

/// Before the chain in the name of the property that has its position.
#[cfg(feature = "iceberg")]
const POSITION: &str = "sluice.";

/// The folder of a table's metadata, below the table.
pub(crate) const METADATA: &str = "metadata";

/// Whether the folder of a table's metadata has a file of this name that is one version of it.
pub(crate) fn is_metadata(name: &str) -> bool {
    name.ends_with(".metadata.json")
}

/// Settings of `sink: {iceberg: …}`: those of Parquet files, and the catalog.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IcebergConfig {
    /// Where the table lies: a folder, or `s3://bucket/prefix`.
    pub path: Location,
    /// The object store, for a table that is in none of this machine's folders.
    #[serde(default)]
    pub store: Option<StoreConfig>,
    /// How column chunks are compressed: `zstd(1)` to `zstd(22)`, `snappy`, `lz4`, `none`; `zstd(1)` if not said.
    #[serde(default)]
    pub codec: Codec,
    /// Columns that the table is partitioned by, as they are: `$.field`, `$envelope_column` or a property.
    #[serde(default)]
    pub partition: Vec<String>,
    /// Files that are open at a time.
    #[serde(default = "open_partitions_default", deserialize_with = "positive_count")]
    pub open_partitions: usize,
    /// When a row group ends.
    #[serde(default)]
    pub row_group: RowGroup,
    /// When a plan ends, and with it a snapshot.
    #[serde(default)]
    pub rotate: Rotate,
    /// Who says which metadata of the table is the newest; `file` if not said.
    #[serde(default)]
    pub catalog: CatalogConfig,
}

/// Who says which metadata of a table is the newest.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatalogConfig {
    /// The table's own folder: `metadata/v<n>.metadata.json`, as Hadoop's catalog has it.
    #[default]
    File,
    /// A catalog that speaks Iceberg's REST protocol.
    Rest(RestConfig),
}

/// A table of a REST catalog.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestConfig {
    /// Address of the catalog: `http://localhost:8181`, without `/v1`.
    pub uri: String,
    /// The table in it, with its namespace: `lake.flights`.
    pub table: String,
    /// Which warehouse of the catalog, if it has several.
    #[serde(default)]
    pub warehouse: Option<String>,
    /// A bearer token; written `${VAR}`.
    #[serde(default)]
    pub token: Option<Secret>,
    /// `id:secret` that a token is asked for with, by OAuth 2; written `${VAR}`.
    #[serde(default)]
    pub credential: Option<Secret>,
    /// Where that token is asked for, if not at the catalog itself.
    #[serde(default)]
    pub oauth2_server_uri: Option<String>,
    /// The scope that it is asked for with: `catalog` if not said.
    #[serde(default)]
    pub scope: Option<String>,
}

/// The keys of secrets below `catalog.rest`.
pub const SECRETS: [&str; 2] = ["token", "credential"];

impl IcebergConfig {
    /// The settings of its files.
    pub(crate) fn files(&self) -> ParquetConfig {
        ParquetConfig {
            path: self.path.clone(),
            store: self.store.clone(),
            codec: self.codec,
            partition: self.partition.clone(),
            open_partitions: self.open_partitions,
            row_group: self.row_group.clone(),
            rotate: self.rotate.clone(),
        }
    }

    /// What is wrong with the catalog's settings, each with the path of its key below `catalog`.
    pub(crate) fn catalog_problems(&self) -> Vec<(Vec<&'static str>, String)> {
        let CatalogConfig::Rest(rest) = &self.catalog else { return Vec::new() };
        let mut found = Vec::new();
        if !rest.uri.starts_with("http://") && !rest.uri.starts_with("https://") {
            found.push((vec!["rest", "uri"], "expected an address: http://localhost:8181".to_owned()));
        }
        if rest.table_parts().is_none() {
            let message = "expected a namespace and a name: lake.flights";
            found.push((vec!["rest", "table"], message.to_owned()));
        }
        if rest.token.is_some() && rest.credential.is_some() {
            let message = "a token is asked for with it, and `token` is given: leave out one of them";
            found.push((vec!["rest", "credential"], message.to_owned()));
        }
        found
    }
}

impl RestConfig {
    /// The namespace's parts and the table's name.
    pub(crate) fn table_parts(&self) -> Option<(Vec<&str>, &str)> {
        let (namespace, name) = self.table.rsplit_once('.')?;
        let parts: Vec<&str> = namespace.split('.').collect();
        let is_whole = !name.is_empty() && parts.iter().all(|part| !part.is_empty());
        is_whole.then_some((parts, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<IcebergConfig, String> {
        serde_saphyr::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn settings_are_those_of_files_and_a_catalog() {
        let plain = config("{path: ./lake}").unwrap();
        assert!(matches!(plain.catalog, CatalogConfig::File) && plain.catalog_problems().is_empty());
        assert!(matches!(config("{path: a, catalog: file}").unwrap().catalog, CatalogConfig::File));
        for bad in [
            "{}",
            "{path: a, catalog: hive}",
            "{path: a, catalog: {rest: {uri: b}}}",
            "{path: a, codecs: zstd}",
        ] {
            assert!(config(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_rest_catalog_is_looked_at_before_it_is_asked() {
        let rest = |uri: &str, table: &str, more: &str| {
            let text = format!("{{path: a, catalog: {{rest: {{uri: '{uri}', table: {table}{more}}}}}}}");
            config(&text).unwrap().catalog_problems()
        };
        assert!(rest("http://localhost:8181", "lake.flights", "").is_empty());
        assert!(rest("https://catalog", "a.b.c", ", token: x").is_empty());
        for (uri, table, more, at) in [
            ("localhost:8181", "a.b", "", "uri"),
            ("http://a", "flights", "", "table"),
            ("http://a", "a..b", "", "table"),
            ("http://a", "a.b", ", token: x, credential: 'y:z'", "credential"),
        ] {
            let found = rest(uri, table, more);
            assert!(found.len() == 1 && found[0].0 == ["rest", at], "{found:?}");
        }
    }
}
