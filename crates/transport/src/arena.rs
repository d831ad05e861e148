//! Arenas: blocks for payloads that outgrow a slot.
//!
//! An arena belongs to one side, which allocates from it and keeps all its books in private memory; the other side
//! only reads the blocks that frames name. A [`Source`] provides segments, which the arena reuses: a
//! fresh page costs ten times a used one. Knows nothing of sockets; never blocks, except where the source does.
//!
//! Block sizes are powers of two from 4 KiB to 64 KiB, sixteen to a segment; larger ones have a segment of their own, in
//! steps of a quarter of a power of two, so that at most a fifth is wasted.

use crate::commit::BlockRef;
use crate::doorbell::Deadline;
use crate::error::NoMemory;
use crate::segment::{Block, Span};
use callgate_os::mapping::Mapping;
use std::collections::HashMap;
use std::sync::Arc;

/// The smallest block, in bytes.
const SMALLEST: u64 = 4 << 10;

/// The largest block that shares its segment with others.
const LARGEST_SHARED: u64 = 64 << 10;

/// Blocks in a shared segment.
const BLOCKS_PER_SEGMENT: u64 = 16;

/// Where an arena gets its segments.
pub trait Source {
    /// A new segment of `len` bytes, which no other arena has, and the number by which the peer knows it. `Exhausted` if too much of the budget
    /// is in use.
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory>;

    /// Gives a segment back.
    fn shrink(&mut self, segment: u64);
}

/// A block on loan from an [`Arena`], to be given back to it.
#[derive(Debug)]
pub struct Allocation {
    block: Block,
    pub segment: u64,
    offset: u64,
    /// Bytes that a frame may fill: at most the longest payload.
    len: u64,
    /// Bytes at the beginning that will be written for the first time.
    to_populate: usize,
}

/// Bytes populated between two looks at the clock: a huge page, on systems that have them.
const POPULATED: usize = 2 << 20;

impl Allocation {
    /// Has the system provide the pages of a new block, as far as there is time. Call it without holding a lock.
    pub fn populate(&self, until: Deadline) {
        for from in (0..self.to_populate).step_by(POPULATED) {
            if until.has_passed() {
                return;
            }
            self.block.populate(from, POPULATED.min(self.to_populate - from));
        }
    }

    pub fn span(&self) -> Span<'_> {
        self.block.span()
    }

    pub fn block(&self) -> Block {
        self.block.clone()
    }

    /// The part of the block that a frame may fill, which ends where the longest payload does.
    pub fn room(&self) -> Span<'_> {
        self.span().first(self.len as usize)
    }

    /// Copies `bytes` to the beginning of the room.
    ///
    /// # Panics
    ///
    /// If there is less room.
    pub fn copy_from(&mut self, bytes: Span<'_>) {
        // SAFETY: `allocate` found the mapping writable. The arena gave the block to this allocation alone, which is borrowed exclusively, and
        // only `SharedBox` refers to bytes of a block, of one that it owns.
        unsafe { bytes.copy_into(self.room()) }
    }

    /// What a frame says of the first `len` bytes of this block.
    pub fn reference(&self, len: usize) -> BlockRef {
        BlockRef { segment: self.segment, offset: self.offset, len: len as u64, loan_id: 0 }
    }
}

/// The allocator of one side.
///
/// Two bounds limit its idle segments. In use, it keeps them up to its peak or up to `retained`, whichever is more, so that a run of large
/// payloads is not a run of new segments. When it has not been used for a while, its owner calls [`tidy`](Self::tidy), which keeps `retained`
/// alone.
pub struct Arena {
    segments: HashMap<u64, Owned>,
    limits: Limits,
    /// Bytes in segments of which no block is in use.
    idle: u64,
    /// Bytes in the other segments.
    in_use: u64,
    /// The highest `in_use` since the last [`tidy`](Self::tidy).
    peak: u64,
    /// Counts the uses of all segments.
    clock: u64,
}

/// How much memory an arena may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest payload, in bytes.
    pub max_payload: u64,
    /// Bytes of idle segments that are never given back.
    pub retained: u64,
}

struct Owned {
    mapping: Arc<Mapping>,
    block_len: u64,
    blocks: u64,
    free: Vec<u64>,
    /// The arena's clock at its last use.
    used: u64,
}

impl Owned {
    fn is_idle(&self) -> bool {
        self.free.len() as u64 == self.blocks
    }

    fn len(&self) -> u64 {
        self.block_len * self.blocks
    }
}

impl Arena {
    /// The longest payload, in bytes.
    pub fn max_payload(&self) -> u64 {
        self.limits.max_payload
    }

    pub fn new(limits: Limits) -> Self {
        Self { segments: HashMap::new(), limits, idle: 0, in_use: 0, peak: 0, clock: 0 }
    }

    /// Whether idle memory exceeds `retained`.
    pub fn is_untidy(&self) -> bool {
        self.idle > self.limits.retained
    }

    /// Whether idle memory would exceed `retained` if no block were in use.
    pub fn is_beyond_retained(&self) -> bool {
        self.idle + self.in_use > self.limits.retained
    }

    /// Gives back idle memory beyond `retained`. Returns the mappings, for the caller to drop outside its lock: unmapping takes time.
    pub fn tidy(&mut self, source: &mut dyn Source) -> Vec<Arc<Mapping>> {
        self.peak = self.in_use;
        self.give_back_idle(self.limits.retained, source)
    }

    /// A block of at least `len` bytes.
    ///
    /// # Errors
    ///
    /// If `len` exceeds the longest payload, or the source has no more memory even after all idle segments were given back.
    pub fn allocate(&mut self, len: u64, source: &mut dyn Source) -> Result<Allocation, NoMemory> {
        if len > self.limits.max_payload {
            return Err(NoMemory::TooLarge { len, max: self.limits.max_payload });
        }
        let block_len = block_len(len);
        if let Some(allocation) = self.reuse(block_len) {
            return Ok(allocation);
        }
        let blocks = if block_len <= LARGEST_SHARED { BLOCKS_PER_SEGMENT } else { 1 };
        let mut grown = source.grow(block_len * blocks);
        let is_refused = grown.as_ref().is_err_and(|why| !may_come_later(why));
        if is_refused && !self.give_back_idle(0, source).is_empty() {
            grown = source.grow(block_len * blocks);
        }
        let (segment, mapping) = grown.map_err(|why| for_payload(why, len))?;
        // A hub is not trusted, and blocks of two segments with one number could not be told apart.
        if self.segments.contains_key(&segment) {
            return Err(NoMemory::Failed { why: format!("a second segment came with the number {segment}") });
        }
        if !mapping.is_writable() {
            return Err(NoMemory::Failed { why: format!("the segment {segment} came mapped for reading only") });
        }
        let free = (0..blocks).rev().collect();
        self.segments.insert(segment, Owned { mapping, block_len, blocks, free, used: 0 });
        self.idle += block_len * blocks;
        let mut allocation =
            self.reuse(block_len).ok_or_else(|| NoMemory::Failed { why: "a segment shorter than asked for".into() })?;
        // Blocks that share their segment are written one at a time, and most of them never.
        allocation.to_populate = if blocks == 1 { len as usize } else { 0 };
        Ok(allocation)
    }

    /// A block for at least `need` bytes of a frame that has written `written` bytes and outgrows its place.
    ///
    /// Twice `written`, so that a frame of many small pieces moves a logarithmic number of times; one large piece gets
    /// what it needs, and an eighth for what follows it.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate).
    pub fn allocate_more(
        &mut self,
        written: usize,
        need: usize,
        source: &mut dyn Source,
    ) -> Result<Allocation, NoMemory> {
        let need = need as u64;
        let wish = (2 * written as u64).max(need + need / 8).min(self.limits.max_payload).max(need);
        match self.allocate(wish, source) {
            Err(why) if !may_come_later(&why) => self.allocate(need, source),
            found => found,
        }
    }

    /// A free block of the class, or of one at most twice as large.
    fn reuse(&mut self, block_len: u64) -> Option<Allocation> {
        let fits = |owned: &Owned| !owned.free.is_empty() && (block_len..=2 * block_len).contains(&owned.block_len);
        let (&segment, owned) =
            self.segments.iter_mut().filter(|(_, owned)| fits(owned)).min_by_key(|(_, owned)| owned.block_len)?;
        if owned.is_idle() {
            self.idle -= owned.len();
            self.in_use += owned.len();
            self.peak = self.peak.max(self.in_use);
        }
        let index = owned.free.pop()?;
        self.clock += 1;
        owned.used = self.clock;
        let (offset, len) = (index * owned.block_len, owned.block_len);
        let block = Block::new(&owned.mapping, offset, len)?;
        Some(Allocation { block, segment, offset, len: len.min(self.limits.max_payload), to_populate: 0 })
    }

    /// Takes a block back.
    pub fn free(&mut self, allocation: Allocation, source: &mut dyn Source) {
        let Some(owned) = self.segments.get_mut(&allocation.segment) else { return };
        let index = allocation.offset / owned.block_len;
        debug_assert!(!owned.free.contains(&index), "a block freed twice");
        owned.free.push(index);
        if owned.is_idle() {
            self.idle += owned.len();
            self.in_use -= owned.len();
            let keep = self.limits.retained.max(self.peak.saturating_sub(self.in_use));
            self.give_back_idle(keep, source);
        }
    }

    /// Gives idle segments back, the least recently used first, until at most `keep` bytes are left. Returns their mappings.
    fn give_back_idle(&mut self, keep: u64, source: &mut dyn Source) -> Vec<Arc<Mapping>> {
        let mut given_back = Vec::new();
        while self.idle > keep {
            let idle = self.segments.iter().filter(|(_, owned)| owned.is_idle());
            let Some((&segment, _)) = idle.min_by_key(|(_, owned)| owned.used) else { break };
            if let Some(owned) = self.segments.remove(&segment) {
                self.idle -= owned.len();
                given_back.push(owned.mapping);
            }
            source.shrink(segment);
        }
        given_back
    }
}

/// Whether there may be memory without anything being given back: the arena is not at its limit.
fn may_come_later(why: &NoMemory) -> bool {
    matches!(why, NoMemory::Late { .. } | NoMemory::Unread { .. })
}

/// An error about a segment, as an error about the payload that needed it.
fn for_payload(why: NoMemory, len: u64) -> NoMemory {
    match why {
        NoMemory::TooLarge { max, .. } => NoMemory::TooLarge { len, max: max.min(len.saturating_sub(1)) },
        NoMemory::Exhausted { budget, .. } => NoMemory::Exhausted { len, budget },
        NoMemory::Late { .. } => NoMemory::Late { len },
        NoMemory::Unread { .. } => NoMemory::Unread { len },
        failed => failed,
    }
}

/// The size class for a payload of `len` bytes.
fn block_len(len: u64) -> u64 {
    let len = len.max(SMALLEST);
    let power = len.next_power_of_two();
    if power <= LARGEST_SHARED { power } else { len.next_multiple_of(power / 8) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_os::mapping::Protection;
    use callgate_os::memfd;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Memfds {
        next: u64,
        live: HashMap<u64, u64>,
        budget: u64,
    }

    impl Source for Memfds {
        fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
            if self.live.values().sum::<u64>() + len > self.budget {
                return Err(NoMemory::TooLarge { len, max: self.budget });
            }
            self.next += 1;
            self.live.insert(self.next, len);
            let (mapping, _) = memfd::create_sealed("callgate-test", len as usize, Protection::ReadWrite).unwrap();
            Ok((self.next, Arc::new(mapping)))
        }

        fn shrink(&mut self, segment: u64) {
            self.live.remove(&segment).expect("gives back what it was given");
        }
    }

    /// Gives every segment the same number.
    struct Repeating;

    impl Source for Repeating {
        fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
            let (mapping, _) = memfd::create_sealed("callgate-test", len as usize, Protection::ReadWrite).unwrap();
            Ok((5, Arc::new(mapping)))
        }

        fn shrink(&mut self, _: u64) {}
    }

    #[test]
    fn two_segments_of_one_number_are_not_taken() {
        let mut arena = Arena::new(limits(1 << 20));
        let _first = arena.allocate(100_000, &mut Repeating).unwrap();
        assert!(matches!(arena.allocate(100_000, &mut Repeating), Err(NoMemory::Failed { .. })));
    }

    fn limits(max_payload: u64) -> Limits {
        Limits { max_payload, retained: 64 << 20 }
    }

    #[test]
    fn classes_waste_at_most_a_fifth_beyond_64_kib() {
        assert_eq!(block_len(0), 4096);
        assert_eq!(block_len(4097), 8192);
        assert_eq!(block_len(65536), 65536);
        for len in [65537u64, 100_000, 1 << 20, (1 << 20) + 1, 33_177_600, 1 << 30] {
            let class = block_len(len);
            assert!(class >= len && class * 4 <= len * 5, "{len} -> {class}");
        }
    }

    #[test]
    fn a_payload_beyond_the_limit_is_refused_and_nothing_is_lost() {
        let mut source = Memfds { budget: 1 << 20, ..Memfds::default() };
        let mut arena = Arena::new(limits(1 << 19));
        assert_eq!(
            arena.allocate((1 << 19) + 1, &mut source).unwrap_err(),
            NoMemory::TooLarge { len: (1 << 19) + 1, max: 1 << 19 }
        );
        let allocations: Vec<_> = std::iter::from_fn(|| arena.allocate(1 << 18, &mut source).ok()).collect();
        assert_eq!(allocations.len(), 4);
        for allocation in allocations {
            arena.free(allocation, &mut source);
        }
        // Idle segments of another class are given back.
        assert!(arena.allocate(1 << 19, &mut source).is_ok());
    }

    /// A run of large payloads reuses its segments, and the arena keeps its peak.
    #[test]
    fn idle_memory_stays_up_to_the_peak_until_it_is_tidied() {
        let mut source = Memfds { budget: 1 << 30, ..Memfds::default() };
        let mut arena = Arena::new(Limits { max_payload: 64 << 20, retained: 4 << 20 });
        for _ in 0..10 {
            let allocations = [20 << 20, 10 << 20].map(|len| arena.allocate(len, &mut source).unwrap());
            allocations.into_iter().for_each(|allocation| arena.free(allocation, &mut source));
        }
        assert_eq!(source.next, 2, "only the first of each size is a new segment");
        assert!(arena.is_untidy());
        // Other sizes replace them, within the peak.
        for len in [30 << 20, 25 << 20, 15 << 20] {
            let allocation = arena.allocate(len, &mut source).unwrap();
            arena.free(allocation, &mut source);
            assert!(source.live.values().sum::<u64>() <= 32 << 20);
        }
        let small = arena.allocate(5000, &mut source).unwrap();
        assert!(!arena.tidy(&mut source).is_empty());
        assert!(!arena.is_untidy());
        arena.free(small, &mut source);
        assert_eq!(source.live.len(), 1, "what is retained");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// After any sequence of allocating, freeing and tidying, the blocks in use are those of a reference allocator.
        #[test]
        fn an_arena_equals_the_reference(acts in proptest::collection::vec((0u8..8, 0u64..300_000), 1..80)) {
            let mut model = Reference {
                source: Memfds { budget: 2 << 20, ..Memfds::default() },
                arena: Arena::new(Limits { max_payload: 1 << 18, retained: 256 << 10 }),
                allocations: Vec::new(),
            };
            for (act, number) in acts {
                match act {
                    0..4 => model.allocate(number),
                    4..7 if !model.allocations.is_empty() => model.free(number as usize % model.allocations.len()),
                    _ => drop(model.arena.tidy(&mut model.source)),
                }
                model.check();
            }
            while !model.allocations.is_empty() {
                model.free(0);
                model.check();
            }
            prop_assert_eq!(model.arena.in_use, 0);
            model.arena.tidy(&mut model.source);
            prop_assert!(model.source.live.values().sum::<u64>() <= 256 << 10);
        }
    }

    /// An arena, what it has lent, and where its memory comes from.
    struct Reference {
        source: Memfds,
        arena: Arena,
        allocations: Vec<Allocation>,
    }

    impl Reference {
        /// A block that is free, of the class asked for or up to twice that; else a new segment, if the budget holds it beside the segments in use.
        fn allocate(&mut self, len: u64) {
            let class = block_len(len);
            let new = if class <= LARGEST_SHARED { class * BLOCKS_PER_SEGMENT } else { class };
            let is_free =
                |owned: &Owned| owned.block_len >= class && owned.block_len <= 2 * class && !owned.free.is_empty();
            let can_be = self.arena.segments.values().any(is_free) || self.in_use() + new <= self.source.budget;
            match self.arena.allocate(len, &mut self.source) {
                Ok(allocation) => {
                    assert!(can_be && len <= 1 << 18 && allocation.len >= len);
                    assert!(
                        allocation.block.span().len() as u64 <= 2 * class && allocation.offset.is_multiple_of(4096)
                    );
                    self.allocations.push(allocation);
                }
                Err(why) => assert!(len > 1 << 18 || !can_be, "{len} bytes were refused: {why:?}"),
            }
        }

        fn free(&mut self, at: usize) {
            self.arena.free(self.allocations.swap_remove(at), &mut self.source);
        }

        /// Bytes of the segments that some loan lies in.
        fn in_use(&self) -> u64 {
            let is_lent = |segment: &u64| self.allocations.iter().any(|allocation| allocation.segment == *segment);
            self.source.live.iter().filter(|(segment, _)| is_lent(segment)).map(|(_, len)| len).sum()
        }

        fn check(&self) {
            for (at, one) in self.allocations.iter().enumerate() {
                let end = |allocation: &Allocation| allocation.offset + allocation.block.span().len() as u64;
                assert!(end(one) <= self.source.live[&one.segment], "outside its segment");
                let others = self.allocations[at + 1..].iter().filter(|other| other.segment == one.segment);
                others.for_each(|other| {
                    assert!(end(other) <= one.offset || end(one) <= other.offset, "two in one place")
                });
            }
            assert_eq!(self.arena.in_use, self.in_use());
            assert_eq!(self.arena.in_use + self.arena.idle, self.source.live.values().sum::<u64>());
            let lent = self.arena.segments.values().map(|owned| owned.blocks - owned.free.len() as u64);
            assert_eq!(lent.sum::<u64>(), self.allocations.len() as u64, "each is out or free, and is it once");
        }
    }
}
