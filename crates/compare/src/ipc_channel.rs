//! ipc-channel: a typed channel in each direction, over Unix sockets, with a system call for each message.
//!
//! Set up as in its README under "Bootstrapping channels between processes": the peer gets the name of a one-shot server, and sends the ends of
//! the channels over it.

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
const TIMEOUT: Duration = Duration::from_secs(20);

type IpcEnds = (IpcSender<Order>, IpcReceiver<OrderReply>);

/// The caller's side. The order of the fields is the order in which they must be dropped.
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

/// Waits for the peer's channels. `accept` has no deadline and does not notice a peer's death, so a separate thread waits in it.
pub fn accept<E>(server: IpcOneShotServer<E>) -> Result<E, BoxError>
where
    E: Send + Serialize + DeserializeOwned + 'static,
{
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        // Fails if the receiver has given up.
        let _ = tell.send(server.accept().map(|(_, ends)| ends));
    });
    let accepted = told.recv_timeout(TIMEOUT).map_err(|_| "the peer has not connected")?;
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
