//! Memory objects on the heap: for tests in which one process plays both sides and maps each object at one address.
//!
//! With a mapping for each side, no tool sees that two accesses are to the same bytes, nor where an object ends. With the heap, all tools
//! do.

#![forbid(unsafe_code)]

use super::Backing;
use callgate_os::mapping::{HeapMemory, Mapping, Protection};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// All objects of one bridge, by number.
#[derive(Default)]
pub struct Heap(Mutex<HashMap<u64, HeapMemory>>);

impl Heap {
    /// Object `number`, as the peer maps it.
    pub fn find(&self, number: u64, access: Protection) -> Option<Mapping> {
        let objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        objects.get(&number).map(|memory| Mapping::on_heap(memory, access))
    }
}

impl Backing for Heap {
    fn create(&self, number: u64, len: usize, _: Protection) -> io::Result<(Mapping, Option<OwnedFd>)> {
        let memory = HeapMemory::new(len);
        let mapping = Mapping::on_heap(&memory, Protection::ReadWrite);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, memory);
        Ok((mapping, None))
    }

    fn attach(&self, number: u64, _: &mut dyn Iterator<Item = OwnedFd>, access: Protection) -> io::Result<Mapping> {
        self.find(number, access).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
