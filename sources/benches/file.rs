//! Speed of the `file` source: CSV rows into JSON bodies, one core.
//!
//! `cargo bench -p sluice-sources --bench file`; give the path of a CSV file to use it instead.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark prints and reads the clock"
)]

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use sluice_connect::task::{Needs, Range, Read, SourceTask};
use sluice_sources::file::{FileConfig, FileFormat, FileSource};

const ROUNDS: usize = 5;

fn main() {
    let path = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let own = path.is_none().then(made_up);
    let path =
        path.unwrap_or_else(|| own.as_ref().map_or(String::new(), |own| own.path().display().to_string()));
    let config = FileConfig {
        path,
        format: FileFormat::Csv,
        nulls: Some(vec![String::new(), "NA".to_owned()]),
        properties: vec!["origin".to_owned(), "dep_delay".to_owned()],
        keys: vec!["tailnum".to_owned()],
        tag: Some("carrier".to_owned()),
        follow: false,
        start: None,
        poll: None,
        rotate_wait: None,
        on_lost: None,
    };
    let cases = [
        ("body", vec!["body"], false),
        ("body, keys, tags, all properties", vec!["body", "keys", "tags"], true),
        ("offsets alone", vec![], false),
    ];
    for (name, columns, all_properties) in cases {
        let needs = Needs { columns, all_properties, ..Needs::default() };
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let (rows, bytes) = drain(config.clone(), &needs);
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "{name}: {rows} rows, {:.2} million rows/s, {bytes} bytes held",
                rows as f64 / seconds / 1e6
            );
        }
    }
}

fn drain(config: FileConfig, needs: &Needs) -> (i64, usize) {
    let mut source = FileSource::new(config);
    source.open(needs).expect("the file opens");
    let topic = source.queues().expect("one file").remove(0).topic;
    let (mut range, mut bytes) = (Range { start: 0, end: i64::MAX }, 0);
    while let Read::Slice(slice) = source.read(&topic, 0, range, 1024 * 1024).expect("the file reads") {
        range.start = slice.range.end;
        bytes += slice.bytes;
        black_box(slice);
    }
    (range.start, bytes)
}

/// Rows like the departures of an airport.
fn made_up() -> tempfile::NamedTempFile {
    let mut text = String::from(
        "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,\
         origin,dest,air_time,distance,hour,minute,time_hour\n",
    );
    for n in 0_u32..300_000 {
        let (month, day, hour, minute) = (1 + n % 12, 1 + n % 28, 5 + n % 18, n * 7 % 60);
        let delay = if n % 40 == 0 { "NA".to_owned() } else { (n % 90).to_string() };
        let (tail, dest, flight) =
            (10_000 + n * 17 % 80_000, ["IAH", "MIA", "BQN"][n as usize % 3], n * 31 % 6000);
        writeln!(
            text,
            "2013,{month},{day},{hour}{minute:02},{hour}{minute:02},{delay},{hour}30,{hour}45,-{delay},UA,{flight},\
             N{tail},EWR,{dest},{},1400,{hour},{minute},2013-{month:02}-{day:02}T{hour:02}:00:00Z",
            n % 400,
        )
        .expect("a string takes text");
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("the file is written");
    file
}
