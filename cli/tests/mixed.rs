//! `sluice broker` killed under everything at once: order, retries, messages for later, transactions, pops.
//!
//! A few rounds; `SLUICE_KILL_ROUNDS=200 cargo test -p sluice-cli --test mixed -- --nocapture` for all.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test over processes takes the machine's time and environment"
)]

mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use served::{Served, messages};
use sluice_client::{
    Admin, Client, ClientSettings, ConsumerSettings, HeaderKind, Message, Producer, ProducerSettings,
    PushConsumer, Queue, Record, Request, SendResult, Start, Subscription, TopicName,
};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::message::sys_flag::{TRANSACTION_COMMIT, TRANSACTION_ROLLBACK};
use sluice_protocol::record::records;
use sluice_protocol::request;

/// How often a message fails before it is consumed: its number modulo this.
const FAILURES: i32 = 4;

/// So short that retries come within a round.
const LEVELS: &str = "50ms 50ms 50ms 50ms 50ms 50ms";

/// How a transaction was to end, and whether the broker said that it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nobody told how.
    Open,
    /// The broker was told, and died before it answered.
    Told(i32),
    /// The broker answered.
    Done(i32),
}

/// What brokers acknowledged in all rounds.
#[derive(Default)]
struct Known {
    ordered: BTreeMap<String, (Queue, i64)>,
    /// When it is due, in ms since 1970-01-01 UTC.
    later: BTreeMap<String, i64>,
    transactions: BTreeMap<String, End>,
    retried: BTreeSet<String>,
    /// How often it had failed before, each time that it was handed out.
    tries: BTreeMap<String, Vec<i32>>,
    popped: BTreeMap<String, Pops>,
}

/// What became of a message that is popped.
#[derive(Clone, Debug, Default)]
struct Pops {
    /// How often it was handed out before, each time that it was.
    times: Vec<i32>,
    /// Whether the broker was told that it is consumed.
    is_told: bool,
    /// Whether the broker answered an acknowledgement.
    is_done: bool,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Known>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap()
    }

    fn acknowledged(&self) -> usize {
        let known = self.lock();
        let in_order_or_later = known.ordered.len() + known.later.len();
        in_order_or_later + known.transactions.len() + known.retried.len() + known.popped.len()
    }
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn producer(client: &Client) -> Producer {
    let settings = ProducerSettings { group: "p".into(), retries_max: 0, ..ProducerSettings::default() };
    Producer::new(client, settings).unwrap()
}

fn wanted_failures(text: &str) -> i32 {
    text.rsplit('-').next().unwrap().parse::<i32>().unwrap() % FAILURES
}

/// One after the other into each queue, so that their numbers rise there.
async fn send_in_order(client: Client, round: usize, known: Shared) {
    let producer = producer(&client);
    let Ok(queues) = producer.queues(&topic("ordered")).await else { return };
    for number in 0.. {
        let text = format!("{round}-{number}");
        let message = Message::new(&topic("ordered"), text.clone());
        match producer.send_to(&message, &queues[number % queues.len()]).await {
            Ok(sent) => drop(known.lock().ordered.insert(text, (sent.queue, sent.queue_offset))),
            Err(_) => return,
        }
    }
}

async fn send_for_later(client: Client, round: usize, known: Shared) {
    let producer = producer(&client);
    for number in 0_i64.. {
        let (text, due) = (format!("{round}-{number}"), now_ms() + 20 + number * 37 % 400);
        let message = Message::new(&topic("later"), text.clone());
        let message = message.property("TIMER_DELIVER_MS", &due.to_string()).unwrap();
        match producer.send(&message).await {
            Ok(_) => drop(known.lock().later.insert(text, due)),
            Err(_) => return,
        }
    }
}

async fn send_in_transactions(client: Client, round: usize, known: Shared) {
    let producer = producer(&client);
    for number in 0.. {
        let text = format!("{round}-{number}");
        let half = Message::new(&topic("transactions"), text.clone());
        let half = half.property("TRAN_MSG", "true").unwrap().property("PGROUP", "p").unwrap();
        let Ok(sent) = producer.send(&half).await else { return };
        let how = match number % 3 {
            0 => TRANSACTION_ROLLBACK,
            1 => TRANSACTION_COMMIT,
            _ => {
                known.lock().transactions.insert(text, End::Open);
                continue;
            }
        };
        known.lock().transactions.insert(text.clone(), End::Told(how));
        if end(&client, &sent, how).await.is_err() {
            return;
        }
        known.lock().transactions.insert(text, End::Done(how));
    }
}

async fn end(client: &Client, half: &SendResult, how: i32) -> Result<(), sluice_client::Error> {
    let route = client.route(&topic("transactions")).await?;
    let broker = route.brokers.get(&half.queue.broker).unwrap();
    let address = broker.master.as_ref().unwrap();
    let end = request::EndTransaction {
        producer_group: "p",
        tran_state_table_offset: half.queue_offset,
        commit_log_offset: i64::try_from(half.offset_id.unwrap().log_offset.get()).unwrap(),
        commit_or_rollback: how,
        from_transaction_check: false,
        msg_id: &half.message_id,
        transaction_id: None,
        topic: None,
    };
    client.ask(address, RequestCode::END_TRANSACTION, end.fields(), &[], "a transaction").await.map(drop)
}

async fn send_what_fails(client: Client, round: usize, known: Shared) {
    let producer = producer(&client);
    for number in 0.. {
        let text = format!("{round}-{number}");
        match producer.send(&Message::new(&topic("retried"), text.clone())).await {
            Ok(_) => drop(known.lock().retried.insert(text)),
            Err(_) => return,
        }
    }
}

/// A member that fails each message as often as its number says.
async fn consume_what_fails(client: &Client, known: &Shared) -> Result<PushConsumer, sluice_client::Error> {
    let known = known.clone();
    let handler = move |record: Record| {
        let text = String::from_utf8(record.body.to_vec()).unwrap();
        known.lock().tries.entry(text.clone()).or_default().push(record.reconsume_times);
        let fails = record.reconsume_times < wanted_failures(&text);
        async move { if fails { Err("not yet".into()) } else { Ok(()) } }
    };
    let settings = ConsumerSettings { start: Start::First, ..ConsumerSettings::new("retry") };
    PushConsumer::start(client, settings, [Subscription::all(&topic("retried"))], handler).await
}

async fn send_what_is_popped(client: Client, round: usize, known: Shared) {
    let producer = producer(&client);
    for number in 0.. {
        let text = format!("{round}-{number}");
        match producer.send(&Message::new(&topic("popped"), text.clone())).await {
            Ok(_) => drop(known.lock().popped.entry(text).or_default()),
            Err(_) => return,
        }
    }
}

/// How long a pop holds a message, in ms.
const HELD_MS: i64 = 200;

/// A client that can pop: binary headers have two bytes for the code, and that of a pop is greater.
fn popper(broker: &Served) -> Client {
    let header_kind = HeaderKind::Json;
    Client::new(ClientSettings { header_kind, ..ClientSettings::new(broker.names()) }).unwrap()
}

/// Pops some messages and acknowledges them as often as they failed, by their number; gives how many came.
async fn pop_some(client: &Client, known: &Shared) -> Result<usize, sluice_client::Error> {
    let route = client.route(&topic("popped")).await?;
    let (name, broker) = route.brokers.iter().next().unwrap();
    let address = broker.master.as_ref().unwrap();
    let ask = request::PopMessage {
        consumer_group: "pop",
        topic: "popped",
        queue_id: -1,
        max_msg_nums: 8,
        invisible_time: HELD_MS,
        poll_time: 2 * HELD_MS,
        born_time: now_ms(),
        init_mode: 0,
        expression_type: None,
        expression: None,
        order: None,
        attempt_id: None,
    };
    let popped = Request::new(RequestCode::POP_MESSAGE, ask.fields(), &[]);
    let popped = client.call(address, popped, Duration::from_secs(5)).await?;
    let header = popped.header().unwrap();
    if header.response_code() != ResponseCode::SUCCESS {
        return Ok(0);
    }
    let [time, handle] = ["popTime", "reviveQid"].map(|name| header.fields.get(name).unwrap());
    let mut count = 0;
    for message in records(&popped.body).map(Result::unwrap) {
        count += 1;
        let text = String::from_utf8(message.body.to_vec()).unwrap();
        let fails = {
            let mut known = known.lock();
            // One that nobody was told is stored may be there all the same.
            let pops = known.popped.entry(text.clone()).or_default();
            assert!(!pops.is_done, "{text} came again after its acknowledgement was answered");
            pops.times.push(message.reconsume_times);
            let fails = i32::try_from(pops.times.len()).unwrap() <= wanted_failures(&text);
            pops.is_told |= !fails;
            fails
        };
        if fails {
            continue;
        }
        let (queue, offset) = (message.queue_id, message.queue_offset);
        let extra_info = format!("{offset} {time} {HELD_MS} {handle} 0 {name} {queue} {offset}");
        let ack = request::AckMessage {
            consumer_group: "pop",
            topic: "popped",
            queue_id: queue,
            extra_info: &extra_info,
            offset,
        };
        client.ask(address, RequestCode::ACK_MESSAGE, ack.fields(), &[], "a popped message").await?;
        // Its time may have been over, and then the answer says nothing.
        if now_ms() - time.parse::<i64>().unwrap() < HELD_MS {
            known.lock().popped.get_mut(&text).unwrap().is_done = true;
        }
    }
    Ok(count)
}

async fn pop_all(client: Client, known: Shared) {
    while pop_some(&client, &known).await.is_ok() {}
}

/// How often each text stands in a topic.
fn counts(records: &[Record]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(String::from_utf8(record.body.to_vec()).unwrap()).or_default() += 1;
    }
    counts
}

async fn judge(broker: &Served, known: &Shared) {
    let client = &broker.client();
    // What is due and what failed comes, or for a while nothing more does.
    let consumer = consume_what_fails(client, known).await.unwrap();
    let (mut least, mut since) = (usize::MAX, now_ms());
    loop {
        let later = counts(&messages(client, &topic("later")).await);
        let missing = {
            let known = known.lock();
            let missing = known.later.keys().filter(|text| !later.contains_key(*text)).count();
            let is_consumed = |text: &&String| {
                let tries = known.tries.get(*text);
                tries.is_some_and(|tries| tries.contains(&wanted_failures(text)))
            };
            missing + known.retried.iter().filter(|text| !is_consumed(text)).count()
        };
        if missing == 0 {
            break;
        }
        if missing < least {
            (least, since) = (missing, now_ms());
        }
        assert!(now_ms() < since + 30_000, "{missing} messages never came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    consumer.close().await.unwrap();
    // Nothing comes for longer than a message is held.
    let popper = popper(broker);
    while pop_some(&popper, known).await.unwrap() > 0 {}

    let (ordered, later) =
        (messages(client, &topic("ordered")).await, messages(client, &topic("later")).await);
    let transactions = counts(&messages(client, &topic("transactions")).await);
    let known = known.lock();
    assert!(counts(&ordered).values().all(|count| *count == 1), "something stands twice");
    let mut last: BTreeMap<(i32, usize), (i64, u64)> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for record in &ordered {
        let text = String::from_utf8(record.body.to_vec()).unwrap();
        let (round, number) = text.split_once('-').unwrap();
        let (round, number): (usize, u64) = (round.parse().unwrap(), number.parse().unwrap());
        let before = last.insert((record.queue_id, round), (record.queue_offset, number));
        assert!(
            before.is_none_or(|before| before < (record.queue_offset, number) && before.1 < number),
            "{text}"
        );
        places.insert(text, (record.queue_id, record.queue_offset));
    }
    for (text, (queue, offset)) in &known.ordered {
        assert_eq!(places.get(text), Some(&(queue.id.get(), *offset)), "{text} was acknowledged");
    }
    for record in &later {
        let text = String::from_utf8(record.body.to_vec()).unwrap();
        let due = known.later.get(&text).copied().unwrap_or(0);
        assert!(record.store_timestamp_ms >= due, "{text} came {} ms early", due - record.store_timestamp_ms);
    }
    for (text, end) in &known.transactions {
        let count = transactions.get(text).copied().unwrap_or(0);
        let right = match end {
            End::Done(TRANSACTION_COMMIT) => count == 1,
            End::Told(TRANSACTION_COMMIT) => count <= 1,
            End::Open | End::Done(_) | End::Told(_) => count == 0,
        };
        assert!(right, "{text}: {end:?}, and stands {count} times");
    }
    for text in &known.retried {
        let tries: BTreeSet<i32> = known.tries[text].iter().copied().collect();
        let right: BTreeSet<i32> = (0..=wanted_failures(text)).collect();
        assert_eq!(tries, right, "{text}: how often it had failed, each time that it came");
    }
    for (text, pops) in &known.popped {
        assert!(pops.is_told, "{text} was popped {:?} times before and is not consumed", pops.times);
        assert!(
            pops.times.is_sorted(),
            "{text}: how often it came before, each time that it came: {:?}",
            pops.times
        );
    }
    let done = known.popped.values().filter(|pops| pops.is_done).count();
    assert!(done > known.popped.len() / 2, "{done} acknowledgements were answered in time");
    let twice = counts(&later).values().filter(|count| **count > 1).count();
    println!(
        "{} ordered, {} for later ({twice} came more than once), {} transactions, {} retried, {} popped",
        known.ordered.len(),
        known.later.len(),
        known.transactions.len(),
        known.retried.len(),
        known.popped.len(),
    );
}

#[test]
fn a_broker_killed_under_a_mix_of_all_keeps_what_it_said() {
    let rounds: usize = std::env::var("SLUICE_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let dir = tempfile::tempdir().unwrap();
    let known = Shared::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for round in 0..rounds {
        let broker = Served::broker(dir.path(), &["--delay-levels", LEVELS]);
        runtime.block_on(async {
            let client = broker.client();
            for (name, queues) in
                [("ordered", 3), ("later", 2), ("transactions", 2), ("retried", 2), ("popped", 2)]
            {
                Admin::new(&client).create_topic(&topic(name), queues).await.unwrap();
            }
            let consumer = consume_what_fails(&client, &known).await.unwrap();
            let work = [
                tokio::spawn(send_in_order(broker.client(), round, known.clone())),
                tokio::spawn(send_for_later(broker.client(), round, known.clone())),
                tokio::spawn(send_in_transactions(broker.client(), round, known.clone())),
                tokio::spawn(send_what_fails(broker.client(), round, known.clone())),
                tokio::spawn(send_what_is_popped(broker.client(), round, known.clone())),
                tokio::spawn(pop_all(popper(&broker), known.clone())),
            ];
            // At another moment in each round, and after some messages in all of them.
            let wanted = known.acknowledged() + 100 + 197 * round % 600;
            while known.acknowledged() < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(broker);
            for task in work {
                task.await.unwrap();
            }
            drop(consumer);
        });
    }
    let broker = Served::broker(dir.path(), &["--delay-levels", LEVELS]);
    runtime.block_on(judge(&broker, &known));
    println!("{rounds} rounds, {} acknowledged", known.acknowledged());
}
