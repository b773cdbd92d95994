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

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use glob::{MatchOptions, Pattern};
use sluice_connect::progress::Stop;
use sluice_connect::task::{Class, Confirm, Needs, Range, Read, SourceQueue, SourceTask, TaskError};

use self::family::{Form, logs_of, members};
use self::find::{After, Begun, Look, TELLING_BYTES, after, look, open};
use self::mark::{Mark, unpacked_len};
use self::place::{Place, Stat};
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
    /// When the folders are listed next; `None` before the first time.
    list_at: Option<Instant>,
}

/// One log.
struct Followed {
    live: PathBuf,
    /// Whether it was there when the folders were listed last.
    is_there: bool,
    /// Whether it was there when they were listed first.
    is_first: bool,
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
            list_at: None,
        }
    }

    /// Whether the pattern matches a path.
    fn matches(&self, path: &Path) -> bool {
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        self.pattern.matches_path_with(path.strip_prefix(".").unwrap_or(path), options)
    }

    /// Whether a path is the rotated form of another one that the pattern matches.
    fn is_rotated(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        logs_of(name).into_iter().any(|log| self.matches(&path.with_file_name(log)))
    }

    /// Brings what is known of the folders up to date.
    fn list(&mut self) -> Result<(), TaskError> {
        let began = now();
        if self.list_at.is_some_and(|at| began < at) {
            return Ok(());
        }
        let is_first = self.list_at.is_none();
        let mut found = matched(&self.config.path)?;
        let is_plain = is_plain(&self.config.path);
        // To open a pipe would wait for its other end.
        found.retain(|(path, _)| path.is_file() && (is_plain || !self.is_rotated(path)));
        self.chains.values_mut().for_each(|chain| chain.is_there = false);
        for (live, topic) in found {
            let new = || Followed { live, is_there: true, is_first, origin: None, state: State::Unread };
            self.chains.entry(topic).or_insert_with(new).is_there = true;
        }
        self.chains.retain(|_, chain| chain.is_there || !matches!(chain.state, State::Unread));
        if self.chains.len() > FILES_MAX {
            // That they were read to their ends is only remembered for when they come again.
            self.chains.retain(|_, chain| chain.is_there || !matches!(chain.state, State::Gone(_)));
        }
        self.list_at = Some(began + self.config.poll().max(began.elapsed() * LISTING_PART));
        Ok(())
    }

    /// Where a log begins for a target that has nothing of it; `None` if its file went in this moment.
    fn origin(&self, chain: &Followed) -> Result<Option<Mark>, TaskError> {
        let is_wanted = |path: &Path| path == chain.live || self.matches(path);
        let at_end = chain.is_first && self.config.start == Some(FileStart::End);
        let all = members(&chain.live).map_err(|e| unreadable(&chain.live, e))?;
        let mut all = all.into_iter().filter(|member| member.is_beside(&Form::Live));
        let oldest = all.find(|member| !at_end && is_wanted(&member.path));
        let path = oldest.map_or_else(|| chain.live.clone(), |member| member.path);
        let Some((file, key)) = open(&path)? else { return Ok(None) };
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
                self.positions.push(topic, mark);
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
                            self.positions.disown(previous.key);
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
