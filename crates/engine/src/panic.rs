//! Panics in a child's methods, caught and turned into faults.

#![forbid(unsafe_code)]

use crate::last_words;
use callgate_transport::error::Fault;
use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Counts entries into and exits from calls on this thread: odd = in a call, whose panic goes to the caller. A call within a call has a higher
    /// odd number while it lasts.
    /// higher odd number for its time.
    static TURN: Cell<u64> = const { Cell::new(0) };
    static SEEN: RefCell<Option<PanicCapture>> = const { RefCell::new(None) };
}

/// What only the panic hook sees.
struct PanicCapture {
    /// The call that it belongs to: a method may have caught an earlier panic itself, and a later one may run no hook.
    turn: u64,
    location: Option<String>,
    backtrace: Option<String>,
}

/// Records panics inside calls for their callers, and in a child every panic as possible [last words](last_words). In a child the previous hook runs
/// for each, so that the output is what it would be without this; elsewhere it runs for panics that no caller hears of.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            last_words::note(info, TURN.get());
            let is_caught = TURN.get() % 2 == 1;
            if is_caught {
                record(info);
            }
            if !is_caught || last_words::are_kept() || ends_the_process(info) {
                previous(info);
            }
        }));
    });
}

/// Whether this panic ends the process, wherever it is caught.
fn ends_the_process(info: &PanicHookInfo<'_>) -> bool {
    cfg!(panic = "abort") || last_words::cannot_unwind(&last_words::message(info.payload()))
}

fn record(info: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let seen = PanicCapture {
        turn: TURN.get(),
        location: info.location().map(ToString::to_string),
        backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
    };
    // If another panic comes while one is being recorded, the first is kept.
    SEEN.with(|slot| slot.try_borrow_mut().map(|mut slot| *slot = Some(seen)).ok());
}

/// [`catch`] on a thread that is within no call, as a worker's is between its requests.
#[inline(always)]
pub(crate) fn catch_outermost<R>(call: impl FnOnce() -> R) -> Result<R, Box<Fault>> {
    let turn = TURN.get().wrapping_add(1);
    debug_assert!(turn % 2 == 1, "within a call");
    TURN.set(turn);
    // Unwind safety: as in `catch`.
    let result = catch_unwind(AssertUnwindSafe(call));
    TURN.set(turn.wrapping_add(1));
    result.map_err(|payload| fault_slow(payload, turn))
}

/// Runs `call`; a panic in it comes back as a fault.
#[inline(always)]
pub fn catch<R>(call: impl FnOnce() -> R) -> Result<R, Box<Fault>> {
    let before = TURN.get();
    let turn = before.wrapping_add(1) | 1;
    TURN.set(turn);
    // Unwind safety: after a panic, a service is in the state of a value behind a mutex that is not poisoned; the documentation of
    // `CallError::Panicked` says so.
    let result = catch_unwind(AssertUnwindSafe(call));
    TURN.set(if before % 2 == 1 { before } else { turn.wrapping_add(1) });
    result.map_err(|payload| fault_slow(payload, turn))
}

#[cold]
fn fault_slow(payload: Box<dyn Any + Send>, turn: u64) -> Box<Fault> {
    last_words::withdraw_own();
    let message = last_words::message(&*payload);
    // Dropping a payload may panic; then it is leaked.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(payload))).map_err(std::mem::forget);
    let seen = SEEN.take().filter(|seen| seen.turn == turn);
    let (location, backtrace) = seen.map_or((None, None), |seen| (seen.location, seen.backtrace));
    Box::new(Fault::new(message, location, backtrace))
}
