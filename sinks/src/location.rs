//! Where a target lies: a folder of this machine, or a prefix of a bucket. Opens nothing.

use std::fmt;
use std::path::PathBuf;

use object_store::path::Path;
use schemars::JsonSchema;
use serde::Deserialize;

/// A target as it is written: `./lake`, or `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(with = "String")]
#[serde(try_from = "String")]
pub enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A prefix of a bucket of S3, or of a store that speaks its protocol.
    Bucket {
        /// The bucket's name.
        bucket: String,
        /// Begin of all keys, without `/` at either end; may be empty.
        prefix: String,
    },
}

impl TryFrom<String> for Location {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty path, expected a folder or s3://bucket/prefix".to_owned());
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Self::Folder(text.into())) };
        if scheme != "s3" {
            return Err(format!("no store for {text:?}, expected a folder or s3://bucket/prefix"));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(format!("{text:?} names no bucket, expected s3://bucket/prefix"));
        }
        match Path::parse(prefix) {
            Ok(prefix) => Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_string() }),
            Err(error) => Err(format!("{text:?} has a prefix that names no objects: {error}")),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_folder_or_a_prefix_of_a_bucket() {
        let read = |text: &str| Location::try_from(text.to_owned());
        let bucket = |bucket: &str, prefix: &str| {
            Ok(Location::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
        };
        assert_eq!(read("./lake"), Ok(Location::Folder("./lake".into())));
        assert_eq!(read("s3://lake"), bucket("lake", ""));
        assert_eq!(read("s3://lake/a/b/"), bucket("lake", "a/b"));
        assert_eq!(read("s3://lake/a/b/").unwrap().to_string(), "s3://lake/a/b");
        for bad in ["", "gs://lake", "s3://", "s3:///a", "s3://lake/a//b", "s3://lake/../b"] {
            assert!(read(bad).is_err(), "{bad} was taken");
        }
    }
}
