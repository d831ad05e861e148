//! Stacks: how much of the current one is left, and another one to run a function on.
//!
//! Relies on the C library to say where a thread's stack ends. Never moves a value between threads: what runs on another stack still runs on the
//! calling thread.

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use rustix::process::{Resource, getrlimit};
use std::any::Any;
use std::cell::Cell;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{self, NonNull};
use std::thread;

/// The bounds of the stack that a thread runs on.
#[derive(Clone, Copy)]
struct StackBounds {
    /// The lowest usable address.
    low: usize,
    /// The address where the stack begins, at its upper end.
    high: usize,
    /// Whether `RLIMIT_STACK` bounds the stack. The limit may be lowered later, and the kernel checks it whenever the stack grows.
    is_limited: bool,
}

/// At most this much is assumed to be left where the limit may be lowered: asking for the limit would cost a system call for each call.
const MOST_OF_MAIN: usize = 1 << 20;

/// What is assumed to be left of a stack that is not the thread's own (a coroutine's, say): too little to do anything large there.
const UNKNOWN: usize = 22 << 10;

thread_local! {
    /// Bounds of the current stack, once they have been asked for.
    static BOUNDS: Cell<Option<StackBounds>> = const { Cell::new(None) };
}

/// How many bytes of the current stack are left below the caller's frame.
#[inline(never)]
pub fn left() -> usize {
    let bounds = BOUNDS.get().unwrap_or_else(ask_slow);
    let here = here();
    if here > bounds.high || here < bounds.low {
        return UNKNOWN;
    }
    let left = here - bounds.low;
    if bounds.is_limited { left.min(MOST_OF_MAIN) } else { left }
}

/// An address in the frame of this function.
#[inline(never)]
fn here() -> usize {
    let local = 0u8;
    std::hint::black_box(&raw const local).addr()
}

fn stack_limit() -> Option<usize> {
    getrlimit(Resource::Stack).current.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cold]
fn ask_slow() -> StackBounds {
    let bounds = bounds().unwrap_or_else(|| {
        // The main thread of a process that cannot read its own /proc files. Assumes that half of its stack is used.
        let room = stack_limit().map_or(1 << 20, |limit| (limit / 2).min(4 << 20));
        StackBounds { low: here().saturating_sub(room), high: usize::MAX, is_limited: false }
    });
    BOUNDS.set(Some(bounds));
    bounds
}

/// The calling thread's stack, as the C library reports it.
fn bounds() -> Option<StackBounds> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: no preconditions.
    let thread = unsafe { libc::pthread_self() };
    // SAFETY: the calling thread exists, and there is room for its attributes.
    if unsafe { libc::pthread_getattr_np(thread, attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let (mut start, mut len, mut guard) = (ptr::null_mut::<c_void>(), 0usize, 0usize);
    // SAFETY: `attributes` was initialised just now, and the places have the right types.
    let found = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut len) } == 0;
    // SAFETY: as above.
    let guarded = unsafe { libc::pthread_attr_getguardsize(attributes.as_ptr(), &mut guard) } == 0;
    // SAFETY: initialised above, and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    let is_main = rustix::thread::gettid() == rustix::process::getpid();
    // Some C libraries include the guard in the stack.
    let low = start.addr() + guard;
    (found && guarded && len > 0).then(|| StackBounds { low, high: start.addr() + len, is_limited: is_main })
}

/// Runs `run` on a new stack of `size` bytes and unmaps it afterwards. The stack's pages cost memory only as they are used. Returns `None` without
/// running `run` if the stack cannot be mapped.
#[inline]
pub fn on_another<R>(size: usize, run: impl FnOnce() -> R) -> Option<R> {
    let (mut run, mut result) = (Some(run), None);
    call_on_another(size, &mut || result = run.take().map(|run| run()))?;
    result
}

fn call_on_another(size: usize, run: &mut dyn FnMut()) -> Option<()> {
    let stack = Stack::new(size)?;
    let result = stack.call(run);
    drop(stack);
    result.unwrap_or_else(|panic| resume_unwind(panic));
    Some(())
}

// ---- the large stack of a thread -----------------------------------------------------------------------------------

/// Size of a thread's large stack where memory is not limited. Its pages cost memory only as they are used.
const LARGE: usize = 64 << 20;

/// Where memory is limited, a large stack takes 1/64 of the limit, because every thread may have one.
const SHARE: u64 = 64;

/// How much of a large stack the thread keeps after it has used more.
const KEPT: usize = 256 << 10;

/// A thread that is already on a large stack stays there if this much is left.
const ENOUGH: usize = LARGE / 4;

/// The large stack of a thread.
enum LargeStack {
    /// Not needed yet.
    Unasked,
    Free(Stack),
    /// The thread is running on it, or on another stack that it switched to from there.
    Busy,
    /// There is no room for one.
    Denied,
}

thread_local! {
    static LARGE_STACK: Cell<LargeStack> = const { Cell::new(LargeStack::Unasked) };
}

/// Runs `run` on this thread's large stack, which is kept for the next time. Without room for one, `run` runs on the current stack.
#[inline]
pub fn on_large<R>(run: impl FnOnce() -> R) -> R {
    let (mut run, mut result) = (Some(run), None);
    call_on_large(&mut || result = run.take().map(|run| run()));
    result.unwrap_or_else(|| unreachable!("it has run"))
}

fn call_on_large(run: &mut dyn FnMut()) {
    // The thread-local is gone in a thread that is ending.
    let stack = match LARGE_STACK.try_with(|large| large.replace(LargeStack::Busy)) {
        Ok(LargeStack::Free(stack)) => Some(stack),
        Ok(LargeStack::Unasked) => Stack::large_slow(),
        Ok(LargeStack::Busy) => return on_one_more_slow(run),
        Ok(LargeStack::Denied) | Err(_) => None,
    };
    let Some(stack) = stack else {
        let _ = LARGE_STACK.try_with(|large| large.set(LargeStack::Denied));
        return run();
    };
    let result = stack.call(run);
    let _ = LARGE_STACK.try_with(|large| large.set(LargeStack::Free(stack)));
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `run` for a thread that is already on its large stack.
#[cold]
fn on_one_more_slow(run: &mut dyn FnMut()) {
    let stack = if left() < ENOUGH { Stack::large_slow() } else { None };
    match stack {
        Some(stack) => stack.call(run).unwrap_or_else(|panic| resume_unwind(panic)),
        None => run(),
    }
}

/// Gives back what a large stack has beyond [`KEPT`], if it was used.
#[cold]
pub fn give_back_slow() {
    let _ = LARGE_STACK.try_with(|large| {
        let it = large.replace(LargeStack::Busy);
        if let LargeStack::Free(stack) = &it {
            stack.give_back();
        }
        large.set(it);
    });
}

/// A call on another stack, and the panic that it ended with. It has no type parameters, so that the switch is compiled once.
struct StackCall<'r> {
    run: &'r mut dyn FnMut(),
    panic: Option<Box<dyn Any + Send>>,
}

type Enter = unsafe extern "C" fn(*mut u8);

/// Runs a call and records its panic.
///
/// # Safety
///
/// `call` must point to a [`StackCall`] that nothing else uses meanwhile.
unsafe extern "C" fn enter(call: *mut u8) {
    // SAFETY: the caller's duty.
    let StackCall { run, panic } = unsafe { &mut *call.cast::<StackCall<'_>>() };
    *panic = catch_unwind(AssertUnwindSafe(run)).err();
}

/// Memory for a stack, with inaccessible pages below it.
struct Stack {
    start: NonNull<c_void>,
    len: usize,
}

/// Size of the guard below a stack: larger than any page.
const GUARD: usize = 64 << 10;

const PAGE: usize = 4 << 10;

impl Stack {
    fn new(size: usize) -> Option<Self> {
        let len = size.checked_next_multiple_of(GUARD)?.checked_add(GUARD)?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: the kernel chooses a free address range, so no existing memory changes.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, flags) }.ok()?;
        let stack = Self { start: NonNull::new(start)?, len };
        // SAFETY: the first pages of what was mapped just now.
        unsafe { mprotect(start, GUARD, MprotectFlags::empty()) }.ok()?;
        // Keeps a stack that is hardly used cheap.
        // SAFETY: advice on the pages mapped just now changes no byte.
        let _ = unsafe { madvise(start, len, Advice::LinuxNoHugepage) };
        Some(stack)
    }

    /// Maps a thread's large stack; `None` if it would be no larger than what the current stack has left.
    #[cold]
    fn large_slow() -> Option<Self> {
        let limits = [Resource::As, Resource::Data].map(|resource| getrlimit(resource).current);
        let size = match limits.into_iter().flatten().min() {
            Some(least) => usize::try_from(least / SHARE).map_or(LARGE, |share| share.min(LARGE)),
            None => LARGE,
        };
        if size > left() { Self::new(size) } else { None }
    }

    /// Runs `run` on this stack. Nothing else may be running there; the owner of the stack ensures that.
    ///
    /// # Errors
    ///
    /// The panic that `run` ended with.
    fn call(&self, run: &mut dyn FnMut()) -> thread::Result<()> {
        let mut call = StackCall { run, panic: None };
        let before = BOUNDS.replace(Some(StackBounds { low: self.low(), high: self.top().addr(), is_limited: false }));
        // SAFETY: `enter` takes a `StackCall`, which lives here until `enter` returns, and never unwinds. Nothing else runs on the stack, whose top is
        // aligned and 16 bytes within it.
        unsafe { switch((&raw mut call).cast(), enter, self.top()) };
        BOUNDS.set(before);
        call.panic.map_or(Ok(()), Err)
    }

    /// Gives back the pages beyond [`KEPT`] if they were used: the first of them is then very unlikely to be all zeros.
    fn give_back(&self) {
        let end = self.len.saturating_sub(KEPT).max(GUARD);
        if end < GUARD + PAGE {
            return;
        }
        let first = self.start.as_ptr().cast::<u8>().wrapping_add(end - PAGE);
        // SAFETY: a page of the stack above its guard, mapped readable, with nothing running on it.
        let is_used = unsafe { std::slice::from_raw_parts(first, PAGE) }.iter().any(|&byte| byte != 0);
        if is_used {
            let low = self.start.as_ptr().wrapping_byte_add(GUARD);
            // SAFETY: pages of the stack above its guard; nothing runs on them, and nothing reads them before it writes them.
            let _ = unsafe { madvise(low, end - GUARD, Advice::LinuxDontNeed) };
        }
    }

    fn low(&self) -> usize {
        self.start.addr().get() + GUARD
    }

    /// The initial stack pointer, aligned to 16 bytes as calls require.
    fn top(&self) -> *mut u8 {
        self.start.as_ptr().cast::<u8>().wrapping_add(self.len - 16)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nothing runs there any more.
        let _ = unsafe { munmap(self.start.as_ptr(), self.len) };
    }
}

/// Calls `enter(call)` with the stack pointer at `top`. The frame pointer leads back to the old stack, for the return and for unwinders and
/// backtraces.
///
/// # Safety
///
/// `top` must be the aligned upper end of memory that nothing else uses; `enter` must accept `call`, and not unwind.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn switch(call: *mut u8, enter: Enter, top: *mut u8) {
    std::arch::naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa rsp, 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "mov rsp, rdx",
        "call rsi",
        "mov rsp, rbp",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
    )
}

/// Calls `enter(call)` with the stack pointer at `top`, as on x86-64.
///
/// # Safety
///
/// As on x86-64.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn switch(call: *mut u8, enter: Enter, top: *mut u8) {
    std::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa sp, 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, sp",
        ".cfi_def_cfa_register x29",
        "mov sp, x2",
        "blr x1",
        "mov sp, x29",
        ".cfi_def_cfa_register sp",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa sp, 0",
        "ret",
        ".cfi_endproc",
    )
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Recurses, using at least 1 KiB of stack at each level.
    fn down(levels: usize) -> usize {
        let frame = std::hint::black_box([1u8; 1024]);
        if levels == 0 { 0 } else { usize::from(frame[levels % 1024]) + down(levels - 1) }
    }

    #[test]
    fn a_thread_knows_what_is_left_of_its_stack() {
        for size in [64 << 10, 1 << 20, 8 << 20] {
            let thread = thread::Builder::new().stack_size(size).spawn(move || {
                let before = left();
                // The C library may reuse the stack of an earlier, larger thread.
                assert!(before > size / 4, "{before} of {size}");
                let deeper = std::hint::black_box([0u8; 8 << 10]);
                assert!(left() <= before, "{}", deeper[0]);
            });
            thread.expect("a thread").join().expect("as much as was asked for");
        }
        assert!(left() > 16 << 10);
    }

    #[test]
    fn fault_25_the_large_stack_is_kept_nested_and_given_back() {
        let thread = thread::Builder::new().stack_size(64 << 10).spawn(|| {
            let before = left();
            let place = |_| on_large(here);
            let places = [0, 1, 2].map(place);
            assert!(places.iter().all(|&place| place == places[0]), "it is the same one");
            assert_eq!(on_large(|| (down(20_000), on_large(|| down(20_000)))), (20_000, 20_000));
            // With little left, it moves to one more stack.
            assert_eq!(on_large(|| on_another(1 << 20, || on_large(|| down(20_000)))), Some(20_000));
            let panicked = catch_unwind(|| on_large(|| panic!("on the large stack")));
            assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on the large stack"));
            give_back_slow();
            assert_eq!(on_large(|| down(20_000)), 20_000);
            assert_eq!(left(), before);
        });
        thread.expect("a thread").join().expect("no overflow");
    }

    #[test]
    fn another_stack_is_used_and_left_whatever_happens_there() {
        let thread = thread::Builder::new().stack_size(64 << 10).spawn(|| {
            let before = left();
            // More than the thread's own stack has.
            assert_eq!(on_another(64 << 20, || (down(2_000), left() > 32 << 20)), Some((2_000, true)));
            let backtrace = on_another(16 << 20, || std::backtrace::Backtrace::force_capture().to_string());
            assert!(backtrace.is_some_and(|text| text.contains("on_another")));
            let panicked = catch_unwind(|| on_another(1 << 20, || panic!("on another stack")));
            assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on another stack"));
            assert_eq!(on_another(usize::MAX, || ()), None);
            assert_eq!(on_another(1 << 20, || on_another(4 << 20, || down(200))), Some(Some(200)));
            assert_eq!(left(), before);
        });
        thread.expect("a thread").join().expect("no overflow");
    }
}
