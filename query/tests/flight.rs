//! Flight SQL by arrow-flight's own client.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int64Type};
use arrow::util::display::array_value_to_string;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTables, SqlInfo};
use arrow_flight::{FlightInfo, Ticket};
use futures::{StreamExt, TryStreamExt};
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::message::{Message, push_property};
use sluice_query::Engine;
use sluice_query::flight::{Certificate, IsToken, Server};
use sluice_store::file::RealDisk;
use sluice_store::{Batch, Settings, Store};
use sluice_testkit::{ManualClock, scratch};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

const TOKEN: &str = "0123456789abcdef";

struct Place {
    _folder: TempDir,
    server: Server,
    runtime: Runtime,
}

type Client = FlightSqlServiceClient<Channel>;

impl Place {
    /// A topic `orders` of so many messages, served with so many bytes of memory.
    fn new(messages: usize, memory: usize, is_token: Option<IsToken>) -> Self {
        Self::with(messages, memory, is_token, None)
    }

    /// The same, by TLS with a certificate.
    fn with(
        messages: usize,
        memory: usize,
        is_token: Option<IsToken>,
        certificate: Option<Certificate>,
    ) -> Self {
        let folder = scratch().unwrap();
        let settings = Settings::embedded(folder.path().join("store"));
        let clock = ManualClock::new(1_700_000_000_000);
        let store = Store::open_without_upkeep(settings, Arc::new(RealDisk), clock.clock()).unwrap();
        let topic = TopicName::new("orders").unwrap();
        store.create_topic(&topic, 1).unwrap();
        for ids in (0..messages).collect::<Vec<_>>().chunks(1000) {
            let mut batch = Batch::new();
            for id in ids {
                let mut properties = Vec::new();
                push_property(&mut properties, "origin", ["EWR", "JFK"][id % 2]).unwrap();
                let body = format!(r#"{{"id":{id},"text":"number {id} of many rows that take memory"}}"#);
                let message =
                    Message { body: body.as_bytes(), properties: &properties, ..Message::default() };
                batch.push(&topic, QueueId::new(0).unwrap(), &message).unwrap();
            }
            store.append(batch).unwrap();
        }
        let engine = Engine::new(Some(store)).with_memory(memory).unwrap().without_files();
        let server = Server::start(engine, "127.0.0.1:0".parse().unwrap(), is_token, certificate).unwrap();
        let runtime = Runtime::new().unwrap();
        Self { _folder: folder, server, runtime }
    }

    fn small() -> Self {
        Self::new(100, 64 << 20, None)
    }

    fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.server.addr())).unwrap();
        let channel = self.runtime.block_on(endpoint.connect()).unwrap();
        FlightSqlServiceClient::new(channel)
    }

    fn ask(&self, sql: &str) -> Result<RecordBatch, FlightError> {
        let mut client = self.client();
        self.runtime.block_on(async {
            let info = client.execute(sql.to_owned(), None).await?;
            fetch(&mut client, &info).await
        })
    }

    #[track_caller]
    fn refused(&self, sql: &str, expected: &str) {
        let error = self.ask(sql).err().unwrap_or_else(|| panic!("{sql} was run")).to_string();
        assert!(error.contains(expected), "{sql}: {error}");
    }
}

fn ticket(info: &FlightInfo) -> Ticket {
    info.endpoint[0].ticket.clone().unwrap()
}

async fn fetch(client: &mut Client, info: &FlightInfo) -> Result<RecordBatch, FlightError> {
    let told = info.clone().try_decode_schema()?;
    let mut stream = client.do_get(ticket(info)).await?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch?);
    }
    let schema = stream.schema().cloned().unwrap();
    assert_eq!(schema.fields(), told.fields(), "the rows have other columns than was told");
    Ok(concat_batches(&schema, &batches)?)
}

fn cell(batch: &RecordBatch, row: usize) -> String {
    let cells = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
    cells.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_statement_gives_its_rows_as_they_were_told() {
    let place = Place::small();
    let batch = place.ask("select count(*), sum(id), min(text) from orders").unwrap();
    assert_eq!(cell(&batch, 0), "100 4950 number 0 of many rows that take memory");
    // Dictionaries, views, maps and times as well.
    let batch =
        place.ask("select * from topics.orders where _properties['origin'] = 'JFK' order by id").unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (50, 11));
    let batch = place.ask("select * from orders a join orders b on a.id = b.id").unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (100, 22));
    let batch = place.ask("select id from orders where id < 0").unwrap();
    assert_eq!((batch.num_rows(), batch.schema().field(0).data_type()), (0, &DataType::Int64));
}

#[test]
fn an_answer_that_is_longer_than_a_message_comes_whole_and_a_ticket_can_be_used_again() {
    let place = Place::new(50_000, 64 << 20, None);
    let mut client = place.client();
    place.runtime.block_on(async {
        let info = client.execute("select id, text from orders".to_owned(), None).await.unwrap();
        for _ in 0..2 {
            let batch = fetch(&mut client, &info).await.unwrap();
            let ids: Vec<i64> = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(ids, (0..50_000).collect::<Vec<_>>());
        }
        // Who does not read on holds nobody up, nor the server's memory.
        let info = client.execute("select * from orders".to_owned(), None).await.unwrap();
        let mut unread = client.do_get(ticket(&info)).await.unwrap();
        unread.next().await.unwrap().unwrap();
        let count = client.execute("select count(*) from orders".to_owned(), None).await.unwrap();
        assert_eq!(cell(&fetch(&mut client, &count).await.unwrap(), 0), "50000");
        let rest: Vec<RecordBatch> = unread.try_collect().await.unwrap();
        assert!(rest.iter().map(RecordBatch::num_rows).sum::<usize>() < 50_000);
    });
}

#[test]
fn what_does_more_than_reading_is_refused() {
    let place = Place::small();
    for sql in [
        "create table t as select 1",
        "create external table t stored as csv location '/etc/passwd'",
        "create view v as select 1",
        "insert into orders (id) values (1)",
        "update orders set id = 1",
        "delete from orders",
        "drop table orders",
        "copy (select 1) to '/tmp/out.csv'",
        "set datafusion.execution.batch_size = 1",
        "reset datafusion.execution.batch_size",
        "prepare p as select 1",
        "begin",
        "explain insert into orders (id) values (1)",
    ] {
        place.refused(sql, "is not run here");
    }
    place.refused("select 1; select 2", "single SQL statement");
    place.refused("select * from '/etc/passwd'", "files are no tables here");
    place.refused("select * from './lake/'", "files are no tables here");
    place.refused("select * from order_s", "no table `order_s` (there are: orders)");
    place.refused("selec 1", "selec");
    place.refused(&format!("select '{}'", "x".repeat(70_000)), "exceeds the limit of 65536");
    place.refused(&format!("select {}", vec!["1"; 10_000].join(" + ")), "words between two commas");
    assert_eq!(cell(&place.ask("select count(*) from orders").unwrap(), 0), "100");
}

#[test]
fn what_just_passes_the_limits_of_depth_is_run() {
    let place = Place::small();
    let sum = vec!["id"; 740].join(" + ");
    assert_eq!(
        cell(&place.ask(&format!("select max({sum}) from orders")).unwrap(), 0),
        (740 * 99).to_string()
    );
    let any = (0..370).map(|id| format!("id = {id}")).collect::<Vec<_>>().join(" or ");
    assert_eq!(cell(&place.ask(&format!("select count(*) from orders where {any}")).unwrap(), 0), "100");
    let deep = format!("select {}1{}", "(".repeat(5000), ")".repeat(5000));
    place.refused(&deep, "RecursionLimit");
    let union = vec!["select 1"; 100].join(" union all ");
    assert_eq!(place.ask(&union).unwrap().num_rows(), 100);
}

#[test]
fn a_statement_that_needs_more_memory_says_so_and_the_server_lives_on() {
    let place = Place::new(20_000, 1 << 20, None);
    for sql in ["select text, count(*) from orders group by text", "select * from orders order by text desc"]
    {
        place.refused(sql, "needs more memory than the 1 MiB that all statements share");
        place.refused(sql, "raise --memory");
    }
    assert_eq!(cell(&place.ask("select count(*) from orders").unwrap(), 0), "20000");
}

#[test]
fn a_prepared_statement_takes_its_values() {
    let place = Place::small();
    let mut client = place.client();
    place.runtime.block_on(async {
        let sql = "select id, text from orders where id >= $1 and _properties['origin'] = $2 order by id";
        let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
        let parameters = prepared.parameter_schema().unwrap();
        let types: Vec<&DataType> = parameters.fields().iter().map(|field| field.data_type()).collect();
        assert_eq!(types[0], &DataType::Int64, "{parameters}");
        assert_eq!(prepared.dataset_schema().unwrap().fields().len(), 2);
        for (from, origin, first, n) in [(90, "EWR", "90", 5), (97, "JFK", "97", 2)] {
            let values = RecordBatch::try_from_iter([
                ("$1", Arc::new(Int64Array::from(vec![from])) as _),
                ("$2", Arc::new(StringArray::from(vec![origin])) as _),
            ]);
            prepared.set_parameters(values.unwrap()).unwrap();
            let info = prepared.execute().await.unwrap();
            let batch = fetch(&mut client, &info).await.unwrap();
            assert_eq!(batch.num_rows(), n);
            assert!(cell(&batch, 0).starts_with(first), "{}", cell(&batch, 0));
        }
        let two = RecordBatch::try_from_iter([("$1", Arc::new(Int64Array::from(vec![1, 2])) as _)]).unwrap();
        prepared.set_parameters(two).unwrap();
        let error = prepared.execute().await.unwrap_err().to_string();
        assert!(error.contains("2 sets of values"), "{error}");
        let ticket =
            ticket(&client.prepare("select 1".to_owned(), None).await.unwrap().execute().await.unwrap());
        prepared.close().await.unwrap();
        let rows: Vec<_> = client.do_get(ticket).await.unwrap().try_collect().await.unwrap();
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    });
}

#[test]
fn tools_find_catalogs_schemas_tables_and_what_the_server_is() {
    let place = Place::small();
    let mut client = place.client();
    place.runtime.block_on(async {
        let info = client.get_catalogs().await.unwrap();
        assert_eq!(cell(&fetch(&mut client, &info).await.unwrap(), 0), "sluice");
        let command = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: Some("top%".into()) };
        let info = client.get_db_schemas(command).await.unwrap();
        assert_eq!(cell(&fetch(&mut client, &info).await.unwrap(), 0), "sluice topics");
        let mut command = CommandGetTables {
            catalog: None,
            db_schema_filter_pattern: None,
            table_name_filter_pattern: Some("order_".into()),
            table_types: vec!["TABLE".into()],
            include_schema: true,
        };
        let info = client.get_tables(command.clone()).await.unwrap();
        let tables = fetch(&mut client, &info).await.unwrap();
        assert_eq!(tables.num_rows(), 1);
        let schema = tables.column_by_name("table_schema").unwrap().as_binary::<i32>().value(0).to_vec();
        let message = arrow_flight::IpcMessage(schema.into());
        let schema = arrow::datatypes::Schema::try_from(message).unwrap();
        assert_eq!(schema.field_with_name("id").unwrap().data_type(), &DataType::Int64);
        command.table_name_filter_pattern = Some("x%".into());
        let info = client.get_tables(command).await.unwrap();
        assert_eq!(fetch(&mut client, &info).await.unwrap().num_rows(), 0);
        let info = client.get_table_types().await.unwrap();
        assert_eq!(cell(&fetch(&mut client, &info).await.unwrap(), 0), "TABLE");
        let asked = vec![SqlInfo::FlightSqlServerName, SqlInfo::FlightSqlServerReadOnly];
        let info = client.get_sql_info(asked).await.unwrap();
        let told = fetch(&mut client, &info).await.unwrap();
        assert_eq!(told.num_rows(), 2);
        assert!(cell(&told, 0).contains("Sluice"), "{}", cell(&told, 0));
    });
}

#[test]
fn a_token_is_asked_for_where_there_is_one() {
    let place = Place::new(1, 1 << 26, Some(Arc::new(|shown| shown == TOKEN)));
    let run = |client: &mut Client| -> Result<String, FlightError> {
        place.runtime.block_on(async {
            let info = client.execute("select count(*) from orders".to_owned(), None).await?;
            fetch(client, &info).await.map(|batch| cell(&batch, 0))
        })
    };
    let mut client = place.client();
    assert!(run(&mut client).unwrap_err().to_string().contains("Bearer TOKEN"));
    client.set_token("0123456789abcdeg".to_owned());
    assert!(run(&mut client).is_err());
    client.set_token(TOKEN.to_owned());
    assert_eq!(run(&mut client).unwrap(), "1");
    let mut client = place.client();
    assert!(place.runtime.block_on(client.handshake("analyst", "wrong")).is_err());
    place.runtime.block_on(client.handshake("analyst", TOKEN)).unwrap();
    assert_eq!(run(&mut client).unwrap(), "1");
}

#[test]
fn garbage_on_the_port_harms_nobody() {
    let place = Place::small();
    let mut seed = 7_u32;
    for length in [0, 1, 24, 1000, 100_000] {
        let mut stream = TcpStream::connect(place.server.addr()).unwrap();
        if length > 24 {
            // The preface of HTTP/2, and then what it is not.
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .take(length)
        .collect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // Well-formed calls of nonsense.
    let mut client = place.client();
    place.runtime.block_on(async {
        for bytes in [&b""[..], b"\x00", b"nonsense", &[0xff; 4000]] {
            let got = client.do_get(Ticket { ticket: bytes.to_vec().into() }).await;
            let failed = match got {
                Ok(rows) => rows.try_collect::<Vec<_>>().await.is_err(),
                Err(_) => true,
            };
            assert!(failed, "{bytes:?}");
        }
    });
    assert_eq!(cell(&place.ask("select count(*) from orders").unwrap(), 0), "100");
}

#[test]
fn with_a_certificate_it_speaks_tls_alone() {
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let certificate = Certificate { chain: own.pem().into_bytes(), key: key.serialize_pem().into_bytes() };
    let place = Place::with(3, 1 << 26, Some(Arc::new(|shown| shown == TOKEN)), Some(certificate.clone()));
    let connect = |scheme: &str, tls: Option<ClientTlsConfig>| {
        let addr = format!("{scheme}://localhost:{}", place.server.addr().port());
        let endpoint = Endpoint::from_shared(addr).unwrap();
        let endpoint = match tls {
            Some(tls) => endpoint.tls_config(tls).unwrap(),
            None => endpoint,
        };
        place.runtime.block_on(endpoint.connect()).map(FlightSqlServiceClient::new)
    };
    let trusting = ClientTlsConfig::new().ca_certificate(tonic::transport::Certificate::from_pem(own.pem()));
    let mut client = connect("https", Some(trusting)).unwrap();
    client.set_token(TOKEN.to_owned());
    let rows = place.runtime.block_on(async {
        let info = client.execute("select id from orders".to_owned(), None).await?;
        fetch(&mut client, &info).await
    });
    assert_eq!(rows.unwrap().num_rows(), 3);
    assert!(connect("https", Some(ClientTlsConfig::new().with_native_roots())).is_err(), "nobody signed it");
    let in_clear = connect("http", None).map(|mut client| {
        client.set_token(TOKEN.to_owned());
        place.runtime.block_on(client.execute("select 1".to_owned(), None)).is_err()
    });
    assert!(in_clear.unwrap_or(true), "a client in clear is answered");

    let other = rcgen::KeyPair::generate().unwrap().serialize_pem().into_bytes();
    for wrong in [
        Certificate { key: other, ..certificate.clone() },
        Certificate { chain: b"x".to_vec(), ..certificate },
    ] {
        let started = Server::start(Engine::new(None), "127.0.0.1:0".parse().unwrap(), None, Some(wrong));
        let told = started.err().unwrap().to_string();
        assert_eq!(told, "cannot speak TLS by this certificate and key");
    }
}
