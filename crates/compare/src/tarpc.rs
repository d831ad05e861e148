//! tarpc over a Unix socket: a service as in its documentation, on tokio's current-thread runtime on both sides.
//!
//! That runtime has the lowest latency for one call at a time, because it need not wake another thread. Requests run one after another where
//! they arrive (`for_each` without `spawn`), which saves a task for each call. The codec is postcard behind tokio-serde's traits, because
//! the bincode that tarpc offers is no longer maintained.

#![forbid(unsafe_code)]

use crate::flows::{DEPTH, Flow, FlowKind, StartedFlow, totals};
use crate::message::counter;
use crate::peer::PeerProcess;
use crate::transports::StartedTransport;
use bytes::{Bytes, BytesMut};
use callgate_suite::bridge::CountService;
use callgate_suite::transport::Record;
use callgate_suite::workload::check;
use callgate_suite::{BoxError, Transport};
use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tarpc::context::{self, Context};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::{Deserializer, Serializer};
use tarpc::tokio_util::codec::LengthDelimitedCodec;
use tarpc::{client, serde_transport};
use tokio::runtime::{Builder, Runtime};

pub const NAME: &str = "tarpc";

/// The service's methods. Byte strings are encoded as such.
#[tarpc::service]
trait TarpcCount {
    async fn add(n: u64) -> u64;
    async fn greet(name: String) -> String;
    async fn sum(numbers: Vec<u64>) -> u64;
    async fn record(record: Record) -> Record;
    async fn echo(bytes: serde_bytes::ByteBuf) -> serde_bytes::ByteBuf;
    async fn work(nanos: u64);
}

/// The caller's side. The order of the fields is the order in which they must be dropped.
struct Rpc {
    proxy: TarpcCountClient,
    runtime: Runtime,
    peer: PeerProcess,
    /// What the calls in flight have added.
    total: u64,
}

pub fn start(cpu: Option<usize>) -> StartedTransport {
    Ok(Box::new(connect(cpu)?))
}

pub fn start_flow(cpu: Option<usize>, _kind: FlowKind) -> StartedFlow {
    Ok(Box::new(connect(cpu)?))
}

fn connect(cpu: Option<usize>) -> Result<Rpc, BoxError> {
    let (here, there) = UnixStream::pair()?;
    let peer = PeerProcess::start(NAME, "", cpu, OwnedFd::from(there).into(), Stdio::null())?;
    let runtime = runtime()?;
    let proxy = runtime.block_on(async {
        let transport = serde_transport::new(LengthDelimitedCodec::builder().new_framed(stream(here)?), Postcard);
        io::Result::Ok(TarpcCountClient::new(client::Config::default(), transport).spawn())
    })?;
    Ok(Rpc { proxy, runtime, peer, total: 0 })
}

pub fn serve(_address: &str) -> Result<(), BoxError> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let counter = SharedCounter(Arc::new(Mutex::new(counter()?)));
    runtime()?.block_on(async {
        let transport = serde_transport::new(LengthDelimitedCodec::builder().new_framed(stream(socket)?), Postcard);
        let requests = BaseChannel::with_defaults(transport).execute(counter.serve());
        requests.for_each(|answered| answered).await;
        Ok(())
    })
}

/// A runtime for one thread.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

/// Gives the socket to the current runtime.
pub fn stream(socket: UnixStream) -> io::Result<tokio::net::UnixStream> {
    socket.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(socket)
}

/// tarpc requires services that can be cloned and called concurrently, so the counter is behind a lock. Here it is never contended.
#[derive(Clone)]
struct SharedCounter(Arc<Mutex<CountService>>);

impl SharedCounter {
    fn with<R>(&self, call: impl FnOnce(&mut CountService) -> R) -> R {
        call(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TarpcCount for SharedCounter {
    async fn add(self, _: Context, n: u64) -> u64 {
        self.with(|counter| counter.add(n))
    }

    async fn greet(self, _: Context, name: String) -> String {
        self.with(|counter| counter.greet(&name))
    }

    async fn sum(self, _: Context, numbers: Vec<u64>) -> u64 {
        self.with(|counter| counter.sum(&numbers))
    }

    async fn record(self, _: Context, record: Record) -> Record {
        self.with(|counter| counter.record(&record))
    }

    async fn echo(self, _: Context, bytes: serde_bytes::ByteBuf) -> serde_bytes::ByteBuf {
        self.with(|counter| counter.echo(&bytes)).into()
    }

    async fn work(self, _: Context, nanos: u64) {
        self.with(|counter| counter.work(nanos));
    }
}

impl Transport for Rpc {
    fn add(&mut self, n: u64) -> Result<u64, BoxError> {
        Ok(self.runtime.block_on(self.proxy.add(context::current(), n))?)
    }

    fn greet(&mut self, name: &str) -> Result<String, BoxError> {
        Ok(self.runtime.block_on(self.proxy.greet(context::current(), name.to_owned()))?)
    }

    fn sum(&mut self, numbers: &[u64]) -> Result<u64, BoxError> {
        Ok(self.runtime.block_on(self.proxy.sum(context::current(), numbers.to_vec()))?)
    }

    fn record(&mut self, record: &Record) -> Result<Record, BoxError> {
        Ok(self.runtime.block_on(self.proxy.record(context::current(), record.clone()))?)
    }

    fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        let bytes = serde_bytes::ByteBuf::from(bytes);
        Ok(self.runtime.block_on(self.proxy.echo(context::current(), bytes))?.into_vec())
    }

    fn work(&mut self, busy: Duration) -> Result<(), BoxError> {
        Ok(self.runtime.block_on(self.proxy.work(context::current(), busy.as_nanos() as u64))?)
    }

    fn peer(&self) -> Option<u32> {
        Some(self.peer.pid())
    }
}

impl Flow for Rpc {
    fn carry(&mut self, _kind: FlowKind, count: u32) -> Result<(), BoxError> {
        let proxy = &self.proxy;
        let calls = futures_util::stream::iter(0..count).map(|_| proxy.add(context::current(), 1));
        let totals_of = calls.buffer_unordered(DEPTH as usize).try_fold(0, async |sum, total| Ok(sum + total));
        check(self.runtime.block_on(totals_of)? == totals(self.total, count), "add")?;
        self.total += u64::from(count);
        Ok(())
    }

    fn peer(&self) -> u32 {
        self.peer.pid()
    }
}

/// Makes postcard a codec of tokio-serde.
struct Postcard;

impl<T: Serialize> Serializer<T> for Postcard {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, item: &T) -> io::Result<Bytes> {
        Ok(postcard::to_stdvec(item).map_err(io::Error::other)?.into())
    }
}

impl<T: DeserializeOwned> Deserializer<T> for Postcard {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, bytes: &BytesMut) -> io::Result<T> {
        postcard::from_bytes(bytes).map_err(io::Error::other)
    }
}
