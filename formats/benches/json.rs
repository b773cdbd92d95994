//! Speed of JSON bodies into columns: flat rows of 19 fields and about 350 bytes, one core.
//!
//! `cargo bench -p sluice-formats --bench json`; give a file of NDJSON to use its lines instead.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark prints and reads the clock"
)]

use std::hint::black_box;
use std::time::Instant;

use sluice_formats::json::{Decoder, Inferer};

const ROUNDS: usize = 7;
const SLICE_ROWS: usize = 4_096;

fn main() {
    let path = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let bodies: Vec<Vec<u8>> = match path {
        Some(path) => std::fs::read(path)
            .expect("the file is readable")
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect(),
        None => (0..100_000).map(row).collect(),
    };
    let bytes: usize = bodies.iter().map(Vec::len).sum();

    let mut inferer = Inferer::new();
    let start = Instant::now();
    for body in bodies.iter().take(5_000) {
        inferer.add(body).expect("the rows are objects");
    }
    println!("infer 5,000 rows: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);

    for _ in 1..=ROUNDS {
        let start = Instant::now();
        for body in &bodies {
            let text = std::str::from_utf8(body).expect("the rows are text");
            black_box(serde_json::from_str::<serde::de::IgnoredAny>(text).expect("the rows are JSON"));
        }
        println!("parse alone: {:.0} MB/s", bytes as f64 / start.elapsed().as_secs_f64() / 1e6);
    }

    let mut decoder = Decoder::new(inferer.schema()).expect("inferred schemas can be decoded into");
    for round in 1..=ROUNDS {
        let (start, mut rejects) = (Instant::now(), 0);
        for slice in bodies.chunks(SLICE_ROWS) {
            let found = decoder.decode(&mut slice.iter().map(|b| Some(b.as_slice()))).expect("a batch");
            rejects += found.rejects.len();
            black_box(found.batch);
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "decode {round}: {} rows of {} bytes, {rejects} rejects: {:.0} MB/s, {:.2} million rows/s",
            bodies.len(),
            bytes / bodies.len(),
            bytes as f64 / seconds / 1e6,
            bodies.len() as f64 / seconds / 1e6,
        );
    }
}

/// A departure; every 40th never left.
fn row(number: u32) -> Vec<u8> {
    let (hour, minute, left) = (5 + number % 18, number * 7 % 60, !number.is_multiple_of(40));
    let cell = |value: u32| if left { value.to_string() } else { "null".to_owned() };
    format!(
        "{{\"year\":2013,\"month\":{},\"day\":{},\"dep_time\":{},\"sched_dep_time\":{},\"dep_delay\":{},\
         \"arr_time\":{},\"sched_arr_time\":{},\"arr_delay\":{},\"carrier\":\"{}\",\"flight\":{},\
         \"tailnum\":\"N{}UA\",\"origin\":\"{}\",\"dest\":\"{}\",\"air_time\":{},\"distance\":{},\"hour\":{hour},\
         \"minute\":{minute},\"time_hour\":\"2013-{:02}-{:02}T{hour:02}:00:00Z\"}}",
        1 + number % 12,
        1 + number % 28,
        cell(hour * 100 + minute),
        hour * 100 + minute,
        cell(number % 90),
        cell((hour + 3) % 24 * 100 + minute),
        (hour + 3) % 24 * 100 + minute,
        if left { format!("-{}", number % 50) } else { "null".to_owned() },
        ["UA", "AA", "B6", "DL"][number as usize % 4],
        number * 31 % 6000,
        10_000 + number * 17 % 80_000,
        ["EWR", "LGA", "JFK"][number as usize % 3],
        ["IAH", "MIA", "BQN", "ATL", "ORD"][number as usize % 5],
        cell(40 + number % 300),
        100 + number % 2500,
        1 + number % 12,
        1 + number % 28,
    )
    .into_bytes()
}
