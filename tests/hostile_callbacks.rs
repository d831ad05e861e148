//! A child that calls back as no healthy child does: forged questions, floods of them, questions after the end. It is killed, or its caller answers what
//! is a question, and the parent goes on.

#[path = "support/held.rs"]
mod held;
#[path = "support/raw.rs"]
mod raw;
mod support;

use callgate::{Bridge, CallError, Wait, bridge};
use held::leaving_nothing;
use raw::{ASK, CALL, IN_BLOCK, Raw, commit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{eventually, process_exists};

callgate::test_support!();

struct Hostile;

/// Publishes a question in reply to the call in progress, and says no more.
fn forge(number: u64, len: u64, kind: u64, payload: &[u64]) {
    let raw = Raw::find();
    let position = raw.started() - 1;
    raw.reply(position, 1).store(number << 1, Ordering::Relaxed);
    raw.forge(position, commit(position, len, kind), payload);
    std::thread::sleep(Duration::from_secs(20));
}

#[bridge]
impl Hostile {
    pub fn new() -> Self {
        Hostile
    }

    pub fn add(&self, n: u64) -> u64 {
        n + 1
    }

    /// A method without callbacks that asks.
    pub fn plain(&self) -> u64 {
        forge(0, 8, ASK, &[1]);
        0
    }

    pub fn forged(
        &self,
        number: u64,
        len: u64,
        kind: u64,
        payload: Vec<u64>,
        ask: &mut dyn FnMut(&str, u64) -> u64,
    ) -> u64 {
        forge(number, len, kind, &payload);
        ask("", 0)
    }

    /// Asks in reply to each request of the conversation before it is there, as often as there are slots and more.
    pub fn flood(&self, questions: u64, ask: &mut dyn FnMut(u64) -> u64) -> u64 {
        let raw = Raw::find();
        let first = raw.started() - 1;
        for at in first..first + questions {
            raw.reply(at, 1).store(0, Ordering::Relaxed);
            raw.forge(at, commit(at, 8, ASK), &[at - first]);
            // Not faster than the ring: a slot is rewritten only when its question has been answered.
            while at + 2 >= first + raw.slots
                && raw.request(at + 3 - raw.slots, 0).load(Ordering::Acquire) >> 32 < at + 4 - raw.slots
            {
                std::hint::spin_loop();
            }
        }
        std::thread::sleep(Duration::from_secs(20));
        ask(0)
    }

    /// Asks again when it has been told to end.
    pub fn restless(&self, ask: &mut dyn FnMut(u64) -> u64) -> u64 {
        let ended = catch_unwind(AssertUnwindSafe(|| ask(1))).is_err();
        assert!(ended, "the callback panics, or is too late");
        forge(0, 8, ASK, &[2]);
        0
    }

    /// Answers, and then asks in reply to the next request, whatever it is.
    pub fn after_the_end(&self, ask: &mut dyn FnMut(u64) -> u64) -> u64 {
        let raw = Raw::find();
        let answer = ask(1);
        let next = raw.started();
        raw.reply(next + 1, 1).store(0, Ordering::Relaxed);
        raw.forge(next + 1, commit(next + 1, 8, ASK), &[3]);
        answer
    }
}

/// One lane, so that the attacker knows which one it is. The caller polls, because an attacker need not ring the bell.
fn start() -> Bridge<Hostile> {
    let builder = Hostile::bridge().concurrent_callers(1).wait(Wait::Spin).timeout(Duration::from_secs(10));
    builder.start().expect("the bridge starts")
}

/// Checks that the child was killed, and that later calls say why.
fn assert_poisoned(bridge: &Bridge<Hostile>, error: &CallError, case: &str) {
    assert!(matches!(error, CallError::Corrupt { .. }), "{case}: {error}");
    let pid = bridge.child_pid();
    assert!(eventually(5, "the child is gone", || !process_exists(pid)));
    let later = bridge.add(1).expect_err("a poisoned bridge answers nothing");
    assert!(matches!(later, CallError::Corrupt { .. }), "{case}: {later}");
}

fn checked(test: &str, body: impl FnOnce()) {
    leaving_nothing(test, 120, || drop(start()), body);
}

#[test]
fn a_question_of_a_method_without_callbacks_poisons_the_bridge() {
    checked("a_question_of_a_method_without_callbacks_poisons_the_bridge", || {
        let bridge = start();
        let error = bridge.plain().expect_err("no answer to that");
        assert_poisoned(&bridge, &error, "a plain method");
        let bridge = start();
        let error = bridge.begin().plain().wait().expect_err("no answer to that");
        assert_poisoned(&bridge, &error, "a plain method that is pending");
    });
}

#[test]
fn a_forged_question_poisons_the_bridge_and_calls_nothing_back() {
    checked("a_forged_question_poisons_the_bridge_and_calls_nothing_back", || {
        // A text's archive is a relative pointer and a length, and the number comes after it.
        let cases: [(&str, u64, u64, u64, &[u64]); 8] = [
            ("a callback that there is none of", 1, 16, ASK, &[0xff, 1]),
            ("the highest number", 0x7fff, 16, ASK, &[0xff, 1]),
            ("no arguments", 0, 0, ASK, &[]),
            ("one byte", 0, 1, ASK, &[0]),
            ("a text that points outside", 0, 16, ASK, &[0x7fff_ffff_0000_00f0, 1]),
            ("more bytes than the slot", 0, 561, ASK, &[]),
            ("a block that does not exist", 0, 0, ASK | IN_BLOCK, &[77, 0, 16]),
            ("an answer in the wrong direction", 0, 8, ASK + 1, &[1]),
        ];
        for (case, number, len, kind, payload) in cases {
            for is_awaited in [false, true] {
                let (bridge, mut called) = (start(), 0);
                let mut ask = |_: &str, n| {
                    called += 1;
                    n
                };
                let outcome = match is_awaited {
                    false => bridge.forged(number, len, kind, payload.to_vec(), &mut ask),
                    // Nobody rings for it: the task looks when its time is over.
                    true => {
                        let timed = bridge.with_timeout(Duration::from_millis(200));
                        pollster::block_on(timed.begin().forged(number, len, kind, payload.to_vec(), &mut ask))
                    }
                };
                assert_poisoned(&bridge, &outcome.expect_err(case), case);
                assert_eq!(called, 0, "{case}");
            }
        }
    });
}

#[test]
fn a_flood_of_questions_is_answered_one_at_a_time() {
    checked("a_flood_of_questions_is_answered_one_at_a_time", || {
        let (bridge, mut asked) = (start(), Vec::new());
        let short = bridge.with_timeout(Duration::from_millis(1500));
        let error = short.flood(100, &mut |n| {
            asked.push(n);
            n
        });
        assert!(matches!(error, Err(CallError::TimedOut { .. })), "{error:?}");
        assert_eq!(asked, (0..asked.len() as u64).collect::<Vec<_>>());
        assert!(asked.len() >= 30 && asked.len() <= 100, "{}", asked.len());
    });
}

#[test]
fn a_method_that_asks_on_when_it_was_to_end_poisons_the_bridge() {
    checked("a_method_that_asks_on_when_it_was_to_end_poisons_the_bridge", || {
        let bridge = start();
        let panic = catch_unwind(AssertUnwindSafe(|| bridge.restless(&mut |_| panic!("no"))));
        assert_eq!(panic.expect_err("the callback's").downcast_ref::<&str>(), Some(&"no"));
        assert!(matches!(bridge.add(1), Err(CallError::Corrupt { .. })));
        // Nobody waits for this one: the watcher finds it.
        let bridge = start();
        let error = bridge.with_timeout(Duration::from_millis(50)).restless(&mut |n| {
            std::thread::sleep(Duration::from_millis(100));
            n
        });
        assert!(matches!(error, Err(CallError::TimedOut { .. })), "{error:?}");
        let pid = bridge.child_pid();
        assert!(eventually(10, "the child is gone", || !process_exists(pid)
            || bridge.add(1).is_err_and(|error| matches!(error, CallError::Corrupt { .. }))));
    });
}

#[test]
fn a_question_after_the_end_of_its_call_reaches_no_callback() {
    checked("a_question_after_the_end_of_its_call_reaches_no_callback", || {
        let (bridge, mut called) = (start(), 0);
        let answer = bridge.after_the_end(&mut |n| {
            called += 1;
            n + 10
        });
        assert_eq!(answer, Ok(11));
        // The forged question is in the place of the reply to this one.
        match bridge.add(1) {
            Ok(sum) => assert_eq!(sum, 2, "the child has answered in time"),
            Err(error) => assert_poisoned(&bridge, &error, "after the end"),
        }
        assert_eq!(called, 1);
    });
}

#[test]
fn the_kinds_of_frames_are_those_of_the_engine() {
    // What the attacker writes is what the engine reads: a plain forged answer is taken.
    assert_eq!((CALL, ASK), (2, 14));
}
