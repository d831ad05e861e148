//! The process on the other side of a transport: this program, executed again.
//!
//! A peer serves until its channel or its stdin ends, at the latest when its parent dies. So it needs no signal and has time to
//! remove its files.

#![forbid(unsafe_code)]

#[cfg(feature = "tachyon")]
use crate::files::PeerFiles;
use crate::{carriers, flows, transports};
use callgate_suite::BoxError;
use callgate_suite::pin::{self, Pinned};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};
use std::hint;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{self, Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The environment variable with the CPU (or `any`) and the name of the transport.
const ORDER: &str = "CALLGATE_COMPARE_PEER";

/// The environment variable that says where the peer finds its caller, if not on stdin.
const ADDRESS: &str = "CALLGATE_COMPARE_ADDRESS";

/// How long a peer may take to end by itself.
const TIMEOUT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The number of polls between two checks of whether the peer still lives.
const POLLS: u32 = 1 << 18;

/// How long an answer that is polled for may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Exit code of a peer that could not serve.
const FAILED: i32 = 70;

/// A peer. Dropping this closes the peer's stdin and waits for it to end; if it does not end by itself, it is killed.
///
/// A transport whose channel is not stdin must drop its end of the channel before the peer.
pub struct PeerProcess {
    process: Child,
}

impl PeerProcess {
    /// Starts this program as the peer of the transport `name`, on `cpu`.
    pub fn start(name: &str, address: &str, cpu: Option<usize>, stdin: Stdio, stdout: Stdio) -> io::Result<Self> {
        let cpu = cpu.map_or("any".to_owned(), |cpu| cpu.to_string());
        let mut command = Command::new("/proc/self/exe");
        command.env(ORDER, format!("{cpu} {name}")).env(ADDRESS, address);
        Self::run(command.stdin(stdin).stdout(stdout))
    }

    /// Starts another program, which likewise ends with its stdin.
    pub fn run(command: &mut Command) -> io::Result<Self> {
        Ok(Self { process: Pinned::nowhere(|| command.spawn())?? })
    }

    /// The process number.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The pipes of stdin and stdout, if `start` was asked for both.
    pub fn pipes(&mut self) -> Option<(process::ChildStdin, process::ChildStdout)> {
        self.process.stdin.take().zip(self.process.stdout.take())
    }

    /// Waits until the peer has called [`ready`].
    pub fn await_ready(&mut self) -> Result<(), BoxError> {
        let stdout = self.process.stdout.take().ok_or("the peer has no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() { Err("the peer ended before it was ready".into()) } else { Ok(()) }
    }

    /// Returns an error if the peer has ended.
    pub fn check(&mut self) -> Result<(), BoxError> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the peer ended: {status}").into()),
        }
    }

    /// Polls until there is something.
    ///
    /// # Errors
    ///
    /// What `poll` fails with, the peer's end, or that nothing came for 20 seconds.
    #[inline]
    pub fn poll<T>(&mut self, mut poll: impl FnMut() -> Result<Option<T>, BoxError>) -> Result<T, BoxError> {
        let mut deadline = None;
        loop {
            for _ in 0..POLLS {
                if let Some(found) = poll()? {
                    return Ok(found);
                }
                hint::spin_loop();
            }
            self.check()?;
            if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + PATIENCE) {
                return Err("no answer for 20 seconds".into());
            }
        }
    }

    /// Removes `place` and exits when the peer does, unless what this returns is dropped before. For transports that would wait for ever.
    #[cfg(feature = "tachyon")]
    pub fn exit_with_it(&self, place: &PeerFiles) -> Result<PeerWatch, BoxError> {
        let pid = Pid::from_raw(self.process.id() as i32).ok_or("no process number")?;
        let end = pidfd_open(pid, PidfdFlags::empty())?;
        let watched = Arc::new(AtomicBool::new(true));
        let (watch, place) = (PeerWatch(watched.clone()), PeerFiles::at(&place.address()?)?);
        std::thread::spawn(move || {
            let ended = poll(&mut [PollFd::new(&end, PollFlags::IN)], None);
            if ended.is_ok() && watched.load(Ordering::Relaxed) {
                drop(place);
                eprintln!("callgate-compare: a peer has ended");
                process::exit(FAILED);
            }
        });
        Ok(watch)
    }

    fn ends_by_itself(&self) -> bool {
        let Some(pid) = Pid::from_raw(self.process.id() as i32) else { return false };
        let Ok(end) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        matches!(poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&TIMEOUT)), Ok(1))
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        if !self.ends_by_itself() {
            // Fails only if the peer has been reaped already.
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// See [`PeerProcess::exit_with_it`].
#[cfg(feature = "tachyon")]
pub struct PeerWatch(Arc<AtomicBool>);

#[cfg(feature = "tachyon")]
impl Drop for PeerWatch {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Turns a process that [`PeerProcess::start`] started into that peer, and then never returns. Does nothing in other processes.
///
/// No peer starts this program again, so a process with the variable is a peer. If its parent has died meanwhile, the peer sees the end of
/// its stdin and ends like any other.
pub fn init() {
    let Ok(order) = std::env::var(ORDER) else { return };
    if let Err(error) = carry_out(&order) {
        eprintln!("callgate-compare: a peer ({order}) ends: {error}");
        process::exit(FAILED);
    }
    process::exit(0)
}

fn carry_out(order: &str) -> Result<(), BoxError> {
    // A polling peer is stopped (SIGSTOP) while others are measured. If its parent dies then, the peer must run to see the end of stdin.
    set_parent_process_death_signal(Some(Signal::CONT))?;
    let (cpu, name) = order.split_once(' ').ok_or("these are not two words")?;
    serve(name, cpu)
}

fn serve(name: &str, cpu: &str) -> Result<(), BoxError> {
    if let Ok(cpu) = cpu.parse() {
        pin::this_thread(&[cpu])?;
    }
    let serve = transports::find(name).and_then(|way| way.serve);
    let serve = serve.or(carriers::find(name).map(|carrier| carrier.serve));
    let serve = serve.or(flows::find(name).map(|way| way.serve)).ok_or("nothing of that name has a peer")?;
    serve(&std::env::var(ADDRESS)?)
}

/// In the peer: tells the parent that calls are answered from now on.
pub fn ready() -> io::Result<()> {
    io::stdout().write_all(b"ready\n")
}

/// In the peer: returns a flag that becomes true when stdin ends. For transports whose channel does not report its end.
pub fn end_of_stdin() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let tell = ended.clone();
    std::thread::spawn(move || {
        // An error counts as the end too.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        tell.store(true, Ordering::Relaxed);
    });
    ended
}

/// In the peer: ends this process when stdin ends, and removes `place`. For transports that would wait for ever.
#[cfg(feature = "tachyon")]
pub fn exit_with_stdin(place: PeerFiles) {
    std::thread::spawn(move || {
        // An error counts as the end too.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        drop(place);
        process::exit(0);
    });
}
