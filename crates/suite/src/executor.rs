//! The least executor: polls one future on this thread, which sleeps until the future's waker wakes it. Adds next to nothing to what is measured.

#![forbid(unsafe_code)]

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Runs futures on the thread that made it, one at a time.
#[derive(Debug)]
pub struct Executor {
    waker: Waker,
}

struct Unparker(Thread);

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

impl Executor {
    /// An executor for this thread.
    pub fn here() -> Self {
        Self { waker: Waker::from(Arc::new(Unparker(thread::current()))) }
    }

    /// Runs a future until it is done.
    #[inline]
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&self.waker)) {
                return output;
            }
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[test]
    fn a_future_runs_until_it_is_done() {
        let mut polls = 0;
        let output = Executor::here().run(poll_fn(|context| {
            polls += 1;
            let waker = context.waker().clone();
            thread::spawn(move || waker.wake());
            if polls < 3 { Poll::Pending } else { Poll::Ready(7) }
        }));
        assert!(output == 7 && polls >= 3);
    }
}
