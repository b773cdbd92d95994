//! The names that rotation gives to a log: `app.log` becomes `app.log.1`, `app.log-20261128`, `app.log.old`, each perhaps with
//! `.gz`; or `app-1.log`, `app.2026-11-28.log`. Which of them came after which.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::mem::discriminant;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::mark::FileKey;

/// What stands in a name beside the log's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// How many rotations ago.
    Number(u64),
    /// The digits of a date, and what counts within it.
    Date(Vec<u64>),
    /// `.old`, or `.gz` alone.
    Old,
}

/// How a name comes from that of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// It is the log's.
    Live,
    /// The stamp stands behind it.
    Behind(Stamp),
    /// The stamp stands before its extension.
    Inside(Stamp),
}

/// A file of a log.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) path: PathBuf,
    pub(super) key: FileKey,
    pub(super) form: Form,
    modified_ns: i128,
    is_packed: bool,
}

/// Digits of a number of rotations, at most; more are a date.
const NUMBER_DIGITS_MAX: usize = 4;
/// Digits of a date, at least: year, month and day.
const DATE_DIGITS_MIN: usize = 6;

fn stamp(text: &str) -> Option<Stamp> {
    let rest = text.strip_prefix(['.', '-', '_'])?;
    if rest == "old" {
        return Some(Stamp::Old);
    }
    let is_digit = |c: char| c.is_ascii_digit();
    if !rest.starts_with(is_digit) || !rest.chars().all(|c| is_digit(c) || ".-_:TZ".contains(c)) {
        return None;
    }
    let groups: Vec<&str> = rest.split(|c| !is_digit(c)).filter(|group| !group.is_empty()).collect();
    if groups.len() == 1 && rest.len() <= NUMBER_DIGITS_MAX {
        return rest.parse().ok().map(Stamp::Number);
    }
    if groups.iter().map(|group| group.len()).sum::<usize>() < DATE_DIGITS_MIN {
        return None;
    }
    groups.iter().map(|group| group.parse().ok()).collect::<Option<_>>().map(Stamp::Date)
}

/// How `name` comes from `log`, if it does, and whether it is packed.
pub(super) fn form(log: &str, name: &str) -> Option<(Form, bool)> {
    if name == log {
        return Some((Form::Live, false));
    }
    let (plain, is_packed) = name.strip_suffix(".gz").map_or((name, false), |plain| (plain, true));
    if plain == log {
        return Some((Form::Behind(Stamp::Old), is_packed));
    }
    if let Some(stamp) = plain.strip_prefix(log).and_then(stamp) {
        return Some((Form::Behind(stamp), is_packed));
    }
    let (stem, extension) = log.rsplit_once('.').filter(|(stem, _)| !stem.is_empty())?;
    let inner = plain.strip_prefix(stem)?.strip_suffix(extension)?.strip_suffix('.')?;
    stamp(inner).map(|stamp| (Form::Inside(stamp), is_packed))
}

/// The names of which `name` may be a rotated form with a stamp behind, shortest first.
pub(super) fn logs_of(name: &str) -> Vec<&str> {
    let is_cut = |(at, c): (usize, char)| (at > 0 && ".-_".contains(c)).then_some(at);
    let logs = name.char_indices().filter_map(is_cut).map(|at| &name[..at]);
    logs.filter(|log| matches!(form(log, name), Some((Form::Behind(_), _)))).collect()
}

/// The folders in which the files of a log lie, with its name there: its own, and that to which a link leads.
fn folders(live: &Path) -> Vec<(PathBuf, String)> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let Some(log) = name(live) else { return Vec::new() };
    let folder = parent(live);
    let real = live.canonicalize().ok().and_then(|real| Some((parent(&real), name(&real)?)));
    let linked = match (real, folder.canonicalize()) {
        (Some((real, name)), Ok(own)) if real != own => Some((real, name)),
        (Some((_, name)), Ok(_)) if name != log => Some((folder.clone(), name)),
        _ => None,
    };
    [(folder, log)].into_iter().chain(linked).collect()
}

/// How a path comes from that of a log, by its name alone, and whether it is packed.
pub(super) fn form_of(live: &Path, path: &Path) -> Option<(Form, bool)> {
    let name = path.file_name()?.to_str()?;
    folders(live).iter().find_map(|(_, log)| form(log, name))
}

/// What a folder has; nothing if it is gone.
fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let read = || fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>();
    match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// The files of a log that are there now, oldest first.
pub(super) fn members(live: &Path) -> io::Result<Vec<Member>> {
    let mut found: Vec<Member> = Vec::new();
    for (number, (folder, log)) in folders(live).iter().enumerate() {
        for entry in entries(folder)? {
            let name = entry.file_name();
            let Some((form, is_packed)) = name.to_str().and_then(|name| form(log, name)) else { continue };
            // A file may go while its folder is read.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if !metadata.is_file() || number > 0 && form == Form::Live {
                continue;
            }
            let modified_ns =
                i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            let (path, key) = (entry.path(), FileKey::from(&metadata));
            if found.iter().all(|member| member.key != key) {
                found.push(Member { path, key, form, modified_ns, is_packed });
            }
        }
    }
    // While it is packed a file is there twice.
    let plain: Vec<PathBuf> = found.iter().filter(|m| !m.is_packed).map(|m| m.path.clone()).collect();
    found.retain(|m| {
        let is_other = m.form == Form::Behind(Stamp::Old);
        !m.is_packed || is_other || !plain.contains(&m.path.with_extension(""))
    });
    sort(&mut found);
    Ok(found)
}

impl Member {
    /// Whether it was written to after another file was, by that one's time in ns.
    pub(super) fn is_newer(&self, than_ns: i128) -> bool {
        self.modified_ns > than_ns
    }

    /// Whether the stamps of two files stand in the same place, or one is the log itself.
    pub(super) fn is_beside(&self, form: &Form) -> bool {
        match (&self.form, form) {
            (Form::Live, _) => true,
            (Form::Inside(_), Form::Inside(_)) => true,
            (Form::Behind(_), Form::Inside(_)) => false,
            (Form::Behind(_), _) => true,
            (Form::Inside(_), _) => false,
        }
    }
}

impl Form {
    fn stamp(&self) -> Option<&Stamp> {
        match self {
            Self::Behind(stamp) | Self::Inside(stamp) => Some(stamp),
            Self::Live => None,
        }
    }
}

/// Oldest first: by their stamps where these are of one kind, else by their times alone.
fn sort(found: &mut [Member]) {
    let mut kinds = found.iter().filter_map(|member| member.form.stamp()).map(discriminant);
    let is_mixed = kinds.next().is_some_and(|first| kinds.any(|kind| kind != first));
    found.sort_by(|one, other| {
        let is_live = |member: &Member| member.form == Form::Live;
        let by_stamp = match (one.form.stamp(), other.form.stamp()) {
            (Some(Stamp::Number(one)), Some(Stamp::Number(other))) if !is_mixed => other.cmp(one),
            (Some(Stamp::Date(one)), Some(Stamp::Date(other))) if !is_mixed => one.cmp(other),
            _ => Ordering::Equal,
        };
        is_live(one)
            .cmp(&is_live(other))
            .then(by_stamp)
            .then(one.modified_ns.cmp(&other.modified_ns))
            .then_with(|| one.path.cmp(&other.path))
    });
}

/// The names under which a file of the log's folders is there, whatever they are.
pub(super) fn paths_of(live: &Path, key: FileKey) -> io::Result<Vec<PathBuf>> {
    let mut folders: Vec<PathBuf> = folders(live).into_iter().map(|(folder, _)| folder).collect();
    folders.dedup();
    let mut found = Vec::new();
    for folder in folders {
        for entry in entries(&folder)? {
            if entry.ino() == key.inode && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_rotated_files_are_known_and_others_are_not() {
        let behind = |stamp| Some((Form::Behind(stamp), false));
        let check = |name: &str, expected: Option<(Form, bool)>| {
            assert_eq!(form("app.log", name), expected, "{name}")
        };
        check("app.log", Some((Form::Live, false)));
        check("app.log.1", behind(Stamp::Number(1)));
        check("app.log.12.gz", Some((Form::Behind(Stamp::Number(12)), true)));
        check("app.log-20261128", behind(Stamp::Date(vec![20_261_128])));
        check("app.log.2026-11-28", behind(Stamp::Date(vec![2026, 11, 28])));
        check("app.log-20261128-1764345600", behind(Stamp::Date(vec![20_261_128, 1_764_345_600])));
        check(
            "app.log.2026-11-28T10:00:00Z.gz",
            Some((Form::Behind(Stamp::Date(vec![2026, 11, 28, 10, 0, 0])), true)),
        );
        check("app.log.old", behind(Stamp::Old));
        check("app.log.gz", Some((Form::Behind(Stamp::Old), true)));
        check("app-1.log", Some((Form::Inside(Stamp::Number(1)), false)));
        check("app.2026-11-28.log.gz", Some((Form::Inside(Stamp::Date(vec![2026, 11, 28])), true)));
        for other in [
            "app.log1",
            "app.log.x1",
            "app.log.1x",
            "app.log.1.2",
            "app.login",
            "app.logs",
            "apple.log",
            "ap.log",
            "app.log.",
            "app.log.bak",
            "xapp.log.1",
        ] {
            check(other, None);
        }
    }

    #[test]
    fn a_name_is_the_rotated_form_of_what_stands_before_its_stamp() {
        assert_eq!(logs_of("app.log.1"), ["app.log"]);
        assert_eq!(logs_of("app.log-20261128.gz"), ["app.log", "app.log-20261128"]);
        assert_eq!(logs_of("app.log.2026-11-28"), ["app.log", "app.log.2026-11"]);
        assert_eq!(logs_of("app-1.log"), [""; 0]);
        assert_eq!(logs_of("flights.csv"), [""; 0]);
        assert_eq!(logs_of(".1"), [""; 0]);
    }

    #[test]
    fn files_come_in_the_order_in_which_they_were_written() {
        let folder = tempfile::TempDir::new().unwrap();
        let names = |names: &[&str]| {
            for name in names {
                fs::write(folder.path().join(name), name).unwrap();
            }
            let members = members(&folder.path().join("a.log")).unwrap();
            let found = members.iter().map(|m| m.path.file_name().unwrap().to_str().unwrap().to_owned());
            let found = found.collect::<Vec<_>>();
            for name in names {
                fs::remove_file(folder.path().join(name)).unwrap();
            }
            found
        };
        assert_eq!(
            names(&["a.log", "a.log.1", "a.log.2.gz", "a.log.10"]),
            ["a.log.10", "a.log.2.gz", "a.log.1", "a.log"]
        );
        assert_eq!(
            names(&["a.log", "a.log-20261128", "a.log-20260901", "a.logs"]),
            ["a.log-20260901", "a.log-20261128", "a.log"]
        );
        assert_eq!(
            names(&["a.log.1", "a.log.1.gz"]),
            ["a.log.1"],
            "while it is packed a file is there twice"
        );
    }

    #[test]
    fn files_with_stamps_of_several_kinds_come_by_their_times() {
        let folder = tempfile::TempDir::new().unwrap();
        // The log itself is the last one, whatever its time.
        let names =
            ["a.log.2", "a.log-20261128", "a.log.1", "a.log.old", "a.log.3", "a.log-20260901", "a.log"];
        for (number, name) in names.into_iter().enumerate() {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            let seconds = if name == "a.log" { 0 } else { 1000 + number as u64 };
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        }
        let members = members(&folder.path().join("a.log")).unwrap();
        let found: Vec<_> = members.iter().map(|m| m.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(found, names);
    }

    #[test]
    fn a_link_leads_to_files_with_another_name() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        for folder in ["pods", "links"] {
            fs::create_dir(path(folder)).unwrap();
        }
        for name in
            ["pods/0.log.20261128-101112.gz", "pods/0.log.20261128-111112", "pods/0.log", "pods/1.log"]
        {
            fs::write(path(name), name).unwrap();
        }
        std::os::unix::fs::symlink(path("pods/0.log"), path("links/x.log")).unwrap();
        std::os::unix::fs::symlink("0.log", path("pods/y.log")).unwrap();
        for live in ["links/x.log", "pods/y.log"] {
            let members = members(&path(live)).unwrap();
            let names: Vec<_> =
                members.iter().map(|m| m.path.file_name().unwrap().to_str().unwrap()).collect();
            let own = live.split('/').next_back().unwrap();
            assert_eq!(names, ["0.log.20261128-101112.gz", "0.log.20261128-111112", own], "{live}");
        }
    }
}
