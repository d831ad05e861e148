//! A bare Unix socket and a bare pair of pipes. Each message is a length, then a request or reply encoded by postcard.
//!
//! A message that fits the buffer takes one `write` and one `read`, which is the minimum for both.

#![forbid(unsafe_code)]

use crate::message::{Carrier, Messages, Order, OrderReply, answer, counter};
use crate::peer::PeerProcess;
use crate::transports::StartedTransport;
use callgate_suite::BoxError;
use serde::{Serialize, de::DeserializeOwned};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

pub const SOCKET: &str = "Unix socket";
pub const PIPE: &str = "pipe";

/// Starts a peer whose stdin is a socket.
pub fn start_socket(cpu: Option<usize>) -> StartedTransport {
    let (here, there) = UnixStream::pair()?;
    let peer = PeerProcess::start(SOCKET, "", cpu, OwnedFd::from(there).into(), std::process::Stdio::null())?;
    let stream = Stream::new(File::from(OwnedFd::from(here.try_clone()?)), File::from(OwnedFd::from(here)));
    Ok(Box::new(Messages(Streamed { stream, peer })))
}

pub fn serve_socket(_address: &str) -> Result<(), BoxError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    serve(Stream::new(File::from(stdin.try_clone()?), File::from(stdin)))
}

/// Starts a peer whose stdin and stdout are pipes.
pub fn start_pipe(cpu: Option<usize>) -> StartedTransport {
    let mut peer = PeerProcess::start(PIPE, "", cpu, std::process::Stdio::piped(), std::process::Stdio::piped())?;
    let (stdin, stdout) = peer.pipes().ok_or("the peer has no pipes")?;
    let stream = Stream::new(File::from(OwnedFd::from(stdout)), File::from(OwnedFd::from(stdin)));
    Ok(Box::new(Messages(Streamed { stream, peer })))
}

pub fn serve_pipe(_address: &str) -> Result<(), BoxError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    serve(Stream::new(File::from(stdin), File::from(stdout)))
}

fn serve(mut stream: Stream) -> Result<(), BoxError> {
    let mut counter = counter()?;
    while let Some(request) = stream.read()? {
        stream.write(&answer(&mut counter, request))?;
    }
    Ok(())
}

/// The parent's side. The order of the fields is the order in which they must be dropped.
struct Streamed {
    stream: Stream,
    peer: PeerProcess,
}

impl Carrier for Streamed {
    fn exchange(&mut self, request: Order) -> Result<OrderReply, BoxError> {
        self.stream.write(&request)?;
        self.stream.read()?.ok_or_else(|| "the peer has closed the stream".into())
    }

    fn peer(&self) -> Option<&PeerProcess> {
        Some(&self.peer)
    }
}

/// Messages in a stream of bytes.
struct Stream {
    reader: BufReader<File>,
    writer: File,
    /// Buffers for outgoing and incoming messages, kept so that they are allocated only once.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

/// The size of a length, in bytes.
const LENGTH: usize = 4;

/// Large enough for a message of the workload and its length, so that one `read` gets all of it.
const BUFFER: usize = 64 << 10;

impl Stream {
    fn new(reader: File, writer: File) -> Self {
        let reader = BufReader::with_capacity(BUFFER, reader);
        Self { reader, writer, outgoing: Vec::new(), incoming: Vec::new() }
    }

    fn write<T: Serialize>(&mut self, message: &T) -> Result<(), BoxError> {
        let mut bytes = std::mem::take(&mut self.outgoing);
        bytes.clear();
        bytes.extend([0; LENGTH]);
        bytes = postcard::to_extend(message, bytes)?;
        let length = u32::try_from(bytes.len() - LENGTH)?;
        bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
        self.writer.write_all(&bytes)?;
        self.outgoing = bytes;
        Ok(())
    }

    /// Reads the next message; `None` at the end of the stream.
    fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, BoxError> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut length = [0; LENGTH];
        self.reader.read_exact(&mut length)?;
        self.incoming.resize(u32::from_le_bytes(length) as usize, 0);
        self.reader.read_exact(&mut self.incoming)?;
        Ok(Some(postcard::from_bytes(&self.incoming)?))
    }
}
