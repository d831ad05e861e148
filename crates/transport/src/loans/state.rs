//! The states of a loan, as its lender and as its holder see it, and what each event does to them.
//!
//! Pure functions of small enums: they hold no block and touch neither lists nor shared words. [`loans`](super) carries out the actions.
//!
//! # At the lender
//!
//! A block is *used* while something on the lender's side reads it: its owner, or a copy that is being made of it.
//! `end` stands for: `Free` and `FreeBlock` if the block is not used, `Ended` if it is. `-` stands for: refused.
//!
//! | event | `Free` | `Sent` | `SentEnded` | `SentReturned` | `Kept` | `Ended` |
//! |---|---|---|---|---|---|---|
//! | `Lent` | `Sent` | - | - | - | - | - |
//! | `Finished`, kept | - | `Kept` | end | `Free` | - | - |
//! | `Finished`, not kept | - | end | end | `Free` | - | - |
//! | `Done` | - | - | - | - | end | - |
//! | `Returned`, not used | - | `SentReturned`, `HandOver` | - | - | `Free`, `HandOver` | - |
//! | `Returned`, used | - | `SentEnded` | - | - | `Ended` | - |
//! | `Unused` | - | `Sent` | `SentEnded` | - | `Kept` | end |
//! | `CopyBegun` | - | `Sent` | `SentEnded` | - | `Kept` | `Ended` |
//! | `Reclaimed`, not used | - | - | - | - | - | `Free`, `HandOver` |
//! | `Reclaimed`, used | - | - | - | - | - | - |
//!
//! # At the holder
//!
//! | event | `Free` | `Held` | `Returning` | `ReturningReleased` |
//! |---|---|---|---|---|
//! | `Taken` | `Held`, `SayTaken` | - | - | - |
//! | `Released` | - | `Free`, `SayDone` | `ReturningReleased` | - |
//! | `Named` | - | `Returning` | - | - |
//! | `Sent` | - | - | `Returning` | `Free`, `SayReturned` |
//! | `Finished` | - | - | `Held` | `Free`, `SayDone` |

#![forbid(unsafe_code)]

// ---- the lender ----------------------------------------------------------------------------------------------------

/// Where a loan stands at its lender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LoanState {
    /// No loan: the index can be lent under.
    #[default]
    Free,
    /// The frame that lends the block is not finished.
    Sent,
    /// As `Sent`, but the peer has already returned the block. It is still used here, so the peer's frame got a copy.
    SentEnded,
    /// As `Sent`, but the peer has already returned the block, and another frame has it. Only the index is still taken.
    SentReturned,
    /// The frame is finished and the peer has kept the block.
    Kept,
    /// The peer is done with the block, which is still used here.
    Ended,
}

/// What happens to a loan at its lender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoanEvent {
    /// A frame that is being written lends the block.
    Lent,
    /// That frame has been dealt with, or will never be sent. The peer's word says whether it keeps the block.
    Finished { is_kept: bool },
    /// The peer's word says DONE.
    Done,
    /// A frame of the peer returns the block.
    Returned,
    /// The owner is gone, or a copy is finished. Another use may be left.
    Unused,
    /// A copy of the block begins.
    CopyBegun,
    /// The owner asks for the block. His own use does not count.
    Reclaimed,
}

/// What the lender does about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoanAction {
    Nothing,
    /// The block goes back to the arena.
    FreeBlock,
    /// The block goes to the frame that returns it, or to the owner who reclaims it.
    HandOver,
}

impl LoanState {
    /// The next state and what to do; `None` if the event is refused in this state.
    pub(super) fn step(self, event: LoanEvent, is_used: bool) -> Option<(Self, LoanAction)> {
        use LoanAction::{FreeBlock, HandOver, Nothing};
        use LoanEvent::{CopyBegun, Done, Finished, Lent, Reclaimed, Returned, Unused};
        use LoanState::{Ended, Free, Kept, Sent, SentEnded, SentReturned};
        let end = if is_used { (Ended, Nothing) } else { (Free, FreeBlock) };
        Some(match (self, event) {
            (Free, Lent) => (Sent, Nothing),
            (Sent, Finished { is_kept: true }) => (Kept, Nothing),
            (Sent, Finished { is_kept: false }) => end,
            (SentEnded, Finished { .. }) | (Kept, Done) | (Ended, Unused) => end,
            (SentReturned, Finished { .. }) => (Free, Nothing),
            (Sent, Returned) if is_used => (SentEnded, Nothing),
            (Sent, Returned) => (SentReturned, HandOver),
            (Kept, Returned) if is_used => (Ended, Nothing),
            (Kept, Returned) => (Free, HandOver),
            (Ended, Reclaimed) if !is_used => (Free, HandOver),
            (Sent | SentEnded | Kept, Unused | CopyBegun) | (Ended, CopyBegun) => (self, Nothing),
            (Free | Sent | SentEnded | SentReturned | Kept | Ended, _) => return None,
        })
    }
}

// ---- the holder ----------------------------------------------------------------------------------------------------

/// Where a loan stands at its holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum HeldState {
    /// Not held.
    #[default]
    Free,
    /// Held and used.
    Held,
    /// Named by a frame that returns it or has it copied; still used here.
    Returning,
    /// Named by a frame, and no longer used here.
    ReturningReleased,
}

/// What happens to a loan at its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldEvent {
    /// The block is kept beyond its frame.
    Taken,
    /// It is no longer used here.
    Released,
    /// A frame that is being written names it.
    Named,
    /// That frame is about to be published.
    Sent,
    /// That frame has been dealt with, or will never be published.
    Finished,
}

/// What the holder does about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldAction {
    Nothing,
    SayTaken,
    SayDone,
    SayReturned,
}

impl HeldState {
    /// The next state and what to do; `None` if the event is refused in this state.
    pub(super) fn step(self, event: HeldEvent) -> Option<(Self, HeldAction)> {
        use HeldAction::{Nothing, SayDone, SayReturned, SayTaken};
        use HeldEvent::{Finished, Named, Released, Sent, Taken};
        use HeldState::{Free, Held, Returning, ReturningReleased};
        Some(match (self, event) {
            (Free, Taken) => (Held, SayTaken),
            (Held, Released) => (Free, SayDone),
            (Held, Named) => (Returning, Nothing),
            (Returning, Released) => (ReturningReleased, Nothing),
            (Returning, Sent) => (Returning, Nothing),
            (Returning, Finished) => (Held, Nothing),
            (ReturningReleased, Sent) => (Free, SayReturned),
            (ReturningReleased, Finished) => (Free, SayDone),
            (Free | Held | Returning | ReturningReleased, _) => return None,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{HeldAction, HeldEvent, HeldState, LoanAction, LoanEvent, LoanState};

    #[test]
    fn each_event_does_what_the_table_says_in_each_state_of_the_lender() {
        use LoanAction::{FreeBlock, HandOver, Nothing};
        use LoanState::{Ended, Free, Kept, Sent, SentEnded, SentReturned};
        let to = |state| Some((state, Nothing));
        let (unused, used) = (Some((Free, FreeBlock)), to(Ended));
        let states = [Free, Sent, SentEnded, SentReturned, Kept, Ended];
        let (kept, not_kept) = (LoanEvent::Finished { is_kept: true }, LoanEvent::Finished { is_kept: false });
        let (sent, sent_ended, still_kept) = (to(Sent), to(SentEnded), to(Kept));
        let table = [
            (LoanEvent::Lent, false, [to(Sent), None, None, None, None, None]),
            (LoanEvent::Lent, true, [to(Sent), None, None, None, None, None]),
            (kept, false, [None, to(Kept), unused, to(Free), None, None]),
            (kept, true, [None, to(Kept), used, to(Free), None, None]),
            (not_kept, false, [None, unused, unused, to(Free), None, None]),
            (not_kept, true, [None, used, used, to(Free), None, None]),
            (LoanEvent::Done, false, [None, None, None, None, unused, None]),
            (LoanEvent::Done, true, [None, None, None, None, used, None]),
            (
                LoanEvent::Returned,
                false,
                [None, Some((SentReturned, HandOver)), None, None, Some((Free, HandOver)), None],
            ),
            (LoanEvent::Returned, true, [None, to(SentEnded), None, None, to(Ended), None]),
            (LoanEvent::Unused, false, [None, sent, sent_ended, None, still_kept, unused]),
            (LoanEvent::Unused, true, [None, sent, sent_ended, None, still_kept, used]),
            (LoanEvent::CopyBegun, false, [None, sent, sent_ended, None, still_kept, to(Ended)]),
            (LoanEvent::CopyBegun, true, [None, sent, sent_ended, None, still_kept, to(Ended)]),
            (LoanEvent::Reclaimed, false, [None, None, None, None, None, Some((Free, HandOver))]),
            (LoanEvent::Reclaimed, true, [None; 6]),
        ];
        for (event, is_used, expected) in table {
            for (state, expected) in states.into_iter().zip(expected) {
                assert_eq!(state.step(event, is_used), expected, "{event:?} in {state:?}, used: {is_used}");
            }
        }
    }

    #[test]
    fn each_event_does_what_the_table_says_in_each_state_of_the_holder() {
        use HeldAction::{Nothing, SayDone, SayReturned, SayTaken};
        use HeldState::{Free, Held, Returning, ReturningReleased};
        let to = |state| Some((state, Nothing));
        let states = [Free, Held, Returning, ReturningReleased];
        let table = [
            (HeldEvent::Taken, [Some((Held, SayTaken)), None, None, None]),
            (HeldEvent::Released, [None, Some((Free, SayDone)), to(ReturningReleased), None]),
            (HeldEvent::Named, [None, to(Returning), None, None]),
            (HeldEvent::Sent, [None, None, to(Returning), Some((Free, SayReturned))]),
            (HeldEvent::Finished, [None, None, to(Held), Some((Free, SayDone))]),
        ];
        for (event, expected) in table {
            for (state, expected) in states.into_iter().zip(expected) {
                assert_eq!(state.step(event), expected, "{event:?} in {state:?}");
            }
        }
    }
}
