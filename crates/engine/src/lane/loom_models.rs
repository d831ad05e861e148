//! Loom models of lanes: what must hold in every order of their threads' steps.

#![forbid(unsafe_code)]

use super::{
    CalleeLane, CallerBell, CallerLane, ReplyWriter, RequestReader, Withdrawal, WorkerBell, WorkerLanes, WorkerRest,
};
use callgate_os::futex::Futex;
use callgate_os::sync::{AtomicU32, AtomicU64};
use callgate_transport::commit::{BlockRef, Kind, Place};
use callgate_transport::doorbell::{Deadline, Pace, Wait, Waiter};
use callgate_transport::error::Started;
use callgate_transport::layout::{AWAKE, BellLine, CalleeLine, CallerLine, WorkerLine};
use callgate_transport::loans::Attachments;
use callgate_transport::no_memory::no_memory;
use callgate_transport::ring::{Consumer, Producer, Seen, Withdrawer};
use callgate_transport::segment::{Deadlines, Placed, Slots};
use callgate_transport::wake::{FutexSleeper, Sleeper};
use crossbeam_utils::CachePadded;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

fn futex() -> Arc<dyn Sleeper> {
    Arc::new(FutexSleeper)
}

fn bell() -> BellLine {
    BellLine { parked: Futex::new(AWAKE), cpu: AtomicU32::new(0) }
}

fn worker() -> Placed<WorkerLine> {
    Placed::on_heap(WorkerLine { bell: bell(), lanes_in_use: AtomicU32::new(0) })
}

fn caller_line() -> Placed<CallerLine> {
    Placed::on_heap(CallerLine {
        bell: bell(),
        released: AtomicU64::new(0),
        gone: AtomicU32::new(0),
        chain: AtomicU64::new(0),
    })
}

/// Both ends of a lane.
fn lane(index: u32, worker: &Placed<WorkerLine>) -> (CallerLane, CalleeLane) {
    let (caller, callee, _) = ends(index, worker);
    (caller, callee)
}

/// The same, and what withdraws a request.
fn withdrawable_lane() -> (CallerLane, CalleeLane, Withdrawal) {
    ends(0, &worker())
}

fn ends(index: u32, worker: &Placed<WorkerLine>) -> (CallerLane, CalleeLane, Withdrawal) {
    let (requests, replies, line) = (Slots::on_heap(2), Slots::on_heap(2), caller_line());
    let callee = Placed::on_heap(CalleeLine {
        started: AtomicU64::new(0),
        fenced: AtomicU32::new(1),
        passed: AtomicU64::new(0),
    });
    let called = CalleeLane {
        requests: RequestReader { index, ring: Consumer::new(requests.clone(), 0), callee: callee.clone() },
        replies: ReplyWriter {
            ring: Producer::new(replies.clone(), 0),
            caller: CallerBell { line: line.clone(), sleeper: futex() },
            attachments: Attachments::default(),
        },
    };
    let withdrawal = Withdrawal { requests: Withdrawer::new(requests.clone()), callee: callee.clone() };
    let caller = CallerLane {
        index,
        place: index,
        is_begun: false,
        nested: None,
        requests: Producer::new(requests, 0),
        replies: Consumer::new(replies, 0),
        caller: line,
        callee,
        worker: worker.clone(),
        own_bell: futex(),
        worker_bell: futex(),
        in_use: false,
        pace: Pace::new(),
        attachments: Attachments::default(),
        under_way: VecDeque::new(),
        deadlines: Deadlines::on_heap(2),
        acknowledged: 0,
        one_way: VecDeque::new(),
        capacity: 2,
        is_unordered: false,
        named: Cell::new(0),
        shown: None,
    };
    (caller, called, withdrawal)
}

/// A child's worker that sleeps whenever there is nothing to do.
fn serving(lanes: Vec<CachePadded<CalleeLane>>, worker: Placed<WorkerLine>) -> WorkerLanes {
    let rest = WorkerRest { worker, own_bell: futex(), wait: Wait::Park, pace: Pace::new() };
    WorkerLanes { lanes, rest, last: 0, obeys: true }
}

/// The end is requested while the worker is about to sleep. It comes, but what was published before, on a lane that the worker has never looked at,
/// is answered first.
#[test]
fn loom_the_end_comes_after_what_was_published_before_it() {
    loom::model(|| {
        let worker = worker();
        let (mut caller, lane) = lane(0, &worker);
        let bell = WorkerBell { line: worker.clone(), sleeper: futex() };
        let asking = loom::thread::spawn(move || {
            let len = caller.write(&(), no_memory()).unwrap();
            caller.publish(Kind::Call, 0, len, no_memory().pool);
            bell.ask_to_end();
        });
        let mut served = serving(vec![CachePadded::new(lane)], worker);
        let mut answered = 0;
        loop {
            let place = served.wait(None).expect("an end that is found");
            let Some((lane, _)) = served.found(place) else { break };
            assert!(lane.begin().is_ok_and(|request| request.is_some()));
            lane.requests.ring.release();
            answered += 1;
        }
        assert_eq!(answered, 1);
        asking.join().unwrap();
    });
}

/// Two lanes enter use at the same moment while the worker is parked. It serves both: it never sleeps while a request is published, though both
/// callers ring the same bell and both raise `lanes_in_use`.
#[test]
fn loom_worker_finds_requests_on_every_lane() {
    loom::model(|| {
        let worker = worker();
        let (callers, lanes): (Vec<_>, Vec<_>) = (0..2).map(|index| lane(index, &worker)).unzip();
        let callers: Vec<_> = callers
            .into_iter()
            .map(|mut lane| {
                loom::thread::spawn(move || {
                    let written = lane.write(&(), no_memory());
                    written.map(|len| lane.publish(Kind::Call, 0, len, no_memory().pool)).is_ok()
                })
            })
            .collect();
        let lanes = lanes.into_iter().map(CachePadded::new).collect();
        let mut served = serving(lanes, worker);
        for _ in 0..2 {
            let place = served.wait(None).expect("no end");
            let lane = served.lane(place);
            assert!(lane.begin().is_ok_and(|request| request.is_some()));
            lane.requests.ring.release();
        }
        callers.into_iter().for_each(|caller| assert!(caller.join().unwrap()));
    });
}

/// The caller finds the conversation over just as a worker that does not know takes the request: what is carried out counts as started.
#[test]
fn loom_what_is_left_before_it_has_started_is_not_carried_out() {
    loom::model(|| {
        let (mut caller, mut callee) = lane(0, &worker());
        let len = caller.write(&(), no_memory()).unwrap();
        caller.publish(Kind::Call, 0, len, no_memory().pool);
        let worker = loom::thread::spawn(move || callee.begin().unwrap().is_some_and(|(_, slot)| !slot.is_left()));
        let started = caller.leave(0);
        let is_carried_out = worker.join().unwrap();
        assert!(started == Started::Yes || !is_carried_out);
    });
}

/// A caller withdraws its request just as the worker takes it: a call that is said not to have started is not carried out.
#[test]
fn loom_what_is_withdrawn_before_it_has_started_is_not_carried_out() {
    loom::model(|| {
        let (mut caller, mut callee, withdrawal) = withdrawable_lane();
        let len = caller.write(&(), no_memory()).unwrap();
        caller.publish(Kind::Call, 0, len, no_memory().pool);
        let worker = loom::thread::spawn(move || callee.begin().unwrap().is_some_and(|(_, slot)| !slot.is_withdrawn()));
        let started = withdrawal.withdraw(0);
        let is_carried_out = worker.join().unwrap();
        assert!(started != Started::No || !is_carried_out);
    });
}

/// A caller copies a reply while it is written, and sleeps whenever there is no more of it. It gets the reply, though nobody rings for the pieces.
#[test]
fn loom_caller_that_sleeps_between_pieces_is_woken_for_the_reply() {
    loom::model(|| {
        let slots = Slots::on_heap(2);
        let line = caller_line();
        let mut ring = Producer::new(slots.clone(), 0);
        let caller = CallerBell { line: line.clone(), sleeper: futex() };
        let block = BlockRef { segment: 1, offset: 0, len: 1, loan_id: 0 };
        ring.claim().1.announce(block, 0, 1);
        let writing = loom::thread::spawn(move || {
            ring.claim().1.advance(1);
            ring.publish(Kind::Call, 0, Place::Block(block));
            caller.notify();
        });
        let replies = Consumer::new(slots, 0);
        let (pace, mut seen) = (Pace::new(), Seen::default());
        let (bell, sleeper) = (&line.bell, &FutexSleeper);
        let waiter = Waiter { bell, sleeper, wait: Wait::Park, pace: &pace, dead: None, peer_cpu: 0 };
        while !replies.is_ready() {
            if let Some(announced) = replies.announced() {
                seen = Seen { word: announced.word, mark: replies.mark() };
            }
            waiter.wait(Deadline::NEVER, || replies.has_more(&seen));
        }
        writing.join().unwrap();
    });
}
