//! Checks the limits of this process, and who may trace it.

use super::{Finding, Good, Missing, Slow};
use crate::machine::line_of;
use crate::render::units;
use rustix::process::{Resource, getrlimit};

pub fn checks() -> Vec<Finding> {
    vec![descriptors(), locked_memory(), ptrace_scope()]
}

/// With a lower limit, descriptors run out after some tens of bridges.
const FEW_DESCRIPTORS: u64 = 1024;

fn descriptors() -> Finding {
    let limit = getrlimit(Resource::Nofile).current;
    let value = limit.map_or("unlimited".into(), units::count);
    match limit {
        Some(limit) if limit < FEW_DESCRIPTORS => Finding::new(
            "RLIMIT_NOFILE",
            value,
            Slow,
            "Each bridge keeps a few descriptors open: raise it with `ulimit -n` for many bridges.",
        ),
        _ => Finding::new("RLIMIT_NOFILE", value, Good, "Each bridge keeps a few descriptors open."),
    }
}

fn locked_memory() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    let value = limit.map_or("unlimited".into(), |limit| units::bytes(limit as f64));
    Finding::new(
        "RLIMIT_MEMLOCK",
        value,
        Good,
        "callgate locks no memory; it matters only to programs that keep theirs from being swapped.",
    )
}

fn ptrace_scope() -> Finding {
    const NAME: &str = "ptrace_scope";
    match line_of("/proc/sys/kernel/yama/ptrace_scope") {
        None => Finding::new(
            NAME,
            "no Yama",
            Missing,
            "Any process of this user may look into parent and child, and a child into its parent: run what you do not trust as another user.",
        ),
        Some(scope) if scope == "0" => Finding::new(
            NAME,
            scope,
            Missing,
            "Any process of this user may look into parent and child, and a child into its parent: write 1 to \
             /proc/sys/kernel/yama/ptrace_scope.",
        ),
        Some(scope) => Finding::new(NAME, scope, Good, "A child may not look into its parent's memory."),
    }
}
