//! What this process has registered: its callbacks by number, and what carries out the calls of them that arrive.

#![forbid(unsafe_code)]

use super::args::Args;
use super::callback::{Begin, Callback, Dynamic, ErasedCallback, Typed};
use super::protocol::{Counters, ToHub};
use super::typed::{Arguments, Outcome, Signature};
use callgate_engine::host::Host;
use callgate_engine::panic;
use callgate_engine::service::Exchange;
use callgate_transport::bare::Bare;
use callgate_transport::commit::{Beyond, Kind};
use callgate_transport::encode::Encode;
use callgate_transport::error::CallbackError;
use callgate_transport::error::TooDeep;
use callgate_transport::validator::Checked;
use parking_lot::{Mutex, RwLock};
use rkyv::Archive;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

/// The call word of a callback: its number, and this if the request is a bare [`Args`] and the reply a bare `Value`.
pub(super) const DYNAMIC: u64 = 1 << 31;

/// Numbers of callbacks are below this.
pub(super) const MOST_NUMBERS: u32 = 1 << 31;

/// Of so many calls one is timed: to look at a clock takes a tenth of a call.
const TIMED: u64 = 16;

/// A callback as requests reach it.
pub(super) trait RequestHandler: ErasedCallback {
    /// Runs it, if it may begin, with what a caller sent who has the same signature.
    fn answer(&self, exchange: &mut Exchange<'_>, begin: Begin<'_>);
}

impl<A: Arguments, O: Outcome, F: Callback<A, O>> RequestHandler for Typed<A, O, F> {
    fn answer(&self, exchange: &mut Exchange<'_>, begin: Begin<'_>) {
        match exchange.request.take::<A>() {
            Ok(args) => reply(exchange, &begin().and_then(|()| self.call(args))),
            Err(_) => exchange.refuse_request(UNREADABLE),
        }
    }
}

impl<F, O: Outcome> RequestHandler for Dynamic<F>
where
    F: Fn(Args) -> O + Send + Sync + 'static,
{
    fn answer(&self, exchange: &mut Exchange<'_>, _: Begin<'_>) {
        exchange.refuse(UNREADABLE);
    }
}

fn reply<R: Encode + Archive<Archived: Checked>>(exchange: &mut Exchange<'_>, result: &Result<R, CallbackError>) {
    match result {
        Ok(value) => exchange.reply(Kind::Call, value),
        Err(CallbackError::TooDeep) => {
            exchange.reply(Kind::Beyond, &Beyond { is_request: false, is_depth: true, limit: TooDeep.to_string() })
        }
        Err(failure) => exchange.reply(Kind::Failed, failure),
    }
}

const UNREADABLE: &str = "the arguments cannot be read: the caller's types differ";

/// A callback that is registered.
pub(super) struct LocalCallback {
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) answer: Box<dyn RequestHandler>,
    /// How many more calls it takes; `u64::MAX` = any number.
    left: AtomicU64,
    pub(super) expires: Option<Instant>,
    calls: AtomicU64,
    /// How long those took that were timed, and how many that were.
    nanoseconds: AtomicU64,
    timed: AtomicU64,
}

impl LocalCallback {
    pub(super) fn new(
        name: &str,
        number: u32,
        answer: Box<dyn RequestHandler>,
        calls: Option<u64>,
        expires: Option<Instant>,
    ) -> Self {
        Self {
            name: name.into(),
            number,
            answer,
            left: AtomicU64::new(calls.unwrap_or(u64::MAX)),
            expires,
            calls: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
            timed: AtomicU64::new(0),
        }
    }

    /// Takes one of the calls that are left. `Some(true)` = it is the last; `None` = there is none.
    fn take_call(&self) -> Option<bool> {
        if self.expires.is_some_and(|expires| expires <= Instant::now()) {
            return None;
        }
        if self.left.load(Relaxed) == u64::MAX {
            return Some(false);
        }
        // Relaxed: a count, on which nothing else depends.
        let before = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok()?;
        Some(before == 1)
    }

    /// Runs `run` as a call of this, which counts from when it begins. `spent` hears of it if that is the last call that this takes, before it
    /// runs: nobody who has its answer finds the callback still there, even if it panics.
    #[inline]
    pub(super) fn run<R>(&self, mut spent: impl FnMut(), run: impl FnOnce(&dyn RequestHandler, Begin<'_>) -> R) -> R {
        let mut began = None;
        let mut begin = || {
            if self.take_call().ok_or(CallbackError::Gone)? {
                spent();
            }
            if self.calls.fetch_add(1, Relaxed).is_multiple_of(TIMED) {
                began = Some(Instant::now());
            }
            Ok(())
        };
        let result = run(&*self.answer, &mut begin);
        if let Some(began) = began {
            self.nanoseconds.fetch_add(began.elapsed().as_nanos() as u64, Relaxed);
            self.timed.fetch_add(1, Relaxed);
        }
        result
    }

    pub(super) fn signature(&self) -> Signature {
        self.answer.signature().clone()
    }

    /// Whether it takes no more calls.
    pub(super) fn is_spent(&self) -> bool {
        self.left.load(Relaxed) == 0 || self.expires.is_some_and(|expires| expires <= Instant::now())
    }

    /// How often it was called, and how long that took, by those calls that were timed.
    pub(super) fn counters(&self) -> Counters {
        let (calls, timed) = (self.calls.load(Relaxed), self.timed.load(Relaxed).max(1));
        let nanoseconds = u128::from(self.nanoseconds.load(Relaxed)) * u128::from(calls) / u128::from(timed);
        Counters { number: self.number, calls, nanoseconds: nanoseconds as u64 }
    }

    /// What registers it.
    pub(super) fn as_message(&self, seq: u64, replace: bool) -> ToHub {
        let left = self.expires.map(|expires| expires.saturating_duration_since(Instant::now()));
        ToHub::Register {
            seq,
            name: self.name.clone(),
            number: self.number,
            signature: self.answer.signature().as_str().into(),
            expires_ms: left.map(|left| left.as_millis() as u64),
            replace,
        }
    }
}

/// All callbacks of this process.
#[derive(Default)]
pub(super) struct Callbacks {
    by_number: RwLock<FxHashMap<u32, Arc<LocalCallback>>>,
    /// Those that are to be dropped, by a thread of their own.
    discarded: Mutex<Vec<LocalCallback>>,
}

impl Callbacks {
    pub(super) fn insert(&self, registered: Arc<LocalCallback>) {
        self.by_number.write().insert(registered.number, registered);
    }

    pub(super) fn remove(&self, number: u32) -> Option<Arc<LocalCallback>> {
        self.by_number.write().remove(&number)
    }

    /// Takes out one that the hub has revoked, as [`discard`](Self::discard) does.
    pub(super) fn revoke(self: &Arc<Self>, number: u32) {
        self.discard(self.remove(number));
    }

    /// Drops callbacks where nobody waits for it. A destructor is anybody's code: it may panic, ask the hub for what the thread that listens is
    /// to read, or want a lock that is held here.
    pub(super) fn discard(self: &Arc<Self>, callbacks: impl IntoIterator<Item = Arc<LocalCallback>>) {
        // Those that somebody else has too are dropped there.
        let mut last: Vec<_> = callbacks.into_iter().filter_map(Arc::into_inner).collect();
        if last.is_empty() {
            return;
        }
        self.discarded.lock().append(&mut last);
        let all = self.clone();
        let drop_each = move || {
            // Not locked while they are dropped.
            let taken = std::mem::take(&mut *all.discarded.lock());
            for callback in taken {
                let _ = panic::catch(move || drop(callback));
            }
        };
        // Without a thread to be had they stay until there is one.
        let _ = thread::Builder::new().name("callgate-discard".into()).spawn(drop_each);
    }

    pub(super) fn get(&self, number: u32) -> Option<Arc<LocalCallback>> {
        self.by_number.read().get(&number).cloned()
    }

    /// Whether the callback takes calls.
    pub(super) fn has(&self, number: u32) -> bool {
        self.by_number.read().get(&number).is_some_and(|registered| !registered.is_spent())
    }

    /// All of them. Whoever drops this may be the last to have one: see [`discard`](Self::discard).
    pub(super) fn all(&self) -> Vec<Arc<LocalCallback>> {
        self.by_number.read().values().cloned().collect()
    }

    /// How often each was called.
    pub(super) fn counters(&self) -> Vec<Counters> {
        self.by_number.read().values().map(|registered| registered.counters()).collect()
    }
}

/// Who carries out the calls of one lane. `finished` hears of callbacks whose last call this is.
pub(super) struct CallbackHost<F> {
    pub(super) callbacks: Arc<Callbacks>,
    pub(super) finished: F,
    /// The callback that runs, until its answer is on its way: its destructor may panic, or end the manager, and with it the pair.
    pub(super) kept: Option<Arc<LocalCallback>>,
}

impl<F: FnMut(u32)> Host for CallbackHost<F> {
    fn carry_out(&mut self, kind: Kind, exchange: &mut Exchange<'_>) {
        let word = exchange.call & 0xffff_ffff;
        let number = (word & !DYNAMIC) as u32;
        if kind != Kind::Call {
            return exchange.refuse("a request of a kind that callbacks have not");
        }
        let Self { callbacks, finished, kept } = self;
        let Some(registered) = callbacks.get(number) else {
            return exchange.reply(Kind::Failed, &CallbackError::Gone);
        };
        let spent = || {
            callbacks.remove(number);
            finished(number);
        };
        // From before it runs, so that nothing of it is dropped by a panic's unwinding.
        kept.insert(registered).run(spent, |answer, begin| match word & DYNAMIC {
            0 => answer.answer(exchange, begin),
            _ => match exchange.request.take_bare::<Args>() {
                Err(_) => exchange.refuse_request(UNREADABLE),
                Ok(args) => reply(exchange, &answer.call_dynamic(args, begin).map(Bare)),
            },
        });
    }

    fn replied(&mut self) {
        let kept = self.kept.take();
        // Its destructor may panic.
        let _ = panic::catch(move || drop(kept));
    }
}
