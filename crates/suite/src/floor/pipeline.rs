//! The floor of calls that overlap: numbers there and back through two rings in shared memory, with a fixed number of them on their way.
//!
//! Both sides poll. A ring has room for all numbers that are on their way, so neither side asks the other how far it is.

#![forbid(unsafe_code)]

use super::token::POLLS;
use crate::BoxError;
use crate::child::{BenchChild, ChildRole};
use crate::shared::{Direction, SharedMapping, SharedNumber};
use crate::workload::check;
use std::process::Stdio;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::{convert, hint, io};

/// The numbers that each ring has room for.
const RING: u64 = 1 << 14;

/// Sends numbers to another process, which sends each back, one higher.
#[derive(Debug)]
pub struct RawPipeline {
    shared: SharedMapping,
    child: BenchChild,
    depth: u64,
    sent: u64,
    taken: u64,
}

impl RawPipeline {
    /// Starts the other process, on `cpu`. At most `depth` numbers will be on their way.
    ///
    /// # Panics
    ///
    /// If the rings have no room for as many.
    pub fn start(depth: u64, cpu: usize) -> Result<Self, BoxError> {
        assert!((1..=RING).contains(&depth), "{depth} numbers in rings of {RING}");
        let (shared, object) = SharedMapping::create(RING as usize * size_of::<SharedNumber>())?;
        let child = BenchChild::start(ChildRole::Pipeline, &[cpu], object.into(), Stdio::null())?;
        let mut pipeline = Self { shared, child, depth, sent: 0, taken: 0 };
        pipeline.step()?;
        pipeline.drain()?;
        Ok(pipeline)
    }

    /// The other process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends a number. Before, takes one back if as many are on their way as may be.
    ///
    /// # Errors
    ///
    /// If the child is gone, or if a number is not the next one.
    #[inline]
    pub fn step(&mut self) -> Result<(), BoxError> {
        if self.sent - self.taken == self.depth {
            self.take()?;
        }
        put(&self.shared, Direction::There, self.sent, self.sent);
        self.sent += 1;
        Ok(())
    }

    /// Takes back every number that is on its way.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn drain(&mut self) -> Result<(), BoxError> {
        while self.taken < self.sent {
            self.take()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn take(&mut self) -> Result<(), BoxError> {
        let number = loop {
            match poll_for(&self.shared, Direction::Back, self.taken, POLLS) {
                Some(number) => break number,
                None => self.child.check()?,
            }
        };
        self.taken += 1;
        check(number == self.taken, "pipeline")
    }
}

/// The child's side.
pub(super) fn answer() -> io::Result<convert::Infallible> {
    let shared = SharedMapping::map(io::stdin())?;
    let mut at = 0;
    loop {
        if let Some(number) = poll_for(&shared, Direction::There, at, POLLS) {
            put(&shared, Direction::Back, at, number + 1);
            at += 1;
        }
    }
}

#[inline(always)]
fn put(shared: &SharedMapping, way: Direction, at: u64, number: u64) {
    let slot = shared.number(way, (at % RING) as usize);
    slot.number.store(number, Relaxed);
    // Release: publishes the number. Pairs with the Acquire in `poll_for`.
    slot.sequence.store(at + 1, Release);
}

#[inline(always)]
fn poll_for(shared: &SharedMapping, way: Direction, at: u64, polls: u32) -> Option<u64> {
    let slot = shared.number(way, (at % RING) as usize);
    for _ in 0..polls {
        // Acquire: pairs with the Release in `put`. The slot is written again only after this side has answered, or taken the answer.
        if slot.sequence.load(Acquire) == at + 1 {
            return Some(slot.number.load(Relaxed));
        }
        hint::spin_loop();
    }
    None
}
