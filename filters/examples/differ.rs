//! Random expressions and properties for dialect `rocketmq`, and whether its own engine answers as we do.
//!
//! `generate SEED COUNT` writes cases, `check` reads them with the engine's answers before them: true, false,
//! null, raises or `parse_error`. Run by `interop/filter_bench/differ`, which has the engine between the two.
//! All text is hexadecimal: expression, then each name and value, with tabs between.
#![expect(clippy::print_stdout, reason = "a tool that is run by hand")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufWriter, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewArray};
use sluice_filters::{Dialect, Filter, Name, Verdict};

type Failure = Box<dyn std::error::Error>;

const SHOWN_MAX: usize = 20;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["generate", seed, count] => generate(seed.parse()?, count.parse()?),
        ["check"] => check(),
        _ => Err("generate SEED COUNT, or check".into()),
    }
}

/// Random numbers from a seed (splitmix).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or_default()
    }

    fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list.get(self.below(list.len())).copied().unwrap_or_default()
    }
}

const NAMES: [&str; 12] =
    ["a", "b", "c", "A", "_x", "$y", "a1", "TAGS", "like", "date", "price_of_it", "NOTE"];
const KEYWORDS: [&str; 12] = [
    "NOT",
    "AND",
    "OR",
    "BETWEEN",
    "IN",
    "TRUE",
    "FALSE",
    "NULL",
    "IS",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
];
const OPERATORS: [&str; 6] = ["=", "<>", "<", "<=", ">", ">="];
const ODD_TOKENS: [&str; 40] = [
    "(", ")", "((", "))", ",", "+", "-", "--", "-- x\n", "/*", "*/", "/* x */", "/*/", "''", "'x'",
    "'it''s'", "'", "\"", "\"a\"", "!=", "==", "||", "*", "/", "%", ".", ";", "#", "?", ":a", "\\", "a.b",
    "LIKE", "ESCAPE", "é", "\u{a0}", "\u{0}", "\u{b}", "\u{c}", "N'x'",
];
const TEXTS: [&str; 22] = [
    "", "x", "X", "xyz", "x y", " x", "1", "1.0", "true", "TRUE", "it's", "'", "''", "é", "日本", "😀",
    "e\u{301}", "\n", "\\", "%", "a", "null",
];
const NUMBERS: [&str; 40] = [
    "0",
    "1",
    "5",
    "10",
    "007",
    "00",
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "99999999999999999999",
    "5L",
    "5l",
    "0L",
    "5LL",
    "1.5",
    "1.",
    ".5",
    "5.0",
    "0.0",
    "0.",
    ".0",
    "1e3",
    "1E3",
    "1e+3",
    "1e-3",
    "1e",
    "1e+",
    "1e400",
    "1e-400",
    "4.9e-324",
    "2.4e-324",
    "1.7976931348623157e308",
    "1.7976931348623159e308",
    "0x10",
    "1f",
    "1d",
    "9007199254740993",
    "9007199254740992.0",
];
const VALUES: [&str; 64] = [
    "0",
    "1",
    "-1",
    "+1",
    "5",
    " 5",
    "5 ",
    "\t5\n",
    "\u{0}5",
    "5\u{a0}",
    "05",
    "-0",
    "+0",
    "-0.0",
    "0.0",
    "5.0",
    "5.",
    ".5",
    ".",
    "5e0",
    "5E+0",
    "50e-1",
    "1e",
    "e1",
    "5L",
    "5f",
    "5F",
    "5d",
    "5D",
    "5fd",
    "0x5",
    "0x5p0",
    "0x.8p1",
    "0x1.8P+1f",
    "0xp1",
    "0x1p",
    "0x1p1024",
    "-0x1p-1075",
    "NaN",
    "-NaN",
    "+NaN",
    "nan",
    "NaNd",
    "Infinity",
    "-Infinity",
    "+Infinity",
    "infinity",
    "inf",
    "1_000",
    "1,000",
    "٥",
    "５",
    "1٥",
    "𝟓",
    "-٥",
    "−5",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "true",
];

fn number(random: &mut Random) -> String {
    match random.below(4) {
        0 | 1 => random.of(&NUMBERS).to_owned(),
        2 => soup(random, "0123456789.eEfFdDlLxX+-", 7),
        _ => format!(
            "{}{}",
            soup(random, "0123456789", 20),
            random.of(&["", ".", ".5", "e2", "e-5", ".25e10", "L"])
        ),
    }
}

fn soup(random: &mut Random, chars: &str, longest: usize) -> String {
    let chars: Vec<char> = chars.chars().collect();
    (0..=random.below(longest)).filter_map(|_| chars.get(random.below(chars.len())).copied()).collect()
}

fn quoted(random: &mut Random) -> String {
    let text = match random.below(8) {
        0 => soup(random, "x'y \n\\é😀%", 5),
        1 => random.of(&VALUES).to_owned(),
        _ => random.of(&TEXTS).to_owned(),
    };
    format!("'{}'", text.replace('\'', "''"))
}

fn keyword(random: &mut Random, word: &str) -> String {
    if random.below(6) > 0 {
        return word.to_owned();
    }
    word.chars().map(|c| if random.once_in(2) { c.to_ascii_lowercase() } else { c }).collect()
}

fn operand(random: &mut Random, depth: usize) -> String {
    match random.below(20) {
        0..8 => random.of(&NAMES[..4]).to_owned(),
        8 => random.of(&NAMES).to_owned(),
        9..12 => number(random),
        12..14 => quoted(random),
        14 => {
            let word = random.of(&["TRUE", "FALSE", "NULL"]);
            keyword(random, word)
        }
        15 => format!("-{}", operand(random, depth)),
        16 => format!("{}{}", random.of(&["+", "- ", "NOT ", "--", "+-"]), operand(random, depth)),
        17 if depth > 0 => format!("({})", expression(random, depth - 1)),
        18 => format!("({})", operand(random, depth)),
        _ => random.of(&["0", "1", "5", "1.5", "-1", "'x'"]).to_owned(),
    }
}

fn term(random: &mut Random, depth: usize) -> String {
    let left = operand(random, depth);
    let not = if random.once_in(3) { keyword(random, "NOT") } else { String::new() };
    match random.below(12) {
        0..5 => format!("{left} {} {}", random.of(&OPERATORS), operand(random, depth)),
        5 => {
            let (between, and) = (keyword(random, "BETWEEN"), keyword(random, "AND"));
            format!("{left} {not} {between} {} {and} {}", operand(random, depth), operand(random, depth))
        }
        6 => {
            let count = random.below(4);
            let list: Vec<String> = (0..=count)
                .map(|_| if random.once_in(12) { operand(random, 0) } else { quoted(random) })
                .collect();
            format!("{left} {not} {} ({})", keyword(random, "IN"), list.join(random.of(&[",", ", ", " , "])))
        }
        7 | 8 => {
            let word = random.of(&["CONTAINS", "STARTSWITH", "ENDSWITH"]);
            let part = if random.once_in(10) { operand(random, 0) } else { quoted(random) };
            format!("{left} {not} {} {part}", keyword(random, word))
        }
        9 => format!("{left} IS {not} {}", keyword(random, "NULL")),
        10 => left,
        _ => format!(
            "{left} {} {} {} {}",
            random.of(&OPERATORS),
            operand(random, depth),
            random.of(&OPERATORS),
            operand(random, depth)
        ),
    }
}

fn expression(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return term(random, 0);
    }
    match random.below(8) {
        0 | 1 => term(random, depth),
        2 => format!("NOT ({})", expression(random, depth - 1)),
        3 => format!("NOT {}", expression(random, depth - 1)),
        4 => format!("({}) {} ({})", expression(random, depth - 1), random.of(&["=", "<>"]), term(random, 0)),
        _ => {
            let word = random.of(&["AND", "OR"]);
            format!(
                "{} {} {}",
                expression(random, depth - 1),
                keyword(random, word),
                expression(random, depth - 1)
            )
        }
    }
}

fn token(random: &mut Random) -> String {
    match random.below(8) {
        0 | 1 => random.of(&NAMES).to_owned(),
        2 => random.of(&OPERATORS).to_owned(),
        3 | 4 => {
            let word = random.of(&KEYWORDS);
            keyword(random, word)
        }
        5 => number(random),
        6 => quoted(random),
        _ => random.of(&ODD_TOKENS).to_owned(),
    }
}

fn text(random: &mut Random) -> String {
    match random.below(10) {
        0 => {
            let joint = random.of(&[" ", " ", ""]);
            (0..=random.below(9)).map(|_| token(random)).collect::<Vec<_>>().join(joint)
        }
        1 => format!("{} {}", expression(random, 1), token(random)),
        2 | 3 => {
            let depth = random.below(3);
            let mut chars: Vec<char> = expression(random, depth).chars().collect();
            for _ in 0..=random.below(2) {
                let at = random.below(chars.len() + 1);
                if random.once_in(2) && at < chars.len() {
                    chars.remove(at);
                } else {
                    chars.splice(at..at, token(random).chars());
                }
            }
            chars.into_iter().collect()
        }
        4 => {
            let blank =
                random.of(&["\t", "\n", "\r\n", "/**/", "  ", "\u{c}", "-- x\n", "\u{b}", "\u{85}", ""]);
            let depth = random.below(2);
            expression(random, depth).replace(' ', blank)
        }
        5 => format!("{} {} {}", random.of(&NAMES[..2]), random.of(&OPERATORS), number(random)),
        _ => {
            let depth = random.below(4);
            expression(random, depth)
        }
    }
}

fn value(random: &mut Random) -> String {
    match random.below(8) {
        0..4 => random.of(&VALUES).to_owned(),
        4 => soup(random, "0123456789.eE+-xXpPfFdD aN", 8),
        5 => format!("{}{}", random.of(&["", "-", "+", " "]), soup(random, "0123456789", 22)),
        _ => random.of(&TEXTS).to_owned(),
    }
}

fn generate(seed: u64, count: u64) -> Result<(), Failure> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for case in 0..count {
        let mut random = Random(seed.wrapping_mul(1 << 40).wrapping_add(case));
        let mut fields = vec![text(&mut random)];
        if fields.iter().all(String::is_empty) {
            continue;
        }
        for name in NAMES {
            let likely = NAMES.iter().take(4).any(|first| *first == name);
            if random.below(4) < if likely { 3 } else { 1 } {
                fields.extend([name.to_owned(), value(&mut random)]);
            }
        }
        writeln!(out, "{}", fields.iter().map(|field| hex(field)).collect::<Vec<_>>().join("\t"))?;
    }
    Ok(())
}

fn check() -> Result<(), Failure> {
    let (mut cases, mut wrong) = (0u64, 0u64);
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut fields = line.split('\t');
        let expected = fields.next().unwrap_or_default().to_owned();
        let fields = fields.map(unhex).collect::<Option<Vec<_>>>().ok_or("no hexadecimal")?;
        let (expression, properties) = fields.split_first().ok_or("no expression")?;
        let (properties, _) = properties.as_chunks::<2>();
        let properties: BTreeMap<&str, &str> =
            properties.iter().map(|[name, value]| (name.as_str(), value.as_str())).collect();
        cases += 1;
        let found = ours(expression, &properties);
        if found.iter().any(|found| *found != expected) {
            wrong += 1;
            if wrong <= SHOWN_MAX as u64 {
                println!("{expression:?} with {properties:?}: {found:?} instead of {expected}");
            }
        }
        *answers.entry(expected).or_default() += 1;
    }
    println!("{cases} cases, of them {answers:?}, {wrong} answered otherwise");
    if wrong > 0 || cases == 0 { Err("not as the engine".into()) } else { Ok(()) }
}

/// Our answers: by column, and over encoded properties if they can be encoded.
fn ours(expression: &str, properties: &BTreeMap<&str, &str>) -> Vec<String> {
    let Ok(filter) = Filter::parse(expression, Dialect::RocketMq) else {
        return vec!["parse_error".to_owned()];
    };
    let name = |verdict: Verdict| {
        let name = match verdict {
            Verdict::True => "true",
            Verdict::False => "false",
            Verdict::Unknown => "null",
            Verdict::Failed => "raises",
        };
        name.to_owned()
    };
    let resolve = |name: &Name| match name {
        Name::Property(name) => properties
            .get(name.as_str())
            .map(|value| Arc::new(StringViewArray::from(vec![*value])) as ArrayRef),
        _ => None,
    };
    let mut answers = match filter.verdicts(1, &resolve) {
        Ok(verdicts) => verdicts.into_iter().map(name).collect(),
        Err(error) => vec![error.to_string()],
    };
    if properties.values().all(|value| !value.is_empty() && !value.contains('\u{2}')) {
        let encoded = properties.iter().fold(String::new(), |mut encoded, (name, value)| {
            let _ = write!(encoded, "{name}\u{1}{value}\u{2}");
            encoded
        });
        answers.push(name(filter.matches(encoded.as_bytes())));
    }
    answers
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn unhex(hex: &str) -> Option<String> {
    let (pairs, _) = hex.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}
