//! What a process may do and gives up: namespaces, root directory, users and groups, capabilities. Each function verifies its effect.

#![forbid(unsafe_code)]

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::io;
use std::path::Path;

/// Whether the process has the capability to create namespaces.
pub(crate) fn may_make_namespaces() -> bool {
    has(CapabilitySet::SYS_ADMIN)
}

/// Whether the process has the capability to change its root directory.
pub(crate) fn may_change_root() -> bool {
    has(CapabilitySet::SYS_CHROOT)
}

fn has(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Enters a new user namespace, in which this process has every capability over what is created there, and no user is mapped yet. Needs a process
/// with one thread.
pub(crate) fn enter_user_namespace() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
}

/// Maps this process's user and group from `before` it entered its user namespace to the same numbers in there. Needs procfs.
pub(crate) fn keep_names(before: (u32, u32)) -> io::Result<()> {
    let (user, group) = before;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    // Without this, the process could leave groups that deny it access.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Enters a new network namespace, whose only device is a loopback that is down.
pub(crate) fn enter_network_namespace() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}

/// Makes `path` the root and working directory.
pub fn change_root(path: &Path) -> io::Result<()> {
    rustix::process::chroot(path)?;
    Ok(rustix::process::chdir("/")?)
}

/// Sets the permissions that new files do not get.
pub(crate) fn set_umask(mask: u32) -> io::Result<()> {
    let mask = rustix::fs::Mode::from_bits_truncate(mask);
    rustix::process::umask(mask);
    match rustix::process::umask(mask) {
        set if set == mask => Ok(()),
        other => Err(io::Error::other(format!("it is {:o} afterwards", other.bits()))),
    }
}

/// Leaves every supplementary group but these.
pub(crate) fn set_supplementary_groups(groups: &[u32]) -> io::Result<()> {
    let wanted: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&wanted)?;
    let mut now: Vec<u32> = getgroups()?.into_iter().map(Gid::as_raw).collect();
    let mut wanted = groups.to_vec();
    now.sort_unstable();
    wanted.sort_unstable();
    if now == wanted { Ok(()) } else { Err(io::Error::other(format!("they are {now:?} afterwards"))) }
}

/// Switches to the group for good.
pub(crate) fn set_group(group: u32) -> io::Result<()> {
    let group = Gid::from_raw(group);
    setresgid(group, group, group)?;
    let now = getresgid()?;
    let all_three = [now.real, now.effective, now.saved] == [group; 3];
    if all_three { Ok(()) } else { Err(io::Error::other("it is a different one afterwards")) }
}

/// Switches to the user for good. The kernel then drops all capabilities if it was root, and forgets the death signal that ties the process to its
/// parent.
pub(crate) fn set_user(user: u32) -> io::Result<()> {
    let user = Uid::from_raw(user);
    setresuid(user, user, user)?;
    let now = getresuid()?;
    let all_three = [now.real, now.effective, now.saved] == [user; 3];
    if all_three { Ok(()) } else { Err(io::Error::other("it is a different one afterwards")) }
}

/// Empties the set of capabilities that the process could ever regain. Needs a capability itself, so comes before the user changes.
pub(crate) fn empty_bounding_set() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        // An error means that this kernel does not know the capability.
        if rustix::thread::capability_is_in_bounding_set(capability).is_ok_and(|there| there) {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

/// Gives up every capability.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::clear_ambient_capability_set()?;
    set_capabilities(None, none)?;
    let now = capabilities(None)?;
    if now == none { Ok(()) } else { Err(io::Error::other(format!("they are {now:?} afterwards"))) }
}

/// Prevents programs that this process executes from gaining rights that the process lacks.
pub(crate) fn forbid_new_privileges() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    if rustix::thread::no_new_privs()? { Ok(()) } else { Err(io::Error::other("it is not set afterwards")) }
}
