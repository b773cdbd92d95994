//! Steps over slices: what comes out follows from the rows, and never from how they were cut into slices, or from
//! where a run began.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::io;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryViewArray, Int64Array, RecordBatch, StringViewArray, TimestampMillisecondArray,
};
use arrow::compute::concat_batches;
use arrow::util::pretty::pretty_format_batches;
use proptest::prelude::*;
use serde::Deserialize;
use sluice_connect::config::{self, Parsed, Then, vars};
use sluice_connect::steps::{Next, Steps};
use sluice_connect::task::{Fates, Needs, Range, Slice};

/// Settings that say nothing.
#[derive(Clone, Debug, Deserialize)]
struct Nothing {}

const HEAD: &str = "
name: p
source: {}
sink: {}
errors: {then: skip}
decode:
  format: json
  schema: {mode: declared, fields: {id: int64, k: utf8, x: float64, legs: 'list<int64>', s: 'struct<a: int64, t: timestamp>'}}
steps:
";

fn steps(text: &str) -> Steps {
    let lookup = vars::lookup(|_| Some("key".to_owned()), |_| Err(io::ErrorKind::NotFound.into()));
    let text = format!("{HEAD}{text}");
    let parsed: Vec<Parsed<Nothing, Nothing>> =
        config::parse(&text, &lookup).unwrap_or_else(|e| panic!("{e:?}"));
    let mut needs = Needs::default();
    needs.columns.push("body");
    Steps::new(&parsed[0].document, &needs).unwrap().0
}

/// Rows of one queue: a body, and a property `p`.
type Rows = Vec<(String, Option<String>)>;

fn slice(rows: &Rows, range: std::ops::Range<usize>) -> Slice {
    let part = rows.get(range.clone()).unwrap();
    let start = i64::try_from(range.start).unwrap();
    let end = i64::try_from(range.end).unwrap();
    let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(start..end));
    let bodies: ArrayRef =
        Arc::new(part.iter().map(|(b, _)| Some(b.as_bytes())).collect::<BinaryViewArray>());
    let p: ArrayRef = Arc::new(part.iter().map(|(_, p)| p.as_deref()).collect::<StringViewArray>());
    let times =
        TimestampMillisecondArray::from_iter_values((start..end).map(|o| o * 1000)).with_timezone("UTC");
    let times: ArrayRef = Arc::new(times);
    let columns =
        [("queue_offset", offsets), ("store_timestamp", times), ("body", bodies), ("properties.p", p)];
    Slice {
        range: Range { start, end },
        envelope: RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap(),
        decoded: None,
        filtered: 0,
        absent: 0,
        deduplicated: Vec::new(),
        rejects: Vec::new(),
        bytes: 0,
        stored_ms: None,
    }
}

fn push(steps: &mut Steps, slice: Slice) -> Vec<Slice> {
    let passed = match steps.push(0, slice).unwrap() {
        Next::Pass(slices) => slices,
        Next::Fix(schema) => {
            steps.fix(&schema).unwrap();
            steps.release().unwrap().slices
        }
    };
    passed.into_iter().map(|(_, slice)| slice).collect()
}

/// All rows as text, the fates, and the offsets and reasons of the rejects.
fn told(slices: &[Slice]) -> (String, Fates, Vec<(i64, String)>, Vec<i64>) {
    let mut fates = Fates::default();
    for slice in slices {
        let of_slice = Steps::fates(Then::Skip, slice);
        assert_eq!(
            i64::try_from(of_slice.total()).unwrap(),
            slice.range.end - slice.range.start,
            "{of_slice:?}"
        );
        fates.add(&of_slice);
    }
    let all = |of: &dyn Fn(&Slice) -> RecordBatch| {
        let batches: Vec<RecordBatch> = slices.iter().map(of).collect();
        concat_batches(&batches[0].schema(), &batches).unwrap()
    };
    let rows = [all(&|s| s.decoded.clone().unwrap()), all(&|s| s.envelope.clone())];
    let rows = rows.map(|batch| {
        let columns = batch.schema();
        let plain =
            columns.fields().iter().enumerate().filter(|(_, f)| !f.data_type().to_string().contains("UTC"));
        let kept: Vec<usize> = plain.map(|(at, _)| at).collect();
        pretty_format_batches(&[batch.project(&kept).unwrap()]).unwrap().to_string()
    });
    let rejects = slices.iter().flat_map(|s| s.rejects.iter().map(|r| (r.offset, r.reason.clone())));
    let duplicates = slices.iter().flat_map(|s| s.deduplicated.iter().copied());
    (rows.concat(), fates, rejects.collect(), duplicates.collect())
}

/// One line a step; each sees what the ones before it made.
const PIPELINES: &[&str] = &[
    "  - where: '$.x > 2 OR p = $.k'\n",
    "  - select: {columns: [$.k, {y: '$.x * $.id'}, p], set: {z: 'upper($.k) || p'}}\n",
    "  - select: {flatten: [s], cast: {x: int64, k: int64}, drop: [legs], rename: {id: number}}\n",
    "  - mask: {hash: [$.k, $.s.a], redact: [$.x], secret: '${KEY}'}\n",
    "  - explode: {field: $.legs, as: leg}\n  - where: '$.leg > 1'\n",
    "  - explode: {field: $.legs, keep_empty: true}\n  - select: {cast: {k: int64}}\n",
    "  - dedupe: {key: $.k, rows: 5}\n",
    "  - dedupe: {key: [$.k, p], rows: 7, age: 3s}\n  - dedupe: {key: $.id, rows: 4}\n  - explode: {field: $.legs}\n",
    "  - route: \"'t-' || $.k\"\n",
];

fn rows() -> impl Strategy<Value = Rows> {
    let legs = proptest::collection::vec(0..5_i64, 0..4);
    let body = (any::<i16>(), "[0-9a-c]?", -3.0..3.0_f64, proptest::option::of(legs), 0..20_u8);
    let body = body.prop_map(|(id, k, x, legs, kind)| match kind {
        0 => "{".to_owned(),
        1 => "{}".to_owned(),
        _ => serde_json::json!({
            "id": id % 4, "k": (!k.is_empty()).then_some(k), "x": (kind > 4).then_some(x), "legs": legs,
            "s": (kind > 6).then(|| serde_json::json!({"a": id, "t": "2013-01-01T10:00:00Z"})),
        })
        .to_string(),
    });
    proptest::collection::vec((body, proptest::option::of("[0-9a-c]")), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    /// However rows are cut into slices, the same rows come out, and each record has the same fate.
    #[test]
    fn slices_cut_anywhere_make_the_same_rows(
        rows in rows(), mut cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let mut cuts: Vec<usize> = cuts.drain(..).map(|cut| cut.index(rows.len())).collect();
        cuts.extend([0, rows.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        for text in PIPELINES {
            let whole = push(&mut steps(text), slice(&rows, 0..rows.len()));
            let mut several = steps(text);
            let parts = cuts.windows(2).flat_map(|cut| push(&mut several, slice(&rows, cut[0]..cut[1])));
            prop_assert_eq!(told(&whole), told(&parts.collect::<Vec<_>>()), "{}", text);
        }
    }

    /// A run that begins anywhere, and reads as far back as the steps look, leaves out what the one before it would
    /// have left out.
    #[test]
    fn a_run_that_begins_anywhere_decides_as_the_one_before_it(
        rows in rows(), at in any::<proptest::sample::Index>(),
    ) {
        let at = at.index(rows.len());
        for text in PIPELINES {
            let mut first = steps(text);
            push(&mut first, slice(&rows, 0..at));
            let expected = push(&mut first, slice(&rows, at..rows.len()));
            let mut second = steps(text);
            let from = at.saturating_sub(usize::try_from(second.looks_back()).unwrap());
            if from < at {
                second.warm_until(0, i64::try_from(at).unwrap());
                prop_assert!(push(&mut second, slice(&rows, from..at)).is_empty());
            }
            let found = push(&mut second, slice(&rows, at..rows.len()));
            prop_assert_eq!(told(&expected), told(&found), "{}", text);
        }
    }
}

#[test]
fn duplicates_that_two_steps_find_are_told_in_rising_order() {
    let bodies = [r#"{"id": 0}"#, r#"{"id": 0, "k": "7"}"#, r#"{"id": 1, "k": "7"}"#, r#"{"id": 0}"#];
    let rows: Rows = bodies.map(|body| (body.to_owned(), None)).to_vec();
    let text = "  - dedupe: {key: $.k}\n  - dedupe: {key: $.id}\n";
    let out = push(&mut steps(text), slice(&rows, 0..4)).remove(0);
    assert_eq!(out.deduplicated, [1, 2, 3]);
    let (head, tail) = out.split(2).unwrap();
    assert_eq!((head.deduplicated, tail.deduplicated), (vec![1], vec![2, 3]));
}

#[test]
fn a_record_that_makes_many_rows_has_one_fate() {
    let rows: Rows = [
        r#"{"id": 1, "legs": [1, 2, 3]}"#,
        r#"{"id": 2, "legs": []}"#,
        r#"{"id": 3}"#,
        r#"{"id": 4, "legs": [0, null]}"#,
        r#"{"id": 5, "legs": [0]}"#,
    ]
    .map(|body| (body.to_owned(), None))
    .to_vec();
    let made = |text| push(&mut steps(text), slice(&rows, 0..5)).remove(0);
    let out = made("  - explode: {field: $.legs, as: leg}\n");
    assert_eq!(sluice_connect::batch::offsets(&out.envelope), [0, 0, 0, 3, 3, 4]);
    let fates = Steps::fates(Then::Skip, &out);
    assert_eq!((fates.written, fates.filtered), (3, 2));
    // Rows of a record that are left out take the record with them only if it has no other.
    let out = made("  - explode: {field: $.legs, as: leg}\n  - where: '$.leg >= 2'\n");
    assert_eq!(sluice_connect::batch::offsets(&out.envelope), [0, 0]);
    assert_eq!(Steps::fates(Then::Skip, &out).filtered, 4);
    // One that does not fit takes the others of its record with it.
    let text = "  - explode: {field: $.legs, as: leg, keep_empty: true}\n  - select: {set: {t: \"coalesce('x' || $.leg, 'none')\"}}\n  - where: \"$.t <> 'x1'\"\n  - select: {set: {u: \"coalesce(CAST($.leg AS TEXT), 'none')\"}, cast: {u: int64}}\n";
    let out = made(text);
    assert_eq!(sluice_connect::batch::offsets(&out.envelope), [0, 0, 4]);
    let rejects: Vec<(i64, &str)> = out.rejects.iter().map(|r| (r.offset, r.reason.as_str())).collect();
    let reason = "$.u: \"none\" is no Int64";
    assert_eq!(rejects, [(1, reason), (2, reason), (3, reason)]);
    // A slice that is cut at any offset keeps the fate of each record.
    for at in 1..5 {
        let (head, tail) = made(text).split(at).unwrap();
        for part in [&head, &tail] {
            let total = Steps::fates(Then::Skip, part).total();
            assert_eq!(i64::try_from(total).unwrap(), part.range.end - part.range.start);
        }
    }
}

#[test]
fn a_record_that_would_make_too_much_is_turned_away() {
    let many = format!("{{\"id\": 1, \"legs\": [{}]}}", vec!["1"; 100_001].join(","));
    let wide = format!("{{\"k\": \"{}\", \"legs\": [{}]}}", "x".repeat(100_000), vec!["1"; 1000].join(","));
    let rows: Rows = vec![(many, None), (wide, None), ("{\"legs\": [1]}".to_owned(), None)];
    let out = push(&mut steps("  - explode: {field: $.legs}\n"), slice(&rows, 0..3)).remove(0);
    let reasons: Vec<&str> = out.rejects.iter().map(|r| r.reason.as_str()).collect();
    assert!(
        reasons[0].contains("at most 100000 rows") && reasons[1].contains("bytes of other columns"),
        "{reasons:?}"
    );
    assert_eq!(out.envelope.num_rows(), 1);
}

#[test]
fn a_slice_that_has_grown_is_cut_between_records() {
    let body = format!("{{\"k\": \"{}\", \"legs\": [1, 2, 3, 4, 5, 6, 7, 8]}}", "x".repeat(16_000));
    let rows: Rows = vec![(body, None); 150];
    let parts = push(&mut steps("  - explode: {field: $.legs}\n"), slice(&rows, 0..150));
    assert!(parts.len() >= 2, "{}", parts.len());
    let mut next = 0;
    for part in &parts {
        assert_eq!(part.range.start, next);
        next = part.range.end;
        assert!(part.bytes <= 16 << 20, "{}", part.bytes);
    }
    assert_eq!(next, 150);
    let written: u64 = parts.iter().map(|part| Steps::fates(Then::Skip, part).written).sum();
    assert_eq!(written, 150);
}

#[test]
fn a_time_that_has_no_year_comes_into_no_body() {
    let rows: Rows = [1_700_000_000_000_i64, 1_700_000_000_000_000_000]
        .map(|time| (format!("{{\"id\": {time}}}"), None))
        .into();
    let mut steps = steps("  - select: {columns: [$.id], cast: {id: timestamp}}\n");
    let slices = push(&mut steps, slice(&rows, 0..2));
    let (_, fates, rejects, _) = told(&slices);
    assert_eq!((fates.written, fates.skipped), (1, 1), "{rejects:?}");
    let told = "field `id` holds a time that is out of the range of years, which JSON can not";
    assert_eq!(rejects, [(1, told.to_owned())]);
    let bodies = slices[0].envelope.column_by_name("body").unwrap();
    let body = str::from_utf8(bodies.as_binary_view().value(0)).unwrap();
    assert_eq!(body, "{\"id\":\"2023-11-14T22:13:20Z\"}");
}
