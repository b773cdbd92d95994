//! What a worker counts, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_connect::assignment::Assignment;
use sluice_connect::histogram::Histogram;
use sluice_connect::progress::{Progress, Reading};

/// What the names of all series begin with.
const PREFIX: &str = "sluice_pipeline_";

/// Pipelines by name.
type Pipelines = BTreeMap<String, (Arc<Progress>, Arc<Assignment>)>;

/// The pipelines of a worker since it began; a pipeline that begins anew counts from 0.
#[derive(Clone, Default)]
pub(super) struct Counts {
    pipelines: Arc<Mutex<Pipelines>>,
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Pipelines> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, name: &str, progress: Arc<Progress>, assignment: Arc<Assignment>) {
        self.lock().insert(name.to_owned(), (progress, assignment));
    }

    pub(super) fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    /// All series, each with its help; `now` in ms since 1970-01-01 UTC.
    pub(super) fn render(&self, now: i64) -> String {
        let pipelines: Vec<Told> = self
            .lock()
            .iter()
            .map(|(name, (progress, assignment))| Told {
                name: name.clone(),
                reading: progress.reading(),
                tasks: assignment.running().len(),
            })
            .collect();
        let mut text = String::new();
        tell(&mut text, &pipelines, "tasks", "gauge", "Tasks of the pipeline that run here.", |told| {
            vec![(String::new(), told.tasks.to_string())]
        });
        let help = "1 for what the pipeline does: blocked waits for a person to change something.";
        tell(&mut text, &pipelines, "state", "gauge", help, |told| {
            // What follows the colon is the reason, which is not the same twice.
            let state = told.reading.state.split(':').next().unwrap_or_default();
            vec![(label("state", if state.is_empty() { "starting" } else { state }), "1".to_owned())]
        });
        let help = "Rows of the source by what became of them: read, published or not; the others for good.";
        tell(&mut text, &pipelines, "records_total", "counter", help, |told| {
            let Reading { rows_in, fates, .. } = &told.reading;
            let outcomes = [
                ("read", *rows_in),
                ("written", fates.written),
                ("filtered", fates.filtered),
                ("deduplicated", fates.deduplicated),
                ("skipped", fates.skipped),
                ("dead", fates.dead),
                ("absent", fates.absent),
            ];
            outcomes.map(|(outcome, count)| (label("outcome", outcome), count.to_string())).to_vec()
        });
        for (name, kind, help, value) in SERIES {
            tell(&mut text, &pipelines, name, kind, help, |told| {
                value(&told.reading).map(|value| (String::new(), value.to_string())).into_iter().collect()
            });
        }
        let help =
            "How long ago the last row was stored that was read of the queue that is the furthest behind.";
        tell(&mut text, &pipelines, "lag_seconds", "gauge", help, |told| {
            let Reading { lag, behind_ms, .. } = told.reading;
            let behind = behind_ms.map(|ms| now.saturating_sub(ms).max(0));
            let lag_ms = if lag == Some(0) { Some(0) } else { behind };
            lag_ms.map(|ms| (String::new(), decimal(ms.unsigned_abs(), 1000))).into_iter().collect()
        });
        for (name, help, unit, histogram) in HISTOGRAMS {
            histograms(&mut text, &pipelines, name, help, *unit, *histogram);
        }
        text
    }
}

/// A pipeline at the time of asking.
struct Told {
    name: String,
    reading: Reading,
    tasks: usize,
}

type Series = (&'static str, &'static str, &'static str, fn(&Reading) -> Option<u64>);

/// Those of one value.
const SERIES: &[Series] = &[
    ("read_bytes_total", "counter", "Bytes read: as much of each record as the pipeline asks for.", |r| {
        Some(r.bytes_in)
    }),
    ("files_total", "counter", "Files published.", |r| Some(r.files)),
    (
        "fenced_total",
        "counter",
        "Times that another worker had planned the rows first: the work was in vain.",
        |r| Some(r.fenced),
    ),
    ("retries_total", "counter", "Starts after a failure that time may heal.", |r| Some(r.retries)),
    (
        "lag_messages",
        "gauge",
        "Rows between the last one read and the ends of the queues that are read here.",
        |r| r.lag,
    ),
    (
        "matching_lag_messages",
        "gauge",
        "About how many of them pass the filter, by the share of the last rows that did.",
        |r| r.matching_lag,
    ),
    ("lag_bytes", "gauge", "About how many bytes they are, by the mean of the last rows.", |r| r.lag_bytes),
    ("memory_bytes", "gauge", "What rows on their way hold in memory.", |r| Some(r.memory)),
    ("memory_peak_bytes", "gauge", "The most that they held.", |r| Some(r.memory_peak)),
];

type Histograms = (&'static str, &'static str, u64, fn(&Reading) -> &Histogram);

/// Each with what its values are divided by.
const HISTOGRAMS: &[Histograms] = &[
    ("batch_seconds", "How long the steps took for a record batch.", 1_000_000, |r| &r.batch),
    ("commit_seconds", "How long publishing a plan's files, or a transaction, took.", 1_000_000, |r| {
        &r.commit
    }),
    ("file_bytes", "Sizes of published files.", 1, |r| &r.file_bytes),
];

fn label(name: &str, value: &str) -> String {
    format!(",{name}=\"{value}\"")
}

/// One series: a line for each pipeline and each of its labels. Names of pipelines need no escaping.
fn tell(
    text: &mut String,
    pipelines: &[Told],
    name: &str,
    kind: &str,
    help: &str,
    values: impl Fn(&Told) -> Vec<(String, String)>,
) {
    // Writing to a text does not fail.
    let _ = writeln!(text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
    for told in pipelines {
        for (labels, value) in values(told) {
            let _ = writeln!(text, "{PREFIX}{name}{{pipeline=\"{}\"{labels}}} {value}", told.name);
        }
    }
}

fn histograms(
    text: &mut String,
    pipelines: &[Told],
    name: &str,
    help: &str,
    unit: u64,
    of: fn(&Reading) -> &Histogram,
) {
    let _ = writeln!(text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} histogram");
    for told in pipelines {
        let (found, pipeline) = (of(&told.reading), format!("pipeline=\"{}\"", told.name));
        for (bound, count) in found.up_to() {
            let bound = decimal(bound, unit);
            let _ = writeln!(text, "{PREFIX}{name}_bucket{{{pipeline},le=\"{bound}\"}} {count}");
        }
        let (count, sum) = (found.count(), decimal(found.sum, unit));
        let _ = writeln!(text, "{PREFIX}{name}_bucket{{{pipeline},le=\"+Inf\"}} {count}");
        let _ = writeln!(
            text,
            "{PREFIX}{name}_sum{{{pipeline}}} {sum}\n{PREFIX}{name}_count{{{pipeline}}} {count}"
        );
    }
}

/// A count of parts as a decimal number of wholes.
fn decimal(parts: u64, unit: u64) -> String {
    if unit <= 1 {
        return parts.to_string();
    }
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", parts / unit, parts % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_series_is_told_once_with_lines_for_each_pipeline() {
        let counts = Counts::default();
        for name in ["a", "b"] {
            counts.add(name, Arc::default(), Arc::default());
        }
        let a = Arc::clone(&counts.lock()["a"].0);
        a.fence();
        a.commit(Duration::from_millis(60));
        a.file_sizes(&[70_000]);
        a.lag(Some(4), Some(1_000));
        a.state("retrying: no space is left");
        let text = counts.render(3_500);
        for line in [
            "# TYPE sluice_pipeline_fenced_total counter",
            "sluice_pipeline_fenced_total{pipeline=\"a\"} 1",
            "sluice_pipeline_fenced_total{pipeline=\"b\"} 0",
            "sluice_pipeline_lag_seconds{pipeline=\"a\"} 2.5",
            "sluice_pipeline_state{pipeline=\"a\",state=\"retrying\"} 1",
            "sluice_pipeline_records_total{pipeline=\"a\",outcome=\"dead\"} 0",
            "sluice_pipeline_commit_seconds_bucket{pipeline=\"a\",le=\"0.05\"} 0",
            "sluice_pipeline_commit_seconds_bucket{pipeline=\"a\",le=\"0.1\"} 1",
            "sluice_pipeline_commit_seconds_sum{pipeline=\"a\"} 0.06",
            "sluice_pipeline_file_bytes_bucket{pipeline=\"a\",le=\"65536\"} 0",
            "sluice_pipeline_file_bytes_bucket{pipeline=\"a\",le=\"+Inf\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        let helps: Vec<&str> = text.lines().filter(|line| line.starts_with("# HELP")).collect();
        assert_eq!(helps.iter().collect::<std::collections::BTreeSet<_>>().len(), helps.len());
    }
}
