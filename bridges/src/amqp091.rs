//! RabbitMQ and others by AMQP 0-9-1: where a broker is, and how a pipeline gets in.

#[cfg(feature = "amqp091")]
pub mod client;
#[cfg(feature = "amqp091")]
mod guard;
#[cfg(feature = "amqp091")]
pub mod mapping;

use crate::address::{Address, Schemes};

const SCHEMES: Schemes = [("amqp", 5672), ("amqps", 5671)];

/// What a build without the feature says.
pub const WITHOUT: &str = "this program was built without AMQP 0-9-1: build it with `--features amqp091`";

/// What names of queues, exchanges and routing keys take, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Where a broker is, and how to get in.
#[derive(Clone, Debug)]
pub struct Way {
    /// The broker's place.
    pub address: Address,
    /// The virtual host.
    pub vhost: String,
    /// The account.
    pub user: String,
    /// Its password.
    pub password: Password,
}

/// A password; never shown.
#[derive(Clone)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Way {
    /// Of `amqp://HOST:PORT/VHOST` and an account; `guest` if none is said, as brokers are set up.
    pub fn new(url: &str, user: Option<&str>, password: Option<&str>) -> Result<Self, String> {
        let address = Address::parse(url, SCHEMES)?;
        let vhost = address.path.clone().unwrap_or_else(|| "/".to_owned());
        let (user, password) = (user.unwrap_or("guest"), password.unwrap_or("guest"));
        Ok(Self { address, vhost, user: user.to_owned(), password: Password(password.to_owned()) })
    }

    /// A broker's place for a person.
    pub fn shown(&self) -> String {
        format!(
            "{}{}",
            self.address,
            if self.vhost == "/" { String::new() } else { format!("/{}", self.vhost) }
        )
    }
}

/// What is wrong with the name of a queue or an exchange.
pub fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("the name is missing".to_owned());
    }
    if name.bytes().any(|b| b < b' ') {
        return Some("the name holds a control character".to_owned());
    }
    (name.len() > NAME_BYTES_MAX)
        .then(|| format!("a name of {} bytes, expected at most {NAME_BYTES_MAX}", name.len()))
}
