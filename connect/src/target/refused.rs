//! Rows that do not fit, and rows that the target refuses: found, and stored as dead letters.

use super::{Target, TargetHalf};
use crate::batch;
use crate::config::Then;
use crate::dead_letter;
use crate::steps::{Steps, stop_at_reject, turn_away};
use crate::task::{Chain, Class, Fates, Range, Reject, Slice, TaskError, TransactTask};
use crate::worker::chain_of_causes;

/// Dead letters of one atomic batch, in bytes: it must fit a segment of the commit log.
const DEAD_BATCH_BYTES: usize = 1024 * 1024;

/// What the chains of dead letters add to the pipeline's name: those of rows that did not fit, and those of rows that
/// the target refused.
pub(super) const DEAD: &str = "#dead";
const REFUSED: &str = "#refused";

impl TargetHalf<'_> {
    /// Finds the rows for which the target refused a slice, by halves: each goes where `errors` says, and all others
    /// to the target.
    pub(super) fn take_apart(
        &mut self,
        chain: &Chain,
        mut slice: Slice,
        refusal: TaskError,
    ) -> Result<(), TaskError> {
        let rows = slice.envelope.num_rows();
        let offsets = batch::offsets(&slice.envelope);
        // The rows of one record stay together.
        let later = |offset: &&i64| offsets.first().is_some_and(|first| *offset > first);
        if let Some(&middle) = offsets.iter().skip(rows / 2).find(later) {
            let is_planned = matches!(self.target, Target::Files(_));
            // What a plan records must come out the same when its rows are read again.
            let halves = if is_planned { slice.split(middle) } else { Some(slice.split_anyhow(middle)) };
            let (head, tail) = halves.ok_or(refusal)?;
            self.take_part(chain, head, !is_planned)?;
            return self.take_part(chain, tail, !is_planned);
        }
        if rows == 0 {
            let message = format!("{chain}: the target refuses a slice without rows");
            return Err(TaskError::new(Class::Fatal, message).because(refusal));
        }
        let reason = chain_of_causes(&refusal);
        let offset = batch::offsets(&slice.envelope).first().copied();
        turn_away(&mut slice, &[(0, reason.clone())])?;
        stop_at_reject(self.then, &slice)?;
        let open = self.open.get(chain);
        match &mut self.breaker {
            Some(breaker) if open.is_some_and(|open| open.redo.is_none()) => breaker.refuse(&reason)?,
            _ => {}
        }
        if matches!(self.target, Target::Files(_)) {
            return self.take(chain, slice);
        }
        let fates = Steps::fates(self.then, &slice);
        if self.then == Then::DeadLetter {
            let incarnation = open.map_or_else(String::new, |open| open.incarnation.clone());
            let refused = slice.rejects.iter().filter(|reject| Some(reject.offset) == offset).cloned();
            let refused: Vec<Reject> = refused.collect();
            // The dead letters that were known before the target was asked are stored already, and their chain stands
            // behind this row.
            let rows =
                Dead { kind: REFUSED, incarnation: &incarnation, range: slice.range, rejects: &refused };
            put_dead(self.dead_letters.as_deref_mut(), chain, &rows, self.confirmer.rereads())?;
        }
        match self.commit(chain, &slice, &fates)? {
            None => Ok(()),
            Some(refusal) => self.take_apart(chain, slice, refusal),
        }
    }
}

/// Dead letters of a range of a chain.
pub(super) struct Dead<'a> {
    /// [`DEAD`] or [`REFUSED`].
    pub(super) kind: &'a str,
    pub(super) incarnation: &'a str,
    pub(super) range: Range,
    pub(super) rejects: &'a [Reject],
}

/// Stores dead letters under a chain of their own that ends where their range ends, and makes them durable; those
/// that are there already are left out. Each of the atomic batches moves the chain to where the next begins.
///
/// Where offsets may mean other rows than before (a source that does not read again, another incarnation), none of them
/// is there: what was stored stays, and the chain goes on behind it.
pub(super) fn put_dead(
    task: Option<&mut (dyn TransactTask + 'static)>,
    chain: &Chain,
    dead: &Dead<'_>,
    rereads: bool,
) -> Result<(), TaskError> {
    let &Dead { kind, incarnation, range, rejects } = dead;
    let Some(task) = task else {
        return Err(TaskError::new(Class::Fatal, format!("{chain}: no dead-letter topic is open")));
    };
    // The chain `<pipeline>/<topic>/<queue>#dead`, told apart in the pipeline's part.
    let dead = Chain { pipeline: format!("{}{kind}", chain.pipeline).into(), ..chain.clone() };
    let (start, by) = match task.position(&dead)? {
        Some((position, recorded)) if !rereads || recorded != incarnation => {
            (position.max(range.start), (position - range.start).max(0))
        }
        Some((position, _)) => (position.max(range.start), 0),
        None => {
            task.begin(&dead, range.start, incarnation)?;
            (range.start, 0)
        }
    };
    let range = Range { start: range.start + by, end: range.end + by };
    if start >= range.end {
        return Ok(());
    }
    let mut position = task.position(&dead)?.map_or(start, |(p, _)| p);
    let mut left = rejects.iter().filter(|r| r.offset + by >= start).peekable();
    while position < range.end {
        let (mut bytes, mut rows) = (0, Vec::new());
        while let Some(reject) = left.next_if(|r| rows.is_empty() || bytes + r.bytes() <= DEAD_BATCH_BYTES) {
            bytes += reject.bytes();
            rows.push(reject);
        }
        let messages = rows.iter().map(|r| (r.offset, dead_letter::properties(chain, r), &r.body[..]));
        let envelope = batch::messages(messages)
            .map_err(|e| TaskError::new(Class::Fatal, "cannot build dead letters").because(e))?;
        let end = left.peek().map_or(range.end, |next| next.offset + by);
        let slice = Slice {
            range: Range { start: position, end },
            bytes,
            stored_ms: None,
            envelope,
            decoded: None,
            filtered: 0,
            absent: 0,
            deduplicated: Vec::new(),
            rejects: Vec::new(),
        };
        let fates = Fates { written: rows.len() as u64, ..Fates::default() };
        task.commit(&dead, incarnation, &slice, &fates)?;
        position = end;
    }
    task.secure()
}
