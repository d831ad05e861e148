//! What a child says as it ends, kept in shared memory, where its parent finds it.
//!
//! The child notes every panic before it is printed, and withdraws the note when the panic has been caught: what remains is the last panic that
//! nobody caught. Aborts and stack overflows come from signal handlers (`callgate_os::fatal`), which may do no more than write here. The parent reads
//! once, when the child is dead, and treats the bytes as text, whatever they are.

#![forbid(unsafe_code)]

use callgate_os::fatal::{self, FatalEvent, Turned};
use callgate_os::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use callgate_os::sync::fence;
use callgate_os::text::is_visible;
use callgate_transport::bounds::LAST_WORDS;
use callgate_transport::error::Exit;
use callgate_transport::layout::{FINAL, LastWords, PANICKING, SILENT};
use callgate_transport::segment::Placed;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;

/// The longest last words, in bytes.
const CAPACITY: usize = 8 * LAST_WORDS;

// ---- the child -----------------------------------------------------------------------------------------------------

/// The last words of this process, if it is a child.
static KEPT: OnceLock<LastWordsSlot> = OnceLock::new();

struct LastWordsSlot {
    place: Placed<LastWords>,
    /// The process; its forks may not write.
    process: u32,
    /// Whether a thread is writing; others that come meanwhile do not write.
    busy: AtomicBool,
    /// The thread that wrote the words, by the address of its [`TOKEN`].
    by: AtomicUsize,
}

thread_local! {
    /// Has no destructor, so that a signal handler may take its address.
    static TOKEN: Cell<u8> = const { Cell::new(0) };
    static SAID: RefCell<ThreadLastWords> = const { RefCell::new(ThreadLastWords { turn: 0, text: String::new() }) };
}

/// What this thread has said.
struct ThreadLastWords {
    /// The call that it was in, as `panic` counts them; even = in none.
    turn: u64,
    text: String,
}

impl Drop for ThreadLastWords {
    /// The thread ends, so its panics have been caught, unless the process ends with it by a panic.
    fn drop(&mut self) {
        if !self.text.is_empty() && !thread::panicking() {
            withdraw_own();
        }
    }
}

/// Has this process, a child, keep its last words in `place`.
pub fn keep(place: Placed<LastWords>) {
    let kept =
        LastWordsSlot { place, process: std::process::id(), busy: AtomicBool::new(false), by: AtomicUsize::new(0) };
    if KEPT.set(kept).is_ok() {
        fatal::tell(ending);
    }
}

/// Whether this process is a child.
pub(crate) fn are_kept() -> bool {
    KEPT.get().is_some()
}

/// Lets the calling thread report an overflow of its stack. Threads started by the standard library can, unless it was told not to.
pub(crate) fn prepare_thread() {
    fatal::provide_stack();
}

/// Notes a panic, which may still be caught. The panic hook calls this, in the call `turn` if that is odd.
pub fn note(info: &PanicHookInfo<'_>, turn: u64) {
    let Some(kept) = KEPT.get() else { return };
    if kept.process != std::process::id() {
        return;
    }
    let message = message(info.payload());
    let place = info.location().map_or_else(String::new, |location| format!(" at {location}"));
    let _ = SAID.try_with(|said| {
        let Ok(mut said) = said.try_borrow_mut() else { return };
        // A panic that cannot unwind is a consequence of the one before it.
        let follows = (turn % 2 == 1 && said.turn == turn) || cannot_unwind(&message);
        if follows && !said.text.is_empty() && said.text.len() + place.len() + message.len() < CAPACITY {
            said.text.push_str(&format!("; then it panicked{place}: {message}"));
        } else {
            let current = thread::current();
            let name = current.name().unwrap_or("<unnamed>");
            said.text = format!("thread '{name}' panicked{place}: {message}");
        }
        said.turn = turn;
        kept.write(PANICKING, &[said.text.as_bytes()]);
    });
}

/// Says why this process is about to end itself.
pub fn say(why: &str) {
    if let Some(kept) = KEPT.get() {
        kept.write(FINAL, &[why.as_bytes()]);
    }
}

/// Takes back what this thread has said of a panic, which has been caught.
pub(crate) fn withdraw_own() {
    if let Some(kept) = KEPT.get()
        && kept.is_own()
    {
        kept.withdraw();
    }
}

/// Notes that the process is about to end, or may be. Runs in signal handlers.
fn ending(ending: FatalEvent<'_>) {
    let Some(kept) = KEPT.get() else { return };
    match ending {
        // The words are missing if another hook ran that did not call ours.
        FatalEvent::Abort { .. } | FatalEvent::Exit if thread::panicking() => kept.confirm(),
        FatalEvent::Abort { said: Some(said) } => kept.write(FINAL, &[said.trim_ascii()]),
        FatalEvent::Abort { said: None } | FatalEvent::Exit => kept.withdraw(),
        FatalEvent::Overflow { thread, turned } => turned.set(kept.add_overflow(thread)),
        FatalEvent::NoOverflow { turned } => kept.take_back(turned),
    }
}

fn token() -> usize {
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}

impl LastWordsSlot {
    fn is_own(&self) -> bool {
        self.by.load(Relaxed) == token()
    }

    /// Runs `change`, unless another thread is changing something.
    fn change(&self, change: impl FnOnce(&LastWords)) {
        // Acquire, Release: what is written here is ordered by this flag alone.
        if !self.busy.swap(true, Acquire) {
            change(&self.place);
            self.busy.store(false, Release);
        }
    }

    fn write(&self, state: u64, pieces: &[&[u8]]) {
        self.change(|place| {
            self.by.store(token(), Relaxed);
            write_behind(place, 0, state, pieces);
        });
    }

    /// Says that the stack of this thread has overflowed, behind a panic under way: should it not have overflowed, the panic's text is still there.
    /// Returns the state before and after.
    fn add_overflow(&self, thread: &[u8]) -> Turned {
        let mut turned = (SILENT, SILENT);
        self.change(|place| {
            let before = place.state.load(Relaxed);
            if before & 0xff == FINAL {
                return;
            }
            let (start, then): (usize, &[u8]) = match before & 0xff {
                PANICKING => ((before >> 8) as usize, b"; then "),
                _ => (0, b""),
            };
            if start == 0 {
                self.by.store(token(), Relaxed);
            }
            write_behind(place, start, PANICKING, &[then, b"thread '", thread, b"' has overflowed its stack"]);
            turned = (before, place.state.load(Relaxed));
        });
        turned
    }

    /// Takes back what [`add_overflow`](Self::add_overflow) has said, if nothing was said since.
    fn take_back(&self, (before, after): Turned) {
        self.change(|place| {
            if place.state.load(Relaxed) == after {
                place.state.store(before, Relaxed);
            }
        });
    }

    /// Settles that what this thread has said is why the process ends.
    fn confirm(&self) {
        self.change(|place| {
            let state = place.state.load(Relaxed);
            if state & 0xff == PANICKING && self.is_own() {
                place.state.store(state & !0xff | FINAL, Release);
            }
        });
    }

    fn withdraw(&self) {
        self.change(|place| {
            if place.state.load(Relaxed) & 0xff == PANICKING {
                place.state.store(SILENT, Relaxed);
            }
        });
    }
}

/// Writes the text after its first `start` bytes.
fn write_behind(place: &LastWords, start: usize, state: u64, pieces: &[&[u8]]) {
    // SeqCst: the text changes after this; a process killed in between has said nothing. Has no partner: everything that a dead process has stored is
    // visible.
    place.state.store(SILENT, Relaxed);
    fence(SeqCst);
    let mut len = start.min(CAPACITY);
    let mut word = match len % 8 {
        0 => 0,
        kept => place.text[len / 8].load(Relaxed) & ((1 << (8 * kept)) - 1),
    };
    for &byte in pieces.iter().copied().flatten().take(CAPACITY - len) {
        word |= u64::from(byte) << (8 * (len % 8));
        len += 1;
        place.text[(len - 1) / 8].store(word, Relaxed);
        if len.is_multiple_of(8) {
            word = 0;
        }
    }
    // Release: publishes the text. Pairs with the Acquire in `read`.
    place.state.store((len as u64) << 8 | state, Release);
}

// ---- the parent ----------------------------------------------------------------------------------------------------

/// The last words of a child that has ended this way, if it has any.
pub fn read(place: &LastWords, exit: Exit) -> Option<String> {
    // Acquire: pairs with the Release in `LastWordsSlot::write`. A dead child writes no more; what its forks write is only text, too.
    let state = place.state.load(Acquire);
    let says_why = match state & 0xff {
        FINAL => true,
        PANICKING => fatal::ends_by_itself(exit),
        _ => false,
    };
    let len = usize::try_from(state >> 8).ok()?.min(CAPACITY);
    if !says_why || len == 0 {
        return None;
    }
    let words = place.text.iter().take(len.div_ceil(8));
    let mut bytes: Vec<u8> = words.flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
    bytes.truncate(len);
    let text = as_text(&bytes);
    (!text.is_empty()).then_some(text)
}

/// Text on one line, in which nothing is hidden and nothing moves the cursor.
fn as_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let words = text.split(|char: char| char.is_whitespace() || !is_visible(char));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether that is the standard library's message for a panic that cannot unwind further.
pub(crate) fn cannot_unwind(message: &str) -> bool {
    message.starts_with("panic in a function that cannot unwind")
        || message.starts_with("panic in a destructor during cleanup")
}

pub fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a payload that is not text".into())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_transport::backing::SealedMemfds;
    use callgate_transport::layout::Geometry;
    use callgate_transport::segment::Segment;

    fn place() -> Placed<LastWords> {
        let geometry = Geometry { lanes: 1, slots: 2, slot_lines: 1, workers: 1 };
        Segment::create(geometry, &SealedMemfds).unwrap().0.last_words()
    }

    fn kept() -> LastWordsSlot {
        LastWordsSlot { place: place(), process: 1, busy: AtomicBool::new(false), by: AtomicUsize::new(0) }
    }

    const ABORTED: Exit = Exit::Signal(6);

    #[test]
    fn what_is_said_is_read_and_what_is_withdrawn_is_not() {
        let kept = kept();
        assert_eq!(read(&kept.place, ABORTED), None);
        for len in [1, 7, 8, 9, CAPACITY - 1, CAPACITY, CAPACITY + 100] {
            kept.write(PANICKING, &[b"x".repeat(len).as_slice()]);
            assert_eq!(read(&kept.place, ABORTED).map(|words| words.len()), Some(len.min(CAPACITY)));
        }
        kept.write(PANICKING, &[b"a", b"\nb"]);
        assert_eq!(read(&kept.place, Exit::Signal(9)), None, "killed from elsewhere");
        assert_eq!(read(&kept.place, Exit::Code(3)).as_deref(), Some("a b"));
        kept.confirm();
        assert_eq!(read(&kept.place, Exit::Signal(9)).as_deref(), Some("a b"));
        kept.withdraw();
        assert!(read(&kept.place, ABORTED).is_some(), "what is final stays");
        kept.write(PANICKING, &[b"again"]);
        kept.withdraw();
        assert_eq!(read(&kept.place, ABORTED), None);
    }

    #[test]
    fn fault_27_a_fault_that_was_no_overflow_wipes_no_panic() {
        let kept = kept();
        let turned = kept.add_overflow(b"main");
        assert_eq!(read(&kept.place, ABORTED).as_deref(), Some("thread 'main' has overflowed its stack"));
        kept.take_back(turned);
        assert_eq!(read(&kept.place, ABORTED), None);
        for panic in ["it panicked", "8 bytes.", &"x".repeat(CAPACITY)] {
            kept.write(PANICKING, &[panic.as_bytes()]);
            let turned = kept.add_overflow(b"main");
            assert!(read(&kept.place, ABORTED).unwrap().starts_with(panic));
            kept.take_back(turned);
            assert_eq!(read(&kept.place, ABORTED).as_deref(), Some(panic));
        }
        let turned = kept.add_overflow(b"main");
        kept.write(PANICKING, &[b"another"]);
        kept.take_back(turned);
        assert_eq!(read(&kept.place, ABORTED).as_deref(), Some("another"));
        kept.write(FINAL, &[b"the end"]);
        kept.take_back(kept.add_overflow(b"main"));
        assert_eq!(read(&kept.place, ABORTED).as_deref(), Some("the end"));
    }

    #[test]
    fn fault_27_forged_last_words_are_bounded_text() {
        let place = place();
        for state in [0, 1, 2, 3, 0xff, FINAL, 8 << 8, u64::MAX, !0xff | FINAL, 1 << 8 | FINAL] {
            place.state.store(state, Relaxed);
            for word in
                [0, u64::MAX, u64::from_le_bytes(*b"\x1b[2J\r\n\0\xc3"), u64::from_le_bytes(*b"\xe2\x80\xaeevil\n")]
            {
                place.text.iter().for_each(|text| text.store(word, Relaxed));
                let Some(words) = read(&place, ABORTED) else { continue };
                assert!(words.chars().count() <= CAPACITY && !words.is_empty());
                assert!(!words.chars().any(|char| char.is_control() || char == '\u{202e}'), "{words:?}");
            }
        }
    }
}
