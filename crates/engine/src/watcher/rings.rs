//! Which rings the watcher listens to: a bridge may have them heard elsewhere, see `caller::reactors`.

#![forbid(unsafe_code)]

use super::{Job, Watcher, add_ring, submit};
use callgate_os::close::Aside;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// Has the watcher listen to this ring of a child's, or not any more. Does not wait for the watcher.
///
/// # Errors
///
/// If the watcher's thread cannot be started.
pub(crate) fn listen_to(ring: Arc<Aside>, listens: bool) -> io::Result<()> {
    let job: Job = Box::new(move |watcher| watcher.listen_to(&ring, listens));
    submit(job)
}

impl Watcher {
    fn listen_to(&mut self, ring: &Aside, listens: bool) {
        let number = ring.as_fd().as_raw_fd();
        let is_meant = |ring: Option<std::os::fd::BorrowedFd<'_>>| ring.is_some_and(|ring| ring.as_raw_fd() == number);
        let Some((&id, child)) = self.children.iter_mut().find(|(_, child)| is_meant(child.watched.ring())) else {
            return;
        };
        let is_known = std::mem::replace(&mut child.is_heard_elsewhere, !listens) != listens;
        if is_known || child.is_paused {
            return;
        }
        if !listens {
            return self.poll.remove(ring);
        }
        // If it cannot be heard, the child is of no more use.
        if add_ring(&self.poll, child, id).is_err() {
            self.poll.remove(child.watched.control());
            return self.give_up(id);
        }
        // It may have rung while it was heard elsewhere.
        self.ring(id);
    }
}
