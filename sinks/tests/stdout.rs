//! Rows on standard output: what a person or a pipe gets.

mod support;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, BinaryViewArray, Int64Array, RecordBatch, StringViewArray, TimestampMillisecondArray,
};
use sluice_connect::task::{Class, Fates, Slice, TaskError, TransactTask};
use sluice_sinks::stdout::{Stdout, StdoutConfig};
use support::{chain, rows, slice};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Closed(io::ErrorKind);

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

fn config(text: &str) -> StdoutConfig {
    serde_saphyr::from_str(text).unwrap()
}

fn commit(sink: &mut Stdout, slice: &Slice) -> Result<(), TaskError> {
    sink.commit(&chain(), "first", slice, &Fates::default())
}

fn printed(format: &str, slices: &[Slice]) -> String {
    let out = Shared::default();
    let mut sink = Stdout::new(&config(format), Box::new(out.clone()));
    assert!(sink.position(&chain()).unwrap().is_none());
    sink.begin(&chain(), 0, "first").unwrap();
    for slice in slices {
        commit(&mut sink, slice).unwrap();
    }
    sink.secure().unwrap();
    let bytes = out.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// A slice of two rows with awkward values.
fn awkward() -> Slice {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![Some(1), None]))),
        ("note", Arc::new(StringViewArray::from_iter_values(["\u{1b}[2Jred", "é\u{9b}"]))),
        ("body", Arc::new(BinaryViewArray::from_iter_values([&b"{\"a\": 1}"[..], b"\xff\0"]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![Some(1), None]).with_timezone("UTC"))),
    ];
    Slice { decoded: Some(RecordBatch::try_from_iter(columns).unwrap()), ..slice(0, 2) }
}

#[test]
fn ndjson_has_every_column_in_every_line() {
    assert_eq!(
        printed("{format: ndjson}", &[slice(0, 1), slice(1, 2)]),
        "{\"id\":0,\"origin\":\"EWR\",\"note\":null}\n\
         {\"id\":1,\"origin\":\"JFK\",\"note\":\"the note of row 1\"}\n"
    );
    let text = printed("{format: ndjson}", &[awkward()]);
    assert!(
        text.starts_with(
            r#"{"id":1,"note":"\u001b[2Jred","body":"{\"a\": 1}","at":"1970-01-01T00:00:00.001Z"}"#
        ),
        "{text}"
    );
    assert!(text.contains(r#""body":"0xff00""#), "{text}");
}

#[test]
fn a_table_shows_rows_and_never_steers_the_terminal() {
    let text = printed("{}", &[awkward()]);
    assert!(text.contains(r"\u{1b}[2Jred") && text.contains("é\\u{9b}"), "{text}");
    assert!(
        text.contains("{\"a\": 1}") && text.contains("0xff00") && text.contains("1970-01-01T00:00:00.001Z"),
        "{text}"
    );
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
}

#[test]
fn a_slice_without_rows_prints_nothing() {
    for format in ["{format: table}", "{format: ndjson}"] {
        assert_eq!(printed(format, &[rows(0, 5, &[])]), "");
    }
}

#[test]
fn a_closed_pipe_ends_the_pipeline_and_other_failures_may_heal() {
    let mut sink = Stdout::new(&config("{}"), Box::new(Closed(io::ErrorKind::BrokenPipe)));
    let error = commit(&mut sink, &slice(0, 1)).unwrap_err();
    assert_eq!((error.class, error.message.as_str()), (Class::Config, "standard output was closed"));
    let mut sink = Stdout::new(&config("{}"), Box::new(Closed(io::ErrorKind::StorageFull)));
    assert_eq!(commit(&mut sink, &slice(0, 1)).unwrap_err().class, Class::Retry);
}

#[test]
fn settings_are_strict() {
    for bad in ["{format: csv}", "{formats: table}"] {
        assert!(serde_saphyr::from_str::<StdoutConfig>(bad).is_err(), "{bad} was taken");
    }
}
