//! Both sides of a call in one thread: the cost of a call without a second process and without cache lines that move between CPUs.
//!
//! `.ci/instructions` counts the instructions of [`send_add`], [`serve`] and [`receive_add`].

#![forbid(unsafe_code)]

use callgate::__codegen::Own;
use callgate_engine::callee::{Parent, Worker};
use callgate_engine::caller::{Caller, QueueLimits, Sent};
use callgate_engine::control::Control;
use callgate_engine::host::{Alone, Host};
use callgate_engine::link::{Link, LinkParts, MemoryOptions};
use callgate_engine::service::{Method, Service};
use callgate_os::pidfd::Pidfd;
use callgate_os::socket;
use callgate_transport::backing::heap::Heap;
use callgate_transport::backing::{Backing, SealedMemfds};
use callgate_transport::doorbell::Wait;
use callgate_transport::layout::Geometry;
use callgate_transport::segment::Segment;
use callgate_transport::wake::{Count, ParentBells, Signal};
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub(crate) struct Counter {
    total: u64,
}

#[callgate::bridge]
impl Counter {
    pub fn new() -> Self {
        Counter { total: 0 }
    }

    pub fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }
}

static ADD: Method =
    Method { service: "Counter", name: "add", index: 1, interface: None, idempotent: false, lends: false };

/// A bridge without a child: the caller, and the parts from which to build a callee in the same process.
pub(crate) struct Ends {
    pub(crate) caller: Arc<Caller>,
    /// The segment as mapped by the caller, then as mapped by the callee.
    pub(crate) segments: [Segment; 2],
    /// The callee's end of the control socket.
    child: OwnedFd,
    wait: Wait,
}

impl Ends {
    /// The ends of a bridge to a `T`.
    pub(crate) fn new<T: Service>(geometry: Geometry) -> Self {
        Self::over::<T>(geometry, Arc::new(SealedMemfds), Wait::Spin)
    }

    /// Like [`new`](Self::new), with a given source of memory and a given way for both sides to wait.
    fn over<T: Service>(geometry: Geometry, backing: Arc<dyn Backing>, wait: Wait) -> Self {
        let (own, object) = Segment::create(geometry, &*backing).unwrap();
        let bells = ParentBells::new(Signal::Futex, Count::of(&geometry), &*backing).unwrap();
        let (parent, child) = socket::pair().unwrap();
        let memory = MemoryOptions { max_payload: 1 << 20, total: 16 << 20, retained: 1 << 20, trust: None };
        let peers = Segment::attach(&*backing, &mut object.into_iter()).unwrap();
        let link = Link::new(1, Pidfd::of_nobody(), parent, &own, LinkParts { memory, backing, bells, kept: None });
        let caller = Caller::new::<T>(&own, link, wait, None, QueueLimits::DEFAULT);
        Self { caller, segments: [own, peers], child, wait }
    }

    /// Builds worker `index` of the callee.
    pub(crate) fn worker<H: Host>(&self, index: u32, host: H) -> Worker<H, Parent> {
        let control = Control::new(self.child.try_clone().unwrap());
        Worker::in_process(&self.segments[1], index, self.wait, control, host)
    }
}

#[inline(never)]
pub(crate) fn send_add(caller: &Caller, n: u64) -> Sent<'_> {
    caller.send(&ADD, (Own(n),), None).unwrap()
}

#[inline(never)]
fn serve(worker: &mut Worker<Alone<Counter>, Parent>) {
    worker.serve_next().unwrap();
}

#[inline(never)]
pub(crate) fn receive_add(caller: &Caller, sent: Sent<'_>) -> u64 {
    caller.finish(sent).unwrap()
}

#[test]
fn one_thread_plays_both_sides() {
    let ends = Ends::new::<Counter>(Geometry { workers: 1, lanes: 8, slots: 32, slot_lines: 9 });
    let (caller, mut worker) = (&ends.caller, ends.worker(0, Alone::of(Counter::new())));
    for call in 1..=1000 {
        let sent = send_add(caller, black_box(1));
        serve(&mut worker);
        assert_eq!(receive_add(caller, sent), call);
    }
}

/// On the heap both sides share one mapping, and thus one address, so that race detectors see both sides' accesses.
#[test]
fn two_threads_play_a_side_each() {
    const CALLS: u64 = 300;
    let geometry = Geometry { workers: 1, lanes: 2, slots: 2, slot_lines: 3 };
    let ends = Ends::over::<Counter>(geometry, Arc::new(Heap::default()), Wait::Park);
    let mut worker = ends.worker(0, Alone::of(Counter::new()));
    std::thread::scope(|scope| {
        scope.spawn(move || (0..2 * CALLS).for_each(|_| serve(&mut worker)));
        for _ in 0..2 {
            scope.spawn(|| {
                let totals = (0..CALLS).map(|_| receive_add(&ends.caller, send_add(&ends.caller, 1)));
                assert!(totals.is_sorted_by(|one, next| one < next));
            });
        }
    });
}
