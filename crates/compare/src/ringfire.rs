//! ringfire: a ring of fixed records in shared memory each way. Both sides poll, which its documentation calls the fastest way to wait.
//!
//! Its rings lose records unless they are told not to. A stream's ring is told so; with calls, fewer are in flight than fit in a ring. A stream is
//! received in batches, as its documentation recommends.

#![forbid(unsafe_code)]

use crate::files::PeerFiles;
use crate::flows::{FlowKind, InOrder, Ordered, StartedFlow};
use crate::message::counter;
use crate::peer::{self, PeerProcess};
use callgate_suite::BoxError;
use ringfire::{FlowControl, RingConsumer, RingProducer, RingProducerBuilder};
use std::hint;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

pub const NAME: &str = "ringfire";

/// The records that a ring has room for.
const RING: u64 = 1024;

/// The most records that are received together.
const BATCH: usize = 32;

/// The caller's side. The order of the fields is the order in which they must be dropped.
struct Rings {
    /// What to add, or how many numbers to send.
    requests: RingProducer<u64>,
    replies: RingConsumer<u64>,
    peer: PeerProcess,
    _place: PeerFiles,
}

pub fn start(cpu: Option<usize>, kind: FlowKind) -> StartedFlow {
    let place = PeerFiles::create()?;
    let requests = RingProducer::create(place.shared("requests"), RING)?;
    let word = if kind == FlowKind::Stream { "stream" } else { "add" };
    let address = format!("{word} {}", place.address()?);
    let mut peer = PeerProcess::start(NAME, &address, cpu, Stdio::piped(), Stdio::piped())?;
    peer.await_ready()?;
    let replies = RingConsumer::attach(place.shared("replies"))?;
    Ok(Ordered::boxed(Rings { requests, replies, peer, _place: place }))
}

pub fn serve(address: &str) -> Result<(), BoxError> {
    let (word, address) = address.split_once(' ').ok_or("an address without a kind")?;
    // Dropped last, so that it removes the remaining files when nothing uses them any more.
    let place = PeerFiles::at(address)?;
    let requests = RingConsumer::attach(place.shared("requests"))?;
    let streams = word == "stream";
    let builder = RingProducerBuilder::new(RING);
    let builder = if streams { builder.flow_control(FlowControl::LosslessBackpressure) } else { builder };
    let replies = builder.build(place.shared("replies"))?;
    let ended = peer::end_of_stdin();
    peer::ready()?;
    if streams { serve_streams(&ended, requests, replies) } else { serve_calls(&ended, requests, replies) }
}

fn serve_calls(
    ended: &AtomicBool,
    mut requests: RingConsumer<u64>,
    mut replies: RingProducer<u64>,
) -> Result<(), BoxError> {
    let mut counter = counter()?;
    while !ended.load(Ordering::Relaxed) {
        match requests.try_recv() {
            Some(n) => replies.push(&counter.add(n)),
            None => hint::spin_loop(),
        }
    }
    Ok(())
}

fn serve_streams(
    ended: &AtomicBool,
    mut requests: RingConsumer<u64>,
    mut replies: RingProducer<u64>,
) -> Result<(), BoxError> {
    while !ended.load(Ordering::Relaxed) {
        for number in 0..requests.try_recv().unwrap_or(0) {
            // Fails while the ring is full.
            while replies.try_push(&number).is_err() {
                if ended.load(Ordering::Relaxed) {
                    return Ok(());
                }
                hint::spin_loop();
            }
        }
        hint::spin_loop();
    }
    Ok(())
}

impl InOrder for Rings {
    fn send(&mut self) -> Result<(), BoxError> {
        self.requests.push(&1);
        Ok(())
    }

    fn receive(&mut self) -> Result<u64, BoxError> {
        self.peer.poll(|| Ok(self.replies.try_recv()))
    }

    fn stream(&mut self, count: u32, mut take: impl FnMut(u64) -> Result<(), BoxError>) -> Result<(), BoxError> {
        self.requests.push(&count.into());
        let (mut left, mut batch) = (count as usize, [0; BATCH]);
        while left > 0 {
            let received = self.peer.poll(|| match self.replies.recv_batch(&mut batch) {
                0 => Ok(None),
                received => Ok(Some(received)),
            })?;
            batch[..received].iter().try_for_each(|&number| take(number))?;
            left = left.saturating_sub(received);
        }
        Ok(())
    }

    fn process(&self) -> &PeerProcess {
        &self.peer
    }
}
