//! What the `#[bridge]` attribute implements for a type, and what the generated code works with.
//!
//! Safe code throughout: bytes become values in `request.rs` and `reply.rs`.

#![forbid(unsafe_code)]

pub(crate) mod task;

use crate::access::{Access, AnyAccess};
use crate::lane::{ReplySlot, SendError, SentReply, WorkerRest};
use crate::panic;
use crate::request_source::RequestSource;
use callgate_os::image::Fnv;
use callgate_os::text::beginning;
use callgate_transport::commit::{Beyond, Kind, Limit, Place};
use callgate_transport::decoder::Transfer;
use callgate_transport::encode::Encode;
use callgate_transport::error::{CallName, Fault, NoMemory};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::memory_pool::{AllocContext, PoolHandle};
use callgate_transport::reading::{ForArguments, last_refusal};
use callgate_transport::request::{Request, RequestSpan};
use callgate_transport::validator::Checked;
use rkyv::Archive;
use rkyv::rancor::Failure;
use std::any::{Any, TypeId};
use std::fmt::Display;
pub use task::{Finish, TaskAccess, TaskCall, TaskFuture};

/// A type whose instances can live behind a `Bridge`. Implemented by `#[bridge]` on the type's impl block.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not bridged",
    note = "put `#[bridge]` above the impl block that has its constructors; a trait's impl block comes beside it, in the same module"
)]
pub trait Service: Sized + 'static {
    /// The type's name, without generics, for messages.
    const NAME: &'static str;

    /// Whether a method with a receiver returns a stream, which may borrow the service beyond the call.
    #[doc(hidden)]
    const LENDS: bool = false;

    /// The proxy: the type's methods, as the caller calls them.
    type Calls<M: Mode>: Send + Sync + 'static;

    /// The proxy for one way of calling.
    #[doc(hidden)]
    fn calls<M: Mode>(mode: M) -> Self::Calls<M>;

    /// Adds every method and its types to the fingerprint.
    #[doc(hidden)]
    fn fingerprint(of: Fingerprint) -> Fingerprint;

    /// Runs the constructor named by the call.
    #[doc(hidden)]
    fn construct(call: Incoming<'_, '_>) -> Option<Self>;

    /// Runs the method named by the call on the service behind `access`.
    #[doc(hidden)]
    fn dispatch(access: impl Access<Self>, call: Incoming<'_, '_>);

    /// Whether the method with this number takes `&mut self`.
    #[doc(hidden)]
    fn is_exclusive(index: u16) -> bool;

    /// Whether any method of the type's own block is async.
    #[doc(hidden)]
    const IS_ASYNC: bool = false;

    /// Begins a call of an async method. Any other call comes back.
    #[doc(hidden)]
    fn begin<'a>(access: TaskAccess<'a, Self>, call: TaskCall) -> Result<TaskFuture<'a>, TaskCall> {
        let _ = access;
        Err(call)
    }
}

/// A way of calling a service's methods. One proxy is generated for all of them.
///
/// Implemented by callgate only.
pub trait Mode: sealed::Sealed + Clone + Send + Sync + 'static {
    /// What a method that returns `R` returns when called this way.
    type Out<R: Transfer>;

    /// What a method that returns `impl Iterator<Item = T>` returns when called this way.
    type Items<T: Transfer>;

    /// Calls a method.
    #[doc(hidden)]
    fn call<A: Request, R: Transfer>(&self, method: &'static Method, args: A) -> Self::Out<R>;

    /// Calls a method that returns a stream.
    #[doc(hidden)]
    fn open<A: Request, T: Transfer>(&self, method: &'static Method, args: A) -> Self::Items<T>;
}

pub mod sealed {
    /// Keeps other crates from adding ways of calling.
    pub trait Sealed {}
}

/// The methods of one trait of a service. Implemented by `#[bridge]` on `impl Trait for T`.
pub trait Interface<T>: 'static {
    /// The trait's name, for messages.
    const NAME: &'static str;

    /// Adds every method and its types to the fingerprint.
    fn fingerprint(of: Fingerprint) -> Fingerprint;

    /// Runs the method named by the call on the service behind `access`.
    fn dispatch(access: impl Access<T>, call: Incoming<'_, '_>);

    /// Whether the method with this number takes `&mut self`.
    fn is_exclusive(index: u16) -> bool;

    /// Whether any method is async.
    const IS_ASYNC: bool = false;

    /// Begins a call of an async method. Any other call comes back.
    fn begin<'a>(access: TaskAccess<'a, T>, call: TaskCall) -> Result<TaskFuture<'a>, TaskCall>
    where
        T: 'static,
    {
        let _ = access;
        Err(call)
    }
}

/// Traits of one service that can be called through one bridge.
pub const MAX_INTERFACES: usize = 32;

/// The dispatch function of an interface.
pub(crate) type Dispatch<T> = fn(AnyAccess<'_, T>, Incoming<'_, '_>);

/// Makes a task of a call of an interface, for a child whose calls are tasks.
pub(crate) type TaskDispatch<T> = for<'a> fn(TaskAccess<'a, T>, TaskCall) -> TaskFuture<'a>;

/// Tells one interface of a service from the others.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceId {
    /// The service that the dispatch function is for.
    pub(crate) service: fn() -> TypeId,
    /// The address of the dispatch function in this process, or of the one that makes tasks.
    pub(crate) dispatch: fn(bool) -> usize,
    /// A number that differs, except by chance, when two builds disagree on the trait's methods or types.
    pub(crate) key: fn() -> u64,
}

impl InterfaceId {
    /// The interface `I` of the service `T`.
    pub const fn of<T: Service, I: Interface<T>>() -> Self {
        fn dispatch<T: Service, I: Interface<T>>(service: AnyAccess<'_, T>, call: Incoming<'_, '_>) {
            I::dispatch(service, call);
        }
        fn task_dispatch<T: Service, I: Interface<T>>(access: TaskAccess<'_, T>, call: TaskCall) -> TaskFuture<'_> {
            I::begin(access, call).unwrap_or_else(|call| {
                call.in_turn(access, I::is_exclusive, |service, call| I::dispatch(service, call))
            })
        }
        fn address<T: Service, I: Interface<T>>(makes_tasks: bool) -> usize {
            match makes_tasks {
                true => task_dispatch::<T, I> as TaskDispatch<T> as usize,
                false => dispatch::<T, I> as Dispatch<T> as usize,
            }
        }
        fn key<T: Service, I: Interface<T>>() -> u64 {
            let mut hash = Fnv::new();
            hash.add(T::NAME.as_bytes());
            hash.add(I::NAME.as_bytes());
            I::fingerprint(Fingerprint(hash)).0.finish()
        }
        Self { service: TypeId::of::<T>, dispatch: address::<T, I>, key: key::<T, I> }
    }
}

/// Names and numbers one method of a service.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// The service's name.
    pub service: &'static str,
    /// The method's name.
    pub name: &'static str,
    /// Its number in its block.
    pub index: u16,
    /// The trait block that it is in; `None` = the type's own.
    pub interface: Option<InterfaceId>,
    /// Whether it may run again in another child after one has died in it.
    pub idempotent: bool,
    /// Whether its service [lends](Service::LENDS), so that a dropped stream may be in its way.
    pub lends: bool,
}

impl Method {
    /// No method, for errors that nobody sees.
    pub const fn nameless() -> Self {
        Method { service: "", name: "", index: 0, interface: None, idempotent: false, lends: false }
    }

    /// Stands for the service's destructor in errors.
    pub const fn drop_of<T: Service>() -> Self {
        Self { service: T::NAME, name: "drop", index: 0, interface: None, idempotent: false, lends: false }
    }

    /// Stands for the wait for one-way calls in errors.
    pub const fn flush_of<T: Service>() -> Self {
        Self { service: T::NAME, name: "flush", index: 0, interface: None, idempotent: false, lends: false }
    }

    /// Stands for the exchange of a child in errors.
    pub const fn restart_of<T: Service>() -> Self {
        Self { service: T::NAME, name: "restart", index: 0, interface: None, idempotent: false, lends: false }
    }

    /// The call word of the method, whose block the child knows by the number `interface`.
    #[inline(always)]
    pub fn word(&self, interface: u64) -> u64 {
        interface << 16 | u64::from(self.index)
    }

    pub fn call_name(&self) -> CallName {
        CallName { service: self.service, method: self.name }
    }
}

/// A number that differs, except by chance, when two builds disagree on a service's methods or types.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(Fnv);

impl Fingerprint {
    pub fn of<T: Service>() -> u64 {
        let mut hash = Fnv::new();
        hash.add(T::NAME.as_bytes());
        T::fingerprint(Self(hash)).0.finish()
    }

    /// Adds a method that takes `A` and returns `R`, with its signature as written.
    pub fn method<A: Request, R: Transfer>(self, name: &str, signature: &str) -> Self {
        self.texts([name, signature]).sizes::<A>().sizes::<R>()
    }

    /// Adds a constructor that takes `A`, with its signature as written.
    pub fn constructor<A: Request>(self, name: &str, signature: &str) -> Self {
        self.texts(["constructor", name]).texts([signature]).sizes::<A>()
    }

    fn texts<const N: usize>(mut self, texts: [&str; N]) -> Self {
        for text in texts {
            self.0.add(&text.len().to_le_bytes());
            self.0.add(text.as_bytes());
        }
        self
    }

    fn sizes<T: Archive>(mut self) -> Self {
        self.0.add(&size_of::<T::Archived>().to_le_bytes());
        self.0.add(&align_of::<T::Archived>().to_le_bytes());
        self
    }
}

/// One request on its way through the callee, and the slot for its reply.
pub struct Exchange<'a> {
    pub(crate) slot: ReplySlot<'a>,
    pub(crate) alloc: &'a AllocContext<'a>,
    pub request: RequestSpan<'a>,
    /// `returns << 32 | interface << 16 | method`.
    pub call: u64,
    /// The kind of the reply, once it has been written.
    pub(crate) replied: Option<Kind>,
    /// Nobody wants the value.
    pub(crate) is_one_way: bool,
    /// `None` for a task, which cannot call back, and for a method whose last question nobody will answer: it has no request to reply to.
    pub(crate) turns: Option<TurnContext<'a>>,
}

/// What a method needs that calls back: how its worker waits, and who makes its requests.
#[derive(Clone, Copy)]
pub(crate) struct TurnContext<'a> {
    pub rest: &'a WorkerRest,
    pub source: &'a dyn RequestSource,
}

impl<'a> Exchange<'a> {
    /// The end of a task.
    pub(crate) fn of_task(
        slot: ReplySlot<'a>,
        alloc: &'a AllocContext<'a>,
        request: RequestSpan<'a>,
        call: u64,
    ) -> Self {
        Self { slot, alloc, request, call, replied: None, is_one_way: false, turns: None }
    }
}

impl Exchange<'_> {
    /// The kind of the reply. Refuses a request without one.
    pub(crate) fn settled(&mut self) -> Kind {
        self.replied.unwrap_or_else(|| self.refuse_unanswered())
    }

    #[cold]
    pub(crate) fn refuse_unanswered(&mut self) -> Kind {
        self.refuse("its dispatch gave no reply");
        Kind::Refused
    }

    /// Writes a reply. If it is too long, writes a reply that says so instead. A second reply replaces the first: a panic in the value's destructor
    /// becomes a fault.
    #[inline(always)]
    pub fn reply<R: Encode + Archive<Archived: Checked>>(&mut self, kind: Kind, value: &R) {
        if self.is_one_way && kind == Kind::Call {
            self.replied = Some(kind);
            return;
        }
        match self.slot.write(value, self.alloc) {
            Ok(()) => self.replied = Some(kind),
            Err(error) => self.refuse_slow(error),
        }
    }

    /// Writes the value that a method returned, or why it was not called.
    #[inline(always)]
    pub(crate) fn reply_value<R: Encode + Archive<Archived: Checked>>(&mut self, value: Result<R, impl Display>) {
        match value {
            Ok(value) => self.reply(Kind::Call, &value),
            Err(why) => self.refuse(&why.to_string()),
        }
    }

    #[cold]
    fn refuse_slow(&mut self, error: SendError) {
        match error {
            SendError::NoMemory(NoMemory::TooLarge { len, max }) => {
                self.reply_small(Kind::TooLarge, &Limit { len, max });
            }
            SendError::NoMemory(NoMemory::Exhausted { len, budget }) => {
                self.reply_small(Kind::Exhausted, &Limit { len, max: budget });
            }
            SendError::NoMemory(why) => self.refuse(&why.to_string()),
            SendError::Encode => self.refuse("the reply cannot be encoded"),
            SendError::Beyond(refusal) => match Beyond::of(refusal, false) {
                Some(beyond) => self.reply_small(Kind::Beyond, &beyond),
                None => {
                    self.refuse("the reply is not a valid archive of its type: the type's own `Serialize` is wrong")
                }
            },
        }
    }

    /// Replies that the request could not be read: for what this thread has just refused, or, if that was nothing in particular, as `otherwise` says.
    #[cold]
    pub fn refuse_request(&mut self, otherwise: &str) {
        match Beyond::of(last_refusal(), true) {
            // In words, like any request that makes no sense: the caller knows these.
            Some(beyond) if !beyond.is_depth => self.refuse(&beyond.limit),
            Some(beyond) => self.reply_small(Kind::Beyond, &beyond),
            None => self.refuse(otherwise),
        }
    }

    /// Replies that the call cannot be carried out, and why.
    #[cold]
    pub fn refuse(&mut self, why: &str) {
        self.reply_small(Kind::Refused, &why.to_owned());
    }

    /// Has `host` carry out the request, if it can be read. A panic becomes a fault in the reply.
    #[inline(always)]
    pub(crate) fn carry_out(&mut self, is_readable: bool, host: impl FnOnce(&mut Self)) {
        if is_readable {
            let result = panic::catch(|| host(self));
            if let Err(fault) = result {
                self.reply_fault(&fault);
            }
        } else {
            self.refuse_request("its arguments cannot be read");
        }
    }

    /// Replies that the call panicked.
    #[cold]
    pub(crate) fn reply_fault(&mut self, fault: &Fault) {
        self.reply(Kind::Fault, fault);
        // A message too long for a reply is cut as far as needed.
        if self.replied != Some(Kind::Fault) {
            let mut short = Fault::new(fault.message.clone(), fault.location.clone(), None);
            self.reply(Kind::Fault, &short);
            if self.replied != Some(Kind::Fault) {
                short.message.truncate(beginning(&short.message, SHORT).len());
                self.reply(Kind::Fault, &short);
            }
        }
    }

    /// Publishes what has been written in the slot. `mark` = bits for the call word.
    #[inline(always)]
    pub(crate) fn publish(&mut self, kind: Kind, mark: u64) {
        if self.turns.is_none() {
            return;
        }
        if self.slot.carries() {
            return self.publish_loaded(kind, mark);
        }
        let len = self.slot.len();
        self.slot.publish(kind, mark, Place::Slot(len));
    }

    #[cold]
    fn publish_loaded(&mut self, kind: Kind, mark: u64) {
        let SentReply { place, call, attachments } = self.slot.sent_slow(self.alloc);
        if let Some(turns) = self.turns {
            turns.source.publishing(self.slot.lane(), self.slot.position(), attachments);
        }
        failpoints::reach(Step::ChildReplyDeparted);
        self.slot.publish(kind, call | mark, place);
    }

    fn reply_small<R: Encode + Archive<Archived: Checked>>(&mut self, kind: Kind, value: &R) {
        // If there is no room even for this, the caller gets a frame without payload, which says as much.
        let _ = self.slot.write(value, self.alloc);
        self.replied = Some(kind);
    }
}

/// A request that generated code answers.
pub struct Incoming<'a, 'e> {
    pub(crate) exchange: &'a mut Exchange<'e>,
    /// The service's bridged traits, of a type that depends on it.
    pub(crate) traits: &'a dyn Any,
}

impl Incoming<'_, '_> {
    /// The method's number in its block.
    #[inline(always)]
    pub fn index(&self) -> u16 {
        (self.exchange.call & 0xffff) as u16
    }

    /// The number of the block: 0 = the type's own, else an index into the table of interfaces.
    pub fn interface(&self) -> u16 {
        (self.exchange.call >> 16 & 0xffff) as u16
    }

    /// Reads the request in place, runs the method, writes the reply: its value, or why it may not run.
    #[inline(always)]
    pub fn answer<A: Request, R: Transfer, E: Display>(self, body: impl FnOnce(&A::Archived) -> Result<R, E>) {
        let exchange = self.exchange;
        match readable::<A>(exchange.request, exchange.alloc.pool) {
            Ok((args, _need)) => {
                failpoints::reach(Step::ChildCalling);
                let value = body(args);
                failpoints::reach(Step::ChildReturned);
                exchange.reply_value(value);
            }
            Err(Failure) => exchange.refuse_request(UNREADABLE),
        }
    }

    /// Reads the request in place and runs a constructor.
    pub fn construct<A: Request, T>(self, body: impl FnOnce(&A::Archived) -> T) -> Option<T> {
        self.try_construct::<A, T, std::convert::Infallible>(|args| Ok(body(args)))
    }

    /// Reads the request in place and runs a constructor that may fail.
    pub fn try_construct<A: Request, T, E: Display>(
        self,
        body: impl FnOnce(&A::Archived) -> Result<T, E>,
    ) -> Option<T> {
        let exchange = self.exchange;
        let Ok((args, need)) = readable::<A>(exchange.request, exchange.alloc.pool) else {
            exchange.refuse_request(UNREADABLE);
            return None;
        };
        let built = body(args);
        drop(need);
        match built {
            Ok(service) => {
                failpoints::reach(Step::ChildConstructed);
                exchange.reply(Kind::Construct, &Ok::<(), String>(()));
                Some(service)
            }
            Err(error) => {
                let mut text = error.to_string();
                exchange.reply(Kind::Construct, &Err::<(), String>(text.clone()));
                // A text too long for a reply is cut: its beginning is worth more than its length.
                if exchange.replied != Some(Kind::Construct) {
                    text.truncate(beginning(&text, SHORT).len());
                    exchange.reply(Kind::Construct, &Err::<(), String>(text));
                }
                None
            }
        }
    }

    /// Replies that no method of this block has the call's number.
    #[cold]
    pub fn unknown(self) {
        let why = format!("the child has no method number {}", self.index());
        self.exchange.refuse(&why);
    }

    /// Including the time that other threads spent on sending.
    #[cold]
    pub fn unknown_constructor<T>(self) -> Option<T> {
        self.unknown();
        None
    }
}

/// The arguments in a request, in place, and what it takes to make them.
#[inline(always)]
pub(crate) fn readable<'a, A: Request>(
    request: RequestSpan<'a>,
    pool: &dyn PoolHandle,
) -> Result<(&'a A::Archived, Option<ForArguments>), Failure> {
    let (args, need) = request.read::<A>()?;
    Ok((args, need.of_arguments(|| pool.trusts_peer())?))
}

/// Bytes that fit into any reply.
pub const SHORT: usize = 400;

pub(crate) const UNREADABLE: &str = "the child cannot read the arguments: its types differ from the caller's";
