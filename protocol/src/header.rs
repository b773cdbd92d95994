//! The header of a request or response, in both encodings of remoting 4.x and 5.x.
//!
//! JSON: an object of `code`, `extFields` (name to text), `flag`, `language`, `opaque`, `remark` and `version`;
//! read leniently (see [`crate::json`]), written with keys in order and every field a text, as C++ clients
//! need it. Binary ("ROCKETMQ"), big-endian:
//!
//! | field      | bytes | meaning                                                       |
//! |------------|------:|---------------------------------------------------------------|
//! | `code`     |     2 | signed, so codes above 32,767 can not be written              |
//! | `language` |     1 | [`Language`]                                                  |
//! | `version`  |     2 | see [`crate::version`]                                        |
//! | `opaque`   |     4 | matches a response with its request                           |
//! | `flag`     |     4 | [`RESPONSE`], [`ONE_WAY`]                                     |
//! | `remark`   | 4 + n | length, text                                                  |
//! | fields     | 4 + n | length; of each the name's length (2), name, length (4), text |
//!
//! A field that is `null`, or in binary empty, counts as none. Never knows which fields a code needs.

use std::borrow::Cow;

use crate::code::{RequestCode, ResponseCode};
use crate::fields::{FIELDS_MAX, Fields};
use crate::json::{JsonError, Scanner, lossy, write_text};
use crate::version;

/// Flag bit: this is a response.
pub const RESPONSE: i32 = 1;
/// Flag bit: no response is wanted.
pub const ONE_WAY: i32 = 2;

/// A header that can not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum HeaderError {
    /// Not the JSON of a header.
    #[error("header is not readable")]
    Json(#[from] JsonError),
    /// A member that should be a number.
    #[error("header has {value:?} as its {field}")]
    Number { field: &'static str, value: String },
    /// A binary header whose lengths contradict each other.
    #[error("binary header of {len} bytes is cut in its {field}")]
    Cut { field: &'static str, len: usize },
    /// More than [`FIELDS_MAX`].
    #[error("header has more than {max} fields")]
    Fields { max: usize },
    /// Something that the binary encoding has too few bytes for.
    #[error("{field} of {value} does not fit into a binary header")]
    TooLarge { field: &'static str, value: i64 },
}

/// The two encodings; each frame says which one it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HeaderKind {
    /// What every client can read.
    #[default]
    Json,
    /// The binary one, named ROCKETMQ in Java.
    Binary,
}

/// Makes the enum and its names.
macro_rules! languages {
    ($($ordinal:literal $variant:ident $name:literal,)*) => {
        /// What the peer is written in.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "they are names")]
        pub enum Language {
            $($variant,)*
            /// A name or number that we do not know.
            #[default]
            Unknown,
        }

        impl Language {
            /// The language of a binary header's number.
            pub const fn from_ordinal(ordinal: u8) -> Self {
                match ordinal {
                    $($ordinal => Self::$variant,)*
                    _ => Self::Unknown,
                }
            }

            /// Its number in a binary header; one we do not know is written as "other".
            pub const fn ordinal(self) -> u8 {
                match self {
                    $(Self::$variant => $ordinal,)*
                    Self::Unknown => 7,
                }
            }

            /// The language of a name, or of a number in text.
            pub fn from_name(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    _ => name.parse().map_or(Self::Unknown, Self::from_ordinal),
                }
            }

            /// Its name in a JSON header, if we know it.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$variant => Some($name),)*
                    Self::Unknown => None,
                }
            }
        }
    };
}

languages! {
    0 Java "JAVA",
    1 Cpp "CPP",
    2 Dotnet "DOTNET",
    3 Python "PYTHON",
    4 Delphi "DELPHI",
    5 Erlang "ERLANG",
    6 Ruby "RUBY",
    7 Other "OTHER",
    8 Http "HTTP",
    9 Go "GO",
    10 Php "PHP",
    11 Oms "OMS",
    12 Rust "RUST",
    13 NodeJs "NODE_JS",
}

/// What stands before a frame's body; borrows its texts from the frame where it can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header<'a> {
    /// A [`RequestCode`] or [`ResponseCode`].
    pub code: i32,
    /// What the sender is written in.
    pub language: Language,
    /// The sender's version, see [`crate::version`].
    pub version: i32,
    /// Number that the requester chose and the response repeats; each side counts its own.
    pub opaque: i32,
    /// Bits [`RESPONSE`] and [`ONE_WAY`].
    pub flag: i32,
    /// Text for people, or the status of a pull.
    pub remark: Option<Cow<'a, str>>,
    /// The fields of the code.
    pub fields: Fields<'a>,
}

impl<'a> Header<'a> {
    /// A request of ours.
    pub fn request(code: RequestCode, opaque: i32, fields: Fields<'a>) -> Self {
        let code = code.0;
        Self { code, language: Language::Java, version: version::CURRENT, opaque, fields, ..Self::default() }
    }

    /// A response of ours to the request with that `opaque`.
    pub fn response(code: ResponseCode, opaque: i32, fields: Fields<'a>) -> Self {
        Self { flag: RESPONSE, ..Self::request(RequestCode(code.0), opaque, fields) }
    }

    /// The header with that remark.
    #[must_use]
    pub fn with_remark(mut self, remark: impl Into<Cow<'a, str>>) -> Self {
        self.remark = Some(remark.into());
        self
    }

    /// The code, if this is a request.
    pub const fn request_code(&self) -> RequestCode {
        RequestCode(self.code)
    }

    /// The code, if this is a response.
    pub const fn response_code(&self) -> ResponseCode {
        ResponseCode(self.code)
    }

    /// Whether this answers a request of ours.
    pub const fn is_response(&self) -> bool {
        self.flag & RESPONSE != 0
    }

    /// Whether the sender wants no response, whatever happens.
    pub const fn is_one_way(&self) -> bool {
        self.flag & ONE_WAY != 0
    }

    /// Reads the header of a frame.
    pub fn decode(kind: HeaderKind, bytes: &'a [u8]) -> Result<Self, HeaderError> {
        match kind {
            HeaderKind::Json => Self::decode_json(bytes),
            HeaderKind::Binary => Self::decode_binary(bytes),
        }
    }

    /// Appends the header; on an error `out` is as it was.
    pub fn encode(&self, kind: HeaderKind, out: &mut Vec<u8>) -> Result<(), HeaderError> {
        match kind {
            HeaderKind::Json => self.encode_json(out),
            HeaderKind::Binary => {
                let start = out.len();
                return self.encode_binary(out).inspect_err(|_| out.truncate(start));
            }
        }
        Ok(())
    }

    fn decode_json(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let mut header = Self::default();
        let mut scanner = Scanner::new(bytes);
        scanner.object(|s| {
            let key = s.key()?;
            match key.as_ref() {
                "code" => header.code = number(s, "code")?,
                "version" => header.version = number(s, "version")?,
                "opaque" => header.opaque = number(s, "opaque")?,
                "flag" => header.flag = number(s, "flag")?,
                "language" => {
                    header.language =
                        s.scalar()?.map_or(Language::Unknown, |name| Language::from_name(&name));
                }
                "remark" => header.remark = s.scalar()?,
                "extFields" if s.peek() == Some(b'{') => {
                    let fields = &mut header.fields;
                    s.object(|s| {
                        let name = s.key()?;
                        s.any()?.map_or(Ok(()), |value| add(fields, name, value))
                    })?;
                }
                "extFields" => match s.scalar()? {
                    None => {}
                    Some(_) => return Err(s.expected("object of fields").into()),
                },
                _ => s.skip()?,
            }
            Ok::<(), HeaderError>(())
        })?;
        scanner.end()?;
        Ok(header)
    }

    fn encode_json(&self, out: &mut Vec<u8>) {
        let mut digits = Digits::default();
        out.extend_from_slice(b"{\"code\":");
        out.extend_from_slice(digits.of(self.code));
        let mut separator: &[u8] = b",\"extFields\":{";
        for (name, value) in self.fields.iter() {
            out.extend_from_slice(separator);
            write_text(out, name);
            out.push(b':');
            write_text(out, value);
            separator = b",";
        }
        out.extend_from_slice(if self.fields.is_empty() { b",\"flag\":" } else { b"},\"flag\":" });
        out.extend_from_slice(digits.of(self.flag));
        if let Some(name) = self.language.name() {
            out.extend_from_slice(b",\"language\":");
            write_text(out, name);
        }
        out.extend_from_slice(b",\"opaque\":");
        out.extend_from_slice(digits.of(self.opaque));
        if let Some(remark) = &self.remark {
            out.extend_from_slice(b",\"remark\":");
            write_text(out, remark);
        }
        out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
        out.extend_from_slice(digits.of(self.version));
        out.push(b'}');
    }

    fn decode_binary(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let mut cut = Cut { bytes, len: bytes.len() };
        let code = i16::from_be_bytes(cut.array("code")?);
        let [language] = cut.array("language")?;
        let version = i16::from_be_bytes(cut.array("version")?);
        let opaque = i32::from_be_bytes(cut.array("opaque")?);
        let flag = i32::from_be_bytes(cut.array("flag")?);
        let remark = match cut.block("remark")? {
            [] => None,
            text => Some(lossy(text)),
        };
        let mut fields = Fields::new();
        let mut pairs = Cut { bytes: cut.block("fields")?, len: bytes.len() };
        while !pairs.bytes.is_empty() {
            let len = u16::from_be_bytes(pairs.array("field name")?);
            let name = pairs.take(usize::from(len), "field name")?;
            let value = pairs.block("field")?;
            if !value.is_empty() {
                add(&mut fields, lossy(name), lossy(value))?;
            }
        }
        let language = Language::from_ordinal(language);
        Ok(Self { code: code.into(), language, version: version.into(), opaque, flag, remark, fields })
    }

    fn encode_binary(&self, out: &mut Vec<u8>) -> Result<(), HeaderError> {
        out.extend_from_slice(&fit::<i16>("code", i64::from(self.code))?.to_be_bytes());
        out.push(self.language.ordinal());
        out.extend_from_slice(&fit::<i16>("version", i64::from(self.version))?.to_be_bytes());
        out.extend_from_slice(&self.opaque.to_be_bytes());
        out.extend_from_slice(&self.flag.to_be_bytes());
        let remark = self.remark.as_deref().unwrap_or("");
        out.extend_from_slice(&fit_len::<i32>("remark length", remark.len())?.to_be_bytes());
        out.extend_from_slice(remark.as_bytes());
        let len: usize = self.fields.iter().map(|(name, value)| 6 + name.len() + value.len()).sum();
        out.extend_from_slice(&fit_len::<i32>("fields length", len)?.to_be_bytes());
        for (name, value) in self.fields.iter() {
            out.extend_from_slice(&fit_len::<i16>("field name length", name.len())?.to_be_bytes());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&fit_len::<i32>("field length", value.len())?.to_be_bytes());
            out.extend_from_slice(value.as_bytes());
        }
        Ok(())
    }
}

#[inline]
fn add<'a>(fields: &mut Fields<'a>, name: Cow<'a, str>, value: Cow<'a, str>) -> Result<(), HeaderError> {
    if fields.len() == FIELDS_MAX {
        return Err(HeaderError::Fields { max: FIELDS_MAX });
    }
    fields.push(name, value);
    Ok(())
}

/// A number or the text of one; `null` is 0, as a member that is missing.
fn number(scanner: &mut Scanner<'_>, field: &'static str) -> Result<i32, HeaderError> {
    let Some(text) = scanner.scalar()? else { return Ok(0) };
    text.parse().map_err(|_| HeaderError::Number { field, value: text.chars().take(100).collect() })
}

fn fit<T: TryFrom<i64>>(field: &'static str, value: i64) -> Result<T, HeaderError> {
    T::try_from(value).map_err(|_| HeaderError::TooLarge { field, value })
}

fn fit_len<T: TryFrom<i64>>(field: &'static str, len: usize) -> Result<T, HeaderError> {
    fit(field, i64::try_from(len).unwrap_or(i64::MAX))
}

/// What is left of a binary header.
struct Cut<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Cut<'a> {
    fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], HeaderError> {
        let (taken, rest) =
            self.bytes.split_at_checked(len).ok_or(HeaderError::Cut { field, len: self.len })?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], HeaderError> {
        let len = self.len;
        self.take(N, field)?.try_into().map_err(|_| HeaderError::Cut { field, len })
    }

    /// Bytes after their length.
    fn block(&mut self, field: &'static str) -> Result<&'a [u8], HeaderError> {
        let len = u32::from_be_bytes(self.array(field)?);
        self.take(len as usize, field)
    }
}

/// Decimal digits without an allocation.
#[derive(Default)]
struct Digits([u8; 11]);

impl Digits {
    fn of(&mut self, number: i32) -> &[u8] {
        let mut rest = number.unsigned_abs();
        let mut at = self.0.len();
        for (i, digit) in self.0.iter_mut().enumerate().rev() {
            let value = b'0' + (rest % 10) as u8;
            (*digit, at, rest) = (value, i, rest / 10);
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            at = at.saturating_sub(1);
            if let Some(sign) = self.0.get_mut(at) {
                *sign = b'-';
            }
        }
        self.0.get(at..).unwrap_or(&[])
    }
}
