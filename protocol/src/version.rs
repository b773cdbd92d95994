//! Version ordinals: the number that a peer sends as its version is an index in a list of releases.
//!
//! From 4.0.0 on every patch owns two indices, its snapshot and its release, and every minor release twenty.

/// What we say we are: 5.3.3. Java consumers refuse SQL92 filters from a server below 232.
pub const CURRENT: i32 = of(5, 3, 3);

/// From this version (4.9.4) on a client reads routes with quoted broker ids.
pub const QUOTED_BROKER_IDS: i32 = of(4, 9, 4);

/// From this version (3.4.9) on the header's `maxReconsumeTimes` counts.
pub const MAX_RECONSUME_TIMES: i32 = 121;

/// The ordinal of a release of 4.x or 5.x.
pub const fn of(major: u8, minor: u8, patch: u8) -> i32 {
    let first = if major >= 5 { 413 } else { 213 };
    first + 20 * minor as i32 + 2 * patch as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_those_of_the_java_enum() {
        let known =
            [((4, 9, 3), 399), ((4, 9, 4), 401), ((4, 9, 8), 409), ((5, 0, 0), 413), ((5, 3, 1), 475)];
        for ((major, minor, patch), ordinal) in known {
            assert_eq!(of(major, minor, patch), ordinal);
        }
        assert_eq!((CURRENT, QUOTED_BROKER_IDS, of(4, 5, 2), of(4, 6, 1)), (479, 401, 317, 335));
    }
}
