//! Ways of calling.
//!
//! # Many threads
//!
//! A [`Bridge`](crate::Bridge) is `Send + Sync`. Threads that call concurrently use different lanes of the shared memory
//! ([`Builder::concurrent_callers`](crate::Builder::concurrent_callers)). The service answers one call at a time. With
//! [`Builder::workers`](crate::Builder::workers), a service that is `Sync` answers several `&self` methods at once; `&mut self` methods run alone.
//!
//! # Calls that do not wait
//!
//! `bridge.begin().method(..)` sends the request and returns a [`Pending`](crate::Pending): wait for it, wait for a while, poll it, await it, cancel it, or
//! drop it. A lane carries [`Builder::pending_calls`](crate::Builder::pending_calls) of them. More are encoded and wait for room, up to
//! [`Builder::queue`](crate::Builder::queue); beyond, a call fails with [`CallError::Busy`](crate::CallError::Busy). Results are taken in any order, and
//! one that nobody takes holds up nothing.
//!
//! ```
//! use callgate::bridge;
//!
//! struct Squares;
//!
//! #[bridge]
//! impl Squares {
//!     pub fn new() -> Self {
//!         Squares
//!     }
//!     pub fn square(&self, n: u64) -> u64 {
//!         n * n
//!     }
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let squares = Squares::bridge().start()?;
//!     let (three, four) = (squares.begin().square(3), squares.begin().square(4));
//!     assert_eq!(three.wait()? + four.wait()?, 25);
//!     Ok(())
//! }
//! ```
//!
//! # Async
//!
//! [`Builder::start_async`](crate::Builder::start_async) gives an [`AsyncBridge`](crate::AsyncBridge), whose methods return futures;
//! [`Bridge::into_async`](crate::Bridge::into_async) and [`as_async`](crate::Bridge::as_async) make one of a bridge that runs. They work on any
//! executor: the watcher's thread, which every process with children has, wakes the tasks. With the feature `tokio`, a task that runs on tokio is woken by
//! its own runtime, with `async-io` any task by that crate's: a thread less on the way. A timeout needs no timer of the runtime's. Threads and tasks may
//! share a bridge.
//!
//! # Async methods
//!
//! A type with an `async fn` in any bridged block, or a method that returns `impl Future`, has its calls run as tasks of the child's workers. They
//! interleave, on one worker too: a method that awaits holds up no other call. A method with `&mut self` runs alone, from its first step to its last, and
//! in its turn. Callers call all methods alike, blocking or not. Such a service cannot return iterators, or call back: both need their lane's calls in
//! order.
//!
//! A trait with async methods is implemented by the `AsyncBridge`, with its signatures, so that generic code takes a local value or one in a child. All of
//! its methods with `self` must be async then.
//!
//! ```
//! use callgate::bridge;
//!
//! trait Store {
//!     async fn get(&self, key: u64) -> Option<String>;
//! }
//!
//! struct Disk;
//!
//! #[bridge]
//! impl Disk {
//!     pub fn new() -> Self {
//!         Disk
//!     }
//! }
//!
//! #[bridge]
//! impl Store for Disk {
//!     async fn get(&self, key: u64) -> Option<String> {
//!         (key == 1).then(|| "one".to_owned()) // or awaits whatever it needs
//!     }
//! }
//!
//! async fn first(store: impl Store) -> Option<String> {
//!     store.get(1).await
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let disk = Disk::bridge().start()?.into_async();
//!     assert_eq!(pollster::block_on(first(disk)).as_deref(), Some("one"));
//!     Ok(())
//! }
//! ```
//!
//! With the feature `tokio`, methods find a runtime in the child, with timers and I/O. It has one thread, and runs what methods spawn; the methods
//! themselves run on the workers, so they need not be `Send`, and cannot use `spawn_local`. Without it, methods await whatever needs no runtime.
//!
//! A call that times out, is cancelled or dropped has its task dropped where it waits. In a method, [`call::deadline`](crate::call::deadline) and the like
//! are right after every `await`; in tasks that it spawns they know of no call. One slot of each lane is kept for cancelling.
//!
//! # Calls without results
//!
//! `bridge.send().method(..)` returns when the request is written; the child drops the result. The one-way calls of a thread and its calls after them are
//! carried out in their order. [`Bridge::flush`](crate::Bridge::flush) waits for them, and returns the first failure since the last flush.
//!
//! # Methods that call back
//!
//! An argument may be a callback, `&mut dyn FnMut(..) -> R` or `&dyn Fn(..) -> R`, or an iterator, `impl Iterator<Item = T>`. It stays with the caller:
//! each time the method calls it, or takes an item, the child asks and waits for the answer. The callback runs on the thread that makes the call, so it may
//! borrow whatever that thread has, and need not be `Send`. What it is called with and what it returns cross like arguments and results.
//!
//! ```
//! use callgate::bridge;
//!
//! struct Book {
//!     lines: Vec<String>,
//! }
//!
//! #[bridge]
//! impl Book {
//!     pub fn new() -> Self {
//!         Book { lines: Vec::new() }
//!     }
//!     pub fn append(&mut self, lines: impl Iterator<Item = String>) {
//!         self.lines.extend(lines)
//!     }
//!     /// Returns how many lines it has shown: `show` may end it.
//!     pub fn show(&self, show: &mut dyn FnMut(usize, &str) -> bool) -> usize {
//!         self.lines.iter().enumerate().take_while(|(number, line)| show(*number, line)).count()
//!     }
//!     pub fn len(&self) -> usize {
//!         self.lines.len()
//!     }
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let book = Book::bridge().start()?;
//!     book.append((1..=30).map(|n| format!("line {n}")))?;
//!     let mut last = String::new();
//!     let shown = book.show(&mut |number, line| {
//!         last = format!("{line} of {}", book.len().expect("the child lives")); // calls the same bridge
//!         number < 7
//!     })?;
//!     assert_eq!((shown, &*last), (7, "line 8 of 30"));
//!
//!     let mut refused = None;
//!     book.show(&mut |_, _| {
//!         refused = book.append(["more".to_owned()].into_iter()).err(); // `show` has the book
//!         false
//!     })?;
//!     assert!(refused.is_some_and(|error| error.to_string().contains("`&mut self`")));
//!     Ok(())
//! }
//! ```
//!
//! - **Calls of the same bridge.** While the method has `&self`, its callback may call methods with `&self` or without a receiver. While it has `&mut self`,
//!   only those without. Others fail at once. So does what would wait for the callback itself ([`CallError::TooNested`](crate::CallError::TooNested)):
//!   one-way calls, [`flush`](crate::Bridge::flush), streams, and the wait for a call that began earlier. Callbacks within callbacks go 64 levels deep.
//! - **Panics.** A panic in the callback unwinds the method in the child, and then goes on in the caller. The child lives on,
//!   unless it is built with `panic = "abort"`.
//! - **Timeouts.** The callback's time counts as the call's, and calls that it makes have no more than is left. A call that is too late returns when its
//!   callback does; its method is unwound where it calls back next.
//! - **Restarts.** A call is not made again once one of its callbacks has run.
//! - **Async.** `begin()` and an [`AsyncBridge`](crate::AsyncBridge) give a [`Conversing`](crate::types::Conversing), which borrows what the callbacks
//!   borrow. They run when it is polled, or in its `wait()`, and should not block; they are no `async` functions themselves. Until
//!   then its method waits, and so do calls to the same worker: poll them together (`join!`), or have more [`workers`](crate::Builder::workers). If it is dropped, the method is
//!   unwound where it calls back next.
//! - **Not** in constructors, in methods that return an iterator, or in services with async methods. Not through [`send`](crate::Bridge::send), after which
//!   nobody waits to run them.
//!
//! The example `progress` cancels a method that reports each step.
//!
//! # Streams
//!
//! A method of the type's own block may return `impl Iterator<Item = T>`. Its caller gets [`Items`](crate::Items), an iterator of
//! `Result<T, CallError>`, or from an [`AsyncBridge`](crate::AsyncBridge), once awaited, an [`ItemStream`](crate::ItemStream), which is a
//! `futures_core::Stream`. The iterator stays in the child, on the worker that opened it, and need not be `Send`. It makes an item when it is asked for one;
//! at most 16 are asked for ahead. Dropping the stream drops the iterator. It may borrow the service and its arguments:
//!
//! | open | `&self` | `&mut self` | no receiver |
//! |---|---|---|---|
//! | a stream of a `&self` method | runs | [refused](crate::CallError::Refused) | runs |
//! | a stream of a `&mut self` method | refused | refused | runs |
//! | a stream that captures no lifetime (`+ use<>`, `+ 'static`) | runs | runs | runs |
//!
//! A call that waits, made after a stream was dropped, finds the service free. With several workers, one that does not wait may still be refused. The other
//! methods of a type whose streams borrow it pay for one more private lock and check.
//!
//! A method that may fail gives its errors as items, `impl Iterator<Item = Result<T, E>>`, so each item that the caller takes is a
//! `Result<Result<T, E>, CallError>`. The example `lines` searches a file so.
//!
//! # Timeouts and cancellation
//!
//! [`Builder::timeout`](crate::Builder::timeout) sets a timeout for all calls, `bridge.with_timeout(..)` for some. A call that times out returns
//! [`CallError::TimedOut`](crate::CallError::TimedOut), and is withdrawn like one that is [cancelled](crate::Pending::cancel) or dropped: if it has not
//! started, it never runs, and the error says so ([`Started::No`](crate::error::Started::No)). One that runs goes on, and its late answer is dropped. Its
//! method may ask [`call::is_cancelled`](crate::call::is_cancelled) and [`call::deadline`](crate::call::deadline); calls that it makes to other bridges
//! have no more time than it has. [`Builder::kill_after`](crate::Builder::kill_after) ends a child that does not come back, and so does
//! [`Restart::on_failure`](super::children#restarts).
//!
//! # Results read in place
//!
//! `bridge.view().method(..)` returns a [`View`](crate::View) of the result's archive: a private, validated copy, from which nothing is built that is not
//! looked at. The result's archive must be [`Viewable`](crate::Viewable); derive it on your types with `#[rkyv(derive(callgate::Viewable))]`. Maps and
//! sets are not viewable, and the compiler says so.
//!
//! # Waiting
//!
//! Both sides poll for up to 50 µs and then sleep. They sleep at once if waits usually take longer, or if both run on one CPU. An idle bridge uses no CPU.
//! [`Builder::wait`](crate::Builder::wait) chooses another policy.
//!
//! # An epoll loop of your own
//!
//! A [`Bridge`](crate::Bridge#a-loop-of-your-own) is a descriptor (`AsFd`) that becomes readable when a pending call may have a result. It works with every
//! option, restarts and timeouts too.
//!
//! # Tests and benches
//!
//! Their harness owns `main`. [`test_support!`](crate::test_support) at the top of the file takes the place of `#[callgate::main]`.
