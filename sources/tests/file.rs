//! Files as a source: which records they have, what is a reject, and where reading goes on.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "offsets and counts are small")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use sluice_connect::batch;
use sluice_connect::task::{
    Class, Needs, REJECT_BODY_BYTES_MAX, Range, Read, Reject, Slice, SourceTask, TaskError,
};
use sluice_filters::{Dialect, Filter};
use sluice_sources::file::{FileConfig, FileFormat, FileSource, RECORD_BYTES_MAX};
use tempfile::TempDir;

const ALL: Range = Range { start: 0, end: i64::MAX };

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(folder: &Path, pattern: &str, format: FileFormat) -> FileConfig {
    FileConfig {
        path: folder.join(pattern).to_str().unwrap().to_owned(),
        format,
        nulls: None,
        properties: Vec::new(),
        keys: Vec::new(),
        tag: None,
        follow: false,
        start: None,
        poll: None,
        rotate_wait: None,
        on_lost: None,
    }
}

fn bodies_only() -> Needs {
    Needs { columns: vec!["body"], ..Needs::default() }
}

fn open(config: FileConfig, needs: &Needs) -> Result<FileSource, TaskError> {
    let mut source = FileSource::new(config);
    source.open(needs).map(|()| source)
}

fn config_error(result: Result<FileSource, TaskError>) -> String {
    let error = result.err().expect("the settings are wrong");
    assert_eq!(error.class, Class::Config, "{error}");
    error.to_string()
}

fn slice(source: &mut FileSource, topic: &str, range: Range, bytes_max: usize) -> Option<Slice> {
    match source.read(topic, 0, range, bytes_max).unwrap() {
        Read::Slice(slice) => {
            assert_eq!(slice.range.start, range.start);
            assert!(slice.range.end > range.start && slice.range.end <= range.end);
            let rows = slice.envelope.num_rows() as u64;
            let accounted = rows + slice.filtered + slice.absent + slice.rejects.len() as u64;
            assert_eq!(accounted, (slice.range.end - slice.range.start) as u64);
            Some(slice)
        }
        Read::Ended => None,
        Read::Idle | Read::Gone | Read::Held => panic!("a file is never idle"),
    }
}

/// All of a topic, in slices of about `bytes_max`.
fn drain(source: &mut FileSource, topic: &str, bytes_max: usize) -> (Vec<(i64, String)>, Vec<Reject>) {
    let (mut rows, mut rejects, mut range) = (Vec::new(), Vec::new(), ALL);
    while let Some(slice) = slice(source, topic, range, bytes_max) {
        range.start = slice.range.end;
        rows.extend(offsets(&slice.envelope).into_iter().zip(bodies(&slice.envelope)));
        rejects.extend(slice.rejects);
    }
    (rows, rejects)
}

fn offsets(batch: &RecordBatch) -> Vec<i64> {
    batch.column_by_name("queue_offset").unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn bodies(batch: &RecordBatch) -> Vec<String> {
    let bodies = batch.column_by_name("body").unwrap().as_binary_view();
    bodies.iter().map(|body| String::from_utf8(body.unwrap().to_vec()).unwrap()).collect()
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    batch.column_by_name(column).unwrap().as_string_view().iter().map(|t| t.map(str::to_owned)).collect()
}

/// Reads one file and gives its bodies, and its rejects as `offset place reason`.
fn read_file(format: FileFormat, bytes: &[u8]) -> (Vec<(i64, String)>, Vec<Reject>) {
    let folder = folder(&[("a", bytes)]);
    let mut source = open(config(folder.path(), "a", format), &bodies_only()).unwrap();
    drain(&mut source, "a", 1 << 20)
}

fn told(folder_free: &[Reject]) -> Vec<(i64, String, String)> {
    let line = |place: &str| place.rsplit_once(':').unwrap().1.to_owned();
    folder_free.iter().map(|r| (r.offset, line(&r.place), r.reason.clone())).collect()
}

#[test]
fn a_csv_row_is_a_json_object_with_numbers_that_survive_and_text_for_the_rest() {
    let cases: &[(&str, &[&str])] = &[
        ("a,b\n1,x\n-2.5,\n", &[r#"{"a":1,"b":"x"}"#, r#"{"a":-2.5,"b":null}"#]),
        (
            "a\n007\n1.50\n1e3\n+1\n-0\ntrue\n9223372036854775808\n",
            &[
                r#"{"a":"007"}"#,
                r#"{"a":"1.50"}"#,
                r#"{"a":"1e3"}"#,
                r#"{"a":"+1"}"#,
                r#"{"a":"-0"}"#,
                r#"{"a":"true"}"#,
                r#"{"a":"9223372036854775808"}"#,
            ],
        ),
        ("a,b\n\"x, \"\"y\"\"\nz\",\"\"\n", &[r#"{"a":"x, \"y\"\nz","b":null}"#]),
        ("\"a \"\"b\"\"\",\u{e9}\n\u{1},\\\t\n", &[r#"{"a \"b\"":"\u0001","é":"\\\t"}"#]),
        ("\u{feff}a,b\r\n1,2\r\n\r\n3,4", &[r#"{"a":1,"b":2}"#, r#"{"a":3,"b":4}"#]),
        ("\n\na\r1\r2\r", &[r#"{"a":1}"#, r#"{"a":2}"#]),
        ("a,b\n\"\n\n\",NA\n", &[r#"{"a":"\n\n","b":"NA"}"#]),
        ("a,b\n", &[]),
        ("a,b", &[]),
        ("", &[]),
        ("\n\n", &[]),
    ];
    for (file, expected) in cases {
        let (rows, rejects) = read_file(FileFormat::Csv, file.as_bytes());
        assert_eq!(told(&rejects), [], "{file:?}");
        assert_eq!(rows.iter().map(|(_, body)| body).collect::<Vec<_>>(), *expected, "{file:?}");
        for (_, body) in rows {
            serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&body).unwrap();
        }
    }
}

#[test]
fn csv_records_that_do_not_fit_are_rejects_that_take_an_offset_and_name_their_line() {
    let file = b"a,b\r\n1,2\r\n3\r\n\r\n\"4\n\n4\",4\r\n5,5,5,5\r\n6,\xff\r\n7,7\r\n";
    let (rows, rejects) = read_file(FileFormat::Csv, file);
    assert_eq!(rows.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 2, 5]);
    assert_eq!(
        told(&rejects),
        [
            (1, "3".to_owned(), "1 fields, but the header has 2".to_owned()),
            (3, "8".to_owned(), "4 fields, but the header has 2".to_owned()),
            (4, "9".to_owned(), "field `b` is not UTF-8".to_owned()),
        ]
    );
    let raw: Vec<_> = rejects.iter().map(|r| (&r.body[..], r.body_bytes)).collect();
    assert_eq!(raw, [(&b"3\r"[..], 2), (b"5,5,5,5\r", 8), (b"6,\xff\r", 4)]);
}

#[test]
fn half_a_character_in_two_fields_is_not_utf8() {
    let (rows, rejects) = read_file(FileFormat::Csv, b"a,b\n\xc3,\xa9\n");
    assert_eq!((rows.len(), &rejects[0].reason[..]), (0, "field `a` is not UTF-8"));
}

#[test]
fn a_record_over_the_limit_is_one_reject_with_its_size_and_beginning() {
    let long = vec![b'x'; 20_000_000];
    let csv = [b"a,b\n1,2\n3,\"\n".as_slice(), &long, b"\"\n5,6\n"].concat();
    let ndjson = [b"{\"a\":1}\n{\"a\":\"".as_slice(), &long, b"\"}\n\n{\"a\":2}"].concat();
    let cases = [
        (FileFormat::Csv, csv, "3", "record of 20000006 bytes exceeds the limit of 4194304 bytes"),
        (FileFormat::Ndjson, ndjson, "2", "line of 20000009 bytes exceeds the limit of 4194304 bytes"),
    ];
    for (format, file, line, reason) in cases {
        let (rows, rejects) = read_file(format, &file);
        assert_eq!(rows.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(told(&rejects), [(1, line.to_owned(), reason.to_owned())]);
        assert_eq!(rejects[0].body.len(), REJECT_BODY_BYTES_MAX);
        let start = memfind(&file, &rejects[0].body);
        assert!(start.is_some_and(|at| file[at - 1] == b'\n'), "the beginning of the record is kept");
        assert!(rejects[0].body_bytes > 20_000_000);
    }
}

fn memfind(all: &[u8], part: &[u8]) -> Option<usize> {
    all.windows(part.len()).position(|window| window == part)
}

#[test]
fn a_record_of_exactly_the_limit_is_a_row() {
    let value = "x".repeat(RECORD_BYTES_MAX - 2);
    let (rows, rejects) = read_file(FileFormat::Csv, format!("a,b\n1,{value}\n").as_bytes());
    // The line's end counts.
    assert_eq!((rows.len(), rejects.len()), (0, 1));
    let (rows, rejects) = read_file(FileFormat::Csv, format!("a,b\n1,{}\n", &value[1..]).as_bytes());
    assert_eq!((rows.len(), rejects.len()), (1, 0));
}

#[test]
fn an_open_quote_hides_no_rows() {
    let (rows, rejects) = read_file(FileFormat::Csv, b"a,b\n1,2\n3,\"4\n5,6\n7,8\n");
    assert_eq!(rows.len(), 1);
    assert_eq!(told(&rejects), [(1, "3".to_owned(), "a quote is open at the end of the file".to_owned())]);
    assert_eq!(&rejects[0].body[..], b"3,\"4\n5,6\n7,8\n");

    let endless = [b"a,b\n1,2\n3,\"4\n".as_slice(), &b"5,6\n".repeat(3_000_000)].concat();
    let (rows, rejects) = read_file(FileFormat::Csv, &endless);
    assert_eq!(rows.len(), 1);
    assert_eq!(told(&rejects)[0].2, "record of 12000005 bytes exceeds the limit of 4194304 bytes");
}

#[test]
fn a_quote_inside_a_field_opens_nothing() {
    for (last, body) in [
        ("1,5\"", r#"{"id":1,"size":"5\""}"#),
        ("1,\"5\"", r#"{"id":1,"size":5}"#),
        ("1,\"a\"b\"", r#"{"id":1,"size":"ab\""}"#),
        ("1,\"\"\"\"", r#"{"id":1,"size":"\""}"#),
    ] {
        for end in ["", "\n"] {
            let (rows, rejects) = read_file(FileFormat::Csv, format!("id,size\n{last}{end}").as_bytes());
            assert_eq!(told(&rejects), [], "{last}{end:?}");
            assert_eq!(rows, [(0, body.to_owned())], "{last}{end:?}");
        }
    }
    for open in ["1,\"5", "1,\"5\"\"", "\"1,5\n"] {
        let (rows, rejects) = read_file(FileFormat::Csv, format!("id,size\n{open}").as_bytes());
        assert_eq!((rows.len(), rejects.len()), (0, 1), "{open}");
    }
}

#[test]
fn a_property_that_a_topic_would_not_give_back_is_refused() {
    let folder = folder(&[("a", b"DELAY\n1\n")]);
    let config = config(folder.path(), "a", FileFormat::Csv);
    let told =
        config_error(open(FileConfig { properties: vec!["DELAY".to_owned()], ..config }, &bodies_only()));
    assert!(told.contains("`DELAY` is a property with a meaning of its own"), "{told}");
}

#[test]
fn the_way_to_a_position_ends_when_a_stop_is_asked_for() {
    let folder = folder(&[("a", "a\n".repeat(5000).as_bytes())]);
    let stop = Arc::new(sluice_connect::progress::Stop::default());
    let config = config(folder.path(), "a", FileFormat::Csv);
    let mut source = FileSource::new(config).with_stop(Arc::clone(&stop));
    source.open(&bodies_only()).unwrap();
    let range = Range { start: 4000, end: i64::MAX };
    assert!(matches!(source.read("a", 0, range, 1 << 20).unwrap(), Read::Slice(_)));
    stop.ask();
    assert!(matches!(source.read("a", 0, Range { start: 3000, ..range }, 1 << 20).unwrap(), Read::Idle));
}

#[test]
fn a_file_that_grows_stays_the_same_and_any_other_does_not() {
    let line = b"1234567\n";
    let check = |before: &[u8], after: &[u8]| {
        let folder = folder(&[("a", before)]);
        let opened = || open(config(folder.path(), "a", FileFormat::Ndjson), &bodies_only()).unwrap();
        let recorded = opened().queues().unwrap()[0].incarnation.clone();
        fs::write(folder.path().join("a"), after).unwrap();
        let mut source = opened();
        let current = source.queues().unwrap()[0].incarnation.clone();
        source.confirmer().same("a", 0, &recorded, &current).map_err(|e| e.to_string())
    };
    assert_eq!(check(line, &line.repeat(2)), Ok(true));
    assert_eq!(check(&line.repeat(512), &line.repeat(600)), Ok(true));
    assert_eq!(check(b"", line), Ok(true));
    assert_eq!(check(line, line), Ok(true));
    assert_eq!(check(&line.repeat(2), line), Ok(false));
    assert_eq!(check(line, b"1234560\nx"), Ok(false));
    assert_eq!(check(&line.repeat(600), b"x"), Ok(false));
    assert!(check(b"1234", line).unwrap_err().contains("its last line had no end"));
    assert_eq!(check(&gzip(line), &gzip(line).repeat(2)), Ok(true));
    // A position of an earlier version has the hash alone.
    let folder = folder(&[("a", line)]);
    let source = open(config(folder.path(), "a", FileFormat::Ndjson), &bodies_only()).unwrap();
    let old = sluice_connect::config::hash(line);
    assert!(source.confirmer().same("a", 0, &old, "8-x").unwrap());
    assert!(!source.confirmer().same("a", 0, "0", "8-x").unwrap());
}

#[test]
fn an_ndjson_line_is_a_body_as_it_stands_or_a_reject() {
    let file =
        b"{\"a\": 1 , \"b\":[1]}\r\n\n  \t\n [1]\n{\"a\":}\n{\"a\":\"\xff\"}\n{} {}\n\t{\"z\":{}} \nnull\n{}";
    let (rows, rejects) = read_file(FileFormat::Ndjson, file);
    let rows: Vec<_> = rows.iter().map(|(offset, body)| (*offset, &body[..])).collect();
    assert_eq!(rows, [(0, r#"{"a": 1 , "b":[1]}"#), (5, r#"{"z":{}}"#), (7, "{}")]);
    let expected = [
        (1, "4", "not a JSON object"),
        (2, "5", "not a JSON object: expected value"),
        (3, "6", "not UTF-8 at byte 6 of the line"),
        (4, "7", "not a JSON object: trailing characters"),
        (6, "9", "not a JSON object"),
    ];
    assert_eq!(rejects.len(), expected.len());
    for ((offset, line, reason), told) in expected.into_iter().zip(told(&rejects)) {
        assert_eq!((offset, line), (told.0, &told.1[..]));
        assert!(told.2.starts_with(reason), "{}", told.2);
    }
}

#[test]
fn gzip_is_told_by_its_content_and_may_have_several_members() {
    let packed = [gzip(b"a,b\n1,2\n3"), gzip(b",4\n5,6\n")].concat();
    let (rows, rejects) = read_file(FileFormat::Csv, &packed);
    assert_eq!(rejects.len(), 0);
    let bodies: Vec<_> = rows.iter().map(|(_, body)| &body[..]).collect();
    assert_eq!(bodies, [r#"{"a":1,"b":2}"#, r#"{"a":3,"b":4}"#, r#"{"a":5,"b":6}"#]);
}

#[test]
fn gzip_that_ends_too_early_or_is_damaged_is_one_reject_after_the_whole_rows() {
    let plain: String = "a,b\n"
        .chars()
        .chain((0..50_000).flat_map(|n| format!("{n},{}\n", n * 7919).chars().collect::<Vec<_>>()))
        .collect();
    let whole = gzip(plain.as_bytes());
    let mut damaged = whole.clone();
    let crc = damaged.len() - 8;
    damaged[crc] ^= 1;
    let cases = [
        (whole[..whole.len() / 2].to_vec(), "the gzip data ends too early"),
        (whole[..whole.len() - 1].to_vec(), "the gzip data ends too early"),
        (whole[..5].to_vec(), "the gzip data ends too early"),
        (damaged, "the gzip data is damaged"),
        ([whole.clone(), b"rest".to_vec()].concat(), "the gzip data"),
    ];
    for (file, reason) in cases {
        let (rows, rejects) = read_file(FileFormat::Csv, &file);
        assert_eq!(rejects.len(), 1, "{reason}");
        assert!(rejects[0].reason.starts_with(reason), "{}", rejects[0].reason);
        assert_eq!(rejects[0].offset, rows.len() as i64);
        for (offset, body) in &rows {
            assert_eq!(*body, format!("{{\"a\":{offset},\"b\":{}}}", offset * 7919));
        }
        let line: i64 = told(&rejects)[0].1.parse().unwrap();
        assert!(line > rows.len() as i64);
    }
    let ndjson = gzip(b"{\"a\":1}\n{\"a\":2}\n");
    let (rows, rejects) = read_file(FileFormat::Ndjson, &ndjson[..ndjson.len() - 8]);
    assert_eq!((rows.len(), rejects.len()), (2, 1));
}

#[test]
fn properties_keys_and_tag_are_taken_and_a_null_is_none() {
    let csv = b"id,origin,delay,a column of a long name\n7,EWR,,a value longer than twelve bytes\n8,NA,5,\n";
    let ndjson = b"{\"id\":7,\"origin\":\"EW\\u0052\",\"delay\":null,\"a column of a long name\":\"a value longer than twelve bytes\"}\n{\"delay\":5,\"id\":8}\n";
    let long = "a column of a long name".to_owned();
    for (format, file) in [(FileFormat::Csv, csv.as_slice()), (FileFormat::Ndjson, ndjson)] {
        let folder = folder(&[("a", file)]);
        let config = FileConfig {
            nulls: (format == FileFormat::Csv).then(|| vec![String::new(), "NA".to_owned()]),
            properties: vec!["origin".to_owned(), "delay".to_owned(), long.clone()],
            keys: vec!["id".to_owned(), long.clone()],
            tag: Some("delay".to_owned()),
            ..config(folder.path(), "a", format)
        };
        let needs = Needs {
            columns: batch::COLUMNS.to_vec(),
            properties: vec![long.clone(), "delay".to_owned(), "never".to_owned()],
            all_properties: true,
            ..Needs::default()
        };
        let mut source = open(config, &needs).unwrap();
        let slice = slice(&mut source, "a", ALL, 1 << 20).unwrap();
        let envelope = &slice.envelope;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(texts(envelope, "properties.delay"), [None, some("5")]);
        assert_eq!(texts(envelope, "properties.never"), [None, None]);
        assert_eq!(texts(envelope, "tags"), [None, some("5")]);
        assert_eq!(texts(envelope, "keys"), [some("7 a value longer than twelve bytes"), some("8")]);
        assert_eq!(
            texts(envelope, "properties.a column of a long name"),
            [some("a value longer than twelve bytes"), None]
        );
        let map = envelope.column_by_name("properties").unwrap().as_map();
        let entries = |row| {
            let entries = map.value(row);
            let names = entries.column(0).as_string_view().clone();
            let values = entries.column(1).as_string_view().clone();
            (0..entries.len())
                .map(|at| (names.value(at).to_owned(), values.value(at).to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            entries(0),
            [
                ("origin".to_owned(), "EWR".to_owned()),
                (long.clone(), "a value longer than twelve bytes".to_owned())
            ]
        );
        assert_eq!(entries(1), [("delay".to_owned(), "5".to_owned())]);
        // The envelope's own fields, in its order, and then the properties that were asked for.
        let schema = envelope.schema();
        let named: Vec<_> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        let expected: Vec<_> = batch::COLUMNS
            .into_iter()
            .map(str::to_owned)
            .chain(needs.properties.iter().map(|name| batch::property_column(name)))
            .map(|name| batch::field(&name).unwrap())
            .collect();
        assert_eq!(named, expected);
        let topics = envelope.column_by_name("topic").unwrap().as_dictionary::<Int32Type>();
        assert_eq!(
            topics.downcast_dict::<arrow::array::StringArray>().unwrap().into_iter().next(),
            Some(Some("a"))
        );
        assert_eq!(envelope.column_by_name("born_timestamp").unwrap().null_count(), 2);
    }
}

#[test]
fn text_around_the_length_that_a_view_holds_itself_is_whole() {
    // No value is the beginning of another one.
    let values =
        ["a".repeat(11), "b".repeat(12), "c".repeat(13), "d".repeat(14), "é".repeat(6), "è".repeat(7)];
    let folder = folder(&[("a", format!("v\n{}\n", values.join("\n")).as_bytes())]);
    let config =
        FileConfig { properties: vec!["v".to_owned()], ..config(folder.path(), "a", FileFormat::Csv) };
    let needs = Needs { properties: vec!["v".to_owned()], ..Needs::default() };
    let slice = slice(&mut open(config, &needs).unwrap(), "a", ALL, 1 << 20).unwrap();
    assert_eq!(texts(&slice.envelope, "properties.v"), values.into_iter().map(Some).collect::<Vec<_>>());
}

#[test]
fn a_doubled_ndjson_key_that_becomes_a_property_is_a_reject() {
    let folder = folder(&[("a", b"{\"k\":1,\"k\":2}\n{\"k\":1,\"x\":1,\"x\":2}\n")]);
    let config = FileConfig { keys: vec!["k".to_owned()], ..config(folder.path(), "a", FileFormat::Ndjson) };
    let (rows, rejects) = drain(&mut open(config, &bodies_only()).unwrap(), "a", 1 << 20);
    // A doubled key that nothing here depends on is for the decoder to find.
    assert_eq!(rows.len(), 1);
    assert!(rejects[0].reason.contains("the key `k` stands twice"), "{}", rejects[0].reason);
}

#[test]
fn the_filter_leaves_rows_out_and_counts_them() {
    let folder = folder(&[("a", b"origin,delay\nEWR,20\nLGA,30\nbad\nEWR,\nJFK,16\nEWR,3\n")]);
    let columns = vec!["origin".to_owned(), "delay".to_owned()];
    let config = FileConfig { properties: columns, ..config(folder.path(), "a", FileFormat::Csv) };
    let filter = Filter::parse("origin IN ('EWR', 'JFK') AND delay > 15", Dialect::Sluice).unwrap();
    let needs = Needs {
        columns: vec!["body"],
        properties: vec!["delay".to_owned(), "origin".to_owned()],
        filter: Some(Arc::new(filter)),
        ..Needs::default()
    };
    let mut source = open(config, &needs).unwrap();
    let slice = slice(&mut source, "a", ALL, 1 << 20).unwrap();
    assert_eq!(offsets(&slice.envelope), [0, 4]);
    assert_eq!(bodies(&slice.envelope), [r#"{"origin":"EWR","delay":20}"#, r#"{"origin":"JFK","delay":16}"#]);
    assert_eq!((slice.filtered, slice.rejects.len()), (3, 1));
}

#[test]
fn only_what_is_needed_is_built() {
    let folder = folder(&[("a", b"a\n1\n2\n")]);
    let mut source = open(config(folder.path(), "a", FileFormat::Csv), &Needs::default()).unwrap();
    let slice = slice(&mut source, "a", ALL, 1).unwrap();
    assert_eq!(slice.envelope.num_columns(), 1);
    assert_eq!(offsets(&slice.envelope), [0, 1]);
    assert_eq!(slice.envelope.schema().field(0).data_type(), &DataType::Int64);
}

#[test]
fn a_slice_shares_one_body_buffer_and_tells_its_bytes() {
    let folder = folder(&[("a", b"a,b\n1,a text longer than twelve bytes\n")]);
    let mut source = open(config(folder.path(), "a", FileFormat::Csv), &bodies_only()).unwrap();
    let slice = slice(&mut source, "a", ALL, 1 << 20).unwrap();
    let body = slice.envelope.column_by_name("body").unwrap().as_binary_view();
    assert_eq!(body.data_buffers().len(), 1);
    let shown = bodies(&slice.envelope)[0].len();
    assert!((shown..shown + 64).contains(&slice.bytes), "{} for {shown}", slice.bytes);
}

#[test]
fn slices_have_about_the_bytes_asked_for_and_at_most_16384_offsets() {
    let file: String = ["n\n".to_owned()].into_iter().chain((0..40_000).map(|n| format!("{n}\n"))).collect();
    let folder = folder(&[("a", file.as_bytes())]);
    let mut source = open(config(folder.path(), "a", FileFormat::Csv), &bodies_only()).unwrap();
    let first = slice(&mut source, "a", ALL, usize::MAX).unwrap();
    assert_eq!(first.range, Range { start: 0, end: 16_384 });
    let small = slice(&mut source, "a", Range { start: 16_384, ..ALL }, 100).unwrap();
    assert_eq!(small.range.end - small.range.start, 10, "rows of 11 bytes");
    let one = slice(&mut source, "a", Range { start: small.range.end, ..ALL }, 0).unwrap();
    assert_eq!(one.range.end - one.range.start, 1);
    let cut =
        slice(&mut source, "a", Range { start: one.range.end, end: one.range.end + 3 }, 1 << 20).unwrap();
    assert_eq!(cut.range.end - cut.range.start, 3);
    assert_eq!(bodies(&cut.envelope)[0], format!("{{\"n\":{}}}", one.range.end));
}

#[test]
fn reading_goes_on_anywhere_and_gives_the_same_records() {
    let file = b"a,b\n0,\"x\ny\"\nbad\n2,2\n\n3,3\n4,4,4\n5,5\n";
    for packed in [file.to_vec(), gzip(file)] {
        let folder = folder(&[("a", &packed)]);
        let config = config(folder.path(), "a", FileFormat::Csv);
        let mut source = open(config.clone(), &bodies_only()).unwrap();
        let (rows, rejects) = drain(&mut source, "a", 1);
        assert_eq!((rows.len(), rejects.len()), (4, 2));
        for start in [5, 0, 3, 1, 4, 2, 6] {
            let range = Range { start, end: start + 1 };
            let Some(slice) = slice(&mut source, "a", range, 1 << 20) else {
                assert_eq!(start, 6, "only the end is the end");
                continue;
            };
            let expected: Vec<_> =
                rows.iter().filter(|(offset, _)| *offset == start).map(|(_, b)| b.clone()).collect();
            assert_eq!(bodies(&slice.envelope), expected);
            assert_eq!(slice.rejects.len(), 1 - expected.len());
            if let Some(reject) = slice.rejects.first() {
                let same = rejects.iter().find(|r| r.offset == start).unwrap();
                assert_eq!((&reject.place, &reject.body), (&same.place, &same.body));
            }
        }
        let beyond = source.read("a", 0, Range { start: 9, end: 12 }, 1).unwrap_err();
        assert_eq!(beyond.class, Class::Config);
        assert!(
            beyond.to_string().contains("has 6 records, but this pipeline has already read 9"),
            "{beyond}"
        );
    }
}

#[test]
fn files_may_be_read_in_turn() {
    let names: Vec<String> = (0..70).map(|n| format!("f{n:02}.csv")).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().map(|name| (name.as_str(), b"a\n1\n2\n3\n".as_slice())).collect();
    let folder = folder(&files);
    let mut source = open(config(folder.path(), "*.csv", FileFormat::Csv), &bodies_only()).unwrap();
    for start in 0..3 {
        for name in &names {
            let slice = slice(&mut source, name, Range { start, end: start + 1 }, 1).unwrap();
            assert_eq!(bodies(&slice.envelope), [format!("{{\"a\":{}}}", start + 1)]);
        }
    }
    assert!(names.iter().all(|name| slice(&mut source, name, Range { start: 3, ..ALL }, 1).is_none()));
}

#[test]
fn each_file_is_a_topic_below_the_patterns_fixed_part() {
    let folder = folder(&[
        ("in/2013/01/a.csv", b"a\n1\n"),
        ("in/2013/02/a.csv", b"a\n2\n"),
        ("in/b.csv", b"a\n3\n"),
        ("in/b.txt", b"a\n"),
        ("in/c.csv/d", b"a\n"),
    ]);
    let cases: &[(&str, &[&str])] = &[
        ("in/**/*.csv", &["2013/01/a.csv", "2013/02/a.csv", "b.csv"]),
        ("in/2013/*/a.csv", &["01/a.csv", "02/a.csv"]),
        ("in/201[3]/0?/a.csv", &["2013/01/a.csv", "2013/02/a.csv"]),
        ("in/b.csv", &["b.csv"]),
        ("./in/./b*.csv", &["b.csv"]),
    ];
    for (pattern, topics) in cases {
        let mut source = open(config(folder.path(), pattern, FileFormat::Csv), &bodies_only()).unwrap();
        let queues = source.queues().unwrap();
        assert_eq!(queues.iter().map(|q| &*q.topic).collect::<Vec<_>>(), *topics, "{pattern}");
        assert!(queues.iter().all(|q| (q.queue, q.first, q.origin) == (0, 0, 0)));
        for topic in *topics {
            assert_eq!(drain(&mut source, topic, 1 << 20).0.len(), 1, "{topic}");
        }
    }
}

#[test]
fn the_incarnation_is_the_files_first_4_kib() {
    let head = "a\n".to_owned() + &"1\n".repeat(3000);
    let folder = folder(&[
        ("a", head.as_bytes()),
        ("b", (head.clone() + "2\n").as_bytes()),
        ("c", head.replacen('1', "3", 1).as_bytes()),
        ("d", b""),
    ]);
    let mut source = open(config(folder.path(), "?", FileFormat::Csv), &bodies_only()).unwrap();
    let found: Vec<_> = source.queues().unwrap().into_iter().map(|q| q.incarnation).collect();
    assert_eq!(found[0], found[1], "what follows does not count");
    assert_ne!(found[0], found[2]);
    // The published value of FNV-1a for no bytes: positions stored by one build must hold in the next.
    assert_eq!(found[3], "0-cbf29ce484222325");
}

#[test]
fn wrong_settings_are_named_before_anything_is_read() {
    let folder = folder(&[
        ("good.csv", b"origin,dep_delay\nEWR,1\n"),
        ("doubled.csv", b"a,b,a\n1,2,3\n"),
        ("empty.csv", b"a,,b\n1,2,3\n"),
        ("bytes.csv", b"a,\xff\n1,2\n"),
        ("open.csv", b"a,\"b\n1,2\n"),
        ("long.csv", "a".repeat(RECORD_BYTES_MAX + 1).as_bytes()),
        ("wide.csv", ",x".repeat(5000).as_bytes()),
        ("folder/good.csv", b"origin,dep_delay\nEWR,1\n"),
        ("folder/other.csv", b"origin,arr_delay\nEWR,1\n"),
    ]);
    let good = config(folder.path(), "good.csv", FileFormat::Csv);
    let at = |pattern: &str| config(folder.path(), pattern, FileFormat::Csv);
    let delay = vec!["dep_delay".to_owned()];
    let cases = [
        (at("missing.csv"), "missing.csv"),
        (at("miss*.csv"), "no file matches"),
        (at("folder"), "cannot read"),
        (at("a/**b"), "is not valid at character"),
        (at("doubled.csv"), "two columns `a`"),
        (at("empty.csv"), "no name for column 2"),
        (at("bytes.csv"), "is not text: field 2 is not UTF-8"),
        (at("open.csv"), "a quote that is never closed"),
        (at("long.csv"), "has 4194305 bytes, more than 4194304"),
        (at("wide.csv"), "has 5001 columns, more than 4096"),
        (FileConfig { properties: vec!["dep_dely".to_owned()], ..good.clone() }, "did you mean `dep_delay`?"),
        (FileConfig { keys: vec!["tailnum".to_owned()], ..good.clone() }, "it has `origin`, `dep_delay`"),
        (FileConfig { tag: Some("Origin".to_owned()), ..good.clone() }, "`tag`: "),
        (
            FileConfig { properties: delay.clone(), ..at("folder/*.csv") },
            "other.csv has no column `dep_delay`",
        ),
        (FileConfig { properties: vec!["a".to_owned(); 2], ..good.clone() }, "`properties` has `a` twice"),
        (
            FileConfig { nulls: Some(Vec::new()), format: FileFormat::Ndjson, ..good.clone() },
            "`nulls` is for format csv",
        ),
    ];
    for (config, expected) in cases {
        let error = config_error(open(config, &bodies_only()));
        assert!(error.contains(expected), "{error}\nlacks\n{expected}");
    }
    let mut fine = open(FileConfig { properties: delay, ..good }, &bodies_only()).unwrap();
    assert_eq!(drain(&mut fine, "good.csv", 1).0.len(), 1);
}

#[test]
fn settings_are_strict() {
    let parse = |text: &str| serde_json::from_str::<FileConfig>(text);
    let config = parse(r#"{"path":"x","format":"ndjson"}"#).unwrap();
    assert_eq!((config.format, config.nulls, config.tag), (FileFormat::Ndjson, None, None));
    for wrong in
        [r#"{"path":"x"}"#, r#"{"path":"x","format":"tsv"}"#, r#"{"path":"x","format":"csv","null":[]}"#]
    {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_damaged_file_does_not_stop_the_others() {
    let folder = folder(&[("a.gz", &gzip(b"a\n1\n")[..12]), ("b.csv", b"a\n1\n"), ("c.csv", b"")]);
    let config = FileConfig { keys: vec!["a".to_owned()], ..config(folder.path(), "*", FileFormat::Csv) };
    let mut source = open(config, &bodies_only()).unwrap();
    let (rows, rejects) = drain(&mut source, "a.gz", 1);
    assert_eq!((rows.len(), rejects.len(), rejects[0].offset), (0, 1, 0));
    assert_eq!(drain(&mut source, "b.csv", 1).0.len(), 1);
    assert_eq!(drain(&mut source, "c.csv", 1).0.len(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_a_csv_writer_wrote_comes_back(
        rows in prop::collection::vec(prop::collection::vec("[a-z0-9.\"\\\\,\r\n\té\u{1}-]{0,6}", 3), 0..40),
        ending in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        bytes_max in 1_usize..300,
    ) {
        let quote = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
        let line = |row: &Vec<String>| row.iter().map(quote).collect::<Vec<_>>().join(",") + ending;
        let file = format!("x,y,z{ending}{}", rows.iter().map(line).collect::<String>());
        let folder = folder(&[("a", file.as_bytes())]);
        let mut source = open(config(folder.path(), "a", FileFormat::Csv), &bodies_only()).unwrap();
        let (found, rejects) = drain(&mut source, "a", bytes_max);
        prop_assert_eq!(told(&rejects), vec![]);
        prop_assert_eq!(found.len(), rows.len());
        for (at, ((offset, body), row)) in found.iter().zip(&rows).enumerate() {
            prop_assert_eq!(*offset, at as i64);
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            for (name, field) in ["x", "y", "z"].iter().zip(row) {
                let text = match &body[name] {
                    serde_json::Value::Null => String::new(),
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                prop_assert_eq!(&text, field);
            }
        }
    }

    #[test]
    fn any_bytes_are_rows_and_rejects(
        bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 7 => prop::sample::select(b"a1,\"\r\n{}:".to_vec())], 0..200),
        is_gzip: bool,
        cut in 0_usize..40,
    ) {
        let mut file = if is_gzip { gzip(&bytes) } else { bytes };
        file.truncate(file.len().saturating_sub(cut));
        let folder = folder(&[("a", &file)]);
        for format in [FileFormat::Csv, FileFormat::Ndjson] {
            match open(config(folder.path(), "a", format), &bodies_only()) {
                Ok(mut source) => {
                    let (rows, rejects) = drain(&mut source, "a", 7);
                    let mut offsets: Vec<_> = rows.iter().map(|r| r.0).chain(rejects.iter().map(|r| r.offset)).collect();
                    offsets.sort_unstable();
                    prop_assert!(offsets.iter().copied().eq(0..offsets.len() as i64));
                }
                Err(error) => prop_assert_eq!(error.class, Class::Config),
            }
        }
    }
}
