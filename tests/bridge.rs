//! Services written with `#[bridge]` do what their users expect: constructors, arguments and results of every kind, names, fields, generics, traits
//! through which code uses the bridge in place of the type itself, and services that could never leave a thread.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, Builder, CallError, StartError, bridge};
use rkyv::{Archive, Archived, Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use support::within;

callgate::test_support!();

/// Seconds after which a hanging test is aborted.
const PATIENCE: u64 = 60;

/// Checks that the call returned this value.
#[track_caller]
fn gives<T: PartialEq + Debug>(got: Result<T, CallError>, want: impl Into<T>) {
    assert_eq!(got.as_ref(), Ok(&want.into()));
}

fn started<T: callgate::Service>(builder: Builder<T>) -> Bridge<T> {
    builder.start().expect("the bridge starts")
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
struct Point {
    x: f64,
    y: f64,
}

const POINT: Point = Point { x: 1.5, y: -2.25 };

// ---- constructors --------------------------------------------------------------------------------------------------

/// Records which constructor made it.
struct Made(String);

#[bridge]
impl Made {
    pub fn new() -> Self {
        Made("new".into())
    }
    pub fn with_label(label: &str) -> Self {
        Made(format!("label {label}"))
    }
    pub fn with_many(numbers: Vec<u32>, pair: (u8, char), point: &Point, flag: Option<bool>) -> Self {
        Made(format!("many {numbers:?} {pair:?} {} {flag:?}", point.x))
    }
    pub fn from_bytes(bytes: &[u8]) -> Made {
        Made(format!("bytes {bytes:?}"))
    }
    pub fn open(path: &str) -> Result<Self, String> {
        if path.is_empty() { Err("the path is empty".into()) } else { Ok(Made(format!("open {path}"))) }
    }
    pub fn parse(text: String) -> std::io::Result<Made> {
        text.parse::<u64>().map(|number| Made(format!("parsed {number}"))).map_err(std::io::Error::other)
    }
    #[bridge(rename = "forged")]
    pub fn forge() -> Self {
        Made("forged".into())
    }
    #[bridge(skip)]
    pub fn here(how: fn() -> String) -> Self {
        Made(how())
    }
    pub fn how(&self) -> String {
        self.0.clone()
    }
}

#[test]
fn every_constructor_has_a_builder() {
    within(PATIENCE, "every_constructor_has_a_builder", || {
        for (builder, how) in [
            (Made::bridge(), "new"),
            (Made::bridge_with_label("blue"), "label blue"),
            (Made::bridge_with_many(vec![1, 2], (3, 'x'), &POINT, Some(true)), "many [1, 2] (3, 'x') 1.5 Some(true)"),
            (Made::bridge_from_bytes(b"ab"), "bytes [97, 98]"),
            (Made::bridge_open("file"), "open file"),
            (Made::bridge_parse("17".into()), "parsed 17"),
            (Made::forged(), "forged"),
        ] {
            gives(started(builder).how(), how);
        }
        assert_eq!(Made::here(|| "here".into()).how(), "here");
    });
}

#[test]
fn a_constructor_that_fails_says_why() {
    within(PATIENCE, "a_constructor_that_fails_says_why", || {
        for (builder, why) in [
            (Made::bridge_open(""), "the path is empty"),
            (Made::bridge_parse("x".into()), "invalid digit found in string"),
        ] {
            match builder.start() {
                Err(StartError::Constructor { service: "Made", message }) => assert_eq!(message, why),
                other => panic!("{other:?}"),
            }
        }
    });
}

// ---- arguments and results -----------------------------------------------------------------------------------------

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
enum Figure {
    Nothing,
    Dot(Point),
    Line { from: Point, to: Point, label: Option<String> },
    Styled(Style, Vec<Point>),
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
enum Style {
    Plain,
    Dashed { on: u8, off: u8 },
    Named(String),
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Config {
    name: String,
    limits: HashMap<String, u32>,
    style: Option<Box<Style>>,
    ratio: f64,
}

type Words = BTreeMap<String, Vec<(u16, Option<char>)>>;

/// Returns its arguments.
struct Echo;

#[bridge]
impl Echo {
    pub fn new() -> Self {
        Echo
    }

    // Borrowed.
    pub fn text(&self, v: &str) -> String {
        v.to_owned()
    }
    pub fn bytes(&self, v: &[u8]) -> Vec<u8> {
        v.to_vec()
    }
    pub fn words(&self, v: &[u64]) -> Vec<u64> {
        v.to_vec()
    }
    pub fn floats(&self, v: &[f32]) -> Vec<u32> {
        v.iter().map(|float| float.to_bits()).collect()
    }
    pub fn wide(&self, v: &[u128]) -> (Vec<u128>, bool) {
        (v.to_vec(), v.as_ptr().is_aligned())
    }
    pub fn flags(&self, v: &[bool]) -> Vec<bool> {
        v.to_vec()
    }
    pub fn strings(&self, v: &[String]) -> Vec<String> {
        v.to_vec()
    }
    pub fn points(&self, v: &[Point]) -> Vec<Point> {
        v.to_vec()
    }
    pub fn point(&self, v: &Point) -> Point {
        *v
    }
    pub fn figure_ref(&self, v: &Figure) -> Figure {
        v.clone()
    }
    #[allow(clippy::ptr_arg)]
    pub fn vector(&self, v: &Vec<String>) -> usize {
        v.len()
    }
    pub fn config(&self, v: &Archived<Config>) -> (String, usize, f64, bool) {
        let bold =
            v.style.as_ref().is_some_and(|style| matches!(&**style, ArchivedStyle::Named(name) if name == "bold"));
        (v.name.as_str().to_owned(), v.limits.len(), v.ratio.to_native(), bold)
    }
    pub fn longest<'a>(&self, a: &'a str, b: &'a str) -> String {
        (if a.len() > b.len() { a } else { b }).to_owned()
    }

    // By value.
    pub fn string(&self, v: String) -> String {
        v
    }
    pub fn vec(&self, v: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        v
    }
    pub fn option(&self, v: Option<Option<String>>) -> Option<Option<String>> {
        v
    }
    pub fn tuple(&self, v: (u8, (i64, String), [u16; 3])) -> (u8, (i64, String), [u16; 3]) {
        v
    }
    pub fn figure(&self, v: Figure) -> Figure {
        v
    }
    pub fn boxed(&self, v: Box<Figure>) -> Box<Figure> {
        v
    }
    pub fn map(&self, v: HashMap<String, Vec<u32>>) -> HashMap<String, Vec<u32>> {
        v
    }
    pub fn set(&self, v: HashSet<u64>) -> HashSet<u64> {
        v
    }
    pub fn tree(&self, v: Words) -> Words {
        v
    }
    pub fn u128(&self, v: u128) -> u128 {
        v
    }
    pub fn i128(&self, v: i128) -> i128 {
        v
    }
    pub fn char(&self, v: char) -> char {
        v
    }
    pub fn f64_bits(&self, v: f64) -> u64 {
        v.to_bits()
    }
    pub fn unit(&self, v: ()) {
        v
    }
    pub fn nothing(&self) {}
    #[allow(clippy::too_many_arguments)]
    pub fn twelve(
        &mut self,
        a: u8,
        b: u16,
        c: u32,
        d: u64,
        e: u128,
        f: i8,
        g: &str,
        h: &[u64],
        i: String,
        j: &Point,
        k: Option<char>,
        l: &[String],
    ) -> String {
        format!("{a} {b} {c} {d} {e} {f} {g} {h:?} {i} {j:?} {k:?} {l:?}")
    }

    // A method may return a `Result` as its value.
    pub fn divide(&self, a: i64, b: i64) -> Result<i64, DivideError> {
        if b == 0 { Err(DivideError::ByZero { dividend: a }) } else { a.checked_div(b).ok_or(DivideError::Overflow) }
    }
    pub fn check(&self, ok: bool) -> Result<(), String> {
        if ok { Ok(()) } else { Err("not ok".into()) }
    }
    pub fn result_inside(&self, n: u8) -> Option<Result<u8, Result<String, ()>>> {
        [None, Some(Ok(n)), Some(Err(Ok("one".into()))), Some(Err(Err(())))].into_iter().nth(n.into())?
    }
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
enum DivideError {
    ByZero { dividend: i64 },
    Overflow,
}

/// Strings as owned values.
fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn figures() -> Vec<Figure> {
    let line = |label: Option<&str>| Figure::Line { from: POINT, to: POINT, label: label.map(String::from) };
    vec![
        Figure::Nothing,
        Figure::Dot(POINT),
        line(None),
        line(Some("a label too long to be stored inline")),
        Figure::Styled(Style::Plain, vec![]),
        Figure::Styled(Style::Dashed { on: 1, off: 255 }, vec![POINT; 3]),
        Figure::Styled(Style::Named("bold".into()), vec![POINT]),
    ]
}

#[test]
fn borrowed_arguments_arrive() {
    within(PATIENCE, "borrowed_arguments_arrive", || {
        let echo = started(Echo::bridge());
        for text in ["", "a", "exactly8", "ünïcödé 🦀", &"long ".repeat(1000)] {
            gives(echo.text(text), text);
            gives(echo.bytes(text.as_bytes()), text.as_bytes());
            gives(echo.longest(text, "ab"), if text.len() > 2 { text } else { "ab" });
        }
        for words in [&[][..], &[0], &[u64::MAX, 1, 2], &[7; 1000]] {
            gives(echo.words(words), words);
        }
        let floats = [0.0f32, -0.0, 1.5, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE];
        gives(echo.floats(&floats), floats.map(f32::to_bits));
        gives(echo.wide(&[u128::MAX, 0, 1 << 100]), (vec![u128::MAX, 0, 1 << 100], true));
        gives(echo.flags(&[true, false, true]), [true, false, true]);
        for strings in [&[][..], &[""], &["one", "", "three is a longer one"]] {
            gives(echo.strings(&owned(strings)), owned(strings));
            gives(echo.vector(&owned(strings)), strings.len());
        }
        gives(echo.points(&[POINT, POINT]), [POINT, POINT]);
        gives(echo.point(&POINT), POINT);
        for figure in figures() {
            gives(echo.figure_ref(&figure), figure);
        }
    });
}

#[test]
fn an_archived_argument_is_read_in_place() {
    within(PATIENCE, "an_archived_argument_is_read_in_place", || {
        let echo = started(Echo::bridge());
        let small = Config { name: "small".into(), limits: HashMap::new(), style: None, ratio: 0.5 };
        let limits = (0..100).map(|n| (n.to_string(), n)).collect();
        let style = Some(Box::new(Style::Named("bold".into())));
        let large = Config { name: "large".into(), limits, style, ratio: -1.0 };
        gives(echo.config(&small), ("small".to_owned(), 0, 0.5, false));
        gives(echo.config(&large), ("large".to_owned(), 100, -1.0, true));
    });
}

#[test]
fn values_come_back_as_they_went() {
    within(PATIENCE, "values_come_back_as_they_went", || {
        let echo = started(Echo::bridge());
        gives(echo.string("moved".into()), "moved");
        gives(echo.vec(vec![vec![], vec![1], vec![2; 300]]), vec![vec![], vec![1], vec![2; 300]]);
        for option in [None, Some(None), Some(Some("deep".to_owned()))] {
            gives(echo.option(option.clone()), option);
        }
        gives(echo.tuple((1, (-2, "three".into()), [4, 5, 6])), (1, (-2, "three".to_owned()), [4, 5, 6]));
        for figure in figures() {
            gives(echo.figure(figure.clone()), figure.clone());
            gives(echo.boxed(Box::new(figure.clone())), figure);
        }
        let map: HashMap<_, _> = (0..50u32).map(|n| (n.to_string(), vec![n; n as usize])).collect();
        gives(echo.map(map.clone()), map);
        gives(echo.map(HashMap::new()), HashMap::new());
        gives(echo.set((0..50).collect()), (0..50).collect::<HashSet<u64>>());
        let tree: Words = (0..50u16).map(|n| (n.to_string(), vec![(n, None), (n, Some('ß'))])).collect();
        gives(echo.tree(tree.clone()), tree);
        for number in [0, 1, u128::MAX, 1 << 64] {
            gives(echo.u128(number), number);
            gives(echo.i128(number as i128), number as i128);
        }
        for char in ['\0', 'a', 'ß', '🦀', char::MAX] {
            gives(echo.char(char), char);
        }
        for float in [0.0, -0.0, f64::NAN, f64::NEG_INFINITY] {
            gives(echo.f64_bits(float), float.to_bits());
        }
        gives(echo.unit(()), ());
        gives(echo.nothing(), ());
    });
}

#[test]
fn twelve_arguments_arrive_in_order() {
    within(PATIENCE, "twelve_arguments_arrive_in_order", || {
        let (words, strings) = ([8, 9], owned(&["x", "y"]));
        let call = |echo: &Bridge<Echo>| {
            echo.twelve(1, 2, 3, 4, 5, -6, "seven", &words, "nine".into(), &POINT, Some('k'), &strings)
        };
        let here = Echo.twelve(1, 2, 3, 4, 5, -6, "seven", &words, "nine".into(), &POINT, Some('k'), &strings);
        gives(call(&started(Echo::bridge())), here);
    });
}

#[test]
fn a_methods_own_result_is_a_value() {
    within(PATIENCE, "a_methods_own_result_is_a_value", || {
        let echo = started(Echo::bridge());
        gives(echo.divide(7, 2), Ok(3));
        gives(echo.divide(7, 0), Err(DivideError::ByZero { dividend: 7 }));
        gives(echo.divide(i64::MIN, -1), Err(DivideError::Overflow));
        gives(echo.check(true), Ok(()));
        gives(echo.check(false), Err("not ok".to_owned()));
        for n in 0..5 {
            gives(echo.result_inside(n), Echo.result_inside(n));
        }
    });
}

// ---- receivers, names, fields --------------------------------------------------------------------------------------

/// Every kind of receiver, and names that need renaming.
struct Account {
    total: u64,
    label: String,
    halted: bool,
}

#[bridge(get(total: u64, label: String, pub(crate) halted: bool), set(total: u64, label: String))]
impl Account {
    pub const LIMIT: u64 = 1000;

    pub fn new(total: u64) -> Self {
        Account { total, label: "none".into(), halted: false }
    }
    pub fn deposit(&mut self, n: u64) -> u64 {
        self.total = Self::clamped(self.total + n);
        self.total
    }
    pub fn double(&self) -> u64 {
        self.total * 2
    }
    pub fn pid() -> u32 {
        std::process::id()
    }
    pub(crate) fn limit() -> u64 {
        Self::LIMIT
    }
    /// `Bridge` has a `stop` of its own.
    #[bridge(rename = "halt")]
    pub fn stop(&mut self) {
        self.halted = true;
    }
    #[bridge(skip)]
    pub fn visit(&self, visitor: &mut dyn FnMut(u64)) {
        visitor(self.total);
    }
    #[cfg(any())]
    pub fn never_compiled(&self, what: Unheard) -> Of {
        of(what)
    }
    fn clamped(n: u64) -> u64 {
        n.min(Self::LIMIT)
    }
}

#[test]
fn every_receiver_runs_in_the_child() {
    within(PATIENCE, "every_receiver_runs_in_the_child", || {
        let account = started(Account::bridge(40));
        gives(account.deposit(2), 42u64);
        gives(account.double(), 84u64);
        gives(account.deposit(5000), Account::LIMIT);
        gives(account.limit(), Account::LIMIT);
        gives(account.pid(), account.child_pid());
        assert_ne!(account.child_pid(), Account::pid());
        assert_eq!(Account::pid(), std::process::id());
    });
}

#[test]
fn names_fields_and_what_is_left_alone() {
    within(PATIENCE, "names_fields_and_what_is_left_alone", || {
        let account = started(Account::bridge(7));
        gives(account.total(), 7u64);
        gives(account.label(), "none");
        gives(account.set_total(8), ());
        gives(account.set_label("mine".into()), ());
        gives(account.deposit(1), 9u64);
        gives(account.label(), "mine");
        gives(account.halted(), false);
        gives(account.halt(), ());
        gives(account.halted(), true);
        assert!(account.stop().is_ok_and(|exit| exit.success()), "`stop` is the bridge's own");

        let mut here = Account::new(3);
        let mut seen = 0;
        here.stop();
        here.visit(&mut |total| seen = total);
        assert_eq!((here.halted, seen), (true, 3));
    });
}

/// Patterns in place of names, and names that the generated code might use itself.
struct Patterns;

#[bridge]
impl Patterns {
    pub fn new() -> Self {
        Patterns
    }
    pub fn pair(&self, (a, b): (u8, u8), arg0: u32) -> u32 {
        u32::from(a) * 100 + u32::from(b) * 10 + arg0
    }
    pub fn nested(&self, Point { x, y }: Point, [first, .., last]: [u8; 4], (_, (z,)): (u8, (u8,))) -> f64 {
        x + y + f64::from(first) + f64::from(last) + f64::from(z)
    }
    pub fn mutable(&self, mut n: u32, mut text: String) -> String {
        n += 1;
        text.push('!');
        format!("{n} {text}")
    }
    pub fn unused(&self, _: u8, _n: u8, n: u8, _: &str) -> u8 {
        n
    }
    pub fn raw(&self, r#type: u32, r#fn: &str) -> String {
        format!("{type} {}", r#fn)
    }
    pub fn r#match(&self) -> u8 {
        1
    }
    #[allow(clippy::too_many_arguments)]
    pub fn generated(
        &self,
        glue: u64,
        mode: u64,
        call: u64,
        value: u64,
        text: &str,
        slice: &[u64],
        this: u64,
        service: u64,
        method: u64,
        __args: u64,
        builder: u64,
        callgate: u64,
    ) -> String {
        format!("{glue} {mode} {call} {value} {text} {slice:?} {this} {service} {method} {__args} {builder} {callgate}")
    }
}

#[test]
fn patterns_and_awkward_names_cross() {
    within(PATIENCE, "patterns_and_awkward_names_cross", || {
        let patterns = started(Patterns::bridge());
        gives(patterns.pair((1, 2), 3), 123u32);
        gives(patterns.nested(POINT, [1, 9, 9, 2], (9, (3,))), 1.5 - 2.25 + 6.0);
        gives(patterns.mutable(1, "text".into()), "2 text!");
        gives(patterns.unused(1, 2, 3, "four"), 3u8);
        gives(patterns.raw(5, "f"), "5 f");
        gives(patterns.r#match(), 1u8);
        gives(patterns.generated(1, 2, 3, 4, "5", &[6], 7, 8, 9, 10, 11, 12), "1 2 3 4 5 [6] 7 8 9 10 11 12");
    });
}

/// A module that redefines every prelude name that generated code could use.
mod hostile {
    #![allow(dead_code, non_snake_case)]

    use ::callgate::bridge;

    struct Option;
    struct Result;
    struct String;
    struct Vec;
    struct Box;
    struct Mode;
    struct Service;
    struct Bridge;
    struct Builder;
    struct Archive;
    struct Method;
    struct Incoming;
    fn Some() {}
    fn Ok() {}
    mod callgate {}
    mod core {}
    mod std {}

    /// Its parameter has the same name as the proxy's own.
    pub struct Holder<M> {
        held: M,
    }

    #[bridge(get(held: M), set(held: M))]
    impl<M: Clone> Holder<M> {
        pub fn new(held: M) -> Self {
            Holder { held }
        }
        pub fn swap(&mut self, value: M) -> M {
            ::std::mem::replace(&mut self.held, value)
        }
        pub fn prelude(&self) -> ::std::result::Result<::std::option::Option<u8>, ::std::string::String> {
            ::std::result::Result::Ok(::std::option::Option::Some(1))
        }
    }
}

#[test]
fn names_around_the_block_do_not_matter() {
    within(PATIENCE, "names_around_the_block_do_not_matter", || {
        let holder = started(hostile::Holder::bridge(1u8));
        gives(holder.swap(2), 1u8);
        gives(holder.held(), 2u8);
        gives(holder.set_held(3), ());
        gives(holder.swap(4), 3u8);
        gives(holder.prelude(), Ok(Some(1)));
    });
}

// ---- generics ------------------------------------------------------------------------------------------------------

struct Stack<T> {
    items: Vec<T>,
}

#[bridge]
impl<T> Stack<T>
where
    T: Clone + Ord,
{
    pub fn new() -> Self {
        Stack { items: Vec::new() }
    }
    pub fn with_items(items: Vec<T>) -> Stack<T> {
        Stack { items }
    }
    pub fn push(&mut self, item: T) -> usize {
        self.items.push(item);
        self.items.len()
    }
    pub fn push_all(&mut self, items: &[T]) {
        self.items.extend_from_slice(items);
    }
    pub fn contains(&self, item: &T) -> bool {
        self.items.contains(item)
    }
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop()
    }
    pub fn ranked(&self) -> BTreeMap<T, usize> {
        self.items.iter().cloned().enumerate().map(|(place, item)| (item, place)).collect()
    }
}

#[test]
fn a_generic_service_serves_each_type() {
    within(PATIENCE, "a_generic_service_serves_each_type", || {
        let numbers = started(Stack::<u32>::bridge());
        gives(numbers.pop(), None);
        gives(numbers.push(1), 1usize);
        gives(numbers.push_all(&[5, 3]), ());
        gives(numbers.contains(&5), true);
        gives(numbers.ranked(), [(1, 0), (5, 1), (3, 2)]);
        gives(numbers.pop(), Some(3));

        let texts = started(Stack::bridge_with_items(owned(&["a", "b"])));
        gives(texts.push("c".into()), 3usize);
        gives(texts.contains(&"d".into()), false);
        gives(texts.pop(), Some("c".to_owned()));
        gives(texts.ranked(), [("a".to_owned(), 0), ("b".to_owned(), 1)]);
    });
}

/// A service that can itself be sent as a value.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Sum(u64);

#[bridge]
impl Sum {
    pub fn new(n: u64) -> Self {
        Sum(n)
    }
    pub fn plus(&self, other: &Self) -> Self {
        Sum(self.0 + other.0)
    }
    pub fn absorb(&mut self, others: Vec<Self>) -> Option<Self> {
        self.0 += others.iter().map(|other| other.0).sum::<u64>();
        Some(self.clone())
    }
}

#[test]
fn a_service_can_be_an_argument_of_its_own() {
    within(PATIENCE, "a_service_can_be_an_argument_of_its_own", || {
        let sum = started(Sum::bridge(1));
        gives(sum.plus(&Sum(2)), Sum(3));
        gives(sum.absorb(vec![Sum(10), Sum(20)]), Some(Sum(31)));
    });
}

// ---- traits --------------------------------------------------------------------------------------------------------

trait Shape {
    type Name: PartialEq<str> + Debug;
    const SIDES: u32;

    fn area(&self) -> f64;
    fn scale(&mut self, by: f64);
    fn name(&self) -> Self::Name;
    fn shrink(&mut self, by: f64) -> Result<f64, ShapeError>;
    fn tag(&self, words: &[String], at: Option<u32>) -> Result<String, String>;
    fn family() -> String;
    /// Provided by the trait: calls the other methods.
    fn describe(&self) -> String {
        format!("{:?} with {} sides and area {}", self.name(), Self::SIDES, self.area())
    }
}

trait Inventory {
    fn count(&self) -> u32;
    fn take(&mut self, n: u32) -> u32;
}

/// A user's error type, into which a failed call is converted.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
enum ShapeError {
    ByZero,
    Bridge(String),
}

impl From<CallError> for ShapeError {
    fn from(error: CallError) -> Self {
        ShapeError::Bridge(error.to_string())
    }
}

struct Square {
    side: f64,
    count: u32,
}

#[bridge]
impl Square {
    pub fn new(side: f64) -> Self {
        Square { side, count: 10 }
    }
    pub fn abort(&self) {
        std::process::abort();
    }
}

#[bridge]
impl Shape for Square {
    type Name = String;
    const SIDES: u32 = 4;

    fn area(&self) -> f64 {
        self.side * self.side
    }
    fn scale(&mut self, by: f64) {
        self.side *= by;
    }
    fn name(&self) -> Self::Name {
        "square".into()
    }
    fn shrink(&mut self, by: f64) -> Result<f64, ShapeError> {
        if by == 0.0 {
            return Err(ShapeError::ByZero);
        }
        self.side /= by;
        Ok(self.side)
    }
    fn tag(&self, words: &[String], at: Option<u32>) -> Result<String, String> {
        at.and_then(|at| words.get(at as usize)).cloned().ok_or_else(|| "no such word".into())
    }
    fn family() -> String {
        "polygon".into()
    }
}

#[bridge]
impl Inventory for Square {
    fn count(&self) -> u32 {
        self.count
    }
    fn take(&mut self, n: u32) -> u32 {
        self.count -= n;
        self.count
    }
}

/// Code that knows only the traits.
fn exercise<S: Shape + Inventory>(shape: &mut S) -> Vec<String> {
    shape.scale(3.0);
    let mut log = vec![shape.area().to_string(), shape.describe(), S::family(), S::SIDES.to_string()];
    log.push(format!("{:?} {:?}", shape.shrink(2.0), shape.shrink(0.0)));
    log.push(format!("{:?} {:?}", shape.tag(&owned(&["a", "b"]), Some(1)), shape.tag(&[], None)));
    log.push(format!("{} {} {}", shape.take(3), shape.count(), shape.name() == *"square"));
    log
}

#[test]
fn code_over_a_trait_takes_the_type_or_the_bridge() {
    within(PATIENCE, "code_over_a_trait_takes_the_type_or_the_bridge", || {
        let mut bridge = started(Square::bridge(2.0));
        assert_eq!(exercise(&mut bridge), exercise(&mut Square::new(2.0)));
        assert_eq!(<Bridge<Square> as Shape>::SIDES, 4);
        let name: <Bridge<Square> as Shape>::Name = String::new();
        assert_eq!(name, "");
    });
}

#[test]
fn the_proxy_has_the_checked_form_of_a_traits_methods() {
    within(PATIENCE, "the_proxy_has_the_checked_form_of_a_traits_methods", || {
        let bridge = started(Square::bridge(2.0));
        gives((*bridge).area(), 4.0);
        gives((*bridge).scale(2.0), ());
        gives((*bridge).area(), 16.0);
        gives((*bridge).shrink(0.0), Err(ShapeError::ByZero));
        gives((*bridge).count(), 10u32);
        gives((*bridge).name(), "square");
        bridge.kill();
        assert!(matches!((*bridge).area(), Err(CallError::Stopped { .. })));
    });
}

#[test]
fn a_traits_method_on_a_dead_bridge_is_its_own_error_or_a_panic_with_the_text() {
    within(PATIENCE, "a_traits_method_on_a_dead_bridge", || {
        let mut bridge = started(Square::bridge(2.0));
        assert!(matches!(bridge.abort(), Err(CallError::Died { .. })));

        let text = (*bridge).shrink(1.0).unwrap_err().to_string();
        assert!(text.contains("Square::shrink") && text.contains("SIGABRT"), "{text}");
        assert_eq!(bridge.shrink(1.0), Err(ShapeError::Bridge(text)));

        // `String` cannot be made from a `CallError`, so `tag` has no error to return either.
        for (panic, error) in [
            (panic_of(|| bridge.area()), (*bridge).area().unwrap_err()),
            (panic_of(|| bridge.count()), (*bridge).count().unwrap_err()),
            (panic_of(|| bridge.tag(&[], None)), (*bridge).tag(&[], None).unwrap_err()),
        ] {
            assert_eq!(panic, error.to_string());
            assert!(panic.contains("Square::") && panic.contains("SIGABRT"), "{panic}");
        }
    });
}

/// The text with which `call` panics.
fn panic_of<R: Debug>(call: impl FnOnce() -> R) -> String {
    let payload = catch_unwind(AssertUnwindSafe(call)).expect_err("a panic");
    *payload.downcast::<String>().expect("a text")
}

// ---- where the service lives ---------------------------------------------------------------------------------------

/// Neither `Send` nor `Sync`; it need not be, because it never leaves its thread in the child.
struct Rooted {
    log: Rc<RefCell<Vec<u32>>>,
    alias: Rc<RefCell<Vec<u32>>>,
    here: *const Vec<u32>,
}

#[bridge]
impl Rooted {
    pub fn new() -> Self {
        let log = Rc::new(RefCell::new(vec![1]));
        Rooted { alias: log.clone(), here: log.as_ptr(), log }
    }
    pub fn push(&self, n: u32) -> Vec<u32> {
        self.log.borrow_mut().push(n);
        self.alias.borrow().clone()
    }
    pub fn has_not_moved(&self) -> bool {
        self.here == self.log.as_ptr().cast_const()
    }
}

const _: () = {
    const fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<Bridge<Rooted>>();
    send_and_sync::<Bridge<Stack<String>>>();
    send_and_sync::<CallError>();
    send_and_sync::<StartError>();
};

#[test]
fn a_service_need_not_be_send_for_its_bridge_to_be() {
    within(PATIENCE, "a_service_need_not_be_send_for_its_bridge_to_be", || {
        let rooted = started(Rooted::bridge());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| gives(rooted.has_not_moved(), true));
            }
        });
        let moved = std::thread::spawn(move || (rooted.push(2), rooted)).join().expect("no panic");
        gives(moved.0, [1, 2]);
        gives(moved.1.push(3), [1, 2, 3]);
    });
}

#[test]
fn two_bridges_of_one_type_have_a_child_each() {
    within(PATIENCE, "two_bridges_of_one_type_have_a_child_each", || {
        let (one, two) = (started(Account::bridge(1)), started(Account::bridge(2)));
        assert_ne!(one.child_pid(), two.child_pid());
        gives(one.pid(), one.child_pid());
        gives(two.pid(), two.child_pid());
        gives(one.deposit(10), 11u64);
        gives(two.deposit(10), 12u64);
        one.kill();
        assert!(!one.is_alive() && two.is_alive());
        gives(two.total(), 12u64);
    });
}

/// Has a bridge of its own, inside the child.
struct Outer {
    inner: Option<Bridge<Account>>,
}

#[bridge]
impl Outer {
    pub fn new() -> Self {
        Outer { inner: None }
    }
    pub fn open(&mut self, total: u64) -> Result<u32, String> {
        let inner = Account::bridge(total).start().map_err(|error| error.to_string())?;
        Ok(self.inner.insert(inner).child_pid())
    }
    pub fn deposit(&self, n: u64) -> Result<u64, String> {
        self.inner.as_ref().ok_or("not open")?.deposit(n).map_err(|error| error.to_string())
    }
}

#[test]
fn a_service_can_have_a_bridge_of_its_own() {
    within(PATIENCE, "a_service_can_have_a_bridge_of_its_own", || {
        let outer = started(Outer::bridge());
        let grandchild = outer.open(5).expect("the call succeeds").expect("the inner bridge starts");
        assert!(![outer.child_pid(), std::process::id()].contains(&grandchild));
        gives(outer.deposit(1), Ok(6));
        gives(outer.deposit(1), Ok(7));
        assert!(support::process_exists(grandchild));
        assert!(outer.stop().is_ok_and(|exit| exit.success()));
        assert!(support::eventually(10, "the grandchild ends", || !support::process_exists(grandchild)));
    });
}
