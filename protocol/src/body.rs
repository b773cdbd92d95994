//! The JSON bodies of requests and responses: how they are read and written, and the smallest of them.
//!
//! As of `RocketMQ` 5.3.3: keys in alphabetical order, no spaces, what is none left out. A missing key or
//! `null` is the type's default, as in Java, and unknown keys are passed over: whether a name is one is for
//! the broker to say. See [`crate::json`] for what is read beside JSON, and for the limits.

use std::collections::BTreeMap;

use crate::json::{JsonError, Scanner, write_text};

/// Bytes that are written, and how.
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
    /// Whether numbers as keys stand in quotes. Java leaves them out but for new clients' routes.
    pub(crate) quoted_numbers: bool,
}

/// A value of a body.
pub(crate) trait Json: Sized {
    /// The value that stands next, or nothing for `null`, which leaves the default.
    fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError>;

    fn write(&self, writer: &mut Writer);

    /// Whether its key is left out.
    fn is_none(&self) -> bool {
        false
    }
}

/// A key of a map.
pub(crate) trait Key: Sized + Ord {
    /// Reads the key and its colon.
    fn read(scanner: &mut Scanner<'_>) -> Result<Self, JsonError>;

    fn write(&self, writer: &mut Writer);
}

pub(crate) fn decode<T: Json + Default>(bytes: &[u8]) -> Result<T, JsonError> {
    let mut scanner = Scanner::new(bytes);
    let value = T::read(&mut scanner)?.unwrap_or_default();
    scanner.end()?;
    Ok(value)
}

pub(crate) fn encode<T: Json>(value: &T, quoted_numbers: bool) -> Vec<u8> {
    let mut writer = Writer { out: Vec::new(), quoted_numbers };
    value.write(&mut writer);
    writer.out
}

impl Json for String {
    fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError> {
        Ok(scanner.scalar()?.map(Self::from))
    }

    fn write(&self, writer: &mut Writer) {
        write_text(&mut writer.out, self);
    }
}

macro_rules! scalars {
    ($($ty:ty, $expected:literal;)*) => {$(
        impl Json for $ty {
            fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError> {
                scanner.scalar()?.map(|text| text.parse().map_err(|_| scanner.expected($expected))).transpose()
            }

            fn write(&self, writer: &mut Writer) {
                writer.out.extend_from_slice(self.to_string().as_bytes());
            }
        }
    )*};
}
scalars! {
    bool, "boolean";
    i32, "number of 32 bits";
    i64, "number of 64 bits";
}

impl Json for f64 {
    fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError> {
        let Some(text) = scanner.scalar()? else { return Ok(None) };
        text.parse().ok().filter(|n: &Self| n.is_finite()).map(Some).ok_or(scanner.expected("number"))
    }

    fn write(&self, writer: &mut Writer) {
        // JSON has no other numbers; a rate over no time is none.
        let number = if self.is_finite() { *self } else { 0.0 };
        writer.out.extend_from_slice(format!("{number:?}").as_bytes());
    }
}

impl<T: Json> Json for Option<T> {
    fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError> {
        Ok(T::read(scanner)?.map(Some))
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Some(value) => value.write(writer),
            None => writer.out.extend_from_slice(b"null"),
        }
    }

    fn is_none(&self) -> bool {
        self.is_none()
    }
}

impl<T: Json> Json for Vec<T> {
    fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError> {
        if scanner.null()? {
            return Ok(None);
        }
        let mut list = Self::new();
        scanner.list(|scanner| {
            list.extend(T::read(scanner)?);
            Ok::<(), JsonError>(())
        })?;
        Ok(Some(list))
    }

    fn write(&self, writer: &mut Writer) {
        writer.out.push(b'[');
        for (i, item) in self.iter().enumerate() {
            if i > 0 {
                writer.out.push(b',');
            }
            item.write(writer);
        }
        writer.out.push(b']');
    }
}

impl<K: Key, V: Json> Json for BTreeMap<K, V> {
    fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError> {
        if scanner.null()? {
            return Ok(None);
        }
        let mut map = Self::new();
        scanner.object(|scanner| {
            let key = K::read(scanner)?;
            if let Some(value) = V::read(scanner)? {
                map.insert(key, value);
            }
            Ok::<(), JsonError>(())
        })?;
        Ok(Some(map))
    }

    fn write(&self, writer: &mut Writer) {
        writer.out.push(b'{');
        for (i, (key, value)) in self.iter().enumerate() {
            if i > 0 {
                writer.out.push(b',');
            }
            key.write(writer);
            writer.out.push(b':');
            value.write(writer);
        }
        writer.out.push(b'}');
    }
}

impl Key for String {
    fn read(scanner: &mut Scanner<'_>) -> Result<Self, JsonError> {
        scanner.key().map(Self::from)
    }

    fn write(&self, writer: &mut Writer) {
        write_text(&mut writer.out, self);
    }
}

macro_rules! number_keys {
    ($($ty:ty)*) => {$(
        impl Key for $ty {
            fn read(scanner: &mut Scanner<'_>) -> Result<Self, JsonError> {
                scanner.key()?.parse().map_err(|_| scanner.expected("number as key"))
            }

            fn write(&self, writer: &mut Writer) {
                let text = if writer.quoted_numbers { format!("\"{self}\"") } else { self.to_string() };
                writer.out.extend_from_slice(text.as_bytes());
            }
        }
    )*};
}
number_keys!(i32 i64);

/// What we neither keep nor make: passed over when read, written as an empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread;

impl Json for Unread {
    fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError> {
        scanner.skip()?;
        Ok(Some(Self))
    }

    fn write(&self, writer: &mut Writer) {
        writer.out.extend_from_slice(b"{}");
    }
}

/// The default of a field: what is given, else that of its type.
macro_rules! default_of {
    () => {
        Default::default()
    };
    ($value:expr) => {
        $value.into()
    };
}
pub(crate) use default_of;

/// Makes the struct of each body. Keys stand in alphabetical order, as they are written; a second key is read
/// too; the value after `or` is the default.
macro_rules! bodies {
    ($(
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$note:meta])* $field:ident: $ty:ty = $key:literal $(| $alias:literal)? $(or $default:expr)?;)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $(
                #[doc = concat!("Key `", $key, "`", $(" or `", $alias, "`",)? ".")]
                $(#[$note])*
                pub $field: $ty,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::body::default_of!($($default)?),)* }
            }
        }

        impl $name {
            /// Reads a body; an empty one is an error.
            pub fn decode(body: &[u8]) -> Result<Self, $crate::json::JsonError> {
                $crate::body::decode(body)
            }

            /// The body as Java writes it.
            pub fn encode(&self) -> Vec<u8> {
                $crate::body::encode(self, false)
            }
        }

        impl $crate::body::Json for $name {
            fn read(scanner: &mut $crate::json::Scanner<'_>) -> Result<Option<Self>, $crate::json::JsonError> {
                if scanner.null()? {
                    return Ok(None);
                }
                let mut read = Self::default();
                scanner.object(|scanner| {
                    match scanner.key()?.as_ref() {
                        $($key $(| $alias)? => {
                            if let Some(value) = $crate::body::Json::read(scanner)? {
                                read.$field = value;
                            }
                        })*
                        _ => scanner.skip()?,
                    }
                    Ok::<(), $crate::json::JsonError>(())
                })?;
                Ok(Some(read))
            }

            fn write(&self, writer: &mut $crate::body::Writer) {
                let mut separator = b'{';
                $(
                    if !$crate::body::Json::is_none(&self.$field) {
                        writer.out.push(separator);
                        writer.out.extend_from_slice(concat!("\"", $key, "\":").as_bytes());
                        $crate::body::Json::write(&self.$field, writer);
                        separator = b',';
                    }
                )*
                if separator == b'{' {
                    writer.out.push(separator);
                }
                writer.out.push(b'}');
            }
        }
    )*};
}
pub(crate) use bodies;

/// Makes enums that are written as names, and read as names in any case or as their numbers. What is none of
/// them is read as nothing.
macro_rules! names {
    ($(
        $(#[$meta:meta])*
        $name:ident { $($(#[$note:meta])* $variant:ident = $ordinal:literal $text:literal,)* }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$note])* $variant,)* }

        impl $name {
            /// Its name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The one with that name, in any case, or with that number.
            pub fn from_name(name: &str) -> Option<Self> {
                $(
                    if name.eq_ignore_ascii_case($text) || name == stringify!($ordinal) {
                        return Some(Self::$variant);
                    }
                )*
                None
            }
        }

        impl $crate::body::Json for $name {
            fn read(scanner: &mut $crate::json::Scanner<'_>) -> Result<Option<Self>, $crate::json::JsonError> {
                Ok(scanner.scalar()?.and_then(|name| Self::from_name(&name)))
            }

            fn write(&self, writer: &mut $crate::body::Writer) {
                $crate::json::write_text(&mut writer.out, self.name());
            }
        }
    )*};
}
pub(crate) use names;

bodies! {
    /// The clients of a group: the response to code 38.
    ConsumerList {
        consumer_id_list: Vec<String> = "consumerIdList";
    }

    /// Topics: the response to codes 206, 224, 304, 305, 343.
    TopicList {
        /// Only with codes 304 and 305.
        broker_addr: Option<String> = "brokerAddr";
        topic_list: Vec<String> = "topicList";
    }

    /// Groups: the response to code 300.
    GroupList {
        group_list: Vec<String> = "groupList";
    }

    /// Names and texts: the response to codes 28, 103, 219.
    KvTable {
        table: BTreeMap<String, String> = "table";
    }

    /// How often a table changed; a greater one is newer.
    DataVersion {
        counter: i64 = "counter";
        /// Missing in 4.x.
        state_version: i64 = "stateVersion";
        /// In ms since 1970-01-01 UTC.
        timestamp: i64 = "timestamp";
    }
}
