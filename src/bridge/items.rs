//! Streams: what a method that returns `impl Iterator` gives its caller.

#![forbid(unsafe_code)]

use super::reactor;
use callgate_engine::caller::StreamCall;
use callgate_transport::decoder::Transfer;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::CallError;
use futures_core::Stream;
use futures_core::stream::FusedStream;
use std::fmt;
use std::iter::FusedIterator;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The items of an iterator that a method has returned. The iterator stays in the child, which makes an item when it is asked for one.
///
/// At most 16 items are asked for ahead, fewer at first, and each crosses as soon as it is made. So the child runs at most that far ahead of a slow
/// consumer, and an item never waits for the next. Between items the child carries out other calls: two streams of one bridge may be zipped, and a loop
/// over one may call the bridge. The bridge's timeout holds for each item that is waited for.
///
/// After an error there are no more items: if the iterator panicked, if the child died, if an item was too late or too large. The stream belongs to the
/// child that it comes from; a [restart](crate::Builder::restart) does not go on with it.
///
/// Dropping it drops the iterator in the child, at its next item, and does not wait for that.
///
/// # What a stream borrows
///
/// An iterator may borrow the service and the arguments, as it may without a bridge. While one of a `&self` method lives, methods with `&self` run as
/// usual, and one with `&mut self` fails with [`CallError::Refused`], which names the method whose stream is in the way. While one of a `&mut self` method
/// lives, so does every method with a receiver. An iterator that captures no lifetime (`+ use<>` or `+ 'static`) borrows nothing.
///
/// # Examples
///
/// ```
/// # use callgate::bridge;
/// struct Book { lines: Vec<String> }
///
/// #[bridge]
/// impl Book {
///     pub fn new(text: &str) -> Self { Book { lines: text.lines().map(String::from).collect() } }
///     pub fn with(&self, word: &str) -> impl Iterator<Item = usize> {
///         (1..).zip(&self.lines).filter(move |(_, line)| line.contains(word)).map(|(number, _)| number)
///     }
///     pub fn line(&self, number: usize) -> String { self.lines[number - 1].clone() }
/// }
///
/// #[callgate::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let book = Book::bridge("one\ntwo\nthree\nfour").start()?;
///     for number in book.with("o")? {
///         println!("{}", book.line(number?)?); // the stream lives, and the bridge is called
///     }
///     assert_eq!(book.with("o")?.collect::<Result<Vec<_>, _>>()?, [1, 2, 4]);
///     Ok(())
/// }
/// ```
#[must_use = "the child makes no item before it is asked for one"]
pub struct Items<T: Transfer> {
    call: StreamCall<T>,
    timeout: Option<Duration>,
}

impl<T: Transfer> Items<T> {
    /// Waits until the stream is open.
    pub(super) fn open(mut call: StreamCall<T>, timeout: Option<Duration>) -> Result<Self, CallError> {
        match call.wait_opened(Deadline::NEVER) {
            Some(opened) => opened.map(|()| Self { call, timeout }),
            None => unreachable!("a wait without an end ends with the outcome"),
        }
    }
}

impl<T: Transfer> Iterator for Items<T> {
    type Item = Result<T, CallError>;

    fn next(&mut self) -> Option<Result<T, CallError>> {
        self.call.next(self.timeout)
    }
}

impl<T: Transfer> FusedIterator for Items<T> {}

impl<T: Transfer> fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").field("method", &self.call.method().name).finish_non_exhaustive()
    }
}

/// [`Items`] for a task: a [`futures_core::Stream`]. What is said there holds here, too.
///
/// # Examples
///
/// ```
/// # use callgate::bridge;
/// # struct Numbers;
/// # #[bridge]
/// # impl Numbers {
/// #     pub fn new() -> Self { Numbers }
/// #     pub fn below(&self, n: u64) -> impl Iterator<Item = u64> { 0..n }
/// # }
/// async fn sum() -> Result<u64, Box<dyn std::error::Error>> {
///     use futures_util::TryStreamExt;
///     let numbers = Numbers::bridge().start_async().await?;
///     let stream = numbers.below(10).await?;
///     Ok(stream.try_fold(0, |sum, n| async move { Ok(sum + n) }).await?)
/// }
/// # #[callgate::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # assert_eq!(pollster::block_on(sum())?, 45);
/// # Ok(())
/// # }
/// ```
#[must_use = "the child makes no item before it is asked for one"]
pub struct ItemStream<T: Transfer>(Items<T>);

impl<T: Transfer> ItemStream<T> {
    /// The same items, for a thread.
    pub fn into_items(self) -> Items<T> {
        self.0
    }
}

/// Nothing in it is pinned: items are moved out.
impl<T: Transfer> Unpin for ItemStream<T> {}

impl<T: Transfer> Stream for ItemStream<T> {
    type Item = Result<T, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T, CallError>>> {
        let Items { call, timeout } = &mut self.0;
        let item = call.poll_next(context.waker(), *timeout);
        if item.is_pending() {
            reactor::attend(call.caller());
        }
        item
    }
}

impl<T: Transfer> FusedStream for ItemStream<T> {
    fn is_terminated(&self) -> bool {
        self.0.call.is_over()
    }
}

impl<T: Transfer> fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream").field("method", &self.0.call.method().name).finish_non_exhaustive()
    }
}

/// A stream that is being opened, in the mode of [`Bridge::begin`](crate::Bridge::begin): a task awaits its [`ItemStream`], a thread
/// [waits](Self::wait) for its [`Items`]. If it is dropped, so is the iterator, if there is one already.
#[must_use = "the stream is closed with it"]
pub struct Opening<T: Transfer> {
    call: Option<StreamCall<T>>,
    timeout: Option<Duration>,
}

impl<T: Transfer> Opening<T> {
    pub(super) fn new(call: StreamCall<T>, timeout: Option<Duration>) -> Self {
        Self { call: Some(call), timeout }
    }

    /// Waits until the stream is open.
    ///
    /// # Errors
    ///
    /// Those of the call, see [`CallError`].
    ///
    /// # Panics
    ///
    /// If it has been awaited to its end.
    pub fn wait(self) -> Result<Items<T>, CallError> {
        Items::open(self.call.unwrap_or_else(|| taken()), self.timeout)
    }

    fn poll_opened(&mut self, waker: &Waker) -> Poll<Result<ItemStream<T>, CallError>> {
        let call = self.call.as_mut().unwrap_or_else(|| taken());
        let Some(opened) = call.poll_opened(Some(waker)) else {
            reactor::attend(call.caller());
            return Poll::Pending;
        };
        let call = self.call.take().unwrap_or_else(|| taken());
        Poll::Ready(opened.map(|()| ItemStream(Items { call, timeout: self.timeout })))
    }
}

#[cold]
fn taken() -> ! {
    panic!("a stream is opened once")
}

/// As the stream.
impl<T: Transfer> Unpin for Opening<T> {}

impl<T: Transfer> Future for Opening<T> {
    type Output = Result<ItemStream<T>, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_opened(context.waker())
    }
}

impl<T: Transfer> fmt::Debug for Opening<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").finish_non_exhaustive()
    }
}
