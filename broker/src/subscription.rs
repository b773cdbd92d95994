//! Expressions of subscriptions, compiled once however many pulls carry them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_filters::{Dialect, Filter};
use sluice_protocol::code::ResponseCode;
use sluice_protocol::message::tag_hash;

use crate::pull::Wanted;
use crate::reply::Reply;

/// Expressions that are kept compiled.
const KEPT_MAX: usize = 4096;
/// Longest expression, in bytes.
const EXPRESSION_BYTES_MAX: usize = 32 * 1024;

/// Compiled expressions by kind and text.
#[derive(Default)]
pub(crate) struct Expressions(Mutex<HashMap<(bool, String), Wanted>>);

impl Expressions {
    /// What an expression of kind `TAG` or `SQL92` wants.
    pub(crate) fn compile(&self, kind: &str, text: &str) -> Result<Wanted, Reply> {
        let sql = match kind {
            "" | "TAG" => false,
            "SQL92" => true,
            _ => {
                let remark = format!("filter kind {kind} is not known; use TAG or SQL92");
                return Err(Reply::refuse(ResponseCode::SUBSCRIPTION_PARSE_FAILED, remark));
            }
        };
        if !sql && matches!(text.trim(), "" | "*") {
            return Ok(Wanted::All);
        }
        if text.len() > EXPRESSION_BYTES_MAX {
            let len = text.len();
            let remark = format!("the expression has {len} bytes, the limit is {EXPRESSION_BYTES_MAX}");
            return Err(Reply::refuse(ResponseCode::SUBSCRIPTION_PARSE_FAILED, remark));
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (sql, text.to_owned());
        if let Some(known) = kept.get(&key) {
            return Ok(known.clone());
        }
        let compiled = if sql { sql92(text)? } else { tags(text) };
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, compiled.clone());
        Ok(compiled)
    }
}

fn sql92(text: &str) -> Result<Wanted, Reply> {
    let filter = Filter::parse(text, Dialect::RocketMq).map_err(|error| {
        let remark = format!("the SQL92 expression can not be read: {error}");
        Reply::refuse(ResponseCode::SUBSCRIPTION_PARSE_FAILED, remark)
    })?;
    for notice in filter.notices() {
        tracing::warn!(
            expression = text,
            meaning = notice.text,
            "a subscription means something else than in SQL"
        );
    }
    Ok(Wanted::Sql(Arc::new(filter)))
}

/// Tags with `||` between.
fn tags(text: &str) -> Wanted {
    let mut hashes: Vec<i64> =
        text.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(tag_hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    if hashes.is_empty() { Wanted::All } else { Wanted::Tags(hashes.into()) }
}
