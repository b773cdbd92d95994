//! Tests of texts as words and bytes, without a branch where the text decides.
#![expect(clippy::cast_possible_truncation, reason = "parts are taken out of words")]
#![expect(
    clippy::needless_bitwise_bool,
    reason = "a branch that depends on a text costs more than both sides"
)]

use wide::u8x16;

use crate::expr::{EngineTest, Literal, Op, Part, Test};
use crate::number::Number;
use crate::properties::word;
use crate::row;
use crate::steps;
use crate::value::{Scalar, Verdict};

/// A text of up to this many bytes lies wholly in its view.
pub(crate) const INLINE_BYTES_MAX: usize = 12;
/// Longest text that is one word, together with its length.
const SHORT_MAX: usize = 7;
/// Up to so many texts are compared one by one.
pub(crate) const WORDS_MAX: usize = 8;
/// A test that is done here. Its answer for what is missing is UNKNOWN, but for the searches of RocketMQ.
#[derive(Debug)]
pub(crate) enum Quick {
    IsNull {
        is: bool,
    },
    /// Whether it is one of these, or none of them.
    Words {
        words: Box<[u64]>,
        is_in: bool,
    },
    /// Whether it is a whole number from here to there, or not; the tests for what is no short number, which
    /// all must hold.
    Range {
        from: i64,
        to: i64,
        is_in: bool,
        tests: Box<[Test]>,
    },
    /// A part of a text.
    Part {
        part: Part,
        word: Option<(u64, usize)>,
        missing: Verdict,
        negated: bool,
    },
}

/// Where a value starts and ends, in one word.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span(u64);

impl Span {
    /// Places of at most 32 bits.
    #[inline]
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self((end as u64) << 32 | start as u64)
    }
}

/// The properties of a message: their bytes, and where the value of each slot lies, empty if it has none.
pub(crate) struct Message<'m> {
    pub(crate) encoded: &'m [u8],
    pub(crate) spans: &'m [Span],
}

impl Quick {
    /// A test that can be done here.
    pub(crate) fn new(test: &Test) -> Option<Self> {
        match test {
            Test::IsNull => Some(Quick::IsNull { is: true }),
            Test::Compare(op @ (Op::Eq | Op::Ne), Literal::Text(text)) => {
                words([text.as_str()]).map(|words| Quick::Words { words, is_in: *op == Op::Eq })
            }
            Test::In(members) if members.numbers.is_empty() && !members.null && members.many.is_empty() => {
                words(members.few.iter().map(String::as_str)).map(|words| Quick::Words { words, is_in: true })
            }
            Test::Compare(op, Literal::Number(Number::Whole(number))) => {
                Some(Quick::range(*op, *number, test))
            }
            Test::Engine(EngineTest::Compare(op, literal @ (Literal::Int(_) | Literal::Long(_)))) => {
                let number = match literal {
                    Literal::Int(number) => i64::from(*number),
                    Literal::Long(number) => *number,
                    _ => return None,
                };
                Some(Quick::range(*op, number, test))
            }
            Test::Engine(EngineTest::Search { part, negated }) if !part.text().is_empty() => {
                Some(Quick::part(part.clone(), Verdict::False, *negated))
            }
            Test::Contains(part) => Some(Quick::part(Part::Contains(part.clone()), Verdict::Unknown, false)),
            Test::StartsWith(part) => {
                Some(Quick::part(Part::StartsWith(part.clone()), Verdict::Unknown, false))
            }
            Test::EndsWith(part) => Some(Quick::part(Part::EndsWith(part.clone()), Verdict::Unknown, false)),
            _ => None,
        }
    }

    /// Whether a text in a view is one of some words.
    #[inline]
    pub(crate) fn is_word(view: u128, words: &[u64]) -> bool {
        let len = view as u32;
        let found = (view >> 32) as u64 ^ u64::from(len) << 56;
        words.iter().fold(false, |any, word| any | (*word == found)) & (len <= SHORT_MAX as u32)
    }

    /// What it says of a text in a view, if that alone says it.
    #[inline]
    pub(crate) fn of_view(&self, view: u128) -> Option<bool> {
        let len = (view & u128::from(u32::MAX)) as usize;
        let bytes = view >> 32;
        match self {
            Self::Range { from, to, is_in, .. } => {
                let value = digits(bytes as u64, len)?;
                Some((*from <= value && value <= *to) == *is_in)
            }
            Self::Part { part, word: Some((wanted, wanted_len)), negated, .. } if len <= INLINE_BYTES_MAX => {
                // How often the part fits before or behind, if at all.
                let places = (len + 1).saturating_sub(*wanted_len);
                let is_at = |at: usize| cut((bytes >> (8 * at)) as u64, *wanted_len) == *wanted;
                let found = match part {
                    Part::StartsWith(_) => places > 0 && is_at(0),
                    Part::EndsWith(_) => places > 0 && is_at(places - 1),
                    // Before the text is its length, in four bytes.
                    Part::Contains(part) => {
                        starts(&view.to_le_bytes(), part.needle()) >> 4 & ((1 << places) - 1) != 0
                    }
                };
                Some(found != *negated)
            }
            _ => None,
        }
    }

    /// What it says of a text that its view leaves open.
    pub(crate) fn of_text(&self, text: &str) -> Verdict {
        match self {
            Self::Range { tests, .. } => all(text, tests),
            Self::Part { part, negated, .. } => (part.is_in(text.as_bytes()) != *negated).into(),
            // Their views leave nothing open.
            Self::IsNull { .. } | Self::Words { .. } => Verdict::Unknown,
        }
    }

    /// What it says of what is missing.
    pub(crate) fn of_missing(&self) -> Verdict {
        match self {
            Self::IsNull { is } => (*is).into(),
            Self::Part { missing, .. } => *missing,
            Self::Words { .. } | Self::Range { .. } => Verdict::Unknown,
        }
    }

    fn part(part: Part, missing: Verdict, negated: bool) -> Self {
        let word = short(part.text()).filter(|(_, len)| *len > 0);
        Self::Part { part, word, missing, negated }
    }

    fn range(op: Op, number: i64, test: &Test) -> Self {
        let nothing = (1, 0);
        let (from, to) = match op {
            Op::Eq | Op::Ne => (number, number),
            Op::Lt => number.checked_sub(1).map_or(nothing, |to| (i64::MIN, to)),
            Op::Le => (i64::MIN, number),
            Op::Gt => number.checked_add(1).map_or(nothing, |from| (from, i64::MAX)),
            Op::Ge => (number, i64::MAX),
        };
        Self::Range { from, to, is_in: op != Op::Ne, tests: Box::new([test.clone()]) }
    }

    #[inline]
    pub(super) fn answer(&self, message: &Message<'_>, slot: usize) -> Verdict {
        steps::add(1);
        let (start, end) = message.span(slot);
        let len = end - start;
        if len == 0 {
            return self.of_missing();
        }
        match self {
            Self::IsNull { is } => (!*is).into(),
            Self::Words { words, is_in } => {
                // Longer texts are told from all of the words by their length.
                steps::add(words.len());
                let found = cut(word(message.encoded, start), len) ^ (len as u64) << 56;
                let found = match **words {
                    [a] => a == found,
                    [a, b] => (a == found) | (b == found),
                    [a, b, c] => (a == found) | (b == found) | (c == found),
                    ref words => words.iter().fold(false, |any, word| any | (*word == found)),
                } & (len <= SHORT_MAX);
                (found == *is_in).into()
            }
            Self::Range { from, to, is_in, tests } => match digits(word(message.encoded, start), len) {
                Some(value) => ((*from <= value && value <= *to) == *is_in).into(),
                None => all(message.text(slot).unwrap_or_default(), tests),
            },
            Self::Part { part, word, negated, .. } => {
                let text = message.encoded.get(start..end).unwrap_or_default();
                let found = match (part, word) {
                    (Part::Contains(part), Some((_, wanted_len)))
                        if len <= 16
                            && let Some(bytes) =
                                message.encoded.get(start..).and_then(<[u8]>::first_chunk) =>
                    {
                        let places = (len + 1).saturating_sub(*wanted_len);
                        starts(bytes, part.needle()) & ((1 << places) - 1) != 0
                    }
                    (Part::StartsWith(_), Some((wanted, wanted_len))) => {
                        len >= *wanted_len && cut(self::word(message.encoded, start), *wanted_len) == *wanted
                    }
                    (Part::EndsWith(_), Some((wanted, wanted_len))) => {
                        len >= *wanted_len
                            && cut(self::word(message.encoded, end - wanted_len), *wanted_len) == *wanted
                    }
                    (part, _) => part.is_in(text),
                };
                (found != *negated).into()
            }
        }
    }
}

impl Message<'_> {
    #[inline]
    fn span(&self, slot: usize) -> (usize, usize) {
        let span = self.spans.get(slot).map_or(0, |span| span.0);
        ((span & u64::from(u32::MAX)) as usize, (span >> 32) as usize)
    }

    fn text(&self, slot: usize) -> Option<&str> {
        let (start, end) = self.span(slot);
        self.encoded.get(start..end).and_then(|value| str::from_utf8(value).ok())
    }

    /// A test as [`row`] does it.
    #[inline(never)]
    pub(super) fn other(&self, slot: usize, test: &Test) -> Verdict {
        other(self.text(slot).filter(|text| !text.is_empty()), test)
    }
}

/// Tests of one text, of which the first that is not TRUE has the answer: they all are UNKNOWN or fail for
/// the same texts.
#[inline(never)]
fn all(text: &str, tests: &[Test]) -> Verdict {
    let mut verdicts = tests.iter().map(|test| other(Some(text), test));
    verdicts.find(|verdict| *verdict != Verdict::True).unwrap_or(Verdict::True)
}

/// A test as [`row`] does it.
fn other(text: Option<&str>, test: &Test) -> Verdict {
    let value = text.map_or(Scalar::Null, Scalar::Text);
    match test {
        Test::Engine(test) => row::engine_answer(value, test),
        test => row::answer_one(value, test).into(),
    }
}

/// Texts as words with their lengths, if all are short and they are few.
fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Box<[u64]>> {
    let words: Option<Vec<u64>> = texts
        .into_iter()
        .map(|text| short(text.as_bytes()).map(|(word, len)| word ^ (len as u64) << 56))
        .collect();
    words.filter(|words| words.len() <= WORDS_MAX).map(Vec::into_boxed_slice)
}

/// A short text as a word, and its length.
fn short(text: &[u8]) -> Option<(u64, usize)> {
    (text.len() <= SHORT_MAX).then(|| (word(text, 0), text.len()))
}

/// The first `len` bytes of a word, at least one; all of it beyond eight.
#[inline]
fn cut(word: u64, len: usize) -> u64 {
    word & u64::MAX >> ((64 - 8 * len.min(8)) & 63)
}

/// Where a short part starts among bytes, as bits; those at the end may be of more than it.
#[inline]
fn starts(bytes: &[u8; 16], part: &[u8]) -> u32 {
    let lanes = u8x16::new(*bytes);
    part.iter()
        .enumerate()
        .fold(u32::MAX, |starts, (at, byte)| starts & lanes.simd_eq(u8x16::splat(*byte)).to_bitmask() >> at)
}

/// The number of up to eight digits, all read at once.
#[inline]
fn digits(word: u64, len: usize) -> Option<i64> {
    const ONES: u64 = u64::MAX / 255;
    // Zeros before the first digit, which is the lowest byte.
    let shift = 8 * 8usize.checked_sub(len)?;
    let digits = (word ^ (ONES * 0x30)).checked_shl(shift as u32)?;
    // Each byte is at most nine if neither it nor it with six more has a high half.
    if (digits | digits.wrapping_add(ONES * 6)) & (ONES * 0xf0) != 0 {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    let all = fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff;
    i64::try_from(all).ok()
}
