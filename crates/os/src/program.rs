//! The program that this process runs, to be executed again: as the image in memory, whatever has become of its file since.

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

/// What the kernel has executed, also when its file has been moved, replaced or removed.
pub const SELF: &str = "/proc/self/exe";

/// How this process came to run its program.
#[derive(Debug)]
enum Program {
    /// The kernel executed it.
    Executed,
    /// The kernel executed a loader, which was told to load it: `ld.so --library-path lib program`.
    Loaded {
        /// What the loader is called, and the options that stand before the program.
        loader: Vec<OsString>,
        /// The program, held as it is now.
        file: File,
    },
}

/// Finds out how this process came to run its program, while the file is there. Later calls find the same.
pub fn remember() {
    // What went wrong is told by who executes it.
    let _ = running();
}

/// A command that runs the program of this process once more. Its arguments are the caller's to add.
///
/// # Errors
///
/// If the program cannot be executed again, in words.
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
            // Through this process's descriptor: the name may be gone, or another file's.
            let program = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            let (name, options) = loader.split_first().map_or((OsStr::new(SELF), &[][..]), |(name, rest)| (name, rest));
            command.arg0(name).args(options).arg(program);
        }
        Err(why) => return Err(io::Error::other(why.as_str())),
    }
    Ok(command)
}

/// Executes the program in the place of this one, with the same arguments, and with `key` as `value` in its environment. Returns only why not.
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

/// The arguments that the kernel was given, the loader's included. (`std::env::args` may be empty before `main`.)
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
    // A program that has a loader of its own was executed by the kernel; one without is static, or told to a loader.
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
        return Err(explain("is another now"));
    }
    let (line, own) = (command_line().unwrap_or_default(), std::env::args_os().count());
    let before = line.len().saturating_sub(own.max(1));
    Ok(Program::Loaded { loader: without_name(&line[..before]), file })
}

/// The loader's options without the one that gives the program another name, which is not to be the child's.
fn without_name(loader: &[OsString]) -> Vec<OsString> {
    let mut is_name = false;
    let keep = |argument: &&OsString| {
        let is_value = std::mem::replace(&mut is_name, argument.as_os_str() == "--argv0");
        !is_value && !is_name
    };
    loader.iter().filter(keep).cloned().collect()
}

/// The file that is mapped at `address`, and its inode; `None` if there is none.
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
