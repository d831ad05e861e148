//! The callee: a child's worker, which takes requests, runs methods and publishes replies.

#![forbid(unsafe_code)]

use super::panic;
use super::service::{Dispatch, Exchange, Incoming, Service};
use crate::arena::{Arena, Loan, NoRoom, Source};
use crate::control::{Control, Message};
use crate::error::Fault;
use crate::frame::{BlockRef, Kind, Place};
use crate::handshake::wait_from_code;
use crate::lane::{Memory, WorkerLanes, Written, is_past};
use crate::layout::CallerLine;
use crate::objects::Objects;
use crate::process::child::Serving;
use crate::segment::{Block, Placed};
use crate::sync::Ordering::Acquire;
use crate::sys::mapping::Mapping;
use crate::sys::selfproc;
use crate::sys::socket::Blocking;
use crate::trusted::TrustedParent;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Exit code of a child that its parent's frames made no sense to.
const CONFUSED: i32 = 71;

/// Serves `T` to the parent until told to stop. Never returns.
pub(crate) fn serve<T: Service>(serving: Serving) -> ! {
    panic::install_hook();
    let memory = Arc::new(Shared {
        control: serving.control,
        objects: serving.objects,
        from_parent: Mutex::default(),
        changed: Condvar::new(),
    });
    start_reader(memory.clone());
    let lanes = WorkerLanes::new(&serving.segment, &serving.bells, wait_from_code(serving.hello.wait));
    let callers = (0..serving.segment.geometry().lanes).map(|lane| serving.segment.caller_line(lane)).collect();
    let arena = Arena::new(serving.hello.max_payload);
    let memory = ReplyMemory { shared: memory, arena, callers, published: Vec::new() };
    let host = Host::<T> { parent: serving.parent, service: None, interfaces: Vec::new() };
    Callee { lanes, memory, host }.run()
}

struct Callee<T> {
    lanes: WorkerLanes,
    memory: ReplyMemory,
    host: Host<T>,
}

impl<T: Service> Callee<T> {
    fn run(mut self) -> ! {
        loop {
            let index = self.lanes.wait();
            let kind = self.serve_one(index);
            if kind == Kind::Stop {
                // Flushes what the service printed and runs its exit handlers; the reply has been published.
                std::process::exit(0);
            }
        }
    }

    /// Takes, carries out and answers the request on lane `index`. Returns its kind.
    #[inline(always)]
    fn serve_one(&mut self, index: usize) -> Kind {
        let (frame, slot) = match self.lanes.lane(index).begin() {
            Ok(Some(request)) => request,
            Ok(None) => confused("a request that was taken back"),
            Err(what) => confused(what),
        };
        let (kind, call) = (frame.commit.kind, frame.call);
        let block = match frame.commit.place {
            Place::Slot(_) => None,
            Place::Block(block) => Some(self.memory.request_block(block)),
        };
        let span = block.as_ref().map_or(frame.payload, Block::span);
        let mut exchange =
            Exchange { slot, memory: &mut self.memory, request: self.host.parent.request(span), call, reply: None };
        let result = panic::catch(|| self.host.carry_out(kind, &mut exchange));
        if let Err(fault) = result {
            reply_fault(&mut exchange, &fault);
        }
        let (reply, Written { place, loan }) = exchange.into_reply();
        let position = self.lanes.lane(index).publish(reply, place);
        if let Some(loan) = loan {
            self.memory.published.push((index, position, loan));
        }
        kind
    }
}

/// The service, and what is known of it.
struct Host<T> {
    parent: TrustedParent,
    service: Option<T>,
    /// The dispatch functions of its bridged traits: number n is at n - 1.
    interfaces: Vec<Option<Dispatch<T>>>,
}

impl<T: Service> Host<T> {
    /// Carries out one request; writes its reply.
    #[inline(always)]
    fn carry_out(&mut self, kind: Kind, exchange: &mut Exchange<'_>) {
        match (kind, &mut self.service) {
            (Kind::Call, Some(service)) => {
                let incoming = Incoming(exchange);
                match incoming.interface() {
                    0 => service.dispatch(incoming),
                    number => match self.interfaces.get(usize::from(number) - 1) {
                        Some(Some(dispatch)) => dispatch(service, incoming),
                        _ => incoming.unknown(),
                    },
                }
            }
            (Kind::Construct, service) => *service = T::construct(Incoming(exchange)),
            (Kind::Bind, _) => self.bind(exchange),
            (Kind::Stop, service) => {
                // Taken first: a panic in its destructor must not leave it to be dropped again.
                let service = service.take();
                exchange.reply(Kind::Stop, &());
                drop(service);
            }
            _ => exchange.refuse("the child has no service yet"),
        }
    }

    /// Takes an interface into the table: the call word is its number, the payload where its dispatch function is.
    fn bind(&mut self, exchange: &mut Exchange<'_>) {
        let number = (exchange.call & 0xffff) as usize;
        let offset = exchange.request.read::<(u64,)>().map(|args| args.0.to_native());
        let Some(dispatch) = offset.ok().and_then(|offset| self.parent.dispatch_at(offset)) else {
            return exchange.refuse("a trait's methods cannot be called in a separate executable");
        };
        self.interfaces.resize(self.interfaces.len().max(number), None);
        let place = &mut self.interfaces[number - 1];
        // A number belongs to one interface for good: the parent may ask for the same again, after a timeout, but for no other.
        if place.is_some_and(|known| !std::ptr::fn_addr_eq(known, dispatch)) {
            return exchange.refuse("the child knows another interface by this number");
        }
        *place = Some(dispatch);
        exchange.reply(Kind::Bind, &());
    }
}

#[cold]
fn reply_fault(exchange: &mut Exchange<'_>, fault: &Fault) {
    exchange.reply(Kind::Fault, fault);
}

/// The parent is trusted, so this is an error in callgate; going on would run something that nobody asked for.
#[cold]
fn confused(what: &str) -> ! {
    eprintln!("callgate: child {} ends: its parent sent {what}", std::process::id());
    std::process::exit(CONFUSED);
}

impl Exchange<'_> {
    #[inline(always)]
    fn into_reply(mut self) -> (Kind, Written) {
        if self.reply.is_none() {
            self.refuse("the child's dispatch gave no reply");
        }
        self.reply.take().unwrap_or_else(|| (Kind::Refused, Written::empty()))
    }
}

/// The memory that payloads lie in, as the child's two threads share it.
struct Shared {
    control: Control,
    /// Where the segments are that the parent names.
    objects: Arc<dyn Objects>,
    from_parent: Mutex<FromParent>,
    /// Rung when the reader has noted something.
    changed: Condvar,
}

/// What the parent has told over the control socket.
#[derive(Default)]
struct FromParent {
    /// Segments of the parent's arena.
    requests: HashMap<u64, Arc<Mapping>>,
    /// The parent's answer to the last `Need`.
    answer: Option<Result<(u64, Arc<Mapping>), NoRoom>>,
}

impl Shared {
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

/// Starts the thread that reads the control socket, and ends this process when the parent is gone.
fn start_reader(shared: Arc<Shared>) {
    let reader = std::thread::Builder::new().name("callgate-control".into());
    let started = reader.spawn(move || {
        loop {
            match shared.control.receive(Blocking::Yes) {
                Ok(Some((message, descriptor))) => note(&shared, message, descriptor),
                // The parent is gone. PDEATHSIG usually comes first, but not after a change of uid.
                Ok(None) | Err(_) => selfproc::kill_self(),
            }
        }
    });
    if let Err(error) = started {
        eprintln!("callgate: child {} ends: starting its control thread: {error}", std::process::id());
        std::process::exit(CONFUSED);
    }
}

fn note(shared: &Shared, message: Message, descriptor: Option<OwnedFd>) {
    let mut descriptor = descriptor.into_iter();
    let mut mapped = |segment| shared.objects.attach(segment, &mut descriptor).map(Arc::new);
    let mut told = shared.told();
    match message {
        Message::Attach { segment } => match mapped(segment) {
            Ok(mapping) => drop(told.requests.insert(segment, mapping)),
            Err(error) => confused(&format!("a segment that cannot be mapped: {error}")),
        },
        Message::Detach { segment } => drop(told.requests.remove(&segment)),
        Message::Grant { segment } => {
            let failed = |error: std::io::Error| NoRoom::Failed(format!("the child cannot map reply memory: {error}"));
            told.answer = Some(mapped(segment).map(|mapping| (segment, mapping)).map_err(failed));
        }
        Message::Deny { len, max } => told.answer = Some(Err(NoRoom::TooLarge { len, max })),
        Message::Lack => {
            told.answer = Some(Err(NoRoom::Failed("the parent could get no memory for the reply".into())));
        }
        Message::Need { .. } => confused("a message that only a child sends"),
    }
    shared.changed.notify_all();
}

/// The child's own arena, for replies.
struct ReplyMemory {
    shared: Arc<Shared>,
    arena: Arena,
    callers: Vec<Placed<CallerLine>>,
    /// Blocks of published replies: lane, position, block.
    published: Vec<(usize, u64, Loan)>,
}

impl ReplyMemory {
    /// The block that a request names. It may have to wait for the segment, which comes by the socket.
    #[cold]
    fn request_block(&self, block: BlockRef) -> Block {
        let mapping = self.shared.wait_for(|told| told.requests.get(&block.segment).cloned());
        Block::new(&mapping, block.offset, block.len).unwrap_or_else(|| confused("a block outside its segment"))
    }
}

impl Memory for ReplyMemory {
    #[cold]
    fn with(&mut self, with: &mut dyn FnMut(&mut Arena, &mut dyn Source)) {
        let Self { shared, arena, callers, published } = self;
        let mut source = AskParent(shared);
        let is_free = |lane: usize, position: u64| {
            // Acquire: pairs with the Release in `CallerLane::release`.
            is_past(callers[lane].released.load(Acquire), position)
        };
        for (_, _, loan) in published.extract_if(.., |(lane, position, _)| is_free(*lane, *position)) {
            arena.free(loan, &mut source);
        }
        with(arena, &mut source);
    }
}

/// The parent as a source of reply memory.
struct AskParent<'a>(&'a Shared);

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
