//! Fuzz target: the parent's watcher reads control messages of any bytes, with descriptors of any kind.

#![forbid(unsafe_code)]

use super::fake_child::FakeChild;
use super::input::Input;
use callgate_engine::link::MemoryOptions;
use callgate_engine::watcher::Watched;
use callgate_os::poll::readable;
use callgate_os::socket::{self, BlockingMode};
use callgate_transport::backing::SealedMemfds;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Small enough that a child soon uses up its budget.
const MEMORY: MemoryOptions = MemoryOptions { max_payload: 1 << 20, total: 8 << 20, retained: 1 << 20, trust: None };

/// The most messages in one run.
const MOST: usize = 64;

/// How long the library may take to close a descriptor.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The number of descriptors open before the first input.
static FIRST: OnceLock<usize> = OnceLock::new();

/// Descriptors that the library opens once and keeps: two of the watcher's own, and one that reports released memory.
const LASTING: usize = 3;

/// Sends the input as control messages and has the parent read them until it refuses one.
///
/// Each message takes its kind from one byte and, after its contents, the number of its descriptors from another.
pub fn control(data: &[u8]) {
    let mut input = Input::new(data);
    let most = *FIRST.get_or_init(|| open().len()) + LASTING;
    let mut sent = Vec::new();
    let fake = FakeChild::with(Arc::new(SealedMemfds), MEMORY);
    let end = fake.child.as_fd().try_clone_to_owned().expect("a descriptor");
    let mut reads = true;
    for _ in 0..MOST {
        if input.is_empty() || !reads {
            break;
        }
        let message = message(&mut input);
        let rights = rights(&mut input, &mut sent);
        let rights: Vec<_> = rights.iter().map(AsFd::as_fd).collect();
        if !message.is_empty() && socket::send(&end, &message, &rights).is_ok() {
            reads = fake.link.read_control();
            assert!(reads || fake.caller.peer.peer_status.is_over(), "refused without a word");
            assert!(!reads || rights.is_empty(), "a descriptor was taken from a child");
        }
        if input.flag() {
            // Without this, the socket fills up and the parent cannot answer.
            while let Ok(Some(_)) = fake.child.receive(BlockingMode::No) {}
        }
        if input.below(8) == 0 {
            fake.link.tidy();
        }
    }
    drop((fake, end));
    for (number, kept) in sent.iter().enumerate() {
        // A separate thread closes a peer's descriptors. The fuzzer's timer interrupts the wait for it, hence the loop.
        let deadline = Instant::now() + TIMEOUT;
        while !readable(kept, TIMEOUT).expect("a socket") {
            assert!(Instant::now() < deadline, "descriptor {number} is still open somewhere");
        }
    }
    drop(sent);
    // The watcher releases a link with a delay, and so do the threads that seal memory and close descriptors.
    let deadline = Instant::now() + TIMEOUT;
    while open().len() > most {
        assert!(Instant::now() < deadline, "{most} descriptors are the most, and these are open: {:?}", open());
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// The open files of the process, without pipes: the sanitizer has pipes to its symbolizer, and the pipes that this target sends are checked by their
/// other ends. Empty in tests, where other threads open and close descriptors.
fn open() -> Vec<PathBuf> {
    let all = || std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
    let targets = || all().flat_map(|entry| std::fs::read_link(entry.path()));
    if cfg!(fuzzing) {
        targets().filter(|target| !target.to_string_lossy().starts_with("pipe:")).collect()
    } else {
        Vec::new()
    }
}

/// A message: often a real kind with odd contents, sometimes arbitrary bytes.
fn message(input: &mut Input<'_>) -> Vec<u8> {
    let kind = input.byte();
    let len = input.odd_word();
    let words = match kind % 16 {
        0..=4 => [3, len, 0],
        5..=6 => [3, u64::from(kind >> 4) << 16, 0],
        7..=9 => [2, u64::from(kind >> 4), 0],
        10 => [2, len, 0],
        11 => [len, input.odd_word(), input.odd_word()],
        12 => [u64::from(kind >> 4), len, input.odd_word()],
        13 => return input.bytes(usize::from(kind >> 4)).to_vec(),
        14 => return input.bytes(24).to_vec(),
        _ => return vec![kind; usize::from(input.byte())],
    };
    words.map(u64::to_le_bytes).concat()
}

/// The descriptors to send with a message, usually none. `sent` collects the other ends of pipes and sockets; each reads as closed once no process
/// has the sent end open.
fn rights(input: &mut Input<'_>, sent: &mut Vec<OwnedFd>) -> Vec<OwnedFd> {
    let count = match input.byte() {
        byte @ 200.. => usize::from(byte - 200) % (socket::MOST + 1),
        byte @ 180.. => usize::from(byte % 4),
        _ => 0,
    };
    (0..count).map(|_| right(input.byte(), sent)).collect()
}

fn right(kind: u8, sent: &mut Vec<OwnedFd>) -> OwnedFd {
    match kind % 6 {
        0 => eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"),
        1 => memfd_create("callgate-fuzz", MemfdFlags::CLOEXEC).expect("a memfd"),
        2 => File::open("/dev/null").expect("the null device").into(),
        3 => {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            sent.push(reader.into());
            writer.into()
        }
        _ => {
            let (one, other) = socket::pair().expect("a pair of sockets");
            sent.push(other);
            one
        }
    }
}

#[cfg(test)]
pub(super) fn seeds() -> Vec<Vec<u8>> {
    // Need in several sizes, with the answers read or not; Detach of existing segments; messages that only a parent sends.
    let need = |size: u8| [5 | size << 4, 0, 0, 0, 1, 1];
    let detach = |segment: u8| [7 | segment << 4, 0, 0, 0, 1, 0];
    let mut seeds = vec![
        [need(1), need(2), detach(1), need(3), detach(2), detach(3)].concat(),
        [need(15); 12].concat(),
        [need(1), detach(1), detach(1)].concat(),
    ];
    seeds.extend((1..=11).map(|kind| vec![12 | kind << 4, 0, 4, 0, 0, 0, 1, 1]));
    // One descriptor, several, and the most that one message can carry.
    seeds.extend([180u8, 181, 182, 203, 255].map(|count| {
        let mut seed = vec![5 | 1 << 4, 0, 0, count];
        seed.extend((0..60).map(|at| at % 6));
        seed
    }));
    seeds
}

// The fuzzer relies on the parent acting on a child's honest messages.
#[cfg(test)]
mod tests {
    use super::*;
    use callgate_engine::control::Message;
    use callgate_os::socket::BlockingMode;
    use callgate_transport::doorbell::Deadline;
    use callgate_transport::error::NoMemory;
    use callgate_transport::shared_box::SharedBox;
    use std::time::Instant;

    #[test]
    fn an_honest_child_gets_its_memory_and_gives_it_back() {
        let fake = FakeChild::with(Arc::new(SealedMemfds), MEMORY);
        let (segment, object) = fake.need(1 << 16).unwrap();
        assert!(object.is_some());
        assert!(fake.tell(Message::Detach { segment }));
        assert!(!fake.tell(Message::Detach { segment }), "it has it no more");
    }

    /// Segments are made for a child's arena only when it can be told of them, and what it could not be told it is told first.
    #[test]
    fn a_child_that_does_not_read_costs_no_segments_and_is_told_later() {
        let memory = MemoryOptions { total: 256 << 20, retained: 0, ..MEMORY };
        let fake = FakeChild::with(Arc::new(SealedMemfds), memory);
        let make = |deadline| SharedBox::<[u8]>::for_overwrite_at(Some(fake.caller.pool()), 70_000, deadline);
        let read_all = || {
            let messages = std::iter::from_fn(|| fake.child.receive(BlockingMode::No).ok().flatten());
            messages.map(|(message, _)| message).collect::<Vec<_>>()
        };
        let mut boxes = Vec::new();
        let why = loop {
            match make(Deadline::now()) {
                Ok(new) => boxes.push(new),
                Err(why) => break why,
            }
        };
        assert_eq!(why, NoMemory::Unread { len: 70_000 });
        let (made, begin) = (boxes.len(), Instant::now());
        let timeout = Duration::from_millis(100);
        assert!(matches!(make(Deadline::after(Some(timeout))), Err(NoMemory::Unread { .. })));
        assert!(begin.elapsed() >= timeout);
        drop(boxes);
        // Until idle memory is freed, of which the child cannot be told either.
        while fake.link.tidy() && begin.elapsed() < TIMEOUT {
            std::thread::sleep(Duration::from_millis(10));
        }
        let told = read_all();
        assert!(told.iter().all(|message| matches!(message, Message::Attach { .. })), "{told:?}");
        assert_eq!(told.len(), made);

        let mut told = Vec::new();
        while let Err(why) = make(Deadline::now()) {
            assert_eq!(why, NoMemory::Unread { len: 70_000 });
            told.extend(read_all());
        }
        told.extend(read_all());
        let detached = told.iter().filter(|message| matches!(message, Message::Detach { .. })).count();
        assert_eq!((detached, told.len()), (made, made + 1), "{told:?}");
        // A segment is made in vain only when the socket turns out to be full: before the wait, and perhaps after what there was to unmap.
        let Some(&Message::Attach { segment }) = told.last() else { panic!("{told:?}") };
        assert!(segment <= made as u64 + 3, "{segment}");
    }
}
