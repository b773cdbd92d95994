//! The calls of Flight SQL.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::metadata::SqlInfoData;
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandGetCatalogs,
    CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
    CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult, SqlInfo,
};
use arrow_flight::{
    Action, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage,
    SchemaAsIpc, Ticket,
};
use datafusion::common::{ParamValues, ScalarValue};
use futures::{Stream, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use super::prepared::{Held, Prepared};
use super::{answer, gate, metadata};
use crate::engine::Planned;
use crate::{Engine, Error};

/// Statements that run or are planned at a time.
const RUNNING_MAX: usize = 16;

pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Rows = Response<<Service as FlightService>::DoGetStream>;

/// The handlers, and what they share.
#[derive(Clone)]
pub(super) struct Service {
    engine: Arc<Engine>,
    running: Arc<Semaphore>,
    held: Arc<Mutex<Held>>,
}

/// An error as gRPC tells it, with its causes.
pub(super) fn status(error: Error) -> Status {
    let mut message = error.to_string();
    // What SQL says of itself is whole.
    if !matches!(error, Error::Sql { .. } | Error::Memory { .. }) {
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
    }
    match error {
        Error::NoTable { .. } => Status::not_found(message),
        Error::ReadOnly { .. } | Error::TooLong { .. } | Error::TooDeep { .. } | Error::Sql { .. } => {
            Status::invalid_argument(message)
        }
        Error::Memory { .. } => Status::resource_exhausted(message),
        Error::Topic { .. } | Error::Pipeline { .. } | Error::Store { .. } => Status::unavailable(message),
    }
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn failed(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => internal(other),
    }
}

fn read_only() -> Status {
    Status::invalid_argument("this server only reads: rows come to topics by producers and pipelines")
}

fn no_statement() -> Status {
    Status::not_found(
        "no such prepared statement: it was closed, or many others were prepared since; prepare it again",
    )
}

/// Where the rows are that a request asks for: the same command is the ticket.
fn info(schema: &Schema, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
    let descriptor = request.into_inner();
    let endpoint = FlightEndpoint::new().with_ticket(Ticket { ticket: descriptor.cmd.clone() });
    let info = FlightInfo::new().try_with_schema(schema).map_err(internal)?;
    Ok(Response::new(info.with_endpoint(endpoint).with_descriptor(descriptor)))
}

impl Service {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, running: Arc::new(Semaphore::new(RUNNING_MAX)), held: Arc::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.running).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{RUNNING_MAX} statements run, which is the limit: ask again when one of them has ended"
            ))
        })
    }

    /// Works on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let engine = Arc::clone(&self.engine);
        let done = tokio::task::spawn_blocking(move || work(&engine)).await;
        done.map_err(|_| Status::internal("the statement made the server panic; its log says where"))?
    }

    async fn plan(&self, text: String, values: Option<ParamValues>) -> Result<Planned, Status> {
        let _permit = self.permit()?;
        let runtime = tokio::runtime::Handle::current();
        self.blocking(move |engine| runtime.block_on(engine.plan(&text, values)).map_err(status)).await
    }

    /// Plans what a command asks for, and keeps it for its ticket.
    async fn planned(
        &self,
        text: String,
        values: Option<ParamValues>,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let planned = self.plan(text, values).await?;
        let schema = answer::wire_schema(&planned.schema);
        self.held().plan(request.get_ref().cmd.to_vec(), planned);
        info(&schema, request)
    }

    /// The rows of a command, as they were planned for it.
    async fn rows(
        &self,
        text: String,
        values: Option<ParamValues>,
        request: &Request<Ticket>,
    ) -> Result<Rows, Status> {
        let planned = self.held().take(&request.get_ref().ticket);
        let planned = match planned {
            Some(planned) => planned,
            None => self.plan(text, values).await?,
        };
        Ok(answer::rows(Arc::clone(&self.engine), planned, self.permit()?))
    }

    fn prepared(&self, handle: &[u8]) -> Result<Prepared, Status> {
        self.held().prepared(handle).cloned().ok_or_else(no_statement)
    }
}

fn sql_info() -> Result<SqlInfoData, Status> {
    metadata::sql_info().map_err(failed)
}

fn ipc(schema: &Schema) -> Result<IpcMessage, Status> {
    SchemaAsIpc::new(schema, &Default::default()).try_into().map_err(internal)
}

/// The parameters of a statement in their order, with their types where they show; else the type is null.
fn parameters(planned: &Planned) -> Result<Schema, Status> {
    let mut fields = planned.parameters().map_err(status)?;
    let number = |name: &str| name.trim_start_matches('$').parse::<u32>().unwrap_or(u32::MAX);
    fields.sort_by(|(a, _), (b, _)| number(a).cmp(&number(b)).then_with(|| a.cmp(b)));
    let field = |(name, data_type): (String, Option<DataType>)| {
        Field::new(name, data_type.unwrap_or(DataType::Null), true)
    };
    Ok(Schema::new(fields.into_iter().map(field).collect::<Vec<_>>()))
}

/// The values of parameters: one row, a column each in their order.
fn values(batches: &[RecordBatch]) -> Result<ParamValues, Status> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0).filter(|_| rows == 1) else {
        return Err(Status::invalid_argument(format!(
            "{rows} sets of values, expected one: run the statement once for each"
        )));
    };
    let values = batch.columns().iter().map(|column| ScalarValue::try_from_array(column, 0));
    Ok(values.collect::<Result<Vec<_>, _>>().map_err(|e| status(e.into()))?.into())
}

#[tonic::async_trait]
impl FlightSqlService for Service {
    type FlightService = Self;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Streamed<HandshakeResponse>>, Status> {
        Ok(gate::handshake(request.metadata()))
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.planned(query.query, None, request).await
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let Prepared { text, values } = self.prepared(&query.prepared_statement_handle)?;
        self.planned(text, values, request).await
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(&query.into_builder().schema(), request)
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(&query.into_builder().schema(), request)
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(&metadata::tables_schema(query), request)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(&query.into_builder().schema(), request)
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info(&query.into_builder(&sql_info()?).schema(), request)
    }

    async fn do_get_fallback(&self, request: Request<Ticket>, message: Any) -> Result<Rows, Status> {
        match message.unpack::<CommandStatementQuery>() {
            Ok(Some(query)) => self.rows(query.query, None, &request).await,
            Ok(None) => Err(Status::unimplemented(format!("no rows are given for {}", message.type_url))),
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        }
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Rows, Status> {
        let Prepared { text, values } = self.prepared(&query.prepared_statement_handle)?;
        self.rows(text, values, &request).await
    }

    async fn do_get_catalogs(&self, query: CommandGetCatalogs, _: Request<Ticket>) -> Result<Rows, Status> {
        metadata::catalogs(query).map(answer::one).map_err(failed)
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, _: Request<Ticket>) -> Result<Rows, Status> {
        metadata::schemas(query).map(answer::one).map_err(failed)
    }

    async fn do_get_tables(&self, query: CommandGetTables, _: Request<Ticket>) -> Result<Rows, Status> {
        let _permit = self.permit()?;
        let tables = move |engine: &Engine| metadata::tables(engine, query).map_err(failed);
        self.blocking(tables).await.map(answer::one)
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        _: Request<Ticket>,
    ) -> Result<Rows, Status> {
        metadata::table_types(query).map(answer::one).map_err(failed)
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, _: Request<Ticket>) -> Result<Rows, Status> {
        query.into_builder(&sql_info()?).build().map(answer::one).map_err(failed)
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let planned = self.plan(query.query.clone(), None).await?;
        let dataset: SchemaRef = answer::wire_schema(&planned.schema);
        let parameters = parameters(&planned)?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: self.held().prepare(query.query).into(),
            dataset_schema: ipc(&dataset)?.0,
            parameter_schema: ipc(&parameters)?.0,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        self.held().close(&query.prepared_statement_handle);
        Ok(())
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        self.prepared(&query.prepared_statement_handle)?;
        let data = request.into_inner().map_err(FlightError::from);
        let batches = FlightRecordBatchStream::new_from_flight_data(data);
        // Of a second batch it is known already that there are too many.
        let batches: Vec<RecordBatch> =
            futures::StreamExt::take(batches, 2).try_collect().await.map_err(failed)?;
        let values = values(&batches)?;
        let mut held = self.held();
        let prepared = held.prepared(&query.prepared_statement_handle).ok_or_else(no_statement)?;
        prepared.values = Some(values);
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(query.prepared_statement_handle) })
    }

    async fn do_put_statement_update(
        &self,
        _: CommandStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only())
    }

    async fn do_put_statement_ingest(
        &self,
        _: CommandStatementIngest,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only())
    }

    async fn do_put_prepared_statement_update(
        &self,
        _: CommandPreparedStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only())
    }

    async fn do_action_begin_transaction(
        &self,
        _: ActionBeginTransactionRequest,
        _: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(Status::unimplemented(
            "there are no transactions: each statement sees what was there when it was planned",
        ))
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
