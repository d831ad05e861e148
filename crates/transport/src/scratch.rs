//! Scratch memory for serialising, which rkyv asks for in nested pieces.
//!
//! Contains `unsafe` code: it hands out raw memory. Allocates only for pieces that do not fit into its buffer.

use rkyv::rancor::Failure;
use rkyv::ser::Allocator;
use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Scratch memory for serialising: a small buffer on the stack, and the heap beyond it.
pub struct Scratch<'e> {
    /// The buffer's address, taken once: borrowing the buffer again would invalidate pointers into it.
    start: NonNull<u8>,
    used: usize,
    buffer: PhantomData<&'e mut ScratchBuffer>,
}

#[repr(align(16))]
pub struct ScratchBuffer {
    _bytes: [u8; Scratch::LEN],
}

impl<'e> Scratch<'e> {
    const LEN: usize = 512;

    #[inline(always)]
    pub(crate) fn new(buffer: &'e mut MaybeUninit<ScratchBuffer>) -> Self {
        Self { start: NonNull::from(buffer).cast(), used: 0, buffer: PhantomData }
    }

    fn owns(&self, address: NonNull<u8>) -> Option<usize> {
        let offset = address.addr().get().wrapping_sub(self.start.addr().get());
        (offset < Self::LEN).then_some(offset)
    }
}

// SAFETY: `push_alloc` returns memory of the layout that nothing else uses until `pop_alloc`, which comes in reverse order: from a rising mark in the
// buffer, or a heap allocation of its own. The buffer does not move: `'e` borrows it.
unsafe impl Allocator<Failure> for Scratch<'_> {
    unsafe fn push_alloc(&mut self, layout: Layout) -> Result<NonNull<[u8]>, Failure> {
        let start = self.used.next_multiple_of(layout.align());
        let fits = layout.align() <= align_of::<ScratchBuffer>()
            && layout.size() > 0
            && start.checked_add(layout.size()).is_some_and(|end| end <= Self::LEN);
        if !fits {
            return heap_slow(layout);
        }
        self.used = start + layout.size();
        // SAFETY: `start + size` is within the buffer.
        let address = unsafe { self.start.add(start) };
        Ok(NonNull::slice_from_raw_parts(address, layout.size()))
    }

    unsafe fn pop_alloc(&mut self, address: NonNull<u8>, layout: Layout) -> Result<(), Failure> {
        match self.owns(address) {
            Some(offset) if layout.size() > 0 => self.used = offset,
            // SAFETY: not from the buffer, so `heap_slow` allocated it with this layout.
            _ if layout.size() > 0 => unsafe { std::alloc::dealloc(address.as_ptr(), layout) },
            _ => {}
        }
        Ok(())
    }
}

#[cold]
fn heap_slow(layout: Layout) -> Result<NonNull<[u8]>, Failure> {
    if layout.size() == 0 {
        let dangling = NonNull::new(std::ptr::without_provenance_mut(layout.align())).ok_or(Failure)?;
        return Ok(NonNull::slice_from_raw_parts(dangling, 0));
    }
    // SAFETY: the size is not 0.
    let address = NonNull::new(unsafe { std::alloc::alloc(layout) });
    let address = address.unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
    Ok(NonNull::slice_from_raw_parts(address, layout.size()))
}
