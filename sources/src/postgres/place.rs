//! Queue offsets of rows by the values of their column, and back.
//!
//! An integer is its row's offset, so no two rows may share one. Of a timestamp the offset is the millisecond since
//! 1970-01-01 UTC and the row's rank in it, by timestamp and then by `tie_break`:
//!
//! | bits  | meaning                                   |
//! |-------|-------------------------------------------|
//! | 62-21 | the millisecond, up to the year 2109      |
//! | 20-0  | the rank, from 0                          |
//!
//! Offsets between those of rows are absent.

use arrow::temporal_conversions::timestamp_us_to_datetime;

/// Bits of a rank.
const RANK_BITS: u32 = 21;
/// Rows that one millisecond may have.
const RANKS: i64 = 1 << RANK_BITS;
/// Milliseconds that have an offset.
const MILLISECONDS: i64 = 1 << (63 - RANK_BITS);

/// What the column holds. Its values are told as numbers: timestamps in microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Integers.
    Integer,
    /// Timestamps, with a time zone or without.
    Timestamp { zone: bool },
}

impl Kind {
    /// Of a type by its name in `pg_type`.
    pub(super) fn of(type_name: &str) -> Option<Self> {
        match type_name {
            "int2" | "int4" | "int8" => Some(Self::Integer),
            "timestamp" => Some(Self::Timestamp { zone: false }),
            "timestamptz" => Some(Self::Timestamp { zone: true }),
            _ => None,
        }
    }

    /// A value in SQL, as a number.
    pub(super) fn number(self, value: &str) -> String {
        match self {
            Self::Integer => format!("{value}::bigint"),
            Self::Timestamp { .. } => format!("(extract(epoch FROM {value}) * 1000000)::bigint"),
        }
    }

    /// A number as SQL compares it with the column, if the column can have it.
    pub(super) fn literal(self, number: i64) -> Option<String> {
        match self {
            Self::Integer => Some(number.to_string()),
            Self::Timestamp { zone } => {
                let time = timestamp_us_to_datetime(number)?;
                Some(if zone { format!("'{time}+00'::timestamptz") } else { format!("'{time}'::timestamp") })
            }
        }
    }

    /// The least number that a row at the offset or behind it can have.
    pub(super) fn from(self, offset: i64) -> i64 {
        match self {
            Self::Integer => offset,
            Self::Timestamp { .. } => (offset >> RANK_BITS) * 1000,
        }
    }

    /// The greatest number that a row before the offset can have.
    pub(super) fn to(self, end: i64) -> i64 {
        match self {
            Self::Integer => end - 1,
            Self::Timestamp { .. } => ((end - 1) >> RANK_BITS) * 1000 + 999,
        }
    }

    /// The first offset behind all rows with numbers up to this one.
    pub(super) fn after(self, number: i64) -> i64 {
        match self {
            Self::Integer => number.saturating_add(1),
            Self::Timestamp { .. } => (number.div_euclid(1000).clamp(0, MILLISECONDS - 2) + 1) << RANK_BITS,
        }
    }
}

/// Gives rows their offsets, in the order of the column and `tie_break`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbering {
    kind: Kind,
    /// The last row's integer or millisecond, and its rank.
    last: Option<(i64, i64)>,
}

impl Numbering {
    /// Before the first row that [`Kind::from`] an offset can have.
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, last: None }
    }

    /// The offset of the next row, or why it has none.
    pub(super) fn next(&mut self, number: i64) -> Result<i64, String> {
        let group = match self.kind {
            Kind::Integer => number,
            Kind::Timestamp { .. } => number.div_euclid(1000),
        };
        let rank = self.last.filter(|(last, _)| *last == group).map_or(0, |(_, rank)| rank + 1);
        let offset = match self.kind {
            Kind::Integer if rank > 0 => {
                return Err(format!(
                    "two rows have {number}: an integer must be each row's own; a timestamp need not"
                ));
            }
            Kind::Integer if number == i64::MAX => return Err(format!("{number} is too great")),
            Kind::Integer => number,
            Kind::Timestamp { .. } if !(0..MILLISECONDS - 1).contains(&group) => {
                return Err(format!("a time {group} ms from 1970, expected one in 1970 to 2109"));
            }
            Kind::Timestamp { .. } if rank >= RANKS => {
                return Err(format!("more than {RANKS} rows have the millisecond {group} (since 1970)"));
            }
            Kind::Timestamp { .. } => (group << RANK_BITS) | rank,
        };
        self.last = Some((group, rank));
        Ok(offset)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOMENT: Kind = Kind::Timestamp { zone: true };

    #[test]
    fn times_are_literals_in_utc() {
        assert_eq!(
            MOMENT.literal(1_700_000_000_123_456).unwrap(),
            "'2023-11-14 22:13:20.123456+00'::timestamptz"
        );
        assert_eq!(Kind::Timestamp { zone: false }.literal(0).unwrap(), "'1970-01-01 00:00:00'::timestamp");
        assert_eq!(Kind::Integer.literal(-3).unwrap(), "-3");
    }

    #[test]
    fn an_integer_is_an_offset_and_is_there_once() {
        let mut numbering = Numbering::new(Kind::Integer);
        assert_eq!((numbering.next(3), numbering.next(7)), (Ok(3), Ok(7)));
        assert!(numbering.next(7).unwrap_err().contains("two rows have 7"));
        assert!(Numbering::new(Kind::Integer).next(i64::MAX).is_err());
    }

    #[test]
    fn times_that_have_no_offset_are_told() {
        assert!(Numbering::new(MOMENT).next(-1).unwrap_err().contains("1970"));
        assert!(Numbering::new(MOMENT).next(4_500_000_000_000_000).unwrap_err().contains("2109"));
    }

    proptest! {
        #[test]
        fn offsets_rise_and_lie_where_their_values_say(
            mut times in prop::collection::vec(0_i64..5_000, 1..60),
            base in 0_i64..4_000_000_000_000_000,
        ) {
            times.sort_unstable();
            let mut numbering = Numbering::new(MOMENT);
            let mut before = -1;
            for time in times {
                let number = base + time;
                let offset = numbering.next(number).unwrap();
                prop_assert!(offset > before);
                prop_assert!(MOMENT.from(offset) <= number && number <= MOMENT.to(offset + 1));
                prop_assert!(offset < MOMENT.after(number));
                before = offset;
            }
        }
    }
}
