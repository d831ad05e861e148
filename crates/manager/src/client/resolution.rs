//! The cache of callback locations, filled by asking the hub.
//!
//! Calls read it without a lock. The hub is trusted to name the right process; its messages are validated all the same.

#![forbid(unsafe_code)]

use super::{CallbackPlace, Client, ResolvedCallback, Targets, Unanswered};
use crate::protocol::{FromHub, Resolution, ToHub};
use crate::typed::Signature;
use arc_swap::Guard;
use callgate_engine::caller::Caller;
use callgate_engine::pair::PairEndpoint;
use callgate_engine::service::Method;
use callgate_transport::doorbell::Deadline;
use std::sync::{Arc, OnceLock};

/// The cache size. The cache is cleared when full, so that invented names cannot grow it.
const MOST_TARGETS: usize = 1024;

/// How often the hub is asked again after it has named a pair that has ended.
const ATTEMPTS: usize = 8;

impl Client {
    /// The cached locations. Entries that are forgotten meanwhile live as long as the returned guard.
    #[inline]
    pub(crate) fn known(&self) -> Guard<Arc<Targets>> {
        self.targets.load()
    }

    /// Asks the hub where the callback `name` is; `None` if nobody has registered it.
    pub(crate) fn resolve(
        &self,
        name: &str,
        method: fn(&str) -> &'static Method,
        deadline: Deadline,
    ) -> Result<Option<Arc<ResolvedCallback>>, Unanswered> {
        for _ in 0..ATTEMPTS {
            let answer = self.ask(|seq| ToHub::Resolve { seq, name: name.into() }, deadline)?;
            let Some(FromHub::Resolved { to, .. }) = answer.into_iter().next() else {
                return Err(Unanswered::Refused("the hub sent an answer to another question".into()));
            };
            if let Resolution::At { pair, .. } = to
                && !self.has(pair)
            {
                // The pair has ended, and the hub did not know.
                self.tell(&ToHub::Part { pair });
                continue;
            }
            return self.found(name, to, method);
        }
        Err(Unanswered::Refused("this process cannot connect to the one that has registered it".into()))
    }

    /// Whether this process is the caller in `pair`, and the pair has not ended.
    fn has(&self, pair: u64) -> bool {
        self.state.lock().callers.get(&pair).is_some_and(|(_, pair)| !pair.is_over())
    }

    /// Caches the hub's answer about the callback `name`.
    fn found(
        &self,
        name: &str,
        to: Resolution,
        method: fn(&str) -> &'static Method,
    ) -> Result<Option<Arc<ResolvedCallback>>, Unanswered> {
        let senseless = || Unanswered::Refused("the hub sent an invalid answer".into());
        let target = |number, place, signature| ResolvedCallback {
            number,
            place,
            signature,
            method: method(name),
            agreed: OnceLock::new(),
        };
        let target = match to {
            Resolution::None => return Ok(None),
            Resolution::Itself { number } => {
                let registered = self.callbacks.get(number);
                let signature = registered.map_or_else(Signature::any, |registered| registered.signature());
                target(number, CallbackPlace::Here, signature)
            }
            Resolution::At { pair, number, signature, .. } => {
                let caller = self.state.lock().callers.get(&pair).map(|(caller, _)| caller.clone());
                let (Some(caller), Some(signature)) = (caller, Signature::checked(signature)) else {
                    return Err(senseless());
                };
                target(number, CallbackPlace::There(caller), signature)
            }
        };
        let (name, target) = (Arc::<str>::from(name), Arc::new(target));
        self.targets.rcu(|targets| {
            let mut targets = if targets.len() < MOST_TARGETS { Targets::clone(targets) } else { Targets::default() };
            targets.insert(name.clone(), target.clone());
            targets
        });
        Ok(Some(target))
    }

    /// Removes `target` from the cache if `name` still leads to it, and every location whose pair has ended.
    pub(crate) fn forget(&self, name: &str, target: &Arc<ResolvedCallback>) {
        self.targets.rcu(|targets| {
            let mut targets = Targets::clone(targets);
            targets.retain(|known, at| !(at.is_over() || &**known == name && Arc::ptr_eq(at, target)));
            targets
        });
        self.part();
    }

    /// Drops pairs that have ended and tells the hub, which would otherwise name them again.
    pub(super) fn part(&self) {
        let is_over = |_: &u64, (_, pair): &mut (Arc<Caller>, Arc<PairEndpoint>)| pair.is_over();
        let over: Vec<_> = self.state.lock().callers.extract_if(is_over).collect();
        for (pair, _) in over {
            self.tell(&ToHub::Part { pair });
        }
    }
}
