//! The smallest executor: one thread awaits many calls, and polls only those that have been woken.
//!
//! So a waker that is never woken is a hang, and not merely a delay.

#![forbid(unsafe_code)]

use super::BegunCall;
use crate::chaos::ledger::CallEntry;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};

/// Awaits all these calls together.
pub(super) fn await_all(begun: Vec<BegunCall>) -> Vec<CallEntry> {
    let mut tasks: Vec<_> = begun.into_iter().map(|call| (call, Arc::new(TaskFlag::new()))).collect();
    let mut entries = Vec::new();
    loop {
        tasks.retain_mut(|(call, flag)| {
            // Acquire: pairs with the Release in `wake`. What the waker knew is known here.
            if !flag.is_woken.swap(false, Acquire) {
                return true;
            }
            let told = call.poll(Some(&mut Context::from_waker(&Waker::from(flag.clone()))));
            let is_pending = told.is_none();
            entries.extend(told);
            is_pending
        });
        if tasks.is_empty() {
            return entries;
        }
        thread::park();
    }
}

/// Whether a call is to be polled, and by which thread.
struct TaskFlag {
    is_woken: AtomicBool,
    thread: Thread,
}

impl TaskFlag {
    fn new() -> Self {
        Self { is_woken: AtomicBool::new(true), thread: thread::current() }
    }
}

impl Wake for TaskFlag {
    fn wake(self: Arc<Self>) {
        // Release: pairs with the Acquire in `await_all`.
        self.is_woken.store(true, Release);
        self.thread.unpark();
    }
}
