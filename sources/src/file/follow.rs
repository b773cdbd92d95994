//! Files that are followed: what is appended, rotation, and new files that the pattern matches.
//!
//! A chain is a log: a name that the pattern matches, but for the rotated forms of another one (`app.log.1` where `app.log`
//! matches too). Its offsets count on from file to file, so the number of chains does not grow with rotation. Which record
//! of which file an offset is stands in the target, as the incarnation of its rows (`follow/mark.rs`); a plan holds rows of
//! one file. The file of a position is found again by inode and content, by content alone if it was copied or packed.
//!
//! A file that was rotated away is read to its end, which it has once it was quiet for `rotate_wait`; then comes the next
//! newer one. One that was cut is looked for as a copy. What can not be found blocks the pipeline, or is told (`on_lost`).

mod family;
mod find;
mod mark;
mod place;
mod positions;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use glob::{MatchOptions, Pattern};
use sluice_connect::progress::Stop;
use sluice_connect::task::{Class, Confirm, Needs, Range, Read, SourceQueue, SourceTask, TaskError};

use self::family::{Form, logs_of, members};
use self::find::{After, Begun, Look, TELLING_BYTES, after, look, open};
use self::mark::{Mark, unpacked_len};
use self::place::{Place, Stat, wall_clock};
use self::positions::Positions;
use super::config::{FileConfig, FileStart};
use super::input::is_gzip;
use super::records::Next;
use super::{FILES_MAX, fixed_part, is_plain, matched};

/// Files that are open at once; the others are looked at by name, and opened when they have changed.
const PLACES_MAX: usize = 128;
/// A listing that takes long is made less often: at most this part of the time is spent on it.
const LISTING_PART: u32 = 10;

/// Follows files of records.
pub struct FollowSource {
    config: FileConfig,
    needs: Needs,
    stop: Arc<Stop>,
    pattern: Pattern,
    chains: HashMap<Arc<str>, Followed>,
    /// The chains that may have an open file, first the one that was opened first.
    opened: VecDeque<Arc<str>>,
    positions: Arc<Positions>,
    /// Logs that are not there, of which there were files that look rotated when the folders were listed last.
    strays: HashSet<PathBuf>,
    /// When the folders are listed next; `None` before the first time.
    list_at: Option<Instant>,
}

/// One log.
struct Followed {
    live: PathBuf,
    /// Whether it was there when the folders were listed last.
    is_there: bool,
    /// How it looked then, and whether the pattern matched rotated files of it.
    listed: Stat,
    has_rotated: bool,
    /// Whether it was there at the start and begins at its end, as `start: end` asks.
    at_end: bool,
    /// Where it begins for a target that has nothing of it.
    origin: Option<Mark>,
    state: State,
}

/// What is known of the file that a log is read from.
enum State {
    /// Nothing, but for what the target says.
    Unread,
    Open(Box<Place>),
    /// The file is closed: all that was there was read (`stat`), or others had to be opened.
    Parked {
        mark: Mark,
        stat: Option<Stat>,
        look_at: Instant,
    },
    /// All of it was read, and it is gone.
    Gone(Mark),
}

#[expect(clippy::disallowed_methods, reason = "when a file is looked at decides about no row that is whole")]
fn now() -> Instant {
    Instant::now()
}

/// When the files of a pattern were followed first in this process: what came later was not there at the start, also where
/// a run that failed begins again.
fn started(pattern: &str) -> SystemTime {
    static STARTS: Mutex<BTreeMap<String, SystemTime>> = Mutex::new(BTreeMap::new());
    let mut starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
    *starts.entry(pattern.to_owned()).or_insert_with(wall_clock)
}

fn unreadable(path: &Path, cause: io::Error) -> TaskError {
    TaskError::io(format!("cannot read {}", path.display()), cause)
}

impl FollowSource {
    /// A source that has not looked at any file yet; `stop` ends long work early.
    pub fn new(config: FileConfig, stop: Arc<Stop>) -> Self {
        Self {
            config,
            needs: Needs::default(),
            stop,
            pattern: Pattern::default(),
            chains: HashMap::new(),
            opened: VecDeque::new(),
            positions: Arc::default(),
            strays: HashSet::new(),
            list_at: None,
        }
    }

    /// Whether the pattern matches a path.
    fn matches(&self, path: &Path) -> bool {
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        self.pattern.matches_path_with(path.strip_prefix(".").unwrap_or(path), options)
    }

    /// The paths that the pattern matches and of which a path is the rotated form.
    fn logs_of(&self, path: &Path) -> Vec<PathBuf> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let logs = logs_of(name).into_iter().map(|log| path.with_file_name(log));
        logs.filter(|log| self.matches(log)).collect()
    }

    /// Brings what is known of the folders up to date.
    fn list(&mut self) -> Result<(), TaskError> {
        let began = now();
        if self.list_at.is_some_and(|at| began < at) {
            return Ok(());
        }
        let is_first = self.list_at.is_none() && self.config.start == Some(FileStart::End);
        let started = is_first.then(|| started(&self.config.path));
        let is_plain = is_plain(&self.config.path);
        let (mut found, mut rotated) = (Vec::new(), Vec::new());
        for (path, topic) in matched(&self.config.path)? {
            // To open a pipe would wait for its other end.
            let Some(metadata) = fs::metadata(&path).ok().filter(fs::Metadata::is_file) else { continue };
            let logs = if is_plain { Vec::new() } else { self.logs_of(&path) };
            if !logs.is_empty() {
                rotated.push((path, logs));
                continue;
            }
            // What does not say when it was made counts as made before.
            let is_new = |started: SystemTime| metadata.created().is_ok_and(|created| created > started);
            let at_end = started.is_some_and(|started| !is_new(started));
            found.push((path, topic, Stat::new(&metadata), at_end));
        }
        let rotating: HashSet<&PathBuf> = rotated.iter().flat_map(|(_, logs)| logs).collect();
        self.chains.values_mut().for_each(|chain| chain.is_there = false);
        for (live, topic, listed, at_end) in found {
            let has_rotated = rotating.contains(&live);
            let (origin, state) = (None, State::Unread);
            let new = || Followed { live, is_there: true, listed, has_rotated, at_end, origin, state };
            let chain = self.chains.entry(topic).or_insert_with(new);
            (chain.is_there, chain.listed, chain.has_rotated) = (true, listed, has_rotated);
        }
        self.warn_of_strays(&rotated);
        self.chains.retain(|_, chain| chain.is_there || !matches!(chain.state, State::Unread));
        if self.chains.len() > FILES_MAX {
            // That they were read to their ends is only remembered for when they come again.
            self.chains.retain(|_, chain| chain.is_there || !matches!(chain.state, State::Gone(_)));
            self.positions.forget(|topic| self.chains.contains_key(topic));
        }
        self.list_at = Some(began + self.config.poll().max(began.elapsed() * LISTING_PART));
        Ok(())
    }

    /// Warns, once a log, of files that look rotated while their log is not there: nobody reads them.
    fn warn_of_strays(&mut self, rotated: &[(PathBuf, Vec<PathBuf>)]) {
        let mut strays = HashSet::new();
        if !rotated.is_empty() {
            let lives: HashSet<&PathBuf> = self.chains.values().map(|chain| &chain.live).collect();
            for (path, logs) in rotated {
                let Some(log) = logs.first() else { continue };
                let is_stray = !logs.iter().any(|log| lives.contains(log));
                if is_stray && strays.insert(log.clone()) && !self.strays.contains(log) {
                    tracing::warn!(
                        path = %path.display(),
                        log = %log.display(),
                        "looks like a rotated file of a log that is not there: it is not read before the log is there. If it \
                         is none, write a pattern that does not match the log's name"
                    );
                }
            }
        }
        self.strays = strays;
    }

    /// Where a log begins for a target that has nothing of it; `None` if its file went in this moment.
    fn origin(&self, chain: &Followed) -> Result<Option<Mark>, TaskError> {
        let at_end = chain.at_end;
        let mut found = match at_end || !chain.has_rotated {
            true => open(&chain.live)?.map(|(file, key)| (chain.live.clone(), file, key)),
            false => None,
        };
        // A folder is not listed for each of its files. One that has changed since may have been rotated.
        let is_listed = |file: &Arc<fs::File>| file.metadata().is_ok_and(|m| Stat::new(&m) == chain.listed);
        if !at_end && !found.as_ref().is_some_and(|(_, file, _)| is_listed(file)) {
            let is_wanted = |path: &Path| path == chain.live || self.matches(path);
            let all = members(&chain.live).map_err(|e| unreadable(&chain.live, e))?;
            let mut all = all.into_iter().filter(|member| member.is_beside(&Form::Live));
            let oldest = all.find(|member| is_wanted(&member.path));
            let path = oldest.map_or_else(|| chain.live.clone(), |member| member.path);
            found = open(&path)?.map(|(file, key)| (path, file, key));
        }
        let Some((path, file, key)) = found else { return Ok(None) };
        let failed = |e| unreadable(&path, e);
        let byte = match at_end {
            false => 0,
            true if is_gzip(&file).map_err(failed)? => unpacked_len(&file).map_err(failed)?,
            true => place::end_of_last_line(&file).map_err(failed)?,
        };
        Mark::of(&file, key, 0, byte).map(Some).map_err(failed)
    }

    /// Closes the file of another chain if too many are open: one that has no more now, if there is one.
    fn park_one(&mut self) {
        for is_idle in [true, false] {
            for _ in 0..self.opened.len() {
                if self.opened.len() < PLACES_MAX {
                    return;
                }
                let Some(topic) = self.opened.pop_front() else { return };
                let Some(chain) = self.chains.get_mut(&topic) else { continue };
                let State::Open(place) = &chain.state else { continue };
                let idle = place.idle();
                if place.must_hold || !place.is_named() || is_idle && !(place.is_live && idle.is_some()) {
                    self.opened.push_back(topic);
                    continue;
                }
                let (stat, look_at) = idle.map_or((None, now()), |(stat, at)| (Some(stat), at));
                chain.state = State::Parked { mark: place.mark.clone(), stat, look_at };
            }
        }
    }

    fn read_log(
        &mut self,
        topic: &Arc<str>,
        chain: &mut Followed,
        range: Range,
        bytes_max: usize,
    ) -> Result<Read, TaskError> {
        let is_open = matches!(&chain.state, State::Open(place) if place.next == range.start);
        if !is_open {
            if let State::Parked { mark, stat, look_at } = &mut chain.state
                && mark.offset == range.start
            {
                if now() < *look_at {
                    return Ok(Read::Idle);
                }
                *look_at = now() + self.config.poll();
                if stat.is_some() && Stat::of(&chain.live).is_ok_and(|now| now == *stat) {
                    return Ok(Read::Idle);
                }
            }
            match self.begin(topic, chain, range.start)? {
                Begun::Place(place) => chain.state = State::Open(place),
                Begun::Stopped => return Ok(Read::Idle),
                Begun::Before => return Ok(Read::Ended),
                Begun::Absent(mark) => {
                    (chain.state, chain.origin) = (State::Gone(mark), None);
                    return Ok(Read::Gone);
                }
            }
        }
        let State::Open(place) = &mut chain.state else { return Ok(Read::Idle) };
        loop {
            if std::mem::take(&mut place.must_hold) {
                return Ok(Read::Held);
            }
            if let Some(at) = place.look_at {
                if now() < at {
                    return Ok(Read::Idle);
                }
                // What was cut and has grown again must not be read as if it were the rest.
                match look(&self.config, &chain.live, place)? {
                    Look::More => place.look_at = None,
                    Look::Idle => {
                        place.look_at = Some(now() + self.config.poll());
                        return Ok(Read::Idle);
                    }
                    Look::Cut => return self.after_cut(topic, chain),
                }
            }
            let (slice, stopped) = place.read(topic, &self.config, &self.needs, range, bytes_max)?;
            if let Some((slice, mark)) = slice {
                self.positions.push(topic, mark, slice.range.end);
                return Ok(Read::Slice(slice));
            }
            match stopped {
                Next::End => match after(&chain.live, place)? {
                    After::File(path) => {
                        let Some((file, key)) = open(&path)? else { return Ok(Read::Idle) };
                        tracing::info!(topic = &**topic, path = %path.display(), record = place.next, "goes on in the next file");
                        let failed = |e| unreadable(&path, e);
                        // A file that was written anew, with more than it had, as editors do it.
                        let is_anew =
                            place.mark.byte >= TELLING_BYTES && place.mark.holds(&file).map_err(failed)?;
                        let first = match is_anew {
                            true => place.mark.clone(),
                            false => Mark::of(&file, key, place.next, 0).map_err(failed)?,
                        };
                        let next = Place::new(file, key, &path, &first)?.held().after(place);
                        self.check_owner(topic, &next)?;
                        if let Some(previous) = &place.previous {
                            self.positions.disown(topic, previous.key);
                        }
                        self.positions.own(topic, key);
                        **place = next;
                    }
                    After::Nothing => {
                        place.look_at = Some(now() + self.config.poll());
                        return Ok(Read::Idle);
                    }
                    After::Gone => {
                        tracing::info!(
                            topic = &**topic,
                            records = place.next,
                            "a file is gone that was read to its end"
                        );
                        chain.state = State::Gone(place.mark.clone());
                        chain.origin = None;
                        return Ok(Read::Gone);
                    }
                },
                _ => place.look_at = Some(now()),
            }
        }
    }
}

impl SourceTask for FollowSource {
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError> {
        self.config.check()?;
        self.needs = needs.clone();
        let path = Path::new(&self.config.path);
        let text = path.strip_prefix(".").unwrap_or(path).to_string_lossy().into_owned();
        self.pattern = Pattern::new(&text).map_err(|e| {
            TaskError::new(Class::Config, format!("pattern `{}` is not valid", self.config.path)).because(e)
        })?;
        let folder = match is_plain(&self.config.path) {
            true => path.parent().unwrap_or(Path::new("")),
            false => fixed_part(&self.config.path),
        };
        if !folder.as_os_str().is_empty() {
            fs::read_dir(folder).map_err(|e| unreadable(folder, e))?;
        }
        (self.list_at, self.chains) = (None, HashMap::new());
        self.list()
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        self.list()?;
        let mut queues = Vec::with_capacity(self.chains.len());
        let topics: Vec<Arc<str>> = self.chains.keys().cloned().collect();
        for topic in topics {
            let Some(chain) = self.chains.get(&topic) else { continue };
            let incarnation = match (&chain.state, &chain.origin) {
                (State::Gone(_) | State::Unread, _) if !chain.is_there => continue,
                (State::Open(place), _) => place.mark.to_string(),
                (State::Parked { mark, .. }, _) => mark.to_string(),
                (State::Gone(_) | State::Unread, Some(origin)) => origin.to_string(),
                (State::Gone(_) | State::Unread, None) => {
                    let Some(origin) = self.origin(chain)? else { continue };
                    let text = origin.to_string();
                    if let Some(chain) = self.chains.get_mut(&topic) {
                        chain.origin = Some(origin);
                    }
                    text
                }
            };
            queues.push(SourceQueue { topic, queue: 0, incarnation, first: 0, origin: 0 });
        }
        queues.sort_by(|one, other| one.topic.cmp(&other.topic));
        Ok(queues)
    }

    fn read(&mut self, topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError> {
        if queue != 0 {
            return Err(TaskError::new(Class::Fatal, format!("source file has no queue {topic}/{queue}")));
        }
        // It was given up, and is not there any more.
        let Some((topic, mut chain)) = self.chains.remove_entry(topic) else { return Ok(Read::Gone) };
        let read = match range.start < range.end {
            true => self.read_log(&topic, &mut chain, range, bytes_max),
            false => Ok(Read::Idle),
        };
        self.chains.insert(topic, chain);
        read
    }

    fn release(&mut self, topic: &str, _queue: i32) {
        if let Some(chain) = self.chains.get_mut(topic)
            && !matches!(chain.state, State::Gone(_))
        {
            chain.state = State::Unread;
        }
    }

    fn wait(&mut self, timeout: Duration) {
        self.stop.wait(timeout.min(self.config.poll()));
    }

    /// How many records a file has shows when they are read.
    fn end(&mut self, _topic: &str, _queue: i32) -> Option<i64> {
        None
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        Arc::clone(&self.positions) as Arc<dyn Confirm>
    }
}
