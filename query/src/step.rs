//! Step `sql` of a pipeline: one statement over each record batch, the table `batch`.
//!
//! Takes `SELECT … FROM batch WHERE …` and subqueries of that form: each row of the batch gives one row or none, so
//! it stays known which source offset a row came from. Aggregates, joins, sorting and limits are refused, as
//! they would depend on how rows were cut into batches; functions whose value is another at each call, as a row
//! may be computed twice and must come out the same.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat, concat_batches, filter, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use sluice_connect::steps::{Answer, Sql};
use sluice_connect::task::{Class, TaskError};

/// The table that a statement reads.
const TABLE: &str = "batch";

/// Checks as much of a statement as shows without the columns of the table.
pub fn check(text: &str) -> Result<(), String> {
    let statement = statement(&session().state(), text)?;
    match &statement {
        Statement::Statement(inner) if inner.to_string().to_ascii_uppercase().starts_with("SELECT") => Ok(()),
        Statement::Statement(inner) if inner.to_string().to_ascii_uppercase().starts_with("WITH") => Ok(()),
        _ => Err(format!("expected `SELECT … FROM {TABLE} WHERE …`")),
    }
}

/// Makes a statement ready for rows with these columns.
pub fn make(text: &str, schema: &SchemaRef) -> Result<Sql, String> {
    check(text)?;
    let context = session();
    let table = RecordBatch::new_empty(Arc::clone(schema));
    context.register_batch(TABLE, table).map_err(|e| told(&e))?;
    let state = context.state();
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| e.to_string())?;
    let plan = runtime.block_on(state.create_logical_plan(text)).map_err(|e| told(&e))?;
    let (mut works, mut output) = (Vec::new(), Arc::clone(schema));
    compile(&state, &plan, &mut works, &mut output)?;
    let answers = Arc::clone(&output);
    let run = move |batch: &RecordBatch| {
        run(&works, &answers, batch)
            .map_err(|e| TaskError::new(Class::Fatal, "cannot run a statement").because(e))
    };
    Ok(Sql { output, run: Box::new(run) })
}

fn session() -> SessionContext {
    let mut config = SessionConfig::new().with_information_schema(false);
    config.options_mut().sql_parser.enable_ident_normalization = false;
    SessionContext::new_with_config(config)
}

fn statement(state: &SessionState, text: &str) -> Result<Statement, String> {
    state.sql_to_statement(text, &state.config().options().sql_parser.dialect).map_err(|e| told(&e))
}

fn told(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    text.lines().next().unwrap_or("not SQL").to_owned()
}

/// What is done with a batch, one after the other.
enum Work {
    Filter(Arc<dyn PhysicalExpr>),
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
}

fn compile(
    state: &SessionState,
    plan: &LogicalPlan,
    works: &mut Vec<Work>,
    schema: &mut SchemaRef,
) -> Result<(), String> {
    match plan {
        LogicalPlan::TableScan(scan) if scan.table_name.table() == TABLE => Ok(()),
        LogicalPlan::SubqueryAlias(alias) => compile(state, &alias.input, works, schema),
        LogicalPlan::Filter(filter) => {
            compile(state, &filter.input, works, schema)?;
            works.push(Work::Filter(expression(state, &filter.predicate, filter.input.schema())?));
            Ok(())
        }
        LogicalPlan::Projection(projection) => {
            compile(state, &projection.input, works, schema)?;
            let (mut made, mut fields) = (Vec::new(), Vec::<Field>::new());
            for expr in &projection.expr {
                let name = match expr {
                    Expr::Column(column) => &column.name,
                    Expr::Alias(alias) => &alias.name,
                    other => return Err(format!("`{other}` needs a name: write `… AS name`")),
                };
                let one = expression(state, expr, projection.input.schema())?;
                let data_type = one.data_type(schema).map_err(|e| told(&e))?;
                if data_type == DataType::Null {
                    return Err(format!("`{name}` is null in every row, so it has no type"));
                }
                if fields.iter().any(|field| field.name() == name) {
                    return Err(format!("two columns are named `{name}`"));
                }
                fields.push(Field::new(name, data_type, true));
                made.push(one);
            }
            *schema = Arc::new(Schema::new(fields));
            works.push(Work::Project(made, Arc::clone(schema)));
            Ok(())
        }
        other => {
            let what = match other {
                LogicalPlan::Aggregate(_) => "an aggregate or a GROUP BY",
                LogicalPlan::Join(_) => "a join",
                LogicalPlan::Sort(_) => "ORDER BY",
                LogicalPlan::Limit(_) => "LIMIT",
                LogicalPlan::Window(_) => "a window function",
                LogicalPlan::Distinct(_) => "DISTINCT",
                LogicalPlan::Union(_) => "UNION",
                LogicalPlan::Unnest(_) => "UNNEST",
                LogicalPlan::TableScan(_) | LogicalPlan::EmptyRelation(_) => "another table than `batch`",
                _ => "this statement",
            };
            let hint = match other {
                LogicalPlan::Unnest(_) => ": step `explode` makes rows of a list",
                LogicalPlan::Distinct(_) => {
                    ": step `dedupe` leaves out rows with a key that was there before"
                }
                _ => "",
            };
            Err(format!(
                "{what} is no part of a step: each row of `{TABLE}` gives one row or none, as `SELECT … FROM {TABLE} WHERE …` does{hint}"
            ))
        }
    }
}

fn expression(state: &SessionState, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, String> {
    let mut refused = None;
    let visited = expr.apply(|part| {
        refused = match part {
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                Some(format!(
                    "`{}` has another value at another time, so a row computed twice would differ",
                    call.name()
                ))
            }
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => {
                Some(format!("`{part}` needs more rows than one, and a step sees one batch"))
            }
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => {
                Some("a subquery inside of an expression is no part of a step".to_owned())
            }
            Expr::Placeholder(_) | Expr::ScalarVariable(..) => Some(format!("`{part}` has no value here")),
            _ => None,
        };
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    visited.map_err(|e| told(&e))?;
    match refused {
        Some(message) => Err(message),
        None => state.create_physical_expr(expr.clone(), schema).map_err(|e| told(&e)),
    }
}

/// Runs over a batch; over halves of it where a row makes it fail, until those rows stand alone.
fn run(works: &[Work], schema: &SchemaRef, batch: &RecordBatch) -> Result<Answer, DataFusionError> {
    match all(works, batch) {
        Ok((batch, rows)) => Ok(Answer { batch, rows, unfit: Vec::new() }),
        Err(error) if batch.num_rows() <= 1 => {
            let unfit = (0..batch.num_rows()).map(|row| (row, format!("sql: {}", told(&error)))).collect();
            let rows = UInt32Array::from(Vec::<u32>::new());
            Ok(Answer { batch: RecordBatch::new_empty(Arc::clone(schema)), rows, unfit })
        }
        Err(_) => {
            let middle = batch.num_rows() / 2;
            let head = run(works, schema, &batch.slice(0, middle))?;
            let tail = run(works, schema, &batch.slice(middle, batch.num_rows() - middle))?;
            let shift = u32::try_from(middle).unwrap_or(u32::MAX);
            let shifted: UInt32Array = tail.rows.values().iter().map(|row| row + shift).collect();
            let parts: [&dyn arrow::array::Array; 2] = [&head.rows, &shifted];
            let moved = tail.unfit.into_iter().map(|(row, reason)| (row + middle, reason));
            Ok(Answer {
                batch: concat_batches(schema, [&head.batch, &tail.batch])?,
                rows: concat(&parts)?.as_primitive().clone(),
                unfit: head.unfit.into_iter().chain(moved).collect(),
            })
        }
    }
}

fn all(works: &[Work], batch: &RecordBatch) -> Result<(RecordBatch, UInt32Array), DataFusionError> {
    let count = u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
    let mut rows: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..count));
    let mut batch = batch.clone();
    for work in works {
        match work {
            Work::Filter(predicate) => {
                let mask = predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
                let mask = mask.as_boolean();
                batch = filter_record_batch(&batch, mask)?;
                rows = filter(&rows, mask)?;
            }
            Work::Project(columns, schema) => {
                let made = columns.iter().map(|column| column.evaluate(&batch)?.into_array(batch.num_rows()));
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let made = made.collect::<Result<Vec<_>, _>>()?;
                batch = RecordBatch::try_new_with_options(Arc::clone(schema), made, &options)?;
            }
        }
    }
    Ok((batch, rows.as_primitive().clone()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn batch() -> RecordBatch {
        let n: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(0), None, Some(4)]));
        let s: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
        RecordBatch::try_from_iter([("n", n), ("s", s)]).unwrap()
    }

    fn answer(text: &str) -> Answer {
        let batch = batch();
        let mut sql = make(text, &batch.schema()).unwrap();
        let answer = (sql.run)(&batch).unwrap();
        assert_eq!(answer.batch.schema(), sql.output);
        answer
    }

    #[test]
    fn each_row_knows_the_row_that_it_comes_from() {
        for (text, rows) in [
            ("SELECT * FROM batch", vec![0, 1, 2, 3]),
            ("SELECT s FROM batch WHERE n > 0", vec![0, 3]),
            (
                "SELECT upper(t.s) AS u, n * 2 AS m FROM (SELECT * FROM batch WHERE s <> 'a') t WHERE t.n >= 0",
                vec![1, 3],
            ),
            ("WITH w AS (SELECT n, s FROM batch) SELECT n FROM w WHERE false", vec![]),
            ("SELECT CASE WHEN n > 1 THEN 'many' ELSE 'few' END AS how FROM batch", vec![0, 1, 2, 3]),
        ] {
            let answer = answer(text);
            assert_eq!(answer.rows.values(), &rows[..], "{text}");
            assert_eq!(answer.batch.num_rows(), rows.len());
        }
    }

    #[test]
    fn a_row_that_makes_the_statement_fail_stands_alone() {
        let answer = answer("SELECT s, 10 / n AS d FROM batch");
        assert_eq!(answer.rows.values(), &[0, 2, 3]);
        let [(1, reason)] = &answer.unfit[..] else { panic!("{:?}", answer.unfit) };
        assert!(reason.contains("Divide by zero"), "{reason}");
    }

    #[test]
    fn what_needs_more_than_one_row_or_another_table_is_refused() {
        for (text, expected) in [
            ("SELECT count(*) AS c FROM batch", "an aggregate"),
            ("SELECT s FROM batch ORDER BY s", "ORDER BY"),
            ("SELECT s FROM batch LIMIT 1", "LIMIT"),
            ("SELECT DISTINCT s FROM batch", "step `dedupe`"),
            ("SELECT a.s FROM batch a JOIN batch b ON a.n = b.n", "a join"),
            ("SELECT s FROM batch UNION ALL SELECT s FROM batch", "UNION"),
            ("SELECT row_number() OVER () AS r FROM batch", "window"),
            ("SELECT random() AS r FROM batch", "another value at another time"),
            ("SELECT now() AS r FROM batch", "another value at another time"),
            ("SELECT s FROM batch WHERE n IN (SELECT n FROM batch)", "subquery"),
            ("SELECT 1 AS one", "another table"),
            ("SELECT * FROM './lake'", "./lake"),
            ("SELECT n + 1 FROM batch", "needs a name"),
            ("SELECT nope FROM batch", "nope"),
            ("SELECT n, n FROM batch", "n"),
            ("SELEC n FROM batch", "SELEC"),
            ("DROP TABLE batch", "expected `SELECT"),
        ] {
            let error = make(text, &batch().schema()).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
