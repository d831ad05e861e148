//! Test support for callgate: the fuzz targets of `fuzz/`, tests that replay the fuzzers' corpora, and both sides of a call in one thread.
//!
//! Not published. Each target turns bytes into the actions of a hostile child (or, for the handshake, a hostile parent). It panics if the library
//! breaks a promise: the library must not panic, loop for ever, leak memory or descriptors, or decode an honest archive into a different value.

#![forbid(unsafe_code)]

#[cfg(all(test, debug_assertions))]
mod cache_lines;
mod control;
mod fake_child;
mod handshake;
#[cfg(test)]
mod in_process;
mod input;
mod loans;
mod reply;
mod ring;
mod types;

use std::fs::{self, DirEntry};
use std::time::{Duration, Instant};

/// A fuzz target: runs one input.
pub type FuzzTarget = fn(&[u8]);

macro_rules! targets {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {
        $($(#[doc = $doc])* pub fn $name(data: &[u8]) {
            let before = threads();
            $name::$name(data);
            until_others_have_ended(before);
        })*

        /// Every target with its name, which is also its file in `fuzz/fuzz_targets` and its directory in `fuzz/corpus`.
        pub const TARGETS: &[(&str, FuzzTarget)] = &[$((stringify!($name), $name)),*];
    };
}

targets! {
    /// Control messages, as the parent reads them.
    control
    /// The first message, as either side reads it.
    handshake
    /// Lent blocks, and when they come back.
    loans
    /// Replies made of arbitrary bytes, read as values and as views.
    reply
    /// A child that writes what it likes to the shared memory.
    ring
}

/// Counts the threads of this process except the watcher, which never ends. 0 in tests, where other tests run beside this one.
fn threads() -> usize {
    let is_watcher = |task: &DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("callgate-watch"))
    };
    let tasks = || fs::read_dir("/proc/self/task").expect("procfs").flatten();
    if cfg!(fuzzing) { tasks().filter(|task| !is_watcher(task)).count() } else { 0 }
}

/// Waits until no more than `before` threads are left. The threads that seal memory and close the peer's descriptors own memory themselves, which the
/// fuzzer would report as leaked if it looked before they ended.
///
/// # Panics
///
/// After half a minute.
fn until_others_have_ended(before: usize) {
    let until = Instant::now() + Duration::from_secs(30);
    while threads() > before {
        assert!(Instant::now() < until, "{} threads are still at work", threads() - before);
        std::thread::sleep(Duration::from_micros(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    /// Inputs that reach deep into a target because they resemble what honest sides send. A new corpus starts with them.
    fn seeds(target: &str) -> Vec<Vec<u8>> {
        match target {
            "control" => control::seeds(),
            "handshake" => handshake::seeds(),
            "loans" => loans::seeds(),
            "reply" => reply::seeds(),
            "ring" => ring::seeds(),
            other => panic!("no target {other}"),
        }
    }

    fn corpus(target: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
    }

    #[test]
    fn seeds_break_nothing() {
        for (name, target) in TARGETS {
            seeds(name).iter().for_each(|seed| target(seed));
        }
    }

    proptest! {
        /// A little fuzzing for machines without a fuzzer.
        #[test]
        fn any_bytes_break_nothing(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            TARGETS.iter().for_each(|(_, target)| target(&data));
        }
    }

    /// Replays the inputs that the fuzzers kept (`fuzz/corpus`) and those that once broke something (`fuzz/found`).
    #[test]
    fn the_corpora_break_nothing() {
        for (name, target) in TARGETS {
            let found = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/found").join(name);
            let files = fs::read_dir(corpus(name)).unwrap_or_else(|error| panic!("corpus of {name}: {error}"));
            let mut count = 0;
            for file in files.chain(fs::read_dir(found).into_iter().flatten()) {
                let file = file.unwrap().path();
                // If the target fails, the last path printed names the input.
                println!("{}", file.display());
                target(&fs::read(&file).unwrap());
                count += 1;
            }
            assert!(count > 1, "no corpus of {name}");
        }
    }

    /// Every target has a fuzz binary, and every fuzz binary a target.
    #[test]
    fn every_target_is_fed() {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let names: Vec<_> = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    /// Writes the seeds into `fuzz/corpus`: `cargo test -p callgate-testkit writes_seeds -- --ignored`.
    #[test]
    #[ignore = "writes into fuzz/corpus"]
    fn writes_seeds() {
        for (name, _) in TARGETS {
            let dir = corpus(name);
            fs::create_dir_all(&dir).unwrap();
            for (number, seed) in seeds(name).into_iter().enumerate() {
                fs::write(dir.join(format!("seed-{number:02}")), seed).unwrap();
            }
        }
    }
}
