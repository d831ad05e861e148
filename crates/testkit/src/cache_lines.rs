//! Tests which cache lines one call reads and writes on each side, for growing numbers of lanes and workers.
//!
//! One thread plays both sides and is traced; the [`Geometry`] maps the traced addresses to lines of the segment. The section "Lines per call" of
//! docs/TESTING.md states what these tests assert, including its table.

#![forbid(unsafe_code)]

use crate::in_process::{Counter, Ends, receive_add, send_add};
use callgate::__codegen::Val;
use callgate_engine::callee::{Parent, Worker};
use callgate_engine::caller::{Caller, Sent};
use callgate_engine::host::{Alone, Host, Parallel};
use callgate_engine::service::Method;
use callgate_os::trace::{AccessKind, TracedAccess, trace};
use callgate_transport::layout::{APART, Geometry, LINE};
use callgate_transport::segment::Segment;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

/// A cache line of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Header,
    Worker(u32),
    Caller(u32),
    Callee(u32),
    /// Line `line` of slot `slot` of the lane's request ring.
    Request {
        lane: u32,
        slot: usize,
        line: usize,
    },
    Reply {
        lane: u32,
        slot: usize,
        line: usize,
    },
}

impl Line {
    /// The same line of slot 0, so that calls made one after the other compare as if they had been made at once.
    fn of_any_slot(self) -> Self {
        match self {
            Line::Request { lane, line, .. } => Line::Request { lane, line, slot: 0 },
            Line::Reply { lane, line, .. } => Line::Reply { lane, line, slot: 0 },
            other => other,
        }
    }
}

// ---- addresses and lines -------------------------------------------------------------------------------------------

/// One mapping of a segment: translates addresses into lines.
struct Map {
    start: usize,
    geometry: Geometry,
    /// Private memory of one lane each, with the word that its holder claims.
    lanes: Vec<Range<usize>>,
}

impl Map {
    fn of(segment: &Segment) -> Self {
        Self { start: std::ptr::from_ref(&*segment.header()).addr(), geometry: segment.geometry(), lanes: Vec::new() }
    }

    fn with_lanes_of(self, caller: &Caller) -> Self {
        Self { lanes: caller.private_memory(), ..self }
    }

    /// The line at `address`, or `None` for private memory.
    fn line(&self, address: usize) -> Option<Line> {
        let (geometry, at) = (&self.geometry, address.checked_sub(self.start)?);
        let workers = geometry.worker_line(0);
        let lanes = geometry.caller_line(0);
        match at {
            _ if at >= geometry.segment_len() => None,
            _ if at < workers => Some(first_line(Line::Header, at)),
            _ if at < lanes => Some(first_line(Line::Worker(((at - workers) / APART) as u32), (at - workers) % APART)),
            _ => Some(self.line_of_lane(((at - lanes) / (geometry.caller_line(1) - lanes)) as u32, at)),
        }
    }

    fn line_of_lane(&self, lane: u32, at: usize) -> Line {
        let geometry = &self.geometry;
        let (callee, requests, replies) = (geometry.callee_line(lane), geometry.requests(lane), geometry.replies(lane));
        let place = |ring: usize| {
            let (slot, line) = ((at - ring) / geometry.stride(), (at - ring) % geometry.stride() / LINE);
            assert!(slot < geometry.slots as usize, "an access behind the last slot of lane {lane}");
            (slot, line)
        };
        if at < callee {
            first_line(Line::Caller(lane), at - geometry.caller_line(lane))
        } else if at < requests {
            first_line(Line::Callee(lane), at - callee)
        } else if at < replies {
            let (slot, line) = place(requests);
            Line::Request { lane, slot, line }
        } else {
            let (slot, line) = place(replies);
            Line::Reply { lane, slot, line }
        }
    }
}

/// Returns `line` after a check that `offset` lies in the first of its two cache lines; the second is padding before the next structure.
fn first_line(line: Line, offset: usize) -> Line {
    assert!(offset < LINE, "an access to the padding of {line:?}");
    line
}

/// The lines of the segment that one side has touched.
#[derive(Clone, Debug, Default)]
struct Footprint {
    reads: BTreeSet<Line>,
    writes: BTreeSet<Line>,
}

impl Footprint {
    /// # Panics
    ///
    /// If a word of `callgate_os::sync` in private memory was written that all threads share: every such word but those of the lanes.
    fn new(map: &Map, log: &[TracedAccess]) -> Self {
        let mut footprint = Self::default();
        for &TracedAccess { kind, address, len } in log {
            let lines = (address / LINE..=(address + len - 1) / LINE).map(|line| (line * LINE).max(address));
            for line in lines.map(|address| map.line(address)) {
                match (line, kind) {
                    (Some(line), AccessKind::Read) => drop(footprint.reads.insert(line)),
                    (Some(line), AccessKind::Write) => drop(footprint.writes.insert(line)),
                    (None, AccessKind::Read) => {}
                    (None, AccessKind::Write) if map.lanes.iter().any(|lane| lane.contains(&address)) => {}
                    (None, AccessKind::Write) => panic!("a word that all threads share was written"),
                }
            }
        }
        footprint
    }

    fn and(mut self, mut other: Self) -> Self {
        self.reads.append(&mut other.reads);
        self.writes.append(&mut other.writes);
        self
    }

    fn of_any_slot(self) -> Self {
        let [reads, writes] = [self.reads, self.writes].map(|lines| lines.into_iter().map(Line::of_any_slot).collect());
        Self { reads, writes }
    }

    /// The lines that this side writes and the other reads or writes.
    fn disturbs(&self, other: &Self) -> BTreeSet<Line> {
        self.writes.iter().filter(|line| other.reads.contains(line) || other.writes.contains(line)).copied().collect()
    }

    /// The lane of the request that this side wrote, if any.
    fn lane_asked(&self) -> Option<u32> {
        self.writes.iter().find_map(|line| if let Line::Request { lane, .. } = line { Some(*lane) } else { None })
    }
}

// ---- calls ---------------------------------------------------------------------------------------------------------

/// One call, traced.
struct CountedCall {
    lane: u32,
    /// The call's position on its lane.
    position: u64,
    caller: Footprint,
    callee: Footprint,
}

impl CountedCall {
    fn both(&self) -> Footprint {
        self.caller.clone().and(self.callee.clone())
    }
}

/// A bridge of which this thread plays both sides.
struct CountedBridge<'a, H> {
    caller: &'a Caller,
    workers: Vec<Worker<H, Parent>>,
    maps: [Map; 2],
    geometry: Geometry,
    /// Calls made so far, by lane.
    made: Vec<u64>,
}

impl<'a, H: Host> CountedBridge<'a, H> {
    fn new(ends: &'a Ends, host: impl Fn() -> H) -> Self {
        let [own, peers] = &ends.segments;
        let geometry = own.geometry();
        let workers = (0..geometry.workers).map(|index| ends.worker(index, host())).collect();
        let made = vec![0; geometry.lanes as usize];
        let maps = [Map::of(own).with_lanes_of(&ends.caller), Map::of(peers)];
        Self { caller: &ends.caller, workers, maps, geometry, made }
    }

    /// Sends a request on the first free lane, starting at this thread's own, and has the worker serve it.
    fn ask(&mut self) -> (Sent<'a>, CountedCall) {
        let caller = self.caller;
        let links = Arc::strong_count(&caller.peer);
        let (sent, log) = trace(|| send_add(caller, 1));
        assert_eq!(Arc::strong_count(&caller.peer), links, "a count that all threads share was written");
        let asking = Footprint::new(&self.maps[0], &log);
        let lane = asking.lane_asked().expect("a request is written into a slot");
        let worker = &mut self.workers[self.geometry.worker_of(lane).0 as usize];
        let (_, log) = trace(|| worker.serve_next().unwrap());
        let made = &mut self.made[lane as usize];
        *made += 1;
        let callee = Footprint::new(&self.maps[1], &log);
        (sent, CountedCall { lane, position: *made - 1, caller: asking, callee })
    }

    fn receive(&self, sent: Sent<'_>) -> Footprint {
        let (_, log) = trace(|| receive_add(self.caller, sent));
        Footprint::new(&self.maps[0], &log)
    }

    fn call(&mut self) -> CountedCall {
        let (sent, call) = self.ask();
        let caller = call.caller.and(self.receive(sent));
        CountedCall { caller, ..call }
    }

    /// Makes `calls` calls on every lane in turn and returns the last call of each lane.
    fn call_on_each_lane(&mut self, calls: u32) -> Vec<CountedCall> {
        let mut held = Vec::new();
        let mut last = Vec::new();
        for _ in 0..self.geometry.lanes {
            let call = (0..calls).map(|_| self.call()).last();
            call.iter().for_each(|call| self.assert_lines(call));
            last.extend(call);
            // A call whose reply has not been taken keeps its lane, so the next call goes to the next lane.
            held.push(self.ask().0);
        }
        held.into_iter().for_each(|sent| drop(self.receive(sent)));
        last
    }

    /// Asserts which lines `call` touched. It must be the latest call, and the worker must have served its lane before.
    fn assert_lines(&self, call: &CountedCall) {
        let &CountedCall { lane, position, .. } = call;
        let (worker, _) = self.geometry.worker_of(lane);
        let reply = Line::Reply { lane, slot: self.slot(position), line: 0 };
        let request = self.request(lane, position);
        assert_eq!(call.caller.writes, BTreeSet::from([request]));
        assert_eq!(call.caller.reads, BTreeSet::from([Line::Worker(worker), reply]));
        assert_eq!(call.callee.writes, BTreeSet::from([Line::Callee(lane), reply]));
        let own = [Line::Worker(worker), Line::Caller(lane), request];
        assert_eq!(call.callee.reads, own.into_iter().chain(self.looks(lane)).collect());
    }

    /// The lines that the worker of `lane` reads to see whether its other lanes have requests.
    fn looks(&self, lane: u32) -> impl Iterator<Item = Line> {
        let others = self.geometry.lanes_of(self.geometry.worker_of(lane).0).filter(move |&other| other != lane);
        others.map(|other| self.request(other, self.made[other as usize]))
    }

    /// The first line of the slot of the request at `position`.
    fn request(&self, lane: u32, position: u64) -> Line {
        Line::Request { lane, slot: self.slot(position), line: 0 }
    }

    fn slot(&self, position: u64) -> usize {
        (position % u64::from(self.geometry.slots)) as usize
    }
}

/// Makes one call on each lane of a bridge whose lanes are all in use.
fn calls_on_each_lane(lanes: u32, workers: u32) -> Vec<CountedCall> {
    fn of<H: Host>(geometry: Geometry, host: impl Fn() -> H) -> Vec<CountedCall> {
        let ends = Ends::new::<Counter>(geometry);
        let mut bridge = CountedBridge::new(&ends, host);
        bridge.call_on_each_lane(0);
        bridge.call_on_each_lane(2)
    }
    let geometry = geometry(lanes, workers);
    let calls = if workers == 1 {
        of(geometry, || Alone::of(Counter::new()))
    } else {
        let host = Parallel::of(Counter::new());
        of(geometry, || &host)
    };
    let lanes_called: BTreeSet<u32> = calls.iter().map(|call| call.lane).collect();
    assert_eq!(lanes_called, (0..lanes).collect());
    calls
}

fn geometry(lanes: u32, workers: u32) -> Geometry {
    Geometry { lanes, workers, slots: 32, slot_lines: 9 }
}

/// Pairs of lanes and workers.
const SIZES: [(u32, u32); 6] = [(1, 1), (2, 1), (8, 1), (64, 1), (8, 4), (64, 4)];

// ---- the segment ---------------------------------------------------------------------------------------------------

/// Sums up what `assert_lines` checks line by line for each call.
#[test]
fn the_table_of_lines_says_what_a_call_touches() {
    let mut table = String::new();
    for (lanes, workers) in SIZES {
        let counts: BTreeSet<[usize; 4]> = calls_on_each_lane(lanes, workers).iter().map(counts).collect();
        let &[caller_writes, caller_reads, callee_writes, callee_reads] = counts.first().unwrap();
        assert_eq!(counts.len(), 1, "all of {lanes} lanes cost the same");
        let looks = (lanes / workers - 1) as usize;
        let own = callee_reads - looks;
        let line =
            format!("| {lanes} | {workers} | {caller_writes} | {caller_reads} | {callee_writes} | {own} | {looks} |");
        writeln!(table, "{line}").unwrap();
    }
    let document = include_str!("../../../docs/TESTING.md");
    assert!(document.contains(&table), "docs/TESTING.md does not have this table:\n{table}");
}

/// Counts the lines that the caller writes, the caller reads, the callee writes and the callee reads.
fn counts(call: &CountedCall) -> [usize; 4] {
    [&call.caller, &call.callee].map(|side| [side.writes.len(), side.reads.len()]).concat().try_into().unwrap()
}

#[test]
fn lanes_of_different_workers_share_no_line_that_anybody_writes() {
    let calls = calls_on_each_lane(64, 4);
    for (one, other) in pairs(&calls).filter(|(one, other)| one.lane % 4 != other.lane % 4) {
        assert_eq!(one.both().of_any_slot().disturbs(&other.both().of_any_slot()), BTreeSet::new());
    }
}

#[test]
fn lanes_of_one_worker_share_only_what_it_looks_at() {
    let calls = calls_on_each_lane(64, 4);
    for (one, other) in pairs(&calls).filter(|(one, other)| one.lane % 4 == other.lane % 4) {
        let disturbed = one.both().of_any_slot().disturbs(&other.both().of_any_slot());
        assert_eq!(disturbed, BTreeSet::from([Line::Request { lane: one.lane, slot: 0, line: 0 }]));
        // Only the worker reads that line; callers share nothing.
        assert_eq!(one.caller.clone().of_any_slot().disturbs(&other.caller.clone().of_any_slot()), BTreeSet::new());
    }
}

/// Every pair of calls on different lanes.
fn pairs(calls: &[CountedCall]) -> impl Iterator<Item = (&CountedCall, &CountedCall)> {
    calls
        .iter()
        .flat_map(|one| calls.iter().map(move |other| (one, other)))
        .filter(|(one, other)| one.lane != other.lane)
}

#[test]
fn lanes_beyond_the_last_in_use_are_not_looked_at() {
    let ends = Ends::new::<Counter>(geometry(64, 1));
    let mut bridge = CountedBridge::new(&ends, || Alone::of(Counter::new()));
    let first = bridge.call();
    assert!(first.caller.writes.contains(&Line::Worker(0)), "the first call on a lane says that it is in use");
    let second = bridge.call();
    assert_eq!(second.lane, first.lane);
    let below = (0..second.lane).map(|lane| bridge.request(lane, 0));
    let own = [Line::Worker(0), Line::Caller(second.lane), bridge.request(second.lane, 1)];
    assert_eq!(second.callee.reads, own.into_iter().chain(below).collect());
}

struct Mirror;

#[callgate::bridge]
impl Mirror {
    pub fn new() -> Self {
        Mirror
    }

    pub fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

static ECHO: Method =
    Method { service: "Mirror", name: "echo", index: 1, interface: None, idempotent: false, lends: false };

#[test]
fn a_longer_payload_touches_the_lines_that_it_fills_and_no_more() {
    let ends = Ends::new::<Mirror>(geometry(1, 1));
    let mut worker = ends.worker(0, Alone::of(Mirror::new()));
    let [own, peers] = &ends.segments;
    // The archive of a vector takes 16 bytes beside its elements; a slot has 16 bytes before its payload.
    for (bytes, lines) in [(32, 1), (33, 2), (200, 4), (544, 9)] {
        let bytes = vec![1u8; bytes];
        let (sent, log) = trace(|| ends.caller.send(&ECHO, (Val(&bytes),), None).unwrap());
        let asking = Footprint::new(&Map::of(own).with_lanes_of(&ends.caller), &log);
        let callee = Footprint::new(&Map::of(peers), &trace(|| worker.serve_next().unwrap()).1);
        let (reply, log) = trace(|| ends.caller.finish::<Vec<u8>>(sent).unwrap());
        let receiving = Footprint::new(&Map::of(own).with_lanes_of(&ends.caller), &log);
        assert_eq!(reply, bytes);
        let requests = |line: &&Line| matches!(line, Line::Request { .. });
        let replies = |line: &&Line| matches!(line, Line::Reply { .. });
        let of_requests = [&asking.writes, &callee.reads].map(|lines| lines.iter().filter(requests).count());
        let of_replies = [&callee.writes, &receiving.reads].map(|lines| lines.iter().filter(replies).count());
        assert_eq!((of_requests, of_replies), ([lines; 2], [lines; 2]), "{} bytes", bytes.len());
    }
}

// ---- private memory ------------------------------------------------------------------------------------------------

#[test]
fn what_each_side_keeps_of_a_lane_is_apart_from_all_others() {
    let ends = Ends::new::<Counter>(geometry(64, 4));
    let host = Parallel::of(Counter::new());
    let bridge = CountedBridge::new(&ends, || &host);
    let callee = bridge.workers.iter().flat_map(Worker::private_memory);
    let kept: Vec<_> = ends.caller.private_memory().into_iter().chain(callee).collect();
    assert_eq!(kept.len(), 2 * 64);
    let units = kept.iter().flat_map(units).collect::<Vec<_>>();
    assert_eq!(units.iter().collect::<BTreeSet<_>>().len(), units.len(), "two lanes share a pair of lines");
}

/// The pairs of cache lines that a range of addresses touches.
fn units(range: &Range<usize>) -> std::ops::RangeInclusive<usize> {
    range.start / APART..=(range.end - 1) / APART
}
