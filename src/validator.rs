//! What archives are validated with: bounds, depth, how many elements of no size they claim to have, and hash tables that have no end.
//!
//! Layer 2, with `unsafe` in it: what is declared valid here is read. Never writes what it validates. Allocates nothing but for frames in
//! which an empty collection lies beside ones with elements, and then in memory that the thread keeps.
//!
//! # Elements of no size
//!
//! Whoever validates a collection asks whether its bytes lie within the frame. 2^64 elements of no size have no bytes, so the answer is
//! yes, for 16 bytes of reply; then each is validated and made a value. A value need not be as small as its archive
//! (`#[rkyv(with = Skip)]`), and the parent would ask for gigabytes. The count is not told to us: we see an address and a size of 0,
//! which is also what an honest empty collection looks like. But the count lies in the object that is being validated, behind a relative
//! pointer to that address. So when something without bytes comes up:
//!
//! 1. **Count.** The object is searched, once, for pairs {relative pointer to that address, count}. Each element counts as a byte: there
//!    may be as many as the frame has bytes (or [`ALWAYS`]). Collections with bytes that begin at the same address are counted too, but
//!    never are more than those bytes, so that is added to the bound. All this before anything is done with the elements.
//! 2. **Ask.** Otherwise it may still be that a pair is no collection but numbers that look like one: `{ id: 0, count: 100_000,
//!    items: [] }`. Bytes alone cannot tell, so the type is asked, on a copy ([`Marks`]): every pair *without* elements that shares its
//!    address with one that has some is made to point to a place of its own. If what comes up has such a place, then what is being
//!    validated is that pair, which has no elements (or a few). If what comes up is unmarked still, it is counted, and refused. A mark
//!    may spoil what chooses a variant (0, at the start of an object, looks like a pointer to there): then that is not marked, and it is
//!    asked again, a few times at most ([`ROUNDS`]).
//!
//! **Why nobody gets around that.** A liar may lay a pair without elements over, say, the tag of an enum, so that marking it leads
//! validation to another variant. So it is done twice: the second time, only the pairs that came up are marked, on a fresh copy, and
//! all must come up again, in places to which no other word of the copy points. Then each marked word was read as the pointer of a
//! collection at least once; in one walk through typed memory, no word is read as two things; so no marked word was read as anything
//! else, what the walk did never depended on the marks, and the walk through the frame itself is the same, with the same collections at each step.
//! Should that be wrong after all, then only a count is wrong: the frame itself is validated once more, for bounds and depth, in any case.
//!
//! Hash tables and B-trees need no such care: each of their buckets, and each node of at most a few entries, has bytes, whatever the elements.
//! What is refused though it is honest: more elements of no size than [`ALWAYS`] and the frame's bytes; a number
//! above that right behind a pointer that is not a slice's, to something without bytes (`Box<()>`, an empty `IndexMap`); in frames in which
//! numbers look like too many, more than [`MOST_MARKS`] empty collections at the addresses in question, or more than [`ROUNDS`] objects
//! each of which must be marked differently; and beside something empty, more collections of more than a few elements than [`MOST_FOUND`].
//!
//! # Hash tables without end
//!
//! rkyv reads a hash table of up to its capacity, after asking for its entries and its control bytes: as many as the capacity, rounded up to 16, and
//! 15. From a capacity of 2^64 - 15 on, the rounding wraps to 0 if overflow is not checked. Entries of some size are too many before that. A
//! table whose entries have none asks for 15 bytes, gets them, and reads on beyond the frame. No honest table asks for fewer than 31; but 15
//! bytes may be a list or a box, too. So when 15 bytes come up, the object that is being validated is searched (in fact the archive, once) for three
//! words {relative pointer to them, anything, 2^64 - 15 or more}, which is what such a table is ([`runaways`]). Without them it is none. With
//! them, it may still be something honest, as `(vec![1u8; 15], -1i64)`, or a vector before an empty text. So the type is asked, on a
//! copy, in which bit 32 of such third words is cleared, and where no unmarked one may come up:
//!
//! - The copy has no such table, so it can be validated. A table that was one has a capacity of some 2^64 - 2^32 there, whose control bytes are
//!   more than a [`Layout`] may have: the copy is not valid, and the archive is refused.
//! - If the copy is valid, the walk through the archive is the same, and meets no such table. For what a walk does depends on words in these ways
//!   only, and none tells one of -15 ..= -1 from the same less 2^32. As a pointer, or as how many bytes or elements of some size there are, both are
//!   beyond every archive of less than 4 GiB (others are refused), or the one points into the object that it is part of: the archive is not valid, with or without the copy.
//!   As how many of no size, both are counted alike. As what chooses a variant: who has parts is aligned to [`STEP`], as they are behind
//!   pointers, and begins with what chooses, of 4 bytes at most. As what stands for `None`: neither is 0, or a pointer to nowhere; both are NaN,
//!   and neither is a bool. As control bytes: none of either is that of an entry. As a text in place: it ends before.
//!
//! That argument is about the types of rkyv and what is derived from them. Who writes a `Niching` or a `CheckBytes` by hand that takes -1 and -1 - 2^32 to
//! begin with different parts, one of them a table whose entries have no size, is not protected. What is refused though it is
//! honest: more than [`RUNAWAY_ROUNDS`] lists of 15 bytes before numbers from -15 to -2; and in an archive with such a list before -1 or an empty
//! text, a pointer of -1 (a part of one byte, at an odd address) two words behind what looks like a pointer.

use crate::commit::ALIGN;
use crate::doorbell::Deadline;
use crate::reading::{
    self, BYTES_A_LOOK, DecodeRefusal, LEVELS_AT_ONCE, MAX_DEPTH, Need, copies, copies_of_leaf, refuse,
};
use rkyv::boxed::ArchivedBox;
use rkyv::bytecheck::CheckBytes;
use rkyv::primitive::{ArchivedIsize, ArchivedUsize, FixedIsize, FixedUsize};
use rkyv::rancor::{self, Failure};
use rkyv::validation::ArchiveContext;
use rkyv::vec::ArchivedVec;
use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// So many elements of no size are let through in any frame.
pub(crate) const ALWAYS: usize = 1 << 16;

/// Pairs with no more elements are not counted: each has as many bytes itself.
const SMALL: usize = size_of::<ArchivedSlice>();

/// A slice as it is archived, in vectors and boxes.
type ArchivedSlice = ArchivedVec<u8>;
const POINTER: usize = size_of::<ArchivedIsize>();
const COUNT: usize = size_of::<ArchivedUsize>();
/// Where pairs may lie.
const STEP: usize = align_of::<ArchivedSlice>();

const _: () = assert!(size_of::<ArchivedSlice>() == POINTER + COUNT && POINTER == COUNT);
const _: () = assert!(size_of::<FixedIsize>() == POINTER && size_of::<FixedUsize>() == COUNT);
const _: () =
    assert!(size_of::<ArchivedBox<[u8]>>() == size_of::<ArchivedSlice>() && align_of::<ArchivedBox<[u8]>>() == STEP);
const _: () = assert!(STEP.is_power_of_two() && ALIGN.is_multiple_of(STEP) && POINTER.is_multiple_of(STEP));

/// A [`Validator`] as rkyv wants it.
pub(crate) type Validation<'v> = rancor::Strategy<Validator<'v>, Failure>;

/// Validates one archive. The rules of rkyv's own: parts lie before what they are part of, and no two share a byte.
pub struct Validator<'v> {
    /// The address of the archive.
    start: usize,
    bytes: &'v [u8],
    /// Parts of the object begin here or behind: after the last that has been validated.
    low: usize,
    /// The addresses of the object being validated. Its parts end before it.
    object: Range<usize>,
    /// How many levels more may be entered without asking, and how many might in all.
    depth_left: usize,
    granted: usize,
    /// [`copies`] of the objects that the one being validated is a part of.
    outer: usize,
    need: Need,
    /// Parts that may be entered without a look at the clock.
    unclocked: u32,
    until: Deadline,
    /// Why it failed, if not for what the archive is.
    refusal: DecodeRefusal,
    /// Where an object begins in which no pair has elements; 0 = none is known.
    clean: usize,
    claims: ZstBudget,
    tables: Tables,
    marks: Option<&'v Marks>,
}

/// What in an archive may be a hash table without end.
enum Tables {
    /// Not looked for.
    Unknown,
    /// Nothing is.
    Bounded,
    /// [`runaways`], in order.
    Suspects(Vec<(usize, usize)>),
    /// This has come up: where its capacity is.
    Doubtful(usize),
}

impl<'v> Validator<'v> {
    /// For an archive whose root is the last `root` bytes of `bytes`.
    #[inline(always)]
    pub(crate) fn new(bytes: &'v [u8], root: usize) -> Self {
        let start = bytes.as_ptr().addr();
        let end = start + bytes.len();
        Self {
            start,
            bytes,
            low: start,
            object: end - root..end,
            depth_left: LEVELS_AT_ONCE,
            granted: LEVELS_AT_ONCE,
            outer: 0,
            need: Need::default(),
            unclocked: PARTS_A_LOOK,
            until: Deadline::NEVER,
            refusal: DecodeRefusal::Invalid,
            clean: 0,
            claims: ZstBudget { counted: 0, most: bytes.len().max(ALWAYS) + bytes.len(), is_full: false, scans: None },
            tables: Tables::Unknown,
            marks: None,
        }
    }

    /// Has more levels entered, if there may be more and the stack has room for them.
    #[cold]
    fn enter_more_slow(&mut self) -> Result<(), Failure> {
        self.refusal = match self.granted {
            MAX_DEPTH => DecodeRefusal::Depth,
            _ if !reading::may_enter_more() => DecodeRefusal::Stack { needed: 0, left: 0 },
            _ => {
                self.granted += LEVELS_AT_ONCE;
                self.depth_left += LEVELS_AT_ONCE;
                return Ok(());
            }
        };
        Err(Failure)
    }

    /// Looks at the clock.
    #[cold]
    fn look_at_clock_slow(&mut self) -> Result<(), Failure> {
        self.unclocked = PARTS_A_LOOK;
        if self.until.has_passed() {
            self.refusal = DecodeRefusal::Late;
            return Err(Failure);
        }
        Ok(())
    }

    /// Whether validation failed because there may be too many elements of no size.
    #[inline(always)]
    fn is_over(&self) -> bool {
        self.claims.counted > self.claims.most
    }

    /// Why validation failed.
    #[inline(always)]
    fn why(&self) -> Why {
        match self.tables {
            Tables::Doubtful(at) => Why::Runaway(at),
            _ if self.is_over() => Why::Over,
            _ => Why::Refused(self.refusal),
        }
    }

    /// Whether something without bytes may be at `address`.
    #[inline(never)]
    fn check_empty(&mut self, address: usize, align: usize) -> Result<(), Failure> {
        if self.marks.is_some_and(|marks| marks.comes_up(address)) {
            return Ok(());
        }
        if address < self.low || address > self.object.start || !address.is_multiple_of(align) {
            return Err(Failure);
        }
        if self.clean == self.object.start {
            return Ok(());
        }
        let (object, low) = (self.offsets(), self.low - self.start);
        let before = self.claims.counted;
        if self.claims.count_slow(self.bytes, object.clone(), low, address - self.start) {
            self.clean = self.object.start;
        }
        if let Some(marks) = self.marks
            && self.claims.counted > before
        {
            marks.counted_in(object);
        }
        if self.is_over() || self.claims.is_full { Err(Failure) } else { Ok(()) }
    }

    /// Whether 15 bytes may come up at `address`: not if they may be those of a table without end that lies in the object.
    #[cold]
    fn check_table_slow(&mut self, address: usize) -> Result<(), Failure> {
        if matches!(self.tables, Tables::Unknown) {
            let mut suspects: Vec<_> = runaways(self.bytes, self.until).take(MOST_RUNAWAYS + 1).collect();
            let is_late = self.until.has_passed();
            if is_late || suspects.len() > MOST_RUNAWAYS {
                self.refusal = if is_late { DecodeRefusal::Late } else { DecodeRefusal::Elements };
                return Err(Failure);
            }
            suspects.sort_unstable();
            self.tables = if suspects.is_empty() { Tables::Bounded } else { Tables::Suspects(suspects) };
        }
        let suspects = match &self.tables {
            Tables::Suspects(suspects) => suspects,
            Tables::Unknown | Tables::Bounded => return Ok(()),
            Tables::Doubtful(_) => return Err(Failure),
        };
        let target = address.checked_sub(self.start).ok_or(Failure)?;
        let object = self.offsets();
        let at_target = &suspects[suspects.partition_point(|(to, _)| *to < target)..];
        let mut inside = at_target.iter().take_while(|(to, _)| *to == target).map(|(_, at)| *at);
        // Those that point there are looked at one after another: parts share no byte, so it comes up once.
        match inside.find(|at| object.start + size_of::<ArchivedSlice>() <= *at && at + COUNT <= object.end) {
            Some(at) => {
                self.tables = Tables::Doubtful(at);
                Err(Failure)
            }
            None => Ok(()),
        }
    }

    /// Where the object lies in the archive.
    fn offsets(&self) -> Range<usize> {
        self.object.start - self.start..self.object.end - self.start
    }
}

// SAFETY: `check_subtree_ptr` says yes only to addresses within the archive's bytes that are aligned and belong to nothing validated
// before or now under way; or, of something without bytes, to the place of a mark, which is aligned for every archive and not null. What
// reads on beyond what it has asked for, a hash table without end, is not told yes: see the head of this file.
unsafe impl ArchiveContext<Failure> for Validator<'_> {
    #[inline]
    fn check_subtree_ptr(&mut self, part: *const u8, layout: &Layout) -> Result<(), Failure> {
        let (start, size) = (part.addr(), layout.size());
        if size == 0 {
            return self.check_empty(start, layout.align());
        }
        if size == RUNAWAY && !matches!(self.tables, Tables::Bounded) {
            self.check_table_slow(start)?;
        }
        let end = start.checked_add(size).ok_or(Failure)?;
        let fits = start >= self.low && end <= self.object.start && start.is_multiple_of(layout.align());
        fits.then_some(()).ok_or(Failure)
    }

    #[inline]
    unsafe fn push_subtree_range(&mut self, root: *const u8, end: *const u8) -> Result<Range<usize>, Failure> {
        if self.depth_left == 0 {
            self.enter_more_slow()?;
        }
        if self.unclocked == 0 {
            self.look_at_clock_slow()?;
        }
        self.unclocked -= 1;
        self.depth_left -= 1;
        self.outer += copies(self.object.len());
        let mut object = root.addr()..end.addr();
        self.need.levels = self.need.levels.max(self.granted - self.depth_left);
        self.need.copies = self.need.copies.max(self.outer + copies_of_leaf(object.len()));
        if let Some(target) = self.marks.and_then(|marks| marks.target(object.start)) {
            object = self.start + target..self.start + target;
        }
        Ok(std::mem::replace(&mut self.object, object))
    }

    #[inline]
    unsafe fn pop_subtree_range(&mut self, range: Range<usize>) -> Result<(), Failure> {
        if range.start < self.object.end {
            return Err(Failure);
        }
        self.low = self.object.end;
        self.outer -= copies(range.len());
        self.object = range;
        self.depth_left += 1;
        Ok(())
    }
}

/// Between two looks at the clock, so many parts are validated: some tens of microseconds.
const PARTS_A_LOOK: u32 = 1 << 12;

const _: () = assert!(MAX_DEPTH.is_multiple_of(LEVELS_AT_ONCE));

/// Validates the archive in `bytes`, whose root is an `A` at `root`, the last of them. Returns what making its value needs.
///
/// # Errors
///
/// If it is none, if it nests deeper than [`MAX_DEPTH`], if it has too many elements of no size, or if there is no stack or no time left for it.
///
/// # Safety
///
/// `root` must be the last `size_of::<A>()` bytes of `bytes`, and aligned.
#[inline(always)]
pub(crate) unsafe fn validate<A: Checked>(root: *const A, bytes: &[u8], until: Deadline) -> Result<Need, Failure> {
    let mut validator = Validator { until, ..Validator::new(bytes, size_of::<A>()) };
    // SAFETY: aligned, and within `bytes`: the caller's duty.
    match unsafe { A::check_bytes(root, rancor::Strategy::wrap(&mut validator)) } {
        Ok(()) => Ok(validator.need),
        Err(_) => {
            let why = validator.why();
            drop(validator);
            validate_slow::<A>(bytes, until, why)
        }
    }
}

/// Why validation stopped.
#[derive(Clone, Copy)]
enum Why {
    /// There may be too many elements of no size.
    Over,
    /// There may be a hash table without end, whose capacity is there.
    Runaway(usize),
    Refused(DecodeRefusal),
}

/// What is wrong with an archive that has not been found valid; or validates it otherwise, if that may help.
#[cold]
fn validate_slow<A: Checked>(bytes: &[u8], until: Deadline, why: Why) -> Result<Need, Failure> {
    let most = Validator::new(bytes, size_of::<A>()).claims.most;
    match why {
        Why::Over if runaways(bytes, until).next().is_none() => reading::with_stack_for_all_levels(|| {
            ask_in_time::<A>(bytes, until)?;
            // None of what was counted is an element.
            validate_again::<A>(bytes, until, usize::MAX, Tables::Bounded)
        }),
        Why::Over | Why::Runaway(_) => {
            reading::with_stack_for_all_levels(|| validate_without_runaways::<A>(bytes, until, most))
        }
        Why::Refused(DecodeRefusal::Stack { .. }) => {
            reading::with_stack_for_all_levels(|| validate_again::<A>(bytes, until, most, Tables::Unknown))
        }
        Why::Refused(refusal) => Err(refuse(refusal)),
    }
}

/// [`ask`], and what to say of what it refuses.
fn ask_in_time<A: Checked>(bytes: &[u8], until: Deadline) -> Result<(), Failure> {
    ask::<A>(bytes, until)
        .map_err(|_| refuse(if until.has_passed() { DecodeRefusal::Late } else { DecodeRefusal::Elements }))
}

/// Marks what may be a table without end, validates that, and then the archive itself.
fn validate_without_runaways<A: Checked>(bytes: &[u8], until: Deadline, most: usize) -> Result<Need, Failure> {
    // Those of -1 first: smaller ones may be pointers, to a few bytes just before the object that they begin.
    let suspects = runaways(bytes, until).filter(|(_, at)| bytes[*at] == u8::MAX).map(|(_, at)| at);
    let mut marked: Vec<usize> = suspects.take(MOST_RUNAWAYS).collect();
    for _ in 0..RUNAWAY_ROUNDS {
        if bytes.len() >= 1 << 32 {
            return Err(refuse(DecodeRefusal::Invalid));
        }
        let trial = Trial::of(bytes, 0, until);
        if until.has_passed() {
            return Err(refuse(DecodeRefusal::Late));
        }
        let mut trial = trial.ok_or_else(|| refuse(DecodeRefusal::Memory { len: bytes.len() }))?;
        marked.iter().for_each(|at| trial.bytes_mut()[at + 4] &= !1);
        let mut checked = validate_with::<A>(trial.bytes(), until, most, Tables::Unknown);
        if let Err(Why::Over) = checked {
            ask_in_time::<A>(trial.bytes(), until)?;
            checked = validate_with::<A>(trial.bytes(), until, usize::MAX, Tables::Unknown);
        }
        match checked {
            // The archive is walked as the copy is: without tables without end, and with as many elements of no size.
            Ok(_) => return validate_again::<A>(bytes, until, usize::MAX, Tables::Bounded),
            Err(Why::Runaway(at)) => marked.push(at),
            Err(Why::Refused(refusal)) => return Err(refuse(refusal)),
            Err(Why::Over) => return Err(refuse(DecodeRefusal::Elements)),
        }
    }
    Err(refuse(DecodeRefusal::Invalid))
}

/// The same, with `most` elements of no size.
fn validate_again<A: Checked>(bytes: &[u8], until: Deadline, most: usize, tables: Tables) -> Result<Need, Failure> {
    match validate_with::<A>(bytes, until, most, tables) {
        Ok(need) => Ok(need),
        Err(Why::Refused(refusal)) => Err(refuse(refusal)),
        Err(why) => validate_slow::<A>(bytes, until, why),
    }
}

fn validate_with<A: Checked>(bytes: &[u8], until: Deadline, most: usize, tables: Tables) -> Result<Need, Why> {
    let mut validator = Validator { until, tables, ..Validator::new(bytes, size_of::<A>()) };
    validator.claims.most = most;
    let root = bytes.as_ptr().wrapping_add(bytes.len() - size_of::<A>()).cast::<A>();
    root.is_aligned().then_some(()).ok_or(Why::Refused(DecodeRefusal::Invalid))?;
    // SAFETY: aligned, and the last bytes: `validate` has been told so, and a copy has as many.
    let checked = unsafe { A::check_bytes(root, rancor::Strategy::wrap(&mut validator)) };
    checked.map(|()| validator.need).map_err(|_| validator.why())
}

// ---- tables without end --------------------------------------------------------------------------------------------

/// What a hash table asks for whose capacity wraps, if its entries have no size: so many bytes.
const RUNAWAY: usize = 15;

/// So many copies are made at most to ask about tables without end.
const RUNAWAY_ROUNDS: usize = 16;

/// So many may look like tables without end, for the time that it takes to sort them.
const MOST_RUNAWAYS: usize = 1 << 18;

const _: () =
    assert!(size_of::<rkyv::collections::swiss_table::ArchivedHashSet<()>>() == size_of::<ArchivedSlice>() + COUNT);

/// What may be tables without end: where they point to, and where the capacity is. Not all of it after the deadline.
fn runaways(bytes: &[u8], until: Deadline) -> impl Iterator<Item = (usize, usize)> {
    places(bytes, 0..bytes.len(), until).filter_map(|at| {
        let capacity = FixedUsize::from_le_bytes(*bytes.get(at + size_of::<ArchivedSlice>()..)?.first_chunk()?);
        if capacity <= FixedUsize::MAX - RUNAWAY as FixedUsize {
            return None;
        }
        let to = usize::try_from(pair(bytes, at)?.0).ok()?;
        (to + RUNAWAY <= at).then_some((to, at + size_of::<ArchivedSlice>()))
    })
}

// ---- counting ------------------------------------------------------------------------------------------------------

/// The pair at offset `at`: where it points to, as an offset too, and how many elements it claims.
#[inline]
fn pair(bytes: &[u8], at: usize) -> Option<(isize, usize)> {
    let pointer = bytes.get(at..)?.first_chunk::<POINTER>()?;
    let count = bytes.get(at + POINTER..)?.first_chunk::<COUNT>()?;
    let to = (at as isize).checked_add(FixedIsize::from_le_bytes(*pointer) as isize)?;
    Some((to, FixedUsize::from_le_bytes(*count) as usize))
}

/// Every place in `range` at which a pair may begin that lies wholly in it. Offsets count from an aligned address, or from one that is as much
/// off as every pair's. Ends when the deadline passes, looked at every [`BYTES_A_LOOK`].
fn places(bytes: &[u8], range: Range<usize>, until: Deadline) -> impl Iterator<Item = usize> {
    let skew = bytes.as_ptr().addr() % STEP;
    let first = (range.start + skew).next_multiple_of(STEP) - skew;
    let end = (range.end + 1).saturating_sub(size_of::<ArchivedSlice>());
    let in_time = move |at: &usize| !(at - first).is_multiple_of(BYTES_A_LOOK) || !until.has_passed();
    (first..end.max(first)).step_by(STEP).take_while(in_time)
}

/// How many elements of no size the archive may have.
struct ZstBudget {
    counted: usize,
    most: usize,
    /// Whether there was more to note than [`MOST_FOUND`] or memory allows.
    is_full: bool,
    /// Once there was something to look for.
    scans: Option<Box<Scans>>,
}

/// What has been found in the objects that are being validated, the outermost first.
#[derive(Default)]
struct Scans {
    objects: Vec<Scan>,
    /// By where they point to, object after object.
    found: Vec<Found>,
}

struct Scan {
    object: usize,
    /// Where in `found` its pairs begin.
    from: usize,
}

/// Pairs with more than a few elements: their target, and how many; 0 once they have been counted.
#[derive(Clone, Copy)]
struct Found {
    target: FixedUsize,
    count: FixedUsize,
}

thread_local! {
    /// What this thread's last scans were written to. Taken while in use, so that a type's own code may validate something else.
    static KEPT: Cell<Option<Box<Scans>>> = const { Cell::new(None) };
}

/// A thread keeps room for so many pairs.
const KEPT_PAIRS: usize = 1 << 12;

/// So many pairs are noted at a time (256 MiB), and as many as lie in the frame side by side (or [`ALWAYS`]) if those are fewer.
const MOST_FOUND: usize = 1 << 24;

impl ZstBudget {
    /// Counts what `object` may have at `target`, where there are no bytes. Whether there is nothing to count anywhere in it.
    #[cold]
    fn count_slow(&mut self, bytes: &[u8], object: Range<usize>, low: usize, target: usize) -> bool {
        let scans = self.scans.get_or_insert_with(|| KEPT.try_with(Cell::take).ok().flatten().unwrap_or_default());
        let (Some(found), Ok(target)) = (scans.of(bytes, object, low), FixedUsize::try_from(target)) else {
            self.is_full = true;
            return false;
        };
        let first = found.partition_point(|found| found.target < target);
        // All that point to one address are counted together, and none was 0: each is looked at once, and once more as the first.
        for found in found[first..].iter_mut().take_while(|found| found.target == target && found.count > 0) {
            self.counted = self.counted.saturating_add(std::mem::take(&mut found.count) as usize);
        }
        found.is_empty()
    }
}

impl Drop for ZstBudget {
    // Inlined, so that nothing of a validator is left where there is nothing to validate.
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(scans) = self.scans.take() {
            scans.keep_slow();
        }
    }
}

impl Scans {
    /// Keeps what has been allocated for the thread's next scan, unless that is a lot.
    #[cold]
    fn keep_slow(mut self: Box<Self>) {
        if self.found.capacity() <= KEPT_PAIRS {
            self.objects.clear();
            self.found.clear();
            let _ = KEPT.try_with(|kept| kept.set(Some(self)));
        }
    }

    /// The pairs of `object`, the innermost, that may matter from now on: those that point to `low` or behind, and before it. None if they
    /// are too many to note.
    fn of(&mut self, bytes: &[u8], object: Range<usize>, low: usize) -> Option<&mut [Found]> {
        // What has been validated lies before what is being validated; what that is part of, behind it.
        while let Some(scan) = self.objects.pop_if(|scan| scan.object < object.start) {
            self.found.truncate(scan.from);
        }
        if self.objects.last().is_none_or(|scan| scan.object != object.start) {
            let from = self.found.len();
            self.objects.push(Scan { object: object.start, from });
            let allowed = low as isize..=object.start as isize;
            let pairs = places(bytes, object, Deadline::NEVER).filter_map(|at| pair(bytes, at));
            let mattering = pairs.filter(|(to, count)| *count > SMALL && allowed.contains(to));
            let most = MOST_FOUND.min(ALWAYS.max(bytes.len() / size_of::<ArchivedSlice>()));
            for (to, count) in mattering {
                (self.found.len() < most && self.found.try_reserve(1).is_ok()).then_some(())?;
                self.found.push(Found { target: to.try_into().ok()?, count: count.try_into().ok()? });
            }
            self.found[from..].sort_unstable_by_key(|found| found.target);
        }
        let from = self.objects.last().map_or(0, |scan| scan.from);
        Some(&mut self.found[from..])
    }
}

// ---- asking --------------------------------------------------------------------------------------------------------

/// Places outside of a copied archive, before it, that pairs of it point to: the n-th from the end is that of the n-th mark.
pub(crate) struct Marks {
    /// The address of the copy. What is before it is never touched.
    start: usize,
    /// How far before the copy the places end.
    gap: usize,
    marks: Vec<Mark>,
    /// Objects, from where to where, in which something unmarked was counted.
    counted_in: RefCell<BTreeMap<usize, usize>>,
}

struct Mark {
    /// Where the pair is, and where it pointed to.
    at: usize,
    target: usize,
    has_come_up: Cell<bool>,
}

/// How far apart the places are: aligned for everything.
const PLACE: usize = ALIGN;

/// Ways to arrange the places that are tried.
const ARRANGEMENTS: usize = 32;

/// How often what to mark is made better before something else is tried. The frame is copied and validated no more than 4 x this + 1 times.
const ROUNDS: usize = 6;

/// So many marks are made at most, for the sake of memory (some 100 bytes each); and so many objects are searched for some.
const MOST_MARKS: usize = 1 << 17;

/// So many addresses are looked for at most: those of pairs with elements, in what is searched for pairs without.
const MOST_TARGETS: usize = 1 << 20;

/// Where pairs are that are to be marked, and where they point to.
type Suspects = BTreeMap<usize, usize>;

/// Why a marked copy is not valid.
struct Spoilt {
    /// Objects in which something was counted, if it was too many. If not, it was something else.
    counted_in: Option<BTreeMap<usize, usize>>,
    /// Where the object begins that was being validated.
    object: usize,
}

impl Marks {
    fn new(suspects: &Suspects) -> Self {
        let marks = suspects.iter().map(|(&at, &target)| Mark { at, target, has_come_up: Cell::new(false) });
        Self { start: 0, gap: 0, marks: marks.collect(), counted_in: RefCell::default() }
    }

    /// Which mark has its place at `address`.
    fn at(&self, address: usize) -> Option<&Mark> {
        let distance = self.start.checked_sub(self.gap)?.checked_sub(address)?;
        let number = (distance / PLACE).checked_sub(1)?;
        distance.is_multiple_of(PLACE).then(|| self.marks.get(number)).flatten()
    }

    /// Notes that something at `address` is being validated. Whether that is the place of a mark.
    fn comes_up(&self, address: usize) -> bool {
        self.at(address).is_some_and(|mark| !mark.has_come_up.replace(true))
    }

    /// Notes that something was counted in `object`.
    fn counted_in(&self, object: Range<usize>) {
        let mut counted_in = self.counted_in.borrow_mut();
        if counted_in.len() < MOST_MARKS {
            counted_in.insert(object.start, object.end);
        }
    }

    /// Where the pair pointed to whose place is at `address`.
    fn target(&self, address: usize) -> Option<usize> {
        self.at(address).map(|mark| mark.target)
    }

    /// Has every marked pair point to its place.
    fn write(&self, trial: &mut Trial) -> Option<()> {
        for (number, mark) in (1..).zip(&self.marks) {
            let to = -((self.gap + number * PLACE) as isize);
            let pointer = FixedIsize::try_from(to.checked_sub(mark.at as isize)?).ok()?;
            trial.bytes_mut()[mark.at..][..POINTER].copy_from_slice(&pointer.to_le_bytes());
        }
        Some(())
    }

    /// A gap that leaves room for all places before the copy, none of which a word of it points to but the pair's that is marked for it. (A
    /// text's pointer counts from the word before.) Marks are in the order of their pairs.
    fn free_gap(&self, bytes: &[u8], room: usize, until: Deadline) -> Option<usize> {
        // Gap after gap, the places are other ones: each word is in the way of one gap.
        let count = self.marks.len().max(1);
        let gap_of = |from: isize, pointer: FixedIsize| {
            let distance = usize::try_from(from.checked_add(pointer as isize)?.checked_neg()?).ok()?;
            let number = (distance / PLACE).checked_sub(1)?;
            distance.is_multiple_of(PLACE).then_some(number / count)
        };
        let is_marked = |at| self.marks.binary_search_by_key(&at, |mark| mark.at).is_ok();
        let mut taken = [false; ARRANGEMENTS];
        for at in (0..bytes.len()).step_by(STEP) {
            if at.is_multiple_of(BYTES_A_LOOK) && until.has_passed() {
                return None;
            }
            let Some(pointer) = bytes[at..].first_chunk::<POINTER>() else { break };
            let pointer = FixedIsize::from_le_bytes(*pointer);
            for from in [at as isize, at as isize - POINTER as isize] {
                if let Some(gap) = gap_of(from, pointer)
                    && gap < ARRANGEMENTS
                    && !is_marked(at)
                {
                    taken[gap] = true;
                }
            }
        }
        let gaps = (0..ARRANGEMENTS).map(|gap| gap * count * PLACE).zip(taken);
        let mut free = gaps.filter(|(gap, taken)| !taken && gap + count * PLACE <= room);
        free.next().map(|(gap, _)| gap)
    }
}

/// Asks the type which pairs of the archive are collections. `Ok` if those that come up where there are no bytes, and that share their
/// address with ones that would be too many, have no elements, or few.
fn ask<A: Checked>(bytes: &[u8], until: Deadline) -> Result<(), Failure> {
    // Few marks are better than many, as each that is none of a collection may spoil something that is needed on the way: those in the
    // objects in question first. And those of a few elements only if need be: if they are of a size, they are looked for where they are not.
    let by_object = || [0, SMALL].into_iter().find_map(|most| marked::<A>(bytes, most, Suspects::new(), until));
    let everywhere = |most| {
        let mut found = Suspects::new();
        suspects(bytes, 0..bytes.len(), most, &mut found, until)?;
        (!found.is_empty()).then(|| marked::<A>(bytes, most, found, until)).flatten()
    };
    let marked = by_object().or_else(|| [0, SMALL].into_iter().find_map(everywhere));
    confirm::<A>(bytes, marked.ok_or(Failure)?, until)
}

/// Marks what may be without elements, or with `most`: what has been found, and what there is in objects that were counted in, until nothing is
/// too many any more. The marks that came up.
fn marked<A: Checked>(bytes: &[u8], most: usize, mut found: Suspects, until: Deadline) -> Option<Marks> {
    let is_everywhere = !found.is_empty();
    let mut spared = BTreeSet::new();
    for _ in 0..ROUNDS {
        if until.has_passed() {
            return None;
        }
        let spoilt = match marked_with::<A>(bytes, Marks::new(&found), until)? {
            Ok(marks) => return Some(marks),
            Err(spoilt) => spoilt,
        };
        let before = found.len();
        for (start, end) in spoilt.counted_in.into_iter().flatten() {
            suspects(bytes, start..end, most, &mut found, until)?;
        }
        found.retain(|at, _| !spared.contains(at));
        if found.len() == before {
            // What chooses a variant is 0 in many a value, and at the start of an object looks like a pointer to what is there.
            let is_spared = |at, target| at == target && (is_everywhere || at == spoilt.object);
            found.retain(|at, target| !is_spared(*at, *target) || !spared.insert(*at));
            if found.len() == before {
                return None;
            }
        }
    }
    None
}

/// Validates a copy that is marked so: the marks that came up if it is valid. None if there is no memory for it.
fn marked_with<A: Checked>(bytes: &[u8], mut marks: Marks, until: Deadline) -> Option<Result<Marks, Spoilt>> {
    let mut trial = Trial::of(bytes, marks.marks.len(), until)?;
    marks.start = trial.bytes().as_ptr().addr();
    marks.write(&mut trial)?;
    if let Err((is_over, object)) = walk::<A>(&trial, &marks, until) {
        return Some(Err(Spoilt { counted_in: is_over.then(|| marks.counted_in.take()), object }));
    }
    marks.marks.retain(|mark| mark.has_come_up.take());
    Some(Ok(marks))
}

/// Validates a copy on which only what came up is marked, in places that nothing else points to. All must come up again.
fn confirm<A: Checked>(bytes: &[u8], mut marks: Marks, until: Deadline) -> Result<(), Failure> {
    let mut trial = Trial::of(bytes, marks.marks.len(), until).ok_or(Failure)?;
    marks.start = trial.bytes().as_ptr().addr();
    marks.gap = marks.free_gap(bytes, trial.skip * PLACE, until).ok_or(Failure)?;
    marks.write(&mut trial).ok_or(Failure)?;
    walk::<A>(&trial, &marks, until).map_err(|_| Failure)?;
    marks.marks.iter().all(|mark| mark.has_come_up.get()).then_some(()).ok_or(Failure)
}

/// Adds pairs in `object` with `most` elements or fewer that point to where one with more than a few does too. None if they are too many. Not all of
/// them after the deadline.
fn suspects(bytes: &[u8], object: Range<usize>, most: usize, found: &mut Suspects, until: Deadline) -> Option<()> {
    let is_all = object == (0..bytes.len());
    let pairs = || {
        let start = object.start;
        let pairs = places(bytes, object.clone(), until).filter_map(|at| Some((at, pair(bytes, at)?)));
        // Parts lie before what they are part of.
        pairs.filter(move |(at, (to, _))| (0..=if is_all { *at } else { start } as isize).contains(to))
    };
    let claimed = pairs().filter(|(_, (_, count))| *count > SMALL);
    let mut targets: Vec<isize> = claimed.map(|(_, (to, _))| to).take(MOST_TARGETS + 1).collect();
    targets.sort_unstable();
    let mut suspects = pairs().filter(|(_, (to, count))| *count <= most && targets.binary_search(to).is_ok());
    // Those that are known already are no more than the rest.
    found.extend(suspects.by_ref().take(MOST_MARKS + 1).map(|(at, (to, _))| (at, to as usize)));
    (targets.len() <= MOST_TARGETS && found.len() <= MOST_MARKS).then_some(())
}

/// Validates the copy. What comes up unmarked is counted as ever. If it is not valid: whether for something counted, and in which object.
fn walk<A: Checked>(trial: &Trial, marks: &Marks, until: Deadline) -> Result<(), (bool, usize)> {
    let bytes = trial.bytes();
    let mut validator = Validator { marks: Some(marks), until, ..Validator::new(bytes, size_of::<A>()) };
    let root = bytes.as_ptr().wrapping_add(bytes.len() - size_of::<A>()).cast::<A>();
    root.is_aligned().then_some(()).ok_or((false, 0))?;
    // SAFETY: aligned, and the last bytes of the copy, which has as many as the frame.
    let checked = unsafe { A::check_bytes(root, rancor::Strategy::wrap(&mut validator)) };
    checked.map_err(|_| (validator.is_over(), validator.offsets().start))
}

/// A copy of an archive, with room for places before it, in one allocation: pointers to either may be formed.
struct Trial {
    memory: Vec<u128>,
    /// Where the copy begins.
    skip: usize,
    len: usize,
}

impl Trial {
    /// None if there is no memory for it, or no time.
    fn of(bytes: &[u8], marks: usize, until: Deadline) -> Option<Self> {
        let skip = marks + (ARRANGEMENTS * marks).min(1 << 16);
        let units = skip + bytes.len().div_ceil(PLACE);
        let mut memory = Vec::new();
        memory.try_reserve_exact(units).ok()?;
        memory.resize(skip, 0);
        for piece in bytes.chunks(BYTES_A_LOOK) {
            let from = memory.len();
            memory.resize(from + piece.len().div_ceil(PLACE), 0);
            bytemuck::cast_slice_mut(&mut memory[from..])[..piece.len()].copy_from_slice(piece);
            if until.has_passed() {
                return None;
            }
        }
        Some(Self { memory, skip, len: bytes.len() })
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.memory[self.skip..])[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.memory[self.skip..])[..self.len]
    }
}

/// An archived type that can be validated.
pub trait Checked: for<'a> CheckBytes<Validation<'a>> {}

impl<T: for<'a> CheckBytes<Validation<'a>>> Checked for T {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::archive::access_until;
    use crate::copy_buffer::read_copy;
    use crate::decoder::{Decoder, Transfer};
    use crate::encode::encode_to_vec;
    use crate::reading::last_refusal;
    use proptest::prelude::*;
    use rkyv::util::AlignedVec;
    use rkyv::with::Skip;
    use rkyv::{Archive, Deserialize, Serialize};
    use std::collections::{HashMap, HashSet, VecDeque};

    /// A kilobyte whose archive is nothing.
    #[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
    struct Weightless {
        #[rkyv(with = Skip)]
        bytes: Large,
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Large([u8; 1024]);

    impl Default for Large {
        fn default() -> Self {
            Self([0; 1024])
        }
    }

    fn weightless() -> Weightless {
        Weightless { bytes: Large::default() }
    }

    fn read<R: Transfer>(bytes: &[u8]) -> Result<R, Failure> {
        read_copy(bytes, Decoder::of_child())
    }

    #[track_caller]
    fn accept<R: Transfer + PartialEq>(value: R) {
        let bytes = encode_to_vec(&value, 1 << 24).expect("an archive");
        assert!(read::<R>(&bytes).is_ok_and(|read| read == value), "{} refused", std::any::type_name::<R>());
    }

    /// An honest archive with some words, counted from its end, replaced.
    fn forged<R: Transfer>(value: &R, words: &[(usize, u64)]) -> AlignedVec<ALIGN> {
        let mut bytes = encode_to_vec(value, 1 << 24).expect("an archive");
        let len = bytes.len();
        for (from_end, word) in words {
            bytes[len - from_end * WORD..][..WORD].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    #[track_caller]
    fn refuse<R: Transfer>(value: R, words: &[(usize, u64)]) {
        assert!(read::<R>(&forged(&value, words)).is_err(), "{} accepted", std::any::type_name::<R>());
        assert_eq!(last_refusal(), DecodeRefusal::Elements);
        assert_eq!(last_refusal(), DecodeRefusal::Invalid, "it is asked once");
    }

    const MANY: u64 = u64::MAX;

    /// Half a pair.
    const WORD: usize = size_of::<u64>();

    #[test]
    fn fault_07_as_many_as_have_no_size_are_refused() {
        refuse(Vec::<()>::new(), &[(1, MANY)]);
        refuse(Vec::<Weightless>::new(), &[(1, MANY)]);
        refuse(VecDeque::<()>::new(), &[(1, MANY)]);
        refuse(Vec::<()>::new().into_boxed_slice(), &[(1, MANY)]);
        refuse(Vec::<[u64; 0]>::new(), &[(1, MANY)]);
        refuse(Some(Vec::<Weightless>::new()), &[(1, MANY)]);
        refuse((7u64, Vec::<()>::new(), 9u64), &[(2, 2 * ALWAYS as u64)]);
        refuse(Box::new(Vec::<()>::new()), &[(2, MANY)]);
        // With a number below the bound each, and together above it.
        refuse((Vec::<()>::new(), Vec::<()>::new()), &[(1, 40_000), (3, 40_000)]);
        let mut inner = vec![Vec::<()>::new(); 1000];
        refuse(inner.clone(), &[(2 + 1, 30_000), (2 + 3, 30_000), (2 + 5, 30_000)]);
        inner[500] = vec![(); ALWAYS];
        accept(inner.clone());
        refuse(inner, &[(2 + 1, 20_000)]);
    }

    #[test]
    fn collections_whose_bytes_bound_them_say_no_more_than_they_have() {
        for len in [1, 9, MANY] {
            for from_end in [1, 2] {
                assert!(
                    read::<HashSet<()>>(&forged(&HashSet::<()>::new(), &[(from_end, len)])).is_err(),
                    "{len} at {from_end}"
                );
            }
            assert!(read::<BTreeSet<()>>(&forged(&BTreeSet::from([()]), &[(1, len.saturating_add(1))])).is_err());
            assert!(
                read::<BTreeMap<(), ()>>(&forged(&BTreeMap::from([((), ())]), &[(1, len.saturating_add(1))])).is_err()
            );
        }
        accept(HashSet::from([()]));
        accept(HashMap::from([((), ())]));
        accept(BTreeSet::from([()]));
        accept(BTreeMap::<(), ()>::new());
    }

    /// Whether hash tables of `capacity`, without entries or with so many, are refused, wherever they lie.
    fn refuses_tables_of(capacity: u64, len: u64) {
        #[track_caller]
        fn refuse<R: Transfer>(value: R, words: &[(usize, u64)]) {
            let mut bytes = encode_to_vec(&value, 1 << 20).expect("an archive");
            let end = bytes.len();
            for (from_end, word) in words {
                bytes[end - from_end * WORD..][..WORD].copy_from_slice(&word.to_le_bytes());
            }
            // With bytes in front to point to.
            let mut longer = AlignedVec::<ALIGN>::new();
            longer.extend_from_slice(&[0xff; 64]);
            longer.extend_from_slice(&bytes);
            assert!(read::<R>(&longer).is_err(), "{} accepted: {words:?}", std::any::type_name::<R>());
        }
        // To the 16 bytes before the root, its 24 before that, and so on.
        for to in [-16i64, -24, -32, -40, -48] {
            let table = |from_end| [(from_end, capacity), (from_end + 1, len), (from_end + 2, to.cast_unsigned())];
            refuse(HashSet::<()>::new(), &table(1));
            refuse(HashMap::<(), ()>::new(), &table(1));
            refuse(Box::new(HashSet::<()>::new()), &table(2));
            refuse(vec![HashSet::<()>::new()], &table(3));
            refuse(Some(HashMap::<(), ()>::new()), &table(1));
            refuse(Ok::<_, u8>(HashSet::<()>::new()), &table(1));
            refuse((7u64, HashSet::<()>::new(), 9u64), &table(2));
            refuse((HashSet::<()>::new(), String::new()), &table(3));
            refuse((HashSet::<()>::new(), HashMap::<(), ()>::new()), &[&table(1)[..], &table(4)].concat());
            // In either of two buckets.
            refuse(HashMap::from([(1u8, HashSet::<()>::new())]), &[&table(8)[..], &table(12)].concat());
        }
    }

    /// The capacity from which on rkyv's rounding wraps, and others that no frame has room for. What is wrong shows in release: it hangs or crashes.
    #[test]
    fn fault_23_tables_without_end_are_refused() {
        within_two_minutes(|| {
            for less in 0..18 {
                refuses_tables_of(u64::MAX - less, 0);
                refuses_tables_of(u64::MAX - less, 15);
            }
            for capacity in [1 << 63, (1 << 63) - 1, 1 << 62, 1 << 32, (1 << 32) - 15, 1 << 20] {
                refuses_tables_of(capacity, 0);
                refuses_tables_of(capacity, 1);
            }
        });
    }

    /// A table hides behind what looks like one too, at the same address or another, and behind a claim of elements of no size.
    #[test]
    fn fault_23_numbers_do_not_hide_a_table_without_end() {
        within_two_minutes(|| {
            type Both = (Vec<u8>, i64, HashSet<()>);
            let both: Both = (vec![7; 15], -1, HashSet::new());
            accept(both.clone());
            for to in [-16i64, -40, -48, -56] {
                for capacity in [MANY, MANY - 1, MANY - 14] {
                    let bytes = forged(&both, &[(1, capacity), (2, 15), (3, to.cast_unsigned())]);
                    assert!(read::<Both>(&bytes).is_err());
                    let bytes = forged(&both, &[(1, capacity), (2, 15), (3, to.cast_unsigned()), (5, 0)]);
                    assert!(read::<Both>(&bytes).is_err());
                }
            }
            // Of a list of nothing, where a table of the same words would be.
            refuse((vec![7u8; 15], -1i64, Vec::<()>::new()), &[(1, MANY)]);
        });
    }

    #[test]
    fn fault_23_what_looks_like_a_table_without_end_is_accepted() {
        accept((vec![7u8; 15], -1i64));
        accept((vec![7u8; 15], -1i64, u64::MAX));
        accept((vec![7u8; 15], -15i64, -14i64));
        accept((vec![7u8; 15], String::new()));
        accept((String::from("fifteen letters").into_boxed_str(), -1i64, u64::MAX));
        accept((String::from("fifteen letters"), -1i64, u64::MAX));
        accept((vec![[7u8; 3]; 5], MANY));
        accept((Box::new([7u8; 15]), 15u64, -1i64));
        accept(vec![(vec![7u8; 15], String::new(), -1i64, u64::MAX); 20_000]);
        // Pointers of -8 behind what looks like a pointer; and fewer numbers from -15 to -2 than there are rounds.
        let behind = |n: u64| (vec![-40i64], Box::new(Box::new(n)), vec![vec![1u8]], Box::new(vec![3u8]));
        accept((vec![(vec![7u8; 15], -1i64); 100], (0..100).map(behind).collect::<Vec<_>>()));
        accept((1..15).map(|n| (vec![7u8; 15], -n)).collect::<Vec<(Vec<u8>, i64)>>());
        // With elements of no size beside.
        accept((Order { id: 0, count: 100_000, items: vec![] }, vec![7u8; 15], -1i64));
        accept((vec![7u8; 15], -1i64, Order { id: 0, count: 100_000, items: vec![] }));
        accept((HashSet::from([()]), HashMap::from([((), ())]), vec![7u8; 15], -1i64));
        accept((HashSet::from([-40i64, -48, -56]), vec![7u8; 15], -1i64));
    }

    #[test]
    fn as_many_as_are_always_let_through_are() {
        accept(vec![(); ALWAYS]);
        accept(vec![weightless(); 1000]);
        accept((vec![(); ALWAYS / 2], vec![(); ALWAYS / 2]));
        accept(Some(vec![(); 3].into_boxed_slice()));
        // As many as the frame has bytes.
        accept((vec![(); 200_000], vec![1u8; 200_000]));
    }

    #[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
    struct Order {
        id: u64,
        count: u64,
        items: Vec<u8>,
    }

    #[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
    enum Event {
        Sale { amount: u64, items: Vec<u64> },
        Return { amount: u64, why: Option<String>, items: Vec<String> },
        Nothing,
    }

    #[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
    struct Mixed {
        empty: Vec<u64>,
        boxed: Box<u64>,
        hash: u64,
        texts: Vec<String>,
        marks: Vec<()>,
        table: HashMap<u64, Vec<u8>>,
    }

    /// Numbers that look like a collection of very many.
    #[test]
    fn numbers_beside_empty_collections_are_numbers() {
        accept(Order { id: 0, count: 100_000, items: vec![] });
        accept(vec![Order { id: 0, count: 100_000, items: vec![] }; 1000]);
        accept(Event::Sale { amount: 100_000, items: vec![] });
        accept(vec![vec![Event::Sale { amount: MANY, items: vec![] }; 3]; 100]);
        accept(Event::Return { amount: MANY, why: None, items: vec![] });
        let mixed = |hash| Mixed {
            empty: vec![],
            boxed: Box::new(7),
            hash,
            texts: vec![String::new(), "a text that is too long to stay in place".into()],
            marks: vec![(); 5],
            table: HashMap::new(),
        };
        accept(mixed(MANY));
        accept((0..1000).map(|n| mixed(MANY - n)).collect::<Vec<_>>());
    }

    #[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
    enum Kind {
        A,
        B,
    }

    #[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
    struct Flagged {
        ok: bool,
        code: u64,
        delta: i64,
        price: i64,
        tags: Vec<String>,
    }

    #[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
    struct Priced {
        kind: Kind,
        n: u64,
        delta: i64,
        price: u64,
        tags: Vec<u8>,
    }

    #[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
    struct Tagged {
        kind: Kind,
        id: u64,
        tags: Vec<u8>,
    }

    /// What chooses a variant, or is a bool, looks like a pair without elements at the address where an empty collection is.
    #[test]
    fn what_chooses_a_variant_is_not_marked_for_long() {
        accept(Ok::<_, u8>((-8i64, -1i64, Vec::<u8>::new())));
        accept((false, -8i64, -1i64, Vec::<u8>::new()));
        accept((None::<u64>, -16i64, -1i64, Vec::<u8>::new()));
        let flagged = Flagged { ok: false, code: 0, delta: -16, price: -1, tags: vec![] };
        accept(flagged.clone());
        accept(vec![flagged.clone(); 3]);
        let priced = Priced { kind: Kind::A, n: 0, delta: -16, price: 100_000, tags: vec![] };
        accept(priced.clone());
        accept(vec![priced.clone(); 3]);
        let tagged = Tagged { kind: Kind::A, id: 100_000, tags: vec![] };
        accept(tagged.clone());
        accept(vec![Box::new(tagged.clone()); 100]);
        // Object after object, more than are asked about one by one.
        accept(vec![Box::new(flagged.clone()); 100]);
        accept((vec![vec![priced; 2]; 100], vec![vec![flagged; 2]; 100], vec![vec![tagged; 2]; 100]));
    }

    /// Does it, in no longer than a machine under load needs.
    fn within_two_minutes(what: impl FnOnce() + Send + 'static) {
        let (done, is_done) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            what();
            let _ = done.send(());
        });
        let waited = is_done.recv_timeout(std::time::Duration::from_secs(120));
        assert_ne!(waited, Err(std::sync::mpsc::RecvTimeoutError::Timeout), "it hangs");
        thread.join().expect("what was to be done");
    }

    const PAIR: usize = size_of::<ArchivedSlice>();

    /// `objects` vectors of `pairs` vectors each, all of which point to where the object begins that they are in.
    fn crowded(objects: usize, pairs: usize, count: impl Fn(usize, usize) -> u64) -> AlignedVec<ALIGN> {
        let (outer, root) = (objects * pairs * PAIR, (objects * pairs + objects) * PAIR);
        let mut bytes = AlignedVec::new();
        bytes.resize(root + PAIR, 0);
        let mut put = |at: usize, to: usize, count: u64| {
            bytes[at..at + WORD].copy_from_slice(&(to as i64 - at as i64).to_le_bytes());
            bytes[at + WORD..at + PAIR].copy_from_slice(&count.to_le_bytes());
        };
        for object in 0..objects {
            let start = object * pairs * PAIR;
            (0..pairs).for_each(|number| put(start + number * PAIR, start, count(object, number)));
            put(outer + object * PAIR, start, pairs as u64);
        }
        put(root, outer, objects as u64);
        bytes
    }

    #[test]
    fn fault_07_many_at_one_address_are_walked_once() {
        within_two_minutes(|| {
            let bytes = crowded(1, 1 << 19, |_, number| if number % 2 == 0 { 9 } else { 0 });
            assert!(read::<Vec<Vec<Vec<()>>>>(&bytes).is_ok());
            accept(vec![vec![(); 10]; 1 << 19]);
        });
    }

    #[test]
    fn fault_07_what_is_asked_about_has_a_bound() {
        within_two_minutes(|| {
            let bytes = crowded(16, 1 << 15, |object, number| match (object, number) {
                (15, 0) => MANY,
                (_, 0) => 9,
                _ => 0,
            });
            assert!(read::<Vec<Vec<Vec<()>>>>(&bytes).is_err());
            assert_eq!(last_refusal(), DecodeRefusal::Elements);
            let mut found = Suspects::new();
            assert_eq!(
                suspects(&bytes, 0..bytes.len(), 0, &mut found, Deadline::NEVER),
                None,
                "16 x 2^15 are more than are marked"
            );
            assert_eq!(found.len(), MOST_MARKS + 1);
        });
    }

    #[test]
    fn what_was_wrong_with_a_frame_is_not_said_of_the_next() {
        assert!(read::<Vec<()>>(&forged(&Vec::<()>::new(), &[(1, MANY)])).is_err());
        assert!(read::<Vec<u8>>(&forged(&Vec::<u8>::new(), &[(1, MANY)])).is_err());
        assert_ne!(last_refusal(), DecodeRefusal::Elements, "its elements have a size");
        assert!(read::<Vec<()>>(&forged(&Vec::<()>::new(), &[(1, MANY)])).is_err());
        assert!(read::<Option<u8>>(&[9, 9]).is_err());
        assert_ne!(last_refusal(), DecodeRefusal::Elements);
    }

    /// True claims beside numbers that look like an empty collection at the same address, and over what chooses the variant.
    #[test]
    fn fault_07_numbers_do_not_hide_a_collection() {
        #[derive(Clone, PartialEq, Archive, Serialize, Deserialize)]
        struct Beside {
            id: u64,
            count: u64,
            items: Vec<Weightless>,
        }
        let beside = Beside { id: 0, count: 0, items: vec![] };
        // `id` and `count` read as an empty collection at the address of `items`.
        refuse(beside, &[(1, MANY)]);

        #[derive(Clone, PartialEq, Archive, Serialize, Deserialize)]
        enum Hidden {
            A { items: Vec<Weightless>, _rest: [u64; 2] },
            B { _rest: [u64; 2], items: Vec<Weightless> },
        }
        // The tag, with its padding, and the first number: a pair without elements, at the address of the collection.
        refuse(Hidden::B { _rest: [0, 0], items: vec![] }, &[(1, MANY)]);
        refuse(Hidden::A { items: vec![], _rest: [0, 0] }, &[(3, MANY)]);
        let bytes = forged(&Hidden::B { _rest: [0, 0], items: vec![] }, &[(1, MANY), (2, (-24i64) as u64)]);
        assert!(read::<Hidden>(&bytes).is_err());
    }

    #[test]
    fn lengths_are_not_taken_for_pointers() {
        let order = Order { id: 0, count: 0, items: vec![] };
        accept((
            vec![Event::Sale { amount: 100_000, items: vec![] }],
            vec![vec![], vec![order; 4]],
            vec![0, MANY - 3],
            vec![(); 0],
        ));
    }

    #[test]
    fn depth_and_order_are_as_in_rkyv() {
        let bytes = encode_to_vec(&vec![vec![1u8, 2], vec![3]], 1 << 20).unwrap();
        assert!(read::<Vec<Vec<u8>>>(&bytes).is_ok());
        // Both elements point to the same bytes.
        let len = bytes.len();
        let first = i64::from_le_bytes(*bytes[len - 3 * PAIR..].first_chunk().unwrap());
        let twice = forged(&vec![vec![1u8, 2], vec![3]], &[(4, (first - PAIR as i64) as u64)]);
        assert!(read::<Vec<Vec<u8>>>(&twice).is_err(), "two parts that share bytes");
    }

    fn event() -> impl Strategy<Value = Event> {
        let amount =
            || prop_oneof![any::<u64>(), Just(0), Just(100_000), (0u64..8).prop_map(|n| 0u64.wrapping_sub(8 * n))];
        prop_oneof![
            (amount(), prop::collection::vec(any::<u64>(), 0..3))
                .prop_map(|(amount, items)| Event::Sale { amount, items }),
            (amount(), prop::option::of(".{0,12}"), prop::collection::vec(".{0,12}", 0..3))
                .prop_map(|(amount, why, items)| Event::Return { amount, why, items }),
            Just(Event::Nothing),
        ]
    }

    fn order() -> impl Strategy<Value = Order> {
        let number = || prop_oneof![any::<u64>(), Just(0), (0u64..20).prop_map(|n| 0u64.wrapping_sub(8 * n))];
        (number(), number(), prop::collection::vec(any::<u8>(), 0..2)).prop_map(|(id, count, items)| Order {
            id,
            count,
            items,
        })
    }

    /// Small ones, such as may be a pointer to where the object begins, and such as are too many.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0),
            Just(0u64.wrapping_sub(16)),
            Just(0u64.wrapping_sub(32)),
            0u64..10,
            Just(100_000),
            any::<u64>()
        ]
    }

    fn flagged() -> impl Strategy<Value = Flagged> {
        let delta = prop_oneof![Just(0), Just(-16), Just(-32), -60i64..10, any::<i64>()];
        let tags = prop::collection::vec(".{0,12}", 0..2);
        (any::<bool>(), number(), delta, number(), tags).prop_map(|(ok, code, delta, price, tags)| Flagged {
            ok,
            code,
            delta,
            price: price.cast_signed(),
            tags,
        })
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::A), Just(Kind::B)]
    }

    fn priced() -> impl Strategy<Value = Priced> {
        (kind(), number(), number(), number(), prop::collection::vec(any::<u8>(), 0..2))
            .prop_map(|(kind, n, delta, price, tags)| Priced { kind, n, delta: delta.cast_signed(), price, tags })
    }

    fn tagged() -> impl Strategy<Value = Tagged> {
        (kind(), number(), prop::collection::vec(any::<u8>(), 0..2)).prop_map(|(kind, id, tags)| Tagged {
            kind,
            id,
            tags,
        })
    }

    /// `cargo test --release --lib what_validation_costs -- --ignored --nocapture`: the fastest of many, with this validator and rkyv's own.
    #[test]
    #[ignore = "measures"]
    fn what_validation_costs() {
        fn measure<R: Transfer>(what: &str, value: &R)
        where
            R::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::low::LowValidator<'a, Failure>>,
        {
            let bytes = encode_to_vec(value, 1 << 28).expect("an archive");
            let fastest = |check: &dyn Fn()| {
                let times = (0..200).map(|_| {
                    let start = std::time::Instant::now();
                    check();
                    start.elapsed()
                });
                times.min().unwrap_or_default()
            };
            let ours = fastest(&|| assert!(crate::archive::access::<R::Archived>(&bytes).is_ok()));
            let theirs = fastest(&|| {
                let depth = std::num::NonZeroUsize::new(MAX_DEPTH);
                let archive = rkyv::validation::archive::ArchiveValidator::with_max_depth(&bytes, depth);
                let mut validator = rkyv::validation::Validator::new(archive, ());
                let root = rkyv::api::root_position::<R::Archived>(bytes.len());
                let checked =
                    rkyv::api::check_pos_with_context::<R::Archived, _, Failure>(&bytes, root, &mut validator);
                assert!(checked.is_ok());
            });
            println!("{what}, {} bytes: {ours:?}, by rkyv's own {theirs:?}", bytes.len());
        }
        measure("100,000 empty", &vec![Vec::<u8>::new(); 100_000]);
        let mixed =
            |every: usize| (0..100_000).map(|n| vec![7u8; if n % every == 0 { 0 } else { 100 }]).collect::<Vec<_>>();
        measure("100,000, every other empty", &mixed(2));
        measure("100,000, every hundredth empty", &mixed(100));
        measure("100,000, none empty", &mixed(1_000_000)[1..].to_vec());
        measure("1,000 orders", &vec![Order { id: 0, count: 100_000, items: vec![] }; 1000]);
        measure("one empty", &(1u64, Vec::<u8>::new()));
        measure("one of 10", &vec![1u8; 10]);
        measure("1,000 texts", &vec![String::from("a text that is too long to stay in place"); 1000]);
    }

    proptest! {
        #[test]
        fn whatever_is_honest_is_accepted(
            events in prop::collection::vec(event(), 0..20),
            orders in prop::collection::vec(prop::collection::vec(order(), 0..8), 0..8),
            numbers in prop::collection::vec((0u64..4).prop_map(|n| 0u64.wrapping_sub(8 * n)), 0..50),
            units in 0usize..ALWAYS,
        ) {
            accept((events, orders, numbers, vec![(); units]));
        }

        #[test]
        fn whatever_begins_with_a_variant_is_accepted(
            flagged in prop::collection::vec(flagged(), 0..4),
            priced in prop::collection::vec(prop::collection::vec(priced(), 0..3), 0..4),
            tagged in prop::collection::vec(tagged().prop_map(Box::new), 0..4),
            result in prop_oneof![flagged().prop_map(Ok), any::<u8>().prop_map(Err)],
            option in prop::option::of((number(), number(), prop::collection::vec(tagged(), 0..2))),
        ) {
            for one in &flagged {
                accept(one.clone());
            }
            for one in priced.iter().flatten() {
                accept(one.clone());
            }
            for one in &tagged {
                accept((None::<u64>, (**one).clone()));
            }
            accept(result.clone());
            accept(option.clone());
            accept((flagged, priced, tagged, result, option));
        }

        #[test]
        fn fault_04_whatever_is_written_over_an_archive_is_read_or_refused(
            orders in prop::collection::vec(order(), 1..6),
            words in prop::collection::vec((1usize..16, prop_oneof![any::<u64>(), (0u64..128).prop_map(|n| 0u64.wrapping_sub(n))]), 1..8),
        ) {
            let value = (orders, vec![weightless(); 2], vec![(), ()]);
            let len = encode_to_vec(&value, 1 << 20).unwrap().len();
            let words: Vec<_> = words.into_iter().map(|(at, word)| (at.min(len / WORD), word)).collect();
            if let Ok((_, weightless, units)) = read::<(Vec<Order>, Vec<Weightless>, Vec<()>)>(&forged(&value, &words)) {
                prop_assert!(weightless.len() + units.len() <= ALWAYS + len);
            }
        }
    }

    /// Every word of what an honest value would fill looks like a table without end, and several are pointed to: each is looked at on a copy.
    #[test]
    fn fault_46_a_deadline_ends_the_search_for_tables_without_end() {
        type Filled = (Vec<u8>, [i64; 96]);
        let filler = if cfg!(debug_assertions) { 32 << 20 } else { 256 << 20 };
        let mut bytes = encode_to_vec(&(vec![0_u8; filler], [0_i64; 96]), filler + 4096).unwrap();
        let root = bytes.len() - size_of::<<Filled as Archive>::Archived>();
        let word = |value: i64| value.to_le_bytes();
        bytes[..filler].chunks_exact_mut(8).for_each(|place| place.copy_from_slice(&word(-15)));
        // A list of fifteen bytes, and places in the same object that say where a table's would be.
        let target = filler as i64 - 64;
        bytes[root..root + 8].copy_from_slice(&word(target - root as i64));
        bytes[root + 8..root + 16].copy_from_slice(&word(15));
        for at in (root + 16..bytes.len() - 24).step_by(24) {
            for (place, value) in [(at, target - at as i64), (at + 8, 0), (at + 16, -15)] {
                bytes[place..place + 8].copy_from_slice(&word(value));
            }
        }
        for millis in [0, 1, 10] {
            let start = std::time::Instant::now();
            let until = Deadline::after(Some(std::time::Duration::from_millis(millis)));
            let read = access_until::<<Filled as Archive>::Archived>(&bytes, until);
            println!(
                "{:?} after a deadline of {millis} ms in {} MiB: {}",
                start.elapsed(),
                bytes.len() >> 20,
                read.is_ok()
            );
            assert!(
                read.is_ok()
                    || matches!(last_refusal(), DecodeRefusal::Late | DecodeRefusal::Elements | DecodeRefusal::Invalid)
            );
        }
    }
}
