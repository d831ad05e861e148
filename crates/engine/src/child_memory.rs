//! The memory of a child's payloads: segments of the parent's arena for requests, and the child's own arena for replies.
//!
//! Shared by all workers of the child and the thread that reads the control socket. Used only by payloads that outgrow a slot.

#![forbid(unsafe_code)]

use crate::control::{Control, Message};
use crate::lane::is_past;
use crate::last_words;
use callgate_os::fork;
use callgate_os::limits::{self, Wanted};
use callgate_os::mapping::{Mapping, Protection};
use callgate_os::selfproc;
use callgate_os::socket::BlockingMode;
use callgate_os::sync::Ordering::Acquire;
use callgate_transport::arena::{Allocation, Limits, Source};
use callgate_transport::backing::Backing;
use callgate_transport::commit::BlockRef;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::NoMemory;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::layout::CallerLine;
use callgate_transport::loans::Attachments;
use callgate_transport::memory_pool::{BlockSize, MemoryPool, PoolHandle};
use callgate_transport::segment::{Block, Placed, Segment};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The memory of one child's payloads.
pub(crate) struct PayloadMemory {
    control: Control,
    /// Finds the segments that the parent names.
    backing: Arc<dyn Backing>,
    from_parent: Mutex<FromParent>,
    /// Notified when the reader has noted something.
    changed: Condvar,
    /// The child's access to the parent's segments.
    access: Protection,
    /// Held while the parent is asked for memory, so that one answer is expected at a time.
    replies: Mutex<ReplyMemory>,
    /// The caller's line of each lane.
    callers: Vec<Placed<CallerLine>>,
    /// The process that owns the memory; a fork made by the service leaves it alone.
    generation: u32,
}

/// What the parent has said over the control socket.
#[derive(Default)]
struct FromParent {
    /// Segments of the parent's arena.
    requests: HashMap<u64, Arc<Mapping>>,
    /// A segment that has been mapped and is not sealed yet.
    unsealed: Option<(u64, Arc<Mapping>)>,
    /// The parent's answer to the last `Need`.
    answer: Option<Result<(u64, Arc<Mapping>), NoMemory>>,
}

/// The child's own memory.
struct ReplyMemory {
    pool: MemoryPool,
    /// What replies carry that are published or about to be: lane, position, and attachments.
    published: Vec<(u32, u64, Attachments)>,
}

impl PayloadMemory {
    pub fn new(
        control: Control,
        backing: Arc<dyn Backing>,
        segment: &Segment,
        limits: Limits,
        access: Protection,
    ) -> Arc<Self> {
        fork::count_forks();
        let pool = MemoryPool::new(limits, segment.held_by_parent(), segment.held_by_child());
        Arc::new(Self {
            control,
            backing,
            from_parent: Mutex::default(),
            changed: Condvar::new(),
            access,
            replies: Mutex::new(ReplyMemory { pool, published: Vec::new() }),
            generation: fork::generation(),
            callers: (0..segment.geometry().lanes).map(|lane| segment.caller_line(lane)).collect(),
        })
    }

    /// Starts the thread that reads the control socket, and ends this process when the parent is gone.
    pub(crate) fn start_reader(self: &Arc<Self>) {
        let (reader, shared) = (std::thread::Builder::new().name("callgate-control".into()), self.clone());
        if let Err(error) = reader.spawn(move || shared.read_control()) {
            let limit = limits::behind(&error, Wanted::Task);
            let why =
                format!("callgate: child {} ends: starting its control thread{limit}: {error}", std::process::id());
            last_words::say(&why);
            eprintln!("{why}");
            std::process::exit(CONFUSED);
        }
    }

    /// The block that a request names. May wait for the segment, which arrives by the socket.
    #[cold]
    pub(crate) fn request_block(&self, block: BlockRef) -> Block {
        let mapping = self.wait_for(|inbox| inbox.requests.get(&block.segment).cloned());
        Block::new(&mapping, block.offset, block.len).unwrap_or_else(|| confused("a block outside its segment"))
    }

    /// Keeps what the reply carries that is about to be published at `position` of `lane`, until its caller is done with it. Called before
    /// publishing: the parent may ask at once for the blocks that it is done with, and asks only once.
    #[cold]
    pub(crate) fn publishing(&self, lane: u32, position: u64, carried: Attachments) {
        self.replies().published.push((lane, position, carried));
    }

    fn replies(&self) -> MutexGuard<'_, ReplyMemory> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- the control socket ----------------------------------------------------------------------------------------

    fn read_control(&self) -> ! {
        loop {
            match self.control.receive(BlockingMode::Yes) {
                Ok(Some((message, descriptor))) => self.handle_message(message, descriptor),
                // The parent is gone. PDEATHSIG usually comes first, but not after a change of uid.
                Ok(None) | Err(_) => selfproc::kill_self(),
            }
        }
    }

    fn handle_message(&self, message: Message, descriptor: Option<OwnedFd>) {
        if message == Message::Tidy {
            return self.tidy();
        }
        let mut descriptor = descriptor.into_iter();
        let mut mapped = |segment, access| self.backing.attach(segment, &mut descriptor, access).map(Arc::new);
        let mut inbox = self.inbox();
        match message {
            Message::Attach { segment } => match mapped(segment, self.access) {
                Ok(mapping) => {
                    inbox.requests.insert(segment, mapping);
                    failpoints::reach(Step::ChildAttachHeard);
                }
                // A named segment that the parent has taken back since; no request names it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => confused(&format!("a segment that cannot be mapped: {error}")),
            },
            Message::Detach { segment } => {
                inbox.requests.remove(&segment);
                failpoints::reach(Step::ChildDetachHeard);
            }
            Message::Grant { segment } => {
                let mapping = mapped(segment, Protection::ReadWrite);
                self.granted(&mut inbox, segment, mapping);
            }
            Message::Sealed { segment } => match inbox.unsealed.take() {
                Some(unsealed) if unsealed.0 == segment => inbox.answer = Some(Ok(unsealed)),
                _ => confused("a seal of memory that was not granted"),
            },
            Message::Deny { len, max } => inbox.answer = Some(Err(NoMemory::TooLarge { len, max })),
            Message::Exhausted { len, budget } => inbox.answer = Some(Err(NoMemory::Exhausted { len, budget })),
            Message::Lack { error, limit } => {
                let why = limits::unpacked(error, limit);
                inbox.unsealed = None;
                inbox.answer = Some(Err(failed(format!("the parent could not get memory for the reply{why}"))));
            }
            Message::Need { .. } | Message::Mapped { .. } | Message::Begin { .. } | Message::Tidy => {
                confused("a message that is not for a child")
            }
        }
        self.changed.notify_all();
    }

    /// Notes memory for a reply. A parent that does not trust this child seals it once it is mapped.
    fn granted(&self, inbox: &mut FromParent, segment: u64, mapping: std::io::Result<Arc<Mapping>>) {
        failpoints::reach(Step::ChildGrantHeard);
        let is_final = self.access == Protection::ReadWrite;
        let why = match mapping {
            Ok(mapping) if is_final => return inbox.answer = Some(Ok((segment, mapping))),
            Ok(mapping) => {
                inbox.unsealed = Some((segment, mapping));
                match self.control.send(Message::Mapped { segment }, None) {
                    Ok(()) => return,
                    Err(error) => format!("the child cannot say that it has mapped reply memory: {error}"),
                }
            }
            Err(error) => format!("the child cannot map reply memory: {error}"),
        };
        inbox.unsealed = None;
        // A parent that misses this asks why the child keeps asking.
        let _ = self.control.send(Message::Detach { segment }, None);
        inbox.answer = Some(Err(failed(why)));
    }

    /// Takes back what the parent is done with, and gives back memory beyond the limit. Skips it while a worker holds the arena: that worker may wait
    /// for this thread, and the parent asks again after the reply.
    fn tidy(&self) {
        failpoints::reach(Step::ChildTidyHeard);
        let Ok(mut replies) = self.replies.try_lock() else { return };
        let mut source = AskParent(self);
        replies.collect(&self.callers, &mut source);
        drop(replies.pool.tidy(&mut source));
    }

    fn inbox(&self) -> MutexGuard<'_, FromParent> {
        self.from_parent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `find` finds something. The parent always answers; if it dies, this process dies too.
    fn wait_for<R>(&self, mut find: impl FnMut(&mut FromParent) -> Option<R>) -> R {
        let mut inbox = self.inbox();
        loop {
            if let Some(found) = find(&mut inbox) {
                return found;
            }
            inbox = self.changed.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn failed(why: String) -> NoMemory {
    NoMemory::Failed { why }
}

impl ReplyMemory {
    /// Takes back what callers are done with.
    fn collect(&mut self, callers: &[Placed<CallerLine>], source: &mut dyn Source) {
        let is_dealt_with = |lane: u32, position: u64| {
            // Acquire: pairs with the Release in `CallerLane::release`.
            is_past(callers[lane as usize].released.load(Acquire), position)
        };
        let Self { pool, published } = self;
        for (_, _, carried) in published.extract_if(.., |(lane, position, _)| is_dealt_with(*lane, *position)) {
            pool.arrived(carried, source);
        }
    }
}

impl PoolHandle for PayloadMemory {
    #[cold]
    fn with(&self, run: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source)) {
        let mut replies = self.replies();
        let mut source = AskParent(self);
        replies.collect(&self.callers, &mut source);
        run(&mut replies.pool, &mut source);
    }

    /// Does not wait: the caller waits for this reply, and may itself hold what has to come back.
    fn find(&self, size: BlockSize, _: Deadline) -> Result<Allocation, NoMemory> {
        let pool: &dyn PoolHandle = self;
        pool.on(|pool, source| pool.allocate(size, source))
    }

    fn peer_block(&self, block: BlockRef) -> Option<Block> {
        Some(self.request_block(block))
    }

    /// The peer is the parent.
    fn trusts_peer(&self) -> bool {
        true
    }

    fn is_trusted_by_peer(&self) -> bool {
        self.access == Protection::ReadWrite
    }

    fn is_in_fork(&self) -> bool {
        self.generation != fork::generation()
    }
}

/// The parent as a source of reply memory. Used only while the arena is locked.
struct AskParent<'a>(&'a PayloadMemory);

impl Source for AskParent<'_> {
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
        let sent = self.0.control.send(Message::Need { len }, None);
        sent.map_err(|error| failed(format!("the child cannot ask for reply memory: {error}")))?;
        failpoints::reach(Step::ChildNeedSent);
        self.0.wait_for(|inbox| inbox.answer.take()).inspect(|_| failpoints::reach(Step::ChildGranted))
    }

    fn shrink(&mut self, segment: u64) {
        // A parent that is gone needs no message, and one whose socket is full keeps the memory until the bridge ends.
        let _ = self.0.control.send(Message::Detach { segment }, None);
        failpoints::reach(Step::ChildDetachSent);
    }
}

/// Exit code of a child that could not make sense of its parent's messages.
pub(crate) const CONFUSED: i32 = 71;

/// Ends the process. The parent is trusted, so this is an error in callgate; going on might run something that nobody asked for.
#[cold]
pub(crate) fn confused(what: &str) -> ! {
    let why = format!("callgate: child {} ends: its parent sent {what}", std::process::id());
    last_words::say(&why);
    eprintln!("{why}");
    std::process::exit(CONFUSED);
}
