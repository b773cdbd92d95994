//! Names of files and folders from names that people chose: no two names share a path, and none leaves
//! its folder.

use std::fmt::Write;

use sluice_connect::task::Chain;

/// The folder of rows whose partition column is null, as Hive names it.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Longest name of one file or folder in bytes on the usual file systems (`NAME_MAX`).
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// What pipeline and topic may take of a file's name in bytes; queue, start, number and extension need
/// at most 54 more.
const STEM_BYTES_MAX: usize = 200;

/// One folder for any text: what can't stand in a name, or stands there for us, is percent-encoded.
pub(crate) fn folder(text: &str) -> String {
    // A lone percent sign never comes out of an encoding, so it is free to stand for nothing.
    if text.is_empty() {
        return "%".to_owned();
    }
    let is_ours = text == "."
        || text == ".."
        || text == "origin.json"
        || ["tmp-", "schema-", "config-"].iter().any(|prefix| text.starts_with(prefix))
        || [".plan", ".done", ".parquet", ".arrow"].iter().any(|suffix| text.ends_with(suffix));
    let encoded = encode(text, |c| !matches!(c, '%' | '/' | '\\') && !c.is_control());
    match text.bytes().next() {
        Some(first) if is_ours && first.is_ascii() => format!("%{first:02X}{}", encoded.split_at(1).1),
        _ => encoded,
    }
}

/// The folders of a topic, one for each of its parts.
pub(crate) fn topic_folders(topic: &str) -> String {
    topic.split('/').map(folder).collect::<Vec<_>>().join("/")
}

/// Whether a file may be one of a plan by how its name ends: `-<start:020>-<number:04>.<extension>`.
pub(crate) fn is_of_plan(key: &str, extension: &str) -> bool {
    let stem = key.strip_suffix(extension).and_then(|rest| rest.strip_suffix('.'));
    let Some((rest, number)) = stem.and_then(|stem| stem.rsplit_once('-')) else { return false };
    let Some((_, start)) = rest.rsplit_once('-') else { return false };
    let is_number = |text: &str, digits| text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    is_number(start, 20) && is_number(number, 4)
}

/// The text that [`folder`] made a folder of, `None` if it made none such.
pub(crate) fn from_folder(name: &str) -> Option<String> {
    if name == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (folder(&text) == name).then_some(text)
}

/// `column=value` as Hive writes it.
pub(crate) fn partition_folder(column: &str, value: Option<&str>) -> String {
    // Beyond ASCII nothing is encoded: readers do not agree on what they decode it to.
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~') || is_plain(c);
    let value = match value {
        None => NULL_PARTITION.to_owned(),
        // The text that means null is no null.
        Some(NULL_PARTITION) => format!("%5F{}", NULL_PARTITION.split_at(1).1),
        Some(value) => encode(value, keep),
    };
    format!("{}={value}", encode(column, keep))
}

/// `<pipeline>-<topic>-<queue>`, the begin of each file's name of a chain.
///
/// Two pipelines whose names end differently at a dash may come to the same name in one folder; publishing
/// then finds a file of another plan and stops. Where a file does not say to which plan it belongs, `.` is the separator,
/// which no pipeline's name has.
pub(crate) fn file_stem(chain: &Chain, separator: char) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || is_plain(c);
    let mut stem = format!("{}{separator}{}", encode(&chain.pipeline, keep), encode(&chain.topic, keep));
    // Readers of data lakes take names that begin so for hidden files.
    if let Some(first @ ('.' | '_')) = stem.chars().next() {
        stem.replace_range(..1, &format!("%{:02X}", u32::from(first)));
    }
    if stem.len() > STEM_BYTES_MAX {
        let digest = crc32fast::hash(stem.as_bytes());
        stem.truncate(stem.floor_char_boundary(STEM_BYTES_MAX - 9));
        write!(stem, "-{digest:08x}").expect("a string takes all");
    }
    format!("{stem}-{}", chain.queue)
}

fn is_plain(c: char) -> bool {
    !c.is_ascii() && !c.is_control()
}

fn encode(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        if keep(c) {
            encoded.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                write!(encoded, "%{byte:02X}").expect("a string takes all");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_text_has_a_folder_of_its_own_and_comes_back_from_it() {
        let texts = [
            "",
            ".",
            "..",
            "%",
            "%%",
            "%2E",
            "a",
            "A",
            "a b",
            "a%20b",
            "é",
            "\0",
            "\n",
            "tmp-1-1",
            "schema-0.json",
            "config-1.yaml",
            "origin.json",
            "%6Frigin.json",
            "00000000000000000001.plan",
            "1.done",
            "x.parquet",
        ];
        let mut folders = HashSet::new();
        for text in texts {
            let name = folder(text);
            assert!(!name.contains(['/', '\0']) && !["", ".", "..", "origin.json"].contains(&name.as_str()));
            assert_eq!(from_folder(&name).as_deref(), Some(text));
            assert!(folders.insert(name), "{text:?} shares a folder");
        }
    }

    #[test]
    fn a_folder_that_was_never_made_is_refused() {
        for name in ["%2", "%zz", "%FF", "%+1", "%61", "tmp-1-1", "é%"] {
            assert_eq!(from_folder(name), None, "{name}");
        }
    }

    #[test]
    fn a_topic_never_leaves_its_folder() {
        assert_eq!(topic_folders("/etc/../x"), "%/etc/%2E./x");
        assert_eq!(topic_folders("a//b"), "a/%/b");
    }

    #[test]
    fn the_text_that_means_null_is_kept_apart_from_null() {
        assert_eq!(partition_folder("a", None), "a=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(partition_folder("a", Some(NULL_PARTITION)), "a=%5F_HIVE_DEFAULT_PARTITION__");
        assert_eq!(partition_folder("a=b", Some("")), "a%3Db=");
        assert_eq!(partition_folder("day", Some("2013-01-01T05:00 é")), "day=2013-01-01T05%3A00%20é");
    }

    #[test]
    fn a_long_topic_is_cut_and_still_named_by_all_of_it() {
        let stem = |topic: &str| {
            file_stem(&Chain { pipeline: "p".into(), topic: topic.into(), queue: i32::MAX }, '-')
        };
        let (one, other) = (stem(&"é".repeat(300)), stem(&"é".repeat(301)));
        assert!(one.len() <= STEM_BYTES_MAX + 11);
        assert_ne!(one, other);
    }
}
