//! Calls that a thread begins together: each is published at once, and each worker is notified once, at the end.
//!
//! A worker that is awake finds them as they come. One that sleeps is woken once for all of them, or when this thread waits for one.

#![forbid(unsafe_code)]

use super::Caller;
use std::cell::{Cell, RefCell};
use std::sync::Weak;

/// The workers that must be notified: those that calls were published for since the batch began.
type ToNotify = Vec<(Weak<Caller>, u32)>;

thread_local! {
    /// Whether this thread is in a batch. Beside it, because that is asked at every call.
    static IS_IN_BATCH: Cell<bool> = const { Cell::new(false) };
    static BATCH: RefCell<Option<ToNotify>> = const { RefCell::new(None) };
}

/// Runs `begin`, and notifies for the calls that it has begun when it returns. A batch within another belongs to that.
pub fn batch<R>(begin: impl FnOnce() -> R) -> R {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            IS_IN_BATCH.set(false);
            notify(BATCH.take());
        }
    }
    if IS_IN_BATCH.replace(true) {
        return begin();
    }
    BATCH.set(Some(Vec::new()));
    let _end = End;
    begin()
}

/// Notifies for the calls that this thread's batch has begun so far, because it is about to wait for one.
#[inline(always)]
pub(super) fn notify_begun() {
    if IS_IN_BATCH.get() {
        notify_begun_slow();
    }
}

#[cold]
fn notify_begun_slow() {
    let begun = BATCH.with_borrow_mut(|batch| batch.as_mut().map(std::mem::take));
    notify(begun);
}

fn notify(workers: Option<ToNotify>) {
    for (caller, worker) in workers.into_iter().flatten() {
        caller.upgrade().iter().for_each(|caller| caller.bells[worker as usize].notify());
    }
}

impl Caller {
    /// Leaves it to the end of this thread's batch to notify the worker of a lane. Returns whether there is a batch.
    #[inline(always)]
    pub(super) fn is_in_batch(&self, lane: u32) -> bool {
        IS_IN_BATCH.get() && self.note_in_batch(lane)
    }

    fn note_in_batch(&self, lane: u32) -> bool {
        let worker = lane % self.workers;
        BATCH.with_borrow_mut(|batch| {
            let Some(batch) = batch else { return false };
            let is_noted = |(caller, noted): &(Weak<Caller>, u32)| *noted == worker && caller.ptr_eq(&self.itself);
            if !batch.iter().any(is_noted) {
                batch.push((self.itself.clone(), worker));
            }
            true
        })
    }
}
