//! Where topics are: the bodies that a name server answers with.

use std::collections::BTreeMap;

use crate::body::{bodies, encode};
use crate::version;

/// Id of the broker that takes messages.
pub const MASTER: i64 = 0;

bodies! {
    /// The brokers and queues of one topic: the response to code 105.
    Route {
        broker_datas: Vec<BrokerData> = "brokerDatas";
        /// Normally empty.
        filter_server_table: BTreeMap<String, Vec<String>> = "filterServerTable";
        /// `broker-a:4;broker-b:4`, of ordered topics only.
        order_topic_conf: Option<String> = "orderTopicConf";
        queue_datas: Vec<QueueData> = "queueDatas";
    }

    /// A broker: a master and its slaves under one name.
    BrokerData {
        /// `host:port` by broker id; [`MASTER`] takes messages.
        broker_addrs: BTreeMap<i64, String> = "brokerAddrs";
        broker_name: String = "brokerName";
        cluster: String = "cluster";
        enable_acting_master: bool = "enableActingMaster";
        zone_name: Option<String> = "zoneName";
    }

    /// A topic's queues at one broker.
    QueueData {
        broker_name: String = "brokerName";
        /// Bits of [`crate::topic::perm`].
        perm: i32 = "perm";
        read_queue_nums: i32 = "readQueueNums";
        topic_sys_flag: i32 = "topicSysFlag" | "topicSynFlag";
        write_queue_nums: i32 = "writeQueueNums";
    }

    /// The brokers and clusters that a name server knows: the response to code 106.
    ClusterInfo {
        broker_addr_table: BTreeMap<String, BrokerData> = "brokerAddrTable";
        /// Names of brokers by cluster.
        cluster_addr_table: BTreeMap<String, Vec<String>> = "clusterAddrTable";
    }
}

impl Route {
    /// The body for a client: broker ids stand in quotes from 4.9.4 on, or where the request asks for it.
    pub fn encode_for(&self, client_version: i32, standard_json: bool) -> Vec<u8> {
        encode(self, standard_json || client_version >= version::QUOTED_BROKER_IDS)
    }
}
