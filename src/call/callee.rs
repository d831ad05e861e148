//! The callee: a child's workers, which take requests, run methods and publish replies.

#![forbid(unsafe_code)]

use super::host::{Alone, Host, Parallel};
use super::memory::PayloadMemory;
use super::panic;
use super::service::{Exchange, Service};
use crate::arena::Limits;
use crate::error::Fault;
use crate::failpoints::{self, Step};
use crate::frame::{Kind, Place};
use crate::handshake::{Hello, wait_from_code};
use crate::lane::WorkerLanes;
use crate::process::child::Serving;
use crate::segment::{Block, Segment};
use crate::shared_box;
use crate::signal::Bells;
use crate::stock::Room;
use crate::sys::mapping::Access;
use crate::trusted::TrustedParent;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

/// Exit code of a child that its parent's frames made no sense to.
pub(super) const CONFUSED: i32 = 71;

/// Bytes of stack of a worker beside the main thread: what that usually has. Only what is used is ever touched.
const STACK: usize = 8 << 20;

/// Serves `T` to the parent with one worker, this thread, until told to stop. Never returns.
pub(crate) fn serve<T: Service>(serving: Serving) -> ! {
    let host = Alone::<T>::new(serving.parent);
    Callee::start(serving).worker(0, host).run()
}

/// Serves `T` to the parent with as many workers as it asks for, of which this thread is one, until told to stop. Never returns.
pub(crate) fn serve_parallel<T: Service + Send + Sync>(serving: Serving) -> ! {
    if serving.segment.geometry().workers == 1 {
        serve::<T>(serving);
    }
    let host = Parallel::<T>::new(serving.parent);
    let callee = Callee::start(serving);
    thread::scope(|scope| {
        for index in 1..callee.segment.geometry().workers {
            let worker = callee.worker(index, &host);
            let thread = thread::Builder::new().name(callee.worker_name(index)).stack_size(STACK);
            if let Err(error) = thread.spawn_scoped(scope, || worker.run_or_end()) {
                eprintln!("callgate: child {} ends: starting worker {index}: {error}", std::process::id());
                std::process::exit(CONFUSED);
            }
        }
        // This thread builds the service and drops it: both are asked for on lane 0.
        callee.worker(0, &host).run_or_end()
    })
}

/// What the workers of a child have in common.
pub(crate) struct Callee {
    segment: Segment,
    bells: Bells,
    hello: Hello,
    parent: TrustedParent,
    memory: Arc<PayloadMemory>,
}

impl Callee {
    fn start(serving: Serving) -> Self {
        let Serving { control, segment, objects, bells, hello, parent } = serving;
        panic::install_hook();
        let limits = Limits { max_payload: hello.max_payload, retained: hello.retained };
        let access = if hello.trusted { Access::ReadWrite } else { Access::ReadOnly };
        let memory = PayloadMemory::new(control, objects, &segment, limits, access);
        memory.start_reader();
        shared_box::settle_here(memory.clone());
        failpoints::reach(Step::ChildReady);
        Self { segment, bells, hello, parent, memory }
    }

    /// The worker `index`, which carries out with `host` what is asked on its lanes.
    fn worker<H: Host>(&self, index: u32, host: H) -> Worker<H> {
        let lanes = WorkerLanes::new(&self.segment, index, &self.bells, wait_from_code(self.hello.wait));
        Worker { lanes, memory: self.memory.clone(), parent: self.parent, host }
    }

    /// The main thread's name and the worker's number, which a listing of 15 bytes shows both.
    fn worker_name(&self, index: u32) -> String {
        let name: String = self.hello.name.chars().filter(|&char| char != '\0').collect();
        let number = format!(" {index}");
        format!("{}{number}", &name[..name.floor_char_boundary(15 - number.len())])
    }
}

/// One thread that takes the requests of its lanes, carries them out and answers them.
pub(crate) struct Worker<H> {
    lanes: WorkerLanes,
    memory: Arc<PayloadMemory>,
    parent: TrustedParent,
    host: H,
}

#[cfg(all(test, not(loom)))]
impl<H: Host> Worker<H> {
    /// The worker `index`, which a test runs in the caller's own process.
    pub(crate) fn in_process(
        segment: &Segment,
        index: u32,
        wait: crate::doorbell::Wait,
        control: crate::control::Control,
        host: H,
    ) -> Self {
        let bells = Bells::futexes(crate::signal::Count::of(&segment.geometry()));
        let lanes = WorkerLanes::new(segment, index, &bells, wait);
        let limits = Limits { max_payload: 1 << 20, retained: 1 << 20 };
        let memory = PayloadMemory::new(control, Arc::new(crate::objects::Sealed), segment, limits, Access::ReadOnly);
        Self { lanes, memory, parent: TrustedParent::of_itself(), host }
    }

    /// The addresses of what the worker keeps of each of its lanes.
    #[cfg(debug_assertions)]
    pub(crate) fn private_memory(&self) -> Vec<std::ops::Range<usize>> {
        self.lanes.private_memory()
    }
}

impl<H: Host> Worker<H> {
    fn run(mut self) -> ! {
        loop {
            let kind = self.serve_next();
            if kind == Kind::Stop {
                failpoints::reach(Step::ChildExiting);
                // Flushes what the service printed and runs its exit handlers; the reply has been published.
                std::process::exit(0);
            }
        }
    }

    /// As [`run`](Self::run). A panic outside of a method, which is an error in callgate, ends the process: the other threads
    /// would live on, and this one's callers wait for ever.
    fn run_or_end(self) -> ! {
        let _ = catch_unwind(AssertUnwindSafe(|| self.run()));
        std::process::exit(CONFUSED);
    }

    /// Waits for a request and answers it. Returns its kind.
    #[inline(always)]
    pub(crate) fn serve_next(&mut self) -> Kind {
        let place = self.lanes.wait();
        self.serve_one(place)
    }

    /// Takes, carries out and answers the request on the lane at `place`. Returns its kind.
    #[inline(always)]
    fn serve_one(&mut self, place: usize) -> Kind {
        failpoints::reach(Step::ChildRequestSeen);
        let (frame, slot) = match self.lanes.lane(place).begin() {
            Ok(Some(request)) => request,
            Ok(None) => confused("a request that was taken back"),
            Err(what) => confused(what),
        };
        failpoints::reach(Step::ChildStarted);
        let (kind, call) = (frame.commit.kind, frame.call);
        let block = match frame.commit.place {
            Place::Slot(_) => None,
            Place::Block(block) => Some(self.memory.request_block(block)),
        };
        let span = block.as_ref().map_or(frame.payload, Block::span);
        let room = &Room { home: &*self.memory, wait: None };
        let came_home = room.home.welcome(call);
        let request = self.parent.request(span);
        let mut exchange = Exchange { slot, room, request, call, replied: None };
        let result = panic::catch(|| self.host.carry_out(kind, &mut exchange));
        if let Err(fault) = result {
            reply_fault(&mut exchange, &fault);
        }
        if exchange.replied.is_none() {
            exchange.refuse("the child's dispatch gave no reply");
        }
        let reply = exchange.replied.unwrap_or(Kind::Refused);
        room.home.forget(came_home);
        failpoints::reach(Step::ChildReplyWritten);
        if exchange.slot.carries() {
            let departed = exchange.slot.depart_slow(room);
            let lane = self.lanes.lane(place);
            self.memory.publishing(lane.index(), lane.position(), departed.carried);
            failpoints::reach(Step::ChildReplyDeparted);
            lane.publish(reply, departed.call, departed.place);
        } else {
            let len = exchange.slot.len();
            self.lanes.lane(place).publish(reply, 0, Place::Slot(len));
        }
        failpoints::reach(Step::ChildPublished);
        kind
    }
}

#[cold]
fn reply_fault(exchange: &mut Exchange<'_>, fault: &Fault) {
    exchange.reply(Kind::Fault, fault);
}

/// The parent is trusted, so this is an error in callgate; going on would run something that nobody asked for.
#[cold]
pub(super) fn confused(what: &str) -> ! {
    eprintln!("callgate: child {} ends: its parent sent {what}", std::process::id());
    std::process::exit(CONFUSED);
}
