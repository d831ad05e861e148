//! What one-way calls promise: they are carried out in their order, with later calls of the thread behind them, and a flush tells of the first failure.

mod support;

use callgate::{Bridge, CallError, Restart, SharedBox, Signal, Started, bridge};
use std::time::Duration;
use support::within;

callgate::test_support!();

/// Notes what it is sent.
struct Log {
    numbers: Vec<u64>,
    bytes: u64,
}

#[bridge]
impl Log {
    pub fn new() -> Self {
        Log { numbers: Vec::new(), bytes: 0 }
    }

    pub fn note(&mut self, number: u64) -> String {
        self.numbers.push(number);
        // A result that outgrows a slot, if anybody wrote it.
        "x".repeat(2000)
    }

    pub fn numbers(&self) -> Vec<u64> {
        self.numbers.clone()
    }

    pub fn clear(&mut self) {
        self.numbers.clear();
    }

    pub fn text(&mut self, text: &str) {
        self.bytes += text.len() as u64;
    }

    pub fn boxed(&mut self, bytes: SharedBox<[u8]>) -> SharedBox<[u8]> {
        self.bytes += bytes.len() as u64;
        bytes
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn fail(&self, number: u64) {
        panic!("number {number}")
    }

    pub fn fail_at_length(&self, len: usize) {
        std::panic::resume_unwind(Box::new("x".repeat(len)))
    }

    pub fn sleep(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    /// Makes a file, after a while.
    pub fn touch(&self, path: &str, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
        std::fs::write(path, []).expect("a file");
    }

    pub fn exit(&self) {
        std::process::exit(3)
    }
}

trait Doubled {
    fn note_double(&mut self, number: u64);
}

#[bridge]
impl Doubled for Log {
    fn note_double(&mut self, number: u64) {
        self.numbers.push(2 * number);
    }
}

/// Bridges whose rings wrap soon and late.
fn logs() -> impl Iterator<Item = Bridge<Log>> {
    [(Signal::Futex, 2), (Signal::Futex, 4), (Signal::EventFd, 8), (Signal::Futex, 32)].into_iter().map(
        |(signal, slots)| {
            Log::bridge().signal(signal).pending_calls(slots).concurrent_callers(4).start().expect("the bridge starts")
        },
    )
}

#[test]
fn one_way_calls_and_calls_after_them_keep_their_order() {
    within(120, "one_way_calls_and_calls_after_them_keep_their_order", || {
        for log in logs() {
            let mut expected = Vec::new();
            for round in 0..300u64 {
                for number in 0..round % 41 {
                    log.send().note(number).expect("room");
                    expected.push(number);
                }
                match round % 4 {
                    0 => drop(log.note(round).expect("an answer")),
                    1 => drop(log.begin().note(round).wait().expect("an answer")),
                    2 => {
                        log.send().note_double(round).expect("room");
                        log.flush().expect("none has failed");
                    }
                    _ => {
                        let pending: Vec<_> = (0..50).map(|_| log.begin().note(round)).collect();
                        pending.into_iter().for_each(|pending| drop(pending.wait().expect("an answer")));
                        expected.extend([round; 49]);
                    }
                }
                expected.push(if round % 4 == 2 { 2 * round } else { round });
            }
            assert_eq!(log.numbers(), Ok(expected));
            assert!(log.stop().expect("a stop").success());
        }
    });
}

#[test]
fn threads_that_share_lanes_keep_their_own_order() {
    within(120, "threads_that_share_lanes_keep_their_own_order", || {
        for log in logs() {
            let log = &log;
            std::thread::scope(|scope| {
                for thread in 0..9u64 {
                    scope.spawn(move || {
                        for number in 0..200 {
                            match number % 50 {
                                49 => drop(log.note(1000 * thread + number).expect("an answer")),
                                _ => log.send().note(1000 * thread + number).expect("room"),
                            }
                        }
                    });
                }
            });
            log.flush().expect("none has failed");
            let numbers = log.numbers().expect("an answer");
            for thread in 0..9 {
                let own: Vec<_> = numbers.iter().copied().filter(|number| number / 1000 == thread).collect();
                assert_eq!(own, (0..200).map(|number| 1000 * thread + number).collect::<Vec<_>>());
            }
        }
    });
}

#[test]
fn a_flush_tells_of_the_first_failure_and_then_of_no_other() {
    within(60, "a_flush_tells_of_the_first_failure_and_then_of_no_other", || {
        for log in logs() {
            assert_eq!(log.flush(), Ok(()), "nothing was sent");
            for number in 0..100 {
                match number {
                    37 | 38 | 70 => log.send().fail(number).expect("room"),
                    _ => log.send().note(number).expect("room"),
                }
            }
            let error = log.flush().expect_err("some failed");
            let CallError::Panicked { call, fault } = &error else { panic!("{error}") };
            assert_eq!((call.to_string().as_str(), fault.message.as_str()), ("Log::fail", "number 37"));
            assert_eq!(log.flush(), Ok(()));
            assert_eq!(log.numbers().map(|numbers| numbers.len()), Ok(97));
            // Found by a call before the flush, and kept for it.
            log.send().fail(7).expect("room");
            assert!(log.note(8).is_ok());
            assert!(matches!(log.flush(), Err(CallError::Panicked { .. })));
        }
    });
}

#[test]
fn large_requests_and_boxes_are_sent_one_way_and_their_memory_comes_back() {
    within(120, "large_requests_and_boxes_are_sent_one_way_and_their_memory_comes_back", || {
        let log = Log::bridge().max_payload(1 << 20).memory(8 << 20).start().expect("the bridge starts");
        let text = "7".repeat(500_000);
        for number in 0..100 {
            log.send().text(&text).expect("room");
            let bytes = SharedBox::copied_in(&log, &[1u8; 300_000]).or_else(|_| {
                // Those under way have it.
                log.flush().expect("none has failed");
                SharedBox::copied_in(&log, &[1u8; 300_000])
            });
            let bytes = bytes.expect("memory");
            log.send().boxed(bytes).expect("room");
            // Behind what carries memory, some that carry none and are not answered.
            (0..number % 5).for_each(|number| log.send().note(number).expect("room"));
        }
        log.flush().expect("none has failed");
        assert_eq!(log.bytes(), Ok(100 * 800_000));
    });
}

/// More than there is room for, so that the batch must notify before it is over.
#[test]
fn one_way_calls_in_a_batch_are_carried_out() {
    within(60, "one_way_calls_in_a_batch_are_carried_out", || {
        for log in logs() {
            std::thread::sleep(Duration::from_millis(20));
            log.batch(|_| (0..100).for_each(|number| log.send().note(number).expect("room")));
            log.flush().expect("none has failed");
            assert_eq!(log.numbers(), Ok((0..100).collect()));
        }
    });
}

#[test]
fn reports_of_failures_that_outgrow_a_slot_give_their_memory_back() {
    within(60, "reports_of_failures_that_outgrow_a_slot_give_their_memory_back", || {
        let log = Log::bridge().max_payload(1 << 20).memory(4 << 20).start().expect("the bridge starts");
        for round in 0..200 {
            (0..10).for_each(|_| log.send().fail_at_length(20_000).expect("room"));
            let error = log.flush().expect_err("all failed");
            assert!(matches!(error, CallError::Panicked { .. }), "round {round}: {error}");
        }
    });
}

#[test]
fn a_child_that_is_behind_is_waited_for_until_the_timeout() {
    within(60, "a_child_that_is_behind_is_waited_for_until_the_timeout", || {
        let log = Log::bridge().pending_calls(4).start().expect("the bridge starts");
        log.send().sleep(300).expect("room");
        let hasty = log.with_timeout(Duration::from_millis(20));
        let error = (0..10).find_map(|number| hasty.send().note(number).err()).expect("there is no room");
        assert!(matches!(error, CallError::TimedOut { started: Started::No, .. }), "{error}");
        log.flush().expect("none has failed");
        log.send().note(1).expect("room again");
    });
}

#[test]
fn a_death_is_told_by_the_next_flush() {
    within(60, "a_death_is_told_by_the_next_flush", || {
        for restarts in [false, true] {
            let builder = Log::bridge();
            let builder = if restarts { builder.restart(Restart::on_death()) } else { builder };
            let log = builder.start().expect("the bridge starts");
            log.send().note(1).expect("room");
            log.send().exit().expect("room");
            let error = log.flush().expect_err("the child ended");
            assert!(matches!(error, CallError::Died { started: Started::Unknown, .. }), "{error}");
            if restarts {
                while log.send().note(2).is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                assert_eq!((log.flush(), log.numbers()), (Ok(()), Ok(vec![2])));
            }
        }
    });
}

/// Bridges to one child, and those that would replace it.
fn both_kinds() -> [Bridge<Log>; 2] {
    let restarting = Log::bridge().restart(Restart::on_death());
    [Log::bridge(), restarting].map(|builder| builder.start().expect("the bridge starts"))
}

#[test]
fn threads_that_flush_at_the_same_time_all_wait() {
    within(60, "threads_that_flush_at_the_same_time_all_wait", || {
        for log in both_kinds() {
            let path = std::env::temp_dir().join(format!("callgate-flush-{}", std::process::id()));
            log.send().touch(&path.to_string_lossy(), 300).expect("it is sent");
            std::thread::scope(|scope| {
                scope.spawn(|| log.flush().expect("the first flush"));
                std::thread::sleep(Duration::from_millis(100));
                log.flush().expect("the second flush");
                std::fs::remove_file(&path).expect("the call has been carried out");
            });
        }
    });
}

#[test]
fn a_flush_that_gives_up_leaves_its_calls_to_the_next() {
    within(60, "a_flush_that_gives_up_leaves_its_calls_to_the_next", || {
        let path = std::env::temp_dir().join(format!("callgate-late-flush-{}", std::process::id()));
        let restarting = Log::bridge().restart(Restart::on_death());
        for builder in [Log::bridge(), restarting] {
            let log = builder.timeout(Duration::from_millis(100)).start().expect("the bridge starts");
            log.send().touch(&path.to_string_lossy(), 350).expect("it is sent");
            let mut flushes = 0;
            while log.flush().is_err() {
                flushes += 1;
            }
            assert!(flushes > 1, "{flushes}");
            std::fs::remove_file(&path).expect("the call has been carried out");
        }
    });
}
