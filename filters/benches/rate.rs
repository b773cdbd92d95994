//! Time of an evaluation, by row and by column: `cargo bench -p sluice-filters`.
//!
//! The messages and expressions are those of `interop/filter_bench`, which runs RocketMQ's own engine beside.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::doc_markdown,
    reason = "a benchmark reads the clock and prints times; RocketMQ is a name"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, StringViewArray};
use sluice_filters::{Dialect, Filter, Name};

const ROWS: usize = 8_192;
const NAMES: [&str; 8] = ["TAGS", "KEYS", "UNIQ_KEY", "region", "amount", "level", "user", "channel"];
/// From one comparison to a mix of twelve.
const EXPRESSIONS: [&str; 5] = [
    "amount > 500",
    "region = 'EU' AND amount > 500",
    "region IN ('EU', 'US', 'APAC') AND amount BETWEEN 100 AND 800 AND level IS NOT NULL",
    "user STARTSWITH 'u1' OR user CONTAINS '77' OR channel ENDSWITH 'web' OR amount < 3",
    "(region = 'EU' OR region = 'US' OR region = 'MEA') AND amount > 50 AND amount < 900 AND level <> 'low' \
     AND (channel IN ('web', 'app', 'shop') OR channel IS NULL) AND user IS NOT NULL \
     AND (TAGS = 'TagA' OR TAGS = 'TagB') AND KEYS CONTAINS '7'",
];

/// The properties of message `row`, in the order of [`NAMES`].
fn message(row: usize) -> [String; 8] {
    let mixed = row.wrapping_mul(2_654_435_761) % 4_294_967_296 / 128;
    [
        ["TagA", "TagB", "TagC"][mixed % 3].to_owned(),
        format!("order-{row}"),
        format!("7F000001{row:016X}00000000"),
        ["EU", "US", "APAC", "MEA"][mixed / 3 % 4].to_owned(),
        (mixed / 12 % 1_000).to_string(),
        ["low", "mid", "high"][mixed / 7 % 3].to_owned(),
        format!("u{}", mixed % 100_000),
        ["web", "app", "shop", "phone"][mixed / 5 % 4].to_owned(),
    ]
}

/// For `interop/filter_bench/columns`: million rows a second over batches of [`ROWS`] rows, on one core.
fn columns(batches: usize) -> Result<(), Box<dyn std::error::Error>> {
    let batches: Vec<Vec<ArrayRef>> = (0..batches)
        .map(|batch| {
            let rows: Vec<[String; 8]> = (batch * ROWS..(batch + 1) * ROWS).map(message).collect();
            let column = |at: usize| StringViewArray::from_iter_values(rows.iter().map(|row| &row[at]));
            (0..NAMES.len()).map(|at| Arc::new(column(at)) as ArrayRef).collect()
        })
        .collect();
    for text in EXPRESSIONS {
        let filter = Filter::parse(text, Dialect::Sluice)?;
        let mut passed = 0;
        let nanos = time(|| {
            let masks = batches.iter().map(|columns| {
                let resolve = |name: &Name| match name {
                    Name::Property(name) => {
                        Some(columns[NAMES.iter().position(|known| known == name)?].clone())
                    }
                    _ => None,
                };
                filter.mask(ROWS, &resolve).map(|mask| mask.true_count()).unwrap_or_default()
            });
            passed = masks.sum();
        }) / batches.len() as f64;
        println!("sluice {:.1} {passed} {text}", 1e3 / nanos);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args();
    if arguments.any(|argument| argument == "--columns") {
        return columns(arguments.next().ok_or("--columns BATCHES")?.parse()?);
    }
    let rows: Vec<[String; 8]> = (0..ROWS).map(message).collect();
    let encoded: Vec<Vec<u8>> = rows
        .iter()
        .map(|row| {
            let entries = NAMES.iter().zip(row).map(|(name, value)| format!("{name}\u{1}{value}\u{2}"));
            entries.collect::<String>().into_bytes()
        })
        .collect();
    let columns: Vec<ArrayRef> = (0..NAMES.len())
        .map(|at| Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| &row[at]))) as ArrayRef)
        .collect();
    let at = |name: &str| NAMES.iter().position(|known| *known == name);
    // For `interop/filter_bench/run`, which prints the table.
    let plain = std::env::args().any(|arg| arg == "--plain");
    println!("ns an evaluation, over {ROWS} messages of 8 properties in {} bytes", encoded[0].len());
    println!("{:>8} {:>8} {:>8} {:>8} {:>8}  expression", "dialect", "encoded", "ready", "column", "passed");
    for (dialect, name) in [(Dialect::RocketMq, "rocketmq"), (Dialect::Sluice, "sluice")] {
        for text in EXPRESSIONS {
            let filter = Filter::parse(text, dialect)?;
            let mut passed = 0;
            let by_encoded =
                time(|| passed = encoded.iter().filter(|row| filter.matches(row).passes()).count());
            let ready = time(|| {
                let row = |row: &[String; 8]| filter.row(&|name| Some(row[at(name)?].as_str())) == Some(true);
                black_box(rows.iter().filter(|values| row(values)).count());
            });
            let resolve = |name: &Name| match name {
                Name::Property(name) => Some(columns[at(name)?].clone()),
                _ => None,
            };
            let mut selected = 0;
            let by_column = time(|| {
                selected = filter.mask(ROWS, &resolve).map(|mask| mask.true_count()).unwrap_or_default();
            });
            assert_eq!(passed, selected, "{text}");
            if plain {
                println!("rust {name} {by_encoded:.1} {ready:.1} {by_column:.1} {passed} {text}");
                continue;
            }
            println!("{name:>8} {by_encoded:>8.1} {ready:>8.1} {by_column:>8.1} {passed:>8}  {text}");
        }
    }
    Ok(())
}

/// Nanoseconds a row: the best of some rounds over [`ROWS`] rows.
fn time(mut round: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64() * 1e9 / ROWS as f64
}
