//! Names and positions, each a type of its own, checked once where it is made.
//!
//! Never says whether the thing named exists.

use std::fmt;
use std::sync::Arc;

/// Longest topic name that we make, in bytes; some clients cannot read longer ones.
pub const TOPIC_BYTES_MAX: usize = 127;

/// Longest topic name that is read from a store, in bytes; a name is a folder there.
pub const STORED_TOPIC_BYTES_MAX: usize = 255;

/// Longest group name, in bytes.
pub const GROUP_BYTES_MAX: usize = 255;

/// A name or number that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum IdError {
    /// A topic's name.
    #[error("topic name {name:?} is not 1 to {max} letters, digits or any of _ - % |")]
    Topic { name: String, max: usize },
    /// A group's name.
    #[error("group name {name:?} is not 1 to {max} letters, digits or any of _ - % |")]
    Group { name: String, max: usize },
    /// A queue's number.
    #[error("queue id {id} is negative")]
    Queue { id: i32 },
}

/// Name of a topic; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// A name of 1 to [`TOPIC_BYTES_MAX`] bytes of `[A-Za-z0-9_%|-]`.
    pub fn new(name: &str) -> Result<Self, IdError> {
        if is_name(name, TOPIC_BYTES_MAX) {
            Ok(Self(name.into()))
        } else {
            Err(IdError::Topic { name: shortened(name), max: TOPIC_BYTES_MAX })
        }
    }

    /// A name as another broker may have stored it: 1 to [`STORED_TOPIC_BYTES_MAX`] bytes that can name a
    /// folder.
    pub fn stored(name: &str) -> Result<Self, IdError> {
        let odd = |c: char| c == '/' || c == '\\' || c.is_control();
        if name.is_empty()
            || name.len() > STORED_TOPIC_BYTES_MAX
            || matches!(name, "." | "..")
            || name.contains(odd)
        {
            return Err(IdError::Topic { name: shortened(name), max: STORED_TOPIC_BYTES_MAX });
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Name of a consumer or producer group; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// A name of 1 to [`GROUP_BYTES_MAX`] bytes of `[A-Za-z0-9_%|-]`.
    pub fn new(name: &str) -> Result<Self, IdError> {
        if is_name(name, GROUP_BYTES_MAX) {
            Ok(Self(name.into()))
        } else {
            Err(IdError::Group { name: shortened(name), max: GROUP_BYTES_MAX })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Number of a queue in its topic, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(i32);

impl QueueId {
    /// The first queue of any topic.
    pub const ZERO: Self = Self(0);

    /// The numbers of a topic's queues, of which there are `count`.
    pub fn all(count: u32) -> impl Iterator<Item = Self> {
        (0..i32::try_from(count).unwrap_or(i32::MAX)).map(Self)
    }

    /// A number of at least 0.
    pub const fn new(id: i32) -> Result<Self, IdError> {
        if id >= 0 { Ok(Self(id)) } else { Err(IdError::Queue { id }) }
    }

    /// The number.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The number as a place in a list of queues.
    pub const fn index(self) -> usize {
        self.0.unsigned_abs() as usize
    }
}

/// Position in a queue, counted in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueOffset(i64);

impl QueueOffset {
    /// A position; the wire also has -1 for "none".
    pub const fn new(offset: i64) -> Self {
        Self(offset)
    }

    /// The number of messages before it.
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// Position in the commit log, counted in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogOffset(u64);

impl LogOffset {
    /// A position.
    pub const fn new(offset: u64) -> Self {
        Self(offset)
    }

    /// The number of bytes before it.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Writes the type as what it holds; names also as `&str`.
macro_rules! shown {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
shown!(TopicName, GroupName, QueueId, QueueOffset, LogOffset);

macro_rules! text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(name: &str) -> Result<Self, IdError> {
                Self::new(name)
            }
        }
    )*};
}
text!(TopicName, GroupName);

fn is_name(name: &str, bytes_max: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'%' | b'|' | b'-');
    (1..=bytes_max).contains(&name.len()) && name.bytes().all(allowed)
}

/// A refused name as the error shows it; what is longer came from outside and may be of any length.
fn shortened(name: &str) -> String {
    name.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_limits() {
        for good in ["a", "TopicTest", "%RETRY%g", "a|b-c_d", &"x".repeat(127)] {
            assert_eq!(TopicName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "a/b", "ü", "a b", &"x".repeat(128)] {
            assert!(TopicName::new(bad).is_err(), "{bad:?}");
        }
        assert!(GroupName::new(&"x".repeat(255)).is_ok());
        assert!(GroupName::new(&"x".repeat(256)).is_err());
        assert!(QueueId::new(-1).is_err());
    }

    #[test]
    fn a_stored_topic_may_be_longer_but_never_leaves_its_folder() {
        assert!(TopicName::stored(&"x".repeat(255)).is_ok());
        assert!(TopicName::stored("%RETRY%g+t").is_ok());
        for bad in ["", ".", "..", "a/b", "a\0", &"x".repeat(256)] {
            assert!(TopicName::stored(bad).is_err(), "{bad:?}");
        }
    }
}
