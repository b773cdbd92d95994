//! How the command line shows numbers, errors and rows.

/// An error and its causes on one line, each said once.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// A count with a comma each three digits: 336,776.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with what is counted: `1 file`, `2 files`.
pub(crate) fn plural(n: usize, what: &str) -> String {
    format!("{} {what}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// RFC 3339 in UTC, of ms since 1970-01-01.
pub(crate) fn time_text(ms: i64) -> String {
    let time = arrow::array::TimestampMillisecondArray::from(vec![ms]).with_timezone("+00:00");
    arrow::util::display::array_value_to_string(&time, 0).unwrap_or_else(|_| ms.to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_have_a_comma_each_three_digits() {
        let shown: Vec<String> = [0, 999, 1000, 336_776, 1_000_000].map(super::count).to_vec();
        assert_eq!(shown, ["0", "999", "1,000", "336,776", "1,000,000"]);
    }
}
