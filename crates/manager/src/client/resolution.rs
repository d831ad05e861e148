//! Where callbacks are: what the hub was asked for is remembered, until calls go there no more.
//!
//! A call reads what is remembered without a lock. The hub is trusted to name a process, and not to make sense.

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

/// So many are remembered. Of more, all are looked for anew: who keeps making up names is not to carry them all along.
const MOST_TARGETS: usize = 1024;

/// How often the hub is asked anew that has named a pair which is over.
const ATTEMPTS: usize = 8;

impl Client {
    /// Where callbacks are, as far as this process knows. What is forgotten meanwhile lives as long as what is returned.
    #[inline]
    pub(crate) fn known(&self) -> Guard<Arc<Targets>> {
        self.targets.load()
    }

    /// Where the callback `name` is; `None` if nobody has registered it.
    pub(crate) fn resolve(
        &self,
        name: &str,
        method: fn(&str) -> &'static Method,
        deadline: Deadline,
    ) -> Result<Option<Arc<ResolvedCallback>>, Unanswered> {
        for _ in 0..ATTEMPTS {
            let answer = self.ask(|seq| ToHub::Resolve { seq, name: name.into() }, deadline)?;
            let Some(FromHub::Resolved { to, .. }) = answer.into_iter().next() else {
                return Err(Unanswered::Refused("the hub answers what was not asked".into()));
            };
            if let Resolution::At { pair, .. } = to
                && !self.has(pair)
            {
                // It is over, and the hub did not know.
                self.tell(&ToHub::Part { pair });
                continue;
            }
            return self.found(name, to, method);
        }
        Err(Unanswered::Refused("this process cannot connect to the one that has registered it".into()))
    }

    /// Whether this side of a pair is there, and not over.
    fn has(&self, pair: u64) -> bool {
        self.state.lock().callers.get(&pair).is_some_and(|(_, pair)| !pair.is_over())
    }

    /// Notes where the hub says that the callback `name` is.
    fn found(
        &self,
        name: &str,
        to: Resolution,
        method: fn(&str) -> &'static Method,
    ) -> Result<Option<Arc<ResolvedCallback>>, Unanswered> {
        let senseless = || Unanswered::Refused("the hub answers what makes no sense".into());
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

    /// Forgets where `name` was found, if it was there, and all that is where no calls go any more.
    pub(crate) fn forget(&self, name: &str, target: &Arc<ResolvedCallback>) {
        self.targets.rcu(|targets| {
            let mut targets = Targets::clone(targets);
            targets.retain(|known, at| !(at.is_over() || &**known == name && Arc::ptr_eq(at, target)));
            targets
        });
        self.part();
    }

    /// Lets go of pairs that are over. The hub is told: asked for the same owner again, it would name a pair that it does not know to be over.
    pub(super) fn part(&self) {
        let is_over = |_: &u64, (_, pair): &mut (Arc<Caller>, Arc<PairEndpoint>)| pair.is_over();
        let over: Vec<_> = self.state.lock().callers.extract_if(is_over).collect();
        for (pair, _) in over {
            self.tell(&ToHub::Part { pair });
        }
    }
}
