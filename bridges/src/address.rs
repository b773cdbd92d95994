//! Where a broker of queues listens, as a pipeline's `url` says it.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use url::Url;

/// A broker's place, of `scheme://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Whether TLS is spoken there.
    pub is_secure: bool,
    /// The host's name or address, in brackets if it has colons.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What stands behind the first slash, decoded; `None` without a slash.
    pub path: Option<String>,
}

/// Two schemes, without and with TLS, and their ports.
pub type Schemes = [(&'static str, u16); 2];

impl Address {
    /// Reads a URL. User and password have keys of their own, so that a password can be a variable.
    pub fn parse(text: &str, schemes: Schemes) -> Result<Self, String> {
        let expected = format!("expected {}://HOST:PORT", schemes[0].0);
        // Looked for before anything else: a password that a URL can not hold as it is may be read as a port or a path.
        if text.contains('@') {
            return Err(
                "user and password do not belong here: write `user` and `password: ${VAR}` beside `url`; a `@` in a path is \
                 written `%40`"
                    .to_owned(),
            );
        }
        // What stands behind may be a password, too.
        let shown = text.split(['?', '#']).next().unwrap_or_default();
        let url = Url::parse(text).map_err(|error| format!("`{shown}` is no URL ({error}): {expected}"))?;
        let known = schemes.iter().position(|(scheme, _)| *scheme == url.scheme());
        let (Some(place), Some(host)) = (known, url.host_str().filter(|host| !host.is_empty())) else {
            return Err(format!("`{shown}`: {expected}"));
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("`{shown}` has something behind the path: {expected}"));
        }
        let path = match url.path() {
            "" => None,
            path => {
                let decoded = percent_decode_str(path.trim_start_matches('/')).decode_utf8();
                Some(decoded.map_err(|_| format!("the path of `{text}` is no UTF-8"))?.into_owned())
            }
        };
        let port = url.port().unwrap_or(schemes[place].1);
        Ok(Self { is_secure: place == 1, host: host.to_owned(), port, path })
    }

    /// The host as sockets take it.
    pub fn socket(&self) -> (&str, u16) {
        (self.host.trim_matches(['[', ']']), self.port)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is wrong with a `url` of AMQP and the `tls` beside it, each by its key.
pub fn problems(address: Result<Address, String>, has_tls: bool) -> Vec<(Vec<String>, String)> {
    let (key, problem) = match address {
        Err(problem) => ("url", problem),
        Ok(address) if has_tls && !address.is_secure => ("tls", "is for `amqps://`".to_owned()),
        Ok(_) => return Vec::new(),
    };
    vec![(vec![key.to_owned()], problem)]
}

/// Whether a host, an IPv6 address with or without brackets, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: Schemes = [("amqp", 5672), ("amqps", 5671)];

    #[test]
    fn a_url_says_host_port_and_path() {
        let parse = |text| Address::parse(text, SCHEMES).unwrap();
        let at = |is_secure, host: &str, port, path: Option<&str>| Address {
            is_secure,
            host: host.to_owned(),
            port,
            path: path.map(str::to_owned),
        };
        assert_eq!(parse("amqp://h"), at(false, "h", 5672, None));
        assert_eq!(parse("amqps://h/%2f"), at(true, "h", 5671, Some("/")));
        assert_eq!(parse("amqp://[::1]:7/a%20b"), at(false, "[::1]", 7, Some("a b")));
        assert_eq!(parse("amqp://h/"), at(false, "h", 5672, Some("")));
        assert_eq!(parse("amqp://h/a%40b"), at(false, "h", 5672, Some("a@b")));
        assert_eq!(parse("amqp://[::1]:7").socket(), ("::1", 7));
    }

    #[test]
    fn what_is_no_address_is_told() {
        for (text, part) in [
            ("h:5672", "amqp://HOST:PORT"),
            ("http://h", "amqp://HOST:PORT"),
            ("amqp://", "amqp://HOST:PORT"),
            ("amqp://me:secret@h", "password: ${VAR}"),
            ("amqp://h?heartbeat=1", "behind the path"),
            ("amqp://h:99999", "no URL"),
            ("amqp://h/%ff", "no UTF-8"),
        ] {
            let told = Address::parse(text, SCHEMES).unwrap_err();
            assert!(told.contains(part), "{text}: {told}");
        }
    }

    #[test]
    fn a_password_is_not_told() {
        for text in [
            "http://me:secret@h",
            "me:secret@h",
            "amqp://me:secret@",
            "amqp://me:#secret@h",
            "amqp://me:1#secret@h",
            "amqp://me:1/secret@h",
            "amqp://me:1?secret@h",
            "amqp://me:secret/@h",
            "amqp://me:secret@h:99999",
            "amqp://me:secret@h/%ff",
        ] {
            let told = Address::parse(text, SCHEMES).unwrap_err();
            assert!(told.contains("password: ${VAR}") && !told.contains("secret"), "{text}: {told}");
        }
        for text in ["amqp://h/x?user=me&password=secret", "jdbc:amqp://h?password=secret", "h:99999?secret"]
        {
            let told = Address::parse(text, SCHEMES).unwrap_err();
            assert!(told.contains("amqp://HOST:PORT") && !told.contains("secret"), "{text}: {told}");
        }
    }
}
