//! iceoryx2 with large payloads in memory that it loans, polled. Nothing is copied unless this file says so.
//!
//! Set up like `iceoryx2.rs`, and for the number of loans that are in use at once. The longest payload is given when the ports are
//! created (`initial_max_slice_len`), so that no memory is mapped later.
//!
//! - **Touched**: the caller fills a loaned request, the peer reads all of it and fills a loaned response, the caller reads all of that.
//! - **Edited**: a buffer goes to the peer, which changes one line of it and gives it back; the next turn uses the same contents. In iceoryx2 a
//!   receiver cannot hand a buffer back, and received memory is read-only. So the peer loans a response and copies the request
//!   into it, and the caller copies that response into its next request: two copies.

#![forbid(unsafe_code)]

use crate::carriers::StartedCarrier;
use crate::files::PeerFiles;
use crate::iceoryx2::node;
use crate::peer::{self, PeerProcess};
use callgate_suite::large::{Carry, Load};
use callgate_suite::{BoxError, bytes, workload};
use iceoryx2::active_request::ActiveRequest;
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::{client::Client, server::Server};
use iceoryx2::prelude::*;
use iceoryx2::request_mut::RequestMut;
use iceoryx2::response::Response;
use iceoryx2::service::port_factory::request_response;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub const NAME: &str = "iceoryx2 loaned";

/// The operation that the peer performs.
type LoanedHeader = u64;

const TOUCH: LoanedHeader = 0;
const EDIT: LoanedHeader = 1;

type LoanedRequests = Client<ipc::Service, [u8], LoanedHeader, [u8], ()>;
type LoanedRequested = Server<ipc::Service, [u8], LoanedHeader, [u8], ()>;
type LoanedRequest = RequestMut<ipc::Service, [u8], LoanedHeader, [u8], ()>;
type LoanedPending = PendingResponse<ipc::Service, [u8], LoanedHeader, [u8], ()>;
type LoanedIncoming = ActiveRequest<ipc::Service, [u8], LoanedHeader, [u8], ()>;
type LoanedAnswer = Response<ipc::Service, [u8], ()>;
type LoanedFactory = request_response::PortFactory<ipc::Service, [u8], LoanedHeader, [u8], ()>;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The caller's side. The order of the fields is the order in which they must be dropped.
struct Loans {
    /// The last answer, for [`Load::Edited`].
    buffer: Option<LoanedAnswer>,
    requests: LoanedRequests,
    peer: PeerProcess,
    _place: PeerFiles,
    load: Load,
    len: usize,
    turn: u64,
}

pub fn start(cpu: Option<usize>, load: Load, len: usize) -> StartedCarrier {
    let place = PeerFiles::create()?;
    let node = node(&place)?;
    let requests = service(&node)?.client_builder().initial_max_slice_len(len).create()?;
    let address = format!("{len} {}", place.address()?);
    let mut peer = PeerProcess::start(NAME, &address, cpu, Stdio::piped(), Stdio::piped())?;
    peer.await_ready()?;
    Ok(Box::new(Loans { buffer: None, requests, peer, _place: place, load, len, turn: 0 }))
}

pub fn serve(address: &str) -> Result<(), BoxError> {
    let (len, address) = address.split_once(' ').ok_or("an address without a length")?;
    // Dropped last, so that it removes the remaining files when nothing uses them any more.
    let place = PeerFiles::at(address)?;
    let node = node(&place)?;
    let requested: LoanedRequested = service(&node)?.server_builder().initial_max_slice_len(len.parse()?).create()?;
    let ended = peer::end_of_stdin();
    peer::ready()?;
    while !ended.load(Ordering::Relaxed) {
        while let Some(request) = requested.receive()? {
            reply(&request)?;
        }
    }
    Ok(())
}

fn reply(request: &LoanedIncoming) -> Result<(), BoxError> {
    let received = request.payload();
    let response = request.loan_slice_uninit(received.len())?;
    let response = match *request.user_header() {
        TOUCH => {
            let byte = bytes::next(received);
            response.write_from_fn(|_| byte)
        }
        EDIT => {
            let mut copy = response.write_from_slice(received);
            bytes::edit(copy.payload_mut());
            copy
        }
        unknown => return Err(format!("there is no job {unknown}").into()),
    };
    Ok(response.send()?)
}

impl Carry for Loans {
    fn carry(&mut self) -> Result<(), BoxError> {
        self.turn += 1;
        match self.load {
            Load::Touched => self.touched((self.turn % 127) as u8 + 1),
            Load::Edited => self.edited(self.turn),
            Load::OneWay => Err("it carries there and back".into()),
        }
    }

    fn peer(&self) -> u32 {
        self.peer.pid()
    }
}

impl Loans {
    fn touched(&mut self, byte: u8) -> Result<(), BoxError> {
        let mut request = self.requests.loan_slice_uninit(self.len)?;
        *request.user_header_mut() = TOUCH;
        let answer = self.exchange(request.write_from_fn(|_| byte))?;
        workload::check(bytes::is_next(answer.payload(), byte), "touched")
    }

    fn edited(&mut self, turn: u64) -> Result<(), BoxError> {
        let mut request = self.requests.loan_slice_uninit(self.len)?;
        *request.user_header_mut() = EDIT;
        let mut request = match self.buffer.take() {
            Some(buffer) => request.write_from_slice(buffer.payload()),
            None => request.write_from_fn(|_| 0),
        };
        bytes::mark(request.payload_mut(), turn);
        let buffer = self.exchange(request)?;
        workload::check(bytes::is_edited(buffer.payload(), turn), "edited")?;
        self.buffer = Some(buffer);
        Ok(())
    }

    fn exchange(&mut self, request: LoanedRequest) -> Result<LoanedAnswer, BoxError> {
        let pending = request.send()?;
        let begin = Instant::now();
        loop {
            if let Some(answer) = poll(&pending)? {
                return Ok(answer);
            }
            self.peer.check()?;
            if begin.elapsed() > TIMEOUT {
                return Err("no answer for 20 seconds".into());
            }
        }
    }
}

/// Polls for a while. Returns the answer if it has come.
fn poll(pending: &LoanedPending) -> Result<Option<LoanedAnswer>, BoxError> {
    for _ in 0..1 << 20 {
        if let Some(answer) = pending.receive()? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// The service. The first side creates it, the other opens it. One caller, one callee, one request at a time, one response to it.
fn service(node: &Node<ipc::Service>) -> Result<LoanedFactory, BoxError> {
    let name = ServiceName::new("large")?;
    let builder = node.service_builder(&name).request_response::<[u8], [u8]>().request_user_header::<LoanedHeader>();
    let builder = builder.max_clients(1).max_servers(1).max_response_buffer_size(1);
    Ok(builder.max_loaned_requests(1).max_active_requests_per_client(1).open_or_create()?)
}
