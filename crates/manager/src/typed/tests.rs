//! Items, arguments and signatures: what comes back, what is said of what does not match, and how deep they may nest.

use super::*;
use crate::args;
use crate::args::Args;
use crate::value::Value;
use crate::value::tests::{nested, values};
use callgate_transport::copy_buffer::decode_private;
use callgate_transport::encode::encode_to_vec;
use callgate_transport::error::TooDeep;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Debug};

/// An item's archive and its value both give it back.
fn item_comes_back<T: Item + Clone + PartialEq + Debug>(item: T) {
    let bytes = encode_to_vec(&item, 1 << 20).expect("less than a MiB");
    assert_eq!(decode_private::<T>(&bytes).as_ref(), Some(&item), "{} through an archive", T::TYPE);
    assert_eq!(T::from_value(item.clone().into_value()), Ok(item), "{} through a value", T::TYPE);
}

/// The same for arguments.
fn arguments_come_back<A: Arguments + Clone + PartialEq + Debug>(arguments: A) {
    let bytes = encode_to_vec(&arguments, 1 << 20).expect("less than a MiB");
    assert_eq!(decode_private::<A>(&bytes).as_ref(), Some(&arguments), "{} through an archive", A::TYPES);
    assert_eq!(A::from_args(arguments.clone().into_args()), Ok(arguments), "{} through values", A::TYPES);
}

proptest! {
    #[test]
    fn items_come_back(
        small: (i8, i16, u8, u16, bool),
        large: (i32, i64, u32, u64),
        float in any::<f64>().prop_filter("is equal to itself", |number| !number.is_nan()),
        text in ".{0,20}",
        bytes: Vec<u8>,
        value in values(),
    ) {
        item_comes_back(small.0);
        item_comes_back(small.1);
        item_comes_back(small.2);
        item_comes_back(small.3);
        item_comes_back(small.4);
        item_comes_back(large.0);
        item_comes_back(large.1);
        item_comes_back(large.2);
        item_comes_back(large.3);
        item_comes_back(float);
        item_comes_back(float as f32);
        item_comes_back(text.clone());
        item_comes_back(());
        item_comes_back(vec![Some(float), None]);
        item_comes_back(vec![bytes.clone(), Vec::new()]);
        item_comes_back(vec![(), ()]);
        item_comes_back(BTreeMap::from([(text.clone(), vec![large.1]), (String::from("key"), Vec::new())]));
        item_comes_back(HashMap::from([(text.clone(), Some(BTreeMap::from([(text.clone(), small.0)])))]));
        item_comes_back(vec![value.clone(), Value::None]);
        item_comes_back(bytes.clone());
        arguments_come_back((large.1, text, bytes, value));
    }

    #[test]
    fn a_number_converts_if_it_fits_and_else_says_so(number: i64, shift in 0..64u32) {
        let number = number >> shift;
        let expected = i16::try_from(number).map_err(|_| TypeMismatch::new("i16", number.to_string()));
        prop_assert_eq!(i16::from_value(Value::I64(number)), expected.clone());
        let expected_unsigned = u32::try_from(number).map_err(|_| TypeMismatch::new("u32", number.to_string()));
        prop_assert_eq!(u32::from_value(Value::I64(number)), expected_unsigned);
        if let Ok(unsigned) = u64::try_from(number) {
            prop_assert_eq!(i16::from_value(Value::U64(unsigned)), expected);
        }
    }
}

#[test]
fn fault_23_sizes_are_items() {
    for size in [0, 1 << 32, u32::MAX as usize, usize::MAX] {
        item_comes_back(size);
        item_comes_back(Some(vec![size]));
        item_comes_back(isize::MIN.wrapping_add_unsigned(size));
        arguments_come_back((size, BTreeMap::from([(String::from("size"), size.cast_signed())])));
    }
    assert_eq!((usize::TYPE, isize::TYPE), (u64::TYPE, i64::TYPE));
    assert_eq!(usize::from_value(Value::I64(-1)), Err(TypeMismatch::new("u64", "-1")));
}

#[test]
fn tuples_of_every_length_come_back() {
    arguments_come_back(());
    arguments_come_back((1i64,));
    arguments_come_back((String::from("a text that is longer than a few bytes"),));
    arguments_come_back((1i64, 2.5f64));
    arguments_come_back((1i64, 2u8, true));
    arguments_come_back((1i64, 2u8, true, String::from("four")));
    arguments_come_back((1i64, 2u8, true, String::from("four"), vec![5i32]));
    arguments_come_back((1i64, 2u8, true, String::from("four"), vec![5i32], ()));
    arguments_come_back((1i64, 2u8, true, String::from("four"), vec![5i32], (), Some(7u64)));
    arguments_come_back((1i64, 2u8, true, String::from("four"), vec![5i32], (), Some(7u64), Value::from(8)));
}

#[test]
fn types_are_put_in_words_that_differ() {
    let words = [
        <()>::TYPE,
        bool::TYPE,
        i8::TYPE,
        i16::TYPE,
        i32::TYPE,
        i64::TYPE,
        u8::TYPE,
        u16::TYPE,
        u32::TYPE,
        u64::TYPE,
        f32::TYPE,
        f64::TYPE,
        String::TYPE,
        Value::TYPE,
        Vec::<u8>::TYPE,
        Vec::<i8>::TYPE,
        Vec::<Vec<u8>>::TYPE,
        Option::<u8>::TYPE,
        Option::<Vec<i64>>::TYPE,
        Vec::<Option<i64>>::TYPE,
        BTreeMap::<String, f64>::TYPE,
        HashMap::<String, f64>::TYPE,
        BTreeMap::<String, Option<Vec<Value>>>::TYPE,
    ];
    assert_eq!(
        words.join(" | "),
        "none | bool | i8 | i16 | i32 | i64 | u8 | u16 | u32 | u64 | f32 | f64 | str | any | bytes | list of i8 | list of bytes | \
         optional u8 | optional list of i64 | list of optional i64 | map of f64 | hash map of f64 | map of optional list of any"
    );
    for (at, word) in words.iter().enumerate() {
        assert!(!words[..at].contains(word), "{word} twice");
    }
}

#[test]
fn signatures_say_both_sides_and_agree_with_their_own_only() {
    let add = Signature::of::<(i64, i64), i64>();
    assert_eq!(add.to_string(), "(i64, i64) -> i64");
    assert_eq!(Signature::of::<(), ()>().as_str(), "() -> none");
    assert_eq!(Signature::of::<(Vec<u8>,), Option<String>>().as_str(), "(bytes) -> optional str");
    let received = Signature::checked(add.to_string()).unwrap();
    assert_eq!(received, add);
    assert!(received.agrees_with::<(i64, i64), i64>());
    assert!(!received.agrees_with::<(i64, i64), u64>());
    assert!(!received.agrees_with::<(i64, i32), i64>());
    assert!(!received.is_any());
    assert!(Signature::checked(String::from("any")).unwrap().is_any());
    assert!(!Signature::any().agrees_with::<(Value,), Value>());
    assert_eq!(Signature::checked("x".repeat(Signature::MAX_LEN + 1)), None);
    assert!(Signature::checked("x".repeat(Signature::MAX_LEN)).is_some());
    assert_eq!(Signature::checked(String::from("(i64)\n -> i64")), None);
    assert_eq!(Signature::checked(String::new()), None);
}

#[test]
fn what_does_not_match_says_what_was_expected_and_what_came() {
    fn said<T: Item + Debug>(value: impl Into<Value>) -> String {
        T::from_value(value.into()).unwrap_err().to_string()
    }
    let texts = BTreeMap::from([("a", "text")]);
    for (said, expected) in [
        (said::<i64>("1"), "expected i64, got str"),
        (said::<u64>(-1), "expected u64, got -1"),
        (said::<i8>(200.5), "expected i8, got 200.5"),
        (said::<f64>(u64::MAX), "expected f64, got 18446744073709551615"),
        (said::<f32>(1e300), "expected f32, got 1e300"),
        (said::<bool>(1), "expected bool, got i64"),
        (said::<String>(b"bytes"), "expected str, got bytes"),
        (said::<()>(0), "expected none, got i64"),
        (said::<i64>(()), "expected i64, got none"),
        (said::<Option<u8>>(300), "expected optional u8, got 300"),
        (said::<Vec<u8>>([1, 2]), "expected bytes, got list"),
        (said::<Vec<u16>>([1, 2, -3]), "expected list of u16, got list with -3 at index 2"),
        (
            said::<Vec<Vec<bool>>>([[1]]),
            "expected list of list of bool, got list with list with i64 at index 0 at index 0",
        ),
        (said::<BTreeMap<String, i64>>(texts.clone()), "expected map of i64, got map with str at \"a\""),
        (said::<HashMap<String, Option<i64>>>(texts), "expected hash map of optional i64, got map with str at \"a\""),
        (said::<BTreeMap<String, i64>>([1]), "expected map of i64, got list"),
    ] {
        assert_eq!(said, expected);
    }
}

#[test]
fn arguments_that_do_not_match_say_which() {
    fn said<A: Arguments + Debug>(args: Args) -> String {
        A::from_args(args).unwrap_err().to_string()
    }
    let long = Args::new().with_keyword("k".repeat(1 << 20), 1).unwrap();
    for (said, expected) in [
        (said::<(i64, i64)>(args![1, "two"]), "expected (i64, i64), got (i64, str)"),
        (said::<(u8, String)>(args![256, "two"]), "expected (u8, str), got (256, str)"),
        (said::<(Vec<i64>,)>(args![[0.5]]), "expected (list of i64), got (list with 0.5 at index 0)"),
        (said::<(i64, i64)>(args![1, 2, 3]), "expected 2 arguments (i64, i64), got 3"),
        (said::<(i64, i64)>(args![]), "expected 2 arguments (i64, i64), got 0"),
        (said::<(bool,)>(args![true, false]), "expected 1 argument (bool), got 2"),
        (said::<()>(args![()]), "expected no arguments, got 1"),
        (
            said::<(i64, i64)>(args![1, 2; a = 3]),
            "expected 2 arguments (i64, i64) without keywords, got 2 and the keyword `a`",
        ),
        (
            said::<()>(long),
            &format!("expected no arguments without keywords, got 0 and the keyword `{}..`", "k".repeat(60)),
        ),
    ] {
        assert_eq!(said, expected);
    }
}

#[test]
fn the_deepest_items_that_are_let_through_cross() {
    fn crosses<T: Item + PartialEq>(item: T) -> bool {
        let Ok(item) = shallow_item(item) else { return false };
        let bytes = encode_to_vec(&item, 16 << 20).unwrap();
        assert!(decode_private::<T>(&bytes).as_ref() == Some(&item), "{}", T::TYPE);
        true
    }
    const MOST: usize = Value::MAX_DEPTH;
    assert!(crosses(nested(MOST)));
    assert!(!crosses(nested(MOST + 1)));
    assert!(crosses(Some(vec![Some(nested(MOST - 1))])));
    assert!(!crosses(Some(vec![Some(nested(MOST))])));
    assert!(crosses(vec![HashMap::from([(String::from("a key of some length"), nested(MOST - 2))])]));
    assert!(!crosses(vec![HashMap::from([(String::new(), nested(MOST - 1))])]));
    // A tree of some levels, with another in each leaf.
    let inner = |value| BTreeMap::from([(String::from("a key of some length"), value)]);
    let mut tree: BTreeMap<_, _> =
        (0..3000).map(|number| (format!("key number {number}"), inner(Value::None))).collect();
    tree.insert(String::from("key number 2000"), inner(nested(MOST - 32)));
    assert!(crosses(tree.clone()));
    tree.insert(String::new(), inner(nested(MOST - 31)));
    assert!(!crosses(tree));
    assert!(shallow((1i64, nested(MOST))).is_ok());
    assert_eq!(shallow((1i64, vec![nested(MOST)])), Err(TooDeep));
}

#[test]
fn what_is_very_deep_is_taken_apart_where_it_is_refused() {
    let deep = || (0..500_000).fold(Value::None, |value, _| Value::List(vec![value]));
    assert_eq!(shallow((1i64, vec![Some(deep())])), Err(TooDeep));
    assert_eq!(shallow_args(args![deep(); a = deep()]), Err(TooDeep));
    assert_eq!(shallow_item(BTreeMap::from([(String::new(), deep())])), Err(TooDeep));
    assert_eq!(TooDeep.to_string(), "a value nests deeper than 100 lists and maps");
}

#[test]
fn an_outcome_is_a_value_or_the_text_of_an_error() {
    assert_eq!(5i64.into_result(), Ok(5));
    assert_eq!(Ok::<_, fmt::Error>(5i64).into_result(), Ok(5));
    assert_eq!(Err::<i64, _>("no such thing").into_result(), Err("no such thing".into()));
    assert_eq!(<Result<Vec<i64>, String> as Outcome>::Value::TYPE, "list of i64");
}
