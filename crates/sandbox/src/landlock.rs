//! Landlock: rules about files, ports and other processes that a process puts itself under for good.

#![forbid(unsafe_code)]

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::io;
use std::path::{Path, PathBuf};

/// How much of Landlock this kernel supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    files: ABI,
    network: bool,
    scopes: bool,
}

/// What to restrict.
#[derive(Debug, Default)]
pub(crate) struct PathRules {
    /// The paths beneath which files can be read and executed, and those beneath which everything else is allowed, too. `None` = all files.
    pub files: Option<(Vec<PathBuf>, Vec<PathBuf>)>,
    /// No TCP.
    pub no_network: bool,
}

fn ruleset() -> Ruleset {
    Ruleset::default().set_compatibility(CompatLevel::HardRequirement)
}

impl Offered {
    /// Asks the kernel. `None` if it has no Landlock, or it is not enabled.
    pub fn here() -> Option<Self> {
        let files = |abi: &ABI| ruleset().handle_access(AccessFs::from_all(*abi)).and_then(Ruleset::create).is_ok();
        let newest = [ABI::V9, ABI::V5, ABI::V3, ABI::V2, ABI::V1].into_iter().find(files)?;
        let network = ruleset().handle_access(AccessNet::from_all(ABI::V4)).and_then(Ruleset::create).is_ok();
        let scopes = ruleset().scope(Scope::Signal).and_then(Ruleset::create).is_ok();
        Some(Self { files: newest, network, scopes })
    }

    /// Whether every way to change a file's contents can be restricted: before version 3, truncation cannot.
    pub(crate) fn rules_truncation(self) -> bool {
        self.files >= ABI::V3
    }

    pub(crate) fn rules_network(self) -> bool {
        self.network
    }

    /// Whether signals to outside processes can be restricted.
    pub(crate) fn rules_signals(self) -> bool {
        self.scopes
    }

    /// The version of Landlock, or a lower bound.
    pub fn version(self) -> u32 {
        match self {
            Self { files: ABI::V9, .. } => 9,
            Self { scopes: true, .. } => 6,
            Self { files, network, .. } => (files as u32).max(if network { 4 } else { 1 }),
        }
    }

    /// Puts the calling thread, and everything it starts, under `rules` for good. Even without rules it can no longer trace or inspect a process
    /// outside the same rules, nor signal one where that can be restricted.
    pub(crate) fn restrict(self, rules: &PathRules) -> io::Result<()> {
        let everything = AccessFs::from_all(self.files);
        let mut set = ruleset();
        if rules.files.is_some() {
            set = set.handle_access(everything).map_err(other)?;
        } else if !self.scopes {
            // A set must restrict something. Any set of file rules forbids moving files between directories unless it is allowed.
            set = set.handle_access(self.next_to_nothing()).map_err(other)?;
        }
        if rules.no_network && self.network {
            set = set.handle_access(AccessNet::from_all(ABI::V4)).map_err(other)?;
        }
        if self.scopes {
            let abstract_sockets = if rules.no_network { Scope::AbstractUnixSocket.into() } else { BitFlags::EMPTY };
            set = set.scope(abstract_sockets | Scope::Signal).map_err(other)?;
        }
        let mut set = set.create().map_err(other)?;
        if let Some((readable, writable)) = &rules.files {
            // Device nodes belong to the machine, not to a directory.
            let all_but_devices = everything & !(AccessFs::MakeBlock | AccessFs::MakeChar);
            set = allow(set, readable, AccessFs::from_read(self.files))?;
            set = allow(set, writable, all_but_devices)?;
        } else if !self.scopes {
            set = allow(set, &["/".into()], self.next_to_nothing())?;
        }
        let status = set.restrict_self().map_err(other)?;
        if status.ruleset == RulesetStatus::FullyEnforced {
            return Ok(());
        }
        Err(io::Error::other(format!("the rules are {:?} afterwards", status.ruleset)))
    }
}

impl Offered {
    /// The access to restrict where nothing needs restricting.
    fn next_to_nothing(self) -> BitFlags<AccessFs> {
        if self.files >= ABI::V2 { AccessFs::Refer.into() } else { AccessFs::MakeSock.into() }
    }
}

fn allow(mut set: RulesetCreated, paths: &[PathBuf], access: BitFlags<AccessFs>) -> io::Result<RulesetCreated> {
    for path in paths {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()));
        let access = if is_directory(path).map_err(named)? { access } else { access & AccessFs::from_file(ABI::V9) };
        let opened = PathFd::new(path).map_err(|error| named(other(error)))?;
        set = set.add_rule(PathBeneath::new(opened, access)).map_err(|error| named(other(error)))?;
    }
    Ok(set)
}

fn is_directory(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.is_dir())
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}
