//! Streams as the callee has them: iterators that methods have returned, which are asked for one item at a time.
//!
//! A stream stays with the worker that opened it, so an iterator need not be `Send`: its caller sends every request for it on the lane that opened it.
//! A request is a call of the interface [`STREAMS`] with the stream's number, which its caller has chosen. Items are made only when they are asked for.

#![forbid(unsafe_code)]

use crate::access::{Access, NO_SERVICE};
use crate::panic;
use crate::service::{Exchange, Incoming, Service, UNREADABLE};
use crate::stream_cell::StreamCell;
use crate::streamed_service::{ExclusiveLoan, SharedLoan, StreamedService};
use callgate_transport::bounds::MAX_STREAMS;
use callgate_transport::commit::{ALIGN, Kind};
use callgate_transport::decoder::Transfer;
use callgate_transport::error::CallName;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::reading::ForArguments;
use callgate_transport::request::{Request, RequestSpan};
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// The number of the interface that asks for items. No trait has it.
const STREAMS: u64 = 0xffff;

/// The call word that asks a stream for its next item: the reply is `Some` of it, or `None` at the end.
pub(crate) const PULL: u64 = STREAMS << 16;

/// The call word that drops a stream.
pub(crate) const CLOSE: u64 = PULL | 1;

/// An iterator, as it is returned by generated code.
pub type BoxedIterator<'a, T> = Box<dyn Iterator<Item = T> + 'a>;

/// An open stream, whatever its items are.
trait Pull {
    /// Replies with the next item. Returns whether there may be more.
    fn pull(&mut self, exchange: &mut Exchange<'_>) -> bool;
}

/// An open stream of `T`.
struct OpenStream<O, T> {
    /// An item for which there was no memory. Dropped before the iterator.
    unsent: Option<T>,
    cell: StreamCell<O, T>,
}

impl<O: 'static, T: Transfer> OpenStream<O, T> {
    fn boxed(cell: StreamCell<O, T>) -> Box<dyn Pull> {
        Box::new(Self { unsent: None, cell })
    }
}

impl<O, T: Transfer> Pull for OpenStream<O, T> {
    fn pull(&mut self, exchange: &mut Exchange<'_>) -> bool {
        let item = self.unsent.take().or_else(|| self.cell.next());
        exchange.reply(Kind::Call, &item);
        if exchange.replied == Some(Kind::Exhausted) {
            // Items before it may have the memory: a later request gets it, in its turn.
            self.unsent = item;
            return true;
        }
        // An item that cannot be sent at all ends the stream, too.
        item.is_some() && exchange.replied == Some(Kind::Call)
    }
}

/// The open streams of one worker, by their numbers. A stream that is being asked has left its place.
type OpenTable = BTreeMap<u64, Option<Box<dyn Pull>>>;

thread_local! {
    /// Never dropped with its thread: a process that exits early does not run the user's destructors.
    static OPEN: ManuallyDrop<RefCell<OpenTable>> = const { ManuallyDrop::new(RefCell::new(OpenTable::new())) };
}

/// Answers a request for a stream of this worker's.
#[inline(never)]
pub(crate) fn serve(call: Incoming<'_, '_>) {
    if u64::from(call.interface()) != STREAMS {
        return call.unknown();
    }
    let (is_close, exchange) = (call.index() == (CLOSE & 0xffff) as u16, call.exchange);
    let Ok(number) = exchange.request.read::<u64>().map(|(number, _)| number.to_native()) else {
        return exchange.refuse(UNREADABLE);
    };
    if is_close { close(number, exchange) } else { pull(number, exchange) }
}

fn pull(number: u64, exchange: &mut Exchange<'_>) {
    let Some(mut stream) = OPEN.with(|open| open.borrow_mut().get_mut(&number)?.take()) else {
        return exchange.refuse("the stream has ended");
    };
    match panic::catch(|| stream.pull(exchange)) {
        Ok(true) => put_back(number, stream),
        Ok(false) => {
            forget(number);
            // A panic here becomes the reply, as one in a value's destructor does.
            drop(stream);
        }
        Err(fault) => {
            forget(number);
            // One panic is reported. A second one must not end the process.
            let _ = panic::catch(|| drop(stream));
            exchange.reply_fault(&fault);
        }
    }
}

fn put_back(number: u64, stream: Box<dyn Pull>) {
    // If its place has gone meanwhile, it is dropped, but not while the table is borrowed.
    let mut stream = Some(stream);
    OPEN.with(|open| {
        if let Some(place) = open.borrow_mut().get_mut(&number) {
            *place = stream.take();
        }
    });
    drop(stream);
}

fn forget(number: u64) -> Option<Box<dyn Pull>> {
    OPEN.with(|open| open.borrow_mut().remove(&number)).flatten()
}

fn close(number: u64, exchange: &mut Exchange<'_>) {
    exchange.reply(Kind::Call, &());
    drop(forget(number));
}

/// Drops the streams of this worker, which ends.
pub(crate) fn drop_all() {
    while let Some((_, stream)) = OPEN.with(|open| open.borrow_mut().pop_first()) {
        let _ = panic::catch(|| drop(stream));
    }
}

/// What an iterator may borrow: its arguments, in private memory, and the service.
struct StreamOwner<H, L> {
    /// The copy of the request.
    request: AlignedVec<ALIGN>,
    /// What was made from it to be lent to the method.
    held: Option<H>,
    loan: L,
}

/// Why a stream is not opened.
enum NotOpened {
    Unreadable,
    Refused(String),
}

impl From<Failure> for NotOpened {
    fn from(_: Failure) -> Self {
        NotOpened::Unreadable
    }
}

impl NotOpened {
    fn refused(why: impl Display) -> Self {
        NotOpened::Refused(why.to_string())
    }
}

/// What lends a stream the service: its own access to it, and the name of its method.
fn lend<S: Service, L, E: Display>(
    access: impl Access<S>,
    name: &'static str,
    lend: impl FnOnce(&Arc<StreamedService<S>>, CallName) -> Result<Option<L>, E>,
) -> Result<L, NotOpened> {
    let service = access.lender().ok_or_else(|| NotOpened::refused("this service lends nothing to streams"))?;
    let loan = lend(&service, CallName { service: S::NAME, method: name }).map_err(NotOpened::refused)?;
    loan.ok_or_else(|| NotOpened::refused(NO_SERVICE))
}

impl Incoming<'_, '_> {
    /// Opens a stream that borrows no service. `split` makes the arguments: those that are moved into the method, and those that it borrows.
    pub fn open<A: Request<Archived: 'static>, T: Transfer, V, H: 'static>(
        self,
        split: impl FnOnce(&A::Archived) -> (V, H),
        method: impl for<'a> FnOnce(&'a A::Archived, V, &'a H) -> BoxedIterator<'a, T>,
    ) {
        self.open_on::<A, T, V, H, ()>(|| Ok(()), split, |(), args, values, held| method(args, values, held));
    }

    /// Opens a stream of the method `name` with `&self`.
    pub fn open_shared<A: Request<Archived: 'static>, T: Transfer, S: Service, V, H: 'static>(
        self,
        access: impl Access<S>,
        name: &'static str,
        split: impl FnOnce(&A::Archived) -> (V, H),
        method: impl for<'a> FnOnce(&'a S, &'a A::Archived, V, &'a H) -> BoxedIterator<'a, T>,
    ) {
        let lend = || lend(access, name, StreamedService::lend);
        self.open_on::<A, T, V, H, SharedLoan<S>>(lend, split, |loan, args, values, held| {
            method(loan.get(), args, values, held)
        });
    }

    /// Opens a stream of the method `name` with `&mut self`.
    pub fn open_exclusive<A: Request<Archived: 'static>, T: Transfer, S: Service, V, H: 'static>(
        self,
        access: impl Access<S>,
        name: &'static str,
        split: impl FnOnce(&A::Archived) -> (V, H),
        method: impl for<'a> FnOnce(&'a mut S, &'a A::Archived, V, &'a H) -> BoxedIterator<'a, T>,
    ) {
        let lend = || lend(access, name, StreamedService::lend_mut);
        self.open_on::<A, T, V, H, ExclusiveLoan<S>>(lend, split, |loan, args, values, held| {
            method(loan.get(), args, values, held)
        });
    }

    /// Opens a stream that borrows nothing, although its method does.
    pub fn open_owned<A: Request, T: Transfer, E: Display>(
        self,
        method: impl FnOnce(&A::Archived) -> Result<BoxedIterator<'static, T>, E>,
    ) {
        self.enter(|request, trusts| {
            let OpeningRequest { number, args, _need } = OpeningRequest::<A>::read(request, trusts)?;
            let iterator = method(args).map_err(NotOpened::refused)?;
            Ok((number, OpenStream::boxed(StreamCell::new((), |()| Ok::<_, NotOpened>(iterator))?)))
        });
    }

    fn open_on<A: Request<Archived: 'static>, T: Transfer, V, H: 'static, L: 'static>(
        self,
        lend: impl FnOnce() -> Result<L, NotOpened>,
        split: impl FnOnce(&A::Archived) -> (V, H),
        method: impl for<'a> FnOnce(&'a mut L, &'a A::Archived, V, &'a H) -> BoxedIterator<'a, T>,
    ) {
        self.enter(|request, trusts| {
            let (kept, mut opened) = (StreamOwner { request: request.to_private(), held: None, loan: lend()? }, 0);
            let cell = StreamCell::new(kept, |StreamOwner { request, held, loan }| {
                let OpeningRequest { number, args, _need } =
                    OpeningRequest::<A>::read(RequestSpan::copied(request), trusts)?;
                opened = number;
                let (values, to_hold) = split(args);
                drop(_need);
                Ok::<_, NotOpened>(method(loan, args, values, held.insert(to_hold)))
            })?;
            Ok((opened, OpenStream::boxed(cell)))
        });
    }

    /// Enters into the table what `make` makes from the request, and replies.
    fn enter(self, make: impl FnOnce(RequestSpan<'_>, bool) -> Result<(u64, Box<dyn Pull>), NotOpened>) {
        let exchange = self.exchange;
        if OPEN.with(|open| open.borrow().len()) >= MAX_STREAMS {
            return exchange.refuse(&format!("{MAX_STREAMS} streams are open: finish or drop one first"));
        }
        failpoints::reach(Step::ChildCalling);
        let made = make(exchange.request, exchange.pool.trusts_peer());
        failpoints::reach(Step::ChildReturned);
        match made {
            Ok((number, stream)) => {
                // The number is the caller's to choose. One that it has used before loses the older stream.
                let old = OPEN.with(|open| open.borrow_mut().insert(number, Some(stream)));
                exchange.reply(Kind::Call, &());
                drop(old);
            }
            Err(NotOpened::Unreadable) => exchange.refuse_request(UNREADABLE),
            Err(NotOpened::Refused(why)) => exchange.refuse(&why),
        }
    }
}

/// The request that opens a stream: its number, and the arguments of the method.
struct OpeningRequest<'a, A: Request> {
    number: u64,
    args: &'a A::Archived,
    _need: Option<ForArguments>,
}

impl<'a, A: Request> OpeningRequest<'a, A> {
    fn read(request: RequestSpan<'a>, trusts: bool) -> Result<Self, Failure> {
        let (archived, need) = request.read::<(u64, A)>()?;
        Ok(Self { number: archived.0.to_native(), args: &archived.1, _need: need.of_arguments(|| trusts)? })
    }
}
