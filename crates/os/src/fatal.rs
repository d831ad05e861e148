//! The ends that a process comes to by itself: aborts, overflowed stacks, exits. Whoever wants to write something down is told just before.
//!
//! What is told runs in a signal handler: it may not allocate, lock or block. Whatever handler there was before runs afterwards, so that the process
//! ends, prints and dumps core as it would without this.

use crate::exit::Exit;
use crate::signal_set::{SignalSet, raise};
use libc::{c_int, c_void, siginfo_t};
use std::cell::Cell;
use std::ffi::{CStr, c_uint};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

/// What is about to happen on this very thread.
pub enum FatalEvent<'a> {
    /// The process aborts. `said` = what the C library, or the standard library for lack of memory, has printed about it.
    Abort { said: Option<&'a [u8]> },
    /// The thread, whose name this is, has touched memory that is not its own, near its stack. If the standard library finds that this has
    /// overflowed, it prints that and aborts; else there follows [`NoOverflow`](Self::NoOverflow), or nothing. `turned` is for who is told.
    Overflow { thread: &'a [u8], turned: &'a Cell<Turned> },
    /// It has not overflowed: what [`Overflow`](Self::Overflow) turned is to be turned back.
    NoOverflow { turned: Turned },
    /// The process exits, with the exit handlers run.
    Exit,
}

/// From what to what a word was turned.
pub type Turned = (u64, u64);

/// Who is told.
pub(crate) type FatalHook = fn(FatalEvent<'_>);

static TOLD: OnceLock<FatalHook> = OnceLock::new();
/// The process that is told: not its forks, which share its memory.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// What the C library prints before it aborts, if it is glibc: a pointer to a length and a text that ends with 0.
static GLIBC_MESSAGE: AtomicPtr<*mut c_uint> = AtomicPtr::new(ptr::null_mut());

/// The handlers that were there before.
static ABORT: OnceLock<SignalAction> = OnceLock::new();
static SEGV: OnceLock<SignalAction> = OnceLock::new();
static BUS: OnceLock<SignalAction> = OnceLock::new();

/// What a signal does.
#[derive(Clone, Copy)]
struct SignalAction(libc::sigaction);

/// A handler that is told what has happened.
type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// Has `told` told from now on. Only the first call counts.
pub fn tell(told: FatalHook) {
    if TOLD.set(told).is_err() {
        return;
    }
    PROCESS.store(std::process::id(), Relaxed);
    // SAFETY: a name that ends with 0. The address is only read as what glibc declares it to be.
    let message = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__abort_msg".as_ptr()) };
    GLIBC_MESSAGE.store(message.cast(), Relaxed);
    // SAFETY: the handler touches atomics only.
    unsafe { libc::atexit(exiting) };
    install(libc::SIGABRT, &ABORT, action_of_abort);
    install(libc::SIGSEGV, &SEGV, action_of_fault);
    install(libc::SIGBUS, &BUS, action_of_fault);
    provide_stack();
}

/// Bytes of a signal stack: what the kernel puts there, and twice what handlers need.
const STACK: usize = 64 << 10;

/// Gives the calling thread, if it has none, a stack for the handlers of this file: on one that has overflowed none can run. It stays for good.
pub fn provide_stack() {
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
fn is_of_itself(signal: i32) -> bool {
    let raised = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];
    raised.contains(&signal)
}

/// Whether a process that ended so did it itself: SIGKILL and its like come from elsewhere, whatever was last said.
pub fn ends_by_itself(exit: Exit) -> bool {
    match exit {
        Exit::Code(_) | Exit::Unknown => true,
        Exit::Running => false,
        Exit::Signal(signal) => is_of_itself(signal),
    }
}

fn install(signal: c_int, before: &OnceLock<SignalAction>, ours: fn(&SignalAction) -> SignalAction) {
    // A handler that finds no other to go on with leaves the signal to the system.
    if let Some(found) = act(signal, &SignalAction::default()) {
        let _ = before.set(found);
        act(signal, &ours(&found));
    }
}

/// Not on the signal stack: an abort has room where it is, and the signal stacks of others may be small.
fn action_of_abort(before: &SignalAction) -> SignalAction {
    before.with(aborting, 0)
}

fn action_of_fault(before: &SignalAction) -> SignalAction {
    before.with(faulting, libc::SA_ONSTACK)
}

impl Default for SignalAction {
    /// What the system does.
    fn default() -> Self {
        // SAFETY: any bytes are a value: of zeros, the default action, without flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = libc::SIG_DFL;
        action.sa_mask = SignalSet::empty().as_raw();
        Self(action)
    }
}

impl SignalAction {
    /// The same signals blocked, and the same flags and `flags`, but this handler.
    fn with(&self, handler: Handler, flags: c_int) -> Self {
        let mut action = self.0;
        action.sa_sigaction = handler as usize;
        action.sa_flags |= libc::SA_SIGINFO | flags;
        Self(action)
    }

    fn is_ignored(&self) -> bool {
        self.0.sa_sigaction == libc::SIG_IGN
    }

    /// Whether it is a function of the program.
    fn is_handler(&self) -> bool {
        ![libc::SIG_DFL, libc::SIG_IGN].contains(&self.0.sa_sigaction)
    }

    /// Does what the handler does, if it is one.
    fn run(&self, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        if !self.is_handler() {
            return;
        }
        if self.0.sa_flags & libc::SA_SIGINFO != 0 {
            // SAFETY: whoever installed it with that flag said that it is such a function.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(self.0.sa_sigaction) };
            handler(signal, info, context);
        } else {
            // SAFETY: whoever installed it without the flag said that it is such a function.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(self.0.sa_sigaction) };
            handler(signal);
        }
    }
}

/// Makes `action` the signal's: the default one, one that it had until `install`, or one of this file. Returns what was there.
fn act(signal: c_int, action: &SignalAction) -> Option<SignalAction> {
    let mut before = SignalAction::default();
    // SAFETY: the handlers of this file do only what may be done at any point of a program, see there; the others are not of its making.
    let result = unsafe { libc::sigaction(signal, &raw const action.0, &raw mut before.0) };
    (result == 0).then_some(before)
}

fn told(ending: FatalEvent<'_>) {
    if let Some(told) = TOLD.get()
        && rustix::process::getpid().as_raw_pid().cast_unsigned() == PROCESS.load(Relaxed)
    {
        told(ending);
    }
}

extern "C" fn exiting() {
    told(FatalEvent::Exit);
}

/// Tells what is to be said of the abort, and has it go on as if this had not been here.
extern "C" fn aborting(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    if let Some(before) = ABORT.get() {
        act(libc::SIGABRT, before);
    }
    let said = glibc_message().or_else(|| (is_own(info) && lacks_memory()).then_some(LACKS_MEMORY));
    told(FatalEvent::Abort { said });
    // Blocked until this handler returns. An abort would raise it again by itself, a signal from elsewhere not.
    raise(libc::SIGABRT);
}

/// Whether this process has sent the signal to one thread of its own, as an abort does: then that stands where a call returns to, and its frames
/// may be walked over.
fn is_own(info: *mut siginfo_t) -> bool {
    // SAFETY: the kernel's, for as long as the handler runs.
    let info = unsafe { &*info };
    // SAFETY: a signal that was sent so has a sender.
    info.si_code == libc::SI_TKILL && unsafe { info.si_pid() } == rustix::process::getpid().as_raw_pid()
}

/// If it is near the stack, tells that this may have overflowed. Then asks the handler that was there before, which knows. If there was none, the
/// process ends without a word printed.
extern "C" fn faulting(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let before = if signal == libc::SIGBUS { BUS.get() } else { SEGV.get() };
    let is_near = is_near_stack(info, context);
    let (mut name, turned) = ([0; 16], Cell::new((0, 0)));
    if is_near {
        told(FatalEvent::Overflow { thread: thread_name(&mut name), turned: &turned });
    }
    let Some(handler) = before.filter(|before| before.is_handler()) else {
        // SAFETY: the kernel's, for as long as this runs.
        let is_sent = unsafe { (*info).si_code } <= 0;
        if is_sent && before.is_some_and(SignalAction::is_ignored) {
            return;
        }
        // A fault comes again by itself, and is never ignored.
        act(signal, &SignalAction::default());
        if is_sent {
            raise(signal);
        }
        return;
    };
    // There may be no room on the signal stack for another handler.
    let abort = ABORT.get().filter(|_| is_near);
    abort.and_then(|abort| act(libc::SIGABRT, abort));
    handler.run(signal, info, context);
    if is_near {
        told(FatalEvent::NoOverflow { turned: turned.get() });
    }
    // Ours, and not what was found: another thread may have been here meanwhile.
    abort.and_then(|abort| act(libc::SIGABRT, &action_of_abort(abort)));
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
    let stack = address;
    code > 0 && stack.abs_diff(address) < NEAR
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
