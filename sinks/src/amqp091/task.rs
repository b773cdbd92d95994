//! The task of sink `amqp091`: all messages of a slice are sent, then the confirms of all are waited for.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Confirmation, PublisherConfirm};
use sluice_bridges::amqp091::client::{Link, short};
use sluice_bridges::amqp091::mapping::{Given, to_properties};
use sluice_client::Tls;
use sluice_connect::batch;
use sluice_connect::task::{Chain, Class, Fates, Slice, TaskError, TransactTask};

use super::Amqp091Config;
use crate::sink::Sink as _;
use crate::stored::{RowId, StoredRows, row_ids};
use crate::topic::{Rows, text};

/// Writes to an exchange.
pub(super) struct Amqp091Sink {
    settings: Amqp091Config,
    user: String,
    exchange: ShortString,
    link: Link,
    stored: StoredRows,
}

impl Amqp091Sink {
    /// Connects; queue or exchange must be there.
    pub(super) fn new(settings: &Amqp091Config) -> Result<Self, TaskError> {
        let way = settings.way().map_err(|problem| TaskError::new(Class::Config, problem))?;
        let tls = way.address.is_secure.then(|| tls(settings, &way.address.host)).transpose()?;
        let link = Link::open(&way, tls, settings.body_max.as_u64())?;
        match (&settings.queue, &settings.exchange) {
            (Some(queue), _) => drop(link.ready(queue)?),
            (None, Some(exchange)) => link.find_exchange(exchange)?,
            (None, None) => {}
        }
        link.ask("cannot ask for confirms", link.channel.confirm_select(ConfirmSelectOptions::default()))?;
        let exchange = short(settings.exchange.as_deref().unwrap_or_default())?;
        Ok(Self { settings: settings.clone(), user: way.user, exchange, link, stored: StoredRows::default() })
    }

    fn message<'a>(
        &self,
        rows: &Rows<'a>,
        row: usize,
        origin: &str,
    ) -> Result<(lapin::BasicProperties, ShortString), String> {
        let given = Given {
            keys: text(rows.keys, row),
            tags: rows.tag(row),
            message_id: rows.message_id(row),
            born: rows.born(row),
            origin,
            user: &self.user,
        };
        let (properties, own_key) = to_properties(given, rows.own_properties(row))?;
        let said = self.settings.queue.as_deref().or(self.settings.routing_key.as_deref());
        let key = text(rows.route, row).or(said).or(own_key).unwrap_or_default();
        let key = ShortString::try_new(key)
            .map_err(|_| format!("a routing key of {} bytes, expected at most 255", key.len()))?;
        Ok((properties, key))
    }

    /// Sends what the broker does not have yet, and waits for its answers. Gives the rows that it has now.
    async fn send(&self, chain: &Chain, slice: &Slice) -> (Vec<RowId>, Result<(), TaskError>) {
        let rows = Rows::new(&slice.envelope);
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (mut sent, mut failure) = (Vec::<(RowId, PublisherConfirm)>::new(), None);
        for (row, place) in row_ids(batch::offsets(&slice.envelope)).enumerate() {
            let (offset, _) = place;
            if self.stored.has(chain, place) {
                continue;
            }
            let origin = format!("{}/{}/{offset}", chain.topic, chain.queue);
            let confirm = match self.message(&rows, row, &origin) {
                Ok((properties, key)) => {
                    let exchange = self.exchange.clone();
                    let body = rows.body(row);
                    let publish = self.link.channel.basic_publish(exchange, key, mandatory, body, properties);
                    self.link.answer("cannot send messages", publish).await
                }
                Err(reason) => {
                    let message = format!("{chain}: row {offset} was taken for a message: {reason}");
                    Err(TaskError::new(Class::Fatal, message))
                }
            };
            match confirm {
                Ok(confirm) => sent.push((place, confirm)),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let (mut stored, mut refusal) = (Vec::new(), None);
        for (place, confirm) in sent {
            match self.link.answer("cannot send messages", confirm).await {
                Ok(Confirmation::Ack(None) | Confirmation::NotRequested) => stored.push(place),
                Ok(Confirmation::Ack(Some(returned))) => {
                    let (key, why) = (&returned.routing_key, &returned.reply_text);
                    let told = format!("no queue takes messages with routing key `{key}` ({why}): bind one");
                    refusal =
                        Some(TaskError::new(Class::Record, format!("{}: {told}", self.settings.shown())));
                }
                Ok(Confirmation::Nack(_)) => {
                    let told =
                        "the broker did not take messages: is a queue full (`x-overflow: reject-publish`)?";
                    failure =
                        Some(TaskError::new(Class::Retry, format!("{}: {told}", self.settings.shown())));
                    break;
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        // That a message can not be routed must not hide that the broker is away.
        (stored, failure.or(refusal).map_or(Ok(()), Err))
    }
}

fn tls(settings: &Amqp091Config, host: &str) -> Result<sluice_bridges::stream::Tls, TaskError> {
    Tls::for_host(settings.tls.as_ref(), host)
        .map_err(|e| TaskError::new(Class::Config, "cannot speak TLS as asked for").because(e))
}

/// What a run finds at the broker, for a person; sends nothing.
pub(super) fn check(settings: &Amqp091Config) -> Result<String, TaskError> {
    Amqp091Sink::new(settings).map(|_| format!("{} is there: at_least_once", settings.shown()))
}

impl TransactTask for Amqp091Sink {
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
            self.message(&rows, row, "").err()
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
        let (stored, sent) = self.link.wait(self.send(chain, slice));
        self.stored.add(chain, stored);
        sent.map_err(|error| match self.link.is_blocked() {
            true => TaskError::new(
                Class::Retry,
                format!(
                    "{}: it takes no messages, because it is short of memory or disk",
                    self.settings.shown()
                ),
            )
            .because(error),
            false => error,
        })?;
        self.stored.forget(chain, slice.range.end);
        Ok(())
    }

    /// What a broker confirmed is as durable as its queues are.
    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }

    fn keeps_positions(&self) -> bool {
        false
    }
}
