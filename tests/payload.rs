//! Payloads of every size arrive whole, in both directions. A payload beyond `max_payload` is refused with an error that names it, and the bridge
//! keeps working. Memory for large payloads is bounded. A reply nested too deep for the caller's stack is refused. Every value of every type comes
//! back equal.

#![allow(unreachable_pub)] // Services are written as users write them.

#[path = "support/held.rs"]
mod held;
mod support;

use callgate::{Bridge, CallError, Payload, SharedBox, Started, bridge};
use held::alone;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rkyv::rancor::Source;
use rkyv::ser::{Allocator, Writer};
use rkyv::validation::ArchiveContext;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::{NonZeroI64, NonZeroIsize, NonZeroU8, NonZeroU128, NonZeroUsize};
use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use support::within;

callgate::test_support!();

/// Seconds after which a hanging test is aborted. Unoptimised validation of megabytes is slow.
const PATIENCE: u64 = 240;

const MIB: usize = 1 << 20;

/// The largest power of two around which every size is tried: what an unoptimised build can check in time, or more.
const LARGEST_POWER: usize = if cfg!(debug_assertions) { 24 } else { 26 };

/// A list whose archive has as many levels as the list has nodes.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(
    derive(callgate::Viewable),
    serialize_bounds(__S: Writer + Allocator, __S::Error: Source),
    deserialize_bounds(__D::Error: Source),
    bytecheck(bounds(__C: ArchiveContext, __C::Error: Source))
)]
struct List {
    #[rkyv(omit_bounds)]
    next: Option<Box<List>>,
    number: u32,
}

impl List {
    /// A list of the numbers `len - 1` to 0.
    fn new(len: u32) -> Self {
        (1..len).fold(List { next: None, number: 0 }, |next, number| List { next: Some(Box::new(next)), number })
    }

    fn len(&self) -> u32 {
        std::iter::successors(Some(self), |list| list.next.as_deref()).count() as u32
    }
}

/// A list that is dropped node by node, which takes no stack however long the list is.
#[derive(Archive, Serialize, Deserialize)]
struct Shallow(List);

impl Drop for Shallow {
    fn drop(&mut self) {
        let mut next = self.0.next.take();
        while let Some(mut node) = next {
            next = node.next.take();
        }
    }
}

/// A list whose nodes take 16 KiB each.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(
    derive(callgate::Viewable),
    serialize_bounds(__S: Writer + Allocator, __S::Error: Source),
    deserialize_bounds(__D::Error: Source),
    bytecheck(bounds(__C: ArchiveContext, __C::Error: Source))
)]
struct Heavy {
    bytes: [u8; 16 << 10],
    #[rkyv(omit_bounds)]
    next: Option<Box<Heavy>>,
}

impl Heavy {
    fn new(len: u32) -> Box<Self> {
        let node = |next| Box::new(Heavy { bytes: [3; 16 << 10], next });
        (1..len).fold(node(None), |next, _| node(Some(next)))
    }

    fn len(&self) -> u32 {
        std::iter::successors(Some(self), |list| list.next.as_deref()).map(|list| u32::from(list.bytes[9] / 3)).sum()
    }
}

/// Runs `run` on a thread with a stack of `size` bytes.
fn with_stack<R: Send + 'static>(size: usize, run: impl FnOnce() -> R + Send + 'static) -> R {
    let thread = std::thread::Builder::new().stack_size(size).spawn(run);
    thread.expect("a thread").join().expect("no overflow")
}

static CALLS: AtomicU64 = AtomicU64::new(0);

struct Mirror;

#[bridge]
impl Mirror {
    pub fn new() -> Self {
        Mirror
    }
    pub fn bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
    pub fn slice(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
    pub fn string(&self, text: String) -> String {
        text
    }
    pub fn text(&self, text: &str) -> String {
        text.to_owned()
    }
    /// The number of calls of this method and of `take`.
    pub fn calls(&self) -> u64 {
        CALLS.fetch_add(1, Relaxed)
    }
    pub fn take(&self, _: &str) {
        CALLS.fetch_add(1, Relaxed);
    }
    /// A large request, a small reply.
    pub fn len(&self, bytes: &[u8]) -> u64 {
        bytes.len() as u64
    }
    /// A small request, a large reply.
    pub fn make(&self, len: u64) -> Vec<u8> {
        vec![7; len as usize]
    }
    pub fn make_text(&self, len: u64) -> String {
        "x".repeat(len as usize)
    }
    /// A large request, a small reply, and no reading of every byte.
    pub fn text_len(&self, text: &str) -> usize {
        text.len()
    }
    pub fn heavy(&self, len: u32) -> Box<Heavy> {
        Heavy::new(len)
    }
    pub fn heavy_len(&self, list: Box<Heavy>) -> u32 {
        list.len()
    }
    pub fn list_len(&self, list: List) -> u32 {
        list.len()
    }
    pub fn shallow(&self, len: u32) -> Shallow {
        Shallow(List::new(len))
    }
    pub fn shallow_error(&self, len: u32) -> Result<u8, Vec<Shallow>> {
        Err(vec![Shallow(List::new(len))])
    }
    pub fn shallow_len(&self, list: Shallow) -> u32 {
        list.0.len()
    }
    pub fn shallow_ref_len(&self, list: &Shallow) -> u32 {
        list.0.len()
    }
    pub fn outcome(&self, len: u32) -> Result<u8, Vec<List>> {
        Err(vec![List::new(len)])
    }
    pub fn units(&self, count: u64) -> Vec<()> {
        vec![(); count as usize]
    }
    pub fn units_len(&self, units: Vec<()>) -> u64 {
        units.len() as u64
    }
    pub fn two_boxes(&self, len: u64) -> (SharedBox<[u8]>, SharedBox<[u8]>) {
        let make = || SharedBox::<[u8]>::zeroed(len as usize).expect("as much memory");
        (make(), make())
    }
    pub fn panic(&self, len: u64) {
        panic!("{}", "so long ".repeat(len as usize / 8));
    }
    pub fn texts(&self, count: u64) -> Vec<String> {
        (0..count).map(|number| format!("a text with a place of its own: {number}")).collect()
    }
    pub fn list(&self, len: u32) -> List {
        List::new(len)
    }
    pub fn map(&self, len: u64) -> HashMap<u64, String> {
        (0..len).map(|n| (n, format!("value {n}"))).collect()
    }
}

/// `len` bytes, from `at` on, of an endless text without a short period.
fn sample(at: usize, len: usize) -> String {
    const LONGEST: usize = (1 << LARGEST_POWER) + 1 + 256;
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let mut text = String::with_capacity(LONGEST + 8);
        for n in 0u64.. {
            if text.len() >= LONGEST {
                break;
            }
            text.push_str(&n.to_string());
        }
        text
    });
    TEXT[at..at + len].to_owned()
}

/// Checks that bytes and text of this length come back unchanged, owned and borrowed.
#[track_caller]
fn echoes(mirror: &Bridge<Mirror>, at: usize, len: usize) {
    let text = sample(at, len);
    // Not `assert_eq`, which would print megabytes.
    let same = |back: Result<Vec<u8>, CallError>| back.expect("an echo") == text.as_bytes();
    assert!(same(mirror.slice(text.as_bytes())), "a slice of {len} bytes");
    // An unoptimised build checks a vector too slowly to do it twice for every large one.
    assert!(
        cfg!(debug_assertions) && len > MIB || same(mirror.bytes(text.clone().into_bytes())),
        "a vector of {len} bytes"
    );
    assert!(same(mirror.text(&text).map(String::into_bytes)), "a text of {len} bytes");
    assert!(same(mirror.string(text.clone()).map(String::into_bytes)), "a string of {len} bytes");
}

#[test]
fn sizes_around_the_end_of_a_slot() {
    within(PATIENCE, "sizes_around_the_end_of_a_slot", || {
        for slot_size in [1, 64, 192, 576, 1984] {
            let mirror = Mirror::bridge().slot_size(slot_size).start().expect("the bridge starts");
            let edge = (slot_size.div_ceil(64) | 1) * 64 - 16;
            for len in (0..100).chain(edge.saturating_sub(60)..edge + 40) {
                echoes(&mirror, len % 200, len);
            }
        }
    });
}

#[test]
fn sizes_around_every_power_of_two() {
    within(PATIENCE, "sizes_around_every_power_of_two", || {
        let mirror = Mirror::bridge().start().expect("the bridge starts");
        for power in 7..=LARGEST_POWER {
            for len in [(1 << power) - 1, 1 << power, (1 << power) + 1] {
                echoes(&mirror, power, len);
            }
        }
    });
}

#[test]
fn beyond_max_payload_a_call_is_refused_and_the_bridge_goes_on() {
    within(PATIENCE, "beyond_max_payload", || {
        for max in [600, 4096, 5000, 65_536, 100_000, 1 << 20] {
            has_limit(&Mirror::bridge().max_payload(max).start().expect("the bridge starts"), max);
        }
    });
}

/// A limit below the payload that fits a slot is refused at the start: such a payload would not notice the limit.
#[test]
fn max_payload_is_at_least_what_a_slot_holds() {
    within(PATIENCE, "max_payload_is_at_least_what_a_slot_holds", || {
        for max in [0, 24, 559] {
            let error = Mirror::bridge().max_payload(max).start().expect_err("the limit is too low");
            assert!(error.to_string().contains(&format!("max_payload is {max} but must be from 560 to ")), "{error}");
        }
        has_limit(&Mirror::bridge().max_payload(560).start().expect("the bridge starts"), 560);
    });
}

/// Checks that payloads of `max` bytes pass in both directions, and longer ones in neither.
#[track_caller]
fn has_limit(mirror: &Bridge<Mirror>, max: u64) {
    // The archive of n bytes: the bytes, padded to a multiple of 8, then 16 bytes for their position and number.
    let fits = max / 8 * 8 - 16;
    let bytes = vec![7; fits as usize];
    for _ in 0..3 {
        assert_eq!(mirror.len(&bytes), Ok(fits), "a request of {max} bytes");
        assert_eq!(mirror.make(fits), Ok(bytes.clone()), "a reply of {max} bytes");
        for over in [1, 5, max, 3 << 20] {
            let len = fits + over;
            refused(mirror.len(&vec![0; len as usize]), Payload::Request, (len, max));
            refused(mirror.make(len), Payload::Reply, (len, max));
        }
    }
}

/// Checks that the call was refused for the length of `payload`. The error gives a lower bound of the length, without alignment and bookkeeping.
#[track_caller]
fn refused<R: std::fmt::Debug>(result: Result<R, CallError>, payload: Payload, (at_least, limit): (u64, u64)) {
    let text = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    match result {
        Err(CallError::TooLarge { what, len, max, .. }) => {
            assert_eq!((what, max), (payload, limit), "{text}");
            assert!(len > max && len >= at_least && len < at_least + 24, "{text}: {at_least} bytes");
            assert!(text.contains(&format!("its {what} is {len} bytes or more, and the limit is {max}")), "{text}");
        }
        Err(other) => panic!("a {payload} of {at_least} bytes or more, limit {limit}: {other}"),
        Ok(_) => panic!("a {payload} of {at_least} bytes or more got past the limit of {limit}"),
    }
}

#[test]
fn many_medium_payloads_from_many_threads() {
    const THREADS: u64 = 8;
    within(PATIENCE, "many_medium_payloads_from_many_threads", || {
        let mirror = Mirror::bridge().start().expect("the bridge starts");
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let mirror = &mirror;
                scope.spawn(move || {
                    let mut random = Random(thread);
                    for _ in 0..150 {
                        let (at, len) = (random.below(1 << 20), 4096 + random.below(124 << 10));
                        let text = sample(at, len);
                        assert!(mirror.text(&text).expect("an echo") == text, "thread {thread}: {len} bytes from {at}");
                    }
                });
            }
        });
    });
}

/// 32 calls at once, each with megabytes both ways: four per thread, which takes their results in another order.
#[test]
fn large_calls_at_once() {
    within(PATIENCE, "large_calls_at_once", || {
        let mirror = Mirror::bridge().concurrent_callers(32).workers(2).start().expect("the bridge starts");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let mirror = &mirror;
                scope.spawn(move || {
                    let mut random = Random(thread);
                    for _ in 0..2 {
                        let calls: Vec<_> = (0..4)
                            .map(|_| {
                                let text = sample(random.below(4 * MIB), MIB + random.below(7 * MIB));
                                (mirror.begin().text(&text), text)
                            })
                            .collect();
                        for (pending, text) in calls.into_iter().rev() {
                            assert!(pending.wait().expect("an echo") == text, "thread {thread}: {} bytes", text.len());
                        }
                    }
                });
            }
        });
    });
}

/// A bridge with memory for two requests of the greatest length.
fn with_little_memory(timeout: Option<Duration>) -> Bridge<Mirror> {
    let builder = Mirror::bridge().concurrent_callers(32).max_payload(8 << 20).memory(32 << 20);
    let builder = timeout.into_iter().fold(builder, |builder, timeout| builder.timeout(timeout));
    builder.start().expect("the bridge starts")
}

#[test]
fn large_calls_wait_for_one_anothers_memory() {
    within(PATIENCE, "large_calls_wait_for_one_anothers_memory", || {
        let mirror = with_little_memory(Some(Duration::from_secs(20)));
        std::thread::scope(|scope| {
            for thread in 0..32 {
                let mirror = &mirror;
                scope.spawn(move || {
                    let mut random = Random(thread);
                    for _ in 0..4 {
                        let len = MIB + random.below(6 * MIB);
                        assert_eq!(mirror.text_len(&sample(0, len)), Ok(len), "thread {thread}");
                    }
                });
            }
        });
    });
}

/// All memory for requests, held by this thread.
fn all_memory(mirror: &Bridge<Mirror>) -> Vec<SharedBox<[u8]>> {
    (0..16).map(|_| SharedBox::zeroed_in(mirror, MIB).expect("memory")).collect()
}

#[track_caller]
fn is_exhausted(result: Result<usize, CallError>) {
    let is = matches!(result, Err(CallError::Exhausted { what: Payload::Request, budget, .. }) if budget == 16 << 20);
    assert!(is, "{result:?}");
}

#[test]
fn a_call_that_waits_for_memory_is_told_when_the_child_ends() {
    within(PATIENCE, "a_call_that_waits_for_memory_is_told", || {
        let mirror = with_little_memory(Some(Duration::from_secs(60)));
        let (_boxes, text) = (all_memory(&mirror), sample(0, 2 * MIB));
        let error = std::thread::scope(|scope| {
            let call = scope.spawn(|| mirror.text_len(&text));
            // The call is most likely waiting by now; if not, the outcome is the same.
            std::thread::sleep(Duration::from_millis(50));
            kill(Pid::from_raw(mirror.child_pid() as i32), Signal::SIGKILL).expect("the child");
            call.join().expect("no panic").expect_err("a dead child")
        });
        let is_told = matches!(error, CallError::Died { started: Started::No, .. });
        assert!(is_told, "{error}");
    });
}

#[test]
fn without_memory_a_call_fails_at_its_deadline_and_the_bridge_goes_on() {
    const TIMEOUT: Duration = Duration::from_millis(400);
    within(PATIENCE, "without_memory_a_call_fails_at_its_deadline", || {
        let mirror = with_little_memory(Some(TIMEOUT));
        let (boxes, text) = (all_memory(&mirror), sample(0, 2 * MIB));
        for _ in 0..3 {
            let began = Instant::now();
            is_exhausted(mirror.text_len(&text));
            let took = began.elapsed();
            assert!(took > TIMEOUT / 2 && took < TIMEOUT + Duration::from_secs(10), "{took:?}");
            assert_eq!(mirror.text_len("small"), Ok(5));
        }
        drop(boxes);
        let patient = mirror.with_timeout(Duration::from_secs(60));
        assert_eq!(patient.text_len(&text), Ok(text.len()));
    });
}

/// Only this thread could end the wait.
#[test]
fn without_memory_and_timeout_a_call_fails_at_once() {
    within(30, "without_memory_and_timeout_a_call_fails_at_once", || {
        let mirror = with_little_memory(None);
        let (boxes, text) = (all_memory(&mirror), sample(0, 2 * MIB));
        (0..3).for_each(|_| is_exhausted(mirror.text_len(&text)));
        drop(boxes);
        assert_eq!(mirror.text_len(&text), Ok(text.len()));
    });
}

/// A splitmix64 generator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % end as u64) as usize
    }
}

#[test]
fn memory_is_bounded() {
    const CALLS: u32 = 2000;
    const BOUND_KIB: u64 = 4 << 10;
    alone("memory_is_bounded", PATIENCE, || {
        let mirror = Mirror::bridge().start().expect("the bridge starts");
        let mut random = Random(1);
        let mut half = || {
            for _ in 0..CALLS / 2 {
                let (request, reply) = (random.below(1 << 20), random.below(1 << 20));
                assert_eq!(mirror.len(sample(0, request).as_bytes()), Ok(request as u64));
                assert_eq!(mirror.make_text(reply as u64).map(|text| text.len()), Ok(reply));
            }
            [std::process::id(), mirror.child_pid()].map(resident_kib)
        };
        let (middle, end) = (half(), half());
        for (who, middle, end) in [("parent", middle[0], end[0]), ("child", middle[1], end[1])] {
            assert!(end <= middle + BOUND_KIB, "the {who} grew from {middle} to {end} KiB");
            assert!(end < 256 << 10, "the {who} holds {end} KiB");
        }
    });
}

/// A process's resident memory in KiB, including its shared memory.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn fault_06_a_reply_nested_too_deep_is_refused() {
    within(PATIENCE, "fault_06_a_reply_nested_too_deep_is_refused", || {
        let mirror = Mirror::bridge().start().expect("the bridge starts");
        for len in [1, 2, 100, 127, 200, 257] {
            assert_eq!(mirror.list(len).map(|list| list.len()), Ok(len));
            assert_eq!(mirror.view().list(len).map(|list| list.number.to_native()), Ok(len - 1));
        }
        for len in [258, 600, 2000] {
            assert_too_deep(mirror.list(len), Payload::Reply, &format!("a list of {len}"));
            assert_too_deep(mirror.view().list(len), Payload::Reply, &format!("a view of a list of {len}"));
        }
        assert_eq!(mirror.list(100).map(|list| list.len()), Ok(100), "and the bridge goes on");
    });
}

#[track_caller]
fn assert_too_deep<R>(result: Result<R, CallError>, of: Payload, case: &str) {
    match result.map(drop) {
        Err(CallError::TooDeep { what, limit, .. }) => {
            assert_eq!(what, of, "{case}");
            assert!(limit.contains("256 pointers") || limit.contains("stack"), "{case}: {limit}");
        }
        other => panic!("{case}: {other:?}"),
    }
}

#[test]
fn fault_25_large_nodes_cross_on_threads_with_little_stack() {
    within(PATIENCE, "fault_25_large_nodes_cross_on_threads_with_little_stack", || {
        let mirror = std::sync::Arc::new(Mirror::bridge().start().expect("the bridge starts"));
        for (stack, len) in [(2 << 20, 63), (2 << 20, 200), (8 << 20, 256), (256 << 10, 60), (96 << 10, 15)] {
            let mirror = mirror.clone();
            with_stack(stack, move || {
                assert_eq!(mirror.heavy(len).map(|list| list.len()), Ok(len), "{len} on {stack}");
                assert_eq!(mirror.view().heavy(len).map(drop), Ok(()), "{len} on {stack}, viewed");
            });
        }
        let other = mirror.clone();
        with_stack(96 << 10, move || assert_too_deep(other.heavy(200), Payload::Reply, "200 on 96 KiB"));
        // Made where the stack suffices: serialising a value recurses in the caller's own code.
        let other = mirror.clone();
        with_stack(64 << 20, move || {
            for len in [1, 63, 200] {
                assert_eq!(other.heavy_len(Heavy::new(len)), Ok(len), "a request with {len}");
            }
            assert_too_deep(other.heavy_len(Heavy::new(300)), Payload::Request, "a request with 300");
        });
        assert_eq!(mirror.list(200).map(|list| list.len()), Ok(200), "and the bridge goes on");
    });
}

#[test]
fn fault_25_values_of_many_thousand_levels_are_refused_on_small_stacks() {
    within(PATIENCE, "fault_25_values_of_many_thousand_levels_are_refused_on_small_stacks", || {
        let mirror = std::sync::Arc::new(Mirror::bridge().start().expect("the bridge starts"));
        for (stack, len) in [(2 << 20, 5_000), (256 << 10, 60_000)] {
            let mirror = mirror.clone();
            with_stack(stack, move || {
                let (list, other) = (Shallow(List::new(len)), Shallow(List::new(len)));
                assert_too_deep(mirror.shallow_len(list), Payload::Request, &format!("a request of {len}"));
                assert_too_deep(mirror.shallow_ref_len(&other), Payload::Request, &format!("a reference to {len}"));
                assert_too_deep(mirror.shallow(len), Payload::Reply, &format!("a reply of {len}"));
                assert_too_deep(mirror.shallow_error(len), Payload::Reply, &format!("an error of {len}"));
            });
        }
        assert_eq!(mirror.list(200).map(|list| list.len()), Ok(200), "and the bridge goes on");
    });
}

#[test]
fn fault_26_an_honest_peer_beyond_a_limit_is_told_so_and_goes_on() {
    within(PATIENCE, "fault_26_an_honest_peer_beyond_a_limit_is_told_so_and_goes_on", || {
        let mirror = Mirror::bridge().max_payload(1 << 20).start().expect("the bridge starts");
        let pid = mirror.child_pid();
        let too_many = |result: Result<(), CallError>, of: Payload| match result {
            Err(CallError::TooMany { what, .. }) => assert_eq!(what, of),
            other => panic!("{of}: {other:?}"),
        };
        assert_too_deep(mirror.list(1000), Payload::Reply, "a reply");
        assert_too_deep(mirror.outcome(1000), Payload::Reply, "an error value");
        assert_too_deep(mirror.list_len(List::new(1000)), Payload::Request, "a request");
        assert_eq!(mirror.units(65_536).map(|units| units.len()), Ok(65_536));
        too_many(mirror.units(200_000).map(drop), Payload::Reply);
        too_many(mirror.view().units(200_000).map(drop), Payload::Reply);
        too_many(mirror.units_len(vec![(); 200_000]).map(drop), Payload::Request);
        // Each box fits alone, but not both together.
        let boxes = mirror.two_boxes(600 << 10).map(drop);
        assert!(matches!(boxes, Err(CallError::TooLarge { what: Payload::Reply, .. })), "{boxes:?}");
        assert!(mirror.two_boxes(500 << 10).is_ok());
        match mirror.panic(8 << 20) {
            Err(CallError::Panicked { fault, .. }) => assert!(fault.message.starts_with("so long so long")),
            other => panic!("a long message: {other:?}"),
        }
        assert_eq!(mirror.list(200).map(|list| list.len()), Ok(200));
        assert_eq!(mirror.child_pid(), pid, "and it is the same child");
    });
}

#[test]
fn fault_46_a_deadline_passes_while_a_reply_is_read_or_a_request_written() {
    within(PATIENCE, "fault_46_a_deadline_passes_while_a_reply_is_read_or_a_request_written", || {
        let mirror = Mirror::bridge().start().expect("the bridge starts");
        // Writing takes a tenth of a second or more. After the deadline the writer stops, and the request is not sent.
        let text = "7".repeat(512 << 20);
        let start = Instant::now();
        let result = mirror.with_timeout(Duration::from_millis(5)).take(&text);
        println!("a timeout of 5 ms while 512 MiB are written: {:?}", start.elapsed());
        assert!(matches!(result, Err(CallError::TimedOut { started: Started::No, .. })), "{result:?}");
        assert_eq!(mirror.take(&text), Ok(()));
        assert_eq!(mirror.calls(), Ok(1), "what was given up has not been called");
        // A deferred call does not wait, and still gets its time.
        let begun = mirror.begin().take(&text);
        drop(text);
        assert_eq!(begun.wait(), Ok(()));
        // The reply arrives long before it is fully copied.
        let count = if cfg!(debug_assertions) { 400_000 } else { 4_000_000 };
        let whole = Instant::now();
        assert_eq!(mirror.texts(count).map(|texts| texts.len() as u64), Ok(count));
        let whole = whole.elapsed();
        for part in [2, 3, 4, 6, 8] {
            let timeout = whole / part;
            let start = Instant::now();
            match mirror.with_timeout(timeout).texts(count).map(drop) {
                Ok(()) | Err(CallError::TimedOut { .. }) => {}
                other => panic!("{other:?}"),
            }
            println!("a timeout of {timeout:?} of {whole:?}: {:?}", start.elapsed());
        }
        assert_eq!(mirror.list(3).map(|list| list.len()), Ok(3), "and the bridge goes on");
        assert_eq!(mirror.texts(10).map(|texts| texts.len()), Ok(10));
    });
}

#[test]
fn large_maps_come_back() {
    within(PATIENCE, "large_maps_come_back", || {
        let mirror = Mirror::bridge().start().expect("the bridge starts");
        for len in [0, 1, 100, 10_000] {
            assert_eq!(mirror.map(len), Ok(Mirror.map(len)));
        }
    });
}

// ---- values ----------------------------------------------------------------------------------------------------------

/// A user's type with every pointer-sized type in it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Wide {
    size: usize,
    offset: isize,
    sparse: Option<NonZeroUsize>,
    range: Range<usize>,
    by_size: BTreeMap<usize, Vec<isize>>,
    step: Step,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
enum Step {
    None,
    By(NonZeroIsize),
    Within { least: usize, most: Bound<isize> },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::None),
        non_zero_isize().prop_map(Step::By),
        (any::<usize>(), any::<Bound<isize>>()).prop_map(|(least, most)| Step::Within { least, most }),
    ]
}

fn wide() -> impl Strategy<Value = Wide> {
    let by_size = any::<BTreeMap<usize, Vec<isize>>>();
    let numbers = (any::<usize>(), any::<isize>(), proptest::option::of(non_zero_usize()));
    (numbers, any::<Range<usize>>(), by_size, step()).prop_map(|((size, offset, sparse), range, by_size, step)| Wide {
        size,
        offset,
        sparse,
        range,
        by_size,
        step,
    })
}

macro_rules! non_zero {
    ($($name:ident: $ty:ty = $primitive:ty,)*) => {$(
        fn $name() -> impl Strategy<Value = $ty> {
            any::<$primitive>().prop_filter_map("zero", <$ty>::new)
        }
    )*};
}

non_zero! {
    non_zero_u8: NonZeroU8 = u8,
    non_zero_u128: NonZeroU128 = u128,
    non_zero_i64: NonZeroI64 = i64,
    non_zero_usize: NonZeroUsize = usize,
    non_zero_isize: NonZeroIsize = isize,
}

/// Services that return their arguments, and the test that calls them.
macro_rules! values_come_back {
    ($($name:ident: $ty:ty = $values:expr,)*) => {
        /// Takes values.
        struct Owning;

        #[bridge]
        impl Owning {
            pub fn new() -> Self {
                Owning
            }
            $(pub fn $name(&self, value: $ty) -> $ty { value })*
        }

        /// Takes references.
        struct Borrowing;

        #[allow(clippy::ptr_arg)] // The types themselves are under test.
        #[bridge]
        impl Borrowing {
            pub fn new() -> Self {
                Borrowing
            }
            $(pub fn $name(&self, value: &$ty) -> $ty { value.clone() })*
        }

        /// Takes slices, read in place where possible.
        struct Slicing;

        #[bridge]
        impl Slicing {
            pub fn new() -> Self {
                Slicing
            }
            $(pub fn $name(&self, values: &[$ty]) -> Vec<$ty> { values.to_vec() })*
        }

        #[test]
        fn fault_23_every_value_of_every_type_comes_back_equal() {
            within(PATIENCE, "fault_23_every_value_of_every_type_comes_back_equal", || {
                let owning = Owning::bridge().start().expect("a bridge");
                let borrowing = Borrowing::bridge().start().expect("a bridge");
                let slicing = Slicing::bridge().start().expect("a bridge");
                $({
                    let values = ($values, proptest::collection::vec($values, 0..4));
                    let each = TestRunner::new(Config::with_cases(48)).run(&values, |(value, several)| {
                        prop_assert_eq!(owning.$name(value.clone()), Ok(value.clone()));
                        prop_assert_eq!(borrowing.$name(&value), Ok(value));
                        prop_assert_eq!(slicing.$name(&several), Ok(several));
                        Ok(())
                    });
                    each.unwrap_or_else(|error| panic!("{}: {error}", stringify!($ty)));
                })*
            });
        }
    };
}

values_come_back! {
    boolean: bool = any::<bool>(),
    character: char = any::<char>(),
    unsigned_8: u8 = any::<u8>(),
    unsigned_16: u16 = any::<u16>(),
    unsigned_32: u32 = any::<u32>(),
    unsigned_64: u64 = any::<u64>(),
    unsigned_128: u128 = any::<u128>(),
    unsigned_size: usize = prop_oneof![any::<usize>(), Just(usize::MAX), Just(1 << 32), Just(u32::MAX as usize)],
    signed_8: i8 = any::<i8>(),
    signed_16: i16 = any::<i16>(),
    signed_32: i32 = any::<i32>(),
    signed_64: i64 = any::<i64>(),
    signed_128: i128 = any::<i128>(),
    signed_size: isize = prop_oneof![any::<isize>(), Just(isize::MIN), Just(isize::MAX), Just(i32::MIN as isize - 1)],
    non_zero_8: NonZeroU8 = non_zero_u8(),
    non_zero_64: NonZeroI64 = non_zero_i64(),
    non_zero_128: NonZeroU128 = non_zero_u128(),
    non_zero_size: NonZeroUsize = prop_oneof![non_zero_usize(), Just(NonZeroUsize::MIN.saturating_add((1 << 32) - 1))],
    non_zero_signed_size: NonZeroIsize = non_zero_isize(),
    unit: () = Just(()),
    text: String = prop_oneof![any::<String>(), "[a\\x00]{14,18}"],
    c_text: CString = any::<CString>(),
    boxed_text: Box<str> = any::<Box<str>>(),
    boxed: Box<usize> = any::<Box<usize>>(),
    boxed_slice: Box<[usize]> = any::<Box<[usize]>>(),
    option: Option<usize> = any::<Option<usize>>(),
    niche: Option<NonZeroUsize> = proptest::option::of(non_zero_usize()),
    result: Result<usize, isize> = any::<Result<usize, isize>>(),
    vector: Vec<usize> = any::<Vec<usize>>(),
    vectors: Vec<Vec<isize>> = any::<Vec<Vec<isize>>>(),
    queue: VecDeque<usize> = any::<VecDeque<usize>>(),
    array: [usize; 3] = any::<[usize; 3]>(),
    tuple: (usize, isize, u128, String) = any::<(usize, isize, u128, String)>(),
    hash_map: HashMap<usize, isize> = any::<HashMap<usize, isize>>(),
    hash_set: HashSet<usize> = any::<HashSet<usize>>(),
    tree_map: BTreeMap<isize, usize> = any::<BTreeMap<isize, usize>>(),
    tree_set: BTreeSet<usize> = any::<BTreeSet<usize>>(),
    range: Range<usize> = any::<Range<usize>>(),
    inclusive: RangeInclusive<isize> = any::<RangeInclusive<isize>>(),
    range_from: RangeFrom<usize> = any::<RangeFrom<usize>>(),
    range_to: RangeTo<isize> = any::<RangeTo<isize>>(),
    to_inclusive: RangeToInclusive<usize> = any::<RangeToInclusive<usize>>(),
    full: RangeFull = Just(..),
    bound: Bound<usize> = any::<Bound<usize>>(),
    duration: Duration = prop_oneof![any::<Duration>(), Just(Duration::MAX), Just(Duration::ZERO)],
    address_v4: Ipv4Addr = any::<Ipv4Addr>(),
    address_v6: Ipv6Addr = any::<Ipv6Addr>(),
    address: IpAddr = any::<IpAddr>(),
    socket_v6: SocketAddrV6 = any::<SocketAddrV6>(),
    socket: SocketAddr = any::<SocketAddr>(),
    phantom: PhantomData<usize> = Just(PhantomData),
    own: Wide = wide(),
}

/// Compares floating-point numbers by their bits, because NaN equals nothing.
struct Floating;

#[bridge]
impl Floating {
    pub fn new() -> Self {
        Floating
    }
    pub fn single(&self, number: f32, several: &[f32]) -> (f32, Vec<f32>) {
        (number, several.to_vec())
    }
    pub fn double(&self, number: f64, several: &[f64]) -> (f64, Vec<f64>) {
        (number, several.to_vec())
    }
}

proptest! {
    #![proptest_config(Config::with_cases(8))]
    #[test]
    fn fault_23_every_bit_of_a_floating_point_number_comes_back(singles in any::<[u32; 64]>(), doubles in any::<[u64; 64]>()) {
        static BRIDGE: LazyLock<Bridge<Floating>> = LazyLock::new(|| {
            Floating::bridge().timeout(Duration::from_secs(PATIENCE)).start().expect("a bridge")
        });
        let signalling = [0x7f80_0001, 0xff80_0001, 0x8000_0000, 1];
        for bits in singles.into_iter().chain(signalling) {
            let (one, several) = BRIDGE.single(f32::from_bits(bits), &[f32::from_bits(bits)]).expect("a reply");
            prop_assert_eq!((one.to_bits(), several[0].to_bits()), (bits, bits));
        }
        let signalling = [0x7ff0_0000_0000_0001, 0xfff0_0000_0000_0001, 1 << 63, 1];
        for bits in doubles.into_iter().chain(signalling) {
            let (one, several) = BRIDGE.double(f64::from_bits(bits), &[f64::from_bits(bits)]).expect("a reply");
            prop_assert_eq!((one.to_bits(), several[0].to_bits()), (bits, bits));
        }
    }
}

/// One number, in a field.
struct Size {
    size: usize,
}

#[bridge(get(size: usize), set(size: usize))]
impl Size {
    pub fn new(size: usize) -> Self {
        Size { size }
    }
}

/// Several numbers, in all other places.
struct Sizes(Vec<usize>);

#[bridge]
impl Sizes {
    pub fn of(sizes: &[usize]) -> Self {
        Sizes(sizes.to_vec())
    }
    pub fn boxed(&self, add: SharedBox<[usize]>) -> SharedBox<[usize]> {
        let mut all = SharedBox::zeroed(self.0.len() + add.len()).expect("memory");
        all[..self.0.len()].copy_from_slice(&self.0);
        all[self.0.len()..].copy_from_slice(&add);
        all
    }
    pub fn in_place(&self, numbers: &rkyv::Archived<Vec<usize>>) -> usize {
        numbers.iter().fold(0, |all, number| all ^ number.to_native() as usize)
    }
    pub fn all(&self) -> Vec<usize> {
        self.0.clone()
    }
}

#[test]
fn fault_23_sizes_come_back_from_constructors_fields_boxes_and_views() {
    within(PATIENCE, "fault_23_sizes_come_back_from_constructors_fields_boxes_and_views", || {
        let many = [usize::MAX, 1 << 32, (1 << 32) + 1, 0, u32::MAX as usize];
        let sizes = Sizes::bridge_of(&many).start().expect("a bridge");
        assert_eq!(sizes.all().as_deref(), Ok(&many[..]));
        let viewed = sizes.view().all().expect("a view");
        assert_eq!(viewed.iter().map(|size| size.to_native() as usize).collect::<Vec<_>>(), many);
        assert_eq!(sizes.in_place(&many.to_vec()), Ok(many.iter().fold(0, |all, number| all ^ number)));
        let mut add = SharedBox::<[usize]>::zeroed_in(&sizes, 1).expect("memory");
        add[0] = usize::MAX - 1;
        let all = sizes.boxed(add).expect("a box");
        assert_eq!(&all[..], [&many[..], &[usize::MAX - 1]].concat());

        let one = Size::bridge(usize::MAX).start().expect("a bridge");
        assert_eq!(one.size(), Ok(usize::MAX));
        one.set_size(1 << 40).expect("set");
        assert_eq!(one.size(), Ok(1 << 40));
    });
}
