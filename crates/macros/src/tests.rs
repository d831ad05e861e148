//! Blocks in, refusals and code out: what each step makes of them, without a compiler.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{File, ImplItem, Item};

use crate::model::{ImplBlock, MethodKind, MethodModel, Passing};
use crate::refusals::Refusals;
use crate::types::spelled;
use crate::{check, generate, parse, viewable};

/// The block in a type's own block with a constructor.
fn with_constructor(methods: TokenStream) -> TokenStream {
    quote!(impl Counter { pub fn new() -> Self { todo!() } #methods })
}

fn read(item: TokenStream) -> ImplBlock {
    let mut refusals = Refusals::default();
    let block = ImplBlock::read(parse::block(TokenStream::new(), item, &mut refusals).expect("an impl block"));
    assert_eq!(refusals.texts(), [""; 0]);
    block
}

/// The texts of everything that is refused.
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

/// Asserts that there is one refusal for each text, and that they contain them.
#[track_caller]
fn assert_refused(refused: Vec<String>, texts: &[&str]) {
    assert_eq!(refused.len(), texts.len(), "{refused:#?}");
    for (refused, text) in refused.iter().zip(texts) {
        assert!(refused.contains(text), "`{refused}` says nothing of `{text}`");
    }
}

/// The items that come out, those in `const _` included.
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

#[test]
fn types_are_spelled_as_they_are_typed() {
    for text in ["Option<&'a mut [u8; 3]>", "&dyn Fn(u8, &str)", "<Vec<T> as Shape<u8>>::Unit", "Box<dyn A + 'static>"]
    {
        let tokens: TokenStream = text.parse().expect("tokens");
        assert_eq!(spelled(tokens), text);
    }
}

#[test]
fn constructors_are_known_by_what_they_return() {
    let block = read(quote! {
        impl<T> inner::Stack<T> {
            pub fn new() -> Self {}
            pub fn named() -> inner::Stack<T> {}
            pub fn may_fail() -> Result<Self, Error> {}
            pub fn may_fail_otherwise() -> std::io::Result<inner::Stack<T>> {}
            pub fn other() -> Stack<u8> {}
            pub fn maybe() -> Option<Self> {}
            pub fn number() -> u8 {}
            pub fn method(&self) -> Self {}
        }
    });
    let kind = |name| method(&block, name).kind.clone();
    assert_eq!(kind("new"), MethodKind::Constructor { can_fail: false });
    assert_eq!(kind("named"), MethodKind::Constructor { can_fail: false });
    assert_eq!(kind("may_fail"), MethodKind::Constructor { can_fail: true });
    assert_eq!(kind("may_fail_otherwise"), MethodKind::Constructor { can_fail: true });
    assert_eq!(kind("other"), MethodKind::Function);
    assert_eq!(kind("maybe"), MethodKind::Function);
    assert_eq!(kind("number"), MethodKind::Function);
    assert_eq!(kind("method"), MethodKind::Method);
}

#[test]
fn names_for_callers() {
    let block = read(quote! {
        impl Counter {
            pub fn new() -> Self {}
            pub fn with_x() -> Self {}
            pub fn r#try() -> Self {}
            #[bridge(rename = "open")]
            pub fn opened() -> Self {}
            pub fn add(&self) {}
            #[callgate::bridge(rename = "halt")]
            pub fn stop(&self) {}
        }
    });
    let shown: Vec<String> = block.methods.iter().map(|method| method.shown.to_string()).collect();
    assert_eq!(shown, ["bridge", "bridge_with_x", "bridge_try", "open", "add", "halt"]);
    assert_eq!(method(&block, "stop").name(), "stop");
}

#[test]
fn what_is_bridged_and_in_which_place_of_the_table() {
    let item = quote! {
        impl Counter {
            fn private(&self) {}
            pub fn new() -> Self {}
            #[bridge(skip)]
            pub fn skipped(&self) {}
            pub(crate) fn add(&self) {}
            const ZERO: u8 = 0;
            pub fn take(&self) {}
        }
    };
    let mut refusals = Refusals::default();
    let parsed = parse::block(quote!(get(total: u64), set(total: u64)), item, &mut refusals).expect("an impl block");
    let block = ImplBlock::read(parsed);
    let table: Vec<_> = block.methods.iter().map(|method| (method.index, method.shown.to_string())).collect();
    let expected = [(0, "bridge"), (1, "add"), (2, "take"), (3, "total"), (4, "set_total")];
    assert_eq!(table, expected.map(|(index, name)| (index, name.to_owned())));
}

#[test]
fn how_arguments_cross() {
    let block = read(with_constructor(quote! {
        pub fn all(
            &self, a: u64, b: &Vec<u8>, c: &str, d: &'a [u8], e: &[String], f: &rkyv::Archived<Point>, g: &[usize],
            h: &(str), i: &Archive<u8>, j: Self, k: [u8; Self::N],
        ) {}
    }));
    let arguments = &method(&block, "all").arguments;
    let seen: Vec<_> = arguments.iter().map(|argument| (argument.passing, spelled(&argument.ty))).collect();
    let expected = [
        (Passing::Value, "u64"),
        (Passing::Borrowed, "Vec<u8>"),
        (Passing::Text, "str"),
        (Passing::Native, "u8"),
        (Passing::Slice, "String"),
        (Passing::Archived, "Point"),
        (Passing::Slice, "usize"),
        (Passing::Text, "str"),
        (Passing::Borrowed, "Archive<u8>"),
        (Passing::Value, "Counter"),
        (Passing::Value, "[u8; <Counter>::N]"),
    ];
    assert_eq!(seen, expected.map(|(passing, ty)| (passing, ty.to_owned())));
}

#[test]
fn what_has_the_service_for_itself() {
    let block = read(with_constructor(quote! {
        pub fn ref_self(&self) {}
        pub fn typed_ref(self: &Self) {}
        pub fn no_self() {}
        pub fn mut_self(&mut self) {}
        pub fn with_lifetime<'a>(&'a mut self) {}
        pub fn typed_mut(self: (&mut Self)) {}
    }));
    let exclusive = block.methods.iter().filter(|method| method.is_exclusive());
    let exclusive: Vec<_> = exclusive.map(|method| method.name().to_string()).collect();
    assert_eq!(exclusive, ["mut_self", "with_lifetime", "typed_mut"]);
}

#[test]
fn every_argument_gets_a_plain_name() {
    let block = read(with_constructor(quote! {
        pub fn all(&self, (a, b): (u8, u8), mut c: u8, _: u8, _d: u8, _c: u8, arg0: u8, _type: u8, r#fn: u8) {}
    }));
    let names: Vec<String> = method(&block, "all").arguments.iter().map(|argument| argument.name.to_string()).collect();
    assert_eq!(names, ["arg0_", "c", "arg2", "d", "_c", "arg0", "_type", "r#fn"]);
}

#[test]
fn self_in_a_trait_means_what_it_means_in_the_block() {
    let block = read(quote! {
        impl Shape<Self> for Circle {
            const N: usize = 3;
            fn area(&self, unit: Self::Unit, all: [u8; Self::N], other: [u8; Self::M]) -> Option<Self::Area> {}
        }
    });
    let area = method(&block, "area");
    assert_eq!(spelled(&area.output), "Option<<Circle as Shape<Circle>>::Area>");
    assert_eq!(spelled(&area.arguments[0].ty), "<Circle as Shape<Circle>>::Unit");
    assert_eq!(spelled(&area.arguments[1].ty), "[u8; <Circle as Shape<Circle>>::N]");
    assert_eq!(spelled(&area.arguments[2].ty), "[u8; <Circle>::M]");
}

#[test]
fn a_block_in_order_is_not_refused() {
    assert_refused(
        refused_methods(quote! {
            pub fn a<'a>(&'a self, text: &'a str) where 'a: 'a {}
            pub fn b(self: &mut Self, all: &[Vec<Option<u8>>]) -> Result<Self, String> {}
            pub fn c(texts: &'_ String) -> [u8; 3] {}
            #[cfg(unix)]
            pub fn d(&self) {}
            #[cfg(windows)]
            pub fn d(&self, number: u8) {}
            fn stop(self) -> impl Iterator {}
            #[bridge(skip)]
            pub async fn kill<T>(&mut self, value: &mut T) -> &T {}
        }),
        &[],
    );
    assert_refused(
        refused(
            quote!(get(total: u64)),
            with_constructor(quote!(
                pub fn add(&self) {}
            )),
        ),
        &[],
    );
    let generic = quote!(
        impl<T, const N: usize> Stack<T, N> {
            pub fn new() -> Result<Self, &'static str> {}
        }
    );
    assert_refused(refused(quote!(), generic), &[]);
    let of_trait = quote! {
        impl Shape for Circle {
            type Unit = u8;
            fn local<T>(value: &mut T) -> &T where T: Clone {}
            fn unit(&self) -> Self::Unit where Self: Sized {}
        }
    };
    assert_eq!(refused(quote!(), of_trait).len(), 2, "parameters and conditions of a function that stays here too");
}

#[test]
fn each_signature_is_refused_for_its_own_reason() {
    let cases: [(TokenStream, &str); 24] = [
        (
            quote!(
                pub async fn f(&self) {}
            ),
            "async",
        ),
        (
            quote!(
                pub unsafe fn f(&self) {}
            ),
            "unsafe",
        ),
        (
            quote!(
                pub extern "C" fn f(&self) {}
            ),
            "leave out the ABI",
        ),
        (
            quote!(
                pub fn f<T>(&self) {}
            ),
            "each caller chooses `T`",
        ),
        (
            quote!(
                pub fn f<const N: usize>(&self) {}
            ),
            "each caller chooses `N`",
        ),
        (
            quote!(
                pub fn f(&self)
                where
                    u8: Copy,
                {
                }
            ),
            "no conditions of its own",
        ),
        (
            quote!(
                pub fn f(self) {}
            ),
            "take `&self` or `&mut self`",
        ),
        (
            quote!(
                pub fn f(self: Box<Self>) {}
            ),
            "take `&self` or `&mut self`",
        ),
        (
            quote!(
                pub fn f(&self, a: &mut [u8]) {}
            ),
            "take `Vec<u8>` and return it changed",
        ),
        (
            quote!(
                pub fn f(&self, a: &'static str) {}
            ),
            "leave out the `'static`",
        ),
        (
            quote!(
                pub fn f(&self, a: Option<&str>) {}
            ),
            "use `String` here",
        ),
        (
            quote!(
                pub fn f(&self, a: &&[u8]) {}
            ),
            "use `Vec<u8>` here",
        ),
        (
            quote!(
                pub fn f(&self, a: Cow<'_, str>) {}
            ),
            "cannot be an argument",
        ),
        (
            quote!(
                pub fn f(&self, a: *const u8) {}
            ),
            "a pointer",
        ),
        (
            quote!(
                pub fn f(&self, a: Vec<fn(&u8) -> &u8>) {}
            ),
            "a function has no address",
        ),
        (
            quote!(
                pub fn f(&self, a: &dyn for<'a> Fn(&'a u8)) {}
            ),
            "behind `dyn`",
        ),
        (
            quote!(
                pub fn f(&self, a: impl Fn(&u8)) {}
            ),
            "behind `impl`",
        ),
        (
            quote!(
                pub fn f(&self, #[cfg(unix)] a: u8) {}
            ),
            "on the whole method",
        ),
        (
            quote!(
                pub fn f(&self) -> &str {}
            ),
            "return `String`",
        ),
        (
            quote!(
                pub fn f(&self) -> Vec<&Point> {}
            ),
            "return `Point`",
        ),
        (
            quote!(
                pub fn f(&self) -> Cow<'static, Cow<'a, str>> {}
            ),
            "cannot be a reply",
        ),
        (
            quote!(
                pub fn f(&self) -> Box<dyn Error> {}
            ),
            "behind `dyn`",
        ),
        (
            quote!(
                pub fn f(&self) -> impl Copy {}
            ),
            "behind `impl`",
        ),
        (
            quote!(
                pub fn f(&self) -> ! {}
            ),
            "instead of `!`",
        ),
    ];
    for (method, text) in cases {
        assert_refused(refused_methods(method), &[text]);
    }
    let thirteen = (0..13).map(|n| quote::format_ident!("a{n}"));
    assert_refused(refused_methods(quote!(pub fn f(&self, #(#thirteen: u8),*) {})), &["13 arguments"]);
    assert_refused(
        refused_methods(quote!(
            pub unsafe extern "C" fn f(a: u8, ...) {}
        )),
        &["unsafe", "leave out the ABI", "how many arguments"],
    );
}

#[test]
fn every_reserved_name_is_refused() {
    let reserved = [
        "stop",
        "kill",
        "child_pid",
        "is_alive",
        "stats",
        "with_timeout",
        "view",
        "begin",
        "send",
        "doorbell_fd",
        "clear_doorbell",
        "generation",
        "restart",
        "sandbox_report",
    ];
    for name in reserved {
        let ident = quote::format_ident!("{name}");
        let text = format!("`Bridge` keeps the name `{name}` for itself");
        assert_refused(refused_methods(quote!(pub fn #ident(&self) {})), &[&text]);
        assert_refused(
            refused_methods(quote!(
                #[bridge(rename = #name)]
                pub fn f(&self) {}
            )),
            &[&text],
        );
        assert_refused(refused_methods(quote!(#[bridge(rename = "f")] pub fn #ident(&self) {})), &[]);
        assert_refused(refused(quote!(get(#ident: u8)), with_constructor(quote!())), &[&text]);
    }
    assert_refused(
        refused_methods(quote!(
            pub fn begin() -> Self {}
        )),
        &[],
    );
}

#[test]
fn names_that_callers_could_not_tell_apart_are_refused() {
    let add = quote!(
        pub fn add(&self) {}
        #[bridge(rename = "add")]
        pub fn more(&self) {}
    );
    assert_refused(refused_methods(add), &["callers know another method as `add`"]);
    let total = with_constructor(quote!(
        pub fn total(&self) {}
        pub fn set_total(&self) {}
    ));
    assert_refused(refused(quote!(get(total: u8), set(total: u8)), total), &["`total`", "`set_total`"]);
    let taken = quote!(
        pub fn with_x() -> Self {}
        fn bridge_with_x() {}
    );
    assert_refused(refused_methods(taken), &["a second `bridge_with_x`"]);
    let twice = quote!(
        #[bridge(rename = "bridge")]
        pub fn open() -> Self {}
    );
    assert_refused(refused_methods(twice), &["a second `bridge`"]);
}

#[test]
fn options_are_refused_where_they_mean_nothing() {
    assert_refused(refused(quote!(sandbox), with_constructor(quote!())), &["no option `sandbox`"]);
    assert_refused(refused(quote!(skip), with_constructor(quote!())), &["on a method"]);
    assert_refused(refused(quote!(get), with_constructor(quote!())), &["fields and their types"]);
    assert_refused(refused(quote!(get(total)), with_constructor(quote!())), &["expected `:`"]);
    assert_refused(
        refused_methods(quote!(
            #[bridge(sandbox)]
            pub fn f(&self) {}
        )),
        &["no option `sandbox`"],
    );
    assert_refused(
        refused_methods(quote!(
            #[bridge]
            pub fn f(&self) {}
        )),
        &["needs an option"],
    );
    assert_refused(
        refused_methods(quote!(
            #[bridge(skip = 1)]
            pub fn f(&self) {}
        )),
        &["takes no value"],
    );
    assert_refused(
        refused_methods(quote!(
            #[bridge(rename)]
            pub fn f(&self) {}
        )),
        &["needs a name"],
    );
    assert_refused(
        refused_methods(quote!(
            #[bridge(rename = 1)]
            pub fn f(&self) {}
        )),
        &["in quotes"],
    );
    assert_refused(
        refused_methods(quote!(
            #[bridge(rename = "fn")]
            pub fn f(&self) {}
        )),
        &["`fn` cannot be the name"],
    );
    assert_refused(
        refused_methods(quote!(
            #[bridge(rename = "g")]
            fn f(&self) {}
        )),
        &["`f` is private"],
    );
    let of_trait = quote!(impl Shape for Circle { #[bridge(skip)] fn f(&self) {} });
    assert_refused(refused(quote!(get(total: u8)), of_trait), &["none can be left out", "no fields"]);
}

#[test]
fn headers_that_cannot_be_bridged_are_refused_alone() {
    let cases: [(TokenStream, &str); 8] = [
        (
            quote!(
                struct Counter;
            ),
            "goes on an impl block",
        ),
        (
            quote!(
                impl<'a> Parser<'a> {
                    pub async fn f(&self) {}
                }
            ),
            "cannot borrow",
        ),
        (quote!(impl Parser<'_> {}), "cannot borrow"),
        (quote!(impl Shape for [u8; 2] {}), "a type with a name"),
        (
            quote!(
                impl<T: Copy> Shape for T {}
            ),
            "one type at a time",
        ),
        (
            quote!(
                impl<T> Shape<T> for Circle {}
            ),
            "`T` is no parameter of the type",
        ),
        (
            quote!(
                unsafe impl Shape for Circle {}
            ),
            "unsafe trait",
        ),
        (quote!(impl !Shape for Circle {}), "negative impl"),
    ];
    for (item, text) in cases {
        assert_refused(refused(quote!(), item), &[text]);
    }
    assert_refused(
        refused(quote!(), quote!(impl Counter { fn new() -> Self {} })),
        &["needs a way to make its `Counter`"],
    );
}

#[test]
fn several_refusals_come_at_once_each_as_an_error_of_its_own() {
    let item = with_constructor(quote! {
        pub async fn f(&self) -> &str {}
        pub fn stop(&self, a: &mut u8, b: &dyn Fn()) {}
        pub fn right(&self, number: u64) -> u64 {}
    });
    assert_refused(refused(quote!(), item.clone()), &["async", "return `String`", "`u8`", "behind `dyn`", "`stop`"]);
    let items = items(quote!(), item);
    let is_error =
        |item: &&Item| matches!(item, Item::Macro(item) if spelled(&item.mac.path).ends_with("compile_error"));
    assert_eq!(items.iter().filter(is_error).count(), 5);
}

#[test]
fn refused_methods_are_stood_in_for() {
    let item = with_constructor(quote! {
        pub fn with_t<T>(value: T) -> Self {}
        pub async fn f(&self) -> &str {}
        pub fn right(&self, number: u64) -> u64 {}
        pub fn stop(&self) {}
    });
    let items = items(quote!(), item.clone());
    assert_eq!(functions(&items, "CounterCalls<M>"), ["f", "right", "stop"]);
    assert_eq!(functions(&items, "Counter"), ["bridge", "bridge_with_t"]);
    let code = generate(quote!(), item).to_string();
    assert!(code.contains("fn f (& self ,) -> M :: Out < :: std :: string :: String >"), "{code}");
}

#[test]
fn the_block_itself_comes_out_unchanged_but_for_the_options() {
    let methods = quote!(
        pub fn add(&mut self, n: u64) -> u64 {
            self.total += n;
            self.total
        }
    );
    let with_options = with_constructor(quote!(#[doc = "Adds."] #[bridge(rename = "plus")] #methods));
    let without = with_constructor(quote!(#[doc = "Adds."] #methods));
    let out = generate(quote!(), with_options).to_string();
    assert!(out.starts_with(&without.to_string()), "{out}");
}

#[test]
fn what_comes_out_for_a_type() {
    let item = quote! {
        impl<M> Stack<M> {
            pub fn new() -> Self { todo!() }
            pub(crate) fn push(&mut self, item: M) -> usize { todo!() }
        }
    };
    let items = items(quote!(get(items: Vec<M>)), item.clone());
    assert_eq!(functions(&items, "Stack<M>"), ["bridge"]);
    assert_eq!(functions(&items, "StackCalls<M, Mode>"), ["push", "items"]);
    let code = generate(quote!(), item).to_string();
    assert!(code.contains("pub struct StackCalls < M , Mode >"), "{code}");
    assert!(code.contains("pub (crate) fn push (& self , item : M) -> Mode :: Out < usize >"), "{code}");
    assert!(code.contains("where M : 'static , M : :: callgate :: __codegen :: Transfer"), "{code}");
    assert!(!code.contains("cfg"), "{code}");
}

#[test]
fn what_comes_out_for_a_trait() {
    let items = items(quote!(), quote!(impl Shape for inner::Circle { fn area(&self) -> f64 { todo!() } }));
    assert_eq!(functions(&items, "inner::CircleCalls<M>"), ["area"]);
    let traits: Vec<String> = items
        .iter()
        .filter_map(|item| match item {
            Item::Impl(item) => {
                item.trait_.as_ref().map(|(path, _)| format!("{} for {}", spelled(path), spelled(&item.self_ty)))
            }
            _ => None,
        })
        .collect();
    let bridge = "Shape for ::callgate::__codegen::Bridge<inner::Circle>";
    assert!(traits.iter().any(|of| of == bridge), "{traits:#?}");
    assert!(traits.iter().any(|of| of.starts_with("::callgate::__codegen::Interface<inner::Circle>")), "{traits:#?}");
}

#[test]
fn documentation_is_copied_or_made_up() {
    let item = quote! {
        impl Counter {
            /// Makes one.
            pub fn new() -> Self { todo!() }
            /// Adds, as [`Self::new`] does not.
            #[cfg(unix)]
            #[expect(clippy::lint)]
            pub fn add(&self) {}
            pub fn bare(&self) {}
        }
    };
    let code = generate(quote!(), item).to_string();
    assert!(code.contains("Prepares a bridge to a `Counter` that [`new`](Self::new) will make"), "{code}");
    assert!(code.contains("Adds, as [`Counter::new`] does not."), "{code}");
    assert!(code.contains("Calls `Counter::bare` in the child."), "{code}");
    assert!(code.contains("# [allow (clippy :: lint)]"), "{code}");
    assert_eq!(
        code.matches("# [cfg (unix)]").count(),
        4,
        "the method, its proxy, its arm, its part of the fingerprint"
    );
}

#[test]
fn a_field_is_a_condition_of_being_viewable_or_is_checked() {
    let code = viewable::derive(quote!(
        struct ArchivedTree<T: Archive, const N: usize>
        where
            u8: Copy,
        {
            value: T::Archived,
            bytes: [u8; N],
            children: <Vec<Tree<T>> as Archive>::Archived,
        }
    ));
    let items: File = syn::parse2(code).expect("the generated code is Rust");
    let code = spelled(items).replace(' ', "");
    let conditions = "whereu8:Copy,T::Archived:::callgate::Viewable";
    let claim = "unsafeimpl<T:Archive,constN:usize>::callgate::ViewableforArchivedTree<T,N>";
    assert!(code.contains(&format!("{claim}{conditions}{{}}")), "{code}");
    let checks = "{__viewable::<[u8;N]>();__viewable::<<Vec<Tree<T>>asArchive>::Archived>();}";
    assert!(code.contains(&format!("fn__fields<T:Archive,constN:usize>(){conditions}{checks}")), "{code}");
}

#[test]
fn a_union_is_not_viewable() {
    let code = viewable::derive(quote!(
        union ArchivedWord {
            whole: u64_le,
            halves: [u32_le; 2],
        }
    ));
    assert!(code.to_string().contains("which field of a union is there cannot be known"), "{code}");
}

#[test]
fn fault_36_callgate_is_found_where_the_block_says() {
    let block = with_constructor(quote!(
        pub fn add(&self, texts: ::callgate::Own) -> Vec<Text> {}
    ));
    for (option, path) in [
        (quote!(), ":: callgate"),
        (quote!(crate = cg), "cg"),
        (quote!(crate = ::cg), ":: cg"),
        (quote!(get(total: u64), crate = crate::deps::cg), "crate :: deps :: cg"),
        (quote!(crate = "a::cg"), "a :: cg"),
    ] {
        let code = generate(option, block.clone()).to_string();
        assert!(code.contains(&format!("impl {path} :: __codegen :: Service for Counter")), "{code}");
        assert!(code.contains(&format!("({}::Bridge)", path.replace(' ', ""))), "{code}");
        assert!(!code.contains("__callgate ") && code.contains("texts : :: callgate :: Own"), "{code}");
    }
    for option in [quote!(crate), quote!(crate(cg)), quote!(crate = 1), quote!(crate = "1")] {
        assert_refused(refused(option, with_constructor(quote!())), &["`crate` needs the name"]);
    }
    let viewed = quote!(
        #[callgate(crate = cg)]
        struct Archived {
            field: u8,
        }
    );
    let code = viewable::derive(viewed).to_string();
    assert!(code.contains("unsafe impl cg :: Viewable for Archived"), "{code}");
}

#[test]
fn fault_36_names_that_a_bridge_has_already_are_refused() {
    let own = refused_methods(quote! {
        pub fn drop(&self) {}
        pub fn clone(&self) {}
        pub fn try_into(&self) {}
        #[bridge(rename = "deref")]
        pub fn other(&self) {}
        #[bridge(rename = "forget")]
        pub fn to_owned(&self) {}
    });
    assert_refused(own, &["`bridge.drop()`", "`bridge.clone()`", "`bridge.try_into()`", "`bridge.deref()`"]);
    for name in ["drop", "clone", "clone_from", "to_owned", "clone_into", "into", "try_into", "deref"] {
        let ident = quote::format_ident!("{name}");
        assert_refused(refused_methods(quote!(pub fn #ident(&self) {})), &[&format!("`bridge.{name}()`")]);
    }
    let of_trait = quote!(impl Falls for Counter { fn drop(&self) {} fn clone(&self) {} fn kill(&self) {} });
    assert_refused(refused(quote!(), of_trait), &["`bridge.drop()`", "`Bridge` keeps the name `kill`"]);
    // Whatever `Bridge` has is known here.
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/bridge/mod.rs"));
    let source = source.expect("the bridge's own methods");
    for line in
        source.lines().filter_map(|line| line.strip_prefix("    pub fn ")).filter(|line| line.contains("(&self"))
    {
        let name = quote::format_ident!("{}", line.split('(').next().unwrap_or_default());
        assert_refused(refused_methods(quote!(pub fn #name(&self) {})), &["`Bridge` keeps the name"]);
    }
}

#[test]
fn fault_36_a_raw_name_is_the_name_without_its_prefix() {
    let own = refused_methods(quote! {
        pub fn r#stop(&self) {}
        #[bridge(rename = "r#kill")]
        pub fn end(&self) {}
        pub fn r#clone(&self) {}
        pub fn add(&self) {}
        pub fn r#add(&self) {}
    });
    let kept = ["`Bridge` keeps the name `stop`", "`Bridge` keeps the name `kill`"];
    assert_refused(own, &[kept[0], kept[1], "`bridge.clone()`", "another method as `add`"]);
    let of_trait = quote!(impl Falls for Counter { fn r#drop(&self) {} fn r#send(&self) {} });
    assert_refused(refused(quote!(), of_trait), &["`bridge.drop()`", "the name `send`"]);
    let builders = quote! {
        #[bridge(rename = "r#helper")]
        pub fn open() -> Self {}
        #[bridge(rename = "r#bridge")]
        pub fn opened() -> Self {}
        fn helper() {}
    };
    assert_refused(refused_methods(builders), &["a second `helper`", "a second `bridge`"]);
    assert_refused(refused(quote!(get(r#stop: u8)), with_constructor(quote!())), &["the name `stop`"]);
}

#[test]
fn fault_36_raw_names_become_what_plain_ones_become() {
    let block = read(quote!(
        impl<r#T> Stack<T> {
            pub fn r#new() -> Self {}
            pub fn all(&self, r#n: u8, _n: u8, text: &r#str, item: r#T) {}
        }
    ));
    assert_eq!(block.methods[0].shown, "bridge");
    let arguments = &method(&block, "all").arguments;
    let names: Vec<String> = arguments.iter().map(|argument| argument.name.to_string()).collect();
    assert_eq!(names, ["r#n", "_n", "text", "item"]);
    assert_eq!(arguments[2].passing, Passing::Text);
    let service = quote!(
        impl r#loop {
            pub fn new() -> Self {}
            pub fn r#try(&self) {}
        }
    );
    let code = generate(quote!(), service).to_string();
    for said in ["NAME : & 'static str = \"loop\"", "service : \"loop\"", "name : \"try\"", "pub struct loopCalls"] {
        assert!(code.contains(said), "{said}: {code}");
    }
    let code = generate(quote!(), quote!(impl r#match for r#loop { fn area(&self) {} })).to_string();
    assert!(code.contains("NAME : & 'static str = \"match\""), "{code}");
}

#[test]
fn fault_36_a_drop_in_calls_the_proxys_own_method() {
    let code = generate(quote!(), quote!(impl Numbered for Stack<u8> { fn into(&self, by: u8) -> u64 {} })).to_string();
    let called = "< StackCalls < u8 , :: callgate :: Blocking > > :: into (& * * self , by)";
    assert!(code.contains(called), "{code}");
}

#[test]
fn fault_36_literals_of_the_user_stay_as_they_are() {
    let literals = r##"b"__callgate" c"__callgate" br#"::__callgate"# "__callgate" 1__callgate"##;
    let tokens: TokenStream = literals.parse().expect("tokens");
    let block = with_constructor(quote!(
        fn helper(&self) {
            look!(#tokens)
        }
    ));
    let code = generate(quote!(), block).to_string();
    assert!(code.contains(&tokens.to_string()), "{code}");
}

#[test]
fn a_well_known_name_of_the_users_own_is_checked_where_it_crosses() {
    let code = |ty: TokenStream| {
        generate(quote!(), with_constructor(quote!(pub fn all(&self, all: #ty) -> #ty {}))).to_string()
    };
    // Taken for the library's, it is not checked beside the block: where it is another type, the compiler refuses each use of it.
    for well_known in [quote!(Duration), quote!(Vec<String>), quote!(std::time::Duration), quote!(Option<(u8, usize)>)]
    {
        assert!(!code(well_known.clone()).contains("__crosses"), "{well_known}");
    }
    for other in [quote!(Frame), quote!(Vec<Frame>), quote!(frames::Duration)] {
        assert!(code(other.clone()).contains(&format!("__crosses :: < {other} >")), "{other}");
    }
}
