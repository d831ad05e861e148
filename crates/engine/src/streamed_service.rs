//! A service that streams borrow: an iterator that a method has returned keeps `&T` or `&mut T` beyond the call that made it.
//!
//! | borrows | `&self` | `&mut self` | a stream of `&self` | a stream of `&mut self` |
//! |---|---|---|---|---|
//! | none | runs | runs | opens | opens |
//! | streams of `&self` | runs | refused | opens | refused |
//! | a stream of `&mut self` | refused | refused | refused | refused |
//!
//! The lock is held while a method runs, but not for a stream's life: nobody waits for a stream. With `unsafe` in it: no reference to the service is
//! made before the table above allows it.

use crate::shared_service::SharedService;
use callgate_os::sync::AtomicU32;
use callgate_os::sync::Ordering::{Acquire, Relaxed, Release};
use callgate_transport::error::CallName;
use parking_lot::{Mutex, RwLock};
use std::cell::UnsafeCell;
use std::fmt;
use std::sync::Arc;

/// In `borrows`: a stream has `&mut T`.
const EXCLUSIVE: u32 = u32::MAX;

/// A service that streams borrow.
pub struct StreamedService<T> {
    lock: ServiceLock,
    /// How many streams have `&T`, or [`EXCLUSIVE`]. Grows only under the lock: a reader's for `&T`, the writer's for `&mut T`.
    borrows: AtomicU32,
    /// The methods that returned these streams.
    lent: Mutex<Vec<CallName>>,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: like a lock, it gives several threads `&T` at once, and one of them `&mut T` or the `T`.
unsafe impl<T: Send + Sync> Sync for StreamedService<T> {}

/// What keeps methods apart that run at the same time.
enum ServiceLock {
    /// One worker, which never waits for itself.
    One(RwLock<()>),
    Several(SharedService<()>),
}

/// Why a method may not have the service: a stream of this method has it.
#[derive(Clone, Copy, Debug)]
pub struct Borrowed(Option<CallName>);

impl fmt::Display for Borrowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(of) => write!(f, "a stream of `{of}` still borrows the service: finish or drop it first"),
            None => f.write_str("a stream that ends just now still borrows the service: try again"),
        }
    }
}

impl ServiceLock {
    fn read<R>(&self, run: impl FnOnce() -> R) -> R {
        match self {
            ServiceLock::One(lock) => {
                let _guard = lock.try_read().unwrap_or_else(|| in_use());
                run()
            }
            ServiceLock::Several(lock) => {
                let _guard = lock.read();
                run()
            }
        }
    }

    fn write<R>(&self, run: impl FnOnce() -> R) -> R {
        match self {
            ServiceLock::One(lock) => {
                let _guard = lock.try_write().unwrap_or_else(|| in_use());
                run()
            }
            ServiceLock::Several(lock) => {
                let _guard = lock.write();
                run()
            }
        }
    }
}

/// Panics: the only worker calls the service from within a method of it.
#[cold]
fn in_use() -> ! {
    panic!("the service is in use by the method that makes this call")
}

impl<T> StreamedService<T> {
    /// No service yet, for this number of workers.
    pub fn new(workers: u32) -> Self {
        let lock = if workers == 1 {
            ServiceLock::One(RwLock::new(()))
        } else {
            ServiceLock::Several(SharedService::new(Some(())))
        };
        Self { lock, borrows: AtomicU32::new(0), lent: Mutex::default(), value: UnsafeCell::new(None) }
    }

    /// Puts the service in. One that streams borrow stays, and `service` is dropped.
    pub fn put(&self, service: Option<T>) {
        let old = self.lock.write(|| self.value_mut().map(|value| std::mem::replace(value, service)));
        // Not under the lock: a destructor is the user's code.
        drop(old);
    }

    /// Takes the service out for good; `None` also while streams borrow it.
    pub fn take(&self) -> Option<T> {
        self.lock.write(|| self.value_mut().ok()?.take())
    }

    /// Runs a method with `&self`. `None` if there is no service.
    ///
    /// # Errors
    ///
    /// If a stream has `&mut T`.
    pub fn read<R>(&self, method: impl FnOnce(&T) -> R) -> Result<Option<R>, Borrowed> {
        self.lock.read(|| Ok(self.value()?.map(method)))
    }

    /// Runs a function, with the service unless a stream has `&mut T`. `None` if there is no service.
    pub fn read_if_free<R>(&self, function: impl FnOnce(Option<&T>) -> R) -> Option<R> {
        self.lock.read(|| match self.value() {
            Ok(value) => value.map(|value| function(Some(value))),
            Err(_) => Some(function(None)),
        })
    }

    /// Runs a method with `&mut self`. `None` if there is no service.
    ///
    /// # Errors
    ///
    /// If a stream has `&T` or `&mut T`.
    pub fn write<R>(&self, method: impl FnOnce(&mut T) -> R) -> Result<Option<R>, Borrowed> {
        self.lock.write(|| Ok(self.value_mut()?.as_mut().map(method)))
    }

    /// Lends `&T` to a stream of the method `of`. `None` if there is no service.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn lend(self: &Arc<Self>, of: CallName) -> Result<Option<SharedLoan<T>>, Borrowed> {
        self.lock.read(|| {
            if self.value()?.is_none() {
                return Ok(None);
            }
            // Relaxed: a writer comes after this under the lock.
            self.borrows.fetch_add(1, Relaxed);
            self.lent.lock().push(of);
            Ok(Some(SharedLoan(Loan { service: self.clone(), of })))
        })
    }

    /// Lends `&mut T` to a stream of the method `of`. `None` if there is no service.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn lend_mut(self: &Arc<Self>, of: CallName) -> Result<Option<ExclusiveLoan<T>>, Borrowed> {
        self.lock.write(|| {
            if self.value_mut()?.is_none() {
                return Ok(None);
            }
            // Relaxed: readers and writers come after this under the lock.
            self.borrows.store(EXCLUSIVE, Relaxed);
            self.lent.lock().push(of);
            Ok(Some(ExclusiveLoan(Loan { service: self.clone(), of })))
        })
    }

    /// The service, with the lock held by this thread, as a reader or a writer.
    fn value(&self) -> Result<Option<&T>, Borrowed> {
        // Acquire: pairs with the Release in `Loan::drop`.
        if self.borrows.load(Acquire) == EXCLUSIVE {
            return Err(self.borrowed());
        }
        // SAFETY: no stream has `&mut T`, and none gets it while this thread has the lock; whoever has `&mut T` for a call has the writer's lock.
        Ok(unsafe { &*self.value.get() }.as_ref())
    }

    /// The service, with the writer's lock held by this thread.
    #[allow(clippy::mut_from_ref)]
    fn value_mut(&self) -> Result<&mut Option<T>, Borrowed> {
        // Acquire: pairs with the Release in `Loan::drop`.
        if self.borrows.load(Acquire) != 0 {
            return Err(self.borrowed());
        }
        // SAFETY: no stream has a reference, none gets one while this thread has the writer's lock, and no other method runs.
        Ok(unsafe { &mut *self.value.get() })
    }

    #[cold]
    fn borrowed(&self) -> Borrowed {
        Borrowed(self.lent.lock().last().copied())
    }
}

/// A loan of the service, which stays where it is as long as this lives.
struct Loan<T> {
    service: Arc<StreamedService<T>>,
    of: CallName,
}

impl<T> Drop for Loan<T> {
    fn drop(&mut self) {
        // Release: what the stream has done to the service comes before what the next method does. Pairs with the Acquire in `value` and `value_mut`.
        match self.service.borrows.load(Relaxed) {
            EXCLUSIVE => self.service.borrows.store(0, Release),
            _ => drop(self.service.borrows.fetch_sub(1, Release)),
        }
        let mut lent = self.service.lent.lock();
        if let Some(at) = lent.iter().position(|of| *of == self.of) {
            lent.swap_remove(at);
        }
    }
}

/// `&T`, for a stream.
pub struct SharedLoan<T>(Loan<T>);

impl<T> SharedLoan<T> {
    pub fn get(&self) -> &T {
        // SAFETY: counted in `borrows` since `lend`, so nobody makes `&mut T` or takes the value out.
        let value = unsafe { &*self.0.service.value.get() };
        // `lend` has seen it.
        value.as_ref().unwrap_or_else(|| unreachable!("a service that is lent is there"))
    }
}

/// `&mut T`, for a stream.
pub struct ExclusiveLoan<T>(Loan<T>);

impl<T> ExclusiveLoan<T> {
    pub fn get(&mut self) -> &mut T {
        // SAFETY: noted in `borrows` since `lend_mut`, so nobody else makes a reference or takes the value out.
        let value = unsafe { &mut *self.0.service.value.get() };
        value.as_mut().unwrap_or_else(|| unreachable!("a service that is lent is there"))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::stream_cell::StreamCell;
    use std::convert::Infallible;

    const OF: CallName = CallName { service: "Words", method: "each" };

    type Words = StreamedService<Vec<String>>;

    fn words(workers: u32) -> Arc<Words> {
        let service = Arc::new(StreamedService::new(workers));
        service.put(Some(vec!["one".into(), "two".into(), "three".into()]));
        service
    }

    /// A stream of the words, which are numbered through a buffer that it borrows, too.
    fn each(service: &Arc<Words>) -> StreamCell<(Vec<u8>, SharedLoan<Vec<String>>), String> {
        let loan = service.lend(OF).ok().flatten().expect("nothing else borrows it");
        let made = StreamCell::new((vec![1, 2, 3], loan), |(numbers, loan)| {
            let numbered = numbers.iter_mut().zip(loan.get()).map(|(number, word)| format!("{word}{number}"));
            Ok::<Box<dyn Iterator<Item = String> + '_>, Infallible>(Box::new(numbered))
        });
        let Ok(cell) = made;
        cell
    }

    #[test]
    fn streams_and_methods_get_what_the_table_says() {
        for workers in [1, 2] {
            let service = words(workers);
            let (mut one, mut other) = (each(&service), each(&service));
            assert_eq!((one.next().as_deref(), other.next().as_deref()), (Some("one1"), Some("one1")));
            assert!(matches!(service.read(Vec::len), Ok(Some(3))));
            assert!(service.write(Vec::clear).is_err() && service.lend_mut(OF).is_err() && service.take().is_none());
            drop(one);
            assert!(service.write(Vec::clear).is_err(), "the other still has it");
            drop(other);
            assert!(matches!(service.write(|words| words.push("four".into())), Ok(Some(()))));
            let mut loan = service.lend_mut(OF).ok().flatten().expect("nothing else borrows it");
            loan.get().push("five".into());
            assert!(service.read(Vec::len).is_err() && service.lend(OF).is_err() && service.take().is_none());
            let why = service.write(Vec::clear).expect_err("it is lent").to_string();
            assert_eq!(why, "a stream of `Words::each` still borrows the service: finish or drop it first");
            drop(loan);
            assert_eq!(service.take().map(|words| words.len()), Some(5));
            assert!(matches!(service.read(Vec::len), Ok(None)));
        }
    }

    #[test]
    fn a_service_outlives_its_streams() {
        let service = words(1);
        let mut stream = each(&service);
        drop(service);
        assert_eq!(stream.by_ref().last().as_deref(), Some("three3"));
    }

    #[test]
    fn a_service_that_threads_lend_and_change_is_never_both() {
        let service = words(2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let Ok(Some(loan)) = service.lend(OF) else { continue };
                        let before = loan.get().len();
                        std::hint::spin_loop();
                        assert_eq!(loan.get().len(), before);
                    }
                });
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let _ = service.write(|words| words.push(String::new()));
                    }
                });
            }
        });
    }
}
