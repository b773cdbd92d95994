//! Messages by key and unique id, from an index that may be missing or damaged.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failure is a failed test")]

mod support;

use std::fs;
use std::path::PathBuf;

use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::request;

use support::{Client, Response, TestBroker};

fn ask(client: &mut Client, key: &str, max_num: i32, unique: bool, times: (i64, i64)) -> Response {
    let query = request::QueryMessage {
        topic: "t",
        key,
        max_num,
        begin_timestamp: times.0,
        end_timestamp: times.1,
        unique_key: Some(unique),
    };
    client.call(C::QUERY_MESSAGE, query.fields(), &[])
}

fn bodies(response: &Response) -> Vec<String> {
    response.messages().into_iter().map(|(_, body)| body).collect()
}

const ALWAYS: (i64, i64) = (0, i64::MAX);

#[test]
fn messages_are_found_by_their_keys_and_ids_the_newest_of_many() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [false, true] {
        let broker = TestBroker::start(&dir.path().join(sync.to_string()), sync);
        let mut client = broker.client();
        for i in 0..100 {
            let keys = format!("all k{i} even{}", i % 2 == 0);
            let id = format!("U{i}");
            client.send("t", i % 4, &i.to_string(), &[("KEYS", &keys), ("UNIQ_KEY", &id)]);
        }
        client.send("other", 0, "other", &[("KEYS", "k7 all")]);
        assert_eq!(bodies(&ask(&mut client, "k7", 32, false, ALWAYS)), ["7"]);
        assert_eq!(bodies(&ask(&mut client, "U8", 1, true, ALWAYS)), ["8"]);
        assert_eq!(bodies(&ask(&mut client, "all", 3, false, ALWAYS)), ["97", "98", "99"]);
        assert_eq!(bodies(&ask(&mut client, "eventrue", 2, false, ALWAYS)), ["96", "98"]);
        assert_eq!(bodies(&ask(&mut client, "all", 1000, false, ALWAYS)).len(), 64);
        let none = ask(&mut client, "k", 32, false, ALWAYS);
        assert_eq!((none.code, none.remark.contains("\"k\"")), (R::QUERY_NOT_FOUND, true));
        for times in [(0, 1), (i64::MAX - 1, i64::MAX), (1, 0), (i64::MIN, -1)] {
            assert_eq!(ask(&mut client, "all", 32, false, times).code, R::QUERY_NOT_FOUND, "{times:?}");
        }
        assert_eq!(ask(&mut client, "all", -1, false, ALWAYS).code, R::QUERY_NOT_FOUND);
    }
}

#[test]
fn the_index_goes_on_after_a_restart_and_is_made_again_if_it_is_missing_or_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let file = || -> PathBuf {
        let mut files = fs::read_dir(dir.path().join("index")).unwrap();
        files.next().unwrap().unwrap().path()
    };
    let damage: [&dyn Fn(); 6] = [
        &|| {},
        &|| fs::remove_dir_all(dir.path().join("index")).unwrap(),
        &|| fs::write(file(), "not an index").unwrap(),
        &|| fs::OpenOptions::new().write(true).open(file()).unwrap().set_len(420_000_039).unwrap(),
        &|| fs::write(dir.path().join("index/29991231235959999"), "not an index").unwrap(),
        &|| {
            // Entries beyond what there is, of records that are nowhere.
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new().write(true).open(file()).unwrap();
            file.write_all_at(&[0x7F; 24], 16).unwrap();
        },
    ];
    for (round, damage) in damage.into_iter().enumerate() {
        {
            let broker = TestBroker::start(dir.path(), false);
            broker.client().send("t", 0, &round.to_string(), &[("KEYS", "k")]);
        }
        damage();
        let broker = TestBroker::start(dir.path(), false);
        let mut client = broker.client();
        let expected: Vec<String> = (0..=round).map(|round| round.to_string()).collect();
        assert_eq!(bodies(&ask(&mut client, "k", 32, false, ALWAYS)), expected);
    }
}
