//! The one process that listens at a socket's name, and the files that go with a name in the file system.
//!
//! Relies on `flock`: the process that holds the lock on `<path>.lock`, beside the socket, is the one that listens. The kernel releases the lock
//! of a process that dies, which tells a dead process's files from a living one's. Never removes a file that is no socket, or a socket that a
//! process listens at, and never uses a directory in which another user could replace the socket.

#![forbid(unsafe_code)]

use crate::descriptor::apart;
use crate::listener::{self, Connected, SocketName};
use crate::{lock, selfproc};
use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, FileType, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The one listening socket at a name. Dropping it removes its files.
#[derive(Debug)]
pub struct SoleListener {
    pub socket: OwnedFd,
    /// Dropped with it.
    _files: Option<SocketFiles>,
}

/// Why nobody can listen or connect at a name.
#[derive(Debug)]
pub enum SocketError {
    /// Other users could replace the socket: what is wrong with `path`.
    Squatted { path: PathBuf, why: String },
    /// The path exists and is not a socket: what it is.
    NotASocket(&'static str),
    /// The kernel refused: what it was asked for.
    System(Cow<'static, str>, io::Error),
}

impl SocketError {
    fn at(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::System(what.into(), error)
    }
}

/// Connects to the process that listens at `name`.
pub fn connect(name: SocketName<'_>) -> Result<Connected, SocketError> {
    if let SocketName::Path(path) = name
        && let Some(directory) = path.parent()
    {
        check_directory(directory)?;
    }
    let connected = listener::connect(name).map_err(SocketError::at("connecting"))?;
    if let (Connected::Nobody, SocketName::Path(path)) = (&connected, name) {
        check_socket(path)?;
    }
    Ok(connected)
}

impl SoleListener {
    /// Listens at `name`; `None` if another process does. A missing directory is created for this user alone.
    pub fn listen(name: SocketName<'_>) -> Result<Option<Self>, SocketError> {
        let listening = match name {
            SocketName::Path(path) => Self::listen_at(path)?,
            SocketName::Abstract(_) => bind(name)?.map(|socket| Self { socket, _files: None }),
        };
        if let Some(listening) = &listening {
            listener::listen(&listening.socket).map_err(SocketError::at("listening"))?;
        }
        Ok(listening)
    }

    fn listen_at(path: &Path) -> Result<Option<Self>, SocketError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(SocketError::System(format!("making {}", directory.display()).into(), error));
            }
            _ => check_directory(directory)?,
        }
        check_socket(path)?;
        let locked = SocketFiles::lock(path).map_err(SocketError::at("locking it"))?;
        let Some(mut files) = locked else { return Ok(None) };
        check_socket(path)?;
        if files.is_live() {
            return Ok(None);
        }
        files.clear().map_err(SocketError::at("removing the socket of a process that is gone"))?;
        let Some(socket) = bind(SocketName::Path(path))? else { return Ok(None) };
        files.took().map_err(SocketError::at("checking the new socket"))?;
        Ok(Some(Self { socket, _files: Some(files) }))
    }
}

/// How long to wait for a bound socket that refuses connections.
const GOING: Duration = Duration::from_millis(200);

/// Binds the name; `None` if another process has it.
fn bind(name: SocketName<'_>) -> Result<Option<OwnedFd>, SocketError> {
    let until = Instant::now() + GOING;
    loop {
        match listener::bind(name) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(SocketError::at("binding")(error)),
            Err(_) => {}
        }
        // A socket that refuses connections is about to close, or about to listen.
        let is_going = matches!(listener::connect(name), Ok(Connected::Nobody));
        if !is_going || Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Checks that no other user can replace the socket. A missing directory passes.
fn check_directory(directory: &Path) -> Result<(), SocketError> {
    let failed = |error| SocketError::System(format!("checking {}", directory.display()).into(), error);
    let squatted = |why: String| Err(SocketError::Squatted { path: directory.into(), why });
    // First the link, if it is one: its owner decides where it leads.
    for find in [|path: &Path| fs::symlink_metadata(path), |path: &Path| fs::metadata(path)] {
        let found = match find(directory) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if let Err(why) = selfproc::check_owner(found.uid()) {
            return squatted(why);
        }
        if !found.is_symlink() && !found.is_dir() {
            return squatted("is not a directory".into());
        }
        if found.is_dir() && found.mode() & 0o022 != 0 {
            return squatted(format!("is writable by users other than its owner (mode {:o})", found.mode() & 0o7777));
        }
    }
    Ok(())
}

/// Checks that the path is a socket or does not exist.
fn check_socket(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(()),
        Ok(found) => Err(SocketError::NotASocket(kind_of(found.file_type()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(SocketError::at("checking it")(error)),
    }
}

fn kind_of(kind: FileType) -> &'static str {
    match () {
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a pipe",
        () => "a device",
    }
}

/// A socket's files. Dropping this removes them, the lock last.
#[derive(Debug)]
struct SocketFiles {
    path: PathBuf,
    /// Device and inode of the socket, once it is there.
    socket: Option<(u64, u64)>,
    lock: File,
    lock_path: PathBuf,
}

impl SocketFiles {
    /// Takes the lock beside `path`; `None` if another process holds it.
    fn lock(path: &Path) -> io::Result<Option<Self>> {
        let mut lock_path = OsString::from(path);
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = apart(|| options.open(&lock_path))?;
            if !lock::try_lock(&file)? {
                return Ok(None);
            }
            // The previous holder removes the file, perhaps after it was opened here; then this lock excludes nobody.
            let locked = file.metadata()?;
            if fs::symlink_metadata(&lock_path).is_ok_and(|found| identity(&found) == identity(&locked)) {
                return Ok(Some(Self { path: path.into(), socket: None, lock: file, lock_path }));
            }
        }
    }

    /// Whether a process listens there in spite of the lock: a program that does not use it.
    fn is_live(&self) -> bool {
        !matches!(listener::connect(SocketName::Path(&self.path)), Ok(Connected::Nobody))
    }

    /// Removes the socket of a dead process.
    fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Notes the new socket and restricts it to this user. Nobody can connect before it listens, so the restriction comes in time.
    fn took(&mut self) -> io::Result<()> {
        self.socket = Some(identity(&fs::symlink_metadata(&self.path)?));
        fs::set_permissions(&self.path, Permissions::from_mode(0o600))
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

impl Drop for SoleListener {
    fn drop(&mut self) {
        // A fork that has not executed its program yet has this descriptor too.
        listener::close_for_all(&self.socket);
    }
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).ok();
        if self.socket.is_some() && found.is_some_and(|found| Some(identity(&found)) == self.socket) {
            let _ = fs::remove_file(&self.path);
        }
        let _ = fs::remove_file(&self.lock_path);
        // A fork may have the descriptor, as above.
        lock::unlock(&self.lock);
    }
}
