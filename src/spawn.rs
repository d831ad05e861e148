//! Starting a child: the running program again, or another executable, with the control socket as its stdin.
//!
//! No `pre_exec`: `posix_spawn` stays possible, so a start costs the same however large the parent is, and is safe in a
//! program with threads. The child's side is [`child`](crate::child).

#![forbid(unsafe_code)]

use callgate_engine::watcher;
use callgate_os::descriptor::apart;
use callgate_os::pidfd::Pidfd;
use callgate_os::text::beginning;
use callgate_os::{program, socket};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The environment variable that tells the child the inode of the control socket on its stdin. A process that inherits the
/// variable without the socket (a grandchild) is not a bridge's child.
pub(crate) const VARIABLE: &str = "CALLGATE_CHILD";

/// The longest key and value together, in bytes: the kernel takes strings of 128 KiB, including the `=` between the two and the zero byte at the
/// end (MAX_ARG_STRLEN, with the smallest page size).
const LONGEST: usize = (128 << 10) - 2;

/// What a child is started with. Reusable for the next child.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    /// What to execute; `None` = the running program.
    pub(crate) executable: Option<PathBuf>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) signals: TerminalSignals,
    /// The process's name in listings, if it is the running program.
    pub(crate) title: String,
}

/// Whether a terminal's signals reach a child: those of Ctrl-C, Ctrl-\\ and Ctrl-Z, and of a hang-up. For
/// [`Builder::signals`](crate::Builder::signals).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TerminalSignals {
    /// The signals reach only the parent, which decides. The child has its own session without a terminal; it may print to its parent's
    /// terminal and cannot read from it. The child ends when its parent does.
    #[default]
    Isolated,
    /// The signals reach the child as well as its parent, as both are in one process group. Ctrl-C ends a child that does not handle it.
    Shared,
}

/// Where a child's output goes. Unlike [`Stdio`], it can be used for several children, one after the other.
///
/// # Examples
///
/// ```
/// # use callgate::{Output, bridge};
/// # struct Printer;
/// # #[bridge]
/// # impl Printer {
/// #     pub fn new() -> Self { Printer }
/// #     pub fn print(&self, line: &str) { println!("{line}") }
/// # }
/// # #[callgate::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io::Read;
///
/// let (mut reader, writer) = std::io::pipe()?;
/// let printer = Printer::bridge().stdout(writer).stderr(Output::null()).start()?;
/// printer.print("a line")?;
/// printer.stop()?;
/// let mut printed = String::new();
/// reader.read_to_string(&mut printed)?;
/// assert_eq!(printed, "a line\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Output(Sink);

#[derive(Clone, Debug, Default)]
enum Sink {
    #[default]
    Inherited,
    Null,
    Descriptor(Arc<OwnedFd>),
}

impl Output {
    /// Sends the child's output to the same place as this process's own.
    pub fn inherit() -> Self {
        Self(Sink::Inherited)
    }

    /// Discards the child's output.
    pub fn null() -> Self {
        Self(Sink::Null)
    }

    fn to_stdio(&self) -> io::Result<Stdio> {
        Ok(match &self.0 {
            Sink::Inherited => Stdio::inherit(),
            Sink::Null => Stdio::null(),
            Sink::Descriptor(descriptor) => descriptor.try_clone()?.into(),
        })
    }
}

impl From<OwnedFd> for Output {
    fn from(descriptor: OwnedFd) -> Self {
        Self(Sink::Descriptor(Arc::new(descriptor)))
    }
}

impl From<File> for Output {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<PipeWriter> for Output {
    fn from(pipe: PipeWriter) -> Self {
        OwnedFd::from(pipe).into()
    }
}

/// A started child.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    /// `None` if the child has died and other code in this process has already reaped it.
    pub(crate) pidfd: Option<Pidfd>,
    /// The parent's end of the control socket.
    pub(crate) control: OwnedFd,
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.executable_name())?;
        match &self.current_dir {
            Some(dir) => write!(f, " in `{}`", dir.display()),
            None => Ok(()),
        }
    }
}

impl Launch {
    /// The executable's name in messages.
    pub(crate) fn executable_name(&self) -> String {
        self.executable.as_ref().map_or_else(|| program::SELF.into(), |path| path.display().to_string())
    }

    /// Finds a setting that the system would not accept: the option, its value, and what it must be.
    pub(crate) fn mistake(&self) -> Option<(&'static str, String, &'static str)> {
        let has_zero = |text: &OsStr| text.as_bytes().contains(&0);
        for said @ (key, value) in &self.env {
            let wrong = |range| Some(("env", format!("{key:?} = {value:?}"), range));
            match key.as_bytes() {
                [] => return wrong("given a non-empty key"),
                key if key.contains(&b'=') => {
                    return wrong("given a key without `=` and the value as a separate argument");
                }
                key if key == VARIABLE.as_bytes() => return wrong("given another key: callgate sets this one itself"),
                key if key.len() + value.len() > LONGEST => {
                    let key = beginning(&String::from_utf8_lossy(key), 64).to_owned();
                    let value = format!("a string `{key}=..` of {} bytes", said.0.len() + 1 + said.1.len());
                    return Some((
                        "env",
                        value,
                        "less than 128 KiB in all, because the kernel accepts no longer string",
                    ));
                }
                _ if has_zero(key) || has_zero(value) => return wrong("given a key and a value without a zero byte"),
                _ => {}
            }
        }
        let paths = [("current_dir", &self.current_dir), ("executable", &self.executable)];
        let mut paths = paths.into_iter().filter_map(|(option, path)| Some((option, path.as_ref()?.as_os_str())));
        paths
            .find(|(_, path)| path.is_empty() || has_zero(path))
            .map(|(option, path)| (option, format!("{path:?}"), "a non-empty path without a zero byte"))
    }

    /// Starts the child, from the watcher's thread: the kernel kills a child when the *thread* that started it exits.
    pub(crate) fn start(&self) -> io::Result<Spawned> {
        let launch = self.clone();
        // `apart`: if the null device for the child's output had one of the standard numbers here, it would take that number in the child too early.
        watcher::on_watcher(move || apart(|| launch.start_here()))?
    }

    fn start_here(self) -> io::Result<Spawned> {
        let (control, stdin) = socket::pair()?;
        // A child never sends descriptors.
        socket::refuse_descriptors(&control);
        let inode = socket::inode(&stdin).ok_or_else(|| io::Error::other("a socket without an inode"))?;
        let mut child = self.command(stdin, inode)?.spawn()?;
        let pid = child.id();
        match Pidfd::open(pid) {
            Ok(pidfd) => Ok(Spawned { pid, pidfd, control }),
            Err(error) => {
                // Without a pidfd nothing can watch the child: kill it, and reap its entry in the process table.
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    fn command(self, stdin: OwnedFd, inode: u64) -> io::Result<Command> {
        let mut command = match self.executable {
            Some(path) => Command::new(path),
            None => {
                let mut command = program::again()?;
                command.arg(self.title);
                command
            }
        };
        if self.signals == TerminalSignals::Isolated {
            // Takes effect from the child's first instruction; the child does the rest (`signals::leave_terminal`).
            command.process_group(0);
        }
        command.envs(self.env).env(VARIABLE, inode.to_string()).stdin(stdin);
        if let Some(dir) = self.current_dir {
            command.current_dir(dir);
        }
        command.stdout(self.stdout.to_stdio()?).stderr(self.stderr.to_stdio()?);
        Ok(command)
    }
}
