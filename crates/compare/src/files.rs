//! The files of a peer that needs names: a temporary directory, and a prefix for what lies in `/dev/shm`.
//!
//! The side that ends last removes both: the peer if its parent was killed, the parent if the peer was.

#![forbid(unsafe_code)]

use callgate_suite::BoxError;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

const SHARED: &str = "/dev/shm";

/// The place of a peer's files. Dropping it removes them.
pub struct PeerFiles {
    root: PathBuf,
    prefix: String,
    /// Removes the directory, in the process that created it.
    _directory: Option<TempDir>,
}

impl PeerFiles {
    pub fn create() -> Result<Self, BoxError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = TempDir::with_prefix("callgate-compare-")?;
        let prefix = format!("callgate_compare_{}_{next}_", std::process::id());
        Ok(Self { root: directory.path().to_owned(), prefix, _directory: Some(directory) })
    }

    /// The place that another process has created.
    pub fn at(address: &str) -> Result<Self, BoxError> {
        let (prefix, root) = address.split_once(' ').ok_or("an address without a directory")?;
        Ok(Self { root: root.into(), prefix: prefix.to_owned(), _directory: None })
    }

    pub fn address(&self) -> Result<String, BoxError> {
        Ok(format!("{} {}", self.prefix, self.root()?))
    }

    /// What the names of all files in `/dev/shm` begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The temporary directory.
    pub fn root(&self) -> Result<&str, BoxError> {
        Ok(self.root.to_str().ok_or("the temporary directory is not UTF-8")?)
    }

    /// The path of a file in `/dev/shm`.
    pub fn shared(&self, name: &str) -> PathBuf {
        Path::new(SHARED).join(format!("{}{name}", self.prefix))
    }
}

impl Drop for PeerFiles {
    fn drop(&mut self) {
        // Usually nothing is left. A failed removal is no reason to fail.
        let _ = fs::remove_dir_all(&self.root);
        let Ok(entries) = fs::read_dir(SHARED) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
