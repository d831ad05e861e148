//! Kills, stops and continues children at random moments, while threads call them.
//!
//! A run has several parts. After each part no child may be left; then it checks that nothing else is left behind either, and that every call
//! was reported truthfully.

#![forbid(unsafe_code)]

use super::groups::{GroupKind, GroupScene};
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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

/// The number of parts into which a run's kills are divided.
pub const PARTS: u64 = 10;

/// A call, a start or a stop that takes longer counts as hanging. Whatever happens to a child is over long before.
const HANGS: Duration = Duration::from_secs(60);

/// The longest large payload, in bytes.
const MOST: usize = 1 << 20;

/// The number of threads that call one bridge.
const CALLERS: usize = 3;

/// The parameters of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos {
    /// The number of children to kill.
    pub kills: u64,
    /// The seed of the random kills and calls.
    pub seed: u64,
    /// The number of calling threads; three share a bridge.
    pub threads: usize,
    /// When to stop, even if fewer children have been killed.
    pub limit: Option<Duration>,
    /// Whether bridges restart their children themselves, half of them with a spare child. Otherwise, callers replace a bridge whose child is dead.
    pub restart: bool,
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Living children killed.
    pub kills: u64,
    /// Of these, the children that were stopped when they were killed.
    pub kills_of_stopped: u64,
    /// Children stopped and later continued.
    pub pauses: u64,
    /// Bridges started.
    pub starts: u64,
    /// Starts that failed because the child was killed.
    pub failed_starts: u64,
    /// Deaths after which the bridge itself started another child.
    pub restarts: u64,
    /// Bridges that a caller stopped or killed while others called.
    pub retired: u64,
    /// The number of calls for each outcome that callers got.
    pub outcomes: Outcomes,
    /// The longest time from the kill of a child to the end of a call in progress at that moment, in milliseconds.
    pub worst_ms: f64,
    /// The duration of the run, in seconds.
    pub seconds: f64,
    /// What was left behind. Should be empty.
    pub leaks: Vec<String>,
    /// What went wrong. Should be empty.
    pub wrong: Vec<String>,
}

impl Tally {
    /// The number of calls.
    pub fn calls(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Returns an error that lists up to 20 things that went wrong or were left behind, if there are any.
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
    /// Makes the calls and kills. Passes the tally so far to `each` after every part, and returns the final tally, good or bad.
    ///
    /// # Errors
    ///
    /// If something hangs or could not be tried. Everything else that goes wrong is in the tally.
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

/// Starts and stops one bridge before anything is counted, because the watcher and its descriptors stay for as long as the process.
pub(super) fn warm_up(restart: Option<Comeback>) -> Result<(), BoxError> {
    let ledger = RunLedger::new()?;
    let setup = Setup { restart, ..Setup::PLAIN };
    setup.builder(&ledger.path(), "").start()?.stop()?;
    Ok(())
}

/// The state that the threads of one part share.
struct LoadPart {
    ledger: RunLedger,
    seed: u64,
    /// Whether bridges restart their children themselves.
    restart: bool,
    restarts: Arc<AtomicU64>,
    /// Set when enough children have been killed.
    over: AtomicBool,
    fronts: Vec<Front>,
    /// When each killed child was killed, by process number.
    killed: Mutex<HashMap<u32, Instant>>,
    tally: Mutex<Tally>,
    began: Instant,
    /// When each thread began the operation that it is in, in microseconds since `began`; 0 = in none.
    busy_since: Vec<AtomicU64>,
}

impl LoadPart {
    /// Runs one part: calls and kills. Leaves no child.
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
            // Sometimes right after the last kill, to hit starts too, and sometimes later, to hit calls.
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
        // Note the time first: a caller that learns of the death looks it up.
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

    /// Makes the bridge count its restarts.
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

    /// Ends all bridges and compares the callers' outcomes with the runs.
    fn close(&self, entries: &[CallEntry]) -> Result<Tally, BoxError> {
        self.fronts.iter().for_each(|front| drop(front.bridge().take()));
        let mut tally = std::mem::take(&mut *self.tally());
        if let left @ 1.. = children().len() {
            // A child that still lives may still add runs to the ledger.
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

/// A bridge that several callers share. The first caller that finds it dead replaces it.
#[derive(Default)]
struct Front {
    bridge: Mutex<Option<Arc<Bridge<Victim>>>>,
    /// Locked by one thread alone that flushes or clears the doorbell, or by several that share both.
    flushing: RwLock<()>,
}

impl Front {
    fn bridge(&self) -> MutexGuard<'_, Option<Arc<Bridge<Victim>>>> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current bridge. Starts one if there is none, or if the current one is `over`.
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

    /// Makes calls until the part is over, and returns their entries.
    fn run(mut self) -> Vec<CallEntry> {
        let front = &self.part.fronts[self.index / CALLERS];
        let mut bridge = self.busy(|caller| front.current(None, caller));
        while !self.part.over.load(Relaxed) {
            let is_over = !self.part.restart && !bridge.is_alive();
            // Now and then callers abandon a living bridge too: it is killed while others call, or its last caller stops it.
            let is_retired = !is_over && self.random.up_to(4_000) == 0;
            if is_retired {
                self.part.tally().retired += 1;
                if self.random.up_to(1) == 0 {
                    bridge.kill();
                }
            }
            // A restarting bridge is over once another caller has replaced it.
            if is_over || is_retired || self.part.restart {
                let over = (is_over || is_retired).then_some(&bridge);
                bridge = self.busy(|caller| front.current(over, caller));
            }
            match self.random.up_to(3) {
                0 => self.busy(|caller| caller.call_group(&bridge)),
                _ => self.busy(|caller| caller.call(&bridge)),
            }
        }
        // The last caller to drop the bridge stops it, which may hang.
        self.busy(|_| drop(bridge));
        self.entries
    }

    fn call(&mut self, bridge: &Bridge<Victim>) {
        let kind = VictimKind::ALL[self.random.up_to(VictimKind::ALL.len() - 1)];
        // Spreads lengths evenly over their orders of magnitude.
        let most = MOST >> self.random.up_to(10);
        let len = 64 + self.random.up_to(most);
        let (id, pid, began) = (self.part.ledger.number(), bridge.child_pid(), Instant::now());
        let mut entry = kind.call(bridge, id, len);
        entry.may_repeat &= self.part.restart;
        // A restarting bridge may have made the call again, with any outcome.
        if self.part.restart || matches!(entry.outcome, CallOutcome::NotStarted | CallOutcome::Started) {
            self.note_delay(pid, began);
        }
        self.entries.push(entry);
    }

    /// Makes the calls of one group.
    fn call_group(&mut self, bridge: &Bridge<Victim>) {
        let kind = GroupKind::ALL[self.random.up_to(GroupKind::ALL.len() - 1)];
        let is_alone = kind == GroupKind::Polled || self.random.up_to(1) == 0;
        let flushing = &self.part.fronts[self.index / CALLERS].flushing;
        // Only the groups that flush or clear the doorbell exclude each other.
        let takes_turns = matches!(kind, GroupKind::OneWay | GroupKind::Polled);
        let _alone = (takes_turns && is_alone).then(|| flushing.write().unwrap_or_else(PoisonError::into_inner));
        let _shared = (takes_turns && !is_alone).then(|| flushing.read().unwrap_or_else(PoisonError::into_inner));
        let (pid, began) = (bridge.child_pid(), Instant::now());
        let mut scene = GroupScene {
            bridge,
            ledger: &self.part.ledger,
            random: &mut self.random,
            most: MOST >> 2,
            is_alone,
            may_restart: self.part.restart,
        };
        let entries = kind.make(&mut scene);
        let is_lost = |entry: &CallEntry| matches!(entry.outcome, CallOutcome::NotStarted | CallOutcome::Started);
        if entries.iter().any(is_lost) {
            self.note_delay(pid, began);
        }
        self.entries.extend(entries);
    }

    /// If the call was in progress when child `pid` was killed, records how long it took to end after that.
    fn note_delay(&self, pid: u32, began: Instant) {
        let killed = self.part.killed().get(&pid).copied();
        if let Some(killed) = killed.filter(|&killed| killed >= began) {
            let delay = killed.elapsed().as_secs_f64() * 1e3;
            let mut tally = self.part.tally();
            tally.worst_ms = tally.worst_ms.max(delay);
        }
    }

    /// Starts a bridge, and retries because the child may be killed while it starts.
    fn start(&mut self) -> Bridge<Victim> {
        loop {
            let setup = Setup {
                workers: [1, 3][self.random.up_to(1)],
                wait: [Wait::Adaptive, Wait::Park][self.random.up_to(1)],
                trusted: self.random.up_to(3) == 0,
                retained: [0, 1 << 20][self.random.up_to(1)],
                pending: [2, 4, 32][self.random.up_to(2)],
                queue: [8, 16_384][self.random.up_to(1)],
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

    /// Runs something that may hang, and notes when it began.
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
