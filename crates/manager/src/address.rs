//! A hub's address, a path or an abstract name, and the lock by which exactly one process listens there.
//!
//! Relies on `flock`: the process that holds the lock on `<path>.lock`, beside the socket, is the hub. The kernel releases the lock of a process
//! that dies, which tells a dead hub's files from a living one's. Never removes a file that is no socket, or a socket that a process listens at.

#![forbid(unsafe_code)]

use super::error::ManagerError;
use callgate_os::descriptor::apart;
use callgate_os::limits::{self, Wanted};
use callgate_os::listener::{self, Connected, MAX_NAME, SocketName};
use callgate_os::{lock, selfproc};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, FileType, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where a hub listens.
///
/// | text | what it is |
/// |---|---|
/// | `@name` | an abstract name: not in the file system, the same for all in one network namespace |
/// | with a `/` | the path of a socket; relative ones from the working directory at the time |
/// | any other | `$XDG_RUNTIME_DIR/callgate/<text>`, without that variable `/tmp/callgate-<uid>/<text>` |
///
/// A missing directory is created for this user alone (0700). The directory must belong to this user or root, and only its owner may be able to
/// write to it: `/tmp/name` is refused, `/tmp/mine/name` is not. While the hub runs, `<path>.lock` lies beside the socket. A name or path is
/// UTF-8, and has at most 107 bytes.
///
/// Can be made from any text. It is checked when it is used.
///
/// # Examples
///
/// ```
/// use callgate::manager::Address;
///
/// assert_eq!(Address::from("@metrics"), Address::abstract_name("metrics"));
/// assert_eq!(Address::from("@metrics").to_string(), "@metrics");
/// assert_eq!(Address::from("/run/user/1000/metrics").to_string(), "/run/user/1000/metrics");
/// assert!(Address::from("metrics").to_string().ends_with("/metrics"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(AddressKind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum AddressKind {
    /// Absolute, unless there is no working directory.
    Path(PathBuf),
    Abstract(String),
}

impl Address {
    /// The abstract name `name`, of 1 to 107 bytes: as `Address::from("@name")`.
    pub fn abstract_name(name: impl Into<String>) -> Self {
        Self(AddressKind::Abstract(name.into()))
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(name) => Self::abstract_name(name),
            // Stays empty, and is refused when it is used.
            None if text.is_empty() => Self(AddressKind::Path(PathBuf::new())),
            None if text.contains('/') => Self::from(Path::new(text)),
            None => Self(AddressKind::Path(default_directory().join(text))),
        }
    }
}

impl From<&String> for Address {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self(AddressKind::Path(std::path::absolute(path).unwrap_or_else(|_| path.into())))
    }
}

impl From<&PathBuf> for Address {
    fn from(path: &PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}

/// Text from which the same address can be made. (Paths that are not UTF-8 cannot be used as addresses.)
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AddressKind::Path(path) => write!(f, "{}", path.display()),
            AddressKind::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

fn default_directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if directory.is_absolute() => directory.join("callgate"),
        _ => PathBuf::from(format!("/tmp/callgate-{}", selfproc::effective_ids().0)),
    }
}

// ---- connecting ----------------------------------------------------------------------------------------------------

impl Address {
    /// Connects to the listening process; `None` if its backlog is full.
    ///
    /// # Errors
    ///
    /// `NobodyListens` among others.
    pub(super) fn connect(&self) -> Result<Option<OwnedFd>, ManagerError> {
        let name = self.checked()?;
        if let AddressKind::Path(path) = &self.0
            && let Some(directory) = path.parent()
        {
            self.check_directory(directory)?;
        }
        match listener::connect(name) {
            Ok(Connected::Yes(socket)) => Ok(Some(socket)),
            Ok(Connected::Full) => Ok(None),
            Ok(Connected::Nobody) => {
                self.check_socket()?;
                Err(ManagerError::NobodyListens { address: self.to_string() })
            }
            Err(error) => Err(self.failed("connecting", error)),
        }
    }

    /// The name for the kernel, if the address is valid.
    fn checked(&self) -> Result<SocketName<'_>, ManagerError> {
        let (bytes, name) = match &self.0 {
            AddressKind::Path(path) => (path.as_os_str().as_bytes(), SocketName::Path(path)),
            AddressKind::Abstract(name) => (name.as_bytes(), SocketName::Abstract(name.as_bytes())),
        };
        let why = match bytes {
            [] => "it is empty".into(),
            _ if bytes.contains(&0) => "a byte of it is 0".into(),
            // Handles and command lines pass it on as text.
            _ if std::str::from_utf8(bytes).is_err() => "it is no UTF-8".into(),
            _ if bytes.len() > MAX_NAME => format!("it is {} bytes long, and may be {MAX_NAME}", bytes.len()),
            _ => return Ok(name),
        };
        Err(ManagerError::Address { address: self.to_string(), why })
    }

    pub(super) fn failed(&self, what: impl Into<String>, error: io::Error) -> ManagerError {
        let what = what.into() + &limits::behind(&error, Wanted::Task);
        ManagerError::System { address: self.to_string(), what, error }
    }

    /// Checks that no other user can replace the socket. A missing directory passes.
    fn check_directory(&self, directory: &Path) -> Result<(), ManagerError> {
        let failed = |error| self.failed(format!("looking at {}", directory.display()), error);
        let (own, _) = selfproc::effective_ids();
        let is_other_users = |found: &Metadata| found.uid() != own && found.uid() != 0;
        let squatted =
            |why: String| Err(ManagerError::Squatted { address: self.to_string(), path: directory.into(), why });
        // First the link, if it is one: its owner decides where it leads.
        for find in [|path: &Path| fs::symlink_metadata(path), |path: &Path| fs::metadata(path)] {
            let found = match find(directory) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            if is_other_users(&found) {
                return squatted(format!("belongs to user {}, and must to user {own} or root", found.uid()));
            }
            if !found.is_symlink() && !found.is_dir() {
                return squatted("is no directory".into());
            }
            if found.is_dir() && found.mode() & 0o022 != 0 {
                return squatted(format!("can be written by others than its owner (mode {:o})", found.mode() & 0o7777));
            }
        }
        Ok(())
    }

    /// Checks that the path is a socket or does not exist.
    fn check_socket(&self) -> Result<(), ManagerError> {
        let AddressKind::Path(path) = &self.0 else { return Ok(()) };
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => Ok(()),
            Ok(found) => {
                let what = kind_of(found.file_type());
                Err(ManagerError::NotASocket { address: self.to_string(), what })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed("looking at it", error)),
        }
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

// ---- listening -----------------------------------------------------------------------------------------------------

/// The one listening socket of an address. Dropping it removes its files.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) socket: OwnedFd,
    /// Dropped with it.
    _place: Option<SocketFiles>,
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

impl Address {
    /// Listens here; `None` if another process does.
    pub(super) fn listen(&self) -> Result<Option<Listening>, ManagerError> {
        let name = self.checked()?;
        let listening = match &self.0 {
            AddressKind::Path(path) => self.listen_at(path, name)?,
            AddressKind::Abstract(_) => self.bind(name)?.map(|socket| Listening { socket, _place: None }),
        };
        if let Some(listening) = &listening {
            listener::listen(&listening.socket).map_err(|error| self.failed("listening", error))?;
        }
        Ok(listening)
    }

    /// The listening process, if the kernel says it.
    pub(super) fn listener(&self) -> Option<u32> {
        let Ok(Connected::Yes(socket)) = listener::connect(self.checked().ok()?) else { return None };
        listener::peer(socket).ok().map(|peer| peer.pid).filter(|pid| *pid != 0)
    }

    /// Binds the name; `None` if another process has it.
    fn bind(&self, name: SocketName<'_>) -> Result<Option<OwnedFd>, ManagerError> {
        let until = Instant::now() + GOING;
        loop {
            match listener::bind(name) {
                Ok(socket) => return Ok(Some(socket)),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(self.failed("binding", error)),
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

    fn listen_at(&self, path: &Path, name: SocketName<'_>) -> Result<Option<Listening>, ManagerError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(self.failed(format!("making {}", directory.display()), error));
            }
            _ => self.check_directory(directory)?,
        }
        self.check_socket()?;
        let locked = SocketFiles::lock(path).map_err(|error| self.failed("locking it", error))?;
        let Some(mut place) = locked else { return Ok(None) };
        self.check_socket()?;
        if place.is_live(name) {
            return Ok(None);
        }
        place.clear().map_err(|error| self.failed("removing the socket of a hub that is gone", error))?;
        let Some(socket) = self.bind(name)? else { return Ok(None) };
        place.took().map_err(|error| self.failed("looking at the new socket", error))?;
        Ok(Some(Listening { socket, _place: Some(place) }))
    }
}

/// How long to wait for a bound socket that refuses connections.
const GOING: Duration = Duration::from_millis(200);

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
    fn is_live(&self, name: SocketName<'_>) -> bool {
        !matches!(listener::connect(name), Ok(Connected::Nobody))
    }

    /// Removes the socket of a dead hub.
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

impl Drop for Listening {
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
