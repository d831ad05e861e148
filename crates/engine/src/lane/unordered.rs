//! The caller's end of a lane where replies come as calls end: which request the next reply answers.
//!
//! Every unanswered request has an entry in `under_way`, so the entries, each position once, are the list that replies count in.

#![forbid(unsafe_code)]

use super::{CallerLane, OneWayRequest, UnansweredSet};
use callgate_transport::loans::Attachments;
use callgate_transport::ring::Frame;

impl CallerLane {
    /// Whether replies come as calls end.
    #[inline(always)]
    pub(crate) fn is_unordered(&self) -> bool {
        self.is_unordered
    }

    /// Whether a thread that sleeps here can be roused.
    pub(crate) fn can_be_roused(&self) -> bool {
        self.own_bell.can_rouse()
    }

    /// Whether a call can be cancelled now.
    pub(crate) fn may_cancel(&self) -> bool {
        self.unacknowledged() < self.replies.count()
    }

    /// Whether the request at `position` has no reply that has been taken.
    pub(crate) fn is_unanswered(&self, position: u64) -> bool {
        self.under_way.iter().any(|(at, _)| *at == position)
    }

    /// Whether a call at `position` may expect its reply next.
    pub(crate) fn may_be_next(&self, position: u64) -> bool {
        self.is_unordered || self.replies.position() == position
    }

    /// The position of the request that the next reply answers; `None` if that is known only when it has come.
    pub(crate) fn next_position(&self) -> Option<u64> {
        if self.is_unordered {
            return self.take().ok().flatten().map(|(position, _)| position);
        }
        Some(self.replies.position())
    }

    /// Gives the request that was published just now an entry.
    pub(super) fn note_unanswered(&mut self) {
        let position = self.requests.position().wrapping_sub(1);
        if self.under_way.back().is_none_or(|(at, _)| *at != position) {
            self.under_way.push_back((position, Attachments::default()));
        }
        if let Some(shown) = &self.shown {
            shown.lock().insert(position);
        }
    }

    /// Shows an onlooker from now on which requests are unanswered.
    pub(crate) fn show_unanswered(&mut self, shown: UnansweredSet) {
        self.shown = Some(shown);
    }

    /// The unanswered requests, oldest first.
    fn unanswered_requests(&self) -> impl Iterator<Item = u64> {
        let mut last = None;
        self.under_way.iter().map(|(at, _)| *at).filter(move |at| last.replace(*at) != Some(*at))
    }

    /// The position of the request that this reply, the next one, answers.
    ///
    /// # Errors
    ///
    /// If it answers none.
    #[inline(never)]
    pub(super) fn named_by(&self, frame: &Frame<'_>) -> Result<u64, &'static str> {
        let position = self.unanswered_requests().nth(frame.answers()).ok_or("a reply to no request")?;
        self.named.set(position);
        Ok(position)
    }

    /// What the request carried whose reply has just been released.
    pub(super) fn arrived_unordered(&mut self) -> Option<Attachments> {
        // A call that has the lane to itself does not look at the name.
        let mut requests = self.unanswered_requests();
        let position = match (requests.next(), requests.next()) {
            (Some(only), None) => only,
            _ => self.named.get(),
        };
        drop(requests);
        if let Some(shown) = &self.shown {
            shown.lock().remove(&position);
        }
        if self.nested.take_if(|(nested, _)| *nested == position).is_some() {
            self.leave_chain();
        }
        let mut arrived = None;
        while let Some(place) = self.under_way.iter().position(|(at, _)| *at == position) {
            let attachments = self.under_way.remove(place).map(|(_, attachments)| attachments);
            arrived = attachments.filter(|attachments| attachments.is_loaded).or(arrived);
        }
        arrived
    }

    /// The reply to a one-way request, which an acknowledgement has found answered.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub(crate) fn reply_to(&self, one: &OneWayRequest) -> Result<Option<Frame<'_>>, &'static str> {
        self.replies.take_at(if self.is_unordered { self.replies.position() } else { one.position })
    }
}
