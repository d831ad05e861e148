//! The floor of streams: numbers from another process, through a ring in shared memory, one store for each.
//!
//! Both sides poll. Nothing is lost: the producer waits while the ring is full, and learns now and then how much was taken.

#![forbid(unsafe_code)]

use super::token::{POLLS, await_first, poll_for};
use crate::BoxError;
use crate::child::{BenchChild, ChildRole};
use crate::shared::{Direction, SharedMapping, SharedNumber};
use crate::workload::check;
use std::process::Stdio;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::{convert, hint, io};

/// The numbers that the ring has room for.
const RING: u64 = 1024;

/// After so many numbers the consumer says what it has taken.
const REPORTED: u64 = RING / 4;

/// Takes numbers from another process.
#[derive(Debug)]
pub struct RawStream {
    shared: SharedMapping,
    child: BenchChild,
    turn: u32,
    taken: u64,
}

impl RawStream {
    /// Starts the other process, on `cpu`.
    pub fn start(cpu: usize) -> io::Result<Self> {
        let (shared, object) = SharedMapping::create(RING as usize * size_of::<SharedNumber>())?;
        let child = BenchChild::start(ChildRole::Stream, &[cpu], object.into(), Stdio::null())?;
        let mut stream = Self { shared, child, turn: 0, taken: 0 };
        stream.ask(0);
        await_first(&stream.shared, stream.turn, &mut stream.child)?;
        Ok(stream)
    }

    /// The other process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Asks for the numbers from 0 to below `count`, and takes them.
    ///
    /// # Errors
    ///
    /// If the child is gone, or if a number is not the next one.
    pub fn take(&mut self, count: u32) -> Result<(), BoxError> {
        if count == 0 {
            // The child might not have seen this turn when the next one begins.
            return Ok(());
        }
        self.ask(count);
        for expected in 0..u64::from(count) {
            let number = self.next()?;
            check(number == expected, "stream")?;
        }
        Ok(())
    }

    fn ask(&mut self, count: u32) {
        self.turn = self.turn.wrapping_add(1);
        let there = self.shared.line(Direction::There);
        there.len.store(count, Relaxed);
        // Release: publishes the count. Pairs with the Acquire in `poll_for`.
        there.token.store(self.turn, Release);
    }

    #[inline(always)]
    fn next(&mut self) -> io::Result<u64> {
        let slot = self.shared.number(Direction::Back, (self.taken % RING) as usize);
        let mut polls = 0;
        // Acquire: pairs with the Release in `answer`, which publishes the number.
        while slot.sequence.load(Acquire) != self.taken + 1 {
            hint::spin_loop();
            polls += 1;
            if polls == POLLS {
                polls = 0;
                self.child.check()?;
            }
        }
        let number = slot.number.load(Relaxed);
        self.taken += 1;
        if self.taken.is_multiple_of(REPORTED) {
            // Release: the numbers were read before. Pairs with the Acquire in `answer`, after which the producer overwrites them.
            self.shared.line(Direction::There).sum.store(self.taken, Release);
        }
        Ok(number)
    }
}

/// The child's side.
pub(super) fn answer() -> io::Result<convert::Infallible> {
    let shared = SharedMapping::map(io::stdin())?;
    let there = shared.line(Direction::There);
    let (mut turn, mut sent, mut taken) = (0u32, 0u64, 0u64);
    loop {
        turn = turn.wrapping_add(1);
        while !poll_for(there, turn, POLLS) {}
        // Release: as in `copy.rs`. Awaited only while the child starts.
        shared.line(Direction::Back).token.store(turn, Release);
        for number in 0..u64::from(there.len.load(Relaxed)) {
            while sent >= taken + RING {
                hint::spin_loop();
                // Acquire: pairs with the Release in `next`.
                taken = there.sum.load(Acquire);
            }
            let slot = shared.number(Direction::Back, (sent % RING) as usize);
            slot.number.store(number, Relaxed);
            sent += 1;
            // Release: publishes the number. Pairs with the Acquire in `next`.
            slot.sequence.store(sent, Release);
        }
    }
}
