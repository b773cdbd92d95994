//! Tokens of dialect `rocketmq`, made one at a time when they are asked for.

use std::ops::Range;

use crate::error::{Error, Problem};
use crate::expr::Op;
use crate::steps;

/// A token with its place in bytes of the text.
#[derive(Clone, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) span: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind<'a> {
    End,
    Name(&'a str),
    Word(Word),
    /// Digits without the suffix `l`.
    Integer(&'a str),
    Float(&'a str),
    /// What stands between the quotes; a quote in it is still doubled.
    Text(&'a str),
    Compare(Op),
    Open,
    Close,
    Comma,
    Plus,
    Minus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    And,
    Between,
    Contains,
    EndsWith,
    False,
    In,
    Is,
    Not,
    Null,
    Or,
    StartsWith,
    True,
}

const WORDS: [(&str, Word); 12] = [
    ("and", Word::And),
    ("between", Word::Between),
    ("contains", Word::Contains),
    ("endswith", Word::EndsWith),
    ("false", Word::False),
    ("in", Word::In),
    ("is", Word::Is),
    ("not", Word::Not),
    ("null", Word::Null),
    ("or", Word::Or),
    ("startswith", Word::StartsWith),
    ("true", Word::True),
];

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// There is no line end any more, so each is looked for once.
    last_line: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, last_line: false }
    }

    /// The next token; nothing behind it was looked at.
    pub(super) fn next(&mut self) -> Result<Token<'a>, Error> {
        self.skip()?;
        let start = self.at;
        steps::add(1);
        let rest = self.text.get(start..).unwrap_or_default();
        let (kind, len) = match rest.as_bytes() {
            [] => (Kind::End, 0),
            [b'\'', ..] => self.quoted(rest)?,
            [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..] => number(rest),
            [b'=', ..] => (Kind::Compare(Op::Eq), 1),
            [b'<', b'>', ..] => (Kind::Compare(Op::Ne), 2),
            [b'<', b'=', ..] => (Kind::Compare(Op::Le), 2),
            [b'>', b'=', ..] => (Kind::Compare(Op::Ge), 2),
            [b'<', ..] => (Kind::Compare(Op::Lt), 1),
            [b'>', ..] => (Kind::Compare(Op::Gt), 1),
            [b'(', ..] => (Kind::Open, 1),
            [b')', ..] => (Kind::Close, 1),
            [b',', ..] => (Kind::Comma, 1),
            [b'+', ..] => (Kind::Plus, 1),
            [b'-', ..] => (Kind::Minus, 1),
            bytes => {
                let len = bytes.iter().take_while(|byte| is_name_part(**byte)).count();
                let Some(name) = rest.get(..len).filter(|name| !name.is_empty()) else {
                    return Err(self.bad_character(rest));
                };
                match WORDS.iter().find(|(word, _)| name.eq_ignore_ascii_case(word)) {
                    Some((_, word)) => (Kind::Word(*word), len),
                    None => (Kind::Name(name), len),
                }
            }
        };
        steps::add(len);
        self.at += len;
        Ok(Token { kind, span: start..self.at })
    }

    /// Skips blanks and comments.
    fn skip(&mut self) -> Result<(), Error> {
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default().as_bytes();
            self.at += match rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0c, ..] => {
                    steps::add(1);
                    1
                }
                // Without a line end these are two minus signs.
                [b'-', b'-', ..] if !self.last_line => {
                    let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                    steps::add(end.unwrap_or(rest.len()));
                    match end {
                        Some(end) => end + 1,
                        None => {
                            self.last_line = true;
                            return Ok(());
                        }
                    }
                }
                [b'/', b'*', body @ ..] => {
                    let end = body.windows(2).position(|pair| pair == b"*/");
                    steps::add(end.unwrap_or(body.len()));
                    match end {
                        Some(end) => end + 4,
                        None => {
                            let span = self.at..self.text.len();
                            let problem = Problem::Unclosed { what: "a comment" };
                            return Err(Error::new(self.text, span, problem));
                        }
                    }
                }
                _ => return Ok(()),
            };
        }
    }

    /// The longest text: where the last quote is missing, one that ends in the first of two quotes.
    fn quoted(&self, rest: &'a str) -> Result<(Kind<'a>, usize), Error> {
        let mut len = 1;
        let mut shorter = None;
        loop {
            let end = rest.get(len..).and_then(|rest| rest.find('\'')).map(|end| len + end + 1);
            steps::add(end.unwrap_or(rest.len()) - len);
            match end.or(shorter) {
                Some(end) if shorter == Some(end) || rest.as_bytes().get(end) != Some(&b'\'') => {
                    return Ok((Kind::Text(rest.get(1..end - 1).unwrap_or_default()), end));
                }
                Some(end) => {
                    shorter = Some(end);
                    len = end + 1;
                }
                None => {
                    let span = self.at..self.text.len();
                    return Err(Error::new(self.text, span, Problem::Unclosed { what: "a text" }));
                }
            }
        }
    }

    fn bad_character(&self, rest: &str) -> Error {
        const HINT: &str = "; names are ASCII letters, digits, _ and $";
        let c = rest.chars().next().unwrap_or_default();
        let hint = match c {
            '!' => "; write <>",
            '"' | '`' => "; names take no quotes here",
            '.' | ':' | '[' => HINT,
            c if !c.is_ascii() => HINT,
            _ => "",
        };
        let problem = Problem::Unsupported { what: format!("`{}`", c.escape_debug()), hint };
        Error::new(self.text, self.at..self.at + c.len_utf8(), problem)
    }
}

pub(super) fn is_name_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')
}

/// The longest number that starts here.
fn number(rest: &str) -> (Kind<'_>, usize) {
    let bytes = rest.as_bytes();
    let digits = |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(0);
    let point = bytes.get(whole) == Some(&b'.');
    let mut len = if point { whole + 1 + digits(whole + 1) } else { whole };
    let mut is_float = point;
    if matches!(bytes.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
        let exponent = digits(len + 1 + sign);
        if exponent > 0 {
            is_float = true;
            len += 1 + sign + exponent;
        }
    }
    if is_float {
        return (Kind::Float(rest.get(..len).unwrap_or_default()), len);
    }
    // A leading zero is a number of its own and takes no suffix.
    let len = if bytes.first() == Some(&b'0') { 1 } else { whole };
    let suffix = usize::from(bytes.first() != Some(&b'0') && matches!(bytes.get(len), Some(b'l' | b'L')));
    (Kind::Integer(rest.get(..len).unwrap_or_default()), len + suffix)
}
