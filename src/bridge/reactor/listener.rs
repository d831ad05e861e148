//! What a runtime's driver calls when a child rings.

#![forbid(unsafe_code)]

use callgate_engine::caller::Caller;
use callgate_engine::watcher::Reactive;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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
struct Listener<R> {
    ring: R,
    caller: Weak<Caller>,
    /// Its number among the caller's reactors.
    number: u64,
    /// Rings without reason in a row.
    idle: AtomicU32,
    /// Whether a thread looks now, and whether it is to look again.
    is_looking: AtomicBool,
    must_look: AtomicBool,
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
    let listener = Arc::new(Listener {
        ring,
        caller: Arc::downgrade(caller),
        number,
        idle: AtomicU32::new(0),
        is_looking: AtomicBool::new(false),
        must_look: AtomicBool::new(false),
    });
    caller.add_reactor(number, listener.clone());
    // Also registers it. What has been rung before is found, because the descriptor is readable by then.
    listener.wake();
}

impl<R: Ring> Listener<R> {
    /// Looks for replies until there is no ring any more.
    fn look(self: &Arc<Self>) {
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        while let Poll::Ready(rung) = self.ring.poll_rung(&mut context) {
            let Some(caller) = self.caller.upgrade() else { return };
            let has_reason = caller.react();
            let idle = if has_reason { 0 } else { self.idle.load(Ordering::Relaxed) + 1 };
            self.idle.store(idle, Ordering::Relaxed);
            if rung.is_err() || idle > MOST_IDLE {
                return caller.remove_reactor(self.number);
            }
        }
    }
}

impl<R: Ring> Wake for Listener<R> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// One thread at a time looks. A wake that finds one looking, such as one that comes out of `poll_rung` itself, has that one look again.
    fn wake_by_ref(self: &Arc<Self>) {
        // SeqCst: either the thread that looks sees the mark after it has left, or this one finds that it has left.
        self.must_look.store(true, Ordering::SeqCst);
        while self.must_look.load(Ordering::SeqCst) && !self.is_looking.swap(true, Ordering::SeqCst) {
            self.must_look.store(false, Ordering::SeqCst);
            self.look();
            self.is_looking.store(false, Ordering::SeqCst);
        }
    }
}
