//! remoc over a Unix socket: a remote trait as in its documentation, on tokio's current-thread runtime on both sides, as with tarpc.
//!
//! A stream is a channel that a method returns, with a local buffer of the size that its documentation leaves to us, received in batches. Calls run
//! one after another (`ServerRef`), which saves a task for each. Codec and configuration are its own.

#![forbid(unsafe_code)]

use crate::flows::{DEPTH, Flow, FlowKind, StartedFlow, totals};
use crate::peer::PeerProcess;
use crate::tarpc::{runtime, stream};
use callgate_suite::BoxError;
use callgate_suite::workload::check;
use futures_util::{StreamExt, TryStreamExt};
use remoc::prelude::*;
use remoc::rtc::CallError;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Runtime;

pub const NAME: &str = "remoc";

/// The numbers that a channel holds before they are encoded, and the most that are received together.
const BUFFER: usize = 256;

#[rtc::remote]
trait RemocCount {
    async fn add(&self, n: u64) -> Result<u64, CallError>;
    async fn numbers(&self, count: u32) -> Result<rch::mpsc::Receiver<u64>, CallError>;
}

/// The caller's side. The order of the fields is the order in which they must be dropped.
struct RemocCalls {
    client: RemocCountClient,
    runtime: Runtime,
    peer: PeerProcess,
    total: u64,
}

pub fn start(cpu: Option<usize>, _kind: FlowKind) -> StartedFlow {
    let (here, there) = UnixStream::pair()?;
    let peer = PeerProcess::start(NAME, "", cpu, OwnedFd::from(there).into(), Stdio::null())?;
    let runtime = runtime()?;
    let client = runtime.block_on(async {
        let (input, output) = stream(here)?.into_split();
        let client = remoc::Connect::io(remoc::Cfg::default(), input, output).consume().await?;
        Ok::<RemocCountClient, BoxError>(client)
    })?;
    Ok(Box::new(RemocCalls { client, runtime, peer, total: 0 }))
}

pub fn serve(_address: &str) -> Result<(), BoxError> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let total = RemocTotal(AtomicU64::new(0));
    runtime()?.block_on(async {
        let (input, output) = stream(socket)?.into_split();
        let (server, client) = RemocCountServerRef::<_, remoc::codec::Default>::new(&total);
        remoc::Connect::io(remoc::Cfg::default(), input, output).provide(client).await?;
        server.serve().await.map_err(|error| error.to_string().into())
    })
}

/// The service: the total.
struct RemocTotal(AtomicU64);

impl RemocCount for RemocTotal {
    async fn add(&self, n: u64) -> Result<u64, CallError> {
        Ok(self.0.fetch_add(n, Ordering::Relaxed) + n)
    }

    async fn numbers(&self, count: u32) -> Result<rch::mpsc::Receiver<u64>, CallError> {
        let (sender, receiver) = rch::mpsc::with_local_buffer(BUFFER);
        tokio::spawn(async move {
            for number in 0..u64::from(count) {
                if sender.send(number).await.is_err() {
                    break;
                }
            }
        });
        Ok(receiver)
    }
}

impl RemocCalls {
    async fn calls(client: &RemocCountClient, count: u32) -> Result<u64, CallError> {
        let calls = futures_util::stream::iter(0..count).map(|_| client.add(1)).buffer_unordered(DEPTH as usize);
        calls.try_fold(0, async |sum, total| Ok(sum + total)).await
    }

    async fn numbers(client: &RemocCountClient, count: u32) -> Result<(), BoxError> {
        let mut numbers = client.numbers(count).await?;
        let (mut expected, mut batch) = (0, Vec::with_capacity(BUFFER));
        while numbers.recv_many(&mut batch, BUFFER).await? > 0 {
            for number in batch.drain(..) {
                check(number == expected, "stream")?;
                expected += 1;
            }
        }
        check(expected == u64::from(count), "stream")
    }
}

impl Flow for RemocCalls {
    fn carry(&mut self, kind: FlowKind, count: u32) -> Result<(), BoxError> {
        if kind == FlowKind::Stream {
            return self.runtime.block_on(Self::numbers(&self.client, count));
        }
        let sum = match (kind, count) {
            (FlowKind::Single, 1) => self.runtime.block_on(self.client.add(1))?,
            _ => self.runtime.block_on(Self::calls(&self.client, count))?,
        };
        check(sum == totals(self.total, count), "add")?;
        self.total += u64::from(count);
        Ok(())
    }

    fn peer(&self) -> u32 {
        self.peer.pid()
    }
}
