//! Both sides of a call in one thread: what a call costs with no process and no cache line in between.
//!
//! `.ci/instructions` counts what [`send_add`], [`serve`] and [`receive_add`] execute.

#![forbid(unsafe_code)]

use crate::__glue::Val;
use crate::call::callee::Worker;
use crate::call::caller::{Caller, Sent};
use crate::call::host::Alone;
use crate::call::link::{Link, Shared};
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
use std::sync::Arc;

struct Counter {
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

/// A caller and a callee that share a segment and a thread.
fn pair<T: Service>(service: T) -> (Caller, Worker<Alone<T>>) {
    let geometry = Geometry { workers: 1, lanes: 8, slots: 32, slot_lines: 9 };
    let (segment, object) = Segment::create(geometry, &Sealed).unwrap();
    let bells = ParentBells::new(Signal::Futex, Count::of(&geometry), &Sealed).unwrap();
    let (parent, child) = socket::pair().unwrap();
    let link = Arc::new(Link::new(1, Pidfd::of_nobody(), parent, 1 << 20, Shared { objects: Arc::new(Sealed), bells }));
    let caller = Caller::new::<T>(&segment, link, Wait::Spin);
    let segment = Segment::attach(&Sealed, &mut object.into_iter()).unwrap();
    (caller, Worker::in_process(&segment, Control::new(child), service))
}

#[inline(never)]
fn send_add(caller: &Caller, n: u64) -> Sent<'_> {
    caller.send(&ADD, &(Val(&n),), None).unwrap()
}

#[inline(never)]
fn serve(worker: &mut Worker<Alone<Counter>>) {
    worker.serve_next();
}

#[inline(never)]
fn receive_add(caller: &Caller, sent: Sent<'_>) -> u64 {
    caller.finish(sent).unwrap()
}

#[test]
fn one_thread_plays_both_sides() {
    let (caller, mut worker) = pair(Counter { total: 0 });
    for call in 1..=1000 {
        let sent = send_add(&caller, black_box(1));
        serve(&mut worker);
        assert_eq!(receive_add(&caller, sent), call);
    }
}
