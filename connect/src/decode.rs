//! Bodies into columns: where the schema comes from, and how it grows.
//!
//! Holds no slice and gives no row its fate; that is [`crate::steps`]'s.

use std::sync::Arc;

use arrow::array::{Array, BinaryViewArray};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use sluice_formats::avro::{Avro, Lookup, LookupError, Registry, Writers};
use sluice_formats::csv::Layout;
use sluice_formats::protobuf::Protobuf;
use sluice_formats::widen::{JsonGrowth, covers, widened};
use sluice_formats::{Decoded, Unknown, avro, csv, json, protobuf, raw};

use crate::config::{AvroFormat, Decode, Format, OnNewField};
use crate::task::{Class, TaskError};

/// Rows that `infer` looks at if the config does not say.
pub const FREEZE_AFTER_ROWS: u64 = 5000;

/// Columns of earlier schemas that are kept for unfinished plans.
const EARLIER_MAX: usize = 16;

/// What the settings of `decode` name and do not hold.
#[derive(Default)]
pub struct Outside {
    /// The content of `protobuf.descriptors`.
    pub descriptors: Option<Vec<u8>>,
    /// The client of `avro.registry`.
    pub lookup: Option<Lookup>,
}

/// Decodes the bodies of one pipeline.
pub(crate) struct Bodies {
    format: Opened,
    unknown: Unknown,
    on_new_field: Option<OnNewField>,
    freeze_after_rows: u64,
    state: State,
    /// By schemas that stood before, for plans that were begun with them.
    earlier: Vec<(SchemaRef, Columns)>,
}

enum Opened {
    Json,
    Csv(Layout),
    Avro(Box<Avro>),
    Protobuf(Box<Protobuf>),
    Raw,
}

enum State {
    /// The schema is not fixed; bodies are looked at.
    Infer(Box<Proposer>),
    /// A schema is proposed, and does not stand yet.
    Known(SchemaRef),
    Fixed(SchemaRef, Box<Columns>),
}

enum Proposer {
    Json(json::Inferer),
    Csv(Box<csv::Inferer>),
    /// What the writers' schemas have together.
    Avro(Option<SchemaRef>),
}

/// Columns that bodies are read into.
enum Columns {
    Json(json::Decoder),
    Csv(Box<csv::Decoder>),
    Avro(avro::Decoder),
    Protobuf(protobuf::Decoder),
    Raw(raw::Decoder),
}

/// What is wanted of bodies before they can be decoded.
#[derive(Clone, Debug)]
pub(crate) enum Wait {
    /// Nothing.
    Nothing,
    /// More bodies, to see what they have in common; so many rows at most.
    Rows(u64),
    /// That this schema stands.
    Schema(SchemaRef),
}

impl Bodies {
    /// Fails with [`Class::Config`] if the settings can not be followed.
    pub(crate) fn new(decode: &Decode, outside: Outside) -> Result<Self, TaskError> {
        let refused = |e: sluice_formats::Error| {
            TaskError::new(Class::Config, "`decode` can not be followed").because(e)
        };
        let missing = |what: &str| TaskError::new(Class::Config, format!("`decode` needs {what}"));
        let mut known = decode.columns();
        if known.as_ref().is_some_and(|schema| schema.fields().is_empty()) {
            return Err(TaskError::new(Class::Config, "`decode.schema.fields` names no field"));
        }
        let format = match &decode.format {
            Format::Json => Opened::Json,
            Format::Raw => Opened::Raw,
            Format::Csv(csv) => Opened::Csv(csv.layout().map_err(refused)?),
            Format::Avro(settings) => Opened::Avro(Box::new(open_avro(settings, outside.lookup)?)),
            Format::Protobuf(settings) => {
                let descriptors = outside.descriptors.ok_or_else(|| missing("its descriptor set"))?;
                let message = Protobuf::new(&descriptors, &settings.message, settings.prefix.is_some())
                    .map_err(refused)?;
                known = Some(message.columns());
                Opened::Protobuf(Box::new(message))
            }
        };
        let state = match (known, &format) {
            (Some(schema), _) => State::Known(schema),
            (None, Opened::Csv(layout)) => {
                State::Infer(Box::new(Proposer::Csv(Box::new(csv::Inferer::new(layout.clone())))))
            }
            (None, Opened::Avro(_)) => State::Infer(Box::new(Proposer::Avro(None))),
            (None, _) => State::Infer(Box::new(Proposer::Json(json::Inferer::new()))),
        };
        Ok(Self {
            format,
            unknown: decode.unknown(),
            on_new_field: decode.on_new_field,
            freeze_after_rows: decode.schema.freeze_after_rows.unwrap_or(FREEZE_AFTER_ROWS),
            state,
            earlier: Vec::new(),
        })
    }

    /// Whether the schema grows by what is new.
    pub(crate) fn grows(&self) -> bool {
        self.on_new_field == Some(OnNewField::Add)
    }

    /// What is to be done before bodies are decoded.
    pub(crate) fn wait(&self) -> Wait {
        match &self.state {
            State::Infer(_) => Wait::Rows(self.freeze_after_rows),
            State::Known(schema) => Wait::Schema(Arc::clone(schema)),
            State::Fixed(..) => Wait::Nothing,
        }
    }

    /// Takes bodies into account while the schema is not fixed.
    pub(crate) fn look_at(&mut self, bodies: &BinaryViewArray) -> Result<(), TaskError> {
        let State::Infer(proposer) = &mut self.state else { return Ok(()) };
        for body in bodies.iter().flatten() {
            // A body that can not be read is no sample; decoding gives it its fate.
            match (proposer.as_mut(), &mut self.format) {
                (Proposer::Json(inferer), _) => drop(inferer.add(body)),
                (Proposer::Csv(inferer), _) => drop(inferer.add(body)),
                (Proposer::Avro(seen), Opened::Avro(avro)) => {
                    let empty = || Arc::new(Schema::empty());
                    let standing = seen.clone().unwrap_or_else(empty);
                    if let Ok(wider) = avro.widened(&standing, body).map_err(failed)? {
                        *seen = Some(wider);
                    }
                }
                (Proposer::Avro(_), _) => {}
            }
        }
        Ok(())
    }

    /// The schema that is proposed, if there is any field to it: one without would stand for good, and no later row
    /// would fit it.
    pub(crate) fn proposal(&self) -> Option<SchemaRef> {
        let schema = match &self.state {
            State::Infer(proposer) => match proposer.as_ref() {
                Proposer::Json(inferer) if self.grows() => inferer.shown(),
                Proposer::Json(inferer) => inferer.schema(),
                Proposer::Csv(inferer) => inferer.schema()?,
                Proposer::Avro(seen) => seen.clone()?,
            },
            State::Known(schema) => Arc::clone(schema),
            State::Fixed(..) => return None,
        };
        (!schema.fields().is_empty()).then_some(schema)
    }

    /// Whether the schema that stands is the one that the config says, if it says one.
    pub(crate) fn check_known(&self, standing: &SchemaRef) -> Result<(), TaskError> {
        let State::Known(known) = &self.state else { return Ok(()) };
        let difference = if self.grows() {
            match widened(standing, known) {
                Ok(_) => return Ok(()),
                Err(conflict) => conflict.to_string(),
            }
        } else if known.fields() == standing.fields() {
            return Ok(());
        } else {
            difference(known, standing)
        };
        Err(TaskError::new(
            Class::Config,
            format!(
                "the schema of `decode` is not the schema that this pipeline's files have: {difference}. A pipeline keeps \
                 its schema: put the fields back as they were, let it grow by `on_new_field: add`, or give the pipeline a \
                 new name, under which it begins anew"
            ),
        ))
    }

    /// Uses a schema that stands. If it is to grow by what the config says, that stays proposed.
    pub(crate) fn fix(&mut self, standing: &SchemaRef) -> Result<(), TaskError> {
        if let State::Known(known) = &self.state
            && self.grows()
            && !covers(standing, known)
            && let Ok(wider) = widened(standing, known)
        {
            self.state = State::Known(wider);
            return Ok(());
        }
        let columns = self.columns(standing)?;
        self.state = State::Fixed(Arc::clone(standing), Box::new(columns));
        Ok(())
    }

    fn columns(&self, schema: &SchemaRef) -> Result<Columns, TaskError> {
        let (schema, unknown) = (Arc::clone(schema), self.unknown);
        match &self.format {
            Opened::Json => {
                json::Decoder::new(schema).map(|decoder| Columns::Json(decoder.with_unknown(unknown)))
            }
            Opened::Csv(layout) => csv::Decoder::new(layout.clone(), schema, unknown)
                .map(|decoder| Columns::Csv(Box::new(decoder))),
            Opened::Avro(_) => avro::Decoder::new(schema, unknown).map(Columns::Avro),
            Opened::Protobuf(message) => {
                protobuf::Decoder::new(message.as_ref().clone(), schema, unknown).map(Columns::Protobuf)
            }
            Opened::Raw => raw::Decoder::new(schema).map(Columns::Raw),
        }
        .map_err(|e| TaskError::new(Class::Config, "cannot decode by the pipeline's schema").because(e))
    }

    /// Decodes by the schema that stands.
    pub(crate) fn decode(&mut self, bodies: &BinaryViewArray, offsets: &[i64]) -> Result<Decoded, TaskError> {
        let State::Fixed(schema, columns) = &mut self.state else {
            return Err(TaskError::new(Class::Fatal, "no schema stands to decode by"));
        };
        let schema = Arc::clone(schema);
        let decoded = read(&mut self.format, columns, bodies)?;
        self.block_at_new(&schema, &decoded, bodies, offsets)?;
        Ok(decoded)
    }

    /// Decodes by a schema that stood when a plan was begun.
    pub(crate) fn decode_by(
        &mut self,
        schema: &SchemaRef,
        bodies: &BinaryViewArray,
        offsets: &[i64],
    ) -> Result<Decoded, TaskError> {
        if !self.earlier.iter().any(|(known, _)| known == schema) {
            let columns = self.columns(schema)?;
            self.earlier.truncate(EARLIER_MAX - 1);
            self.earlier.insert(0, (Arc::clone(schema), columns));
        }
        let Some((_, columns)) = self.earlier.iter_mut().find(|(known, _)| known == schema) else {
            return Err(TaskError::new(Class::Fatal, "columns of an earlier schema were not kept"));
        };
        let decoded = read(&mut self.format, columns, bodies)?;
        self.block_at_new(schema, &decoded, bodies, offsets)?;
        Ok(decoded)
    }

    /// Under `on_new_field: fail` the first row that needs a wider schema ends the run.
    fn block_at_new(
        &mut self,
        standing: &SchemaRef,
        decoded: &Decoded,
        bodies: &BinaryViewArray,
        offsets: &[i64],
    ) -> Result<(), TaskError> {
        let Some(&row) = decoded.wider.first().filter(|_| self.on_new_field == Some(OnNewField::Fail)) else {
            return Ok(());
        };
        let reason = decoded.rejects.iter().find(|(at, _)| *at == row).map_or("", |(_, reason)| reason);
        let grown = self.grown_by(standing, &[row], bodies)?;
        let would = grown.map_or_else(String::new, |wider| {
            format!(" (the schema would grow: {})", difference(&wider, standing))
        });
        let offset = offsets.get(row).copied().unwrap_or(-1);
        Err(TaskError::new(
            Class::Config,
            format!(
                "blocked by `on_new_field: fail` at queue offset {offset}: {reason}{would}. Nothing was passed over; write \
                 `on_new_field: add` for the column, `ignore` to leave it out, or `dead_letter` for such rows, and run again"
            ),
        ))
    }

    /// The schema that takes more of the rejected rows than the one that stands, if it may grow and there is one.
    pub(crate) fn grown(
        &mut self,
        decoded: &Decoded,
        bodies: &BinaryViewArray,
    ) -> Result<Option<SchemaRef>, TaskError> {
        let State::Fixed(standing, _) = &self.state else { return Ok(None) };
        if !self.grows() || decoded.wider.is_empty() {
            return Ok(None);
        }
        let standing = Arc::clone(standing);
        self.grown_by(&standing, &decoded.wider, bodies)
    }

    fn grown_by(
        &mut self,
        standing: &SchemaRef,
        rows: &[usize],
        bodies: &BinaryViewArray,
    ) -> Result<Option<SchemaRef>, TaskError> {
        let there = rows.iter().filter(|&&row| row < bodies.len() && bodies.is_valid(row));
        let bodies = there.map(|&row| bodies.value(row));
        let grown = match &mut self.format {
            Opened::Json => {
                let mut growth = JsonGrowth::new(Arc::clone(standing));
                bodies.for_each(|body| growth.add(body));
                growth.schema()
            }
            Opened::Avro(avro) => {
                let mut grown = Arc::clone(standing);
                for body in bodies {
                    if let Ok(wider) = avro.widened(&grown, body).map_err(failed)? {
                        grown = wider;
                    }
                }
                grown
            }
            Opened::Csv(layout) => {
                let mut inferer = csv::Inferer::new(layout.clone());
                bodies.for_each(|body| drop(inferer.add(body)));
                // A value may not fit a column that stands, which is for its row to say.
                let is_new = |f: &&FieldRef| standing.field_with_name(f.name()).is_err();
                let new: Vec<FieldRef> = inferer.shown().fields().iter().filter(is_new).cloned().collect();
                widened(standing, &Arc::new(Schema::new(new))).unwrap_or_else(|_| Arc::clone(standing))
            }
            // The config says their fields, before the first row.
            Opened::Protobuf(_) | Opened::Raw => return Ok(None),
        };
        Ok((grown.fields() != standing.fields()).then_some(grown))
    }

    /// Why a body has no columns while no schema is known.
    pub(crate) fn reason_without_schema(&self, body: &[u8]) -> String {
        let read = match &self.format {
            Opened::Json => json::Inferer::new().add(body),
            Opened::Csv(layout) => csv::Inferer::new(layout.clone()).add(body),
            Opened::Avro(_) => sluice_formats::confluent::schema_id(body).map(drop),
            Opened::Protobuf(_) | Opened::Raw => Ok(()),
        };
        match read {
            Err(reason) => reason,
            Ok(()) => "$: an object without fields, and no row before it has any".to_owned(),
        }
    }
}

fn open_avro(settings: &AvroFormat, lookup: Option<Lookup>) -> Result<Avro, TaskError> {
    let refused = |why: &str| TaskError::new(Class::Config, format!("`decode` {why}"));
    let schema = match settings.schema.as_ref().map(|schema| schema.0.as_ref()) {
        None => None,
        Some(Ok(schema)) => Some(Arc::clone(schema)),
        Some(Err(why)) => return Err(refused(&format!("can not be followed: {why}"))),
    };
    Ok(match (&settings.registry, schema) {
        (Some(_), reader) => {
            let lookup = lookup.ok_or_else(|| refused("needs a client of its schema registry"))?;
            Avro::new(Writers::Registry(Registry::new(lookup)), reader)
        }
        (None, Some(writer)) if settings.prefix.is_some() => Avro::new(Writers::Prefixed(writer), None),
        (None, Some(writer)) => Avro::new(Writers::One(writer), None),
        (None, None) => return Err(refused("needs an Avro schema or a schema registry")),
    })
}

fn read(format: &mut Opened, columns: &mut Columns, bodies: &BinaryViewArray) -> Result<Decoded, TaskError> {
    let mut bodies = bodies.iter();
    match (columns, format) {
        (Columns::Json(decoder), _) => decoder.decode(&mut bodies),
        (Columns::Csv(decoder), _) => decoder.decode(&mut bodies),
        (Columns::Avro(decoder), Opened::Avro(avro)) => decoder.decode(avro, &mut bodies),
        (Columns::Avro(_), _) => {
            return Err(TaskError::new(Class::Fatal, "columns of Avro without its schemas"));
        }
        (Columns::Protobuf(decoder), _) => decoder.decode(&mut bodies),
        (Columns::Raw(decoder), _) => decoder.decode(&mut bodies),
    }
    .map_err(failed)
}

fn failed(error: sluice_formats::Error) -> TaskError {
    let class = match &error {
        sluice_formats::Error::Lookup(LookupError::Unavailable(_)) => Class::Retry,
        sluice_formats::Error::Lookup(_) => Class::Config,
        _ => Class::Fatal,
    };
    TaskError::new(class, "cannot decode bodies").because(error)
}

/// How two schemas differ, for a person.
pub(crate) fn difference(declared: &SchemaRef, standing: &SchemaRef) -> String {
    let show = |f: &Field| format!("`{}: {}`", f.name(), f.data_type());
    let mut parts = Vec::new();
    for field in declared.fields() {
        match standing.field_with_name(field.name()) {
            Err(_) => parts.push(format!("{} is not in it", show(field))),
            Ok(there) if there != field.as_ref() => {
                parts.push(format!("{} is {} there", show(field), there.data_type()));
            }
            Ok(_) => {}
        }
    }
    let left_out = standing.fields().iter().filter(|f| declared.field_with_name(f.name()).is_err());
    parts.extend(left_out.map(|f| format!("{} is missing", show(f))));
    if parts.is_empty() { "the fields stand in another order".to_owned() } else { parts.join(", ") }
}
