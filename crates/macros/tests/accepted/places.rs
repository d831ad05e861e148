//! A block may stand wherever an impl may: in a module, in a function, in a macro.
use callgate::bridge;

mod inner {
    pub struct Deep(pub(super) u8);

    pub mod deeper {
        #[callgate::bridge]
        impl super::Deep {
            pub fn new() -> Self {
                super::Deep(3)
            }
            pub(in crate::places::inner) fn within(&self) -> u8 {
                self.0
            }
            pub(crate) fn depth(&self) -> u8 {
                self.0
            }
        }
    }
    pub use deeper::DeepCalls;

    pub fn within() -> u8 {
        Deep::bridge().start().unwrap().within().unwrap()
    }
}

trait Depth {
    fn deep(&self) -> u8;
}

#[bridge]
impl Depth for inner::Deep {
    fn deep(&self) -> u8 {
        self.0
    }
}

macro_rules! echo {
    ($name:ident, $item:ty) => {
        struct $name;

        #[bridge]
        impl $name {
            pub fn new() -> Self {
                $name
            }
            pub fn echo(&self, item: $item, lent: &$item, all: &[$item]) -> $item {
                let _ = (lent, all);
                item
            }
        }
    };
}

echo!(Bytes, u8);
echo!(Texts, String);

#[cfg(any())]
#[bridge]
impl NoSuchType {
    pub fn nor_constructor(&self) {}
}

#[bridge]
#[cfg(any())]
impl NoSuchType {
    pub fn new() -> Self {}
}

#[test]
fn a_block_works_wherever_an_impl_may_stand() {
    struct Local;
    trait Count {
        fn count(&self) -> u8;
    }
    #[bridge]
    impl Local {
        pub fn new() -> Self {
            Local
        }
        pub fn one(&self) -> u8 {
            1
        }
    }
    #[bridge]
    impl Count for Local {
        fn count(&self) -> u8 {
            2
        }
    }

    let deep = inner::Deep::bridge().start().unwrap();
    assert_eq!((deep.depth().unwrap(), Depth::deep(&deep), inner::within()), (3, 3, 3));
    assert_eq!(Bytes::bridge().start().unwrap().echo(1, &2, &[3]).unwrap(), 1);
    assert_eq!(Texts::bridge().start().unwrap().echo("a".to_owned(), &String::new(), &[]).unwrap(), "a");
    let local = Local::bridge().start().unwrap();
    assert_eq!((local.one().unwrap(), Count::count(&local)), (1, 2));
}
