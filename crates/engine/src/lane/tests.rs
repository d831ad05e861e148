//! Lanes with both ends in one process, and a lane against its model, three queues.

#![forbid(unsafe_code)]

use super::{CalleeLane, CallerLane, ReplyWriter, RequestReader, WorkerLanes};
use crate::peer_status::PeerStatus;
use callgate_os::poll::{PollSet, readable};
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::backing::Segments;
use callgate_transport::commit::{Kind, Place};
use callgate_transport::doorbell::{Deadline, Wait, Waited};
use callgate_transport::error::Started;
use callgate_transport::layout::Geometry;
use callgate_transport::no_memory::no_memory;
use callgate_transport::ring::{Consumer, Producer};
use callgate_transport::segment::Segment;
use callgate_transport::wake::{Bells, Count, ParentBells, Signal};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

/// Both ends of two lanes in one process, and the parent's other parts.
fn two_sides(signal: Signal) -> (Vec<CallerLane>, WorkerLanes, ParentBells) {
    let geometry = Geometry { lanes: 2, slots: 2, slot_lines: 1, workers: 1 };
    let backing = Segments::Sealed.of_parent();
    let (segment, _) = Segment::create(geometry, &*backing).unwrap();
    let parent = ParentBells::new(signal, Count::of(&geometry), &*backing).unwrap();
    let copies = parent.for_child().map(|ring| ring.try_clone_to_owned().unwrap());
    let child =
        Bells::of_child(signal, Count::of(&geometry), &*backing, &mut copies.collect::<Vec<_>>().into_iter()).unwrap();
    let callers = (0..geometry.lanes).map(|index| CallerLane::new(&segment, index, &parent.bells)).collect();
    (callers, WorkerLanes::new(&segment, 0, &child, Wait::Park, true), parent)
}

#[test]
fn fault_30_a_nested_call_that_is_not_sent_leaves_nothing_on_its_lane() {
    let (mut callers, _worker, _parent) = two_sides(Signal::Futex);
    let lane = &mut callers[0];
    (1..=100).for_each(|chain| lane.nest(chain));
    assert_eq!((lane.under_way.len(), lane.caller.chain.load(Relaxed)), (1, 100));
    lane.unnest();
    assert_eq!((lane.under_way.len(), lane.caller.chain.load(Relaxed), lane.nested), (0, 0, None));
    // A request that has been sent stays.
    lane.nest(7);
    ask(lane);
    lane.unnest();
    assert_eq!((lane.under_way.len(), lane.caller.chain.load(Relaxed)), (1, 7));
}

fn ask(lane: &mut CallerLane) {
    let len = lane.write(&(), no_memory()).unwrap();
    lane.publish(Kind::Call, 0, len, no_memory().pool);
}

fn answer(worker: &mut WorkerLanes) {
    let index = worker.wait(None).expect("no end");
    let lane = worker.lane(index);
    assert!(lane.begin().unwrap().is_some());
    lane.publish(Kind::Call, 0, Place::Slot(0));
}

fn take(lane: &mut CallerLane) {
    assert!(lane.take().unwrap().is_some());
    lane.release(false);
}

fn is_readable(ring: impl AsFd) -> bool {
    readable(ring, Duration::ZERO).unwrap()
}

/// The same two sides of one lane, as if `start` calls had been made on it.
fn long_used(start: u64) -> (CallerLane, CalleeLane) {
    let geometry = Geometry { lanes: 1, slots: 4, slot_lines: 1, workers: 1 };
    let backing = Segments::Sealed.of_parent();
    let (segment, _) = Segment::create(geometry, &*backing).unwrap();
    let bells = Bells::futexes(Count::of(&geometry));
    let (new, peer) = (CallerLane::new(&segment, 0, &bells), CalleeLane::new(&segment, 0, &bells));
    let caller = CallerLane {
        requests: Producer::new(segment.requests(0), start),
        replies: Consumer::new(segment.replies(0), start),
        acknowledged: start,
        ..new
    };
    let requests = RequestReader { ring: Consumer::new(segment.requests(0), start), ..peer.requests };
    let replies = ReplyWriter { ring: Producer::new(segment.replies(0), start), ..peer.replies };
    segment.callee_line(0).started.store(start, Relaxed);
    (caller, CalleeLane { requests, replies })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Calls, answers and replies taken in any order are three queues, also where positions wrap: credit is what is not under way, and the number of
    /// begun calls is right at any time.
    #[test]
    fn a_lane_equals_its_queues(
        start in prop_oneof![Just(0), (1u64 << 32) - 9..(1 << 32) + 9, u64::MAX - 9..=u64::MAX],
        acts in proptest::collection::vec(0u8..3, 0..120),
    ) {
        let (mut caller, mut callee) = long_used(start);
        let (mut asked, mut answered) = (VecDeque::new(), VecDeque::new());
        for act in acts {
            match act {
                0 if caller.credit() > 0 => {
                    let position = caller.position();
                    ask(&mut caller);
                    prop_assert_eq!(caller.started(position), Started::No);
                    asked.push_back(position);
                }
                1 => {
                    let request = callee.begin().unwrap().is_some();
                    let position = asked.pop_front();
                    prop_assert_eq!(request, position.is_some());
                    if let Some(position) = position {
                        prop_assert_eq!(caller.started(position), Started::Yes);
                        callee.publish(Kind::Call, 0, Place::Slot(0));
                        answered.push_back(position);
                    }
                }
                _ => {
                    let taken = caller.take().unwrap().map(|(position, _)| position);
                    prop_assert_eq!(taken, answered.pop_front());
                    if taken.is_some() {
                        caller.release(false);
                    }
                }
            }
            prop_assert_eq!(caller.credit() as usize, 4 - asked.len() - answered.len());
            prop_assert_eq!(caller.is_idle(), asked.is_empty() && answered.is_empty());
        }
    }
}

#[test]
fn sides_that_park_wake_each_other() {
    for &signal in Signal::ALL {
        let (mut callers, mut worker, parent) = two_sides(signal);
        let peer_status = PeerStatus::new(parent.alarm.clone());
        thread::scope(|scope| {
            scope.spawn(|| (0..2000).for_each(|_| answer(&mut worker)));
            for call in 0..2000 {
                let lane = &mut callers[call % 2];
                ask(lane);
                assert_eq!(
                    lane.wait(Wait::Park, &peer_status, Deadline::NEVER, &|| false),
                    Waited::Ready,
                    "{signal:?}"
                );
                take(lane);
            }
        });
    }
}

#[test]
fn a_death_wakes_who_sleeps_whatever_he_sleeps_on() {
    for &signal in Signal::ALL {
        let (mut callers, _, parent) = two_sides(signal);
        let peer_status = PeerStatus::new(parent.alarm.clone());
        ask(&mut callers[0]);
        let (lane, peer_status) = (&mut callers[0], &peer_status);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || lane.wait(Wait::Park, peer_status, Deadline::NEVER, &|| false));
            thread::sleep(Duration::from_millis(10));
            peer_status.end(callgate_transport::error::Exit::Unknown);
            assert_eq!(waiting.join().unwrap(), Waited::Dead, "{signal:?}");
        });
    }
}

#[test]
fn the_ring_is_rung_once_for_a_reply_that_was_listened_for() {
    for &signal in Signal::ALL {
        let (mut callers, mut worker, parent) = two_sides(signal);
        let rings = PollSet::new().unwrap();
        rings.add_edge(&*parent.ring, 0).unwrap();
        let rung = || {
            let mut keys = Vec::new();
            rings.ready_now(&mut keys).unwrap();
            !keys.is_empty()
        };
        for round in 0..3 {
            let lane = &mut callers[round % 2];
            ask(lane);
            assert!(!lane.listen() && !rung(), "{signal:?}");
            answer(&mut worker);
            assert!(rung() && !rung(), "{signal:?}");
            assert!(lane.listen(), "the reply is there");
            take(lane);
            lane.disarm();
        }
        assert!(is_readable(&*parent.ring), "nobody reads it");
    }
}

#[test]
fn who_does_not_listen_is_not_rung_for() {
    for &signal in Signal::ALL {
        let (mut callers, mut worker, parent) = two_sides(signal);
        let lane = &mut callers[0];
        ask(lane);
        assert!(!lane.listen());
        lane.disarm();
        answer(&mut worker);
        assert!(!is_readable(&*parent.ring), "{signal:?}");
        assert!(lane.listen(), "a reply that came while nobody listened is found by listening");
    }
}
