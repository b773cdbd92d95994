//! Ids that a client gives its messages, in the form of Java's: 32 upper-case hex digits.
//!
//! | field   | bytes | meaning                                                       |
//! |---------|------:|---------------------------------------------------------------|
//! | address |     4 | of the client's host                                          |
//! | process |     2 | its id, cut                                                   |
//! | source  |     4 | a random number, in Java the hash of a class loader           |
//! | time    |     4 | ms since the first of the month, here of UTC                  |
//! | counter |     2 | runs                                                          |

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Makes ids, each once.
#[derive(Debug)]
pub(crate) struct UniqueIds {
    prefix: String,
    counter: AtomicU32,
}

impl UniqueIds {
    /// Ids of this process.
    pub(crate) fn new(host: IpAddr) -> Self {
        let host = match host {
            IpAddr::V4(ip) => u32::from(ip),
            // The last bytes tell hosts apart best.
            IpAddr::V6(ip) => u32::from_be_bytes(*ip.octets().last_chunk().unwrap_or(&[0; 4])),
        };
        let random = RandomState::new().hash_one(0) & 0xFFFF_FFFF;
        let process = std::process::id() & 0xFFFF;
        Self { prefix: format!("{host:08X}{process:04X}{random:08X}"), counter: AtomicU32::new(0) }
    }

    /// The next id; `now_ms` is in ms since 1970-01-01 UTC.
    pub(crate) fn next(&self, now_ms: i64) -> String {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed) & 0xFFFF;
        let mut id = String::with_capacity(32);
        id.push_str(&self.prefix);
        // Writing to a text can not fail.
        let _ = write!(id, "{:08X}{counter:04X}", ms_of_month(now_ms));
        id
    }
}

/// Milliseconds since the first of the month, UTC.
fn ms_of_month(now_ms: i64) -> i64 {
    const DAY_MS: i64 = 86_400_000;
    let (days, ms) = (now_ms.div_euclid(DAY_MS), now_ms.rem_euclid(DAY_MS));
    // Day of the month of the proleptic Gregorian calendar, counted in years that begin with March.
    let since = days + 719_468;
    let day_of_era = since.rem_euclid(146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5;
    day * DAY_MS + ms
}

/// The address that this host has towards another; asks the system, sends nothing.
pub(crate) fn host_address(peer: &str) -> IpAddr {
    let local = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(peer)?;
        Ok::<_, std::io::Error>(socket.local_addr()?.ip())
    };
    local().unwrap_or(Ipv4Addr::LOCALHOST.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_parts_of_java_s() {
        let ids = UniqueIds::new(Ipv4Addr::new(192, 168, 1, 10).into());
        let (first, second) = (ids.next(0), ids.next(0));
        assert_eq!((first.len(), &first[..8]), (32, "C0A8010A"));
        assert_eq!((&first[20..], &second[20..]), ("000000000000", "000000000001"));
        assert_eq!(first[..20], second[..20]);
    }

    #[test]
    fn the_time_starts_anew_each_month() {
        let day = 86_400_000;
        for (date, ms) in
            [(0, 0), (30 * day, 30 * day), (31 * day, 0), (31 * day + 28 * day, 0), (59 * day + 7, 7)]
        {
            assert_eq!(ms_of_month(date), ms, "{date}");
        }
        // 2024-02-29 and 2024-03-01.
        assert_eq!(ms_of_month(1_709_164_800_000), 28 * day);
        assert_eq!(ms_of_month(1_709_251_200_000), 0);
    }
}
