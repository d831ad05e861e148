//! What a runtime's driver calls when a child rings.

#![forbid(unsafe_code)]

use callgate_engine::caller::Caller;
use callgate_engine::watcher::Reactive;
use callgate_os::sync::AtomicU32;
use callgate_os::sync::Ordering::{Relaxed, SeqCst};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

/// How often in a row a child may ring for nothing. A healthy one does when a thread was quicker than the driver.
const MOST_IDLE: u32 = 1000;

/// A ring, as a runtime's driver sees it.
pub(super) trait Ring: Send + Sync + Sized + 'static {
    /// Registers a descriptor with the driver.
    fn new(ring: OwnedFd) -> io::Result<Self>;

    /// Whether it has rung since the last time. If not, the waker is called when it does.
    fn poll_rung(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Looks for replies whenever the child rings.
struct RingListener<R> {
    ring: R,
    caller: Weak<Caller>,
    /// Its number among the caller's reactors.
    number: u64,
    /// Rings without reason in a row.
    idle: AtomicU32,
    /// Not 0 if a thread looks now, and if it is to look again.
    is_looking: AtomicU32,
    must_look: AtomicU32,
}

/// Has the driver that `R` stands for wake tasks from now on. If it cannot, the watcher does.
pub(super) fn listen<R: Ring>(caller: &Arc<Caller>, number: u64) {
    if caller.has_reactor(number) {
        return;
    }
    let Ok(Some(ring)) = caller.ring().and_then(|ring| ring.map(R::new).transpose()) else {
        // Not to be tried again: there is no descriptor left, or the runtime has no I/O.
        caller.rely_on_watcher();
        caller.add_reactor(number, Arc::new(()));
        return;
    };
    let listener = Arc::new(RingListener {
        ring,
        caller: Arc::downgrade(caller),
        number,
        idle: AtomicU32::new(0),
        is_looking: AtomicU32::new(0),
        must_look: AtomicU32::new(0),
    });
    caller.add_reactor(number, listener.clone());
    // Also registers it. What has been rung before is found, because the descriptor is readable by then.
    listener.wake();
}

impl<R: Ring> RingListener<R> {
    /// Looks for replies until there is no ring any more.
    fn look(self: &Arc<Self>) {
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        while let Poll::Ready(rung) = self.ring.poll_rung(&mut context) {
            let Some(caller) = self.caller.upgrade() else { return };
            let has_reason = caller.react();
            let idle = if has_reason { 0 } else { self.idle.load(Relaxed) + 1 };
            self.idle.store(idle, Relaxed);
            if rung.is_err() || idle > MOST_IDLE {
                // A child that rings for nothing is left to the watcher, which bounds what it hears.
                return caller.remove_reactor(self.number, rung.is_ok());
            }
        }
    }
}

impl<R: Ring> Wake for RingListener<R> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// One thread at a time looks. A wake that finds one looking, such as one that comes out of `poll_rung` itself, has that one look again.
    fn wake_by_ref(self: &Arc<Self>) {
        // SeqCst throughout: whoever leaves stores `is_looking`, and then reads `must_look`; whoever comes stores `must_look`, and then reads `is_looking`. So
        // not both find what was before: the one sees that it is to look again, or the other that nobody looks.
        self.must_look.store(1, SeqCst);
        while self.must_look.load(SeqCst) != 0 && self.is_looking.swap(1, SeqCst) == 0 {
            self.must_look.store(0, SeqCst);
            self.look();
            self.is_looking.store(0, SeqCst);
        }
    }
}
