//! Topics of the target: asked for, made, and what a run finds there.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode;
use sluice_bridges::kafka::Side;
use sluice_bridges::kafka::client::{self, Context, Wait, failed};
use sluice_connect::config::Delivery;
use sluice_connect::task::{Class, TaskError};

use super::{KafkaConfig, Properties};

/// How long the settings of a topic are asked for, which brokers may not tell.
const POLICY_MAX: Duration = Duration::from_secs(2);
/// How long a topic that was just made may stay unknown.
const MADE_MAX: Duration = Duration::from_secs(15);

/// What a run finds at the brokers, for a person; makes nothing.
pub(super) fn check(settings: &KafkaConfig, delivery: Delivery) -> Result<String, TaskError> {
    let KafkaConfig { bootstrap, topic, properties, .. } = settings;
    let producers = client::config(Side::Sink, bootstrap, properties);
    let asker = client::asker(&reading(&producers, bootstrap))?;
    let known = client::topic(&asker, topic)?;
    let there = match (known, settings.partitions) {
        (Some(known), _) => format!("topic {topic} is there, with {} partitions", known.partitions),
        (None, Some(partitions)) => {
            format!("topic {topic} is made by the first run, with {partitions} partitions")
        }
        (None, None) => {
            let message = format!("no such topic: {topic} (asked at {bootstrap})");
            return Err(TaskError::new(Class::Config, message));
        }
    };
    if delivery == Delivery::AtLeastOnce {
        return Ok(format!("{there}: at_least_once"));
    }
    let positions = &settings.positions;
    match client::topic(&asker, positions)? {
        Some(_) => make_positions(&asker, &producers, settings)
            .map(|()| format!("{there}; positions in topic {positions}: exactly_once")),
        None => Ok(format!("{there}; topic {positions} is made for positions: exactly_once")),
    }
}

/// The topic of positions: one partition, compacted, since a position that is gone would store rows twice.
pub(super) fn make_positions(
    asker: &BaseConsumer<Context>,
    config: &ClientConfig,
    settings: &KafkaConfig,
) -> Result<(), TaskError> {
    let topic = settings.positions.as_str();
    if client::topic(asker, topic)?.is_none() {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
        make(asker, config, &new)?;
    }
    match policy(config, topic) {
        Ok(Some(policy)) if policy != "compact" => {
            let message = format!(
                "topic {topic} holds positions and has `cleanup.policy={policy}`: they would be deleted, and rows stored twice. \
                 Set it to `compact`, or name another topic by `positions`"
            );
            Err(TaskError::new(Class::Config, message))
        }
        Ok(_) => Ok(()),
        // Who may not ask may write all the same.
        Err(error) => {
            tracing::warn!(topic, %error, "whether the topic of positions is compacted is not known");
            Ok(())
        }
    }
}

fn admin(config: &ClientConfig) -> Result<(AdminClient<Context>, tokio::runtime::Runtime), TaskError> {
    let context = Context::default();
    let told = Arc::clone(&context.told);
    let admin =
        config.create_with_context(context).map_err(|e| failed("cannot make a Kafka client", e, &told))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok((admin, runtime.map_err(|e| TaskError::io("cannot start the runtime of a client", e))?))
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(client::ANSWER_MAX)).request_timeout(Some(client::ANSWER_MAX))
}

/// Makes a topic, and waits until it is known; how many partitions it has.
pub(super) fn make(
    asker: &BaseConsumer<Context>,
    config: &ClientConfig,
    new: &NewTopic<'_>,
) -> Result<i32, TaskError> {
    let (admin, runtime) = admin(config)?;
    let what = format!("cannot make topic {}", new.name);
    let told = &admin.inner().context().told;
    let results = runtime.block_on(admin.create_topics([new], &options()));
    for result in results.map_err(|e| failed(what.clone(), e, told))? {
        match result {
            // Another worker was faster.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(TaskError::new(client::class(code), what).because(code)),
        }
    }
    let wait = Wait::begin(MADE_MAX);
    loop {
        match client::topic(asker, new.name) {
            Ok(Some(topic)) if topic.partitions > 0 => return Ok(topic.partitions),
            Err(error) if error.class != Class::Retry => return Err(error),
            _ if wait.is_over() => {
                let message = format!("topic {} was made and is not known yet", new.name);
                return Err(TaskError::new(Class::Retry, message));
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// What becomes of the topic's old records, if brokers tell.
fn policy(config: &ClientConfig, topic: &str) -> Result<Option<String>, TaskError> {
    let (admin, runtime) = admin(config)?;
    let what = format!("cannot ask for the settings of topic {topic}");
    let options = AdminOptions::new().request_timeout(Some(POLICY_MAX));
    let asked = runtime.block_on(admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options));
    let asked = asked.map_err(|e| failed(what.clone(), e, &admin.inner().context().told))?;
    let Some(resource) = asked.into_iter().next() else { return Ok(None) };
    let resource = resource.map_err(|code| TaskError::new(client::class(code), what).because(code))?;
    Ok(resource.get("cleanup.policy").and_then(|entry| entry.value.clone()))
}

/// The configuration of a consumer for the brokers of a producer: what is said of the connection holds for both.
pub(super) fn reading(producers: &ClientConfig, bootstrap: &str) -> ClientConfig {
    let mut readers = client::config(Side::Source, bootstrap, &Properties::new());
    for (key, _) in producers.config_map() {
        let of_connection = ["ssl.", "sasl.", "security.", "socket.", "broker.", "client.", "reconnect."];
        let said = producers.get(key).filter(|_| of_connection.iter().any(|prefix| key.starts_with(prefix)));
        if let Some(value) = said {
            readers.set(key, value);
        }
    }
    readers
}
