//! Sleeping on events of the crate `raw_sync`, in memory of their own.
//!
//! Each use of such an event takes its lock without a time limit, even a wait with a limit (see [`event`]), and a child that is
//! killed at the wrong moment leaves the lock locked. So threads that make calls touch no event. Helper threads do, one for
//! each lane and one for each worker of the child, and may hang instead.

#![forbid(unsafe_code)]

use super::{Bells, Count, Sleeper};
use crate::backing::{Backing, EVENTS};
use crate::layout::BellLine;
use callgate_os::event::{self, SharedEvent};
use callgate_os::futex::{Futex, wait_either};
use callgate_os::futex::{PrivateScope, SharedScope};
use callgate_os::mapping::{Mapping, Protection};
use callgate_os::sync::Ordering::Relaxed;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Weak};
use std::thread::Builder;
use std::time::Duration;

/// A parent's new doorbells, and the descriptors for the child.
pub(crate) fn of_parent(count: Count, backing: &dyn Backing) -> io::Result<(Bells, Option<OwnedFd>)> {
    let (lanes, all) = (count.lanes as usize, (count.lanes + count.workers) as usize);
    let (memory, descriptor) = backing.create(EVENTS, all * event::STRIDE, Protection::ReadWrite)?;
    let memory = Arc::new(memory);
    let events = (0..all).map(|index| Ok(Arc::new(SharedEvent::create(&memory, index)?)));
    let mut events: Vec<Arc<SharedEvent>> = events.collect::<io::Result<_>>()?;
    let workers = events.split_off(lanes);
    // One of the ringers tells the listeners when the bridge is gone.
    let mut told = events.clone();
    let ringer = |event| Ok(Arc::new(EventRinger::start(event, std::mem::take(&mut told))?) as Arc<dyn Sleeper>);
    let workers = workers.into_iter().map(ringer).collect::<io::Result<_>>()?;
    let listener = |event| Ok(Arc::new(EventSleeper::start(event)?) as Arc<dyn Sleeper>);
    let lanes = events.into_iter().map(listener).collect::<io::Result<_>>()?;
    Ok((Bells { lanes, workers }, descriptor))
}

/// A child's doorbells, made by its parent.
pub(crate) fn of_child(
    count: Count,
    backing: &dyn Backing,
    descriptors: &mut dyn Iterator<Item = OwnedFd>,
) -> io::Result<Bells> {
    let memory: Arc<Mapping> = Arc::new(backing.attach(EVENTS, descriptors, Protection::ReadWrite)?);
    let bell = |index| Ok(Arc::new(ChildBell(SharedEvent::open(&memory, index)?)) as Arc<dyn Sleeper>);
    let (lanes, all) = (count.lanes as usize, (count.lanes + count.workers) as usize);
    Ok(Bells {
        lanes: (0..lanes).map(bell).collect::<io::Result<_>>()?,
        workers: (lanes..all).map(bell).collect::<io::Result<_>>()?,
    })
}

/// A caller's doorbell: a word that a thread sets when it hears the event.
struct EventSleeper {
    /// 1 = rung since the last sleep. In this process's private memory.
    rung: Arc<Futex<SharedScope>>,
}

impl EventSleeper {
    fn start(event: Arc<SharedEvent>) -> io::Result<Self> {
        let rung = Arc::new(Futex::new(0));
        let listening = Arc::downgrade(&rung);
        Builder::new().name("callgate-listen".into()).spawn(move || listen(&event, &listening))?;
        Ok(Self { rung })
    }
}

/// Runs until the bridge is gone, which [`EventRinger`] rings for.
fn listen(event: &SharedEvent, rung: &Weak<Futex<SharedScope>>) {
    loop {
        event.wait();
        let Some(rung) = rung.upgrade() else { return };
        // Relaxed: the waiter looks for published frames after the sleep, behind its own fence.
        rung.word().store(1, Relaxed);
        rung.wake();
    }
}

impl Sleeper for EventSleeper {
    fn sleep(&self, _: &BellLine, dead: Option<&Futex<PrivateScope>>, left: Option<Duration>) {
        match dead {
            None => self.rung.wait(0, left),
            Some(dead) => wait_either((&self.rung, 0), (dead, 0), left),
        };
        self.rung.word().store(0, Relaxed);
    }

    /// The caller's doorbell is the child's to ring.
    fn wake(&self, _: &BellLine) {}
}

/// Wakes a child: through a thread that sets the event.
struct EventRinger(SyncSender<()>);

impl EventRinger {
    /// `listened_to` = the events to set when the bridge is gone, so that its listeners end.
    fn start(event: Arc<SharedEvent>, listened_to: Vec<Arc<SharedEvent>>) -> io::Result<Self> {
        let (sender, wakes) = mpsc::sync_channel(1);
        Builder::new().name("callgate-ring".into()).spawn(move || {
            wakes.into_iter().for_each(|()| event.set());
            listened_to.into_iter().for_each(|event| event.set());
        })?;
        Ok(Self(sender))
    }
}

impl Sleeper for EventRinger {
    /// A parent never sleeps at its child's doorbell.
    fn sleep(&self, _: &BellLine, _: Option<&Futex<PrivateScope>>, _: Option<Duration>) {}

    fn wake(&self, _: &BellLine) {
        // If the channel is full, a wake is queued that has not begun. It comes after everything published before this call.
        let _ = self.0.try_send(());
    }
}

/// Both kinds of doorbell in a child. It may block on its parent, because it dies with it.
struct ChildBell(SharedEvent);

impl Sleeper for ChildBell {
    /// A child waits without limit.
    fn sleep(&self, _: &BellLine, _: Option<&Futex<PrivateScope>>, _: Option<Duration>) {
        self.0.wait();
    }

    fn wake(&self, _: &BellLine) {
        self.0.set();
    }
}
