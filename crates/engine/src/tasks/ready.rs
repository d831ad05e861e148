//! The tasks of a worker that are to be polled, and the wakers that say so.

#![forbid(unsafe_code)]

use crate::lane::WorkerBell;
use callgate_os::sync::AtomicU32;
use callgate_os::sync::Ordering::{AcqRel, Relaxed};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Wake;

/// The tasks of one worker that are to be polled.
pub(super) struct Ready {
    queue: Mutex<VecDeque<usize>>,
    /// Not 0 if there may be any: set after one has been queued, and cleared before all are taken.
    is_any: AtomicU32,
    bell: WorkerBell,
}

impl Ready {
    pub fn new(bell: WorkerBell) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), is_any: AtomicU32::new(0), bell })
    }

    /// Whether there may be any.
    pub fn is_any(&self) -> bool {
        // Relaxed, L3: what was queued before is found under the lock.
        self.is_any.load(Relaxed) != 0
    }

    /// Takes all that are there now. Those that they wake come next time.
    pub fn take(&self) -> VecDeque<usize> {
        if !self.is_any() {
            return VecDeque::new();
        }
        self.is_any.store(0, Relaxed);
        std::mem::take(&mut self.queue.lock())
    }

    fn push(&self, task: usize) {
        self.queue.lock().push_back(task);
        // Relaxed, K1: ordered before the look at `parked` by the fence in `notify`.
        self.is_any.store(1, Relaxed);
        // K2 and K3.
        self.bell.notify();
    }
}

/// What wakes a task.
pub(super) struct TaskWaker {
    ready: Arc<Ready>,
    task: usize,
    /// Not 0 while it is in the queue. One that outlives its task can have another polled for nothing, in the same place.
    is_queued: AtomicU32,
}

impl TaskWaker {
    pub fn new(ready: &Arc<Ready>, task: usize) -> Arc<Self> {
        Arc::new(Self { ready: ready.clone(), task, is_queued: AtomicU32::new(0) })
    }

    /// From now on it may be queued again.
    pub fn begin_poll(&self) {
        // Acquire: the poll sees what was done before the wake that found it queued. Release: pairs with the next wake.
        self.is_queued.swap(0, AcqRel);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: what was done before is seen by the poll, which comes after `begin_poll`.
        if self.is_queued.swap(1, AcqRel) == 0 {
            self.ready.push(self.task);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use callgate_os::futex::Futex;
    use callgate_transport::doorbell::{Deadline, Pace, Wait, Waiter};
    use callgate_transport::layout::{AWAKE, BellLine, WorkerLine};
    use callgate_transport::segment::Placed;
    use callgate_transport::wake::FutexSleeper;

    /// A task is woken twice while its worker is about to sleep, or polls it: it is polled after each.
    #[test]
    fn loom_a_task_that_is_woken_is_polled() {
        loom::model(|| {
            let bell = BellLine { parked: Futex::new(AWAKE), cpu: AtomicU32::new(0) };
            let line = Placed::on_heap(WorkerLine { bell, lanes_in_use: AtomicU32::new(0) });
            let ready = Ready::new(WorkerBell::of(line.clone(), Arc::new(FutexSleeper)));
            let (waker, done) = (TaskWaker::new(&ready, 0), Arc::new(AtomicU32::new(0)));
            let (theirs, their_done) = (waker.clone(), done.clone());
            let waking = loom::thread::spawn(move || {
                for step in 1..=2 {
                    their_done.store(step, Relaxed);
                    theirs.wake_by_ref();
                }
            });
            let pace = Pace::new();
            let (bell, sleeper) = (&line.bell, &FutexSleeper);
            let waiter = Waiter { bell, sleeper, wait: Wait::Park, pace: &pace, dead: None, peer_cpu: 0 };
            // The task has nothing left to do once it has seen the last step.
            loop {
                let polled = ready.take().into_iter().any(|_| {
                    waker.begin_poll();
                    done.load(Relaxed) == 2
                });
                if polled {
                    break;
                }
                waiter.wait(Deadline::NEVER, || ready.is_any());
            }
            waking.join().unwrap();
        });
    }
}
