//! A `SharedBox` crosses a bridge without its bytes being moved: both ways if the child is trusted. It arrives whole, whatever its size, type and
//! place in other values. Its former owner can no longer touch it, and its memory returns, whatever becomes of it.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, Builder, CallError, NoMemory, SharedBox, SharedWriter, View, bridge};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkyv::rancor::Fallible;
use rkyv::with::Skip;
use rkyv::{Archive, Archived, Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{self, Read};
use std::time::Duration;
use support::within;

callgate::test_support!();

/// Seconds after which a hanging test is aborted.
const PATIENCE: u64 = 120;

/// The number of blocks that may be lent at a time.
const AT_A_TIME: usize = 1024;

/// Plain data.
#[derive(Clone, Copy, Debug, PartialEq, callgate::bytemuck::Pod, callgate::bytemuck::Zeroable)]
#[bytemuck(crate = "callgate::bytemuck")]
#[repr(C)]
struct Header {
    width: u32,
    height: u32,
    scale: f64,
}

#[derive(Archive, Serialize, Deserialize)]
struct Picture {
    title: String,
    header: SharedBox<Header>,
    planes: Vec<SharedBox<[u16]>>,
    mask: Option<SharedBox<[u8]>>,
}

/// Deserialising a reply may access any other box, here a box in a view of an older reply.
#[derive(Archive, Serialize)]
struct Thief {
    number: u64,
    #[rkyv(with = Skip)]
    stolen: Option<SharedBox<[u8]>>,
}

#[derive(Archive, Serialize, Deserialize)]
struct Pair {
    first: SharedBox<[u8]>,
    second: SharedBox<[u8]>,
}

// SAFETY: each field is checked. Only the boxes are not viewable by themselves, and nothing here reads their archived form.
unsafe impl callgate::Viewable for ArchivedPair {}

thread_local! {
    /// The view that the next thief steals from.
    static SEEN: RefCell<Option<View<Pair>>> = const { RefCell::new(None) };
}

impl<D: Fallible + ?Sized> Deserialize<Thief, D> for ArchivedThief
where
    Archived<SharedBox<[u8]>>: Deserialize<SharedBox<[u8]>, D>,
{
    fn deserialize(&self, decoder: &mut D) -> Result<Thief, D::Error> {
        let stolen = SEEN.with_borrow(|seen| seen.as_ref().map(|pair| pair.second.deserialize(decoder)).transpose())?;
        Ok(Thief { number: self.number.to_native(), stolen })
    }
}

#[derive(Default)]
struct Desk {
    kept: Vec<SharedBox<[u8]>>,
}

#[bridge]
impl Desk {
    pub fn new() -> Self {
        Desk::default()
    }
    pub fn of(first: SharedBox<[u8]>) -> Self {
        Desk { kept: vec![first] }
    }
    pub fn sum(&self, bytes: SharedBox<[u8]>) -> u64 {
        bytes.iter().map(|&byte| u64::from(byte)).sum()
    }
    pub fn sum_of_lent(&self, bytes: &SharedBox<[u8]>) -> u64 {
        bytes.iter().map(|&byte| u64::from(byte)).sum()
    }
    pub fn back(&self, bytes: SharedBox<[u8]>) -> SharedBox<[u8]> {
        bytes
    }
    /// Changes the first byte, and returns the box.
    pub fn edit(&self, mut bytes: SharedBox<[u8]>) -> SharedBox<[u8]> {
        bytes[0] = bytes[0].wrapping_add(1);
        bytes
    }
    /// The address at which the child has mapped the bytes.
    pub fn address(&self, bytes: SharedBox<[u8]>) -> (u64, SharedBox<[u8]>) {
        (bytes.as_ptr().addr() as u64, bytes)
    }
    pub fn address_of_lent(&self, bytes: &SharedBox<[u8]>) -> u64 {
        bytes.as_ptr().addr() as u64
    }
    pub fn make(&self, len: usize, byte: u8) -> Result<SharedBox<[u8]>, String> {
        let mut new = SharedBox::zeroed(len).map_err(|error| error.to_string())?;
        new.fill(byte);
        Ok(new)
    }
    pub fn keep(&mut self, bytes: SharedBox<[u8]>) -> usize {
        self.kept.push(bytes);
        self.kept.len()
    }
    pub fn kept(&mut self) -> Option<SharedBox<[u8]>> {
        self.kept.pop()
    }
    pub fn drop_kept(&mut self) {
        self.kept.clear();
    }
    pub fn crop(&self, mut picture: Picture) -> Picture {
        picture.header.width /= 2;
        picture.planes.iter_mut().for_each(|plane| {
            let half = plane.len() / 2;
            plane.truncate(half);
        });
        picture.title.push_str(", cropped");
        picture
    }
    pub fn panic_with(&self, _bytes: SharedBox<[u8]>) {
        panic!("with a box in hand");
    }
    pub fn die_with(&self, _bytes: SharedBox<[u8]>) {
        std::process::abort();
    }
    pub fn slow_sum(&self, bytes: &SharedBox<[u8]>, ms: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(ms));
        bytes.iter().map(|&byte| u64::from(byte)).sum()
    }
    pub fn slow_back(&self, bytes: SharedBox<[u8]>, ms: u64) -> SharedBox<[u8]> {
        std::thread::sleep(Duration::from_millis(ms));
        bytes
    }
    pub fn slow_make(&self, len: usize, ms: u64) -> Option<SharedBox<[u8]>> {
        std::thread::sleep(Duration::from_millis(ms));
        SharedBox::zeroed(len).ok()
    }
    /// Boxes of different types side by side.
    pub fn doubled(&self, mut numbers: SharedBox<[u64]>) -> (SharedBox<[u64]>, SharedBox<Header>) {
        numbers.iter_mut().for_each(|number| *number *= 2);
        let header = Header { width: numbers.len() as u32, height: 1, scale: 2.0 };
        (numbers, SharedBox::new(header).expect("memory"))
    }
    pub fn pair(&self) -> Pair {
        let new = || SharedBox::copied(&[1; 100]).expect("memory");
        Pair { first: new(), second: new() }
    }
    pub fn thief(&self) -> Thief {
        Thief { number: 1, stolen: None }
    }
    pub fn nothing(&self) {}
}

fn trusting(builder: Builder<Desk>) -> Builder<Desk> {
    // SAFETY: the child runs the safe code above.
    unsafe { builder.trust_child() }
}

/// Runs `test` with an untrusted and with a trusted child.
fn both(name: &'static str, test: fn(&dyn Fn() -> Builder<Desk>)) {
    within(PATIENCE, name, move || {
        test(&Desk::bridge);
        test(&|| trusting(Desk::bridge()));
    });
}

fn filled(bridge: &Bridge<Desk>, len: usize, byte: u8) -> SharedBox<[u8]> {
    let mut new = SharedBox::<[u8]>::zeroed_in(bridge, len).expect("memory");
    new.fill(byte);
    new
}

#[test]
fn every_size_arrives_whole_and_comes_back() {
    both("every_size_arrives_whole_and_comes_back", |start| {
        let desk = start().start().expect("a start");
        let sizes = (0..=26).flat_map(|power| [(1usize << power) - 1, 1 << power, (1 << power) + 1]);
        for len in sizes.filter(|&len| len <= (1 << 22) + 1 || len == 1 << 26) {
            assert_eq!(desk.sum(filled(&desk, len, 3)), Ok(3 * len as u64), "{len} bytes there");
            let back = desk.back(filled(&desk, len, 5)).expect("a box");
            assert!(back.len() == len && back.iter().all(|&byte| byte == 5), "{len} bytes there and back");
            let made = desk.make(len, 7).expect("a call").expect("memory");
            assert!(made.len() == len && made.iter().all(|&byte| byte == 7), "{len} bytes back");
        }
    });
}

#[test]
fn it_is_the_same_memory_all_the_way() {
    within(PATIENCE, "it_is_the_same_memory_all_the_way", || {
        for trusted in [false, true] {
            let builder = if trusted { trusting(Desk::bridge()) } else { Desk::bridge() };
            let desk = builder.start().expect("a start");
            let bytes = filled(&desk, 1 << 20, 1);
            let here = bytes.as_ptr();
            let (there, bytes) = desk.address(bytes).expect("a box");
            assert_eq!(bytes.as_ptr(), here, "given back as it is, it is the very memory");
            let (there_again, bytes) = desk.address(bytes).expect("a box");
            assert_eq!((there_again, bytes.as_ptr()), (there, here));
            // An untrusted child cannot write there, so it makes a copy.
            let edited = desk.edit(bytes).expect("a box");
            assert_eq!(edited.as_ptr() == here, trusted);
            assert_eq!((edited[0], edited[1]), (2, 1));
        }
    });
}

#[test]
fn one_method_has_boxes_of_numbers_and_another_of_bytes() {
    both("one_method_has_boxes_of_numbers_and_another_of_bytes", |start| {
        let desk = start().start().expect("a start");
        for len in [0, 1, 1000] {
            for numbers in [SharedBox::<[u64]>::zeroed_in(&desk, len), SharedBox::<[u64]>::zeroed(len)] {
                let mut numbers = numbers.expect("memory");
                numbers.fill(21);
                let (doubled, header) = desk.doubled(numbers).expect("boxes");
                assert_eq!((&doubled[..], header.width), (&vec![42; len][..], len as u32));
            }
        }
    });
}

#[test]
fn boxes_lie_where_they_like_in_other_values() {
    both("boxes_lie_where_they_like_in_other_values", |start| {
        let desk = start().start().expect("a start");
        for round in 0..20u16 {
            let plane = |seed: u16| {
                let mut plane = SharedBox::<[u16]>::zeroed_in(&desk, 5000).expect("memory");
                plane.iter_mut().enumerate().for_each(|(at, pixel)| *pixel = seed.wrapping_add(at as u16));
                plane
            };
            let header = Header { width: 640, height: 480, scale: 0.5 };
            let picture = Picture {
                title: "a test card".repeat(100),
                header: SharedBox::new_in(&desk, header).expect("memory"),
                planes: (0..4).map(|n| plane(n * 1000 + round)).collect(),
                mask: (round % 2 == 0).then(|| filled(&desk, 10, 9)),
            };
            let cropped = desk.crop(picture).expect("a picture");
            assert!(cropped.title.ends_with("card, cropped"));
            assert_eq!(*cropped.header, Header { width: 320, ..header });
            for (n, plane) in (0u16..).zip(&cropped.planes) {
                assert_eq!((plane.len(), plane[2499]), (2500, (n * 1000 + round).wrapping_add(2499)));
            }
            assert_eq!(cropped.planes.len(), 4);
            assert_eq!(cropped.mask.as_deref(), (round % 2 == 0).then_some(&[9; 10][..]));
        }
    });
}

#[test]
fn what_is_lent_by_reference_is_still_the_callers() {
    both("what_is_lent_by_reference_is_still_the_callers", |start| {
        let desk = start().start().expect("a start");
        let mut bytes = filled(&desk, 100_000, 1);
        let before = bytes.as_ptr();
        for round in 1..50u8 {
            assert_eq!(desk.sum_of_lent(&bytes), Ok(100_000 * u64::from(round)));
            bytes.fill(round + 1);
        }
        assert_eq!(bytes.as_ptr(), before, "no copy was made");
        // The child still uses the box, so a write here goes to a copy.
        let late = desk.with_timeout(Duration::from_millis(20)).slow_sum(&bytes, 300);
        assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
        bytes.fill(7);
        assert_ne!(bytes.as_ptr(), before);
        assert_eq!(desk.sum_of_lent(&bytes), Ok(700_000));
    });
}

#[test]
fn what_is_lent_again_is_the_same_memory_and_takes_no_more() {
    both("what_is_lent_again_is_the_same_memory_and_takes_no_more", |start| {
        let desk = small(start, PLENTY);
        let bytes = filled(&desk, MIB, 1);
        let there = desk.address_of_lent(&bytes).expect("a call");
        let _all_the_rest = [(); 3].map(|()| filled(&desk, MIB, 2));
        for time in 2..5 {
            assert_eq!(desk.address_of_lent(&bytes), Ok(there), "lent for the {time}. time");
        }
        assert_eq!(desk.sum_of_lent(&bytes), Ok(MIB as u64));
    });
}

#[test]
fn what_was_lent_to_a_call_that_has_begun_arrives_as_it_was() {
    type Way = fn(SharedBox<[u8]>) -> Option<SharedBox<[u8]>>;
    const LEN: usize = 70_000;
    both("what_was_lent_to_a_call_that_has_begun_arrives_as_it_was", |start| {
        let dropped: Way = |_| None;
        let written: Way = |mut bytes| {
            bytes.fill(2);
            Some(bytes)
        };
        let desk = start().start().expect("a start");
        let origins: [&dyn Fn() -> SharedBox<[u8]>; 2] =
            [&|| filled(&desk, LEN, 1), &|| desk.make(LEN, 1).expect("a call").expect("memory")];
        for (origin, make) in ["the parent's", "the child's"].into_iter().zip(origins) {
            for (what, way) in [("dropped", dropped), ("written to", written)] {
                // The child is busy while the box is lent, and while it is dropped or written to.
                let bytes = make();
                let slow = desk.begin().slow_make(0, 100);
                let sum = desk.begin().sum_of_lent(&bytes);
                let left = way(bytes);
                drop(slow.wait().expect("a box"));
                assert_eq!(sum.wait(), Ok(LEN as u64), "{origin}, {what}");
                assert!(left.is_none_or(|bytes| bytes.iter().all(|&byte| byte == 2)), "{origin}, {what}");
            }
        }
    });
}

#[test]
fn a_box_that_could_not_be_lent_is_still_its_owners_alone() {
    both("a_box_that_could_not_be_lent_is_still_its_owners_alone", |start| {
        let desk = start().start().expect("a start");
        for kept in 1..=AT_A_TIME {
            assert_eq!(desk.keep(filled(&desk, 100, 1)), Ok(kept));
        }
        let mut refused = filled(&desk, 100, 1);
        let error = desk.sum_of_lent(&refused).expect_err("so many are lent").to_string();
        assert!(error.contains("cannot lend more blocks of memory"), "{error}");
        let mut other = filled(&desk, 100, 2);
        refused.fill(3);
        assert_eq!(other[..], [2; 100], "two boxes over the same memory");
        other.fill(4);
        assert_eq!(refused[..], [3; 100], "two boxes over the same memory");
        desk.drop_kept().expect("a call");
        assert_eq!((desk.sum_of_lent(&refused), desk.sum(other)), (Ok(300), Ok(400)));
    });
}

/// A value made of a box in a view of an older reply is an error, or a box that belongs to its owner alone.
#[test]
fn no_box_is_made_of_memory_that_has_gone_on_to_another() {
    both("no_box_is_made_of_memory_that_has_gone_on_to_another", |start| {
        let desk = start().start().expect("a start");
        SEEN.set(Some(desk.view().pair().expect("a view")));
        let mut next = desk.make(100, 2).expect("a call").expect("memory");
        let thief = desk.thief();
        SEEN.take();
        let Ok(Thief { number, stolen }) = thief else { return };
        let mut stolen = stolen.expect("it had one to look at");
        next.fill(3);
        assert_eq!((number, &stolen[..]), (1, &[1; 100][..]), "two boxes over the same memory");
        stolen.fill(4);
        assert_eq!(next[..], [3; 100], "two boxes over the same memory");
    });
}

#[test]
fn a_box_of_elsewhere_is_copied() {
    both("a_box_of_elsewhere_is_copied", |start| {
        let (desk, other) = (start().start().expect("a start"), start().start().expect("a start"));
        let private = SharedBox::<[u8]>::copied(&[4; 5000]).expect("private memory");
        assert!(!private.is_shared());
        assert_eq!(desk.sum_of_lent(&private), Ok(20_000));
        assert_eq!(desk.sum(private), Ok(20_000));
        let foreign = filled(&other, 5000, 2);
        assert!(foreign.is_shared());
        assert_eq!(desk.sum_of_lent(&foreign), Ok(10_000));
        assert_eq!(desk.back(foreign).map(|bytes| bytes[4999]), Ok(2));
        // A box made by one child can be passed to another.
        let made = desk.make(5000, 3).expect("a call").expect("memory");
        assert_eq!(other.sum(made), Ok(15_000));
    });
}

#[test]
fn a_child_keeps_what_it_was_given_and_gives_it_back_later() {
    both("a_child_keeps_what_it_was_given_and_gives_it_back_later", |start| {
        let desk = start().start().expect("a start");
        let addresses: Vec<_> = (0..40u8)
            .map(|n| {
                let bytes = filled(&desk, 70_000, n);
                let address = bytes.as_ptr();
                assert_eq!(desk.keep(bytes), Ok(usize::from(n) + 1));
                address
            })
            .collect();
        for n in (0..40u8).rev() {
            let back = desk.kept().expect("a call").expect("a box");
            assert!(back.iter().all(|&byte| byte == n));
            assert_eq!(back.as_ptr(), addresses[usize::from(n)]);
        }
        assert!(desk.kept().expect("a call").is_none());
    });
}

#[test]
fn a_constructor_takes_one_too() {
    both("a_constructor_takes_one_too", |start| {
        let first = SharedBox::<[u8]>::copied(&[6; 100_000]).expect("private memory");
        let desk = Desk::bridge_of(first).start().expect("a start");
        assert_eq!(desk.kept().expect("a call").as_deref(), Some(&[6; 100_000][..]));
        drop(start().start().expect("a start"));
    });
}

/// A bridge with memory for four boxes of 1 MiB on each side, whose calls wait for memory for `timeout`.
fn small(start: &dyn Fn() -> Builder<Desk>, timeout: Duration) -> Bridge<Desk> {
    let builder = start().max_payload(1 << 20).memory(4 << 21).timeout(timeout);
    builder.start().expect("a start")
}

const MIB: usize = 1 << 20;

/// Only guards against hangs.
const PLENTY: Duration = Duration::from_secs(20);

#[test]
fn memory_comes_back_whatever_becomes_of_a_box() {
    both("memory_comes_back_whatever_becomes_of_a_box", |start| {
        let desk = small(start, PLENTY);
        let ways: [&dyn Fn(SharedBox<[u8]>); 8] = [
            &drop,
            &|bytes| assert_eq!(desk.sum(bytes), Ok(0)),
            &|bytes| assert_eq!(desk.sum_of_lent(&bytes), Ok(0)),
            &|bytes| drop(desk.back(bytes).expect("a box")),
            &|bytes| drop(desk.edit(bytes).expect("a box")),
            &|bytes| drop(desk.panic_with(bytes).expect_err("a panic")),
            &|bytes| {
                desk.keep(bytes).expect("a call");
                desk.drop_kept().expect("a call");
            },
            &|bytes| {
                drop(bytes);
                drop(desk.make(MIB, 1).expect("a call").expect("memory"));
            },
        ];
        for round in 0..5 {
            for (way, pass) in ways.iter().enumerate() {
                // Three of the four available, so a lost one is soon missed.
                let boxes = [(); 3].map(|()| SharedBox::<[u8]>::zeroed_in(&desk, MIB));
                for bytes in boxes {
                    pass(bytes.unwrap_or_else(|error| panic!("round {round}, way {way}: {error}")));
                }
            }
        }
    });
}

#[test]
fn memory_of_calls_that_were_given_up_comes_back() {
    both("memory_of_calls_that_were_given_up_comes_back", |start| {
        let desk = small(start, PLENTY);
        for _ in 0..8 {
            let hasty = desk.with_timeout(Duration::from_millis(1));
            let bytes = SharedBox::<[u8]>::zeroed_in(&desk, MIB).expect("memory");
            assert!(matches!(hasty.slow_back(bytes, 15), Err(CallError::TimedOut { .. })));
            assert!(matches!(hasty.slow_make(MIB, 15), Err(CallError::TimedOut { .. })));
            // The late replies are dropped together with the boxes in them.
            desk.nothing().expect("a call");
        }
    });
}

#[test]
fn exhaustion_is_an_error_at_the_deadline_or_at_once_in_the_child() {
    both("exhaustion_is_an_error_at_the_deadline_or_at_once_in_the_child", |start| {
        let desk = small(start, Duration::from_secs(1));
        let boxes = [(); 4].map(|()| SharedBox::<[u8]>::zeroed_in(&desk, MIB).expect("memory"));
        let error = SharedBox::<[u8]>::zeroed_in(&desk, MIB).expect_err("all is in use");
        assert_eq!(error, NoMemory::Exhausted { len: MIB as u64, budget: 4 << 20 });
        let error = desk.sum(SharedBox::copied(&vec![1; MIB]).expect("private memory")).expect_err("all is in use");
        assert!(matches!(error, CallError::Exhausted { budget, .. } if budget == 4 << 20), "{error}");
        drop(boxes);
        assert_eq!(desk.sum(filled(&desk, MIB, 1)), Ok(MIB as u64));

        let error = SharedBox::<[u8]>::zeroed_in(&desk, MIB + 1).expect_err("too large");
        assert_eq!(error, NoMemory::TooLarge { len: MIB as u64 + 1, max: MIB as u64 });
        let error = desk.make(MIB + 1, 0).expect("a call").expect_err("too large");
        assert!(error.contains("the limit is 1048576"), "{error}");
    });
}

/// However many large boxes exist here, each in its own segment, the child can still make one.
#[test]
fn either_side_has_segments_of_its_own() {
    both("either_side_has_segments_of_its_own", |start| {
        let desk = start().start().expect("a start");
        let boxes: Vec<_> = (0..1100).map(|_| filled(&desk, 70_000, 1)).collect();
        let made = desk.make(70_000, 2).expect("a call").expect("memory of the child's");
        assert_eq!((desk.sum(made), desk.sum_of_lent(&boxes[1099])), (Ok(140_000), Ok(70_000)));
    });
}

/// A child is told of each segment, and its socket holds a few hundred messages. Who cannot wait is told why.
#[test]
fn a_child_that_is_slow_to_read_is_waited_for() {
    within(PATIENCE, "a_child_that_is_slow_to_read_is_waited_for", || {
        for timeout in [Some(Duration::from_secs(1)), None] {
            let builder = Desk::bridge();
            let builder = if let Some(timeout) = timeout { builder.timeout(timeout) } else { builder };
            let desk = builder.start().expect("a start");
            let signal = |signal| kill(Pid::from_raw(desk.child_pid() as i32), signal).expect("its own child");
            let fill = || (0..1100).map(|_| SharedBox::<[u8]>::zeroed_in(&desk, 70_000)).collect::<Result<Vec<_>, _>>();
            // One that is copied into new memory, because it lies in this process's own.
            let elsewhere = || SharedBox::<[u8]>::zeroed(300_000).expect("memory");

            signal(Signal::SIGSTOP);
            let error = fill().expect_err("nobody reads").to_string();
            assert!(error.contains("70000 bytes: the child does not read its control socket"), "{error}");
            let begin = std::time::Instant::now();
            let error = desk.sum(elsewhere()).expect_err("nobody reads");
            assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
            match timeout {
                Some(_) => assert!(matches!(error, CallError::TimedOut { .. }), "{error}"),
                None => assert!(matches!(error, CallError::Refused { .. }), "{error}"),
            }
            let error = error.to_string();
            assert!(error.contains("control socket") || error.contains("the child did not read"), "{error}");
            let error = desk.begin().sum(elsewhere()).wait().expect_err("it does not wait").to_string();
            assert!(error.contains("300000 bytes") && error.contains("control socket"), "{error}");

            let boxes = std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(200));
                    signal(Signal::SIGCONT);
                });
                fill()
            });
            assert_eq!(desk.sum_of_lent(&boxes.expect("the child reads again")[1099]), Ok(0));
        }
    });
}

#[test]
fn who_waits_for_memory_gets_what_another_gives_back() {
    both("who_waits_for_memory_gets_what_another_gives_back", |start| {
        let builder = start().max_payload(1 << 20).memory(8 << 20).timeout(Duration::from_secs(20));
        let desk = builder.start().expect("a start");
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let desk = &desk;
                scope.spawn(move || {
                    for _ in 0..30 {
                        let back = desk.back(filled(desk, MIB, thread)).expect("a box");
                        assert!(back.iter().all(|&byte| byte == thread));
                    }
                });
            }
        });
    });
}

#[test]
fn a_box_outlives_its_bridge() {
    both("a_box_outlives_its_bridge", |start| {
        let desk = start().start().expect("a start");
        let (own, made) = (filled(&desk, 100_000, 1), desk.make(100_000, 2).expect("a call").expect("memory"));
        let died = desk.die_with(filled(&desk, 100_000, 3));
        assert!(matches!(died, Err(CallError::Died { .. })), "{died:?}");
        drop(desk);
        assert!(own.iter().all(|&byte| byte == 1) && made.iter().all(|&byte| byte == 2));
        let next = start().start().expect("a start");
        assert_eq!((next.sum(own), next.sum(made)), (Ok(100_000), Ok(200_000)));
    });
}

#[test]
fn files_and_sockets_are_read_straight_into_one() {
    use std::io::{Cursor, Write};
    within(PATIENCE, "files_and_sockets_are_read_straight_into_one", || {
        let desk = Desk::bridge().max_payload(1 << 20).start().expect("a start");
        let text: Vec<u8> = (0..300_000u32).map(|at| at.to_le_bytes()[0]).collect();
        for capacity in [0, 1, 300_000, 400_000] {
            let mut writer = SharedWriter::new_in(&desk, capacity).expect("memory");
            assert_eq!(writer.read_to_end_of(&mut &text[..]).expect("a read"), 300_000);
            writer.write_all(b"and more").expect("memory");
            assert_eq!(writer.len(), 300_008);
            let bytes = writer.finish();
            assert!(bytes.is_shared() && bytes[..300_000] == text[..] && bytes[300_000..] == *b"and more");
            let mut back = Vec::new();
            Cursor::new(desk.back(bytes).expect("a box")).read_to_end(&mut back).expect("a read");
            assert_eq!(back.len(), 300_008);
        }

        let (mut near, mut far) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let sender = std::thread::spawn(move || far.write_all(&[1; 200_000]));
        let mut exact = SharedBox::<[u8]>::zeroed_in(&desk, 150_000).expect("memory");
        near.read_exact(&mut exact).expect("a read");
        let mut rest = SharedWriter::new(10).expect("private memory");
        rest.read_to_end_of(&mut near).expect("a read");
        sender.join().expect("no panic").expect("a write");
        assert_eq!((desk.sum(exact), desk.sum(rest.finish())), (Ok(150_000), Ok(50_000)));

        let mut endless = SharedWriter::new_in(&desk, 0).expect("memory");
        let error = endless.read_to_end_of(&mut std::io::repeat(1)).expect_err("beyond max_payload");
        assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("the limit is 1048576"), "{error}");
        assert_eq!(endless.len(), 1 << 20, "what was read before stays");
    });
}

/// Has `left` bytes to give, and records the lengths of the slices that it is asked to fill.
struct Counting {
    left: usize,
    asked: Vec<usize>,
}

impl Read for Counting {
    fn read(&mut self, slice: &mut [u8]) -> io::Result<usize> {
        self.asked.push(slice.len());
        let read = self.left.min(slice.len());
        slice[..read].fill(1);
        self.left -= read;
        Ok(read)
    }
}

#[test]
fn a_writer_grows_in_large_steps_up_to_the_limit() {
    const MAX: usize = 1_000_000;
    within(PATIENCE, "a_writer_grows_in_large_steps_up_to_the_limit", || {
        let desk = Desk::bridge().max_payload(MAX as u64).start().expect("a start");
        for len in [100_000, 540_000, 900_000, MAX - 1] {
            let mut reader = Counting { left: len, asked: Vec::new() };
            let mut writer = SharedWriter::new_in(&desk, 0).expect("memory");
            assert_eq!(writer.read_to_end_of(&mut reader).expect("a read"), len as u64);
            let before_the_last = reader.asked.len().saturating_sub(10);
            let least = reader.asked[..before_the_last].iter().min();
            assert!(least.is_none_or(|&least| least >= 1024), "{len}: {least:?} of {} calls", reader.asked.len());
            assert_eq!(desk.sum(writer.finish()), Ok(len as u64));
        }
    });
}
