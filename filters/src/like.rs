//! `LIKE` and `ILIKE` patterns: `%` is any run of characters, `_` exactly one code point.
//!
//! A pattern is cut at its `%`, and each piece is taken where it first fits, so nothing is ever tried
//! again: the time is linear in the text. Pieces without `_` are found by the standard library's search.
//! `ILIKE` compares code points by their one-character lower case.

use std::iter::Rev;
use std::str::Chars;

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
    },
}

impl Pattern {
    /// Compiles a pattern. `escape` makes a following `%`, `_` or itself an ordinary character; before
    /// anything else it is an error, whose reason is given.
    pub(crate) fn new(pattern: &str, escape: Option<char>, fold: bool) -> Result<Self, &'static str> {
        let mut pieces = Vec::new();
        let mut points = Vec::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            if Some(c) == escape {
                match chars.next() {
                    Some(c) if c == '%' || c == '_' || Some(c) == escape => points.push(Some(c)),
                    Some(_) => return Err("the escape character must stand before %, _ or itself"),
                    None => return Err("it ends in its escape character"),
                }
            } else if c == '%' {
                pieces.push(Piece::new(std::mem::take(&mut points), fold));
            } else {
                points.push((c != '_').then_some(c));
            }
        }
        let last = Piece::new(points, fold);
        let mut pieces = pieces.into_iter();
        Ok(match pieces.next() {
            None => Self { head: last, middle: Vec::new(), tail: None },
            Some(head) => {
                Self { head, middle: pieces.filter(|piece| !piece.is_empty()).collect(), tail: Some(last) }
            }
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
    fn new(points: Vec<Option<char>>, fold: bool) -> Self {
        if !fold && let Some(text) = points.iter().copied().collect::<Option<String>>() {
            return Self::Text(text);
        }
        let points = points.into_iter().map(|point| point.map(|c| if fold { lower(c) } else { c })).collect();
        Self::Points { points, fold }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Points { points, .. } => points.is_empty(),
        }
    }

    /// The text after this piece, if the text starts with it.
    fn strip_prefix<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Text(piece) => text.strip_prefix(piece.as_str()),
            Self::Points { points, fold } => {
                let mut chars = text.chars();
                points.iter().all(|point| fits(*point, chars.next(), *fold)).then_some(chars.as_str())
            }
        }
    }

    /// The text before this piece, if the text ends with it.
    fn strip_suffix<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Text(piece) => text.strip_suffix(piece.as_str()),
            Self::Points { points, fold } => {
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
            Self::Text(piece) => text.split_once(piece.as_str()).map(|(_, after)| after),
            Self::Points { .. } => {
                let mut chars = text.chars();
                loop {
                    if let Some(after) = self.strip_prefix(chars.as_str()) {
                        return Some(after);
                    }
                    chars.next()?;
                }
            }
        }
    }
}

fn fits(point: Option<char>, c: Option<char>, fold: bool) -> bool {
    match (point, c) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(point), Some(c)) => point == if fold { lower(c) } else { c },
    }
}

/// The lower case of a code point if that is one code point, else the point itself.
fn lower(c: char) -> char {
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
}
