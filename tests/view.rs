//! Replies read in place: a view shows what the method returned, whatever its type and size, and owns what it shows. A call that fails gives its
//! usual error. A child's forgery is an error, or something harmless to read.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, CallError, Fault, InPlace, Mode, Started, View, Viewable, bridge};
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::{Duration, Instant};
use support::within;

callgate::test_support!();

/// Seconds after which a hanging test is aborted.
const PATIENCE: u64 = 120;

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(Viewable, Debug))]
struct Track {
    title: String,
    seconds: u32,
    marks: Vec<Mark>,
}

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(callgate::Viewable, Debug, PartialEq))]
enum Mark {
    Live,
    Year(u16),
    By { first: String, last: Option<String> },
}

/// A type whose own check panics on values that the generic checks accept.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(derive(Viewable), bytecheck(verify))]
struct Unchecked(u32);

// SAFETY: the check panics, or accepts what the field checks have accepted.
unsafe impl<C: rkyv::rancor::Fallible + ?Sized> rkyv::bytecheck::Verify<C> for ArchivedUnchecked {
    fn verify(&self, _: &mut C) -> Result<(), C::Error> {
        assert!(self.0 == 0, "not zero");
        Ok(())
    }
}

trait Name {
    fn name(&self) -> String;
}

struct Shelf;

#[bridge]
impl Shelf {
    pub fn new() -> Self {
        Shelf
    }
    pub fn nothing(&self) {}
    pub fn no_numbers(&self) -> [u64; 0] {
        []
    }
    pub fn number(&self) -> u64 {
        u64::MAX - 1
    }
    pub fn numbers(&self, len: u64) -> Vec<u64> {
        (0..len).collect()
    }
    pub fn small(&self) -> (bool, char, f64, NonZeroU32, Duration, Range<i8>) {
        (true, 'ß', 0.5, NonZeroU32::MIN, Duration::from_millis(1500), -3..4)
    }
    pub fn address(&self) -> (SocketAddr, Ipv4Addr) {
        (SocketAddr::from(([127, 0, 0, 1], 80)), Ipv4Addr::BROADCAST)
    }
    pub fn text(&self, times: usize) -> String {
        "text ".repeat(times)
    }
    pub fn texts(&self, len: usize) -> Vec<String> {
        (0..len).map(|n| format!("a text with the number {n}")).collect()
    }
    pub fn tracks(&self, len: u32) -> Vec<Track> {
        let marks =
            |n: u32| vec![Mark::Live, Mark::Year(n as u16), Mark::By { first: "A".into(), last: Some("Z".into()) }];
        (0..len).map(|n| Track { title: format!("Track number {n}"), seconds: 60 * n, marks: marks(n) }).collect()
    }
    pub fn maybe(&self, is: bool) -> Option<Box<str>> {
        is.then(|| "in a box, and longer than what fits beside it".into())
    }
    pub fn halve(&self, n: u64) -> Result<u64, String> {
        if n.is_multiple_of(2) { Ok(n / 2) } else { Err(format!("{n} is odd")) }
    }
    pub fn nested(&self) -> Vec<Vec<Option<(u8, String)>>> {
        vec![vec![], vec![None, Some((1, "one".into()))]]
    }
    pub fn map(&self) -> HashMap<String, u32> {
        HashMap::from([("one".into(), 1)])
    }
    pub fn unchecked(&self, n: u32) -> Unchecked {
        Unchecked(n)
    }
    pub fn sleep(&self, ms: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(ms));
        ms
    }
    pub fn panic(&self) -> u64 {
        panic!("as asked")
    }
    pub fn abort(&self) -> u64 {
        std::process::abort()
    }
}

#[bridge]
impl Name for Shelf {
    fn name(&self) -> String {
        "shelf".into()
    }
}

fn shelf() -> Bridge<Shelf> {
    Shelf::bridge().timeout(Duration::from_secs(60)).start().expect("the bridge starts")
}

#[test]
fn a_view_shows_what_the_method_returned() {
    within(PATIENCE, "a_view_shows_what_the_method_returned", || {
        let shelf = shelf();
        let shelf = shelf.view();
        let _: &() = &shelf.nothing().unwrap();
        assert!(shelf.no_numbers().unwrap().is_empty());
        assert_eq!(*shelf.number().unwrap(), u64::MAX - 1);

        let small = shelf.small().unwrap();
        assert_eq!((small.0, small.1.to_native(), small.2.to_native()), (true, 'ß', 0.5));
        assert_eq!((small.3.get(), small.4.as_millis()), (1, 1500));
        assert_eq!((small.5.start, small.5.end), (-3, 4));
        let address = shelf.address().unwrap();
        assert_eq!((address.0.as_socket_addr(), address.1.is_broadcast()), (([127, 0, 0, 1], 80).into(), true));

        assert_eq!(shelf.maybe(true).unwrap().as_deref(), Some("in a box, and longer than what fits beside it"));
        assert!(shelf.maybe(false).unwrap().is_none());
        assert_eq!(shelf.halve(4).unwrap().as_ref().map(|half| half.to_native()).ok(), Some(2));
        assert_eq!(shelf.halve(5).unwrap().as_ref().map_err(|why| why.as_str()).err(), Some("5 is odd"));
        let nested = shelf.nested().unwrap();
        assert!(nested[0].is_empty() && nested[1][0].is_none());
        assert_eq!(nested[1][1].as_ref().map(|pair| (pair.0, pair.1.as_str())), Some((1, "one")));
    });
}

/// Reply sizes that fit the slot's first line, its other lines, or a block.
#[test]
fn replies_of_every_size_can_be_viewed() {
    within(PATIENCE, "replies_of_every_size_can_be_viewed", || {
        let shelf = shelf();
        for len in [0, 1, 2, 5, 6, 20, 60, 80, 1000, 300_000] {
            let numbers = shelf.view().numbers(len).unwrap();
            assert_eq!(numbers.len() as u64, len);
            assert!((0..len).zip(numbers.iter()).all(|(expected, number)| *number == expected), "{len} numbers");
        }
        for times in [0, 1, 9, 100, 100_000] {
            assert_eq!(shelf.view().text(times).unwrap().as_str(), "text ".repeat(times));
        }
        for len in [0, 1, 1000] {
            let texts = shelf.view().texts(len).unwrap();
            assert!((0..len).all(|n| texts[n] == format!("a text with the number {n}")), "{len} texts");
        }
        for len in [0, 1, 2000] {
            let tracks = shelf.view().tracks(len).unwrap();
            assert_eq!(tracks.len(), len as usize);
            let last = tracks.last().map(|track| (track.title.as_str(), track.seconds.to_native(), &track.marks[1]));
            let expected = len.checked_sub(1).map(|n| format!("Track number {n}"));
            assert_eq!(last.map(|last| last.0), expected.as_deref());
            assert!(last.is_none_or(|(_, seconds, mark)| *mark == ArchivedMark::Year(((seconds / 60) as u16).into())));
        }
    });
}

#[test]
fn a_view_outlives_further_calls_and_the_bridge() {
    within(PATIENCE, "a_view_outlives_further_calls_and_the_bridge", || {
        let shelf = shelf();
        let views: Vec<_> = (0..100).map(|n| (n, shelf.view().texts(n).unwrap())).collect();
        let tracks = shelf.view().tracks(1000).unwrap();
        for _ in 0..100 {
            shelf.numbers(2000).unwrap();
        }
        drop(shelf);
        for (n, texts) in views {
            assert_eq!(texts.iter().map(|text| text.as_str()).collect::<Vec<_>>(), Shelf.texts(n));
        }
        assert_eq!(tracks[999].title, "Track number 999");
    });
}

#[test]
fn views_go_to_other_threads() {
    fn goes_anywhere<T: Send + Sync + Unpin + 'static>(_: &T) {}
    within(PATIENCE, "views_go_to_other_threads", || {
        let shelf = shelf();
        std::thread::scope(|scope| {
            let threads = (0..4)
                .map(|_| scope.spawn(|| (0..50).map(|n| (n, shelf.view().tracks(n).unwrap())).collect::<Vec<_>>()));
            for (n, tracks) in threads.collect::<Vec<_>>().into_iter().flat_map(|thread| thread.join().unwrap()) {
                goes_anywhere(&tracks);
                assert_eq!(tracks.len(), n as usize);
                assert!(tracks.iter().all(|track| track.marks[0] == ArchivedMark::Live));
            }
        });
    });
}

#[test]
fn a_view_prints_as_the_archive_does() {
    within(PATIENCE, "a_view_prints_as_the_archive_does", || {
        let shelf = shelf();
        assert_eq!(format!("{:?}", shelf.view().texts(1).unwrap()), "View([\"a text with the number 0\"])");
        assert!(format!("{:?}", shelf.view().tracks(1).unwrap()).contains("Track number 0"));
        let text: &rkyv::Archived<String> = &shelf.view().text(2).unwrap();
        assert_eq!(text.as_str(), "text text ");
    });
}

#[test]
fn what_fails_fails_as_any_call_does() {
    within(PATIENCE, "what_fails_fails_as_any_call_does", || {
        let bridge = shelf();
        let error = bridge.view().panic().expect_err("it panicked");
        assert!(matches!(&error, CallError::Panicked { fault, .. } if is_as_asked(fault)), "{error}");
        let late = bridge.with_timeout(Duration::from_millis(20)).view().sleep(300).expect_err("too late");
        assert!(matches!(late, CallError::TimedOut { .. }), "{late}");
        assert_eq!(*bridge.view().sleep(0).expect("the late reply is dropped"), 0);
        let error = bridge.view().abort().expect_err("the child is gone");
        assert!(matches!(error, CallError::Died { started: Started::Yes, .. }), "{error}");
        let error = bridge.view().number().expect_err("the child is gone");
        assert!(matches!(error, CallError::Died { started: Started::No, .. }), "{error}");

        let small = Shelf::bridge().max_payload(4096).start().expect("the bridge starts");
        let error = small.view().numbers(100_000).expect_err("too large");
        assert!(matches!(error, CallError::TooLarge { .. }), "{error}");
        assert_eq!(small.view().numbers(10).unwrap().len(), 10);
        small.stop().unwrap();
        assert!(matches!(small.view().number(), Err(CallError::Stopped { .. })));
    });
}

fn is_as_asked(fault: &Fault) -> bool {
    fault.to_string().contains("as asked")
}

/// A timeout set with `with_timeout` also applies to `begin` and `view`.
#[test]
fn a_timeout_goes_with_begin_and_view() {
    within(PATIENCE, "a_timeout_goes_with_begin_and_view", || {
        let shelf = shelf();
        let patient = shelf.with_timeout(Duration::from_secs(30));
        assert_eq!((patient.number().unwrap(), patient.begin().number().wait().unwrap()), (u64::MAX - 1, u64::MAX - 1));
        assert_eq!(*patient.view().number().unwrap(), u64::MAX - 1);
        let hasty = shelf.with_timeout(Duration::from_millis(20));
        let begin = Instant::now();
        assert!(matches!(hasty.begin().sleep(300).wait(), Err(CallError::TimedOut { .. })));
        assert!(begin.elapsed() >= Duration::from_millis(20));
    });
}

/// Generic over the way of calling; used here with views.
fn name_of<M: Mode>(calls: &ShelfCalls<M>) -> M::Out<String> {
    calls.name()
}

#[test]
fn methods_of_bridged_traits_can_be_viewed() {
    within(PATIENCE, "methods_of_bridged_traits_can_be_viewed", || {
        let shelf = shelf();
        assert_eq!(*shelf.view().name().unwrap(), "shelf");
        assert_eq!(Name::name(&shelf), "shelf");
        let named: View<String> = name_of::<InPlace>(&shelf.view()).unwrap();
        assert_eq!(named.as_str(), "shelf");
    });
}

/// A view of such a result shows nothing, but the call works like any other.
#[test]
fn what_is_not_viewable_can_still_be_called() {
    within(PATIENCE, "what_is_not_viewable_can_still_be_called", || {
        let shelf = shelf();
        let map: View<HashMap<String, u32>> = shelf.view().map().unwrap();
        drop(map);
        assert_eq!(shelf.map().unwrap()["one"], 1);
    });
}

/// A type's own check may panic; that must not bring down the parent.
#[test]
fn a_panic_in_a_types_own_check_is_an_error() {
    within(PATIENCE, "a_panic_in_a_types_own_check_is_an_error", || {
        let shelf = shelf();
        assert_eq!(shelf.view().unchecked(0).unwrap().0, 0);
        let error = shelf.view().unchecked(1).err().expect("it does not pass");
        assert!(matches!(error, CallError::Corrupt { .. }), "{error}");
    });
}

/// From a trusted child, large replies are read where the child wrote them, even maps, and the memory is released with the views.
#[test]
fn of_a_trusted_child_they_are_the_childs_own_memory() {
    within(PATIENCE, "of_a_trusted_child_they_are_the_childs_own_memory", || {
        let distrusted = Shelf::bridge().start().expect("a start");
        assert!(distrusted.view().number().expect("a view").trusted().is_none());
        assert!(distrusted.view().numbers(1000).expect("a view").trusted().is_none());

        let builder = Shelf::bridge().max_payload(1 << 20).memory(8 << 20);
        // SAFETY: the child runs the safe code above.
        let shelf = unsafe { builder.trust_child() }.start().expect("a start");
        assert_eq!(shelf.map().expect("a map"), Shelf.map());
        let map = shelf.view().map().expect("a view");
        assert_eq!(map.trusted().and_then(|map| map.get("one")).map(|one| one.to_native()), Some(1));
        for round in 0..20 {
            // Views and values alternate, and their total exceeds the memory.
            let views: Vec<_> = (0..3).map(|n| shelf.view().numbers(100_000 + n).expect("a view")).collect();
            assert_eq!(shelf.numbers(1000).expect("numbers"), Shelf.numbers(1000));
            for (n, view) in (0u64..).zip(&views) {
                assert_eq!((view.len() as u64, view[99_999].to_native()), (100_000 + n, 99_999), "round {round}");
                assert!(is_shared(view.as_ptr().addr()), "a copy");
            }
            let kept = views.into_iter().next_back();
            assert_eq!(shelf.text(50_000), Ok(Shelf.text(50_000)));
            drop(kept);
        }
        // When views hold all memory, the next reply finds none, and the bridge keeps working.
        let mut views = Vec::new();
        let full = loop {
            match shelf.view().numbers(100_000) {
                Ok(view) => views.push(view),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, CallError::Exhausted { budget, .. } if budget == 4 << 20), "{full}");
        assert!(views.len() >= 3);
        drop(views);
        assert_eq!(shelf.view().numbers(100_000).map(|view| view.len()), Ok(100_000));
        let outliving = shelf.view().numbers(50_000).expect("a view");
        drop(shelf);
        assert_eq!(outliving[49_999], 49_999);
    });
}

/// Whether the address lies in one of this process's shared mappings.
fn is_shared(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("a list");
    maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap_or_default();
        let (start, end) = range.split_once('-').unwrap_or_default();
        let [start, end] = [start, end].map(|number| usize::from_str_radix(number, 16).unwrap_or_default());
        (start..end).contains(&address) && rest.contains("callgate-arena")
    })
}
