//! Makes very many calls with payloads of random sizes and watches the memory of both processes: it must neither grow nor exceed the budget.
//!
//! Requests and replies have independent lengths, from empty to the maximum, from a generator with a given seed. The child sums every request
//! and the caller every reply, so a byte from another call would be noticed.

#![forbid(unsafe_code)]

use crate::bridge::CountService;
use crate::bytes;
use crate::payload::size;
use crate::pin::{self, Pinned};
use crate::report::{BenchReport, Row};
use crate::stats::{Distribution, Quantiles};
use crate::workload::check;
use crate::{BoxError, Clock, Progress};
use callgate::Bridge;
use std::fs;
use std::time::Duration;

/// The number of parts into which a run is divided.
pub const PARTS: u64 = 10;

/// How much the resident memory of both processes may grow from the first part to the last, in bytes: what their allocators keep or give back
/// from one moment to the next.
pub const SLACK: u64 = 4 << 20;

/// The name of a part's row. Parts count from 1.
pub fn name(part: u64) -> String {
    format!("soak, tenth {part} of {PARTS}")
}

/// How long a call may take. A longer one counts as hanging.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The bytes that accompany a payload, rounded up: its length, the sum, their positions.
const BESIDE: usize = 4 << 10;

/// How often each part reads the memory use. The largest reading counts.
const LOOKS: u64 = 16;

/// The parameters of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soak {
    /// The number of calls.
    pub calls: u64,
    /// The longest request and the longest reply, in bytes.
    pub most: usize,
    /// The seed of the random lengths.
    pub seed: u64,
}

/// The result of one part of the calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SoakPart {
    /// The number of calls made.
    pub calls: u64,
    /// The quantiles of the calls' times, in nanoseconds.
    pub quantiles: Quantiles,
    /// The time of the longest call, in nanoseconds.
    pub max: f64,
    /// The most memory that the calling process had.
    pub parent: MemoryUse,
    /// The most memory that the child had.
    pub child: MemoryUse,
}

/// The memory of one process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// All resident memory (VmRSS).
    pub resident: u64,
    /// The shared part of it (RssShmem). Pages that both processes have mapped count in both.
    pub shared: u64,
}

impl Soak {
    /// The bridge's budget of shared memory for large payloads, in bytes. It is the default for this `max_payload`.
    pub fn budget(&self) -> u64 {
        4 * self.max_payload() + (128 << 20)
    }

    /// Makes the calls. Passes every finished part to `each`, and returns all parts.
    ///
    /// # Errors
    ///
    /// If a call fails, takes half a minute or gets a wrong answer.
    pub fn run(&self, each: &mut dyn FnMut(&SoakPart)) -> Result<Vec<SoakPart>, BoxError> {
        let mut caller = SoakCaller::start(self)?;
        let ends = (0..=PARTS).map(|part| self.calls * part / PARTS);
        let parts = ends.clone().zip(ends.skip(1)).map(|(from, to)| {
            let part = caller.part(to - from)?;
            each(&part);
            Ok(part)
        });
        parts.collect()
    }

    fn max_payload(&self) -> u64 {
        (self.most + BESIDE) as u64
    }
}

impl SoakPart {
    /// The resident memory of both processes together, in bytes.
    pub fn resident(&self) -> u64 {
        self.parent.resident + self.child.resident
    }
}

/// How much the resident memory of both processes grew from the first part to the last, in bytes; negative if it shrank.
pub fn growth(parts: &[SoakPart]) -> i64 {
    let [first, last] = [parts.first(), parts.last()].map(|part| part.map_or(0, SoakPart::resident));
    last as i64 - first as i64
}

struct SoakCaller {
    bridge: Bridge<CountService>,
    random: Random,
    most: usize,
    /// Requests are slices of this that begin anywhere in the first page, so that two of the same length differ.
    bytes: Vec<u8>,
    clock: Clock,
}

impl SoakCaller {
    fn start(soak: &Soak) -> Result<Self, BoxError> {
        let builder =
            CountService::bridge(pin::allowed().to_vec()).max_payload(soak.max_payload()).memory(soak.budget());
        let bridge = Pinned::nowhere(|| builder.timeout(TIMEOUT).start())??;
        let mut random = Random(soak.seed);
        let words = (soak.most + BESIDE).div_ceil(size_of::<u64>());
        let bytes = (0..words).flat_map(|_| random.next().to_le_bytes()).collect();
        Ok(Self { bridge, random, most: soak.most, bytes, clock: Clock::new() })
    }

    fn part(&mut self, calls: u64) -> Result<SoakPart, BoxError> {
        let (mut part, mut times) = (SoakPart { calls, ..SoakPart::default() }, Distribution::new());
        for call in 0..calls {
            times.record(self.call()?);
            if call % calls.div_ceil(LOOKS) == 0 || call + 1 == calls {
                part.look(self.bridge.child_pid())?;
            }
        }
        (part.quantiles, part.max) = (times.quantiles(), times.max());
        Ok(part)
    }

    /// Makes one call and returns its time in nanoseconds.
    fn call(&mut self) -> Result<f64, BoxError> {
        let [len, reply_len] = [self.random.up_to(self.most), self.random.up_to(self.most)];
        let (begin, byte) = (self.random.up_to(BESIDE), self.random.next() as u8);
        let request = &self.bytes[begin..begin + len];
        let from = self.clock.now();
        let (sum, reply) = self.bridge.trade(request, reply_len as u64, byte)?;
        let to = self.clock.now();
        check(sum == bytes::sum(request), "trade")?;
        check(reply.len() == reply_len && bytes::sum(&reply) == bytes::sum_of(byte, reply_len), "trade")?;
        Ok(self.clock.nanos(from, to))
    }
}

impl SoakPart {
    /// Reads the memory use of both processes and keeps the maximum.
    fn look(&mut self, child: u32) -> Result<(), BoxError> {
        self.parent.raise(MemoryUse::of(std::process::id())?);
        self.child.raise(MemoryUse::of(child)?);
        Ok(())
    }
}

impl MemoryUse {
    /// Reads the memory use of a process from `/proc`.
    pub(crate) fn of(pid: u32) -> Result<Self, BoxError> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
        };
        let memory = || Some(Self { resident: field("VmRSS")?, shared: field("RssShmem")? });
        memory().ok_or_else(|| format!("the kernel does not say what memory process {pid} has").into())
    }

    fn raise(&mut self, now: Self) {
        self.resident = self.resident.max(now.resident);
        self.shared = self.shared.max(now.shared);
    }
}

/// splitmix64, by Steele, Lea and Flood.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `most`, both included.
    pub(crate) fn up_to(&mut self, most: usize) -> usize {
        // The high half of the product is practically uniform and needs no division.
        ((u128::from(self.next()) * (most as u128 + 1)) >> 64) as usize
    }
}

/// Measures the group `soak`: `calls` calls of up to 1 MiB each. Nothing is pinned.
pub fn measure(calls: u64, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let soak = Soak { calls, most: 1 << 20, seed: 1 };
    let mut done = 0;
    progress(&format!("{calls} calls of up to {}", size(soak.most)));
    let parts = soak.run(&mut |part| {
        done += part.calls;
        progress(&format!("{done} of {calls} calls"));
    })?;
    let rows = (1..).zip(&parts).map(|(at, part)| row(at, part, soak.budget()));
    Ok(BenchReport { rows: rows.collect(), ..BenchReport::default() })
}

fn row(at: u64, part: &SoakPart, budget: u64) -> Row {
    let Quantiles { p50, p90, p99, p999 } = part.quantiles;
    Row {
        group: "soak".into(),
        name: name(at),
        p50,
        p90,
        p99,
        p999,
        max: part.max,
        count: part.calls,
        resident: Some(part.resident() as f64),
        budget: Some(budget as f64),
        repeats: vec![part.quantiles],
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_that_the_seed_gives_and_reach_both_ends() {
        let mut random = Random(1234567);
        // The first number of the published test vector.
        assert_eq!(random.next(), 6457827717110365317);
        let lengths: Vec<_> = (0..1000).map(|_| random.up_to(3)).collect();
        assert!((0..=3).all(|len| lengths.contains(&len)) && lengths.iter().all(|len| *len <= 3));
    }

    #[test]
    fn every_part_has_its_calls_and_the_memory_of_both() {
        let soak = Soak { calls: 99, most: 20_000, seed: 7 };
        let mut told = 0;
        let parts = soak.run(&mut |_| told += 1).expect("right answers");
        assert_eq!((told, parts.len() as u64), (PARTS, PARTS));
        assert_eq!(parts.iter().map(|part| part.calls).sum::<u64>(), 99);
        for part in &parts {
            assert!(part.quantiles.p50 > 0.0 && part.max >= part.quantiles.p50, "{part:?}");
            for memory in [part.parent, part.child] {
                assert!(0 < memory.shared && memory.shared < memory.resident, "{part:?}");
            }
        }
        let [first, last] = [0, 9].map(|at: usize| parts[at].resident() as i64);
        assert_eq!(growth(&parts), last - first);
    }
}
