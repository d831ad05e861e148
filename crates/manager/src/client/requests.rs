//! A client's messages to the hub: requests, which wait for an answer, and notices, which do not.
//!
//! Every wait has a deadline. The client leaves a hub that does not read its messages.

#![forbid(unsafe_code)]

use super::{Client, Unanswered};
use crate::protocol::{FromHub, ToHub};
use callgate_os::limits::{self, Wanted};
use callgate_os::socket;
use callgate_transport::doorbell::Deadline;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The pause between attempts to send to a hub whose socket is full.
const FULL: Duration = Duration::from_millis(1);

/// How long a hub may leave a notice unread before the client leaves it.
const TIMEOUT: Duration = Duration::from_secs(5);

const IN_FORK: &str = "this process is a fork of the one that is connected";

impl Client {
    /// Sends a request to the hub. Returns its answer, which may be several messages.
    pub(crate) fn ask(
        &self,
        question: impl FnOnce(u64) -> ToHub,
        deadline: Deadline,
    ) -> Result<Vec<FromHub>, Unanswered> {
        if self.is_in_fork() {
            return Err(Unanswered::Lost(IN_FORK.into()));
        }
        let seq = {
            let mut state = self.state.lock();
            if let Some(why) = &state.over {
                return Err(Unanswered::Lost(why.clone()));
            }
            let seq = state.next;
            state.next += 1;
            state.questions.insert(seq, Vec::new());
            seq
        };
        let sent = self.send(&question(seq), deadline);
        let answer = sent.and_then(|()| self.answer(seq, deadline));
        let unread = self.state.lock().questions.remove(&seq);
        for message in unread.into_iter().flatten() {
            self.decline(&message);
        }
        match answer?.as_slice() {
            [FromHub::Refused { why, .. }] => Err(Unanswered::Refused(why.clone())),
            answer => Ok(answer.to_vec()),
        }
    }

    fn answer(&self, seq: u64, deadline: Deadline) -> Result<Vec<FromHub>, Unanswered> {
        let mut state = self.state.lock();
        loop {
            let is_whole = |said: &&mut Vec<FromHub>| match said.last() {
                Some(FromHub::NamesAre { more, .. }) => !more,
                last => last.is_some(),
            };
            if let Some(said) = state.questions.get_mut(&seq).filter(is_whole) {
                return Ok(std::mem::take(said));
            }
            if let Some(why) = &state.over {
                return Err(Unanswered::Lost(why.clone()));
            }
            match deadline.instant() {
                None => self.changed.wait(&mut state),
                Some(_) if deadline.has_passed() => return Err(Unanswered::Late),
                Some(until) => drop(self.changed.wait_until(&mut state, until)),
            }
        }
    }

    /// Sends a message that the hub does not answer, or whose answer nobody needs.
    pub(crate) fn tell(&self, message: &ToHub) {
        // A lost connection needs no notice. A hub that does not read would keep outdated state for ever, such as a lock that was given back;
        // ending the connection makes it drop all of that.
        if let Err(Unanswered::Late) = self.send(message, Deadline::after(Some(TIMEOUT))) {
            self.end("the hub did not read this process's messages");
        }
    }

    /// As [`tell`](Self::tell), for callers that must not wait, such as destructors: what cannot be sent at once is left to a thread.
    pub(crate) fn tell_in_passing(self: &Arc<Self>, message: ToHub) {
        if !matches!(self.send(&message, Deadline::now()), Err(Unanswered::Late)) {
            return;
        }
        let mut state = self.state.lock();
        state.untold.push_back(message);
        if std::mem::replace(&mut state.is_telling, true) {
            return;
        }
        drop(state);
        let client = self.clone();
        let telling = thread::Builder::new().name("callgate-tell".into()).spawn(move || client.tell_the_rest());
        if let Err(error) = telling {
            let limit = limits::behind(&error, Wanted::Task);
            self.end(&format!("starting the thread that sends the hub its queued messages{limit}: {error}"));
        }
    }

    fn tell_the_rest(&self) {
        loop {
            let mut state = self.state.lock();
            let Some(message) = state.untold.pop_front() else {
                state.is_telling = false;
                return;
            };
            drop(state);
            self.tell(&message);
        }
    }

    /// Handles an answer that came too late: gives back what it grants.
    pub(super) fn decline(&self, message: &FromHub) {
        if let FromHub::Granted { grant, .. } = message {
            self.tell(&ToHub::Release { grant: *grant });
        }
    }

    fn send(&self, message: &ToHub, deadline: Deadline) -> Result<(), Unanswered> {
        // A fork shares the socket: the hub would take its messages for its parent's.
        if self.is_in_fork() {
            return Err(Unanswered::Lost(IN_FORK.into()));
        }
        let bytes = message.encode().ok_or_else(|| Unanswered::Refused("it is too long for a message".into()))?;
        loop {
            match socket::send(&self.joined.socket, &bytes, &[]) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(Unanswered::Lost(format!("sending to the hub failed: {error}")));
                }
                Err(_) if deadline.has_passed() => return Err(Unanswered::Late),
                Err(_) => thread::sleep(FULL),
            }
        }
    }
}
