//! Very many calls with payloads of random sizes, and what memory both processes keep: it must not grow, and not exceed the budget.
//!
//! Requests and replies have lengths of their own, from nothing to the most, from a generator whose seed is stated. Every request is
//! summed by the child and every reply by the caller, so that no byte can be another call's.

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

/// How many parts the calls come in.
pub const PARTS: u64 = 10;

/// By how many bytes the resident memory of both processes may differ between the first part and the last: what the allocators of
/// both keep, or give back, from one moment to the next.
pub const SLACK: u64 = 4 << 20;

/// The row of one part, counted from 1.
pub fn name(part: u64) -> String {
    format!("soak, tenth {part} of {PARTS}")
}

/// How long a call may take: so that nothing hangs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What goes with a payload: its length, the sum, their places.
const BESIDE: usize = 4 << 10;

/// How often memory is looked at in each part. The most that was seen counts.
const LOOKS: u64 = 16;

/// The parameters of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soak {
    /// How many calls.
    pub calls: u64,
    /// The longest request and the longest reply, in bytes.
    pub most: usize,
    /// Which random lengths.
    pub seed: u64,
}

/// What one part of the calls came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SoakPart {
    /// How many calls there were.
    pub calls: u64,
    /// How long they took, in nanoseconds.
    pub quantiles: Quantiles,
    /// How long the longest took.
    pub max: f64,
    /// The most that the calling process had.
    pub parent: MemoryUse,
    /// The most that the child had.
    pub child: MemoryUse,
}

/// The memory of one process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// All that is resident (VmRSS).
    pub resident: u64,
    /// The part of it that is shared memory (RssShmem): pages that both processes have are counted in both.
    pub shared: u64,
}

impl Soak {
    /// The shared memory that the bridge may have for large payloads, in bytes: as much as it has by default.
    pub fn budget(&self) -> u64 {
        4 * self.max_payload() + (128 << 20)
    }

    /// Makes the calls. Tells `each` of every part when it is done, and returns them all.
    ///
    /// # Errors
    ///
    /// If a call fails, takes half a minute or is answered wrongly.
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
    /// What both processes have together, in bytes.
    pub fn resident(&self) -> u64 {
        self.parent.resident + self.child.resident
    }
}

/// By how many bytes the resident memory of both processes grew from the first part to the last; below 0 if it shrank.
pub fn growth(parts: &[SoakPart]) -> i64 {
    let [first, last] = [parts.first(), parts.last()].map(|part| part.map_or(0, SoakPart::resident));
    last as i64 - first as i64
}

struct SoakCaller {
    bridge: Bridge<CountService>,
    random: Random,
    most: usize,
    /// Requests begin anywhere in the first page, so that those of one length differ.
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

    /// One call, and how many nanoseconds it took.
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
    /// Looks at both processes' memory now.
    fn look(&mut self, child: u32) -> Result<(), BoxError> {
        self.parent.raise(MemoryUse::of(std::process::id())?);
        self.child.raise(MemoryUse::of(child)?);
        Ok(())
    }
}

impl MemoryUse {
    /// What the kernel says of a process.
    fn of(pid: u32) -> Result<Self, BoxError> {
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

    /// 0 to `most`, both included.
    pub(crate) fn up_to(&mut self, most: usize) -> usize {
        // The product's high half: as even as can be told, without a division.
        ((u128::from(self.next()) * (most as u128 + 1)) >> 64) as usize
    }
}

/// The group `soak`: so many calls of up to 1 MiB. Nothing is pinned.
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
        // The first of the published test vector.
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
