//! Faults that no other file covers, each named by its number in docs/RELIABILITY.md: replies forged for every kind of type, misused doorbells,
//! descriptors that are sent, children killed at any time, few CPUs. Each test runs in its own process, which must hold no more afterwards than
//! before.
//!
//! The hostile service writes to the segment that it finds in `/proc/self/maps`; it uses no hook.

#![allow(unreachable_pub)] // Services are written as users write them.

#[path = "support/held.rs"]
mod held;
#[path = "support/raw.rs"]
mod raw;
mod support;

use callgate::rkyv::{self, Archive, Deserialize, Place, Serialize, rancor, ser, with::Skip};
use callgate::{Bridge, CallError, StartError, Viewable, Wait, bridge};
use held::leaving_nothing;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use raw::{CALL, IN_BLOCK, Raw, commit, words};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::thread::{CpuSet, futex, sched_setaffinity};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hint::black_box;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};
use support::{eventually, process_exists};

callgate::test_support!();

const PATIENCE: u64 = 120;

/// A forged reply: its bytes, and for how many milliseconds the true reply is held back.
type Lie = (Vec<u8>, u64);

/// Longer than any test.
const FOR_EVER: u64 = 600_000;

/// Publishes a forged reply to this call.
fn tell((bytes, ms): &Lie) {
    Raw::find().answer(&words(bytes), bytes.len() as u64);
    std::thread::sleep(Duration::from_millis(*ms));
}

#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
enum Shape {
    Dot,
    Line { from: (i32, i32), to: (i32, i32) },
    Named(String, Option<Box<u64>>),
    Poly(Vec<(f32, bool)>),
}

#[derive(Clone, Debug, Default, PartialEq, Archive, Serialize, Deserialize)]
struct Nested {
    flag: bool,
    letter: char,
    inner: Vec<Vec<Option<String>>>,
    last: Option<Box<[u16]>>,
}

/// A kilobyte with an empty archive.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
struct Weightless {
    #[rkyv(with = Skip)]
    _bytes: Kilobyte,
}

#[derive(Clone, Debug)]
struct Kilobyte(#[allow(dead_code)] [u8; 1024]);

impl Default for Kilobyte {
    fn default() -> Self {
        Self([0; 1024])
    }
}

/// A list, which `Deep` can also archive by hand: without recursion, however deep.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(
    serialize_bounds(__S: ser::Writer + ser::Allocator, __S::Error: rancor::Source),
    deserialize_bounds(__D::Error: rancor::Source),
    bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rancor::Source))
)]
struct List {
    #[rkyv(omit_bounds)]
    next: Option<Box<List>>,
    number: u32,
}

#[derive(Debug)]
struct Deep(u32, Written);

/// How `Deep` is written: node by node, or in one piece, so that nothing checks it before it is sent.
#[derive(Debug, PartialEq)]
enum Written {
    Node,
    Whole,
}

impl Archive for Deep {
    type Archived = ArchivedList;
    type Resolver = ();

    fn resolve(&self, (): (), out: Place<ArchivedList>) {
        // SAFETY: the address of a place; nothing is written yet.
        let words = unsafe { out.ptr() }.cast::<[u64; 3]>();
        // SAFETY: writes three words: a next node exists, it is the one just before (32 bytes back), and a number.
        unsafe { words.write([1, 32u64.wrapping_neg(), 0]) };
    }
}

impl<S: rancor::Fallible + ser::Writer + ?Sized> Serialize<S> for Deep {
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        let node = |has_next: u64| [has_next, 32u64.wrapping_neg(), 7].map(u64::to_le_bytes).concat();
        if self.1 == Written::Whole {
            return serializer.write(&[node(0), node(1).repeat(self.0 as usize)].concat());
        }
        serializer.write(&node(0))?;
        (0..self.0).try_for_each(|_| serializer.write(&node(1)))
    }
}

impl<D: rancor::Fallible + ?Sized> Deserialize<Deep, D> for ArchivedList {
    fn deserialize(&self, _: &mut D) -> Result<Deep, D::Error> {
        Ok(Deep(self.number.to_native(), Written::Node))
    }
}

struct Hostile;

#[bridge]
impl Hostile {
    pub fn new() -> Self {
        Hostile
    }

    pub fn add(&self, n: u64) -> u64 {
        n + 1
    }

    pub fn echo(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    pub fn sleep(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    // ---- forged replies --------------------------------------------------------------------------------------------

    pub fn text(&self, lie: Lie) -> String {
        tell(&lie);
        String::new()
    }

    pub fn numbers(&self, lie: Lie) -> Vec<u64> {
        tell(&lie);
        Vec::new()
    }

    pub fn tuple(&self, lie: Lie) -> (u8, i128, Option<f64>, [u16; 3]) {
        tell(&lie);
        (0, 0, None, [0; 3])
    }

    pub fn shapes(&self, lie: Lie) -> Vec<Shape> {
        tell(&lie);
        Vec::new()
    }

    pub fn nested(&self, lie: Lie) -> Nested {
        tell(&lie);
        Nested::default()
    }

    pub fn outcome(&self, lie: Lie) -> Result<Box<str>, BTreeSet<i16>> {
        tell(&lie);
        Err(BTreeSet::new())
    }

    pub fn map(&self, lie: Lie) -> HashMap<u32, u32> {
        tell(&lie);
        HashMap::new()
    }

    pub fn set(&self, lie: Lie) -> HashSet<String> {
        tell(&lie);
        HashSet::new()
    }

    pub fn tree(&self, lie: Lie) -> BTreeMap<String, VecDeque<u8>> {
        tell(&lie);
        BTreeMap::new()
    }

    pub fn units(&self, lie: Lie) -> Vec<()> {
        tell(&lie);
        Vec::new()
    }

    pub fn weightless(&self, lie: Lie) -> Vec<Weightless> {
        tell(&lie);
        Vec::new()
    }

    pub fn unit_lists(&self, lie: Lie) -> Vec<Vec<()>> {
        tell(&lie);
        Vec::new()
    }

    pub fn unit_set(&self, lie: Lie) -> HashSet<()> {
        tell(&lie);
        HashSet::new()
    }

    pub fn honest_units(&self, count: usize) -> Vec<()> {
        vec![(); count]
    }

    pub fn deep(&self, depth: u32) -> Deep {
        Deep(depth, Written::Node)
    }

    pub fn forged_deep(&self, depth: u32) -> Deep {
        Deep(depth, Written::Whole)
    }

    /// From now on, two threads change replies: one those in slots (their commit words and the names of blocks), the other the contents of blocks.
    pub fn hammer(&self) {
        std::thread::spawn(|| {
            let raw = Raw::find();
            for round in 0u64.. {
                let position = raw.started();
                let position = position.saturating_sub(round % 2);
                let word = raw.reply(position, 0).load(Relaxed);
                let flips = [word ^ 0x300, word ^ IN_BLOCK, word ^ 0x8_0000, word & !0xff, commit(position, 4, CALL)];
                raw.reply(position, 0).store(flips[round as usize % flips.len()], Relaxed);
                raw.reply(position, 2 + round % 4).fetch_xor(1 << (round % 40), Relaxed);
                raw.reply(position, 2 + round % 4).fetch_xor(1 << (round % 40), Relaxed);
                raw.reply(position, 0).store(word, Release);
            }
        });
        std::thread::spawn(|| {
            for round in 0u8.. {
                // Every block that may hold replies.
                for (start, end) in reply_segments() {
                    for at in (start..end).step_by(64) {
                        // SAFETY: the child's own memory, which stays mapped while this bridge is small; no reference to it exists.
                        unsafe {
                            ((at + usize::from(round % 8) * 8) as *mut u64).write_volatile(u64::MAX << (round % 64))
                        };
                    }
                }
            }
        });
    }

    // ---- descriptors -----------------------------------------------------------------------------------------------

    /// Sends `count` descriptors of type `what` along with a control message. Returns the kernel's answer.
    pub fn send_descriptors(&self, what: &str, count: usize) -> Result<(), String> {
        let descriptor: OwnedFd = match what {
            "pipe" => rustix::pipe::pipe().expect("a pipe").0,
            _ => std::fs::File::open("/proc/self/exe").expect("a file").into(),
        };
        let rights = vec![descriptor.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(count == 0 || ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
        let need = [3u64, 1 << 20, 0].map(u64::to_le_bytes).concat();
        let sent = sendmsg(control_socket(), &[IoSlice::new(&need)], &mut ancillary, SendFlags::NOSIGNAL);
        sent.map(drop).map_err(|error| error.to_string())
    }

    // ---- doorbells -------------------------------------------------------------------------------------------------

    /// From now on, wakes all sleepers on the segment's words and, if `scribbles`, overwrites the words.
    pub fn storm(&self, scribbles: bool) {
        std::thread::spawn(move || {
            let raw = Raw::find();
            for round in 0u32.. {
                for bell in [Raw::CALLER_BELL, Raw::WORKER_BELL] {
                    let word = raw.bell(bell);
                    if scribbles {
                        word.store(round.wrapping_mul(0x9e37_79b9), Relaxed);
                        raw.bell(bell + 4).store(round % 5, Relaxed);
                    }
                    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
                }
            }
        });
    }

    /// From now on, moves the sleepers on the caller's word to another word, where nothing wakes them.
    pub fn requeue(&self) {
        std::thread::spawn(|| {
            let raw = Raw::find();
            let (bell, elsewhere) = (raw.bell(Raw::CALLER_BELL), raw.bell(Raw::STARTED + 64));
            loop {
                let _ =
                    futex::cmp_requeue(bell, futex::Flags::empty(), 0, i32::MAX as u32, elsewhere, bell.load(Relaxed));
            }
        });
    }
}

/// The address ranges of the segments that may hold this child's replies.
fn reply_segments() -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let number = |hex| usize::from_str_radix(hex, 16).expect("an address");
    let writable = maps.lines().filter(|line| line.contains(" rw-s ") && line.contains("memfd:callgate"));
    let segments = writable.filter(|line| !line.contains("memfd:callgate "));
    let ranges = segments.filter_map(|line| line.split_whitespace().next()?.split_once('-'));
    ranges.map(|(start, end)| (number(start), number(end))).collect()
}

/// The only socket of this process.
fn control_socket() -> BorrowedFd<'static> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
    let sockets = entries
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")));
    let number = sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).next().expect("a socket");
    // SAFETY: the control socket, which stays open as long as the process.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// One lane, so that the attacker knows which one it is.
fn start_waiting(wait: Wait) -> Bridge<Hostile> {
    Hostile::bridge()
        .concurrent_callers(1)
        .wait(wait)
        .timeout(Duration::from_secs(60))
        .start()
        .expect("the bridge starts")
}

/// The caller polls, because an attacker need not ring the bell.
fn start() -> Bridge<Hostile> {
    start_waiting(Wait::Spin)
}

fn fault(test: &str, body: impl FnOnce()) {
    leaving_nothing(test, PATIENCE, || drop(start()), body);
}

/// Checks that the child was killed for its reply.
#[track_caller]
fn assert_corrupt<R: Debug>(bridge: &Bridge<Hostile>, result: Result<R, CallError>, case: &str) {
    assert!(matches!(result, Err(CallError::Corrupt { .. })), "{case}: {result:?}");
    let pid = bridge.child_pid();
    assert!(eventually(10, "the child is gone", || !process_exists(pid)), "{case}");
    assert!(matches!(bridge.add(1), Err(CallError::Corrupt { .. })), "{case}");
}

// ---- replies -------------------------------------------------------------------------------------------------------

/// A type of reply: its honest archive, and a call that must return it. The call returns the value's `Debug` text.
struct Kind {
    name: &'static str,
    honest: Vec<u8>,
    call: fn(&Bridge<Hostile>, Lie) -> Result<String, CallError>,
}

fn kinds() -> Vec<Kind> {
    macro_rules! kind {
        ($method:ident, $honest:expr) => {
            Kind {
                name: stringify!($method),
                honest: rkyv::to_bytes::<rancor::Error>(&$honest).expect("an archive").to_vec(),
                call: |bridge, lie| bridge.$method(lie).map(|value| format!("{value:?}")),
            }
        };
    }
    let text = || String::from("a text that is too long to stay where it is named");
    let shapes = || {
        let line = Shape::Line { from: (-1, 2), to: (3, -4) };
        vec![Shape::Dot, line, Shape::Named(text(), Some(Box::new(7))), Shape::Poly(vec![(1.5, true), (-2.5, false)])]
    };
    let nested = Nested {
        flag: true,
        letter: 'ä',
        inner: vec![vec![], vec![None, Some(text()), Some("short".into())]],
        last: Some(Box::new([1, 2, 3])),
    };
    vec![
        kind!(text, text()),
        kind!(numbers, vec![u64::MAX; 6]),
        kind!(tuple, (7u8, i128::MAX, Some(0.5f64), [1u16, 2, 3])),
        kind!(shapes, shapes()),
        kind!(nested, nested),
        kind!(outcome, Ok::<Box<str>, BTreeSet<i16>>(text().into())),
        kind!(outcome, Err::<Box<str>, BTreeSet<i16>>((0..9).collect())),
        kind!(map, (0..12u32).map(|n| (n, n * n)).collect::<HashMap<_, _>>()),
        kind!(set, (0..5).map(|n| format!("{n} {}", text())).collect::<HashSet<_>>()),
        kind!(tree, (0..5u8).map(|n| (format!("{n}"), VecDeque::from(vec![n; 3]))).collect::<BTreeMap<_, _>>()),
    ]
}

#[test]
fn fault_02_replies_in_blocks_that_change_while_they_are_read_are_values_or_errors() {
    fault("fault_02_replies_in_blocks_that_change_while_they_are_read_are_values_or_errors", || {
        let (mut values, mut errors) = (0, 0);
        // On a busy machine the first call may meet a lie each time, so go on until some have been answered.
        for round in 0..100 {
            if round >= 12 && values > 0 {
                break;
            }
            let bridge = start();
            bridge.echo(&[1; 1 << 20]).expect("a megabyte");
            let _ = bridge.with_timeout(Duration::from_secs(1)).hammer();
            let end = Instant::now() + Duration::from_millis(300);
            for len in [600, 5000, 70_000, 200_000, 1 << 20].into_iter().cycle() {
                let bridge = bridge.with_timeout(Duration::from_millis(500));
                match bridge.echo(&vec![1; len]) {
                    // The contents may have been overwritten, but not the length.
                    Ok(bytes) => values += usize::from(black_box(bytes).len() <= 2 << 20),
                    Err(CallError::Corrupt { .. } | CallError::TimedOut { .. } | CallError::Exhausted { .. }) => {
                        errors += 1;
                        break;
                    }
                    Err(error) => panic!("round {round}: {error}"),
                }
                if Instant::now() > end {
                    break;
                }
            }
            bridge.kill();
        }
        assert!(values > 0, "no call was answered ({errors} errors)");
    });
}

#[test]
fn fault_03_replies_truncated_at_every_length_are_refused() {
    fault("fault_03_replies_truncated_at_every_length_are_refused", || {
        for Kind { name, honest, call } in kinds() {
            let bridge = start();
            assert!(call(&bridge, (honest.clone(), FOR_EVER)).is_ok(), "{name}, whole");
            bridge.kill();
            // Every length for two of them, and so every alignment of the root; some lengths for the others.
            let step = if ["text", "numbers"].contains(&name) { 1 } else { 1 + honest.len() / 12 };
            for len in (0..honest.len()).step_by(step) {
                let bridge = start();
                match call(&bridge, (honest[..len].to_vec(), FOR_EVER)) {
                    // The end of the archive's parts may itself be an archive of the type.
                    Ok(value) => assert!(len > 0 && !value.is_empty(), "{name}, {len} bytes: {value}"),
                    refused => assert_corrupt(&bridge, refused, &format!("{name}, {len} bytes")),
                }
                bridge.kill();
            }
        }
    });
}

/// Sends a lie about `kind`. Any accepted reply is a value of the type. Starts another bridge if the child was killed for the lie.
fn lie(bridge: &mut Bridge<Hostile>, kind: &Kind, bytes: Vec<u8>, case: &str) -> bool {
    match (kind.call)(bridge, (bytes, 1)) {
        Ok(_) => return true,
        Err(CallError::Corrupt { .. }) => *bridge = start(),
        Err(error) => panic!("{}, {case}: {error}", kind.name),
    }
    false
}

#[test]
fn fault_04_random_flips_are_errors_or_values() {
    fault("fault_04_random_flips_are_errors_or_values", || {
        let (mut bridge, mut random) = (start(), 0x9e37_79b9_7f4a_7c15u64);
        let mut next = |end: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize % end
        };
        for kind in kinds() {
            for round in 0..40 {
                let mut bytes = kind.honest.clone();
                let flips: Vec<_> = (0..=next(3)).map(|_| (next(bytes.len()), next(8))).collect();
                flips.iter().for_each(|(at, bit)| bytes[*at] ^= 1 << bit);
                lie(&mut bridge, &kind, bytes, &format!("round {round}: {flips:?}"));
            }
        }
        assert_eq!(bridge.add(1), Ok(2));
    });
}

/// Whether a type can be viewed. For types that can, the inherent constant shadows this one.
trait NotViewable {
    const VIEWABLE: bool = false;
}

struct Looked<T>(PhantomData<T>);

impl<T> NotViewable for Looked<T> {}

impl<T: Viewable> Looked<T> {
    const VIEWABLE: bool = true;
}

#[test]
fn fault_05_forged_tables_are_values_or_errors() {
    fault("fault_05_forged_tables_are_values_or_errors", || {
        const {
            assert!(Looked::<rkyv::Archived<Vec<u8>>>::VIEWABLE);
            assert!(!Looked::<rkyv::Archived<HashMap<u32, u32>>>::VIEWABLE);
            assert!(!Looked::<rkyv::Archived<HashSet<String>>>::VIEWABLE);
            assert!(!Looked::<rkyv::Archived<BTreeMap<u32, u32>>>::VIEWABLE);
        }
        let honest: HashMap<u32, u32> = (0..10).map(|n| (n, n)).collect();
        let bytes = rkyv::to_bytes::<rancor::Error>(&honest).expect("an archive").to_vec();
        let mut bridge = start();
        for at in 0..bytes.len() {
            for value in [0, 0x80, 0xff, bytes[at] ^ 1] {
                let mut forged = bytes.clone();
                forged[at] = value;
                match bridge.map((forged, 1)) {
                    Ok(map) => {
                        assert!(map.iter().all(|(key, value)| map.get(key) == Some(value)), "byte {at}: {value}")
                    }
                    Err(CallError::Corrupt { .. }) => bridge = start(),
                    Err(error) => panic!("byte {at}, {value}: {error}"),
                }
            }
        }
    });
}

#[test]
fn fault_06_a_reply_200_000_deep_is_refused() {
    fault("fault_06_a_reply_200_000_deep_is_refused", || {
        let bridge = start();
        assert_eq!(bridge.deep(100).expect("not too deep").0, 0);
        // If the child is honest, the call fails and the bridge keeps working.
        for depth in [1000, 200_000] {
            let honest = bridge.deep(depth);
            assert!(matches!(honest, Err(CallError::TooDeep { .. })), "{depth} deep: {honest:?}");
            let viewed = bridge.view().deep(depth).map(drop);
            assert!(matches!(viewed, Err(CallError::TooDeep { .. })), "{depth} deep, viewed: {viewed:?}");
        }
        assert_eq!(bridge.deep(200).expect("not too deep").0, 0);
        // A child that forges such a reply breaks the protocol.
        assert_eq!(bridge.forged_deep(200).expect("not too deep").0, 0);
        for depth in [1000, 200_000] {
            let bridge = start();
            assert_corrupt(&bridge, bridge.forged_deep(depth), &format!("{depth} deep"));
            let bridge = start();
            assert_corrupt(&bridge, bridge.view().forged_deep(depth).map(drop), &format!("{depth} deep, viewed"));
        }
        // On a thread's usual stack, and on a smaller one.
        for stack in [2 << 20, 128 << 10] {
            let thread = std::thread::Builder::new().stack_size(stack).spawn(move || {
                let bridge = start();
                assert_corrupt(&bridge, bridge.forged_deep(200_000), "on a thread");
            });
            thread.expect("a thread").join().expect("no overflow");
        }
    });
}

#[test]
fn fault_07_claims_of_elements_without_size_are_refused() {
    fault("fault_07_claims_of_elements_without_size_are_refused", || {
        // A list: a pointer to itself, and its number of elements.
        let claim = |count: u64| [0u64, count].map(u64::to_le_bytes).concat();
        // Lists side by side, each pointing to the start of the first, and the list of them.
        let lists = |lists: u64, count: u64| {
            let inner = (0..lists).map(|at| [(16 * at).wrapping_neg(), count]);
            inner.chain([[(16 * lists).wrapping_neg(), lists]]).flatten().flat_map(u64::to_le_bytes).collect::<Vec<_>>()
        };
        const MANY: u64 = u32::MAX as u64;
        type Call = fn(&Bridge<Hostile>, Lie) -> Result<(), CallError>;
        let units: Call = |bridge, lie| bridge.units(lie).map(drop);
        let weightless: Call = |bridge, lie| bridge.weightless(lie).map(drop);
        let unit_lists: Call = |bridge, lie| bridge.unit_lists(lie).map(drop);
        let cases: [(&str, Call, Vec<u8>); 9] = [
            ("2^32 - 1 units", units, claim(MANY)),
            ("2^32 - 1 units, viewed", |bridge, lie| bridge.view().units(lie).map(drop), claim(MANY)),
            ("somewhat too many", units, claim(70_000)),
            ("2^64 - 1 units", units, claim(u64::MAX)),
            ("4 TiB of values", weightless, claim(MANY)),
            ("1 GiB of values", weightless, claim(1 << 20)),
            ("lists of 2^32 - 1", unit_lists, lists(33, MANY)),
            ("lists that are too many together", unit_lists, lists(33, 4000)),
            ("one list of many", unit_lists, lists(1, MANY)),
        ];
        for (case, call, bytes) in cases {
            let bridge = start();
            let result = call(&bridge, (bytes, FOR_EVER));
            let said = result.as_ref().map_or_else(ToString::to_string, |()| String::new());
            assert!(said.contains("more zero-sized elements"), "{case}: {said}");
            assert_corrupt(&bridge, result, case);
        }
        let bridge = start();
        assert_corrupt(&bridge, bridge.unit_set(([claim(MANY), vec![0; 8]].concat(), FOR_EVER)), "a set");
        assert_eq!(start().units((claim(65_536), FOR_EVER)).map(|units| units.len()), Ok(65_536));
        assert_eq!(start().unit_lists((lists(33, 1800), FOR_EVER)).map(|lists| lists.concat().len()), Ok(59_400));
        assert_eq!(start().honest_units(65_536).map(|units| units.len()), Ok(65_536));
    });
}

// ---- the control socket --------------------------------------------------------------------------------------------

#[test]
fn fault_08_descriptors_that_a_child_sends_never_arrive() {
    fault("fault_08_descriptors_that_a_child_sends_never_arrive", || {
        for what in ["pipe", "file"] {
            for count in [1, 2, 253] {
                let bridge = start();
                match bridge.send_descriptors(what, count) {
                    // Since Linux 6.16 the kernel refuses to pass them on, and the child stays alive.
                    Ok(Err(_)) => assert_eq!(bridge.add(1), Ok(2)),
                    Ok(Ok(())) | Err(CallError::Corrupt { .. }) => {
                        assert!(eventually(10, "the child is killed", || !bridge.is_alive()), "{what}, {count}");
                    }
                    Err(error) => panic!("{what}, {count}: {error}"),
                }
            }
        }
        // A valid message at a time when an idle child would not send it: a request for memory within the budget.
        let bridge = start();
        assert_eq!(bridge.send_descriptors("none", 0), Ok(Ok(())));
        assert_eq!(bridge.add(1), Ok(2));
    });
}

// ---- doorbells -----------------------------------------------------------------------------------------------------

/// The CPU time of this thread.
fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn storms() {
    for scribbles in [false, true] {
        let bridge = start_waiting(Wait::Park);
        let _ = bridge.with_timeout(Duration::from_secs(5)).storm(scribbles);
        let answered = (0..200).filter(|n| {
            let answer = bridge.with_timeout(Duration::from_secs(5)).add(*n);
            assert!(matches!(answer, Err(CallError::TimedOut { .. })) || answer == Ok(n + 1), "{answer:?}");
            answer.is_ok()
        });
        // A child that overwrites its own doorbell may miss a notification.
        assert!(answered.count() > if scribbles { 0 } else { 199 });
        let (before, begun) = (thread_time(), Instant::now());
        let late = bridge.with_timeout(Duration::from_millis(700)).sleep(20_000);
        assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
        let (spent, took) = (thread_time() - before, begun.elapsed());
        assert!(spent < took / 2, "a caller that sleeps spent {spent:?} of {took:?}");
        bridge.kill();
    }
}

fn requeues() {
    for round in 0..10 {
        let bridge = start_waiting(Wait::Park);
        // A caller whose wait was moved is not woken, so the call ends at its deadline.
        let _ = bridge.with_timeout(Duration::from_millis(100)).requeue();
        let answer = bridge.with_timeout(Duration::from_millis(100)).add(round);
        assert!(matches!(answer, Err(CallError::TimedOut { .. })) || answer == Ok(round + 1), "{answer:?}");
        let pid = bridge.child_pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20 + 5 * round));
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL)
        });
        // Without a deadline, only the child's death ends the call.
        let died = bridge.with_timeout(Duration::MAX).sleep(FOR_EVER);
        assert!(matches!(died, Err(CallError::Died { .. })), "{died:?}");
        killer.join().expect("no panic").expect("it was there");
        let late = start_waiting(Wait::Park);
        let _ = late.with_timeout(Duration::from_millis(100)).requeue();
        let late = late.with_timeout(Duration::from_millis(20)).sleep(1000);
        assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
    }
}

#[test]
fn fault_09_a_wake_storm_is_answered_and_slept_through() {
    fault("fault_09_a_wake_storm_is_answered_and_slept_through", storms);
}

#[test]
fn fault_09_a_waiter_that_was_moved_away_hears_of_the_death() {
    fault("fault_09_a_waiter_that_was_moved_away_hears_of_the_death", requeues);
}

/// Makes the kernel behave as before Linux 5.16, which does not know `futex_waitv`, for this thread and all that it starts later.
fn forget_futex_waitv() {
    let load = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let is_waitv = libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_futex_waitv as u32 };
    let unknown = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32 };
    let allow = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let mut filter = [load, is_waitv, unknown, allow];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: changes only what later system calls of this thread may do.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the kernel copies the program before the call returns.
    let filtered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(filtered, 0, "{}", std::io::Error::last_os_error());
    let none = futex::waitv(&[], futex::WaitvFlags::empty(), None, futex::ClockId::Monotonic);
    assert_eq!(none, Err(rustix::io::Errno::NOSYS));
}

#[test]
fn fault_09_the_same_without_futex_waitv() {
    let first = || {
        forget_futex_waitv();
        drop(start());
    };
    leaving_nothing("fault_09_the_same_without_futex_waitv", PATIENCE, first, || {
        storms();
        requeues();
    });
}

// ---- death at any time ---------------------------------------------------------------------------------------------

/// How many children the test kills.
const KILLS: u64 = 300;

#[test]
fn fault_12_a_kill_at_any_time_is_a_value_or_a_death() {
    fault("fault_12_a_kill_at_any_time_is_a_value_or_a_death", || {
        let (mut values, mut deaths, mut unborn) = (0, 0, 0);
        for round in 0..KILLS {
            let wait = [Wait::Adaptive, Wait::Park, Wait::Spin][round as usize % 3];
            let delay = Duration::from_micros(round.wrapping_mul(7919) % 3000);
            let bridge = match start_killed(wait, (round % 4 == 0).then_some(delay)) {
                Ok(bridge) => bridge,
                Err(StartError::Died { .. }) => {
                    unborn += 1;
                    continue;
                }
                Err(error) => panic!("round {round}: {error}"),
            };
            let pid = bridge.child_pid();
            let killer = std::thread::spawn(move || {
                std::thread::sleep(delay);
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            });
            for len in [0, 8, 100, 2000, 300_000].into_iter().cycle() {
                match bridge.echo(&vec![3; len]) {
                    Ok(bytes) => {
                        assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == 3), "round {round}");
                        values += 1;
                    }
                    Err(CallError::Died { .. }) => {
                        deaths += 1;
                        break;
                    }
                    Err(error) => panic!("round {round}: {error}"),
                }
            }
            killer.join().expect("no panic");
        }
        assert!(deaths > 0 && values > 0, "{values} values, {deaths} deaths, {unborn} in the handshake");
    });
}

/// Starts a bridge whose child may be killed during its start, `after` that time.
fn start_killed(wait: Wait, after: Option<Duration>) -> Result<Bridge<Hostile>, StartError> {
    let known: HashSet<_> = held::children().into_iter().collect();
    std::thread::scope(|scope| {
        let killer = after.map(|after| {
            scope.spawn(move || {
                let newborn = || held::children().into_iter().find(|pid| !known.contains(pid));
                let deadline = Instant::now() + Duration::from_secs(5);
                while Instant::now() < deadline {
                    let Some(pid) = newborn().and_then(|pid| pid.parse().ok()) else { continue };
                    std::thread::sleep(after / 4);
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    return;
                }
            })
        });
        let started = Hostile::bridge().concurrent_callers(1).wait(wait).start();
        if let Some(killer) = killer {
            killer.join().expect("no panic");
        }
        started
    })
}

// ---- few CPUs ------------------------------------------------------------------------------------------------------

fn stay_on_one_cpu() {
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).expect("CPU 0 is there");
}

/// Makes calls from `threads` threads at once, and checks every answer.
fn ask(wait: Wait, threads: u64, calls: u64) {
    let bridge = Hostile::bridge().wait(wait).start().expect("the bridge starts");
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let bridge = &bridge;
            scope.spawn(move || {
                (0..calls).for_each(|n| assert_eq!(bridge.add(thread << 32 | n), Ok((thread << 32 | n) + 1)))
            });
        }
    });
}

#[test]
fn fault_22_one_cpu_is_enough_and_nobody_spins_on_it() {
    let first = || {
        stay_on_one_cpu();
        drop(start());
    };
    leaving_nothing("fault_22_one_cpu_is_enough_and_nobody_spins_on_it", PATIENCE, first, || {
        for wait in [Wait::Adaptive, Wait::Park] {
            ask(wait, 1, 2000);
            ask(wait, 8, 200);
            let bridge = start_waiting(wait);
            let (before, begun) = (thread_time(), Instant::now());
            (0..20).for_each(|_| bridge.sleep(20).expect("an answer"));
            let (spent, took) = (thread_time() - before, begun.elapsed());
            assert!(spent < took / 2, "{wait:?}: a caller that waits spent {spent:?} of {took:?}");
        }
        ask(Wait::Spin, 1, 100);
    });
}

#[test]
fn fault_22_eight_callers_for_each_cpu_are_answered() {
    fault("fault_22_eight_callers_for_each_cpu_are_answered", || {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        for wait in [Wait::Adaptive, Wait::Park] {
            ask(wait, 8 * cpus, 500);
        }
    });
}
