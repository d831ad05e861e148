//! What is read from a block: constructors, names, arguments.

use super::*;

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
        pub fn one(&self, a: u64, b: &Vec<u8>, c: &str, d: &'a [u8], e: &[String], f: &rkyv::Archived<Point>) {}
        pub fn other(&self, g: &[usize], h: &(str), i: &Archive<u8>, j: Self, k: [u8; Self::N]) {}
    }));
    let arguments = ["one", "other"].into_iter().flat_map(|name| &method(&block, name).arguments);
    let seen: Vec<_> = arguments.map(|argument| (argument.passing, spelled(&argument.ty))).collect();
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
