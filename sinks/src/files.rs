//! The task of the file sinks: Parquet and Arrow files below one folder, published by plans.
//!
//! Rows go to temporary files at once; a plan gives them their names. It never decides when a plan ends (it
//! says when one is full), and never in which order the steps come.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use sluice_connect::plan::{Plan, PlanFile};
use sluice_connect::task::{Chain, Claim, Class, Fill, Position, SinkTask, Slice, TaskError};
use sluice_store::file::Disk;

use crate::arrow_ipc::{ArrowConfig, ArrowFormat};
use crate::chain::Chains;
use crate::disk::{failed, remove};
use crate::parquet::{ParquetConfig, ParquetFormat};
use crate::partition::{Part, Partition};
use crate::rotate::{FILES_MAX, Rotate, file_name};
use crate::writer::{Format, Found, PLAN_KEY, Writer};

/// Writes one pipeline's rows into files below one folder.
pub struct FileSink {
    disk: Arc<dyn Disk>,
    target: PathBuf,
    format: Format,
    partition: Partition,
    rotate: Rotate,
    chains: Chains,
    work: HashMap<Chain, Work>,
    /// Folders of files whose names are durable.
    durable: HashSet<PathBuf>,
}

/// What is not published yet of one chain.
enum Work {
    Open(OpenPlan),
    /// Finished files of the plan that starts here, in the order of their numbers.
    Sealed {
        start: i64,
        temps: Vec<PathBuf>,
    },
    /// Files that could not be written: only `discard` goes on from here.
    Failed {
        temps: Vec<PathBuf>,
    },
}

#[derive(Default)]
struct OpenPlan {
    /// End of the last slice.
    end: Option<i64>,
    /// Of the rows as they came, partition columns and all.
    schema: Option<SchemaRef>,
    rows: u64,
    files: Vec<OpenFile>,
    /// Place in `files` by partition values.
    places: HashMap<Vec<Option<String>>, usize>,
}

struct OpenFile {
    temp: PathBuf,
    writer: Writer,
    values: Vec<Option<String>>,
    first: i64,
    last: i64,
    rows: u64,
}

impl OpenPlan {
    fn temps(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.temp.clone()).collect()
    }
}

impl FileSink {
    /// A sink of Parquet files; touches no file yet.
    pub fn parquet(config: &ParquetConfig, disk: Arc<dyn Disk>) -> Result<Self, TaskError> {
        let format = Format::Parquet(Box::new(ParquetFormat::new(config)));
        Self::new(&config.path, format, &config.partition, &config.rotate, disk)
    }

    /// A sink of Arrow IPC files; touches no file yet.
    pub fn arrow(config: &ArrowConfig, disk: Arc<dyn Disk>) -> Result<Self, TaskError> {
        let format = ArrowFormat::new(config)
            .map_err(|e| TaskError::new(Class::Config, "cannot write Arrow files as asked for").because(e))?;
        Self::new(&config.path, Format::Arrow(format), &config.partition, &config.rotate, disk)
    }

    fn new(
        target: &Path,
        format: Format,
        partition: &[String],
        rotate: &Rotate,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, TaskError> {
        Ok(Self {
            chains: Chains::new(disk.clone(), target),
            disk,
            target: target.to_owned(),
            format,
            partition: Partition::new(partition)?,
            rotate: rotate.clone(),
            work: HashMap::new(),
            durable: HashSet::new(),
        })
    }

    /// The partition columns: what they name must be among the rows' columns.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Writes all rows of the slice; or none, and gives the offset of the first row that would need a file
    /// too many.
    fn write(&mut self, chain: &Chain, open: &mut OpenPlan, slice: &Slice) -> Result<Option<i64>, TaskError> {
        if open.end.is_some_and(|end| end != slice.range.start) {
            return Err(broken(chain, "a slice does not begin where the last one ended"));
        }
        if slice.envelope.num_rows() == 0 {
            open.end = Some(slice.range.end);
            return Ok(None);
        }
        let schema = slice.output().schema();
        match &open.schema {
            Some(first) if first.fields() != schema.fields() => {
                return Err(broken(chain, "a slice has other columns than the plan's first one"));
            }
            Some(_) => {}
            None => {
                let decoded = slice.decoded.as_ref().map_or(&Schema::empty(), |_| schema.as_ref()).clone();
                self.partition.check(Some(&decoded), None)?;
                open.schema = Some(schema);
            }
        }
        let parts = self.partition.split(slice)?;
        let mut new = parts.iter().filter(|part| !open.places.contains_key(&part.values));
        if let Some(part) = new.nth(FILES_MAX - open.files.len()) {
            return Ok(Some(part.first));
        }
        open.end = Some(slice.range.end);
        for part in parts {
            self.write_part(chain, open, &part)?;
        }
        Ok(None)
    }

    fn write_part(&mut self, chain: &Chain, open: &mut OpenPlan, part: &Part) -> Result<(), TaskError> {
        let place = match open.places.get(&part.values) {
            Some(place) => *place,
            None => self.open_file(chain, open, part)?,
        };
        let file = open.files.get_mut(place).expect("places are below the number of files");
        if file.rows > 0 && part.first <= file.last {
            return Err(broken(chain, "the offsets of a slice's rows do not rise"));
        }
        file.writer.write(&file.temp, &part.rows)?;
        file.last = part.last;
        file.rows += part.rows.num_rows() as u64;
        open.rows += part.rows.num_rows() as u64;
        Ok(())
    }

    /// Begins the file of a partition and gives its place.
    fn open_file(&mut self, chain: &Chain, open: &mut OpenPlan, part: &Part) -> Result<usize, TaskError> {
        let place = open.files.len();
        let temp = self.chains.temp_file(&chain.pipeline)?;
        let writer = self.format.writer(self.disk.clone(), &temp, part.rows.schema())?;
        let values = part.values.clone();
        open.files.push(OpenFile { temp, writer, values, first: part.first, last: part.last, rows: 0 });
        open.places.insert(part.values.clone(), place);
        Ok(place)
    }

    /// Writes out the fullest files while those of all chains together hold too much.
    fn bound_memory(&mut self) -> Result<(), TaskError> {
        let memory_max = self.format.memory_max();
        let files = self.work.iter().flat_map(|(chain, work)| {
            let files = if let Work::Open(open) = work { &open.files[..] } else { &[] };
            files.iter().enumerate().map(move |(place, file)| (file.writer.memory(), chain, place))
        });
        let total: usize = files.clone().map(|(memory, ..)| memory).sum();
        if total < memory_max {
            return Ok(());
        }
        let mut held: Vec<(usize, Chain, usize)> =
            files.map(|(memory, chain, place)| (memory, chain.clone(), place)).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        // Down to the half, so that row groups do not come out small at each slice from here on.
        let mut excess = total - memory_max / 2;
        for (memory, chain, place) in held {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(memory);
            let Some(Work::Open(open)) = self.work.get_mut(&chain) else { continue };
            let Some(file) = open.files.get_mut(place) else { continue };
            if let Err(e) = file.writer.flush(&file.temp) {
                let temps = open.temps();
                self.work.insert(chain, Work::Failed { temps });
                return Err(e);
            }
        }
        Ok(())
    }

    fn plan_files(&self, chain: &Chain, open: &OpenPlan, start: i64) -> Vec<PlanFile> {
        let columns = self.partition.columns();
        let files = open.files.iter().enumerate().map(|(number, file)| {
            let names = columns.iter().map(|column| column.name().to_owned());
            let partition: Vec<_> = names.zip(file.values.iter().cloned()).collect();
            let name = file_name(chain, &partition, start, number, self.format.extension());
            PlanFile { name, partition, first: file.first, last: file.last, rows: file.rows }
        });
        files.collect()
    }

    /// The open plan's files; none if nothing was put.
    fn open_plan(&mut self, chain: &Chain) -> Result<OpenPlan, TaskError> {
        match self.work.remove(chain) {
            None => Ok(OpenPlan::default()),
            Some(Work::Open(open)) => Ok(open),
            Some(work) => {
                let error = match &work {
                    Work::Failed { .. } => {
                        TaskError::new(Class::Retry, format!("the open plan of {chain} failed before"))
                    }
                    _ => broken(chain, "a sealed plan is neither published nor discarded"),
                };
                self.work.insert(chain.clone(), work);
                Err(error)
            }
        }
    }

    /// Each folder from the target down to the plan's files, the target left out; parents come first.
    fn folders(&self, plan: &Plan) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        for file in &plan.files {
            let parts = file.name.split('/').count() - 1;
            folders.extend(
                Path::new(&file.name).ancestors().skip(1).take(parts).map(|part| self.target.join(part)),
            );
        }
        folders
    }

    fn make_folders(&self, plan: &Plan) -> Result<(), TaskError> {
        for folder in self.folders(plan) {
            match self.disk.create_dir(&folder) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(failed("make", &folder, e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the names of a plan's files durable, and those of their folders: who made them may have died
    /// before.
    fn sync_folders(&mut self, plan: &Plan) -> Result<(), TaskError> {
        let paths = plan.files.iter().map(|file| self.target.join(&file.name));
        let new_folders: Vec<_> =
            self.folders(plan).into_iter().filter(|f| !self.durable.contains(f)).collect();
        let parents =
            paths.chain(new_folders.iter().cloned()).filter_map(|path| path.parent().map(Path::to_owned));
        for folder in parents.collect::<BTreeSet<_>>() {
            self.disk.sync_dir(&folder).map_err(|e| failed("sync", &folder, e))?;
        }
        self.durable.extend(new_folders);
        Ok(())
    }

    fn publish_file(&self, plan: &Plan, file: &PlanFile, temp: Option<&PathBuf>) -> Result<(), TaskError> {
        let path = self.target.join(&file.name);
        if let Some(temp) = temp {
            match self.disk.hard_link(temp, &path) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed("make", &path, e)),
            }
        }
        match self.format.find(&path, plan)? {
            Found::Same => Ok(()),
            Found::Other => {
                let message = format!(
                    "{} is there and is no file of plan {}; move it away, it is not overwritten",
                    path.display(),
                    plan.start
                );
                Err(TaskError::new(Class::Fatal, message))
            }
            Found::Nothing => {
                let message =
                    format!("{} of plan {} is neither published nor written", path.display(), plan.start);
                Err(TaskError::new(Class::Fatal, message))
            }
        }
    }
}

impl SinkTask for FileSink {
    fn position(&mut self, chain: &Chain) -> Result<Option<Position>, TaskError> {
        self.chains.position(chain)
    }

    fn begin(&mut self, chain: &Chain, origin: i64, incarnation: &str) -> Result<(), TaskError> {
        self.chains.begin(chain, origin, incarnation)
    }

    fn schema(
        &mut self,
        pipeline: &str,
        proposed: Option<&SchemaRef>,
    ) -> Result<Option<SchemaRef>, TaskError> {
        if let Some(proposed) = proposed {
            // A schema without the partition columns must not stand.
            self.partition.check(Some(proposed), None)?;
            self.chains.put_schema(pipeline, proposed)?;
        }
        self.chains.schema(pipeline)
    }

    fn keep_config(&mut self, pipeline: &str, hash: &str, text: &str) -> Result<(), TaskError> {
        self.chains.put_config(pipeline, hash, text)
    }

    fn config(&mut self, pipeline: &str, hash: &str) -> Result<String, TaskError> {
        self.chains.config(pipeline, hash)
    }

    fn unfinished(&mut self, pipeline: &str) -> Result<Vec<(Chain, Plan)>, TaskError> {
        self.chains.unfinished(pipeline)
    }

    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        self.partition.unfit(slice)
    }

    fn put(&mut self, chain: &Chain, slice: &Slice) -> Result<Fill, TaskError> {
        let mut open = self.open_plan(chain)?;
        let cut = match self.write(chain, &mut open, slice) {
            Ok(cut) => cut,
            Err(e) => {
                self.work.insert(chain.clone(), Work::Failed { temps: open.temps() });
                return Err(e);
            }
        };
        let bytes = open.files.iter().map(|file| file.writer.encoded()).sum();
        let full = self.rotate.is_full(bytes, open.rows, open.files.len());
        self.work.insert(chain.clone(), Work::Open(open));
        self.bound_memory()?;
        Ok(Fill { bytes, full, cut })
    }

    fn age_max(&self) -> Duration {
        self.rotate.age
    }

    fn files(&mut self, chain: &Chain, start: i64) -> Result<Vec<PlanFile>, TaskError> {
        let open = self.open_plan(chain)?;
        let files = self.plan_files(chain, &open, start);
        self.work.insert(chain.clone(), Work::Open(open));
        Ok(files)
    }

    fn claim(&mut self, chain: &Chain, plan: &Plan) -> Result<Claim, TaskError> {
        self.chains.claim(chain, plan)
    }

    fn seal(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        let open = self.open_plan(chain)?;
        let files = self.plan_files(chain, &open, plan.start);
        if files != plan.files {
            let at = files.iter().zip(&plan.files).find(|(found, planned)| found != planned);
            let what = at.map_or_else(
                || format!("{} files where the plan has {}", files.len(), plan.files.len()),
                |(found, planned)| format!("{found:?} where the plan has {planned:?}"),
            );
            self.work.insert(chain.clone(), Work::Open(open));
            let message = format!("the rows read again for plan {} of {chain} make {what}", plan.start);
            return Err(TaskError::new(Class::Fatal, message));
        }
        let json = serde_json::to_string(plan)
            .map_err(|e| broken(chain, "the plan can not be written as JSON").because(e))?;
        let temps = open.temps();
        for file in open.files {
            let metadata = [
                (PLAN_KEY, json.clone()),
                ("sluice.pipeline", chain.pipeline.to_string()),
                ("sluice.topic", chain.topic.to_string()),
                ("sluice.queue", chain.queue.to_string()),
                ("sluice.first", file.first.to_string()),
                ("sluice.last", file.last.to_string()),
                ("sluice.rows", file.rows.to_string()),
            ];
            if let Err(e) = file.writer.finish(&file.temp, &metadata) {
                self.work.insert(chain.clone(), Work::Failed { temps });
                return Err(e);
            }
        }
        self.work.insert(chain.clone(), Work::Sealed { start: plan.start, temps });
        Ok(())
    }

    fn published(&mut self, _chain: &Chain, plan: &Plan) -> Result<bool, TaskError> {
        for file in &plan.files {
            if self.format.find(&self.target.join(&file.name), plan)? != Found::Same {
                return Ok(false);
            }
        }
        // Whoever published may have died before the names were durable.
        self.sync_folders(plan)?;
        Ok(true)
    }

    fn publish(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        let temps = match self.work.get(chain) {
            Some(Work::Sealed { start, temps }) if *start == plan.start => temps.clone(),
            None => Vec::new(),
            Some(_) => return Err(broken(chain, "a plan is published that is not the sealed one")),
        };
        self.make_folders(plan)?;
        for (number, file) in plan.files.iter().enumerate() {
            self.publish_file(plan, file, temps.get(number))?;
        }
        self.sync_folders(plan)?;
        self.discard(chain)
    }

    fn confirm(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        self.chains.confirm(chain, plan.start)
    }

    fn discard(&mut self, chain: &Chain) -> Result<(), TaskError> {
        let temps = match self.work.remove(chain) {
            None => return Ok(()),
            Some(Work::Open(open)) => open.temps(),
            Some(Work::Sealed { temps, .. } | Work::Failed { temps }) => temps,
        };
        for temp in &temps {
            remove(self.disk.as_ref(), temp)?;
        }
        Ok(())
    }
}

fn broken(chain: &Chain, what: &str) -> TaskError {
    TaskError::new(Class::Fatal, format!("{what}, in {chain}"))
}
