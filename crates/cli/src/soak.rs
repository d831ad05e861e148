//! `callgate soak`: makes very many calls with payloads of random sizes, and checks whether the memory that both processes keep grows.

use crate::args::SoakArgs;
use crate::print;
use crate::render::units;
use callgate_suite::BoxError;
use callgate_suite::soak::{self, SoakPart};

pub fn run(args: &SoakArgs) -> Result<(), BoxError> {
    let plan = soak::Soak { calls: args.calls, most: args.most, seed: args.seed };
    let budget = plan.budget();
    print(&header(args, budget))?;
    let (mut done, mut printed) = (0, Ok(()));
    let parts = plan.run(&mut |part| {
        done += part.calls;
        let line = line(done, part);
        printed = std::mem::replace(&mut printed, Ok(())).and_then(|()| print(&line));
    })?;
    printed?;
    judge(&parts, budget)
}

fn header(args: &SoakArgs, budget: u64) -> String {
    let [most, budget] = [args.most as u64, budget].map(bytes);
    let calls = units::count(args.calls);
    let columns = row(["calls", "p50", "parent", "shared", "child", "shared"].map(str::to_owned));
    format!(
        "{calls} calls, requests and replies of 0 B to {most}, seed {}\n\
         budget of the bridge for large payloads: {budget}\n\
         the most that was resident in each tenth, and how much of it is shared memory\n\n{columns}",
        args.seed
    )
}

fn line(done: u64, part: &SoakPart) -> String {
    let [parent, child] = [part.parent, part.child].map(|memory| [memory.resident, memory.shared].map(bytes));
    let ([parent, of_parent], [child, of_child]) = (parent, child);
    row([units::count(done), units::nanoseconds(part.quantiles.p50), parent, of_parent, child, of_child])
}

fn row(cells: [String; 6]) -> String {
    cells.iter().map(|cell| format!("{cell:>12}")).collect::<String>() + "\n"
}

/// Prints the final memory of both processes. Returns an error if it exceeds the budget or has grown.
fn judge(parts: &[SoakPart], budget: u64) -> Result<(), BoxError> {
    let resident = parts.last().map_or(0, SoakPart::resident);
    let (growth, slack) = (soak::growth(parts), bytes(soak::SLACK));
    let (after, share) = (bytes(resident), units::ratio(resident as f64 / budget as f64));
    print(&format!(
        "\nresident in both processes after all calls: {after}, {share} of the budget\n\
         from the first tenth to the last: {} (more than {slack} is growth)\n",
        signed(growth)
    ))?;
    match (growth > soak::SLACK as i64, resident > budget) {
        (false, false) => Ok(()),
        (true, _) => Err(format!("resident memory grew by {}, more than {slack}", signed(growth)).into()),
        (false, true) => Err(format!("{after} are resident, and the budget is {}", bytes(budget)).into()),
    }
}

fn bytes(len: u64) -> String {
    units::bytes(len as f64)
}

fn signed(growth: i64) -> String {
    format!("{}{}", if growth < 0 { "-" } else { "+" }, bytes(growth.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use callgate_suite::soak::MemoryUse;

    fn part(resident: u64) -> SoakPart {
        let memory = MemoryUse { resident, shared: resident / 2 };
        SoakPart { calls: 10, parent: memory, child: memory, ..SoakPart::default() }
    }

    #[test]
    fn growth_and_a_budget_exceeded_are_errors() {
        let judged = |parts: &[SoakPart]| judge(parts, 100 << 20).map_err(|error| error.to_string());
        assert_eq!(judged(&[part(20 << 20), part(22 << 20)]), Ok(()));
        assert_eq!(judged(&[part(40 << 20), part(20 << 20)]), Ok(()));
        let grown = judged(&[part(20 << 20), part(23 << 20)]);
        assert_eq!(grown, Err("resident memory grew by +6 MiB, more than 4 MiB".into()));
        let beyond = judged(&[part(51 << 20), part(51 << 20)]);
        assert_eq!(beyond, Err("102 MiB are resident, and the budget is 100 MiB".into()));
    }

    #[test]
    fn lines_have_their_figures_below_the_headings() {
        let line = line(1_000, &part(8 << 20));
        assert_eq!(
            line,
            format!("{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}\n", "1,000", "0 ns", "8 MiB", "4 MiB", "8 MiB", "4 MiB")
        );
    }
}
