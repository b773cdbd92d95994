//! Figures of the append path, each beside the simplest thing that writes the same bytes, in one run:
//! `cargo bench -p sluice-store`. `SLUICE_BENCH_DIR` names the folder to write in; `-- sync` runs one part (of
//! `async`, `mapped`, `read`, `sync`).
#![allow(clippy::unwrap_used, reason = "a failure ends the benchmark")]
#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "measures time and prints figures")]
#![expect(unsafe_code, reason = "writes to a map, to compare with what the store does")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use memmap2::MmapOptions;
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{Message, push_property};
use sluice_store::file::{Disk, Open, RealDisk};
use sluice_store::{Batch, Clock, Flush, Settings, Store};

const BODY_BYTES: usize = 1024;
const BATCH: usize = 32;
const BATCHES: usize = 4096;
const ROUNDS: usize = 7;
const APPENDERS: usize = 64;
const APPENDS: usize = 40;
const SEGMENT_BYTES: u64 = 64 << 20;

fn main() {
    let root = match std::env::var_os("SLUICE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    println!("in {}, medians of {ROUNDS} alternating rounds\n", root.path().display());
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let run = |name: &str, part: fn(&Path)| {
        if asked.is_empty() || asked.iter().any(|a| a == name) {
            part(root.path());
        }
    };
    run("async", asynchronous);
    run("mapped", mapped);
    run("read", reading);
    run("sync", synchronous);
}

/// 1 KiB messages in batches of 32, flushed in the background, beside a plain `write` of the same bytes.
fn asynchronous(root: &Path) {
    let bytes = one_batch().bytes();
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        rounds.ours.push(timed(|| {
            let dir = root.join("async");
            let store = open(&dir, Settings::embedded(&dir));
            let start = Instant::now();
            for _ in 0..BATCHES {
                store.append(one_batch()).unwrap();
            }
            let elapsed = start.elapsed();
            drop(store);
            std::fs::remove_dir_all(dir).unwrap();
            elapsed
        }));
        rounds.plain.push(timed(|| {
            let path = root.join(format!("plain{round}"));
            let mut file = File::create(&path).unwrap();
            let buffer = vec![7; bytes];
            let start = Instant::now();
            for _ in 0..BATCHES {
                file.write_all(&buffer).unwrap();
            }
            let elapsed = start.elapsed();
            std::fs::remove_file(path).unwrap();
            elapsed
        }));
    }
    rounds.throughput("async append, 32 x 1 KiB", "plain write", bytes * BATCHES);
}

/// The same bytes into a segment: `pwritev` as the store does it, and a copy into a map.
fn mapped(root: &Path) {
    let buffer = vec![7; one_batch().bytes()];
    let count = usize::try_from(SEGMENT_BYTES).unwrap() / buffer.len();
    let segment = |name: String| {
        let path = root.join(name);
        let file = RealDisk.open(&path, Open::New).unwrap();
        file.allocate(SEGMENT_BYTES).unwrap();
        (path, file)
    };
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        rounds.ours.push(timed(|| {
            let (path, file) = segment(format!("pwritev{round}"));
            let start = Instant::now();
            for i in 0..count {
                file.write_at(&[&buffer], (i * buffer.len()) as u64).unwrap();
            }
            let elapsed = start.elapsed();
            std::fs::remove_file(path).unwrap();
            elapsed
        }));
        rounds.plain.push(timed(|| {
            let (path, file) = segment(format!("mapped{round}"));
            let start = Instant::now();
            // SAFETY: nobody else has the file, and it is as long as the map.
            let mut map = unsafe { MmapOptions::new().map_mut(file.file()).unwrap() };
            for i in 0..count {
                map[i * buffer.len()..][..buffer.len()].copy_from_slice(&buffer);
            }
            let elapsed = start.elapsed();
            drop(map);
            std::fs::remove_file(path).unwrap();
            elapsed
        }));
    }
    rounds.throughput("pwritev to a segment", "mapped writes", count * buffer.len());
}

/// A queue read from its start, 1 MiB at a time, beside plain positioned reads of the same bytes.
fn reading(root: &Path) {
    let dir = root.join("read");
    let store = open(&dir, Settings::embedded(&dir));
    let mut bytes = 0;
    for _ in 0..BATCHES {
        bytes += usize::try_from(store.append(one_batch()).unwrap().bytes).unwrap();
    }
    store.flush().unwrap();
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        rounds.ours.push(timed(|| {
            let start = Instant::now();
            let (mut next, mut sum) = (QueueOffset::default(), 0_u64);
            loop {
                let read = store.read(&topic(), QueueId::ZERO, next, 1 << 20).unwrap();
                if read.runs.is_empty() {
                    break;
                }
                sum += read.runs.iter().map(|r| touched(&r.bytes)).sum::<u64>();
                next = read.next;
            }
            std::hint::black_box(sum);
            start.elapsed()
        }));
        rounds.plain.push(timed(|| {
            let mut buffer = vec![0; 1 << 20];
            let start = Instant::now();
            let (mut sum, mut left) = (0, bytes);
            for start in (0_u64..).step_by(usize::try_from(SEGMENT_BYTES).unwrap()) {
                if left == 0 {
                    break;
                }
                let file = File::open(dir.join(format!("commitlog/{start:020}"))).unwrap();
                let mut at = 0;
                while at < SEGMENT_BYTES && left > 0 {
                    let len = buffer.len().min(left);
                    file.read_exact_at(&mut buffer[..len], at).unwrap();
                    sum += touched(&buffer[..len]);
                    (at, left) = (at + len as u64, left - len);
                }
            }
            std::hint::black_box(sum);
            start.elapsed()
        }));
    }
    rounds.throughput("read through the map", "plain read", bytes);
}

/// 64 threads, each waiting for its message to be durable, beside one `fdatasync` an append.
fn synchronous(root: &Path) {
    let dir = root.join("sync");
    let store = open(&dir, Settings { flush: Flush::Sync, ..Settings::embedded(&dir) });
    let message = one_message();
    let file = RealDisk.open(&root.join("plainsync"), Open::New).unwrap();
    file.allocate(SEGMENT_BYTES).unwrap();
    let buffer = vec![7; message.bytes()];
    let mut rounds = Rounds::default();
    let mut at = 0;
    for _ in 0..ROUNDS {
        rounds.ours.push(timed(|| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..APPENDERS {
                    scope.spawn(|| (0..APPENDS).for_each(|_| drop(store.append(message.clone()).unwrap())));
                }
            });
            start.elapsed()
        }));
        rounds.plain.push(timed(|| {
            let start = Instant::now();
            for _ in 0..APPENDS * 5 {
                file.write_at(&[&buffer], at).unwrap();
                file.sync().unwrap();
                at += buffer.len() as u64;
            }
            start.elapsed()
        }));
    }
    let ours = (APPENDERS * APPENDS) as f64 / median(&mut rounds.ours);
    let plain = (APPENDS * 5) as f64 / median(&mut rounds.plain);
    println!("{:<28} {ours:>10.0} appends/s", "sync, 64 appenders");
    println!("{:<28} {plain:>10.0} appends/s   ratio {:.1}\n", "one fdatasync an append", ours / plain);
}

#[derive(Default)]
struct Rounds {
    ours: Vec<f64>,
    plain: Vec<f64>,
}

impl Rounds {
    fn throughput(mut self, ours: &str, plain: &str, bytes: usize) {
        let mib = bytes as f64 / f64::from(1 << 20);
        let (a, b) = (mib / median(&mut self.ours), mib / median(&mut self.plain));
        println!("{ours:<28} {a:>10.0} MiB/s");
        println!("{plain:<28} {b:>10.0} MiB/s       ratio {:.2}\n", a / b);
    }
}

fn timed(work: impl FnOnce() -> std::time::Duration) -> f64 {
    work().as_secs_f64()
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_unstable_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Reads each cache line once.
fn touched(bytes: &[u8]) -> u64 {
    bytes.iter().step_by(64).map(|b| u64::from(*b)).sum()
}

fn topic() -> TopicName {
    TopicName::new("bench").unwrap()
}

fn open(dir: &Path, settings: Settings) -> Store {
    let clock: Clock = Arc::new(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        i64::try_from(now.as_millis()).unwrap()
    });
    assert_eq!(settings.dir, dir);
    let store = Store::open(settings, Arc::new(RealDisk), clock).unwrap();
    store.create_topic(&topic(), 1).unwrap();
    store
}

fn one_batch() -> Batch {
    filled(BATCH)
}

fn one_message() -> Batch {
    filled(1)
}

fn filled(count: usize) -> Batch {
    let mut properties = Vec::new();
    push_property(&mut properties, "KEYS", "order-4711").unwrap();
    push_property(&mut properties, "TAGS", "created").unwrap();
    let body = [b'x'; BODY_BYTES];
    let mut batch = Batch::new();
    for _ in 0..count {
        let message = Message { body: &body, properties: &properties, ..Message::default() };
        batch.push(&topic(), QueueId::ZERO, &message).unwrap();
    }
    batch
}
