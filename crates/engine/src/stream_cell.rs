//! An iterator together with what it borrows.
//!
//! With `unsafe` in it, and complete in itself: the iterator sees its owner as `&'a mut O`, for an `'a` that it cannot choose, and is dropped before it.

use std::ptr::NonNull;

/// An iterator and the owner of what it borrows. The iterator is dropped first.
pub struct StreamCell<O, I> {
    /// In truth it lives only as long as `owner`.
    iterator: Box<dyn Iterator<Item = I>>,
    _owner: Owner<O>,
}

/// A box that may be moved while references into it live, which moving a `Box` would invalidate.
struct Owner<O>(NonNull<O>);

impl<O> Drop for Owner<O> {
    fn drop(&mut self) {
        // SAFETY: made of a box in `StreamCell::new`; the iterator, which alone had a reference, has been dropped, or was never made.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<O: 'static, I: 'static> StreamCell<O, I> {
    /// Moves `owner` to a place of its own and makes an iterator that may borrow it.
    ///
    /// # Errors
    ///
    /// Those of `make`.
    pub fn new<E>(
        owner: O,
        make: impl for<'a> FnOnce(&'a mut O) -> Result<Box<dyn Iterator<Item = I> + 'a>, E>,
    ) -> Result<Self, E> {
        let owner = Owner(NonNull::from(Box::leak(Box::new(owner))));
        // SAFETY: just made, and used by nothing else until the iterator, if there is one, has been dropped. `make` is written for any lifetime, so it
        // cannot keep the reference elsewhere for this one; the iterator is in a private field, and an `I` does not borrow.
        let lent: &'static mut O = unsafe { &mut *owner.0.as_ptr() };
        let iterator = make(lent)?;
        Ok(Self { iterator, _owner: owner })
    }
}

impl<O, I> Iterator for StreamCell<O, I> {
    type Item = I;

    fn next(&mut self) -> Option<I> {
        self.iterator.next()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::rc::Rc;

    /// Notes when it is dropped.
    struct Noted(&'static str, Rc<RefCell<Vec<&'static str>>>);

    impl Drop for Noted {
        fn drop(&mut self) {
            self.1.borrow_mut().push(self.0);
        }
    }

    #[test]
    fn an_iterator_that_borrows_survives_moves_and_is_dropped_before_its_owner() {
        let drops = Rc::new(RefCell::new(Vec::new()));
        let owner = (vec![1u8, 2, 3], Noted("owner", drops.clone()));
        let ours = drops.clone();
        let cell = StreamCell::new(owner, move |owner| {
            let (noted, numbers) = (Noted("iterator", ours), &mut owner.0);
            Ok::<_, Infallible>(Box::new(numbers.iter_mut().map(move |number| {
                let _ = &noted;
                *number += 1;
                u64::from(*number)
            })))
        });
        let Ok(mut cell) = cell;
        assert_eq!(cell.next(), Some(2));
        let mut moved = vec![cell];
        assert_eq!(moved[0].next(), Some(3));
        drop(moved);
        assert_eq!(*drops.borrow(), ["iterator", "owner"]);
    }

    #[test]
    fn an_owner_whose_iterator_is_not_made_is_dropped() {
        let drops = Rc::new(RefCell::new(Vec::new()));
        let failed = StreamCell::<_, u8>::new(Noted("owner", drops.clone()), |_| Err("no"));
        assert_eq!(failed.err(), Some("no"));
        assert_eq!(*drops.borrow(), ["owner"]);
    }
}
