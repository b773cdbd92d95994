//! A consumer's membership of its group: heartbeats, and which queues are its share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use sluice_protocol::body::ConsumerList;
use sluice_protocol::code::RequestCode;
use sluice_protocol::fields::Fields;
use sluice_protocol::heartbeat::{
    CheckClientConfig, ConsumeFromWhere, ConsumeType, ConsumerData, Heartbeat, MessageModel,
};
use sluice_protocol::id::TopicName;
use sluice_protocol::request;
use sluice_protocol::topic::RETRY_PREFIX;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::assigned::Start;
use crate::client::Client;
use crate::clock::now_ms;
use crate::connection::ServerRequest;
use crate::consumer::{Shared, Subscription};
use crate::error::Error;
use crate::pull::Filter;
use crate::rebalance::average;
use crate::route::Queue;

/// How often brokers hear of a member or a producer.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// How often its share is computed without being told to.
const REBALANCE_INTERVAL: Duration = Duration::from_secs(20);

/// Questions about single queues that are under way together: a topic may have thousands.
pub(crate) const ASKED_AT_ONCE: usize = 64;

/// What a member says of itself.
pub(crate) struct Membership {
    pub(crate) group: String,
    subscriptions: Vec<Subscription>,
    /// When the subscriptions were made; brokers keep the newest.
    version: i64,
}

impl Membership {
    pub(crate) fn new(client: &Client, group: &str, subscriptions: Vec<Subscription>) -> Result<Self, Error> {
        if subscriptions.is_empty() {
            let (name, expected) = ("subscriptions", "at least one");
            return Err(Error::Setting { name, value: String::new(), expected });
        }
        if !client.join(group) {
            let (name, expected) = ("group", "one without a member at this client");
            return Err(Error::Setting { name, value: group.to_owned(), expected });
        }
        Ok(Self { group: group.to_owned(), subscriptions, version: now_ms() })
    }
}

/// Makes brokers know the member and starts to read its share.
pub(crate) async fn join(shared: &Arc<Shared>) -> Result<(), Error> {
    let Some(membership) = &shared.membership else { return Ok(()) };
    let joined = async {
        for subscription in &membership.subscriptions {
            let route = match shared.client.fetch_route(&subscription.topic).await {
                // The first heartbeat makes it.
                Err(Error::NoRoute { .. }) if subscription.topic.as_str().starts_with(RETRY_PREFIX) => {
                    continue;
                }
                route => route?,
            };
            if let (Filter::Sql(_), Some(address)) = (&subscription.filter, route.addresses().next()) {
                check_filter(shared, membership, subscription, address).await?;
            }
        }
        heartbeat(shared, membership).await?;
        rebalance(shared, membership).await
    };
    joined.await.inspect_err(|_| shared.client.leave(&membership.group))
}

/// Keeps the member in its group; the consumer ends it.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(membership) = &shared.membership else { return };
    let every = |period| {
        let mut interval = interval_at(Instant::now() + period, period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    };
    let (mut heartbeats, mut rebalances) = (every(HEARTBEAT_INTERVAL), every(REBALANCE_INTERVAL));
    let mut requests = shared.client.server_requests();
    loop {
        tokio::select! {
            _ = heartbeats.tick() => {
                if let Err(error) = heartbeat(&shared, membership).await {
                    tracing::warn!(group = membership.group, %error, "could not send a heartbeat");
                }
                continue;
            }
            _ = rebalances.tick() => {}
            request = requests.recv() => {
                // Those that were missed may have been for this group.
                if request.is_ok_and(|request| !concerns(&request, &membership.group)) {
                    continue;
                }
                rebalances.reset();
            }
        }
        if let Err(error) = rebalance(&shared, membership).await {
            tracing::warn!(group = membership.group, %error, "could not compute the share of queues");
        }
    }
}

/// Tells brokers that the member is gone.
pub(crate) async fn leave(shared: &Shared) {
    let Some(membership) = &shared.membership else { return };
    let header = request::UnregisterClient {
        client_id: shared.client.id(),
        producer_group: None,
        consumer_group: Some(&membership.group),
    };
    for address in addresses(shared, membership).await {
        let code = RequestCode::UNREGISTER_CLIENT;
        if let Err(error) = shared.client.ask(&address, code, header.fields(), &[], &membership.group).await {
            tracing::debug!(group = membership.group, peer = &*address, %error, "could not leave the group");
        }
    }
}

/// Whether brokers tell that the members of the group changed.
fn concerns(request: &ServerRequest, group: &str) -> bool {
    let Ok(header) = request.header() else { return false };
    header.request_code() == RequestCode::NOTIFY_CONSUMER_IDS_CHANGED
        && header.fields.get("consumerGroup") == Some(group)
}

/// Addresses of all brokers of the topics, as far as they are known.
async fn addresses(shared: &Shared, membership: &Membership) -> BTreeSet<Arc<str>> {
    let mut addresses = BTreeSet::new();
    for subscription in &membership.subscriptions {
        match shared.client.route(&subscription.topic).await {
            Ok(route) => addresses.extend(route.addresses().cloned()),
            Err(error) => tracing::debug!(topic = subscription.topic.as_str(), %error, "has no route"),
        }
    }
    addresses
}

/// Tells all brokers; an error if none listens.
async fn heartbeat(shared: &Shared, membership: &Membership) -> Result<(), Error> {
    let data = |subscription: &Subscription| {
        subscription.filter.subscription(subscription.topic.as_str(), membership.version)
    };
    let consumer = ConsumerData {
        group_name: membership.group.clone(),
        consume_type: Some(ConsumeType::Passively),
        message_model: Some(match shared.local {
            Some(_) => MessageModel::Broadcasting,
            None => MessageModel::Clustering,
        }),
        consume_from_where: Some(match shared.settings.start {
            Start::First | Start::Offset(_) => ConsumeFromWhere::FirstOffset,
            Start::Last => ConsumeFromWhere::LastOffset,
            Start::Time(_) => ConsumeFromWhere::Timestamp,
        }),
        subscription_data_set: membership.subscriptions.iter().map(data).collect(),
        unit_mode: false,
    };
    let body = Heartbeat {
        client_id: shared.client.id().to_owned(),
        consumer_data_set: vec![consumer],
        ..Heartbeat::default()
    };
    let body = body.encode();
    let (mut heard, mut failure) = (false, None);
    for address in addresses(shared, membership).await {
        let code = RequestCode::HEART_BEAT;
        match shared.client.ask(&address, code, Fields::new(), &body, &membership.group).await {
            Ok(_) => heard = true,
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if !heard => Err(error),
        Some(error) => {
            tracing::warn!(group = membership.group, %error, "a broker did not take the heartbeat");
            Ok(())
        }
        None => Ok(()),
    }
}

/// Whether a broker can filter so.
async fn check_filter(
    shared: &Shared,
    membership: &Membership,
    subscription: &Subscription,
    address: &Arc<str>,
) -> Result<(), Error> {
    let topic = subscription.topic.as_str();
    let body = CheckClientConfig {
        client_id: shared.client.id().to_owned(),
        group: membership.group.clone(),
        namespace: None,
        subscription_data: subscription.filter.subscription(topic, membership.version),
    };
    let (code, body) = (RequestCode::CHECK_CLIENT_CONFIG, body.encode());
    shared.client.ask(address, code, Fields::new(), &body, topic).await.map(drop)
}

/// Reads what is its share now and nothing else. An error leaves the rest as it is.
async fn rebalance(shared: &Arc<Shared>, membership: &Membership) -> Result<(), Error> {
    let mut failure = Ok(());
    for subscription in &membership.subscriptions {
        let outcome = rebalance_topic(shared, membership, subscription).await;
        failure = failure.and(outcome);
    }
    failure
}

async fn rebalance_topic(
    shared: &Arc<Shared>,
    membership: &Membership,
    subscription: &Subscription,
) -> Result<(), Error> {
    let topic = &subscription.topic;
    let route = match shared.client.route(topic).await {
        Ok(route) => route,
        Err(Error::NoRoute { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut members = members(shared, membership, topic).await?;
    if !members.iter().any(|member| member == shared.client.id()) {
        // A broker that began anew has to hear of the member first.
        heartbeat(shared, membership).await?;
        members = self::members(shared, membership, topic).await?;
    }
    if members.is_empty() {
        return Ok(());
    }
    let share = match shared.local {
        Some(_) => &route.read_queues,
        None => average(&route.read_queues, &members, shared.client.id()),
    };
    let held: BTreeSet<Queue> = shared
        .assigned()
        .iter()
        .map(|assigned| assigned.queue.clone())
        .filter(|q| q.topic == *topic)
        .collect();
    let shared_out: BTreeSet<&Queue> = share.iter().collect();
    for queue in held.iter().filter(|queue| !shared_out.contains(queue)) {
        shared.stop(queue).await;
        tracing::info!(group = membership.group, %queue, "gave a queue up");
    }
    let mut failure = Ok(());
    let taken = share.iter().filter(|queue| !held.contains(queue));
    let taken: Vec<_> =
        taken.map(|queue| shared.start_of(queue).map(move |start| (queue, start)).boxed()).collect();
    let mut starts = futures::stream::iter(taken).buffer_unordered(ASKED_AT_ONCE);
    while let Some((queue, start)) = starts.next().await {
        match start {
            Ok(offset) => {
                shared.start(queue.clone(), subscription.filter.clone(), Some(membership.version), offset);
                tracing::info!(group = membership.group, %queue, queue_offset = offset, "took a queue");
            }
            Err(error) => failure = Err(error),
        }
    }
    failure
}

/// The members of the group in order, as the first broker says that answers; none if none knows.
async fn members(shared: &Shared, membership: &Membership, topic: &TopicName) -> Result<Vec<String>, Error> {
    let route = shared.client.route(topic).await?;
    let header = request::GetConsumerList { consumer_group: &membership.group };
    let mut failure = None;
    for address in route.addresses() {
        let code = RequestCode::GET_CONSUMER_LIST_BY_GROUP;
        match shared.client.ask(address, code, header.fields(), &[], &membership.group).await {
            Ok(response) => {
                let list = ConsumerList::decode(&response.body)
                    .map_err(|error| Error::unreadable(address, code, "body", error))?;
                let mut members = list.consumer_id_list;
                members.sort_unstable();
                return Ok(members);
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        // The broker knows no member, which is code 1.
        Some(error) if error.response_code().is_none() => Err(error),
        _ => Ok(Vec::new()),
    }
}
