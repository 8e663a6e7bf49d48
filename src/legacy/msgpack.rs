//! MessagePack as the bridge's log has it, into JSON values.
//!
//! Strings are UTF-8; bytes become hexadecimal digits; numbers that JSON has no word for (NaN, infinities)
//! become null. Extension types, keys that are neither strings nor bytes, and anything behind the value are
//! refused, as is what is deeper than [`DEPTH_MAX`].

use serde_json::{Map, Number, Value};

/// How deep values may lie in each other. The bridge stored at most 10 levels.
const DEPTH_MAX: u32 = 100;

/// Decodes the one value that `bytes` are; `Err` says what is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, &'static str> {
    let mut input = Input(bytes);
    let value = input.value(0)?;
    if input.0.is_empty() { Ok(value) } else { Err("bytes follow the value") }
}

struct Input<'a>(&'a [u8]);

const SHORT: &str = "the value is cut short";

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (front, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*front)
    }

    /// A length of `bytes` bytes.
    fn len(&mut self, bytes: usize) -> Result<usize, &'static str> {
        let mut len = 0;
        for &byte in self.take(bytes)? {
            len = len << 8 | usize::from(byte);
        }
        Ok(len)
    }

    fn text(&mut self, len: usize) -> Result<String, &'static str> {
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| "a string is not UTF-8")
    }

    fn value(&mut self, depth: u32) -> Result<Value, &'static str> {
        if depth > DEPTH_MAX {
            return Err("values lie too deep in each other");
        }
        let [first] = self.array()?;
        Ok(match first {
            0x00..=0x7f => first.into(),
            0xe0..=0xff => i64::from(first.cast_signed()).into(),
            0x80..=0x8f => self.map(usize::from(first & 0x0f), depth)?,
            0xde => self.counted(2, depth, Self::map)?,
            0xdf => self.counted(4, depth, Self::map)?,
            0x90..=0x9f => self.list(usize::from(first & 0x0f), depth)?,
            0xdc => self.counted(2, depth, Self::list)?,
            0xdd => self.counted(4, depth, Self::list)?,
            0xa0..=0xbf => self.text(usize::from(first & 0x1f))?.into(),
            0xd9..=0xdb => {
                let len = self.len(1 << (first - 0xd9))?;
                self.text(len)?.into()
            }
            0xc4..=0xc6 => {
                let len = self.len(1 << (first - 0xc4))?;
                hex(self.take(len)?).into()
            }
            0xc0 => Value::Null,
            0xc2 => false.into(),
            0xc3 => true.into(),
            0xca => number(f32::from_be_bytes(self.array()?).into()),
            0xcb => number(f64::from_be_bytes(self.array()?)),
            0xcc => u8::from_be_bytes(self.array()?).into(),
            0xcd => u16::from_be_bytes(self.array()?).into(),
            0xce => u32::from_be_bytes(self.array()?).into(),
            0xcf => u64::from_be_bytes(self.array()?).into(),
            0xd0 => i8::from_be_bytes(self.array()?).into(),
            0xd1 => i16::from_be_bytes(self.array()?).into(),
            0xd2 => i32::from_be_bytes(self.array()?).into(),
            0xd3 => i64::from_be_bytes(self.array()?).into(),
            0xc7..=0xc9 | 0xd4..=0xd8 => return Err("it has a value of an extension type"),
            0xc1 => return Err("it is not MessagePack"),
        })
    }

    fn counted(
        &mut self,
        bytes: usize,
        depth: u32,
        then: impl FnOnce(&mut Self, usize, u32) -> Result<Value, &'static str>,
    ) -> Result<Value, &'static str> {
        let len = self.len(bytes)?;
        then(self, len, depth)
    }

    /// Not reserved by the count, which may be anything; the bytes bound the loop.
    fn list(&mut self, len: usize, depth: u32) -> Result<Value, &'static str> {
        let mut list = Vec::new();
        for _ in 0..len {
            list.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(list))
    }

    fn map(&mut self, len: usize, depth: u32) -> Result<Value, &'static str> {
        let mut map = Map::new();
        for _ in 0..len {
            let key = match self.0.first() {
                Some(0xa0..=0xbf | 0xd9..=0xdb | 0xc4..=0xc6) => self.value(depth + 1)?,
                Some(_) => return Err("a key is no string"),
                None => return Err(SHORT),
            };
            let Value::String(key) = key else { return Err("a key is no string") };
            map.insert(key, self.value(depth + 1)?);
        }
        Ok(Value::Object(map))
    }
}

fn number(float: f64) -> Value {
    Number::from_f64(float).map_or(Value::Null, Value::Number)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_of_a_value_is_read() {
        let cases: [(&[u8], Value); 16] = [
            (b"\x07", json!(7)),
            (b"\xff", json!(-1)),
            (b"\xcc\xff", json!(255)),
            (b"\xcd\x01\x00", json!(256)),
            (b"\xce\x00\x01\x00\x00", json!(65536)),
            (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", json!(u64::MAX)),
            (b"\xd0\x80", json!(-128)),
            (b"\xd1\x80\x00", json!(-32768)),
            (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", json!(i64::MIN)),
            (b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", json!(1.5)),
            (b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", json!(null)),
            (b"\xa2hi", json!("hi")),
            (b"\xd9\x02hi", json!("hi")),
            (b"\xc4\x02\x00\xff", json!("00ff")),
            (b"\x92\xc0\xc3", json!([null, true])),
            (b"\x81\xa1k\x90", json!({"k": []})),
        ];
        for (bytes, value) in cases {
            assert_eq!(decode(bytes), Ok(value), "{bytes:?}");
            for len in 0..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "{bytes:?} cut to {len}");
            }
        }
    }

    #[test]
    fn what_the_bridge_never_wrote_is_refused() {
        let bad: [&[u8]; 6] = [
            b"\xc1",
            b"\x01\x01",
            b"\xd4\x01\x00",
            b"\x81\x01\x01",
            b"\xa1\xff",
            b"\xdd\xff\xff\xff\xff",
        ];
        for bytes in bad {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(decode(&[0x91; 1000]).is_err(), "as deep as it is long");
    }
}
