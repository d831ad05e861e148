//! Encodes [`Value`] and [`Args`] as bytes, and decodes them.
//!
//! Each direction takes one pass, and most calls fit into the first line of a slot. A value is a tag, a number, and the content that the
//! number counts. At the top level (the first values of an `Args`, or a value alone) numbers are narrow: seven bits in a byte. Below it they
//! are wide: eight bytes. So the length of an untrusted message bounds what decoding it allocates, whatever counts it claims.
//!
//! Neither direction recurses deeper than [`Value::MAX_DEPTH`] lists and maps, or without enough stack. Decoding stops at a deadline and
//! reads the clock every few thousand values.

#![forbid(unsafe_code)]

use super::args::{Args, Names};
use super::value::Value;
use callgate_transport::bare::Plain;
use callgate_transport::decoder::Decoding;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::TooDeep;
use callgate_transport::reading::{DecodeRefusal, last_refusal, may_nest, refuse};
use rkyv::rancor::{Failure, Fallible, Source};
use rkyv::ser::Writer;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Deserialize, Place, Serialize};
use std::collections::BTreeMap;

/// The number of nested values read between two looks at the clock.
const VALUES_A_LOOK: u32 = 1 << 12;

/// The encoding of a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Seven bits in a byte, lowest first; the byte's highest bit says that more follow.
    Narrow,
    /// Eight bytes, little-endian.
    Wide,
}

/// The number of leading values of an `Args` that are narrow.
const NARROW: usize = 16;

impl Form {
    /// The form of argument number `at`, counted across positional and keyword arguments.
    fn of_argument(at: usize) -> Self {
        if at < NARROW { Form::Narrow } else { Form::Wide }
    }
}

/// The kind of a value. The number after the tag is 0 unless stated.
mod tag {
    pub(super) const NONE: u8 = 0;
    /// 0 or 1.
    pub(super) const BOOL: u8 = 1;
    /// The number, zigzag-encoded: its sign in the lowest bit.
    pub(super) const I64: u8 = 2;
    /// The number.
    pub(super) const U64: u8 = 3;
    /// The bits with their bytes reversed, so that a number with few digits is short.
    pub(super) const F64: u8 = 4;
    /// The number of bytes of text that follow.
    pub(super) const STR: u8 = 5;
    /// The number of bytes that follow.
    pub(super) const BYTES: u8 = 6;
    /// The number of values that follow.
    pub(super) const LIST: u8 = 7;
    /// The number of entries that follow, in key order: each a key (length and text) and its value.
    pub(super) const MAP: u8 = 8;
}

// ---- to bytes ------------------------------------------------------------------------------------------------------

/// Buffers short pieces into one write. Most calls consist of short pieces only.
struct Flattener<'w, W: ?Sized> {
    to: &'w mut W,
    buffer: [u8; GATHERED],
    len: usize,
}

/// The size in bytes of the buffer for short pieces.
const GATHERED: usize = 64;

/// This thread has no stack for another level. `needed` is roughly what a level takes.
const TOO_LITTLE: DecodeRefusal = DecodeRefusal::Stack { needed: 24 << 10, left: 0 };

/// The maximum bytes of a tag and a number.
const HEAD: usize = 1 + 10;

impl<'w, W: Fallible<Error: Source> + Writer + ?Sized> Flattener<'w, W> {
    #[inline]
    fn new(to: &'w mut W) -> Self {
        Self { to, buffer: [0; GATHERED], len: 0 }
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), W::Error> {
        match self.buffer.get_mut(self.len..self.len + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len += bytes.len();
                Ok(())
            }
            None => self.bytes_slow(bytes),
        }
    }

    #[cold]
    fn bytes_slow(&mut self, bytes: &[u8]) -> Result<(), W::Error> {
        self.flush()?;
        self.to.write(bytes)
    }

    #[inline]
    fn flush(&mut self) -> Result<(), W::Error> {
        let len = std::mem::take(&mut self.len);
        self.to.write(&self.buffer[..len])
    }

    /// Writes a number, flushing first if it might not fit.
    #[inline]
    fn number(&mut self, number: u64, form: Form) -> Result<(), W::Error> {
        if self.len > GATHERED - HEAD {
            self.flush()?;
        }
        self.put(number, form);
        Ok(())
    }

    /// Writes a tag and its number, flushing first if they might not fit.
    #[inline]
    fn head(&mut self, tag: u8, number: u64, form: Form) -> Result<(), W::Error> {
        if self.len > GATHERED - HEAD {
            self.flush()?;
        }
        self.buffer[self.len] = tag;
        self.len += 1;
        self.put(number, form);
        Ok(())
    }

    /// Writes a number that fits into the buffer.
    #[inline]
    fn put(&mut self, number: u64, form: Form) {
        if form == Form::Narrow && number < 0x80 {
            self.buffer[self.len] = number as u8;
            self.len += 1;
        } else {
            self.put_slow(number, form);
        }
    }

    fn put_slow(&mut self, mut number: u64, form: Form) {
        if form == Form::Wide {
            self.buffer[self.len..][..size_of::<u64>()].copy_from_slice(&number.to_le_bytes());
            self.len += size_of::<u64>();
            return;
        }
        while number >= 0x80 {
            self.buffer[self.len] = number as u8 | 0x80;
            self.len += 1;
            number >>= 7;
        }
        self.buffer[self.len] = number as u8;
        self.len += 1;
    }

    #[inline]
    fn counted(&mut self, bytes: &[u8], form: Form) -> Result<(), W::Error> {
        self.number(bytes.len() as u64, form)?;
        self.bytes(bytes)
    }

    /// Writes a value in which at most `levels` lists and maps may nest.
    #[inline(always)]
    fn value(&mut self, value: &Value, form: Form, levels: usize) -> Result<(), W::Error> {
        match value {
            Value::None => self.head(tag::NONE, 0, form),
            Value::Bool(truth) => self.head(tag::BOOL, u64::from(*truth), form),
            Value::I64(number) => self.head(tag::I64, (number << 1 ^ number >> 63) as u64, form),
            Value::U64(number) => self.head(tag::U64, *number, form),
            Value::F64(number) => self.head(tag::F64, number.to_bits().swap_bytes(), form),
            Value::Str(text) => self.several(tag::STR, text.as_bytes(), form),
            Value::Bytes(bytes) => self.several(tag::BYTES, bytes, form),
            Value::List(_) | Value::Map(_) => self.nested(value, form, levels),
        }
    }

    fn several(&mut self, tag: u8, bytes: &[u8], form: Form) -> Result<(), W::Error> {
        self.head(tag, bytes.len() as u64, form)?;
        self.bytes(bytes)
    }

    /// Writes a list or a map.
    #[inline(never)]
    fn nested(&mut self, value: &Value, form: Form, levels: usize) -> Result<(), W::Error> {
        // The sender has already checked the depth and reported a value that is too deep.
        let levels = levels.checked_sub(1).ok_or_else(|| Source::new(TooDeep))?;
        if levels < Value::UNMEASURED && !may_nest() {
            return Err(Source::new(TooDeep));
        }
        match value {
            Value::List(list) => {
                self.head(tag::LIST, list.len() as u64, form)?;
                list.iter().try_for_each(|value| self.value(value, Form::Wide, levels))
            }
            Value::Map(map) => {
                self.head(tag::MAP, map.len() as u64, form)?;
                map.iter().try_for_each(|(key, value)| {
                    self.counted(key.as_bytes(), Form::Wide)?;
                    self.value(value, Form::Wide, levels)
                })
            }
            _ => Ok(()),
        }
    }
}

impl Plain for Value {
    fn write<W: Fallible<Error: Source> + Writer + ?Sized>(&self, to: &mut W) -> Result<(), W::Error> {
        let mut to_bytes = Flattener::new(to);
        to_bytes.value(self, Form::Narrow, Self::MAX_DEPTH)?;
        to_bytes.flush()
    }

    fn read(bytes: &[u8], until: Deadline) -> Result<Self, Failure> {
        whole(bytes, until, |reader| reader.value(Form::Narrow, Self::MAX_DEPTH))
    }
}

/// The number of values, the number of keywords, then the values. A keyword's value is followed by its name.
impl Plain for Args {
    fn write<W: Fallible<Error: Source> + Writer + ?Sized>(&self, to: &mut W) -> Result<(), W::Error> {
        let (values, names) = self.flat_parts();
        let positional = values.len() - names.len();
        let mut to_bytes = Flattener::new(to);
        to_bytes.number(values.len() as u64, Form::Narrow)?;
        to_bytes.number(names.len() as u64, Form::Narrow)?;
        for (at, value) in values.iter().enumerate() {
            let form = Form::of_argument(at);
            to_bytes.value(value, form, Value::MAX_DEPTH)?;
            if at >= positional {
                to_bytes.counted(names[at - positional].as_bytes(), form)?;
            }
        }
        to_bytes.flush()
    }

    fn read(bytes: &[u8], until: Deadline) -> Result<Self, Failure> {
        whole(bytes, until, Reader::args)
    }
}

// ---- from bytes ----------------------------------------------------------------------------------------------------

struct Reader<'b> {
    /// The unread bytes.
    rest: &'b [u8],
    /// The number of values that counts may still claim. Starts at the most that the bytes can hold, so no claim costs more than its bytes.
    claims: usize,
    until: Deadline,
    /// The number of values left to read before the next look at the clock.
    unclocked: u32,
    /// Why reading failed; `Invalid` unless set otherwise.
    refusal: DecodeRefusal,
}

impl<'b> Reader<'b> {
    #[inline]
    fn of(bytes: &'b [u8], until: Deadline) -> Self {
        // Each value after the narrow ones takes a tag and eight bytes.
        let claims = NARROW + bytes.len() / (1 + size_of::<u64>());
        Self { rest: bytes, claims, until, unclocked: VALUES_A_LOOK, refusal: DecodeRefusal::Invalid }
    }

    /// Reads a value within a list or a map, if the deadline allows.
    #[inline]
    fn part(&mut self, levels: usize) -> Option<Value> {
        match self.unclocked.checked_sub(1) {
            Some(left) => self.unclocked = left,
            None => self.look_at_clock_slow()?,
        }
        self.value(Form::Wide, levels)
    }

    #[cold]
    fn look_at_clock_slow(&mut self) -> Option<()> {
        self.unclocked = VALUES_A_LOOK;
        self.refuse_if(self.until.has_passed(), DecodeRefusal::Late)
    }

    /// The levels left inside a list or a map, given `levels` including it, if there are any and stack for it.
    #[inline]
    fn deeper(&mut self, levels: usize) -> Option<usize> {
        let levels = levels.checked_sub(1)?;
        if levels < Value::UNMEASURED {
            self.refuse_if(!may_nest(), TOO_LITTLE)?;
        }
        Some(levels)
    }

    fn refuse_if(&mut self, is_so: bool, why: DecodeRefusal) -> Option<()> {
        if is_so {
            self.refusal = why;
        }
        (!is_so).then_some(())
    }

    /// Accepts a claimed count, if the claims left cover it.
    #[inline]
    fn claim(&mut self, count: u64) -> Option<usize> {
        let count = usize::try_from(count).ok()?;
        self.claims = self.claims.checked_sub(count)?;
        Some(count)
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    #[inline]
    fn bytes(&mut self, len: u64) -> Option<&'b [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len.try_into().ok()?)?;
        self.rest = rest;
        Some(bytes)
    }

    #[inline]
    fn number(&mut self, form: Form) -> Option<u64> {
        match (form, self.rest) {
            (Form::Narrow, [byte @ 0..0x80, rest @ ..]) => {
                self.rest = rest;
                Some(u64::from(*byte))
            }
            _ => self.number_slow(form),
        }
    }

    fn number_slow(&mut self, form: Form) -> Option<u64> {
        if form == Form::Wide {
            let (number, rest) = self.rest.split_first_chunk()?;
            self.rest = rest;
            return Some(u64::from_le_bytes(*number));
        }
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    #[inline]
    fn text(&mut self, len: u64) -> Option<&'b str> {
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    #[inline(always)]
    fn value(&mut self, form: Form, levels: usize) -> Option<Value> {
        let tag = self.byte()?;
        let number = self.number(form)?;
        match tag {
            tag::I64 => Some(Value::I64((number >> 1) as i64 ^ -((number & 1) as i64))),
            tag::U64 => Some(Value::U64(number)),
            tag::F64 => Some(Value::F64(f64::from_bits(number.swap_bytes()))),
            _ => self.value_slow(tag, number, levels),
        }
    }

    /// Reads a value that is not a number, given its tag and number.
    #[inline(never)]
    fn value_slow(&mut self, tag: u8, number: u64, levels: usize) -> Option<Value> {
        Some(match (tag, number) {
            (tag::NONE, 0) => Value::None,
            (tag::BOOL, 0 | 1) => Value::Bool(number == 1),
            (tag::STR, _) => Value::Str(self.text(number)?.into()),
            (tag::BYTES, _) => Value::Bytes(self.bytes(number)?.into()),
            (tag::LIST, _) => {
                let levels = self.deeper(levels)?;
                let count = self.claim(number)?;
                let mut list = Vec::with_capacity(count);
                for _ in 0..count {
                    list.push(self.part(levels)?);
                }
                Value::List(list)
            }
            (tag::MAP, _) => {
                let levels = self.deeper(levels)?;
                let count = self.claim(number)?;
                let entry = |_| {
                    let len = self.number(Form::Wide)?;
                    Some((self.text(len)?.into(), self.part(levels)?))
                };
                let map: BTreeMap<_, _> = (0..count).map(entry).collect::<Option<_>>()?;
                // A repeated key makes the map smaller than its count.
                (map.len() == count).then_some(Value::Map(map))?
            }
            _ => return None,
        })
    }

    fn args(&mut self) -> Option<Args> {
        let (count, named) = (self.number(Form::Narrow)?, self.number(Form::Narrow)?);
        let positional = count.checked_sub(named)?;
        let count = self.claim(count)?;
        let mut values = Vec::with_capacity(count);
        let mut names = Names::with_capacity(named as usize);
        for at in 0..count {
            let form = Form::of_argument(at);
            values.push(self.value(form, Value::MAX_DEPTH)?);
            if at as u64 >= positional {
                let len = self.number(form)?;
                names.push(self.text(len)?.into());
            }
        }
        Some(Args::of_flat_parts(values, names))
    }
}

/// Decodes with `read`, which must consume all of `bytes`.
#[inline]
fn whole<'b, T>(
    bytes: &'b [u8],
    until: Deadline,
    read: impl FnOnce(&mut Reader<'b>) -> Option<T>,
) -> Result<T, Failure> {
    let mut reader = Reader::of(bytes, until);
    let value = read(&mut reader).filter(|_| reader.rest.is_empty());
    value.ok_or_else(|| refuse(reader.refusal))
}

// ---- among others, in an archive -----------------------------------------------------------------------------------

/// The position and length of the bytes.
pub struct Resolver {
    start: usize,
    len: usize,
}

/// Archives the type as a vector of its encoded bytes.
macro_rules! archived {
    ($($ty:ident)*) => {$(
        impl Archive for $ty {
            type Archived = ArchivedVec<u8>;
            type Resolver = Resolver;

            fn resolve(&self, resolver: Resolver, out: Place<ArchivedVec<u8>>) {
                ArchivedVec::resolve_from_len(resolver.len, VecResolver::from_pos(resolver.start), out);
            }
        }

        impl<S: Fallible<Error: Source> + Writer + ?Sized> Serialize<S> for $ty {
            fn serialize(&self, serializer: &mut S) -> Result<Resolver, S::Error> {
                let start = serializer.pos();
                self.write(serializer)?;
                Ok(Resolver { start, len: serializer.pos() - start })
            }
        }

        impl Deserialize<$ty, Decoding<'_>> for ArchivedVec<u8> {
            fn deserialize(&self, decoder: &mut Decoding<'_>) -> Result<$ty, Failure> {
                Ok($ty::read(self, decoder.until()).unwrap_or_else(|Failure| {
                    decoder.refuse(last_refusal());
                    $ty::default()
                }))
            }
        }
    )*};
}

archived! { Value Args }

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::args;
    use crate::value::tests::{nested, values};
    use callgate_transport::bare::Bare;
    use callgate_transport::copy_buffer::decode_private;
    use callgate_transport::encode::encode_to_vec;
    use proptest::prelude::*;

    fn to_bytes<T: Plain + Clone>(value: &T) -> Vec<u8> {
        encode_to_vec(&Bare(value.clone()), 1 << 20).expect("less than a MiB").to_vec()
    }

    fn read_as<T: Plain>(bytes: Vec<u8>) -> Option<T> {
        T::read(&bytes, Deadline::NEVER).ok()
    }

    proptest! {
        #[test]
        fn bytes_make_a_value_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // What is read has one spelling.
            if let Some(value) = read_as::<Value>(bytes.clone()) {
                prop_assert_eq!(read_as::<Value>(to_bytes(&value)).map(|read| to_bytes(&read)), Some(to_bytes(&value)));
            }
            let _ = read_as::<Args>(bytes).map(|args| args.to_string());
        }

        #[test]
        fn a_part_of_a_value_is_none(value in values(), at: prop::sample::Index) {
            let mut bytes = to_bytes(&value);
            bytes.truncate(at.index(bytes.len()));
            prop_assert_eq!(read_as::<Value>(bytes), None);
        }
    }

    #[test]
    fn most_calls_fit_into_one_line() {
        assert_eq!(to_bytes(&args![1, 2, 3; a = 4, b = "five"]).len(), 2 + 3 * 2 + (2 + 2) + (2 + 6));
        assert_eq!(to_bytes(&Value::F64(1.5)), [tag::F64, 0xbf, 0xf0, 0x03]);
        assert_eq!(to_bytes(&Value::from(vec![1])).len(), 2 + 9);
    }

    #[test]
    fn arguments_beyond_the_narrow_ones_are_wide() {
        let many = (0..40).fold(Args::new(), Args::with).with_keyword("last", "one").unwrap();
        assert_eq!(to_bytes(&many).len(), 2 + NARROW * 2 + (40 - NARROW) * 9 + (8 + 4) + (9 + 3));
        assert_eq!(read_as(to_bytes(&many)), Some(many));
    }

    #[test]
    fn what_follows_or_is_there_twice_is_refused() {
        let value = |bytes: &[u8]| read_as::<Value>(bytes.to_vec());
        assert_eq!(value(&[tag::U64, 5]), Some(Value::U64(5)));
        for bent in [
            &[][..],
            &[tag::U64],
            &[tag::U64, 5, 0],
            &[9, 0],
            &[tag::NONE, 1],
            &[tag::BOOL, 2],
            &[tag::STR, 1, 0xff],
            &[tag::U64, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[tag::U64, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
        ] {
            assert_eq!(value(bent), None, "{bent:?}");
        }
        let mut twice = to_bytes(&Value::from(BTreeMap::from([("a", 1), ("b", 1)])));
        assert!(value(&twice).is_some());
        let at = twice.iter().position(|byte| *byte == b'b').unwrap();
        twice[at] = b'a';
        assert_eq!(value(&twice), None);
    }

    #[test]
    fn fault_07_claims_cost_no_more_than_their_bytes() {
        let most = u64::MAX.to_le_bytes();
        for tag in [tag::LIST, tag::MAP, tag::STR, tag::BYTES] {
            // Lists in lists, each of which claims as many as the bytes that are left could be.
            let mut claims = vec![tag::LIST, 1];
            for _ in 0..90 {
                claims.extend([tag::LIST]);
                claims.extend(100_000u64.to_le_bytes());
            }
            claims.extend(vec![0; 1_000_000]);
            assert_eq!(read_as::<Value>(claims), None);
            assert_eq!(read_as::<Value>([&[tag::LIST, 1, tag][..], &most[..]].concat()), None);
        }
        let narrow = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(read_as::<Args>([&narrow[..], &[0]].concat()), None);
        assert_eq!(read_as::<Args>([&[0], &narrow[..]].concat()), None);
        assert_eq!(read_as::<Args>([&narrow[..], &narrow[..]].concat()), None);
    }

    #[test]
    fn fault_06_values_of_many_levels_are_refused() {
        let one = |levels: usize| {
            let mut bytes = vec![tag::LIST, 1];
            (1..levels).for_each(|_| {
                bytes.push(tag::LIST);
                bytes.extend(1u64.to_le_bytes());
            });
            bytes.push(tag::NONE);
            bytes.extend(0u64.to_le_bytes());
            bytes
        };
        assert_eq!(read_as::<Value>(one(Value::MAX_DEPTH)).map(|value| value.is_too_deep()), Some(false));
        assert_eq!(read_as::<Value>(one(Value::MAX_DEPTH + 1)), None);
        assert_eq!(read_as::<Value>(one(200_000)), None);
        let too_deep = nested(Value::MAX_DEPTH + 1);
        assert!(encode_to_vec(&too_deep, 1 << 20).is_err());
    }

    #[test]
    fn a_part_that_makes_no_sense_leaks_no_other() {
        // Of a list, whose first elements have been made.
        let texts = vec![String::from("a text of its own").into_bytes(); 3];
        let archive = encode_to_vec(&texts, 1 << 20).unwrap();
        assert_eq!(decode_private::<Vec<Value>>(&archive), None);
    }
}
