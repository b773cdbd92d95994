//! What is well-formed and still can not be meant: names and types of expressions, and settings that
//! contradict each other. Opens nothing.

use arrow::datatypes::{DataType, SchemaRef};
use sluice_filters::{Filter, Name};

use super::tree::{Node, Place, Value};
use super::{Expression, OnNewField, Parsed, Problem, Step, Then, nearest};
use crate::batch;
use crate::steps::field_type;

impl<Source, Sink> Parsed<Source, Sink> {
    pub(super) fn contradictions(&self) -> Vec<Problem> {
        let declared = self.declared();
        let mut problems = Vec::new();
        for (path, filter) in self.filters() {
            problems.extend(self.check_filter(&path, filter, declared.as_ref()));
        }
        problems.extend(self.check_decode());
        problems.extend(self.check_errors());
        problems
    }

    /// The expressions of the document, with their paths.
    fn filters(&self) -> Vec<(Vec<String>, &Filter)> {
        let document = &self.document;
        let first = document.filter.iter().map(|Expression(filter)| (vec!["where".to_owned()], filter));
        let steps = document.steps.iter().enumerate().map(|(i, Step::Where(Expression(filter)))| {
            (vec!["steps".to_owned(), format!("[{i}]"), "where".to_owned()], filter)
        });
        first.chain(steps).collect()
    }

    /// The decoded columns, if the document says which they are.
    fn declared(&self) -> Option<SchemaRef> {
        // A schema that grows may get what it does not have yet.
        self.document.decode.as_ref().filter(|d| d.on_new_field != Some(OnNewField::Add))?.columns()
    }

    fn check_filter(&self, path: &[String], filter: &Filter, declared: Option<&SchemaRef>) -> Vec<Problem> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let mut problems = Vec::new();
        let envelope = |column: &str| batch::field(column).filter(|_| !column.contains('.'));
        for name in filter.names() {
            match name {
                Name::Field(_) if self.document.decode.is_none() => problems.push(self.problem(
                    &path,
                    format!("`{name}` is a field of the decoded body: add `decode: {{format: json}}`"),
                )),
                Name::Envelope(column) if envelope(column).is_none() => {
                    let hint = nearest(column, batch::COLUMNS).map_or_else(
                        || format!("; envelope columns: {}", batch::COLUMNS.join(", ")),
                        |n| format!("; did you mean `${n}`?"),
                    );
                    problems.push(self.problem(&path, format!("no envelope column `{name}`{hint}")));
                }
                _ => {}
            }
        }
        // What is not known yet, or told above, takes part in everything.
        let checked = filter.check(&|name| match name {
            Name::Property(_) => Some(DataType::Utf8View),
            Name::Envelope(column) => {
                Some(envelope(column).map_or(DataType::Null, |field| field.data_type().clone()))
            }
            Name::Field(field) => declared.map_or(Some(DataType::Null), |schema| field_type(schema, field)),
        });
        if let Err(error) = checked {
            let hint = match &*error.problem {
                sluice_filters::Problem::UnknownName { name: Name::Field(field) } => {
                    field_hint(field, declared)
                }
                _ => String::new(),
            };
            let inside = self
                .tree
                .find(&path)
                .filter(|node| !node.secret)
                .and_then(|node| self.place_inside(node, filter.text(), error.column));
            problems.push(match inside {
                Some(place) => {
                    Problem { place, path: path.join("."), message: format!("{}{hint}", error.message()) }
                }
                None => self.problem(&path, format!("{error}{hint}")),
            });
        }
        problems
    }

    /// What `RocketMQ`'s own filter would make otherwise of expressions over properties alone, which a consumer
    /// could subscribe with: to be known, and no mistake.
    pub fn differences(&self) -> Vec<Problem> {
        let mut told = Vec::new();
        for (path, filter) in self.filters() {
            if !filter.names().iter().all(|name| matches!(name, Name::Property(_))) {
                continue;
            }
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            match Filter::differences(filter.text()) {
                Ok(notices) => told.extend(notices.into_iter().map(|notice| {
                    let message =
                        format!("as a subscription of RocketMQ's it is read otherwise: {}", notice.text);
                    self.problem(&path, message)
                })),
                Err(error) => {
                    told.push(
                        self.problem(
                            &path,
                            format!("as a subscription of RocketMQ's it is refused: {error}"),
                        ),
                    );
                }
            }
        }
        told
    }

    /// Names of properties that a source never gives: they would be null in every row.
    pub fn unknown_properties(&self, known: &[String]) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (path, filter) in self.filters() {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            for name in filter.names() {
                let Name::Property(property) = name else { continue };
                if !known.contains(property) {
                    let hint = self.property_hint(property, known);
                    problems
                        .push(self.problem(&path, format!("the source gives no property `{name}`{hint}")));
                }
            }
        }
        problems
    }

    /// Where the value may lie that a property's name was written for.
    pub fn property_hint(&self, property: &str, known: &[String]) -> String {
        if self.declared().is_some_and(|schema| schema.field_with_name(property).is_ok()) {
            return format!("; write `$.{property}` for the field of the decoded body");
        }
        if batch::COLUMNS.contains(&property) {
            return format!("; write `${property}` for the envelope column");
        }
        if let Some(near) = nearest(property, known.iter().map(String::as_str)) {
            return format!("; did you mean `{near}`?");
        }
        let given = if known.is_empty() {
            "; it gives none".to_owned()
        } else {
            format!("; it gives: {}", known.join(", "))
        };
        match self.document.decode {
            Some(_) => format!("{given}; write `$.{property}` for a field of the decoded body"),
            None => given,
        }
    }

    /// A column of an expression as a place in the file, if the expression is written there as it is.
    fn place_inside(&self, node: &Node, expression: &str, column: usize) -> Option<Place> {
        let Place { line, column: start } = node.place;
        let written = self.text.lines().nth(usize::try_from(line - self.lines_before).ok()? - 1)?;
        let skipped = usize::try_from(start).ok()? - 1;
        let (at, _) = written.char_indices().nth(skipped)?;
        let value = &written[at..];
        let quote = usize::from(value.starts_with(['"', '\'']));
        let is_there = matches!(node.value, Value::Text(_)) && value[quote..].starts_with(expression);
        let column = u64::try_from(skipped + quote + column).ok()?;
        is_there.then_some(Place { line, column })
    }

    fn check_decode(&self) -> Option<Problem> {
        let decode = self.document.decode.as_ref()?;
        if let Some(message) = decode.avro_problem() {
            // A schema is no secret, and its file has no other place to be told of.
            let path = ["decode", "format", "avro", "schema"];
            let place = self.tree.locate(&path);
            return Some(Problem { place, path: path.join("."), message: message.to_owned() });
        }
        if let Some((path, message)) = decode.contradiction() {
            let path: Vec<&str> = std::iter::once("decode").chain(path).collect();
            return Some(self.problem(&path, message));
        }
        let is_dead = decode.on_new_field == Some(OnNewField::DeadLetter);
        if is_dead && self.document.errors.then != Then::DeadLetter {
            let message = "needs a dead-letter topic: `errors: {then: dead_letter, dead_letter: NAME}`";
            return Some(self.problem(&["decode", "on_new_field"], message));
        }
        None
    }

    fn check_errors(&self) -> Option<Problem> {
        let errors = &self.document.errors;
        match (errors.then, &errors.dead_letter) {
            (Then::DeadLetter, None) => {
                Some(self.problem(&["errors"], "`then: dead_letter` needs the topic: `dead_letter: NAME`"))
            }
            (Then::Stop | Then::Skip, Some(_)) => Some(
                self.problem(&["errors", "dead_letter"], "a dead-letter topic needs `then: dead_letter`"),
            ),
            (Then::DeadLetter, Some(topic)) => {
                let error = sluice_protocol::id::TopicName::new(topic).err()?;
                Some(self.problem(&["errors", "dead_letter"], error.to_string()))
            }
            _ => None,
        }
    }
}

fn field_hint(field: &[String], declared: Option<&SchemaRef>) -> String {
    let (Some(schema), Some(first)) = (declared, field.first()) else { return String::new() };
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    match nearest(first, names.iter().copied()) {
        Some(near) if near != first => format!("; did you mean `$.{near}`?"),
        _ => format!("; the declared fields: {}", names.join(", ")),
    }
}
