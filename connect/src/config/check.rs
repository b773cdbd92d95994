//! What is well-formed and still can not be meant: names and types of expressions, and settings that
//! contradict each other. Opens nothing.

use arrow::datatypes::SchemaRef;
use sluice_filters::{Filter, Name};

use super::tree::{Node, Place, Value};
use super::{Expression, OnNewField, Parsed, Part, Problem, Step, StopAfter, Then, nearest};
use crate::batch;
use crate::steps::{Columns, Planner};

impl<Source, Sink> Parsed<Source, Sink> {
    pub(super) fn contradictions(&self) -> Vec<Problem> {
        let declared = self.declared();
        let columns = match (&self.document.decode, &declared) {
            (None, _) => Columns::None,
            (Some(_), None) => Columns::Unknown,
            (Some(_), Some(schema)) => Columns::Known(schema.clone()),
        };
        let mut planner = Planner::to_check(columns);
        let mut problems = Vec::new();
        if let Some(filter) = &self.document.filter {
            problems.extend(self.check_step(&["where"], &Step::Where(filter.clone()), &mut planner));
        }
        for (at, step) in self.document.steps.iter().enumerate() {
            let at = format!("[{at}]");
            problems.extend(self.check_step(&["steps", &at, step.key()], step, &mut planner));
        }
        problems.extend(self.check_secrets());
        problems.extend(self.check_decode());
        problems.extend(self.check_errors());
        problems.extend(self.check_stop_after());
        problems
    }

    /// What is wrong with a step: each name that means nothing here, or the first thing else.
    fn check_step(&self, path: &[&str], step: &Step, planner: &mut Planner<'_>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (below, part) in step.expressions() {
            let path: Vec<&str> = path.iter().copied().chain(below.iter().map(String::as_str)).collect();
            for name in part.names() {
                match name {
                    Name::Field(_) if matches!(planner.columns, Columns::None) => {
                        let message = format!(
                            "`{name}` is a field of the decoded body: add `decode: {{format: json}}`"
                        );
                        problems.push(self.problem(&path, message));
                    }
                    Name::Envelope(column) if planner.columns.data_type(name).is_none() => {
                        let hint = nearest(column, batch::COLUMNS).map_or_else(
                            || format!("; envelope columns: {}", batch::COLUMNS.join(", ")),
                            |n| format!("; did you mean `${n}`?"),
                        );
                        problems.push(self.problem(&path, format!("no envelope column `{name}`{hint}")));
                    }
                    _ => {}
                }
            }
        }
        if problems.is_empty() {
            return self.check_planned(path, step, planner).into_iter().collect();
        }
        planner.columns = Columns::Unknown;
        problems
    }

    fn check_planned(&self, path: &[&str], step: &Step, planner: &mut Planner<'_>) -> Option<Problem> {
        let problem = planner.check(step).err()?;
        let path: Vec<&str> = path.iter().copied().chain(problem.path.iter().map(String::as_str)).collect();
        let node = self.tree.find(&path).filter(|node| !node.secret);
        let inside = problem.column.and_then(|column| {
            let Value::Text(written) = &node?.value else { return None };
            self.place_inside(node?, written, column)
        });
        Some(match (inside, problem.column) {
            (Some(place), _) => Problem { place, path: path.join("."), message: problem.message },
            (None, Some(column)) if column > 1 => {
                self.problem(&path, format!("column {column}: {}", problem.message))
            }
            (None, _) => self.problem(&path, problem.message),
        })
    }

    /// Keys that stand in the file: its text is kept in the target.
    fn check_secrets(&self) -> Vec<Problem> {
        let steps = self.document.steps.iter().enumerate();
        let masks = steps.filter(|(_, step)| matches!(step, Step::Mask(_)));
        let open = masks.filter_map(|(at, _)| {
            let at = format!("[{at}]");
            let path = ["steps", &at, "mask", "secret"];
            let node = self.tree.find(&path).filter(|node| !node.secret)?;
            let message = "the text of this file is kept in the target: write it as ${VAR}";
            Some(Problem { place: node.place, path: path.join("."), message: message.to_owned() })
        });
        open.collect()
    }

    /// Every expression of the document, with its path.
    fn expressions(&self) -> Vec<(Vec<String>, Part<'_>)> {
        let document = &self.document;
        let first = document
            .filter
            .iter()
            .map(|Expression(filter)| (vec!["where".to_owned()], Part::Condition(filter)));
        let steps = document.steps.iter().enumerate().flat_map(|(at, step)| {
            step.expressions().into_iter().map(move |(below, part)| {
                let path = ["steps".to_owned(), format!("[{at}]"), step.key().to_owned()];
                (path.into_iter().chain(below).collect(), part)
            })
        });
        first.chain(steps).collect()
    }

    /// The decoded columns, if the document says which they are.
    fn declared(&self) -> Option<SchemaRef> {
        // A schema that grows may get what it does not have yet.
        self.document.decode.as_ref().filter(|d| d.on_new_field != Some(OnNewField::Add))?.columns()
    }

    /// The columns of the rows that come to the sink, as far as the document says which they are.
    pub fn output(&self) -> Option<SchemaRef> {
        let columns = match (&self.document.decode, self.declared()) {
            (None, _) => Columns::None,
            (Some(_), None) => Columns::Unknown,
            (Some(_), Some(schema)) => Columns::Known(schema),
        };
        let mut planner = Planner::to_check(columns);
        self.document.steps.iter().try_for_each(|step| planner.check(step)).ok()?;
        planner.columns.known().cloned()
    }

    /// What `RocketMQ`'s own filter would make otherwise of expressions over properties alone, which a consumer
    /// could subscribe with: to be known, and no mistake.
    pub fn differences(&self) -> Vec<Problem> {
        let mut told = Vec::new();
        for (path, part) in self.expressions() {
            let Part::Condition(filter) = part else { continue };
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
        for (path, part) in self.expressions() {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            for name in part.names() {
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

    fn check_stop_after(&self) -> Option<Problem> {
        let StopAfter { ratio, of } = self.document.errors.stop_after?;
        if self.document.errors.then == Then::Stop {
            let message = "`then: stop` ends at the first row that does not fit: `stop_after` goes with `then: skip` or `then: dead_letter`";
            return Some(self.problem(&["errors", "stop_after"], message));
        }
        if !(0.0..1.0).contains(&ratio) {
            let message = format!("{ratio} is no share of rows: expected 0 to below 1, such as 0.1");
            return Some(self.problem(&["errors", "stop_after", "ratio"], message));
        }
        (of == 0).then(|| self.problem(&["errors", "stop_after", "of"], "0 rows, expected at least 1"))
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
