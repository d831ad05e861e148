//! ipc-channel's `IpcSharedMemory`: each payload lies in its own memory object, whose descriptor goes over the channel.
//!
//! Its README recommends this for payloads that are too large to copy through a socket. Each message takes a new object, whose pages the kernel
//! provides one by one: safe code cannot reuse an object for other bytes.

#![forbid(unsafe_code)]

use crate::carriers::StartedCarrier;
use crate::ipc_channel::accept;
use crate::peer::PeerProcess;
use callgate_suite::large::{Carry, Load, Summed};
use callgate_suite::{BoxError, bytes};
use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender, IpcSharedMemory};
use std::process::Stdio;

pub const NAME: &str = "ipc-channel memory";

type MemoryEnds = (IpcSender<IpcSharedMemory>, IpcReceiver<u64>);

/// The caller's side. The order of the fields is the order in which they must be dropped.
struct MemoryChannels {
    requests: IpcSender<IpcSharedMemory>,
    replies: IpcReceiver<u64>,
    peer: PeerProcess,
    bytes: Summed,
}

pub fn start(cpu: Option<usize>, load: Load, len: usize) -> StartedCarrier {
    if load != Load::OneWay {
        return Err("its memory goes one way".into());
    }
    let (server, address) = IpcOneShotServer::<MemoryEnds>::new()?;
    let peer = PeerProcess::start(NAME, &address, cpu, Stdio::piped(), Stdio::null())?;
    let (requests, replies) = accept(server)?;
    Ok(Box::new(MemoryChannels { requests, replies, peer, bytes: Summed::new(len) }))
}

pub fn serve(address: &str) -> Result<(), BoxError> {
    let (request_sender, requests) = ipc::channel()?;
    let (replies, reply_receiver) = ipc::channel()?;
    let parent = IpcSender::<MemoryEnds>::connect(address.to_owned())?;
    parent.send((request_sender, reply_receiver))?;
    // Fails when the parent has dropped its sender.
    while let Ok(memory) = requests.recv() {
        let memory: IpcSharedMemory = memory;
        replies.send(bytes::sum(&memory))?;
    }
    Ok(())
}

impl Carry for MemoryChannels {
    fn carry(&mut self) -> Result<(), BoxError> {
        self.bytes.by(|bytes| {
            self.requests.send(IpcSharedMemory::from_bytes(bytes))?;
            Ok(self.replies.recv()?)
        })
    }

    fn peer(&self) -> u32 {
        self.peer.pid()
    }
}
