//! A thread that waits until a child is stopped and then continues or kills it.
//!
//! Relies on `/proc` for the child's state. Touches no bridge.

#![forbid(unsafe_code)]

use super::journeys::PAUSE;
use crate::chaos::processes::{Held, children, state};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Waits until a child is stopped and then continues or kills it.
pub(super) struct Resumer {
    came: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resumer {
    /// Watches the child `pid`, or any child if that is `None`. A stopped child gets the signal `then`.
    pub(super) fn start(pid: Option<u32>, then: Signal) -> Self {
        let (came, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (has_come, is_over) = (came.clone(), over.clone());
        let thread = thread::spawn(move || {
            while !is_over.load(Relaxed) {
                let pids = pid.map_or_else(children, |pid| vec![pid]);
                if let Some(stopped) = pids.into_iter().find(|&pid| state(pid) == Some('T')).and_then(Held::new) {
                    has_come.store(true, Relaxed);
                    thread::sleep(PAUSE);
                    stopped.signal(then);
                    return;
                }
                thread::sleep(Duration::from_micros(300));
            }
        });
        Self { came, over, thread: Some(thread) }
    }

    pub(super) fn has_come(&self) -> bool {
        self.came.load(Relaxed)
    }
}

impl Drop for Resumer {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}
