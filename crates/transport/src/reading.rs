//! Limits on reading an archive: levels, stack and time; and the reasons for refusing one.
//!
//! Never writes or reads an archive itself.
//!
//! # Levels are a rule, stack depends on the thread
//!
//! [`MAX_DEPTH`] is the same for the writer and the reader of a frame, and the same function counts (`validator`). So the writer notices
//! before the frame is sent, and a frame that arrives with more levels is not honest. How much stack is left only the reading thread knows: if it
//! has too little, the call fails ([`DecodeRefusal::Stack`]), and the peer is not blamed.
//!
//! # Why no value overflows the stack
//!
//! Three things recurse along the pointers of an archive:
//!
//! - **Validation** enters each level through the validator, which looks at what is left of the stack every few levels
//!   ([`LEVELS_AT_ONCE`]). If that is short, validation is done once more on a stack of its own.
//! - **Decoding** is code of the value's types, which checks no stack. Between two levels it keeps frames with a few copies of the object that it is
//!   making, above all without optimisation. The validator has seen the size of every object and how deep it lies, so [`Need`] is
//!   computed before: for each level a fixed amount, and [`COPIES`] times the bytes of the largest chain of objects in one another. If less is
//!   left, the value is decoded on a stack of its own of that size, whose pages cost memory only when they are used. The fixed amount is
//!   generous beyond the first levels, because an object may be larger than its archive (a skipped field). Half-made values are
//!   dropped where they were being made.
//! - **Dropping** the value happens on the thread that has it, in frames that do not grow with the objects: they hold pointers.
//!   [`DROP`] for each level must be left, or the value is not made.
//!
//! Stack that the user's own `Deserialize` or `Drop` needs beyond that, or code that reads a value recursively, is up to the user.

use crate::bounds::MAX_DEPTH;
use crate::doorbell::Deadline;
use callgate_os::limits::{self, Wanted};
use callgate_os::stack;
use rkyv::rancor::Failure;
use rustix::io::Errno;
use std::cell::Cell;

/// Levels that validation enters between two looks at the stack.
pub(crate) const LEVELS_AT_ONCE: usize = 4;

/// Stack for one level of validation: measured 0.8 KiB without optimisation, for nodes in boxes.
const VALIDATION: usize = 8 << 10;

/// Stack that must stay free: for the calls under way, and for signal handlers.
const RESERVE: usize = 16 << 10;

/// Stack for decoding one of the first levels: small enough to decode most values on any stack but the smallest.
const FIRST_LEVEL: usize = 128 << 10;

/// The number of first levels.
const FIRST_LEVELS: usize = 3;

/// Stack for decoding each further level: [`COPIES`] of an object of 21 KiB that has no bytes in its archive.
const LEVEL: usize = 256 << 10;

/// Stack for decoding a level besides the copies of its object: measured 0.6 KiB without optimisation, for nodes in boxes.
const LEAST_LEVEL: usize = 8 << 10;

/// Copies of an object in the stack frames that decode it: measured 8 without optimisation, for nodes in boxes.
const COPIES: usize = 12;

/// Anything larger is a list, which is made element by element.
const LARGEST_OBJECT: usize = 1 << 20;

/// The same for objects without parts: text, numbers.
const LARGEST_LEAF: usize = 128 << 10;

/// Stack for dropping a level: measured 0.5 KiB without optimisation, for trees of maps.
const DROP: usize = 2 << 10;

/// Stack that decoding an object of `len` archived bytes holds while its parts are made.
#[inline(always)]
pub fn copies(len: usize) -> usize {
    COPIES * len.min(LARGEST_OBJECT)
}

/// [`copies`] for an object without parts.
#[inline(always)]
pub(crate) fn copies_of_leaf(len: usize) -> usize {
    COPIES * len.min(LARGEST_LEAF)
}

/// Whether the stack has room for one more level, whose reading and dropping take less than a [`VALIDATION`].
#[cold]
pub fn may_nest() -> bool {
    stack::left() >= RESERVE + VALIDATION
}

/// Whether the stack has room to validate [`LEVELS_AT_ONCE`] more levels.
#[cold]
pub(crate) fn may_enter_more() -> bool {
    stack::left() >= RESERVE + LEVELS_AT_ONCE * VALIDATION
}

/// Runs `validate` on a stack with room for [`MAX_DEPTH`] levels.
#[cold]
pub(crate) fn with_stack_for_all_levels<R>(validate: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    let needed = RESERVE + (MAX_DEPTH + LEVELS_AT_ONCE) * VALIDATION;
    stack::on_another(needed, validate)
        .unwrap_or_else(|| Err(refuse(DecodeRefusal::Stack { needed, left: stack::left() })))
}

/// The stack that making the value of an archive needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// How deep its pointers nest.
    pub levels: usize,
    /// Bytes of [`copies`] of objects in one another.
    pub copies: usize,
    /// Whether the sender is trusted, as a child trusts its parent.
    pub is_trusted: bool,
}

impl Need {
    /// Most stack for decoding.
    fn to_decode(self) -> usize {
        let first = self.levels.min(FIRST_LEVELS);
        first * FIRST_LEVEL + (self.levels - first) * LEVEL + self.copies
    }

    /// Stack for decoding if no object is larger than its archive.
    fn to_decode_at_least(self) -> usize {
        self.levels * LEAST_LEVEL + self.copies
    }

    fn to_drop(self) -> usize {
        self.levels * DROP
    }

    /// Runs `decode` on a stack with room for it.
    ///
    /// # Errors
    ///
    /// If this stack has no room for dropping the value, or no other stack could be made.
    #[inline(always)]
    pub fn run<R>(self, decode: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
        // Without pointers nothing recurses. A constant for such types.
        if self.levels == 0 {
            return decode();
        }
        self.run_measured(decode)
    }

    fn run_measured<R>(self, decode: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
        let (mut decode, mut result) = (Some(decode), Err(Failure));
        self.run_where_there_is_stack(&mut || {
            if let Some(decode) = decode.take() {
                result = decode();
            }
        })?;
        result
    }

    /// Without type parameters, so that it is compiled once.
    fn run_where_there_is_stack(self, decode: &mut dyn FnMut()) -> Result<(), Failure> {
        let left = stack::left();
        if left >= RESERVE + self.to_decode() {
            decode();
            return Ok(());
        }
        if left < RESERVE + self.to_drop() {
            return Err(refuse(DecodeRefusal::Stack { needed: RESERVE + self.to_drop(), left }));
        }
        let needed = RESERVE + self.to_decode();
        if stack::on_another(needed, &mut *decode).is_some() {
            return Ok(());
        }
        // An untrusted sender may have objects larger than their archives.
        if !self.is_trusted {
            return Err(refuse(DecodeRefusal::Stack { needed, left }));
        }
        // No memory for such a stack (a child whose memory is limited): try the likely size.
        if left >= RESERVE + self.to_decode_at_least() {
            decode();
            return Ok(());
        }
        let needed = RESERVE + self.to_decode_at_least();
        stack::on_another(needed, decode).ok_or_else(|| refuse(DecodeRefusal::Stack { needed, left }))
    }
}

// ---- refusals ------------------------------------------------------------------------------------------------------

/// Why an archive was not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecodeRefusal {
    /// The bytes are no valid archive of the type, or the type's own code refused them.
    #[default]
    Invalid,
    /// It nests deeper than [`MAX_DEPTH`].
    Depth,
    /// It has too many elements without size.
    Elements,
    /// This thread has too little stack.
    Stack { needed: usize, left: usize },
    /// This process has no memory for `len` bytes.
    Memory { len: usize },
    /// The deadline passed.
    Late,
}

thread_local! {
    /// The reason of this thread's last refusal.
    static LAST: Cell<DecodeRefusal> = const { Cell::new(DecodeRefusal::Invalid) };
}

// ---- arguments -----------------------------------------------------------------------------------------------------

thread_local! {
    /// The need of the arguments that this thread has validated and not yet made.
    static ARGUMENTS: Cell<Need> = const { Cell::new(Need { levels: 0, copies: 0, is_trusted: false }) };
}

/// While this exists, [`arguments`] returns the need that it was made for.
pub struct ForArguments {
    before: Need,
}

impl Need {
    /// Sets the need of arguments that are made one by one, by code that sees only their archives. `trusts` says whether the sender is trusted.
    ///
    /// # Errors
    ///
    /// If this stack has no room for dropping them.
    #[inline(always)]
    pub fn of_arguments(self, trusts: impl FnOnce() -> bool) -> Result<Option<ForArguments>, Failure> {
        if self.levels == 0 { Ok(None) } else { Self { is_trusted: trusts(), ..self }.of_nested_arguments().map(Some) }
    }

    fn of_nested_arguments(self) -> Result<ForArguments, Failure> {
        let left = stack::left();
        let needed = RESERVE + self.to_drop();
        if left < needed {
            return Err(refuse(DecodeRefusal::Stack { needed, left }));
        }
        Ok(ForArguments { before: ARGUMENTS.replace(self) })
    }
}

impl Drop for ForArguments {
    fn drop(&mut self) {
        ARGUMENTS.set(self.before);
    }
}

/// The need of the arguments that are being made on this thread.
#[inline(always)]
pub fn arguments() -> Need {
    ARGUMENTS.get()
}

/// Notes the reason of a refusal.
#[cold]
pub fn refuse(why: DecodeRefusal) -> Failure {
    LAST.set(why);
    Failure
}

/// The reason of this thread's last refusal, which is forgotten.
#[cold]
pub fn last_refusal() -> DecodeRefusal {
    LAST.take()
}

/// Smaller allocations are not tried first: a process without memory for them ends soon anyway.
const LARGE: usize = 128 << 10;

/// Checks that this process has memory for `len` more bytes: a peer chooses `len`, and Rust ends a process whose allocation fails.
///
/// # Errors
///
/// If it has not.
pub fn has_memory(len: usize) -> Result<(), Failure> {
    if len < LARGE || Vec::<u8>::new().try_reserve_exact(len).is_ok() {
        return Ok(());
    }
    Err(refuse(DecodeRefusal::Memory { len }))
}

/// The limit of [`DecodeRefusal::Elements`] in words.
pub const TOO_MANY: &str = "more zero-sized elements than bytes, and more than 65,536";

impl DecodeRefusal {
    /// The limit in words; `None` for refusals that are about no limit.
    pub fn limit(self) -> Option<String> {
        Some(match self {
            DecodeRefusal::Invalid | DecodeRefusal::Late => return None,
            DecodeRefusal::Depth => format!("more than {MAX_DEPTH} pointers in a row"),
            DecodeRefusal::Elements => TOO_MANY.into(),
            DecodeRefusal::Memory { len } => {
                let limit = limits::behind(&Errno::NOMEM.into(), Wanted::Memory);
                format!("there is no memory for the {len} bytes that reading it takes{limit}")
            }
            DecodeRefusal::Stack { needed, left } => format!(
                "reading it takes {} KiB of stack, and this thread has {} KiB left; a thread with a larger stack can read it",
                needed.div_ceil(1024),
                left / 1024
            ),
        })
    }
}

/// An error if the deadline has passed.
#[inline]
pub fn in_time(until: Deadline) -> Result<(), Failure> {
    if until.has_passed() { Err(refuse(DecodeRefusal::Late)) } else { Ok(()) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::commit::ALIGN;
    use crate::copy_buffer::read_copy;
    use crate::decoder::{Decoder, Transfer};
    use crate::doorbell::Deadline;
    use crate::encode::encode_to_vec;
    use rkyv::util::AlignedVec;
    use rkyv::with::Skip;
    use rkyv::{Archive, Deserialize, Serialize};
    use std::collections::BTreeMap;
    use std::thread;

    /// A list of nodes with `N` bytes in their archives and `SKIPPED` that are not.
    #[derive(Archive, Serialize, Deserialize)]
    #[rkyv(
        serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source),
        deserialize_bounds(__D::Error: rkyv::rancor::Source),
        bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source))
    )]
    struct Node<const N: usize, const SKIPPED: usize> {
        bytes: [u8; N],
        #[rkyv(with = Skip)]
        skipped: SkippedBytes<SKIPPED>,
        #[rkyv(omit_bounds)]
        next: Option<Box<Node<N, SKIPPED>>>,
    }

    struct SkippedBytes<const N: usize>(#[allow(dead_code)] [u8; N]);

    impl<const N: usize> Default for SkippedBytes<N> {
        fn default() -> Self {
            Self([7; N])
        }
    }

    /// A tree of maps and lists.
    #[derive(Archive, Serialize, Deserialize)]
    #[rkyv(
        serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source),
        deserialize_bounds(__D::Error: rkyv::rancor::Source),
        bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source))
    )]
    struct MapTree {
        #[rkyv(omit_bounds)]
        map: BTreeMap<u32, MapTree>,
        #[rkyv(omit_bounds)]
        list: Vec<MapTree>,
    }

    /// Runs `run` on a thread with a stack of `size` bytes.
    fn with_stack<R: Send + 'static>(size: usize, run: impl FnOnce() -> R + Send + 'static) -> R {
        let thread = thread::Builder::new().stack_size(size).spawn(run);
        thread.expect("a thread").join().expect("no overflow")
    }

    /// A list of any number of levels, also beyond the limit.
    fn list<const N: usize, const SKIPPED: usize>(levels: usize) -> AlignedVec<ALIGN> {
        with_stack(256 << 20, move || {
            let node = |next| Box::new(Node::<N, SKIPPED> { bytes: [1; N], skipped: SkippedBytes::default(), next });
            let list = (0..levels).fold(node(None), |next, _| node(Some(next)));
            encode_to_vec(&list, 1 << 30).expect("an archive")
        })
    }

    fn tree(levels: usize) -> AlignedVec<ALIGN> {
        with_stack(256 << 20, move || {
            let leaf = MapTree { map: BTreeMap::new(), list: Vec::new() };
            let tree = (0..levels).fold(leaf, |tree, level| match level % 2 {
                0 => MapTree { map: BTreeMap::from([(7, tree)]), list: Vec::new() },
                _ => MapTree { map: BTreeMap::new(), list: vec![tree] },
            });
            encode_to_vec(&tree, 1 << 20).expect("an archive")
        })
    }

    /// Whether the value was made and dropped on a thread with a stack of `size` bytes. If not, the refusal must be for the stack.
    fn is_read<R: Transfer>(bytes: &AlignedVec<ALIGN>, size: usize) -> bool {
        let bytes = bytes.clone();
        with_stack(size, move || match read_copy::<R>(&bytes, Decoder::of_child()) {
            Ok(value) => {
                drop(value);
                true
            }
            Err(Failure) => {
                assert!(matches!(last_refusal(), DecodeRefusal::Stack { .. }));
                false
            }
        })
    }

    fn nodes_of<const N: usize, const SKIPPED: usize>(levels: &[usize]) {
        for &levels in levels {
            let bytes = list::<N, SKIPPED>(levels);
            for size in [64 << 10, 256 << 10, 2 << 20, 8 << 20] {
                let is_read = is_read::<Box<Node<N, SKIPPED>>>(&bytes, size);
                assert!(is_read || size < levels * DROP + (1 << 20), "{N} bytes, {levels} levels on {size}");
            }
        }
    }

    #[test]
    fn fault_25_nodes_of_any_size_are_read_on_any_stack_or_refused() {
        nodes_of::<16, 0>(&[0, 1, 4, 17, 63, 200, MAX_DEPTH - 1]);
        nodes_of::<4096, 0>(&[1, 4, 17, 70, 200]);
        nodes_of::<{ 16 << 10 }, 0>(&[1, 4, 63, 200]);
        nodes_of::<{ 64 << 10 }, 0>(&[1, 4, 60]);
        // Larger than their archives.
        nodes_of::<8, { 16 << 10 }>(&[0, 1, 4, 17, 200]);
    }

    #[test]
    fn fault_25_trees_of_maps_are_read_on_any_stack_or_refused() {
        for levels in [1, 3, 20, 100, 200] {
            let bytes = tree(levels);
            for size in [64 << 10, 256 << 10, 1 << 20, 2 << 20, 8 << 20] {
                let is_read = is_read::<MapTree>(&bytes, size);
                assert!(is_read || size < levels * DROP + (1 << 20), "{levels} levels on {size}");
            }
        }
    }

    #[test]
    fn fault_25_levels_beyond_the_limit_are_refused_on_any_stack() {
        for levels in [MAX_DEPTH, 1000, 10_000] {
            let bytes = list::<16, 0>(levels);
            for size in [64 << 10, 2 << 20] {
                let bytes = bytes.clone();
                let refusal = with_stack(size, move || {
                    let read = read_copy::<Box<Node<16, 0>>>(&bytes, Decoder::of_child());
                    read.map(drop).map_err(|Failure| last_refusal())
                });
                assert_eq!(refusal, Err(DecodeRefusal::Depth), "{levels} levels on {size}");
            }
        }
    }

    #[test]
    fn fault_46_a_deadline_ends_the_reading() {
        let many: Vec<String> =
            (0..200_000).map(|number| format!("a text that has a place of its own: {number}")).collect();
        let bytes = encode_to_vec(&many, 1 << 28).unwrap();
        let read = crate::archive::access_until::<rkyv::vec::ArchivedVec<rkyv::string::ArchivedString>>(
            &bytes,
            Deadline::now(),
        );
        assert!(read.is_err());
        assert_eq!(last_refusal(), DecodeRefusal::Late);
    }
}
