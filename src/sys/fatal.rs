//! The ends that a process comes to by itself: aborts, overflowed stacks, exits. Whoever wants to write something down is told just before.
//!
//! What is told runs in a signal handler: it may not allocate, lock or block. Whatever handler there was before runs afterwards, so that the process
//! ends, prints and dumps core as it would without this.

use nix::libc::{self, c_int, c_void, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, Signal, raise, sigaction};
use std::ffi::{CStr, c_uint};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

/// What is about to happen on this very thread.
pub(crate) enum Ending<'a> {
    /// The process aborts. `said` = what the C library, or the standard library for lack of memory, has printed about it.
    Abort { said: Option<&'a [u8]> },
    /// The thread, whose name this is, has touched memory that is not its own. If the standard library finds that the stack has overflowed, it
    /// prints that and aborts; else there follows [`NoOverflow`](Self::NoOverflow), or nothing.
    Overflow { thread: &'a [u8] },
    /// It has not overflowed.
    NoOverflow,
    /// The process exits, with the exit handlers run.
    Exit,
}

/// Who is told.
pub(crate) type Told = fn(Ending<'_>);

static TOLD: OnceLock<Told> = OnceLock::new();
/// The process that is told: not its forks, which share its memory.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// What the C library prints before it aborts, if it is glibc: a pointer to a length and a text that ends with 0.
static GLIBC_MESSAGE: AtomicPtr<*mut c_uint> = AtomicPtr::new(ptr::null_mut());

/// The handlers that were there before.
static ABORT: OnceLock<SigAction> = OnceLock::new();
static SEGV: OnceLock<SigAction> = OnceLock::new();
static BUS: OnceLock<SigAction> = OnceLock::new();

/// Has `told` told from now on. Only the first call counts.
pub(crate) fn tell(told: Told) {
    if TOLD.set(told).is_err() {
        return;
    }
    PROCESS.store(std::process::id(), Relaxed);
    // SAFETY: a name that ends with 0. The address is only read as what glibc declares it to be.
    let message = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__abort_msg".as_ptr()) };
    GLIBC_MESSAGE.store(message.cast(), Relaxed);
    // SAFETY: the handler touches atomics only.
    unsafe { libc::atexit(exiting) };
    install(Signal::SIGABRT, &ABORT, SigHandler::SigAction(aborting));
    for (signal, before) in [(Signal::SIGSEGV, &SEGV), (Signal::SIGBUS, &BUS)] {
        install(signal, before, SigHandler::SigAction(faulting));
    }
    provide_stack();
}

/// Bytes of a signal stack: what the kernel puts there, and twice what handlers need.
const STACK: usize = 64 << 10;

/// Gives the calling thread, if it has none, a stack for the handlers of this file: on one that has overflowed none can run. It stays for good.
pub(crate) fn provide_stack() {
    // SAFETY: any bytes are a value, and 0 a null pointer.
    let mut found: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes what the structure has room for.
    let asked = unsafe { libc::sigaltstack(ptr::null(), &mut found) };
    if asked != 0 || found.ss_flags & libc::SS_DISABLE == 0 {
        return;
    }
    let memory = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK };
    // SAFETY: the memory is never used for anything else.
    unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
}

/// Whether a process that is killed by `signal` has most likely raised it itself.
pub(crate) fn is_of_itself(signal: i32) -> bool {
    let raised = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];
    raised.contains(&signal)
}

fn install(signal: Signal, before: &OnceLock<SigAction>, handler: SigHandler) {
    // A handler that finds no other to go on with leaves the signal to the system.
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), nix::sys::signal::SigSet::empty());
    // SAFETY: the default action is always valid.
    let Ok(found) = (unsafe { sigaction(signal, &default) }) else { return };
    let _ = before.set(found);
    let action = SigAction::new(handler, found.flags() | SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK, found.mask());
    // SAFETY: the handlers of this file do only what may be done at any point of a program, see there.
    let _ = unsafe { sigaction(signal, &action) };
}

/// Puts back what was there before.
fn restore(signal: Signal, before: &OnceLock<SigAction>) {
    if let Some(before) = before.get() {
        // SAFETY: it was the signal's action until `install`.
        let _ = unsafe { sigaction(signal, before) };
    }
}

fn told(ending: Ending<'_>) {
    if let Some(told) = TOLD.get()
        && rustix::process::getpid().as_raw_pid().cast_unsigned() == PROCESS.load(Relaxed)
    {
        told(ending);
    }
}

extern "C" fn exiting() {
    told(Ending::Exit);
}

/// Tells what is to be said of the abort, and has it go on as if this had not been here.
extern "C" fn aborting(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    restore(Signal::SIGABRT, &ABORT);
    let said = glibc_message().or_else(|| lacks_memory().then_some(LACKS_MEMORY));
    told(Ending::Abort { said });
    // Blocked until this handler returns. An abort would raise it again by itself, a signal from elsewhere not.
    let _ = raise(Signal::SIGABRT);
}

/// Tells that the stack may have overflowed, and asks the handler that was there before, which knows. If there was none, it goes by where the
/// stack pointer is, and the process ends without a word printed.
extern "C" fn faulting(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let (signal_kind, before) = if signal == libc::SIGBUS { (Signal::SIGBUS, &BUS) } else { (Signal::SIGSEGV, &SEGV) };
    let mut name = [0; 16];
    let is_handled = before.get().is_some_and(|before| !matches!(before.handler(), SigHandler::SigDfl));
    if is_handled || is_near_stack(info, context) {
        told(Ending::Overflow { thread: thread_name(&mut name) });
    }
    if !is_handled {
        restore(signal_kind, before);
        // SAFETY: the kernel's, for as long as this runs.
        if unsafe { (*info).si_code } <= 0 {
            // Sent by a process: it does not come again by itself.
            let _ = raise(signal_kind);
        }
        return;
    }
    // There may be no room on the signal stack for another handler.
    let ours = swap_abort();
    match before.get().map(SigAction::handler) {
        Some(SigHandler::SigAction(handler)) => handler(signal, info, context),
        Some(SigHandler::Handler(handler)) => handler(signal),
        _ => {}
    }
    told(Ending::NoOverflow);
    if let Some(ours) = ours {
        // SAFETY: it was the signal's action until just now.
        let _ = unsafe { sigaction(Signal::SIGABRT, &ours) };
    }
}

/// How far from the stack pointer a stack that overflows is touched: code that was compiled by Rust touches every page in turn.
const NEAR: usize = 64 << 10;

/// Whether what was touched lies where the stack pointer is.
fn is_near_stack(info: *mut siginfo_t, context: *mut c_void) -> bool {
    // SAFETY: the kernel's, for as long as the handler runs.
    let info = unsafe { &*info };
    // SAFETY: of a signal that has an address: this is asked of no other.
    let (code, address) = (info.si_code, unsafe { info.si_addr() }.addr());
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: as above.
    #[cfg(target_arch = "x86_64")]
    let stack = unsafe { (*context).uc_mcontext.gregs[libc::REG_RSP as usize] } as usize;
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    let stack = unsafe { (*context).uc_mcontext.sp } as usize;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let stack = 0;
    code > 0 && stack.abs_diff(address) < NEAR
}

/// Has an abort do what it did before, if it comes here; returns what it did.
fn swap_abort() -> Option<SigAction> {
    let before = ABORT.get()?;
    // SAFETY: it was the signal's action until `install`.
    let found = unsafe { sigaction(Signal::SIGABRT, before) }.ok()?;
    Some(found)
}

/// The name of the calling thread, as far as the kernel knows it, and as the standard library says it of the main thread.
fn thread_name(name: &mut [u8; 16]) -> &[u8] {
    if rustix::thread::gettid() == rustix::process::getpid() {
        return b"main";
    }
    // SAFETY: writes at most 16 bytes, the last of them 0.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// What glibc has printed before it aborts: a failed assertion, a broken heap, a smashed stack.
fn glibc_message<'a>() -> Option<&'a [u8]> {
    let message = ptr::NonNull::new(GLIBC_MESSAGE.load(Relaxed))?;
    // SAFETY: the address of a variable of glibc, which is never gone.
    let message = ptr::NonNull::new(unsafe { message.as_ptr().read_volatile() })?;
    // SAFETY: what the variable points to begins with a length; glibc maps it, and never takes back the last.
    let text = unsafe { message.as_ptr().add(1) };
    // SAFETY: behind the length there is a text that ends with 0.
    Some(unsafe { CStr::from_ptr(text.cast()) }.to_bytes())
}

/// What stands for what the standard library prints when memory is lacking: how many bytes it was, nobody but it knows.
const LACKS_MEMORY: &[u8] = b"memory allocation failed (standard error says of how many bytes)";

#[allow(non_camel_case_types)]
type _Unwind_Context = c_void;

unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut _Unwind_Context, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut _Unwind_Context) -> usize;
    fn _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void;
}

/// Whether this thread is in the standard library's way out when memory is lacking, which runs no panic hook.
fn lacks_memory() -> bool {
    extern "C" fn each(context: *mut _Unwind_Context, found: *mut c_void) -> c_int {
        // SAFETY: a context, for as long as this runs.
        let address = unsafe { _Unwind_GetIP(context) };
        // The address is that of the instruction after a call, which may be another function's.
        // SAFETY: takes any address.
        let function = unsafe { _Unwind_FindEnclosingFunction(ptr::without_provenance_mut(address.wrapping_sub(1))) };
        let way_out: fn(std::alloc::Layout) -> ! = std::alloc::handle_alloc_error;
        if function.addr() != way_out as usize {
            return 0;
        }
        // SAFETY: `lacks_memory` gives a flag of its own.
        unsafe { found.cast::<bool>().write(true) };
        // Anything but 0 ends the walk.
        1
    }
    let mut found = false;
    // SAFETY: walks over this thread's own frames; the flag outlives that.
    unsafe { _Unwind_Backtrace(each, (&raw mut found).cast()) };
    found
}
