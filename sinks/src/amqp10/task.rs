//! The task of sink `amqp10`: all messages of a slice are sent, then what became of all is waited for.

use fe2o3_amqp::Sender;
use sluice_bridges::amqp10::client::Link;
use sluice_bridges::amqp10::mapping::{Given, to_amqp};
use sluice_client::Tls;
use sluice_connect::batch;
use sluice_connect::task::{Chain, Class, Fates, Slice, TaskError, TransactTask};

use super::Amqp10Config;
use crate::sink::Sink as _;
use crate::stored::{RowId, StoredRows, row_ids};
use crate::topic::{Rows, text};

/// Writes to a node.
pub(super) struct Amqp10Sink {
    settings: Amqp10Config,
    sender: Sender,
    link: Link,
    stored: StoredRows,
}

impl Amqp10Sink {
    /// Connects.
    pub(super) fn new(settings: &Amqp10Config) -> Result<Self, TaskError> {
        let way = settings.way().map_err(|problem| TaskError::new(Class::Config, problem))?;
        let tls = way.address.is_secure.then(|| tls(settings, &way.address.host)).transpose()?;
        let link = Link::open(&way, tls.as_ref(), settings.body_max.as_u64())?;
        let sender = link.sender(&settings.queue)?;
        Ok(Self { settings: settings.clone(), sender, link, stored: StoredRows::default() })
    }
}

fn given<'a>(rows: &Rows<'a>, row: usize, origin: &'a str) -> Given<'a> {
    Given {
        keys: text(rows.keys, row),
        tags: rows.tag(row),
        message_id: rows.message_id(row),
        born: rows.born(row),
        origin,
        body: rows.body(row),
    }
}

/// Sends what the broker does not have yet, and waits for its answers. Gives the rows that it has now.
async fn send(
    link: &Link,
    sender: &mut Sender,
    stored: &StoredRows,
    chain: &Chain,
    slice: &Slice,
) -> (Vec<RowId>, Result<(), TaskError>) {
    const WHAT: &str = "cannot send a message";
    let rows = Rows::new(&slice.envelope);
    let (mut sent, mut failure, mut refusal) = (Vec::new(), None, None);
    for (row, place) in row_ids(batch::offsets(&slice.envelope)).enumerate() {
        let (offset, _) = place;
        if stored.has(chain, place) {
            continue;
        }
        let origin = format!("{}/{}/{offset}", chain.topic, chain.queue);
        let outcome = match to_amqp(given(&rows, row, &origin), rows.own_properties(row)) {
            Ok(message) => link.answer(WHAT, sender.send_batchable(message)).await,
            Err(reason) => {
                let message = format!("{chain}: row {offset} was taken for a message: {reason}");
                Err(TaskError::new(Class::Fatal, message))
            }
        };
        match outcome {
            Ok(outcome) => sent.push((place, outcome)),
            // Longer than the broker takes.
            Err(error) if error.class == Class::Record => refusal = Some(error),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let mut stored = Vec::new();
    for (place, outcome) in sent {
        match link.answer(WHAT, outcome).await.and_then(|outcome| link.outcome(WHAT, outcome)) {
            Ok(()) => stored.push(place),
            Err(error) if error.class == Class::Record => refusal = Some(error),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    // That a message is refused must not hide that the broker is away.
    (stored, failure.or(refusal).map_or(Ok(()), Err))
}

fn tls(settings: &Amqp10Config, host: &str) -> Result<sluice_bridges::stream::Tls, TaskError> {
    Tls::for_host(settings.tls.as_ref(), host)
        .map_err(|e| TaskError::new(Class::Config, "cannot speak TLS as asked for").because(e))
}

/// What a run finds at the broker, for a person; sends nothing.
pub(super) fn check(settings: &Amqp10Config) -> Result<String, TaskError> {
    Amqp10Sink::new(settings).map(|_| format!("{} can be sent to: at_least_once", settings.shown()))
}

impl TransactTask for Amqp10Sink {
    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        let rows = Rows::new(&slice.envelope);
        let body_max = self.settings.body_max.as_u64();
        let unfit = |row: usize| {
            let body = rows.body(row).len();
            if body as u64 > body_max {
                return Some(format!(
                    "a body of {body} bytes exceeds the limit of {body_max} bytes: raise `body_max`"
                ));
            }
            to_amqp(given(&rows, row, ""), rows.own_properties(row)).err()
        };
        (0..slice.envelope.num_rows()).filter_map(|row| Some((row, unfit(row)?))).collect()
    }

    fn commit(
        &mut self,
        chain: &Chain,
        _incarnation: &str,
        slice: &Slice,
        _: &Fates,
    ) -> Result<(), TaskError> {
        let (stored, sent) = self.link.wait(send(&self.link, &mut self.sender, &self.stored, chain, slice));
        self.stored.add(chain, stored);
        sent?;
        self.stored.forget(chain, slice.range.end);
        Ok(())
    }

    /// What a broker accepted is as durable as its queues are.
    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }

    fn keeps_positions(&self) -> bool {
        false
    }
}
