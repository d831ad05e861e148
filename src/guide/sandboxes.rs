//! What a child can be made to give up. Feature `sandbox`.
//!
#![cfg_attr(feature = "sandbox", doc = "```no_run")]
#![cfg_attr(not(feature = "sandbox"), doc = "```ignore")]
//! use callgate::{Sandbox, bridge};
//!
//! struct Speller;
//!
//! #[bridge]
//! impl Speller {
//!     pub fn new() -> Self {
//!         Speller
//!     }
//!     pub fn knows(&self, word: &str) -> bool {
//!         std::fs::read_to_string("/usr/share/dict/words").is_ok_and(|words| words.lines().any(|known| known == word))
//!     }
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let sandbox = Sandbox::strict().memory(256 << 20).read_only("/usr/share/dict");
//!     let speller = Speller::bridge().sandbox(sandbox).start()?;
//!     if let Some(report) = speller.sandbox_report() {
//!         eprintln!("{report}");
//!     }
//!     println!("{}", speller.knows("gate")?);
//!     Ok(())
//! }
//! ```
//!
//! `Sandbox::strict()` takes from the child files, network, new processes, capabilities, rare system calls and every hold on other processes, before the
//! service exists. It works through Landlock, seccomp, resource limits and namespaces, as root or as an ordinary user. `uid`, `gid`, `chroot`, `umask`,
//! `cpu_seconds` and `open_files` can be set too.
//!
//! If a part cannot be applied here, the start fails, unless that part is `optional`. `Bridge::sandbox_report()` says what is in force. Calls cost the same
//! in a sandbox; a start takes twice as long.
//!
//! A sandboxed child can still keep CPUs busy, fill the bridge's memory up to its limit, use up what the kernel counts for a whole user (give it a user of
//! its own), and misuse the standard output and error that it shares with its parent (give it pipes: `Builder::stdout`, `Builder::stderr`).
