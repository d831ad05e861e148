//! The refusals of one block, collected so that they are reported together.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::Error;

/// Everything that is wrong with a block, in the order in which it was found.
#[derive(Default)]
pub(crate) struct Refusals(Vec<Error>);

impl Refusals {
    /// Refuses `tokens`, at their place.
    pub(crate) fn refuse(&mut self, tokens: impl ToTokens, why: impl std::fmt::Display) {
        self.0.push(Error::new_spanned(tokens, why));
    }

    /// Refuses whatever is at `span`.
    pub(crate) fn refuse_at(&mut self, span: Span, why: impl std::fmt::Display) {
        self.0.push(Error::new(span, why));
    }

    /// Adds an error from the parser.
    pub(crate) fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    /// The number of refusals so far; comparing it before and after a check tells whether the check refused something.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One `compile_error!` for each refusal.
    pub(crate) fn to_compile_errors(&self) -> TokenStream {
        self.0.iter().map(Error::to_compile_error).collect()
    }

    /// The texts, for tests.
    #[cfg(test)]
    pub(crate) fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}
