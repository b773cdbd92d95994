//! JSON as `RocketMQ` peers write it, which is not always JSON.
//!
//! Reads, beside JSON: single-quoted texts, keys without quotes, numbers and objects as keys, numbers as
//! texts and the reverse. Reads straight into the values wanted, never into a tree, so memory stays in
//! proportion to what is kept. Writes what fastjson writes: no spaces, keys in the caller's order.

use std::borrow::Cow;

/// Deepest nesting that is read.
pub const DEPTH_MAX: u32 = 64;

/// Most list items and map entries of one text.
pub const ITEMS_MAX: u32 = 1 << 18;

/// Text that is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum JsonError {
    /// Something else stands there, or nothing.
    #[error("json has no {expected} at byte {at}")]
    Expected { expected: &'static str, at: usize },
    /// Nested too deeply.
    #[error("json nests deeper than {max} at byte {at}")]
    Depth { max: u32, at: usize },
    /// Too many list items and map entries.
    #[error("json has more than {max} items")]
    Items { max: u32 },
}

/// Reads one text from its start.
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    /// The same, if it is UTF-8: to check it once is faster than text by text.
    utf8: Option<&'a str>,
    at: usize,
    depth: u32,
    items: u32,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, utf8: str::from_utf8(bytes).ok(), at: 0, depth: 0, items: 0 }
    }

    /// A scanner of a text inside this one's; what it reads counts here.
    pub(crate) fn inner<'b>(&self, bytes: &'b [u8]) -> Scanner<'b> {
        Scanner { depth: self.depth, items: self.items, ..Scanner::new(bytes) }
    }

    pub(crate) fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Expected { expected, at: self.at }
    }

    /// The next byte that is no white space, not taken.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        if self.peek().is_none() { Ok(()) } else { Err(self.expected("end")) }
    }

    fn open(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if !self.take(byte) {
            return Err(self.expected(expected));
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(JsonError::Depth { max: DEPTH_MAX, at: self.at }) } else { Ok(()) }
    }

    fn item(&mut self) -> Result<(), JsonError> {
        self.items += 1;
        if self.items > ITEMS_MAX { Err(JsonError::Items { max: ITEMS_MAX }) } else { Ok(()) }
    }

    /// Whether another item stands before `close`; takes the comma, or `close`.
    fn another(&mut self, first: &mut bool, close: u8) -> Result<bool, JsonError> {
        if self.take(close) {
            self.depth -= 1;
            return Ok(false);
        }
        if !std::mem::take(first) && !self.take(b',') {
            return Err(self.expected("comma or closing bracket"));
        }
        self.item()?;
        Ok(true)
    }

    /// Reads an object; `entry` finds the scanner at a key, reads it and the value, see [`Self::key`].
    pub(crate) fn object<E: From<JsonError>>(
        &mut self,
        mut entry: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.open(b'{', "object")?;
        let mut first = true;
        while self.another(&mut first, b'}')? {
            entry(self)?;
        }
        Ok(())
    }

    /// Reads a list; `item` reads one value.
    pub(crate) fn list<E: From<JsonError>>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.open(b'[', "list")?;
        let mut first = true;
        while self.another(&mut first, b']')? {
            item(self)?;
        }
        Ok(())
    }

    /// A key and its colon: a text, or a name or number without quotes.
    pub(crate) fn key(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let key = match self.peek() {
            Some(b'"' | b'\'') => self.text()?,
            _ => {
                let len = self.bare("key")?.len();
                self.part(self.at - len, self.at)
            }
        };
        self.colon()?;
        Ok(key)
    }

    pub(crate) fn colon(&mut self) -> Result<(), JsonError> {
        if self.take(b':') { Ok(()) } else { Err(self.expected("colon")) }
    }

    /// Takes `null`, if it stands next.
    pub(crate) fn null(&mut self) -> Result<bool, JsonError> {
        Ok(self.peek() == Some(b'n') && self.scalar()?.is_none())
    }

    /// A scalar as text: of a number its digits, of `null` none.
    pub(crate) fn scalar(&mut self) -> Result<Option<Cow<'a, str>>, JsonError> {
        if let Some(b'"' | b'\'') = self.peek() {
            return self.text().map(Some);
        }
        let at = self.at;
        let word = self.bare("text, number, boolean or null")?;
        match word {
            b"null" => Ok(None),
            b"true" | b"false" | [b'-' | b'0'..=b'9', ..] => Ok(Some(self.part(at, self.at))),
            _ => Err(JsonError::Expected { expected: "text, number, boolean or null", at }),
        }
    }

    /// A scalar as [`Self::scalar`], or the source of an object or list.
    pub(crate) fn any(&mut self) -> Result<Option<Cow<'a, str>>, JsonError> {
        if !matches!(self.peek(), Some(b'{' | b'[')) {
            return self.scalar();
        }
        let start = self.at;
        self.skip()?;
        Ok(Some(self.part(start, self.at)))
    }

    /// Passes over one value, or over a key.
    pub(crate) fn skip(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'{') => self.object(|s| {
                s.skip()?;
                s.colon()?;
                s.skip()
            }),
            Some(b'[') => self.list(Self::skip),
            Some(quote @ (b'"' | b'\'')) => {
                self.at += 1;
                loop {
                    match self.bytes.get(self.at) {
                        None => return Err(self.expected("closing quote")),
                        Some(b'\\') => self.at += 2,
                        Some(&byte) => {
                            self.at += 1;
                            if byte == quote {
                                return Ok(());
                            }
                        }
                    }
                }
            }
            _ => self.bare("value").map(drop),
        }
    }

    /// The text of the bytes from `start` to before `end`.
    fn part(&self, start: usize, end: usize) -> Cow<'a, str> {
        match self.utf8.and_then(|text| text.get(start..end)) {
            Some(part) => Cow::Borrowed(part),
            None => lossy(self.bytes.get(start..end).unwrap_or(&[])),
        }
    }

    /// A run of the bytes of names and numbers, at least one.
    fn bare(&mut self, expected: &'static str) -> Result<&'a [u8], JsonError> {
        self.peek();
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let ends = |b: &u8| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'-' | b'+' | b'.'));
        let len = rest.iter().position(ends).unwrap_or(rest.len());
        let word = rest.get(..len).filter(|w| !w.is_empty()).ok_or_else(|| self.expected(expected))?;
        self.at += len;
        Ok(word)
    }

    /// A quoted text; borrowed unless it holds escapes. Bytes that are no UTF-8 become U+FFFD, as in Java.
    fn text(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let quote = self.bytes.get(self.at).copied().unwrap_or(b'"');
        self.at += 1;
        let mut unescaped = Vec::new();
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or(&[]);
            let Some((run, found)) = run_until(rest, quote) else {
                return Err(self.expected("closing quote"));
            };
            self.at += run.len() + 1;
            if found == quote {
                if unescaped.is_empty() {
                    return Ok(self.part(self.at - run.len() - 1, self.at - 1));
                }
                unescaped.extend_from_slice(run);
                let text = String::from_utf8(unescaped);
                return Ok(Cow::Owned(text.unwrap_or_else(|e| lossy(e.as_bytes()).into_owned())));
            }
            if unescaped.capacity() == 0 {
                // Most texts are no longer than to the next quote.
                unescaped.reserve(rest.iter().position(|&b| b == quote).unwrap_or(0));
            }
            unescaped.extend_from_slice(run);
            let escaped = self.escape()?;
            unescaped.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let byte = self.bytes.get(self.at).copied().ok_or_else(|| self.expected("escape"))?;
        self.at += 1;
        Ok(match byte {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            b'"' | b'\'' | b'\\' | b'/' => char::from(byte),
            _ => {
                self.at -= 1;
                return Err(self.expected("escape"));
            }
        })
    }

    /// Four hex digits, and of a pair of surrogates the other half; a single half becomes U+FFFD.
    fn unicode(&mut self) -> Result<char, JsonError> {
        let unit = self.hex()?;
        if !(0xD800..0xDC00).contains(&unit) {
            return Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let after = self.at;
        if self.bytes.get(after..).is_some_and(|rest| rest.starts_with(b"\\u")) {
            self.at += 2;
            let low = self.hex()?;
            if (0xDC00..0xE000).contains(&low) {
                let joined = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = after;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self) -> Result<u32, JsonError> {
        let digits: &[u8; 4] = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk())
            .ok_or_else(|| self.expected("hex digit"))?;
        let mut unit = 0;
        for &digit in digits {
            unit = unit * 16 + char::from(digit).to_digit(16).ok_or_else(|| self.expected("hex digit"))?;
        }
        self.at += 4;
        Ok(unit)
    }
}

/// What stands before the quote or a backslash, and which of them it is.
fn run_until(rest: &[u8], quote: u8) -> Option<(&[u8], u8)> {
    // Most are short, and a loop is faster then.
    let near = rest.iter().take(16).position(|&b| b == quote || b == b'\\');
    let far = || memchr::memchr2(quote, b'\\', rest.get(16..)?).map(|len| 16 + len);
    let len = near.or_else(far)?;
    Some((rest.get(..len)?, *rest.get(len)?))
}

/// The text of bytes; those that are no UTF-8 become U+FFFD. Faster than the standard one where all are.
pub(crate) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Appends a text in double quotes, escaped as fastjson does.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(len) = rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\') {
        let (run, after) = rest.split_at(len);
        out.extend_from_slice(run);
        let Some((&byte, after)) = after.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            8 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            12 => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(b'0' + (byte >> 4));
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
