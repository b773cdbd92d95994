//! Who may do what: the accounts with their secrets and permissions, and the check of each request.
//!
//! After the access control of `RocketMQ` 4.x ("ACL 1.0") and its file `plain_acl.yml`: a request is signed by the
//! account that it names, see [`sluice_protocol::signature`], and accounts may publish to topics and subscribe to topics
//! and groups. What a request needs stands in [`needs`]. Reads no file and knows no time.

pub(crate) mod needs;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use sluice_protocol::code::ResponseCode;
use sluice_protocol::signature::{ACCESS_KEY, Secret};
use sluice_protocol::topic::{DLQ_PREFIX, RETRY_PREFIX};

use crate::dispatch::Request;
use crate::metrics::Refused;
use crate::reply::Reply;
use crate::topic::{TRACE, is_system};

/// What an account may do with a topic or a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permission {
    /// Send to it.
    pub publish: bool,
    /// Read it; of a group: be a member.
    pub subscribe: bool,
}

impl FromStr for Permission {
    type Err = String;

    /// Reads `DENY`, `PUB`, `SUB` or `PUB|SUB`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (publish, subscribe) = match text.trim() {
            "DENY" => (false, false),
            "PUB" => (true, false),
            "SUB" => (false, true),
            "PUB|SUB" | "SUB|PUB" => (true, true),
            _ => return Err(format!("`{text}` is no permission, expected one of: DENY, PUB, SUB, PUB|SUB")),
        };
        Ok(Self { publish, subscribe })
    }
}

/// Addresses of machines: one, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    /// Bits that count.
    prefix: u32,
}

impl Network {
    /// Whether an address is one of them.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let bits = |addr: IpAddr| match addr.to_canonical() {
            IpAddr::V4(addr) => (u128::from(addr.to_bits()) << 96, true),
            IpAddr::V6(addr) => (addr.to_bits(), false),
        };
        let ((one, kind), (other, other_kind)) = (bits(self.first), bits(addr));
        kind == other_kind && (self.prefix == 0 || (one ^ other) >> (128 - self.prefix.min(128)) == 0)
    }
}

impl FromStr for Network {
    type Err = String;

    /// Reads `10.0.0.7`, `10.0.0.0/8`, `10.1.*` with as many parts as there are, or an address of IPv6.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bad = || {
            format!(
                "`{text}` is no address: write 10.0.0.7, a network as 10.0.0.0/8, or 10.0.0.* for 10.0.0.0/24"
            )
        };
        let bits = |addr: &IpAddr| if addr.is_ipv4() { 32 } else { 128 };
        if let Some(parts) = text.strip_suffix(".*") {
            // RocketMQ writes a star for each part that is left.
            let parts = parts.trim_end_matches(".*");
            let count = u32::try_from(parts.split('.').count()).ok().filter(|count| *count < 4);
            let count = count.ok_or_else(bad)?;
            let full = format!("{parts}{}", ".0".repeat(4 - count as usize));
            return Ok(Self { first: full.parse().map_err(|_| bad())?, prefix: 8 * count });
        }
        let (addr, prefix) = text.split_once('/').map_or((text, None), |(addr, prefix)| (addr, Some(prefix)));
        let first: IpAddr = addr.parse().map_err(|_| bad())?;
        let prefix = prefix.map_or(Ok(bits(&first)), |prefix| prefix.parse().map_err(|_| bad()))?;
        if prefix > bits(&first) {
            return Err(bad());
        }
        Ok(Self { first: first.to_canonical(), prefix })
    }
}

/// One who may sign requests.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name.
    pub access_key: String,
    /// By which its requests are signed.
    pub secret: Secret,
    /// Whether it may do everything.
    pub admin: bool,
    /// From here it needs no signature and may do everything.
    pub trusted: Vec<Network>,
    /// Of topics that have none of their own.
    pub default_topic: Permission,
    /// Of groups that have none of their own.
    pub default_group: Permission,
    /// By topic.
    pub topics: HashMap<String, Permission>,
    /// By group.
    pub groups: HashMap<String, Permission>,
}

/// The accounts, and from where everybody may do everything.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    by_access_key: HashMap<String, Arc<Account>>,
    trusted: Vec<Network>,
}

impl Accounts {
    /// Of two with one access key the later one counts.
    pub fn new(accounts: impl IntoIterator<Item = Account>, trusted: Vec<Network>) -> Self {
        let accounts = accounts.into_iter().map(|account| (account.access_key.clone(), Arc::new(account)));
        Self { by_access_key: accounts.collect(), trusted }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_access_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_access_key.is_empty()
    }

    /// Who sent a request, if the signature proves it.
    pub(crate) fn identify(&self, request: &Request<'_>, peer: SocketAddr) -> Result<Caller, Denied> {
        // For an account that is not there the work is the same.
        static NOBODY: LazyLock<Secret> = LazyLock::new(|| Secret::new("nobody's"));
        let from = peer.ip();
        let is_one = |networks: &[Network]| networks.iter().any(|network| network.contains(from));
        if is_one(&self.trusted) {
            return Ok(Caller::Trusted);
        }
        // C++ clients without credentials sign with empty texts.
        let Some(access_key) = request.header.fields.get(ACCESS_KEY).filter(|key| !key.is_empty()) else {
            let remark = "this broker takes signed requests only: give the client the access key and the secret key \
                          of an account";
            return Err(Denied { why: Refused::Unsigned, remark: remark.to_owned() });
        };
        let account = self.by_access_key.get(access_key);
        if let Some(account) = account.filter(|account| is_one(&account.trusted)) {
            return Ok(Caller::Account(Arc::new(Account { admin: true, ..(**account).clone() })));
        }
        let secret = account.map_or(&*NOBODY, |account| &account.secret);
        let is_signed = secret.verify(&request.header, request.body);
        match account.filter(|_| is_signed) {
            Some(account) => Ok(Caller::Account(Arc::clone(account))),
            None => {
                let shown: String = access_key.chars().take(100).collect();
                let remark = format!(
                    "there is no account {shown:?}, or the request is not signed by its secret key: look at both keys of \
                     the client"
                );
                Err(Denied { why: Refused::Signature, remark })
            }
        }
    }
}

/// A request that is not done.
#[derive(Debug)]
pub(crate) struct Denied {
    pub(crate) why: Refused,
    pub(crate) remark: String,
}

impl From<Denied> for Reply {
    fn from(denied: Denied) -> Self {
        Reply::refuse(ResponseCode::NO_PERMISSION, denied.remark)
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Everybody may do everything: there is no access control, or not for this address.
    Trusted,
    /// An account.
    Account(Arc<Account>),
}

/// What shall be done with a topic.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// Send to it.
    Publish,
    /// Read its messages.
    Subscribe,
    /// Ask about it, as both producers and consumers do.
    Inspect,
}

impl Act {
    fn is_granted(self, permission: Permission) -> bool {
        match self {
            Self::Publish => permission.publish,
            Self::Subscribe => permission.subscribe,
            Self::Inspect => permission.publish || permission.subscribe,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Publish => "PUB",
            Self::Subscribe => "SUB",
            Self::Inspect => "PUB or SUB",
        }
    }
}

impl Caller {
    /// The name of the account.
    pub(crate) fn access_key(&self) -> Option<&str> {
        match self {
            Self::Trusted => None,
            Self::Account(account) => Some(&account.access_key),
        }
    }

    /// The account, if it can not do everything.
    fn limited(&self) -> Option<&Account> {
        match self {
            Self::Account(account) if !account.admin => Some(account),
            _ => None,
        }
    }

    /// Whether it may do what only administrators may.
    pub(crate) fn may_administrate(&self, what: &str) -> Result<(), Denied> {
        let Some(account) = self.limited() else { return Ok(()) };
        Err(denied(account, format!("{what} is for accounts with `admin: true`")))
    }

    /// Whether it may do that with a topic. Retry and dead-letter topics are their group's.
    pub(crate) fn may(&self, act: Act, topic: &str) -> Result<(), Denied> {
        let Some(account) = self.limited() else { return Ok(()) };
        if let Some(of_group) = topic.strip_prefix(RETRY_PREFIX).or_else(|| topic.strip_prefix(DLQ_PREFIX)) {
            return self.may_join(of_group);
        }
        let permission = match account.topics.get(topic) {
            Some(permission) => *permission,
            // Clients write there what became of messages, whatever their account.
            None if topic == TRACE && matches!(act, Act::Publish) => return Ok(()),
            // What the broker keeps of all topics is no topic of everybody's.
            None if is_system(topic) => Permission::default(),
            None => account.default_topic,
        };
        if act.is_granted(permission) {
            return Ok(());
        }
        Err(denied(account, format!("{} of topic {topic} is not permitted", act.name())))
    }

    /// Whether it may be a member of a group.
    pub(crate) fn may_join(&self, group: &str) -> Result<(), Denied> {
        let Some(account) = self.limited() else { return Ok(()) };
        if account.groups.get(group).unwrap_or(&account.default_group).subscribe {
            return Ok(());
        }
        Err(denied(account, format!("SUB of group {group} is not permitted")))
    }

    /// Whether it may read a topic as a member of a group.
    pub(crate) fn may_consume(&self, topic: &str, group: &str) -> Result<(), Denied> {
        if self.limited().is_none() {
            return Ok(());
        }
        self.may_join(group)?;
        // What a group pops again stands in a topic of the group and the topic.
        let retried = topic.strip_prefix(RETRY_PREFIX).and_then(|rest| rest.strip_prefix(group));
        match retried {
            Some("") => Ok(()),
            retried => {
                let of_both = retried.and_then(|rest| rest.strip_prefix(['_', '+']));
                self.may(Act::Subscribe, of_both.unwrap_or(topic))
            }
        }
    }
}

fn denied(account: &Account, what: String) -> Denied {
    let remark = format!("account {:?}: {what}", account.access_key);
    Denied { why: Refused::Permission, remark }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        let permission = |text: &str| text.parse::<Permission>().unwrap();
        let table = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), permission(text))).collect()
        };
        Account {
            access_key: "app".into(),
            secret: Secret::new("secret"),
            admin: false,
            trusted: Vec::new(),
            default_topic: Permission::default(),
            default_group: permission("DENY"),
            topics: table(&[("orders", "PUB"), ("events", "SUB"), ("both", "PUB|SUB"), ("none", "DENY")]),
            groups: table(&[("billing", "SUB"), ("closed", "DENY")]),
        }
    }

    fn check(caller: &Caller, act: Act, yes: &[&str], no: &[&str]) {
        for topic in yes {
            caller.may(act, topic).unwrap_or_else(|denied| panic!("{topic}: {denied:?}"));
        }
        for topic in no {
            let denied = caller.may(act, topic).expect_err(topic);
            assert!(denied.remark.contains("app") && denied.remark.contains("permitted"), "{denied:?}");
        }
    }

    #[test]
    fn an_account_may_do_what_its_permissions_say_and_no_more() {
        let caller = Caller::Account(Arc::new(account()));
        check(&caller, Act::Publish, &["orders", "both", "%RETRY%billing"], &["events", "none", "other"]);
        check(
            &caller,
            Act::Subscribe,
            &["events", "both", "%DLQ%billing"],
            &["orders", "none", "%DLQ%closed"],
        );
        check(&caller, Act::Inspect, &["events", "orders", "both"], &["none", "other", "%RETRY%other"]);
        assert!(caller.may_administrate("x").is_err());
        let open = Account { default_topic: "PUB|SUB".parse().unwrap(), ..account() };
        let caller = Caller::Account(Arc::new(open));
        check(
            &caller,
            Act::Publish,
            &["other", "RMQ_SYS_TRACE_TOPIC"],
            &["events", "none", "SCHEDULE_TOPIC_XXXX"],
        );
        check(
            &caller,
            Act::Subscribe,
            &["other"],
            &["SLUICE_AUDIT", "RMQ_SYS_TRACE_TOPIC", "rmq_sys_sluice_timer_done"],
        );
        let admin = Caller::Account(Arc::new(Account { admin: true, ..account() }));
        check(&admin, Act::Subscribe, &["SLUICE_AUDIT", "none"], &[]);
        assert!(admin.may_administrate("x").is_ok() && admin.may_join("closed").is_ok());
    }

    #[test]
    fn a_retry_topic_of_a_group_and_a_topic_needs_both() {
        let caller = Caller::Account(Arc::new(account()));
        let may = |topic: &str| caller.may_consume(topic, "billing").is_ok();
        assert!(
            may("events")
                && may("%RETRY%billing")
                && may("%RETRY%billing_events")
                && may("%RETRY%billing+events")
        );
        assert!(
            !may("orders")
                && !may("%RETRY%billing_orders")
                && !may("%RETRY%closed")
                && !may("%RETRY%billing2")
        );
        assert!(caller.may_consume("events", "closed").is_err());
    }

    #[test]
    fn networks_are_written_as_people_write_them() {
        let check = |text: &str, yes: &[&str], no: &[&str]| {
            let network: Network = text.parse().unwrap();
            let contains = |addr: &&str| network.contains(addr.parse().unwrap());
            assert!(yes.iter().all(contains), "{text}");
            assert!(!no.iter().any(contains), "{text}");
        };
        check("10.0.0.7", &["10.0.0.7", "::ffff:10.0.0.7"], &["10.0.0.8", "::1"]);
        check("10.0.0.0/8", &["10.255.0.1"], &["11.0.0.1"]);
        check("10.1.*", &["10.1.9.9"], &["10.2.0.1"]);
        check("192.168.*.*", &["192.168.3.4"], &["192.169.0.1"]);
        check("0.0.0.0/0", &["1.2.3.4"], &["::1"]);
        check("fd00::/8", &["fd12::1"], &["fe80::1", "10.0.0.1"]);
        for bad in ["", "10", "10.0.0", "10.0.0.0/33", "10.0.0.1-9", "*", "host", "10.*.1.2", "::/129"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
