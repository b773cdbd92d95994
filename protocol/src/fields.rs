//! The fields of a header, and how the typed headers of [`crate::request`] and [`crate::response`] read them.
//!
//! On the wire every value is text: numbers in decimal, booleans as `true` and `false`.

use std::borrow::Cow;

/// Most fields of one header that are read; the largest header of a client has about 20.
pub const FIELDS_MAX: usize = 1024;

/// A field that a request or response needs, or can not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum FieldError {
    /// It is not there.
    #[error("header field {name} is missing")]
    Missing { name: &'static str },
    /// It is not what it should be.
    #[error("header field {name} is {value:?} and not {expected}")]
    Bad { name: &'static str, value: String, expected: &'static str },
}

/// Names and texts of a header, in their order. Looked up by walking: a header has few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// None.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a field at the end.
    #[inline]
    pub fn push(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        if self.0.is_empty() {
            self.0.reserve(16);
        }
        self.0.push((name.into(), value.into()));
    }

    /// The text of a name: that of its last field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_ref())
    }

    /// Names and texts in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A type that a field can have.
pub(crate) trait Field<'a>: Sized {
    /// The value of the text; without text, an error unless the type is optional.
    fn read(name: &'static str, text: Option<&'a str>) -> Result<Self, FieldError>;

    /// The text of the value, if there is one.
    fn text(&self) -> Option<Cow<'_, str>>;
}

impl<'a> Field<'a> for &'a str {
    fn read(name: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
        text.ok_or(FieldError::Missing { name })
    }

    fn text(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self))
    }
}

impl<'a> Field<'a> for bool {
    fn read(name: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
        // As in Java: what is not "true" is false.
        text.map(|t| t.eq_ignore_ascii_case("true")).ok_or(FieldError::Missing { name })
    }

    fn text(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(if *self { "true" } else { "false" }))
    }
}

macro_rules! numbers {
    ($($ty:ty, $expected:literal;)*) => {$(
        impl<'a> Field<'a> for $ty {
            fn read(name: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
                let text = text.ok_or(FieldError::Missing { name })?;
                text.parse().map_err(|_| {
                    FieldError::Bad { name, value: text.chars().take(100).collect(), expected: $expected }
                })
            }

            fn text(&self) -> Option<Cow<'_, str>> {
                Some(Cow::Owned(self.to_string()))
            }
        }
    )*};
}
numbers! {
    i32, "a number of 32 bits";
    i64, "a number of 64 bits";
    u32, "a number of 32 bits without sign";
}

impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    fn read(name: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
        text.map(|text| T::read(name, Some(text))).transpose()
    }

    fn text(&self) -> Option<Cow<'_, str>> {
        self.as_ref().and_then(T::text)
    }
}

/// Makes typed headers: a struct each, read in one walk over the fields and written in the order given here.
/// A field with two names is read under both and written under the first.
macro_rules! headers {
    ($(
        $(#[$meta:meta])*
        $name:ident $(<$life:lifetime>)? {
            $($(#[$note:meta])* $field:ident: $ty:ty = $key:literal $(| $alias:literal)?;)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name $(<$life>)? {
            $(
                #[doc = concat!("Field `", $key, "`", $(" or `", $alias, "`",)? ".")]
                $(#[$note])*
                pub $field: $ty,
            )*
        }

        impl $(<$life>)? $name $(<$life>)? {
            /// Reads the fields of a header; those of other names are left.
            pub fn parse(
                fields: & $($life)? crate::fields::Fields<'_>,
            ) -> Result<Self, crate::fields::FieldError> {
                $(let mut $field = None;)*
                for (name, value) in fields.iter() {
                    match name {
                        $($key $(| $alias)? => $field = Some(value),)*
                        _ => {}
                    }
                }
                Ok(Self {
                    $($field: crate::fields::Field::read(concat!($key $(, "/", $alias)?), $field)?,)*
                })
            }

            /// The fields as they are written; those that are none are left out.
            pub fn fields(&self) -> crate::fields::Fields<'_> {
                let mut fields = crate::fields::Fields::new();
                $(
                    if let Some(text) = crate::fields::Field::text(&self.$field) {
                        fields.push($key, text);
                    }
                )*
                fields
            }
        }
    )*};
}
pub(crate) use headers;
