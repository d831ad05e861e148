//! What this process says to the hub: questions, which wait for their answers, and what is only told.
//!
//! Nobody waits longer than a deadline says. A hub that does not read what it is told is left.

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

/// How long to wait before another attempt to send to a hub that does not read.
const FULL: Duration = Duration::from_millis(1);

/// How long a hub may leave unread what it is told, before it is left.
const PATIENCE: Duration = Duration::from_secs(5);

const IN_FORK: &str = "this process is a fork of the one that is connected";

impl Client {
    /// Asks the hub; the answer, which may be several messages.
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

    /// Tells the hub something that it does not answer, or whose answer nobody needs.
    pub(crate) fn tell(&self, message: &ToHub) {
        // Without a hub there is nobody to be told. One that does not read would believe for ever what is no longer so: that a lock is held, say;
        // when the connection ends, it undoes all of that.
        if let Err(Unanswered::Late) = self.send(message, Deadline::after(Some(PATIENCE))) {
            self.end("the hub did not read what this process told it");
        }
    }

    /// The same for somebody who is not to wait, as who drops something: what the hub does not read at once, a thread goes on telling it.
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
            self.end(&format!(
                "starting the thread that goes on telling the hub what it did not read at once{limit}: {error}"
            ));
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

    /// What the hub says comes too late for who asked.
    pub(super) fn decline(&self, message: &FromHub) {
        if let FromHub::Granted { grant, .. } = message {
            self.tell(&ToHub::Release { grant: *grant });
        }
    }

    fn send(&self, message: &ToHub, deadline: Deadline) -> Result<(), Unanswered> {
        // A fork has the same socket: what it said would be taken for the other's word.
        if self.is_in_fork() {
            return Err(Unanswered::Lost(IN_FORK.into()));
        }
        let bytes = message.encode().ok_or_else(|| Unanswered::Refused("it is too long for a message".into()))?;
        loop {
            match socket::send(&self.joined.socket, &bytes, &[]) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(Unanswered::Lost(format!("the hub cannot be asked: {error}")));
                }
                Err(_) if deadline.has_passed() => return Err(Unanswered::Late),
                Err(_) => thread::sleep(FULL),
            }
        }
    }
}
