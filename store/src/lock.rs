//! One writer: a record lock on the store's file `lock`, where `RocketMQ` takes it too, and the holder's pid
//! in a file of ours. The lock belongs to the open file, so it ends with the process, however that ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::Error;

/// Takes the lock, or names who has it. Dropping the file gives it back.
pub(crate) fn take(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|e| Error::io("open", &path, e))?;
    let holder = dir.join("sluice/holder");
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&first_byte())) {
        Ok(_) => {}
        Err(Errno::EAGAIN | Errno::EACCES) => {
            let pid = fs::read_to_string(&holder).ok().and_then(|pid| pid.trim().parse().ok());
            return Err(Error::Locked { dir: dir.to_owned(), pid: pid.unwrap_or(0) });
        }
        Err(e) => return Err(Error::io("lock", &path, e.into())),
    }
    // For people and error messages only, so it need not survive anything.
    fs::write(&holder, format!("{}\n", std::process::id())).map_err(|e| Error::io("write", &holder, e))?;
    Ok(file)
}

/// Whether some process writes the store now.
pub(crate) fn is_taken(dir: &Path) -> Result<bool, Error> {
    let path = dir.join("lock");
    let file = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(|e| Error::io("open", &path, e))?,
    };
    let mut lock = first_byte();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(|e| Error::io("lock", &path, e.into()))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

#[expect(clippy::cast_possible_truncation, reason = "the constants are small numbers of a wider type")]
fn first_byte() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    }
}
