//! Rows as a stream of Flight data: as fast as they are read, and never more in hand than a few batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use sluice_sinks::plain;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Response, Status};

use super::service::{Streamed, status};
use crate::Engine;
use crate::engine::Planned;

/// Batches that wait to be read.
const WAITING_MAX: usize = 2;
/// A client that reads nothing for so long has its stream ended.
const UNREAD_MAX: Duration = Duration::from_secs(300);

/// The columns as they are sent: without views and dictionaries, which not all clients know.
pub(super) fn wire_schema(schema: &SchemaRef) -> SchemaRef {
    plain::schema(schema)
}

/// One batch that is there already.
pub(super) fn one(batch: RecordBatch) -> Response<Streamed<FlightData>> {
    let schema = batch.schema();
    encoded(&schema, stream::iter([Ok(batch)]))
}

/// The rows of a statement. It runs on a task of its own, which holds `permit` to its end.
pub(super) fn rows(
    engine: Arc<Engine>,
    planned: Planned,
    permit: OwnedSemaphorePermit,
) -> Response<Streamed<FlightData>> {
    let schema = wire_schema(&planned.schema);
    let wire = Arc::clone(&schema);
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let ended = Arc::new(AtomicBool::new(false));
    let is_ended = Arc::clone(&ended);
    tokio::spawn(async move {
        let _permit = permit;
        let told = |error| Err(FlightError::from(status(error)));
        let mut rows = match engine.execute(&planned).await {
            Ok(rows) => rows,
            // Whoever asked may be gone.
            Err(error) => return drop(sender.send(told(error)).await),
        };
        while let Some(batch) = rows.next().await {
            let batch = batch.and_then(|batch| Ok(plain::batch(&batch, &wire)?));
            let batch = batch.or_else(|error| told(engine.told(error)));
            let failed = batch.is_err();
            if let Err(error) = sender.send_timeout(batch, UNREAD_MAX).await {
                if matches!(error, mpsc::error::SendTimeoutError::Timeout(_)) {
                    tracing::warn!("a client of Flight SQL does not read its rows; its statement is ended");
                }
                return;
            }
            if failed {
                return;
            }
        }
        is_ended.store(true, Ordering::Release);
    });
    let received = stream::unfold((receiver, Some(ended)), |(mut receiver, mut ended)| async move {
        if let Some(batch) = receiver.recv().await {
            if batch.is_err() {
                ended = None;
            }
            return Some((batch, (receiver, ended)));
        }
        // Rows that are missing must never look like the end.
        let is_cut = ended.take().is_some_and(|ended| !ended.load(Ordering::Acquire));
        let cut = || {
            Status::aborted("the statement was ended before its last row: it failed, or nobody read its rows")
        };
        is_cut.then(|| (Err(FlightError::from(cut())), (receiver, None)))
    });
    encoded(&schema, received)
}

fn encoded(
    schema: &SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
) -> Response<Streamed<FlightData>> {
    let encoder = FlightDataEncoderBuilder::new().with_schema(Arc::clone(schema)).build(batches);
    Response::new(Box::pin(encoder.map_err(|error| match error {
        FlightError::Tonic(status) => *status,
        other => Status::internal(other.to_string()),
    })))
}
