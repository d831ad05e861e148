//! How a method in the child calls back: the turns of a conversation on the lane of its call.
//!
//! ```text
//! parent                                     child
//! request p: the call ------------------->   carries it out
//!                     <-------------------   reply p: what the method asks (`Ask`)
//! runs the callback
//! request p + 1: the answer ------------->   the method goes on
//!                     <-------------------   reply p + 1: the next question, or the method's value
//! ```
//!
//! Each turn is a request and its reply like any other: the same words, the same order of stores, the same checks at the parent, and one question at a time.
//! Between a question and its answer the callback may call the service: those requests come before the answer, and are carried out within the method that
//! asks, with what that method has of the service. No other request comes on the lane meanwhile: its holder does not let go of it until the method's value is
//! there.
//!
//! `Unwind` instead of an answer, and an answer that has been withdrawn, end the method by a panic that no hook sees. Its reply is the last one.

#![forbid(unsafe_code)]

use crate::access::LentService;
use crate::child_memory::confused;
use crate::host::Traits;
use crate::service::{Exchange, Incoming, Service, UNREADABLE, readable};
use callgate_transport::commit::{Kind, Place};
use callgate_transport::decoder::Transfer;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::outgoing_frame::SendError;
use callgate_transport::request::{Request, RequestSpan};
use callgate_transport::segment::Block;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::panic::resume_unwind;

/// The lowest bit of a callback's number in the call word of a question.
pub(crate) const NUMBER_SHIFT: u32 = 1;

/// The payload of the panic that ends a method whose caller has given up.
struct Unwound;

impl Incoming<'_, '_> {
    /// Like [`answer`](Self::answer), for a method that calls back. Reads a copy of the request, whose slot may be used again before the method ends.
    pub fn converse<A: Request, R: Transfer, E: Display>(
        self,
        body: impl FnOnce(&A::Archived, Conversation<'_, '_>) -> Result<R, E>,
    ) {
        let Incoming { exchange, traits } = self;
        if exchange.turns.is_none() {
            return exchange.refuse("a service with async methods cannot call back");
        }
        let copy = exchange.request.to_private();
        exchange.request = RequestSpan::none();
        match readable::<A>(RequestSpan::copied(&copy), exchange.alloc.pool) {
            Ok((args, _need)) => {
                failpoints::reach(Step::ChildCalling);
                let value = body(args, Conversation { exchange, traits });
                failpoints::reach(Step::ChildReturned);
                exchange.reply_value(value);
            }
            Err(Failure) => exchange.refuse_request(UNREADABLE),
        }
    }
}

/// A call whose method calls back, before it has the service.
pub struct Conversation<'x, 'e> {
    exchange: &'x mut Exchange<'e>,
    traits: &'x dyn Any,
}

impl Conversation<'_, '_> {
    /// Runs the method. Calls that come from its callbacks get `service`; `None` = the method has it for itself.
    pub fn run<T: Service, R>(self, service: Option<&T>, method: impl FnOnce(&Asker<'_, '_>) -> R) -> R {
        let traits = self.traits.downcast_ref::<Traits<T>>();
        let within = |kind: Kind, exchange: &mut Exchange<'_>| match traits {
            Some(traits) => traits.carry_out_lent(LentService(service), kind, exchange),
            None => exchange.refuse("its dispatch is for another service"),
        };
        method(&Asker { exchange: RefCell::new(self.exchange), within: &within, is_over: Cell::new(false) })
    }
}

/// What a method's callbacks ask with.
pub struct Asker<'x, 'e> {
    exchange: RefCell<&'x mut Exchange<'e>>,
    /// Carries out a request that comes from a callback.
    within: &'x dyn Fn(Kind, &mut Exchange<'_>),
    /// The caller has given up.
    is_over: Cell<bool>,
}

impl Asker<'_, '_> {
    /// Has the caller run its callback `number`, and returns what that returns.
    ///
    /// # Panics
    ///
    /// If the caller has given up, with a payload of callgate's own; if the arguments cannot be sent.
    pub fn ask<A: Request, R: Transfer>(&self, number: u16, args: &A) -> R {
        let Ok(mut exchange) = self.exchange.try_borrow_mut() else {
            panic!("a callback was called while the arguments of one were being written");
        };
        if self.is_over.get() || exchange.turns.is_none() || exchange.slot.is_withdrawn_by_now() {
            drop(exchange);
            self.unwind();
        }
        let alloc = exchange.alloc;
        if let Err(error) = exchange.slot.write(args, alloc) {
            drop(exchange);
            panic!("a callback's arguments cannot be sent: {}", why(error));
        }
        failpoints::reach(Step::ChildAskWritten);
        exchange.publish(Kind::Ask, u64::from(number) << NUMBER_SHIFT);
        failpoints::reach(Step::ChildAsked);
        match exchange.await_answer(self.within) {
            Some(Ok(value)) => value,
            Some(Err(Failure)) => {
                drop(exchange);
                panic!("what a callback returned cannot be read: {UNREADABLE}");
            }
            None => {
                drop(exchange);
                self.unwind()
            }
        }
    }

    /// What takes its items from the caller's iterator `number`.
    pub fn items<T: Transfer>(&self, number: u16) -> impl Iterator<Item = T> {
        // An iterator that has ended is not asked again.
        std::iter::from_fn(move || self.ask::<_, Option<T>>(number, &())).fuse()
    }

    fn unwind(&self) -> ! {
        self.is_over.set(true);
        resume_unwind(Box::new(Unwound))
    }
}

fn why(error: SendError) -> String {
    match error {
        SendError::NoMemory(why) => why.to_string(),
        SendError::Encode | SendError::Beyond(_) => "they cannot be encoded".into(),
    }
}

impl Exchange<'_> {
    /// Waits for the answer, and carries out the requests that come before it. `None` = the caller has given up.
    fn await_answer<R: Transfer>(&mut self, within: &dyn Fn(Kind, &mut Exchange<'_>)) -> Option<Result<R, Failure>> {
        let Some(turns) = self.turns else { unreachable!("a task does not converse") };
        loop {
            let slot = &self.slot;
            turns.rest.wait_for(slot.caller_cpu(), || slot.is_ready() || turns.rest.is_ending());
            if !slot.is_ready() {
                // The parent has asked for the end, and answers nobody any more.
                self.turns = None;
                return None;
            }
            let (frame, is_withdrawn) = match slot.next() {
                Ok(Some(begun)) => begun,
                Ok(None) => continue,
                Err(what) => confused(what),
            };
            let block = match frame.commit.place {
                Place::Slot(_) => None,
                Place::Block(block) => Some(turns.source.block(block).unwrap_or_else(|what| confused(what))),
            };
            let span = block.as_ref().map_or(frame.payload, Block::span);
            let returned = self.alloc.pool.accept_returns(frame.call);
            let mut copy = AlignedVec::new();
            let request = turns.source.request(span, &mut copy);
            failpoints::reach(Step::ChildAnswerSeen);
            let answer = match frame.commit.kind {
                Kind::Answer if !is_withdrawn => Some(Some(request.and_then(RequestSpan::take))),
                Kind::Answer | Kind::Unwind => Some(None),
                kind => {
                    self.carry_out_within((kind, frame.call, is_withdrawn), request, within);
                    None
                }
            };
            self.alloc.pool.forget(returned);
            self.turns?;
            if let Some(answer) = answer {
                return answer;
            }
        }
    }

    /// Carries out a request that comes from a callback, and answers it.
    fn carry_out_within(
        &mut self,
        (kind, call, is_withdrawn): (Kind, u64, bool),
        request: Result<RequestSpan<'_>, Failure>,
        within: &dyn Fn(Kind, &mut Exchange<'_>),
    ) {
        let (alloc, turns, is_readable) = (self.alloc, self.turns, request.is_ok());
        let request = request.unwrap_or(RequestSpan::none());
        let slot = self.slot.within();
        let mut inner = Exchange { slot, alloc, request, call, replied: None, is_one_way: false, turns };
        match is_withdrawn {
            true => inner.replied = Some(Kind::Withdrawn),
            false => inner.carry_out(is_readable, |inner| within(kind, inner)),
        }
        let reply = inner.settled();
        inner.publish(reply, 0);
        let has_left = inner.turns.is_none();
        if has_left {
            self.turns = None;
        }
    }
}
