//! Promise: the user's safe code, however wrong, never causes undefined behaviour on either side of a bridge, nor a panic in the library. The cases
//! are a lying `Serialize`, a `Deserialize` that panics, and a call that gives up half-way.

mod support;

use callgate::{CallError, bridge, rkyv};
use rkyv::boxed::{ArchivedBox, BoxResolver};
use rkyv::rancor::Fallible;
use rkyv::{Archive, Deserialize, Place, Serialize};
use std::thread;
use std::time::Duration;
use support::within;

callgate::test_support!();

const PATIENCE: u64 = 60;

/// An argument whose `Serialize` gives a wrong position for its text.
struct Liar;

impl Archive for Liar {
    type Archived = ArchivedBox<str>;
    type Resolver = BoxResolver;

    fn resolve(&self, resolver: BoxResolver, out: Place<Self::Archived>) {
        ArchivedBox::resolve_from_ref("a text", resolver, out);
    }
}

impl<S: Fallible + ?Sized> Serialize<S> for Liar {
    fn serialize(&self, _: &mut S) -> Result<BoxResolver, S::Error> {
        Ok(BoxResolver::from_pos(0x3000_0000))
    }
}

impl<D: Fallible + ?Sized> Deserialize<Liar, D> for ArchivedBox<str> {
    fn deserialize(&self, _: &mut D) -> Result<Liar, D::Error> {
        Ok(Liar)
    }
}

/// A value whose `Deserialize` panics if the archive holds an odd number.
#[derive(Debug, PartialEq)]
struct Picky(u64);

impl Archive for Picky {
    type Archived = rkyv::rend::u64_le;
    type Resolver = ();

    fn resolve(&self, (): (), out: Place<Self::Archived>) {
        out.write(self.0.into());
    }
}

impl<S: Fallible + ?Sized> Serialize<S> for Picky {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<D: Fallible + ?Sized> Deserialize<Picky, D> for rkyv::rend::u64_le {
    fn deserialize(&self, _: &mut D) -> Result<Picky, D::Error> {
        assert!(self.to_native().is_multiple_of(2), "an odd number");
        Ok(Picky(self.to_native()))
    }
}

struct Guest;

#[bridge]
impl Guest {
    pub(crate) fn new() -> Self {
        Guest
    }

    pub(crate) fn sleep(&self, ms: u64) {
        thread::sleep(Duration::from_millis(ms));
    }

    pub(crate) fn hear(&self, _liar: Liar) -> u64 {
        1
    }

    pub(crate) fn picky(&self, number: u64) -> Picky {
        Picky(number)
    }
}

trait First {
    fn first(&self, a: u64, b: u64) -> u64;
}

#[bridge]
impl First for Guest {
    fn first(&self, a: u64, b: u64) -> u64 {
        a + b
    }
}

trait Second {
    fn second(&self, text: &str) -> usize;
}

#[bridge]
impl Second for Guest {
    fn second(&self, text: &str) -> usize {
        text.len()
    }
}

/// The first call of a trait's method tells the child of the trait's block. If that call gives up, it must not leave behind a message that later
/// makes the child take one trait for another.
#[test]
fn a_traits_first_call_that_gives_up_changes_no_other_trait() {
    within(PATIENCE, "a_traits_first_call_that_gives_up_changes_no_other_trait", || {
        let guest = Guest::bridge().concurrent_callers(2).start().expect("a start");
        let hasty = guest.with_timeout(Duration::from_millis(30));
        assert!(matches!(hasty.sleep(300), Err(CallError::TimedOut { .. })));
        assert!(matches!(hasty.first(1, 2), Err(CallError::TimedOut { .. })));
        // On both lanes: behind the abandoned message, and beside it.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| assert_eq!((*guest).second("hello"), Ok(5))));
            }
        });
        thread::sleep(Duration::from_millis(300));
        assert_eq!((*guest).second("hello"), Ok(5));
        assert_eq!((*guest).first(1, 2), Ok(3));
    });
}

#[test]
fn a_request_that_its_own_serialize_got_wrong_is_refused() {
    within(PATIENCE, "a_request_that_its_own_serialize_got_wrong_is_refused", || {
        let guest = Guest::bridge().start().expect("a start");
        let error = guest.hear(Liar).expect_err("its archive points nowhere");
        assert!(error.to_string().contains("the child cannot read the arguments"), "{error}");
        assert_eq!(guest.picky(2), Ok(Picky(2)), "the child goes on");
    });
}

#[test]
fn a_reply_at_which_its_own_deserialize_panics_is_corrupt() {
    within(PATIENCE, "a_reply_at_which_its_own_deserialize_panics_is_corrupt", || {
        let guest = Guest::bridge().start().expect("a start");
        assert_eq!(guest.picky(4), Ok(Picky(4)));
        assert!(matches!(guest.picky(5), Err(CallError::Corrupt { .. })));
    });
}
