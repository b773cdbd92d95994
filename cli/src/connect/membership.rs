//! A worker's membership of the group of one pipeline: it keeps the pipeline's assignment true to who is there.

use std::sync::Arc;
use std::time::Duration;

use sluice_client::{Client, Member, MemberSettings, Start, Subscription, TopicName};
use sluice_connect::assignment::Assignment;
use sluice_connect::pipeline::Clock;
use sluice_sources::topic::{Begin, TopicConfig};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The wait before a worker that could not join tries again.
const JOIN_AGAIN: Duration = Duration::from_secs(1);
/// How long brokers that do not answer may hold up the end of a worker.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// The membership, until it is left.
pub(super) struct Membership {
    leave: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What a membership is of.
pub(super) struct Wanted {
    pub(super) client: Client,
    /// The group, and the source that its members share.
    pub(super) group: String,
    pub(super) topic: TopicName,
    pub(super) start: Begin,
    pub(super) lease: Duration,
    pub(super) clock: Clock,
}

impl Wanted {
    pub(super) fn new(
        client: Client,
        group: String,
        config: &TopicConfig,
        lease: Duration,
        clock: Clock,
    ) -> Result<Self, sluice_client::Error> {
        Ok(Self { client, group, topic: TopicName::new(&config.name)?, start: config.start, lease, clock })
    }
}

impl Membership {
    /// Joins as soon as a broker listens; must be called within a runtime.
    pub(super) fn start(wanted: Wanted, assignment: Arc<Assignment>) -> Self {
        let (leave, left) = oneshot::channel();
        Self { leave, task: tokio::spawn(keep(wanted, assignment, left)) }
    }

    /// Leaves the group, so that the others take over at once.
    pub(super) async fn leave(self) {
        // It may have ended already.
        let _ = self.leave.send(());
        let abort = self.task.abort_handle();
        if tokio::time::timeout(LEAVE_MAX, self.task).await.is_err() {
            abort.abort();
        }
    }
}

async fn keep(wanted: Wanted, assignment: Arc<Assignment>, mut left: oneshot::Receiver<()>) {
    let Wanted { client, group, topic, start, lease, clock } = wanted;
    let start = match start {
        Begin::Earliest => Start::First,
        Begin::Latest => Start::Last,
    };
    let settings = MemberSettings { group: group.clone(), start, lease };
    let member = loop {
        let join = async {
            let joined = Member::join(&client, settings.clone(), Subscription::all(&topic)).await;
            if let Err(error) = &joined {
                tracing::warn!(group, topic = topic.as_str(), %error, "could not join the group, trying again");
                tokio::time::sleep(JOIN_AGAIN).await;
            }
            joined
        };
        tokio::select! {
            _ = &mut left => return,
            joined = join => if let Ok(member) = joined { break member },
        }
    };
    let mut members = member.members();
    loop {
        let (place, workers) = {
            let members = members.borrow_and_update();
            (members.iter().position(|id| id == client.id()), members.len())
        };
        match place {
            Some(place) => assignment.set(place, workers, (clock)()),
            None => assignment.set(0, 0, (clock)()),
        }
        tracing::info!(group, worker = client.id(), place, workers, "the workers of the group changed");
        tokio::select! {
            _ = &mut left => break,
            changed = members.changed() => if changed.is_err() { break },
        }
    }
    member.leave().await;
}
