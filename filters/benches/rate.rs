//! Rows a second, by row and by column: `cargo bench -p sluice-filters`.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark reads the clock and prints rates"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, StringViewArray};
use sluice_filters::{Dialect, Filter, Name};

const ROWS: usize = 8_192;
const EXPRESSIONS: [&str; 5] = [
    "origin IN ('EWR', 'JFK') AND dep_delay > 15",
    "dep_delay > 15",
    "dep_delay BETWEEN 15 AND 60",
    "origin = 'EWR'",
    "tailnum LIKE 'N1%AA' OR tailnum CONTAINS '77'",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let names = ["origin", "dep_delay", "tailnum"];
    let rows: Vec<[Option<String>; 3]> = (0..ROWS)
        .map(|row| {
            let mixed = row.wrapping_mul(2_654_435_761) >> 7;
            let origin = ["EWR", "JFK", "LGA"][mixed % 3].to_owned();
            let delay = (mixed % 40 != 0).then(|| (i64::try_from(mixed % 200).unwrap_or(0) - 60).to_string());
            [Some(origin), delay, Some(format!("N{}AA", mixed % 1000))]
        })
        .collect();
    let columns: Vec<ArrayRef> = (0..names.len())
        .map(|at| {
            Arc::new(rows.iter().map(|row| row[at].as_deref()).collect::<StringViewArray>()) as ArrayRef
        })
        .collect();
    let at = |name: &str| names.iter().position(|known| *known == name);
    println!("{:>12} {:>12}  million rows a second", "by row", "by column");
    for text in EXPRESSIONS {
        let filter = Filter::parse(text, Dialect::Sluice)?;
        let by_row = rate(|| {
            let passed =
                rows.iter().filter(|row| filter.row(&|name| row[at(name)?].as_deref()) == Some(true)).count();
            black_box(passed);
        });
        let resolve = |name: &Name| match name {
            Name::Property(name) => Some(columns[at(name)?].clone()),
            _ => None,
        };
        let by_column = rate(|| {
            black_box(filter.mask(ROWS, &resolve).map(|mask| mask.true_count()).unwrap_or_default());
        });
        println!("{by_row:>12.1} {by_column:>12.1}  {text}");
    }
    Ok(())
}

/// Million rows a second: the best of some rounds over [`ROWS`] rows.
fn rate(mut round: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(400) {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed());
    }
    ROWS as f64 / best.as_secs_f64() / 1e6
}
