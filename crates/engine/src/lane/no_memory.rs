//! Memory for the tests of lanes, whose frames all fit a slot: there is none.

#![forbid(unsafe_code)]

use callgate_transport::arena::{Allocation, Source};
use callgate_transport::commit::BlockRef;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::NoMemory;
use callgate_transport::memory_pool::{AllocContext, BlockSize, MemoryPool, PoolHandle, TimeLimit};
use callgate_transport::segment::Block;

/// Memory for frames that fit any slot.
pub fn no_memory() -> &'static AllocContext<'static> {
    const { &AllocContext { pool: &NoPool, limit: TimeLimit::NONE, wait: None } }
}

struct NoPool;

impl PoolHandle for NoPool {
    fn with(&self, _: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source)) {
        unreachable!("an empty frame needs no memory");
    }

    fn find(&self, _: BlockSize, _: Deadline) -> Result<Allocation, NoMemory> {
        unreachable!("an empty frame fits any slot");
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
