//! Values as bytes: how [`Value`] and [`Args`] lie in an archive, which is that of a vector of bytes.
//!
//! Layer 5. One pass each way, and most calls fit into the first line of a slot. Every value is a tag and a number, and what the number
//! counts. Numbers are narrow, seven bits in a byte, at the top: in the first values of an `Args`, or in a value alone. Below they are wide,
//! eight bytes: so what is allocated for bytes that a stranger sends is bounded by their number, whatever they claim.
//!
//! Never recurses deeper than [`Value::MAX_DEPTH`] lists and maps, on either side.

#![forbid(unsafe_code)]

use super::args::{Args, Keyword, Keywords, Positional};
use super::value::Value;
use crate::frame::Decoding;
use rkyv::rancor::{Failure, Fallible, Source};
use rkyv::ser::Writer;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Deserialize, Place, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How numbers are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// From the lowest bits, seven in a byte, whose highest bit says that more follow.
    Narrow,
    /// Eight bytes, the lowest first.
    Wide,
}

/// So many of the values of an `Args` are narrow.
const NARROW: usize = 16;

impl Form {
    /// Of the argument number `at`, counted over positional ones and keywords.
    fn of_argument(at: usize) -> Self {
        if at < NARROW { Form::Narrow } else { Form::Wide }
    }
}

/// What a value is. The number behind it is 0, or as said.
mod tag {
    pub(super) const NONE: u8 = 0;
    /// 0 or 1.
    pub(super) const BOOL: u8 = 1;
    /// The number, its sign in the lowest bit.
    pub(super) const I64: u8 = 2;
    /// The number.
    pub(super) const U64: u8 = 3;
    /// The bits, in reverse order of bytes: few of them for numbers with few digits.
    pub(super) const F64: u8 = 4;
    /// How many bytes of text follow.
    pub(super) const STR: u8 = 5;
    /// How many bytes follow.
    pub(super) const BYTES: u8 = 6;
    /// How many values follow.
    pub(super) const LIST: u8 = 7;
    /// How many keys, each as a length and text, with their values follow, in order.
    pub(super) const MAP: u8 = 8;
}

// ---- to bytes ------------------------------------------------------------------------------------------------------

/// A value has more levels than cross. Whoever sends one has looked before, and said so.
#[derive(Debug)]
struct TooDeep;

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {} lists and maps within each other", Value::MAX_DEPTH)
    }
}

impl std::error::Error for TooDeep {}

/// Collects short pieces, of which most calls have nothing else, into one.
struct Flattener<'w, W: ?Sized> {
    to: &'w mut W,
    start: usize,
    buffer: [u8; GATHERED],
    len: usize,
}

/// How many bytes of short pieces are written at a time.
const GATHERED: usize = 64;

/// A tag and a number have so many at most.
const HEAD: usize = 1 + 10;

/// Where the bytes are, and how many.
pub struct Resolver {
    start: usize,
    len: usize,
}

impl Resolver {
    fn resolve(self, out: Place<ArchivedVec<u8>>) {
        ArchivedVec::resolve_from_len(self.len, VecResolver::from_pos(self.start), out);
    }
}

impl<'w, W: Fallible<Error: Source> + Writer + ?Sized> Flattener<'w, W> {
    #[inline]
    fn new(to: &'w mut W) -> Self {
        let start = to.pos();
        Self { to, start, buffer: [0; GATHERED], len: 0 }
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

    /// A tag, if there is to be one, and a number.
    #[inline]
    fn head(&mut self, tag: Option<u8>, mut number: u64, form: Form) -> Result<(), W::Error> {
        if self.len > GATHERED - HEAD {
            self.flush()?;
        }
        let mut put = |byte: u8| {
            self.buffer[self.len] = byte;
            self.len += 1;
        };
        tag.map(&mut put);
        if form == Form::Wide {
            number.to_le_bytes().into_iter().for_each(put);
            return Ok(());
        }
        while number >= 0x80 {
            put(number as u8 | 0x80);
            number >>= 7;
        }
        put(number as u8);
        Ok(())
    }

    fn counted(&mut self, bytes: &[u8], form: Form) -> Result<(), W::Error> {
        self.head(None, bytes.len() as u64, form)?;
        self.bytes(bytes)
    }

    /// A value around which there may be `levels` more.
    fn value(&mut self, value: &Value, form: Form, levels: usize) -> Result<(), W::Error> {
        let (tag, number) = match value {
            Value::None => (tag::NONE, 0),
            Value::Bool(truth) => (tag::BOOL, u64::from(*truth)),
            Value::I64(number) => (tag::I64, (number << 1 ^ number >> 63) as u64),
            Value::U64(number) => (tag::U64, *number),
            Value::F64(number) => (tag::F64, number.to_bits().swap_bytes()),
            Value::Str(text) => (tag::STR, text.len() as u64),
            Value::Bytes(bytes) => (tag::BYTES, bytes.len() as u64),
            Value::List(list) => (tag::LIST, list.len() as u64),
            Value::Map(map) => (tag::MAP, map.len() as u64),
        };
        self.head(Some(tag), number, form)?;
        match value {
            Value::Str(text) => self.bytes(text.as_bytes()),
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::List(list) => {
                let levels = levels.checked_sub(1).ok_or_else(|| Source::new(TooDeep))?;
                list.iter().try_for_each(|value| self.value(value, Form::Wide, levels))
            }
            Value::Map(map) => {
                let levels = levels.checked_sub(1).ok_or_else(|| Source::new(TooDeep))?;
                map.iter().try_for_each(|(key, value)| {
                    self.counted(key.as_bytes(), Form::Wide)?;
                    self.value(value, Form::Wide, levels)
                })
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn finish(mut self) -> Result<Resolver, W::Error> {
        self.flush()?;
        Ok(Resolver { start: self.start, len: self.to.pos() - self.start })
    }
}

impl Archive for Value {
    type Archived = ArchivedVec<u8>;
    type Resolver = Resolver;

    fn resolve(&self, resolver: Resolver, out: Place<ArchivedVec<u8>>) {
        resolver.resolve(out);
    }
}

impl<S: Fallible<Error: Source> + Writer + ?Sized> Serialize<S> for Value {
    fn serialize(&self, serializer: &mut S) -> Result<Resolver, S::Error> {
        let mut flat = Flattener::new(serializer);
        flat.value(self, Form::Narrow, Self::MAX_DEPTH)?;
        flat.finish()
    }
}

impl Archive for Args {
    type Archived = ArchivedVec<u8>;
    type Resolver = Resolver;

    fn resolve(&self, resolver: Resolver, out: Place<ArchivedVec<u8>>) {
        resolver.resolve(out);
    }
}

/// How many positional arguments and keywords there are, then those, then each keyword's name and value.
impl<S: Fallible<Error: Source> + Writer + ?Sized> Serialize<S> for Args {
    fn serialize(&self, serializer: &mut S) -> Result<Resolver, S::Error> {
        let (positional, keyword) = (self.positional(), self.named());
        let mut flat = Flattener::new(serializer);
        flat.head(None, positional.len() as u64, Form::Narrow)?;
        flat.head(None, keyword.len() as u64, Form::Narrow)?;
        for (at, value) in positional.iter().enumerate() {
            flat.value(value, Form::of_argument(at), Value::MAX_DEPTH)?;
        }
        for (at, Keyword { name, value }) in keyword.iter().enumerate() {
            let form = Form::of_argument(positional.len() + at);
            flat.counted(name.as_bytes(), form)?;
            flat.value(value, form, Value::MAX_DEPTH)?;
        }
        flat.finish()
    }
}

// ---- from bytes ----------------------------------------------------------------------------------------------------

struct Reader<'b> {
    /// The bytes that have not been read yet.
    rest: &'b [u8],
    /// How many values may yet be claimed to follow: as many as there can be in all, so that no claim costs more than its bytes.
    claims: usize,
}

impl<'b> Reader<'b> {
    #[inline]
    fn of(bytes: &'b [u8]) -> Self {
        // Below the narrow ones each takes its tag and a number.
        Self { rest: bytes, claims: NARROW + bytes.len() / (1 + size_of::<u64>()) }
    }

    /// As many as are claimed, if there can be.
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

    fn value(&mut self, form: Form, levels: usize) -> Option<Value> {
        let tag = self.byte()?;
        let number = self.number(form)?;
        Some(match (tag, number) {
            (tag::NONE, 0) => Value::None,
            (tag::BOOL, 0 | 1) => Value::Bool(number == 1),
            (tag::I64, _) => Value::I64((number >> 1) as i64 ^ -((number & 1) as i64)),
            (tag::U64, _) => Value::U64(number),
            (tag::F64, _) => Value::F64(f64::from_bits(number.swap_bytes())),
            (tag::STR, _) => Value::Str(self.text(number)?.into()),
            (tag::BYTES, _) => Value::Bytes(self.bytes(number)?.into()),
            (tag::LIST, _) => {
                let levels = levels.checked_sub(1)?;
                let count = self.claim(number)?;
                let mut list = Vec::with_capacity(count);
                for _ in 0..count {
                    list.push(self.value(Form::Wide, levels)?);
                }
                Value::List(list)
            }
            (tag::MAP, _) => {
                let levels = levels.checked_sub(1)?;
                let count = self.claim(number)?;
                let entry = |_| {
                    let len = self.number(Form::Wide)?;
                    Some((self.text(len)?.into(), self.value(Form::Wide, levels)?))
                };
                let map: BTreeMap<_, _> = (0..count).map(entry).collect::<Option<_>>()?;
                // A key that is there twice has two values.
                (map.len() == count).then_some(Value::Map(map))?
            }
            _ => return None,
        })
    }

    fn args(&mut self) -> Option<Args> {
        let (positional, keyword) = (self.number(Form::Narrow)?, self.number(Form::Narrow)?);
        let (positional, keyword) = (self.claim(positional)?, self.claim(keyword)?);
        let mut values = Positional::with_capacity(positional);
        for at in 0..positional {
            values.push(self.value(Form::of_argument(at), Value::MAX_DEPTH)?);
        }
        let mut keywords = Keywords::with_capacity(keyword);
        for at in positional..positional + keyword {
            let form = Form::of_argument(at);
            let len = self.number(form)?;
            let name = self.text(len)?.into();
            keywords.push(Keyword { name, value: self.value(form, Value::MAX_DEPTH)? });
        }
        Some(Args::of_wire(values, keywords))
    }
}

/// What `read` makes of all of `bytes`; what it makes of nothing if they make no sense.
fn read<T: Default>(
    bytes: &[u8],
    decoder: &mut Decoding<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Result<T, Failure> {
    let mut reader = Reader::of(bytes);
    let value = read(&mut reader).filter(|_| reader.rest.is_empty());
    Ok(value.unwrap_or_else(|| {
        decoder.refuse();
        T::default()
    }))
}

impl Deserialize<Value, Decoding<'_>> for ArchivedVec<u8> {
    fn deserialize(&self, decoder: &mut Decoding<'_>) -> Result<Value, Failure> {
        read(self, decoder, |reader| reader.value(Form::Narrow, Value::MAX_DEPTH))
    }
}

impl Deserialize<Args, Decoding<'_>> for ArchivedVec<u8> {
    fn deserialize(&self, decoder: &mut Decoding<'_>) -> Result<Args, Failure> {
        read(self, decoder, |reader| reader.args())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::frame::{decode_private, encode_to_vec};
    use crate::manager::value::tests::{nested, values};
    use callgate::args;
    use proptest::prelude::*;

    /// The flat bytes of an archive.
    fn flat<T: crate::frame::Encode>(value: &T) -> Vec<u8> {
        let archive = encode_to_vec(value, 1 << 20).expect("less than a MiB");
        decode_private::<Vec<u8>>(&archive).expect("a vector of bytes")
    }

    /// What flat bytes are read as.
    fn read_as<T: crate::frame::Transfer>(bytes: Vec<u8>) -> Option<T> {
        decode_private(&encode_to_vec(&bytes, 16 << 20).expect("less than 16 MiB"))
    }

    proptest! {
        #[test]
        fn bytes_make_a_value_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // What is read has one spelling.
            if let Some(value) = read_as::<Value>(bytes.clone()) {
                prop_assert_eq!(read_as::<Value>(flat(&value)).map(|read| flat(&read)), Some(flat(&value)));
            }
            let _ = read_as::<Args>(bytes).map(|args| args.to_string());
        }

        #[test]
        fn a_part_of_a_value_is_none(value in values(), at: prop::sample::Index) {
            let mut bytes = flat(&value);
            bytes.truncate(at.index(bytes.len()));
            prop_assert_eq!(read_as::<Value>(bytes), None);
        }
    }

    #[test]
    fn most_calls_fit_into_one_line() {
        assert_eq!(flat(&args![1, 2, 3; a = 4, b = "five"]).len(), 2 + 3 * 2 + (2 + 2) + (2 + 6));
        assert_eq!(flat(&Value::F64(1.5)), [tag::F64, 0xbf, 0xf0, 0x03]);
        assert_eq!(flat(&Value::from(vec![1])).len(), 2 + 9);
    }

    #[test]
    fn arguments_beyond_the_narrow_ones_are_wide() {
        let many = (0..40).fold(Args::new(), Args::with).with_keyword("last", "one").unwrap();
        assert_eq!(flat(&many).len(), 2 + NARROW * 2 + (40 - NARROW) * 9 + (8 + 4) + (9 + 3));
        assert_eq!(read_as(flat(&many)), Some(many));
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
        let mut twice = flat(&Value::from(BTreeMap::from([("a", 1), ("b", 1)])));
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

    #[test]
    #[ignore]
    fn micro() {
        let n = 1_000_000u32;
        for _ in 0..3 {
            let t = std::time::Instant::now();
            for _ in 0..n {
                std::hint::black_box(args![1, 2, 3; a = 4, b = 5]);
            }
            let make = t.elapsed() / n;
            let args = args![1, 2, 3; a = 4, b = 5];
            let t = std::time::Instant::now();
            for _ in 0..n {
                std::hint::black_box(encode_to_vec(std::hint::black_box(&args), 1 << 20).unwrap());
            }
            let enc = t.elapsed() / n;
            let bytes = encode_to_vec(&args, 1 << 20).unwrap();
            let t = std::time::Instant::now();
            for _ in 0..n {
                std::hint::black_box(
                    crate::frame::read_copy::<Args>(std::hint::black_box(&bytes), crate::frame::Decoder::of_child())
                        .unwrap(),
                );
            }
            let dec = t.elapsed() / n;
            println!("make {make:?} encode {enc:?} decode {dec:?} len {}", bytes.len());
        }
    }
}
