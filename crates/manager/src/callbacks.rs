//! The callbacks that this process has registered, by number, and the host that runs incoming calls.

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

/// The bit of the call word that says: the request is a bare [`Args`] and the reply a bare `Value`. The other bits are the callback's number.
pub(super) const DYNAMIC: u64 = 1 << 31;

/// The exclusive upper bound of callback numbers.
pub(super) const MOST_NUMBERS: u32 = 1 << 31;

/// One call in this many is timed: reading the clock costs about 10% of a call.
const TIMED: u64 = 16;

/// A callback that can answer a request from shared memory.
pub(super) trait RequestHandler: ErasedCallback {
    /// Runs it on a request from a caller with the same signature, if `begin` permits.
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

/// A registered callback.
pub(super) struct LocalCallback {
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) answer: Box<dyn RequestHandler>,
    /// The number of calls that it still takes; `u64::MAX` = no limit.
    left: AtomicU64,
    pub(super) expires: Option<Instant>,
    calls: AtomicU64,
    /// The duration of the timed calls, and their number.
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

    /// Takes one of the remaining calls. `Some(true)` = it is the last; `None` = none is left.
    fn take_call(&self) -> Option<bool> {
        if self.expires.is_some_and(|expires| expires <= Instant::now()) {
            return None;
        }
        if self.left.load(Relaxed) == u64::MAX {
            return Some(false);
        }
        // Relaxed: a count that no other data depends on.
        let before = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok()?;
        Some(before == 1)
    }

    /// Runs `run` as a call of this callback, counted from when it begins. Calls `spent` before the last permitted call runs, so that a caller
    /// that has the reply never finds the callback still registered, even after a panic.
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

    /// How often it was called, and how long that took, extrapolated from the timed calls.
    pub(super) fn counters(&self) -> Counters {
        let (calls, timed) = (self.calls.load(Relaxed), self.timed.load(Relaxed).max(1));
        let nanoseconds = u128::from(self.nanoseconds.load(Relaxed)) * u128::from(calls) / u128::from(timed);
        Counters { number: self.number, calls, nanoseconds: nanoseconds as u64 }
    }

    /// The message that registers it.
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
    /// Callbacks that wait for a separate thread to drop them.
    discarded: Mutex<Vec<LocalCallback>>,
}

impl Callbacks {
    pub(super) fn insert(&self, registered: Arc<LocalCallback>) {
        self.by_number.write().insert(registered.number, registered);
    }

    pub(super) fn remove(&self, number: u32) -> Option<Arc<LocalCallback>> {
        self.by_number.write().remove(&number)
    }

    /// Removes a callback that the hub has revoked, and [`discard`](Self::discard)s it.
    pub(super) fn revoke(self: &Arc<Self>, number: u32) {
        self.discard(self.remove(number));
    }

    /// Drops callbacks on a separate thread. A destructor is user code: it may panic, ask the hub and so wait for the listening thread, or want a
    /// lock that is held here.
    pub(super) fn discard(self: &Arc<Self>, callbacks: impl IntoIterator<Item = Arc<LocalCallback>>) {
        // Callbacks that are also held elsewhere are dropped there.
        let mut last: Vec<_> = callbacks.into_iter().filter_map(Arc::into_inner).collect();
        if last.is_empty() {
            return;
        }
        self.discarded.lock().append(&mut last);
        let all = self.clone();
        let drop_each = move || {
            // Not locked while the destructors run.
            let taken = std::mem::take(&mut *all.discarded.lock());
            for callback in taken {
                let _ = panic::catch(move || drop(callback));
            }
        };
        // If no thread can be started they stay in the list until the next `discard`.
        let _ = thread::Builder::new().name("callgate-discard".into()).spawn(drop_each);
    }

    pub(super) fn get(&self, number: u32) -> Option<Arc<LocalCallback>> {
        self.by_number.read().get(&number).cloned()
    }

    /// Whether the callback takes calls.
    pub(super) fn has(&self, number: u32) -> bool {
        self.by_number.read().get(&number).is_some_and(|registered| !registered.is_spent())
    }

    /// All of them. Pass the result to [`discard`](Self::discard): it may hold the last reference to a callback.
    pub(super) fn all(&self) -> Vec<Arc<LocalCallback>> {
        self.by_number.read().values().cloned().collect()
    }

    /// How often each was called.
    pub(super) fn counters(&self) -> Vec<Counters> {
        self.by_number.read().values().map(|registered| registered.counters()).collect()
    }
}

/// Runs the calls of one lane. `finished` is called for a callback whose last permitted call begins.
pub(super) struct CallbackHost<F> {
    pub(super) callbacks: Arc<Callbacks>,
    pub(super) finished: F,
    /// The running callback, until its reply is published: its destructor may panic, or end the manager and with it the pair.
    pub(super) kept: Option<Arc<LocalCallback>>,
}

impl<F: FnMut(u32)> Host for CallbackHost<F> {
    fn call(&mut self, exchange: &mut Exchange<'_>) {
        let word = exchange.call & 0xffff_ffff;
        let number = (word & !DYNAMIC) as u32;
        let Self { callbacks, finished, kept } = self;
        let Some(registered) = callbacks.get(number) else {
            return exchange.reply(Kind::Failed, &CallbackError::Gone);
        };
        let spent = || {
            callbacks.remove(number);
            finished(number);
        };
        // Stored before it runs, so that a panic's unwinding drops nothing of it.
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
