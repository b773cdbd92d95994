//! Where a topic's queues are, out of what a name server answers. Asks nobody; [`crate::client`] does.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::queue::MessageQueue;
use sluice_protocol::route::{MASTER, QueueData, Route};
use sluice_protocol::topic::perm;

/// Topic whose route tells where topics that do not exist yet are made.
pub const TEMPLATE_TOPIC: &str = "TBW102";

/// Most queues of a topic at one broker that a route may have.
pub const QUEUES_MAX: i32 = 16_384;

/// One queue of a topic at a broker; ordered by topic, broker and number, as every member of a group orders
/// them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    /// The topic.
    pub topic: TopicName,
    /// The broker's name, which is none of its addresses.
    pub broker: Arc<str>,
    /// Number of the queue at this broker.
    pub id: QueueId,
}

/// As `topic/broker/number`.
impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.broker, self.id)
    }
}

impl From<&Queue> for MessageQueue {
    fn from(queue: &Queue) -> Self {
        let Queue { topic, broker, id } = queue;
        Self { topic: topic.to_string(), broker_name: broker.to_string(), queue_id: id.get() }
    }
}

/// A topic's queues and brokers at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRoute {
    /// Queues that take messages, of brokers with a master; in order.
    pub write_queues: Vec<Queue>,
    /// Queues that can be read; in order.
    pub read_queues: Vec<Queue>,
    /// By broker name.
    pub brokers: HashMap<Arc<str>, BrokerAddresses>,
    /// Whether the topic does not exist yet: the broker makes it with the first message.
    pub is_template: bool,
}

/// Where a broker is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerAddresses {
    /// Address of the one that takes messages, if it lives.
    pub master: Option<Arc<str>>,
    /// Addresses by id, the master's too.
    pub all: Vec<(i64, Arc<str>)>,
}

impl BrokerAddresses {
    /// Whom to read from: the one with that id, else the master, else any.
    pub fn to_read(&self, id: i64) -> Option<&Arc<str>> {
        let suggested = self.all.iter().find(|(other, _)| *other == id).map(|(_, address)| address);
        suggested.or(self.master.as_ref()).or_else(|| self.all.first().map(|(_, address)| address))
    }
}

impl TopicRoute {
    /// Reads the route of a topic; an error is a number of queues beyond [`QUEUES_MAX`].
    pub fn new(topic: &TopicName, route: &Route) -> Result<Self, i32> {
        let mut brokers = HashMap::new();
        for data in &route.broker_datas {
            let all: Vec<(i64, Arc<str>)> =
                data.broker_addrs.iter().map(|(id, address)| (*id, address.as_str().into())).collect();
            let master = all.iter().find(|(id, _)| *id == MASTER).map(|(_, address)| Arc::clone(address));
            brokers.insert(Arc::from(data.broker_name.as_str()), BrokerAddresses { master, all });
        }
        let mut made =
            Self { write_queues: Vec::new(), read_queues: Vec::new(), brokers, is_template: false };
        for data in &route.queue_datas {
            let Some((name, addresses)) = made.brokers.get_key_value(data.broker_name.as_str()) else {
                continue;
            };
            if data.perm & perm::WRITE != 0 && addresses.master.is_some() {
                queues(&mut made.write_queues, topic, name, data.write_queue_nums)?;
            }
            if data.perm & perm::READ != 0 {
                queues(&mut made.read_queues, topic, name, data.read_queue_nums)?;
            }
        }
        made.write_queues.sort_unstable();
        made.read_queues.sort_unstable();
        Ok(made)
    }

    /// The route that a topic will have once its first message made it, out of that of [`TEMPLATE_TOPIC`].
    pub fn of_template(topic: &TopicName, route: &Route, queues_wanted: i32) -> Result<Self, i32> {
        let cut = |data: &QueueData| {
            let queue_nums = data.write_queue_nums.min(queues_wanted);
            QueueData { read_queue_nums: queue_nums, write_queue_nums: queue_nums, ..data.clone() }
        };
        let queue_datas = route.queue_datas.iter().map(cut).collect();
        let route = Route { queue_datas, ..route.clone() };
        Ok(Self { is_template: true, ..Self::new(topic, &route)? })
    }

    /// Address of the broker that takes messages under that name.
    pub fn master(&self, broker: &str) -> Option<&Arc<str>> {
        self.brokers.get(broker)?.master.as_ref()
    }

    /// Addresses of the brokers that take messages.
    pub fn masters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.brokers.values().filter_map(|broker| broker.master.as_ref())
    }

    /// Addresses of all brokers, masters and slaves.
    pub fn addresses(&self) -> impl Iterator<Item = &Arc<str>> {
        self.brokers.values().flat_map(|broker| broker.all.iter().map(|(_, address)| address))
    }
}

fn queues(out: &mut Vec<Queue>, topic: &TopicName, broker: &Arc<str>, count: i32) -> Result<(), i32> {
    if count > QUEUES_MAX {
        return Err(count);
    }
    let queue = |id| Queue { topic: topic.clone(), broker: Arc::clone(broker), id };
    out.extend((0..count).filter_map(|id| QueueId::new(id).ok()).map(queue));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sluice_protocol::route::BrokerData;

    use super::*;

    fn route() -> Route {
        let broker = |name: &str, ids: &[i64]| BrokerData {
            broker_name: name.into(),
            broker_addrs: ids.iter().map(|id| (*id, format!("{name}:{id}"))).collect::<BTreeMap<_, _>>(),
            ..BrokerData::default()
        };
        let queues = |name: &str, read, write, perm| QueueData {
            broker_name: name.into(),
            perm,
            read_queue_nums: read,
            write_queue_nums: write,
            topic_sys_flag: 0,
        };
        Route {
            broker_datas: vec![broker("b", &[0, 1]), broker("a", &[1]), broker("c", &[0])],
            queue_datas: vec![
                queues("b", 2, 1, 6),
                queues("a", 1, 1, 6),
                queues("c", 1, 1, 4),
                queues("x", 9, 9, 6),
            ],
            ..Route::default()
        }
    }

    fn shown(queues: &[Queue]) -> String {
        queues.iter().map(Queue::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_queues_with_permission_and_a_master_take_messages() {
        let route = TopicRoute::new(&TopicName::new("t").unwrap(), &route()).unwrap();
        assert_eq!(shown(&route.write_queues), "t/b/0");
        assert_eq!(shown(&route.read_queues), "t/a/0 t/b/0 t/b/1 t/c/0");
        let b = &route.brokers["b"];
        assert_eq!([0, 1, 7].map(|id| &**b.to_read(id).unwrap()), ["b:0", "b:1", "b:0"]);
        assert_eq!(route.brokers["a"].to_read(0).map(|a| &**a), Some("a:1"));
        assert_eq!(route.master("a"), None);
        assert_eq!(route.addresses().count(), 4);
    }

    #[test]
    fn a_topic_to_be_made_has_no_more_queues_than_wanted() {
        let topic = TopicName::new("t").unwrap();
        let mut given = route();
        given.queue_datas[0].write_queue_nums = 8;
        let made = TopicRoute::of_template(&topic, &given, 4).unwrap();
        assert_eq!(made.write_queues.len(), 4);
        assert!(made.is_template);
        given.queue_datas[0].read_queue_nums = i32::MAX;
        assert_eq!(TopicRoute::new(&topic, &given), Err(i32::MAX));
    }
}
