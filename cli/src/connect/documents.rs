//! The folder of documents that came by the management API: each version of each pipeline, and what each is to do.
//!
//! `DIR/NAME/<version:08>.yaml` is put if absent, so of two writers one is told that the other was there; a pipeline that
//! was deleted then has an empty one. The newest is what counts. `DIR/NAME/state` holds `PAUSED` or
//! `STOPPED`, also of pipelines whose document is a file of the command line. All is durable when a call returns.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sluice_connect::config::PipelineName;
use sluice_service::{Version, Wanted};

/// Versions that are kept of each pipeline; the oldest go first.
const VERSIONS_MAX: usize = 100;
const DOCUMENT: &str = "yaml";
const STATE: &str = "state";

/// The folder.
pub(super) struct Documents {
    dir: PathBuf,
}

/// What became of a put.
pub(super) enum Put {
    Done,
    /// Another writer put this version first.
    Taken,
}

impl Documents {
    /// Opens the folder, made if it is not there.
    pub(super) fn open(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        Ok(Self { dir })
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The newest documents by pipeline, with their numbers; deleted ones are left out.
    pub(super) fn all(&self) -> Result<BTreeMap<String, (u64, PathBuf, String)>> {
        let mut found = BTreeMap::new();
        let failed = || format!("cannot read the folder {}", self.dir.display());
        for entry in fs::read_dir(&self.dir).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if PipelineName::try_from(name.clone()).is_err() {
                continue;
            }
            let Some((version, path)) = self.files(&name)?.pop() else { continue };
            let text = read(&path)?;
            if !text.is_empty() {
                found.insert(name, (version, path, text));
            }
        }
        Ok(found)
    }

    /// The newest number of a pipeline, be it of its deletion; 0 if there is none.
    pub(super) fn newest(&self, name: &str) -> Result<u64> {
        Ok(self.files(name)?.last().map_or(0, |(version, _)| *version))
    }

    /// The documents that a pipeline had, the oldest first.
    pub(super) fn versions(&self, name: &str) -> Result<Vec<Version>> {
        let one = |(version, path): (u64, PathBuf)| {
            Ok(Version { version, text: Some(read(&path)?).filter(|text| !text.is_empty()) })
        };
        self.files(name)?.into_iter().map(one).collect()
    }

    /// Puts a version if none stands there; without a text the pipeline is deleted.
    pub(super) fn put(&self, name: &str, version: u64, text: Option<&str>) -> Result<Put> {
        let folder = self.folder(name);
        let failed =
            || format!("cannot write version {version} of pipeline {name} into {}", folder.display());
        fs::create_dir_all(&folder).with_context(failed)?;
        sync(&self.dir).with_context(failed)?;
        let temp = temporary(&folder, text.unwrap_or("")).with_context(failed)?;
        let linked = fs::hard_link(&temp, folder.join(format!("{version:08}.{DOCUMENT}")));
        fs::remove_file(&temp).with_context(failed)?;
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Put::Taken),
            Err(error) => return Err(error).with_context(failed),
        }
        sync(&folder).with_context(failed)?;
        let files = self.files(name)?;
        for (_, old) in files.iter().take(files.len().saturating_sub(VERSIONS_MAX)) {
            fs::remove_file(old).with_context(failed)?;
        }
        Ok(Put::Done)
    }

    /// What a pipeline is to do.
    pub(super) fn wanted(&self, name: &str) -> Result<Wanted> {
        let path = self.folder(name).join(STATE);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == "PAUSED" => Ok(Wanted::Paused),
            Ok(text) if text.trim() == "STOPPED" => Ok(Wanted::Stopped),
            Ok(text) => {
                anyhow::bail!("{} holds {:?}, expected PAUSED or STOPPED", path.display(), text.trim())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Wanted::Running),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Keeps what a pipeline is to do.
    pub(super) fn want(&self, name: &str, wanted: Wanted) -> Result<()> {
        let folder = self.folder(name);
        let path = folder.join(STATE);
        let failed = || format!("cannot write {}", path.display());
        let text = match wanted {
            Wanted::Running => {
                return match fs::remove_file(&path) {
                    Ok(()) => sync(&folder).with_context(failed),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    Err(error) => Err(error).with_context(failed),
                };
            }
            Wanted::Paused => "PAUSED\n",
            Wanted::Stopped => "STOPPED\n",
        };
        fs::create_dir_all(&folder).with_context(failed)?;
        sync(&self.dir).with_context(failed)?;
        let temp = temporary(&folder, text).with_context(failed)?;
        fs::rename(&temp, &path).with_context(failed)?;
        sync(&folder).with_context(failed)
    }

    /// The files of a pipeline by their numbers.
    fn files(&self, name: &str) -> Result<Vec<(u64, PathBuf)>> {
        let folder = self.folder(name);
        let failed = || format!("cannot read the folder {}", folder.display());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error).with_context(failed),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.with_context(failed)?.path();
            let is_known = path.extension().is_some_and(|e| e == DOCUMENT);
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            if let (true, Some(version)) = (is_known, number) {
                found.push((version, path));
            }
        }
        found.sort();
        Ok(found)
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file with this text, synced, under a name that is nobody else's.
fn temporary(folder: &Path, text: &str) -> std::io::Result<PathBuf> {
    let path = folder.join(format!(".{}.tmp", std::process::id()));
    let mut file = File::create(&path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(path)
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_counts_and_one_that_stands_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let documents = Documents::open(dir.path().join("pipelines")).unwrap();
        assert!(matches!(documents.put("a", 1, Some("name: a\n")).unwrap(), Put::Done));
        assert!(matches!(documents.put("a", 1, Some("name: b\n")).unwrap(), Put::Taken));
        assert!(matches!(documents.put("a", 2, Some("name: a2\n")).unwrap(), Put::Done));
        assert!(matches!(documents.put("a", 2, None).unwrap(), Put::Taken));
        let all = documents.all().unwrap();
        assert_eq!((all["a"].0, all["a"].2.as_str()), (2, "name: a2\n"));
        assert!(matches!(documents.put("a", 3, None).unwrap(), Put::Done));
        assert!(documents.all().unwrap().is_empty());
        let versions = documents.versions("a").unwrap();
        assert_eq!(
            versions.iter().map(|v| v.text.as_deref()).collect::<Vec<_>>(),
            [Some("name: a\n"), Some("name: a2\n"), None]
        );
        assert_eq!(documents.newest("a").unwrap(), 3);
    }

    #[test]
    fn what_a_pipeline_is_to_do_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let documents = Documents::open(dir.path().to_owned()).unwrap();
        assert_eq!(documents.wanted("a").unwrap(), Wanted::Running);
        for wanted in [Wanted::Paused, Wanted::Stopped, Wanted::Running] {
            documents.want("a", wanted).unwrap();
            assert_eq!(documents.wanted("a").unwrap(), wanted);
        }
        fs::create_dir_all(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a").join(STATE), "resting").unwrap();
        assert!(documents.wanted("a").unwrap_err().to_string().contains("expected PAUSED or STOPPED"));
    }

    #[test]
    fn versions_beyond_the_limit_go() {
        let dir = tempfile::tempdir().unwrap();
        let documents = Documents::open(dir.path().to_owned()).unwrap();
        for version in 1..=VERSIONS_MAX as u64 + 2 {
            documents.put("a", version, Some("x")).unwrap();
        }
        let kept = documents.versions("a").unwrap();
        assert_eq!((kept.len(), kept[0].version), (VERSIONS_MAX, 3));
    }
}
