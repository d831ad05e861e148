//! ipc-channel's `IpcSharedMemory`: large bytes in a memory object of their own, whose descriptor goes over the channel.
//!
//! Its README has it for what is too large to be copied through a socket. Each message takes a new object, whose pages the kernel
//! hands out one by one: there is no way to use one again for other bytes in safe code.

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

/// Its fields are in the order in which they have to go.
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
