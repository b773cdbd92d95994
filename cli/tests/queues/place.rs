//! A folder of its own, where a test runs `sluice` against its broker.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct Place<B> {
    pub(crate) broker: B,
    url: String,
    folder: TempDir,
}

impl<B> Place<B> {
    /// A broker at `url`, which stands for `URL` in configs.
    pub(crate) fn of(broker: B, url: String) -> Self {
        Self { broker, url, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    pub(crate) fn sluice(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn write(&self, config: &str) {
        fs::write(self.path("pipeline.yaml"), config.replace("URL", &self.url)).unwrap();
    }

    /// Runs a config and gives the summary of each pipeline.
    pub(crate) fn run(&self, config: &str) -> Vec<Value> {
        self.write(config);
        let out = self.sluice(&["run", "pipeline.yaml", "--json"]);
        let summary: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"));
        assert!(out.status.success(), "{out:?}");
        summary["pipelines"].as_array().unwrap_or_else(|| panic!("{out:?}")).clone()
    }

    pub(crate) fn begin(&self, config: &str) -> Running {
        self.write(config);
        let mut command = self.command(&["run", "pipeline.yaml"]);
        Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// What a command that fails says.
    pub(crate) fn told(&self, command: &str, config: &str) -> String {
        self.write(config);
        let out = self.sluice(&[command, "pipeline.yaml"]);
        assert!(!out.status.success(), "{out:?}");
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }

    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path("lake")) else { return Vec::new() };
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
            .collect();
        files.sort();
        files
    }

    /// All rows of the Parquet files, in the order of their names.
    pub(crate) fn rows(&self) -> Vec<RecordBatch> {
        let read = |path: &PathBuf| {
            let file = fs::File::open(path).unwrap();
            ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap)
        };
        self.files().iter().flat_map(read).collect()
    }

    pub(crate) fn ids(&self) -> Vec<i64> {
        let ids = |batch: &RecordBatch| {
            batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec()
        };
        self.rows().iter().flat_map(ids).collect()
    }

    pub(crate) fn audited(&self) -> String {
        let audit = self.sluice(&["audit", "lake"]);
        assert!(audit.status.success(), "{audit:?}");
        String::from_utf8(audit.stdout).unwrap()
    }
}

pub(crate) fn fate(pipeline: &Value, name: &str) -> u64 {
    pipeline["fates"][name].as_u64().unwrap_or_else(|| panic!("{pipeline}"))
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A run that goes on until it is told, or until its test ends.
pub(crate) struct Running(Child);

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) fn terminate(run: &Child) {
    let status = Command::new("kill").arg(run.id().to_string()).status().unwrap();
    assert!(status.success());
}
