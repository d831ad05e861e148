//! What is refused, and with which words.

use super::*;

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
            pub fn e<'a>(&'a self, text: &'a str) -> impl Iterator<Item = String> + use<'a> {}
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
    assert_refused(
        refused(
            quote!(),
            quote! {
                impl Store for Disk {
                    async fn get(&self) -> u8 {}
                    fn len(&self) -> usize {}
                    fn kind() -> u8 {}
                }
            },
        ),
        &["`len` is not async"],
    );
    assert_refused(
        refused_methods(quote! {
            pub async fn get(&self) -> u8 {}
            pub fn numbers(&self) -> impl Iterator<Item = u64> {}
            pub fn ask(&self, answer: &dyn Fn(u64) -> u64) -> u64 {}
        }),
        &["`numbers` returns an iterator", "`ask` calls back"],
    );
    assert_eq!(refused(quote!(), of_trait).len(), 2, "parameters and conditions of a function that stays here too");
}

/// Methods, and a part of the refusal of each.
const SIGNATURES: [(&str, &str); 28] = [
    ("pub async fn open() -> Self {}", "async"),
    ("pub unsafe fn f(&self) {}", "unsafe"),
    (r#"pub extern "C" fn f(&self) {}"#, "leave out the ABI"),
    ("pub fn f<T>(&self) {}", "each caller chooses `T`"),
    ("pub fn f<const N: usize>(&self) {}", "each caller chooses `N`"),
    ("pub fn f(&self) where u8: Copy {}", "no conditions of its own"),
    ("pub fn f(self) {}", "take `&self` or `&mut self`"),
    ("pub fn f(self: Box<Self>) {}", "take `&self` or `&mut self`"),
    ("pub fn f(&self, a: &mut [u8]) {}", "take `Vec<u8>` and return it changed"),
    ("pub fn f(&self, a: &'static str) {}", "leave out the `'static`"),
    ("pub fn f(&self, a: Option<&str>) {}", "use `String` here"),
    ("pub fn f(&self, a: &&[u8]) {}", "use `Vec<u8>` here"),
    ("pub fn f(&self, a: Cow<'_, str>) {}", "cannot be an argument"),
    ("pub fn f(&self, a: *const u8) {}", "a pointer"),
    ("pub fn f(&self, a: Vec<fn(&u8) -> &u8>) {}", "a function has no address"),
    ("pub fn f(&self, a: &dyn Debug) {}", "behind `dyn`"),
    ("pub fn f(&self, a: impl Fn(&u8)) {}", "behind `impl`"),
    ("pub fn f(&self, #[cfg(unix)] a: u8) {}", "on the whole method"),
    ("pub fn f(&self) -> &str {}", "return `String`"),
    ("pub fn f(&self) -> Vec<&Point> {}", "return `Point`"),
    ("pub fn f(&self) -> Cow<'static, Cow<'a, str>> {}", "cannot be a reply"),
    ("pub fn f(&self) -> Box<dyn Error> {}", "behind `dyn`"),
    ("pub fn f(&self) -> impl Copy {}", "behind `impl`"),
    ("pub fn f(&self) -> ! {}", "instead of `!`"),
    ("pub fn f(&self) -> impl Iterator<Item = &str> {}", "return `String`"),
    ("pub fn f(&self) -> impl Iterator {}", "behind `impl`"),
    ("pub fn f(&self) -> Option<impl Iterator<Item = u8>> {}", "let it stand alone"),
    ("pub fn f(&self, a: &Archived<u8>) -> impl Iterator<Item = u8> {}", "for one call only"),
];

#[test]
fn each_signature_is_refused_for_its_own_reason() {
    for (method, text) in SIGNATURES {
        assert_refused(refused_methods(method.parse().expect("tokens")), &[text]);
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
        "flush",
        "batch",
        "as_async",
        "into_async",
        "as_blocking",
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

/// Options of methods, and a part of the refusal of each.
const OPTIONS: [(&str, &str); 7] = [
    ("#[bridge(sandbox)] pub fn f(&self) {}", "no option `sandbox`"),
    ("#[bridge] pub fn f(&self) {}", "needs an option"),
    ("#[bridge(skip = 1)] pub fn f(&self) {}", "takes no value"),
    ("#[bridge(rename)] pub fn f(&self) {}", "needs a name"),
    ("#[bridge(rename = 1)] pub fn f(&self) {}", "in quotes"),
    (r#"#[bridge(rename = "fn")] pub fn f(&self) {}"#, "`fn` cannot be the name"),
    (r#"#[bridge(rename = "g")] fn f(&self) {}"#, "`f` is private"),
];

#[test]
fn options_are_refused_where_they_mean_nothing() {
    assert_refused(refused(quote!(sandbox), with_constructor(quote!())), &["no option `sandbox`"]);
    assert_refused(refused(quote!(skip), with_constructor(quote!())), &["on a method"]);
    assert_refused(refused(quote!(get), with_constructor(quote!())), &["fields and their types"]);
    assert_refused(refused(quote!(get(total)), with_constructor(quote!())), &["expected `:`"]);
    for (method, text) in OPTIONS {
        assert_refused(refused_methods(method.parse().expect("tokens")), &[text]);
    }
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
