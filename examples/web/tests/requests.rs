//! Drives the program as its clients do: many requests at once, bodies that crash the decoder, and signals that stop it.
//!
//! Waits for nothing longer than `DEADLINE`.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const DEADLINE: Duration = Duration::from_secs(30);
const AT_ONCE: usize = 200;
/// A run of length 0.
const CRASHES: &[u8] = &[0, b'a'];

#[test]
fn requests_made_at_once_are_all_answered() {
    let program = Program::start();
    for (n, answer) in program.at_once(AT_ONCE, packed).into_iter().enumerate() {
        assert_eq!(answer, Answer { status: 200, body: expanded(n) });
    }
    assert_eq!(program.request(&[1]).finish().status, 400);
}

#[test]
fn a_crash_fails_what_had_not_been_answered_and_nothing_later() {
    let program = Program::start();
    for crashing in [0, AT_ONCE / 2, AT_ONCE - 1] {
        let body = |n: usize| if n == crashing { CRASHES.to_vec() } else { packed(n) };
        for (n, answer) in program.at_once(AT_ONCE, body).into_iter().enumerate() {
            match answer.status {
                502 => assert_eq!(n, crashing, "{answer:?}"),
                503 => program.repeat(n),
                _ => assert_eq!(answer, Answer { status: 200, body: expanded(n) }),
            }
            assert!(n != crashing || answer.status == 502, "{answer:?}");
        }
        program.repeat(crashing);
        for (n, answer) in program.at_once(AT_ONCE, packed).into_iter().enumerate() {
            assert_eq!(answer, Answer { status: 200, body: expanded(n) });
        }
    }
}

#[test]
fn sigterm_stops_it_once_requests_in_flight_are_answered() {
    let program = Program::start();
    program.stops_gracefully("terminated", |pid| kill_process(pid, Signal::TERM));
}

/// A terminal sends the signal to the whole group.
#[test]
fn ctrl_c_stops_it_once_requests_in_flight_are_answered() {
    let program = Program::start();
    program.stops_gracefully("interrupted", |pid| kill_process_group(pid, Signal::INT));
}

/// `n` as text, each character three times.
fn packed(n: usize) -> Vec<u8> {
    n.to_string().bytes().flat_map(|digit| [3, digit]).collect()
}

fn expanded(n: usize) -> Vec<u8> {
    n.to_string().bytes().flat_map(|digit| [digit; 3]).collect()
}

/// The program, which is killed at the end of its test if it still runs.
struct Program {
    process: Child,
    address: SocketAddr,
    lines: Receiver<String>,
}

impl Program {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_web"));
        let mut process = command.process_group(0).stdout(Stdio::piped()).spawn().expect("the program starts");
        let stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let first: String = lines.recv_timeout(DEADLINE).expect("it listens");
        let address = first.strip_prefix("listening on ").expect(&first).parse().expect("an address");
        Self { process, address, lines }
    }

    /// Begins a request, up to where its handler waits for the body.
    fn request(&self, body: &[u8]) -> Request {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("it is not zero");
        let mut request = Request { stream: BufReader::new(stream), body: body.to_vec() };
        let length = body.len();
        request.send(
            format!("POST /expand HTTP/1.1\r\nHost: web\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
                .as_bytes(),
        );
        assert_eq!(request.status(), 100);
        request
    }

    /// Has `count` handlers wait for their bodies, then sends all these.
    fn at_once(&self, count: usize, body: impl Fn(usize) -> Vec<u8>) -> Vec<Answer> {
        let requests: Vec<_> = (0..count).map(|n| self.request(&body(n))).collect();
        let threads: Vec<_> = requests.into_iter().map(|request| thread::spawn(|| request.finish())).collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    }

    /// Makes a request that was answered by 503 as often as that is the answer.
    fn repeat(&self, n: usize) {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            let answer = self.request(&packed(n)).finish();
            if answer.status != 503 {
                return assert_eq!(answer, Answer { status: 200, body: expanded(n) });
            }
        }
        panic!("no decoder serves");
    }

    fn stops_gracefully(mut self, says: &str, stop: impl Fn(Pid) -> rustix::io::Result<()>) {
        let requests: Vec<_> = (0..20).map(|n| self.request(&packed(n))).collect();
        stop(Pid::from_child(&self.process)).expect("it runs");
        assert_eq!(self.lines.recv_timeout(DEADLINE).as_deref(), Ok(says));
        eventually(|| TcpStream::connect(self.address).is_err().then_some(()));
        for (n, request) in requests.into_iter().enumerate() {
            assert_eq!(request.finish(), Answer { status: 200, body: expanded(n) });
        }
        assert_eq!(self.lines.recv_timeout(DEADLINE).as_deref(), Ok("the decoder exited with code 0"));
        let status: ExitStatus = eventually(|| self.process.try_wait().expect("it is our child"));
        assert!(status.success(), "{status}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request whose body has not been sent.
struct Request {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Request {
    fn finish(mut self) -> Answer {
        let body = std::mem::take(&mut self.body);
        self.send(&body);
        let status = self.status();
        let mut body = Vec::new();
        self.stream.read_to_end(&mut body).expect("an answer in time");
        Answer { status, body }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("it reads");
    }

    /// Reads a head, and returns the status.
    fn status(&mut self) -> u16 {
        let head: io::Result<Vec<_>> =
            (&mut self.stream).lines().take_while(|line| !matches!(line.as_deref(), Ok(""))).collect();
        let head = head.expect("an answer in time");
        let first = head.first().expect("an answer");
        first.split(' ').nth(1).and_then(|status| status.parse().ok()).expect(first)
    }
}

/// Waits until there is something.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "it takes too long");
        thread::sleep(Duration::from_millis(5));
    }
}
