//! What values of an Avro schema look like, with every name resolved, and the columns they have.
//!
//! | Avro | column |
//! |---|---|
//! | `boolean`, `int`, `long`, `float`, `double`, `bytes` and `fixed` | Boolean, Int32, Int64, Float32, Float64, Binary |
//! | `string`, `enum`, `uuid`, `big-decimal`, `duration` (as ISO 8601) | Utf8 |
//! | `date`, `time-millis`, `time-micros` | Date32, Time32(ms), Time64(us) |
//! | `timestamp-*`, `local-timestamp-*` | Timestamp of the unit, with and without the zone UTC |
//! | `decimal` of up to 38 digits | Decimal128 |
//! | `record`, `array`, `map` | Struct, List, Map |
//! | a union of null and one type | that type's column |
//! | any other union | a Struct with one column for each type but null, named by the type |
//!
//! `null` alone has no column, and every column takes null.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, NamespaceRef, UuidSchema};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use crate::{DEPTH_MAX, FIELDS_MAX};

/// Digits that a Decimal128 has.
const DIGITS_MAX: usize = 38;
/// A symbol takes a byte in a body, and so many in a column at most.
const SYMBOL_BYTES_MAX: usize = 256;

/// What a value looks like.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Null,
    Bool,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Enum,
    Uuid,
    Date,
    TimeMillis,
    TimeMicros,
    Timestamp {
        unit: TimeUnit,
        utc: bool,
    },
    Decimal {
        precision: u8,
        scale: u8,
    },
    BigDecimal,
    Duration,
    List(Arc<Node>),
    Map(Arc<Node>),
    Record(Arc<[(String, Node)]>),
    /// The name of each type.
    Union(Arc<[(String, Node)]>),
}

impl Node {
    /// The column's type; `None` for null.
    pub(super) fn data_type(&self) -> Option<DataType> {
        Some(match self {
            Self::Null => return None,
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int32,
            Self::Long => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Bytes => DataType::Binary,
            Self::Text | Self::Enum | Self::Uuid | Self::BigDecimal | Self::Duration => DataType::Utf8,
            Self::Date => DataType::Date32,
            Self::TimeMillis => DataType::Time32(TimeUnit::Millisecond),
            Self::TimeMicros => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp { unit, utc } => DataType::Timestamp(*unit, utc.then(|| "UTC".into())),
            Self::Decimal { precision, scale } => {
                DataType::Decimal128(*precision, i8::try_from(*scale).unwrap_or(0))
            }
            Self::List(item) => DataType::List(Arc::new(Field::new("item", item.data_type()?, true))),
            Self::Map(value) => map(value.data_type()?),
            Self::Record(fields) => DataType::Struct(columns(fields)?),
            Self::Union(_) => match self.only() {
                Some(one) => one.data_type()?,
                None => DataType::Struct(self.branches()?),
            },
        })
    }

    /// The one type of a union beside null.
    pub(super) fn only(&self) -> Option<&Node> {
        let Self::Union(types) = self else { return None };
        let mut types = types.iter().filter(|(_, node)| !matches!(node, Self::Null));
        let first = types.next();
        if types.next().is_some() { None } else { first.map(|(_, node)| node) }
    }

    fn branches(&self) -> Option<Fields> {
        let Self::Union(types) = self else { return None };
        columns(types)
    }

    /// Whether a value may take no byte of a body: a list of such would be as long as it likes.
    fn takes_nothing(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Record(fields) => fields.iter().all(|(_, node)| node.takes_nothing()),
            _ => false,
        }
    }
}

/// The columns of a record's fields; `None` if it has none.
pub(super) fn columns(fields: &[(String, Node)]) -> Option<Fields> {
    let fields = fields.iter().filter_map(|(name, node)| Some(Field::new(name, node.data_type()?, true)));
    let fields: Fields = fields.collect();
    (!fields.is_empty()).then_some(fields)
}

/// A map from text to values of a type.
pub(crate) fn map(value: DataType) -> DataType {
    let pair = vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)];
    let entries = Field::new("entries", DataType::Struct(pair.into()), false);
    DataType::Map(Arc::new(entries), false)
}

/// Resolves the names of schemas.
#[derive(Default)]
pub(super) struct Shapes {
    known: HashMap<String, (Node, usize)>,
    /// The records that we are inside of.
    open: HashSet<String>,
    /// Fields so far, with those of names that stand for a record.
    fields: usize,
}

impl Shapes {
    /// The shape of a schema, or why it can't be columns.
    pub(super) fn shape(&mut self, schema: &Schema, around: NamespaceRef<'_>) -> Result<Node, String> {
        self.node(schema, around, 1)
    }

    fn node(&mut self, schema: &Schema, around: NamespaceRef<'_>, level: usize) -> Result<Node, String> {
        if level > DEPTH_MAX {
            return Err(format!("it nests more than {DEPTH_MAX} levels deep"));
        }
        self.fields += 1;
        self.bound()?;
        let timestamp = |unit, utc| Node::Timestamp { unit, utc };
        Ok(match schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Bool,
            Schema::Int => Node::Int,
            Schema::Long => Node::Long,
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes => Node::Bytes,
            Schema::String => Node::Text,
            Schema::BigDecimal => Node::BigDecimal,
            Schema::Date => Node::Date,
            Schema::TimeMillis => Node::TimeMillis,
            Schema::TimeMicros => Node::TimeMicros,
            Schema::TimestampMillis => timestamp(TimeUnit::Millisecond, true),
            Schema::TimestampMicros => timestamp(TimeUnit::Microsecond, true),
            Schema::TimestampNanos => timestamp(TimeUnit::Nanosecond, true),
            Schema::LocalTimestampMillis => timestamp(TimeUnit::Millisecond, false),
            Schema::LocalTimestampMicros => timestamp(TimeUnit::Microsecond, false),
            Schema::LocalTimestampNanos => timestamp(TimeUnit::Nanosecond, false),
            Schema::Uuid(UuidSchema::String | UuidSchema::Bytes) => Node::Uuid,
            Schema::Uuid(UuidSchema::Fixed(fixed)) => self.named(&fixed.name.fullname(around), Node::Uuid),
            Schema::Duration(fixed) => self.named(&fixed.name.fullname(around), Node::Duration),
            Schema::Fixed(fixed) if fixed.size == 0 => {
                return Err(format!("`{}` is a fixed of no bytes", fixed.name));
            }
            Schema::Fixed(fixed) => self.named(&fixed.name.fullname(around), Node::Bytes),
            Schema::Decimal(decimal) => {
                let (precision, scale) = (decimal.precision, decimal.scale);
                let node = match (u8::try_from(precision), u8::try_from(scale)) {
                    (Ok(precision), Ok(scale))
                        if (1..=DIGITS_MAX).contains(&usize::from(precision)) && scale <= precision =>
                    {
                        Node::Decimal { precision, scale }
                    }
                    _ => {
                        return Err(format!(
                            "a decimal of {precision} digits, {scale} after the point: at most {DIGITS_MAX} are kept"
                        ));
                    }
                };
                match &decimal.inner {
                    InnerDecimalSchema::Bytes => node,
                    InnerDecimalSchema::Fixed(fixed) => self.named(&fixed.name.fullname(around), node),
                }
            }
            Schema::Enum(one) => {
                if let Some(long) = one.symbols.iter().find(|s| s.len() > SYMBOL_BYTES_MAX) {
                    let len = long.len();
                    return Err(format!(
                        "`{}` has a symbol of {len} bytes, at most {SYMBOL_BYTES_MAX} are taken",
                        one.name
                    ));
                }
                self.named(&one.name.fullname(around), Node::Enum)
            }
            Schema::Array(array) => Node::List(Arc::new(self.item(&array.items, around, level)?)),
            Schema::Map(map) => Node::Map(Arc::new(self.node(&map.types, around, level + 1)?)),
            Schema::Union(union) => {
                let types = union.variants().iter().map(|variant| {
                    let node = self.node(variant, around, level + 1)?;
                    Ok((type_name(variant), node))
                });
                let mut types = types.collect::<Result<Vec<_>, String>>()?;
                // Two records of one name and several namespaces.
                for at in 1..types.len() {
                    let (before, rest) = types.split_at_mut(at);
                    if let Some((name, _)) = rest.first_mut()
                        && before.iter().any(|(other, _)| other == name)
                    {
                        *name = format!("{name}_{at}");
                    }
                }
                Node::Union(types.into())
            }
            Schema::Record(record) => {
                let name = record.name.fully_qualified_name(around).into_owned();
                let full = name.fullname(None);
                if !self.open.insert(full.clone()) {
                    return Err(format!("`{full}` stands in itself"));
                }
                let before = self.fields;
                let fields = record.fields.iter().map(|field| {
                    let node = self
                        .node(&field.schema, name.namespace(), level + 1)
                        .map_err(|why| format!("field `{}`: {why}", field.name))?;
                    Ok((field.name.clone(), node))
                });
                let fields = fields.collect::<Result<Vec<_>, String>>()?;
                self.open.remove(&full);
                let node = Node::Record(fields.into());
                self.known.insert(full, (node.clone(), self.fields - before));
                node
            }
            Schema::Ref { name } => {
                let full = name.fullname(around);
                if self.open.contains(&full) {
                    return Err(format!("`{full}` stands in itself: columns have a fixed depth"));
                }
                let (node, fields) = self
                    .known
                    .get(&full)
                    .cloned()
                    .ok_or_else(|| format!("no schema of the name `{full}`"))?;
                self.fields += fields;
                self.bound()?;
                if level + depth(&node) > DEPTH_MAX {
                    return Err(format!("it nests more than {DEPTH_MAX} levels deep"));
                }
                node
            }
        })
    }

    fn item(&mut self, schema: &Schema, around: NamespaceRef<'_>, level: usize) -> Result<Node, String> {
        let item = self.node(schema, around, level + 1)?;
        if item.takes_nothing() {
            return Err("an array of items that hold nothing".to_owned());
        }
        Ok(item)
    }

    fn bound(&self) -> Result<(), String> {
        if self.fields > 2 * FIELDS_MAX {
            return Err(format!("it has more than {FIELDS_MAX} fields"));
        }
        Ok(())
    }

    fn named(&mut self, name: &str, node: Node) -> Node {
        self.known.insert(name.to_owned(), (node.clone(), 1));
        node
    }
}

/// Levels of a node below itself; the sum is bounded, as each was built within the limit.
fn depth(node: &Node) -> usize {
    match node {
        Node::List(item) | Node::Map(item) => 1 + depth(item),
        Node::Record(parts) | Node::Union(parts) => {
            1 + parts.iter().map(|(_, node)| depth(node)).max().unwrap_or(0)
        }
        _ => 0,
    }
}

/// How a union calls a type: the name of what has one, without its namespace.
fn type_name(schema: &Schema) -> String {
    match schema {
        Schema::Null => "null",
        Schema::Boolean => "boolean",
        Schema::Int => "int",
        Schema::Long => "long",
        Schema::Float => "float",
        Schema::Double => "double",
        Schema::Bytes => "bytes",
        Schema::String => "string",
        Schema::Array(_) => "array",
        Schema::Map(_) => "map",
        Schema::Union(_) => "union",
        Schema::Record(record) => record.name.name(),
        Schema::Enum(one) => one.name.name(),
        Schema::Fixed(fixed) | Schema::Duration(fixed) => fixed.name.name(),
        Schema::Ref { name } => name.name(),
        Schema::Decimal(_) => "decimal",
        Schema::BigDecimal => "big_decimal",
        Schema::Uuid(_) => "uuid",
        Schema::Date => "date",
        Schema::TimeMillis | Schema::TimeMicros => "time",
        Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => "timestamp",
        Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => {
            "local_timestamp"
        }
    }
    .to_owned()
}
