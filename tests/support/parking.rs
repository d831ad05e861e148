//! A place where async methods wait until another call lets them go, for tests of calls that interleave. Needs no runtime.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::{Poll, Waker};

/// Where tasks wait, each under a number of its own.
#[derive(Default)]
pub(crate) struct Parking(Mutex<Parked>);

#[derive(Default)]
struct Parked {
    waiting: BTreeMap<u64, Option<Waker>>,
    next: u64,
    /// Tasks that have been dropped here.
    dropped: u64,
}

/// The place of one task.
struct Place<'a>(&'a Parking, u64);

impl Parking {
    /// Waits to be let go.
    pub(crate) async fn wait(&self) {
        let number = {
            let mut parked = self.0.lock().unwrap();
            parked.next += 1;
            let number = parked.next;
            parked.waiting.insert(number, None);
            number
        };
        let _place = Place(self, number);
        poll_fn(|context| match self.0.lock().unwrap().waiting.get_mut(&number) {
            Some(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
        .await
    }

    /// Lets everybody go. Returns how many there were.
    pub(crate) fn open(&self) -> u64 {
        let waiting = std::mem::take(&mut self.0.lock().unwrap().waiting);
        let count = waiting.len() as u64;
        waiting.into_values().flatten().for_each(Waker::wake);
        count
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.0.lock().unwrap().waiting.len() as u64
    }

    /// How many were dropped while they waited.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.lock().unwrap().dropped
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut parked = self.0.0.lock().unwrap();
        if parked.waiting.remove(&self.1).is_some() {
            parked.dropped += 1;
        }
    }
}
