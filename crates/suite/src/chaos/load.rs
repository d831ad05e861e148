//! Children killed, stopped and continued at random moments, while threads call them.
//!
//! The calls come in parts. After each, no child is left, and then it is checked that nothing else is left either, and that every call was
//! reported as it went.

#![forbid(unsafe_code)]

use super::ledger::{self, CallEntry, CallOutcome, Outcomes, RunLedger};
use super::processes::{Held, Holdings, children};
use super::victim::{Comeback, Setup, Victim, VictimKind};
use crate::BoxError;
use crate::soak::Random;
use callgate::{Bridge, Builder, StartError, Wait};
use rustix::process::Signal;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many parts the kills come in.
pub const PARTS: u64 = 10;

/// A call, a start or a stop that takes longer hangs: whatever happens to the child is over long before that.
const HANGS: Duration = Duration::from_secs(60);

/// The longest large payload, in bytes.
const MOST: usize = 1 << 20;

/// Callers to a bridge.
const CALLERS: usize = 3;

/// The parameters of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos {
    /// How many children are to be killed.
    pub kills: u64,
    /// Which random kills and calls.
    pub seed: u64,
    /// How many threads call; three share a bridge.
    pub threads: usize,
    /// When to stop, however many have been killed.
    pub limit: Option<Duration>,
    /// Whether bridges restart their children themselves, half of them with spare ones. Else whoever finds one over starts another.
    pub restart: bool,
}

/// What it came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Children killed while they lived.
    pub kills: u64,
    /// How many of them were killed while they were stopped.
    pub kills_of_stopped: u64,
    /// Children stopped, and continued.
    pub pauses: u64,
    /// Bridges started.
    pub starts: u64,
    /// Starts that failed because the child was killed.
    pub failed_starts: u64,
    /// Deaths after which a bridge started another child itself.
    pub restarts: u64,
    /// Bridges that their callers stopped or killed while others called.
    pub retired: u64,
    /// Calls, by the outcome that their callers got.
    pub outcomes: Outcomes,
    /// The longest time from the kill of a child to the end of a call that was under way then, in milliseconds.
    pub worst_ms: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What was left behind: nothing.
    pub leaks: Vec<String>,
    /// What was wrong: nothing.
    pub wrong: Vec<String>,
}

impl Tally {
    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// What is wrong, if anything is.
    pub fn verdict(&self) -> Result<(), BoxError> {
        let all: Vec<_> = self.wrong.iter().chain(&self.leaks).take(20).map(String::as_str).collect();
        if all.is_empty() { Ok(()) } else { Err(all.join("\n").into()) }
    }

    fn add(&mut self, other: Self) {
        self.kills += other.kills;
        self.kills_of_stopped += other.kills_of_stopped;
        self.pauses += other.pauses;
        self.starts += other.starts;
        self.failed_starts += other.failed_starts;
        self.restarts += other.restarts;
        self.retired += other.retired;
        other.outcomes.into_iter().for_each(|(outcome, count)| *self.outcomes.entry(outcome).or_default() += count);
        self.worst_ms = self.worst_ms.max(other.worst_ms);
        self.leaks.extend(other.leaks);
        self.wrong.extend(other.wrong);
    }
}

impl Chaos {
    /// Does it. Tells `each` what it has come to after every part, and returns what it came to in the end, good or bad.
    ///
    /// # Errors
    ///
    /// If something hangs, or could not be tried: what is wrong otherwise is in the result.
    pub fn run(&self, each: &mut dyn FnMut(&Tally)) -> Result<Tally, BoxError> {
        warm_up(self.restart.then_some(Comeback { spare: true, calls_wait: true }))?;
        let (begin, before) = (Instant::now(), Holdings::now());
        let deadline = self.limit.map(|limit| begin + limit);
        let mut sum = Tally::default();
        for part in 0..PARTS {
            let kills = self.kills * (part + 1) / PARTS - self.kills * part / PARTS;
            let mut tally = LoadPart::run(self, kills, self.seed.wrapping_add(part << 32), deadline)?;
            tally.leaks = Holdings::grown_since(&before);
            sum.add(tally);
            sum.seconds = begin.elapsed().as_secs_f64();
            each(&sum);
            let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            if is_late || sum.verdict().is_err() {
                break;
            }
        }
        Ok(sum)
    }
}

/// Has everything made that stays for as long as the process: the watcher, its descriptors.
pub(super) fn warm_up(restart: Option<Comeback>) -> Result<(), BoxError> {
    let ledger = RunLedger::new()?;
    let setup = Setup { workers: 1, wait: Wait::Adaptive, trusted: false, retained: 1 << 20, restart };
    setup.builder(&ledger.path(), "").start()?.stop()?;
    Ok(())
}

/// What the threads of one part share.
struct LoadPart {
    ledger: RunLedger,
    seed: u64,
    /// Whether bridges restart their children themselves.
    restart: bool,
    restarts: Arc<AtomicU64>,
    /// Set when enough children have been killed.
    over: AtomicBool,
    fronts: Vec<Front>,
    /// When the children were killed that have been, by their numbers.
    killed: Mutex<HashMap<u32, Instant>>,
    tally: Mutex<Tally>,
    began: Instant,
    /// When each thread began what it does now, in microseconds since `began`; 0 = nothing.
    busy_since: Vec<AtomicU64>,
}

impl LoadPart {
    /// Calls and kills. No child is left after it.
    fn run(plan: &Chaos, kills: u64, seed: u64, deadline: Option<Instant>) -> Result<Tally, BoxError> {
        let threads = plan.threads;
        let fronts = (0..threads.div_ceil(CALLERS)).map(|_| Front::default()).collect();
        let part = Arc::new(Self {
            ledger: RunLedger::new()?,
            seed,
            restart: plan.restart,
            restarts: Arc::default(),
            over: AtomicBool::new(false),
            fronts,
            killed: Mutex::default(),
            tally: Mutex::default(),
            began: Instant::now(),
            busy_since: (0..threads).map(|_| AtomicU64::new(0)).collect(),
        });
        let caller = |index| {
            let part = part.clone();
            thread::spawn(move || LoadThread::new(&part, index).run())
        };
        let callers: Vec<_> = (0..threads).map(caller).collect();
        part.kill_and_watch(kills, deadline)?;
        part.over.store(true, Relaxed);
        while callers.iter().any(|caller| !caller.is_finished()) {
            part.look_for_hangs()?;
            thread::sleep(Duration::from_millis(1));
        }
        let mut entries = Vec::new();
        for caller in callers {
            entries.extend(caller.join().map_err(|_| "a calling thread panicked")?);
        }
        part.close(&entries)
    }

    /// Kills, stops and continues children until it has killed `kills`.
    fn kill_and_watch(&self, kills: u64, deadline: Option<Instant>) -> Result<(), BoxError> {
        let mut random = Random(self.seed ^ 0xdead);
        let is_late = || deadline.is_some_and(|deadline| deadline <= Instant::now());
        while self.tally().kills < kills && !is_late() {
            // Sometimes at once after the last, so that starts are hit too, and sometimes when calls are in full swing.
            let most = [100, 2_000, 12_000][random.up_to(2)];
            thread::sleep(Duration::from_micros(random.up_to(most) as u64));
            self.look_for_hangs()?;
            if let Some(child) = Held::any(|count| random.up_to(count.saturating_sub(1))) {
                self.harm(&child, &mut random);
            }
        }
        Ok(())
    }

    fn harm(&self, child: &Held, random: &mut Random) {
        let kind = random.up_to(9);
        if kind >= 7 {
            child.signal(Signal::STOP);
            thread::sleep(Duration::from_micros(random.up_to(3_000) as u64));
        }
        if kind >= 8 {
            child.signal(Signal::CONT);
            self.tally().pauses += 1;
            return;
        }
        // First, so that nobody learns of the end before it is known when it came.
        self.killed().insert(child.pid, Instant::now());
        if child.signal(Signal::KILL) {
            let mut tally = self.tally();
            tally.kills += 1;
            tally.kills_of_stopped += u64::from(kind == 7);
        }
    }

    fn look_for_hangs(&self) -> Result<(), BoxError> {
        let now = self.now();
        let since = |busy: &AtomicU64| Some(busy.load(Relaxed)).filter(|&since| since != 0);
        let longest = self.busy_since.iter().filter_map(since).map(|since| now.saturating_sub(since)).max();
        if longest.is_some_and(|micros| Duration::from_micros(micros) > HANGS) {
            return Err(format!("a call, a start or a stop hangs: not done within {HANGS:?}").into());
        }
        Ok(())
    }

    /// Counts how often the bridge comes back.
    fn counted(&self, builder: Builder<Victim>) -> Builder<Victim> {
        let restarts = self.restarts.clone();
        builder.on_death(move |death| {
            restarts.fetch_add(u64::from(death.restarting), Relaxed);
        })
    }

    /// Microseconds since the part began, and at least 1.
    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64 + 1
    }

    /// Ends all bridges, and compares what was reported with what ran.
    fn close(&self, entries: &[CallEntry]) -> Result<Tally, BoxError> {
        self.fronts.iter().for_each(|front| drop(front.bridge().take()));
        let mut tally = std::mem::take(&mut *self.tally());
        if let left @ 1.. = children().len() {
            // The ledger is of no use before they are gone.
            tally.leaks.push(format!("{left} children after all bridges have been dropped"));
        }
        tally.restarts = self.restarts.load(Relaxed);
        tally.wrong.extend(self.ledger.judge(entries)?);
        ledger::add_up(entries, &mut tally.outcomes);
        Ok(tally)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn killed(&self) -> MutexGuard<'_, HashMap<u32, Instant>> {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bridge that some callers share, and its successors: whoever finds that it is over replaces it.
#[derive(Default)]
struct Front(Mutex<Option<Arc<Bridge<Victim>>>>);

impl Front {
    fn bridge(&self) -> MutexGuard<'_, Option<Arc<Bridge<Victim>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bridge; one that is started now, if the last is `over`, or there was none.
    fn current(&self, over: Option<&Arc<Bridge<Victim>>>, caller: &mut LoadThread<'_>) -> Arc<Bridge<Victim>> {
        let mut bridge = self.bridge();
        match &*bridge {
            Some(current) if !over.is_some_and(|over| Arc::ptr_eq(over, current)) => current.clone(),
            _ => {
                let new = Arc::new(caller.start());
                *bridge = Some(new.clone());
                new
            }
        }
    }
}

/// One thread that calls.
struct LoadThread<'a> {
    part: &'a LoadPart,
    index: usize,
    random: Random,
    entries: Vec<CallEntry>,
}

impl<'a> LoadThread<'a> {
    fn new(part: &'a LoadPart, index: usize) -> Self {
        Self { part, index, random: Random(part.seed.wrapping_add(index as u64 + 1)), entries: Vec::new() }
    }

    /// Calls until the part is over. Returns what came of it.
    fn run(mut self) -> Vec<CallEntry> {
        let front = &self.part.fronts[self.index / CALLERS];
        let mut bridge = self.busy(|caller| front.current(None, caller));
        while !self.part.over.load(Relaxed) {
            let is_over = !self.part.restart && !bridge.is_alive();
            // Now and then, one that lives is left too: its last caller stops it, or it is killed while others call.
            let is_retired = !is_over && self.random.up_to(4_000) == 0;
            if is_retired {
                self.part.tally().retired += 1;
                if self.random.up_to(1) == 0 {
                    bridge.kill();
                }
            }
            // One that restarts is over when another caller has replaced it.
            if is_over || is_retired || self.part.restart {
                let over = (is_over || is_retired).then_some(&bridge);
                bridge = self.busy(|caller| front.current(over, caller));
            }
            self.busy(|caller| caller.call(&bridge));
        }
        // Whoever is last stops it.
        self.busy(|_| drop(bridge));
        self.entries
    }

    fn call(&mut self, bridge: &Bridge<Victim>) {
        let kind = VictimKind::ALL[self.random.up_to(VictimKind::ALL.len() - 1)];
        // As many short ones as long ones.
        let most = MOST >> self.random.up_to(10);
        let len = 64 + self.random.up_to(most);
        let (id, pid, began) = (self.part.ledger.number(), bridge.child_pid(), Instant::now());
        let mut entry = kind.call(bridge, id, len);
        entry.may_repeat &= self.part.restart;
        // Of a bridge that restarts, a call that was made again too.
        if self.part.restart || matches!(entry.outcome, CallOutcome::NotStarted | CallOutcome::Started) {
            self.note_delay(pid, began);
        }
        self.entries.push(entry);
    }

    /// How long a call took to end that was under way when the child was killed.
    fn note_delay(&self, pid: u32, began: Instant) {
        let killed = self.part.killed().get(&pid).copied();
        if let Some(killed) = killed.filter(|&killed| killed >= began) {
            let delay = killed.elapsed().as_secs_f64() * 1e3;
            let mut tally = self.part.tally();
            tally.worst_ms = tally.worst_ms.max(delay);
        }
    }

    /// Starts a bridge, as often as it takes: the child may be killed before it is up.
    fn start(&mut self) -> Bridge<Victim> {
        loop {
            let setup = Setup {
                workers: [1, 3][self.random.up_to(1)],
                wait: [Wait::Adaptive, Wait::Park][self.random.up_to(1)],
                trusted: self.random.up_to(3) == 0,
                retained: [0, 1 << 20][self.random.up_to(1)],
                restart: self
                    .part
                    .restart
                    .then_some(Comeback { spare: self.random.up_to(1) == 0, calls_wait: self.random.up_to(1) == 0 }),
            };
            let builder = setup.builder(&self.part.ledger.path(), "");
            let builder = match self.part.restart {
                true => self.part.counted(builder),
                false => builder,
            };
            match builder.start() {
                Ok(bridge) => {
                    self.part.tally().starts += 1;
                    return bridge;
                }
                Err(StartError::Died { .. }) => self.part.tally().failed_starts += 1,
                Err(error) => self.part.tally().wrong.push(format!("a start failed: {error}")),
            }
        }
    }

    /// Does something that may hang.
    fn busy<R>(&mut self, run: impl FnOnce(&mut Self) -> R) -> R {
        let mark = &self.part.busy_since[self.index];
        mark.store(self.part.now(), Relaxed);
        let result = run(self);
        mark.store(0, Relaxed);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_or_left_is_a_failure() {
        let good = Tally { kills: 10, worst_ms: 4.0, ..Tally::default() };
        assert!(good.verdict().is_ok());
        let wrong = Tally { wrong: vec!["call 1 has 2 outcomes".into()], ..good.clone() };
        assert_eq!(wrong.verdict().unwrap_err().to_string(), "call 1 has 2 outcomes");
        let leak = Tally { leaks: vec!["7 descriptors, and there were 5".into()], ..good };
        assert!(leak.verdict().is_err());
    }
}
