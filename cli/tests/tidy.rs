//! The shape of the workspace: arrows between crates, module headers, one version of each big dependency.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which crates each crate may use; `testkit` is for tests alone.
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("formats", &[]),
    ("store", &["protocol"]),
    ("filters", &["protocol"]),
    ("broker", &["protocol", "store", "filters"]),
    ("client", &["protocol"]),
    ("connect", &["protocol", "filters", "formats"]),
    ("bridges", &["protocol", "connect"]),
    ("sources", &["protocol", "filters", "connect", "formats", "store", "client", "bridges"]),
    ("sinks", &["protocol", "filters", "connect", "formats", "store", "client", "bridges"]),
    ("query", &["protocol", "filters", "connect", "formats", "store", "sources", "sinks"]),
    ("service", &["connect"]),
    ("testkit", &["protocol", "store"]),
    (
        "cli",
        &[
            "protocol", "filters", "connect", "formats", "store", "sources", "sinks", "query", "broker",
            "client", "bridges", "service",
        ],
    ),
];

/// Dependencies of which the lock file may hold one version only.
const ONE_VERSION: &[&str] = &["arrow", "parquet", "datafusion", "object_store", "sqlparser", "tokio"];

/// What may have a second version, which is whose: `iceberg` still builds on the arrow and the parquet before ours. It is
/// behind a feature of its own, reads no data, and no type of it meets one of ours.
const TWO_VERSIONS: &[(&str, &str, &str)] = &[("parquet", "58", "iceberg")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Names `sluice-*` below `[section]` headings of a manifest, by heading.
fn uses(manifest: &str) -> BTreeMap<String, Vec<String>> {
    let mut section = String::new();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some(rest) = line.strip_prefix("sluice-") {
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
            found.entry(section.clone()).or_default().push(name);
        }
    }
    found
}

#[test]
fn crates_use_only_what_the_arrows_allow() {
    for (name, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        for (section, used) in uses(&manifest) {
            for other in used {
                let fine = match section.as_str() {
                    "dependencies" => allowed.contains(&other.as_str()),
                    "dev-dependencies" => allowed.contains(&other.as_str()) || other == "testkit",
                    _ => false,
                };
                assert!(fine, "{name} uses {other} in [{section}], which points against the arrows");
            }
        }
    }
}

#[test]
fn every_member_of_the_workspace_has_its_arrows() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let mut members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    let mut known: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    members.sort_unstable();
    known.sort_unstable();
    assert_eq!(members, known);
}

#[test]
fn every_module_says_what_lives_there() {
    let mut folders: Vec<PathBuf> = ARROWS.iter().map(|(name, _)| root().join(name).join("src")).collect();
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs")
                && path.file_name().is_some_and(|n| n != "tests.rs")
            {
                seen += 1;
                let text = fs::read_to_string(&path).unwrap();
                assert!(text.starts_with("//! "), "{} has no `//!` header", path.display());
            }
        }
    }
    assert!(seen > 20, "only {seen} modules were found");
}

#[test]
fn unsafe_code_stands_in_three_files() {
    let known = ["store/src/segment.rs", "bridges/src/kafka/flush.rs", "bridges/src/kafka/records.rs"];
    for (name, _) in ARROWS {
        let mut folders = vec![root().join(name).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                let lifts = text.contains("allow(unsafe_code")
                    || text.contains("expect(unsafe_code")
                    || text.contains("unsafe_code,");
                assert!(
                    !lifts || known.iter().any(|known| path.ends_with(known)),
                    "{} lifts the ban on unsafe code",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn one_version_of_each_big_dependency() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut lines = lock.lines();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("name = ") {
            let version = lines.next().and_then(|l| l.strip_prefix("version = ")).unwrap_or("");
            versions.entry(name.trim_matches('"')).or_default().push(version.trim_matches('"'));
        }
    }
    for name in ONE_VERSION {
        let mut found = versions.get(name).cloned().unwrap_or_default();
        if let Some((_, major, of)) = TWO_VERSIONS.iter().find(|(other, _, _)| other == name) {
            let before = found.len();
            found.retain(|version| version.split('.').next() != Some(major));
            assert_eq!(
                before,
                found.len() + 1,
                "{name} {major} is there for {of}, and no more: end the exception"
            );
        }
        assert_eq!(found.len(), 1, "{name}: {:?}", versions.get(name));
    }
}
