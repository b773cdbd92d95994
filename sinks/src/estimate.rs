//! How many files a sink will make, and of which size: from a sample of rows, written as they would be, in a temporary
//! folder.

use std::sync::Arc;

use sluice_connect::task::{Chain, Class, SinkTask, Slice, TaskError};
use sluice_store::file::RealDisk;

use crate::SinkConfig;
use crate::files::FileSink;
use crate::location::Location;
use crate::place;
use crate::rotate::Rotate;

/// What a sample of rows comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Encoded size of a row, in bytes, about.
    pub row_bytes: f64,
    /// Partition values among the rows: files of one plan.
    pub partitions: u64,
    rotate: Rotate,
}

impl Estimate {
    /// Rows of a plan that ends at its bytes or its rows.
    pub fn plan_rows(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate above 0")]
        let by_bytes = (self.rotate.bytes.as_u64() as f64 / self.row_bytes) as u64;
        by_bytes.min(self.rotate.rows).max(1)
    }

    /// Files that `rows` rows of one chain come to.
    pub fn files(&self, rows: u64) -> u64 {
        rows.div_ceil(self.plan_rows()).saturating_mul(self.partitions).min(rows)
    }
}

/// Writes the slices of one chain, in their order, as the sink would. `None` if they have no rows, or the sink makes
/// no files.
pub fn estimate(config: &SinkConfig, slices: &[Slice]) -> Result<Option<Estimate>, TaskError> {
    let Some(rotate) = config.rotate().cloned() else { return Ok(None) };
    let rows: usize = slices.iter().map(|slice| slice.envelope.num_rows()).sum();
    if rows == 0 {
        return Ok(None);
    }
    let scratch = tempfile::tempdir().map_err(|e| TaskError::io("cannot make a temporary folder", e))?;
    let disk = Arc::new(RealDisk);
    let place = place::open(&Location::Folder(scratch.path().to_owned()), None, disk.clone())?;
    let mut sink = match config {
        SinkConfig::Parquet(config) | SinkConfig::Delta(config) => FileSink::parquet_in(place, config, disk)?,
        SinkConfig::Iceberg(config) => FileSink::parquet_in(place, &config.files(), disk)?,
        SinkConfig::Arrow(config) => FileSink::arrow_in(place, config, disk)?,
        SinkConfig::File(config) => FileSink::text_in(place, config, disk)?,
        _ => return Ok(None),
    };
    let chain = Chain { pipeline: "preview".into(), topic: "sample".into(), queue: 0 };
    for slice in slices {
        // More partition values than one plan takes: what fits is sample enough.
        if sink.put(&chain, slice)?.cut.is_some() {
            break;
        }
    }
    let (files, bytes) = sink.seal_sample(&chain)?;
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    if rows == 0 {
        return Err(TaskError::new(
            Class::Config,
            "the first slice has more partition values than a plan takes",
        ));
    }
    Ok(Some(Estimate { row_bytes: bytes as f64 / rows as f64, partitions: files.len() as u64, rotate }))
}
