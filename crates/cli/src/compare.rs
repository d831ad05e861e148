//! Finds and runs `callgate-compare`, the program that measures other ways of crossing a process boundary. It is a separate program
//! because of its many dependencies.

use callgate_suite::{BenchReport, BoxError};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NAME: &str = "callgate-compare";
const VARIABLE: &str = "CALLGATE_COMPARE";

/// How to run the program.
#[derive(Debug, PartialEq)]
pub enum CompareProgram {
    /// The path of the built program.
    At(PathBuf),
    /// The folder of a checkout in which to build it first.
    Checkout(PathBuf),
}

/// The program was not found.
#[derive(callgate_macros::Sentence, thiserror::Error)]
#[error(
    "`--compare` needs the program {NAME}, which was not found: {}. In a checkout of callgate, \
     `cargo build --release -p {NAME} -p callgate-cli` puts it beside this program; {VARIABLE} can name another path", looked.join(", ")
)]
pub struct NotFound {
    looked: Vec<String>,
}

impl CompareProgram {
    /// Finds the program. Looks where `$CALLGATE_COMPARE` says; then, if this program was built in a checkout, in that checkout, so that both have
    /// the same sources; then beside this program; then in a checkout around the current folder.
    pub fn find() -> Result<Self, NotFound> {
        let own = std::env::current_exe().ok();
        let folder = std::env::current_dir().ok();
        Self::among(own.as_deref(), std::env::var_os(VARIABLE).as_deref(), folder.as_deref())
    }

    fn among(own: Option<&Path>, variable: Option<&OsStr>, folder: Option<&Path>) -> Result<Self, NotFound> {
        let mut looked = Vec::new();
        match variable.map(PathBuf::from) {
            Some(named) if named.is_file() => return Ok(Self::At(named)),
            Some(named) => looked.push(format!("${VARIABLE} is `{}`, which is not a file", named.display())),
            None => looked.push(format!("${VARIABLE} is not set")),
        }
        if let Some(checkout) = own.and_then(checkout_around) {
            return Ok(Self::Checkout(checkout));
        }
        match own.map(|own| own.with_file_name(NAME)) {
            Some(beside) if beside.is_file() => return Ok(Self::At(beside)),
            Some(beside) => looked.push(format!("there is no {}", beside.display())),
            None => looked.push("the path of this program is unknown".into()),
        }
        match folder.and_then(checkout_around) {
            Some(checkout) => return Ok(Self::Checkout(checkout)),
            None => looked.push("the current folder is not in a checkout of callgate".into()),
        }
        Err(NotFound { looked })
    }

    /// Runs the program to its end. Its stderr goes to the user, and its stdout is the report.
    pub fn run(&self, quick: bool) -> Result<BenchReport, BoxError> {
        let mut command = self.command();
        command.args(["--json", "-"]).args(quick.then_some("--quick")).stdin(Stdio::null()).stderr(Stdio::inherit());
        let shown = format!("{} {}", command.get_program().to_string_lossy(), arguments(&command));
        let output = command.output().map_err(|error| format!("`{shown}` could not be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("`{shown}` ended with {}", output.status).into());
        }
        let report = serde_json::from_slice(&output.stdout);
        Ok(report.map_err(|error| format!("`{shown}` wrote no report to stdout: {error}"))?)
    }

    fn command(&self) -> Command {
        match self {
            Self::At(path) => Command::new(path),
            Self::Checkout(folder) => {
                let mut cargo = Command::new("cargo");
                cargo.args(["run", "--release", "--quiet", "-p", NAME, "--"]).current_dir(folder);
                cargo
            }
        }
    }
}

fn arguments(command: &Command) -> String {
    command.get_args().map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn checkout_around(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|above| above.join("crates/compare/Cargo.toml").is_file()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn it_is_looked_for_in_turn() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let (own, named, checkout) = (path("bin/callgate"), path("named"), path("checkout"));
        fs::create_dir_all(path("bin")).expect("a folder");
        fs::create_dir_all(checkout.join("crates/compare")).expect("a folder");
        let inside = checkout.join("crates");
        let find =
            |variable: Option<&Path>| CompareProgram::among(Some(&own), variable.map(Path::as_os_str), Some(&inside));

        let error = find(Some(&named)).expect_err("it is nowhere").to_string();
        for where_looked in [path("bin/callgate-compare"), named.clone()] {
            assert!(error.contains(&*where_looked.to_string_lossy()), "{error}");
        }
        assert!(error.contains("not in a checkout") && error.contains("cargo build --release"), "{error}");

        fs::write(checkout.join("crates/compare/Cargo.toml"), "").expect("a file");
        assert_eq!(find(None).expect("a checkout"), CompareProgram::Checkout(checkout.clone()));
        fs::write(path("bin/callgate-compare"), "").expect("a file");
        assert_eq!(find(None).expect("what lies beside"), CompareProgram::At(path("bin/callgate-compare")));
        fs::write(&named, "").expect("a file");
        assert_eq!(find(Some(&named)).expect("what the variable names"), CompareProgram::At(named.clone()));
    }

    #[test]
    fn in_a_checkout_it_is_built_anew_whatever_lies_beside() {
        let checkout = tempfile::tempdir().expect("a folder");
        let path = |name: &str| checkout.path().join(name);
        fs::create_dir_all(path("crates/compare")).expect("a folder");
        fs::create_dir_all(path("target/release")).expect("a folder");
        fs::write(path("crates/compare/Cargo.toml"), "").expect("a file");
        fs::write(path("target/release/callgate-compare"), "").expect("a file");
        let found = CompareProgram::among(Some(&path("target/release/callgate")), None, None);
        assert_eq!(found.expect("a checkout"), CompareProgram::Checkout(checkout.path().to_owned()));
    }

    #[test]
    fn what_goes_wrong_names_the_program() {
        let error = |program: &str| CompareProgram::At(program.into()).run(true).expect_err("no report").to_string();
        assert!(
            error("/nonexistent/compare").starts_with("`/nonexistent/compare --json - --quick` could not be run: ")
        );
        assert!(error("/bin/false").contains("exit status: 1"));
        assert!(error("/bin/true").contains("wrote no report"));
    }
}
