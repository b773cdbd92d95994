//! The settings of `decode`: how bodies are written, and which columns they become.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use sluice_formats::Unknown;
use sluice_formats::avro::AvroSchema;
use sluice_formats::csv::Layout;
use sluice_formats::json::schema_from_fields;

/// How bodies become typed columns.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decode {
    /// How the body is written.
    pub format: Format,
    /// Which columns it has.
    #[serde(default)]
    pub schema: SchemaSettings,
    /// What becomes of a row with a field that has no column, or a value of a wider type.
    #[serde(default)]
    pub on_new_field: Option<OnNewField>,
}

/// How a body is written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object.
    Json,
    /// One CSV record.
    Csv(CsvFormat),
    /// One Avro datum.
    Avro(AvroFormat),
    /// One Protobuf message.
    Protobuf(ProtobufFormat),
    /// Anything: one column of bytes.
    Raw,
}

/// How a CSV record is written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvFormat {
    /// Names of the columns, in the order of the fields.
    pub header: Vec<String>,
    /// What stands between fields.
    #[serde(default = "CsvFormat::delimiter_default")]
    pub delimiter: char,
    /// Texts that are null; the empty one if not said.
    #[serde(default = "CsvFormat::nulls_default")]
    pub nulls: Vec<String>,
}

impl CsvFormat {
    fn delimiter_default() -> char {
        ','
    }

    fn nulls_default() -> Vec<String> {
        vec![String::new()]
    }

    /// The layout, if it is one.
    pub fn layout(&self) -> Result<Layout, sluice_formats::Error> {
        Layout::new(self.header.clone(), self.delimiter, self.nulls.clone())
    }
}

/// Which schema an Avro datum was written by.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AvroFormat {
    /// The schema as JSON, often `${file:orders.avsc}`. Beside a registry it is the one that is read by.
    #[serde(default)]
    pub schema: Option<SchemaText>,
    /// Where the schemas are of the ids in Confluent's prefix.
    #[serde(default)]
    pub registry: Option<Registry>,
    /// What stands before the datum, without a registry.
    #[serde(default)]
    pub prefix: Option<Prefix>,
}

/// An Avro schema, read; or what is wrong with it, which is told though it came from a file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(with = "String")]
#[serde(from = "String")]
pub struct SchemaText(pub Result<Arc<AvroSchema>, String>);

impl From<String> for SchemaText {
    fn from(text: String) -> Self {
        Self(AvroSchema::parse(&text, &[]).map(Arc::new).map_err(|error| error.to_string()))
    }
}

/// A schema registry with Confluent's paths.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// `https://…`; `http://` on this machine alone.
    pub url: RegistryUrl,
    /// Name for basic authentication.
    #[serde(default)]
    pub user: Option<String>,
    /// Its password, written `${VAR}`.
    #[serde(default)]
    pub password: Option<String>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where a schema registry is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(with = "String")]
#[serde(try_from = "String")]
pub struct RegistryUrl(String);

impl RegistryUrl {
    /// The URL as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.0.starts_with("http://")
    }
}

impl TryFrom<String> for RegistryUrl {
    type Error = String;

    fn try_from(url: String) -> Result<Self, String> {
        let refused = |why: &str| {
            Err(format!("{why}: write `https://HOST/…`, or `http://127.0.0.1:PORT` for one on this machine"))
        };
        let (rest, is_open) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            _ => return refused("no URL of a schema registry"),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        if authority.contains('@') {
            return refused("a name and password go into `user` and `password`");
        }
        let host = match authority.strip_prefix('[') {
            Some(six) => six.split(']').next().unwrap_or(""),
            None => authority.split(':').next().unwrap_or(""),
        };
        if host.is_empty() {
            return refused("the URL names no host");
        }
        if is_open && !matches!(host, "127.0.0.1" | "localhost" | "::1") {
            return refused("schemas and the password would be sent in the clear");
        }
        Ok(Self(url))
    }
}

/// Which Protobuf message a body is.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtobufFormat {
    /// File of the descriptor set: `protoc --include_imports -o FILE`.
    pub descriptors: PathBuf,
    /// Full name of the message.
    pub message: String,
    /// What stands before the message.
    #[serde(default)]
    pub prefix: Option<Prefix>,
}

/// What stands before a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prefix {
    /// Byte 0 and the schema's id in 4 bytes; for Protobuf the message's indexes follow.
    Confluent,
}

/// Which columns a decoded body has.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaSettings {
    /// Where the columns come from.
    #[serde(default)]
    pub mode: SchemaMode,
    /// Under `infer`: rows to look at before the schema is fixed; 5,000 if not said.
    #[serde(default)]
    pub freeze_after_rows: Option<u64>,
    /// Under `strict` and `relaxed`: name and type of each column, in order.
    #[serde(default)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub fields: Option<Fields>,
}

/// Where a schema comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchemaMode {
    /// From the first rows, fixed before the first file; from the format itself, if that says it.
    #[default]
    Infer,
    /// From `fields`; a row with another field is a reject.
    #[serde(alias = "declared")]
    Strict,
    /// From `fields`; what has no column is passed over.
    Relaxed,
}

/// What becomes of a row with a field that has no column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNewField {
    /// The schema grows by it; files from there on have the column.
    Add,
    /// The field is passed over.
    Ignore,
    /// The row goes to the dead-letter topic.
    DeadLetter,
    /// The pipeline blocks.
    Fail,
}

impl Decode {
    /// The columns, as far as the settings alone say them.
    pub fn columns(&self) -> Option<SchemaRef> {
        match &self.format {
            Format::Json | Format::Csv(_) => schema_from_fields(&self.schema.fields.as_ref()?.0).ok(),
            Format::Avro(avro) => avro.schema.as_ref()?.0.as_ref().ok().map(|schema| schema.columns()),
            Format::Raw => Some(sluice_formats::raw::schema()),
            Format::Protobuf(_) => None,
        }
    }

    /// What decoders do with a field that has no column.
    pub fn unknown(&self) -> Unknown {
        match (self.on_new_field, self.schema.mode) {
            (Some(OnNewField::Ignore), _) | (None, SchemaMode::Relaxed) => Unknown::PassOver,
            (Some(OnNewField::Add), _) => Unknown::PassEmpty,
            _ => Unknown::Refuse,
        }
    }

    /// What is wrong with the Avro schema.
    pub(super) fn avro_problem(&self) -> Option<&str> {
        let Format::Avro(avro) = &self.format else { return None };
        avro.schema.as_ref()?.0.as_ref().err().map(String::as_str)
    }

    /// What is wrong between the settings, with the key below `decode`.
    pub(super) fn contradiction(&self) -> Option<(Vec<&'static str>, String)> {
        let schema = &self.schema;
        let is_inferred = match &self.format {
            Format::Json | Format::Csv(_) => true,
            Format::Avro(avro) => {
                return self.avro_contradiction(avro).or_else(|| self.fixed_contradiction());
            }
            Format::Protobuf(_) | Format::Raw => false,
        };
        if !is_inferred {
            return self.fixed_contradiction();
        }
        let at_schema = |message: &str| Some((vec!["schema"], message.to_owned()));
        match (schema.mode, &schema.fields, schema.freeze_after_rows) {
            (SchemaMode::Strict, None, _) => {
                return at_schema("`mode: strict` needs `fields`: {name: type, …}");
            }
            (SchemaMode::Relaxed, None, _) => {
                return at_schema("`mode: relaxed` needs `fields`: {name: type, …}");
            }
            (SchemaMode::Infer, Some(_), _) => {
                return at_schema("`fields` needs `mode: strict` or `mode: relaxed`");
            }
            (SchemaMode::Strict | SchemaMode::Relaxed, Some(_), Some(_)) => {
                return at_schema("`freeze_after_rows` goes with `mode: infer`");
            }
            _ => {}
        }
        if let Format::Csv(csv) = &self.format {
            if let Err(error) = csv.layout() {
                return Some((vec!["format", "csv"], error.to_string()));
            }
            let fields = schema.fields.as_ref().map_or(&[][..], |fields| &fields.0);
            let has_field = |name: &String| fields.iter().any(|(field, _)| field == name);
            let left_out = csv.header.iter().find(|name| !has_field(name));
            if let (Some(name), Unknown::Refuse, SchemaMode::Strict) = (left_out, self.unknown(), schema.mode)
            {
                let message = format!(
                    "every row would be a reject: the header names `{name}`, and `fields` does not; add it, or write `mode: relaxed`"
                );
                return Some((vec!["schema", "fields"], message));
            }
            if let Some((name, _)) = fields.iter().find(|(name, _)| !csv.header.contains(name)) {
                return Some((vec!["schema", "fields"], format!("the header does not name `{name}`")));
            }
        }
        self.new_field_contradiction()
    }

    fn avro_contradiction(&self, avro: &AvroFormat) -> Option<(Vec<&'static str>, String)> {
        match avro {
            AvroFormat { schema: None, registry: None, .. } => Some((
                vec!["format", "avro"],
                "Avro needs a schema: `schema: \"${file:NAME.avsc}\"`, or a `registry: {url: https://…}`".to_owned(),
            )),
            AvroFormat { registry: Some(_), prefix: Some(_), .. } => {
                Some((vec!["format", "avro", "prefix"], "with a registry each body has the prefix: leave it out".to_owned()))
            }
            AvroFormat { schema: None, .. } if self.schema.mode != SchemaMode::Infer => Some((
                vec!["schema", "mode"],
                "the columns must be known: give the schema to read by, `format: {avro: {schema: \"${file:NAME.avsc}\", registry: …}}`"
                    .to_owned(),
            )),
            _ => None,
        }
    }

    fn fixed_contradiction(&self) -> Option<(Vec<&'static str>, String)> {
        if self.schema.fields.is_some() {
            let message = "`fields` is for JSON and CSV; this format says its columns itself";
            return Some((vec!["schema", "fields"], message.to_owned()));
        }
        let waits = matches!(&self.format, Format::Avro(avro) if avro.schema.is_none());
        if self.schema.freeze_after_rows.is_some() && !waits {
            let message = "nothing is inferred: the format says its columns itself";
            return Some((vec!["schema", "freeze_after_rows"], message.to_owned()));
        }
        if matches!(self.format, Format::Raw) && self.on_new_field.is_some() {
            return Some((vec!["on_new_field"], "raw bodies have one column, and no fields".to_owned()));
        }
        self.new_field_contradiction()
    }

    fn new_field_contradiction(&self) -> Option<(Vec<&'static str>, String)> {
        match (self.schema.mode, self.on_new_field) {
            (SchemaMode::Strict, Some(OnNewField::Add | OnNewField::Ignore)) => Some((
                vec!["on_new_field"],
                "`mode: strict` takes no new field: write `mode: relaxed`".to_owned(),
            )),
            _ => None,
        }
    }
}

/// Names with types, in the order of the file.
#[derive(Clone, Debug)]
pub struct Fields(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of column names to types")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let field = map.next_value_seed(FieldType(name))?;
                    fields.push(field);
                }
                schema_from_fields(&fields).map_err(de::Error::custom)?;
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The type of the field of this name; an error of it stands at the type.
struct FieldType(String);

impl<'de> DeserializeSeed<'de> for FieldType {
    type Value = (String, String);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let field = [(self.0, String::deserialize(deserializer)?)];
        schema_from_fields(&field).map_err(de::Error::custom)?;
        let [field] = field;
        Ok(field)
    }
}
