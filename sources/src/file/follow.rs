//! Files that are followed: what is appended, rotation, and new files that the pattern matches.
//!
//! A chain is a log: a name that the pattern matches, but for the rotated forms of another one (`app.log.1` where `app.log`
//! matches too). Its offsets count on from file to file, so the number of chains does not grow with rotation. Which record
//! of which file an offset is stands in the target, as the incarnation of its rows ([`mark::Mark`]); a plan holds rows of
//! one file. The file of a position is found again by inode and content, by content alone if it was copied or packed.
//!
//! A file that was rotated away is read to its end, which it has once it was quiet for `rotate_wait`; then comes the next
//! newer one. One that was cut is looked for as a copy. What can not be found blocks the pipeline, or is told (`on_lost`).

mod family;
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

use self::family::{Form, form, logs_of, members, paths_of};
use self::mark::{FileKey, Mark, unpacked_len};
use self::place::{Place, Stat};
use self::positions::Positions;
use super::config::{FileConfig, FileStart, OnLost};
use super::input::is_gzip;
use super::records::Next;
use super::{FILES_MAX, STOP_RECORDS, fixed_part, is_plain, matched};

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
    /// All that was there was read; the file is closed.
    Parked {
        mark: Mark,
        stat: Stat,
        look_at: Instant,
    },
    /// All of it was read, and it is gone.
    Gone(Mark),
}

/// What a look at a file that has no more found.
enum Look {
    /// There may be more.
    More,
    Idle,
    /// What was read of it is not there any more.
    Cut,
}

/// What comes after a file that was rotated away.
enum After {
    File(PathBuf),
    /// Nothing yet.
    Nothing,
    /// Nothing, and the file itself is gone.
    Gone,
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
        if is_plain(&self.config.path) {
            found.retain(|(path, _)| path.exists());
        } else {
            found.retain(|(path, _)| !self.is_rotated(path));
        }
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

    /// Finds the file of a mark among those of a log.
    fn locate(&self, live: &Path, mark: &Mark) -> Result<Option<Place>, TaskError> {
        let failed = |e| unreadable(live, e);
        let holds = |path: &Path| -> Result<Option<Place>, TaskError> {
            let Some((file, key)) = open(path)? else { return Ok(None) };
            let fits = mark.holds(&file).map_err(|e| unreadable(path, e))?;
            fits.then(|| Place::new(file, key, path, mark)).transpose()
        };
        if let Some(key) = mark.key {
            let mut paths = vec![live.to_path_buf()];
            paths.extend(paths_of(live, key).map_err(failed)?);
            for path in paths {
                // A device may have another number after the machine began anew.
                let is_it = fs::metadata(&path).is_ok_and(|m| FileKey::from(&m).inode == key.inode);
                if is_it && let Some(place) = holds(&path)? {
                    return Ok(Some(place));
                }
            }
        }
        if !mark.tells_content() {
            let is_new = mark.key.is_none();
            return if is_new { holds(live) } else { Ok(None) };
        }
        // Of several copies the newest: what came after it is not read again.
        let all = members(live).map_err(failed)?;
        for member in all.iter().rev() {
            if let Some(place) = holds(&member.path)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Opens the file of a log in which record `start` stands. `None` if it is not known, or not there.
    fn begin(&mut self, topic: &Arc<str>, chain: &Followed, start: i64) -> Result<Option<Place>, TaskError> {
        let parked = match &chain.state {
            State::Parked { mark, .. } | State::Gone(mark) => Some(mark.clone()),
            State::Open(_) | State::Unread => None,
        };
        let recorded = self.positions.recorded(topic).or_else(|| chain.origin.clone());
        let is_before = |mark: &Mark| mark.offset <= start;
        let known = [parked, recorded].into_iter().flatten().filter(is_before);
        let Some(mark) = known.max_by_key(|mark| mark.offset) else { return Ok(None) };
        let place = match self.locate(&chain.live, &mark)? {
            Some(place) => place,
            None => match self.anew(topic, chain, &mark, start)? {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        self.check_owner(topic, &place)?;
        let Some(place) = self.advance_to(topic, chain, place, start)? else { return Ok(None) };
        self.positions.own(topic, place.key);
        self.park_one()?;
        self.opened.push_back(Arc::clone(topic));
        Ok(Some(place))
    }

    /// The file that has a log's name now, where that of its position is not to be found.
    fn anew(
        &self,
        topic: &str,
        chain: &Followed,
        mark: &Mark,
        start: i64,
    ) -> Result<Option<Place>, TaskError> {
        let was_read = match &chain.state {
            State::Gone(mark) => mark.offset == start,
            State::Parked { mark, .. } if mark.offset == start => {
                tracing::warn!(
                    topic,
                    records = start,
                    "a file is gone that was read to the end it had at the last look"
                );
                true
            }
            _ => false,
        };
        if !was_read {
            self.lost(topic, chain, &format!("the file that was read up to record {start} is not there any more: it was cut, removed or replaced while it was not read, and no copy of it (byte {} on) is beside it", mark.byte))?;
        }
        let Some((file, key)) = open(&chain.live)? else { return Ok(None) };
        let first = Mark::of(&file, key, start, 0).map_err(|e| unreadable(&chain.live, e))?;
        Place::new(file, key, &chain.live, &first).map(|place| Some(place.held()))
    }

    /// Blocks, or tells that records may be lost.
    fn lost(&self, topic: &str, chain: &Followed, what: &str) -> Result<(), TaskError> {
        let live = chain.live.display();
        if self.config.on_lost == Some(OnLost::Continue) {
            tracing::warn!(topic, path = %live, "records may be lost: {what}");
            return Ok(());
        }
        Err(TaskError::new(
            Class::Config,
            format!(
                "{live}: {what}. Records may be lost. Bring it back, or set `on_lost: continue` to go on with what \
                 {live} has now"
            ),
        ))
    }

    /// A file that another log was or is read from must not be read a second time.
    fn check_owner(&self, topic: &Arc<str>, place: &Place) -> Result<(), TaskError> {
        let Some(owner) = self.positions.owner(place.key).filter(|owner| owner != topic) else {
            return Ok(());
        };
        let is_read = match self.chains.get(&owner).map(|chain| &chain.state) {
            Some(State::Open(open)) => {
                open.key == place.key || open.previous.as_ref().is_some_and(|p| p.key == place.key)
            }
            Some(State::Parked { mark, .. }) => mark.key == Some(place.key),
            Some(State::Unread) => match self.positions.recorded(&owner) {
                Some(mark) if mark.key == Some(place.key) => {
                    mark.holds(&place.file).map_err(|e| unreadable(&place.path, e))?
                }
                _ => false,
            },
            // A file that was removed may have given its inode away.
            Some(State::Gone(mark)) if mark.key == Some(place.key) => {
                mark.holds(&place.file).map_err(|e| unreadable(&place.path, e))?
            }
            Some(State::Gone(_)) | None => false,
        };
        if !is_read {
            return Ok(());
        }
        Err(TaskError::new(
            Class::Config,
            format!(
                "{} is the file that is read as `{owner}`: it was renamed or is linked, and `{}` matches both names, so \
                 its records would come twice. Write a pattern that matches `{owner}` alone; its file is found under \
                 the other name all the same",
                place.path.display(),
                self.config.path
            ),
        ))
    }

    /// Reads up to record `start`. `None` if a stop was asked for.
    fn advance_to(
        &self,
        topic: &str,
        chain: &Followed,
        mut place: Place,
        start: i64,
    ) -> Result<Option<Place>, TaskError> {
        while place.next < start {
            if place.next % STOP_RECORDS == 0 && self.stop.is_asked() {
                return Ok(None);
            }
            let next = match place.records(&self.config)? {
                Some(records) => records.next()?,
                None => Next::Pending,
            };
            match next {
                Next::Record | Next::Bad(_) => place.next += 1,
                // Its last record may have had no end when it was rotated.
                Next::Pending if !place.is_finished && !is_at(&chain.live, place.key) => place.finish(),
                Next::Pending | Next::End => {
                    let what = format!(
                        "{} ends at record {}, and {start} were read: it was cut while it was not read",
                        place.path.display(),
                        place.next
                    );
                    self.lost(topic, chain, &what)?;
                    place.next = start;
                }
            }
        }
        place.update_mark()?;
        Ok(Some(place))
    }

    /// Closes the file of another chain, if too many are open.
    fn park_one(&mut self) -> Result<(), TaskError> {
        for _ in 0..self.opened.len() {
            if self.opened.len() < PLACES_MAX {
                break;
            }
            let Some(topic) = self.opened.pop_front() else { break };
            let Some(chain) = self.chains.get_mut(&topic) else { continue };
            let State::Open(place) = &chain.state else { continue };
            match place.idle() {
                Some((stat, look_at)) if place.is_live && !place.must_hold => {
                    chain.state = State::Parked { mark: place.mark.clone(), stat, look_at };
                }
                _ => self.opened.push_back(topic),
            }
        }
        Ok(())
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
                if Stat::of(&chain.live).is_ok_and(|now| now == Some(*stat)) {
                    return Ok(Read::Idle);
                }
            }
            match self.begin(topic, chain, range.start)? {
                Some(place) => chain.state = State::Open(Box::new(place)),
                None if self.stop.is_asked() => return Ok(Read::Idle),
                // Rows before all that is known, or a log that is gone.
                None => return Ok(if chain.live.exists() { Read::Ended } else { Read::Gone }),
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
                    Look::Cut => {
                        let place = self.after_cut(topic, chain)?;
                        let Some(place) = place else { return Ok(Read::Idle) };
                        chain.state = State::Open(Box::new(place));
                        return Ok(Read::Held);
                    }
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
                        let first = Mark::of(&file, key, place.next, 0).map_err(|e| unreadable(&path, e))?;
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

    /// Where a log goes on whose file was cut: in a copy of what it was, if there is one.
    fn after_cut(&mut self, topic: &Arc<str>, chain: &mut Followed) -> Result<Option<Place>, TaskError> {
        let State::Open(place) = &chain.state else { return Ok(None) };
        let (next, mark) = (place.next, place.mark.clone());
        if let Some(copy) = self.locate(&chain.live, &mark)? {
            tracing::info!(topic = &**topic, path = %copy.path.display(), "was cut; its copy is read to the end first");
            return Ok(Some(copy));
        }
        let what = format!(
            "it was cut after {next} records of it were read (byte {}), and no copy of it is beside it",
            mark.byte
        );
        self.lost(topic, chain, &what)?;
        chain.state = State::Gone(mark);
        self.begin(topic, chain, next)
    }
}

/// Opens a file; `None` if there is none.
fn open(path: &Path) -> Result<Option<(Arc<fs::File>, FileKey)>, TaskError> {
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| unreadable(path, e))?,
    };
    let metadata = file.metadata().map_err(|e| unreadable(path, e))?;
    Ok(Some((Arc::new(file), FileKey::from(&metadata))))
}

/// Whether a path leads to a file.
fn is_at(path: &Path, key: FileKey) -> bool {
    fs::metadata(path).is_ok_and(|metadata| FileKey::from(&metadata) == key)
}

/// Looks whether a file that has no more now has grown, was cut, or was rotated away and is at its end.
fn look(config: &FileConfig, live: &Path, place: &mut Place) -> Result<Look, TaskError> {
    place.check_previous(config)?;
    if place.has_changed()? {
        return Ok(if place.is_cut { Look::Cut } else { Look::More });
    }
    place.is_live = is_at(live, place.key);
    if place.is_live {
        place.rotated = None;
        return Ok(Look::Idle);
    }
    if !place.is_quiet(config.rotate_wait())? || matches!(after(live, place)?, After::Nothing) {
        return Ok(Look::Idle);
    }
    place.finish();
    Ok(Look::More)
}

/// What comes after a file that is not at its log's name any more.
fn after(live: &Path, place: &Place) -> Result<After, TaskError> {
    let all = members(live).map_err(|e| unreadable(live, e))?;
    let log = live.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut here = all.iter().find(|member| member.key == place.key);
    if here.is_none() && place.mark.tells_content() {
        // It may have been packed.
        for member in all.iter().rev().filter(|member| member.form != Form::Live) {
            let Some((file, _)) = open(&member.path)? else { continue };
            if place.mark.holds(&file).map_err(|e| unreadable(&member.path, e))? {
                here = Some(member);
                break;
            }
        }
    }
    let form = match here {
        Some(member) => member.form.clone(),
        None => {
            let name = place.path.file_name().and_then(|name| form(log, name.to_str()?));
            name.map_or(Form::Live, |(form, _)| form)
        }
    };
    let mut beside = all.iter().filter(|member| member.is_beside(&form));
    let next = match here {
        Some(here) => {
            beside.find(|member| member.key == here.key);
            beside.next()
        }
        None => {
            let written = place.modified_ns()?;
            beside.find(|member| member.form == Form::Live || member.is_newer(written))
        }
    };
    Ok(match next {
        Some(member) => After::File(member.path.clone()),
        None if here.is_some() => After::Nothing,
        None => After::Gone,
    })
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
        let Some((topic, mut chain)) = self.chains.remove_entry(topic).filter(|_| queue == 0) else {
            return Err(TaskError::new(Class::Fatal, format!("source file has no queue {topic}/{queue}")));
        };
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
