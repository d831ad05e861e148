//! Running this process's program again: the image in memory, whatever has happened to its file.

#![forbid(unsafe_code)]

use crate::descriptor;
use crate::image::Image;
use crate::selfproc;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The file that the kernel executed, even if it was moved, replaced or removed.
pub const SELF: &str = "/proc/self/exe";

/// How this process came to run its program.
#[derive(Debug)]
enum Program {
    /// The kernel executed the program itself.
    Executed,
    /// The kernel executed a loader with the program as an argument: `ld.so --library-path lib program`.
    Loaded {
        /// The loader's name, and the options that come before the program.
        loader: Vec<OsString>,
        /// The program, kept open.
        file: File,
    },
}

/// Finds out how this process came to run its program, while the file still exists. Later calls reuse the result.
pub fn remember() {
    // `again` reports the error.
    let _ = running();
}

/// Returns a command that runs this process's program again. The caller adds the arguments.
///
/// # Errors
///
/// If the program cannot be executed again; the error says why.
pub fn again() -> io::Result<Command> {
    if let Err(error) = fs::metadata(SELF) {
        return Err(io::Error::new(error.kind(), format!("{error} (is procfs mounted at /proc?)")));
    }
    let mut command = Command::new(SELF);
    match running() {
        Ok(Program::Executed) => {
            command.arg0(std::env::args_os().next().unwrap_or_else(|| SELF.into()));
        }
        Ok(Program::Loaded { loader, file }) => {
            // Through this process's descriptor: the path may be gone, or name another file.
            let program = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            let (name, options) = loader.split_first().map_or((OsStr::new(SELF), &[][..]), |(name, rest)| (name, rest));
            command.arg0(name).args(options).arg(program);
        }
        Err(why) => return Err(io::Error::other(why.as_str())),
    }
    Ok(command)
}

/// Replaces this process with a fresh run of its program: the same arguments, and `key` set to `value` in the environment. Returns only on failure.
pub fn become_again(key: &str, value: &str) -> io::Error {
    let arguments = match command_line() {
        Ok(arguments) => arguments,
        Err(error) => return error,
    };
    let mut command = Command::new(SELF);
    if let Some((name, rest)) = arguments.split_first() {
        command.arg0(name).args(rest);
    }
    command.env(key, value).exec()
}

/// The arguments as the kernel got them, including the loader's. (`std::env::args` may be empty before `main`.)
fn command_line() -> io::Result<Vec<OsString>> {
    let line = fs::read("/proc/self/cmdline")?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    Ok(line.split(|&byte| byte == 0).map(|argument| OsStr::from_bytes(argument).into()).collect())
}

fn running() -> Result<&'static Program, &'static String> {
    static RUNNING: OnceLock<Result<Program, String>> = OnceLock::new();
    RUNNING.get_or_init(find).as_ref()
}

fn find() -> Result<Program, String> {
    // A program with a loader of its own was executed by the kernel. One without is static, or was passed to a loader.
    if selfproc::has_loader() {
        return Ok(Program::Executed);
    }
    let Some((path, inode)) = mapped_at(Image::current().start()) else { return Ok(Program::Executed) };
    let loader = fs::read_link(SELF).map_err(|error| format!("{SELF}: {error}"))?;
    if loader == path {
        return Ok(Program::Executed);
    }
    let explain = |why: &str| {
        let (loader, path) = (loader.display(), path.display());
        format!("it was started through the loader `{loader}`, and its file `{path}` {why}: start it directly")
    };
    let file =
        descriptor::apart(|| File::open(&path)).map_err(|error| explain(&format!("cannot be opened ({error})")))?;
    let is_same = file.metadata().is_ok_and(|found| std::os::unix::fs::MetadataExt::ino(&found) == inode);
    if !is_same {
        return Err(explain("is a different file now"));
    }
    let (line, own) = (command_line().unwrap_or_default(), std::env::args_os().count());
    let before = line.len().saturating_sub(own.max(1));
    Ok(Program::Loaded { loader: without_name(&line[..before]), file })
}

/// The loader's options without `--argv0`, which renames the program: the child must not get that name.
fn without_name(loader: &[OsString]) -> Vec<OsString> {
    let mut is_name = false;
    let keep = |argument: &&OsString| {
        let is_value = std::mem::replace(&mut is_name, argument.as_os_str() == "--argv0");
        !is_value && !is_name
    };
    loader.iter().filter(keep).cloned().collect()
}

/// The file mapped at `address` and its inode; `None` if there is none.
fn mapped_at(address: usize) -> Option<(PathBuf, u64)> {
    let maps = fs::read("/proc/self/maps").ok()?;
    maps.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let (start, end) = std::str::from_utf8(fields.next()?).ok()?.split_once('-')?;
        let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).ok());
        if !(start?..end?).contains(&address) {
            return None;
        }
        let inode = std::str::from_utf8(fields.nth(3)?).ok()?.parse().ok()?;
        let path = fields.next()?.trim_ascii_start();
        (!path.is_empty()).then(|| (Path::new(OsStr::from_bytes(path)).into(), inode))
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_this_program_is_found_by_its_address() {
        let (path, inode) = mapped_at(Image::current().start()).unwrap();
        assert_eq!(path, fs::read_link(SELF).unwrap());
        assert_eq!(inode, std::os::unix::fs::MetadataExt::ino(&fs::metadata(SELF).unwrap()));
    }

    #[test]
    fn a_name_given_to_the_loader_is_left_out() {
        let line = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(without_name(&line("ld --argv0 name --preload x")), line("ld --preload x"));
    }
}
