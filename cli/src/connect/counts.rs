//! What a worker counts, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_connect::assignment::Assignment;
use sluice_connect::progress::{Progress, Reading};

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

    /// All series, each with its help.
    pub(super) fn render(&self) -> String {
        let pipelines: Vec<(String, Reading, usize)> = self
            .lock()
            .iter()
            .map(|(name, (progress, assignment))| {
                (name.clone(), progress.reading(), assignment.running().len())
            })
            .collect();
        let mut text = String::new();
        let mut series =
            |name: &str, kind: &str, help: &str, value: &dyn Fn(&Reading, usize) -> Option<u64>| {
                // Writing to a text does not fail.
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
                for (pipeline, reading, tasks) in &pipelines {
                    if let Some(value) = value(reading, *tasks) {
                        let _ = writeln!(text, "{name}{{pipeline=\"{pipeline}\"}} {value}");
                    }
                }
            };
        series("sluice_connect_tasks", "gauge", "Tasks of the pipeline that run here.", &|_, tasks| {
            Some(tasks as u64)
        });
        series(
            "sluice_connect_blocked",
            "gauge",
            "1 if a person must change something before the pipeline goes on.",
            &|r, _| Some(u64::from(r.state == "blocked")),
        );
        series("sluice_connect_rows_read_total", "counter", "Rows read, published or not.", &|r, _| {
            Some(r.rows_in)
        });
        type Fate = (&'static str, &'static str, fn(&Reading) -> u64);
        let fates: [Fate; 5] = [
            ("sluice_connect_rows_written_total", "Rows published in the target.", |r| r.fates.written),
            ("sluice_connect_rows_filtered_total", "Rows that a filter left out.", |r| r.fates.filtered),
            ("sluice_connect_rows_skipped_total", "Rows that do not fit, left out.", |r| r.fates.skipped),
            ("sluice_connect_rows_dead_total", "Rows that do not fit, in the dead letters.", |r| {
                r.fates.dead
            }),
            ("sluice_connect_rows_absent_total", "Offsets without a record.", |r| r.fates.absent),
        ];
        for (name, help, fate) in fates {
            series(name, "counter", help, &|r, _| Some(fate(r)));
        }
        series("sluice_connect_files_total", "counter", "Files published.", &|r, _| Some(r.files));
        let fenced = "Times that another worker had planned the rows first: the work was in vain.";
        series("sluice_connect_fenced_total", "counter", fenced, &|r, _| Some(r.fenced));
        let lag = "Rows between the last one read and the ends of the queues that are read here.";
        series("sluice_connect_lag_rows", "gauge", lag, &|r, _| r.lag);
        let memory = "What rows on their way hold in memory.";
        series("sluice_connect_memory_bytes", "gauge", memory, &|r, _| Some(r.memory));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_series_is_told_once_with_a_line_for_each_pipeline() {
        let counts = Counts::default();
        for name in ["a", "b"] {
            counts.add(name, Arc::default(), Arc::default());
        }
        counts.lock()["a"].0.fence();
        let text = counts.render();
        assert!(text.contains("# TYPE sluice_connect_fenced_total counter\n"), "{text}");
        assert!(text.contains("sluice_connect_fenced_total{pipeline=\"a\"} 1\n"), "{text}");
        assert!(text.contains("sluice_connect_fenced_total{pipeline=\"b\"} 0\n"), "{text}");
        let helps = text.matches("# HELP").count();
        assert_eq!(helps, 12);
        assert_eq!(text.lines().count(), helps * 4);
    }
}
