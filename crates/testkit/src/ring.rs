//! Fuzz target: everything between what a child writes and what a caller gets: rings, blocks, boxes, announcements, control messages, in any order.

#![forbid(unsafe_code)]

use super::fake_child::{FakeChild, boxed, in_line, likely_loan_id, likely_word};
use super::input::{Input, mutate};
use super::types::{Sample, Tree};
use callgate::__codegen::{Own, Val};
use callgate_engine::caller::PendingCall;
use callgate_engine::control::Message;
use callgate_engine::service::Method;
use callgate_engine::watcher::{Reactive, Watched};
use callgate_os::mapping::Protection;
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::backing::heap::Heap;
use callgate_transport::commit::BlockRef;
use callgate_transport::doorbell::Deadline;
use callgate_transport::encode::encode_to_vec;
use callgate_transport::error::CallError;
use callgate_transport::layout::{EXPECTED, MARK, SlotLine};
use callgate_transport::reply::{ArchivedReply, Reply};
use callgate_transport::request::Request;
use callgate_transport::segment::{Block, Slots, Span};
use callgate_transport::shared_box::SharedBox;
use callgate_transport::validator::Checked;
use callgate_transport::viewable::Viewable;
use rkyv::Archived;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hint::black_box;
use std::sync::Arc;

/// The most steps in one run, of both sides together.
const MOST: usize = 400;

/// The most segments that the child asks for in one run. They stay on the heap until the run ends.
const SEGMENTS: usize = 12;

/// All of the parent's boxes are smaller than this, in bytes.
const BOX: usize = 9000;

static CALL: Method =
    Method { service: "Nothing", name: "call", index: 1, interface: None, idempotent: false, lends: false };

type ByteBox = SharedBox<[u8]>;

/// Lets child and parent act as the input says, step by step.
pub fn ring(data: &[u8]) {
    let mut input = Input::new(data);
    let mut play = Play::new();
    for _ in 0..MOST {
        if input.is_empty() || play.child.bridge.caller.peer.peer_status.is_over() {
            break;
        }
        play.step(&mut input);
        play.look();
    }
}

/// A call in progress, with the type that its caller expects.
enum AnyCall {
    Number(PendingCall<u64>),
    Text(PendingCall<String>),
    Bytes(PendingCall<Vec<u8>>),
    Map(PendingCall<HashMap<String, Vec<u8>>>),
    Tree(PendingCall<Tree>),
    View(PendingCall<ArchivedReply<Archived<Vec<String>>>>),
    Box(PendingCall<ByteBox>),
    Boxes(PendingCall<Vec<ByteBox>>),
}

struct Play {
    child: FuzzedChild,
    /// Calls in progress.
    calls: Vec<AnyCall>,
    /// The parent's boxes, each with the byte that fills it. No two may share memory.
    boxes: Vec<(ByteBox, u8)>,
    filled: u8,
}

impl Play {
    fn new() -> Self {
        Self { child: FuzzedChild::new(), calls: Vec::new(), boxes: Vec::new(), filled: 0 }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(20) {
            0..=9 => self.child.step(input),
            10 | 11 => self.call(input),
            12..=14 => self.poll(input),
            15 | 16 => self.follow(input),
            17 => self.make_box(input.below(256) * 37 % BOX),
            18 => self.change_box(input),
            _ => self.give_up(input),
        }
    }

    // ---- the parent ------------------------------------------------------------------------------------------------

    fn call(&mut self, input: &mut Input<'_>) {
        let at = input.below(self.boxes.len().max(1));
        let kind = input.below(8);
        let call = match input.below(6) {
            0 => self.begin(kind, (Own(input.word()),)),
            1 => self.begin(kind, (Own(Vec::<u8>::sample(input)),)),
            2 => self.begin(kind, (Own(vec![7u8; input.below(256) * 64]),)),
            3 if at < self.boxes.len() => {
                let (sent, _) = self.boxes.swap_remove(at);
                self.begin(kind, (Own(sent),))
            }
            4 if at < self.boxes.len() => self.begin(kind, (Val(&self.boxes[at].0),)),
            5 => {
                let sent: Vec<ByteBox> = self.boxes.drain(..at).map(|(sent, _)| sent).collect();
                self.begin(kind, (Own(sent),))
            }
            _ => return,
        };
        self.calls.push(call);
    }

    fn begin<A: Request>(&self, kind: usize, args: A) -> AnyCall {
        let caller = &self.child.bridge.caller;
        match kind {
            0 => AnyCall::Number(caller.begin(&CALL, args, None)),
            1 => AnyCall::Text(caller.begin(&CALL, args, None)),
            2 => AnyCall::Bytes(caller.begin(&CALL, args, None)),
            3 => AnyCall::Map(caller.begin(&CALL, args, None)),
            4 => AnyCall::Tree(caller.begin(&CALL, args, None)),
            5 => AnyCall::View(caller.begin(&CALL, args, None)),
            6 => AnyCall::Box(caller.begin(&CALL, args, None)),
            _ => AnyCall::Boxes(caller.begin(&CALL, args, None)),
        }
    }

    fn poll(&mut self, input: &mut Input<'_>) {
        let at = input.below(4);
        let Some(call) = self.calls.get_mut(at) else { return };
        // The reactor moves replies that nobody takes.
        if input.flag() {
            self.child.bridge.caller.react();
        }
        let is_over = match call {
            AnyCall::Number(call) => look_at(call.poll(None)),
            AnyCall::Text(call) => look_at(call.poll(None)),
            AnyCall::Bytes(call) => look_at(call.poll(None)),
            AnyCall::Map(call) => look_at(call.poll(None)),
            AnyCall::Tree(call) => look_at(call.poll(None)),
            AnyCall::View(call) => look_at_view(call.poll(None)),
            AnyCall::Box(call) => {
                let got = call.poll(None);
                got.is_some_and(|got| self.own(got.map(|one| vec![one])))
            }
            AnyCall::Boxes(call) => {
                let got = call.poll(None);
                got.is_some_and(|got| self.own(got))
            }
        };
        if is_over {
            self.calls.swap_remove(at);
        }
    }

    /// Copies a reply while the child writes it.
    fn follow(&mut self, input: &mut Input<'_>) {
        let at = input.below(2);
        let Some(call) = self.calls.get_mut(at) else { return };
        let mut turns = input.below(12);
        let child = &mut self.child;
        let mut write = || {
            child.step(input);
            turns = turns.saturating_sub(1);
            turns > 0
        };
        let is_over = match call {
            AnyCall::Bytes(call) => look_at(call.follow(&mut write)),
            AnyCall::Map(call) => look_at(call.follow(&mut write)),
            AnyCall::View(call) => look_at_view(call.follow(&mut write)),
            _ => false,
        };
        if is_over {
            self.calls.swap_remove(at);
        }
    }

    /// Keeps the boxes of a reply, which belong to the parent now. Returns true: the call is over.
    fn own(&mut self, got: Result<Vec<ByteBox>, CallError>) -> bool {
        for one in got.into_iter().flatten() {
            black_box(format!("{one:?}"));
            self.fill(one);
        }
        true
    }

    fn make_box(&mut self, len: usize) {
        let pool = self.child.bridge.caller.pool();
        if self.boxes.len() < 8
            && let Ok(new) = ByteBox::for_overwrite_at(Some(pool), len, Deadline::now())
        {
            self.fill(new);
        }
    }

    fn fill(&mut self, mut new: ByteBox) {
        self.filled = self.filled.wrapping_add(1);
        new.fill(self.filled);
        self.boxes.push((new, self.filled));
    }

    fn change_box(&mut self, input: &mut Input<'_>) {
        let at = input.below(8);
        if at < self.boxes.len() {
            let (old, _) = self.boxes.swap_remove(at);
            if input.flag() {
                self.fill(old);
            }
        }
    }

    /// Gives up a call, or does what the watcher and other callers do now and then.
    fn give_up(&mut self, input: &mut Input<'_>) {
        let caller = &self.child.bridge.caller;
        match input.below(6) {
            at @ 0..2 if at < self.calls.len() => drop(self.calls.swap_remove(at)),
            2 | 3 => caller.take_late_replies(),
            4 => drop(self.child.bridge.link.tidy()),
            _ => {}
        }
    }

    /// Checks that no box's contents changed: the child must not reach a box that belongs to the parent.
    fn look(&self) {
        for (own, filled) in &self.boxes {
            assert!(own.iter().all(|byte| byte == filled), "a box of {} bytes is another's too", own.len());
        }
    }
}

/// Formats the outcome of a call, if there is one. Returns whether the call is over.
fn look_at<R: Reply + Debug>(outcome: Option<Result<R, CallError>>) -> bool {
    outcome
        .map(|result| black_box(result.map_or_else(|error| error.to_string(), |value| format!("{value:?}"))))
        .is_some()
}

fn look_at_view<A: Checked + Viewable + Debug>(outcome: Option<Result<ArchivedReply<A>, CallError>>) -> bool
where
    ArchivedReply<A>: Reply,
{
    let text = outcome.map(|result| result.map_or_else(|error| error.to_string(), |held| format!("{:?}", held.get())));
    black_box(text).is_some()
}

// ---- the child -----------------------------------------------------------------------------------------------------

struct FuzzedChild {
    bridge: FakeChild,
    heap: Arc<Heap>,
    /// The reply rings.
    rings: [Slots; 2],
    /// Segments that the parent has granted.
    segments: Vec<u64>,
    asked: usize,
}

/// Kinds of frames: those of replies and a few others. Bit 7 says that the payload lies in a block.
const KINDS: [u64; 12] = [2, 2, 2, 2, 0x82, 0x82, 0x80, 5, 6, 7, 0x87, 0x85];

impl FuzzedChild {
    fn new() -> Self {
        let heap = Arc::new(Heap::default());
        let fake = FakeChild::new(heap.clone());
        let rings = [0, 1].map(|lane| fake.segment.replies(lane));
        Self { bridge: fake, heap, rings, segments: Vec::new(), asked: 0 }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(10) {
            0..=3 => self.reply(input),
            4 => self.scribble(input),
            5 => self.mark(input),
            6 => self.write_block(input),
            7 => self.say_held(input),
            _ => self.tell(input),
        }
    }

    /// The reply ring of either lane, and a position on it.
    fn slot(&self, input: &mut Input<'_>) -> (&Slots, u64) {
        let byte = input.byte();
        (&self.rings[usize::from(byte & 1)], u64::from(byte >> 1 & 3) + u64::from(byte >> 3 & 3))
    }

    /// Writes what looks like a reply: in the slot, in a block, or announced.
    fn reply(&self, input: &mut Input<'_>) {
        let (slots, position) = self.slot(input);
        let (line, kind) = (slots.line(position), KINDS[input.below(KINDS.len())]);
        let returns = if input.flag() { input.below(7) as u64 } else { 0 };
        line.call.store(returns << 32 | u64::from(returns != 0 || kind & 0x80 != 0), Relaxed);
        let len = if kind & 0x80 == 0 {
            let payload = self.payload(input);
            in_line(line, &payload);
            Span::of(&payload).first(payload.len().min(slots.capacity())).copy_into_for_test(slots.payload(position));
            // The true length, seven times out of eight.
            if input.below(8) == 0 { input.odd_word() & 0xff_ffff } else { payload.len() as u64 }
        } else {
            self.name_block(line, input);
            u64::from(input.byte() & 3)
        };
        line.commit.store((position + 1) << 32 | len << 8 | kind, Relaxed);
    }

    /// Names a block that is likely to exist, and says how much of it is final.
    fn name_block(&self, line: &SlotLine, input: &mut Input<'_>) {
        let segment = self.likely_segment(input);
        let (offset, len) = (u64::from(input.byte()) << 6, self.likely_len(input));
        BlockRef { segment, offset, len, loan_id: likely_loan_id(input) }.store(line);
        line.inline[MARK].store(self.likely_len(input), Relaxed);
        line.inline[EXPECTED].store(input.odd_word(), Relaxed);
    }

    fn likely_segment(&self, input: &mut Input<'_>) -> u64 {
        match input.below(5) {
            0 => input.odd_word(),
            at => self.segments.get(at - 1).or(self.segments.last()).copied().unwrap_or(1),
        }
    }

    fn likely_len(&self, input: &mut Input<'_>) -> u64 {
        if input.below(4) == 0 { input.odd_word() } else { u64::from(u16::from_le_bytes(input.array())) }
    }

    /// An archive, sometimes mutated, or arbitrary bytes.
    fn payload(&self, input: &mut Input<'_>) -> Vec<u8> {
        let archive = match input.below(12) {
            0 => encode_to_vec(&input.word(), 1 << 16),
            1 => encode_to_vec(&String::sample(input), 1 << 16),
            2 => encode_to_vec(&Vec::<u8>::sample(input), 1 << 16),
            3 => encode_to_vec(&HashMap::<String, Vec<u8>>::sample(input), 1 << 16),
            4 => encode_to_vec(&Tree::sample(input), 1 << 16),
            5 => encode_to_vec(&Vec::<String>::sample(input), 1 << 16),
            6 => encode_to_vec(&Vec::<u64>::sample(input), 1 << 16),
            7 | 8 => return boxed(&[self.name_box(input)]),
            9 => return boxed(&[self.name_box(input), self.name_box(input), self.name_box(input)]),
            10 => {
                let len = usize::from(input.byte());
                return input.bytes(len).to_vec();
            }
            _ => return Vec::new(),
        };
        let mut bytes = archive.map(|archive| archive.to_vec()).unwrap_or_default();
        mutate(&mut bytes, input);
        bytes
    }

    /// The words with which a box names its block: in the child's memory, or returned to the parent.
    fn name_box(&self, input: &mut Input<'_>) -> [u64; 4] {
        let loan_id = likely_loan_id(input);
        let len = self.likely_len(input);
        match input.below(3) {
            0 => [self.likely_segment(input), u64::from(input.byte()) << 6, len, loan_id],
            _ => [u64::MAX, 0, len, loan_id],
        }
    }

    /// Overwrites a word of a slot or of the lines beside the rings.
    fn scribble(&self, input: &mut Input<'_>) {
        let ((slots, position), word) = (self.slot(input), input.odd_word());
        let (line, segment) = (slots.line(position), &self.bridge.segment);
        match input.below(14) {
            0 => line.commit.store(word, Relaxed),
            1 => line.call.store(word, Relaxed),
            at @ 2..8 => line.inline[at - 2].store(word, Relaxed),
            8 => segment.callee_line(0).started.store(word, Relaxed),
            9 => segment.caller_line(0).released.store(word, Relaxed),
            10 => segment.caller_line(1).bell.cpu.store(word as u32, Relaxed),
            11 => segment.worker_line(0).lanes_in_use.store(word as u32, Relaxed),
            12 => segment.requests(0).line(position).commit.store(word, Relaxed),
            _ => segment.held_by_parent().words[input.below(8)].store(word, Relaxed),
        }
    }

    /// Changes how much of an announced reply is final, changes its length in the commit word, or takes it back.
    fn mark(&self, input: &mut Input<'_>) {
        let (slots, position) = self.slot(input);
        let line = slots.line(position);
        match input.below(4) {
            0 => line.commit.store(line.commit.load(Relaxed) & !0xff, Relaxed),
            1 => line.commit.store((position + 1) << 32 | u64::from(input.byte()) << 8 | 0x80, Relaxed),
            _ => line.inline[MARK].store(self.likely_len(input), Relaxed),
        }
    }

    /// Writes a payload into a segment that the parent has granted, so that it ends at the offset that the input says.
    fn write_block(&self, input: &mut Input<'_>) {
        let segment = self.likely_segment(input);
        let (payload, end) = (self.payload(input), usize::from(u16::from_le_bytes(input.array())));
        let Some(mapping) = self.heap.find(segment, Protection::ReadWrite).map(Arc::new) else { return };
        // A child can only read the parent's own segments.
        if !self.segments.contains(&segment) {
            return;
        }
        let whole = Block::new(&mapping, 0, mapping.len() as u64).expect("all of it");
        let start = end.saturating_sub(payload.len());
        if start + payload.len() <= mapping.len() {
            Span::of(&payload).copy_into_for_test(whole.span().after(start));
        }
    }

    fn say_held(&self, input: &mut Input<'_>) {
        let (index, word) = likely_word(input);
        self.bridge.segment.held_by_child().words[index].store(word, Relaxed);
    }

    fn tell(&mut self, input: &mut Input<'_>) {
        let len = u64::from(input.byte()) << 8;
        if input.below(4) == 0 {
            let segment = self.likely_segment(input);
            self.segments.retain(|given| *given != segment);
            self.bridge.tell(Message::Detach { segment });
        } else if self.asked < SEGMENTS && len > 0 {
            self.asked += 1;
            self.segments.extend(self.bridge.need(len).map(|(segment, _)| segment));
        }
    }
}

#[cfg(test)]
pub(super) fn seeds() -> Vec<Vec<u8>> {
    // Calls with a number, and with a box by value and by reference; a request for a segment.
    let (number, make) = ([10, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8], [17, 200]);
    let (by_value, by_reference) = ([10, 0, 3], [10, 0, 4]);
    let need = |pages: u8| [0, 8, pages, 1];
    // Replies at position 0 of lane 0: a number; a box returned under index 0; a payload in a block.
    let answer: &[u8] = &[0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0, 1];
    let says_home = [0, 7, 0, 1, 3, 0];
    let comes_home: &[u8] = &[0, 0, 0, 0, 1, 1, 7, 0, 1, 1, 100, 0, 1, 1];
    let in_block: &[u8] = &[0, 0, 0, 4, 0, 1, 0, 1, 64, 0, 0, 0, 1, 64, 0, 0, 0];
    let block: &[u8] = &[0, 6, 1, 2, 5, 1, 2, 3, 4, 5, 0, 64, 0];
    let announced: &[u8] = &[0, 0, 0, 6, 0, 1, 0, 1, 64, 0, 0, 0, 1, 16, 0, 0, 64];
    let poll = |kind: u8| [12, 0, kind];
    vec![
        [&number[..], answer, &poll(0)].concat(),
        [&make[..], &by_value, &says_home, comes_home, &poll(6)].concat(),
        [&make[..], &by_reference, &says_home, comes_home, &poll(6)].concat(),
        [&number[..], &need(16), block, in_block, &poll(2)].concat(),
        [&number[..], &need(16), announced, block, &[15, 0, 0, 3, 5, 0, 3, 1, 64, 0], in_block, &poll(2)].concat(),
        [&make[..], &make, &make, &[10, 2, 5], &says_home, comes_home, &poll(7)].concat(),
    ]
}
