//! Who hears the child's rings: the watcher, or reactors of the caller's own.
//!
//! The watcher's thread hears the rings of every bridge, unless a reactor that the waiting tasks' runtime drives has taken its place: then a reply wakes its
//! task without that thread. A reactor is of use to the tasks of its runtime alone, because nobody else knows whether that still runs. So the watcher hears
//! the rings as well from the first time that anybody else relies on one.

#![forbid(unsafe_code)]

use super::Caller;
use crate::watcher::{Reactive, listen_to};
use callgate_os::close::Aside;
use callgate_os::sync::AtomicU32;
use callgate_os::sync::Ordering::Relaxed;
use parking_lot::Mutex;
use std::any::Any;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Who hears the rings of one child.
pub(super) struct Reactors {
    /// What the child rings; `None` for a peer that rings nothing.
    ring: Option<Arc<Aside>>,
    /// Not 0 once somebody relies on the watcher. Written with the lock held.
    needs_watcher: AtomicU32,
    others: Mutex<Others>,
}

#[derive(Default)]
struct Others {
    /// Whether the watcher has been told to listen no more.
    is_alone: bool,
    reactors: Vec<(u64, Arc<dyn Any + Send + Sync>)>,
}

impl Reactors {
    pub fn new(ring: Option<Arc<Aside>>) -> Self {
        Self { ring, needs_watcher: AtomicU32::new(0), others: Mutex::default() }
    }

    fn listen(&self, others: &mut Others, listens: bool) {
        if let Some(ring) = self.ring.as_ref().filter(|_| others.is_alone == listens) {
            // Without a watcher there is no child either.
            let _ = listen_to(ring.clone(), listens);
            others.is_alone = !listens;
        }
    }
}

impl Caller {
    /// Notes that somebody relies on the child's rings who has no reactor.
    #[inline]
    pub fn rely_on_watcher(&self) {
        // Relaxed: whoever finds it set comes after the watcher was told, or is told of by it.
        if self.reactors.needs_watcher.load(Relaxed) == 0 {
            self.rely_on_watcher_slow();
        }
    }

    #[cold]
    fn rely_on_watcher_slow(&self) {
        let mut others = self.reactors.others.lock();
        self.reactors.needs_watcher.store(1, Relaxed);
        self.reactors.listen(&mut others, true);
    }

    /// Whether a reactor of this number hears the rings.
    pub fn has_reactor(&self, number: u64) -> bool {
        self.reactors.others.lock().reactors.iter().any(|(other, _)| *other == number)
    }

    /// A descriptor that becomes readable when the child rings; `None` for a peer that rings nothing. It stays readable until it is read.
    ///
    /// # Errors
    ///
    /// If this process has no descriptor left.
    pub fn ring(&self) -> io::Result<Option<OwnedFd>> {
        self.reactors.ring.as_ref().map(|ring| ring.as_fd().try_clone_to_owned()).transpose()
    }

    /// Keeps a reactor, which hears the rings from now on, and calls [`react`](Reactive::react).
    pub fn add_reactor(&self, number: u64, reactor: Arc<dyn Any + Send + Sync>) {
        let mut others = self.reactors.others.lock();
        others.reactors.push((number, reactor));
        if self.reactors.needs_watcher.load(Relaxed) == 0 {
            self.reactors.listen(&mut others, false);
        }
    }

    /// Drops a reactor that hears the rings no more. The watcher does, for whoever still waits. `is_replaced` = also in its place: then there will be no
    /// other of this number.
    pub fn remove_reactor(&self, number: u64, is_replaced: bool) {
        let mut others = self.reactors.others.lock();
        let place = others.reactors.iter().position(|(other, _)| *other == number);
        let removed = place.map(|place| others.reactors.swap_remove(place));
        if is_replaced {
            others.reactors.push((number, Arc::new(())));
        }
        self.reactors.needs_watcher.store(1, Relaxed);
        self.reactors.listen(&mut others, true);
        drop(others);
        // Not under the lock: it may be other people's code.
        drop(removed);
        self.react();
    }
}
