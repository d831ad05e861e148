//! What a peer can take of this process: a child, the other side of a pair, a client of a hub.
//!
//! # Reading a frame
//!
//! | resource | who can take it | bound | what counts it | until when |
//! |---|---|---|---|---|
//! | stack: nested pointers | whoever writes the frame | [`MAX_DEPTH`] | `validator/bounds.rs` | the frame is read |
//! | stack: nested lists and maps | a child, a pair, a client | [`MAX_VALUE_DEPTH`] | the reader of a value | the value is read |
//! | time: elements without size | whoever writes the frame | [`ZERO_SIZED`] | `validator/zst_budget.rs` | the frame is validated |
//! | memory: pairs of pointer and count noted | whoever writes the frame | [`MAX_PAIRS`] | `validator/zst_budget.rs` | the frame is validated |
//! | memory: marks | whoever writes the frame | [`MAX_MARKS`] | `validator/marks.rs` | the frame is validated |
//! | time: addresses searched for | whoever writes the frame | [`MAX_TARGETS`] | `validator/marks.rs` | the frame is validated |
//! | time: copies made to ask about endless tables | whoever writes the frame | [`TABLE_ROUNDS`] | `validator/tables.rs` | the frame is validated |
//! | time: apparent endless tables | whoever writes the frame | [`MAX_TABLES`] | `validator/tables.rs` | the frame is validated |
//! | time past a deadline: bytes | whoever writes the frame | [`BYTES_A_LOOK`] | `reading.rs` | the next look at the clock |
//! | time past a deadline: parts | whoever writes the frame | [`PARTS_A_LOOK`] | `validator.rs` | the next look at the clock |
//!
//! # Memory
//!
//! | resource | who can take it | bound | what counts it | until when |
//! |---|---|---|---|---|
//! | lent blocks | either side | [`LOANS`] | `loans.rs` | the block returns |
//! | segments | a child, for each side | [`MAX_SEGMENTS`] | `engine/link.rs` | nobody has the segment |
//! | time waiting for released memory | a child | [`RELEASE_TIMEOUT`] | `engine/account.rs` | the memory is released |
//! | time of an allocation without a deadline | a child | [`UNREAD`] | `engine/link/pool.rs` | the child reads its control socket |
//! | private memory for copies | a child | [`COPY_KEPT`] | `copy_buffer.rs` | the thread ends |
//! | private memory for copies | the other side of a pair | [`PAIR_COPY_KEPT`] | `engine/pair/remote_caller.rs` | the pair ends |
//! | text of last words | a child | [`LAST_WORDS`] | `engine/last_words.rs` | the error is dropped |
//!
//! # Messages
//!
//! | resource | who can take it | bound | what counts it | until when |
//! |---|---|---|---|---|
//! | messages at once | a child | [`BURST`] | the credit in `os/toll.rs` | credit grows |
//! | messages in a spell | a child | [`MESSAGES`] | the credit in `os/toll.rs` | the spell ends |
//! | length of a spell | a child | `callgate_os::toll::SPELL` | `os/toll.rs` | the spell ends |
//! | time of a usual message | a child, a client | `callgate_os::toll::MESSAGE` | `os/toll.rs` | credit grows |
//! | time of a message before it weighs more | a child, a client | `callgate_os::toll::LONG` | `os/toll.rs` | credit grows |
//! | weight of time beyond that | a child, a client | `callgate_os::toll::WEIGHT` | `os/toll.rs` | credit grows |
//! | spells of debt | a child, a client | `callgate_os::toll::MOST_OWED` | `os/toll.rs` | the debt is paid |
//! | time of a slow call, twice | a child, a client | `callgate_os::toll::SLOW` | `os/toll.rs` | the peer is removed |
//! | time between two slow calls | a child, a client | `callgate_os::toll::AGAIN_WITHIN` | `os/toll.rs` | it has passed |
//! | time of a slow call, once | a child, a client | `callgate_os::toll::FAR_TOO_SLOW` | `os/toll.rs` | the peer is removed |
//! | threads that close | any peer | `callgate_os::close::MOST_THREADS` | `os/close.rs` | the close returns |
//! | time before another thread closes | any peer | `callgate_os::close::STUCK` | `os/close.rs` | the close returns |
//! | text in a handshake | a child | [`MAX_TEXT`] | `engine/handshake.rs` | the handshake ends |
//! | body of a handshake | a child | [`MAX_BODY`] | `engine/handshake.rs` | the handshake ends |
//!
//! # Calls
//!
//! | resource | who can take it | bound | what counts it | until when |
//! |---|---|---|---|---|
//! | nested calls | the other side of a pair | [`MAX_NESTED`] | `engine/nest.rs` | the call returns |
//! | open streams of a worker | the calling side | [`MAX_STREAMS`] | `engine/streams.rs` | the stream ends or is dropped |
//! | items asked for ahead | a child | [`MAX_AHEAD`] | `engine/caller/stream.rs` | the item is taken |
//! | needless wakes | either side | [`MAX_SPURIOUS`] | `doorbell.rs` | the wait ends |
//!
//! # A hub
//!
//! | resource | who can take it | bound | what counts it | until when |
//! |---|---|---|---|---|
//! | memory of its pairs | a client | what `HubOptions::memory_per_client` says | `manager/hub/pairs.rs` | nobody has the segment |
//! | threads of an owner | a caller | what `HubOptions::concurrent_calls` says | `engine/pair.rs` | the pair ends |
//! | bytes of a message | a client, a hub | [`hub::MAX_MESSAGE`] | `manager/protocol.rs` | the message is handled |
//! | bytes of a name | a client | [`hub::MAX_NAME`] | `manager/protocol.rs` | the name is free |
//! | bytes of a signature | a client | [`hub::MAX_SIGNATURE`] | `manager/protocol.rs` | the name is free |
//! | bytes of entries in a list message | a client | [`hub::MAX_LIST`] | `manager/hub/registry.rs` | the message is sent |
//! | places | all holders of the key | [`hub::MAX_CLIENTS`] | `manager/hub/options.rs` | the client ends |
//! | places before the key is shown | anyone who connects | [`hub::MAX_GUESTS`] | `manager/hub/event_loop/admission.rs` | the handshake ends |
//! | connections | a process | [`hub::MAX_OF_PROCESS`] | `manager/hub/event_loop/admission.rs` | the connection ends |
//! | time out of the hub | a slow process | [`hub::BARRED`] | `manager/hub/event_loop/admission.rs` | it has passed |
//! | memory: barred processes | all clients | [`hub::MAX_BARRED`] | `manager/hub/event_loop/admission.rs` | the bar has passed |
//! | time without new connections | whoever takes all descriptors | [`hub::DEAF`] | `manager/hub/event_loop.rs` | it has passed |
//! | messages at once | a process | [`hub::BURST`] | `manager/hub/credits.rs` | credit grows |
//! | messages in a spell | a process | [`hub::MESSAGES`] | `manager/hub/credits.rs` | the spell ends |
//! | memory: credits | all processes | [`hub::MAX_CREDITS`] | `manager/hub/credits.rs` | the credit is full again |
//! | messages in a row | a connection | [`hub::TURN`] | `manager/hub/event_loop.rs` | the turn ends |
//! | messages after the end | the heir of a socket | [`hub::MAX_LAST`] | `manager/hub/event_loop/messages.rs` | the connection ends |
//! | bytes for the price of a message | a process | [`hub::LONG`] | `manager/hub/event_loop/messages.rs` | credit grows |
//! | cost of a list message | a process | [`hub::LIST`] | `manager/hub/event_loop/names.rs` | credit grows |
//! | cost of an introduction | a process | [`hub::INTRODUCTION`] | `manager/hub/event_loop/introductions.rs` | credit grows |
//! | cost of a segment | a process | [`hub::GRANT`] | `manager/hub/pairs.rs` | credit grows |
//! | bytes of unread answers | a client | [`hub::MAX_QUEUED`] | `manager/hub/connection.rs` | the client reads them |
//! | unread answers | a client | [`hub::MAX_QUEUED_MESSAGES`] | `manager/hub/connection.rs` | the client reads them |
//! | unread answers with descriptors | a client | [`hub::MAX_QUEUED_INTRODUCTIONS`] | `manager/hub/connection.rs` | the client reads them |
//! | unfinished lists | a client | [`hub::MAX_LISTS`] | `manager/hub/event_loop/names.rs` | the list is sent |
//! | time of a count | an owner | [`hub::COUNT_TIMEOUT`] | `manager/hub/call_counts.rs` | the round ends |
//! | names | a client | [`hub::MAX_NAMES_OF_CLIENT`] | `manager/hub/registry.rs` | the name is free |
//! | names | all clients | [`hub::MAX_NAMES`] | `manager/hub/registry.rs` | the name is free |
//! | locks and semaphores | all clients | [`hub::MAX_LOCKS`] | `manager/hub/locks.rs` | nobody holds or wants it |
//! | permits | a client | [`hub::MAX_PERMITS`] | `manager/hub/locks.rs` | the permit is released |
//! | time to map the first segment | a side of a pair | [`hub::READY_TIMEOUT`] | `manager/hub/event_loop/introductions.rs` | the introduction ends |
//! | questions that wait for pairs | a client | [`hub::MAX_RESOLVING`] | `manager/hub/event_loop/introductions.rs` | the question is answered |
//! | introductions | a process | [`hub::OF_PROCESS`] | `manager/hub/rates.rs` | the count is full again |
//! | introductions to one owner | all processes | [`hub::OF_OWNER`] | `manager/hub/rates.rs` | the count is full again |
//! | memory: counts of introductions | all processes | [`hub::MAX_COUNTS`] | `manager/hub/rates.rs` | the count is full again |
//! | segments | a client | [`hub::MAX_SEGMENTS`] | `manager/hub/pairs.rs` | nobody has the segment |
//! | segments | a side of a pair | [`hub::MAX_SEGMENTS_OF_SIDE`] | `manager/hub/pairs.rs` | nobody has the segment |
//! | objects beyond those in use | two processes | [`hub::MAX_OBJECTS_OF_TWO`] | `manager/hub/pairs.rs` | nobody has the object |
//! | time waiting for released memory | a side of a pair | [`hub::RELEASE_TIMEOUT`] | `manager/hub/pairs/memory.rs` | the memory is released |

#![forbid(unsafe_code)]

use std::time::Duration;

/// Levels of pointers in a frame.
pub const MAX_DEPTH: usize = 256;
/// Levels of lists and maps in a value that crosses.
pub const MAX_VALUE_DEPTH: usize = 100;
/// Elements without size that any frame may have.
pub const ZERO_SIZED: usize = 1 << 16;
/// Pairs noted at a time (256 MiB); no more than lie in the frame side by side, or [`ZERO_SIZED`], if that is fewer.
pub const MAX_PAIRS: usize = 1 << 24;
/// Marks in a frame (some 100 bytes of memory each), and objects searched for some.
pub const MAX_MARKS: usize = 1 << 17;
/// Addresses searched for: those of pairs with elements, in what is searched for pairs without.
pub const MAX_TARGETS: usize = 1 << 20;
/// Copies of a frame made to ask about endless tables.
pub const TABLE_ROUNDS: usize = 16;
/// Apparent endless tables in a frame, for the time that it takes to sort them.
pub const MAX_TABLES: usize = 1 << 18;
/// Bytes copied between two looks at the clock: some hundred microseconds, for memory that has never been touched.
pub const BYTES_A_LOOK: usize = 1 << 20;
/// Parts validated between two looks at the clock: some tens of microseconds.
pub const PARTS_A_LOOK: u32 = 1 << 12;

/// Blocks that one side may have lent to the other at a time; under loom, enough for the models.
pub const LOANS: usize = if cfg!(loom) { 2 } else { 1024 };
/// Segments of each side of a bridge at a time, whatever their size.
pub const MAX_SEGMENTS: usize = 4096;
/// Time that a call waits for segments that are being released: a healthy peer unmaps them at once.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an allocation without a deadline waits for a child that does not read its control socket.
pub const UNREAD: Duration = Duration::from_secs(1);
/// Bytes of a thread's memory for copies that it keeps.
pub const COPY_KEPT: usize = 1 << 20;
/// Bytes that a pair's lane keeps for copies of requests between two calls.
pub const PAIR_COPY_KEPT: usize = 256 << 10;
/// Words, of 8 bytes, of a child's last words.
pub const LAST_WORDS: usize = 255;

/// Messages of a child read at once: a healthy child asks for one segment after the other, and gives back what it got.
pub const BURST: u32 = 1024;
/// Messages of a child added in each spell, so that a flood takes at most a tenth of a CPU.
pub const MESSAGES: u32 = 64;
/// Bytes in a message of a handshake.
pub const MAX_TEXT: usize = 4096;
/// Bytes in the body of an answer.
pub const MAX_BODY: usize = 16 << 10;

/// Levels of nested calls.
pub const MAX_NESTED: u32 = 64;
/// Streams that a worker keeps open.
pub const MAX_STREAMS: usize = 1024;
/// Items of a stream that its caller asks for before it takes them.
pub const MAX_AHEAD: u32 = 16;
/// Spurious wakes in one wait after which the waiter no longer trusts the shared word, and naps between looks.
pub const MAX_SPURIOUS: u32 = 64;

/// The bounds of a hub, and of its messages.
pub mod hub {
    use std::time::Duration;

    /// Bytes in a message.
    pub const MAX_MESSAGE: usize = 64 << 10;
    /// Bytes in the name of a callback, lock or semaphore.
    pub const MAX_NAME: usize = 255;
    /// Bytes in a signature.
    pub const MAX_SIGNATURE: usize = 4096;
    /// Bytes of entries in one message of a list, as `NameInfo::weight` and `Counters::WEIGHT` count them: so that it fits into [`MAX_MESSAGE`].
    pub const MAX_LIST: usize = MAX_MESSAGE / 4 * 3;

    /// Clients: the upper limit of `max_clients`.
    pub const MAX_CLIENTS: u32 = 1024;
    /// Guests. One more drops the oldest.
    pub const MAX_GUESTS: usize = 64;
    /// Connections of one process, which needs only a few: so that it cannot take all names, locks and connections.
    pub const MAX_OF_PROCESS: usize = 12;
    /// Time that a process is barred that has made its connection slow.
    pub const BARRED: Duration = Duration::from_secs(60);
    /// Processes barred at a time.
    pub const MAX_BARRED: usize = 1024;
    /// Time that the hub accepts no connections after it has run out of descriptors.
    pub const DEAF: Duration = Duration::from_millis(50);

    /// Messages of a process handled at once.
    pub const BURST: u32 = 4096;
    /// Messages added in each spell, or as long as those take, so that a process that floods the hub takes only a part of a CPU.
    pub const MESSAGES: u32 = 256;
    /// Credits kept. Beyond it, credits that are full again are dropped.
    pub const MAX_CREDITS: usize = 4096;
    /// Messages of one connection handled in a row before the others have their turn.
    pub const TURN: usize = 16;
    /// Messages handled after a client's process has ended: another process may have inherited its socket.
    pub const MAX_LAST: u32 = 1024;
    /// Bytes of a message that cost as much as another message.
    pub const LONG: usize = 1024;
    /// Messages that one message of a list costs: it is made and sent.
    pub const LIST: u32 = 16;
    /// Messages that an introduction costs: memory and sockets are made for a pair.
    pub const INTRODUCTION: u32 = 16;
    /// Messages that making a segment costs.
    pub const GRANT: u32 = 16;

    /// Bytes in a send queue.
    pub const MAX_QUEUED: usize = 1 << 20;
    /// Messages in a send queue.
    pub const MAX_QUEUED_MESSAGES: usize = 4096;
    /// Queued messages with descriptors, which count as the hub's own while they wait.
    pub const MAX_QUEUED_INTRODUCTIONS: usize = 32;
    /// Lists that one client waits for.
    pub const MAX_LISTS: usize = 16;
    /// Time that a round of counting waits for its owners.
    pub const COUNT_TIMEOUT: Duration = Duration::from_millis(500);

    /// Names of one client.
    pub const MAX_NAMES_OF_CLIENT: usize = 4096;
    /// Names in all.
    pub const MAX_NAMES: usize = 65_536;
    /// Locks and semaphores.
    pub const MAX_LOCKS: usize = 4096;
    /// Permits that one client holds or waits for: a small part of all, so that one client cannot take them all.
    pub const MAX_PERMITS: usize = 256;

    /// Time that two introduced processes may take to map their first segment.
    pub const READY_TIMEOUT: Duration = Duration::from_secs(5);
    /// Questions of one client that wait for pairs.
    pub const MAX_RESOLVING: usize = 256;
    /// Introductions of one process, over all its connections: at once, and then in a second.
    pub const OF_PROCESS: (u32, u32) = (1024, 64);
    /// Introductions to one owner, by all processes together: at once, and then in a second. Each costs it a mapping and descriptors.
    pub const OF_OWNER: (u32, u32) = (4096, 256);
    /// Counts of introductions kept. Beyond it, counts that are full again are dropped.
    pub const MAX_COUNTS: usize = 4096;

    /// Segments made for one client to write, whatever their size; and those made for it to read.
    pub const MAX_SEGMENTS: usize = 4096;
    /// Segments for one side of a pair. Each costs the other side a mapping; the kernel allows a process some 65,000.
    pub const MAX_SEGMENTS_OF_SIDE: usize = 64;
    /// Objects that two processes may keep beyond those in use, of what one writes for the other. Each counts for both, so a process that keeps
    /// everything must leave the other some for its other peers.
    pub const MAX_OBJECTS_OF_TWO: usize = MAX_SEGMENTS / 8;
    /// Time that a request waits for memory that is being released.
    pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
}
