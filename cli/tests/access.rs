//! Access control and TLS as people use them: accounts in a file, keys by flags or variables, certificates, and what is
//! refused at the start.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's time")]

mod served;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;

use served::{Served, get, refused, sluice, until};

const ACCOUNTS: &str = "\
globalWhiteRemoteAddresses:
accounts:
  - accessKey: boss
    secretKey: boss-secret
    whiteRemoteAddress:
    admin: true
  - accessKey: app
    secretKey: app-secret
    admin: false
    defaultTopicPerm: DENY
    defaultGroupPerm: SUB
    topicPerms:
      - orders=PUB|SUB
      - events=SUB
    groupPerms:
      - closed=DENY
";

/// Runs the command line as an account.
fn sluice_as(account: &str, input: &str, arguments: &[&str]) -> Output {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .env("SLUICE_ACCESS_KEY", account)
        .env("SLUICE_SECRET_KEY", format!("{account}-secret"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that was refused reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[track_caller]
fn done(out: &Output) -> String {
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout.clone()).unwrap()
}

#[track_caller]
fn denied(out: &Output, words: &str) {
    let text = String::from_utf8(out.stderr.clone()).unwrap();
    assert!(
        out.status.code() == Some(1) && text.contains("NO_PERMISSION") && text.contains(words),
        "{out:?}"
    );
}

/// Replaces a file as editors do.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

#[test]
fn accounts_of_a_file_are_asked_for_and_change_when_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("plain_acl.yml");
    fs::write(&acl, ACCOUNTS).unwrap();
    let more = ["--acl", acl.to_str().unwrap(), "--metrics", "127.0.0.1:0"];
    let broker = Served::broker(&dir.path().join("store"), &more);
    assert_eq!((&broker.ready["accounts"], &broker.ready["tls"]), (&2.into(), &Value::Null));
    let names = broker.names();
    let at = ["--namesrv", &names];
    let with = |arguments: &[&str]| -> Vec<String> {
        arguments.iter().chain(&at).map(|argument| (*argument).to_owned()).collect()
    };
    let run = |account: &str, input: &str, arguments: &[&str]| {
        let arguments = with(arguments);
        sluice_as(account, input, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(refused(&["topic", "list", "--namesrv", &names]).contains("signed requests only"));
    for topic in ["orders", "events"] {
        done(&run("boss", "", &["topic", "create", topic, "--queues", "1"]));
    }
    denied(&run("app", "", &["topic", "create", "mine"]), "admin");
    denied(&run("boss2", "", &["topic", "list"]), "no account");
    assert!(done(&run("app", "one\ntwo\n", &["topic", "send", "orders"])).contains("2 messages"));
    denied(&run("app", "one\n", &["topic", "send", "events"]), "PUB of topic events");
    // By flags, as well.
    let flags = ["--access-key", "app", "--secret-key", "app-secret"];
    assert!(sluice(&[&["topic", "tail", "orders"], &at[..], &flags].concat()).contains("two"));
    let half = refused(&[&["topic", "list"], &at[..], &flags[..2]].concat());
    assert!(half.contains("set SLUICE_SECRET_KEY, too"), "{half}");

    let metric = |reason: &str| {
        let (_, text) = get(&broker.text("metrics"), "/metrics");
        let series = format!("sluice_broker_refused_total{{reason=\"{reason}\"}} ");
        let line = text.lines().find(|line| line.starts_with(&series));
        line.unwrap_or_else(|| panic!("no {series} in {text}"))[series.len()..].parse::<f64>().unwrap()
    };
    assert!(metric("permission") >= 2.0 && metric("signature") >= 1.0 && metric("unsigned") >= 1.0);

    // A file that is not right changes nothing, and one that is does at once.
    replace(&acl, &ACCOUNTS.replace("topicPerms", "topicPerm"));
    let log = || done(&run("boss", "", &["topic", "tail", "SLUICE_AUDIT"]));
    until("the bad file is told", || log().contains("unknown key `topicPerm`"));
    assert!(done(&run("app", "three\n", &["topic", "send", "orders"])).contains("1 message"));
    replace(&acl, &ACCOUNTS.replace("events=SUB", "events=PUB"));
    until("the new permission holds", || run("app", "one\n", &["topic", "send", "events"]).status.success());

    let entries: Vec<Value> = log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = &entries[0]["body"];
    assert!(entries.iter().any(|entry| entry["body"]["action"] == "UPDATE_AND_CREATE_TOPIC"
        && entry["body"]["user"] == "boss"
        && entry["body"]["arguments"]["topic"] == "orders"
        && entry["body"]["outcome"] == "SUCCESS"));
    assert_eq!(first["outcome"], "NO_PERMISSION", "{first}");
    assert!(entries.iter().any(|e| e["tags"] == "RELOAD_ACCOUNTS" && e["body"]["outcome"] == "SUCCESS"));
    let none = done(&run(
        "boss",
        "",
        &["topic", "tail", "SLUICE_AUDIT", "--where", "user = 'boss' AND outcome = 'NO'"],
    ));
    assert_eq!(none, "");
}

#[test]
fn accounts_among_the_broker_s_settings_change_when_their_file_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("broker.yaml");
    let with = |accounts: &str| {
        let store = dir.path().join("store");
        format!("data_dir: {}\nlisten: 127.0.0.1:0\nnamesrv_listen: 127.0.0.1:0\n{accounts}", store.display())
    };
    let accounts = "acl:\n  accounts:\n    - {accessKey: boss, secretKey: boss-secret, admin: true}\n";
    fs::write(&config, with(accounts)).unwrap();
    let broker = Served::start(&["broker", "--config", config.to_str().unwrap()]);
    let names = broker.names();
    let list = |account: &str| sluice_as(account, "", &["topic", "list", "--namesrv", &names]);
    done(&list("boss"));
    denied(&list("app"), "no account");
    replace(&config, &with(&format!("{accounts}    - {{accessKey: app, secretKey: app-secret}}\n")));
    until("the new account is known", || list("app").status.success());
    // Without accounts it would be open to all: that takes a start.
    replace(&config, &with(""));
    let log = || done(&sluice_as("boss", "", &["topic", "tail", "SLUICE_AUDIT", "--namesrv", &names]));
    until("what is wrong is told", || log().contains("no accounts of its own any more"));
    done(&list("app"));
}

#[test]
fn a_pipeline_reads_and_writes_topics_by_an_account() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("plain_acl.yml");
    fs::write(&acl, ACCOUNTS).unwrap();
    let broker = Served::broker(&dir.path().join("store"), &["--acl", acl.to_str().unwrap()]);
    let names = broker.names();
    done(&sluice_as("boss", "", &["topic", "create", "orders", "--namesrv", &names]));
    done(&sluice_as("boss", "{\"n\": 1}\n{\"n\": 2}\n", &["topic", "send", "orders", "--namesrv", &names]));
    let pipeline = |account: &str| {
        let access = format!("access: {{access_key: {account}, secret_key: \"${{SLUICE_SECRET_KEY}}\"}}");
        let text = format!(
            "name: copy\nsource:\n  topic: {{name: orders, cluster: \"{names}\", until: caught_up, {access}}}\n\
             sink: {{stdout: {{format: ndjson}}}}\ndelivery: at_least_once\nerrors: {{retry: 0s}}\n"
        );
        let file = dir.path().join(format!("{account}.yaml"));
        fs::write(&file, text).unwrap();
        let data = dir.path().join("data");
        sluice_as(account, "", &["run", file.to_str().unwrap(), "--data-dir", data.to_str().unwrap()])
    };
    let seen = done(&pipeline("app"));
    assert_eq!(seen.lines().filter(|line| line.contains("queue_offset")).count(), 2, "{seen}");
    let out = pipeline("nobody");
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("no account")
            || String::from_utf8_lossy(&out.stdout).contains("no account"),
        "{out:?}"
    );

    let problem = |access: &str| {
        let file = dir.path().join("bad.yaml");
        let text = format!(
            "name: bad\nsource:\n  topic: {{name: orders, {access}}}\nsink: {{stdout: {{format: ndjson}}}}\ndelivery: at_least_once\n"
        );
        fs::write(&file, text).unwrap();
        let out = sluice_as("app", "", &["lint", file.to_str().unwrap()]);
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(problem("access: {tls: {}}").contains("cluster of `cluster`, which is not said"));
    assert!(problem("cluster: 'ns1:9876', access: {access_key: a}").contains("`secret_key` is missing"));
    assert!(
        problem("cluster: 'ns1:9876', access: {access_key: a, secret_key: b}").contains("write it as ${VAR}")
    );
}

/// An authority, and a certificate of it for loopback: the three files.
fn certificate(dir: &Path) -> [PathBuf; 3] {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "broker.test".to_owned()];
    let signed = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let file = dir.join(name);
        fs::write(&file, text).unwrap();
        file
    };
    [write("ca.pem", ca.pem()), write("cert.pem", signed.pem()), write("key.pem", key.serialize_pem())]
}

#[test]
fn all_goes_by_tls_where_it_must() {
    let dir = tempfile::tempdir().unwrap();
    let [ca, certificate, key] = certificate(dir.path()).map(|file| file.to_str().unwrap().to_owned());
    let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
    let names = Served::start(&[&["namesrv", "--listen", "127.0.0.1:0"][..], &tls].concat());
    let config = dir.path().join("broker.yaml");
    let text = format!(
        "data_dir: {}\nlisten: 127.0.0.1:0\nnamesrv: {}\nnamesrv_access: {{ca: {ca}}}\n\
         tls: {{certificate: {certificate}, key: {key}, mode: enforcing}}\n",
        dir.path().join("store").display(),
        names.names()
    );
    fs::write(&config, text).unwrap();
    let broker = Served::start(&["broker", "--config", config.to_str().unwrap()]);
    assert_eq!(broker.ready["tls"], "enforcing");
    let at = ["--namesrv", &names.names(), "--ca", &ca];
    until("the broker has registered", || {
        let created = served::sluice_with("", &[&["topic", "create", "orders"], &at[..]].concat());
        created.status.success()
    });
    until("the topic is known", || {
        served::sluice_with("", &[&["topic", "describe", "orders"], &at[..]].concat()).status.success()
    });
    let sent = served::sluice_with("hello\n", &[&["topic", "send", "orders"], &at[..]].concat());
    assert!(sent.status.success(), "{sent:?}");
    assert!(sluice(&[&["topic", "tail", "orders"], &at[..]].concat()).contains("hello"));
    assert!(
        sluice(&[&["topic", "tail", "orders", "--server-name", "broker.test"], &at[..]].concat())
            .contains("hello")
    );
    let other = refused(&[&["topic", "list", "--server-name", "another.test"], &at[..]].concat());
    assert!(other.contains("certificate"), "{other}");
    let plain = refused(&["topic", "list", "--namesrv", &names.names()]);
    assert!(plain.contains("lost"), "{plain}");
    let no_file = refused(&["topic", "list", "--namesrv", &names.names(), "--ca", "/none.pem"]);
    assert!(no_file.contains("/none.pem"), "{no_file}");
}

#[test]
fn nobody_listens_for_everybody_unless_it_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("plain_acl.yml");
    fs::write(&acl, ACCOUNTS).unwrap();
    let store = dir.path().join("store");
    let broker = ["broker", "--data-dir", store.to_str().unwrap(), "--namesrv-listen", "127.0.0.1:0"];
    let open = refused(&[&broker[..], &["--listen", "0.0.0.0:0"]].concat());
    for words in ["0.0.0.0:0", "--acl FILE", "--tls-certificate", "--allow-anonymous"] {
        assert!(open.contains(words), "{open}");
    }
    assert!(!store.exists(), "something was made");
    assert!(refused(&["namesrv", "--listen", "0.0.0.0:0"]).contains("--allow-anonymous"));
    assert!(
        refused(&["broker", "--listen", "127.0.0.1:0", "--namesrv-listen", "0.0.0.0:0"])
            .contains("0.0.0.0:0")
    );
    let [_, certificate, key] = certificate(dir.path()).map(|file| file.to_str().unwrap().to_owned());
    let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
    let permissive = [&["namesrv", "--listen", "0.0.0.0:0", "--tls-mode", "permissive"][..], &tls].concat();
    assert!(refused(&permissive).contains("--allow-anonymous"));
    for more in [&["--acl", acl.to_str().unwrap()][..], &tls, &["--allow-anonymous"]] {
        Served::start(&[&["namesrv", "--listen", "0.0.0.0:0"][..], more].concat()).end();
    }
    fs::write(&acl, "accounts: []\n").unwrap();
    let none = refused(&["namesrv", "--listen", "127.0.0.1:0", "--acl", acl.to_str().unwrap()]);
    assert!(none.contains("plain_acl.yml:1:1") && none.contains("nobody could do anything"), "{none}");
}

#[test]
fn a_broker_signs_to_name_servers_that_want_it() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("plain_acl.yml");
    fs::write(&acl, ACCOUNTS).unwrap();
    let names = Served::start(&["namesrv", "--listen", "127.0.0.1:0", "--acl", acl.to_str().unwrap()]);
    let config = dir.path().join("broker.yaml");
    let text = format!(
        "data_dir: {}\nlisten: 127.0.0.1:0\nnamesrv: {}\nnamesrv_access: {{access_key: boss, secret_key: boss-secret}}\n\
         acl: {{file: {}}}\n",
        dir.path().join("store").display(),
        names.names(),
        acl.display()
    );
    fs::write(&config, text).unwrap();
    let _broker = Served::start(&["broker", "--config", config.to_str().unwrap()]);
    until("the broker has registered", || {
        sluice_as("boss", "", &["topic", "create", "orders", "--namesrv", &names.names()]).status.success()
    });
}
