//! Steps of the protocol that tests can make fail, to kill or stop a process at a certain point.
//!
//! Without the feature `failpoints` every `reach` is empty and adds no code to a call. With it, each step looks up its
//! action by name (the crate `fail`). The environment variable `FAILPOINTS` sets actions when the process starts; [`set`] and [`call`]
//! change them later.

#![forbid(unsafe_code)]

/// Declares [`Step`] and the table of its names and descriptions.
macro_rules! steps {
    ($($side:ident { $($step:ident = $name:literal, $about:literal;)+ })+) => {
        /// A step of the protocol, on one of the two sides. Each lies just after the event in its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each has its sentence in STEPS")]
        pub enum Step {
            $($($step,)+)+
        }

        /// Every step. Within a side, roughly in the order in which a bridge reaches them.
        #[cfg(feature = "failpoints")]
        pub const STEPS: &[Point] = &[$($(Point { name: $name, side: Side::$side, about: $about },)+)+];
    };
}

steps! {
    Parent {
    ParentSpawned = "parent.spawned", "The child has been started, and not been greeted.";
    ParentGreeted = "parent.greeted", "The greeting has been sent, with the segment.";
    ParentAnswered = "parent.answered", "The child's answer has been heard, and is the right one.";
    ParentWatched = "parent.watched", "The watcher has the child; nothing has been called.";
    ParentConstructorSent = "parent.constructor-sent", "The constructor's request has been published.";
    ParentBindSent = "parent.bind-sent", "The request that introduces a bridged trait has been published.";
    ParentLaneClaimed = "parent.lane-claimed", "A call has its lane, and has written nothing.";
    ParentBlockAllocated = "parent.block-allocated", "A request has a block for what outgrows its slot.";
    ParentSegmentCreated = "parent.segment-created", "A segment for requests exists, and the child has not been told.";
    ParentAttachSent = "parent.attach-sent", "The child has been told of a segment for requests.";
    ParentRequestWritten = "parent.request-written", "A request has been written, and not published.";
    ParentRequestDeparted = "parent.request-departed", "What a request carries is in the books, and it has not been published.";
    ParentRequestStored = "parent.request-stored", "A request's commit word is stored, and the worker's bell not rung.";
    ParentPublished = "parent.published", "A request has been published and announced; nothing has been waited for.";
    ParentRequestQueued = "parent.request-queued", "A request has been encoded that found no room on any lane.";
    ParentWithdrawn = "parent.withdrawn", "A request has been marked as withdrawn.";
    ParentAttended = "parent.attended", "A lane's replies have been taken for others, and its holder is about to leave.";
    ParentParking = "parent.parking", "A caller has said that it sleeps, and is about to.";
    ParentReplySeen = "parent.reply-seen", "A reply is there, and has not been read.";
    ParentReplyReleased = "parent.reply-released", "A reply has been read and released.";
    ParentAskSeen = "parent.ask-seen", "A method has called back; its arguments have been read, and the callback has not run.";
    ParentCalledBack = "parent.called-back", "A callback has returned, and the child has not been told.";
    ParentAnswerSent = "parent.answer-sent", "What a callback returned has been published.";
    ParentUnwindSent = "parent.unwind-sent", "The child has been told that a method that called back is not wanted any more.";
    ParentFollowing = "parent.following", "Part of an announced reply has been copied while it is written.";
    ParentNeedHeard = "parent.need-heard", "The child has asked for memory for a reply.";
    ParentReplySegmentCreated = "parent.reply-segment-created", "A segment for replies exists, and the child does not have it.";
    ParentGranted = "parent.granted", "The child has been sent a segment for replies.";
    ParentSealed = "parent.sealed", "The child has been told that nobody can make holes in a segment for replies.";
    ParentDetachHeard = "parent.detach-heard", "The child has given a segment for replies back.";
    ParentDetachSent = "parent.detach-sent", "The child has been told that a segment for requests is gone.";
    ParentTidySent = "parent.tidy-sent", "The child has been asked to give idle memory back.";
    ParentBoxTaken = "parent.box-taken", "The parent has said that it keeps a block of the child's.";
    ParentBoxDone = "parent.box-done", "The parent has said that it is done with a block of the child's.";
    ParentBoxReturned = "parent.box-returned", "The parent has said that it returns a block of the child's.";
    ParentStopSent = "parent.stop-sent", "The request to stop has been published.";
    ParentReaped = "parent.reaped", "The watcher has reaped the child, and nobody has been told.";
    ParentEnded = "parent.ended", "Everybody has been told that the child has ended.";
    }
    Child {
    ChildAdopted = "child.adopted", "The child has its control socket, and has read nothing.";
    ChildGreeted = "child.greeted", "The greeting has been heard, and the child will die with its parent.";
    ChildAttached = "child.attached", "The segment is mapped, and the parent has not been answered.";
    ChildAnswered = "child.answered", "The greeting has been answered.";
    ChildReady = "child.ready", "The child's threads run; no request has been looked for.";
    ChildParking = "child.parking", "A worker has said that it sleeps, and is about to.";
    ChildRequestSeen = "child.request-seen", "A request is there, and has not been recorded as started.";
    ChildStarted = "child.started", "A request has been recorded as started, and nothing of it carried out.";
    ChildCalling = "child.calling", "The arguments have been read; the method is about to run.";
    ChildReturned = "child.returned", "The method has returned, and nothing of its result been written.";
    ChildConstructed = "child.constructed", "The constructor has returned, and the parent has not been told.";
    ChildBound = "child.bound", "The child knows a bridged trait, and the parent has not been told.";
    ChildAskWritten = "child.ask-written", "What a method asks its callback has been written, and not published.";
    ChildAsked = "child.asked", "What a method asks its callback has been published; the answer has not been waited for.";
    ChildAnswerSeen = "child.answer-seen", "A request has come within a method that called back: the answer, or a call of the callback's.";
    ChildBlockAllocated = "child.block-allocated", "A reply has a block for what outgrows its slot.";
    ChildNeedSent = "child.need-sent", "The child has asked for memory for a reply.";
    ChildGrantHeard = "child.grant-heard", "The child has been sent a segment for replies, and has not said that it has mapped it.";
    ChildGranted = "child.granted", "The child has the memory that it asked for.";
    ChildAnnounced = "child.announced", "A large reply has been announced while it is written.";
    ChildAdvanced = "child.advanced", "More of an announced reply has been marked as final.";
    ChildTakenBack = "child.taken-back", "An announced reply has outgrown its block, and moves to another.";
    ChildReplyWritten = "child.reply-written", "A reply has been written, and not published.";
    ChildReplyDeparted = "child.reply-departed", "What a reply carries is in the books, and it has not been published.";
    ChildReplyStored = "child.reply-stored", "A reply's commit word is stored, and the caller's bell not rung.";
    ChildPublished = "child.published", "A reply has been published and announced.";
    ChildAttachHeard = "child.attach-heard", "The child has mapped a segment for requests.";
    ChildDetachHeard = "child.detach-heard", "The child has let go of a segment for requests.";
    ChildDetachSent = "child.detach-sent", "The child has given a segment for replies back.";
    ChildTidyHeard = "child.tidy-heard", "The child has been asked to give idle memory back, and has not begun.";
    ChildBoxTaken = "child.box-taken", "The child has said that it keeps a block of its parent's.";
    ChildBoxDone = "child.box-done", "The child has said that it is done with a block of its parent's.";
    ChildBoxReturned = "child.box-returned", "The child has said that it returns a block of its parent's.";
    ChildStopping = "child.stopping", "The request to stop has been seen; the service still exists.";
    ChildExiting = "child.exiting", "The request to stop has been answered; the child is about to exit.";
    }
}

#[cfg(feature = "failpoints")]
pub(crate) use armed::reach_here;
#[cfg(feature = "failpoints")]
pub use armed::*;
#[cfg(feature = "failpoints")]
pub use armed::{begin, begin_child, reach};

#[cfg(not(feature = "failpoints"))]
pub use unarmed::*;

#[cfg(not(feature = "failpoints"))]
mod unarmed {
    use super::Step;

    /// Nothing.
    #[inline(always)]
    pub fn reach(_: Step) {}

    /// Nothing.
    #[inline(always)]
    pub(crate) fn reach_here(_: Step, _: Step) {}

    /// Nothing.
    #[inline(always)]
    pub fn begin() {}

    /// Nothing.
    #[inline(always)]
    pub fn begin_child() {}
}

#[cfg(feature = "failpoints")]
mod armed {
    use super::{STEPS, Step};
    use callgate_os::selfproc;
    use std::sync::OnceLock;

    /// A step that can be made to fail.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Point {
        /// Its name in `FAILPOINTS`: its side, a dot, and a word or two.
        pub name: &'static str,
        /// The process that reaches it.
        pub side: Side,
        /// The state of the protocol at this step, as a sentence.
        pub about: &'static str,
    }

    /// One of the two processes of a bridge.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Side {
        /// The process that started the bridge.
        Parent,
        /// The process that the service is in.
        Child,
    }

    /// The default exit code of a process that exits at a step.
    const EXIT: i32 = 73;

    /// Sets the actions of the step `name` in this process, from now on.
    ///
    /// The form is that of the crate `fail`: `return(kill)` ends the process with SIGKILL, `return(stop)` stops it with SIGSTOP until somebody
    /// continues it, `return(exit 3)` exits with that code; `panic`, `sleep(milliseconds)`, `pause` and `off` are fail's own, and
    /// `5*off->return(kill)` does it the sixth time.
    ///
    /// # Errors
    ///
    /// If there is no such step, or `actions` cannot be read.
    pub fn set(name: &str, actions: &str) -> Result<(), String> {
        known(name)?;
        fail::cfg(name, actions)
    }

    /// Calls `run` whenever this process reaches the step `name`, from now on. It may be called with locks held: it must not use a
    /// bridge.
    ///
    /// # Errors
    ///
    /// If there is no such step.
    pub fn call(name: &str, run: impl Fn() + Send + Sync + 'static) -> Result<(), String> {
        known(name)?;
        fail::cfg_callback(name, run)
    }

    /// Removes the actions of the step `name` in this process.
    pub fn clear(name: &str) {
        fail::remove(name);
    }

    fn known(name: &str) -> Result<(), String> {
        let known = STEPS.iter().any(|point| point.name == name);
        known.then_some(()).ok_or_else(|| format!("the protocol has no step `{name}`"))
    }

    /// Whether this process is the child of a bridge.
    static CHILD: OnceLock<()> = OnceLock::new();

    /// Sets the steps of the protocol from `FAILPOINTS`. Ignores other names there, because `fail` has one table for the whole process. An
    /// unknown step or an invalid action ends the process: its test would test nothing.
    pub fn begin() {
        // A program with more rights than the user who executed it ignores the environment.
        let text = std::env::var("FAILPOINTS").ok().filter(|_| !selfproc::is_privileged());
        let Some(text) = text else { return };
        let settings = text.split(';').filter_map(|setting| setting.trim().split_once('='));
        let ours = |name: &str| name.starts_with("parent.") || name.starts_with("child.");
        for (name, actions) in settings.filter(|(name, _)| ours(name)) {
            if let Err(why) = set(name, actions) {
                eprintln!("callgate: FAILPOINTS: `{name}`: {why}");
                std::process::exit(EXIT);
            }
        }
    }

    /// Marks this process as a child.
    pub fn begin_child() {
        let _ = CHILD.set(());
    }

    /// Carries out the actions of `step`, which this process has reached.
    #[inline(never)]
    pub fn reach(step: Step) {
        let _ = fail::eval(STEPS[step as usize].name, |order| carry_out(order.as_deref().unwrap_or_default()));
    }

    /// [`reach`] for code that both sides run.
    pub(crate) fn reach_here(parent: Step, child: Step) {
        reach(if CHILD.get().is_some() { child } else { parent });
    }

    fn carry_out(order: &str) {
        match order.split_once(' ').unwrap_or((order, "")) {
            ("kill", _) => selfproc::kill_self(),
            ("stop", _) => selfproc::stop_self(),
            ("exit", code) => std::process::exit(code.parse().unwrap_or(EXIT)),
            _ => panic!("`return({order})` is not an order for a step: the orders are kill, stop and exit"),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::collections::HashSet;

        #[test]
        fn every_step_has_a_name_of_its_side_and_a_sentence() {
            let names: HashSet<_> = STEPS.iter().map(|point| point.name).collect();
            assert_eq!(names.len(), STEPS.len());
            for point in STEPS {
                let side = if point.side == Side::Parent { "parent." } else { "child." };
                assert!(point.name.starts_with(side), "{point:?}");
                assert!(point.about.ends_with('.'), "{point:?}");
            }
            assert_eq!(STEPS[Step::ChildStarted as usize].name, "child.started");
        }

        #[test]
        fn a_step_that_does_not_exist_cannot_be_told_anything() {
            assert!(set("child.startled", "off").is_err());
            assert!(call("startled", || {}).is_err());
            assert!(set("child.started", "explode").is_err());
        }
    }
}
