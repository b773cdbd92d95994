//! The accounts of access control, in a file or among the broker's settings: RocketMQ's `plain_acl.yml`, read strictly.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, Visitor};
use sluice_broker::{Account, Accounts, Network, Permission, Secret};
use sluice_connect::config::Problem;
use sluice_connect::config::tree::Node;

use crate::load;

/// The accounts, or the file that has them. Keys are those of RocketMQ.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct AclSettings {
    /// The file; then nothing else is said.
    pub(crate) file: Option<PathBuf>,
    accounts: Option<Vec<AccountSettings>>,
    global_white_remote_addresses: Option<Vec<Networks>>,
    /// What RocketMQ's tools write there; says nothing.
    #[serde(rename = "dataVersion")]
    _data_version: Option<IgnoredAny>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AccountSettings {
    access_key: Text,
    secret_key: Text,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    white_remote_address: Option<Networks>,
    #[serde(default)]
    default_topic_perm: Perm,
    #[serde(default)]
    default_group_perm: Perm,
    #[serde(default)]
    topic_perms: Option<Vec<NamedPerm>>,
    #[serde(default)]
    group_perms: Option<Vec<NamedPerm>>,
}

/// Text that may look like a number, but must be written as text: `007` is 7 to YAML.
#[derive(Clone)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                match text {
                    "" => Err(E::custom("is empty")),
                    text => Ok(Text(text.to_owned())),
                }
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Text, E> {
                Err(E::custom("is a number to YAML: write it in quotes"))
            }
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Text, E> {
                Err(E::custom("is a number to YAML: write it in quotes"))
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Text, E> {
                Err(E::custom("is a number to YAML: write it in quotes"))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Addresses with commas between.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
struct Networks(Vec<Network>);

impl TryFrom<String> for Networks {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(try_from = "String")]
struct Perm(Permission);

impl TryFrom<String> for Perm {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

/// `name=PERMISSION`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
struct NamedPerm(String, Permission);

impl TryFrom<String> for NamedPerm {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, permission)) if !name.trim().is_empty() => {
                Ok(Self(name.trim().to_owned(), permission.parse()?))
            }
            _ => Err(format!("`{text}` is not NAME=PERMISSION, as orders=PUB|SUB")),
        }
    }
}

/// A file, by its flag.
impl FromStr for AclSettings {
    type Err = std::convert::Infallible;

    fn from_str(file: &str) -> Result<Self, Self::Err> {
        Ok(Self { file: Some(file.into()), ..Self::default() })
    }
}

impl AclSettings {
    /// What is wrong among values that are right each for itself; `at` is where they stand in the tree.
    pub(crate) fn problems(&self, tree: &Node, at: &[&str]) -> Vec<Problem> {
        let problem = |keys: &[&str], message: String| {
            let path = [at, keys].concat();
            Problem { place: tree.locate(&path), path: path.join("."), message }
        };
        let says_more = self.accounts.is_some() || self.global_white_remote_addresses.is_some();
        if self.file.is_some() {
            let both = "stands beside accounts: they are here, or in that file".to_owned();
            return says_more.then(|| problem(&["file"], both)).into_iter().collect();
        }
        let accounts = self.accounts.as_deref().unwrap_or_default();
        if accounts.is_empty() {
            let none =
                "nobody could do anything: name `accounts`, at least one with `admin: true`".to_owned();
            return vec![problem(&[], none)];
        }
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for (number, AccountSettings { access_key: Text(access_key), .. }) in accounts.iter().enumerate() {
            if !seen.insert(access_key) {
                let message = format!("another account has the name `{access_key}`, too");
                found.push(problem(&["accounts", &format!("[{number}]"), "accessKey"], message));
            }
        }
        found
    }

    /// The accounts; those of the file, if one is named.
    pub(crate) fn load(&self) -> Result<Accounts> {
        match &self.file {
            Some(file) => read(file),
            None => Ok(self.accounts()),
        }
    }

    fn accounts(&self) -> Accounts {
        let networks = |all: &Networks| all.0.clone();
        let perms = |perms: &Option<Vec<NamedPerm>>| {
            perms.iter().flatten().map(|NamedPerm(name, perm)| (name.clone(), *perm)).collect()
        };
        let account = |account: &AccountSettings| Account {
            access_key: account.access_key.0.clone(),
            secret: Secret::new(&account.secret_key.0),
            admin: account.admin,
            trusted: account.white_remote_address.as_ref().map(networks).unwrap_or_default(),
            default_topic: account.default_topic_perm.0,
            default_group: account.default_group_perm.0,
            topics: perms(&account.topic_perms),
            groups: perms(&account.group_perms),
        };
        let trusted = self.global_white_remote_addresses.iter().flatten().flat_map(networks).collect();
        Accounts::new(self.accounts.iter().flatten().map(account), trusted)
    }
}

/// Reads the accounts of a file, or tells all that is wrong in it.
fn read(file: &Path) -> Result<Accounts> {
    let told = |problems: Vec<Problem>| {
        let problems: Vec<_> = problems.into_iter().map(|p| (file.to_owned(), p)).collect();
        load::not_right(&problems)
    };
    let (settings, tree): (AclSettings, _) = load::settings(file).map_err(told)?;
    let mut problems = settings.problems(&tree, &[]);
    if settings.file.is_some() {
        let message = "this is the file of the accounts; it names no other".to_owned();
        problems = vec![Problem { place: tree.locate(&["file"]), path: "file".to_owned(), message }];
    }
    if problems.is_empty() { Ok(settings.accounts()) } else { Err(told(problems)) }
}
