//! Which file a log is read from: at the start, after one was rotated away, and where one was cut.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_connect::task::{Class, Read, TaskError};

use super::super::STOP_RECORDS;
use super::super::config::{FileConfig, OnLost};
use super::super::records::Next;
use super::family::{Form, form_of, members, paths_of};
use super::mark::{FileKey, Mark};
use super::place::Place;
use super::{FollowSource, Followed, State, unreadable};

/// A new file with another one's name and so many of its bytes is that one, written anew.
pub(super) const TELLING_BYTES: u64 = 256;

/// Where the reading of a log begins.
pub(super) enum Begun {
    Place(Box<Place>),
    /// Before all that is known.
    Before,
    /// Its file is gone, and there is no other; what was read, as far as known.
    Absent(Mark),
    Stopped,
}

/// What a look at a file that has no more found.
pub(super) enum Look {
    /// There may be more.
    More,
    Idle,
    /// What was read of it is not there any more.
    Cut,
}

/// What comes after a file that was rotated away.
pub(super) enum After {
    File(PathBuf),
    /// Nothing yet.
    Nothing,
    /// Nothing, and the file itself is gone.
    Gone,
}

impl FollowSource {
    /// Finds the file of a mark among those of a log.
    fn locate(&self, live: &Path, mark: &Mark) -> Result<Option<Place>, TaskError> {
        let failed = |e| unreadable(live, e);
        let holds = |path: &Path| -> Result<Option<Place>, TaskError> {
            let Some((file, key)) = open(path)? else { return Ok(None) };
            let fits = mark.holds(&file).map_err(|e| unreadable(path, e))?;
            fits.then(|| Place::new(file, key, path, mark)).transpose()
        };
        if let Some(key) = mark.key {
            // A device may have another number after the machine began anew.
            let is_it = |path: &Path| fs::metadata(path).is_ok_and(|m| FileKey::from(&m).inode == key.inode);
            if is_it(live)
                && let Some(place) = holds(live)?
            {
                return Ok(Some(place));
            }
            for path in paths_of(live, key).map_err(failed)? {
                // The mark of an empty file fits whatever got its inode.
                let is_told = mark.tells_content() || matches!(form_of(live, &path), Some((_, false)));
                if is_told
                    && is_it(&path)
                    && let Some(place) = holds(&path)?
                {
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
            // Files of one name often begin with the same lines.
            if member.form == Form::Live && mark.key.is_some() && mark.byte < TELLING_BYTES {
                continue;
            }
            if let Some(place) = holds(&member.path)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Opens the file of a log in which record `start` stands.
    pub(super) fn begin(
        &mut self,
        topic: &Arc<str>,
        chain: &Followed,
        start: i64,
    ) -> Result<Begun, TaskError> {
        let parked = match &chain.state {
            State::Parked { mark, .. } | State::Gone(mark) => Some(mark.clone()),
            State::Open(_) | State::Unread => None,
        };
        let recorded = self.positions.recorded(topic).or_else(|| chain.origin.clone());
        let is_before = |mark: &Mark| mark.offset <= start;
        let known = [parked, recorded].into_iter().flatten().filter(is_before);
        let Some(mark) = known.max_by_key(|mark| mark.offset) else { return Ok(Begun::Before) };
        let place = match self.locate(&chain.live, &mark)? {
            Some(place) => place,
            None => match self.anew(topic, chain, &mark, start)? {
                Some(place) => place,
                None => return Ok(Begun::Absent(mark)),
            },
        };
        self.check_owner(topic, &place)?;
        let Some(place) = self.advance_to(topic, chain, place, start)? else { return Ok(Begun::Stopped) };
        self.positions.own(topic, place.key);
        if let Some(key) = mark.key.filter(|key| *key != place.key) {
            self.positions.disown(topic, key);
        }
        self.park_one();
        self.opened.push_back(Arc::clone(topic));
        Ok(Begun::Place(Box::new(place)))
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
            // One that was closed for others may have had more, as one that was cut may.
            State::Parked { mark, stat: Some(_), .. }
                if mark.offset == start && !mark.key.is_some_and(|key| is_at(&chain.live, key)) =>
            {
                tracing::warn!(
                    topic,
                    records = start,
                    "a file is gone that was read to the end it had at the last look"
                );
                true
            }
            State::Unread if chain.origin.as_ref() == Some(mark) => {
                tracing::warn!(topic, "a file is gone before any of it was read");
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
    pub(super) fn check_owner(&self, topic: &Arc<str>, place: &Place) -> Result<(), TaskError> {
        let Some(owner) = self.positions.owner(place.key).filter(|owner| owner != topic) else {
            return Ok(());
        };
        // A file that was removed may have given its inode away, and the mark of an empty one fits every file.
        let is_of = |mark: &Mark| -> Result<bool, TaskError> {
            let is_it = mark.key == Some(place.key) && mark.tells_content();
            Ok(is_it && mark.holds(&place.file).map_err(|e| unreadable(&place.path, e))?)
        };
        let is_read = match self.chains.get(&owner).map(|chain| &chain.state) {
            Some(State::Open(open)) => {
                open.key == place.key || open.previous.as_ref().is_some_and(|p| p.key == place.key)
            }
            Some(State::Parked { mark, .. } | State::Gone(mark)) => is_of(mark)?,
            Some(State::Unread) => match self.positions.recorded(&owner) {
                Some(mark) => is_of(&mark)?,
                None => false,
            },
            None => false,
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

    /// Goes on with a log whose file was cut: in a copy of what it was, if there is one.
    pub(super) fn after_cut(&mut self, topic: &Arc<str>, chain: &mut Followed) -> Result<Read, TaskError> {
        let State::Open(place) = &chain.state else { return Ok(Read::Idle) };
        let (next, mark) = (place.next, place.mark.clone());
        if let Some(copy) = self.locate(&chain.live, &mark)? {
            tracing::info!(topic = &**topic, path = %copy.path.display(), "was cut; its copy is read to the end first");
            chain.state = State::Open(Box::new(copy));
            return Ok(Read::Held);
        }
        let what = format!(
            "it was cut after {next} records of it were read (byte {}), and no copy of it is beside it",
            mark.byte
        );
        self.lost(topic, chain, &what)?;
        chain.state = State::Gone(mark);
        if let Begun::Place(place) = self.begin(topic, chain, next)? {
            chain.state = State::Open(place);
        }
        Ok(Read::Idle)
    }
}

/// Opens a file; `None` if there is none.
pub(super) fn open(path: &Path) -> Result<Option<(Arc<fs::File>, FileKey)>, TaskError> {
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
pub(super) fn look(config: &FileConfig, live: &Path, place: &mut Place) -> Result<Look, TaskError> {
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
pub(super) fn after(live: &Path, place: &Place) -> Result<After, TaskError> {
    let all = members(live).map_err(|e| unreadable(live, e))?;
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
        None => form_of(live, &place.path).map_or(Form::Live, |(form, _)| form),
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
