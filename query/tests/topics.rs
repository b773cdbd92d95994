//! What SQL sees of topics.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::message::{Message, push_property};
use sluice_query::{Engine, Error};
use sluice_store::{Batch, Settings, Store};
use sluice_testkit::{FaultyDisk, ManualClock, scratch};
use tempfile::TempDir;

struct Place {
    _folder: TempDir,
    clock: ManualClock,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let folder = scratch().unwrap();
        let clock = ManualClock::new(1_700_000_000_000);
        let settings = Settings::embedded(folder.path().join("store"));
        let disk = Arc::new(FaultyDisk::new());
        let store = Store::open_without_upkeep(settings, disk, clock.clock()).unwrap();
        Self { _folder: folder, clock, store }
    }

    fn append(&self, topic: &str, queue: i32, body: &str, origin: &str) {
        let topic = TopicName::new(topic).unwrap();
        self.store.create_topic(&topic, 2).unwrap();
        let mut properties = Vec::new();
        push_property(&mut properties, "origin", origin).unwrap();
        let message = Message { body: body.as_bytes(), properties: &properties, ..Message::default() };
        let mut batch = Batch::new();
        batch.push(&topic, QueueId::new(queue).unwrap(), &message).unwrap();
        self.store.append(batch).unwrap();
        self.clock.advance_ms(1000);
    }

    fn query(&self, sql: &str) -> Result<String, Error> {
        let mut batches = Vec::new();
        Engine::new(Some(self.store.clone())).run(sql, &mut |_, batch| -> Result<bool, Error> {
            batches.push(batch);
            Ok(true)
        })?;
        Ok(pretty_format_batches(&batches).unwrap().to_string())
    }

    /// The answer without its frame: the cells of each row.
    fn rows(&self, sql: &str) -> Vec<String> {
        let table = self.query(sql).unwrap();
        let cells = |line: &str| {
            line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
        };
        table.lines().filter(|line| line.starts_with('|')).skip(1).map(cells).collect()
    }
}

fn orders() -> Place {
    let place = Place::new();
    for (body, origin) in [
        (r#"{"id":1,"amount":5,"customerName":"a"}"#, "EWR"),
        (r#"{"id":2,"amount":2.5}"#, "JFK"),
        ("no json", "JFK"),
        (r#"{"id":3,"later":true}"#, "LGA"),
    ] {
        place.append("orders", 0, body, origin);
    }
    place.append("orders", 1, r#"{"id":9}"#, "JFK");
    place
}

#[test]
fn types_hold_for_all_bodies_and_a_body_that_is_none_keeps_its_envelope() {
    let place = orders();
    let sql = "select count(*), count(id), SUM(amount), max(id), count(later) from orders";
    assert_eq!(place.rows(sql), ["5 4 7.5 9 1"]);
    let sql = "select _queue_id, _queue_offset, id from orders where id is null";
    assert_eq!(place.rows(sql), ["0 2"]);
}

#[test]
fn names_stand_as_written_and_a_field_never_hides_the_envelope() {
    let place = orders();
    assert_eq!(place.rows("select customerName from orders where id = 1"), ["a"]);
    place.append("Odd", 0, r#"{"_topic":"mine","__topic":"too","x":1}"#, "EWR");
    let rows = place.rows("select _topic, __topic, ___topic, x from Odd");
    assert!(rows == ["Odd mine too 1"] || rows == ["Odd too mine 1"], "{rows:?}");
}

#[test]
fn filters_that_the_table_takes_change_no_answer() {
    let place = orders();
    for (filter, ids) in [
        ("_queue_offset >= 3", &["3"][..]),
        ("_queue_offset between 1 and 1", &["2"]),
        ("_queue_id = 1", &["9"]),
        ("1 > _queue_id and id < 2", &["1"]),
        ("_store_timestamp >= '2023-11-14T22:13:23Z'", &["3", "9"]),
        ("_store_timestamp < '2023-11-14T22:13:21Z'", &["1"]),
        ("_store_timestamp > '2030-01-01T00:00:00Z'", &[]),
        ("_queue_offset > 5 and _queue_offset < 2", &[]),
        ("_properties['origin'] = 'EWR'", &["1"]),
        ("_properties['origin'] in ('LGA', 'it''s')", &["3"]),
        ("_properties['origin'] > 'K' or _properties['origin'] = 'EWR'", &["1", "3"]),
    ] {
        let mut rows = place.rows(&format!("select id from orders where {filter}"));
        rows.sort();
        assert_eq!(rows, ids, "{filter}");
    }
}

#[test]
fn a_query_writes_nothing_and_a_missing_table_is_named_with_those_there_are() {
    let place = orders();
    let folder = scratch().unwrap();
    let file = folder.path().join("x.parquet");
    for sql in [
        format!("copy (select id from orders) to '{}'", file.display()),
        "create table t as select 1".to_owned(),
        "insert into orders values (1)".to_owned(),
    ] {
        assert!(place.query(&sql).is_err(), "{sql}");
    }
    assert!(!file.exists());
    let error = place.query("select * from order").unwrap_err().to_string();
    assert!(error.contains("order"), "{error}");
    let error = place.query("select * from ordres").unwrap_err().to_string();
    assert!(error.contains("no table `ordres`") && error.contains("orders"), "{error}");
}
