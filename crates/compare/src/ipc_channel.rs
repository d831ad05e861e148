//! ipc-channel: a typed channel each way, in Unix sockets with a system call per message.
//!
//! Set up as its README says under "Bootstrapping channels between processes": a one-shot server, whose name the peer gets, and
//! over which it sends the ends of the channels.

#![forbid(unsafe_code)]

use crate::message::{Carrier, Messages, Order, OrderReply, answer, counter};
use crate::peer::PeerProcess;
use crate::transports::StartedTransport;
use callgate_suite::BoxError;
use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender};
use serde::{Serialize, de::DeserializeOwned};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

pub const NAME: &str = "ipc-channel";

/// How long the peer may take to connect.
const PATIENCE: Duration = Duration::from_secs(20);

type IpcEnds = (IpcSender<Order>, IpcReceiver<OrderReply>);

/// Its fields are in the order in which they have to go.
struct IpcChannels {
    requests: IpcSender<Order>,
    replies: IpcReceiver<OrderReply>,
    peer: PeerProcess,
}

pub fn start(cpu: Option<usize>) -> StartedTransport {
    let (server, address) = IpcOneShotServer::<IpcEnds>::new()?;
    let peer = PeerProcess::start(NAME, &address, cpu, Stdio::piped(), Stdio::null())?;
    let (requests, replies) = accept(server)?;
    Ok(Box::new(Messages(IpcChannels { requests, replies, peer })))
}

/// Waits for the peer's channels. `accept` knows no deadline and does not see a peer die, so a thread of its own waits in it.
pub fn accept<E>(server: IpcOneShotServer<E>) -> Result<E, BoxError>
where
    E: Send + Serialize + DeserializeOwned + 'static,
{
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        // Fails if nobody waits any more.
        let _ = tell.send(server.accept().map(|(_, ends)| ends));
    });
    let accepted = told.recv_timeout(PATIENCE).map_err(|_| "the peer has not connected")?;
    Ok(accepted.map_err(|error| error.to_string())?)
}

pub fn serve(address: &str) -> Result<(), BoxError> {
    let (request_sender, requests) = ipc::channel()?;
    let (replies, reply_receiver) = ipc::channel()?;
    let parent = IpcSender::<IpcEnds>::connect(address.to_owned())?;
    parent.send((request_sender, reply_receiver))?;
    let mut counter = counter()?;
    // Fails when the parent has dropped its sender.
    while let Ok(request) = requests.recv() {
        replies.send(answer(&mut counter, request))?;
    }
    Ok(())
}

impl Carrier for IpcChannels {
    fn exchange(&mut self, request: Order) -> Result<OrderReply, BoxError> {
        self.requests.send(request)?;
        Ok(self.replies.recv()?)
    }

    fn peer(&self) -> Option<&PeerProcess> {
        Some(&self.peer)
    }
}
