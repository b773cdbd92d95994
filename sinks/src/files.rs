//! The task of the file sinks: Parquet, Arrow, NDJSON and CSV files in a folder or an object store, published by plans.
//!
//! Rows go to temporary files at once; a plan gives them their names. It never decides when a plan ends (it
//! says when one is full), and never in which order the steps come.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use sluice_connect::plan::{Plan, PlanFile};
use sluice_connect::task::{Chain, Claim, Class, Fill, Position, SinkTask, Slice, TaskError};
use sluice_store::file::Disk;

use crate::arrow_ipc::{ArrowConfig, ArrowFormat};
use crate::chain::Chains;
use crate::disk::{failed, remove};
use crate::file::{FileConfig, TextFormat};
use crate::name::NAME_BYTES_MAX;
use crate::parquet::{ParquetConfig, ParquetFormat};
use crate::partition::{Part, Partition};
use crate::place::{self, Place, parent};
use crate::rotate::{FILES_MAX, Rotate, file_name};
use crate::work::{OpenFile, OpenPlan, Work, Works, broken};
use crate::writer::{Format, Found, PLAN_KEY, find};

/// Writes one pipeline's rows into files below one target.
pub struct FileSink {
    /// Where temporary files are written.
    disk: Arc<dyn Disk>,
    place: Arc<dyn Place>,
    format: Format,
    partition: Partition,
    rotate: Rotate,
    /// Files that are open at a time.
    open_max: usize,
    /// Slices that were put.
    slices: u64,
    chains: Chains,
    works: Works,
    /// Folders of files whose names are durable.
    durable: HashSet<String>,
}

impl FileSink {
    /// A sink of Parquet files; touches no file yet.
    pub fn parquet(config: &ParquetConfig, disk: Arc<dyn Disk>) -> Result<Self, TaskError> {
        let place = place::open(&config.path, config.store.as_ref(), disk.clone())?;
        Self::parquet_in(place, config, disk)
    }

    /// A sink of Arrow IPC files; touches no file yet.
    pub fn arrow(config: &ArrowConfig, disk: Arc<dyn Disk>) -> Result<Self, TaskError> {
        let place = place::open(&config.path, config.store.as_ref(), disk.clone())?;
        Self::arrow_in(place, config, disk)
    }

    /// A sink of NDJSON or CSV files; touches no file yet.
    pub fn text(config: &FileConfig, disk: Arc<dyn Disk>) -> Result<Self, TaskError> {
        let place = place::open(&config.path, config.store.as_ref(), disk.clone())?;
        Self::text_in(place, config, disk)
    }

    /// The same as [`FileSink::parquet`] in a place that is open already.
    pub fn parquet_in(
        place: Arc<dyn Place>,
        config: &ParquetConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, TaskError> {
        let format = Format::Parquet(Box::new(ParquetFormat::new(config)));
        Self::new(place, format, &config.partition, &config.rotate, config.open_partitions, disk)
    }

    /// The same as [`FileSink::arrow`] in a place that is open already.
    pub fn arrow_in(
        place: Arc<dyn Place>,
        config: &ArrowConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, TaskError> {
        let format = ArrowFormat::new(config)
            .map_err(|e| TaskError::new(Class::Config, "cannot write Arrow files as asked for").because(e))?;
        let format = Format::Arrow(format);
        Self::new(place, format, &config.partition, &config.rotate, config.open_partitions, disk)
    }

    /// The same as [`FileSink::text`] in a place that is open already.
    pub fn text_in(
        place: Arc<dyn Place>,
        config: &FileConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, TaskError> {
        let format = Format::Text(TextFormat::new(config));
        Self::new(place, format, &config.partition, &config.rotate, config.open_partitions, disk)
    }

    fn new(
        place: Arc<dyn Place>,
        format: Format,
        partition: &[String],
        rotate: &Rotate,
        open_max: usize,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, TaskError> {
        Ok(Self {
            chains: Chains::new(disk.clone(), place.clone()),
            disk,
            place,
            format,
            partition: Partition::new(partition)?,
            rotate: rotate.clone(),
            open_max,
            slices: 0,
            works: Works::default(),
            durable: HashSet::new(),
        })
    }

    /// The same with the partition columns in the files as well as in their folders' names.
    #[cfg(feature = "tables")]
    pub(crate) fn with_partition_in_files(mut self) -> Self {
        self.partition = self.partition.in_files();
        self
    }

    /// The chains of plans in the target.
    #[cfg(feature = "tables")]
    pub(crate) fn chains(&self) -> &Chains {
        &self.chains
    }

    /// The same, to put files beside them.
    #[cfg(feature = "delta")]
    pub(crate) fn chains_mut(&mut self) -> &mut Chains {
        &mut self.chains
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
                if !self.partition.is_in_files() {
                    self.partition.check(Some(&decoded), None)?;
                }
                self.format.accept(&schema)?;
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
        file.used = self.slices;
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
        let (first, last, used) = (part.first, part.last, self.slices);
        open.files.push(OpenFile { temp, writer, values, first, last, rows: 0, used });
        open.places.insert(part.values.clone(), place);
        Ok(place)
    }

    /// Ends the open plan for its files and the length of all of them, in bytes; nothing is published.
    pub(crate) fn seal_sample(&mut self, chain: &Chain) -> Result<(Vec<PlanFile>, u64), TaskError> {
        let open = self.works.open_plan(chain)?;
        let files = self.plan_files(chain, &open, 0);
        let mut bytes = 0;
        for file in open.files {
            file.writer.finish(&file.temp, &[])?;
            let metadata = std::fs::metadata(&file.temp);
            bytes += metadata.map_err(|e| failed("look at", file.temp.display(), e))?.len();
        }
        Ok((files, bytes))
    }

    fn plan_files(&self, chain: &Chain, open: &OpenPlan, start: i64) -> Vec<PlanFile> {
        let columns = self.partition.columns();
        let files = open.files.iter().enumerate().map(|(number, file)| {
            let names = columns.iter().map(|column| column.name().to_owned());
            let partition: Vec<_> = names.zip(file.values.iter().cloned()).collect();
            let (separator, extension) = (self.format.separator(), self.format.extension());
            let name = file_name(chain, &partition, start, number, separator, extension);
            let text = file.writer.text();
            PlanFile { name, partition, first: file.first, last: file.last, rows: file.rows, text }
        });
        files.collect()
    }

    fn make_folders(&self, plan: &Plan) -> Result<(), TaskError> {
        folders(plan).into_iter().try_for_each(|folder| {
            self.place.make_one(folder).map_err(|e| failed("make", self.place.show(folder), e))
        })
    }

    /// Makes the names of a plan's files durable, and those of their folders: who made them may have died
    /// before.
    fn sync_folders(&mut self, plan: &Plan) -> Result<(), TaskError> {
        let new: Vec<&str> = folders(plan).into_iter().filter(|f| !self.durable.contains(*f)).collect();
        let named = plan.files.iter().map(|file| &file.name[..]).chain(new.iter().copied());
        for folder in named.map(parent).collect::<BTreeSet<_>>() {
            self.place.sync(folder).map_err(|e| failed("sync", self.place.show(folder), e))?;
        }
        self.durable.extend(new.into_iter().map(str::to_owned));
        Ok(())
    }

    fn publish_file(&self, plan: &Plan, file: &PlanFile, temp: Option<&PathBuf>) -> Result<(), TaskError> {
        let shown = self.place.show(&file.name);
        if let Some(temp) = temp
            && self.place.put_file(temp, &file.name).map_err(|e| failed("make", &shown, e))?
        {
            return Ok(());
        }
        match find(self.place.as_ref(), file, plan)? {
            Found::Same => Ok(()),
            Found::Other => {
                let start = plan.start;
                let message = format!(
                    "{shown} is there and is no file of plan {start}; move it away, it is not overwritten"
                );
                Err(TaskError::new(Class::Fatal, message))
            }
            Found::Nothing => {
                let message = format!("{shown} of plan {} is neither published nor written", plan.start);
                Err(TaskError::new(Class::Fatal, message))
            }
        }
    }
}

/// Each folder from the target down to the plan's files, the target left out; parents come first.
fn folders(plan: &Plan) -> BTreeSet<&str> {
    let mut folders = BTreeSet::new();
    for file in &plan.files {
        let mut folder = parent(&file.name);
        while !folder.is_empty() {
            folders.insert(folder);
            folder = parent(folder);
        }
    }
    folders
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
            self.chains.put_schema(pipeline, proposed)?;
        }
        self.chains.schema(pipeline)
    }

    fn schema_by_hash(&mut self, pipeline: &str, hash: &str) -> Result<Option<SchemaRef>, TaskError> {
        self.chains.schema_by_hash(pipeline, hash)
    }

    fn accept(&self, output: &SchemaRef) -> Result<(), TaskError> {
        self.partition.check(Some(output), None)?;
        self.format.accept(output)
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

    fn check(&mut self, pipeline: &str) -> Result<(), TaskError> {
        self.chains.try_out(pipeline)
    }

    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        // The file's own name comes behind the folders.
        let mut unfit =
            self.partition.unfit(slice, self.place.key_bytes_max().saturating_sub(NAME_BYTES_MAX));
        unfit.extend(self.format.unfit(slice));
        unfit.sort_by_key(|(row, _)| *row);
        unfit.dedup_by_key(|(row, _)| *row);
        unfit
    }

    fn put(&mut self, chain: &Chain, slice: &Slice) -> Result<Fill, TaskError> {
        self.slices += 1;
        let mut open = self.works.open_plan(chain)?;
        let cut = match self.write(chain, &mut open, slice) {
            Ok(cut) => cut,
            Err(e) => {
                self.works.insert(chain.clone(), Work::Failed { temps: open.temps() });
                return Err(e);
            }
        };
        let bytes = open.files.iter().map(|file| file.writer.encoded()).sum();
        let full = self.rotate.is_full(bytes, open.rows, open.files.len());
        self.works.insert(chain.clone(), Work::Open(open));
        self.works.bound_open(self.open_max)?;
        if self.works.held() >= self.format.memory_max() {
            // Down to the half, so that row groups do not come out small at each slice from here on.
            self.works.bound_memory(self.format.memory_max() / 2)?;
        }
        Ok(Fill { bytes, full, cut })
    }

    fn memory(&self) -> usize {
        self.works.held()
    }

    fn shrink(&mut self, bytes_max: usize) -> Result<(), TaskError> {
        self.works.bound_memory(bytes_max)
    }

    fn age_max(&self) -> Duration {
        self.rotate.age
    }

    fn files(&mut self, chain: &Chain, start: i64) -> Result<Vec<PlanFile>, TaskError> {
        let open = self.works.open_plan(chain)?;
        let files = self.plan_files(chain, &open, start);
        self.works.insert(chain.clone(), Work::Open(open));
        Ok(files)
    }

    fn claim(&mut self, chain: &Chain, plan: &Plan) -> Result<Claim, TaskError> {
        self.chains.claim(chain, plan)
    }

    fn seal(&mut self, chain: &Chain, plan: &Plan) -> Result<Vec<u64>, TaskError> {
        let open = self.works.open_plan(chain)?;
        let files = self.plan_files(chain, &open, plan.start);
        if files != plan.files {
            let at = files.iter().zip(&plan.files).find(|(found, planned)| found != planned);
            let what = at.map_or_else(
                || format!("{} files where the plan has {}", files.len(), plan.files.len()),
                |(found, planned)| format!("{found:?} where the plan has {planned:?}"),
            );
            self.works.insert(chain.clone(), Work::Open(open));
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
                self.works.insert(chain.clone(), Work::Failed { temps });
                return Err(e);
            }
        }
        let sizes = temps.iter().map(|temp| std::fs::metadata(temp).map_or(0, |found| found.len())).collect();
        self.works.insert(chain.clone(), Work::Sealed { start: plan.start, temps });
        Ok(sizes)
    }

    fn published(&mut self, _chain: &Chain, plan: &Plan) -> Result<bool, TaskError> {
        for file in &plan.files {
            if find(self.place.as_ref(), file, plan)? != Found::Same {
                return Ok(false);
            }
        }
        // Whoever published may have died before the names were durable.
        self.sync_folders(plan)?;
        Ok(true)
    }

    fn publish(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        let temps = match self.works.get(chain) {
            Some(Work::Sealed { start, temps }) if *start == plan.start => temps.clone(),
            None => Vec::new(),
            Some(_) => return Err(broken(chain, "a plan is published that is not the sealed one")),
        };
        if self.chains.is_done(chain, plan.start)? {
            // Another worker has finished it, and its files may have been merged since.
            return self.discard(chain);
        }
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

    fn give_back(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        self.chains.give_back(chain, plan.start)
    }

    fn discard(&mut self, chain: &Chain) -> Result<(), TaskError> {
        let temps = match self.works.remove(chain) {
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
