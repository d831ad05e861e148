//! A bridge's segment as an attacker sees it, who knows only what his own process has mapped.

#![allow(dead_code)]

use rustix::mm::{MremapFlags, mremap};
use std::ffi::c_void;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

pub(crate) const LINE: u64 = 64;

/// Kinds of frames, and the mark of a frame in a block.
pub(crate) const CALL: u64 = 2;
pub(crate) const STOP: u64 = 4;
pub(crate) const REFUSED: u64 = 7;
pub(crate) const FAILED: u64 = 10;
pub(crate) const ASK: u64 = 14;
pub(crate) const IN_BLOCK: u64 = 0x80;

/// The number of blocks that may be lent at a time.
pub(crate) const LOANS: u64 = 1024;

/// The segment: found in `/proc/self/maps`, with its geometry read from its header. There is one worker, and all writes go to lane 0.
pub(crate) struct Raw {
    base: u64,
    pub(crate) slots: u64,
    pub(crate) stride: u64,
    /// Total bytes.
    pub(crate) len: u64,
}

impl Raw {
    /// The words that the worker and the caller of lane 0 sleep on.
    pub(crate) const WORKER_BELL: u64 = 128;
    pub(crate) const CALLER_BELL: u64 = 256;
    /// The callee's line, after the caller's: its progress.
    pub(crate) const STARTED: u64 = 256 + 128;
    /// Where the lane's deadlines begin: after the header, the worker's line, and the lines of caller and callee.
    const DEADLINES: u64 = 128 + 128 + 256;

    pub(crate) fn find() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
        let line = maps.lines().find(|line| line.contains("memfd:callgate ")).expect("the segment is mapped");
        let range = line.split_whitespace().next().and_then(|range| range.split_once('-')).expect("a range");
        let [base, end] = [range.0, range.1].map(|hex| u64::from_str_radix(hex, 16).expect("an address"));
        let slots = Self { base, slots: 0, stride: 0, len: 0 }.at(16).load(Relaxed);
        Self { base, slots: slots & 0xffff_ffff, stride: (slots >> 32) * LINE, len: end - base }
    }

    /// Maps the same memory a second time, for good. An attacker who continues after callgate has unmapped the segment does not crash.
    pub(crate) fn kept(self) -> Self {
        let (base, len) = (self.base as *mut c_void, self.len as usize);
        // SAFETY: an old length of 0 leaves a shared mapping as it is and creates another at an address of the kernel's choice.
        let again = unsafe { mremap(base, 0, len, MremapFlags::MAYMOVE) };
        Self { base: again.expect("room for a mapping") as u64, ..self }
    }

    pub(crate) fn at(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: the tests' offsets lie inside the segment and are aligned to 8; the segment stays mapped.
        unsafe { AtomicU64::from_ptr((self.base + offset) as *mut u64) }
    }

    /// A word to sleep on and to wake.
    pub(crate) fn bell(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: as `at`.
        unsafe { AtomicU32::from_ptr((self.base + offset) as *mut u32) }
    }

    pub(crate) fn started(&self) -> u64 {
        self.at(Self::STARTED).load(Relaxed)
    }

    /// Where the lane's requests begin, after a deadline of 16 bytes for each slot.
    fn requests(&self) -> u64 {
        Self::DEADLINES + (16 * self.slots).next_multiple_of(128)
    }

    fn ring(&self) -> u64 {
        (self.slots * self.stride).next_multiple_of(128)
    }

    /// Word `word` of the request slot at `position`.
    pub(crate) fn request(&self, position: u64, word: u64) -> &AtomicU64 {
        self.at(self.requests() + (position % self.slots) * self.stride + 8 * word)
    }

    /// Word `word` of the reply slot at `position`.
    pub(crate) fn reply(&self, position: u64, word: u64) -> &AtomicU64 {
        self.at(self.requests() + self.ring() + (position % self.slots) * self.stride + 8 * word)
    }

    /// The payload of the request at `position`, as long as no later frame has used its slot. The payload must lie in the slot.
    pub(crate) fn request_bytes(&self, position: u64) -> Vec<u8> {
        bytes(|word| self.request(position, word))
    }

    /// The payload of the reply at `position`, under the same conditions.
    pub(crate) fn reply_bytes(&self, position: u64) -> Vec<u8> {
        bytes(|word| self.reply(position, word))
    }

    /// What the child says of the parent's block `index`, or, with `table` 1, the parent of the child's. For a segment with one lane.
    pub(crate) fn held(&self, table: u64, index: u64) -> &AtomicU64 {
        self.at(self.requests() + 2 * self.ring() + 8 * (table * LOANS + index))
    }

    /// Publishes a reply: `payload` from the slot's third word on, then the commit word.
    pub(crate) fn forge(&self, position: u64, commit: u64, payload: &[u64]) {
        for (word, value) in (2..).zip(payload) {
            self.reply(position, word).store(*value, Relaxed);
        }
        self.reply(position, 0).store(commit, Release);
    }

    /// Publishes a reply of `len` bytes to the call in progress.
    pub(crate) fn answer(&self, payload: &[u64], len: u64) {
        let position = self.started() - 1;
        self.forge(position, commit(position, len, CALL), payload);
    }
}

fn bytes<'a>(word: impl Fn(u64) -> &'a AtomicU64) -> Vec<u8> {
    let commit = word(0).load(Relaxed);
    assert_eq!(commit & IN_BLOCK, 0, "the payload is not in its slot");
    let len = commit >> 8 & 0xff_ffff;
    let mut bytes: Vec<_> = (0..len.div_ceil(8)).flat_map(|at| word(2 + at).load(Relaxed).to_le_bytes()).collect();
    bytes.truncate(len as usize);
    bytes
}

/// Address and length of the largest piece of memory for large payloads that this process may write.
pub(crate) fn own_memory() -> (u64, u64) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let own = maps.lines().filter(|line| line.contains(" rw-s ") && line.contains("memfd:callgate-arena"));
    let ranges = own.filter_map(|line| line.split_whitespace().next()?.split_once('-'));
    let number = |hex| u64::from_str_radix(hex, 16).expect("an address");
    let ranges = ranges.map(|(start, end)| (number(start), number(end) - number(start)));
    ranges.max_by_key(|(_, len)| *len).expect("memory of its own")
}

/// The commit word of a frame at `position`.
pub(crate) fn commit(position: u64, len: u64, kind: u64) -> u64 {
    ((position + 1) & 0xffff_ffff) << 32 | len << 8 | kind
}

/// `bytes` as words, the last one padded with zeros.
pub(crate) fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    bytes.chunks(8).map(word).collect()
}
