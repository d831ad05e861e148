//! The watcher: one thread per process that starts children, notices the end of those and of other peers, and reads their control sockets.
//!
//! It sleeps in epoll; it never polls and sends no heartbeats, but while memory may be given back it looks four times a second. It lives as long as
//! the process, because the kernel kills a child when the thread that started it exits. Nothing that it does on behalf of a child may block: the same
//! thread watches every other child.

#![forbid(unsafe_code)]

mod rings;

use callgate_os::inotify::{Releases, WatchId};
use callgate_os::pidfd::Pidfd;
use callgate_os::poll::{PollSet, Waker};
use callgate_os::toll::{Credit, SPELL};
use callgate_os::{selfproc, signals};
use callgate_transport::bounds::{BURST, MESSAGES};
use callgate_transport::error::Exit;
pub(crate) use rings::listen_to;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A process as the watcher sees it, a child or another. Its methods run on the watcher's thread and must not block.
pub trait Watched: Send + Sync {
    /// The process.
    fn pidfd(&self) -> &Pidfd;

    /// This end of the control socket.
    fn control(&self) -> BorrowedFd<'_>;

    /// Reads one message, because the control socket is readable. `false` = the socket is useless: stop reading it, and [give up](Self::give_up) the
    /// process.
    fn read_control(&self) -> bool;

    /// Gives the process up: a child is killed, and watched until it has [ended](Self::ended); any other process is left alone, which ends it as far
    /// as this process is concerned. Returns whether it must still be watched.
    fn give_up(&self) -> bool;

    /// Gives back memory that has not been used since the last call. `true` = ask again.
    fn tidy(&self) -> bool;

    /// What the control socket has cost since this was last called: see [`Toll`](callgate_os::toll::Toll).
    fn take_cost(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether this process has started it, and so must reap it.
    fn is_child(&self) -> bool {
        true
    }

    /// Whether it was killed and has taken so long to end that it need not be waited for any longer.
    fn is_overdue(&self) -> bool {
        false
    }

    /// Whether it was killed and has not ended.
    fn is_being_killed(&self) -> bool {
        false
    }

    /// Called when the process has ended.
    fn ended(&self, exit: Exit);

    /// The eventfd that the process rings, if there is one. It stays readable: only rings count.
    fn ring(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Called when it has rung. Returns whether it had reason to.
    fn rung(&self) -> bool {
        false
    }
}

/// Looks for what a process rings about. Runs on the watcher's thread and must not block.
pub trait Reactive: Send + Sync {
    /// Called when the process has rung or ended. Returns whether there was anything.
    fn react(&self) -> bool;
}

/// Has something to do at a point in time, see [`look_at`]. Runs on the watcher's thread and must not block.
pub trait Due: Send + Sync {
    /// Called when the time has come. Returns when to call again, if at all.
    fn is_due(&self) -> Option<Instant>;
}

type Job = Box<dyn FnOnce(&mut Watcher) + Send>;

/// The way to the watcher's thread.
struct WatcherHandle {
    jobs: Sender<Job>,
    waker: Arc<Waker>,
}

/// Runs `job` on the watcher's thread, which is started if need be, and returns its result.
///
/// # Errors
///
/// If the thread cannot be started.
pub fn on_watcher<R: Send + 'static>(job: impl FnOnce() -> R + Send + 'static) -> io::Result<R> {
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
/// If the watcher's thread cannot be started, or there is no descriptor left for it.
pub fn watch(child: Arc<dyn Watched>) -> io::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    submit(Box::new(move |watcher| {
        let _ = sender.send(watcher.add(child));
    }))?;
    receiver.recv().map_err(|_| io::Error::other("the watcher's job panicked"))?
}

/// Has the idle memory of every child given back from now on, until none is left.
///
/// # Errors
///
/// If the watcher's thread cannot be started.
pub(crate) fn tidy_soon() -> io::Result<()> {
    submit(Box::new(|watcher| {
        watcher.next_tidying.get_or_insert_with(|| Instant::now() + TIDYING);
    }))
}

/// Has the watcher call [`is_due`](Due::is_due) of `whom` at the time `at`, if it still exists then. Does not wait for the watcher.
///
/// # Errors
///
/// If the watcher's thread cannot be started.
pub fn look_at(whom: Weak<dyn Due>, at: Instant) -> io::Result<()> {
    submit(Box::new(move |watcher| watcher.due.push((at, whom))))
}

/// Has the watcher check that killed children end in time.
///
/// # Errors
///
/// If the watcher's thread cannot be started.
pub(crate) fn expect_end() -> io::Result<()> {
    submit(Box::new(Watcher::look_for_held))
}

/// Reaps a child that has ended as soon as possible: while another process traces it, it cannot be reaped.
pub fn reap_later(pidfd: Pidfd) {
    // Without a watcher the entry stays as long as this process.
    let _ = submit(Box::new(move |watcher| {
        watcher.held.push(pidfd);
        watcher.look_for_held();
    }));
}

/// How often the watcher looks for ends that are held back, while there are any.
const HELD: Duration = Duration::from_millis(250);

/// How long to wait for the status of a process that has ended.
const STATUS: Duration = Duration::from_millis(20);

/// The owner of memory that it has given away. Told on the watcher's thread when that is released.
pub trait Releasing: Send + Sync {
    /// Called when no process has this segment any more.
    fn released(&self, segment: u64);
}

/// The memory whose release is awaited.
struct ReleaseWatcher {
    /// The process that waits: a fork has the same descriptor and must leave it alone.
    process: u32,
    releases: Arc<Releases>,
    owners: HashMap<WatchId, (Weak<dyn Releasing>, u64)>,
    /// Whether there was none when the watcher last looked.
    has_rested: bool,
}

static AWAITED: Mutex<Option<ReleaseWatcher>> = Mutex::new(None);

/// Has `owner` told when no process has `object` any more. It is the owner's `segment`, and so far only this process has it.
///
/// # Errors
///
/// If the kernel does not report that: see [`Releases`].
pub(crate) fn when_released(object: &OwnedFd, owner: Weak<dyn Releasing>, segment: u64) -> io::Result<()> {
    let mut awaited = AWAITED.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if awaited.as_ref().is_none_or(|awaited| awaited.process != process) {
        let releases = Arc::new(Releases::new()?);
        let same = releases.clone();
        submit(Box::new(move |watcher| {
            // If there is no room for it, memory that is given away counts until its holder is dead.
            let _ = watcher.poll.add(&*same, RELEASES);
            watcher.releases = Some(same);
            watcher.next_tidying.get_or_insert_with(|| Instant::now() + TIDYING);
        }))?;
        *awaited = Some(ReleaseWatcher { process, releases, owners: HashMap::new(), has_rested: false });
    }
    let Some(awaited) = &mut *awaited else { return Err(io::ErrorKind::Other.into()) };
    // Under the lock, so that the thread that reads the event finds its owner.
    let watch = awaited.releases.watch(object)?;
    awaited.owners.insert(watch, (owner, segment));
    awaited.has_rested = false;
    Ok(())
}

/// How often the watcher looks whether memory is still used, while idle memory exceeds `retained`.
const TIDYING: Duration = Duration::from_millis(250);

fn submit(job: Job) -> io::Result<()> {
    static WATCHER: Mutex<Option<(u32, WatcherHandle)>> = Mutex::new(None);
    let mut watcher = WATCHER.lock().unwrap_or_else(PoisonError::into_inner);
    // A fork of this process has a copy of the watcher's state, but not its thread.
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
    children: HashMap<u64, WatchedChild>,
    next: u64,
    next_tidying: Option<Instant>,
    /// Reports memory that no process has any more.
    releases: Option<Arc<Releases>>,
    /// When children that sent too much are read again; `None` if there are none.
    next_resume: Option<Instant>,
    /// Whom to ask what is due, and when. A few bridges at a time: those that have been dropped, and those with calls that are late.
    due: Vec<(Instant, Weak<dyn Due>)>,
    /// Children that have ended and cannot be reaped yet, because another process traces them.
    held: Vec<Pidfd>,
    /// When to look for ends that are held back; `None` if there are none.
    next_look: Option<Instant>,
}

struct WatchedChild {
    watched: Arc<dyn Watched>,
    credit: Credit,
    is_paused: bool,
    /// Whether somebody else hears its rings.
    is_heard_elsewhere: bool,
    /// Rings without reason so far.
    idle_rings: u32,
    /// When it ended without a known status. The process's descriptor is no longer waited for.
    ended: Option<Instant>,
}

/// The keys of the waker and of released memory. Children have four keys each, from 4 on, of which the last two bits say what it is.
const WAKER: u64 = 0;
const RELEASES: u64 = 1;

/// What a child's key stands for.
const PROCESS: u64 = 0;
const CONTROL: u64 = 1;
const RING: u64 = 2;

fn key(id: u64, what: u64) -> u64 {
    id << 2 | what
}

impl Watcher {
    fn start() -> io::Result<WatcherHandle> {
        let (poll, waker) = (PollSet::new()?, Arc::new(Waker::new()?));
        poll.add(&*waker, WAKER)?;
        let (sender, jobs) = mpsc::channel();
        let handle = WatcherHandle { jobs: sender, waker: waker.clone() };
        let watcher = Self::new(poll, waker, jobs);
        std::thread::Builder::new().name("callgate-watch".into()).spawn(move || watcher.run())?;
        Ok(handle)
    }

    fn new(poll: PollSet, waker: Arc<Waker>, jobs: Receiver<Job>) -> Self {
        let (children, held) = Default::default();
        let (next_tidying, next_resume, next_look) = Default::default();
        Self {
            poll,
            waker,
            jobs,
            children,
            next: 1,
            next_tidying,
            next_resume,
            releases: None,
            due: Vec::new(),
            held,
            next_look,
        }
    }

    fn run(mut self) {
        signals::block();
        let mut ready = Vec::new();
        loop {
            ready.clear();
            let next_due = self.due.iter().map(|(at, _)| *at).min();
            let next = [self.next_tidying, self.next_resume, self.next_look, next_due].into_iter().flatten().min();
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
            if self.next_resume.is_some_and(|at| at <= Instant::now()) {
                self.resume_reading();
            }
            if self.next_look.is_some_and(|at| at <= Instant::now()) {
                self.look_at_held();
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

    /// Reads again from children that have sent too much.
    fn resume_reading(&mut self) {
        self.next_resume = None;
        let mut unreadable = Vec::new();
        for (&id, child) in self.children.iter_mut().filter(|(_, child)| child.is_paused) {
            child.is_paused = false;
            if self.poll.add(child.watched.control(), key(id, CONTROL)).is_err()
                || add_ring(&self.poll, child, id).is_err()
            {
                unreadable.push(id);
            }
        }
        // For good: they might wait for an answer for ever.
        unreadable.into_iter().for_each(|id| self.give_up(id));
    }

    /// Stops listening to the child `id`, which is of no more use.
    fn give_up(&mut self, id: u64) {
        let Some(watched) = self.children.get(&id).map(|child| child.watched.clone()) else { return };
        if watched.give_up() {
            self.look_for_held();
        } else {
            self.poll.remove(watched.pidfd().as_fd());
            watched.ring().into_iter().for_each(|ring| self.poll.remove(ring));
            self.children.remove(&id);
        }
    }

    /// Reads the messages of the child `id`.
    fn read_from(&mut self, id: u64) {
        let Some(child) = self.children.get_mut(&id) else { return };
        // Including the time that other threads spent on sending.
        child.credit.charge_time(child.watched.take_cost());
        if !child.credit.take(1) {
            self.pause(id);
        } else if !child.watched.read_control() {
            self.poll.remove(child.watched.control());
            self.give_up(id);
        }
    }

    /// Handles a ring of the child `id`. One without reason counts as a message.
    fn ring(&mut self, id: u64) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if child.watched.rung() {
            return;
        }
        // A thread may have been quicker: such rings are cheaper than messages.
        child.idle_rings = child.idle_rings.wrapping_add(1);
        if child.idle_rings.is_multiple_of(2) && !child.credit.take(1) {
            self.pause(id);
        }
    }

    /// Listens to the child `id`, which has sent too much, no more for a while.
    fn pause(&mut self, id: u64) {
        let Some(child) = self.children.get_mut(&id).filter(|child| !child.is_paused) else { return };
        child.is_paused = true;
        self.poll.remove(child.watched.control());
        child.watched.ring().into_iter().for_each(|ring| self.poll.remove(ring));
        self.next_resume.get_or_insert_with(|| Instant::now() + SPELL);
    }

    fn tidy(&mut self) {
        let untidy = self.children.values().filter(|child| child.watched.tidy()).count();
        let is_idle = self.close_idle_releases();
        self.next_tidying = (untidy > 0 || is_idle).then(|| Instant::now() + TIDYING);
    }

    /// Closes the descriptor that reports released memory, if none was awaited since the last look. Returns whether none is, and it is open.
    fn close_idle_releases(&mut self) -> bool {
        let mut awaited = AWAITED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = awaited.as_mut().filter(|awaited| awaited.owners.is_empty()) else { return false };
        if !std::mem::replace(&mut found.has_rested, true) {
            return true;
        }
        let closed = (awaited.take(), self.releases.take());
        drop(awaited);
        closed.1.iter().for_each(|releases| self.poll.remove(&**releases));
        // The kernel takes its time.
        let _ = std::thread::Builder::new().name("callgate-unmap".into()).spawn(move || drop(closed));
        false
    }

    fn handle(&mut self, key: u64) {
        if key == WAKER {
            self.waker.clear();
            while let Ok(job) = self.jobs.try_recv() {
                // A job that panics (say, because `Command` cannot allocate) must not take the watcher with it.
                let _ = catch_unwind(AssertUnwindSafe(|| job(self)));
            }
            return;
        }
        if key == RELEASES {
            return self.tell_released();
        }
        let id = key >> 2;
        match key & 3 {
            CONTROL => return self.read_from(id),
            RING => return self.ring(id),
            _ => {}
        }
        let Some(child) = self.children.get(&id).map(|child| child.watched.clone()) else { return };
        match exit_of(&*child) {
            Some(exit) => self.end(id, exit),
            None => self.await_status(id),
        }
    }

    /// Handles the end of the process `id`.
    fn end(&mut self, id: u64, exit: Exit) {
        let Some(WatchedChild { watched, .. }) = self.children.remove(&id) else { return };
        self.poll.remove(watched.control());
        self.poll.remove(watched.pidfd().as_fd());
        watched.ring().into_iter().for_each(|ring| self.poll.remove(ring));
        watched.ended(exit);
    }

    // ---- ends that are held back -----------------------------------------------------------------------------------

    /// Handles the end of the process `id` when there is no status: another process traces it and has first claim. Its descriptor stays readable, so
    /// it is not waited for any more.
    fn await_status(&mut self, id: u64) {
        let Some(child) = self.children.get_mut(&id) else { return };
        self.poll.remove(child.watched.pidfd().as_fd());
        child.ended = Some(Instant::now());
        self.look_within(STATUS);
    }

    fn look_for_held(&mut self) {
        self.look_within(HELD);
    }

    fn look_within(&mut self, time: Duration) {
        let at = Instant::now() + time;
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }

    /// Treats everything that has ended, or should have, as ended, whether or not there is a status.
    fn look_at_held(&mut self) {
        self.next_look = None;
        self.held.retain(|pidfd| pidfd.reap().is_none());
        let mut ended = Vec::new();
        let mut waits = !self.held.is_empty();
        for (&id, WatchedChild { watched, ended: since, .. }) in &self.children {
            let is_due = since.is_some_and(|since| since.elapsed() >= STATUS) || watched.is_overdue();
            match since.and_then(|_| exit_of(&**watched)) {
                Some(exit) => ended.push((id, exit)),
                None if is_due => ended.push((id, Exit::Unknown)),
                None => waits |= since.is_some() || watched.is_being_killed(),
            }
        }
        for (id, exit) in ended {
            let held = self.children.get(&id).map(|child| child.watched.clone());
            let held = held.filter(|held| held.is_child() && exit == Exit::Unknown);
            // Only the entry is kept in mind, nothing else of the child. Without a free descriptor, the entry stays.
            self.held.extend(held.and_then(|held| held.pidfd().try_clone().ok()));
            waits |= !self.held.is_empty();
            self.end(id, exit);
        }
        if waits {
            self.look_for_held();
        }
    }

    /// Tells owners of memory that it is released.
    fn tell_released(&mut self) {
        let mut awaited = AWAITED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut owners = Vec::new();
        if let (Some(releases), Some(awaited)) = (&self.releases, awaited.as_mut()) {
            let mut released = Vec::new();
            releases.read(awaited.owners.keys().copied(), &mut released);
            owners.extend(released.iter().filter_map(|watch| awaited.owners.remove(watch)));
        }
        if awaited.as_ref().is_some_and(|awaited| awaited.owners.is_empty()) {
            self.next_tidying.get_or_insert_with(|| Instant::now() + TIDYING);
        }
        drop(awaited);
        for (owner, segment) in owners {
            if let Some(owner) = owner.upgrade() {
                owner.released(segment);
            }
        }
    }

    fn add(&mut self, child: Arc<dyn Watched>) -> io::Result<()> {
        let id = self.next;
        self.next += 1;
        let child = WatchedChild {
            watched: child,
            credit: Credit::new(BURST, MESSAGES),
            is_paused: false,
            is_heard_elsewhere: false,
            idle_rings: 0,
            ended: None,
        };
        let watched = &child.watched;
        self.poll.add(watched.pidfd().as_fd(), key(id, PROCESS))?;
        let added = self.poll.add(watched.control(), key(id, CONTROL)).and_then(|()| add_ring(&self.poll, &child, id));
        if let Err(error) = added {
            self.poll.remove(watched.control());
            self.poll.remove(watched.pidfd().as_fd());
            return Err(error);
        }
        self.children.insert(id, child);
        Ok(())
    }
}

/// Listens for the child's rings, unless somebody else does.
fn add_ring(poll: &PollSet, child: &WatchedChild, id: u64) -> io::Result<()> {
    child.watched.ring().filter(|_| !child.is_heard_elsewhere).map_or(Ok(()), |ring| poll.add_edge(ring, key(id, RING)))
}

/// How the process ended, as far as that can be known now. Reaps a child.
fn exit_of(watched: &dyn Watched) -> Option<Exit> {
    if watched.is_child() { watched.pidfd().reap() } else { watched.pidfd().look() }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::OwnedFd;

    /// A process that is left alone when it is given up.
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
        let mut watcher = Watcher::new(poll, waker, jobs);
        let control = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let stranger = Arc::new(Stranger(Pidfd::of_nobody(), control));
        watcher.add(stranger.clone()).unwrap();
        // As if it had sent too much, but it is still in the set, which holds it only once.
        watcher.children.values_mut().for_each(|child| child.is_paused = true);
        watcher.resume_reading();
        assert!(watcher.children.is_empty());
        assert_eq!(Arc::strong_count(&stranger), 1);
    }
}
