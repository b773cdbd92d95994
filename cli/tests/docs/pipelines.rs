//! Each pipeline and setting of a broker in the book is checked as a user's would be, and the commands of the first
//! five minutes are run.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use sluice_connect::config::tree::{self, Node};
use tempfile::TempDir;

use crate::book::{Block, pages};
use crate::root;

/// Descriptor set of `package shop; message Order { int64 id = 1; }`, by hand: `google/protobuf/descriptor.proto`.
const ORDER_DESC: &[u8] =
    b"\x0a\x30\x0a\x0border.proto\x12\x04shop\x22\x13\x0a\x05Order\x12\x0a\x0a\x02id\x18\x01\x20\x01\x28\x03\x62\x06proto3";
const ORDER_AVSC: &str = r#"{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}, {"name": "amount", "type": "double"}]}"#;

/// A folder with the files that the book's examples name.
fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| fs::write(place.path().join(name), content).unwrap();
    write("order.avsc", ORDER_AVSC.as_bytes());
    write("order.desc", ORDER_DESC);
    write("plain_acl.yml", b"accounts:\n  - {accessKey: app, secretKey: a-long-secret, admin: true}\n");
    place
}

/// Runs it there, with a value for each variable that the text names without a default.
fn sluice(place: &Path, text: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(arguments).current_dir(place);
    for reference in text.split("${").skip(1).filter_map(|rest| rest.split('}').next()) {
        if !reference.contains(':') {
            command.env(reference, "a-value");
        }
    }
    command.output().unwrap()
}

/// A document of a block, as a pipeline: what is only a part of one gets the rest.
fn completed(document: &str, tree: &Node) -> String {
    let mut text = document.to_owned();
    for (key, line) in [
        ("name", "name: part"),
        ("source", "source: {topic: {name: part}}"),
        ("sink", "sink: {topic: {name: out}}"),
    ] {
        if tree.find(&[key]).is_none() {
            text = format!("{}\n{line}\n", text.trim_end());
        }
    }
    text
}

/// What `lint` says of a text, but for what only another build has.
fn problems(place: &Path, text: &str) -> Vec<String> {
    fs::write(place.join("one.yaml"), text).unwrap();
    let linted = sluice(place, text, &["lint", "one.yaml"]);
    let said = String::from_utf8(linted.stdout).unwrap();
    let found = said.lines().filter(|line| line.starts_with("one.yaml:"));
    let found: Vec<String> = found.filter(|line| !line.contains("--features")).map(str::to_owned).collect();
    assert!(linted.status.success() || said.contains("one.yaml:"), "{text}\n{said}");
    found
}

fn yaml() -> Vec<Block> {
    pages().iter().flat_map(crate::book::Page::blocks).filter(|block| block.language == "yaml").collect()
}

#[test]
fn every_pipeline_of_the_book_passes_lint_and_its_own_tests() {
    let place = place();
    let (mut count, mut wrong) = (0, Vec::new());
    for block in yaml() {
        for document in tree::documents(&block.text) {
            let tree = tree::parse(&document).unwrap_or_else(|problem| panic!("{}: {problem}", block.place));
            if tree.find(&["input"]).is_some() {
                continue; // Another program's.
            }
            if document.text.starts_with("# broker.yaml") {
                fs::write(place.path().join("broker.yaml"), document.text).unwrap();
                let checked =
                    sluice(place.path(), document.text, &["broker", "--config", "broker.yaml", "--check"]);
                assert!(checked.status.success(), "{}: {checked:?}", block.place);
                continue;
            }
            count += 1;
            let text = completed(document.text, &tree);
            let found = problems(place.path(), &text);
            wrong.extend(found.iter().map(|problem| format!("{}: {problem}", block.place)));
            if found.is_empty() && tree.find(&["tests"]).is_some() {
                let tested = sluice(place.path(), &text, &["test", "one.yaml"]);
                assert!(tested.status.success(), "{}: {tested:?}", block.place);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 30, "the book has {count} pipelines");
}

/// What differs from run to run: how long it took, and sizes that depend on the compiler of the codec.
fn settled(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let settled = words.iter().enumerate().map(|(at, word)| {
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        let next = words.get(at + 1).copied().unwrap_or_default();
        if is_number && matches!(next, "s" | "bytes") { "N" } else { word }
    });
    settled.collect::<Vec<&str>>().join(" ").trim_end().to_owned()
}

#[test]
fn the_first_five_minutes_go_as_the_book_tells() {
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("examples"), place.path().join("examples")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_sluice")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let pages = pages();
    let page = pages.iter().find(|page| page.path.ends_with("first-five-minutes.md")).unwrap();
    let mut count = 0;
    for block in page.blocks().iter().filter(|block| block.language == "console") {
        for step in block.text.split("$ ").skip(1) {
            let (command, told) = step.split_once('\n').unwrap();
            let ran = Command::new("sh")
                .args(["-c", &format!("{command} 2>&1")])
                .current_dir(place.path())
                .env("PATH", &path)
                .output()
                .unwrap();
            let said = String::from_utf8(ran.stdout).unwrap();
            // The book has the build of its first command, which has no `query` to point to.
            let is_of_it = |line: &&str| !line.starts_with("  sluice query ");
            let settle = |text: &str| text.lines().filter(is_of_it).map(settled).collect::<Vec<String>>();
            let (said, told) = (settle(&said), settle(told));
            let is_so = |(said, told): (&String, &String)| match told.strip_suffix('…') {
                Some(begin) => said.starts_with(begin),
                None => said == told,
            };
            let all = said.len() == told.len() && said.iter().zip(&told).all(is_so);
            assert!(all, "{}: {command}\nsaid {said:#?}\ntold {told:#?}", block.place);
            count += 1;
        }
    }
    assert!(count >= 8, "{count} commands");
}
