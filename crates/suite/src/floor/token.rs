//! The floor of calls: a token goes back and forth through two cache lines. Both sides poll for it or sleep in a futex.

#![forbid(unsafe_code)]

use crate::BoxError;
use crate::child::{BenchChild, ChildRole, TIMEOUT};
use crate::interleave::Subject;
use crate::shared::{Direction, SharedLine, SharedMapping};
use rustix::thread::futex;
use std::process::Stdio;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;
use std::{convert, hint, io};

/// How both sides wait for the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asleep {
    /// Polling.
    Never,
    /// Asleep in a futex in shared memory, woken by each turn.
    Always,
}

/// The number of polls between two checks of whether the child still lives.
pub(super) const POLLS: u32 = 1 << 20;

/// Passes a token between two processes.
#[derive(Debug)]
pub struct Tokens {
    shared: SharedMapping,
    child: BenchChild,
    asleep: Asleep,
    turn: u32,
}

impl Tokens {
    /// Starts the other process, on `cpu`.
    pub fn start(asleep: Asleep, cpu: usize) -> io::Result<Self> {
        let (shared, object) = SharedMapping::create(0)?;
        let role = if asleep == Asleep::Never { ChildRole::PingPong } else { ChildRole::Futex };
        let child = BenchChild::start(role, &[cpu], object.into(), Stdio::null())?;
        let mut tokens = Self { shared, child, asleep, turn: 0 };
        tokens.send();
        await_first(&tokens.shared, tokens.turn, &mut tokens.child)?;
        Ok(tokens)
    }

    /// The other process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends the token and waits until it comes back.
    ///
    /// # Errors
    ///
    /// If the child is gone and both sides poll. If they sleep, nothing reports the child's end, and this never returns.
    #[inline]
    pub fn round_trip(&mut self) -> io::Result<()> {
        self.send();
        let back = self.shared.line(Direction::Back);
        match self.asleep {
            Asleep::Always => sleep_for(back, self.turn),
            Asleep::Never => {
                while !poll_for(back, self.turn, POLLS) {
                    self.child.check()?;
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn send(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        hand_over(self.shared.line(Direction::There), self.turn, self.asleep);
    }

    /// Turns this into a subject.
    pub fn subject(mut self, name: &str) -> Subject {
        let (pid, asleep) = (self.pid(), self.asleep);
        let subject = Subject::new(name, move || Ok::<(), BoxError>(self.round_trip()?)).answered_by(Some(pid));
        if asleep == Asleep::Never { subject.polling() } else { subject }
    }
}

/// Awaits the first token, while the child starts.
pub(super) fn await_first(shared: &SharedMapping, turn: u32, child: &mut BenchChild) -> io::Result<()> {
    let end = Instant::now() + TIMEOUT;
    while !poll_for(shared.line(Direction::Back), turn, 1_000) {
        child.check()?;
        if Instant::now() > end {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// The child's side.
pub(super) fn answer(asleep: Asleep) -> io::Result<convert::Infallible> {
    let shared = SharedMapping::map(io::stdin())?;
    let mut turn = 0u32;
    loop {
        turn = turn.wrapping_add(1);
        let there = shared.line(Direction::There);
        match asleep {
            Asleep::Always => sleep_for(there, turn),
            Asleep::Never => while !poll_for(there, turn, POLLS) {},
        }
        hand_over(shared.line(Direction::Back), turn, asleep);
    }
}

#[inline(always)]
fn hand_over(line: &SharedLine, turn: u32, asleep: Asleep) {
    // Release: a side that sees the token also sees what was written for this turn. Pairs with the Acquire in `poll_for`.
    line.token.store(turn, Release);
    if asleep == Asleep::Always {
        futex::wake(&line.token, futex::Flags::empty(), 1).expect("a live futex");
    }
}

/// Polls up to `polls` times. Returns whether the token came.
#[inline(always)]
pub(super) fn poll_for(line: &SharedLine, turn: u32, polls: u32) -> bool {
    for _ in 0..polls {
        // Acquire: pairs with the Release in `hand_over` and in `copy.rs`.
        if line.token.load(Acquire) == turn {
            return true;
        }
        hint::spin_loop();
    }
    false
}

#[inline(always)]
fn sleep_for(line: &SharedLine, turn: u32) {
    loop {
        // Acquire: as in `poll_for`.
        let token = line.token.load(Acquire);
        if token == turn {
            return;
        }
        // Woken, interrupted, or the token changed before the sleep: look again.
        let _ = futex::wait(&line.token, futex::Flags::empty(), token, None);
    }
}
