//! Entry points of a process that may be a child: `init` in the program itself, `serve` in a separate executable.

#![forbid(unsafe_code)]

use crate::child::{self, Child, EntryFn};
use crate::start_error::StartError;
use callgate_engine::handshake::Entry;
use callgate_engine::service::{Fingerprint, Service};
use callgate_engine::{bridged_traits, callee, tasks};
use callgate_os::image::Image;
use callgate_os::program;
use callgate_transport::layout::Geometry;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the program has called [`init`]: only then is it safe to execute it again.
static INITIALISED: AtomicBool = AtomicBool::new(false);

pub(super) fn is_initialised() -> bool {
    INITIALISED.load(Ordering::Relaxed)
}

/// Makes a process that a bridge started into its child, which never returns from here; does nothing in any other process.
///
/// [`#[callgate::main]`](macro@crate::main) calls it; a program with its own `main` uses that attribute. In tests and benches,
/// [`test_support!`](crate::test_support) takes its place. Called by hand it must be the first line of `main`: a bridge starts its child by
/// executing the running program again, and what comes before this line runs in the child too.
///
/// A child that already has several threads or an async runtime ends, and its start fails with
/// [`StartError::InitTooLate`](crate::StartError::InitTooLate). A child that has inherited descriptors other than 0, 1 and 2 executes the
/// program once more, which closes them. Descriptors that a library opened before `main` stay open.
///
/// A child has its own session, unless [`Builder::signals`](crate::Builder::signals) says otherwise.
///
/// # Examples
///
/// ```
/// callgate::init();
/// // .. the rest of main
/// ```
pub fn init() {
    // Set in a child too: its service may start bridges.
    INITIALISED.store(true, Ordering::Relaxed);
    if let Some(child) = child::adopt() {
        child.run_entry();
    }
    // Early, while the program's file still exists.
    program::remember();
}

/// [`init`], called before `main`: all running threads belong to libraries, as the program itself has started nothing yet.
pub fn init_before_main() {
    child::note_libraries();
    init();
}

/// Serves `T` to the parent that started this program with [`Builder::executable`](crate::Builder::executable). Never returns.
///
/// The parent and this program must agree on `T`: its methods and their types are compared by fingerprint, and requests are
/// validated before they are read. It must bridge each trait of `T` that the parent bridges. One worker serves: a bridge with
/// [`Builder::workers`](crate::Builder::workers) needs [`serve_parallel`].
///
/// A program that is not started by a bridge says so on stderr and exits with code 2.
pub fn serve<T: Service>() -> ! {
    serve_with::<T>(one_worker::<T>)
}

/// Like [`serve`], with the number of workers that the parent requests with [`Builder::workers`](crate::Builder::workers), which may be one.
pub fn serve_parallel<T: Service + Send + Sync>() -> ! {
    serve_with::<T>(any_workers::<T>)
}

fn serve_with<T: Service>(entry: EntryFn) -> ! {
    match child::adopt() {
        Some(child) => entry(child),
        None => {
            eprintln!(
                "this program serves `{}` to the program that starts it through callgate's Builder::executable; \
                 it does nothing when started by hand",
                T::NAME
            );
            std::process::exit(2)
        }
    }
}

/// A child's entry: completes the handshake, then serves with one worker.
pub(super) fn one_worker<T: Service>(child: Child) -> ! {
    let serving = child.answer(Fingerprint::of::<T>(), &bridged_traits::keys::<T>(), 1);
    // The parent says so: what it knows of the type's traits decides.
    if serving.segment.is_unordered() { tasks::serve::<T>(serving) } else { callee::serve::<T>(serving) }
}

/// A child's entry: completes the handshake, then serves with the number of workers that its parent requests.
pub(super) fn any_workers<T: Service + Send + Sync>(child: Child) -> ! {
    let most = *Geometry::WORKERS.end();
    let serving = child.answer(Fingerprint::of::<T>(), &bridged_traits::keys::<T>(), most);
    if serving.segment.is_unordered() {
        tasks::serve_parallel::<T>(serving)
    } else {
        callee::serve_parallel::<T>(serving)
    }
}

/// Locates `entry`, an entry for `T`, in the running program.
pub(super) fn find<T: Service>(entry: EntryFn) -> Result<Entry, StartError> {
    let image = Image::current();
    let offset = image.offset_of(entry as usize).ok_or_else(|| StartError::System {
        service: T::NAME,
        what: "finding the service in the running program".into(),
        error: io::Error::other("it is in a shared library; use Builder::executable"),
    })?;
    Ok(Entry { build: image.build, offset })
}
