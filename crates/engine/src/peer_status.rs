//! Whether the peer lives, and if not, how it ended: written once by the watcher, waited on by callers.

#![forbid(unsafe_code)]

use callgate_os::futex::Futex;
use callgate_os::futex::{PrivateScope, Woken};
use callgate_os::poll::Waker;
use callgate_os::sync::Ordering::{Acquire, Relaxed, Release};
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::Exit;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Why this process ended the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The user called `stop` or `kill`, or dropped the bridge.
    Stopped,
    /// The peer broke an invariant.
    Corrupt(&'static str),
}

/// The state of a child, as its parent knows it.
///
/// | word `dead` | from | to | who | when |
/// |---|---|---|---|---|
/// | | 0 | 1 | watcher | the child has ended and `exit` says how |
pub struct PeerStatus {
    dead: Futex<PrivateScope>,
    /// Rung after `dead` is set, for threads that sleep on descriptors.
    alarm: Option<Arc<Waker>>,
    exit: OnceLock<Exit>,
    /// What the peer said as it ended.
    last_words: OnceLock<String>,
    cause: OnceLock<Cause>,
    /// Why this process kills a peer that it would go on talking to, in words that follow "because".
    because: OnceLock<Box<str>>,
    /// Set when this process has tried to kill the peer and was not allowed to.
    kill_refused: OnceLock<()>,
    /// Told of the end after everyone else, on the watcher's thread, so it must not block.
    hook: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// When this process first ended the peer.
    condemned: OnceLock<Instant>,
}

/// How long a killed peer may take to end. Beyond that, the kernel holds its end back: a process that traces it may have stopped it on its way out.
const OVERDUE: Duration = Duration::from_secs(5);

impl PeerStatus {
    pub fn new(alarm: Option<Arc<Waker>>) -> Self {
        Self {
            dead: Futex::new(0),
            alarm,
            exit: OnceLock::new(),
            last_words: OnceLock::new(),
            cause: OnceLock::new(),
            because: OnceLock::new(),
            kill_refused: OnceLock::new(),
            hook: OnceLock::new(),
            condemned: OnceLock::new(),
        }
    }

    /// The word that becomes other than 0 when the peer has ended.
    pub fn dead(&self) -> &Futex<PrivateScope> {
        &self.dead
    }

    /// Records the peer's last words. To be called before [`end`](Self::end), if at all.
    pub fn quote(&self, last_words: String) {
        let _ = self.last_words.set(last_words);
    }

    /// The peer's last words, if it has ended and left any.
    pub fn last_words(&self) -> Option<String> {
        self.exit().and_then(|_| self.last_words.get().cloned())
    }

    /// Records how the peer ended and wakes every waiter. Only the first call counts.
    pub fn end(&self, exit: Exit) {
        let _ = self.exit.set(exit);
        // Release: publishes `exit` and `last_words`. Pairs with the Acquire in `exit` and in `Waiter::is_dead`.
        self.dead.word().store(1, Release);
        self.dead.wake();
        self.alarm.iter().for_each(|alarm| alarm.wake());
        self.hook.get().iter().for_each(|hook| hook());
    }

    /// Has `hook` called when the peer has ended, or at once if it has. Only the first call counts.
    pub fn on_end(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.hook.set(Box::new(hook));
        // The peer may have ended before, and found no hook.
        if self.exit().is_some() {
            self.hook.get().iter().for_each(|hook| hook());
        }
    }

    /// Notes that this process tried to kill the peer and was not allowed to. Returns whether that is new.
    pub(crate) fn note_kill_refused(&self) -> bool {
        self.kill_refused.set(()).is_ok()
    }

    /// Whether this process still talks to the peer, or was not allowed to kill it.
    pub fn is_alive(&self) -> bool {
        self.exit().is_none() && (self.cause.get().is_none() || self.kill_refused.get().is_some())
    }

    /// Records why this process is about to end the peer. Only the first call counts, and none after the peer has ended.
    pub(crate) fn blame(&self, cause: Cause) {
        if self.exit().is_none() {
            let _ = self.cause.set(cause);
        }
    }

    /// Records why this process is about to kill the peer, if not for a [`Cause`]. Only the first call counts, and none after the peer has ended.
    pub fn explain(&self, because: &str) {
        if self.exit().is_none() {
            let _ = self.because.set(because.into());
        }
    }

    /// The reason given to [`explain`](Self::explain).
    pub fn because(&self) -> Option<Box<str>> {
        self.because.get().cloned()
    }

    /// Notes that the peer is being killed.
    pub(crate) fn condemn(&self) {
        self.condemned.get_or_init(Instant::now);
    }

    /// Whether the peer should have ended by now.
    pub(crate) fn is_overdue(&self) -> bool {
        self.exit().is_none() && self.condemned.get().is_some_and(|since| since.elapsed() >= OVERDUE)
    }

    /// Whether the peer has been killed, and has not ended.
    pub(crate) fn is_being_killed(&self) -> bool {
        self.exit().is_none() && self.condemned.get().is_some()
    }

    /// Whether the peer has ended, or this process is about to end it: new calls are refused.
    #[inline]
    pub fn is_over(&self) -> bool {
        // Relaxed: nothing is read on the strength of this; `exit` looks again.
        self.dead.word().load(Relaxed) != 0 || self.cause.get().is_some()
    }

    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }

    /// How the peer ended; `None` while it lives.
    pub fn exit(&self) -> Option<Exit> {
        // Acquire: pairs with the Release in `end`.
        if self.dead.word().load(Acquire) == 0 { None } else { self.exit.get().copied() }
    }

    /// Waits until the peer has ended, at most until `deadline`.
    pub fn wait(&self, deadline: Deadline) -> Option<Exit> {
        loop {
            if let Some(exit) = self.exit() {
                return Some(exit);
            }
            if self.dead.wait(0, deadline.left()) == Woken::DeadlinePassed {
                return self.exit();
            }
        }
    }
}
