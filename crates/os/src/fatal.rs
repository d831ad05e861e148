//! How a process ends itself: aborts, stack overflows, exits. A registered hook runs just before, so that it can record the reason.
//!
//! The hook runs in a signal handler: it must not allocate, lock or block. The handler that was installed before runs afterwards, so the process
//! ends, prints and dumps core as it would without this file.

use crate::exit::Exit;
use crate::signal_set::{SignalSet, raise};
use libc::{c_int, c_void, siginfo_t};
use std::cell::Cell;
use std::ffi::{CStr, c_uint};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

/// What is about to happen on the calling thread.
pub enum FatalEvent<'a> {
    /// The process aborts. `said` is what the C library has printed about it, or the standard library when memory ran out.
    Abort { said: Option<&'a [u8]> },
    /// The thread named `thread` faulted on an address near its stack pointer. If the standard library decides that the stack has overflowed, it
    /// prints that and aborts. Otherwise [`NoOverflow`](Self::NoOverflow) follows, or nothing. The hook stores in `turned` what `NoOverflow` should
    /// undo.
    Overflow { thread: &'a [u8], turned: &'a Cell<Turned> },
    /// The stack had not overflowed: undo what [`Overflow`](Self::Overflow) stored in `turned`.
    NoOverflow { turned: Turned },
    /// The process exits normally and runs its exit handlers.
    Exit,
}

/// The value of a state word before and after a change.
pub type Turned = (u64, u64);

/// The function called with each event.
pub(crate) type FatalHook = fn(FatalEvent<'_>);

static TOLD: OnceLock<FatalHook> = OnceLock::new();
/// The process whose events are reported. Those of its forks, which share its memory, are not.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// glibc's abort message, a pointer to a length and a text that ends with 0; null with other C libraries.
static GLIBC_MESSAGE: AtomicPtr<*mut c_uint> = AtomicPtr::new(ptr::null_mut());

/// The handlers that were installed before ours.
static ABORT: OnceLock<SignalAction> = OnceLock::new();
static SEGV: OnceLock<SignalAction> = OnceLock::new();
static BUS: OnceLock<SignalAction> = OnceLock::new();

/// What a process does on a signal.
#[derive(Clone, Copy)]
struct SignalAction(libc::sigaction);

/// A signal handler that receives details of the signal (`SA_SIGINFO`).
type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// Calls `told` on each event from now on. Only the first call counts.
pub fn tell(told: FatalHook) {
    if TOLD.set(told).is_err() {
        return;
    }
    PROCESS.store(std::process::id(), Relaxed);
    // SAFETY: the name ends with 0. The address is only read as the type that glibc declares.
    let message = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__abort_msg".as_ptr()) };
    GLIBC_MESSAGE.store(message.cast(), Relaxed);
    // SAFETY: the handler touches only atomics.
    unsafe { libc::atexit(exiting) };
    install(libc::SIGABRT, &ABORT, action_of_abort);
    install(libc::SIGSEGV, &SEGV, action_of_fault);
    install(libc::SIGBUS, &BUS, action_of_fault);
    provide_stack();
}

/// Size of a signal stack in bytes: the kernel's frame and twice what the handlers need.
const STACK: usize = 64 << 10;

/// Gives the calling thread a signal stack if it has none: the handlers of this file cannot run on a stack that has overflowed. It is never freed.
pub fn provide_stack() {
    // SAFETY: any bytes are a valid value; 0 is a null pointer.
    let mut found: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most one `stack_t`, for which there is room.
    let asked = unsafe { libc::sigaltstack(ptr::null(), &mut found) };
    if asked != 0 || found.ss_flags & libc::SS_DISABLE == 0 {
        return;
    }
    let memory = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK };
    // SAFETY: nothing else ever uses the memory.
    unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
}

/// Whether a process that died of `signal` most likely raised it itself.
fn is_of_itself(signal: i32) -> bool {
    let raised = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];
    raised.contains(&signal)
}

/// Whether a process that ended this way did so itself. SIGKILL and similar signals come from outside, whatever the process last recorded.
pub fn ends_by_itself(exit: Exit) -> bool {
    match exit {
        Exit::Code(_) | Exit::Unknown => true,
        Exit::Running => false,
        Exit::Signal(signal) => is_of_itself(signal),
    }
}

fn install(signal: c_int, before: &OnceLock<SignalAction>, ours: fn(&SignalAction) -> SignalAction) {
    // Records the previous action before installing ours: without it, our handler would leave the signal to the system.
    if let Some(found) = act(signal, &SignalAction::default()) {
        let _ = before.set(found);
        act(signal, &ours(&found));
    }
}

/// Runs on the normal stack: an abort has room there, and a signal stack that others provided may be small.
fn action_of_abort(before: &SignalAction) -> SignalAction {
    before.with(aborting, 0)
}

fn action_of_fault(before: &SignalAction) -> SignalAction {
    before.with(faulting, libc::SA_ONSTACK)
}

impl Default for SignalAction {
    /// The system's default action.
    fn default() -> Self {
        // SAFETY: any bytes are a valid value; zeros mean the default action without flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = libc::SIG_DFL;
        action.sa_mask = SignalSet::empty().as_raw();
        Self(action)
    }
}

impl SignalAction {
    /// The same mask, with this handler, and with `flags` added.
    fn with(&self, handler: Handler, flags: c_int) -> Self {
        let mut action = self.0;
        action.sa_sigaction = handler as usize;
        action.sa_flags |= libc::SA_SIGINFO | flags;
        Self(action)
    }

    fn is_ignored(&self) -> bool {
        self.0.sa_sigaction == libc::SIG_IGN
    }

    /// Whether the action calls a function of the program.
    fn is_handler(&self) -> bool {
        ![libc::SIG_DFL, libc::SIG_IGN].contains(&self.0.sa_sigaction)
    }

    /// Calls the handler, if the action has one.
    fn run(&self, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        if !self.is_handler() {
            return;
        }
        if self.0.sa_flags & libc::SA_SIGINFO != 0 {
            // SAFETY: installed with that flag, so it is a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(self.0.sa_sigaction) };
            handler(signal, info, context);
        } else {
            // SAFETY: installed without that flag, so it is a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(self.0.sa_sigaction) };
            handler(signal);
        }
    }
}

/// Installs `action` for the signal and returns the previous one. `action` is the default, one that was there before `install`, or one of this
/// file's.
fn act(signal: c_int, action: &SignalAction) -> Option<SignalAction> {
    let mut before = SignalAction::default();
    // SAFETY: this file's handlers are async-signal-safe, as argued there; the others were installed by the program itself.
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

/// Reports the abort, then lets it go on as if this handler did not exist.
extern "C" fn aborting(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    if let Some(before) = ABORT.get() {
        act(libc::SIGABRT, before);
    }
    let said = glibc_message().or_else(|| (is_own(info) && lacks_memory()).then_some(LACKS_MEMORY));
    told(FatalEvent::Abort { said });
    // Blocked until this handler returns. `abort` would raise the signal again by itself; a sender outside the process would not.
    raise(libc::SIGABRT);
}

/// Whether this process sent the signal to one of its own threads, as `abort` does. That thread is then at a call's return address, so its frames can
/// be walked.
fn is_own(info: *mut siginfo_t) -> bool {
    // SAFETY: the kernel keeps it valid while the handler runs.
    let info = unsafe { &*info };
    // SAFETY: a signal with this code has a sender.
    info.si_code == libc::SI_TKILL && unsafe { info.si_pid() } == rustix::process::getpid().as_raw_pid()
}

/// Reports a possible stack overflow if the fault is near the stack pointer, then calls the previous handler, which decides. With no previous
/// handler, the process dies without printing anything.
extern "C" fn faulting(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let before = if signal == libc::SIGBUS { BUS.get() } else { SEGV.get() };
    let is_near = is_near_stack(info, context);
    let (mut name, turned) = ([0; 16], Cell::new((0, 0)));
    if is_near {
        told(FatalEvent::Overflow { thread: thread_name(&mut name), turned: &turned });
    }
    let Some(handler) = before.filter(|before| before.is_handler()) else {
        // SAFETY: the kernel keeps it valid while the handler runs.
        let is_sent = unsafe { (*info).si_code } <= 0;
        if is_sent && before.is_some_and(SignalAction::is_ignored) {
            return;
        }
        // A real fault recurs by itself and is never ignored.
        act(signal, &SignalAction::default());
        if is_sent {
            raise(signal);
        }
        return;
    };
    // The previous handler may abort, and the signal stack may have no room for our abort handler as well.
    let abort = ABORT.get().filter(|_| is_near);
    abort.and_then(|abort| act(libc::SIGABRT, abort));
    handler.run(signal, info, context);
    if is_near {
        told(FatalEvent::NoOverflow { turned: turned.get() });
    }
    // Installs ours rather than what `act` found: another thread may have been here meanwhile.
    abort.and_then(|abort| act(libc::SIGABRT, &action_of_abort(abort)));
}

/// How far from the stack pointer an overflowing stack faults at most: code compiled by Rust touches every page in turn.
const NEAR: usize = 64 << 10;

/// Whether the fault address lies near the stack pointer.
fn is_near_stack(info: *mut siginfo_t, context: *mut c_void) -> bool {
    // SAFETY: the kernel keeps it valid while the handler runs.
    let info = unsafe { &*info };
    // SAFETY: only called for SIGSEGV and SIGBUS, which carry an address.
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

/// The name that the kernel has for the calling thread; "main" for the main thread, as in the standard library.
fn thread_name(name: &mut [u8; 16]) -> &[u8] {
    if rustix::thread::gettid() == rustix::process::getpid() {
        return b"main";
    }
    // SAFETY: the kernel writes at most 16 bytes, the last of them 0.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// What glibc printed before it aborts: a failed assertion, heap corruption, stack smashing.
fn glibc_message<'a>() -> Option<&'a [u8]> {
    let message = ptr::NonNull::new(GLIBC_MESSAGE.load(Relaxed))?;
    // SAFETY: the address of one of glibc's variables, which lives as long as the process.
    let message = ptr::NonNull::new(unsafe { message.as_ptr().read_volatile() })?;
    // SAFETY: the variable points to a length; glibc maps this memory and never frees the most recent message.
    let text = unsafe { message.as_ptr().add(1) };
    // SAFETY: a text that ends with 0 follows the length.
    Some(unsafe { CStr::from_ptr(text.cast()) }.to_bytes())
}

/// Stands in for what the standard library prints when memory runs out: only it knows how many bytes were requested.
const LACKS_MEMORY: &[u8] = b"memory allocation failed (standard error says how many bytes were requested)";

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

/// Whether this thread is inside `handle_alloc_error`, which runs no panic hook.
fn lacks_memory() -> bool {
    extern "C" fn each(context: *mut _Unwind_Context, found: *mut c_void) -> c_int {
        // SAFETY: the unwinder keeps the context valid while this runs.
        let address = unsafe { _Unwind_GetIP(context) };
        // The address is that of the instruction after a call, which may belong to the next function, so look one byte before it.
        // SAFETY: the function accepts any address.
        let function = unsafe { _Unwind_FindEnclosingFunction(ptr::without_provenance_mut(address.wrapping_sub(1))) };
        let way_out: fn(std::alloc::Layout) -> ! = std::alloc::handle_alloc_error;
        if function.addr() != way_out as usize {
            return 0;
        }
        // SAFETY: `lacks_memory` passes a pointer to its own flag.
        unsafe { found.cast::<bool>().write(true) };
        // Any value but 0 ends the walk.
        1
    }
    let mut found = false;
    // SAFETY: walks this thread's own frames; the flag outlives the walk.
    unsafe { _Unwind_Backtrace(each, (&raw mut found).cast()) };
    found
}
