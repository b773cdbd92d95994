//! A member of a consumer group that reads nothing by itself: it is known to the brokers, and knows the others. What
//! the members share, and how, is the caller's.

use std::sync::Arc;
use std::time::Duration;

use sluice_protocol::id::GroupName;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::assigned::Start;
use crate::client::Client;
use crate::consumer::Subscription;
use crate::error::Error;
use crate::group::{
    HEARTBEAT_INTERVAL, Membership, REBALANCE_INTERVAL, concerns, every, heartbeat, leave, members_with,
};

/// Heartbeats of one lease: so many may be late or lost.
const HEARTBEATS_OF_LEASE: u32 = 4;

/// Settings of a [`Member`].
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// The consumer group.
    pub group: String,
    /// Where the group says that it begins; for tools that show it.
    pub start: Start,
    /// How long the member may be silent before the others are told that it is gone. Sluice's brokers take its
    /// word for it, from 1 s to 120 s; `RocketMQ`'s have their own limit.
    pub lease: Duration,
}

/// A member of a group until it leaves or is dropped. One that is dropped is gone when its lease or the client's
/// connections end.
pub struct Member {
    client: Client,
    membership: Arc<Membership>,
    members: watch::Receiver<Arc<[String]>>,
    task: JoinHandle<()>,
}

impl Member {
    /// Joins the group as one that subscribes to this. A client can have one member of a group.
    pub async fn join(
        client: &Client,
        settings: MemberSettings,
        subscription: Subscription,
    ) -> Result<Self, Error> {
        let MemberSettings { group, start, lease } = settings;
        GroupName::new(&group)?;
        let membership = Membership::new(client, &group, vec![subscription.clone()])?;
        let membership = Arc::new(membership.from(start).lease(lease));
        // What changes from here on is told.
        let requests = client.server_requests();
        let joined = async {
            client.fetch_route(&subscription.topic).await?;
            heartbeat(client, &membership).await?;
            members_with(client, &membership, &subscription.topic).await
        };
        let members = joined.await.inspect_err(|_| client.leave(&group))?;
        let (sender, receiver) = watch::channel(members.into());
        let kept = Kept { client: client.clone(), membership: Arc::clone(&membership), subscription, sender };
        let task = tokio::spawn(kept.run(requests, lease));
        Ok(Self { client: client.clone(), membership, members: receiver, task })
    }

    /// The ids of all members in order, this one's ([`Client::id`]) among them, as the brokers last said.
    pub fn members(&self) -> watch::Receiver<Arc<[String]>> {
        self.members.clone()
    }

    /// Tells the brokers that it is gone, so that the others hear of it at once.
    pub async fn leave(self) {
        self.task.abort();
        leave(&self.client, &self.membership).await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
        self.client.leave(&self.membership.group);
    }
}

/// What keeps a member in its group.
struct Kept {
    client: Client,
    membership: Arc<Membership>,
    subscription: Subscription,
    sender: watch::Sender<Arc<[String]>>,
}

impl Kept {
    async fn run(
        self,
        mut requests: tokio::sync::broadcast::Receiver<crate::connection::ServerRequest>,
        lease: Duration,
    ) {
        let Self { client, membership, subscription, sender } = self;
        let group = &membership.group;
        let mut heartbeats = every((lease / HEARTBEATS_OF_LEASE).min(HEARTBEAT_INTERVAL));
        let mut looks = every(REBALANCE_INTERVAL);
        loop {
            tokio::select! {
                _ = heartbeats.tick() => {
                    if let Err(error) = heartbeat(&client, &membership).await {
                        tracing::warn!(group, %error, "could not send a heartbeat");
                    }
                    continue;
                }
                _ = looks.tick() => {}
                request = requests.recv() => {
                    // Those that were missed may have been for this group.
                    if request.is_ok_and(|request| !concerns(&request, group)) {
                        continue;
                    }
                    looks.reset();
                }
            }
            match members_with(&client, &membership, &subscription.topic).await {
                Ok(members) if members.is_empty() => {}
                Ok(members) => {
                    sender.send_if_modified(|known| {
                        let changed = **known != *members;
                        if changed {
                            *known = members.into();
                        }
                        changed
                    });
                }
                Err(error) => tracing::warn!(group, %error, "could not ask for the members of the group"),
            }
        }
    }
}
