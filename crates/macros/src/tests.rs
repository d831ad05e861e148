//! What each step makes of a block: refusals and code, without a compiler.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{File, ImplItem, Item};

use crate::model::{ImplBlock, MethodKind, MethodModel, Passing};
use crate::refusals::Refusals;
use crate::types::spelled;
use crate::{check, generate, parse, viewable};

mod generated;
mod model;
mod names;
mod refused;

/// A type's own block with a constructor and `methods`.
fn with_constructor(methods: TokenStream) -> TokenStream {
    quote!(impl Counter { pub fn new() -> Self { todo!() } #methods })
}

fn read(item: TokenStream) -> ImplBlock {
    let mut refusals = Refusals::default();
    let block = ImplBlock::read(parse::block(TokenStream::new(), item, &mut refusals).expect("an impl block"));
    assert_eq!(refusals.texts(), [""; 0]);
    block
}

/// The texts of all refusals.
fn refused(options: TokenStream, item: TokenStream) -> Vec<String> {
    let mut refusals = Refusals::default();
    if let Some(mut parsed) = parse::block(options, item, &mut refusals) {
        check::options(&mut parsed, &mut refusals);
        if check::header(&parsed.item, &mut refusals).is_ok() {
            check::block(&mut ImplBlock::read(parsed), &mut refusals);
        }
    }
    refusals.texts()
}

fn refused_methods(methods: TokenStream) -> Vec<String> {
    refused(TokenStream::new(), with_constructor(methods))
}

/// Asserts that there is one refusal for each text, and that it contains the text.
#[track_caller]
fn assert_refused(refused: Vec<String>, texts: &[&str]) {
    assert_eq!(refused.len(), texts.len(), "{refused:#?}");
    for (refused, text) in refused.iter().zip(texts) {
        assert!(refused.contains(text), "`{refused}` says nothing of `{text}`");
    }
}

/// The generated items, including those in `const _`.
fn items(options: TokenStream, item: TokenStream) -> Vec<Item> {
    let file: File = syn::parse2(generate(options, item)).expect("the generated code is Rust");
    let mut items = Vec::new();
    for item in file.items {
        match item {
            Item::Const(hidden) => {
                let expr = hidden.expr;
                let block: syn::Block = syn::parse2(quote!(#expr)).expect("a block");
                items.extend(block.stmts.into_iter().filter_map(|stmt| match stmt {
                    syn::Stmt::Item(item) => Some(item),
                    _ => None,
                }));
            }
            item => items.push(item),
        }
    }
    items
}

/// The functions of the inherent impl of `ty`, the last one if there are several.
fn functions(items: &[Item], ty: &str) -> Vec<String> {
    let mut impls = items.iter().filter_map(|item| match item {
        Item::Impl(item) if item.trait_.is_none() && spelled(&item.self_ty) == ty => Some(&item.items),
        _ => None,
    });
    let names = |item: &ImplItem| match item {
        ImplItem::Fn(function) => Some(function.sig.ident.to_string()),
        _ => None,
    };
    impls.next_back().map(|items| items.iter().filter_map(names).collect()).unwrap_or_default()
}

fn method<'a>(block: &'a ImplBlock, name: &str) -> &'a MethodModel {
    block.methods.iter().find(|method| method.name() == name).expect("a method of that name")
}
