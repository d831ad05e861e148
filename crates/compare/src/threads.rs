//! Two threads of one process with a crossbeam channel in each direction: the cost of message passing without a process boundary.
//!
//! The channels are bounded to one message, as crossbeam's documentation suggests for handing over. Their receivers spin a little, then park.

#![forbid(unsafe_code)]

use crate::message::{Carrier, Messages, Order, OrderReply, answer, counter};
use crate::peer::PeerProcess;
use crate::transports::StartedTransport;
use callgate_suite::BoxError;
use callgate_suite::pin::{self, Pinned};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::thread::{self, JoinHandle};

pub const NAME: &str = "crossbeam threads";

/// The channel ends of the calling thread. Dropping them ends the other thread.
struct ThreadChannels {
    ends: Option<(Sender<Order>, Receiver<OrderReply>)>,
    thread: Option<JoinHandle<()>>,
}

pub fn start(cpu: Option<usize>) -> StartedTransport {
    let (request_sender, requests) = bounded(1);
    let (replies, reply_receiver) = bounded(1);
    let mut counter = counter()?;
    let serve = move || {
        if let Some(cpu) = cpu {
            // Without the pinning the answers are still right, only slower.
            let _ = pin::this_thread(&[cpu]);
        }
        while let Ok(request) = requests.recv() {
            if replies.send(answer(&mut counter, request)).is_err() {
                break;
            }
        }
    };
    let thread = Pinned::nowhere(|| thread::spawn(serve))?;
    Ok(Box::new(Messages(ThreadChannels { ends: Some((request_sender, reply_receiver)), thread: Some(thread) })))
}

impl Carrier for ThreadChannels {
    fn exchange(&mut self, request: Order) -> Result<OrderReply, BoxError> {
        let (requests, replies) = self.ends.as_ref().ok_or("the channel is closed")?;
        requests.send(request)?;
        Ok(replies.recv()?)
    }

    fn peer(&self) -> Option<&PeerProcess> {
        None
    }
}

impl Drop for ThreadChannels {
    fn drop(&mut self) {
        drop(self.ends.take());
        if let Some(thread) = self.thread.take() {
            // The thread does not panic. If it did, a call has already failed.
            let _ = thread.join();
        }
    }
}
