//! Payloads of every size arrive whole, in both directions; those beyond `max_payload` are refused by name and the bridge goes
//! on; the memory that large ones need is bounded; and a reply nested too deep for the caller's stack is refused.

#![allow(unreachable_pub)] // Services are written as users write them.

#[path = "support/held.rs"]
mod held;
mod support;

use callgate::{Bridge, CallError, Payload, bridge};
use held::alone;
use rkyv::rancor::Source;
use rkyv::ser::{Allocator, Writer};
use rkyv::validation::ArchiveContext;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::LazyLock;
use support::within;

callgate::test_support!();

/// Ends a test that hangs, in seconds. Unoptimised validation takes its time over megabytes.
const PATIENCE: u64 = 240;

/// A list whose archive nests as deep as it is long.
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
    /// Numbers `len - 1`, .. 0.
    fn new(len: u32) -> Self {
        (1..len).fold(List { next: None, number: 0 }, |next, number| List { next: Some(Box::new(next)), number })
    }

    fn len(&self) -> u32 {
        std::iter::successors(Some(self), |list| list.next.as_deref()).count() as u32
    }
}

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
    pub fn list(&self, len: u32) -> List {
        List::new(len)
    }
    pub fn map(&self, len: u64) -> HashMap<u64, String> {
        (0..len).map(|n| (n, format!("value {n}"))).collect()
    }
}

/// `len` bytes from `at` on in an endless text without a short period.
fn sample(at: usize, len: usize) -> String {
    const LONGEST: usize = (16 << 20) + 1 + 256;
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

/// Bytes and text of this length come back as they went, owned and borrowed.
#[track_caller]
fn echoes(mirror: &Bridge<Mirror>, at: usize, len: usize) {
    let text = sample(at, len);
    // Not `assert_eq`: nobody wants to see megabytes.
    let same = |back: Result<Vec<u8>, CallError>| back.expect("an echo") == text.as_bytes();
    assert!(same(mirror.slice(text.as_bytes())), "a slice of {len} bytes");
    // Checking a vector takes a test build too long to do it twice with every large one.
    assert!(len > 1 << 20 || same(mirror.bytes(text.clone().into_bytes())), "a vector of {len} bytes");
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
        for power in 7..=24 {
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

/// A limit that a payload in a slot would not notice is refused at the start.
#[test]
fn max_payload_is_at_least_what_a_slot_holds() {
    within(PATIENCE, "max_payload_is_at_least_what_a_slot_holds", || {
        for max in [0, 24, 559] {
            let error = Mirror::bridge().max_payload(max).start().expect_err("the limit is too low");
            assert!(error.to_string().contains(&format!("max_payload is {max}, and must be from 560 to ")), "{error}");
        }
        has_limit(&Mirror::bridge().max_payload(560).start().expect("the bridge starts"), 560);
    });
}

/// Payloads of `max` bytes pass in both directions, longer ones in neither.
#[track_caller]
fn has_limit(mirror: &Bridge<Mirror>, max: u64) {
    // The archive of n bytes: themselves, the next multiple of 4, and 8 bytes that say where and how many they are.
    let fits = max / 4 * 4 - 8;
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

/// The call was refused for the length of this payload; the error says at least what is left of it without its frills.
#[track_caller]
fn refused<R: std::fmt::Debug>(result: Result<R, CallError>, payload: Payload, (at_least, limit): (u64, u64)) {
    let text = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    match result {
        Err(CallError::TooLarge { what, len, max, .. }) => {
            assert_eq!((what, max), (payload, limit), "{text}");
            assert!(len > max && len >= at_least && len < at_least + 16, "{text}: {at_least} bytes");
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

/// splitmix64.
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

/// Memory that a process has in use, its share of shared memory included.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_reply_nested_too_deep_is_refused() {
    within(PATIENCE, "a_reply_nested_too_deep_is_refused", || {
        let mirror = Mirror::bridge().start().expect("the bridge starts");
        for len in [1, 2, 100, 127] {
            assert_eq!(mirror.list(len).map(|list| list.len()), Ok(len));
            assert_eq!(mirror.view().list(len).map(|list| list.number.to_native()), Ok(len - 1));
        }
        for len in [129, 600, 5000] {
            let mirror = Mirror::bridge().start().expect("the bridge starts");
            match mirror.list(len).map(|list| list.len()) {
                Err(CallError::Corrupt { pid, .. }) => assert_eq!(pid, mirror.child_pid()),
                other => panic!("a list of {len}: {other:?}"),
            }
            assert!(matches!(mirror.make(1), Err(CallError::Corrupt { .. })), "and the child is gone");
            let mirror = Mirror::bridge().start().expect("the bridge starts");
            assert!(matches!(mirror.view().list(len), Err(CallError::Corrupt { .. })), "a view of a list of {len}");
        }
        assert_eq!(mirror.list(100).map(|list| list.len()), Ok(100), "other bridges are not concerned");
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
