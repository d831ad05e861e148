//! The watcher: one thread per process that starts children, notices the death of those and of other processes that this one talks to, and
//! reads their control sockets.
//!
//! It sleeps in epoll; it never polls and never sends heartbeats (but looks four times a second whether memory can be given back, while
//! there is any). It lives as long as the process, which matters: a child is
//! killed by the kernel when the thread that started it exits. Nothing it does on behalf of a child may block, because
//! every other child is watched by the same thread.

#![forbid(unsafe_code)]

use crate::error::Exit;
use crate::sys::pidfd::Pidfd;
use crate::sys::poll::{PollSet, Waker};
use crate::sys::{selfproc, signals};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A process as the watcher sees it, a child or another. Its methods run on the watcher's thread and must not block.
pub(crate) trait Watched: Send + Sync {
    /// The process.
    fn pidfd(&self) -> &Pidfd;

    /// This end of the control socket.
    fn control(&self) -> BorrowedFd<'_>;

    /// The control socket can be read: reads one message. `false` = it is of no more use: stop reading it, and [give up](Self::give_up) the
    /// process.
    fn read_control(&self) -> bool;

    /// The process is of no more use: a child is killed, and watched until it has [ended](Self::ended); another one is left to itself, which
    /// is its end as far as this process is concerned. Whether it is still to be watched.
    fn give_up(&self) -> bool;

    /// Gives memory back that nobody has used since the last time. `true` = ask again.
    fn tidy(&self) -> bool;

    /// How the process ended; `None` while it lives. Who has started it takes its entry from the process table.
    fn exit(&self) -> Option<Exit> {
        self.pidfd().reap()
    }

    /// The process has ended.
    fn ended(&self, exit: Exit);
}

/// What has something to do at a point in time, see [`look_at`]. Runs on the watcher's thread and must not block.
pub(crate) trait Due: Send + Sync {
    /// The time has come. Returns when to ask again, if so.
    fn is_due(&self) -> Option<Instant>;
}

type Job = Box<dyn FnOnce(&mut Watcher) + Send>;

/// How to reach the watcher's thread.
struct Handle {
    jobs: Sender<Job>,
    waker: Arc<Waker>,
}

/// Runs `job` on the watcher's thread, starting that if need be, and returns what it returned.
///
/// # Errors
///
/// If the thread cannot be started.
pub(crate) fn on_watcher<R: Send + 'static>(job: impl FnOnce() -> R + Send + 'static) -> io::Result<R> {
    let (sender, receiver) = mpsc::sync_channel(1);
    submit(Box::new(move |_| {
        let _ = sender.send(job());
    }))?;
    receiver.recv().map_err(|_| io::Error::other("the watcher's job panicked"))
}

/// Watches a child from now on, until it has ended.
///
/// # Errors
///
/// If the watcher's thread cannot be started, or has no room for another descriptor.
pub(crate) fn watch(child: Arc<dyn Watched>) -> io::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    submit(Box::new(move |watcher| {
        let _ = sender.send(watcher.add(child));
    }))?;
    receiver.recv().map_err(|_| io::Error::other("the watcher's job panicked"))?
}

/// Has every child tidied from now on, until there is nothing left to do.
///
/// # Errors
///
/// If the watcher's thread cannot be started.
pub(crate) fn tidy_soon() -> io::Result<()> {
    submit(Box::new(|watcher| {
        watcher.next_tidying.get_or_insert_with(|| Instant::now() + TIDYING);
    }))
}

/// Has the watcher ask `whom` what [is due](Due::is_due) at the time `at`, if it is still there then. Does not wait for the watcher.
///
/// # Errors
///
/// If the watcher's thread cannot be started.
pub(crate) fn look_at(whom: Weak<dyn Due>, at: Instant) -> io::Result<()> {
    submit(Box::new(move |watcher| watcher.due.push((at, whom))))
}

/// How often the watcher looks whether memory is still used, while there is more than may be kept.
const TIDYING: Duration = Duration::from_millis(250);

fn submit(job: Job) -> io::Result<()> {
    static WATCHER: Mutex<Option<(u32, Handle)>> = Mutex::new(None);
    let mut watcher = WATCHER.lock().unwrap_or_else(PoisonError::into_inner);
    // A fork of this process has the memory of a watcher, but not the thread.
    let pid = std::process::id();
    let handle = match &mut *watcher {
        Some((owner, handle)) if *owner == pid => handle,
        other => &mut other.insert((pid, Watcher::start()?)).1,
    };
    handle.jobs.send(job).map_err(|_| io::Error::other("the watcher's thread is gone"))?;
    handle.waker.wake();
    Ok(())
}

struct Watcher {
    poll: PollSet,
    waker: Arc<Waker>,
    jobs: Receiver<Job>,
    children: HashMap<u64, Child>,
    next: u64,
    next_tidying: Option<Instant>,
    /// When children that have said too much are listened to again; `None` if there are none.
    next_hearing: Option<Instant>,
    /// Who is to be asked what is due, and when. A few bridges at a time: those that have been dropped, and those with calls that are late.
    due: Vec<(Instant, Weak<dyn Due>)>,
}

struct Child {
    watched: Arc<dyn Watched>,
    /// How many messages it is listened to for, and since when it has been given no more of them.
    credit: u32,
    credited: Instant,
    is_unheard: bool,
}

/// A child is listened to for so many messages at once, and for [`MESSAGES`] more in each [`SPELL`]: one that floods its socket takes a few
/// hundredths of a CPU, and no more. A healthy child asks for segments, one after the other, and gives back what it has been given.
const BURST: u32 = 1024;
const MESSAGES: u32 = 64;
const SPELL: Duration = Duration::from_millis(10);

impl Child {
    /// Whether it may be listened to for another message, which is taken from its credit.
    fn may_speak(&mut self) -> bool {
        let spells = u32::try_from(self.credited.elapsed().as_millis() / SPELL.as_millis()).unwrap_or(u32::MAX);
        if spells > 0 {
            self.credit = self.credit.saturating_add(spells.saturating_mul(MESSAGES)).min(BURST);
            self.credited = Instant::now();
        }
        self.credit.checked_sub(1).map(|left| self.credit = left).is_some()
    }
}

/// The key of the waker; children have two keys each, from 2 on: even for the process, odd for the control socket.
const WAKER: u64 = 0;

impl Watcher {
    fn start() -> io::Result<Handle> {
        let (poll, waker) = (PollSet::new()?, Arc::new(Waker::new()?));
        poll.add(&*waker, WAKER)?;
        let (sender, jobs) = mpsc::channel();
        let handle = Handle { jobs: sender, waker: waker.clone() };
        let watcher = Self {
            poll,
            waker,
            jobs,
            children: HashMap::new(),
            next: 1,
            next_tidying: None,
            next_hearing: None,
            due: Vec::new(),
        };
        std::thread::Builder::new().name("callgate-watch".into()).spawn(move || watcher.run())?;
        Ok(handle)
    }

    fn run(mut self) {
        signals::block();
        let mut ready = Vec::new();
        loop {
            ready.clear();
            let next_due = self.due.iter().map(|(at, _)| *at).min();
            let next = self.next_tidying.into_iter().chain(self.next_hearing).chain(next_due).min();
            let limit = next.map(|at| at.saturating_duration_since(Instant::now()));
            if self.poll.wait(limit, &mut ready).is_err() {
                // Not a state that the kernel documents; without the watcher no death would be noticed.
                selfproc::kill_self();
            }
            for &key in &ready {
                self.handle(key);
            }
            if self.next_tidying.is_some_and(|at| at <= Instant::now()) {
                self.tidy();
            }
            if self.next_hearing.is_some_and(|at| at <= Instant::now()) {
                self.hear_again();
            }
            if next_due.is_some_and(|at| at <= Instant::now()) {
                self.look_at_due();
            }
        }
    }

    fn look_at_due(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self.due.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, whom) in due {
            let next = whom.upgrade().and_then(|whom| whom.is_due());
            self.due.extend(next.map(|at| (at, whom)));
        }
    }

    /// Listens again to children that have said too much.
    fn hear_again(&mut self) {
        self.next_hearing = None;
        let mut unheard = Vec::new();
        for (&id, child) in self.children.iter_mut().filter(|(_, child)| child.is_unheard) {
            child.is_unheard = false;
            if self.poll.add(child.watched.control(), id << 1 | 1).is_err() {
                unheard.push(id);
            }
        }
        // For good: they might wait for an answer for ever.
        unheard.into_iter().for_each(|id| self.give_up(id));
    }

    /// The child `id` is of no more use, and its control socket is not listened to.
    fn give_up(&mut self, id: u64) {
        let Some(watched) = self.children.get(&id).map(|child| child.watched.clone()) else { return };
        if !watched.give_up() {
            self.poll.remove(watched.pidfd().as_fd());
            self.children.remove(&id);
        }
    }

    /// Reads what the child `id` has said.
    fn hear(&mut self, id: u64) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if !child.may_speak() {
            child.is_unheard = true;
            self.poll.remove(child.watched.control());
            self.next_hearing.get_or_insert_with(|| Instant::now() + SPELL);
        } else if !child.watched.read_control() {
            self.poll.remove(child.watched.control());
            self.give_up(id);
        }
    }

    fn tidy(&mut self) {
        let untidy = self.children.values().filter(|child| child.watched.tidy()).count();
        self.next_tidying = (untidy > 0).then(|| Instant::now() + TIDYING);
    }

    fn handle(&mut self, key: u64) {
        if key == WAKER {
            self.waker.clear();
            while let Ok(job) = self.jobs.try_recv() {
                // A job that panics (an allocation failure in `Command`, say) must not take the watcher with it.
                let _ = catch_unwind(AssertUnwindSafe(|| job(self)));
            }
            return;
        }
        if key & 1 == 1 {
            return self.hear(key >> 1);
        }
        let Some(child) = self.children.get(&(key >> 1)).map(|child| child.watched.clone()) else { return };
        if let Some(exit) = child.exit() {
            self.poll.remove(child.control());
            self.poll.remove(child.pidfd().as_fd());
            self.children.remove(&(key >> 1));
            child.ended(exit);
        }
    }

    fn add(&mut self, child: Arc<dyn Watched>) -> io::Result<()> {
        let id = self.next;
        self.next += 1;
        self.poll.add(child.pidfd().as_fd(), id << 1)?;
        if let Err(error) = self.poll.add(child.control(), id << 1 | 1) {
            self.poll.remove(child.pidfd().as_fd());
            return Err(error);
        }
        let child = Child { watched: child, credit: BURST, credited: Instant::now(), is_unheard: false };
        self.children.insert(id, child);
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::OwnedFd;

    /// A process that is left to itself when it is given up.
    struct Stranger(Pidfd, OwnedFd);

    impl Watched for Stranger {
        fn pidfd(&self) -> &Pidfd {
            &self.0
        }

        fn control(&self) -> BorrowedFd<'_> {
            self.1.as_fd()
        }

        fn read_control(&self) -> bool {
            true
        }

        fn give_up(&self) -> bool {
            false
        }

        fn tidy(&self) -> bool {
            false
        }

        fn ended(&self, _: Exit) {}
    }

    #[test]
    fn a_stranger_that_cannot_be_heard_again_is_watched_no_more() {
        let (poll, waker) = (PollSet::new().unwrap(), Arc::new(Waker::new().unwrap()));
        let (_sender, jobs) = mpsc::channel();
        let mut watcher = Watcher {
            poll,
            waker,
            jobs,
            children: HashMap::new(),
            next: 1,
            next_tidying: None,
            next_hearing: None,
            due: Vec::new(),
        };
        let control = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let stranger = Arc::new(Stranger(Pidfd::of_nobody(), control));
        watcher.add(stranger.clone()).unwrap();
        // As if it had said too much; but it is in the set all the same, where it can be but once.
        watcher.children.values_mut().for_each(|child| child.is_unheard = true);
        watcher.hear_again();
        assert!(watcher.children.is_empty());
        assert_eq!(Arc::strong_count(&stranger), 1);
    }
}
