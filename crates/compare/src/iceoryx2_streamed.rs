//! iceoryx2 request-response with numbers: many requests in flight, or many responses to one request. Both sides poll.
//!
//! Set up like `iceoryx2.rs`, but with payloads of fixed size, and buffers for what is in flight. A full buffer loses nothing
//! (`enable_safe_overflow_for_responses(false)`, and a server that retries).

#![forbid(unsafe_code)]

use crate::files::PeerFiles;
use crate::flows::{DEPTH, FlowKind, InOrder, Ordered, StartedFlow};
use crate::iceoryx2::node;
use crate::message::counter;
use crate::peer::{self, PeerProcess};
use callgate_suite::BoxError;
use callgate_suite::bridge::CountService;
use iceoryx2::active_request::ActiveRequest;
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client;
use iceoryx2::port::{BackpressureAction, server::Server};
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::request_response;
use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub const NAME: &str = "iceoryx2 streamed";

/// A job and a number: what to add, or how many numbers to send.
type StreamedOrder = [u64; 2];

const ADD: u64 = 0;
const STREAM: u64 = 1;

type StreamedRequests = Client<ipc::Service, StreamedOrder, (), u64, ()>;
type StreamedRequested = Server<ipc::Service, StreamedOrder, (), u64, ()>;
type StreamedPending = PendingResponse<ipc::Service, StreamedOrder, (), u64, ()>;
type StreamedIncoming = ActiveRequest<ipc::Service, StreamedOrder, (), u64, ()>;
type StreamedFactory = request_response::PortFactory<ipc::Service, StreamedOrder, (), u64, ()>;

/// The responses to one request that the caller need not have taken.
const RESPONSES: usize = 256;

/// The caller's side. The order of the fields is the order in which they must be dropped.
struct StreamedCalls {
    pending: VecDeque<StreamedPending>,
    requests: StreamedRequests,
    peer: PeerProcess,
    _place: PeerFiles,
}

pub fn start(cpu: Option<usize>, _kind: FlowKind) -> StartedFlow {
    let place = PeerFiles::create()?;
    let requests = service(&node(&place)?)?.client_builder().create()?;
    let mut peer = PeerProcess::start(NAME, &place.address()?, cpu, Stdio::piped(), Stdio::piped())?;
    peer.await_ready()?;
    Ok(Ordered::boxed(StreamedCalls { pending: VecDeque::new(), requests, peer, _place: place }))
}

pub fn serve(address: &str) -> Result<(), BoxError> {
    // Dropped last, so that it removes the remaining files when nothing uses them any more.
    let place = PeerFiles::at(address)?;
    let ended = peer::end_of_stdin();
    let requested = server(&service(&node(&place)?)?, &ended)?;
    let mut counter = counter()?;
    peer::ready()?;
    while !ended.load(Ordering::Relaxed) {
        while let Some(request) = requested.receive()? {
            reply(&mut counter, &request)?;
        }
    }
    Ok(())
}

/// The server. Retries while the caller's buffer is full, until the caller has ended.
fn server(service: &StreamedFactory, ended: &Arc<AtomicBool>) -> Result<StreamedRequested, BoxError> {
    let ended = ended.clone();
    let retry = move |_: &_| match ended.load(Ordering::Relaxed) {
        true => BackpressureAction::DiscardDataAndFail,
        false => BackpressureAction::Retry,
    };
    Ok(service.server_builder().set_backpressure_handler(retry).create()?)
}

fn reply(counter: &mut CountService, request: &StreamedIncoming) -> Result<(), BoxError> {
    match *request.payload() {
        [ADD, n] => respond(request, counter.add(n)),
        [STREAM, count] => (0..count).try_for_each(|number| respond(request, number)),
        [unknown, _] => Err(format!("there is no job {unknown}").into()),
    }
}

fn respond(request: &StreamedIncoming, number: u64) -> Result<(), BoxError> {
    Ok(request.loan_uninit()?.write_payload(number).send()?)
}

impl StreamedCalls {
    fn request(&self, order: StreamedOrder) -> Result<StreamedPending, BoxError> {
        Ok(self.requests.loan_uninit()?.write_payload(order).send()?)
    }
}

fn response(peer: &mut PeerProcess, pending: &StreamedPending) -> Result<u64, BoxError> {
    peer.poll(|| Ok(pending.receive()?.map(|response| *response.payload())))
}

impl InOrder for StreamedCalls {
    fn send(&mut self) -> Result<(), BoxError> {
        let pending = self.request([ADD, 1])?;
        self.pending.push_back(pending);
        Ok(())
    }

    fn receive(&mut self) -> Result<u64, BoxError> {
        let pending = self.pending.pop_front().ok_or("no call is pending")?;
        response(&mut self.peer, &pending)
    }

    fn stream(&mut self, count: u32, mut take: impl FnMut(u64) -> Result<(), BoxError>) -> Result<(), BoxError> {
        let pending = self.request([STREAM, count.into()])?;
        (0..count).try_for_each(|_| take(response(&mut self.peer, &pending)?))
    }

    fn process(&self) -> &PeerProcess {
        &self.peer
    }
}

/// The service. The first side creates it, the other opens it. One caller, one callee.
fn service(node: &Node<ipc::Service>) -> Result<StreamedFactory, BoxError> {
    let builder = node.service_builder(&ServiceName::new("numbers")?).request_response::<StreamedOrder, u64>();
    let builder = builder.max_clients(1).max_servers(1).max_active_requests_per_client(DEPTH as usize);
    let builder = builder.max_response_buffer_size(RESPONSES).enable_safe_overflow_for_responses(false);
    Ok(builder.open_or_create()?)
}
