//! The floors: the minimal cost of each way to reach another process and come back.
//!
//! A floor always takes two processes. The other one is this program, executed again (see `child.rs`).

#![forbid(unsafe_code)]

mod copy;
mod event;
mod pipeline;
mod relay;
mod spawn;
mod stream;
mod token;

pub use crate::child::{BenchChild, Hog};
pub use copy::{RawCopy, RawSum};
pub use event::RawEvents;
pub use pipeline::RawPipeline;
pub use relay::{Relay, Through};
pub use spawn::spawn;
pub use stream::RawStream;
pub use token::{Asleep, Tokens};

use crate::child::ChildRole;
use crate::interleave::{Budget, Subject, interleave, rows};
use crate::pin::{self, Pinned};
use crate::report::BenchReport;
use crate::{BoxError, Clock, Progress};
use std::hint::black_box;
use std::{convert, io};

/// Plays a child's role until the child is killed.
pub(crate) fn answer(role: ChildRole) -> io::Result<convert::Infallible> {
    match role {
        ChildRole::PingPong => token::answer(Asleep::Never),
        ChildRole::Futex => token::answer(Asleep::Always),
        ChildRole::Relay => relay::answer(),
        ChildRole::Copy => copy::answer(),
        ChildRole::Sum => copy::answer_sum(),
        ChildRole::Stream => stream::answer(),
        ChildRole::Pipeline => pipeline::answer(),
        ChildRole::Event => event::answer(),
        ChildRole::Byte => spawn::answer(),
        ChildRole::Hog => loop {
            std::hint::spin_loop();
        },
    }
}

/// Measures the group `floor`: every floor in turn.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let Ok((caller, callee)) = pin::pair() else {
        return Ok(BenchReport::left_out("Floors"));
    };
    let _pin = Pinned::to(caller)?;
    let measured = interleave(budget, &Clock::new(), progress, || subjects(callee))?;
    let series = measured.iter().map(|measured| measured.curve("floor")).collect();
    Ok(BenchReport { rows: rows("floor", &measured), series, ..BenchReport::default() })
}

/// Subjects for every floor, with the other side on the CPU `callee`.
pub fn subjects(callee: usize) -> Result<Vec<Subject>, BoxError> {
    Ok(vec![
        Tokens::start(Asleep::Never, callee)?.subject("ping-pong"),
        Tokens::start(Asleep::Always, callee)?.subject("futex"),
        Relay::start(Through::EventFd, callee)?.subject("eventfd"),
        Relay::start(Through::Pipe, callee)?.subject("pipe"),
        memcpy("memcpy 1 MiB", 1 << 20),
    ])
}

/// A subject that copies `len` bytes within this process.
fn memcpy(name: &str, len: usize) -> Subject {
    let (from, mut to) = (vec![7u8; len], vec![0u8; len]);
    Subject::new(name, move || {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes;
    use rustix::process::{Pid, test_kill_process};

    /// The CPU of the other side; the same CPU as this side's if only one is allowed.
    fn cpu() -> usize {
        *pin::allowed().last().expect("a CPU")
    }

    #[track_caller]
    fn gone(pid: u32) {
        let pid = Pid::from_raw(pid as i32).expect("a process number");
        assert!(test_kill_process(pid).is_err(), "the child {pid:?} is still there");
    }

    #[test]
    fn tokens_come_back_and_the_child_ends_with_them() {
        for asleep in [Asleep::Never, Asleep::Always] {
            let mut tokens = Tokens::start(asleep, cpu()).expect("a child");
            (0..20).for_each(|_| tokens.round_trip().expect("an answer"));
            let pid = tokens.pid();
            drop(tokens);
            gone(pid);
        }
    }

    #[test]
    fn relays_answer_and_end() {
        for through in [Through::EventFd, Through::Pipe] {
            let mut relay = Relay::start(through, cpu()).expect("a child");
            (0..100).for_each(|_| relay.round_trip().expect("an answer"));
            let pid = relay.pid();
            drop(relay);
            gone(pid);
        }
    }

    #[test]
    fn bytes_come_back_as_they_were_sent() {
        let mut copy = RawCopy::start(100_000, cpu()).expect("a child");
        for len in [0, 1, 100_000] {
            let bytes: Vec<u8> = (0..len).map(|at: u32| at.to_le_bytes()[0]).collect();
            let mut back = vec![0; bytes.len()];
            copy.round_trip(&bytes, &mut back).expect("an answer");
            assert_eq!(back, bytes);
        }
        let pid = copy.pid();
        drop(copy);
        gone(pid);
    }

    #[test]
    fn bytes_that_go_one_way_are_summed_whole() {
        let mut floor = RawSum::start(100_000, cpu()).expect("a child");
        for len in [0, 1, 9, 100_000] {
            let sent: Vec<u8> = (0..len).map(|at: u32| at.to_le_bytes()[0]).collect();
            assert_eq!(floor.sum(&sent).expect("an answer"), bytes::sum(&sent));
        }
        let pid = floor.pid();
        drop(floor);
        gone(pid);
    }

    #[test]
    fn numbers_come_in_order_whether_or_not_the_ring_is_full() {
        let mut floor = RawStream::start(cpu()).expect("a child");
        for count in [0, 1, 10_000] {
            floor.take(count).expect("numbers in order");
        }
        let pid = floor.pid();
        drop(floor);
        gone(pid);
    }

    #[test]
    fn numbers_come_back_in_order_however_many_are_on_their_way() {
        for depth in [1, 32, 10_000] {
            let mut floor = RawPipeline::start(depth, cpu()).expect("a child");
            (0..20_000).for_each(|_| floor.step().expect("the next number"));
            floor.drain().expect("the last numbers");
            let pid = floor.pid();
            drop(floor);
            gone(pid);
        }
    }

    #[test]
    fn an_event_loop_waits_for_the_work() {
        let mut floor = RawEvents::start(cpu()).expect("a child");
        let (begin, work) = (std::time::Instant::now(), std::time::Duration::from_micros(300));
        floor.round_trip(work).expect("an answer");
        assert!(begin.elapsed() >= work);
        let pid = floor.pid();
        drop(floor);
        gone(pid);
    }

    #[test]
    fn a_spawned_program_answers_and_is_reaped() {
        let child = spawn().expect("a child and its byte");
        let pid = child.pid();
        drop(child);
        gone(pid);
    }

    #[test]
    fn a_hog_ends_when_it_is_dropped() {
        drop(Hog::on(cpu()).expect("a child"));
    }

    #[test]
    fn a_child_that_ended_is_an_error_and_no_hang() {
        let mut tokens = Tokens::start(Asleep::Never, cpu()).expect("a child");
        let pid = Pid::from_raw(tokens.pid() as i32).expect("a process number");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a living child");
        let error = (0..100_000_000).find_map(|_| tokens.round_trip().err()).expect("an error");
        assert!(error.to_string().contains("the floor's child ended with signal: 9"), "{error}");
    }
}
