//! Copy buffers: private memory that a large reply is copied into, and that becomes the reply's value where it can.
//!
//! Contains `unsafe` code: it fills raw memory and gives it to vectors. A reply is validated here, where the peer that wrote
//! it can no longer change it.
//!
//! # Why a copy can be the value
//!
//! rkyv writes the elements of a vector first, and last the vector itself: a relative pointer and a length. So a frame that is a
//! `Vec<u8>` begins with its bytes. A copy of the frame, in memory allocated as that vector's would be, becomes the vector by ignoring the bytes
//! behind the elements. The same holds for texts, and for vectors of numbers, whose archives have the same bytes as the numbers.

use crate::archive::{access_until, catch};
use crate::bounds::{BYTES_A_LOOK, COPY_KEPT};
use crate::commit::ALIGN;
use crate::decoder::{Decoder, Transfer};
use crate::doorbell::Deadline;
use crate::reading::{DecodeRefusal, has_memory, in_time, refuse};
use crate::segment::Span;
use crate::validator::Checked;
use rkyv::Archive;
use rkyv::rancor::Failure;
use rkyv::string::ArchivedString;
use rkyv::util::AlignedVec;
use rkyv::vec::ArchivedVec;
use std::alloc::{Layout, alloc, dealloc, realloc};
use std::any::{Any, TypeId};
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// A large reply of type `R` on its way into private memory.
pub struct CopyBuffer<R> {
    memory: CopiedBytes,
    /// How the memory becomes the value, if it can.
    builder: Option<ValueBuilder>,
    reply: PhantomData<fn() -> R>,
}

impl<R> CopyBuffer<R> {
    /// Empty, for a reply that is read as bytes.
    pub(crate) fn of_bytes() -> Self {
        Self { memory: CopiedBytes::kept(), builder: None, reply: PhantomData }
    }

    /// Drops what was copied, and reserves memory for a frame of about `len` bytes.
    ///
    /// # Errors
    ///
    /// If there is no memory for them.
    pub fn begin(&mut self, len: usize) -> Result<(), Failure> {
        self.memory.len = 0;
        self.memory.reserve(len)
    }

    /// How many bytes have been copied.
    pub fn len(&self) -> usize {
        self.memory.len
    }

    /// Copies the bytes of `frame` behind those already copied.
    ///
    /// # Errors
    ///
    /// If the deadline passes (what was copied stays), or there is no memory.
    pub fn copy_up_to(&mut self, frame: Span<'_>, until: Deadline) -> Result<(), Failure> {
        self.memory.reserve(frame.len())?;
        while frame.len() > self.memory.len {
            let end = frame.len().min(self.memory.len + BYTES_A_LOOK);
            self.memory.extend(frame.first(end).after(self.memory.len))?;
            in_time(until)?;
        }
        Ok(())
    }

    /// Runs `read` on the complete copy.
    pub fn with<T>(self, read: impl FnOnce(&[u8]) -> T) -> T {
        let result = read(self.memory.bytes());
        self.memory.keep();
        result
    }
}

impl<R: Transfer> CopyBuffer<R> {
    /// Whether the value is a vector of numbers, or a text.
    pub(crate) fn is_of_numbers() -> bool {
        ValueBuilder::of::<R>().is_some()
    }

    /// Empty, for a reply that becomes a value.
    pub(crate) fn of_value() -> Self {
        let builder = ValueBuilder::of::<R>();
        let memory = builder.as_ref().map_or_else(CopiedBytes::kept, |builder| CopiedBytes::new(builder.align));
        Self { memory, builder, reply: PhantomData }
    }

    /// Makes the value from the complete copy.
    ///
    /// # Errors
    ///
    /// If the bytes are no valid archive of `R`, or one that nests too deep.
    pub fn read(self, decoder: Decoder<'_>) -> Result<R, Failure> {
        match self.builder {
            Some(builder) if self.memory.is_aligned() => {
                let mut value: Option<R> = None;
                match (builder.make)(self.memory, decoder.until(), &mut value)? {
                    Some(memory) => read_copy(memory.bytes(), decoder),
                    None => value.ok_or(Failure),
                }
            }
            // The allocator aligned the memory for the elements only.
            Some(_) => read_copy(self.memory.aligned_slow()?.bytes(), decoder),
            None => self.with(|bytes| read_copy(bytes, decoder)),
        }
    }
}

// ---- copies that become values -------------------------------------------------------------------------------------

/// How a copied frame becomes a value without another copy. Knows the value's type by its id alone, so that it is compiled once and not for
/// each type of reply.
struct ValueBuilder {
    /// How the value's own memory is aligned.
    align: usize,
    make: MakeValue,
}

/// Puts the value into the `Option` of its type, or returns the memory if the archive does not begin with the value's bytes.
type MakeValue = fn(CopiedBytes, Deadline, &mut dyn Any) -> Result<Option<CopiedBytes>, Failure>;

impl ValueBuilder {
    /// For vectors of numbers, and texts. What is compared here are constants.
    #[inline]
    fn of<R: 'static>() -> Option<Self> {
        macro_rules! vectors {
            ($($number:ty)*) => {$(
                if TypeId::of::<R>() == TypeId::of::<Vec<$number>>() {
                    return Some(<$number as PlainNumber>::builder());
                }
            )*};
        }
        vectors!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);
        let is_text = TypeId::of::<R>() == TypeId::of::<String>();
        is_text.then(Self::of_text)
    }

    #[inline(never)]
    fn of_text() -> Self {
        Self { align: align_of::<u8>(), make: own_string }
    }
}

fn own_vec<N: PlainNumber>(
    memory: CopiedBytes,
    until: Deadline,
    value: &mut dyn Any,
) -> Result<Option<CopiedBytes>, Failure> {
    let (archived, _) = access_until::<ArchivedVec<N::Archived>>(memory.bytes(), until)?;
    let (elements, count) = (archived.as_ptr(), archived.len());
    if !memory.begins_at(elements.cast()) {
        return Ok(Some(memory));
    }
    // SAFETY: a valid archive of `count` such numbers, which the memory begins with.
    put(unsafe { memory.into_vec::<N>(count) }, value)
}

fn own_string(memory: CopiedBytes, until: Deadline, value: &mut dyn Any) -> Result<Option<CopiedBytes>, Failure> {
    let (archived, _) = access_until::<ArchivedString>(memory.bytes(), until)?;
    let (text, len) = (archived.as_ptr(), archived.len());
    if !memory.begins_at(text) {
        return Ok(Some(memory));
    }
    // SAFETY: a valid archive of a text of `len` bytes, which the memory begins with.
    let bytes = unsafe { memory.into_vec::<u8>(len) };
    // SAFETY: found to be UTF-8 by `access`, in private memory that nobody has written since.
    put(unsafe { String::from_utf8_unchecked(bytes) }, value)
}

/// Makes `place`, an `Option<V>`, hold `value`.
fn put<V: 'static>(value: V, place: &mut dyn Any) -> Result<Option<CopiedBytes>, Failure> {
    *place.downcast_mut::<Option<V>>().ok_or(Failure)? = Some(value);
    Ok(None)
}

/// A number whose archive is the same bytes as itself, on the little-endian machines that this crate is built for.
///
/// # Safety
///
/// It must be that, and every bit pattern must be a value of it.
unsafe trait PlainNumber: Archive<Archived: Checked + Sized> + 'static {
    /// Of vectors of it. Not inlined: that would compile `own_vec` in each crate that has a bridge.
    fn builder() -> ValueBuilder;
}

macro_rules! number {
    ($($number:ty)*) => {$(
        const _: () = assert!(size_of::<<$number as Archive>::Archived>() == size_of::<$number>());
        const _: () = assert!(ALIGN.is_multiple_of(align_of::<$number>()) && ALIGN.is_multiple_of(size_of::<$number>()));

        // SAFETY: of one size and, as `codegen` makes sure of, little-endian in both forms.
        unsafe impl PlainNumber for $number {
            #[inline(never)]
            fn builder() -> ValueBuilder {
                ValueBuilder { align: align_of::<$number>(), make: own_vec::<$number> }
            }
        }
    )*};
}

number!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);

// ---- memory --------------------------------------------------------------------------------------------------------

/// Private memory, whose first bytes have been copied from a frame.
struct CopiedBytes {
    /// Dangling if the capacity is 0, else allocated with the layout of `capacity` and `align`.
    start: NonNull<u8>,
    /// A multiple of [`ALIGN`].
    capacity: usize,
    align: usize,
    /// How many bytes have been copied.
    len: usize,
}

thread_local! {
    /// Taken while in use, so that a value whose own code calls through a bridge gets another.
    static KEEP: Cell<Option<CopiedBytes>> = const { Cell::new(None) };
}

impl CopiedBytes {
    /// No memory yet. `align` divides [`ALIGN`].
    fn new(align: usize) -> Self {
        Self { start: NonNull::<u128>::dangling().cast(), capacity: 0, align, len: 0 }
    }

    /// The memory that this thread has kept, aligned to [`ALIGN`]; none on a thread that is ending.
    fn kept() -> Self {
        let mut memory = KEEP.try_with(Cell::take).ok().flatten().unwrap_or_else(|| Self::new(ALIGN));
        memory.len = 0;
        memory
    }

    /// Keeps the memory for this thread's next large reply, unless it is too large for that.
    fn keep(self) {
        if self.capacity <= COPY_KEPT {
            let _ = KEEP.try_with(|keep| keep.set(Some(self)));
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes have been copied here, and only `extend`, which needs the memory mutably, writes them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    fn begins_at(&self, address: *const u8) -> bool {
        std::ptr::eq(self.start.as_ptr(), address)
    }

    /// Whether an archive can be read here.
    fn is_aligned(&self) -> bool {
        self.start.addr().get().is_multiple_of(ALIGN)
    }

    /// A copy in aligned memory.
    #[cold]
    fn aligned_slow(&self) -> Result<Self, Failure> {
        let mut aligned = Self::new(ALIGN);
        aligned.reserve(self.len)?;
        // SAFETY: both are private; one holds `len` copied bytes, the other has `len` reserved.
        unsafe { aligned.start.copy_from_nonoverlapping(self.start, self.len) };
        aligned.len = self.len;
        Ok(aligned)
    }

    /// Copies `span` behind the copied bytes.
    fn extend(&mut self, span: Span<'_>) -> Result<(), Failure> {
        self.reserve(self.len + span.len())?;
        // SAFETY: within the capacity.
        let end = unsafe { self.start.add(self.len) };
        // SAFETY: there is room for the span, as just reserved, in private memory.
        unsafe { span.copy_to(end.as_ptr()) };
        self.len += span.len();
        Ok(())
    }

    /// Makes room for `len` bytes in all. Growing at least doubles the room, so that bytes that come in pieces move only a few times.
    ///
    /// # Errors
    ///
    /// If this process has no memory for them: a peer chooses `len`.
    fn reserve(&mut self, len: usize) -> Result<(), Failure> {
        if len <= self.capacity {
            return Ok(());
        }
        let capacity = len.max(2 * self.capacity).next_multiple_of(ALIGN);
        let layout = self.layout_of(capacity);
        let start = if self.capacity == 0 {
            // SAFETY: the size is not 0.
            unsafe { alloc(layout) }
        } else {
            // SAFETY: allocated with this layout; the new size is neither 0 nor, as `layout_of` has checked, too large.
            unsafe { realloc(self.start.as_ptr(), self.layout_of(self.capacity), capacity) }
        };
        self.start = NonNull::new(start).ok_or_else(|| refuse(DecodeRefusal::Memory { len }))?;
        self.capacity = capacity;
        Ok(())
    }

    fn layout_of(&self, capacity: usize) -> Layout {
        Layout::from_size_align(capacity, self.align).unwrap_or_else(|_| panic!("a payload of {capacity} bytes"))
    }

    /// A vector of the first `count` numbers, which owns all of the memory.
    ///
    /// # Safety
    ///
    /// At least `count` numbers must have been copied.
    unsafe fn into_vec<N: PlainNumber>(self, count: usize) -> Vec<N> {
        assert!(self.align == align_of::<N>());
        let memory = ManuallyDrop::new(self);
        // SAFETY: allocated with the layout that a vector of this capacity has: its alignment, and its size, as the number's size
        // divides the capacity. The first `count` are initialised, which is the caller's duty, and valid as any bits are.
        unsafe { Vec::from_raw_parts(memory.start.as_ptr().cast(), count, memory.capacity / size_of::<N>()) }
    }
}

impl Drop for CopiedBytes {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: allocated with this layout, and owned by this value alone.
            unsafe { dealloc(self.start.as_ptr(), self.layout_of(self.capacity)) };
        }
    }
}

// ---- values of private bytes -----------------------------------------------------------------------------------------

/// Reads a value from private bytes of any alignment; `None` if they are no valid archive of `R`.
pub fn decode_private<R: Transfer>(bytes: &[u8]) -> Option<R> {
    let mut copy = AlignedVec::<ALIGN>::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    read_copy(&copy, Decoder::of_child()).ok()
}

/// Validates private bytes that are aligned as payloads are, and makes the value from them.
#[inline(always)]
pub(crate) fn read_copy<R: Transfer>(bytes: &[u8], decoder: Decoder<'_>) -> Result<R, Failure> {
    let decoder = decoder.within(bytes);
    catch(|| {
        let (archived, need) = access_until::<R::Archived>(bytes, decoder.until())?;
        if need.levels == 0 || CopyBuffer::<R>::is_of_numbers() {
            return decoder.make(archived);
        }
        in_time(decoder.until())?;
        has_memory(bytes.len())?;
        need.run(|| decoder.make(archived))
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::encode::encode_to_vec;

    /// Copies and reads a value's archive as if it came from shared memory, in `steps` pieces.
    fn through<R: Transfer>(value: &R, steps: usize) -> R {
        let bytes = encode_to_vec(value, 1 << 20).unwrap();
        let frame = Span::of(&bytes);
        let mut copy_buffer = CopyBuffer::<R>::of_value();
        for step in 1..=steps {
            copy_buffer.copy_up_to(frame.first(bytes.len() * step / steps), Deadline::NEVER).unwrap();
        }
        copy_buffer.read(Decoder::of_child()).unwrap()
    }

    #[test]
    fn values_come_back_through_private_memory() {
        let value = (vec![String::from("one"), "two".repeat(1000)], Some(3u64));
        let bytes = encode_to_vec(&value, 1 << 20).unwrap();
        assert_eq!(read_copy::<(Vec<String>, Option<u64>)>(&bytes, Decoder::of_child()).unwrap(), value);
        assert!(encode_to_vec(&value, 1000).is_err(), "longer than the limit");
    }

    #[test]
    fn fault_03_truncated_archives_are_refused() {
        let bytes = encode_to_vec(&vec![String::from("a long enough string"); 4], 1 << 20).unwrap();
        for len in 0..bytes.len() {
            let mut copy = AlignedVec::<ALIGN>::new();
            copy.extend_from_slice(&bytes[..len]);
            assert!(read_copy::<Vec<String>>(&copy, Decoder::of_child()).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn every_kind_of_value_comes_out() {
        fn check<R: Transfer + PartialEq>(value: R) {
            for steps in [1, 2, 7] {
                assert!(through(&value, steps) == value, "{} in {steps} steps", std::any::type_name::<R>());
            }
        }
        macro_rules! numbers {
            ($($number:ty)*) => {$(
                check((0..1000u32).map(|n| (n % 251) as $number).collect::<Vec<_>>());
                check(Vec::<$number>::new());
                check(vec![1 as $number]);
            )*};
        }
        numbers!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);
        ["", "short", "longer than what a text has in itself"].into_iter().for_each(|text| check(text.to_owned()));
        check("ä".repeat(50_000));
        check((vec![3u8; 5000], vec![7u64; 5000], String::from("a text")));
        check((0..500).map(|n| format!("text number {n}")).collect::<Vec<_>>());
        check(vec![true, false]);
    }

    #[test]
    fn a_vector_keeps_the_memory_that_it_was_copied_into() {
        let bytes = encode_to_vec(&vec![7u64; 1000], 1 << 20).unwrap();
        let mut copy_buffer = CopyBuffer::<Vec<u64>>::of_value();
        copy_buffer.copy_up_to(Span::of(&bytes), Deadline::NEVER).unwrap();
        let start = copy_buffer.memory.start;
        let value = copy_buffer.read(Decoder::of_child()).unwrap();
        assert_eq!(value.as_ptr(), start.as_ptr().cast_const().cast());
    }

    #[test]
    fn memory_that_is_not_aligned_is_left() {
        let bytes = encode_to_vec(&String::from("some text that is long enough"), 1 << 20).unwrap();
        let mut memory = CopiedBytes::new(1);
        memory.extend(Span::of(&bytes)).unwrap();
        let aligned = memory.aligned_slow().unwrap();
        assert!(aligned.is_aligned() && aligned.bytes() == memory.bytes());
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        fn refuse<R: Transfer>(bytes: &[u8]) {
            let mut copy_buffer = CopyBuffer::<R>::of_value();
            copy_buffer.copy_up_to(Span::of(bytes), Deadline::NEVER).unwrap();
            assert!(
                copy_buffer.read(Decoder::of_child()).is_err(),
                "{} bytes as {}",
                bytes.len(),
                std::any::type_name::<R>()
            );
        }
        let bytes = encode_to_vec(&vec![0xffu8; 500], 1 << 20).unwrap();
        for len in 0..bytes.len() {
            refuse::<Vec<u8>>(&bytes[..len]);
            refuse::<Vec<u128>>(&bytes[..len]);
        }
        // A vector of bytes, but no text.
        refuse::<String>(&bytes);
    }

    #[test]
    fn a_vector_that_does_not_begin_its_frame_is_copied_out() {
        // The first archive ends with a vector of its own; the second's data lies behind it.
        let bytes = encode_to_vec(&(0u64, vec![7u64; 100]), 1 << 20).unwrap();
        let mut shifted = rkyv::util::AlignedVec::<ALIGN>::new();
        shifted.extend_from_slice(&[1; 64]);
        shifted.extend_from_slice(&bytes);
        let mut copy_buffer = CopyBuffer::<Vec<u64>>::of_value();
        copy_buffer.copy_up_to(Span::of(&shifted), Deadline::NEVER).unwrap();
        let start = copy_buffer.memory.start;
        let value = copy_buffer.read(Decoder::of_child()).unwrap();
        assert_eq!(value, [7; 100]);
        assert_ne!(value.as_ptr(), start.as_ptr().cast_const().cast());
    }
}
