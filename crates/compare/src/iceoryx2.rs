//! iceoryx2 request-response: shared memory, either polled without system calls, or with an event after each message.
//!
//! iceoryx2's own benchmark polls (`benchmarks/request-response` of its repository); the limits on participants and buffers come from there too. For
//! programs that do not poll, its example `event_based_communication` recommends an event beside the service. Payloads are slices written in place
//! (`loan_slice_uninit`), and the method and a number travel in the user header.
//!
//! iceoryx2 keeps files under its root path, which is a temporary directory here, and in `/dev/shm`, under our own prefix.

#![forbid(unsafe_code)]

use crate::files::PeerFiles;
use crate::message::counter;
use crate::peer::{self, PeerProcess};
use crate::transports::StartedTransport;
use callgate_suite::bridge::CountService;
use callgate_suite::transport::Record;
use callgate_suite::{BoxError, Transport};
use iceoryx2::active_request::ActiveRequest;
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::{client::Client, listener::Listener, notifier::Notifier, server::Server};
use iceoryx2::prelude::*;
use iceoryx2::response::Response;
use iceoryx2::service::port_factory::request_response;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub const POLLING: &str = "iceoryx2 polling";
pub const EVENT: &str = "iceoryx2 event";

/// Method and number. In a response, only the number has a meaning.
type IceoryxHeader = [u64; 2];

type IceoryxRequests = Client<ipc::Service, [u8], IceoryxHeader, [u8], IceoryxHeader>;
type IceoryxRequested = Server<ipc::Service, [u8], IceoryxHeader, [u8], IceoryxHeader>;
type IceoryxPending = PendingResponse<ipc::Service, [u8], IceoryxHeader, [u8], IceoryxHeader>;
type IceoryxIncoming = ActiveRequest<ipc::Service, [u8], IceoryxHeader, [u8], IceoryxHeader>;
type IceoryxAnswer = Response<ipc::Service, [u8], IceoryxHeader>;
type IceoryxFactory = request_response::PortFactory<ipc::Service, [u8], IceoryxHeader, [u8], IceoryxHeader>;

const ADD: u64 = 0;
const GREET: u64 = 1;
const SUM: u64 = 2;
const RECORD: u64 = 3;
const ECHO: u64 = 4;
const WORK: u64 = 5;

/// Large enough for every payload of the workload, in bytes.
const MAX_PAYLOAD: usize = 2 << 20;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long either side sleeps before it checks whether the other one lives.
const NAP: Duration = Duration::from_millis(200);

/// The caller's side. The order of the fields is the order in which they must be dropped.
struct IceoryxCalls {
    requests: IceoryxRequests,
    events: Option<Events>,
    peer: PeerProcess,
    _place: PeerFiles,
}

pub fn start_polling(cpu: Option<usize>) -> StartedTransport {
    start(POLLING, cpu)
}

pub fn start_event(cpu: Option<usize>) -> StartedTransport {
    start(EVENT, cpu)
}

fn start(name: &str, cpu: Option<usize>) -> StartedTransport {
    let place = PeerFiles::create()?;
    let node = node(&place)?;
    let requests = service(&node)?.client_builder().initial_max_slice_len(MAX_PAYLOAD).create()?;
    let events = if name == EVENT { Some(Events::open(&node, "replied", "requested")?) } else { None };
    let mut peer = PeerProcess::start(name, &place.address()?, cpu, Stdio::piped(), Stdio::piped())?;
    peer.await_ready()?;
    Ok(Box::new(IceoryxCalls { requests, events, peer, _place: place }))
}

pub fn serve_polling(address: &str) -> Result<(), BoxError> {
    serve(POLLING, address)
}

pub fn serve_event(address: &str) -> Result<(), BoxError> {
    serve(EVENT, address)
}

fn serve(name: &str, address: &str) -> Result<(), BoxError> {
    // Dropped last, so that it removes the remaining files when nothing uses them any more.
    let place = PeerFiles::at(address)?;
    let node = node(&place)?;
    let requested = service(&node)?.server_builder().initial_max_slice_len(MAX_PAYLOAD).create()?;
    let events = if name == EVENT { Some(Events::open(&node, "requested", "replied")?) } else { None };
    let (mut counter, ended) = (counter()?, peer::end_of_stdin());
    peer::ready()?;
    serve_until(&ended, &mut counter, &requested, events.as_ref())
}

fn serve_until(
    ended: &AtomicBool,
    counter: &mut CountService,
    requested: &IceoryxRequested,
    events: Option<&Events>,
) -> Result<(), BoxError> {
    while !ended.load(Ordering::Relaxed) {
        if let Some(events) = events {
            events.wait()?;
        }
        while let Some(request) = requested.receive()? {
            reply(counter, &request)?;
            if let Some(events) = events {
                events.tell()?;
            }
        }
    }
    Ok(())
}

fn reply(counter: &mut CountService, request: &IceoryxIncoming) -> Result<(), BoxError> {
    let [method, n] = *request.user_header();
    match method {
        ADD => respond(request, counter.add(n), &[]),
        GREET => respond(request, 0, counter.greet(std::str::from_utf8(request.payload())?).as_bytes()),
        SUM => respond(request, counter.sum(&postcard::from_bytes::<Vec<u64>>(request.payload())?), &[]),
        RECORD => {
            let record = counter.record(&postcard::from_bytes(request.payload())?);
            respond(request, 0, &postcard::to_stdvec(&record)?)
        }
        // Copied directly from the request's memory into the response's.
        ECHO => respond(request, 0, request.payload()),
        WORK => {
            counter.work(n);
            respond(request, 0, &[])
        }
        unknown => Err(format!("there is no method {unknown}").into()),
    }
}

fn respond(request: &IceoryxIncoming, n: u64, bytes: &[u8]) -> Result<(), BoxError> {
    let mut response = request.loan_slice_uninit(bytes.len())?;
    response.user_header_mut()[1] = n;
    Ok(response.write_from_slice(bytes).send()?)
}

impl IceoryxCalls {
    fn call(&mut self, method: u64, n: u64, bytes: &[u8]) -> Result<IceoryxAnswer, BoxError> {
        let mut request = self.requests.loan_slice_uninit(bytes.len())?;
        *request.user_header_mut() = [method, n];
        let pending = request.write_from_slice(bytes).send()?;
        if let Some(events) = &self.events {
            events.tell()?;
        }
        let begin = Instant::now();
        loop {
            if let Some(answer) = self.wait(&pending)? {
                return Ok(answer);
            }
            self.peer.check()?;
            if begin.elapsed() > TIMEOUT {
                return Err("no answer for 20 seconds".into());
            }
        }
    }

    /// Waits for a while. Returns the answer if it has come.
    fn wait(&self, pending: &IceoryxPending) -> Result<Option<IceoryxAnswer>, BoxError> {
        if let Some(events) = &self.events {
            events.wait()?;
            return Ok(pending.receive()?);
        }
        for _ in 0..1 << 20 {
            if let Some(answer) = pending.receive()? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}

impl Transport for IceoryxCalls {
    fn add(&mut self, n: u64) -> Result<u64, BoxError> {
        Ok(self.call(ADD, n, &[])?.user_header()[1])
    }

    fn greet(&mut self, name: &str) -> Result<String, BoxError> {
        Ok(std::str::from_utf8(self.call(GREET, 0, name.as_bytes())?.payload())?.to_owned())
    }

    fn sum(&mut self, numbers: &[u64]) -> Result<u64, BoxError> {
        Ok(self.call(SUM, 0, &postcard::to_stdvec(numbers)?)?.user_header()[1])
    }

    fn record(&mut self, record: &Record) -> Result<Record, BoxError> {
        Ok(postcard::from_bytes(self.call(RECORD, 0, &postcard::to_stdvec(record)?)?.payload())?)
    }

    fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.call(ECHO, 0, bytes)?.payload().to_vec())
    }

    fn work(&mut self, busy: Duration) -> Result<(), BoxError> {
        self.call(WORK, busy.as_nanos() as u64, &[]).map(drop)
    }

    fn peer(&self) -> Option<u32> {
        Some(self.peer.pid())
    }
}

/// The service. The first side creates it, the other opens it. One caller, one callee, one response to each request.
fn service(node: &Node<ipc::Service>) -> Result<IceoryxFactory, BoxError> {
    let name = ServiceName::new("counter")?;
    let builder = node.service_builder(&name).request_response::<[u8], [u8]>();
    let builder = builder.request_user_header::<IceoryxHeader>().response_user_header::<IceoryxHeader>();
    Ok(builder.max_clients(1).max_servers(1).max_response_buffer_size(1).open_or_create()?)
}

/// An event for each direction.
struct Events {
    incoming: Listener<ipc::Service>,
    outgoing: Notifier<ipc::Service>,
}

impl Events {
    fn open(node: &Node<ipc::Service>, incoming: &str, outgoing: &str) -> Result<Self, BoxError> {
        let event = |name: &str| -> Result<_, BoxError> {
            Ok(node.service_builder(&ServiceName::new(name)?).event().open_or_create()?)
        };
        let incoming = event(incoming)?.listener_builder().create()?;
        let outgoing = event(outgoing)?.notifier_builder().create()?;
        Ok(Self { incoming, outgoing })
    }

    fn tell(&self) -> Result<(), BoxError> {
        self.outgoing.notify()?;
        Ok(())
    }

    /// Waits for an event, but at most for a while.
    fn wait(&self) -> Result<(), BoxError> {
        self.incoming.timed_wait(|_| {}, NAP)?;
        Ok(())
    }
}

/// A node that keeps all its files in `place`.
pub fn node(place: &PeerFiles) -> Result<Node<ipc::Service>, BoxError> {
    set_log_level(LogLevel::Fatal);
    let mut config = Config::default();
    config.global.prefix = FileName::new(place.prefix().as_bytes())?;
    config.global.set_root_path(&Path::new(place.root()?.as_bytes())?);
    Ok(NodeBuilder::new().config(&config).signal_handling_mode(SignalHandlingMode::Disabled).create()?)
}
