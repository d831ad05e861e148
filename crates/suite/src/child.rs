//! The suite's own child processes: this program, executed again in one of a few roles.
//!
//! A child takes its orders from an environment variable and works on its stdin and stdout. It dies with its parent.

#![forbid(unsafe_code)]

use crate::{floor, pin};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::io;
use std::process::{self, Command, Stdio};
use std::time::Duration;

/// The environment variable that holds the parent's process number, the role and the CPUs.
const VARIABLE: &str = "CALLGATE_SUITE_CHILD";

/// Exit code of a child that could not carry out its orders.
const FAILED: i32 = 70;

/// The role that a child plays until it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildRole {
    /// Answers tokens in shared memory (stdin), polling.
    PingPong,
    /// Answers tokens in shared memory (stdin), and sleeps in a futex while it waits.
    Futex,
    /// Answers on stdout what it reads from stdin.
    Relay,
    /// Copies bytes from one area of shared memory (stdin) into the other, polling.
    Copy,
    /// Sums the bytes in one area of shared memory (stdin), polling.
    Sum,
    /// Sends numbers through a ring in shared memory (stdin), polling.
    Stream,
    /// Sends back the numbers that come through a ring in shared memory (stdin), polling.
    Pipeline,
    /// Works as long as an eventfd (stdin) says, and then writes to another (stdout).
    Event,
    /// Writes one byte to stdout and exits.
    Byte,
    /// Burns CPU time.
    Hog,
}

const ROLES: &[(&str, ChildRole)] = &[
    ("ping-pong", ChildRole::PingPong),
    ("futex", ChildRole::Futex),
    ("relay", ChildRole::Relay),
    ("copy", ChildRole::Copy),
    ("sum", ChildRole::Sum),
    ("stream", ChildRole::Stream),
    ("pipeline", ChildRole::Pipeline),
    ("event", ChildRole::Event),
    ("byte", ChildRole::Byte),
    ("hog", ChildRole::Hog),
];

/// Turns a process that the suite or a bridge started into its child, and then never returns. Does nothing in other processes.
///
/// Must be the first line of `main`, in place of [`callgate::init`], which it calls.
pub fn init() {
    if let Ok(order) = std::env::var(VARIABLE) {
        // A process that only inherited the variable has another parent.
        if let Some(order) = ChildOrder::parse(&order).filter(ChildOrder::is_mine) {
            order.carry_out();
        }
    }
    callgate::init();
    pin::allowed();
    #[cfg(feature = "failpoints")]
    crate::chaos::sweep::play_parent();
}

#[derive(Debug, PartialEq, Eq)]
struct ChildOrder {
    parent: i32,
    role: ChildRole,
    cpus: Vec<usize>,
}

impl ChildOrder {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let parent = words.next()?.parse().ok()?;
        let word = words.next()?;
        let role = ROLES.iter().find(|(name, _)| *name == word)?.1;
        let cpus = words.map(|cpu| cpu.parse().ok()).collect::<Option<_>>()?;
        Some(Self { parent, role, cpus })
    }

    fn text(&self) -> String {
        let name = ROLES.iter().find(|(_, role)| *role == self.role).map_or("", |(name, _)| name);
        self.cpus.iter().fold(format!("{} {name}", self.parent), |text, cpu| format!("{text} {cpu}"))
    }

    fn is_mine(&self) -> bool {
        parent() == self.parent
    }

    fn carry_out(&self) -> ! {
        let Err(error) = self.prepare().and_then(|()| floor::answer(self.role));
        eprintln!("callgate-suite: the child for {:?} ends: {error}", self.role);
        process::exit(FAILED)
    }

    fn prepare(&self) -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the call.
        if !self.is_mine() {
            process::exit(FAILED);
        }
        if self.cpus.is_empty() { Ok(()) } else { pin::this_thread(&self.cpus) }
    }
}

fn parent() -> i32 {
    getppid().map_or(0, |pid| pid.as_raw_nonzero().get())
}

/// A child process. Dropping this kills and reaps it; the kernel also kills it when the thread that started it exits.
#[derive(Debug)]
pub struct BenchChild {
    pub(crate) process: process::Child,
}

impl BenchChild {
    /// Starts this program again as `role`, pinned to `cpus` unless that is empty.
    pub(crate) fn start(role: ChildRole, cpus: &[usize], stdin: Stdio, stdout: Stdio) -> io::Result<Self> {
        let order = ChildOrder { parent: process::id() as i32, role, cpus: cpus.to_vec() };
        let mut command = Command::new("/proc/self/exe");
        command.env(VARIABLE, order.text()).stdin(stdin).stdout(stdout);
        Ok(Self { process: pin::Pinned::nowhere(|| command.spawn())?? })
    }

    /// The child's process number.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns an error if the child has ended.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("the floor's child ended with {status}"))),
        }
    }
}

impl Drop for BenchChild {
    fn drop(&mut self) {
        // Fails only if the child has been reaped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process that keeps one CPU busy until this is dropped.
#[derive(Debug)]
pub struct Hog(#[allow(dead_code, reason = "kept for its Drop")] BenchChild);

impl Hog {
    /// Starts a process that keeps `cpu` busy.
    pub fn on(cpu: usize) -> io::Result<Self> {
        Ok(Self(BenchChild::start(ChildRole::Hog, &[cpu], Stdio::null(), Stdio::null())?))
    }
}

/// How long a child may take to start.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_were_written() {
        for &(_, role) in ROLES {
            for cpus in [vec![], vec![1], vec![0, 17]] {
                let order = ChildOrder { parent: 42, role, cpus };
                assert_eq!(ChildOrder::parse(&order.text()), Some(order));
            }
        }
        assert_eq!(ChildOrder::parse("42 nothing"), None);
        assert_eq!(ChildOrder::parse("42"), None);
        assert_eq!(ChildOrder::parse("42 hog x"), None);
    }
}
