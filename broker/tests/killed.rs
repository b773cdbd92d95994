//! What a broker that was killed leaves: messages that wait, halves, keys, resets; each comes on once.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failure is a failed test")]

mod support;

use std::fs;
use std::path::Path;

use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::message_id::MessageId;
use sluice_protocol::request;

use support::{Client, Response, TestBroker};

const SOON: i64 = 15_000;

/// A copy of a running broker's files, as a killed one would leave them. Nothing may be under way. Where files have holes
/// so has the copy, or the index would fill the disk.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            let bytes = if entry.path().parent().unwrap().ends_with("index") {
                // It is made again, so its header is enough.
                fs::File::create(&to).unwrap().set_len(entry.metadata().unwrap().len()).unwrap();
                continue;
            } else {
                fs::read(entry.path()).unwrap()
            };
            fs::write(&to, bytes).unwrap();
        }
    }
}

fn end(client: &mut Client, half: &Response, how: i32) -> R {
    let id: MessageId = half.field("msgId").parse().unwrap();
    let end = request::EndTransaction {
        producer_group: "p",
        tran_state_table_offset: half.field("queueOffset").parse().unwrap(),
        commit_log_offset: i64::try_from(id.log_offset.get()).unwrap(),
        commit_or_rollback: how,
        from_transaction_check: false,
        msg_id: "",
        transaction_id: None,
        topic: None,
    };
    client.call(C::END_TRANSACTION, end.fields(), &[]).code
}

fn bodies(response: &Response) -> Vec<String> {
    response.messages().into_iter().map(|(_, body)| body).collect()
}

#[test]
fn what_waits_comes_once_after_a_kill_and_what_came_does_not_come_again() {
    let root = tempfile::tempdir().unwrap();
    let (alive, killed) = (root.path().join("alive"), root.path().join("killed"));
    let half = [("TRAN_MSG", "true"), ("PGROUP", "p")];
    let broker = TestBroker::start(&alive, false);
    let mut client = broker.client();
    client.send("t", 0, "first", &[("KEYS", "k")]);
    for (body, property) in [("level", ("DELAY", "1")), ("time", ("TIMER_DELAY_MS", "100"))] {
        client.send("t", 1, body, &[property]);
    }
    let halves = ["committed", "taken back", "open"].map(|body| client.send("t", 2, body, &half));
    assert_eq!(end(&mut client, &halves[0], 8), R::SUCCESS);
    assert_eq!(end(&mut client, &halves[1], 12), R::SUCCESS);
    // Both have come: first the one that waits less.
    for offset in 0..2 {
        assert_eq!(client.pull("t", 1, offset, ("TAG", "*"), SOON).code, R::SUCCESS);
    }
    for (body, property) in [("later level", ("DELAY", "2")), ("later time", ("TIMER_DELAY_SEC", "3"))] {
        assert_eq!(client.send("t", 3, body, &[property]).code, R::SUCCESS);
    }
    copy(&alive, &killed);
    assert_eq!(
        client.pull("t", 3, 0, ("TAG", "*"), 0).code,
        R::PULL_NOT_FOUND,
        "it took too long for this test"
    );
    drop(broker);

    let broker = TestBroker::start(&killed, false);
    let mut client = broker.client();
    assert_eq!(bodies(&client.pull("t", 1, 0, ("TAG", "*"), 0)), ["time", "level"]);
    assert_eq!(bodies(&client.pull("t", 2, 0, ("TAG", "*"), 0)), ["committed"]);
    for (half, how) in [(&halves[0], 8), (&halves[0], 12), (&halves[1], 8)] {
        assert_eq!(end(&mut client, half, how), R::SYSTEM_ERROR);
    }
    assert_eq!(end(&mut client, &halves[2], 8), R::SUCCESS);
    assert_eq!(end(&mut client, &halves[2], 8), R::SYSTEM_ERROR);
    assert_eq!(bodies(&client.pull("t", 2, 0, ("TAG", "*"), 0)), ["committed", "open"]);
    let query = request::QueryMessage {
        topic: "t",
        key: "k",
        max_num: 32,
        begin_timestamp: 0,
        end_timestamp: i64::MAX,
        unique_key: None,
    };
    assert_eq!(bodies(&client.call(C::QUERY_MESSAGE, query.fields(), &[])), ["first"]);
    assert_eq!(bodies(&client.pull("t", 3, 0, ("TAG", "*"), SOON)), ["later time"]);
    assert_eq!(bodies(&client.pull("t", 3, 1, ("TAG", "*"), SOON)), ["later level"]);
    assert_eq!(client.pull("t", 1, 2, ("TAG", "*"), 0).code, R::PULL_NOT_FOUND);
}
