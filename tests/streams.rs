//! What streams promise: items come in order and one by one, a consumer and a producer of any pace are bounded, a dropped stream ends its producer, and no
//! method meets a service that a stream has.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::rkyv::{Archive, Deserialize, Serialize};
use callgate::{Bridge, CallError, Exit, Restart, SharedBox, Started, bridge};
use futures_util::{StreamExt, TryStreamExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{Gate, within};

callgate::test_support!();

/// The most items that a stream asks for ahead.
const AHEAD: u64 = 16;

/// Items that this child has made, and iterators that it has dropped.
static MADE: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicU64 = AtomicU64::new(0);

/// Counts the numbers that it gives, its beginning and its end.
struct Counted(std::ops::Range<u64>);

impl Counted {
    fn below(end: u64) -> Self {
        STARTED.fetch_add(1, Ordering::SeqCst);
        Counted(0..end)
    }
}

impl Iterator for Counted {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let number = self.0.next()?;
        MADE.fetch_add(1, Ordering::SeqCst);
        Some(number)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

/// Fails when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped")
    }
}

/// Fails when it is dropped outside of the process that made it.
#[derive(Archive, Serialize, Deserialize)]
pub struct Charge {
    home: u32,
}

impl Drop for Charge {
    fn drop(&mut self) {
        assert!(self.home == std::process::id() || std::thread::panicking(), "dropped abroad");
    }
}

struct Source {
    words: Vec<String>,
    is_gone: bool,
}

#[bridge]
impl Source {
    pub fn new() -> Self {
        Source { words: ["one", "two", "three", "four"].map(String::from).to_vec(), is_gone: false }
    }

    pub fn below(&self, end: u64) -> impl Iterator<Item = u64> {
        Counted::below(end)
    }

    /// `(made, dropped)`
    pub fn counts(&self) -> (u64, u64) {
        assert!(!self.is_gone);
        (MADE.load(Ordering::SeqCst), DROPPED.load(Ordering::SeqCst))
    }

    /// Iterators that count and have not been dropped.
    pub fn alive(&self) -> u64 {
        STARTED.load(Ordering::SeqCst) - DROPPED.load(Ordering::SeqCst)
    }

    pub fn word(&self, index: usize) -> String {
        self.words[index].clone()
    }

    pub fn push(&mut self, word: &str) -> usize {
        self.words.push(word.into());
        self.words.len()
    }

    /// Borrows the service and its argument.
    pub fn containing<'a>(&'a self, part: &'a str) -> impl Iterator<Item = String> {
        self.words.iter().filter(move |word| word.contains(part)).cloned()
    }

    /// Borrows all that it can in every way in which arguments come.
    #[allow(clippy::ptr_arg)]
    pub fn sums(&self, a: &Vec<u64>, b: &[String], c: &[u64], d: u64, e: String) -> impl Iterator<Item = String> {
        a.iter().zip(b).zip(c).map(move |((a, b), c)| format!("{e}{b}{}{}", a + c + d, self.words[0]))
    }

    pub fn drain(&mut self) -> impl Iterator<Item = String> {
        self.words.drain(..)
    }

    pub fn numbers_mut(&mut self) -> impl Iterator<Item = u64> {
        0..
    }

    /// Borrows nothing, and says so.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + use<> {
        self.words.iter().map(String::len).collect::<Vec<_>>().into_iter()
    }

    pub fn lasting(&mut self, count: &u64) -> impl Iterator<Item = u64> + 'static {
        0..*count
    }

    /// Has no receiver.
    pub fn letters(text: &str) -> impl Iterator<Item = char> {
        text.chars()
    }

    pub fn pid() -> u32 {
        std::process::id()
    }

    pub fn tell(&mut self, tell: &mut dyn FnMut(&str)) {
        self.words.iter().for_each(|word| tell(word));
    }

    /// Calls back, and has no receiver.
    pub fn told(text: &str, tell: &mut dyn FnMut(&str)) -> usize {
        tell(text);
        text.len()
    }

    pub fn charges(&self) -> impl Iterator<Item = Charge> {
        std::iter::repeat_with(|| Charge { home: std::process::id() })
    }

    /// `count` numbers, then a wait for the gate before the next.
    pub fn gated(&self, gate: String, count: u64) -> impl Iterator<Item = u64> {
        (0..).inspect(move |number| {
            if *number == count {
                Gate::pass(&gate);
            }
        })
    }

    pub fn failing(&self, at: u64) -> impl Iterator<Item = u64> {
        let counted = Counted::below(u64::MAX);
        counted.inspect(move |number| assert!(*number != at, "number {number}"))
    }

    /// Fails when it is dropped, and before that if it gets to `at`.
    pub fn bomb(&self, at: u64) -> impl Iterator<Item = u64> {
        let bomb = Bomb;
        (0..10).inspect(move |number| {
            let _ = &bomb;
            assert!(*number != at, "number {number}");
        })
    }

    pub fn not_opened(&self, count: u64) -> impl Iterator<Item = u64> {
        assert!(count == 0, "not opened");
        0..count
    }

    pub fn exiting(&self, at: u64) -> impl Iterator<Item = u64> {
        (0..).inspect(move |number| {
            if *number == at {
                std::process::exit(3)
            }
        })
    }

    pub fn texts(&self, len: usize) -> impl Iterator<Item = String> {
        (b'a'..=b'h').map(move |letter| char::from(letter).to_string().repeat(len))
    }

    pub fn boxes(&self, len: usize) -> impl Iterator<Item = SharedBox<[u8]>> {
        (0..20u8).map(move |byte| SharedBox::copied(&vec![byte; len]).expect("memory"))
    }

    pub fn vectors(&self, len: usize) -> impl Iterator<Item = Vec<u8>> {
        (0..20).map(move |byte| vec![byte; len])
    }

    pub fn pairs(&self) -> impl Iterator<Item = Result<u8, String>> {
        [Ok(1), Err("two".into()), Ok(3)].into_iter()
    }
}

trait Appended {
    fn append(&mut self, word: &str) -> usize;
}

#[bridge]
impl Appended for Source {
    #[bridge(rename = "append_word")]
    fn append(&mut self, word: &str) -> usize {
        self.push(word)
    }
}

/// Leaves word whether it was still there for its streams.
impl Drop for Source {
    fn drop(&mut self) {
        self.is_gone = true;
    }
}

fn start() -> Bridge<Source> {
    Source::bridge().start().expect("the bridge starts")
}

fn all<T: callgate::Transfer>(items: Result<callgate::Items<T>, CallError>) -> Vec<T> {
    items.and_then(Iterator::collect).expect("every item comes")
}

/// The refusal's words.
fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    match result {
        Err(CallError::Refused { why, .. }) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn items_come_in_order_and_end_for_good() {
    within(60, "items_come_in_order_and_end_for_good", || {
        let source = start();
        for count in [0, 1, 2, 15, 16, 17, 3000] {
            assert_eq!(all(source.below(count)), (0..count).collect::<Vec<_>>());
        }
        let mut items = source.below(1).unwrap();
        assert_eq!([items.next(), items.next(), items.next()], [Some(Ok(0)), None, None]);
        assert_eq!(all(source.pairs()), [Ok(1), Err("two".into()), Ok(3)]);
        assert_eq!(all(source.view().below(3)), [0, 1, 2]);
        assert_eq!(source.begin().below(3).wait().and_then(Iterator::collect), Ok(vec![0, 1, 2]));
    });
}

#[test]
fn an_iterator_may_borrow_its_arguments_and_the_service() {
    within(60, "an_iterator_may_borrow_its_arguments_and_the_service", || {
        let source = start();
        assert_eq!(all(source.containing("o")), ["one", "two", "four"]);
        let (a, b) = (vec![1, 2], ["x".to_owned(), "y".to_owned()]);
        assert_eq!(all(source.sums(&a, &b, &[10, 20], 100, "-".into())), ["-x111one", "-y122one"]);
        assert_eq!(all(source.letters("abc")), ['a', 'b', 'c']);
        // A request of the same lane and memory comes between.
        let part = "o".repeat(100_000);
        let mut items = source.letters(&part).unwrap();
        for _ in 0..200 {
            assert_eq!(items.next(), Some(Ok('o')));
            assert!(source.push(&"z".repeat(100_000)).is_ok());
        }
    });
}

#[test]
fn two_streams_of_one_bridge_are_zipped_and_the_bridge_is_called_between_items() {
    within(60, "two_streams_of_one_bridge_are_zipped_and_the_bridge_is_called_between_items", || {
        let source = start();
        let zipped = source.below(500).unwrap().zip(source.containing("").unwrap().cycle_of(&source));
        for (index, (number, word)) in zipped.enumerate() {
            let (number, word) = (number.unwrap(), word.unwrap());
            assert_eq!((number, word), (index as u64, source.word(index % 4).unwrap()));
        }
    });
}

/// An endless repetition of a stream, opened again at each end.
trait CycleOf: Sized {
    fn cycle_of(self, source: &Bridge<Source>) -> impl Iterator<Item = Result<String, CallError>>;
}

impl CycleOf for callgate::Items<String> {
    fn cycle_of(self, source: &Bridge<Source>) -> impl Iterator<Item = Result<String, CallError>> {
        self.chain(std::iter::repeat_with(|| source.containing("").unwrap()).flatten())
    }
}

#[test]
fn a_dropped_stream_ends_its_producer() {
    within(60, "a_dropped_stream_ends_its_producer", || {
        let source = start();
        let taken: Vec<_> = source.below(u64::MAX).unwrap().take(100).map(Result::unwrap).collect();
        assert_eq!(taken.len(), 100);
        // `counts` is a call of a service that lends: it comes after the drop.
        let (made, dropped) = source.counts().unwrap();
        assert_eq!(dropped, 1);
        assert!((100..=100 + AHEAD).contains(&made), "{made}");
        drop(source.below(u64::MAX).unwrap());
        assert_eq!(source.counts(), Ok((made, 2)), "of a stream that nobody asked, no item is made");
        for _ in 0..100 {
            let opening = source.begin().below(u64::MAX);
            // Now and then the child has opened it by now.
            (0..200).for_each(|_| std::hint::spin_loop());
            drop(opening);
            assert_eq!(source.alive(), Ok(0), "a stream whose opening nobody awaited");
        }
    });
}

#[test]
fn a_producer_runs_ahead_of_a_slow_consumer_by_no_more_than_the_window() {
    within(60, "a_producer_runs_ahead_of_a_slow_consumer_by_no_more_than_the_window", || {
        let source = start();
        let mut farthest = 0;
        for (taken, item) in (1..=300).zip(source.below(u64::MAX).unwrap()) {
            assert_eq!(item, Ok(taken - 1));
            // Every request for an item that was sent has been carried out when this one is, which comes behind them.
            let (made, _) = source.counts().unwrap();
            assert!(made <= taken + AHEAD, "{made} made, {taken} taken");
            farthest = farthest.max(made - taken);
        }
        assert!(farthest > AHEAD / 2, "it does run ahead: {farthest}");
    });
}

#[test]
fn an_item_is_there_before_the_next_is_made() {
    within(60, "an_item_is_there_before_the_next_is_made", || {
        let (source, gate) = (start(), Gate::new());
        let mut items = source.gated(gate.path(), 40).unwrap();
        for number in 0..40 {
            assert_eq!(items.next(), Some(Ok(number)));
        }
        gate.wait_for_child();
        gate.open();
        assert_eq!(items.next(), Some(Ok(40)));
    });
}

#[test]
fn an_item_that_is_too_late_ends_the_stream() {
    within(60, "an_item_that_is_too_late_ends_the_stream", || {
        let (source, gate) = (start(), Gate::new());
        let mut items = source.with_timeout(Duration::from_millis(200)).gated(gate.path(), 3).unwrap();
        assert_eq!([0, 1, 2].map(|_| items.next()), [0, 1, 2].map(|number| Some(Ok(number))));
        // Longer than the timeout, but nobody waits for an item.
        std::thread::sleep(Duration::from_millis(300));
        let late = items.next();
        assert!(matches!(late, Some(Err(CallError::TimedOut { started: Started::Yes, .. }))), "{late:?}");
        assert_eq!(items.next(), None);
        gate.open();
        assert_eq!(source.push("x"), Ok(5), "the late stream is dropped before");
    });
}

#[test]
fn a_panic_is_one_error_and_the_end() {
    within(60, "a_panic_is_one_error_and_the_end", || {
        let source = start();
        let mut items = source.failing(30).unwrap();
        for number in 0..30 {
            assert_eq!(items.next(), Some(Ok(number)));
        }
        let panicked = items.next();
        assert!(matches!(&panicked, Some(Err(CallError::Panicked { .. }))), "{panicked:?}");
        assert!(format!("{panicked:?}").contains("number 30"), "{panicked:?}");
        assert_eq!(items.next(), None);
        assert_eq!(source.counts(), Ok((31, 1)));
        assert!(matches!(source.not_opened(1), Err(CallError::Panicked { .. })));
        assert_eq!(source.push("five"), Ok(5), "nothing borrows the service");
    });
}

#[test]
fn a_panic_in_an_iterators_destructor_ends_no_worker() {
    within(60, "a_panic_in_an_iterators_destructor_ends_no_worker", || {
        let source = start();
        let twice: Vec<_> = source.bomb(3).unwrap().collect();
        assert_eq!(twice[..3], [Ok(0), Ok(1), Ok(2)]);
        assert!(format!("{:?}", twice[3]).contains("number 3"), "{twice:?}");
        let ended: Vec<_> = source.bomb(99).unwrap().collect();
        assert!(ended.len() == 11 && format!("{:?}", ended[10]).contains("dropped"), "{ended:?}");
        drop(source.bomb(99).unwrap());
        assert_eq!(source.push("five"), Ok(5));
        let open = source.bomb(99).unwrap();
        assert!(source.stop().is_ok_and(|exit| exit.success()));
        drop(open);
    });
}

#[test]
fn a_childs_death_is_one_error_after_the_items_before_it() {
    within(60, "a_childs_death_is_one_error_after_the_items_before_it", || {
        for restarts in [false, true] {
            let mut builder = Source::bridge();
            if restarts {
                builder = builder.restart(Restart::on_failure());
            }
            let source = builder.start().unwrap();
            let mut items = source.exiting(20).unwrap();
            for number in 0..20 {
                assert_eq!(items.next(), Some(Ok(number)));
            }
            let died = items.next();
            assert!(matches!(died, Some(Err(CallError::Died { exit: Exit::Code(3), .. }))), "{died:?}");
            assert_eq!(items.next(), None);
            match restarts {
                true => assert_eq!(all(source.below(5)).len(), 5, "a stream of the next child"),
                false => assert!(matches!(source.below(5), Err(CallError::Died { started: Started::No, .. }))),
            }
        }
    });
}

#[test]
fn methods_are_refused_what_a_stream_borrows() {
    within(60, "methods_are_refused_what_a_stream_borrows", || {
        for workers in [1, 3] {
            let source = start_workers(workers);
            let mut shared = source.below(100).unwrap();
            assert_eq!(shared.next(), Some(Ok(0)));
            let why = refusal(source.push("x"));
            assert_eq!(why, "a stream of `Source::below` still borrows the service: finish or drop it first");
            assert_eq!((refusal(source.append_word("x")), refusal(source.drain())), (why.clone(), why.clone()));
            assert_eq!(refusal(source.begin().push("x").wait()), why);
            assert_eq!((source.word(0), source.pid().is_ok()), (Ok("one".into()), true));
            assert_eq!(all(source.containing("th")), ["three"]);
            assert_eq!(shared.by_ref().count(), 99);
            assert_eq!(source.push("five"), Ok(5), "after its end");

            assert_eq!(all(source.drain()).len(), 5);
            let mut exclusive = source.numbers_mut().unwrap();
            assert_eq!(exclusive.next(), Some(Ok(0)));
            let why = refusal(source.word(0));
            assert_eq!(why, "a stream of `Source::numbers_mut` still borrows the service: finish or drop it first");
            assert_eq!((refusal(source.push("x")), refusal(source.below(1))), (why.clone(), why.clone()));
            assert!(source.pid().is_ok());
            drop(exclusive);
            assert_eq!(source.push("six"), Ok(1), "after its drop");
        }
    });
}

fn start_workers(workers: u32) -> Bridge<Source> {
    Source::bridge().workers(workers).start().expect("the bridge starts")
}

#[test]
fn a_call_after_a_drop_finds_the_service_free() {
    within(120, "a_call_after_a_drop_finds_the_service_free", || {
        for workers in [1, 4] {
            let source = start_workers(workers);
            for round in 0..300 {
                let mut streams: Vec<_> = (0..3).map(|_| source.below(u64::MAX).unwrap()).collect();
                streams.iter_mut().for_each(|stream| assert_eq!(stream.next(), Some(Ok(0))));
                drop(streams);
                match round % 4 {
                    0 => assert!(source.push("x").is_ok()),
                    1 => drop(source.drain().expect("the service is free")),
                    2 => assert!(source.append_word("x").is_ok()),
                    _ => {
                        source.send().push("x").unwrap();
                        assert_eq!(source.flush(), Ok(()));
                    }
                }
            }
        }
        // With one worker, calls that do not wait come after the drop, too.
        let source = start_workers(1);
        for _ in 0..300 {
            assert_eq!(source.below(u64::MAX).unwrap().next(), Some(Ok(0)));
            let pending = source.begin().push("x");
            assert!(pending.wait().is_ok());
        }
    });
}

#[test]
fn a_stream_that_captures_nothing_borrows_nothing() {
    within(60, "a_stream_that_captures_nothing_borrows_nothing", || {
        let source = start();
        let (mut lengths, mut lasting) = (source.lengths().unwrap(), source.lasting(&3).unwrap());
        let mut letters = source.letters("ab").unwrap();
        assert_eq!((lengths.next(), lasting.next(), letters.next()), (Some(Ok(3)), Some(Ok(0)), Some(Ok('a'))));
        assert_eq!(source.push("fifth"), Ok(5));
        assert_eq!(lengths.collect::<Result<Vec<_>, _>>(), Ok(vec![3, 5, 4]));
        assert_eq!((lasting.count(), letters.count()), (2, 1));
    });
}

#[test]
fn streams_of_several_workers_run_side_by_side() {
    within(120, "streams_of_several_workers_run_side_by_side", || {
        let source = start_workers(4);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let mut other = source.containing("").unwrap();
                        assert_eq!(all(source.below(200)).len(), 200);
                        assert_eq!(other.next(), Some(Ok("one".into())));
                    }
                });
            }
        });
        assert_eq!(source.push("five"), Ok(5));
    });
}

#[test]
fn a_stream_goes_to_another_thread() {
    within(60, "a_stream_goes_to_another_thread", || {
        let source = start();
        let mut items = source.below(100).unwrap();
        assert_eq!(items.next(), Some(Ok(0)));
        let sum = std::thread::spawn(move || items.sum::<Result<u64, _>>()).join().unwrap();
        assert_eq!(sum, Ok(4950));
    });
}

#[test]
fn a_task_awaits_a_stream() {
    within(60, "a_task_awaits_a_stream", || {
        pollster::block_on(async {
            let source = Source::bridge().start_async().await.unwrap();
            let numbers: Vec<u64> = source.below(1000).await.unwrap().try_collect().await.unwrap();
            assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
            let zipped = source.below(50).await.unwrap().zip(source.texts(100_000).await.unwrap());
            assert_eq!(zipped.count().await, 8);

            let gate = Gate::new();
            let mut gated = source.with_timeout(Duration::from_millis(200)).gated(gate.path(), 2).await.unwrap();
            assert_eq!((gated.next().await, gated.next().await), (Some(Ok(0)), Some(Ok(1))));
            let late = gated.next().await;
            assert!(matches!(late, Some(Err(CallError::TimedOut { started: Started::Yes, .. }))), "{late:?}");
            assert_eq!(gated.next().await, None);
            gate.open();
            assert_eq!(source.push("five").await, Ok(5));

            let gate = Gate::new();
            let mut gated = source.gated(gate.path(), 1).await.unwrap();
            assert_eq!(gated.next().await, Some(Ok(0)));
            let opened = AtomicBool::new(false);
            let open_later = async {
                opened.store(true, Ordering::SeqCst);
                gate.open();
            };
            // The task sleeps until the watcher wakes it.
            let (next, ()) = futures_util::future::join(gated.next(), open_later).await;
            assert_eq!((next, opened.into_inner()), (Some(Ok(1)), true));

            let mut dying = source.exiting(1).await.unwrap();
            assert_eq!(dying.next().await, Some(Ok(0)));
            assert!(matches!(dying.next().await, Some(Err(CallError::Died { .. }))));
            assert_eq!(dying.next().await, None);
            assert!(matches!(source.below(1).await, Err(CallError::Died { started: Started::No, .. })));
        });
    });
}

#[test]
fn large_items_and_boxes_come_whole() {
    within(120, "large_items_and_boxes_come_whole", || {
        let source = start();
        for len in [1, 600, 200_000, 1 << 20] {
            let texts = all(source.texts(len));
            let expected = (b'a'..=b'h').map(|letter| char::from(letter).to_string().repeat(len));
            assert!(texts.into_iter().eq(expected), "{len}");
            for (byte, item) in (0..20u8).zip(source.boxes(len).unwrap()) {
                assert!(item.is_ok_and(|item| item.len() == len && item.iter().all(|&at| at == byte)), "{len}");
            }
        }
        // Dropped with large items under way.
        for _ in 0..20 {
            assert!(source.texts(1 << 20).unwrap().nth(1).is_some_and(|text| text.is_ok()));
            assert!(source.boxes(1 << 20).unwrap().nth(3).is_some_and(|item| item.is_ok()));
        }
    });
}

#[test]
fn items_come_one_by_one_where_there_is_memory_for_no_more() {
    within(60, "items_come_one_by_one_where_there_is_memory_for_no_more", || {
        // Room for a few of them beside each other.
        let source = Source::bridge().max_payload(4 << 20).memory(16 << 20).start().unwrap();
        for (byte, item) in (0..20u8).zip(source.vectors(3 << 20).unwrap()) {
            assert!(item.is_ok_and(|item| item.len() == 3 << 20 && item.iter().all(|&at| at == byte)), "{byte}");
        }
        let awaited = source.begin().vectors(3 << 20);
        let lens = pollster::block_on(async { awaited.await.unwrap().map_ok(|item| item.len()).try_collect().await });
        assert_eq!(lens, Ok(vec![3 << 20; 20]));
        assert_eq!(source.push("five"), Ok(5));
    });
}

#[test]
fn an_item_that_cannot_be_sent_is_one_error_and_the_end() {
    within(60, "an_item_that_cannot_be_sent_is_one_error_and_the_end", || {
        let source = Source::bridge().max_payload(1 << 16).start().unwrap();
        let mut items = source.texts(1 << 17).unwrap();
        assert!(matches!(items.next(), Some(Err(CallError::TooLarge { .. }))));
        assert_eq!(items.next(), None);
        assert_eq!(source.push("five"), Ok(5));
    });
}

#[test]
fn a_stream_has_items_although_every_slot_is_taken() {
    within(120, "a_stream_has_items_although_every_slot_is_taken", || {
        let source = Source::bridge().concurrent_callers(1).pending_calls(2).start().unwrap();
        let mut streams: Vec<_> = (0..20).map(|_| source.below(50).unwrap()).collect();
        for number in 0..50 {
            streams.iter_mut().for_each(|stream| assert_eq!(stream.next(), Some(Ok(number))));
            assert_eq!(source.word(1), Ok("two".into()));
        }
        streams.iter_mut().for_each(|stream| assert_eq!(stream.next(), None));
        let (gate, busy) = (Gate::new(), 10);
        let mut gated = source.gated(gate.path(), 0).unwrap();
        let waiting = std::thread::spawn(move || gated.next());
        gate.wait_for_child();
        // Every slot is taken by calls that wait for the worker; dropped streams wait for room.
        let pending: Vec<_> = (0..busy).map(|_| source.begin().word(0)).collect();
        let openings: Vec<_> = (0..busy).map(|_| source.begin().below(5)).collect();
        drop(openings);
        gate.open();
        assert_eq!(waiting.join().unwrap(), Some(Ok(0)));
        assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
        assert!(source.push("five").is_ok());
    });
}

#[test]
fn a_bridge_stops_with_streams_open() {
    within(60, "a_bridge_stops_with_streams_open", || {
        for workers in [1, 3] {
            let source = start_workers(workers);
            let mut streams: Vec<_> = (0..6).map(|_| source.below(u64::MAX).unwrap()).collect();
            streams.iter_mut().for_each(|stream| assert_eq!(stream.next(), Some(Ok(0))));
            let exclusive = start_workers(workers);
            let mut numbers = exclusive.numbers_mut().unwrap();
            assert_eq!(numbers.next(), Some(Ok(0)));
            assert!(source.stop().is_ok_and(|exit| exit.success()));
            assert!(exclusive.stop().is_ok_and(|exit| exit.success()));
            // What has come is taken, and then the stop is the reason.
            let last = streams[0].by_ref().find(Result::is_err);
            assert!(matches!(last, Some(Err(CallError::Stopped { .. } | CallError::Died { .. }))), "{last:?}");
            assert_eq!(streams[0].next(), None);
        }
    });
}

#[test]
fn a_thousand_streams_leave_nothing_and_one_too_many_is_refused() {
    within(120, "a_thousand_streams_leave_nothing_and_one_too_many_is_refused", || {
        let source = start();
        for round in 1..=2 {
            let mut streams: Vec<_> = (0..1024).map(|_| source.below(3).unwrap()).collect();
            assert_eq!(refusal(source.below(3)), "1024 streams are open: finish or drop one first");
            streams.iter_mut().step_by(2).for_each(|stream| assert_eq!(stream.next(), Some(Ok(0))));
            drop(streams);
            // The iterator of the one that was refused was never made.
            assert_eq!(source.counts().map(|(_, dropped)| dropped), Ok(1024 * round));
        }
        assert_eq!(source.push("five"), Ok(5));
    });
}

#[test]
fn a_one_way_call_of_a_stream_is_refused() {
    within(60, "a_one_way_call_of_a_stream_is_refused", || {
        let why = refusal(start().send().below(3));
        assert!(why.contains("without `send()`"), "{why}");
    });
}

#[test]
fn a_function_that_calls_back_runs_while_a_stream_has_the_service() {
    within(60, "a_function_that_calls_back_runs_while_a_stream_has_the_service", || {
        let source = start();
        let mut told = Vec::new();
        {
            let mut numbers = source.numbers_mut().expect("a stream");
            assert_eq!(numbers.next(), Some(Ok(0)));
            let mut inner = None;
            let len = source.told("abc", &mut |text| {
                told.push(text.to_owned());
                inner = Some(source.word(0));
            });
            assert_eq!(len, Ok(3));
            assert!(
                matches!(&inner, Some(Err(CallError::Refused { why, .. })) if why.contains("a stream")),
                "{inner:?}"
            );
        }
        // Its callbacks have the service when no stream has it.
        let len = source.told("ab", &mut |_| told.push(source.word(0).expect("it has the service")));
        assert_eq!((len, told), (Ok(2), vec!["abc".to_owned(), "one".to_owned()]));
    });
}

#[test]
fn an_item_that_panics_when_it_is_dropped_leaves_no_stream_behind() {
    within(60, "an_item_that_panics_when_it_is_dropped_leaves_no_stream_behind", || {
        let (source, mut panics) = (start(), 0);
        for taken in 1..20 {
            let mut charges = source.charges().expect("a stream");
            for _ in 0..taken {
                std::mem::forget(charges.next().expect("it has no end"));
                // Answered behind what the stream has asked for before.
                assert_eq!(source.word(0).as_deref(), Ok("one"));
            }
            panics += u32::from(catch_unwind(AssertUnwindSafe(|| drop(charges))).is_err());
            assert_eq!(source.push("more"), Ok(4 + taken), "the service is free");
        }
        assert!(panics > 0, "some items had come");
    });
}

#[test]
fn a_method_that_calls_back_finds_the_service_free_after_a_drop() {
    within(60, "a_method_that_calls_back_finds_the_service_free_after_a_drop", || {
        let source = start();
        let stream = || {
            let mut numbers = source.numbers_mut().expect("a stream");
            assert_eq!(numbers.next(), Some(Ok(0)));
        };
        for _ in 0..20 {
            let mut told = 0;
            stream();
            assert_eq!(source.tell(&mut |_| told += 1), Ok(()));
            stream();
            assert_eq!(source.begin().tell(&mut |_| told += 1).wait(), Ok(()));
            stream();
            assert_eq!(pollster::block_on(source.begin().tell(&mut |_| told += 1)), Ok(()));
            assert_eq!(told, 12);
        }
    });
}
