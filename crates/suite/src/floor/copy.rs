//! Bytes there and back through shared memory: copied in, copied across by the other process, copied out.
//!
//! The least for an echo whose caller has its bytes in private memory and wants the answer there; both sides poll, and the
//! memory is used again and again.

#![forbid(unsafe_code)]

use super::token::{POLLS, await_first, poll_for};
use crate::child::{Child, Role};
use crate::interleave::Subject;
use crate::shared::{Shared, Way};
use std::process::Stdio;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::{convert, hint, io};

/// Two processes that hand bytes back and forth.
#[derive(Debug)]
pub struct RawCopy {
    shared: Shared,
    child: Child,
    turn: u32,
}

impl RawCopy {
    /// Starts the other process, on `cpu`, for up to `most` bytes.
    pub fn start(most: usize, cpu: usize) -> io::Result<Self> {
        let (shared, object) = Shared::create(most)?;
        let child = Child::start(Role::Copy, &[cpu], object.into(), Stdio::null())?;
        let mut copy = Self { shared, child, turn: 0 };
        copy.send(0);
        await_first(&copy.shared, copy.turn, &mut copy.child)?;
        Ok(copy)
    }

    /// The other process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends `bytes`, and waits until they are in `back`, which is as long.
    ///
    /// # Errors
    ///
    /// If the child is gone.
    #[inline]
    pub fn round_trip(&mut self, bytes: &[u8], back: &mut [u8]) -> io::Result<()> {
        self.shared.write(Way::There, bytes);
        self.send(bytes.len());
        while !poll_for(self.shared.line(Way::Back), self.turn, POLLS) {
            self.child.check()?;
        }
        self.shared.read(Way::Back, back);
        Ok(())
    }

    /// As a subject to be measured, with `len` bytes.
    pub fn subject(mut self, name: impl Into<String>, len: usize) -> Subject {
        let (pid, bytes, mut back) = (self.pid(), vec![7; len], vec![0; len]);
        let operation = move || {
            self.round_trip(hint::black_box(&bytes), &mut back)?;
            hint::black_box(&mut back);
            Ok(())
        };
        Subject::new(name, operation).answered_by(Some(pid)).polling()
    }

    fn send(&mut self, len: usize) {
        self.turn = self.turn.wrapping_add(1);
        let line = self.shared.line(Way::There);
        line.len.store(len as u32, Relaxed);
        // Release: publishes the length and the bytes. Pairs with the Acquire in `poll_for`.
        line.token.store(self.turn, Release);
    }
}

/// The child's side.
pub(super) fn answer() -> io::Result<convert::Infallible> {
    let shared = Shared::map(io::stdin())?;
    let (there, back) = (shared.line(Way::There), shared.line(Way::Back));
    let mut turn = 0u32;
    loop {
        turn = turn.wrapping_add(1);
        while !poll_for(there, turn, POLLS) {}
        shared.copy(Way::There, Way::Back, there.len.load(Relaxed) as usize);
        // Release: publishes the bytes. Pairs with the Acquire in `poll_for`.
        back.token.store(turn, Release);
    }
}
