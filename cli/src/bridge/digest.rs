//! Digests of a side over ranges of keys: which messages there are, and in which order those of each key come.
//!
//! A key lies in a range by its hash; a message without a key lies where its own hash is, and has no order. Memory is bounded by
//! how many keys are held: where there are more, the side is read again for the rest of them.

use std::collections::HashMap;

use anyhow::Result;
use ring::digest::{Context, SHA256};

use super::side::{Seen, Side};

/// One past the last hash.
const END: u128 = 1 << 64;

/// What of messages is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    /// Into how many ranges keys are divided.
    pub(crate) ranges: u32,
    /// Whether messages of a key must come in one order.
    pub(crate) order: bool,
    /// Whether timestamps count.
    pub(crate) times: bool,
    /// Keys that are held in memory at most.
    pub(crate) keys_max: usize,
}

/// The parts of one message that count, as hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Of the key, or of the whole message where there is none.
    pub(crate) id: u128,
    pub(crate) value: u128,
    pub(crate) headers: u128,
    /// 0 where times do not count.
    pub(crate) time_ms: i64,
    pub(crate) has_key: bool,
}

impl Parts {
    pub(crate) fn of(seen: &Seen<'_>, compared: &Compared) -> Self {
        let value = hash([seen.value]);
        // Brokers of RocketMQ keep no order of properties.
        let mut named: Vec<(&str, Option<&[u8]>)> =
            seen.record.headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
        named.sort_by_key(|(name, _)| *name);
        let headers = hash(named.into_iter().flat_map(|(name, value)| [Some(name.as_bytes()), value]));
        let time_ms = if compared.times { seen.time_ms } else { 0 };
        let mut parts = Self { id: 0, value, headers, time_ms, has_key: seen.record.key.is_some() };
        parts.id = match &seen.record.key {
            Some(key) => hash([Some(&**key)]),
            None => parts.whole(),
        };
        parts
    }

    /// Of all that counts.
    pub(crate) fn whole(&self) -> u128 {
        let Self { id, value, headers, time_ms, has_key } = self;
        // Without a key the id is made of this.
        let id = if *has_key { id.to_be_bytes() } else { [0; 16] };
        hash([
            Some(&id[..]),
            Some(&value.to_be_bytes()[..]),
            Some(&headers.to_be_bytes()[..]),
            Some(&time_ms.to_be_bytes()[..]),
        ])
    }

    /// Where it lies among all hashes.
    pub(crate) fn place(&self) -> u64 {
        place(self.id)
    }
}

/// Where a key's hash lies among all.
pub(crate) fn place(id: u128) -> u64 {
    u64::try_from(id >> 64).unwrap_or(u64::MAX)
}

/// The first 16 bytes of a SHA-256 over parts of any length.
fn hash<'a>(parts: impl IntoIterator<Item = Option<&'a [u8]>>) -> u128 {
    let mut context = Context::new(&SHA256);
    for part in parts {
        // A length that no part has stands for none.
        context.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        context.update(part.unwrap_or_default());
    }
    let mut first = [0; 16];
    first.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    u128::from_be_bytes(first)
}

/// The digest of one range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeDigest {
    pub(crate) messages: u64,
    /// Which messages there are, in any order.
    pub(crate) content: u128,
    /// The messages of each key, in their order.
    pub(crate) order: u128,
}

/// The digest of a side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Digest {
    pub(crate) ranges: Vec<RangeDigest>,
    pub(crate) messages: u64,
    /// Keys that lie in several queues: nothing says in which order their messages come.
    pub(crate) spread: u64,
}

impl Digest {
    /// One number for all.
    pub(crate) fn whole(&self) -> u128 {
        let numbers =
            self.ranges.iter().flat_map(|range| [range.content.to_be_bytes(), range.order.to_be_bytes()]);
        let numbers: Vec<u8> = numbers.flatten().collect();
        hash([Some(&numbers[..])])
    }
}

/// The range that a place lies in.
pub(crate) fn range_of(place: u64, ranges: u32) -> usize {
    usize::try_from((u128::from(place) * u128::from(ranges)) >> 64).unwrap_or(0)
}

/// What is known of a key: the digest of its messages, and where they are.
#[derive(Clone, Copy, Debug)]
struct Key {
    chain: u128,
    queue: usize,
    spread: bool,
}

/// Reads a side as often as its keys need; `tick` is called for each message that is read.
pub(crate) fn digest(side: &Side, compared: &Compared, mut tick: impl FnMut()) -> Result<Digest> {
    let ranges = usize::try_from(compared.ranges).unwrap_or(1).max(1);
    let mut made = Digest { ranges: vec![RangeDigest::default(); ranges], ..Digest::default() };
    let (mut from, mut is_first) = (0_u128, true);
    while is_first || compared.order && from < END {
        let (mut until, mut keys) = (END, HashMap::<u128, Key>::new());
        side.read(|seen| {
            tick();
            let parts = Parts::of(seen, compared);
            let place = parts.place();
            if is_first && let Some(range) = made.ranges.get_mut(range_of(place, compared.ranges)) {
                made.messages += 1;
                range.messages += 1;
                range.content = range.content.wrapping_add(parts.whole());
            }
            if compared.order && parts.has_key && (from..until).contains(&u128::from(place)) {
                let fresh = Key { chain: 0, queue: seen.queue, spread: false };
                let key = keys.entry(parts.id).or_insert(fresh);
                key.chain = chained(key.chain, &parts);
                key.spread |= key.queue != seen.queue;
                while keys.len() > compared.keys_max && until - from > 1 {
                    until = from + (until - from) / 2;
                    keys.retain(|id, _| u128::from(self::place(*id)) < until);
                }
            }
            Ok(())
        })?;
        for (id, key) in keys {
            made.spread += u64::from(key.spread);
            if let Some(range) = made.ranges.get_mut(range_of(place(id), compared.ranges)) {
                // Of a key and of all before it: keys may come in any order.
                range.order = range.order.wrapping_add(key.chain);
            }
        }
        (from, is_first) = (until, false);
    }
    Ok(made)
}

/// The digest of a key's messages up to one.
fn chained(before: u128, parts: &Parts) -> u128 {
    hash([Some(&before.to_be_bytes()[..]), Some(&parts.whole().to_be_bytes()[..])])
}

/// A key, or a message without one, whose messages differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pair {
    messages: [u64; 2],
    digests: [u128; 2],
}

/// Finds keys in ranges that differ, `count` at most, by the order of their hashes.
pub(crate) fn differing(
    sides: [&Side; 2],
    compared: &Compared,
    wanted: &[bool],
    count: usize,
    mut tick: impl FnMut(),
) -> Result<Vec<u128>> {
    let (mut from, mut found) = (0_u128, Vec::new());
    while from < END && found.len() < count {
        let (mut until, mut pairs) = (END, HashMap::<u128, Pair>::new());
        for (number, side) in sides.into_iter().enumerate() {
            side.read(|seen| {
                tick();
                let parts = Parts::of(seen, compared);
                let place = parts.place();
                let is_wanted = wanted.get(range_of(place, compared.ranges)).is_some_and(|wanted| *wanted);
                if !is_wanted || !(from..until).contains(&u128::from(place)) {
                    return Ok(());
                }
                let pair = pairs.entry(parts.id).or_default();
                let (Some(messages), Some(digest)) =
                    (pair.messages.get_mut(number), pair.digests.get_mut(number))
                else {
                    return Ok(());
                };
                *messages += 1;
                *digest = match parts.has_key && compared.order {
                    true => chained(*digest, &parts),
                    false => digest.wrapping_add(parts.whole()),
                };
                while pairs.len() > compared.keys_max && until - from > 1 {
                    until = from + (until - from) / 2;
                    pairs.retain(|id, _| u128::from(self::place(*id)) < until);
                }
                Ok(())
            })?;
        }
        let differs = |(_, pair): &(u128, Pair)| {
            pair.messages[0] != pair.messages[1] || pair.digests[0] != pair.digests[1]
        };
        let mut ids: Vec<u128> = pairs.into_iter().filter(differs).map(|(id, _)| id).collect();
        ids.sort_unstable();
        found.extend(ids.into_iter().take(count - found.len()));
        from = until;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_any_length_are_told_apart() {
        let some = |text: &'static str| Some(text.as_bytes());
        let all = [
            hash([some("ab"), some("c")]),
            hash([some("a"), some("bc")]),
            hash([some("abc")]),
            hash([some("abc"), None]),
            hash([some("abc"), some("")]),
            hash([None]),
            hash([]),
        ];
        let different: std::collections::BTreeSet<u128> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn ranges_divide_all_hashes() {
        assert_eq!([range_of(0, 3), range_of(u64::MAX / 2, 3), range_of(u64::MAX, 3)], [0, 1, 2]);
        assert_eq!(range_of(u64::MAX, 1), 0);
    }
}
