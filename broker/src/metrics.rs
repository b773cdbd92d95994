//! What is counted, by the `metrics` facade: without a recorder in the process, nothing is.
//!
//! Counters move once a turn, an append or an answer, and never for each message.

use metrics::{Counter, counter, describe_counter, describe_gauge, gauge};
use sluice_protocol::code::{RequestCode, ResponseCode};

const REQUESTS: &str = "sluice_broker_requests_total";
const CONNECTIONS: &str = "sluice_broker_connections";
const PULLS_HELD: &str = "sluice_broker_pulls_held";
const REFUSED: &str = "sluice_broker_refused_total";
const CONFLICTS: &str = "sluice_broker_subscription_conflicts_total";

/// Counters of what goes through, looked up once.
pub(crate) struct Metrics {
    messages_in: Counter,
    bytes_in: Counter,
    messages_out: Counter,
    bytes_out: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let count = |name: &'static str, help: &'static str| {
            describe_counter!(name, help);
            counter!(name)
        };
        describe_counter!(REQUESTS, "Requests by what they ask, and how they were answered");
        describe_gauge!(CONNECTIONS, "Open connections by whom they reach");
        describe_gauge!(PULLS_HELD, "Pulls that wait for messages");
        gauge!(PULLS_HELD).set(0.0);
        count(
            CONFLICTS,
            "Heartbeats of consumers that subscribe otherwise than another member of their group; the log names them",
        )
        .increment(0);
        describe_counter!(
            REFUSED,
            "Requests and connections that access control or TLS turned away, by reason"
        );
        Refused::ALL.iter().for_each(|why| counter!(REFUSED, "reason" => why.name()).increment(0));
        Self {
            messages_in: count(
                "sluice_broker_messages_in_total",
                "Messages that clients sent and that are stored",
            ),
            bytes_in: count("sluice_broker_bytes_in_total", "Bytes of them, as they are stored"),
            messages_out: count("sluice_broker_messages_out_total", "Messages that pulls took"),
            bytes_out: count("sluice_broker_bytes_out_total", "Bytes of them"),
        }
    }

    /// Messages came in.
    pub(crate) fn stored(&self, messages: usize, bytes: usize) {
        self.messages_in.increment(messages as u64);
        self.bytes_in.increment(bytes as u64);
    }

    /// Messages go out.
    pub(crate) fn pulled(&self, messages: usize, bytes: usize) {
        self.messages_out.increment(messages as u64);
        self.bytes_out.increment(bytes as u64);
    }
}

/// Why a request or a connection is turned away before anybody looks at what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A request without the access key of an account.
    Unsigned,
    /// Signed by nobody who is known.
    Signature,
    /// The account may not do it.
    Permission,
    /// A connection without TLS where it must be.
    Plaintext,
    /// A TLS handshake that failed or took too long.
    Handshake,
}

impl Refused {
    const ALL: [Self; 5] =
        [Self::Unsigned, Self::Signature, Self::Permission, Self::Plaintext, Self::Handshake];

    const fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Signature => "signature",
            Self::Permission => "permission",
            Self::Plaintext => "plaintext",
            Self::Handshake => "handshake",
        }
    }
}

/// Somebody was turned away.
pub(crate) fn refused(why: Refused) {
    counter!(REFUSED, "reason" => why.name()).increment(1);
}

/// A member of a group subscribes otherwise than another one.
pub(crate) fn subscriptions_conflict() {
    counter!(CONFLICTS).increment(1);
}

/// Something that is counted while it is there.
pub(crate) struct Present(metrics::Gauge);

impl Present {
    fn new(gauge: metrics::Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }

    /// A connection to a broker, or to a name server alone.
    pub(crate) fn connection(to_broker: bool) -> Self {
        Self::new(gauge!(CONNECTIONS, "to" => if to_broker { "broker" } else { "name_server" }))
    }

    /// A pull that waits.
    pub(crate) fn held_pull() -> Self {
        Self::new(gauge!(PULLS_HELD))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Requests of one connection by code and outcome, added up until a turn ends.
#[derive(Default)]
pub(crate) struct Tally(Vec<Entry>);

struct Entry {
    request: RequestCode,
    outcome: ResponseCode,
    count: u64,
    counter: Counter,
}

impl Tally {
    /// Adds a request.
    pub(crate) fn add(&mut self, request: RequestCode, outcome: ResponseCode) {
        if let Some(entry) = self.0.iter_mut().find(|e| e.request == request && e.outcome == outcome) {
            entry.count += 1;
            return;
        }
        // Clients must not be able to make series without end.
        let Some(name) = request.name() else {
            counter!(REQUESTS, "request" => "OTHER", "outcome" => outcome.name().unwrap_or("OTHER"))
                .increment(1);
            return;
        };
        let counter = counter!(REQUESTS, "request" => name, "outcome" => outcome.name().unwrap_or("OTHER"));
        self.0.push(Entry { request, outcome, count: 1, counter });
    }

    /// Counts what was added.
    pub(crate) fn flush(&mut self) {
        for entry in self.0.iter_mut().filter(|entry| entry.count > 0) {
            entry.counter.increment(std::mem::take(&mut entry.count));
        }
    }
}
