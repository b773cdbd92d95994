//! `sluice cluster`: the brokers that name servers know, and what each tells of itself.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;
use serde_json::json;
use sluice_client::Admin;

use crate::network::NetworkArguments;
use crate::show::{causes, time_text};

#[derive(Args)]
pub(crate) struct ClusterArguments {
    #[command(flatten)]
    network: NetworkArguments,
}

/// One process of a broker: a master has id 0.
struct Row {
    cluster: String,
    broker: String,
    id: i64,
    address: Arc<str>,
    /// By RocketMQ's names, or why it told nothing.
    told: Result<BTreeMap<String, String>>,
}

pub(crate) fn run(arguments: &ClusterArguments) -> Result<ExitCode> {
    let rows = arguments.network.run(async |client| {
        let admin = Admin::new(&client);
        let cluster = admin.cluster().await?;
        let mut rows = Vec::new();
        for (name, broker) in cluster.broker_addr_table {
            for (id, address) in broker.broker_addrs {
                let address: Arc<str> = address.into();
                let told = admin.runtime(&address).await.map_err(Into::into);
                rows.push(Row { cluster: broker.cluster.clone(), broker: name.clone(), id, address, told });
            }
        }
        Ok(rows)
    })?;
    let mut out = std::io::stdout().lock();
    let failed = rows.iter().any(|row| row.told.is_err());
    if arguments.network.json() {
        let list: Vec<_> = rows
            .iter()
            .map(|Row { cluster, broker, id, address, told }| {
                let (told, error) = match told {
                    Ok(told) => (Some(told), None),
                    Err(error) => (None, Some(causes(error))),
                };
                json!({
                    "cluster": cluster, "broker": broker, "id": id, "address": &**address, "status": told,
                    "error": error,
                })
            })
            .collect();
        writeln!(out, "{}", json!({ "brokers": list }))?;
    } else {
        let widths = |text: fn(&Row) -> &str, least: usize| {
            rows.iter().map(|row| text(row).len()).max().unwrap_or(0).max(least)
        };
        let (c, b, a) =
            (widths(|row| &row.cluster, 7), widths(|row| &row.broker, 6), widths(|row| &row.address, 7));
        writeln!(
            out,
            "{:c$}  {:b$}  {:>2}  {:a$}  {:16}  {:24}  {:>10}",
            "CLUSTER", "BROKER", "ID", "ADDRESS", "VERSION", "SINCE", "LOG"
        )?;
        for Row { cluster, broker, id, address, told } in &rows {
            write!(out, "{cluster:c$}  {broker:b$}  {id:>2}  {address:a$}  ")?;
            match told {
                Ok(told) => {
                    let text = |name: &str| told.get(name).map_or("-", String::as_str);
                    let since = text("bootTimestamp").parse().map_or("-".to_owned(), time_text);
                    let log = text("commitLogMaxOffset").parse().map(|bytes| ByteSize(bytes).to_string());
                    let (version, log) = (text("brokerVersionDesc"), log.unwrap_or("-".to_owned()));
                    writeln!(out, "{version:16}  {since:24}  {log:>10}")?;
                }
                Err(error) => writeln!(out, "{}", causes(error))?,
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
