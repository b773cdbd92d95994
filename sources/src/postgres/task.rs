//! The task of source `postgres`: one connection, asked for rows a page at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_bridges::postgres::SslMode;
use sluice_bridges::postgres::client::Link;
use sluice_client::Tls;
use sluice_connect::progress::Stop;
use sluice_connect::task::{
    ACT_BYTES, Class, Confirm, Needs, Range, Read, Reject, SourceQueue, SourceTask, TaskError,
};

use super::place::Numbering;
use super::settle::Settle;
use super::table::{self, BODY, BODY_BYTES, BODY_BYTES_MAX, Last, NUMBER, Table, VALUES, as_config, unread};
use super::{PostgresConfig, Relation};
use crate::envelope::{Mapping, Rows};
use crate::topic::{Begin, Until};
use crate::unconfirmed::Unconfirmed;

/// The topic of a statement, which has no name.
const QUERY: &str = "query";

/// Reads one table.
pub(crate) struct PostgresSource {
    config: PostgresConfig,
    needs: Needs,
    mapping: Mapping,
    open: Option<Open>,
    /// Where the next read goes on, if it does.
    cursor: Option<Cursor>,
    /// All rows up to this value were read by the cursor.
    read_to: Option<i64>,
    /// Rows that the next page asks for: fewer than the settings say where rows are long.
    page_rows: usize,
    /// When the source was made.
    begun: Instant,
    stop: Arc<Stop>,
}

struct Open {
    link: Link,
    table: Table,
    settle: Settle,
    origin: i64,
    /// The greatest value that was seen.
    greatest: Option<i64>,
}

/// Behind a row that was read.
#[derive(Clone)]
struct Cursor {
    next: i64,
    numbering: Numbering,
    last: Option<Last>,
}

/// What a page gave.
#[derive(Default)]
struct Page {
    /// Records, with those that do not fit.
    records: i64,
    /// There are more rows, up to the same value.
    is_more: bool,
    /// It ended because of its bytes.
    is_long: bool,
}

impl PostgresSource {
    #[expect(clippy::disallowed_methods, reason = "when a server is asked decides about no row's offset")]
    pub(crate) fn new(config: &PostgresConfig, stop: &Arc<Stop>) -> Self {
        let (config, needs, begun) = (config.clone(), Needs::default(), Instant::now());
        let (mapping, open, cursor, read_to) = (Mapping::default(), None, None, None);
        let page_rows = config.batch;
        Self { config, needs, mapping, open, cursor, read_to, page_rows, begun, stop: Arc::clone(stop) }
    }

    fn topic(&self) -> String {
        match self.config.relation() {
            Ok(Relation::Table(table)) => table.to_string(),
            _ => QUERY.to_owned(),
        }
    }

    /// The value up to which rows are there, looked for when it is time.
    fn settled(&mut self, offset: i64) -> Result<Option<i64>, TaskError> {
        let now = self.begun.elapsed();
        let open = opened(self.open.as_mut())?;
        if open.settle.due() <= now {
            let seen = open.table.snapshot(&open.link, offset)?;
            open.greatest = open.greatest.max(seen.max);
            open.settle.look(now, seen);
        }
        Ok(open.settle.settled())
    }

    /// What a read says that found nothing.
    fn nothing(&self) -> Read {
        let is_over = self.config.until == Until::CaughtUp
            && self.open.as_ref().is_some_and(|open| open.settle.is_caught_up(self.read_to));
        if is_over { Read::Ended } else { Read::Idle }
    }

    /// Reads rows from the cursor on, of the range and with values up to `to`.
    fn page(
        &self,
        rows: &mut Rows<'_>,
        cursor: &mut Cursor,
        (range, to): (Range, i64),
        bytes_max: usize,
    ) -> Result<Page, TaskError> {
        let Some(Open { link, table, .. }) = &self.open else { return Err(closed()) };
        let from = table.kind.from(cursor.next);
        // One more shows whether there are more, and whether it has the same integer.
        let batch = self.page_rows;
        let Some(sql) = table.page(from, to, cursor.last.as_ref(), batch + 1) else {
            return Err(TaskError::new(Class::Config, format!("{}: a time that has no text", table.name)));
        };
        let (mut page, mut seen) = (Page::default(), 0);
        let take = |row: &tokio_postgres::Row| -> Result<bool, TaskError> {
            let number: i64 = row.try_get(NUMBER).map_err(unread)?;
            let mut numbering = cursor.numbering;
            let offset = numbering.next(number).map_err(|problem| {
                TaskError::new(Class::Config, format!("{}, `column`: {problem}", table.name))
            })?;
            page.is_long = page.records > 0 && rows.is_full(bytes_max);
            if seen == batch || page.is_long {
                page.is_more = true;
                return Ok(false);
            }
            if offset >= range.end {
                return Ok(false);
            }
            seen += 1;
            (cursor.numbering, cursor.last) = (numbering, Some(Last { number, ties: table.ties_of(row)? }));
            if offset < range.start {
                return Ok(true);
            }
            cursor.next = offset + 1;
            page.records += 1;
            let bytes: i32 = row.try_get(BODY_BYTES).map_err(unread)?;
            let body: Option<&str> = row.try_get(BODY).map_err(unread)?;
            match body {
                Some(body) => rows.push(
                    offset,
                    |out| out.extend_from_slice(body.as_bytes()),
                    |at| row.try_get::<_, Option<&str>>(VALUES + at).ok().flatten().map(str::as_bytes),
                ),
                None => rows.reject(Reject {
                    offset,
                    reason: format!("a row of {bytes} bytes exceeds the limit of {BODY_BYTES_MAX} bytes"),
                    body: Bytes::new(),
                    body_bytes: u64::try_from(bytes).unwrap_or(0),
                    place: format!("{}, offset {offset}", table.name),
                    properties: Vec::new(),
                }),
            }
            Ok(true)
        };
        link.stream(&table.what(), &sql, &[], take).map_err(as_config)?;
        Ok(page)
    }
}

fn closed() -> TaskError {
    TaskError::new(Class::Fatal, "the source is not open")
}

fn opened(open: Option<&mut Open>) -> Result<&mut Open, TaskError> {
    open.ok_or_else(closed)
}

fn connect(config: &PostgresConfig) -> Result<Link, TaskError> {
    let way = config.way().map_err(|problem| TaskError::new(Class::Config, problem))?;
    let verified = if way.ssl_mode == SslMode::VerifyFull {
        let verified = Tls::config_for_host(config.tls.as_ref(), &way.address.host);
        let refused = || TaskError::new(Class::Config, "cannot speak TLS as asked for");
        Some(verified.map_err(|e| refused().because(e))?)
    } else {
        None
    };
    let link = Link::open(&way, verified)?;
    link.run("cannot set up the session", "SET default_transaction_read_only TO on")?;
    Ok(link)
}

impl SourceTask for PostgresSource {
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError> {
        let config = &self.config;
        self.needs = needs.clone();
        let named = config.properties.iter().chain(&config.keys).chain(&config.tag);
        let (values, places) = table::places(named);
        let mut places = places.into_iter();
        self.mapping = Mapping {
            properties: config.properties.iter().cloned().zip(&mut places).collect(),
            keys: (&mut places).take(config.keys.len()).collect(),
            tag: places.next(),
        };
        let link = connect(config)?;
        let table = Table::find(&link, config, values)?;
        if let Some(least) = table.least(&link)?.filter(|least| *least < 0) {
            let message = format!(
                "PostgreSQL at {}: `column`: the least value of {} is {least} (a time in µs since 1970), and offsets begin at 0: \
                 leave such rows out by `query`",
                link.place(),
                table.name
            );
            return Err(TaskError::new(Class::Config, message));
        }
        let origin = match config.start {
            Begin::Earliest => 0,
            Begin::Latest => table.snapshot(&link, 0)?.max.map_or(0, |max| table.kind.after(max)),
        };
        let settle = Settle::new(config.lag.0, config.interval.0);
        (self.cursor, self.read_to) = (None, None);
        self.open = Some(Open { link, table, settle, origin, greatest: None });
        Ok(())
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        let topic = self.topic().into();
        let Open { table, origin, .. } = opened(self.open.as_mut())?;
        Ok(vec![SourceQueue { topic, queue: 0, incarnation: table.incarnation(), first: 0, origin: *origin }])
    }

    fn read(&mut self, topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError> {
        let is_planned = range.end != i64::MAX;
        let kind = opened(self.open.as_mut())?.table.kind;
        let goes_on = self.cursor.as_ref().is_some_and(|cursor| cursor.next == range.start);
        if !goes_on {
            self.read_to = None;
            self.cursor = None;
        }
        // What a plan counted was settled then.
        let to = if is_planned { Some(kind.to(range.end)) } else { self.settled(range.start)? };
        let Some(to) = to.filter(|to| is_planned || self.read_to < Some(*to)) else {
            return Ok(self.nothing());
        };
        let fresh = || {
            // Ranks are counted from the begin of a millisecond.
            let (numbering, last) = (Numbering::new(kind), None);
            Cursor { next: range.start, numbering, last }
        };
        let mut cursor = self.cursor.take().unwrap_or_else(fresh);
        let (needs, mapping) = (self.needs.clone(), self.mapping.clone());
        let mut rows = Rows::new(&needs, &mapping, 0);
        let page = loop {
            // Each page is a statement.
            let page = self.page(&mut rows, &mut cursor, (range, to), bytes_max.max(ACT_BYTES))?;
            // What a page gives beyond its bytes is sent in vain.
            self.page_rows = match usize::try_from(page.records) {
                Ok(records) if page.is_long => records.max(1),
                _ => self.page_rows.saturating_mul(2).min(self.config.batch),
            };
            // A page may hold nothing but rows of its millisecond that were read before.
            if page.records > 0 || !page.is_more || self.stop.is_asked() {
                break page;
            }
        };
        let end = if is_planned && !page.is_more { range.end } else { cursor.next };
        cursor.next = end;
        self.cursor = Some(cursor);
        // A plan may end among the rows of a millisecond, and `to` is behind all of them.
        if !page.is_more && !is_planned {
            self.read_to = self.read_to.max(Some(to));
        }
        if end == range.start {
            return Ok(self.nothing());
        }
        let mut slice = rows.finish(topic, Range { start: range.start, end })?;
        debug_assert_eq!(queue, 0, "a table is one queue");
        slice.absent = u64::try_from(end - range.start - page.records).unwrap_or(0);
        Ok(Read::Slice(slice))
    }

    fn wait(&mut self, timeout: Duration) {
        let due = self.open.as_ref().map_or(Duration::ZERO, |open| open.settle.due());
        std::thread::sleep(due.saturating_sub(self.begun.elapsed()).min(timeout));
    }

    fn end(&mut self, _topic: &str, _queue: i32) -> Option<i64> {
        let open = self.open.as_ref()?;
        // Offsets of timestamps say nothing of how many rows there are.
        let is_integer = open.table.kind == super::place::Kind::Integer;
        open.greatest.filter(|_| is_integer).map(|greatest| open.table.kind.after(greatest))
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        Arc::new(Unconfirmed)
    }
}
