//! The way from bodies to rows that all formats share: each body is one row, or a reject.

use arrow::datatypes::SchemaRef;

use crate::column::Columns;
use crate::path::Misfit;
use crate::{BATCH_BYTES_MAX, Decoded, Error};

/// Rows of one call for which columns reserve space ahead.
const RESERVE_ROWS_MAX: usize = 65_536;

/// Why a body gives no row.
pub(crate) struct Unfit {
    /// Path and reason.
    pub(crate) reason: String,
    /// Whether a wider schema may take it.
    pub(crate) wider: bool,
}

impl From<Misfit> for Unfit {
    fn from(misfit: Misfit) -> Self {
        Self { wider: misfit.wider, reason: misfit.into_text() }
    }
}

impl From<String> for Unfit {
    fn from(reason: String) -> Self {
        Self { reason, wider: false }
    }
}

/// Decodes each body by `row`, which is told how many rows there are before it; what it adds for a body that does not
/// fit goes again. A body that is missing is a reject.
///
/// Fails only if the bodies are too many for one batch; what was read of it is dropped.
pub(crate) fn decode(
    columns: &mut Columns,
    schema: &SchemaRef,
    bodies: &mut dyn Iterator<Item = Option<&[u8]>>,
    mut row: impl FnMut(&mut Columns, &[u8], usize) -> Result<(), Unfit>,
) -> Result<Decoded, Error> {
    columns.truncate(0);
    columns.reserve(bodies.size_hint().0.min(RESERVE_ROWS_MAX));
    let (mut rows, mut bytes, mut rejects, mut wider) = (0, 0_usize, Vec::new(), Vec::new());
    for (number, body) in bodies.enumerate() {
        let Some(body) = body else {
            rejects.push((number, "no body".to_owned()));
            continue;
        };
        bytes = bytes.saturating_add(body.len());
        if bytes > BATCH_BYTES_MAX {
            return Err(Error::BatchTooLarge { max: BATCH_BYTES_MAX });
        }
        match row(columns, body, rows) {
            Ok(()) => rows += 1,
            Err(unfit) => {
                columns.truncate(rows);
                if unfit.wider {
                    wider.push(number);
                }
                rejects.push((number, unfit.reason));
            }
        }
    }
    let batch = columns.batch(schema, rows)?;
    Ok(Decoded { batch, rejects, wider })
}
