//! A lane where replies come as calls end, against its model, and with a callee that lies.

#![forbid(unsafe_code)]

use super::{CalleeLane, CallerLane};
use callgate_transport::backing::Segments;
use callgate_transport::commit::{Kind, Place};
use callgate_transport::layout::Geometry;
use callgate_transport::no_memory::no_memory;
use callgate_transport::segment::Segment;
use callgate_transport::wake::{Bells, Count};
use proptest::prelude::*;

const SLOTS: u32 = 4;

/// Both ends of one lane.
fn two_sides() -> (CallerLane, CalleeLane) {
    let geometry = Geometry { lanes: 1, slots: SLOTS, slot_lines: 1, workers: 1 };
    let (mut segment, _) = Segment::create(geometry, &*Segments::Sealed.of_parent()).unwrap();
    segment.set_unordered();
    let bells = Bells::futexes(Count::of(&geometry));
    (CallerLane::new(&segment, 0, &bells), CalleeLane::new(&segment, 0, &bells))
}

fn ask(lane: &mut CallerLane) {
    let len = lane.write(&(), no_memory()).unwrap();
    lane.publish(Kind::Call, 0, len, no_memory().pool);
}

/// Begins the next request, if there is one. Returns its position.
fn begin(lane: &mut CalleeLane) -> Option<u64> {
    let position = lane.request_position();
    lane.begin().unwrap()?;
    lane.release_request();
    Some(position)
}

fn take(lane: &mut CallerLane) -> Option<u64> {
    let (position, _) = lane.take().unwrap()?;
    lane.release(false);
    Some(position)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whichever call ends first, its reply finds it; credit is what is not under way, less the slot kept for cancelling.
    #[test]
    fn each_reply_finds_its_request_in_whatever_order_calls_end(acts in proptest::collection::vec((0u8..3, 0usize..4), 0..200)) {
        let (mut caller, mut callee) = two_sides();
        let (mut asked, mut begun, mut ended) = (Vec::new(), Vec::new(), std::collections::VecDeque::new());
        // What is unanswered as the callee counts: asked calls are behind those that it has begun.
        for (act, which) in acts {
            match act {
                0 if caller.credit() > 0 => {
                    asked.push(caller.position());
                    ask(&mut caller);
                }
                1 if begun.is_empty() || which == 0 => {
                    let position = begin(&mut callee);
                    prop_assert_eq!(position, (!asked.is_empty()).then(|| asked.remove(0)));
                    begun.extend(position);
                }
                1 => {
                    let which = which % begun.len();
                    callee.publish_answer(Kind::Call, 0, Place::Slot(0), which);
                    ended.push_back(begun.remove(which));
                }
                _ => prop_assert_eq!(take(&mut caller), ended.pop_front()),
            }
            let under_way = asked.len() + begun.len() + ended.len();
            prop_assert_eq!(caller.credit() as usize, SLOTS as usize - 1 - under_way.min(SLOTS as usize - 1));
            prop_assert_eq!(caller.is_idle(), under_way == 0);
        }
    }
}

#[test]
fn a_reply_to_no_request_is_a_breach() {
    let (mut caller, mut callee) = two_sides();
    ask(&mut caller);
    ask(&mut caller);
    begin(&mut callee).unwrap();
    callee.publish_answer(Kind::Call, 0, Place::Slot(0), 2);
    assert!(caller.take().is_err());
    assert_eq!(caller.next_position(), None);
}

#[test]
fn the_last_slot_is_kept_for_cancelling() {
    let (mut caller, mut callee) = two_sides();
    (0..SLOTS - 1).for_each(|_| ask(&mut caller));
    assert!(caller.credit() == 0 && caller.may_cancel());
    let len = caller.write(&(), no_memory()).unwrap();
    caller.publish(Kind::Cancel, 1, len, no_memory().pool);
    assert!(!caller.may_cancel());
    let begun: Vec<_> = (0..SLOTS).map(|_| begin(&mut callee)).collect();
    assert_eq!(begun, [Some(0), Some(1), Some(2), Some(3)]);
    // The call that was cancelled, and then the one that cancelled it.
    callee.publish_answer(Kind::Withdrawn, 0, Place::Slot(0), 1);
    callee.publish_answer(Kind::Cancel, 0, Place::Slot(0), 2);
    assert_eq!((take(&mut caller), take(&mut caller)), (Some(1), Some(3)));
    assert!(caller.is_unanswered(0) && !caller.is_unanswered(1) && caller.is_unanswered(2));
}
