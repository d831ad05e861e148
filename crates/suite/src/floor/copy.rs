//! Floors for payloads: bytes through bare shared memory, there and back ([`RawCopy`]) or only there ([`RawSum`]).
//!
//! This is the minimum for a call whose caller has its bytes in private memory and wants the answer there. Both sides poll, and every
//! round trip uses the same memory.

#![forbid(unsafe_code)]

use super::token::{POLLS, await_first, poll_for};
use crate::bytes;
use crate::child::{BenchChild, ChildRole};
use crate::interleave::Subject;
use crate::shared::{Direction, SharedLine, SharedMapping};
use std::process::Stdio;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::{convert, hint, io};

/// Passes bytes between two processes: copied in, copied across by the other process, copied out.
#[derive(Debug)]
pub struct RawCopy(CopyTurns);

impl RawCopy {
    /// Starts the other process, on `cpu`, for up to `most` bytes.
    pub fn start(most: usize, cpu: usize) -> io::Result<Self> {
        CopyTurns::start(ChildRole::Copy, most, cpu).map(Self)
    }

    /// The other process.
    pub fn pid(&self) -> u32 {
        self.0.child.pid()
    }

    /// Sends `bytes` and waits until they have come back in `back`, which must have the same length.
    ///
    /// # Errors
    ///
    /// If the child is gone.
    #[inline]
    pub fn round_trip(&mut self, bytes: &[u8], back: &mut [u8]) -> io::Result<()> {
        self.0.take(bytes)?;
        self.0.shared.read(Direction::Back, back);
        Ok(())
    }

    /// Turns this into a subject that sends `len` bytes.
    pub fn subject(mut self, name: impl Into<String>, len: usize) -> Subject {
        let (pid, bytes, mut back) = (self.pid(), vec![7; len], vec![0; len]);
        let operation = move || {
            self.round_trip(hint::black_box(&bytes), &mut back)?;
            hint::black_box(&mut back);
            Ok(())
        };
        Subject::new(name, operation).answered_by(Some(pid)).polling()
    }
}

/// Sends bytes to another process, which reads them in place and answers with their [sum](bytes::sum).
#[derive(Debug)]
pub struct RawSum(CopyTurns);

impl RawSum {
    /// Starts the other process, on `cpu`, for up to `most` bytes.
    pub fn start(most: usize, cpu: usize) -> io::Result<Self> {
        CopyTurns::start(ChildRole::Sum, most, cpu).map(Self)
    }

    /// The other process.
    pub fn pid(&self) -> u32 {
        self.0.child.pid()
    }

    /// Sends `bytes` and waits for their sum.
    ///
    /// # Errors
    ///
    /// If the child is gone.
    #[inline]
    pub fn sum(&mut self, bytes: &[u8]) -> io::Result<u64> {
        self.0.take(bytes)?;
        Ok(self.0.shared.line(Direction::Back).sum.load(Relaxed))
    }
}

/// The parent's side of both floors.
#[derive(Debug)]
struct CopyTurns {
    shared: SharedMapping,
    child: BenchChild,
    turn: u32,
}

impl CopyTurns {
    fn start(role: ChildRole, most: usize, cpu: usize) -> io::Result<Self> {
        let (shared, object) = SharedMapping::create(most)?;
        let child = BenchChild::start(role, &[cpu], object.into(), Stdio::null())?;
        let mut turns = Self { shared, child, turn: 0 };
        turns.send(0);
        await_first(&turns.shared, turns.turn, &mut turns.child)?;
        Ok(turns)
    }

    /// Hands `bytes` over and waits until the child answers.
    #[inline]
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.shared.write(Direction::There, bytes);
        self.send(bytes.len());
        while !poll_for(self.shared.line(Direction::Back), self.turn, POLLS) {
            self.child.check()?;
        }
        Ok(())
    }

    fn send(&mut self, len: usize) {
        self.turn = self.turn.wrapping_add(1);
        let line = self.shared.line(Direction::There);
        line.len.store(len as u32, Relaxed);
        // Release: publishes the length and the bytes. Pairs with the Acquire in `poll_for`.
        line.token.store(self.turn, Release);
    }
}

/// The child's side of [`RawCopy`].
pub(super) fn answer() -> io::Result<convert::Infallible> {
    answer_with(|shared, len, _| shared.copy(Direction::There, Direction::Back, len))
}

/// The child's side of [`RawSum`].
pub(super) fn answer_sum() -> io::Result<convert::Infallible> {
    answer_with(|shared, len, back| back.sum.store(shared.with(Direction::There, len, bytes::sum), Relaxed))
}

fn answer_with(work: impl Fn(&SharedMapping, usize, &SharedLine)) -> io::Result<convert::Infallible> {
    let shared = SharedMapping::map(io::stdin())?;
    let (there, back) = (shared.line(Direction::There), shared.line(Direction::Back));
    let mut turn = 0u32;
    loop {
        turn = turn.wrapping_add(1);
        while !poll_for(there, turn, POLLS) {}
        work(&shared, there.len.load(Relaxed) as usize, back);
        // Release: publishes the answer. Pairs with the Acquire in `poll_for`.
        back.token.store(turn, Release);
    }
}
