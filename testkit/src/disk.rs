//! A disk over the real files that remembers what is not synced, and can lose it.
//!
//! Writes go to the real files at once, so that readers see them; what a sector of 512 bytes held since the
//! last sync, and what a name meant then, is kept aside. [`FaultyDisk::crash`] is the power loss: it puts back
//! all of that, or by chance each length and name, and for each sector one of the things that it held: the
//! system may have written it at any time. From then on the disk refuses every call, as nobody is there to make
//! one; the next start takes a new disk. It also counts syncs, can swallow one of them, and fails on demand.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use sluice_store::file::{Disk, DiskFile, Open, RealDisk};

use crate::Random;
use crate::files::copy_file;

const SECTOR_BYTES: u64 = 512;

/// What power loss leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLoss {
    /// Nothing that was not synced.
    Forget,
    /// Each unsynced sector, length and name by chance.
    Tear,
    /// Everything: it happened to reach the disk in time.
    Keep,
}

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`DiskFile::allocate`].
    Allocate,
    /// [`DiskFile::write_at`]; half of the first bytes are written before it fails.
    Write,
    /// [`DiskFile::sync`] and [`Disk::sync_dir`]; nothing is synced, and as in an operating system a later sync
    /// does not write what this one should have.
    Sync,
}

/// The disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    off: bool,
    full: bool,
    files: HashMap<Inode, Kept>,
    /// By folder, the names whose change is not synced.
    names: BTreeMap<PathBuf, BTreeMap<PathBuf, NameBefore>>,
    acts: u64,
    syncs: Vec<String>,
    skipped: Option<usize>,
    /// Folders in which syncs are not counted, by name.
    uncounted: Option<&'static str>,
    failures: Vec<(Call, u64, Errno)>,
    /// Calls until the power goes.
    calls_left: Option<u64>,
}

type Inode = (u64, u64);

/// What a file held since its last sync, where that was overwritten.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    len: u64,
    len_changed: bool,
    /// What it held at the last sync, and after each write since but for the last one.
    sectors: BTreeMap<u64, Vec<Vec<u8>>>,
    /// The same of sectors that a sync failed to write: no later one does, unless they are written anew.
    given_up: BTreeMap<u64, Vec<Vec<u8>>>,
    /// Bytes that have space on the disk.
    space: u64,
}

/// What a name meant at the last sync of its folder.
#[derive(Debug)]
struct NameBefore {
    /// The file, or `None` if there was none.
    file: Option<File>,
    /// Names that one call changed share its number: both change or none.
    act: u64,
}

impl FaultyDisk {
    /// A disk that works, until it is told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// The power goes. What is left of unsynced bytes and names the mode and the seed decide.
    ///
    /// # Panics
    ///
    /// If the real files can not be put into that state.
    pub fn crash(&self, seed: u64, mode: PowerLoss) {
        let mut state = self.state();
        state.off = true;
        let mut random = Random::new(seed);
        let percent = [10, 50, 90][usize::try_from(random.below(3)).unwrap_or(0)];
        let keeps = |number: u64| {
            let mut one = Random::new(seed ^ number.wrapping_mul(0x9E37_79B9));
            mode == PowerLoss::Keep || (mode == PowerLoss::Tear && one.chance(percent))
        };
        let held = state
            .names
            .values()
            .flat_map(BTreeMap::values)
            .filter_map(|n| n.file.as_ref())
            .map(|f| (inode(f), f))
            .collect::<Vec<_>>();
        let mut files: Vec<_> = state.files.iter().collect();
        files.sort_unstable_by_key(|(_, kept)| kept.path.clone());
        for (number, (inode_, kept)) in files.into_iter().enumerate() {
            if kept.sectors.is_empty() && kept.given_up.is_empty() && !kept.len_changed {
                continue;
            }
            let removed = held.iter().find(|(i, _)| i.as_ref().is_ok_and(|i| i == inode_)).map(|(_, f)| *f);
            let opened = File::options().write(true).read(true).open(&kept.path);
            let same = opened.ok().filter(|f| inode(f).is_ok_and(|i| i == *inode_));
            // A file without a name that nobody misses is gone.
            let Some(file) = same.as_ref().or(removed) else { continue };
            let base = (number as u64 + 1) << 32;
            let mut pick = |sector, versions: usize| match mode {
                _ if keeps(base + sector) => None,
                PowerLoss::Tear => Some(usize::try_from(random.below(versions as u64)).unwrap_or(0)),
                _ => Some(0),
            };
            restore(file, kept, &mut pick).expect("the real file can be written");
        }
        for (path, before) in state.names.values().flatten() {
            if !keeps(before.act << 8) {
                put_back(path, before.file.as_ref()).expect("the real name can be changed");
            }
        }
        state.files.clear();
        state.names.clear();
    }

    /// The power goes in the middle of things: after so many calls all others fail. What is left is decided
    /// by [`FaultyDisk::crash`].
    pub fn power_off_after(&self, calls: u64) {
        self.state().calls_left = Some(calls);
    }

    /// What is written to a file has reached the disk, without a sync.
    pub fn settle(&self, path: &Path) {
        let mut state = self.state();
        let found = File::open(path).and_then(|f| Ok((inode(&f)?, f.metadata()?.len())));
        if let Ok((inode, len)) = found
            && let Some(kept) = state.files.get_mut(&inode)
        {
            kept.sectors.clear();
            kept.given_up.clear();
            (kept.len, kept.len_changed) = (len, false);
        }
    }

    /// The disk of the next start. Without a [`FaultyDisk::crash`] before, only the process ended: what was not
    /// synced is there and can still be lost. It counts syncs on; the old one takes no more calls.
    #[must_use]
    pub fn restarted(&self) -> Self {
        let mut old = self.state();
        old.off = true;
        let state = State {
            files: std::mem::take(&mut old.files),
            names: std::mem::take(&mut old.names),
            acts: old.acts,
            syncs: old.syncs.clone(),
            skipped: old.skipped,
            uncounted: old.uncounted,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The `nth` such call from now on (1 is the next one) fails with an error of the system.
    pub fn fail(&self, call: Call, nth: u64, error: Errno) {
        self.state().failures.push((call, nth, error));
    }

    /// Whether the disk has no space left for anything that has none yet.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// What was synced so far, in order: the number of a sync is its place here.
    pub fn syncs(&self) -> Vec<String> {
        self.state().syncs.clone()
    }

    /// Syncs in folders of that name are not counted: a thread makes them whenever it comes to it.
    pub fn do_not_count(&self, folder: &'static str) {
        self.state().uncounted = Some(folder);
    }

    /// The sync with this number will do nothing and say that it did.
    pub fn skip_sync(&self, number: usize) {
        self.state().skipped = Some(number);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless the power is off or the call is to fail.
    fn call(&self, call: Option<Call>) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.off |= state.calls_left == Some(0);
        if state.off {
            return Err(io::Error::other("the power is off"));
        }
        state.calls_left = state.calls_left.map(|left| left - 1);
        for failure in state.failures.iter_mut().filter(|f| Some(f.0) == call) {
            failure.1 = failure.1.saturating_sub(1);
        }
        if let Some(due) = state.failures.iter().position(|f| Some(f.0) == call && f.1 == 0) {
            let (_, _, error) = state.failures.swap_remove(due);
            return Err(error.into());
        }
        Ok(state)
    }
}

impl State {
    /// Counts a sync; whether it is to be swallowed.
    fn swallows(&mut self, what: &str, path: &Path) -> bool {
        if self.uncounted.is_some_and(|folder| path.iter().any(|name| name == folder)) {
            return false;
        }
        let names: Vec<_> = path.iter().rev().take(3).map(|n| n.to_string_lossy().into_owned()).collect();
        let number = self.syncs.len();
        self.syncs.push(format!("{what} {}", names.into_iter().rev().collect::<Vec<_>>().join("/")));
        self.skipped == Some(number)
    }

    /// Remembers what a name meant, before it is changed.
    fn keep_name(&mut self, path: &Path, act: u64) {
        let before = || NameBefore { file: File::options().read(true).write(true).open(path).ok(), act };
        self.names_beside(path).entry(path.to_owned()).or_insert_with(before).act = act;
    }

    /// The changed names in the folder of a path.
    fn names_beside(&mut self, path: &Path) -> &mut BTreeMap<PathBuf, NameBefore> {
        self.names.entry(path.parent().unwrap_or(Path::new("")).to_owned()).or_default()
    }

    fn next_act(&mut self) -> u64 {
        self.acts += 1;
        self.acts
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.call(None)?;
        let is_new = !path.exists();
        if is_new && open != Open::Existing {
            if state.full {
                return Err(Errno::ENOSPC.into());
            }
            let act = state.next_act();
            state.keep_name(path, act);
        }
        let file = RealDisk.open(path, open)?;
        let metadata = file.file().metadata()?;
        let inode = (metadata.dev(), metadata.ino());
        let (path, len) = (path.to_owned(), metadata.len());
        let space = if metadata.blocks() * 512 >= len { len } else { 0 };
        let (sectors, given_up) = (BTreeMap::new(), BTreeMap::new());
        let kept = Kept { path: path.clone(), len, len_changed: false, sectors, given_up, space };
        if is_new {
            state.files.insert(inode, kept);
        } else {
            state.files.entry(inode).or_insert(kept).path.clone_from(&path);
        }
        drop(state);
        Ok(Arc::new(FaultyFile { disk: self.clone(), file, inode, path }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        self.create_dir_all(parent)?;
        self.create_dir(path)?;
        self.sync_dir(parent)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call(None)?;
        fs::create_dir(path)?;
        let act = state.next_act();
        state.names_beside(path).entry(path.to_owned()).or_insert(NameBefore { file: None, act }).act = act;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.call(None)?;
        let act = state.next_act();
        state.keep_name(from, act);
        state.keep_name(to, act);
        RealDisk.rename(from, to)?;
        if let Ok(inode) = File::open(to).and_then(|f| inode(&f))
            && let Some(kept) = state.files.get_mut(&inode)
        {
            to.clone_into(&mut kept.path);
        }
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.call(None)?;
        RealDisk.hard_link(from, to)?;
        let act = state.next_act();
        state.names_beside(to).entry(to.to_owned()).or_insert(NameBefore { file: None, act }).act = act;
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call(None)?;
        let act = state.next_act();
        state.keep_name(path, act);
        RealDisk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call(Some(Call::Sync))?;
        if !state.swallows("dir", path) {
            state.names.remove(path);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    file: Arc<dyn DiskFile>,
    inode: Inode,
    path: PathBuf,
}

impl FaultyFile {
    /// Remembers the sectors of a range as they are.
    fn keep(&self, state: &mut State, from: u64, to: u64) -> io::Result<()> {
        let Some(kept) = state.files.get_mut(&self.inode) else { return Ok(()) };
        let sectors = from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES);
        let mut held = vec![0; usize::try_from((sectors.end - sectors.start) * SECTOR_BYTES).unwrap_or(0)];
        let len = self.file.file().read_at(&mut held, sectors.start * SECTOR_BYTES)?;
        held.truncate(len);
        let mut held = held.chunks(usize::try_from(SECTOR_BYTES).unwrap_or(1));
        for sector in sectors {
            let bytes = held.next().unwrap_or(&[]);
            let before = kept.given_up.remove(&sector).unwrap_or_default();
            kept.sectors.entry(sector).or_insert(before).push(bytes.to_vec());
        }
        Ok(())
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let len = bufs.iter().map(|b| b.len() as u64).sum::<u64>();
        let mut state = match self.disk.call(Some(Call::Write)) {
            Err(error) if error.raw_os_error().is_some() => {
                let mut state = self.disk.state();
                self.keep(&mut state, offset, offset + len)?;
                let half = bufs.first().map_or(&[][..], |b| &b[..b.len() / 2]);
                self.file.write_at(&[half], offset)?;
                return Err(error);
            }
            state => state?,
        };
        let full = state.full;
        if let Some(kept) = state.files.get_mut(&self.inode) {
            if full && offset + len > kept.space {
                return Err(Errno::ENOSPC.into());
            }
            kept.space = kept.space.max(offset + len);
            kept.len_changed |= offset + len > kept.len;
        }
        self.keep(&mut state, offset, offset + len)?;
        self.file.write_at(bufs, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.call(None)?;
        let now = self.file.file().metadata()?.len();
        let durable = state.files.get(&self.inode).map_or(now, |kept| kept.len.min(now));
        // What is cut off reads as zero afterwards, so holes need not be kept.
        let mut at = len;
        while let Some(from) = seek(self.file.file(), at, Whence::SeekData)?.filter(|from| *from < durable) {
            at = seek(self.file.file(), from, Whence::SeekHole)?.unwrap_or(durable);
            self.keep(&mut state, from, at.min(durable))?;
        }
        if let Some(kept) = state.files.get_mut(&self.inode) {
            kept.len_changed = true;
            kept.space = kept.space.min(len);
        }
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.call(Some(Call::Allocate))?;
        let full = state.full;
        if let Some(kept) = state.files.get_mut(&self.inode) {
            if full && len > kept.space {
                return Err(Errno::ENOSPC.into());
            }
            kept.space = kept.space.max(len);
            kept.len_changed = true;
        }
        self.file.allocate(len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = match self.disk.call(Some(Call::Sync)) {
            Err(error) if error.raw_os_error().is_some() => {
                if let Some(kept) = self.disk.state().files.get_mut(&self.inode) {
                    let mut unwritten = std::mem::take(&mut kept.sectors);
                    kept.given_up.append(&mut unwritten);
                }
                return Err(error);
            }
            state => state?,
        };
        if state.swallows("file", &self.path) {
            return Ok(());
        }
        let len = self.file.file().metadata()?.len();
        if let Some(kept) = state.files.get_mut(&self.inode) {
            kept.sectors.clear();
            (kept.len, kept.len_changed) = (len, false);
        }
        Ok(())
    }

    fn file(&self) -> &File {
        self.file.file()
    }
}

/// Puts back what a file held: of each sector the version that `pick` names out of so many, or none. The length
/// has the number that no sector has.
fn restore(file: &File, kept: &Kept, pick: &mut impl FnMut(u64, usize) -> Option<usize>) -> io::Result<()> {
    if kept.len_changed && pick(u64::from(u32::MAX), 1).is_some() {
        file.set_len(kept.len)?;
    }
    let len = file.metadata()?.len();
    for (&sector, versions) in kept.sectors.iter().chain(&kept.given_up) {
        let at = sector * SECTOR_BYTES;
        let Some(old) = pick(sector, versions.len()).and_then(|version| versions.get(version)) else {
            continue;
        };
        if at >= len {
            continue;
        }
        // Where the file was shorter then, and is not now, there are zeros.
        let mut bytes = old.clone();
        bytes.resize(usize::try_from(SECTOR_BYTES.min(len - at)).unwrap_or(0), 0);
        file.write_all_at(&bytes, at)?;
    }
    Ok(())
}

/// The next place from `at` on that is data, or that is a hole; `None` behind the last one.
fn seek(file: &File, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek(file, i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives a name the meaning that it had.
fn put_back(path: &Path, before: Option<&File>) -> io::Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)?;
    } else if path.exists() {
        fs::remove_file(path)?;
    }
    let Some(before) = before else { return Ok(()) };
    if !path.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    copy_file(before, &File::create(path)?)
}

fn inode(file: &File) -> io::Result<Inode> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}
