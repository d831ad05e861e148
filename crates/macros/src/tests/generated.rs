//! The generated items and code.

use super::*;

#[test]
fn several_refusals_come_at_once_each_as_an_error_of_its_own() {
    let item = with_constructor(quote! {
        pub async fn f(&self) -> &str {}
        pub async fn open() -> Self {}
        pub fn stop(&self, a: &mut u8, b: &dyn Debug) {}
        pub fn right(&self, number: u64) -> u64 {}
    });
    assert_refused(refused(quote!(), item.clone()), &["return `String`", "async", "`u8`", "behind `dyn`", "`stop`"]);
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
fn a_trait_with_async_methods_is_implemented_by_the_async_bridge() {
    let item = quote! {
        impl Store for Disk {
            async fn get(&self, key: u64) -> String {}
            fn put(&mut self, key: u64) -> impl Future<Output = bool> + Send {}
            async fn kind() -> u8 {}
        }
    };
    let code = generate(quote!(), item).to_string();
    assert!(code.contains("impl Store for :: callgate :: __codegen :: AsyncBridge < Disk >"), "{code}");
    assert!(code.contains("fn get (& self , key : u64) -> M :: Out < String >"), "{code}");
    assert!(code.contains("fn put (& self , key : u64) -> M :: Out < bool >"), "{code}");
    assert!(code.contains("async fn get (& self , key : u64) -> String"), "{code}");
    assert!(code.contains("async fn kind () -> u8 { < Disk as Store > :: kind () . await }"), "{code}");
    assert!(code.contains("1u16 => true"), "{code}");
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
fn a_well_known_name_of_the_users_own_is_checked_where_it_crosses() {
    let code = |ty: TokenStream| {
        generate(quote!(), with_constructor(quote!(pub fn all(&self, all: #ty) -> #ty {}))).to_string()
    };
    // A well-known name is assumed to be the library's type and not checked beside the block. If it is another type, the compiler rejects each use.
    for well_known in [quote!(Duration), quote!(Vec<String>), quote!(std::time::Duration), quote!(Option<(u8, usize)>)]
    {
        assert!(!code(well_known.clone()).contains("__crosses"), "{well_known}");
    }
    for other in [quote!(Frame), quote!(Vec<Frame>), quote!(frames::Duration)] {
        assert!(code(other.clone()).contains(&format!("__crosses :: < {other} >")), "{other}");
    }
}
