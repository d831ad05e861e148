//! How a sleeping side is woken: the one part of a doorbell that differs between backends.
//!
//! [`doorbell`](crate::doorbell) decides when to sleep and when to wake, in the same way for all backends: a waiter says that
//! it parks, looks once more and only then sleeps; a notifier publishes, looks, and wakes only a parked waiter. So nothing here
//! runs while both sides are awake. In every backend a wake between the waiter's last look and its sleep must end
//! that sleep. A sleep may also end spuriously.

#![forbid(unsafe_code)]

mod eventfd;
mod futex;
mod ring;
#[cfg(feature = "portable")]
mod raw_sync;

use crate::backing::Backing;
use crate::layout::{BellLine, Geometry};
#[cfg(feature = "portable")]
use crate::portable::TrustedChild;
use callgate_os::close::Aside;
use callgate_os::eventfd as kernel_eventfd;
use callgate_os::futex::Futex;
use callgate_os::futex::PrivateScope;
use callgate_os::poll::Waker;
use eventfd::{Listener, Ringer};
pub use futex::FutexSleeper;
use ring::WithRing;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// The mechanism that wakes a sleeping side of a bridge. It costs nothing while both sides are awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// A futex in shared memory, in both directions. The cheapest.
    #[default]
    Futex,
    /// An eventfd for each lane wakes the caller. The child is still woken through a futex. Takes two descriptors of the parent's for each lane.
    EventFd,
    /// Events of the crate `raw_sync` (a process-shared pthread mutex and condition variable), in both directions. For a child
    /// that is trusted: it can write to them.
    ///
    /// Whoever waits for or sets such an event blocks while another holds its lock, for ever if that one was killed. So that no
    /// call does, the parent has a thread for each lane and one more; a child that is killed in the moment in which it holds a
    /// lock leaves some of them, and the events' memory, behind in the parent until that ends.
    #[cfg(feature = "portable")]
    RawSync(TrustedChild),
}

impl Signal {
    /// The name by which the environment variable `CALLGATE_SIGNAL` knows it.
    #[doc(hidden)]
    pub fn name(self) -> &'static str {
        match self {
            Signal::Futex => "futex",
            Signal::EventFd => "eventfd",
            #[cfg(feature = "portable")]
            Signal::RawSync(_) => "raw-sync",
        }
    }

    #[doc(hidden)]
    pub const ALL: &[Signal] = &[
        Signal::Futex,
        Signal::EventFd,
        #[cfg(feature = "portable")]
        Signal::RawSync(TrustedChild::for_lists()),
    ];

    /// Whether choosing it takes a `TrustedChild`.
    #[doc(hidden)]
    pub fn trusts_the_child(self) -> bool {
        !matches!(self, Signal::Futex | Signal::EventFd)
    }

    /// The backend as a number.
    #[doc(hidden)]
    pub fn code(self) -> u8 {
        match self {
            Signal::Futex => 0,
            Signal::EventFd => 1,
            #[cfg(feature = "portable")]
            Signal::RawSync(_) => 2,
        }
    }

    /// The inverse of [`code`](Self::code).
    #[doc(hidden)]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|signal| signal.code() == code)
    }
}

/// Sleeps at one doorbell, and wakes the thread that sleeps there.
pub trait Sleeper: Send + Sync {
    /// Sleeps until woken, until `dead` is not 0, or until `left` has passed. May return earlier, spuriously.
    fn sleep(&self, bell: &BellLine, dead: Option<&Futex<PrivateScope>>, left: Option<Duration>);

    /// Ends the sleep at `bell`, or the next one if there is none. Never blocks.
    fn wake(&self, bell: &BellLine);

    /// Ends the sleep of a thread of this process at `bell`, if it can be done without the peer's descriptors.
    fn rouse(&self, _bell: &BellLine) {}

    /// Whether [`rouse`](Self::rouse) can do so.
    fn can_rouse(&self) -> bool {
        false
    }

    /// Tells the peer's reactor, because no thread of the peer sleeps. Never blocks.
    fn ring(&self) {}
}

/// How many doorbells a bridge has.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub lanes: u32,
    pub workers: u32,
}

impl Count {
    pub fn of(geometry: &Geometry) -> Self {
        Self { lanes: geometry.lanes, workers: geometry.workers }
    }
}

/// The backends of all doorbells of a bridge, as one side uses them.
pub struct Bells {
    lanes: Vec<Arc<dyn Sleeper>>,
    workers: Vec<Arc<dyn Sleeper>>,
}

impl Bells {
    /// The doorbell of the caller of lane `index`.
    pub fn lane(&self, index: u32) -> Arc<dyn Sleeper> {
        self.lanes[index as usize].clone()
    }

    /// The doorbell of worker `index` of the child.
    pub fn worker(&self, index: u32) -> Arc<dyn Sleeper> {
        self.workers[index as usize].clone()
    }

    /// Doorbells that need only their words in the segment.
    pub fn futexes(count: Count) -> Self {
        let futex: Arc<dyn Sleeper> = Arc::new(FutexSleeper);
        Self { lanes: vec![futex.clone(); count.lanes as usize], workers: vec![futex; count.workers as usize] }
    }

    /// The child's side, from the `descriptors` of the handshake: first the bridge's ring. `None` if there are too few.
    pub fn of_child(
        signal: Signal,
        count: Count,
        backing: &dyn Backing,
        descriptors: &mut dyn Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let ring = Arc::new(descriptors.next()?);
        let bells = Self::of_signal(signal, count, backing, descriptors)?;
        let with_ring = |sleeper| Arc::new(WithRing { ring: ring.clone(), sleeper }) as Arc<dyn Sleeper>;
        Some(Self { lanes: bells.lanes.into_iter().map(with_ring).collect(), workers: bells.workers })
    }

    fn of_signal(
        signal: Signal,
        count: Count,
        #[cfg_attr(not(feature = "portable"), expect(unused_variables))] backing: &dyn Backing,
        descriptors: &mut dyn Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let futexes = Self::futexes(count);
        match signal {
            Signal::Futex => Some(futexes),
            Signal::EventFd => {
                let ringers = descriptors.map(|ring| Arc::new(Ringer::new(ring)) as Arc<dyn Sleeper>);
                let ringers: Vec<_> = ringers.collect();
                (ringers.len() == count.lanes as usize).then(|| Self { lanes: ringers, ..futexes })
            }
            #[cfg(feature = "portable")]
            Signal::RawSync(_) => raw_sync::of_child(count, backing, descriptors).ok(),
        }
    }
}

/// The parent's side: its doorbells, and their descriptors.
pub struct ParentBells {
    pub bells: Bells,
    /// The descriptors that the child needs, for the handshake.
    rings: Vec<Arc<Aside>>,
    /// Rung when the child has ended, for threads that sleep on descriptors.
    pub alarm: Option<Arc<Waker>>,
    /// Rung by the child for lanes at which no thread sleeps.
    pub ring: Arc<Aside>,
}

impl ParentBells {
    /// The doorbells of a new bridge.
    pub fn new(
        signal: Signal,
        count: Count,
        #[cfg_attr(not(feature = "portable"), expect(unused_variables))] backing: &dyn Backing,
    ) -> io::Result<Self> {
        let ring = Arc::new(Aside::from(kernel_eventfd::create()?));
        match signal {
            Signal::Futex => Ok(Self { bells: Bells::futexes(count), rings: Vec::new(), alarm: None, ring }),
            Signal::EventFd => Self::eventfds(count, ring),
            #[cfg(feature = "portable")]
            Signal::RawSync(_) => {
                let (bells, descriptor) = raw_sync::of_parent(count, backing)?;
                let rings = descriptor.map(|descriptor| Arc::new(descriptor.into())).into_iter().collect();
                Ok(Self { bells, rings, alarm: None, ring })
            }
        }
    }

    fn eventfds(count: Count, ring: Arc<Aside>) -> io::Result<Self> {
        let alarm = Arc::new(Waker::new()?);
        let (mut rings, mut listeners) = (Vec::new(), Vec::<Arc<dyn Sleeper>>::new());
        for _ in 0..count.lanes {
            let listener = Listener::new(&alarm)?;
            rings.push(listener.ring());
            listeners.push(Arc::new(listener));
        }
        let bells = Bells { lanes: listeners, ..Bells::futexes(count) };
        Ok(Self { bells, rings, alarm: Some(alarm), ring })
    }

    /// The descriptors that the child needs, for the handshake.
    pub fn for_child(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(&self.ring).chain(&self.rings).map(|ring| ring.as_fd())
    }
}

impl fmt::Debug for Bells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bells").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}
