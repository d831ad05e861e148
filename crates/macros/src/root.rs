//! The path to callgate in generated code: `::callgate`, or the one given with `crate = ..`.
//!
//! The code is first written with a stand-in that no user's name equals, which is then replaced by the path. The user's own code stays unchanged.

use proc_macro2::{Group, Ident, Literal, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{Attribute, Error, Expr, ExprLit, Lit, Meta, Path, parse_quote};

/// Stands in for the path while code is written, as `::__callgate`.
const STAND_IN: &str = "__callgate";

/// The path to callgate.
pub(crate) struct Root(Path);

impl Default for Root {
    fn default() -> Self {
        Root(parse_quote!(::callgate))
    }
}

impl Root {
    /// Reads the option `crate = path`, whose path may be in quotes.
    pub(crate) fn of_option(option: &Meta) -> syn::Result<Self> {
        const HOW: &str = "`crate` needs the name under which callgate is a dependency here, as in `crate = cg`";
        let Meta::NameValue(pair) = option else { return Err(Error::new_spanned(option, HOW)) };
        match &pair.value {
            Expr::Path(path) if path.qself.is_none() && path.attrs.is_empty() => Ok(Root(path.path.clone())),
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => match text.parse_with(Path::parse_mod_style) {
                Ok(path) => Ok(Root(path)),
                Err(_) => Err(Error::new_spanned(text, HOW)),
            },
            other => Err(Error::new_spanned(other, HOW)),
        }
    }

    /// Reads `#[callgate(crate = path)]` among a derive's attributes, if present.
    pub(crate) fn of_attributes(attrs: &[Attribute]) -> syn::Result<Self> {
        let mut root = Root::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("callgate")) {
            let option: Meta = attr.parse_args()?;
            if !is_crate(&option) {
                return Err(Error::new_spanned(option.path(), "there is no option but `crate = path` here"));
            }
            root = Root::of_option(&option)?;
        }
        Ok(root)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Replaces the stand-in in the code with the path.
    pub(crate) fn put_into(&self, code: TokenStream) -> TokenStream {
        let mut out = TokenStream::new();
        let mut pending = Vec::new();
        for token in code {
            match token {
                TokenTree::Ident(ident) if ident == STAND_IN && pending.len() == 2 => {
                    pending.clear();
                    out.extend(self.spanned(&ident));
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    if pending.len() == 2 {
                        out.extend(pending.drain(..1));
                    }
                    pending.push(TokenTree::Punct(punct));
                }
                token => {
                    out.extend(pending.drain(..));
                    out.extend([self.inside(token)]);
                }
            }
        }
        out.extend(pending);
        out
    }

    fn inside(&self, token: TokenTree) -> TokenTree {
        match token {
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), self.put_into(group.stream()));
                inner.set_span(group.span());
                inner.into()
            }
            // Links in documentation.
            TokenTree::Literal(literal) if literal.to_string().contains(STAND_IN) => self.in_text(&literal).into(),
            token => token,
        }
    }

    /// Replaces the stand-in in a string literal. Other literals, such as a byte string of the user's, stay unchanged.
    fn in_text(&self, literal: &Literal) -> Literal {
        let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) else { return literal.clone() };
        let path = self.0.to_token_stream().to_string().replace(' ', "");
        let mut text = Literal::string(&text.value().replace(&format!("::{STAND_IN}"), &path));
        text.set_span(literal.span());
        text
    }

    /// The path, with errors shown at the stand-in's place.
    fn spanned(&self, there: &Ident) -> TokenStream {
        let path = &self.0;
        let locate = |mut token: TokenTree| {
            token.set_span(token.span().located_at(there.span()));
            token
        };
        quote!(#path).into_iter().map(locate).collect()
    }
}

pub(crate) fn is_crate(option: &Meta) -> bool {
    option.path().is_ident("crate")
}
