//! What has to hold of any text over any properties; the property test and the targets of `fuzz/` share it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewArray};
use sluice_filters::{Dialect, Filter, Name, Scalar, Verdict};
use sluice_protocol::message;

/// The properties as a dialect sees them.
fn properties(encoded: &[u8], dialect: Dialect) -> BTreeMap<String, String> {
    let lossy = String::from_utf8_lossy(encoded);
    let bytes = if dialect == Dialect::RocketMq { lossy.as_bytes() } else { encoded };
    message::properties(bytes).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn column(messages: &[BTreeMap<String, String>], name: &str) -> ArrayRef {
    Arc::new(
        messages.iter().map(|message| message.get(name).map(String::as_str)).collect::<StringViewArray>(),
    )
}

/// The expression of a text. An error has its place in the text, and is shown with it.
pub(crate) fn parse(text: &str, dialect: Dialect) -> Option<Filter> {
    Filter::parse(text, dialect)
        .map_err(|error| {
            assert!(text.get(error.span.clone()).is_some(), "{text:?}");
            assert!(!error.render().is_empty());
        })
        .ok()
}

/// By row and by column, and as explained and traced, there is one answer. Whether each dialect takes the text.
pub(crate) fn check(text: &str, messages: &[Vec<u8>]) -> [bool; 2] {
    [Dialect::Sluice, Dialect::RocketMq].map(|dialect| {
        let Some(filter) = parse(text, dialect) else { return false };
        let maps: Vec<_> = messages.iter().map(|message| properties(message, dialect)).collect();
        let resolve = |name: &Name| match name {
            Name::Property(name) => Some(column(&maps, name)),
            _ => Some(Arc::new(StringViewArray::from(vec![Some("5"); maps.len()])) as ArrayRef),
        };
        let by_row: Vec<Verdict> =
            messages.iter().map(|message| filter.evaluate(message, &|_| Scalar::Text("5"))).collect();
        // Without types that fit there are no columns, and by row what does not fit is unknown.
        if let Ok(by_column) = filter.verdicts(maps.len(), &resolve) {
            assert_eq!(by_row, by_column, "{text:?} with {maps:?}");
        }
        let explain = filter.explain(&|_| None);
        if explain.warnings.iter().any(|warning| warning.text == "no message ever matches") {
            assert!(!by_row.contains(&Verdict::True), "{text:?} with {maps:?}");
        }
        if let (Some(message), Some(map), Some(by_row)) = (messages.first(), maps.first(), by_row.first()) {
            let trace = filter.trace(message, &|_| Scalar::Text("5"));
            if map.values().all(|value| !value.contains('\u{fffd}')) {
                let whole = trace.first().and_then(|line| line.answer.as_ref()).map(|(verdict, _)| verdict);
                assert_eq!(whole, Some(by_row), "{text:?}");
            }
        }
        true
    })
}
