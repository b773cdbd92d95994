//! Avro datums, one a body, as typed columns; the columns of each type are listed in `shape.rs`.
//!
//! Values are read by `apache-avro`, with the schema that they were written by: one that is known, or the one of the
//! id in a [Confluent prefix](crate::confluent), which is asked for through a [`Lookup`]. If a reader schema is given
//! as well, the crate resolves one into the other. Fields go into columns by their names.

mod push;
mod shape;

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};

use self::shape::{Node, Shapes};
use crate::column::{Columns, Unknown};
use crate::confluent::schema_id;
use crate::path::Misfit;
use crate::{Decoded, Error, rows, widen};

pub(crate) use shape::map;

/// A schema with those that it names, as JSON, in bytes.
pub const SCHEMA_BYTES_MAX: usize = 1024 * 1024;
/// Schemas that one schema may name.
pub const REFERENCES_MAX: usize = 64;
/// What one list, map, text or run of bytes of a body may take in memory, in bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Schemas that are kept by their ids.
const KNOWN_MAX: usize = 1_000;

/// What a schema registry has under an id.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The schema as JSON.
    pub schema: String,
    /// The schemas that it names, each before those that name it.
    pub references: Vec<String>,
}

/// Why there is no schema of an id.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// There is no Avro schema under the id: bodies with it can't be read.
    #[error("schema {id} {why}")]
    #[expect(missing_docs, reason = "the message names its fields")]
    Unusable { id: u32, why: String },
    /// Time may heal it.
    #[error("{0}")]
    Unavailable(String),
    /// A person must change something.
    #[error("{0}")]
    Refused(String),
}

/// Gives the schema of an id.
pub type Lookup = Box<dyn FnMut(u32) -> Result<Registered, LookupError> + Send>;

/// A schema that was checked: it can be columns.
#[derive(Debug)]
pub struct AvroSchema {
    schema: Schema,
    references: Vec<Schema>,
    node: Node,
    columns: SchemaRef,
}

impl AvroSchema {
    /// Reads a schema from JSON, with the schemas that it names.
    pub fn parse(schema: &str, references: &[String]) -> Result<Self, Error> {
        let bytes = references.iter().map(String::len).sum::<usize>() + schema.len();
        if bytes > SCHEMA_BYTES_MAX || references.len() > REFERENCES_MAX {
            return Err(Error::schema(format!(
                "an Avro schema of {bytes} bytes with {} others, at most {SCHEMA_BYTES_MAX} bytes and {REFERENCES_MAX} are read",
                references.len()
            )));
        }
        let refused = |why: String| Error::schema(format!("the Avro schema can not be columns: {why}"));
        let (schema, references) = Schema::parse_str_with_list(schema, references)
            .map_err(|e| Error::schema(format!("no Avro schema: {e}")))?;
        let mut shapes = Shapes::default();
        for reference in &references {
            shapes.shape(reference, None).map_err(refused)?;
        }
        let node = shapes.shape(&schema, None).map_err(refused)?;
        let Node::Record(fields) = &node else {
            return Err(refused("it is no record".to_owned()));
        };
        let fields = shape::columns(fields).ok_or_else(|| refused("the record has no field".to_owned()))?;
        // The limits of columns.
        Columns::new(&fields)?;
        let columns = Arc::new(ArrowSchema::new(fields));
        Ok(Self { schema, references, node, columns })
    }

    /// The columns of its fields.
    pub fn columns(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    /// The reader of datums that were written by this schema.
    fn reader<'a>(&'a self, resolve: Option<&'a AvroSchema>) -> Result<GenericDatumReader<'a>, Error> {
        fn all(one: &AvroSchema) -> Vec<&Schema> {
            one.references.iter().chain([&one.schema]).collect()
        }
        let failed =
            |e: apache_avro::Error| Error::schema(format!("the Avro schema can not be resolved: {e}"));
        let builder = GenericDatumReader::builder(&self.schema).writer_schemata(all(self)).map_err(failed)?;
        match resolve {
            None => builder.build(),
            Some(reader) => {
                builder.reader_schema(&reader.schema).reader_schemata(all(reader)).map_err(failed)?.build()
            }
        }
        .map_err(failed)
    }
}

/// Where the schema of a body comes from.
pub enum Writers {
    /// All are written by this one.
    One(Arc<AvroSchema>),
    /// The same, behind a Confluent prefix whose id is not looked at.
    Prefixed(Arc<AvroSchema>),
    /// The id of each body's prefix says.
    Registry(Registry),
}

/// Schemas by id, as they were asked for.
pub struct Registry {
    lookup: Lookup,
    /// A schema, or why bodies of it can't be read.
    known: HashMap<u32, Result<Arc<AvroSchema>, String>>,
}

impl Registry {
    /// Nothing is asked for yet.
    pub fn new(lookup: Lookup) -> Self {
        Self { lookup, known: HashMap::new() }
    }

    /// Asks for a schema unless it is known.
    fn learn(&mut self, id: u32) -> Result<(), Error> {
        if self.known.contains_key(&id) {
            return Ok(());
        }
        let found = match (self.lookup)(id) {
            Ok(found) => AvroSchema::parse(&found.schema, &found.references)
                .map(Arc::new)
                .map_err(|e| format!("$: schema {id}: {e}")),
            Err(unusable @ LookupError::Unusable { .. }) => Err(format!("$: {unusable}")),
            Err(failed) => return Err(failed.into()),
        };
        self.known.insert(id, found);
        Ok(())
    }

    /// Before a batch: what was learned stays until it is too much.
    fn bound(&mut self) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
    }

    fn get(&self, id: u32) -> Result<&Arc<AvroSchema>, String> {
        match self.known.get(&id) {
            Some(Ok(schema)) => Ok(schema),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(format!("$: schema {id} was not asked for")),
        }
    }
}

/// Reads Avro bodies.
pub struct Avro {
    writers: Writers,
    /// What each value is resolved to.
    reader: Option<Arc<AvroSchema>>,
}

impl Avro {
    /// With a reader schema its fields are the columns, else those of the writers' schemas.
    pub fn new(writers: Writers, reader: Option<Arc<AvroSchema>>) -> Self {
        // Set once a process; the first one to set it wins.
        apache_avro::util::max_allocation_bytes(VALUE_BYTES_MAX);
        Self { writers, reader }
    }

    /// The columns, if they are known before any body is.
    pub fn columns(&self) -> Option<SchemaRef> {
        match (&self.reader, &self.writers) {
            (Some(reader), _) => Some(reader.columns()),
            (None, Writers::One(writer) | Writers::Prefixed(writer)) => Some(writer.columns()),
            (None, Writers::Registry(_)) => None,
        }
    }

    /// The schema that takes `standing` and the bodies of this body's writer, or why there is none.
    pub fn widened(&mut self, standing: &SchemaRef, body: &[u8]) -> Result<Result<SchemaRef, String>, Error> {
        let proposed = match (self.columns(), &mut self.writers) {
            (Some(columns), _) => columns,
            (None, Writers::Registry(registry)) => {
                let id = match schema_id(body) {
                    Ok((id, _)) => id,
                    Err(reason) => return Ok(Err(reason)),
                };
                registry.bound();
                registry.learn(id)?;
                match registry.get(id) {
                    Ok(schema) => schema.columns(),
                    Err(reason) => return Ok(Err(reason)),
                }
            }
            (None, _) => return Ok(Err("$: no schema".to_owned())),
        };
        Ok(widen::widened(standing, &proposed).map_err(|conflict| conflict.to_string()))
    }

    /// Decodes each body as one row of the columns of `schema`.
    fn decode_into(
        &mut self,
        columns: &mut Columns,
        schema: &SchemaRef,
        bodies: &mut dyn Iterator<Item = Option<&[u8]>>,
    ) -> Result<Decoded, Error> {
        let bodies: Vec<Option<&[u8]>> = bodies.collect();
        if let Writers::Registry(registry) = &mut self.writers {
            registry.bound();
            for (id, _) in bodies.iter().flatten().filter_map(|body| schema_id(body).ok()) {
                registry.learn(id)?;
            }
        }
        let mut readers: HashMap<Option<u32>, (GenericDatumReader<'_>, &Node)> = HashMap::new();
        rows::decode(columns, schema, &mut bodies.into_iter(), |columns, body, rows| {
            let (id, writer, datum) = self.writer(body)?;
            let (reader, node) = match readers.entry(id) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => {
                    let resolve = self.reader.as_deref();
                    let reader = writer.reader(resolve).map_err(|error| format!("$: {error}"))?;
                    new.insert((reader, &resolve.unwrap_or(writer).node))
                }
            };
            Ok(row(reader, node, columns, datum, rows)?)
        })
    }

    /// The schema that a body was written by, with its id, and the datum.
    fn writer<'a>(&self, body: &'a [u8]) -> Result<(Option<u32>, &AvroSchema, &'a [u8]), String> {
        match &self.writers {
            Writers::One(writer) => Ok((None, writer, body)),
            Writers::Prefixed(writer) => Ok((None, writer, schema_id(body)?.1)),
            Writers::Registry(registry) => {
                let (id, datum) = schema_id(body)?;
                Ok((Some(id), registry.get(id)?, datum))
            }
        }
    }
}

/// Columns of one schema that Avro bodies are read into.
pub struct Decoder {
    schema: SchemaRef,
    columns: Columns,
}

impl Decoder {
    /// Columns of a schema; fields without one as `unknown` says.
    pub fn new(schema: SchemaRef, unknown: Unknown) -> Result<Self, Error> {
        let mut columns = Columns::new(schema.fields())?;
        columns.treat_unknown(unknown);
        Ok(Self { schema, columns })
    }

    /// Decodes each body as one row. A body that is missing or does not fit is a reject.
    ///
    /// Fails if the schema registry does not answer; what was read is dropped.
    pub fn decode(
        &mut self,
        avro: &mut Avro,
        bodies: &mut dyn Iterator<Item = Option<&[u8]>>,
    ) -> Result<Decoded, Error> {
        avro.decode_into(&mut self.columns, &self.schema, bodies)
    }
}

fn row(
    reader: &GenericDatumReader<'_>,
    node: &Node,
    columns: &mut Columns,
    datum: &[u8],
    rows: usize,
) -> Result<(), Misfit> {
    let mut datum = Datum { rest: datum, is_short: false };
    let value = reader.read_value(&mut datum);
    // The crate takes some bodies that end too soon for ones that end with null.
    if datum.is_short {
        return Err(Misfit::new("the body ends before its value does"));
    }
    let value = value.map_err(|e| Misfit::new(format!("no value of its Avro schema: {e}")))?;
    if !datum.rest.is_empty() {
        return Err(Misfit::new(format!("{} bytes follow the value", datum.rest.len())));
    }
    let (Node::Record(fields), apache_avro::types::Value::Record(values)) = (node, value) else {
        return Err(Misfit::new("the value is no record"));
    };
    push::record(columns, fields, &values, rows)
}

/// The bytes of a body; remembers whether more was asked for than is there.
struct Datum<'a> {
    rest: &'a [u8],
    is_short: bool,
}

impl Read for Datum<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.is_short |= into.len() > self.rest.len();
        self.rest.read(into)
    }
}
