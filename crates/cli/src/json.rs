//! Converts values and arguments of callbacks to JSON and back.
//!
//! | value | JSON |
//! | --- | --- |
//! | none | `null` |
//! | bool, str, list, map | `true`, `"text"`, `[..]`, `{..}` |
//! | i64, u64 | a number without point and exponent. A number that fits into an i64 becomes an i64 again |
//! | f64 | a number with point or exponent, to the last digit; `{"$float": "nan"}`, `"inf"`, `"-inf"` |
//! | bytes | `{"$bytes": "00ff"}`, in hexadecimal digits |
//! | a map whose only key is one of these | `{"$map": {..}}` |
//!
//! The way to JSON loses only whether a small number was an i64 or a u64. On the way back, a whole number that fits into neither is refused; with
//! a point (`18446744073709551617.0`), it becomes the nearest f64.

use callgate::manager::{Args, RepeatedKeyword, Value};
use serde_json::{Map, Number, Value as Json};

const BYTES: &str = "$bytes";
const FLOAT: &str = "$float";
const MAP: &str = "$map";

/// Why a text is not a valid argument.
#[derive(callgate_macros::Sentence, thiserror::Error)]
pub enum JsonError {
    /// The text is not JSON.
    #[error("`{text}` is not JSON: {error} (a text is written with its quotes: '\"text\"')")]
    Syntax {
        /// The text as it was given.
        text: String,
        /// What is wrong with the text.
        error: serde_json::Error,
    },
    /// The text is not a keyword with a value.
    #[error("`{text}` is not a keyword with a value: NAME=JSON")]
    Keyword {
        /// The text as it was given.
        text: String,
    },
    /// A keyword occurs twice.
    #[error(transparent)]
    Repeated(#[from] RepeatedKeyword),
    /// The value of a special key, such as `$bytes`, is invalid.
    #[error("the value in {{\"{key}\": ..}} must be {expected}")]
    Special {
        /// The key.
        key: &'static str,
        /// What the value should be.
        expected: &'static str,
    },
    /// A whole number fits neither into an i64 nor into a u64.
    #[error(
        "{number} is outside the whole numbers of a call, {} to {}: `{number}.0` is the nearest f64",
        i64::MIN,
        u64::MAX
    )]
    Beyond {
        /// The number as it was given.
        number: String,
    },
    /// The value nests deeper than a value may that crosses to another process.
    #[error("lists and maps nest more than {} deep", Value::MAX_DEPTH)]
    TooDeep,
}

/// Converts a command's arguments to a call's: JSON texts, and keywords as `NAME=JSON`. An argument that does not begin like JSON is a text.
///
/// # Errors
///
/// If a keyword is malformed or occurs twice, or if JSON is not a value.
pub fn args(positional: &[String], keywords: &[String]) -> Result<Args, JsonError> {
    let positional = positional.iter().map(|text| argument(text)).collect::<Result<_, _>>()?;
    let keywords = keywords.iter().map(|text| keyword(text)).collect::<Result<_, _>>()?;
    Ok(Args::from_parts(positional, keywords)?)
}

fn keyword(text: &str) -> Result<(String, Value), JsonError> {
    match text.split_once('=') {
        Some((name, json)) if !name.is_empty() => Ok((name.to_owned(), argument(json)?)),
        _ => Err(JsonError::Keyword { text: text.to_owned() }),
    }
}

/// Parses a value as people write it: JSON, or a text without quotes.
fn argument(text: &str) -> Result<Value, JsonError> {
    match value(text) {
        Err(JsonError::Syntax { .. }) if !begins_like_json(text) => Ok(Value::Str(text.to_owned())),
        said => said,
    }
}

/// Whether `text` looks as if it were meant as JSON, even if it is not valid.
fn begins_like_json(text: &str) -> bool {
    let text = text.trim_start();
    let number = text.strip_prefix('-').unwrap_or(text);
    text.starts_with(['{', '[', '"']) || number.starts_with(|first: char| first.is_ascii_digit())
}

/// Parses a JSON text as a value.
///
/// # Errors
///
/// If the text is not JSON, or its JSON is not a value.
pub fn value(text: &str) -> Result<Value, JsonError> {
    let json = serde_json::from_str(text).map_err(|error| JsonError::Syntax { text: text.to_owned(), error })?;
    // serde_json has made an f64 of this number, which may be a different number.
    if let Some(number) = beyond(text) {
        return Err(JsonError::Beyond { number: number.to_owned() });
    }
    // serde_json reads at most 128 levels, so neither this recursion nor dropping the value goes deep.
    let value = of_json(json)?;
    if value.is_too_deep() { Err(JsonError::TooDeep) } else { Ok(value) }
}

/// The first whole number in `json` that fits neither into an i64 nor into a u64. `json` must be valid.
fn beyond(json: &str) -> Option<&str> {
    let mut rest = json;
    while let Some(start) = rest.find(|first: char| first == '"' || first == '-' || first.is_ascii_digit()) {
        rest = &rest[start..];
        if let Some(text) = rest.strip_prefix('"') {
            rest = behind_text(text);
            continue;
        }
        let is_of_number = |char: char| char.is_ascii_digit() || matches!(char, '-' | '+' | '.' | 'e' | 'E');
        let (number, behind) = rest.split_at(rest.find(|char| !is_of_number(char)).unwrap_or(rest.len()));
        let is_whole = !number.contains(['.', 'e', 'E']);
        if is_whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
            return Some(number);
        }
        rest = behind;
    }
    None
}

/// The rest of the input after the closing quote of a text. `rest` begins after the opening quote.
fn behind_text(mut rest: &str) -> &str {
    while let Some(at) = rest.find(['"', '\\']) {
        let is_escape = rest[at..].starts_with('\\');
        rest = &rest[at + 1..];
        if !is_escape {
            return rest;
        }
        // Skip the escaped character: even a quote does not end the text here.
        rest = rest.get(1..).unwrap_or_default();
    }
    ""
}

/// Formats a value as JSON on one line, with nothing in it that controls a terminal.
pub fn text(value: &Value) -> String {
    let mut text = String::new();
    // serde_json escapes some control characters, which occur only in texts. This escapes the others.
    for char in to_json(value).to_string().chars() {
        match u32::from(char) {
            code if char.is_control() => text.push_str(&format!("\\u{code:04x}")),
            _ => text.push(char),
        }
    }
    text
}

/// Converts a value to JSON.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Bool(truth) => (*truth).into(),
        Value::I64(number) => (*number).into(),
        Value::U64(number) => (*number).into(),
        Value::F64(number) => match Number::from_f64(*number) {
            Some(number) => number.into(),
            None => special(FLOAT, name_of(*number).into()),
        },
        Value::Str(text) => text.as_str().into(),
        Value::Bytes(bytes) => special(BYTES, to_hex(bytes).into()),
        Value::List(list) => list.iter().map(to_json).collect(),
        Value::Map(map) => {
            let json: Json = map.iter().map(|(key, value)| (key.clone(), to_json(value))).collect();
            let only_key = map.keys().next().filter(|_| map.len() == 1);
            if only_key.is_some_and(|key| [BYTES, FLOAT, MAP].contains(&key.as_str())) {
                special(MAP, json)
            } else {
                json
            }
        }
    }
}

fn special(key: &str, json: Json) -> Json {
    Map::from_iter([(key.to_owned(), json)]).into()
}

fn of_json(json: Json) -> Result<Value, JsonError> {
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(truth) => Value::Bool(truth),
        Json::Number(number) => of_number(&number),
        Json::String(text) => Value::Str(text),
        Json::Array(list) => Value::List(list.into_iter().map(of_json).collect::<Result<_, _>>()?),
        Json::Object(map) => of_object(map)?,
    })
}

fn of_number(number: &Number) -> Value {
    match (number.as_i64(), number.as_u64()) {
        (Some(number), _) => Value::I64(number),
        (None, Some(number)) => Value::U64(number),
        (None, None) => Value::F64(number.as_f64().expect("a number of serde_json is one of the three")),
    }
}

fn of_object(mut map: Map<String, Json>) -> Result<Value, JsonError> {
    if map.len() == 1 {
        if let Some(json) = map.remove(BYTES) {
            let bytes = json.as_str().and_then(of_hex);
            let expected = "a text of hexadecimal digits, two for each byte";
            return bytes.map(Value::Bytes).ok_or(JsonError::Special { key: BYTES, expected });
        }
        if let Some(json) = map.remove(FLOAT) {
            let expected = r#""nan", "inf" or "-inf""#;
            return json.as_str().and_then(of_name).ok_or(JsonError::Special { key: FLOAT, expected });
        }
        if let Some(json) = map.remove(MAP) {
            let Json::Object(map) = json else { return Err(JsonError::Special { key: MAP, expected: "an object" }) };
            return of_entries(map);
        }
    }
    of_entries(map)
}

fn of_entries(map: Map<String, Json>) -> Result<Value, JsonError> {
    Ok(Value::Map(map.into_iter().map(|(key, json)| Ok((key, of_json(json)?))).collect::<Result<_, JsonError>>()?))
}

/// The name of a number that JSON has no digits for.
fn name_of(number: f64) -> &'static str {
    match number {
        f64::INFINITY => "inf",
        f64::NEG_INFINITY => "-inf",
        _ => "nan",
    }
}

fn of_name(name: &str) -> Option<Value> {
    Some(Value::F64(match name {
        "nan" => f64::NAN,
        "inf" => f64::INFINITY,
        "-inf" => f64::NEG_INFINITY,
        _ => return None,
    }))
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn of_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4 | digit(*low)?) as u8);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callgate::args;

    fn map<const LEN: usize>(entries: [(&str, Value); LEN]) -> Value {
        Value::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
    }

    #[test]
    fn a_value_comes_back_from_its_json() {
        for (value_of, json) in [
            (Value::None, "null"),
            (true.into(), "true"),
            (0.into(), "0"),
            (i64::MIN.into(), "-9223372036854775808"),
            (i64::MAX.into(), "9223372036854775807"),
            (u64::MAX.into(), "18446744073709551615"),
            (1.0.into(), "1.0"),
            ((-0.0).into(), "-0.0"),
            (0.1.into(), "0.1"),
            (f64::MAX.into(), "1.7976931348623157e+308"),
            (5e-324.into(), "5e-324"),
            (f64::INFINITY.into(), r#"{"$float":"inf"}"#),
            (f64::NEG_INFINITY.into(), r#"{"$float":"-inf"}"#),
            ("\x1b\u{9b}\x7f".into(), r#""\u001b\u009b\u007f""#),
            ("quo\"ted\n\u{1f600}".into(), "\"quo\\\"ted\\n\u{1f600}\""),
            (b"\x00\xffa".into(), r#"{"$bytes":"00ff61"}"#),
            (b"".into(), r#"{"$bytes":""}"#),
            (vec![Value::from(1), "two".into(), ().into()].into(), r#"[1,"two",null]"#),
            (map([]), "{}"),
            (map([("a", 1.into()), ("b", map([("c", 2.5.into())]))]), r#"{"a":1,"b":{"c":2.5}}"#),
            (map([("$bytes", "00".into())]), r#"{"$map":{"$bytes":"00"}}"#),
            (map([("$float", "nan".into())]), r#"{"$map":{"$float":"nan"}}"#),
            (map([("$map", map([("$map", 1.into())]))]), r#"{"$map":{"$map":{"$map":{"$map":1}}}}"#),
            (map([("$bytes", 1.into()), ("a", 2.into())]), r#"{"$bytes":1,"a":2}"#),
        ] {
            assert_eq!(text(&value_of), json);
            let back = value(json).unwrap_or_else(|error| panic!("{json}: {error}"));
            assert_eq!(back, value_of, "{json}");
            assert_eq!(back.to_string(), value_of.to_string(), "0.0 is equal to -0.0, but not shown alike");
        }
    }

    #[test]
    fn numbers_are_kept_to_the_last_bit() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ bits >> 29;
            for number in [Value::F64(f64::from_bits(bits)), Value::I64(bits as i64), Value::U64(bits)] {
                let back = value(&text(&number)).unwrap();
                let is_same = match (&number, &back) {
                    (Value::F64(number), Value::F64(back)) if number.is_nan() => back.is_nan(),
                    (Value::F64(number), Value::F64(back)) => number.to_bits() == back.to_bits(),
                    (Value::U64(number), back) => back.as_u64() == Some(*number),
                    (number, back) => number == back,
                };
                assert!(is_same, "{number} came back as {back}");
            }
        }
    }

    #[test]
    fn small_numbers_are_signed_and_nan_is_itself() {
        assert_eq!(text(&Value::U64(5)), "5");
        assert_eq!(value("5").unwrap(), Value::I64(5));
        assert_eq!(value("1e2").unwrap(), Value::F64(100.0));
        assert_eq!(text(&Value::F64(f64::NAN)), r#"{"$float":"nan"}"#);
        assert!(value(r#"{"$float":"nan"}"#).unwrap().as_f64().unwrap().is_nan());
        assert_eq!(value(r#"{"$bytes":"aAfF"}"#).unwrap(), Value::Bytes(vec![0xaa, 0xff]));
    }

    #[test]
    fn fault_23_whole_numbers_beyond_64_bits_are_refused() {
        for (json, number) in [
            ("18446744073709551617", "18446744073709551617"),
            (" 18446744073709551616 ", "18446744073709551616"),
            ("-9223372036854775809", "-9223372036854775809"),
            (r#"[1, {"a\\\"-1": "b\\", "c": [1e3, 99999999999999999999]}]"#, "99999999999999999999"),
        ] {
            let limits = "outside the whole numbers of a call, -9223372036854775808 to 18446744073709551615";
            let error = value(json).unwrap_err();
            assert!(matches!(&error, JsonError::Beyond { number: beyond } if beyond == number), "{json}: {error}");
            assert!(error.to_string().starts_with(&format!("{number} is {limits}")), "{error}");
            assert!(args(&[json.to_owned()], &[]).is_err() && args(&[], &[format!("a={json}")]).is_err());
        }
        for (json, float) in [("18446744073709551617.0", 18446744073709551616.0), ("1e30", 1e30), ("-0", -0.0)] {
            assert_eq!(value(json).unwrap(), Value::F64(float));
        }
        for text in [r#""18446744073709551617""#, r#""\"99999999999999999999""#, r#"{"99999999999999999999": "\\"}"#] {
            assert!(value(text).is_ok(), "what is in a text is none: {text}");
        }
        assert_eq!(args(&["x99999999999999999999".to_owned()], &[]).unwrap(), args!["x99999999999999999999"]);
    }

    #[test]
    fn what_is_no_value_says_why() {
        for (json, why) in [
            (
                "hello",
                r#"`hello` is not JSON: expected value at line 1 column 1 (a text is written with its quotes: '"text"')"#,
            ),
            (
                r#"{"$bytes": "0"}"#,
                r#"the value in {"$bytes": ..} must be a text of hexadecimal digits, two for each byte"#,
            ),
            (
                r#"{"$bytes": "+1"}"#,
                r#"the value in {"$bytes": ..} must be a text of hexadecimal digits, two for each byte"#,
            ),
            (
                r#"[{"$bytes": [1]}]"#,
                r#"the value in {"$bytes": ..} must be a text of hexadecimal digits, two for each byte"#,
            ),
            (r#"{"$float": 1.0}"#, r#"the value in {"$float": ..} must be "nan", "inf" or "-inf""#),
            (r#"{"$map": 1}"#, r#"the value in {"$map": ..} must be an object"#),
        ] {
            assert_eq!(value(json).unwrap_err().to_string(), why);
        }
        for json in ["", "[1", "1 2", "1e999", "nul"] {
            assert!(matches!(value(json), Err(JsonError::Syntax { .. })), "{json}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(value(&nested(Value::MAX_DEPTH)).is_ok());
        assert!(matches!(value(&nested(Value::MAX_DEPTH + 1)), Err(JsonError::TooDeep)));
        assert!(matches!(value(&nested(1_000_000)), Err(JsonError::Syntax { .. })));
    }

    #[test]
    fn a_command_line_becomes_arguments() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let given = args(&texts(&["1", "2.5", r#""three""#]), &texts(&["a=4", r#"b="x=y""#])).unwrap();
        assert_eq!(given, args![1i64, 2.5, "three"; a = 4i64, b = "x=y"]);
        let given = args(&texts(&["three", "a b", "-1", "-x", "nul", ""]), &texts(&["b=x=y"])).unwrap();
        assert_eq!(given, args!["three", "a b", -1i64, "-x", "nul", ""; b = "x=y"], "what is no JSON is a text");
        let deep = "[".repeat(200) + &"]".repeat(200);
        for meant in ["1e999", "[1, 2", "{a: 1}", "\"open", "1 2", "-5m", "2026-11-22", &deep] {
            let error = args(&texts(&[meant]), &[]).unwrap_err();
            assert!(matches!(error, JsonError::Syntax { .. }), "{meant}: {error}");
            let keyword = format!("a={meant}");
            assert!(args(&[], &[keyword]).is_err(), "{meant}");
        }
        assert!(args(&texts(&[r#"{"$bytes": "0"}"#]), &[]).is_err());
        assert!(args(&[], &[]).unwrap().is_empty());
        for (keywords, why) in [
            (vec!["a"], "`a` is not a keyword with a value: NAME=JSON"),
            (vec!["=1"], "`=1` is not a keyword with a value: NAME=JSON"),
            (vec!["a=1", "a=2"], "the keyword `a` is given twice"),
        ] {
            assert_eq!(args(&[], &texts(&keywords)).unwrap_err().to_string(), why);
        }
    }
}
