//! Follows encoded values (AMQP 1.0 part 1, section 1.6) without recursion, through bytes that come in parts, so that
//! what reads them by recursion gets nothing that is nested too deep, longer than it may be, or at odds with itself.
//!
//! The upper half of a value's first byte says what follows: nothing (4), 1 byte (5), 2 (6), 4 (7), 8 (8), 16 (9), bytes
//! with a length of 1 (A) or 4 bytes (B), values with size and count of 1 (C) or 4 bytes (D), values of one type with the
//! same (E, F), or, for the byte 0, a descriptor and a value.

/// Values in one another, at most.
pub(super) const DEPTH_MAX: usize = 32;

/// A value that holds others.
struct Open {
    /// Values that are still to come in it.
    left: u32,
    /// Where it ends, as far as that is said.
    end: Option<u64>,
    /// The type that all its values have, if they have one.
    kind: Option<u8>,
}

/// A walk through a row of values.
pub(super) struct Walk {
    open: Vec<Open>,
    /// The bytes that begin a value, as far as they came.
    head: Vec<u8>,
    /// Bytes of a value that are still to come.
    skip: u64,
    /// Bytes behind.
    at: u64,
    /// Where values must have ended.
    end: u64,
    /// Whether a single value is all.
    is_one: bool,
    is_over: bool,
}

impl Walk {
    /// Through values that have `len_max` bytes together.
    pub(super) fn new(len_max: u64) -> Self {
        Self {
            open: Vec::new(),
            head: Vec::new(),
            skip: 0,
            at: 0,
            end: len_max,
            is_one: false,
            is_over: false,
        }
    }

    /// Goes on. Takes all bytes, or those of the one value.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !self.is_over {
            if self.skip > 0 {
                let here = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                bytes = bytes.get(here..).unwrap_or_default();
                self.at += here as u64;
                self.skip -= here as u64;
                if self.skip > 0 {
                    return Ok(());
                }
                self.complete()?;
                continue;
            }
            let kind = self.open.last().and_then(|open| open.kind);
            let Some(kind) = kind.or_else(|| self.head.first().or_else(|| bytes.first()).copied()) else {
                return Ok(());
            };
            let is_said = self.open.last().is_some_and(|open| open.kind.is_some());
            let wanted = usize::from(!is_said) + head_len(kind)?;
            while self.head.len() < wanted {
                let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
                self.head.push(byte);
                self.at += 1;
                bytes = rest;
            }
            let head = std::mem::take(&mut self.head);
            self.begin(kind, head.get(usize::from(!is_said)..).unwrap_or_default())?;
            self.head = head;
            self.head.clear();
        }
        Ok(())
    }

    /// Whether all values have ended.
    pub(super) fn finish(&self) -> Result<(), String> {
        let is_between = self.open.is_empty() && self.head.is_empty() && self.skip == 0;
        if is_between || self.is_over { Ok(()) } else { Err("values end early".to_owned()) }
    }

    fn begin(&mut self, kind: u8, head: &[u8]) -> Result<(), String> {
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        match kind {
            0 => self.open(Open { left: 2, end: None, kind: None }),
            0x40..=0x9F => self.skip(fixed_len(kind)),
            0xA0..=0xBF => self.skip(number(head)),
            _ => {
                let is_array = kind >= 0xE0;
                let width = if matches!(kind >> 4, 0xC | 0xE) { 1 } else { 4 };
                let size = number(head.get(..width).unwrap_or_default());
                let count = number(head.get(width..2 * width).unwrap_or_default());
                let inner = head.get(2 * width).copied().filter(|_| is_array);
                // The size counts what stands behind it.
                let own = width as u64 + u64::from(is_array);
                let size = size.checked_sub(own).ok_or("the size of a list is too small")?;
                let end = self.at + size;
                self.check_end(end)?;
                let left = u32::try_from(count).unwrap_or(u32::MAX);
                if matches!(kind, 0xC1 | 0xD1) && !left.is_multiple_of(2) {
                    return Err("a map has a key without a value".to_owned());
                }
                match inner {
                    Some(0) => Err("an array of described values is not known here".to_owned()),
                    // Values that all have one length are one piece.
                    Some(inner @ 0x40..=0x9F) => {
                        if count.checked_mul(fixed_len(inner)) != Some(size) {
                            return Err("the size of an array is not that of its values".to_owned());
                        }
                        self.skip(size)
                    }
                    _ => self.open(Open { left, end: Some(end), kind: inner }),
                }
            }
        }
    }

    fn check_end(&self, end: u64) -> Result<(), String> {
        if end > self.end && !self.is_one {
            return Err(format!("it has more than {} bytes: raise `body_max`", self.end));
        }
        if end > self.open.iter().rev().find_map(|open| open.end).unwrap_or(self.end) {
            return Err("a value is longer than what holds it".to_owned());
        }
        Ok(())
    }

    /// A value of so many bytes.
    fn skip(&mut self, len: u64) -> Result<(), String> {
        self.check_end(self.at.saturating_add(len))?;
        self.skip = len;
        if len == 0 { self.complete() } else { Ok(()) }
    }

    fn open(&mut self, open: Open) -> Result<(), String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("values are nested more than {DEPTH_MAX} deep"));
        }
        let is_empty = open.left == 0;
        self.open.push(open);
        if is_empty { self.close() } else { Ok(()) }
    }

    /// The last one that is open has all its values.
    fn close(&mut self) -> Result<(), String> {
        if let Some(open) = self.open.pop()
            && open.end.is_some_and(|end| end != self.at)
        {
            return Err("the size of a list is not that of its values".to_owned());
        }
        self.complete()
    }

    /// A value has ended.
    fn complete(&mut self) -> Result<(), String> {
        while let Some(open) = self.open.last_mut() {
            open.left -= 1;
            if open.left > 0 {
                return Ok(());
            }
            if open.end.is_some_and(|end| end != self.at) {
                return Err("the size of a list is not that of its values".to_owned());
            }
            self.open.pop();
        }
        self.is_over = self.is_one;
        Ok(())
    }
}

/// Bytes that follow the type before a value's own begin.
fn head_len(kind: u8) -> Result<usize, String> {
    Ok(match kind >> 4 {
        0 if kind == 0 => 0,
        0x4..=0x9 => 0,
        0xA => 1,
        0xB => 4,
        0xC => 2,
        0xD => 8,
        0xE => 3,
        0xF => 9,
        _ => return Err(format!("a value has the unknown type {kind:#04x}")),
    })
}

/// Bytes of a value of a type whose values all have one length.
fn fixed_len(kind: u8) -> u64 {
    match kind >> 4 {
        0x4 => 0,
        high => 1 << (high - 5),
    }
}

/// Checks the value that bytes begin with. Gives its length.
pub(super) fn check_one(bytes: &[u8]) -> Result<usize, String> {
    let mut walk = Walk { is_one: true, ..Walk::new(bytes.len() as u64) };
    walk.feed(bytes)?;
    if !walk.is_over {
        return Err("values end early".to_owned());
    }
    usize::try_from(walk.at).map_err(|_| "a value is too long".to_owned())
}

/// Checks that bytes are one value.
pub(super) fn check_all(bytes: &[u8]) -> Result<(), String> {
    match check_one(bytes)? {
        len if len == bytes.len() => Ok(()),
        _ => Err("there is more than one value".to_owned()),
    }
}

/// The number that describes a value that was checked, and the values of the list that it is.
pub(super) fn fields(value: &[u8]) -> (Option<u64>, Vec<&[u8]>) {
    let (code, list) = match value {
        [0, 0x53, code, list @ ..] => (u64::from(*code), list),
        [0, 0x80, a, b, c, d, e, f, g, h, list @ ..] => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), list)
        }
        _ => return (None, Vec::new()),
    };
    let mut rest = match list {
        [0xC0, _, _, rest @ ..] | [0xD0, _, _, _, _, _, _, _, _, rest @ ..] => rest,
        _ => &[],
    };
    let mut found = Vec::new();
    while let Ok(len) = check_one(rest) {
        let (field, behind) = rest.split_at(len);
        found.push(field);
        rest = behind;
    }
    (Some(code), found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_length_that_they_say() {
        for bytes in [
            &[0x40][..],
            &[0x41],
            &[0x43],
            &[0x50, 1],
            &[0x60, 1, 2],
            &[0x70, 1, 2, 3, 4],
            &[0x80, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x98, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
            &[0xA1, 2, b'o', b'k'],
            &[0xB0, 0, 0, 0, 1, 7],
            &[0x45],
            &[0xC0, 1, 0],
            &[0xC0, 3, 2, 0x40, 0x41],
            &[0xD1, 0, 0, 0, 8, 0, 0, 0, 2, 0xA3, 1, b'k', 0x40],
            &[0xE0, 6, 2, 0x60, 0, 1, 0, 2],
            &[0xE0, 6, 2, 0xA1, 1, b'a', 1, b'b'],
            &[0xF0, 0, 0, 0, 5, 0, 0, 0, 0, 0xC0],
            &[0xE0, 8, 2, 0xC0, 1, 0, 3, 2, 0x40, 0x40],
            &[0, 0x53, 0x75, 0xA0, 0],
        ] {
            assert_eq!(check_one(&[bytes, &[0x40; 3]].concat()), Ok(bytes.len()), "{bytes:x?}");
            assert!(check_all(bytes).is_ok());
            for cut in 0..bytes.len() {
                assert!(check_one(&bytes[..cut]).is_err(), "{bytes:x?} without {cut}");
            }
        }
    }

    #[test]
    fn values_at_odds_with_themselves_are_told() {
        for (bytes, part) in [
            (&[0xC0, 0, 0][..], "too small"),
            (&[0xC0, 3, 1, 0x40, 0x40], "not that of its values"),
            (&[0xC0, 2, 2, 0x40, 0x40], "longer than what holds it"),
            (&[0xC0, 4, 1, 0xA0, 9, 0], "longer than what holds it"),
            (&[0xC1, 2, 1, 0x40], "without a value"),
            (&[0xF0, 0, 0, 0, 5, 0xFF, 0xFF, 0xFF, 0xFF, 0x50], "not that of its values"),
            (&[0xE0, 3, 1, 0, 0x53], "described"),
            (&[0xB0, 0xFF, 0xFF, 0xFF, 0xFF, 0], "longer than what holds it"),
            (&[0x10], "unknown type"),
            (&[0; 100], "nested more than 32 deep"),
        ] {
            let told = check_one(bytes).unwrap_err();
            assert!(told.contains(part), "{bytes:x?}: {told}");
        }
    }

    #[test]
    fn many_values_without_bytes_take_no_time() {
        // Four billion of them.
        assert_eq!(check_one(&[0xF0, 0, 0, 0, 5, 0xFF, 0xFF, 0xFF, 0xFF, 0x41]), Ok(10));
    }

    #[test]
    fn fields_of_a_list() {
        let value = [0, 0x53, 0x14, 0xC0, 6, 3, 0x43, 0x52, 7, 0x41, 0x40];
        assert_eq!(fields(&value), (Some(0x14), vec![&[0x43][..], &[0x52, 7], &[0x41], &[0x40]]));
        assert_eq!(fields(&[0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x24, 0x45]), (Some(0x24), vec![]));
    }
}
