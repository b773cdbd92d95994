//! `sluice doctor`, `completions` and `man`, as a user runs them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn sluice(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(words).current_dir(folder).output().unwrap()
}

fn said(folder: &Path, words: &[&str], code: i32) -> String {
    let out = sluice(folder, words);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(code), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

#[test]
fn doctor_says_what_it_found_what_to_change_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = held.local_addr().unwrap().to_string();
    let text = said(place.path(), &["doctor", "--json", "--listen", &listen, "--data-dir", "a/b"], 0);
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let verdict = |what: &str| {
        let findings = told["findings"].as_array().unwrap();
        let found = findings.iter().find(|f| f["what"] == what);
        found.unwrap_or_else(|| panic!("{what}: {text}"))["verdict"].as_str().unwrap().to_owned()
    };
    for what in ["open files", "memory", "clock", "disk", "disk's sync", "port of the name server"] {
        assert_ne!(verdict(what), "bad", "{text}");
    }
    assert_eq!(verdict("port of the broker"), "warning");
    assert_eq!(verdict("address for clients"), "ok");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn doctor_ends_with_1_where_no_broker_could_run() {
    let place = tempfile::tempdir().unwrap();
    let text = said(place.path(), &["doctor", "--listen", "192.0.2.1:10911"], 1);
    assert!(text.contains("port of the broker: BAD: cannot listen at 192.0.2.1:10911"), "{text}");
    assert!(text.contains("    give an address of this machine"), "{text}");
}

#[test]
fn a_shell_that_reads_the_completions_completes_a_command() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("sluice.bash"), said(place.path(), &["completions", "bash"], 0)).unwrap();
    let script = "source ./sluice.bash; COMP_WORDS=(sluice topic ta); COMP_CWORD=2; _sluice sluice ta topic; echo ${COMPREPLY[@]}";
    let out = Command::new("bash").args(["-c", script]).current_dir(place.path()).output().unwrap();
    let words = String::from_utf8_lossy(&out.stdout);
    assert_eq!(words.trim(), "tail", "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn every_command_has_its_page() {
    let place = tempfile::tempdir().unwrap();
    let text = said(place.path(), &["man", "pages"], 0);
    let pages = fs::read_dir(place.path().join("pages")).unwrap().count();
    assert_eq!(text, format!("{pages} pages in pages\n"));
    let page = |name: &str| fs::read_to_string(place.path().join("pages").join(name)).unwrap();
    assert!(page("sluice.1").contains("sluice\\-run(1)"), "{}", page("sluice.1"));
    assert!(page("sluice-topic-tail.1").contains("\\-\\-where"));
}
