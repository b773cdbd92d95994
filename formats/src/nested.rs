//! Lists and maps of decoded values, pushed to their columns.

use crate::column::{Column, Values, position};
use crate::path::{Misfit, Step};
use crate::scalar::Scalar;

impl Column {
    /// Adds a list, each item by `push`.
    pub(crate) fn push_list<T>(
        &mut self,
        items: &[T],
        push: impl Fn(&mut Self, &T) -> Result<(), Misfit>,
    ) -> Result<(), Misfit> {
        let Values::List { ends, item: inner } = &mut self.values else {
            return Err(self.mismatch("a list"));
        };
        for (at, value) in items.iter().enumerate() {
            push(inner, value).map_err(|misfit| misfit.at(Step::Item(at)))?;
        }
        ends.push(position(inner.len()));
        self.pushed();
        Ok(())
    }

    /// Adds a map of pairs in their order, each value by `push`.
    pub(crate) fn push_map<'v, T: 'v>(
        &mut self,
        pairs: impl Iterator<Item = (String, &'v T)>,
        push: impl Fn(&mut Self, &T) -> Result<(), Misfit>,
    ) -> Result<(), Misfit> {
        let Values::Map { ends, key, value } = &mut self.values else {
            return Err(self.mismatch("a map"));
        };
        for (name, one) in pairs {
            let inside = |misfit: Misfit| misfit.at(Step::Key(name.clone()));
            key.push(Scalar::Text(&name)).map_err(inside)?;
            push(value, one).map_err(inside)?;
        }
        ends.push(position(key.len()));
        self.pushed();
        Ok(())
    }
}
