//! This side's memory for large payloads, which the hub supplies, and the other side's, where it can be read.
//!
//! What the other side says of memory is checked. Waiting for the hub keeps this side's memory from other calls only for a moment at a time.

#![forbid(unsafe_code)]

use super::{AskHub, OwnMemory, PairEndpoint, PairRole, failed};
use crate::control::Message;
use crate::lane::is_past;
use crate::link::unmap;
use callgate_os::mapping::Mapping;
use callgate_os::sync::Ordering::Acquire;
use callgate_transport::arena::{Allocation, Source};
use callgate_transport::commit::BlockRef;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::NoMemory;
use callgate_transport::layout::CallerLine;
use callgate_transport::memory_pool::{BlockSize, MemoryPool, PoolHandle};
use callgate_transport::segment::{Block, Placed};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the hub may take to answer a request for memory.
const HUB_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one wait for the hub keeps this side's memory from other calls.
const HUB_SLICE: Duration = Duration::from_millis(20);

/// How long a call that waits for memory waits before it checks again whether any has been given back.
const MEMORY_SLICE: Duration = Duration::from_millis(1);

impl PairEndpoint {
    /// Gives back segments that the hub gave to calls which no longer waited for them. Call with the arena locked: then nobody waits.
    pub(super) fn give_back_spare(&self, source: &mut AskHub<'_>) {
        let mut inbox = self.inbox.lock();
        if inbox.asked.is_some() {
            match inbox.answer.take() {
                Some(answer) => {
                    inbox.asked = None;
                    inbox.spare.extend(answer);
                }
                None => self.reclaim.again(),
            }
        }
        let spare = std::mem::take(&mut inbox.spare);
        drop(inbox);
        spare.iter().for_each(|&(segment, _)| source.shrink(segment));
        unmap(spare.into_iter().map(|(_, mapping)| mapping).collect());
    }

    /// Takes back what callers are done with, and runs `run` on this side's memory.
    fn on_own<R>(&self, run: impl FnOnce(&mut MemoryPool, &mut dyn Source) -> R) -> R {
        let mut own = self.own.lock();
        let mut source = AskHub(self);
        own.collect(&self.callers, &mut source);
        run(&mut own.pool, &mut source)
    }
}

impl OwnMemory {
    /// Takes back what callers are done with.
    pub(super) fn collect(&mut self, callers: &[Placed<CallerLine>], source: &mut dyn Source) {
        let is_dealt_with = |lane: u32, position: u64| {
            // Acquire: pairs with the Release in `CallerLane::release`.
            is_past(callers[lane as usize].released.load(Acquire), position)
        };
        let Self { pool, published } = self;
        for (_, _, carried) in published.extract_if(.., |(lane, position, _)| is_dealt_with(*lane, *position)) {
            pool.arrived(carried, source);
        }
    }
}

impl PoolHandle for PairEndpoint {
    #[cold]
    fn with(&self, run: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source)) {
        let is_untidy = self.on_own(|pool, source| {
            run(pool, source);
            pool.is_untidy()
        });
        if is_untidy {
            self.reclaim.used();
        }
    }

    #[cold]
    fn find(&self, size: BlockSize, deadline: Deadline) -> Result<Allocation, NoMemory> {
        loop {
            let found = self.on_own(|pool, source| pool.allocate(size, source));
            let may_wait = deadline.left().is_some_and(|left| !left.is_zero());
            let waits = match &found {
                Err(NoMemory::Exhausted { .. }) => may_wait,
                // A reply is written only once, so it waits as long as the hub may take.
                Err(NoMemory::Late { .. }) => may_wait || self.role == PairRole::Owner,
                _ => false,
            };
            if !waits || self.is_over() {
                if matches!(found, Err(NoMemory::Late { .. })) {
                    // Nobody uses what the hub gives after this.
                    self.reclaim.used();
                }
                return found;
            }
            thread::sleep(MEMORY_SLICE);
        }
    }

    fn peer_block(&self, block: BlockRef) -> Option<Block> {
        if block.len > self.peer.max_payload {
            return None;
        }
        Block::new(&self.segment(block.segment)?, block.offset, block.len)
    }

    fn trusts_peer(&self) -> bool {
        false
    }

    fn is_trusted_by_peer(&self) -> bool {
        false
    }

    fn is_in_fork(&self) -> bool {
        self.peer.is_in_fork()
    }
}

impl Source for AskHub<'_> {
    fn grow(&mut self, len: u64) -> Result<(u64, Arc<Mapping>), NoMemory> {
        let pair = self.0;
        let until = Instant::now() + HUB_SLICE;
        let mut inbox = pair.inbox.lock();
        loop {
            if let Some(at) = inbox.spare.iter().position(|(_, mapping)| mapping.len() as u64 == len) {
                return Ok(inbox.spare.swap_remove(at));
            }
            let Some((asked, since)) = inbox.asked else {
                let sent = pair.control.send(Message::Need { len }, None);
                sent.map_err(|error| failed(format!("asking the hub for memory failed: {error}")))?;
                inbox.asked = Some((len, Instant::now()));
                continue;
            };
            if let Some(answer) = inbox.answer.take() {
                inbox.asked = None;
                match answer {
                    Ok((_, mapping)) if (mapping.len() as u64) < asked => {
                        return Err(failed(format!("the hub gave {} bytes instead of {asked}", mapping.len())));
                    }
                    answer if asked == len => return answer,
                    // The answer to another call's request, which will ask again.
                    answer => inbox.spare.extend(answer),
                }
                pair.reclaim.used();
                continue;
            }
            if pair.is_over() {
                return Err(failed("the two processes are no longer connected".into()));
            }
            if pair.changed.wait_until(&mut inbox, until).timed_out() && inbox.answer.is_none() {
                if since.elapsed() < HUB_TIMEOUT {
                    return Err(NoMemory::Late { len });
                }
                drop(inbox);
                pair.over(None);
                return Err(failed(format!("the hub gave no memory within {HUB_TIMEOUT:?}")));
            }
        }
    }

    fn shrink(&mut self, segment: u64) {
        // A hub that does not read this keeps the memory until the pair is over.
        let _ = self.0.control.send(Message::Detach { segment }, None);
    }
}
