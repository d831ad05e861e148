//! Files with secrets: read only if no other user than their owner, who must be this one or root, can read or write them.

#![forbid(unsafe_code)]

use crate::descriptor::apart;
use crate::selfproc;
use rustix::fs::OFlags;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Reads at most the first `max` bytes of the file at `path` into `contents`, which is empty. Makes room once: a vector that grew would leave copies of
/// the secret behind.
///
/// # Errors
///
/// Why not, in words: it cannot be read, is no regular file, belongs to another user than this one or root, or others than its owner may use it.
pub fn read(path: &Path, max: usize, contents: &mut Vec<u8>) -> Result<(), String> {
    let said = |error: io::Error| error.to_string();
    // Checked before it is opened: opening a device can have effects.
    check(&fs::metadata(path).map_err(said)?)?;
    let file = open(path).map_err(said)?;
    check(&file.metadata().map_err(said)?)?;
    contents.reserve_exact(max);
    file.take(max as u64).read_to_end(contents).map(drop).map_err(said)
}

/// Opens `path` without blocking: it may have become a pipe meanwhile.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    apart(|| OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path))
}

fn check(found: &Metadata) -> Result<(), String> {
    if !found.is_file() {
        return Err("it is not a regular file".into());
    }
    selfproc::check_owner(found.uid()).map_err(|why| format!("it {why}"))?;
    if found.mode() & 0o077 != 0 {
        return Err(format!(
            "users other than its owner can access it (mode {:o}); run chmod 600 on it",
            found.mode() & 0o7777
        ));
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::support::TempDir;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_pipe_is_opened_without_waiting_and_refused() {
        let dir = TempDir::new();
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let (opened, done) = mpsc::channel();
        std::thread::spawn(move || opened.send(check(&open(&path)?.metadata()?)).map_err(io::Error::other));
        let checked = done.recv_timeout(Duration::from_secs(30)).expect("opening waits for a writer");
        assert!(checked.unwrap_err().contains("regular"));
    }

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let dir = TempDir::new();
        let path = dir.path().join("secret");
        fs::write(&path, [7; 100]).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut contents = Vec::new();
        read(&path, 64, &mut contents).unwrap();
        assert_eq!(contents, [7; 64]);
    }
}
