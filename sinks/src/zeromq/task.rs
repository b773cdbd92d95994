//! The task of sink `zeromq`.

use sluice_bridges::zeromq::mapping::to_frames;
use sluice_bridges::zeromq::outbound::{self, Outbound};
use sluice_connect::task::{Chain, Class, Fates, Slice, TaskError, TransactTask};

use super::ZeromqConfig;
use crate::sink::Sink as _;
use crate::topic::{Rows, text};

/// Writes to a socket.
pub(super) struct ZeromqSink {
    outbound: Outbound,
}

impl ZeromqSink {
    /// Binds, or begins to connect.
    pub(super) fn new(settings: &ZeromqConfig) -> Result<Self, TaskError> {
        let endpoint = settings.endpoint().map_err(|(_, problem)| TaskError::new(Class::Config, problem))?;
        Ok(Self { outbound: Outbound::open(endpoint, settings.kind(), settings.high_water_mark)? })
    }
}

fn frames(rows: &Rows<'_>, row: usize) -> Result<Vec<Vec<u8>>, String> {
    to_frames(text(rows.route, row), text(rows.keys, row), rows.own_properties(row))
}

/// What a run finds, for a person; sends nothing.
pub(super) fn check(settings: &ZeromqConfig) -> Result<String, TaskError> {
    let endpoint = settings.endpoint().map_err(|(_, problem)| TaskError::new(Class::Config, problem))?;
    outbound::check(endpoint, settings.kind())?;
    Ok(format!(
        "{} can be opened: at_least_once into the network, where messages may be lost",
        settings.shown()
    ))
}

impl TransactTask for ZeromqSink {
    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        let rows = Rows::new(&slice.envelope);
        (0..slice.envelope.num_rows()).filter_map(|row| Some((row, frames(&rows, row).err()?))).collect()
    }

    fn commit(
        &mut self,
        chain: &Chain,
        _incarnation: &str,
        slice: &Slice,
        _: &Fates,
    ) -> Result<(), TaskError> {
        let rows = Rows::new(&slice.envelope);
        for row in 0..slice.envelope.num_rows() {
            let before = frames(&rows, row).map_err(|reason| {
                TaskError::new(Class::Fatal, format!("{chain}: a row was taken for a message: {reason}"))
            })?;
            let mut all: Vec<&[u8]> = before.iter().map(Vec::as_slice).collect();
            all.push(rows.body(row));
            self.outbound.send(&all)?;
        }
        self.outbound.flush()
    }

    /// The network keeps nothing.
    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }

    fn keeps_positions(&self) -> bool {
        false
    }
}
