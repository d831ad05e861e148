//! The calls of the workload as subjects to measure. Every transport runs the same code, and every answer is checked.

#![forbid(unsafe_code)]

use crate::interleave::Subject;
use crate::transport::{BoxError, Record, Transport};
use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

/// The name to greet, of 32 bytes.
pub const NAME: &str = "a name of thirty-two characters.";

/// How many numbers a call sums.
pub const NUMBERS: usize = 1_000;

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `add(1)`.
    Add,
    /// `greet(NAME)`.
    Greet,
    /// `greet` with a name of this many bytes.
    GreetBytes(usize),
    /// `sum` of [`NUMBERS`] numbers.
    Sum,
    /// `record` of a struct of ten fields.
    Record,
    /// `echo` of this many bytes.
    Echo(usize),
    /// `work` for this long.
    Work(Duration),
}

/// A subject that makes `call` on `transport`. Only one subject of each transport may be [`CallKind::Add`].
pub fn subject<T: Transport + 'static>(name: impl Into<String>, call: CallKind, transport: &Rc<RefCell<T>>) -> Subject {
    let peer = transport.borrow().peer();
    let transport = transport.clone();
    let subject = match call {
        CallKind::Add => Subject::new(name, adding(transport)),
        CallKind::Greet => Subject::new(name, greeting(transport, NAME.into())),
        CallKind::GreetBytes(len) => Subject::new(name, greeting(transport, "n".repeat(len))),
        CallKind::Sum => Subject::new(name, summing(transport)),
        CallKind::Record => Subject::new(name, recording(transport)),
        CallKind::Echo(len) => Subject::new(name, echoing(transport, len)),
        CallKind::Work(busy) => Subject::new(name, move || transport.borrow_mut().work(busy)),
    };
    subject.answered_by(peer)
}

/// Returns an operation that calls `add(1)` and checks that the answer is one more than the last.
pub fn adding<T: Transport>(transport: Rc<RefCell<T>>) -> impl FnMut() -> Result<(), BoxError> {
    let mut last = None;
    move || {
        let total = transport.borrow_mut().add(black_box(1))?;
        let before = last.replace(total);
        check(before.is_none_or(|before| total == before + 1), "add")
    }
}

fn greeting<T: Transport>(transport: Rc<RefCell<T>>, name: String) -> impl FnMut() -> Result<(), BoxError> {
    move || {
        let greeting = transport.borrow_mut().greet(black_box(&name))?;
        check(greeting.len() == name.len() + 1 && greeting.ends_with('!'), "greet")
    }
}

fn summing<T: Transport>(transport: Rc<RefCell<T>>) -> impl FnMut() -> Result<(), BoxError> {
    let numbers: Vec<u64> = (1..=NUMBERS as u64).collect();
    let expected: u64 = numbers.iter().sum();
    move || {
        let sum = transport.borrow_mut().sum(black_box(&numbers))?;
        check(sum == expected, "sum")
    }
}

fn recording<T: Transport>(transport: Rc<RefCell<T>>) -> impl FnMut() -> Result<(), BoxError> {
    let record = record();
    move || {
        let answer = transport.borrow_mut().record(black_box(&record))?;
        check(answer.id == record.id + 1 && answer.name.len() == record.name.len(), "record")
    }
}

fn echoing<T: Transport>(transport: Rc<RefCell<T>>, len: usize) -> impl FnMut() -> Result<(), BoxError> {
    let bytes = vec![7; len];
    move || {
        let answer = transport.borrow_mut().echo(black_box(&bytes))?;
        check(answer.len() == len && answer.last() == bytes.last(), "echo")
    }
}

/// The record that calls send.
pub fn record() -> Record {
    Record {
        id: 41,
        parent: Some(7),
        x: 0.5,
        y: -12.25,
        width: 640,
        height: 480,
        visible: true,
        layer: -3,
        name: "a window with a title".into(),
        tag: *b"callgate",
    }
}

/// Makes every call once and checks the whole answer.
///
/// # Errors
///
/// The transport's own error, or a sentence that names the call with the wrong answer.
pub fn verify(transport: &mut dyn Transport) -> Result<(), BoxError> {
    let total = transport.add(0)?;
    check(transport.add(2)? == total + 2, "add")?;
    check(transport.greet(NAME)? == format!("{NAME}!"), "greet")?;
    check(transport.greet("")? == "!", "greet")?;
    check(transport.sum(&[])? == 0, "sum")?;
    check(transport.sum(&[u64::MAX, 43])? == 42, "sum")?;
    let record = record();
    check(transport.record(&record)? == Record { id: 42, ..record.clone() }, "record")?;
    for len in [0, 1, 1_000, 100_000] {
        let bytes: Vec<u8> = (0..len).map(|at: u32| at.to_le_bytes()[0]).collect();
        check(transport.echo(&bytes)? == bytes, "echo")?;
    }
    let begin = std::time::Instant::now();
    transport.work(Duration::from_micros(200))?;
    check(begin.elapsed() >= Duration::from_micros(200), "work")
}

/// Returns an error that names `call`, unless its answer is right.
#[inline(always)]
pub fn check(is_right: bool, call: &'static str) -> Result<(), BoxError> {
    if is_right { Ok(()) } else { Err(wrong(call)) }
}

#[cold]
fn wrong(call: &str) -> BoxError {
    format!("`{call}` was answered wrongly").into()
}
