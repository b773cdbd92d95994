//! Files that are followed: what is appended, rotated, cut or new comes once, also over restarts.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use flate2::Compression;
use flate2::write::GzEncoder;
use sluice_connect::config::Span;
use sluice_connect::task::{Class, Needs, Range, Read, SourceTask, TaskError};
use sluice_sources::file::follow::FollowSource;
use sluice_sources::file::{FileConfig, FileFormat, FileStart, OnLost};
use tempfile::TempDir;

/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Looks after which nothing is on its way.
const LOOKS: usize = 4;

/// A folder of logs, and a target that keeps rows and positions over restarts of the source.
struct World {
    folder: TempDir,
    config: FileConfig,
    positions: HashMap<Arc<str>, (i64, String)>,
    rows: Vec<String>,
    rejects: Vec<String>,
    topics: Vec<Arc<str>>,
    /// How much one look takes of a log, in slices.
    slices_max: usize,
    running: Option<Run>,
}

struct Run {
    source: FollowSource,
    open: HashMap<Arc<str>, i64>,
}

impl World {
    fn new(pattern: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let config = FileConfig {
            path: folder.path().join(pattern).to_str().unwrap().to_owned(),
            format: FileFormat::Ndjson,
            nulls: None,
            properties: Vec::new(),
            keys: Vec::new(),
            tag: None,
            follow: true,
            start: None,
            poll: Some(Span(Duration::from_millis(10))),
            rotate_wait: Some(Span(Duration::ZERO)),
            on_lost: None,
        };
        Self {
            folder,
            config,
            positions: HashMap::new(),
            rows: Vec::new(),
            rejects: Vec::new(),
            topics: Vec::new(),
            slices_max: usize::MAX,
            running: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Appends lines `{"n":<n>}`.
    fn lines(&self, name: &str, numbers: std::ops::Range<u32>) {
        self.append(name, &numbers.map(line).collect::<String>());
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn pack(&self, name: &str) {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&fs::read(self.path(name)).unwrap()).unwrap();
        fs::write(self.path(&format!("{name}.gz")), packed.finish().unwrap()).unwrap();
        self.remove(name);
    }

    /// `: > name`.
    fn cut(&self, name: &str) {
        File::options().write(true).open(self.path(name)).unwrap().set_len(0).unwrap();
    }

    /// `cp name copy; : > name`.
    fn copy_and_cut(&self, name: &str, copy: &str) {
        fs::copy(self.path(name), self.path(copy)).unwrap();
        self.cut(name);
    }

    fn restart(&mut self) {
        self.running = None;
    }

    /// One look at everything; whether anything came.
    fn look(&mut self) -> Result<bool, TaskError> {
        let mut run = match self.running.take() {
            Some(run) => run,
            None => {
                let mut source = FollowSource::new(self.config.clone(), Arc::default());
                source.open(&Needs { columns: vec!["body"], ..Needs::default() })?;
                Run { source, open: HashMap::new() }
            }
        };
        let mut came = false;
        let confirmer = run.source.confirmer();
        for queue in run.source.queues()? {
            if run.open.contains_key(&queue.topic) {
                continue;
            }
            let new = || (queue.origin, queue.incarnation.clone());
            let (next, recorded) = self.positions.entry(Arc::clone(&queue.topic)).or_insert_with(new).clone();
            assert!(confirmer.same(&queue.topic, 0, &recorded, &queue.incarnation)?);
            run.open.insert(queue.topic, next);
        }
        let mut topics: Vec<Arc<str>> = run.open.keys().cloned().collect();
        topics.sort();
        for topic in topics {
            let mut slices = 0;
            while slices < self.slices_max {
                let start = run.open[&topic];
                match run.source.read(&topic, 0, Range { start, end: i64::MAX }, 1 << 16)? {
                    Read::Slice(slice) => {
                        assert_eq!(slice.range.start, start);
                        let bodies = slice.envelope.column_by_name("body").unwrap().as_binary_view();
                        let texts = bodies.iter().map(|b| String::from_utf8(b.unwrap().to_vec()).unwrap());
                        self.rows.extend(texts);
                        self.topics.extend(slice.envelope.num_rows().checked_sub(1).map(|_| topic.clone()));
                        self.rejects
                            .extend(slice.rejects.iter().map(|r| format!("{} {}", r.place, r.reason)));
                        let incarnation = confirmer.incarnation(&topic, 0, start).unwrap();
                        self.positions.insert(Arc::clone(&topic), (slice.range.end, incarnation));
                        confirmer.confirm(&topic, 0, slice.range.end).unwrap();
                        run.open.insert(Arc::clone(&topic), slice.range.end);
                        (came, slices) = (true, slices + 1);
                    }
                    Read::Held => {}
                    Read::Idle => break,
                    Read::Gone => {
                        run.source.release(&topic, 0);
                        run.open.remove(&topic);
                        break;
                    }
                    Read::Ended => panic!("a file that is followed never ends"),
                }
            }
        }
        run.source.wait(Duration::from_millis(12));
        self.running = Some(run);
        Ok(came)
    }

    /// Looks until so many rows and rejects are there, and then that no more come.
    fn expect(&mut self, count: usize) {
        let began = Instant::now();
        while self.rows.len() + self.rejects.len() < count {
            assert!(began.elapsed() < PATIENCE, "{count} rows are not there: {}", self.shown());
            self.look().unwrap();
        }
        for _ in 0..LOOKS {
            self.look().unwrap();
        }
        assert_eq!(self.rows.len() + self.rejects.len(), count, "{}", self.shown());
    }

    /// The rows are the lines of these numbers, in their order.
    fn expect_lines(&mut self, numbers: std::ops::Range<u32>) {
        self.expect(numbers.len());
        let expected: Vec<String> = numbers.map(|n| line(n).trim_end().to_owned()).collect();
        let differs = self.rows.iter().zip(&expected).position(|(one, other)| one != other);
        assert_eq!(differs, None, "{}", self.shown());
    }

    /// The last rows and all rejects.
    fn shown(&self) -> String {
        let last = self.rows.len().saturating_sub(10);
        format!("{} rows, … {:?}, {:?}", self.rows.len(), &self.rows[last..], self.rejects)
    }

    /// Looks until it is refused, and gives the reason.
    fn refused(&mut self) -> String {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "nothing is refused");
            if let Err(error) = self.look() {
                assert_eq!(error.class, Class::Config, "{error}");
                self.running = None;
                return error.to_string();
            }
        }
    }
}

fn line(n: u32) -> String {
    format!("{{\"n\":{n}}}\n")
}

#[test]
fn what_is_appended_comes_once_over_restarts() {
    let mut world = World::new("app.log");
    world.expect(0);
    world.lines("app.log", 0..3);
    world.expect_lines(0..3);
    world.lines("app.log", 3..5);
    world.expect_lines(0..5);
    world.restart();
    world.expect_lines(0..5);
    world.lines("app.log", 5..9);
    world.restart();
    world.lines("app.log", 9..10);
    world.expect_lines(0..10);
}

#[test]
fn a_line_is_a_row_when_its_end_is_there_or_its_file_was_rotated() {
    let mut world = World::new("app.log");
    world.append("app.log", "{\"n\":0}\n{\"n\"");
    world.expect_lines(0..1);
    world.append("app.log", ":1}");
    world.expect_lines(0..1);
    world.restart();
    world.expect_lines(0..1);
    world.append("app.log", "\n{\"n\":2}");
    world.expect_lines(0..2);
    world.rename("app.log", "app.log.1");
    world.expect_lines(0..2);
    world.lines("app.log", 3..4);
    world.expect_lines(0..4);
}

#[test]
fn rotation_by_rename_is_followed_in_order_while_it_runs() {
    let mut world = World::new("app.log");
    for round in 0..6 {
        world.lines("app.log", 10 * round..10 * round + 5);
        world.expect_lines(0..10 * round + 5);
        for number in (1..4).rev().filter(|n| world.path(&format!("app.log.{n}")).exists()) {
            world.rename(&format!("app.log.{number}"), &format!("app.log.{}", number + 1));
        }
        world.rename("app.log", "app.log.1");
        // The writer has the file open still.
        world.lines("app.log.1", 10 * round + 5..10 * round + 10);
    }
    world.lines("app.log", 60..61);
    world.expect_lines(0..61);
    assert_eq!(world.positions.len(), 1, "all files of a log are one chain");
}

#[test]
fn rotations_while_it_does_not_run_are_caught_up_in_order() {
    for stamps in
        [["app.log.1", "app.log.2"], ["app.log-20261128", "app.log-20261127"], ["app-1.log", "app-2.log"]]
    {
        let mut world = World::new("app.log");
        world.lines("app.log", 0..3);
        world.expect_lines(0..3);
        world.restart();
        world.lines("app.log", 3..5);
        world.rename("app.log", stamps[1]);
        world.lines("app.log", 5..8);
        world.rename("app.log", stamps[0]);
        world.lines("app.log", 8..9);
        world.expect_lines(0..9);
    }
}

#[test]
fn what_was_rotated_and_packed_meanwhile_is_known_by_its_content() {
    let mut world = World::new("app.log");
    world.lines("app.log", 0..3);
    world.expect_lines(0..3);
    world.restart();
    world.lines("app.log", 3..500);
    world.rename("app.log", "app.log.1");
    world.pack("app.log.1");
    world.lines("app.log", 500..502);
    world.expect_lines(0..502);
    world.rename("app.log.1.gz", "app.log.2.gz");
    world.rename("app.log", "app.log.1");
    world.pack("app.log.1");
    world.lines("app.log", 502..503);
    world.expect_lines(0..503);
}

#[test]
fn a_log_that_is_copied_and_cut_goes_on_in_its_copy_first() {
    let mut world = World::new("app.log");
    world.lines("app.log", 0..3);
    world.expect_lines(0..3);
    world.lines("app.log", 3..5);
    world.copy_and_cut("app.log", "app.log.1");
    world.lines("app.log", 5..6);
    world.expect_lines(0..6);
    // It has grown over what was read of it by the time it is looked at.
    world.lines("app.log", 6..8);
    world.rename("app.log.1", "app.log.2");
    world.copy_and_cut("app.log", "app.log.1");
    world.lines("app.log", 8..100);
    world.expect_lines(0..100);
    world.restart();
    world.lines("app.log", 100..120);
    world.rename("app.log.2", "app.log.3");
    world.rename("app.log.1", "app.log.2");
    world.copy_and_cut("app.log", "app.log.1");
    world.lines("app.log", 120..500);
    world.expect_lines(0..500);
}

#[test]
fn a_log_that_is_cut_and_grows_again_while_it_is_read_is_read_as_it_was_first() {
    for has_copy in [true, false] {
        let mut world = World::new("app.log");
        world.lines("app.log", 0..20_000);
        world.slices_max = 1;
        assert!(world.look().unwrap());
        assert!((1..20_000).contains(&world.rows.len()), "{}", world.shown());
        if has_copy {
            world.copy_and_cut("app.log", "app.log.1");
        } else {
            world.cut("app.log");
        }
        // More than was read of it: the byte that comes next is there.
        world.lines("app.log", 20_000..50_000);
        if !has_copy {
            let told = world.refused();
            assert!(told.contains("it was cut after"), "{told}");
            continue;
        }
        world.slices_max = usize::MAX;
        world.expect_lines(0..50_000);
    }
}

#[test]
fn a_link_to_a_file_of_another_name_is_followed_through_its_rotations() {
    let mut world = World::new("containers/*.log");
    for folder in ["containers", "pods"] {
        fs::create_dir(world.path(folder)).unwrap();
    }
    world.lines("pods/0.log", 0..3);
    std::os::unix::fs::symlink(world.path("pods/0.log"), world.path("containers/x.log")).unwrap();
    world.expect_lines(0..3);
    world.rename("pods/0.log", "pods/0.log.20261128-101112");
    world.lines("pods/0.log", 3..5);
    world.expect_lines(0..5);
    world.restart();
    world.lines("pods/0.log", 5..6);
    world.rename("pods/0.log", "pods/0.log.20261128-111112");
    world.pack("pods/0.log.20261128-111112");
    world.lines("pods/0.log", 6..8);
    world.rename("pods/0.log", "pods/0.log.20261128-121112");
    world.lines("pods/0.log", 8..9);
    world.expect_lines(0..9);
    assert_eq!(world.positions.len(), 1);
}

#[test]
fn the_file_of_an_empty_log_is_known_by_its_names_alone() {
    let mut world = World::new("app.log");
    world.append("app.log", "");
    world.expect(0);
    world.restart();
    world.lines("app.log", 0..2);
    world.rename("app.log", "app.log.1");
    world.lines("app.log", 2..4);
    world.expect_lines(0..4);

    let mut world = World::new("app.log");
    world.append("app.log", "");
    world.expect(0);
    world.restart();
    // As if it had been removed, and its inode given to another one.
    world.rename("app.log", "other");
    world.lines("other", 7..9);
    world.lines("app.log", 0..2);
    let told = world.refused();
    assert!(told.contains("read up to record 0 is not there any more"), "{told}");
    world.config.on_lost = Some(OnLost::Continue);
    world.expect_lines(0..2);
}

#[test]
fn a_log_that_is_cut_without_a_copy_blocks_and_says_so() {
    let mut world = World::new("app.log");
    world.lines("app.log", 0..3);
    world.expect_lines(0..3);
    world.cut("app.log");
    let told = world.refused();
    assert!(told.contains("it was cut after 3 records of it were read (byte 24), and no copy"), "{told}");
    assert!(told.contains("on_lost: continue"), "{told}");
    world.lines("app.log", 3..5);
    let told = world.refused();
    assert!(told.contains("read up to record 3 is not there any more"), "{told}");
    world.config.on_lost = Some(OnLost::Continue);
    world.expect_lines(0..5);
    world.cut("app.log");
    world.expect_lines(0..5);
    world.lines("app.log", 5..6);
    world.expect_lines(0..6);
}

#[test]
fn a_file_that_is_removed_ends_and_one_of_its_name_begins() {
    let mut world = World::new("*.log");
    world.lines("a.log", 0..3);
    world.lines("b.log", 3..4);
    world.expect_lines(0..4);
    world.lines("a.log", 4..5);
    world.append("a.log", "{\"n\":5}");
    world.remove("a.log");
    world.expect_lines(0..6);
    assert_eq!(world.running.as_ref().unwrap().open.len(), 1, "the chain of a.log has ended");
    world.lines("a.log", 6..8);
    world.expect_lines(0..8);
    assert_eq!(world.positions[&Arc::<str>::from("a.log")].0, 7);
    // While nobody looks it may have got more.
    world.restart();
    world.remove("a.log");
    world.lines("a.log", 8..9);
    assert!(world.refused().contains("not there any more"));
}

#[test]
fn another_file_that_got_the_inode_is_not_taken_for_it() {
    let mut world = World::new("app.log");
    world.lines("app.log", 0..3);
    world.expect_lines(0..3);
    world.restart();
    // As if the file had been removed and its inode given to another one.
    fs::write(world.path("app.log"), "{\"x\":0}\n{\"x\":1}\n{\"x\":2}\n{\"x\":3}\n").unwrap();
    let told = world.refused();
    assert!(told.contains("read up to record 3 is not there any more"), "{told}");
    let copy: String = (0..5).map(line).collect();
    fs::write(world.path("app.log.1"), copy).unwrap();
    world.expect(9);
    assert_eq!(world.rows[4..6], ["{\"n\":4}", "{\"x\":0}"], "the copy first, then what has its name");
}

#[test]
fn a_pattern_that_matches_rotated_files_reads_each_once_oldest_first() {
    let mut world = World::new("app.log*");
    world.lines("app.log.2", 0..2);
    world.pack("app.log.2");
    world.lines("app.log.1", 2..4);
    world.lines("app.log", 4..6);
    world.expect_lines(0..6);
    world.restart();
    world.rename("app.log.2.gz", "app.log.3.gz");
    world.rename("app.log.1", "app.log.2");
    world.rename("app.log", "app.log.1");
    world.lines("app.log", 6..8);
    world.expect_lines(0..8);
    assert_eq!(world.positions.len(), 1);
}

#[test]
fn new_files_are_found_and_begin_at_their_beginning() {
    let mut world = World::new("in/*.csv");
    fs::create_dir(world.path("in")).unwrap();
    world.config.format = FileFormat::Csv;
    world.config.start = Some(FileStart::End);
    world.append("in/old.csv", "n,m\n1,2\n");
    world.expect(0);
    world.append("in/new.csv", "n,");
    world.expect(0);
    world.append("in/new.csv", "m\n3,4\n5,\"6\n");
    world.expect(1);
    world.append("in/new.csv", "7\"\n");
    world.append("in/old.csv", "8,9");
    world.expect(2);
    world.append("in/old.csv", "\n");
    world.expect(3);
    assert_eq!(world.rows, [r#"{"n":3,"m":4}"#, r#"{"n":5,"m":"6\n7"}"#, r#"{"n":8,"m":9}"#]);
    world.restart();
    world.append("in/old.csv", "x\n10,11\n");
    world.expect(5);
    assert!(
        world.rejects[0].contains("in/old.csv, byte 12 1 fields, but the header has 2"),
        "{:?}",
        world.rejects
    );
}

#[test]
fn what_appears_while_a_run_has_failed_is_read_from_its_beginning() {
    let mut world = World::new("*.log");
    if fs::metadata(world.folder.path()).unwrap().created().is_err() {
        return;
    }
    world.config.start = Some(FileStart::End);
    world.lines("a.log", 0..3);
    world.expect(0);
    world.restart();
    // Times of files are rounded down.
    std::thread::sleep(Duration::from_millis(50));
    world.lines("b.log", 0..2);
    world.lines("a.log", 2..3);
    world.expect(3);
    world.rows.sort();
    world.expect_lines(0..3);
}

#[test]
fn files_that_look_rotated_are_read_when_their_log_is_there() {
    let mut world = World::new("*");
    world.lines("part-0001", 0..2);
    world.expect(0);
    world.lines("part", 2..3);
    world.expect_lines(0..3);
    let mut world = World::new("part-*");
    world.lines("part-0001", 0..2);
    world.expect_lines(0..2);
}

#[test]
fn each_rotated_csv_file_has_its_header() {
    let mut world = World::new("a.csv");
    world.config.format = FileFormat::Csv;
    world.append("a.csv", "n,m\n1,2\n3,4");
    world.expect(1);
    world.restart();
    world.rename("a.csv", "a.csv.1");
    world.append("a.csv", "m,n\n5,6\n");
    world.expect(3);
    assert_eq!(world.rows, [r#"{"n":1,"m":2}"#, r#"{"n":3,"m":4}"#, r#"{"m":5,"n":6}"#]);
}

#[test]
fn a_line_over_the_limit_is_one_reject_also_if_it_comes_in_parts() {
    let mut world = World::new("app.log");
    world.append("app.log", &format!("{}{{\"n\":\"", line(0)));
    for _ in 0..5 {
        world.append("app.log", &"x".repeat(1 << 20));
        world.expect(1);
    }
    world.append("app.log", &format!("\"}}\n{}", line(1)));
    world.expect(3);
    assert!(world.rejects[0].contains(":2 line of 5242889 bytes exceeds"), "{:?}", world.rejects);
    assert_eq!(world.rows.len(), 2);
}

#[test]
fn packed_data_that_is_not_whole_yet_is_waited_for() {
    let mut world = World::new("*.gz");
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all((0..1000).map(line).collect::<String>().as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let mut file = File::create(world.path("a.gz")).unwrap();
    for part in packed.chunks(packed.len() / 3 + 1) {
        file.write_all(part).unwrap();
        for _ in 0..LOOKS {
            world.look().unwrap();
        }
        assert!(world.rejects.is_empty());
    }
    world.expect_lines(0..1000);
}

#[test]
fn a_file_of_two_names_is_refused() {
    let mut world = World::new("*.log");
    world.lines("a.log", 0..3);
    world.expect_lines(0..3);
    world.rename("a.log", "b.log");
    let told = world.refused();
    assert!(told.contains("b.log is the file that is read as `a.log`"), "{told}");
}

#[test]
fn a_file_that_an_editor_wrote_anew_goes_on() {
    let mut world = World::new("app.log");
    world.lines("app.log", 0..100);
    world.expect_lines(0..100);
    world.lines("new", 0..105);
    world.rename("new", "app.log");
    world.expect_lines(0..105);
    world.restart();
    world.lines("new", 0..110);
    world.rename("new", "app.log");
    world.expect_lines(0..110);
}

#[test]
fn a_new_file_that_begins_like_the_one_before_is_read_whole() {
    let mut world = World::new("app.log");
    world.append("app.log", "{}\n{}\n");
    world.expect(2);
    world.rename("app.log", "elsewhere");
    world.append("app.log", "{}\n{}\n{}\n");
    world.expect(5);
}

#[test]
fn a_writer_that_comes_too_late_to_a_rotated_file_is_told() {
    let mut world = World::new("app.log");
    world.lines("app.log", 0..2);
    world.expect_lines(0..2);
    world.rename("app.log", "app.log.1");
    world.lines("app.log", 2..3);
    world.expect_lines(0..3);
    world.lines("app.log.1", 7..8);
    let told = world.refused();
    assert!(told.contains("got 8 bytes more after it had been rotated away"), "{told}");
    world.lines("app.log", 3..4);
    world.expect_lines(0..4);
}

#[test]
fn a_position_of_a_file_that_was_not_followed_goes_on() {
    let mut world = World::new("app.log");
    world.lines("app.log", 0..3);
    let head: String = (0..3).map(line).collect();
    let old = format!("{}-{}", head.len(), sluice_connect::config::hash(head.as_bytes()));
    world.positions.insert("app.log".into(), (3, old));
    world.lines("app.log", 3..4);
    world.expect(1);
    assert_eq!(world.rows, ["{\"n\":3}"]);
}

#[test]
fn more_files_than_are_kept_open_are_all_followed() {
    let mut world = World::new("*.log");
    let name = |n: u32| format!("{n:04}.log");
    for n in 0..300 {
        world.lines(&name(n), n..n + 1);
    }
    world.expect_lines(0..300);
    for n in (0..300).step_by(7) {
        world.lines(&name(n), 1000..1001);
    }
    world.expect(300 + 43);
    world.rename(&name(0), "0000.log.1");
    world.lines(&name(0), 2000..2001);
    world.expect(300 + 44);
}

#[test]
fn a_file_that_was_closed_for_others_and_is_cut_blocks_and_one_that_was_replaced_does_not() {
    let mut world = World::new("*.log");
    let name = |n: u32| format!("{n:04}.log");
    for n in 0..300 {
        world.lines(&name(n), n..n + 1);
    }
    world.expect_lines(0..300);
    world.lines("new", 1000..1003);
    world.rename("new", &name(0));
    world.expect(303);
    world.cut(&name(1));
    world.lines(&name(1), 2000..2010);
    let told = world.refused();
    assert!(told.contains("0001.log: the file that was read up to record 1 is not there any more"), "{told}");
    assert_eq!(world.rows.len(), 303);
}

#[test]
fn a_folder_that_is_removed_is_passed_over() {
    let mut world = World::new("*/*.log");
    for folder in ["a", "b"] {
        fs::create_dir(world.path(folder)).unwrap();
        world.lines(&format!("{folder}/x.log"), 0..1);
    }
    world.expect(2);
    fs::remove_dir_all(world.path("a")).unwrap();
    world.lines("b/x.log", 1..2);
    world.expect(3);
}

#[test]
fn a_folder_that_is_not_there_is_refused_and_one_without_files_is_waited_for() {
    let mut world = World::new("no/*.log");
    assert!(world.refused().contains("cannot read"));
    fs::create_dir(world.path("no")).unwrap();
    world.expect(0);
    world.lines("no/a.log", 0..1);
    world.expect_lines(0..1);
}
