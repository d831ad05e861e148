//! Closes on a separate thread what others can make slow to close: a lingering socket, a file on a peer's file system, a connection with a million
//! epoll entries to notify at its other end.

#![forbid(unsafe_code)]

use crate::signals;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The most threads that close at the same time. Another one starts only while the others are stuck.
const MOST_THREADS: usize = 8;

/// A descriptor that has waited this long is behind a thread that is stuck.
const STUCK: Duration = Duration::from_millis(5);

/// A descriptor to be closed.
struct Closing {
    descriptor: OwnedFd,
    /// Whether to end the connection first, for every process that holds this end.
    ends: bool,
    since: Instant,
}

/// The descriptors to close, and the number of threads closing them.
struct CloseQueue {
    waiting: VecDeque<Closing>,
    threads: usize,
    /// The process that the threads belong to; a fork has none of them.
    process: u32,
}

static QUEUE: Mutex<CloseQueue> = Mutex::new(CloseQueue { waiting: VecDeque::new(), threads: 0, process: 0 });

fn queue() -> MutexGuard<'static, CloseQueue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes `descriptors` soon. With `ends`, also ends the connections that they belong to, whoever else holds them. If no thread can be started,
/// connections end on this thread, and all descriptors stay open until a thread can be started.
pub fn elsewhere(descriptors: impl IntoIterator<Item = OwnedFd>, ends: bool) {
    let since = Instant::now();
    let mut queue = queue();
    let process = std::process::id();
    if queue.process != process {
        // In a fork, the queue is a copy of the parent's. The parent ends those connections; dropping the copies notifies no peer.
        *queue = CloseQueue { waiting: VecDeque::new(), threads: 0, process };
    }
    queue.waiting.extend(descriptors.into_iter().map(|descriptor| Closing { descriptor, ends, since }));
    let is_stuck = queue.waiting.front().is_some_and(|first| first.since.elapsed() > STUCK);
    let has_none = queue.threads == 0 && !queue.waiting.is_empty();
    if has_none || is_stuck && queue.threads < MOST_THREADS {
        let started = thread::Builder::new().name("callgate-close".into()).spawn(close_all);
        queue.threads += usize::from(started.is_ok());
        if queue.threads == 0 {
            end_here(queue);
        }
    }
}

/// Ends the queued connections on this thread, because no other could be started: a peer may be waiting for that. Closing them is left for later.
fn end_here(mut queue: MutexGuard<'static, CloseQueue>) {
    let (mut ending, others): (VecDeque<_>, _) =
        std::mem::take(&mut queue.waiting).into_iter().partition(|closing| closing.ends);
    queue.waiting = others;
    drop(queue);
    for closing in &mut ending {
        shut_down(&closing.descriptor);
        closing.ends = false;
    }
    self::queue().waiting.extend(ending);
}

/// Closes queued descriptors until the queue is empty.
fn close_all() {
    signals::block();
    loop {
        let mut queue = queue();
        let Some(Closing { descriptor, ends, .. }) = queue.waiting.pop_front() else {
            queue.threads -= 1;
            return;
        };
        drop(queue);
        if ends {
            shut_down(&descriptor);
        }
        drop(descriptor);
    }
}

/// Ends the connection: both ends see that nothing more will come.
pub fn shut_down(socket: impl AsFd) {
    // Fails only if it has ended already.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// A descriptor that is closed [elsewhere] when dropped.
#[derive(Debug)]
pub struct Aside(Option<OwnedFd>);

impl From<OwnedFd> for Aside {
    fn from(descriptor: OwnedFd) -> Self {
        Self(Some(descriptor))
    }
}

impl AsFd for Aside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("there until it is dropped").as_fd()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        elsewhere(self.0.take(), false);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::socket::{BlockingMode, Exposed, Received, pair, receive};
    use crate::toll::{Toll, burden};

    /// The other end sees the close with all its epoll entries, but not on this thread's time.
    #[test]
    fn fault_40_what_is_slow_to_close_keeps_nobody_waiting() {
        for ends in [true, false] {
            let (ours, theirs) = pair().unwrap();
            let burden = burden(&theirs, 300_000);
            let toll = Toll::default();
            toll.pay(|| if ends { drop(Exposed::from(ours)) } else { drop(Aside::from(ours)) });
            assert!(toll.take() < Duration::from_millis(10), "closed while somebody waits");
            assert!(matches!(receive(&theirs, &mut [0; 8], BlockingMode::Yes), Ok(Received::Closed)));
            drop(burden);
        }
    }

    #[test]
    fn all_is_closed_and_no_thread_stays() {
        let ends: Vec<_> = (0..100).map(|_| pair().unwrap()).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        ours.into_iter().for_each(|ours| elsewhere([ours], false));
        for theirs in &theirs {
            assert!(matches!(receive(theirs, &mut [0; 8], BlockingMode::Yes), Ok(Received::Closed)));
        }
    }
}
