//! Both sides of a call in one thread: what a call costs with no process and no cache line in between.
//!
//! `.ci/instructions` counts what [`send_add`], [`serve`] and [`receive_add`] execute.

#![forbid(unsafe_code)]

use crate::__glue::Own;
use crate::call::callee::Worker;
use crate::call::caller::{Caller, Sent};
use crate::call::host::{Alone, Host};
use crate::call::link::{Link, MemoryOptions, Shared};
use crate::call::service::{Method, Service};
use crate::control::Control;
use crate::doorbell::Wait;
use crate::layout::Geometry;
use crate::objects::Sealed;
use crate::segment::Segment;
use crate::signal::{Count, ParentBells, Signal};
use crate::sys::pidfd::Pidfd;
use crate::sys::socket;
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

static ADD: Method = Method { service: "Counter", name: "add", index: 1, interface: None };

/// A bridge without a child: what plays the caller's side, and what a callee in the same process is made of.
pub(crate) struct Ends {
    pub(crate) caller: Caller,
    /// The segment as the caller has it mapped, and as the callee has.
    pub(crate) segments: [Segment; 2],
    /// The callee's end of the control socket.
    child: OwnedFd,
}

impl Ends {
    /// The ends of a bridge to a `T`.
    pub(crate) fn new<T: Service>(geometry: Geometry) -> Self {
        let (own, object) = Segment::create(geometry, &Sealed).unwrap();
        let bells = ParentBells::new(Signal::Futex, Count::of(&geometry), &Sealed).unwrap();
        let (parent, child) = socket::pair().unwrap();
        let memory = MemoryOptions { max_payload: 1 << 20, total: 16 << 20, retained: 1 << 20, trust: None };
        let shared = Shared { memory, objects: Arc::new(Sealed), bells, report: None };
        let link = Arc::new(Link::new(1, Pidfd::of_nobody(), parent, &own, shared));
        let caller = Caller::new::<T>(&own, link, Wait::Spin);
        let peers = Segment::attach(&Sealed, &mut object.into_iter()).unwrap();
        Self { caller, segments: [own, peers], child }
    }

    /// The worker `index` of the callee.
    pub(crate) fn worker<H: Host>(&self, index: u32, host: H) -> Worker<H> {
        let control = Control::new(self.child.try_clone().unwrap());
        Worker::in_process(&self.segments[1], index, control, host)
    }
}

#[inline(never)]
pub(crate) fn send_add(caller: &Caller, n: u64) -> Sent<'_> {
    caller.send(&ADD, (Own(n),), None).unwrap()
}

#[inline(never)]
fn serve(worker: &mut Worker<Alone<Counter>>) {
    worker.serve_next();
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
