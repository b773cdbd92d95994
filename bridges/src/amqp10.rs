//! ActiveMQ and others by AMQP 1.0: where a broker is, and how a pipeline gets in.

#[cfg(feature = "amqp10")]
pub mod client;
#[cfg(feature = "amqp10")]
mod guard;
#[cfg(feature = "amqp10")]
pub mod mapping;
#[cfg(feature = "amqp10")]
pub mod receive;
#[cfg(feature = "amqp10")]
mod walk;

use crate::address::{Address, Schemes};
use crate::amqp091::Password;

const SCHEMES: Schemes = [("amqp", 5672), ("amqps", 5671)];

/// What a build without the feature says.
pub const WITHOUT: &str = "this program was built without AMQP 1.0: build it with `--features amqp10`";

/// Where a broker is, and how to get in.
#[derive(Clone, Debug)]
pub struct Way {
    /// The broker's place.
    pub address: Address,
    /// The account with its password; as nobody if not said.
    pub login: Option<(String, Password)>,
}

impl Way {
    /// Of `amqp://HOST:PORT` and an account.
    pub fn new(url: &str, user: Option<&str>, password: Option<&str>) -> Result<Self, String> {
        let address = Address::parse(url, SCHEMES)?;
        if address.path.as_ref().is_some_and(|path| !path.is_empty()) {
            return Err(format!("`{url}` has a path: expected amqp://HOST:PORT"));
        }
        let login = match (user, password) {
            (Some(user), password) => {
                Some((user.to_owned(), Password(password.unwrap_or_default().to_owned())))
            }
            (None, None) => None,
            (None, Some(_)) => return Err("`password` stands without `user`".to_owned()),
        };
        Ok(Self { address, login })
    }
}

/// What is wrong with the address of a node: a queue or a topic, as the broker writes it.
pub fn node_problem(address: &str) -> Option<String> {
    if address.is_empty() {
        return Some("the name is missing".to_owned());
    }
    address.bytes().any(|b| b < b' ').then(|| "the name holds a control character".to_owned())
}
