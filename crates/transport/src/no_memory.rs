//! Memory for tests whose frames all fit a slot: there is none.

#![forbid(unsafe_code)]

use crate::arena::{Allocation, Source};
use crate::commit::BlockRef;
use crate::doorbell::Deadline;
use crate::error::NoMemory;
use crate::memory_pool::{AllocContext, BlockSize, MemoryPool, PoolHandle, TimeLimit};
use crate::segment::Block;

/// Memory for frames that fit any slot.
pub fn no_memory() -> &'static AllocContext<'static> {
    const { &AllocContext { pool: &NoPool, limit: TimeLimit::NONE, wait: None } }
}

struct NoPool;

impl PoolHandle for NoPool {
    fn with(&self, _: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source)) {
        unreachable!("the frame fits its slot");
    }

    fn find(&self, _: BlockSize, _: Deadline) -> Result<Allocation, NoMemory> {
        unreachable!("the frame fits its slot");
    }

    fn peer_block(&self, _: BlockRef) -> Option<Block> {
        None
    }

    fn trusts_peer(&self) -> bool {
        false
    }

    fn is_trusted_by_peer(&self) -> bool {
        false
    }

    fn is_in_fork(&self) -> bool {
        false
    }
}
