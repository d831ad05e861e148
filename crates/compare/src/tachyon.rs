//! tachyon-ipc: calls through its `RpcBus`, a stream through two of its buses. Both sides poll, which it calls pure spin.
//!
//! A stream is sent and received in batches, as its documentation recommends. Its waits do not notice that the other process has died. So the peer
//! exits when its stdin ends, and this process when the peer does.

#![forbid(unsafe_code)]

use crate::files::PeerFiles;
use crate::flows::{DEPTH, FlowKind, InOrder, Ordered, StartedFlow};
use crate::message::counter;
use crate::peer::{self, PeerProcess, PeerWatch};
use callgate_suite::BoxError;
use std::collections::VecDeque;
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{hint, thread};
use tachyon_ipc::{Bus, RpcBus, TachyonError};

pub const NAME: &str = "tachyon-ipc";

/// Bytes of each ring; a power of two.
const RING: usize = 1 << 16;

/// The most messages that are sent or received together.
const BATCH: usize = 32;

/// Polls for so long before it would sleep.
const POLLS: u32 = u32::MAX;

/// The types of messages, which mean nothing here.
const KIND: u32 = 1;

/// How long the other side may take to listen.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The caller's side. The order of the fields is the order in which they must be dropped.
struct TachyonCalls {
    calls: TachyonEnd,
    /// The identities of the calls that are not answered.
    pending: VecDeque<u64>,
    _watch: PeerWatch,
    peer: PeerProcess,
    _place: PeerFiles,
}

enum TachyonEnd {
    Calls(RpcBus),
    Stream { orders: Bus, numbers: Bus },
}

pub fn start(cpu: Option<usize>, kind: FlowKind) -> StartedFlow {
    let place = PeerFiles::create()?;
    let word = if kind == FlowKind::Stream { "stream" } else { "add" };
    let address = format!("{word} {}", place.address()?);
    let mut peer = PeerProcess::start(NAME, &address, cpu, Stdio::piped(), Stdio::null())?;
    let calls = TachyonEnd::connect(kind, &place, &mut peer)?;
    let watch = peer.exit_with_it(&place)?;
    let pending = VecDeque::with_capacity(DEPTH as usize);
    Ok(Ordered::boxed(TachyonCalls { calls, pending, _watch: watch, peer, _place: place }))
}

pub fn serve(address: &str) -> Result<(), BoxError> {
    let (word, address) = address.split_once(' ').ok_or("an address without a kind")?;
    let place = PeerFiles::at(address)?;
    let paths = ["calls", "orders", "numbers"].map(|name| path(&place, name));
    let [calls, orders, numbers] = paths;
    peer::exit_with_stdin(place);
    if word == "stream" { serve_streams(&orders?, &numbers?) } else { serve_calls(&calls?) }
}

fn path(place: &PeerFiles, name: &str) -> Result<String, BoxError> {
    Ok(format!("{}/{name}", place.root()?))
}

fn serve_calls(path: &str) -> Result<(), BoxError> {
    let mut counter = counter()?;
    let bus = RpcBus::listen(path, RING, RING)?;
    bus.set_polling_mode(true);
    loop {
        let request = bus.serve(POLLS)?;
        let (id, n) = (request.correlation_id, number(request.data())?);
        request.commit()?;
        let total = counter.add(n).to_ne_bytes();
        // Never full: fewer calls are in flight than fit.
        bus.reply(id, &total, KIND)?;
    }
}

fn serve_streams(orders: &str, numbers: &str) -> Result<(), BoxError> {
    let orders = Bus::listen(orders, RING)?;
    let numbers = Bus::listen(numbers, RING)?;
    orders.set_polling_mode(1);
    numbers.set_polling_mode(1);
    loop {
        let order = orders.acquire_rx(POLLS)?;
        let count = number(order.data())?;
        order.commit()?;
        for n in 0..count {
            send(&numbers, n)?;
            if (n + 1).is_multiple_of(BATCH as u64) || n + 1 == count {
                numbers.flush();
            }
        }
    }
}

/// Sends a number with the next flush. Waits while the ring is full.
fn send(bus: &Bus, n: u64) -> Result<(), BoxError> {
    let slot = loop {
        match bus.acquire_tx(size_of::<u64>()) {
            Ok(slot) => break slot,
            Err(TachyonError::BufferFull) => {
                // What is not flushed cannot be taken.
                bus.flush();
                hint::spin_loop();
            }
            Err(error) => return Err(error.into()),
        }
    };
    slot.write(&n.to_ne_bytes());
    Ok(slot.commit_unflushed(size_of::<u64>(), KIND)?)
}

fn number(bytes: &[u8]) -> Result<u64, BoxError> {
    Ok(u64::from_ne_bytes(bytes.try_into()?))
}

impl TachyonEnd {
    fn connect(kind: FlowKind, place: &PeerFiles, peer: &mut PeerProcess) -> Result<Self, BoxError> {
        let path = |name| path(place, name);
        if kind != FlowKind::Stream {
            let bus = until_it_listens(peer, &path("calls")?, RpcBus::connect)?;
            bus.set_polling_mode(true);
            return Ok(Self::Calls(bus));
        }
        let orders = until_it_listens(peer, &path("orders")?, Bus::connect)?;
        let numbers = until_it_listens(peer, &path("numbers")?, Bus::connect)?;
        orders.set_polling_mode(1);
        numbers.set_polling_mode(1);
        Ok(Self::Stream { orders, numbers })
    }
}

/// Connects as soon as the other side listens.
fn until_it_listens<B>(
    peer: &mut PeerProcess,
    path: &str,
    connect: fn(&str) -> Result<B, TachyonError>,
) -> Result<B, BoxError> {
    let begin = Instant::now();
    loop {
        match connect(path) {
            Ok(bus) => return Ok(bus),
            Err(error) if begin.elapsed() > TIMEOUT => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
        peer.check()?;
    }
}

impl InOrder for TachyonCalls {
    fn send(&mut self) -> Result<(), BoxError> {
        let TachyonEnd::Calls(bus) = &self.calls else { return Err("it streams".into()) };
        self.pending.push_back(bus.call(&1u64.to_ne_bytes(), KIND)?);
        Ok(())
    }

    fn receive(&mut self) -> Result<u64, BoxError> {
        let TachyonEnd::Calls(bus) = &self.calls else { return Err("it streams".into()) };
        let id = self.pending.pop_front().ok_or("no call is pending")?;
        let reply = bus.wait(id, POLLS)?;
        let total = number(reply.data())?;
        reply.commit()?;
        Ok(total)
    }

    fn stream(&mut self, count: u32, mut take: impl FnMut(u64) -> Result<(), BoxError>) -> Result<(), BoxError> {
        let TachyonEnd::Stream { orders, numbers } = &self.calls else { return Err("it does not stream".into()) };
        orders.send(&u64::from(count).to_ne_bytes(), KIND)?;
        let mut left = count as usize;
        while left > 0 {
            let batch = numbers.drain_batch(BATCH, POLLS)?;
            batch.iter().try_for_each(|message| take(number(message.data())?))?;
            left = left.saturating_sub(batch.len());
            batch.commit()?;
        }
        Ok(())
    }

    fn process(&self) -> &PeerProcess {
        &self.peer
    }
}
