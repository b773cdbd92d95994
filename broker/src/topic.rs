//! Topics and groups: made by clients or administrators, and told to name servers; codes 17, 202, 215, 300, 351.

use std::collections::BTreeMap;

use sluice_protocol::body::{DataVersion, GroupList};
use sluice_protocol::code::ResponseCode;
use sluice_protocol::delay::{self, Level};
use sluice_protocol::id::{GroupName, QueueId, QueueOffset, TopicName};
use sluice_protocol::queue::{TopicOffset, TopicStats};
use sluice_protocol::registration::Registration;
use sluice_protocol::request;
use sluice_protocol::topic::{DLQ_PREFIX, RETRY_PREFIX, TopicConfig, TopicConfigTable, perm};
use sluice_store::{Access, Error as StoreError, QUEUES_MAX, Store, Topic};

use crate::broker::Broker;
use crate::dispatch::Request;
use crate::reply::{Reply, no_topic};
use crate::{audit, timer, transaction};

/// The topic whose settings topics get that clients make (`RocketMQ` 4.x and 5.x).
pub(crate) const TEMPLATE: &str = "TBW102";
/// Queues of the template: no topic that a client makes has more.
const TEMPLATE_QUEUES: u32 = 8;
/// Where clients tell of what became of messages, if they are asked to.
pub(crate) const TRACE: &str = "RMQ_SYS_TRACE_TOPIC";

/// Names that no administrator may set (`RocketMQ` 5.3.3).
pub(crate) fn is_system(topic: &str) -> bool {
    const NAMES: [&str; 11] = [
        TEMPLATE,
        "SCHEDULE_TOPIC_XXXX",
        "BenchmarkTest",
        "RMQ_SYS_TRANS_HALF_TOPIC",
        TRACE,
        "RMQ_SYS_TRANS_OP_HALF_TOPIC",
        "TRANS_CHECK_MAX_TIME_TOPIC",
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
        "CHECKPOINT_TOPIC",
        audit::TOPIC,
    ];
    NAMES.contains(&topic) || topic.starts_with("rmq_sys_")
}

/// The name of a topic that the broker keeps for itself.
pub(crate) fn own_topic(name: &'static str) -> TopicName {
    TopicName::stored(name).expect("the broker's own names are names")
}

/// Makes the topics that the broker keeps for itself, and those of traces, replies and the audit log, where they are not there.
pub(crate) fn make_own_topics(store: &Store, cluster: &str) -> Result<(), StoreError> {
    let levels = u32::try_from(Level::all().count()).unwrap_or(u32::MAX);
    for (name, queues) in [
        (delay::TOPIC, levels),
        (delay::TIMER_TOPIC, timer::QUEUES),
        (timer::DONE, timer::QUEUES),
        (transaction::HALF, 1),
        (transaction::DONE, 1),
        (TRACE, 1),
        (audit::TOPIC, 1),
    ] {
        store.create_topic(&own_topic(name), queues)?;
    }
    // A cluster may have a name that no topic can have.
    if let Ok(replies) = TopicName::new(&format!("{cluster}_REPLY_TOPIC")) {
        store.create_topic(&replies, 1)?;
    }
    Ok(())
}

impl Broker {
    /// Makes the topic of a send, if clients may make topics.
    pub(crate) fn topic_for_send(
        &self,
        topic: &TopicName,
        template: &str,
        queues: i32,
    ) -> Result<Access, Reply> {
        let retry = topic.as_str().starts_with(RETRY_PREFIX) || topic.as_str().starts_with(DLQ_PREFIX);
        let made = if retry {
            Some(Access::all(1))
        } else if template == TEMPLATE && self.settings.auto_create_topics {
            Some(Access::all(u32::try_from(queues).unwrap_or(1).clamp(1, TEMPLATE_QUEUES)))
        } else {
            // Any topic may be a template that has the bit for it.
            let template = TopicName::new(template).ok().and_then(|template| self.store.topic(&template));
            template.map(|template| template.access).filter(|access| access.perm & perm::INHERIT != 0).map(
                |access| {
                    let count = u32::try_from(queues).unwrap_or(1).clamp(1, access.write_queues.max(1));
                    Access { perm: access.perm & !perm::INHERIT, ..Access::all(count) }
                },
            )
        };
        let Some(access) = made else { return Err(no_topic(topic)) };
        self.make_topic(topic, access).map(|topic| topic.access)
    }

    pub(crate) fn make_retry_topic(&self, group: &GroupName) -> Result<(), Reply> {
        let topic = TopicName::stored(&format!("{RETRY_PREFIX}{group}"))?;
        self.topic_or_make(&topic, Access::all(1)).map(drop)
    }

    /// What may be done with a topic that the broker needs; it is made if it is not there.
    pub(crate) fn topic_or_make(&self, topic: &TopicName, access: Access) -> Result<Access, Reply> {
        match self.store.topic(topic) {
            Some(known) => Ok(known.access),
            None => self.make_topic(topic, access).map(|made| made.access),
        }
    }

    /// Makes or changes a topic, and tells the name servers.
    fn make_topic(&self, topic: &TopicName, access: Access) -> Result<Topic, Reply> {
        // It waits for the disk.
        let made = tokio::task::block_in_place(|| {
            let queues = access.read_queues.max(access.write_queues).max(1);
            let made = self.store.create_topic(topic, queues)?;
            if made.access == access { Ok(made) } else { self.store.set_access(topic, access) }
        })?;
        tracing::info!(%topic, read_queues = access.read_queues, write_queues = access.write_queues, perm = access.perm, "topic");
        self.tell_name_servers();
        Ok(made)
    }

    /// Tells the name server of this process at once, and wakes who tells the others.
    pub(crate) fn tell_name_servers(&self) {
        if let Some(name_server) = &self.name_server {
            name_server.register_own(&self.settings, &self.registration().topics);
        }
        self.topics_changed.send_replace(());
    }

    /// What this broker tells name servers.
    pub(crate) fn registration(&self) -> Registration {
        let mut topics = self.topic_table();
        let table = &mut topics.topic_config_table;
        let template_perm =
            perm::READ | perm::WRITE | if self.settings.auto_create_topics { perm::INHERIT } else { 0 };
        let template = Access { perm: template_perm, ..Access::all(TEMPLATE_QUEUES) };
        table.insert(TEMPLATE.to_owned(), config(TEMPLATE, template));
        // Clients find a cluster and a broker by topics of their names.
        let all = Access { perm: template_perm | perm::INHERIT, ..Access::all(16) };
        table.insert(self.settings.cluster.clone(), config(&self.settings.cluster, all));
        table.insert(
            self.settings.name.clone(),
            config(&self.settings.name, Access { read_queues: 1, write_queues: 1, ..all }),
        );
        Registration { topics, ..Registration::default() }
    }

    /// The settings of all topics.
    pub(crate) fn topic_table(&self) -> TopicConfigTable {
        let topics = self.store.topics();
        let data_version = DataVersion {
            counter: self.store.topics_version(),
            timestamp: self.started_ms,
            ..DataVersion::default()
        };
        let table =
            topics.iter().map(|topic| (topic.name.to_string(), config(topic.name.as_str(), topic.access)));
        TopicConfigTable { data_version, topic_config_table: table.collect(), ..TopicConfigTable::default() }
    }

    pub(crate) fn update_topic(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::CreateTopic::parse(&request.header.fields)?;
        if let Some(attributes) =
            asked.attributes.filter(|text| !text.is_empty() && *text != "+message.type=NORMAL")
        {
            return Err(no_attributes(attributes));
        }
        self.set_topic(&TopicConfig {
            topic_name: asked.topic.to_owned(),
            read_queue_nums: asked.read_queue_nums,
            write_queue_nums: asked.write_queue_nums,
            perm: asked.perm,
            ..TopicConfig::default()
        })?;
        Ok(Reply::ok())
    }

    /// Makes or changes a topic as an administrator wants it.
    pub(crate) fn set_topic(&self, config: &TopicConfig) -> Result<(), Reply> {
        if is_system(&config.topic_name) {
            let remark = format!("topic {} is the broker's own", config.topic_name);
            return Err(Reply::refuse(ResponseCode::INVALID_PARAMETER, remark));
        }
        let topic = TopicName::new(&config.topic_name)?;
        if let Some((name, value)) = config
            .attributes
            .iter()
            .find(|(name, value)| (name.as_str(), value.as_str()) != ("message.type", "NORMAL"))
        {
            return Err(no_attributes(&format!("{name}={value}")));
        }
        let count = |what: &str, count: i32| {
            u32::try_from(count).ok().filter(|count| *count <= QUEUES_MAX).ok_or_else(|| {
                let remark = format!("{what} is {count}, it can be 0 to {QUEUES_MAX}");
                Reply::refuse(ResponseCode::INVALID_PARAMETER, remark)
            })
        };
        let access = Access {
            read_queues: count("readQueueNums", config.read_queue_nums)?,
            write_queues: count("writeQueueNums", config.write_queue_nums)?,
            perm: config.perm & (perm::READ | perm::WRITE | perm::INHERIT),
        };
        self.make_topic(&topic, access).map(drop)
    }

    /// Deletes a topic; one that is not there is deleted already.
    pub(crate) fn delete_topic(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::TopicOnly::parse(&request.header.fields)?;
        if is_system(asked.topic) {
            let remark = format!("topic {} is the broker's own", asked.topic);
            return Err(Reply::refuse(ResponseCode::INVALID_PARAMETER, remark));
        }
        let name = TopicName::new(asked.topic)?;
        let Some(topic) = self.store.topic(&name) else { return Ok(Reply::ok()) };
        // It waits for the disk.
        match tokio::task::block_in_place(|| self.store.delete_topic(&name)) {
            Err(StoreError::NoTopic { .. }) => return Ok(Reply::ok()),
            deleted => deleted?,
        }
        tracing::info!(topic = %name, "topic deleted");
        self.tell_name_servers();
        // Who waits there is told that it is gone.
        QueueId::all(topic.queues).for_each(|queue| self.long_poll.arrived(&name, queue));
        Ok(Reply::ok())
    }

    pub(crate) fn topic_config(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::TopicOnly::parse(&request.header.fields)?;
        let topic = self.known(asked.topic)?;
        Ok(Reply::body(config(topic.name.as_str(), topic.access).encode()))
    }

    pub(crate) fn topic_stats(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::TopicOnly::parse(&request.header.fields)?;
        let topic = self.known(asked.topic)?;
        let mut offset_table = BTreeMap::new();
        for queue in QueueId::all(topic.access.read_queues.max(topic.access.write_queues)) {
            let Some((first, end)) = self.store.offsets(&topic.name, queue) else { continue };
            let last = QueueOffset::new((end.get() - 1).max(0));
            let last_update_timestamp = self.stored_at(&topic.name, queue, last).unwrap_or(0);
            offset_table.insert(
                self.named(&topic.name, queue),
                TopicOffset { last_update_timestamp, max_offset: end.get(), min_offset: first.get() },
            );
        }
        Ok(Reply::body(TopicStats { offset_table, topic_put_tps: 0.0 }.encode()))
    }

    pub(crate) fn topic_groups(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::TopicOnly::parse(&request.header.fields)?;
        let topic = self.known(asked.topic)?;
        Ok(Reply::body(GroupList { group_list: self.groups_of(&topic.name) }.encode()))
    }

    fn known(&self, topic: &str) -> Result<Topic, Reply> {
        let name = TopicName::new(topic)?;
        self.store.topic(&name).ok_or_else(|| no_topic(&name))
    }
}

fn no_attributes(attributes: &str) -> Reply {
    let remark = format!("topic attributes {attributes:?} are not taken by this broker yet");
    Reply::refuse(ResponseCode::SYSTEM_ERROR, remark)
}

fn config(name: &str, access: Access) -> TopicConfig {
    let count = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    TopicConfig {
        topic_name: name.to_owned(),
        read_queue_nums: count(access.read_queues),
        write_queue_nums: count(access.write_queues),
        perm: access.perm,
        ..TopicConfig::default()
    }
}
