//! Pairs with both sides in one process, and a hub between them that obeys or does nothing.

#![forbid(unsafe_code)]

use super::{Introduction, PairEndpoint, RemoteCaller, call, geometry, geometry_of, serve};
use crate::caller::Caller;
use crate::control::{Control, Message};
use crate::host::Host;
use crate::request_source::RequestSource;
use crate::service::{Exchange, Method};
use callgate_os::mapping::Protection;
use callgate_os::memfd;
use callgate_os::socket::{self, BlockingMode};
use callgate_transport::arena::Limits;
use callgate_transport::backing::{SEGMENT, SealedMemfds};
use callgate_transport::commit::Kind;
use callgate_transport::doorbell::{Deadline, Wait};
use callgate_transport::error::{CallError, Exit, Started};
use callgate_transport::layout::Geometry;
use callgate_transport::segment::Segment;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;
use std::{io, thread};

/// Doubles numbers and echoes texts.
struct Doubler;

impl Host for Doubler {
    fn call(&mut self, exchange: &mut Exchange<'_>) {
        match exchange.call {
            1 => match exchange.request.take::<(u64,)>() {
                Ok((number,)) => exchange.reply(Kind::Call, &(2 * number)),
                Err(_) => exchange.refuse("no number"),
            },
            _ => match exchange.request.take::<String>() {
                Ok(text) => exchange.reply(Kind::Call, &text),
                Err(_) => exchange.refuse("no text"),
            },
        }
    }
}

static METHOD: Method =
    Method { service: "", name: "double", index: 0, interface: None, idempotent: false, lends: false };
const LIMITS: Limits = Limits { max_payload: 8 << 20, retained: 1 << 20 };
const TIMEOUT: Option<Duration> = Some(Duration::from_secs(30));

/// The hub's ends of the control sockets, in the order caller, owner.
struct FakeHub([Control; 2]);

impl FakeHub {
    /// Gives both sides what they ask for until one has closed; then the pair is over.
    fn run(self) {
        let (mut next, mut unsealed) = (0, HashMap::new());
        while self.0.iter().all(|side| self.answer(side, &mut next, &mut unsealed)) {
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Answers the pending requests of one side. Returns whether it is still there.
    fn answer(&self, side: &Control, next: &mut u64, unsealed: &mut HashMap<u64, OwnedFd>) -> bool {
        let other = self.0.iter().find(|other| !std::ptr::eq(*other, side)).expect("two sides");
        loop {
            match side.receive(BlockingMode::No) {
                Ok(Some((Message::Need { len }, _))) => {
                    let (_, object) =
                        memfd::create_sealed("callgate-test", len as usize, Protection::ReadWrite).unwrap();
                    *next += 1;
                    let _ = side.send(Message::Grant { segment: *next }, Some(object.as_fd()));
                    unsealed.insert(*next, object);
                }
                // Both were told at the start that it is sealed.
                Ok(Some((Message::Mapped { segment: SEGMENT }, _))) => {}
                Ok(Some((Message::Mapped { segment }, _))) => {
                    let object = unsealed.remove(&segment).expect("it was granted");
                    let _ = other.send(Message::Attach { segment }, Some(object.as_fd()));
                    let _ = side.send(Message::Sealed { segment }, None);
                }
                Ok(Some((detach, _))) => drop(other.send(detach, None)),
                Ok(None) => return false,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// Both introductions of a pair in this process, and the hub that made it.
fn introduced(geometry: Geometry) -> ([Introduction; 2], FakeHub) {
    introduced_by(Segment::create(geometry, &SealedMemfds).unwrap().1.unwrap())
}

fn introduced_by(object: OwnedFd) -> ([Introduction; 2], FakeHub) {
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..2).map(|_| socket::pair().unwrap()).unzip();
    let introductions = theirs.into_iter().map(|control| Introduction {
        pid: std::process::id(),
        pidfd: rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
        segment: object.try_clone().unwrap(),
        control,
        limits: LIMITS,
        wait: Wait::SpinFor(Duration::from_micros(50)),
    });
    let introductions = introductions.collect::<Vec<_>>().try_into().ok().unwrap();
    let ours: Vec<_> = ours.into_iter().map(Control::new).collect();
    ours.iter().for_each(|side| side.send(Message::Sealed { segment: SEGMENT }, None).unwrap());
    (introductions, FakeHub(ours.try_into().ok().unwrap()))
}

fn double(caller: &Caller, number: u64) -> Result<u64, CallError> {
    caller.call_by_word(&METHOD, 1, &mut Some((number,)), TIMEOUT)
}

#[test]
fn strangers_call_each_other() {
    let ([caller, owner], hub) = introduced(geometry(2));
    let hub = thread::spawn(|| hub.run());
    let owner = serve(owner, || Some(Doubler)).unwrap();
    let (caller, pair) = call(caller).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let caller = &caller;
            scope.spawn(move || (0..200).for_each(|n| assert_eq!(double(caller, n + thread), Ok(2 * (n + thread)))));
        }
    });
    for len in [10, 1000, 300_000, 3 << 20, 10] {
        let text = "x".repeat(len);
        let echoed = caller.call_by_word::<_, String>(&METHOD, 2, &mut Some(text.clone()), TIMEOUT);
        assert_eq!(echoed.as_deref(), Ok(&*text), "{len}");
    }
    assert!(!pair.is_over() && !owner.is_over());
    owner.over(None);
    hub.join().unwrap();
    assert_eq!(pair.peer.peer_status.wait(Deadline::after(TIMEOUT)), Some(Exit::Unknown));
    assert!(matches!(double(&caller, 1), Err(CallError::Died { .. })));
}

/// Two calls need memory and the hub does not answer: each gives up in its own time. What the hub gives later is used or given back.
#[test]
fn a_hub_that_does_not_answer_costs_a_call_no_more_than_its_time() {
    let ([caller, owner], hub) = introduced(geometry(2));
    let owner = serve(owner, || Some(Doubler)).unwrap();
    let (caller, pair) = call(caller).unwrap();
    let echo = |len: usize, timeout: Option<Duration>| {
        let text = "x".repeat(len);
        caller.call_by_word::<_, String>(&METHOD, 2, &mut Some(text.clone()), timeout).map(|echoed| echoed == text)
    };
    thread::scope(|scope| {
        let patient = scope.spawn(|| echo(300_000, TIMEOUT));
        let quick = scope.spawn(|| echo(3 << 20, Some(Duration::from_millis(100))));
        let late = quick.join().unwrap();
        assert!(matches!(late, Err(CallError::TimedOut { started: Started::No, .. })), "{late:?}");
        let hub = scope.spawn(|| hub.run());
        assert_eq!(patient.join().unwrap(), Ok(true));
        assert_eq!(echo(3 << 20, TIMEOUT), Ok(true));
        wait_until(|| {
            let inbox = pair.inbox.lock();
            inbox.spare.is_empty() && inbox.asked.is_none()
        });
        assert!(!pair.is_over() && !owner.is_over());
        owner.over(None);
        hub.join().unwrap();
    });
}

/// Counts its calls; the first waits until it may go on.
struct Gated {
    ran: Arc<AtomicU32>,
    gate: Option<Receiver<()>>,
}

impl Host for Gated {
    fn call(&mut self, exchange: &mut Exchange<'_>) {
        self.ran.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = self.gate.take() {
            let _ = gate.recv();
        }
        exchange.reply(Kind::Call, &());
    }
}

/// An owner with one lane, which is [`Gated`]; the number of calls that have begun; and the gate of the first one.
fn serve_gated(owner: Introduction) -> (Arc<PairEndpoint>, Arc<AtomicU32>, Sender<()>) {
    let (open, gate) = mpsc::channel();
    let (ran, mut gate) = (Arc::new(AtomicU32::new(0)), Some(gate));
    let host = {
        let ran = ran.clone();
        move || Some(Gated { ran: ran.clone(), gate: gate.take() })
    };
    let owner = serve(owner, host).unwrap();
    owner.start_lane(0).unwrap();
    (owner, ran, open)
}

fn wait_until(what: impl Fn() -> bool) {
    let deadline = Deadline::after(TIMEOUT);
    while !what() {
        assert!(!deadline.has_passed());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Clients that connect and leave cost the owner none.
#[test]
fn fault_43_a_lane_has_a_thread_when_it_is_about_to_be_used_and_not_before() {
    let ([caller, owner], hub) = introduced(geometry(8));
    let hosts = Arc::new(AtomicU32::new(0));
    let counted = hosts.clone();
    let owner = serve(owner, move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Some(Doubler)
    });
    let owner = owner.unwrap();
    let (caller, pair) = call(caller).unwrap();
    let hub = thread::spawn(move || hub.run());
    assert_eq!(hosts.load(Ordering::SeqCst), 0);
    for number in 0..100 {
        assert_eq!(double(&caller, number), Ok(2 * number));
    }
    assert_eq!(hosts.load(Ordering::SeqCst), 1, "one thread calls, on one lane");
    for lane in [0, 1, 7, 8, 63, 64, u64::MAX] {
        let is_new = matches!(lane, 1 | 7);
        let lanes_before = hosts.load(Ordering::SeqCst);
        let _ = owner.start_lane(lane);
        let started = hosts.load(Ordering::SeqCst) - lanes_before;
        assert!(started <= 1 && (is_new || lane == 0 || started == 0), "{lane}");
        assert!(owner.start_lane(lane).is_err(), "a second thread for lane {lane}");
    }
    owner.over(None);
    hub.join().unwrap();
    assert!(pair.peer.peer_status.wait(Deadline::after(TIMEOUT)).is_some());
}

#[test]
fn a_header_that_the_other_side_has_rewritten_brings_no_more_threads() {
    let (segment, object) = Segment::create(geometry(7), &SealedMemfds).unwrap();
    let forged = Geometry { lanes: 10, slots: 8, slot_lines: 3, workers: 10 };
    assert_eq!(forged.segment_len(), geometry(7).segment_len());
    let header = segment.header();
    for (word, value) in
        [(&header.lanes, forged.lanes), (&header.slots, forged.slots), (&header.workers, forged.workers)]
    {
        word.store(value, callgate_os::sync::Ordering::Relaxed);
    }
    let ([caller, owner], _hub) = introduced_by(object.unwrap());
    let (_, pair) = call(caller).unwrap();
    let threads = Arc::new(AtomicU32::new(0));
    let started = threads.clone();
    let host = move || {
        started.fetch_add(1, Ordering::SeqCst);
        Some(Doubler)
    };
    let owner = serve(owner, host).unwrap();
    let lanes = (0..u64::from(forged.lanes)).filter(|&lane| owner.start_lane(lane).is_ok()).count();
    owner.over(None);
    assert_eq!((pair.callers.len(), lanes, threads.load(Ordering::SeqCst)), (7, 7, 7));
    assert!(geometry_of(geometry(8).segment_len() + 128).is_none());
}

/// A caller that has its lanes name one block tries to make the owner copy it for each.
#[test]
fn fault_43_copies_of_requests_have_no_more_bytes_than_their_callers_memory() {
    const MIB: usize = 1 << 20;
    let ([caller, owner], _silent) = introduced(geometry(2));
    let owner = serve(owner, || Some(Doubler)).unwrap();
    let (_caller, _pair) = call(caller).unwrap();
    let (mapping, _) = memfd::create_sealed("callgate-test", MIB, Protection::ReadWrite).unwrap();
    owner.inbox.lock().segments.insert(5, Arc::new(mapping));
    let stranger = RemoteCaller(owner.clone());
    assert!(owner.admit_copy(MIB / 2).is_ok() && owner.admit_copy(MIB / 2).is_ok());
    stranger.answering(MIB / 2);
    assert!(owner.admit_copy(MIB / 2).is_ok() && !owner.is_over());
    assert!(owner.admit_copy(MIB / 2).is_err() && owner.is_over());
}

/// The hub says nothing: only the caller knows of the end, and the owner's worker goes on.
#[test]
fn a_call_that_had_not_started_when_its_caller_left_is_never_carried_out() {
    let ([caller, owner], _silent) = introduced(geometry(1));
    let (owner, ran, open) = serve_gated(owner);
    let (caller, pair) = call(caller).unwrap();
    let begin = || caller.begin::<(), ()>(&METHOD, (), TIMEOUT);
    let _first = begin();
    wait_until(|| ran.load(Ordering::SeqCst) == 1);
    let mut second = begin();
    pair.over(None);
    assert!(matches!(second.poll(None), Some(Err(CallError::Died { started: Started::No, .. }))));
    open.send(()).unwrap();
    wait_until(|| owner.is_over() || ran.load(Ordering::SeqCst) > 1);
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[test]
fn a_call_that_had_started_when_its_caller_left_is_said_to_have() {
    let ([caller, owner], _silent) = introduced(geometry(1));
    let (_owner, ran, open) = serve_gated(owner);
    let (caller, pair) = call(caller).unwrap();
    let mut call = caller.begin::<(), ()>(&METHOD, (), TIMEOUT);
    wait_until(|| ran.load(Ordering::SeqCst) == 1);
    pair.over(None);
    assert!(matches!(call.poll(None), Some(Err(CallError::Died { started: Started::Yes, .. }))));
    drop(open);
}
