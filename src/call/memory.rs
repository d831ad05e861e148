//! The memory that a child's payloads lie in: segments of the parent's arena, and the child's own arena, for replies.
//!
//! Shared by all workers of the child and the thread that reads the control socket. Touched only by payloads that outgrow a
//! slot.

#![forbid(unsafe_code)]

use super::callee::{CONFUSED, confused};
use crate::arena::{Arena, Loan, NoRoom, Source};
use crate::control::{Control, Message};
use crate::frame::BlockRef;
use crate::lane::{Memory, is_past};
use crate::layout::CallerLine;
use crate::objects::Objects;
use crate::segment::{Block, Placed, Segment};
use crate::sync::Ordering::Acquire;
use crate::sys::mapping::Mapping;
use crate::sys::selfproc;
use crate::sys::socket::Blocking;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The memory of one child's payloads.
pub(super) struct PayloadMemory {
    control: Control,
    /// Where the segments are that the parent names.
    objects: Arc<dyn Objects>,
    from_parent: Mutex<FromParent>,
    /// Rung when the reader has noted something.
    changed: Condvar,
    /// Held while the parent is asked for memory: there is one answer at a time.
    replies: Mutex<Replies>,
    /// The caller's line of each lane.
    callers: Vec<Placed<CallerLine>>,
}

/// What the parent has told over the control socket.
#[derive(Default)]
struct FromParent {
    /// Segments of the parent's arena.
    requests: HashMap<u64, Arc<Mapping>>,
    /// The parent's answer to the last `Need`.
    answer: Option<Result<(u64, Arc<Mapping>), NoRoom>>,
}

/// The child's own arena.
struct Replies {
    arena: Arena,
    /// Blocks of published replies: lane, position, block.
    published: Vec<(u32, u64, Loan)>,
}

impl PayloadMemory {
    pub(super) fn new(control: Control, objects: Arc<dyn Objects>, segment: &Segment, max_payload: u64) -> Arc<Self> {
        Arc::new(Self {
            control,
            objects,
            from_parent: Mutex::default(),
            changed: Condvar::new(),
            replies: Mutex::new(Replies { arena: Arena::new(max_payload), published: Vec::new() }),
            callers: (0..segment.geometry().lanes).map(|lane| segment.caller_line(lane)).collect(),
        })
    }

    /// Starts the thread that reads the control socket, and ends this process when the parent is gone.
    pub(super) fn start(control: Control, objects: Arc<dyn Objects>, segment: &Segment, max_payload: u64) -> Arc<Self> {
        let memory = Self::new(control, objects, segment, max_payload);
        let (reader, shared) = (std::thread::Builder::new().name("callgate-control".into()), memory.clone());
        if let Err(error) = reader.spawn(move || shared.read_control()) {
            eprintln!("callgate: child {} ends: starting its control thread: {error}", std::process::id());
            std::process::exit(CONFUSED);
        }
        memory
    }

    /// The block that a request names. It may have to wait for the segment, which comes by the socket.
    #[cold]
    pub(super) fn request_block(&self, block: BlockRef) -> Block {
        let mapping = self.wait_for(|told| told.requests.get(&block.segment).cloned());
        Block::new(&mapping, block.offset, block.len).unwrap_or_else(|| confused("a block outside its segment"))
    }

    /// Keeps the block of the reply that was published at `position` of `lane` until its caller has copied it.
    #[cold]
    pub(super) fn published(&self, lane: u32, position: u64, loan: Loan) {
        self.replies().published.push((lane, position, loan));
    }

    fn replies(&self) -> MutexGuard<'_, Replies> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- the control socket ----------------------------------------------------------------------------------------

    fn read_control(&self) -> ! {
        loop {
            match self.control.receive(Blocking::Yes) {
                Ok(Some((message, descriptor))) => self.note(message, descriptor),
                // The parent is gone. PDEATHSIG usually comes first, but not after a change of uid.
                Ok(None) | Err(_) => selfproc::kill_self(),
            }
        }
    }

    fn note(&self, message: Message, descriptor: Option<OwnedFd>) {
        let mut descriptor = descriptor.into_iter();
        let mut mapped = |segment| self.objects.attach(segment, &mut descriptor).map(Arc::new);
        let mut told = self.told();
        match message {
            Message::Attach { segment } => match mapped(segment) {
                Ok(mapping) => drop(told.requests.insert(segment, mapping)),
                Err(error) => confused(&format!("a segment that cannot be mapped: {error}")),
            },
            Message::Detach { segment } => drop(told.requests.remove(&segment)),
            Message::Grant { segment } => {
                let failed =
                    |error: std::io::Error| NoRoom::Failed(format!("the child cannot map reply memory: {error}"));
                told.answer = Some(mapped(segment).map(|mapping| (segment, mapping)).map_err(failed));
            }
            Message::Deny { len, max } => told.answer = Some(Err(NoRoom::TooLarge { len, max })),
            Message::Lack => {
                told.answer = Some(Err(NoRoom::Failed("the parent could get no memory for the reply".into())));
            }
            Message::Need { .. } => confused("a message that only a child sends"),
        }
        self.changed.notify_all();
    }

    fn told(&self) -> MutexGuard<'_, FromParent> {
        self.from_parent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `find` finds something. The parent always answers; if it dies, so does this process.
    fn wait_for<R>(&self, mut find: impl FnMut(&mut FromParent) -> Option<R>) -> R {
        let mut told = self.told();
        loop {
            if let Some(found) = find(&mut told) {
                return found;
            }
            told = self.changed.wait(told).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The memory of replies, as a worker's lane uses it.
pub(super) struct ReplyMemory<'a>(pub(super) &'a PayloadMemory);

impl Memory for ReplyMemory<'_> {
    #[cold]
    fn with(&mut self, with: &mut dyn FnMut(&mut Arena, &mut dyn Source)) {
        let Self(memory) = self;
        let mut replies = memory.replies();
        let Replies { arena, published } = &mut *replies;
        let mut source = AskParent(memory);
        let is_free = |lane: u32, position: u64| {
            // Acquire: pairs with the Release in `CallerLane::release`.
            is_past(memory.callers[lane as usize].released.load(Acquire), position)
        };
        for (_, _, loan) in published.extract_if(.., |(lane, position, _)| is_free(*lane, *position)) {
            arena.free(loan, &mut source);
        }
        with(arena, &mut source);
    }
}

/// The parent as a source of reply memory. Used only with the arena held.
struct AskParent<'a>(&'a PayloadMemory);

impl Source for AskParent<'_> {
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoRoom> {
        let sent = self.0.control.send(Message::Need { len }, None);
        sent.map_err(|error| NoRoom::Failed(format!("the child cannot ask for reply memory: {error}")))?;
        self.0.wait_for(|told| told.answer.take())
    }

    fn shrink(&mut self, segment: u64) {
        // A parent that is gone needs no message, and one whose socket is full keeps the memory until the bridge ends.
        let _ = self.0.control.send(Message::Detach { segment }, None);
    }
}
