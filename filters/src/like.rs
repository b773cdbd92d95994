//! `LIKE` and `ILIKE` patterns: `%` is any run of characters, `_` exactly one code point.
//!
//! A pattern is cut at its `%`, and each piece is taken where it first fits, so nothing before that place is
//! ever looked at again. Each piece is found in one pass: by the standard library's search, by the table of
//! Knuth, Morris and Pratt where case is folded, and by all its states at once in a few machine words where
//! it holds `_`. So the time is linear in the text, whatever the pattern.
//! `ILIKE` compares code points by their one-character lower case.

use std::iter::Rev;
use std::str::Chars;

use crate::steps;
use search::{Runs, States};

mod search;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// The pieces between `%`; the first starts the text and the last ends it. At least one.
    head: Piece,
    middle: Vec<Piece>,
    /// `None` if there is no `%`.
    tail: Option<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    /// One entry a code point; `None` takes any.
    Points {
        points: Vec<Option<char>>,
        fold: bool,
        search: Search,
    },
}

/// How a piece is found.
#[derive(Clone, Debug)]
enum Search {
    /// Not at all: it starts or ends the text.
    Fixed,
    /// It is so many points of any kind.
    Any,
    Folded(Runs),
    States(States),
}

impl Pattern {
    /// Compiles a pattern. `escape` makes a following `%`, `_` or itself an ordinary character; before
    /// anything else it is an error, whose reason is given.
    pub(crate) fn new(pattern: &str, escape: Option<char>, fold: bool) -> Result<Self, &'static str> {
        let mut pieces = Vec::new();
        let mut points = Vec::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            steps::add(1);
            if Some(c) == escape {
                match chars.next() {
                    Some(c) if c == '%' || c == '_' || Some(c) == escape => points.push(Some(c)),
                    Some(_) => return Err("the escape character must stand before %, _ or itself"),
                    None => return Err("it ends in its escape character"),
                }
            } else if c == '%' {
                pieces.push(std::mem::take(&mut points));
            } else {
                points.push((c != '_').then_some(c));
            }
        }
        let last = Piece::fixed(points, fold);
        let mut pieces = pieces.into_iter();
        let Some(head) = pieces.next() else {
            return Ok(Self { head: last, middle: Vec::new(), tail: None });
        };
        let middle = pieces.filter(|points| !points.is_empty()).map(|points| Piece::searched(points, fold));
        Ok(Self {
            head: Piece::fixed(head, fold),
            middle: middle.collect::<Result<_, _>>()?,
            tail: Some(last),
        })
    }

    /// Whether the whole text matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some(rest) = self.head.strip_prefix(text) else { return false };
        let Some(tail) = &self.tail else { return rest.is_empty() };
        let Some(mut rest) = tail.strip_suffix(rest) else { return false };
        for piece in &self.middle {
            match piece.after_first(rest) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        true
    }
}

impl Piece {
    /// A piece that starts or ends the text.
    fn fixed(points: Vec<Option<char>>, fold: bool) -> Self {
        if !fold && let Some(text) = points.iter().copied().collect::<Option<String>>() {
            return Self::Text(text);
        }
        let points = points.into_iter().map(|point| point.map(|c| if fold { lower(c) } else { c })).collect();
        Self::Points { points, fold, search: Search::Fixed }
    }

    /// A piece that is looked for.
    fn searched(points: Vec<Option<char>>, fold: bool) -> Result<Self, &'static str> {
        let mut piece = Self::fixed(points, fold);
        if let Self::Points { points, search, .. } = &mut piece {
            *search = if points.iter().all(Option::is_none) {
                Search::Any
            } else if let Some(points) = points.iter().copied().collect::<Option<Vec<char>>>() {
                Search::Folded(Runs::new(points))
            } else {
                let states = States::new(points);
                Search::States(
                    states.ok_or("between two % there are at most 256 characters with _ among them")?,
                )
            };
        }
        Ok(piece)
    }

    /// The text after this piece, if the text starts with it.
    fn strip_prefix<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Text(piece) => text.strip_prefix(piece.as_str()),
            Self::Points { points, fold, .. } => {
                let mut chars = text.chars();
                points.iter().all(|point| fits(*point, chars.next(), *fold)).then_some(chars.as_str())
            }
        }
    }

    /// The text before this piece, if the text ends with it.
    fn strip_suffix<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Text(piece) => text.strip_suffix(piece.as_str()),
            Self::Points { points, fold, .. } => {
                let mut chars: Rev<Chars> = text.chars().rev();
                let len = points.iter().rev().try_fold(0, |len, point| {
                    let c = chars.next();
                    fits(*point, c, *fold).then(|| len + c.map_or(0, char::len_utf8))
                })?;
                text.get(..text.len() - len)
            }
        }
    }

    /// The text after the first place where this piece fits.
    fn after_first<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Text(piece) => {
                let found = text.split_once(piece.as_str()).map(|(_, after)| after);
                steps::add(text.len() - found.map_or(0, str::len));
                found
            }
            Self::Points { points, fold, search } => {
                let fold = |c: char| if *fold { lower(c) } else { c };
                match search {
                    Search::Fixed => self.strip_prefix(text),
                    Search::Any => {
                        let mut chars = text.chars();
                        points.iter().all(|_| chars.next().is_some()).then_some(chars.as_str())
                    }
                    Search::Folded(runs) => runs.after_first(text, fold),
                    Search::States(states) => states.after_first(text, fold),
                }
            }
        }
    }
}

fn fits(point: Option<char>, c: Option<char>, fold: bool) -> bool {
    steps::add(1);
    match (point, c) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(point), Some(c)) => point == if fold { lower(c) } else { c },
    }
}

/// The lower case of a code point if that is one code point, else the point itself.
fn lower(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(single), None) => single,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(
            Pattern::new(pattern, None, false).unwrap().matches(text),
            expected,
            "{text:?} LIKE {pattern:?}"
        );
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("a%", "abc", true),
            ("%c", "abc", true),
            ("%b%", "abc", true),
            ("a%a", "a", false),
            ("a%a", "aa", true),
            ("%ab%ab%", "abab", true),
            ("%ab%ab%", "aba", false),
            ("_", "é", true),
            ("_", "", false),
            ("__", "é", false),
            ("%_", "é", true),
            ("a_c%_", "abcé", true),
            ("a_c%_", "abc", false),
            ("%a_c%", "xaéc", true),
            ("%_a%", "aa", true),
            ("a%b%c", "a\nb\0c", true),
            ("abc", "ABC", false),
        ] {
            check(pattern, text, expected);
        }
    }

    #[test]
    fn a_folded_pattern_ignores_case_beyond_ascii() {
        let pattern = Pattern::new("%MÜN_hen", None, true).unwrap();
        assert!(pattern.matches("In mÜnChEN"));
        assert!(!pattern.matches("in munchen"));
    }

    #[test]
    fn an_escape_stands_before_a_wildcard_or_itself_only() {
        let pattern = Pattern::new("100!%!!%", Some('!'), false).unwrap();
        assert!(pattern.matches("100%! of it"));
        assert!(!pattern.matches("1000!"));
        assert!(Pattern::new("a!b", Some('!'), false).is_err());
        assert!(Pattern::new("a!", Some('!'), false).is_err());
    }

    /// Steps for a text against a pattern.
    fn steps(pattern: &str, text: &str, fold: bool) -> usize {
        let pattern = Pattern::new(pattern, None, fold).unwrap();
        steps::of(|| assert!(!pattern.matches(text)))
    }

    #[test]
    fn a_text_and_a_pattern_of_twice_the_length_take_twice_the_steps() {
        for (unit, end, fold) in
            [("a", "b", true), ("a", "_b", true), ("a", "_b", false), ("aab", "aac", true), ("é", "_B", true)]
        {
            for (points, texts) in [(100, 4_000), (200, 8_000), (1_000, 20_000)] {
                // Pieces with `_` have a limit of their own.
                let points = if end.starts_with('_') { points.min(100) } else { points };
                let pattern =
                    |points: usize| format!("%{}{end}%", unit.repeat(points / unit.chars().count()));
                let one = steps(&pattern(points), &unit.repeat(texts), fold);
                let two = steps(&pattern(points * 2), &unit.repeat(texts * 2), fold);
                assert!(two <= one * 2 + one / 10, "{one} and {two} steps of {unit}{end} {fold}");
                assert!(one <= 2 * texts * unit.chars().count() + points, "{one} steps for {texts}");
            }
        }
        let many = |pieces: usize| format!("%{}c%", "ab_%".repeat(pieces));
        let (one, two) =
            (steps(&many(200), &"ab".repeat(5_000), true), steps(&many(400), &"ab".repeat(10_000), true));
        assert!(two <= one * 2 + one / 10, "{one} and {two} steps");
    }

    #[test]
    fn a_searched_piece_with_any_point_has_a_limit() {
        let pattern = |points: usize| format!("%_{}%", "a".repeat(points - 1));
        assert!(Pattern::new(&pattern(256), None, false).unwrap().matches(&"a".repeat(256)));
        assert!(!Pattern::new(&pattern(256), None, true).unwrap().matches(&"A".repeat(255)));
        assert!(Pattern::new(&pattern(257), None, false).is_err());
        assert!(Pattern::new(&"_".repeat(3_000), None, false).is_ok());
        assert!(Pattern::new(&format!("%{}%", "_".repeat(3_000)), None, false).is_ok());
    }
}
