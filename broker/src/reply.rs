//! What handlers answer, and how errors become response codes and remarks: the only place that maps them.

use std::borrow::Cow;
use std::fmt::Display;

use bytes::Bytes;
use sluice_protocol::code::ResponseCode;
use sluice_protocol::fields::{FieldError, Fields};
use sluice_protocol::header::Header;
use sluice_protocol::id::{GroupName, IdError};
use sluice_protocol::json::JsonError;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    pub(crate) remark: Option<Cow<'static, str>>,
    pub(crate) fields: Fields<'static>,
    pub(crate) body: Vec<Bytes>,
}

impl Reply {
    /// Success without anything.
    pub(crate) fn ok() -> Self {
        Self { code: ResponseCode::SUCCESS, remark: None, fields: Fields::new(), body: Vec::new() }
    }

    /// A failure, in words that say what to do.
    pub(crate) fn refuse(code: ResponseCode, remark: impl Into<Cow<'static, str>>) -> Self {
        Self { code, remark: Some(remark.into()), ..Self::ok() }
    }

    /// Success with a body.
    pub(crate) fn body(body: Vec<u8>) -> Self {
        Self { body: vec![body.into()], ..Self::ok() }
    }

    /// Success with fields.
    pub(crate) fn fields(fields: &Fields<'_>) -> Self {
        let mut owned = Fields::new();
        for (name, value) in fields.iter() {
            owned.push(name.to_owned(), value.to_owned());
        }
        Self { fields: owned, ..Self::ok() }
    }

    /// The header of the response to a request.
    pub(crate) fn header(&self, opaque: i32) -> Header<'_> {
        let mut fields = Fields::new();
        for (name, value) in self.fields.iter() {
            fields.push(name, value);
        }
        let header = Header::response(self.code, opaque, fields);
        match &self.remark {
            Some(remark) => header.with_remark(remark.as_ref()),
            None => header,
        }
    }
}

/// Nothing of that name.
pub(crate) fn no_topic(topic: &impl Display) -> Reply {
    let remark = format!("topic {topic} does not exist; create it, or let producers create it");
    Reply::refuse(ResponseCode::TOPIC_NOT_EXIST, remark)
}

/// No client of that group was here.
pub(crate) fn no_group(group: &GroupName) -> Reply {
    let remark = format!("group {group} is not known: none of its clients was here");
    Reply::refuse(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
}

impl From<FieldError> for Reply {
    fn from(error: FieldError) -> Self {
        Self::refuse(ResponseCode::SYSTEM_ERROR, error.to_string())
    }
}

impl From<JsonError> for Reply {
    fn from(error: JsonError) -> Self {
        Self::refuse(ResponseCode::SYSTEM_ERROR, format!("the body is not readable: {error}"))
    }
}

impl From<IdError> for Reply {
    fn from(error: IdError) -> Self {
        Self::refuse(ResponseCode::INVALID_PARAMETER, error.to_string())
    }
}

impl From<sluice_store::Error> for Reply {
    fn from(error: sluice_store::Error) -> Self {
        use sluice_store::Error as E;
        let code = match &error {
            E::NoTopic { topic } => return no_topic(topic),
            E::NoQueue { .. } => ResponseCode::INVALID_PARAMETER,
            E::TooLarge { .. } | E::Malformed { .. } => ResponseCode::MESSAGE_ILLEGAL,
            // Another broker may take it.
            E::NoSpace { .. } | E::Closed { .. } | E::Poisoned { .. } | E::ReadOnly { .. } => {
                ResponseCode::SERVICE_NOT_AVAILABLE
            }
            _ => ResponseCode::SYSTEM_ERROR,
        };
        let way_out = match &error {
            E::NoSpace { .. } => "; free some, and the broker goes on",
            E::Poisoned { .. } => "; see to the disk, then start the broker again",
            _ => "",
        };
        let mut remark = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            remark = format!("{remark}: {error}");
            cause = error.source();
        }
        remark.push_str(way_out);
        Self::refuse(code, remark)
    }
}
