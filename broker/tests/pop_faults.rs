//! Pops while processes end, the power goes, a disk is full and a clock is set: nothing is lost that was not
//! acknowledged, and what was acknowledged does not come again.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "the long run is asked for from outside")]

mod support;

use std::collections::BTreeMap;

use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::fields::Fields;
use sluice_protocol::topic::SubscriptionGroupConfig;
use sluice_testkit::{FaultyDisk, PowerLoss, Random};

use support::Client;
use support::place::Place;
use support::pop::{ASK, Ask, GROUP, LONG, Popped, SOON, ack, bodies, change, committed, pop, pop_raw};

/// What its users know of a message.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The last answer that had it.
    held: Option<Popped>,
    acknowledged: bool,
}

/// A mix of sends, pops, acknowledgements, changes of time and checkpoints, of which the process or the power ends the
/// last one. A process that ends takes nothing; a power loss with synced messages takes what was not answered.
fn life(seed: u64, power: Option<PowerLoss>) {
    let place = Place::new(true);
    let mut random = Random::new(seed);
    let mut messages: BTreeMap<String, Known> = BTreeMap::new();
    let mut disk = FaultyDisk::new();
    for life in 0..4 {
        let broker = place.start(&disk);
        let mut client = broker.client();
        if life == 0 {
            assert_eq!(client.send("t", 0, "first", &[]).code, R::SUCCESS);
            messages.insert("first".to_owned(), Known::default());
        } else {
            // All times are over: what was not acknowledged comes, and nothing else.
            let mut came = Vec::new();
            loop {
                let some = pop(&mut client, Ask { poll: 1, ..ASK });
                if some.is_empty() {
                    break;
                }
                came.extend(some);
            }
            let mut texts = bodies(&came);
            texts.sort_unstable();
            let expected: Vec<&str> = messages
                .iter()
                .filter(|(_, known)| !known.acknowledged)
                .map(|(body, _)| body.as_str())
                .collect();
            assert_eq!(texts, expected, "seed {seed}, life {life}");
            for message in came {
                let known = messages.get_mut(&message.body).unwrap();
                known.held = Some(message);
            }
        }
        for _ in 0..random.below(60) {
            match random.below(10) {
                0..=2 => {
                    let body = format!("{life}-{}", messages.len());
                    let queue = i32::try_from(random.below(3)).unwrap();
                    assert_eq!(client.send("t", queue, &body, &[]).code, R::SUCCESS);
                    messages.insert(body, Known::default());
                }
                3..=4 if !messages.is_empty() => {
                    let max = i32::try_from(1 + random.below(5)).unwrap();
                    for message in pop(&mut client, Ask { max, ..ASK }) {
                        let known = messages.get_mut(&message.body).unwrap();
                        assert!(!known.acknowledged && known.held.is_none(), "seed {seed}: {message:?}");
                        known.held = Some(message);
                    }
                }
                5..=7 => {
                    let open =
                        messages.values_mut().filter(|known| known.held.is_some() && !known.acknowledged);
                    let open: Vec<&mut Known> = open.collect();
                    let at = usize::try_from(random.below(open.len() as u64)).unwrap();
                    if let Some(known) = open.into_iter().nth(at) {
                        assert_eq!(ack(&mut client, known.held.as_ref().unwrap()), R::SUCCESS);
                        known.acknowledged = true;
                    }
                }
                8 => {
                    let held = messages.values_mut().filter(|known| !known.acknowledged);
                    if let Some(message) = held.filter_map(|known| known.held.as_mut()).next() {
                        assert_eq!(change(&mut client, message, LONG), R::SUCCESS);
                    }
                }
                _ => broker.store.checkpoint().unwrap(),
            }
        }
        disk.power_off_after(0);
        broker.end();
        match power {
            Some(mode) => {
                disk.crash(random.number(), mode);
                disk = FaultyDisk::new();
            }
            None => disk = disk.restarted(),
        }
        place.clock.advance_ms(2 * LONG);
    }
}

fn seeds(few: u64) -> u64 {
    std::env::var("SLUICE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

#[test]
fn whenever_the_process_ends_what_was_acknowledged_does_not_come_again_and_all_else_does() {
    (0..seeds(25)).for_each(|seed| life(seed, None));
}

#[test]
fn whenever_the_power_goes_what_was_acknowledged_does_not_come_again_and_all_else_does() {
    for seed in 0..seeds(25) {
        life(seed, Some(PowerLoss::Forget));
        life(seed, Some(PowerLoss::Tear));
    }
}

#[test]
fn a_clock_that_is_set_neither_hands_out_what_is_held_nor_holds_it_longer_after_a_restart() {
    const HOUR_MS: i64 = 3_600_000;
    for jump in [HOUR_MS, -HOUR_MS] {
        let place = Place::new(false);
        let broker = place.start(&FaultyDisk::new());
        let mut client = broker.client();
        for body in ["held", "short"] {
            client.send("t", 0, body, &[]);
        }
        let held = pop(&mut client, Ask { max: 1, invisible: 2 * HOUR_MS, ..ASK });
        assert_eq!(bodies(&held), ["held"]);
        assert_eq!(bodies(&pop(&mut client, Ask { invisible: 200, ..ASK })), ["short"]);
        place.clock.advance_ms(jump);
        assert_eq!(bodies(&pop(&mut client, Ask { invisible: 200, poll: SOON, ..ASK })), ["short"]);
        drop(broker);
        place.clock.advance_ms(1_000);
        let broker = place.start(&FaultyDisk::new());
        let mut client = broker.client();
        // It has left what the clock says, and never more than it was given.
        assert_eq!(bodies(&pop(&mut client, Ask { poll: SOON, ..ASK })), ["short"]);
        assert!(pop(&mut client, ASK).is_empty());
        drop(broker);
        place.clock.advance_ms(if jump < 0 { 3 * HOUR_MS } else { HOUR_MS });
        let broker = place.start(&FaultyDisk::new());
        assert_eq!(bodies(&pop(&mut broker.client(), ASK)).into_iter().filter(|b| *b == "held").count(), 1);
    }
}

#[test]
fn whenever_the_process_ends_a_dead_letter_is_stored_once() {
    let dead = |client: &mut Client| {
        let pulled = client.pull("%DLQ%poppers", 0, 0, ("TAG", "*"), 0);
        let there = pulled.code == R::SUCCESS;
        if there { pulled.messages().len() } else { 0 }
    };
    // Until it is stored whatever happens after.
    let mut stored = 0;
    for calls in 0..60 {
        let place = Place::new(false);
        let disk = FaultyDisk::new();
        let broker = place.start(&disk);
        let mut client = broker.client();
        client.heartbeat("c", GROUP, "t", "TAG", "*");
        let group_name = GROUP.to_owned();
        let settings =
            SubscriptionGroupConfig { group_name, retry_max_times: 0, ..SubscriptionGroupConfig::default() };
        let update = C::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
        assert_eq!(client.call(update, Fields::new(), &settings.encode()).code, R::SUCCESS);
        client.send("t", 0, "m", &[]);
        assert_eq!(bodies(&pop(&mut client, Ask { invisible: 1, ..ASK })), ["m"]);
        disk.power_off_after(calls);
        // Its time is over: it is a dead letter now, as far as the process comes.
        pop_raw(&mut client, Ask { poll: 50, ..ASK });
        stored += dead(&mut client);
        broker.end();
        place.clock.advance_ms(LONG);
        let broker = place.start(&disk.restarted());
        let mut client = broker.client();
        assert!(pop(&mut client, Ask { poll: 50, ..ASK }).is_empty(), "after {calls} calls");
        assert_eq!(dead(&mut client), 1, "after {calls} calls");
        assert_eq!(committed(&broker, 0), Some(1), "after {calls} calls");
        if stored == 2 {
            assert!(calls > 2, "the process ended before it was stored, too");
            return;
        }
    }
    panic!("it was never stored before the process ended");
}

#[test]
fn with_a_full_disk_nothing_is_handed_out_and_all_goes_on_when_there_is_space() {
    let place = Place::new(false);
    let disk = FaultyDisk::new();
    let broker = place.start(&disk);
    let mut client = broker.client();
    for number in 0..40 {
        client.send("t", 0, &number.to_string(), &[]);
    }
    let first = pop(&mut client, Ask { max: 1, ..ASK });
    disk.set_full(true);
    // There is some room in what is there already.
    let mut got = 1;
    let refused = loop {
        let response = pop_raw(&mut client, Ask { max: 1, ..ASK });
        if response.code != R::SUCCESS {
            break response;
        }
        assert_eq!(response.messages()[0].0, got);
        got += 1;
        if got == 40 {
            // All fitted; then nothing is to be refused.
            disk.set_full(false);
            return;
        }
    };
    assert_eq!(refused.code, R::SERVICE_NOT_AVAILABLE, "{}", refused.remark);
    assert!(refused.remark.contains("free some"), "{}", refused.remark);
    assert_ne!(ack(&mut client, &first[0]), R::SUCCESS);
    disk.set_full(false);
    assert_eq!(ack(&mut client, &first[0]), R::SUCCESS);
    assert_eq!(committed(&broker, 0), Some(1));
    let next = pop(&mut client, Ask { max: 1, ..ASK });
    assert_eq!(next[0].offset, got, "what could not be handed out was not held");
}
