//! `sluice filter explain | test`: what an expression means, and what it says of properties or of a file of cases.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use arrow::datatypes::DataType;
use clap::{Subcommand, ValueEnum};
use serde::Deserialize;
use sluice_connect::batch;
use sluice_filters::{Dialect, Filter, Name, Scalar, Verdict};
use sluice_protocol::message::push_property;

#[derive(Subcommand)]
pub(crate) enum FilterCommand {
    /// Show how an expression is read: its tree, types, what is pushed down, and what can hardly be meant
    #[command(after_help = "Examples:
  sluice filter explain \"origin IN ('EWR', 'JFK') AND dep_delay > 15\"
  sluice filter explain \"NOT a = 1\" --dialect rocketmq")]
    Explain {
        /// The expression
        expression: String,
        /// The language that it is written in
        #[arg(long, value_enum, default_value = "sluice")]
        dialect: DialectArgument,
    },
    /// Evaluate an expression over properties, or a file of cases
    #[command(after_help = "Examples:
  sluice filter test \"dep_delay > 15 OR origin = 'JFK'\" --props dep_delay=20 origin=EWR
  sluice filter test --cases cases.jsonl

A case is one JSON object a line: `dialect`, `expr`, `props` (name to text) and `expect` (`true`, `false`, `null` for
unknown, or `parse_error`). Exit code 1 if any case has another answer.")]
    Test {
        /// The expression
        #[arg(required_unless_present = "cases", conflicts_with = "cases")]
        expression: Option<String>,
        /// The language that it is written in
        #[arg(long, value_enum, default_value = "sluice", conflicts_with = "cases")]
        dialect: DialectArgument,
        /// Properties of the message
        #[arg(long, value_name = "NAME=VALUE", num_args = 1.., conflicts_with = "cases")]
        props: Vec<String>,
        /// A file of cases
        #[arg(long, value_name = "FILE")]
        cases: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DialectArgument {
    /// Standard SQL; the language of pipelines
    Sluice,
    /// What RocketMQ's clients subscribe with, exactly as its engine reads it
    Rocketmq,
}

impl From<DialectArgument> for Dialect {
    fn from(dialect: DialectArgument) -> Self {
        match dialect {
            DialectArgument::Sluice => Self::Sluice,
            DialectArgument::Rocketmq => Self::RocketMq,
        }
    }
}

pub(crate) fn run(command: FilterCommand) -> Result<ExitCode> {
    match command {
        FilterCommand::Explain { expression, dialect } => explain(&parse(&expression, dialect.into())?)?,
        FilterCommand::Test { cases: Some(file), .. } => return test_cases(&file),
        FilterCommand::Test { expression, dialect, props, .. } => {
            test(&parse(&expression.unwrap_or_default(), dialect.into())?, &props)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(expression: &str, dialect: Dialect) -> Result<Filter> {
    Filter::parse(expression, dialect)
        .map_err(|error| anyhow::anyhow!("the expression is not right\n{}", error.render()))
}

/// How an expression is read, as JSON; `Err` says what is wrong in it.
pub(crate) fn explain_json(expression: &str, dialect: &str) -> Result<serde_json::Value> {
    let dialect = DialectArgument::from_str(dialect, true)
        .map_err(|_| anyhow::anyhow!("dialect `{dialect}`: expected sluice or rocketmq"))?;
    let filter = parse(expression, dialect.into())?;
    let explain = filter.explain(&data_type);
    let note = |span: &std::ops::Range<usize>, text: &str| serde_json::json!({"at": filter.text().get(span.clone()).unwrap_or_default(), "text": text});
    let notices = explain.notices.iter().map(|notice| note(&notice.span, &notice.text));
    let warnings = explain.warnings.iter().map(|warning| note(&warning.span, &warning.text));
    let tree = explain.tree.iter().map(|line| serde_json::json!({"depth": line.depth, "text": line.text}));
    let types = explain
        .types
        .iter()
        .map(|(name, counts_as)| serde_json::json!({"name": name.to_string(), "type": counts_as}));
    let pushed = match filter.split() {
        (Some(_), None) => "all",
        (Some(_), Some(_)) => "part",
        (None, _) => "none",
    };
    Ok(serde_json::json!({
        "tree": tree.collect::<Vec<_>>(), "types": types.collect::<Vec<_>>(), "pushed_down": pushed,
        "notices": notices.collect::<Vec<_>>(), "warnings": warnings.collect::<Vec<_>>(),
    }))
}

fn data_type(name: &Name) -> Option<DataType> {
    match name {
        Name::Envelope(column) => batch::field(column).map(|field| field.data_type().clone()),
        Name::Property(_) | Name::Field(_) => None,
    }
}

fn explain(filter: &Filter) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let explain = filter.explain(&data_type);
    writeln!(out, "tree:")?;
    for line in &explain.tree {
        writeln!(out, "  {}{}", "  ".repeat(line.depth), line.text)?;
    }
    if !explain.types.is_empty() {
        writeln!(out, "types:")?;
    }
    for (name, counts_as) in &explain.types {
        writeln!(out, "  {name}: {counts_as}")?;
    }
    let pushed = match filter.split() {
        (Some(_), None) => "the whole expression: rows that do not match are never made",
        (Some(_), Some(_)) => "the part without fields of the body; the rest runs after decode",
        (None, _) => "nothing: it needs fields of the body",
    };
    writeln!(out, "pushed down to the read of a topic:\n  {pushed}")?;
    let place = |span: &std::ops::Range<usize>| filter.text().get(span.clone()).unwrap_or_default();
    if !explain.notices.is_empty() {
        writeln!(out, "notices:")?;
    }
    for notice in &explain.notices {
        writeln!(out, "  `{}`: {}", place(&notice.span), notice.text)?;
    }
    if !explain.warnings.is_empty() {
        writeln!(out, "warnings:")?;
    }
    for warning in &explain.warnings {
        writeln!(out, "  `{}`: {}", place(&warning.span), warning.text)?;
    }
    Ok(())
}

fn test(filter: &Filter, props: &[String]) -> Result<()> {
    let mut properties = Vec::new();
    for pair in props {
        let Some((name, value)) = pair.split_once('=') else {
            bail!("--props {pair}: expected NAME=VALUE");
        };
        push_property(&mut properties, name, value).with_context(|| format!("--props {pair}"))?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", shown(filter.matches(&properties)))?;
    for line in filter.trace(&properties, &|_| Scalar::Unknown) {
        let (verdict, seen) = line.answer.map_or((Verdict::Unknown, String::new()), |answer| answer);
        let seen = if seen.is_empty() { String::new() } else { format!("  ({seen})") };
        writeln!(out, "  {}{:7}  {}{seen}", "  ".repeat(line.depth), shown(verdict), line.text)?;
    }
    Ok(())
}

fn shown(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::True => "true",
        Verdict::False => "false",
        Verdict::Unknown => "unknown",
        Verdict::Failed => "failed",
    }
}

/// One line of a file of cases.
#[derive(Deserialize)]
struct Case {
    dialect: String,
    expr: String,
    /// Names to text; typed values are another dialect's.
    props: BTreeMap<String, serde_json::Value>,
    expect: String,
}

impl Case {
    /// The answer in the words of `expect`; `None` if the dialect is none of ours.
    fn answer(&self) -> Option<&'static str> {
        let dialect = match self.dialect.as_str() {
            "sluice" => Dialect::Sluice,
            "rocketmq" => Dialect::RocketMq,
            _ => return None,
        };
        let Ok(filter) = Filter::parse(&self.expr, dialect) else { return Some("parse_error") };
        Some(match filter.row(&|name| self.props.get(name)?.as_str()) {
            Some(true) => "true",
            Some(false) => "false",
            None => "null",
        })
    }
}

fn test_cases(file: &Path) -> Result<ExitCode> {
    let open = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut out = std::io::stdout().lock();
    let (mut right, mut wrong, mut left_out) = (0_u64, 0_u64, 0_u64);
    for (number, line) in BufReader::new(open).lines().enumerate() {
        let place = || format!("{}:{}", file.display(), number + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let case: Case = serde_json::from_str(&line).with_context(place)?;
        match case.answer() {
            None => left_out += 1,
            Some(answer) if answer == case.expect => right += 1,
            Some(answer) => {
                wrong += 1;
                writeln!(out, "{}: {}: expected {}, got {answer}", place(), case.expr, case.expect)?;
            }
        }
    }
    write!(out, "{right} right, {wrong} wrong")?;
    if left_out > 0 {
        write!(out, ", {left_out} of other dialects left out")?;
    }
    writeln!(out)?;
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
