//! How deep calls are nested: a callback that calls another, which calls back, and so on, across processes.
//!
//! Every call made within a call carries its depth, in the top byte of its call word, and the name of its chain, in the caller's line of its lane.
//! Calls that are not nested carry 0 and cost nothing. A peer that lies about either gets its own calls refused, and no others.
//!
//! Why no chain waits for itself: a nested call between clients never waits for a lane ([`CallError::TooNested`]), and a nested call to a child never
//! waits for a worker that its own chain holds. Calls that are not nested hold nothing while they wait.

#![forbid(unsafe_code)]

use callgate_os::selfproc;
use callgate_transport::bounds::MAX_NESTED;
use callgate_transport::error::{CallError, CallName};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The shift of the depth in a call word.
const SHIFT: u32 = 56;

/// Marks the number of a thread that is within a call, so that it matches no lane: a call that is not nested looks at nothing else.
const WITHIN: usize = 1 << 62;

/// The number of a thread that has made no call yet. It matches no lane, either.
const UNNUMBERED: usize = usize::MAX;

/// What this thread's calls carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// 0 = its calls are not nested.
    depth: u32,
    pub chain: u64,
}

const OUTSIDE: At = At { depth: 0, chain: 0 };

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(UNNUMBERED) };
    static AT: Cell<At> = const { Cell::new(OUTSIDE) };
    /// How many callbacks of its own calls it runs, one within the other.
    static CALLBACKS: Cell<u32> = const { Cell::new(0) };
    /// The same as `AT`, within a call that is not nested.
    static FIRST: Cell<At> = const { Cell::new(OUTSIDE) };
}

/// The index of this thread's own lane, if there are that many lanes. Matches none within a call, or before the thread's first.
#[inline(always)]
pub(crate) fn own_lane() -> usize {
    NUMBER.get()
}

/// A number for this thread, counted from 0 in the order of first calls; beyond every lane's within a call.
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if NUMBER.get() == UNNUMBERED {
        NUMBER.set(NEXT.fetch_add(1, Ordering::Relaxed) as usize);
    }
    NUMBER.get()
}

/// A thread's number without the mark.
pub fn plain(number: usize) -> usize {
    number & !WITHIN
}

fn mark(is_within: bool) {
    let number = plain(thread_number());
    NUMBER.set(if is_within { number | WITHIN } else { number });
}

fn mark_as_is() {
    mark(AT.get().depth > 0 || is_calling_back());
}

/// A name for the first of the chains that begin at one segment's workers; the others count on from it. There are fewer than 256, and none is 0.
pub fn new_chains() -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // Two processes in different pid namespaces may have the same pid; a fork and its parent may draw the same number.
    static DRAWN: OnceLock<u32> = OnceLock::new();
    let drawn = *DRAWN.get_or_init(|| selfproc::random().map_or(0, u32::from_ne_bytes));
    u64::from(drawn ^ std::process::id()) << 32 | u64::from(NEXT.fetch_add(1, Ordering::Relaxed) << 8)
}

/// Marks this thread as one that carries out calls and does nothing else. Calls that come from no other call begin the chain `chain`.
pub fn serve(chain: u64) {
    FIRST.set(At { depth: 1, chain });
    AT.set(FIRST.get());
    mark(true);
}

/// Enters the call with this call word, of the chain `chain`, until [`leave`].
pub fn enter(call: u64, chain: u64) {
    let depth = (call >> SHIFT) as u32;
    if depth > 0 {
        AT.set(At { depth: depth + 1, chain });
    }
}

pub fn leave() {
    AT.set(FIRST.get());
}

/// Enters the call of a task, until [`leave`].
pub(crate) fn enter_task(at: At) {
    AT.set(at);
}

/// The position of this thread in its chain, if it is within a call.
pub fn current() -> Option<At> {
    Some(AT.get()).filter(|at| at.depth > 0)
}

impl At {
    /// Within no call.
    pub(crate) const NONE: Self = OUTSIDE;

    /// Where a task is that carries out the call with this word; `chain` = that of its caller, if it may be nested. Other tasks run on its thread, so it
    /// begins a chain of its own.
    pub(crate) fn of_task(call: u64, chain: Option<u64>) -> Self {
        let depth = (call >> SHIFT) as u32;
        match chain {
            Some(chain) if depth > 0 => Self { depth: depth + 1, chain },
            _ => Self { depth: 1, chain: new_chains() },
        }
    }

    /// Checks that another call may be made from here.
    pub(crate) fn may_call(self, call: CallName) -> Result<(), CallError> {
        if self.depth <= MAX_NESTED { Ok(()) } else { Err(self.too_nested(call, TOO_DEEP)) }
    }

    /// The call word `call` with the depth in it.
    pub fn mark(self, call: u64) -> u64 {
        call | u64::from(self.depth.min(0xff)) << SHIFT
    }

    #[cold]
    pub(crate) fn too_nested(self, call: CallName, why: &'static str) -> CallError {
        CallError::TooNested { call, depth: self.depth, why }
    }
}

const TOO_DEEP: &str = "calls may not be nested more than 64 deep";

/// A call that this thread carries out itself, within another, while this lives.
pub struct Within(At);

impl Within {
    /// # Errors
    ///
    /// `TooNested` if that nests too deep.
    pub fn new(call: CallName) -> Result<Self, CallError> {
        let before = AT.get();
        before.may_call(call)?;
        let chain = if before.chain == 0 { new_chains() } else { before.chain };
        AT.set(At { depth: before.depth + 1, chain });
        mark(true);
        Ok(Self(before))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        AT.set(self.0);
        mark_as_is();
    }
}

/// A callback that this thread runs, while a call of its own waits for that: while this lives.
pub(crate) struct CallingBack(());

impl CallingBack {
    /// # Errors
    ///
    /// `TooNested` if callbacks nest too deep.
    pub(crate) fn new(call: CallName) -> Result<Self, CallError> {
        let depth = CALLBACKS.get();
        if depth >= MAX_NESTED {
            return Err(CallError::TooNested { call, depth, why: TOO_DEEP });
        }
        CALLBACKS.set(depth + 1);
        mark(true);
        Ok(Self(()))
    }
}

impl Drop for CallingBack {
    fn drop(&mut self) {
        CALLBACKS.set(CALLBACKS.get() - 1);
        mark_as_is();
    }
}

/// Whether this thread runs a callback of a call of its own.
pub(crate) fn is_calling_back() -> bool {
    CALLBACKS.get() > 0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CALL: CallName = CallName { service: "", method: "deep" };

    #[test]
    fn fault_30_calls_carry_their_depth_and_none_is_deeper_than_it_may() {
        std::thread::spawn(|| {
            assert_eq!(current(), None);
            let all: Vec<_> = std::iter::repeat_with(|| Within::new(CALL)).map_while(Result::ok).collect();
            assert_eq!(all.len(), MAX_NESTED as usize + 1);
            assert!(matches!(Within::new(CALL), Err(CallError::TooNested { depth: 65, .. })));
            // In the order in which they came.
            for within in all.into_iter().rev() {
                assert!(thread_number() >= WITHIN);
                drop(within);
            }
            assert_eq!((current(), thread_number()), (None, plain(thread_number())));
            serve(7 << 8 | 1);
            let first = current().unwrap();
            assert_eq!(first.mark(5), 1 << 56 | 5);
            enter(u64::MAX, 9);
            assert_eq!(current(), Some(At { depth: 256, chain: 9 }));
            assert!(current().unwrap().may_call(CALL).is_err(), "a liar's word");
            leave();
            enter(5, 9);
            assert_eq!(current(), Some(first), "a call that is not nested");
        })
        .join()
        .unwrap();
    }
}
