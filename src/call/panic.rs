//! Panics in a child's methods, caught and turned into faults.

#![forbid(unsafe_code)]

use crate::error::Fault;
use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

thread_local! {
    /// Whether this thread is in a call, whose panic goes to the caller instead of stderr.
    static IN_CALL: Cell<bool> = const { Cell::new(false) };
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// What only the panic hook gets to see.
struct Seen {
    location: Option<String>,
    backtrace: Option<String>,
}

/// Has panics inside calls recorded for their callers; all others go to the hook that was there before.
pub(crate) fn install_hook() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| if IN_CALL.get() { record(info) } else { previous(info) }));
}

fn record(info: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let seen = Seen {
        location: info.location().map(ToString::to_string),
        backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
    };
    // A panic while another is being recorded keeps the first.
    SEEN.with(|slot| slot.try_borrow_mut().map(|mut slot| *slot = Some(seen)).ok());
}

/// Runs `call`; a panic in it comes back as a fault.
#[inline(always)]
pub(crate) fn catch<R>(call: impl FnOnce() -> R) -> Result<R, Box<Fault>> {
    IN_CALL.set(true);
    // Unwind safety: a service sees the same after a panic as any value behind a mutex that is not poisoned would; the
    // documentation of `CallError::Panicked` says so.
    let result = catch_unwind(AssertUnwindSafe(call));
    IN_CALL.set(false);
    result.map_err(fault_slow)
}

#[cold]
fn fault_slow(payload: Box<dyn Any + Send>) -> Box<Fault> {
    let message = message(&*payload);
    // A payload may panic when it is dropped; then it is leaked.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(payload))).map_err(std::mem::forget);
    let seen = SEEN.take();
    let (location, backtrace) = seen.map_or((None, None), |seen| (seen.location, seen.backtrace));
    Box::new(Fault { message, location, backtrace })
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a payload that is no text".into())
}
