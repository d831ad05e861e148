//! Names that may be taken already: the crate's, those of a bridge's methods, and raw ones.

use super::*;

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
    // All of `Bridge`'s own methods are known here.
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/bridge/mod.rs"));
    let source = source.expect("the bridge's own methods");
    for line in
        source.lines().filter_map(|line| line.strip_prefix("    pub fn ")).filter(|line| line.contains("(&self"))
    {
        let name = quote::format_ident!("{}", line.split(['(', '<']).next().unwrap_or_default());
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
