//! The state of one side's request for memory, and all its transitions.
//!
//! A side asks with `Need`, maps what it is granted, and uses it once it is sealed. It has one request at a time. Pure: sends nothing, counts
//! nothing, and holds the granted object only until it is mapped.

#![forbid(unsafe_code)]

/// What has become of a side's last `Need`. `O` is the object that was granted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum MemoryRequest<O> {
    /// There is none, or it has been answered.
    #[default]
    Idle,
    /// It waits for memory that is being released.
    Waiting,
    /// The side has been sent this segment and must map it.
    Granted { segment: u64, object: O },
    /// The side has mapped this segment, which is being sealed.
    Sealing { segment: u64 },
}

/// What happens to a request.
#[derive(Debug)]
pub(super) enum RequestEvent<O> {
    /// The side asks for memory.
    Asked,
    /// The hub puts the answer off: memory may be released soon.
    Postponed,
    /// The hub answers that there is none.
    Refused,
    /// The hub has sent this segment.
    Sent { segment: u64, object: O },
    /// The side says that it has mapped this segment.
    Mapped { segment: u64 },
    /// The segment has been sealed.
    Sealed,
    /// The side gives this segment back, which is on its books.
    Detached { segment: u64 },
}

/// What the hub must do after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestAction<O> {
    Nothing,
    /// Decide whether the side gets memory.
    Decide,
    /// Refuse: the side has not taken the answer to its last request.
    TurnAway,
    /// Seal this object.
    Seal(O),
    /// Tell the other side, which has the segment attached.
    TellReader,
    /// End the pair: no healthy side says this now.
    End,
}

impl<O> MemoryRequest<O> {
    /// | from | event | to | action |
    /// |---|---|---|---|
    /// | Idle | Asked | Idle | Decide |
    /// | any other | Asked | the same | TurnAway |
    /// | any | Postponed | Waiting | |
    /// | any | Refused | Idle | |
    /// | any | Sent s | Granted s | |
    /// | Granted s | Mapped s | Sealing s | Seal |
    /// | any other | Mapped | Idle | End |
    /// | any | Sealed | Idle | |
    /// | Granted s | Detached s | Idle | |
    /// | Sealing s | Detached s | the same | |
    /// | any other | Detached s | the same | TellReader |
    ///
    /// The hub itself causes Postponed, Refused and Sent, in the course of a decision, and Sealed, which follows Seal.
    pub(super) fn step(&mut self, event: RequestEvent<O>) -> RequestAction<O> {
        use RequestAction::{Decide, End, Nothing, Seal, TellReader, TurnAway};
        use RequestEvent::{Asked, Detached, Mapped, Postponed, Refused, Sealed, Sent};
        let (next, action) = match (std::mem::take(self), event) {
            (Self::Idle, Asked) => (Self::Idle, Decide),
            (busy, Asked) => (busy, TurnAway),
            (_, Postponed) => (Self::Waiting, Nothing),
            (_, Refused | Sealed) => (Self::Idle, Nothing),
            (_, Sent { segment, object }) => (Self::Granted { segment, object }, Nothing),
            (Self::Granted { segment, object }, Mapped { segment: mapped }) if mapped == segment => {
                (Self::Sealing { segment }, Seal(object))
            }
            (_, Mapped { .. }) => (Self::Idle, End),
            (Self::Granted { segment, .. }, Detached { segment: detached }) if detached == segment => {
                (Self::Idle, Nothing)
            }
            // The other side gets it only when it is sealed: that finds it detached.
            (Self::Sealing { segment }, Detached { segment: detached }) if detached == segment => {
                (Self::Sealing { segment }, Nothing)
            }
            (state, Detached { .. }) => (state, TellReader),
        };
        *self = next;
        action
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::MemoryRequest::{Granted, Idle, Sealing, Waiting};
    use super::RequestAction::{Decide, End, Nothing, Seal, TellReader, TurnAway};
    use super::RequestEvent::{Asked, Detached, Mapped, Postponed, Refused, Sealed, Sent};
    use super::*;

    type TestRequest = MemoryRequest<&'static str>;

    fn granted() -> TestRequest {
        Granted { segment: 5, object: "five" }
    }

    fn sealing() -> TestRequest {
        Sealing { segment: 5 }
    }

    fn states() -> [TestRequest; 4] {
        [Idle, Waiting, granted(), sealing()]
    }

    /// What becomes of each state, in the order of `states`.
    #[track_caller]
    fn check(
        event: impl Fn() -> RequestEvent<&'static str>,
        expected: [(TestRequest, RequestAction<&'static str>); 4],
    ) {
        for (mut state, expected) in states().into_iter().zip(expected) {
            let before = format!("{state:?}");
            let action = state.step(event());
            assert_eq!((state, action), expected, "{before}, {:?}", event());
        }
    }

    #[test]
    fn a_memory_request_has_one_outcome_for_each_state_and_event() {
        check(|| Asked, [(Idle, Decide), (Waiting, TurnAway), (granted(), TurnAway), (sealing(), TurnAway)]);
        check(|| Postponed, [(); 4].map(|()| (Waiting, Nothing)));
        check(|| Refused, [(); 4].map(|()| (Idle, Nothing)));
        check(|| Sent { segment: 5, object: "five" }, [(); 4].map(|()| (granted(), Nothing)));
        check(|| Mapped { segment: 5 }, [(Idle, End), (Idle, End), (sealing(), Seal("five")), (Idle, End)]);
        check(|| Mapped { segment: 6 }, [(); 4].map(|()| (Idle, End)));
        check(|| Sealed, [(); 4].map(|()| (Idle, Nothing)));
        check(
            || Detached { segment: 5 },
            [(Idle, TellReader), (Waiting, TellReader), (Idle, Nothing), (sealing(), Nothing)],
        );
        check(|| Detached { segment: 6 }, states().map(|state| (state, TellReader)));
    }
}
