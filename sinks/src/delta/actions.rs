//! The lines of a commit: what was done, how the table is made or grows, the files, and where the chain stands.

use arrow::datatypes::{DataType, Schema};
use delta_kernel::engine::arrow_conversion::TryIntoKernel;
use delta_kernel::schema::StructType;
use serde_json::{Map, Value, json};
use sluice_connect::plan::{Plan, PlanFile};
use sluice_connect::task::{Chain, Class, TaskError};

use super::log::{Log, Table};
use super::{app_id, stats};
use crate::place::Place;
use crate::table::{self, MADE_BY};

/// The `add` of a file that has its name.
pub(super) fn file(place: &dyn Place, file: &PlanFile, decided_ms: i64) -> Result<Value, TaskError> {
    let (bytes, metadata) = table::footer(place, file)?;
    let values: Map<String, Value> =
        file.partition.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    Ok(json!({"add": {
        "path": encoded(&file.name),
        "partitionValues": values,
        "size": bytes,
        "modificationTime": decided_ms,
        "dataChange": true,
        "stats": stats::of(&metadata).to_string(),
    }}))
}

/// The path as a URI, as which the log has it.
fn encoded(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'/' | b'=');
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// All lines of the commit of one plan, against the version of the table that stands.
pub(super) fn commit(
    log: &Log,
    table: Option<&Table>,
    chain: &Chain,
    plan: &Plan,
    columns: &Schema,
    partition: &[String],
    adds: &[Value],
) -> Result<Vec<u8>, TaskError> {
    let mut info = json!({"commitInfo": {
        "timestamp": plan.decided_ms,
        "operation": "WRITE",
        "operationParameters": {"mode": "Append", "partitionBy": json!(partition).to_string()},
        "isBlindAppend": true,
        "engineInfo": concat!("sluice/", env!("CARGO_PKG_VERSION")),
        "sluice": {
            "pipeline": &*chain.pipeline,
            "topic": &*chain.topic,
            "queue": chain.queue,
            "start": plan.start,
            "end": plan.end,
            "fates": plan.fates,
        },
    }});
    if let Some(table) = table {
        info["commitInfo"]["readVersion"] = json!(table.version());
    }
    let txn = json!({"txn": {"appId": app_id(chain), "version": plan.end, "lastUpdated": plan.decided_ms}});
    let mut lines = vec![info];
    if table.is_none() {
        lines.push(json!({"protocol": protocol(columns)}));
    }
    if let Some(mut metadata) = metadata(log, table, &chain.pipeline, columns, partition)? {
        if table.is_none() {
            metadata["createdTime"] = json!(plan.decided_ms);
        }
        lines.push(json!({"metaData": metadata}));
    }
    let mut bytes = Vec::new();
    for line in lines.iter().chain([&txn]).chain(adds) {
        bytes.extend_from_slice(line.to_string().as_bytes());
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// The `metaData` that makes the table, or that adds the columns it lacks; `None` if it lacks none. An error says why
/// rows with these columns do not fit. A `pipeline` that is empty stands for the one that made the table.
pub(super) fn metadata(
    log: &Log,
    table: Option<&Table>,
    pipeline: &str,
    columns: &Schema,
    partition: &[String],
) -> Result<Option<Value>, TaskError> {
    let refused = |why: String| TaskError::new(Class::Config, format!("{}: {why}", log.shown()));
    let kernel: StructType = columns
        .try_into_kernel()
        .map_err(|e| refused("its columns have no types in a table".to_owned()).because(e))?;
    let ours = serde_json::to_value(&kernel)
        .map_err(|e| refused("its columns have no JSON".to_owned()).because(e))?;
    let Some(table) = table else {
        return Ok(Some(json!({
            "id": uuid::Uuid::new_v4().to_string(),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": ours.to_string(),
            "partitionColumns": partition,
            "configuration": {MADE_BY: pipeline},
        })));
    };
    if table.partition_columns() != partition {
        let names = |names: &[String]| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let why = table::other_partition(&names(table.partition_columns()), &names(partition));
        return Err(refused(why));
    }
    let has_local_times = |schema: &Schema| schema.fields().iter().any(|field| is_local(field.data_type()));
    if has_local_times(columns) && !table.has_feature("timestampNtz") {
        let why =
            "a column has times without a zone, and the table has no feature `timestampNtz`: cast it to text";
        return Err(refused(why.to_owned()));
    }
    let mut metadata = table.metadata();
    let mut standing: Value = metadata["schemaString"]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| refused("its log has no schema".to_owned()))?;
    let mut added = Vec::new();
    merge(&mut standing, &ours, "", &mut added).map_err(refused)?;
    if added.is_empty() {
        return Ok(None);
    }
    table::may_grow(table.property(MADE_BY), pipeline, &added).map_err(refused)?;
    metadata["schemaString"] = json!(standing.to_string());
    Ok(Some(metadata))
}

fn is_local(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(_, zone) => zone.is_none(),
        DataType::List(field) | DataType::Map(field, _) => is_local(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| is_local(field.data_type())),
        _ => false,
    }
}

fn protocol(columns: &Schema) -> Value {
    if columns.fields().iter().any(|field| is_local(field.data_type())) {
        return json!({
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["timestampNtz"],
            "writerFeatures": ["timestampNtz", "appendOnly", "invariants"],
        });
    }
    json!({"minReaderVersion": 1, "minWriterVersion": 2})
}

/// Adds to a type of the table what the rows' type has beside it; `added` gets the names.
fn merge(table: &mut Value, rows: &Value, above: &str, added: &mut Vec<String>) -> Result<(), String> {
    if table.is_object() != rows.is_object() || rows.is_object() && table["type"] != rows["type"] {
        return Err(format!("column `{above}` is a {rows} here and a {table} in the table"));
    }
    match rows["type"].as_str() {
        Some("struct") => {
            let fields = table["fields"].as_array_mut().ok_or("its log has a struct without fields")?;
            for field in rows["fields"].as_array().into_iter().flatten() {
                let name = field["name"].as_str().unwrap_or_default();
                let shown = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
                match fields.iter_mut().find(|other| other["name"] == field["name"]) {
                    Some(other) => merge(&mut other["type"], &field["type"], &shown, added)?,
                    None => {
                        fields.push(field.clone());
                        added.push(shown);
                    }
                }
            }
            // What the rows lack is null.
            let given = |field: &Value| {
                rows["fields"].as_array().into_iter().flatten().any(|other| other["name"] == field["name"])
            };
            match fields.iter().find(|field| field["nullable"] == json!(false) && !given(field)) {
                Some(field) => {
                    Err(format!("column {} must not be null, and the rows have none such", field["name"]))
                }
                None => Ok(()),
            }
        }
        Some("array") => merge(&mut table["elementType"], &rows["elementType"], above, added),
        Some("map") => {
            merge(&mut table["keyType"], &rows["keyType"], above, added)?;
            merge(&mut table["valueType"], &rows["valueType"], above, added)
        }
        _ if table == rows => Ok(()),
        _ => Err(format!("column `{above}` is a {rows} here and a {table} in the table")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_uris() {
        assert_eq!(encoded("a=b%2Fc/x y-é.parquet"), "a=b%252Fc/x%20y-%C3%A9.parquet");
    }

    #[test]
    fn a_tables_type_grows_at_any_depth_and_keeps_what_is_there() {
        let field = |name: &str, data_type: Value| json!({"name": name, "type": data_type, "nullable": true, "metadata": {}});
        let of = |fields: Vec<Value>| json!({"type": "struct", "fields": fields});
        let list =
            |data_type: Value| json!({"type": "array", "elementType": data_type, "containsNull": true});
        let mut table =
            of(vec![field("a", json!("long")), field("b", list(of(vec![field("c", json!("string"))])))]);
        let rows =
            of(vec![field("b", list(of(vec![field("d", json!("date"))]))), field("e", json!("double"))]);
        let mut added = Vec::new();
        merge(&mut table, &rows, "", &mut added).unwrap();
        assert_eq!(added, ["b.d", "e"]);
        let names = table["fields"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "e"]);
        let narrow = of(vec![field("a", json!("integer"))]);
        assert!(merge(&mut table, &narrow, "", &mut added).unwrap_err().contains("column `a`"));
    }
}
