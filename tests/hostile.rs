//! A child that writes what no healthy child writes cannot harm its parent: it is killed, every call returns `Corrupt` (or an answer, or a timeout),
//! and the parent goes on.
//!
//! The hostile service knows only what an attacker would know: it finds the segment in `/proc/self/maps`, reads the geometry from its header, and
//! writes to it.

#[path = "support/held.rs"]
mod held;
#[path = "support/hoard.rs"]
mod hoard;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/slow.rs"]
mod slow;
mod support;

use callgate::rkyv::{Archive, Deserialize, Serialize};
use callgate::{Bridge, CallError, Signal, Wait, bridge};
use held::{alone, leaving_nothing};
use hoard::{Hoard, shared_bytes};
use raw::{CALL, FAILED, IN_BLOCK, Raw, STOP, commit};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::{eventually, process_exists};

callgate::test_support!();

/// The word of a slot that marks how much of an announced reply is final: after the commit word, the call word and three that name a block.
const MARK: u64 = 5;

const MIB: u64 = 1 << 20;

/// What follows a forged announcement.
#[derive(Clone, Copy, Debug, PartialEq, Archive, Serialize, Deserialize)]
enum Then {
    Sleep,
    Answer,
    MarkOn,
    MarkBack,
    AnnounceAgain,
    TakeBack,
    Die,
}

struct Hostile;

#[bridge]
impl Hostile {
    pub fn new() -> Self {
        Hostile
    }

    /// Returns `len` bytes, in the child's memory.
    pub fn sized(&self, len: u64) -> Vec<u8> {
        vec![1; len as usize]
    }

    /// Returns its argument: the bytes arrive in the parent's memory and go back in the child's.
    pub fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    /// Maps all memory for large payloads once more, for good. Returns the total so far in bytes.
    pub fn hoard(&self) -> u64 {
        static KEPT: std::sync::Mutex<Hoard> = std::sync::Mutex::new(Hoard::new());
        KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// Tries to make holes in all memory shared with the parent. Returns how many bytes that is, and where it succeeded.
    pub fn holes(&self) -> (u64, Vec<String>) {
        hoard::holes()
    }

    /// Keeps making holes on `punchers` threads, and occupies the CPUs with `hogs` others.
    pub fn attack(&self, punchers: u64, hogs: u64) {
        hoard::attack(punchers, hogs);
    }

    pub fn add(&self, n: u64) -> u64 {
        n + 1
    }

    pub fn name(&self) -> String {
        "a name that does not fit into eight bytes".into()
    }

    /// Publishes a forged reply to this call, and delays the true one.
    pub fn forged_number(&self, len: u64, kind: u64, payload: Vec<u64>) -> u64 {
        forge_and_sleep(len, kind, &payload);
        0
    }

    pub fn forged_text(&self, len: u64, kind: u64, payload: Vec<u64>) -> String {
        forge_and_sleep(len, kind, &payload);
        String::new()
    }

    /// The second item of each stream is forged.
    pub fn forged_numbers(len: u64, kind: u64, payload: Vec<u64>) -> impl Iterator<Item = u64> {
        (0..).inspect(move |&number| {
            if number == 1 {
                forge_and_sleep(len, kind, &payload)
            }
        })
    }

    pub fn forged_texts(len: u64, kind: u64, payload: Vec<u64>) -> impl Iterator<Item = String> {
        (0..)
            .inspect(move |&number| {
                if number == 1 {
                    forge_and_sleep(len, kind, &payload)
                }
            })
            .map(|_: u8| String::new())
    }

    pub fn forged_flag(&self, len: u64, kind: u64, payload: Vec<u64>) -> bool {
        forge_and_sleep(len, kind, &payload);
        false
    }

    pub fn forged_list(&self, len: u64, kind: u64, payload: Vec<u64>) -> Vec<u64> {
        forge_and_sleep(len, kind, &payload);
        Vec::new()
    }

    /// Publishes commit words with unexpected sequences, then answers truly.
    pub fn wrong_sequences(&self) -> u64 {
        let raw = Raw::find();
        let position = raw.started() - 1;
        for wrong in [position - 1, position + 1, position + raw.slots, u64::MAX / 2] {
            raw.reply(position, 0).store(commit(wrong, 8, CALL), Ordering::Release);
            std::thread::sleep(Duration::from_millis(1));
        }
        7
    }

    /// Publishes replies to calls that have not been made yet, and lets this call time out.
    pub fn answer_the_future(&self, ms: u64) {
        let raw = Raw::find();
        let position = raw.started() - 1;
        for ahead in 1..raw.slots {
            raw.forge(position + ahead, commit(position + ahead, 8, CALL), &[99]);
        }
        std::thread::sleep(Duration::from_millis(ms));
    }

    /// Rewrites its replies again and again from another thread while the parent reads them.
    pub fn hammer(&self) {
        std::thread::spawn(|| {
            let raw = Raw::find();
            for round in 0u64.. {
                for position in 0..raw.slots {
                    let word = raw.reply(position, 0).load(Ordering::Relaxed);
                    let flipped = word ^ (round % 600) << 8;
                    raw.reply(position, 0).store(flipped, Ordering::Relaxed);
                    raw.reply(position, 2).store(round, Ordering::Relaxed);
                    raw.reply(position, 3).store(u64::MAX, Ordering::Relaxed);
                    raw.reply(position, 0).store(word, Ordering::Relaxed);
                }
            }
        });
    }

    /// A megabyte, in the first segment that the child gets.
    pub fn large(&self) -> Vec<u8> {
        vec![5; MIB as usize]
    }

    /// Announces a reply in a missing block or another reply's block, or marks too much as final; then does what `then` says.
    pub fn announced(&self, words: Vec<u64>, then: Then) -> Vec<u8> {
        let raw = Raw::find();
        let position = raw.started() - 1;
        let announce = |count| raw.forge(position, commit(position, count, IN_BLOCK), &words);
        announce(0);
        let begin = Instant::now();
        let mut turns = (0u64..).take_while(|_| begin.elapsed() < Duration::from_millis(300));
        let mark = |mark| raw.reply(position, MARK).store(mark, Ordering::Release);
        match then {
            Then::Sleep => std::thread::sleep(Duration::from_secs(20)),
            Then::Answer => std::thread::sleep(Duration::from_millis(50)),
            Then::MarkOn => turns.for_each(|turn| mark((1 << 40) + turn)),
            Then::MarkBack => turns.for_each(|turn| mark(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (2 * MIB))),
            Then::AnnounceAgain => turns.for_each(announce),
            Then::TakeBack => turns.for_each(|turn| {
                raw.reply(position, 0).store(commit(position, turn, 0), Ordering::Release);
                announce(turn);
            }),
            Then::Die => {
                turns.by_ref().for_each(|turn| mark(turn * 1000));
                std::process::abort()
            }
        }
        vec![6; MIB as usize]
    }

    /// Registers descriptors that link to `kind` in epoll sets, very often. Returns how often.
    pub fn burden(&self, kind: String, entries: u64) -> u64 {
        let (made, held) = slow::burden(&kind, entries as usize);
        std::mem::forget(held);
        made as u64
    }

    pub fn give(&self, len: u64) -> Vec<u8> {
        vec![6; len as usize]
    }

    pub fn take(&self, bytes: Vec<u8>) -> u64 {
        bytes.len() as u64
    }

    /// Scribbles over all that a child can write, requests included.
    pub fn scribble(&self) {
        let raw = Raw::find();
        let position = raw.started() - 1;
        for offset in (256..256 + 256).step_by(8) {
            raw.at(offset).store(u64::MAX, Ordering::Relaxed);
        }
        for slot in 0..raw.slots {
            raw.request(slot, 0).store(u64::MAX, Ordering::Relaxed);
            if slot != position % raw.slots {
                raw.reply(slot, 0).store(u64::MAX, Ordering::Relaxed);
            }
        }
    }
}

fn forge_and_sleep(len: u64, kind: u64, payload: &[u64]) {
    let raw = Raw::find();
    let position = raw.started() - 1;
    raw.forge(position, commit(position, len, kind), payload);
    std::thread::sleep(Duration::from_secs(20));
}

fn start() -> Bridge<Hostile> {
    with_timeout(10_000)
}

/// One lane, so that the attacker knows which one it is. The caller polls, because an attacker need not ring the bell.
fn with_timeout(ms: u64) -> Bridge<Hostile> {
    Hostile::bridge()
        .concurrent_callers(1)
        .wait(Wait::Spin)
        .timeout(Duration::from_millis(ms))
        .start()
        .expect("the bridge starts")
}

/// Checks that the child was killed, that later calls say why, and that the parent can start another.
fn assert_poisoned(bridge: &Bridge<Hostile>, error: &CallError, case: &str) {
    assert!(matches!(error, CallError::Corrupt { .. }), "{case}: {error}");
    assert!(error.to_string().contains("broke the protocol"), "{error}");
    let pid = bridge.child_pid();
    assert!(eventually(5, "the child is gone", || !process_exists(pid)));
    let later = bridge.add(1).expect_err("a poisoned bridge answers nothing");
    assert!(matches!(later, CallError::Corrupt { .. }), "{case}: {later}");
}

/// Fault 1: lengths and kinds that no healthy child writes. Faults 3 and 8: payloads that are not valid archives, and blocks that do not exist.
#[test]
fn fault_01_a_forged_reply_poisons_the_bridge() {
    leaving_nothing(
        "fault_01_a_forged_reply_poisons_the_bridge",
        120,
        || drop(start()),
        || {
            let numbers: [(&str, u64, u64, &[u64]); 14] = [
                ("one byte more than the slot", 561, CALL, &[]),
                ("the longest length", 0xff_ffff, CALL, &[]),
                ("no bytes for a number", 0, CALL, &[]),
                ("one byte for a number", 1, CALL, &[]),
                ("seven bytes for a number", 7, CALL, &[]),
                ("an unknown kind", 8, 8, &[]),
                ("the highest kind", 8, 0x7f, &[]),
                ("a reply to another kind of request", 0, STOP, &[]),
                ("a segment that does not exist", 0, CALL | IN_BLOCK, &[77, 0, 8]),
                ("a block that is too long", 0, CALL | IN_BLOCK, &[1, 0, u64::MAX]),
                ("a block that lies outside", 0, CALL | IN_BLOCK, &[1, u64::MAX - 63, 64]),
                ("a fault that is no fault", 8, 5, &[u64::MAX]),
                ("a refusal too short for a text", 4, 7, &[0]),
                ("a failure of a callback that is none", 8, FAILED, &[u64::MAX]),
            ];
            for (case, len, kind, payload) in numbers {
                let bridge = start();
                let error = bridge.forged_number(len, kind, payload.to_vec()).expect_err(case);
                assert_poisoned(&bridge, &error, case);
            }
            // A well-formed failure that says that the callback is not registered; but a bridge has no callbacks.
            let bridge = start();
            let error = bridge.forged_number(40, FAILED, vec![2, 0, 0, 0, 0]).expect_err("no callback");
            let is_named = matches!(error, CallError::Corrupt { what: "a failure that only callbacks report", .. });
            assert!(is_named, "{error}");
            assert_poisoned(&bridge, &error, "a failure of a callback");
            let texts: [(&str, u64, &[u64]); 3] = [
                ("a text that points outside", 8, &[0xffff_fff0_0000_00bf]),
                ("a text that is no UTF-8", 8, &[0xfefe_fefe_fefe_fefe]),
                ("a text longer than its frame", 16, &[0x4141_4141, 0xffff_fff8_0000_00bf]),
            ];
            for (case, len, payload) in texts {
                let bridge = start();
                let error = bridge.forged_text(len, CALL, payload.to_vec()).expect_err(case);
                assert_poisoned(&bridge, &error, case);
            }
            // A list's archive is a relative pointer and a length.
            for (case, words) in [
                ("a list longer than its frame", [0x7fff_ffff_ffff_fff8u64]),
                ("a list before its frame", [0x0000_0001_ffff_0000]),
                ("a list that is not aligned", [0x0000_0001_ffff_fffd]),
            ] {
                let bridge = start();
                let error = bridge.forged_list(8, CALL, words.to_vec()).expect_err(case);
                assert_poisoned(&bridge, &error, case);
            }
        },
    );
}

/// The forged reply stays where it is, before theirs.
#[test]
fn fault_01_a_forged_reply_ends_the_wait_for_calls_behind_it() {
    leaving_nothing(
        "fault_01_a_forged_reply_ends_the_wait_for_calls_behind_it",
        60,
        || drop(start()),
        || {
            for (case, len, kind) in [("one byte more than the slot", 561, CALL), ("an unknown kind", 8, 0x7f)] {
                let bridge = start();
                let first = bridge.begin().forged_number(len, kind, Vec::new());
                let error = bridge.begin().add(1).wait().expect_err(case);
                assert!(matches!(error, CallError::Corrupt { .. }), "{case}: {error}");
                assert_poisoned(&bridge, &first.wait().expect_err(case), case);
            }
        },
    );
}

/// An item is a reply like any other.
#[test]
fn a_forged_item_is_not_taken() {
    leaving_nothing(
        "a_forged_item_is_not_taken",
        120,
        || drop(start()),
        || {
            let numbers: [(&str, u64, u64, &[u64]); 5] = [
                ("neither an item nor the end", 16, CALL, &[2, 7]),
                ("truncated: half an item", 8, CALL, &[1]),
                ("one byte more than the slot", 561, CALL, &[]),
                ("a reply to another kind of request", 0, STOP, &[]),
                ("a block that lies outside", 0, CALL | IN_BLOCK, &[1, u64::MAX - 63, 64]),
            ];
            for (case, len, kind, payload) in numbers {
                let bridge = start();
                assert_not_taken(&bridge, bridge.forged_numbers(len, kind, payload.to_vec()), case);
            }
            let bridge = start();
            assert_not_taken(
                &bridge,
                bridge.forged_texts(24, CALL, vec![0xfefe_fefe_fefe_fefe; 3]),
                "a text that is none",
            );
        },
    );
}

fn assert_not_taken<T: callgate::Transfer + std::fmt::Debug>(
    bridge: &Bridge<Hostile>,
    items: Result<callgate::Items<T>, CallError>,
    case: &str,
) {
    let mut items = items.expect(case);
    assert!(items.next().is_some_and(|first| first.is_ok()), "{case}");
    let error = items.next().expect(case).expect_err(case);
    assert_poisoned(bridge, &error, case);
    assert!(items.next().is_none(), "{case}");
}

/// A view shows only validated data, just as a value is made only from validated data.
#[test]
fn fault_01_a_forged_reply_is_not_viewed() {
    leaving_nothing(
        "fault_01_a_forged_reply_is_not_viewed",
        120,
        || drop(start()),
        || {
            let cases: [(&str, u64, u64, &[u64]); 9] = [
                ("one byte more than the slot", 561, CALL, &[]),
                ("truncated: no bytes for a text", 0, CALL, &[]),
                ("truncated: seven bytes for a text", 7, CALL, &[]),
                ("a text that points outside", 8, CALL, &[0xffff_fff0_0000_00bf]),
                ("a text that is no UTF-8", 8, CALL, &[0xfefe_fefe_fefe_fefe]),
                ("a text longer than its frame", 16, CALL, &[0x4141_4141, 0xffff_fff8_0000_00bf]),
                ("a segment that does not exist", 0, CALL | IN_BLOCK, &[77, 0, 8]),
                ("a block that lies outside", 0, CALL | IN_BLOCK, &[1, u64::MAX - 63, 64]),
                ("a reply to another kind of request", 0, STOP, &[]),
            ];
            for (case, len, kind, payload) in cases {
                let bridge = start();
                let error = bridge.view().forged_text(len, kind, payload.to_vec()).expect_err(case);
                assert_poisoned(&bridge, &error, case);
            }
            for (case, word) in [
                ("a list longer than its frame", 0x7fff_ffff_ffff_fff8u64),
                ("a list before its frame", 0x0000_0001_ffff_0000),
                ("a list that is not aligned", 0x0000_0001_ffff_fffd),
            ] {
                let bridge = start();
                let error = bridge.view().forged_list(8, CALL, vec![word]).expect_err(case);
                assert_poisoned(&bridge, &error, case);
            }
            let bridge = start();
            let error = bridge.view().forged_flag(1, CALL, vec![2]).expect_err("neither true nor false");
            assert_poisoned(&bridge, &error, "a flag that is neither");
        },
    );
}

/// A child that writes after its reply was taken does not change the view.
#[test]
fn fault_02_a_view_does_not_change_with_the_memory_that_it_came_through() {
    leaving_nothing(
        "fault_02_a_view_does_not_change_with_the_memory_that_it_came_through",
        60,
        || drop(start()),
        || {
            let bridge = with_timeout(2_000);
            let views: Vec<_> = (0..3).map(|_| bridge.view().name().expect("a reply")).collect();
            let _ = bridge.scribble();
            assert!(views.iter().all(|view| view.as_str() == "a name that does not fit into eight bytes"));
            bridge.kill();
        },
    );
}

/// Fault 1: a past or future sequence does not count as the reply.
#[test]
fn fault_01_a_wrong_sequence_is_not_taken_for_the_reply() {
    leaving_nothing(
        "fault_01_a_wrong_sequence_is_not_taken_for_the_reply",
        60,
        || drop(start()),
        || {
            let bridge = start();
            for _ in 0..20 {
                assert_eq!(bridge.wrong_sequences().expect("the true reply comes"), 7);
            }
        },
    );
}

/// Replies to calls not yet made, together with a call that gives up, must not put the rings out of step. Later calls get true or false answers or
/// time out; none hangs, and none keeps taking another call's reply for a late one.
#[test]
fn fault_01_replies_from_the_future_do_not_hang_later_calls() {
    leaving_nothing(
        "fault_01_replies_from_the_future_do_not_hang_later_calls",
        60,
        || drop(start()),
        || {
            let bridge = start();
            for _ in 0..10 {
                let slow = bridge.with_timeout(Duration::from_millis(30)).answer_the_future(200);
                assert!(matches!(slow, Err(CallError::TimedOut { .. })) || !bridge.is_alive(), "{slow:?}");
                // The late reply is there before the next call. That call drops it, and must drop nothing else.
                std::thread::sleep(Duration::from_millis(250));
                let answer = bridge.add(1);
                assert!(!matches!(answer, Err(CallError::TimedOut { .. })), "{answer:?}");
                if !bridge.is_alive() {
                    return;
                }
                // Each call uses up one of the forged replies.
                (0..40).for_each(|_| drop(bridge.add(1)));
                assert_eq!(bridge.add(1).expect("in step again"), 2);
            }
        },
    );
}

/// Fault 2: the child changes a reply while the parent reads it. The result is a value of the type, or an error.
#[test]
fn fault_02_a_reply_that_changes_while_it_is_read_is_a_value_or_an_error() {
    leaving_nothing(
        "fault_02_a_reply_that_changes_while_it_is_read_is_a_value_or_an_error",
        120,
        || drop(start()),
        || {
            let (mut values, mut errors) = (0, 0);
            // On a busy machine the first call may meet a lie each time, so go on until some have been answered.
            for round in 0..200 {
                if round >= 20 && values > 0 {
                    break;
                }
                let bridge = with_timeout(500);
                bridge.hammer().ok();
                for _ in 0..2_000 {
                    let viewed = bridge.view().name();
                    match viewed.and_then(|view| Ok((view, bridge.name()?))) {
                        // Use the text as code that relies on UTF-8 would.
                        Ok((view, text)) => {
                            values += usize::from(view.chars().count().max(text.chars().count()) <= 560)
                        }
                        // Corrupt, or a reply that the child destroyed.
                        Err(_) => {
                            errors += 1;
                            break;
                        }
                    }
                }
                bridge.kill();
            }
            assert!(values > 0, "no call was answered ({errors} errors)");
        },
    );
}

/// When everything in the segment is overwritten, later calls fail in bounded time, and other bridges answer.
#[test]
fn fault_09_a_scribbled_segment_fails_its_own_bridge_only() {
    leaving_nothing(
        "fault_09_a_scribbled_segment_fails_its_own_bridge_only",
        60,
        || drop(start()),
        || {
            let (bridge, other) = (with_timeout(2_000), start());
            let _ = bridge.scribble();
            for _ in 0..3 {
                let _ = bridge.add(1);
                assert_eq!(other.add(1).expect("another bridge answers"), 2);
            }
            bridge.kill();
        },
    );
}

/// A segment that the child has, the offset and length of a block that fills it, how much of the block is final, and the expected length.
const TRUE_BLOCK: [u64; 5] = [1, 0, MIB, MIB / 2, MIB];

/// Announcements of memory that the child does not have.
#[test]
fn fault_08_a_forged_announcement_poisons_the_bridge() {
    leaving_nothing(
        "fault_08_a_forged_announcement_poisons_the_bridge",
        120,
        || drop(start()),
        || {
            let cases: [(&str, [u64; 5]); 5] = [
                ("a segment that does not exist", [77, 0, MIB, 1, MIB]),
                ("a block that is too long", [1, 0, u64::MAX, 1, MIB]),
                ("a block that ends outside", [1, 64, 1 << 30, 1, MIB]),
                ("a block that lies outside", [1, u64::MAX - 63, 64, 1, MIB]),
                ("a block that is not aligned", [1, 8, MIB, 1, MIB]),
            ];
            for (case, words) in cases {
                let bridge = start();
                bridge.large().expect("a megabyte");
                let error = bridge.announced(words.to_vec(), Then::Sleep).map(drop).expect_err(case);
                assert_poisoned(&bridge, &error, case);
            }
        },
    );
}

/// Marks beyond the block, marks that go back, announcements that keep changing or are withdrawn: the caller gets a value of the type or an error,
/// no later than its deadline, and the next call is answered.
#[test]
fn fault_02_a_caller_that_follows_a_lie_comes_back() {
    leaving_nothing(
        "fault_02_a_caller_that_follows_a_lie_comes_back",
        120,
        || drop(start()),
        || {
            let [segment, offset, len, mark, expected] = TRUE_BLOCK;
            let lies = [
                TRUE_BLOCK,
                [segment, offset, len, u64::MAX, expected],
                [segment, offset, len, mark, u64::MAX],
                [segment, offset, 0, mark, 0],
            ];
            for words in lies {
                for then in [Then::Answer, Then::MarkOn, Then::MarkBack, Then::AnnounceAgain, Then::TakeBack] {
                    let case = format!("{words:?}, {then:?}");
                    let bridge = start();
                    bridge.large().expect("a megabyte");
                    // Bytes copied ahead of time are older than the reply, which makes them as good as any other lie.
                    match bridge.announced(words.to_vec(), then) {
                        Ok(bytes) => assert_eq!(bytes.len() as u64, MIB, "{case}"),
                        Err(error) => assert!(matches!(error, CallError::Corrupt { .. }), "{case}: {error}"),
                    }
                    let short = bridge.with_timeout(Duration::from_millis(100)).announced(words.to_vec(), then);
                    if !bridge.is_alive() || then == Then::Answer {
                        continue;
                    }
                    let Err(error) = short else { panic!("{case}: answered before its time") };
                    assert!(matches!(error, CallError::TimedOut { .. }), "{case}: {error}");
                    assert_eq!(bridge.add(1).expect("the next call is answered"), 2, "{case}");
                }
            }
        },
    );
}

/// A child announces a reply, keeps marking more of it as final, and dies. The caller has no deadline, and still returns.
#[test]
fn fault_12_a_death_ends_the_wait_for_what_was_announced() {
    leaving_nothing(
        "fault_12_a_death_ends_the_wait_for_what_was_announced",
        120,
        || drop(start()),
        || {
            for wait in [Wait::Spin, Wait::Adaptive, Wait::Park] {
                for mark in [0, MIB / 2, MIB, u64::MAX] {
                    let bridge = Hostile::bridge().concurrent_callers(1).wait(wait).start().expect("the bridge starts");
                    bridge.large().expect("a megabyte");
                    let words = vec![1, 0, MIB, mark, MIB];
                    let error = bridge.announced(words, Then::Die).map(drop).expect_err("the child dies");
                    assert!(matches!(error, CallError::Died { .. }), "{wait:?}, {mark}: {error}");
                }
            }
        },
    );
}

/// If a child makes its end of the control socket very slow for the kernel, it is killed, whichever thread sends to it: the watcher, with memory for
/// a reply, or a caller, with memory for a request. Other bridges are not delayed.
#[test]
fn fault_40_a_child_that_makes_its_socket_slow_is_killed() {
    leaving_nothing(
        "fault_40_a_child_that_makes_its_socket_slow_is_killed",
        240,
        || drop(start()),
        || {
            type Call = fn(&Bridge<Hostile>, u64) -> Result<(), CallError>;
            let calls: [(&str, Call); 2] = [
                ("the watcher", |bridge, len| bridge.give(len).map(drop)),
                ("a caller", |bridge, len| bridge.take(vec![1; len as usize]).map(drop)),
            ];
            let (mut firsts, mut kills) = (0..20).map(|_| bystander()).unzip::<_, _, Vec<_>, Vec<_>>();
            for (case, call) in calls {
                let bridge = with_timeout(60_000);
                let attack = || {
                    let made = bridge.burden("socket:".into(), slow::entries() as u64).expect("it is burdened");
                    assert!(made * 2 > slow::entries() as u64, "{case}: {made} entries");
                    // An unmistakably slow send kills the child at once, a less clear one the second time. Each call needs more memory.
                    let error = (1..6).find_map(|times| call(&bridge, times * MIB).err()).expect(case);
                    assert_poisoned(&bridge, &error, case);
                    assert!(error.to_string().contains("slow"), "{case}: {error}");
                };
                let (mut first, mut kill) = std::thread::scope(|scope| {
                    let attack = scope.spawn(attack);
                    let mut times = Vec::new();
                    while !attack.is_finished() {
                        times.push(bystander());
                    }
                    attack.join().expect(case);
                    times.into_iter().unzip::<_, _, Vec<_>, Vec<_>>()
                });
                slow::compare(&format!("first large call beside {case}"), &mut firsts, &mut first);
                slow::compare(&format!("kill beside {case}"), &mut kills, &mut kill);
            }
        },
    );
}

/// How long the first large call through another bridge takes, and how long its kill takes.
fn bystander() -> (Duration, Duration) {
    let (bridge, begun) = (with_timeout(60_000), Instant::now());
    assert_eq!(bridge.large().expect("another child answers").len() as u64, MIB);
    let (first, begun) = (begun.elapsed(), Instant::now());
    bridge.kill();
    (first, begun.elapsed())
}

/// The child shares the eventfd that its caller sleeps on. The number of waiters there costs the caller nothing.
#[test]
fn fault_40_a_burdened_doorbell_costs_its_caller_nothing() {
    leaving_nothing(
        "fault_40_a_burdened_doorbell_costs_its_caller_nothing",
        120,
        || drop(start()),
        || {
            let builder = Hostile::bridge().concurrent_callers(1).signal(Signal::EventFd).wait(Wait::Park);
            let bridge = builder.start().expect("the bridge starts");
            let patient = bridge.with_timeout(Duration::from_secs(60));
            let made = patient.burden("anon_inode:[eventfd]".into(), slow::entries() as u64).expect("it is burdened");
            assert!(made * 2 > slow::entries() as u64, "{made} entries");
            let before = slow::cpu();
            for n in 0..10 {
                assert_eq!(bridge.add(n).expect("it answers"), n + 1);
            }
            let spent = slow::cpu() - before;
            assert!(spent < Duration::from_millis(200), "{spent:?} for ten calls");
        },
    );
}

/// Row 39 of the faults: a child that keeps memory which it has given back gets no more than the budget.
#[test]
fn fault_39_what_a_child_keeps_stays_on_the_books() {
    alone("fault_39_what_a_child_keeps_stays_on_the_books", 240, || {
        const MEMORY: u64 = 16 << 20;
        let bridge = builder_of(MEMORY).timeout(Duration::from_secs(20)).start().expect("the bridge starts");
        let (mut kept, mut refused) = (0, 0);
        for round in 0..1000_u64 {
            // No size fits where another was.
            let len = (300 << 10) * (1 + round * 7 % 12);
            match bridge.sized(len) {
                Ok(bytes) => assert_eq!(bytes.len() as u64, len),
                Err(error) => {
                    assert!(matches!(error, CallError::Exhausted { .. }), "{error}");
                    refused += 1;
                }
            }
            if round % 4 == 0 || refused < 4 {
                kept = bridge.hoard().expect("it goes on");
                assert!(kept <= MEMORY, "round {round}: it has {kept} bytes of {MEMORY}");
            }
        }
        assert!(refused > 0 && kept >= MEMORY / 4, "{refused} calls refused, {kept} bytes kept");
        // The same for requests, whose memory the parent creates.
        let short = bridge.with_timeout(Duration::from_millis(100));
        let mut refused = 0;
        for round in 0..60_u64 {
            let bytes = vec![2; (300 << 10) * (1 + round as usize * 7 % 12)];
            refused += u64::from(short.echo(bytes).is_err());
            kept = bridge.hoard().expect("it goes on");
            assert!(kept <= MEMORY, "round {round}: it has {kept} bytes of {MEMORY}");
        }
        assert!(refused > 0 && kept > MEMORY / 2, "{refused} calls refused, {kept} bytes kept");
        println!("kept {:.3} of the memory of the bridge", kept as f64 / MEMORY as f64);
        assert_eq!(bridge.add(1), Ok(2));
        let pid = bridge.child_pid();
        bridge.kill();
        assert!(eventually(10, "the child is gone", || !process_exists(pid)));
        // The memory that it kept went with it: another child gets as much again.
        let other = builder_of(MEMORY).start().expect("the bridge starts");
        assert_eq!(other.sized(MEMORY / 5).map(|bytes| bytes.len() as u64), Ok(MEMORY / 5));
    });
}

fn builder_of(memory: u64) -> callgate::Builder<Hostile> {
    Hostile::bridge().max_payload(memory / 4).memory(memory).retained(0).concurrent_callers(1)
}

/// Row 39 of the faults: a child that keeps nothing never runs out of memory, however often it grows and shrinks, with or without a deadline.
#[test]
fn fault_39_memory_that_is_given_back_can_be_had_again() {
    alone("fault_39_memory_that_is_given_back_can_be_had_again", 240, || {
        const HALF: u64 = 512 << 10;
        let rounds = std::env::var("CALLGATE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
        for timeout in [None, Some(Duration::from_secs(60))] {
            let builder = builder_of(2 * HALF);
            let bridge = match timeout {
                Some(timeout) => builder.timeout(timeout).start(),
                None => builder.start(),
            };
            let bridge = bridge.expect("the bridge starts");
            for round in 0..rounds {
                let len = if round % 2 == 0 { HALF / 2 - 64 } else { HALF / 8 + (4 << 10) };
                let echoed = bridge.echo(vec![3; len as usize]);
                assert_eq!(echoed.map(|bytes| bytes.len() as u64), Ok(len), "round {round}");
            }
            let (here, there) = (std::process::id(), bridge.child_pid());
            assert!(eventually(20, "what is idle is given back", || {
                shared_bytes(here, "callgate-arena") + shared_bytes(there, "callgate-arena") == 0
            }));
        }
    });
}

/// Row 41 of the faults: a child can make no holes in shared memory, so reading it never blocks.
#[test]
fn fault_41_a_child_makes_no_holes() {
    alone("fault_41_a_child_makes_no_holes", 120, || {
        let bridge = start();
        for len in [MIB as usize, 100_000, 3 << 20] {
            assert_eq!(bridge.echo(vec![4; len]).map(|bytes| bytes.len()), Ok(len));
            let (tried, holes) = bridge.holes().expect("it goes on");
            assert!(tried > 2 * len as u64, "{tried} bytes, for payloads of {len}");
            assert_eq!(holes, Vec::<String>::new());
        }
    });
}

/// Row 41 of the faults: calls return in time while the child does nothing but try to make holes.
#[test]
fn fault_41_calls_end_in_time_while_a_child_tries_to_make_holes() {
    alone("fault_41_calls_end_in_time_while_a_child_tries_to_make_holes", 240, || {
        let number = |name, otherwise| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
        let (hogs, rounds) = (number("CALLGATE_HOGS", 100), number("CALLGATE_ROUNDS", 20));
        let bridge = Hostile::bridge()
            .concurrent_callers(2)
            .timeout(Duration::from_millis(200))
            .start()
            .expect("the bridge starts");
        let large = || vec![5; 8 << 20];
        bridge.with_timeout(Duration::from_secs(60)).echo(large()).expect("memory");
        bridge.with_timeout(Duration::from_secs(60)).attack(4, hogs).expect("it attacks");
        let mut longest = Duration::ZERO;
        for round in 0..rounds {
            let begin = Instant::now();
            let _ = if round % 4 == 0 { bridge.echo(large()).map(drop) } else { bridge.add(1).map(drop) };
            longest = longest.max(begin.elapsed());
        }
        println!("the longest of {rounds} calls took {longest:?} beside {hogs} busy threads");
        assert!(longest < Duration::from_secs(20), "{longest:?}");
        bridge.kill();
    });
}
