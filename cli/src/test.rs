//! `sluice test`: runs a pipeline's own `tests` through its filter, its decoding and its steps, and compares the
//! rows that would go to the sink. Opens neither the source nor the sink.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::{
    ArrayRef, BinaryViewArray, DictionaryArray, Int32Array, Int64Array, MapBuilder, MapFieldNames,
    RecordBatch, RecordBatchOptions, StringArray, StringViewArray, StringViewBuilder,
    TimestampMillisecondArray,
};
use arrow::compute::filter_record_batch;
use serde::Serialize;
use serde_json::{Map, Value};
use sluice_connect::batch::property_column;
use sluice_connect::config::{GivenMessage, TestCase, Then};
use sluice_connect::steps::Next;
use sluice_connect::task::{Needs, Range, Slice};
use sluice_filters::Name;
use sluice_sinks::stdout::ndjson;

use crate::build;
use crate::load::{self, ParsedPipeline};
use crate::show::{causes, plural};

#[derive(clap::Args)]
pub(crate) struct TestArguments {
    /// Pipeline files (YAML)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
}

/// How one test went.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pipeline: String,
    /// Its place in the document, from 1.
    test: usize,
    name: Option<String>,
    pub(crate) ok: bool,
    /// Each difference between what was expected and what came.
    differences: Vec<String>,
}

pub(crate) fn run(arguments: &TestArguments) -> Result<ExitCode> {
    let all = load::load(&arguments.files)?;
    let wanted =
        |p: &&ParsedPipeline| arguments.pipeline.as_ref().is_none_or(|n| n == p.document.name.as_str());
    let outcomes: Vec<Outcome> = all.iter().filter(wanted).flat_map(outcomes).collect();
    if outcomes.is_empty() {
        let names: Vec<&str> = all.iter().map(|p| p.document.name.as_str()).collect();
        bail!(
            "nothing to test: no `tests` in the pipelines asked for (the files have: {})",
            names.join(", ")
        );
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::json!({"ok": failed == 0, "tests": outcomes}))?;
    } else {
        for Outcome { pipeline, test, name, ok, differences } in &outcomes {
            let name = name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
            writeln!(out, "{pipeline}: test {test}{name}: {}", if *ok { "ok" } else { "FAILED" })?;
            for difference in differences {
                writeln!(out, "  {difference}")?;
            }
        }
        match failed {
            0 => writeln!(out, "ok: {}", plural(outcomes.len(), "test"))?,
            _ => eprintln!("{failed} of {} failed", plural(outcomes.len(), "test")),
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How each test of a document goes.
pub(crate) fn outcomes(parsed: &ParsedPipeline) -> Vec<Outcome> {
    let one = |(at, case): (usize, &TestCase)| {
        let differences = differences(parsed, case).unwrap_or_else(|error| vec![causes(&error)]);
        Outcome {
            pipeline: parsed.document.name.to_string(),
            test: at + 1,
            name: case.name.clone(),
            ok: differences.is_empty(),
            differences,
        }
    };
    parsed.document.tests.iter().enumerate().map(one).collect()
}

fn differences(parsed: &ParsedPipeline, case: &TestCase) -> Result<Vec<String>> {
    let mut parsed = parsed.clone();
    // What does not fit is told by the test.
    parsed.document.errors.then = Then::Skip;
    let (mut steps, needs) = build::steps(&parsed)?;
    let slice = given(&case.given, &needs).context("cannot make the given messages")?;
    let mut slices = match steps.push(0, slice)? {
        Next::Pass(slices) => slices,
        Next::Fix(schema) => build::fix(&mut steps, schema)?,
    };
    slices.extend(match steps.proposal() {
        Some(schema) => build::fix(&mut steps, schema)?,
        None => steps.release_without_schema()?,
    });
    let (mut rows, mut rejects) = (Vec::new(), Vec::new());
    for (_, slice) in &slices {
        rows.extend(found(slice)?);
        rejects.extend(slice.rejects.iter().map(|reject| format!("{}: {}", reject.place, reject.reason)));
    }
    let mut told = Vec::new();
    for (at, expected) in case.expect.iter().enumerate() {
        let shown = || serde_json::to_string(expected).unwrap_or_default();
        match rows.get(at) {
            None => told.push(format!("row {at}: expected {}, and there is no such row", shown())),
            Some(row) => told.extend(compare(expected, row).into_iter().map(|d| format!("row {at}: {d}"))),
        }
    }
    for (at, row) in rows.iter().enumerate().skip(case.expect.len()) {
        let columns: Map<_, _> = row
            .iter()
            .filter(|(name, _)| !name.starts_with('$'))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        told.push(format!("row {at}: not expected: {}", Value::Object(columns)));
    }
    for (at, expected) in case.expect_rejects.iter().enumerate() {
        match rejects.get(at) {
            None => told.push(format!("reject {at}: expected {expected:?}, and no more were rejected")),
            Some(reject) if !reject.contains(expected.as_str()) => {
                told.push(format!("reject {at}: expected {expected:?}, got {reject:?}"));
            }
            Some(_) => {}
        }
    }
    let unexpected = rejects.iter().enumerate().skip(case.expect_rejects.len());
    told.extend(unexpected.map(|(at, reject)| format!("reject {at}: not expected: {reject}")));
    Ok(told)
}

/// The rows of a slice by column; those of the envelope behind `$`.
fn found(slice: &Slice) -> Result<Vec<Map<String, Value>>> {
    let objects = |batch: &RecordBatch| -> Result<Vec<Map<String, Value>>> {
        if batch.num_columns() == 0 {
            return Ok(vec![Map::new(); batch.num_rows()]);
        }
        let text = ndjson(batch)?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(lines.map(serde_json::from_slice).collect::<Result<_, _>>()?)
    };
    let mut rows = objects(slice.output())?;
    for (row, envelope) in rows.iter_mut().zip(objects(&slice.envelope)?) {
        row.extend(envelope.into_iter().map(|(name, value)| (format!("${name}"), value)));
    }
    Ok(rows)
}

/// Columns that differ; those that are not named are not compared.
fn compare(expected: &Map<String, Value>, row: &Map<String, Value>) -> Vec<String> {
    let one = |(name, wanted): (&String, &Value)| match (row.get(name), wanted) {
        (None, _) => {
            let names: Vec<&str> = row.keys().map(String::as_str).collect();
            let names = names.join(", ");
            Some(format!("{name}: expected {wanted}, and there is no such column (there are: {names})"))
        }
        // Of properties those that are named are compared, too.
        (Some(Value::Object(found)), Value::Object(wanted)) if name == "$properties" => {
            let differ =
                wanted.iter().find(|(name, value)| !same(value, found.get(*name).unwrap_or(&Value::Null)));
            differ.map(|(property, value)| {
                let got = found.get(property).unwrap_or(&Value::Null);
                format!("{name}.{property}: expected {value}, got {got}")
            })
        }
        (Some(found), wanted) if same(wanted, found) => None,
        (Some(found), wanted) => Some(format!("{name}: expected {wanted}, got {found}")),
    };
    expected.iter().filter_map(one).collect()
}

/// Whether two values are the same; a number is, however it is written.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            let all = |x: &Map<String, Value>, y: &Map<String, Value>| {
                x.iter().all(|(name, x)| same(x, y.get(name).unwrap_or(&Value::Null)))
            };
            all(x, y) && all(y, x)
        }
        _ => a == b,
    }
}

/// The messages as a source would give them, after its filter.
fn given(messages: &[GivenMessage], needs: &Needs) -> Result<Slice> {
    let texts = |of: &dyn Fn(&GivenMessage) -> Option<&str>| -> ArrayRef {
        Arc::new(messages.iter().map(of).collect::<StringViewArray>())
    };
    let rows = i64::try_from(messages.len())?;
    let times = || -> Result<ArrayRef> {
        let times = messages.iter().map(|m| m.store_timestamp.as_deref().map(millis).transpose());
        let times = times.collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")))
    };
    let mut columns: Vec<(String, ArrayRef)> =
        vec![("queue_offset".to_owned(), Arc::new(Int64Array::from_iter_values(0..rows)))];
    for name in needs.columns.iter().filter(|name| **name != "queue_offset") {
        let column: ArrayRef = match *name {
            "topic" => {
                let keys = Int32Array::from(vec![0; messages.len()]);
                Arc::new(DictionaryArray::try_new(keys, Arc::new(StringArray::from(vec!["test"])))?)
            }
            "queue_id" => Arc::new(Int32Array::from(vec![0; messages.len()])),
            "store_timestamp" | "born_timestamp" => times()?,
            "keys" => texts(&|message| message.keys.as_deref()),
            "tags" => texts(&|message| message.tags.as_deref()),
            "message_id" => texts(&|_| None),
            "body" => {
                let bodies = messages.iter().map(|message| message.body.as_deref().map(str::as_bytes));
                Arc::new(bodies.collect::<BinaryViewArray>())
            }
            _ => continue,
        };
        columns.push(((*name).to_owned(), column));
    }
    for name in &needs.properties {
        let column = texts(&|message| message.properties.get(name).map(String::as_str));
        columns.push((property_column(name), column));
    }
    if needs.all_properties {
        let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
        let mut map = MapBuilder::new(Some(names), StringViewBuilder::new(), StringViewBuilder::new());
        for message in messages {
            for (name, value) in &message.properties {
                map.keys().append_value(name);
                map.values().append_value(value);
            }
            map.append(true)?;
        }
        columns.push(("properties".to_owned(), Arc::new(map.finish())));
    }
    let schema = arrow::datatypes::Schema::new(
        columns
            .iter()
            .map(|(n, c)| arrow::datatypes::Field::new(n, c.data_type().clone(), true))
            .collect::<Vec<_>>(),
    );
    let options = RecordBatchOptions::new().with_row_count(Some(messages.len()));
    let arrays = columns.into_iter().map(|(_, column)| column).collect();
    let mut envelope = RecordBatch::try_new_with_options(Arc::new(schema), arrays, &options)?;
    let mut filtered = 0;
    if let Some(filter) = &needs.filter {
        let mask = filter.mask(envelope.num_rows(), &|name| match name {
            Name::Property(property) => envelope.column_by_name(&property_column(property)).cloned(),
            Name::Envelope(column) => envelope.column_by_name(column).cloned(),
            Name::Field(_) => None,
        })?;
        let passed = filter_record_batch(&envelope, &mask)?;
        filtered = (envelope.num_rows() - passed.num_rows()) as u64;
        envelope = passed;
    }
    let range = Range { start: 0, end: rows.max(1) };
    Ok(Slice {
        range,
        envelope,
        decoded: None,
        filtered,
        absent: 0,
        deduplicated: Vec::new(),
        rejects: Vec::new(),
        bytes: 0,
        stored_ms: None,
    })
}

/// A time in RFC 3339 in ms since 1970-01-01 UTC.
fn millis(text: &str) -> Result<i64> {
    use arrow::compute::kernels::cast_utils::string_to_datetime;
    let utc: arrow::array::timezone::Tz = "+00:00".parse()?;
    let at = string_to_datetime(&utc, text)
        .with_context(|| format!("{text:?} is no time like 2013-01-31T12:00:00Z"))?;
    Ok(at.timestamp_millis())
}
