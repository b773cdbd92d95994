//! Expressions of dialect `sluice` with their answers: one case a line, run by row and by column.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringViewArray};
use sluice_filters::{Dialect, Filter, Name};

/// Properties of a message.
type Properties = [(&'static str, &'static str)];

/// Expression, properties, answer: T, F or U.
#[rustfmt::skip]
const ANSWERS: &[(&str, &Properties, char)] = &[
    // Text compares by code point.
    ("a = 'x'", &[("a", "x")], 'T'),
    ("a = 'x'", &[("a", "X")], 'F'),
    ("a = 'x'", &[], 'U'),
    ("a = ''", &[("a", "")], 'T'),
    ("a = ''''", &[("a", "'")], 'T'),
    ("a = 'it''s'", &[("a", "it's")], 'T'),
    ("a = 'x\ny'", &[("a", "x\ny")], 'T'),
    (r"a = 'x\ny'", &[("a", r"x\ny")], 'T'),
    ("'abc' = a", &[("a", "abc")], 'T'),
    ("a <> 'x'", &[("a", "y")], 'T'),
    ("a != 'x'", &[("a", "x")], 'F'),
    ("a <> 'x'", &[], 'U'),
    ("a > 'Z'", &[("a", "a")], 'T'),
    ("a > 'z'", &[("a", "é")], 'T'),
    ("a < '\u{10000}'", &[("a", "\u{ffff}")], 'T'),
    ("'b' > a", &[("a", "a")], 'T'),
    ("a = '10'", &[("a", "10.0")], 'F'),
    ("a > '9'", &[("a", "10")], 'F'),
    ("a = 'twelve chars' OR a = 'thirteen char'", &[("a", "thirteen char")], 'T'),
    ("a = 'thirteen char'", &[("a", "thirteen chax")], 'F'),
    // A text against a number counts as a number.
    ("a = 5", &[("a", "5")], 'T'),
    ("a = 5", &[("a", "5.0")], 'T'),
    ("a = 5.0", &[("a", "5")], 'T'),
    ("a = 5", &[("a", "+5")], 'T'),
    ("a = 5", &[("a", " 5\t")], 'T'),
    ("a = 5", &[("a", "0.5e1")], 'T'),
    ("a = 1e3", &[("a", "1000")], 'T'),
    ("a = .5", &[("a", "0.50")], 'T'),
    ("a = 5.", &[("a", "5")], 'T'),
    ("a > 5", &[("a", "5.5")], 'T'),
    ("a > 5", &[("a", "10")], 'T'),
    ("a > 0.0", &[("a", "1")], 'T'),
    ("a < 5", &[("a", "3000000000")], 'F'),
    ("a < -5", &[("a", "-5.0000001")], 'T'),
    ("a = - 5", &[("a", "-5")], 'T'),
    ("a = +-+5", &[("a", "-5")], 'T'),
    ("a = -0.0", &[("a", "0")], 'T'),
    ("a = 007", &[("a", "7")], 'T'),
    ("5 < a", &[("a", "6")], 'T'),
    ("5 <= a", &[("a", "4")], 'F'),
    ("a >= 9223372036854775807", &[("a", "9223372036854775806")], 'F'),
    ("a = -9223372036854775808", &[("a", "-9223372036854775808")], 'T'),
    ("a = 9223372036854775808", &[("a", "9223372036854775807")], 'F'),
    ("a < 9223372036854775808", &[("a", "9223372036854775807")], 'T'),
    ("a = 9007199254740992.0", &[("a", "9007199254740993")], 'F'),
    ("a > 9007199254740992.0", &[("a", "9007199254740993")], 'T'),
    ("a > 1e308", &[("a", "1e400")], 'T'),
    // A text that is no number is UNKNOWN, never a failure.
    ("a = 1", &[("a", "abc")], 'U'),
    ("a <> 1", &[("a", "abc")], 'U'),
    ("a = 1", &[("a", "")], 'U'),
    ("a < 1", &[("a", "NaN")], 'U'),
    ("a > 1", &[("a", "Infinity")], 'U'),
    ("a = 16", &[("a", "0x10")], 'U'),
    ("a = 5", &[("a", "5L")], 'U'),
    ("a = 10", &[("a", "١٠")], 'U'),
    ("a = 1 OR b = 'x'", &[("a", "abc"), ("b", "x")], 'T'),
    ("(a > 1) IS NULL", &[("a", "abc")], 'T'),
    ("NOT a > 1", &[("a", "abc")], 'U'),
    // Truth values.
    ("a = TRUE", &[("a", "TrUe")], 'T'),
    ("a = FALSE", &[("a", "banana")], 'U'),
    ("a <> TRUE", &[("a", "false")], 'T'),
    ("TRUE = a", &[("a", "true")], 'T'),
    ("TRUE = a", &[], 'U'),
    ("a", &[("a", "true")], 'T'),
    ("a", &[("a", "FALSE")], 'F'),
    ("a", &[("a", "1")], 'U'),
    ("NOT a", &[("a", "false")], 'T'),
    ("NOT a", &[], 'U'),
    ("a AND b = 1", &[("a", "true"), ("b", "1")], 'T'),
    // Two properties compare as text.
    ("a = b", &[("a", "10"), ("b", "10.0")], 'F'),
    ("a > b", &[("a", "10"), ("b", "9")], 'F'),
    ("a > b", &[("a", "b"), ("b", "a")], 'T'),
    ("a = b", &[], 'U'),
    ("a = a", &[("a", "x")], 'T'),
    ("a <> b", &[("a", "x")], 'U'),
    // NOT is looser than a comparison, tighter than AND; AND tighter than OR.
    ("NOT a = 1", &[("a", "2")], 'T'),
    ("NOT a IS NULL", &[("a", "1")], 'T'),
    ("NOT a IN ('x')", &[("a", "x")], 'F'),
    ("NOT a = 1 AND b = 1", &[("a", "2"), ("b", "2")], 'F'),
    ("NOT (a = 1 AND b = 1)", &[("a", "2")], 'T'),
    ("NOT NOT a = 1", &[("a", "1")], 'T'),
    ("a = 1 OR b = 1 AND c = 1", &[("a", "1")], 'T'),
    ("(a = 1 OR b = 1) AND c = 1", &[("a", "1")], 'U'),
    ("a = 1 AND b BETWEEN 1 AND 3 AND c = 1", &[("a", "1"), ("b", "2"), ("c", "1")], 'T'),
    // Three-valued AND and OR.
    ("TRUE AND a = 1", &[], 'U'),
    ("FALSE AND a = 1", &[], 'F'),
    ("a = 1 AND FALSE", &[], 'F'),
    ("NULL AND a = 1", &[("a", "1")], 'U'),
    ("NULL AND a = 1", &[("a", "2")], 'F'),
    ("TRUE OR a = 1", &[], 'T'),
    ("a = 1 OR TRUE", &[], 'T'),
    ("FALSE OR a = 1", &[], 'U'),
    ("NULL OR a = 1", &[("a", "1")], 'T'),
    ("NULL OR a = 1", &[("a", "2")], 'U'),
    ("NULL", &[], 'U'),
    ("NOT NULL", &[], 'U'),
    ("TRUE", &[], 'T'),
    ("not false", &[], 'T'),
    ("a = NULL", &[("a", "x")], 'U'),
    ("NULL <> a", &[("a", "x")], 'U'),
    // Constants.
    ("1 < 2", &[], 'T'),
    ("'a' = 'b'", &[], 'F'),
    ("1 = '1.0'", &[], 'T'),
    ("'x' < 1", &[], 'U'),
    ("'true' = TRUE", &[], 'T'),
    ("TRUE <> FALSE", &[], 'T'),
    ("9007199254740993 = 9007199254740992.0", &[], 'F'),
    ("2 BETWEEN a AND b", &[("a", "1"), ("b", "3")], 'T'),
    // BETWEEN.
    ("a BETWEEN 1 AND 5", &[("a", "5.0")], 'T'),
    ("a BETWEEN 1 AND 5", &[("a", "5.1")], 'F'),
    ("a BETWEEN 5 AND 1", &[("a", "3")], 'F'),
    ("a NOT BETWEEN 5 AND 1", &[("a", "3")], 'T'),
    ("a NOT BETWEEN 1 AND 5", &[("a", "x")], 'U'),
    ("a BETWEEN 1 AND 5", &[], 'U'),
    ("a BETWEEN 'b' AND 'd'", &[("a", "c")], 'T'),
    ("a BETWEEN NULL AND 5", &[("a", "6")], 'F'),
    ("a BETWEEN NULL AND 5", &[("a", "4")], 'U'),
    ("a BETWEEN -5 AND -1", &[("a", "-3")], 'T'),
    // IN is a chain of = joined by OR.
    ("a IN ('x', 'y')", &[("a", "y")], 'T'),
    ("a IN ('x', 'y')", &[("a", "z")], 'F'),
    ("a IN ('x')", &[], 'U'),
    ("a NOT IN ('x')", &[], 'U'),
    ("a NOT IN ('x')", &[("a", "y")], 'T'),
    ("a IN (1, 2)", &[("a", "2.0")], 'T'),
    ("a IN (1, 2)", &[("a", "x")], 'U'),
    ("a IN ('x', 2)", &[("a", "x")], 'T'),
    ("a IN ('y', 2)", &[("a", "x")], 'U'),
    ("a IN ('y', 2)", &[("a", "3")], 'F'),
    ("a IN (-1, +2, 2.5)", &[("a", "2.50")], 'T'),
    ("a IN ('x', NULL)", &[("a", "x")], 'T'),
    ("a IN ('x', NULL)", &[("a", "y")], 'U'),
    ("a NOT IN (1, NULL)", &[("a", "2")], 'U'),
    ("a IN (1, 2) AND a > 1", &[("a", "2")], 'T'),
    ("a IN (1, NULL) OR a > 5", &[("a", "x")], 'U'),
    ("a IN ('a longer text than a view')", &[("a", "a longer text than a view")], 'T'),
    ("a IN ('1','2','3','4','5','6','7','8','9')", &[("a", "9")], 'T'),
    ("a IN ('1','2','3','4','5','6','7','8','9')", &[("a", "10")], 'F'),
    // IS.
    ("a IS NULL", &[], 'T'),
    ("a IS NULL", &[("a", "")], 'F'),
    ("a IS NOT NULL", &[("a", "x")], 'T'),
    ("NULL IS NULL", &[], 'T'),
    ("5 IS NULL", &[], 'F'),
    ("a IS TRUE", &[("a", "true")], 'T'),
    ("a IS TRUE", &[("a", "x")], 'F'),
    ("a IS NOT TRUE", &[], 'T'),
    ("a = 1 IS FALSE", &[("a", "2")], 'T'),
    ("a = 1 IS NOT FALSE", &[], 'T'),
    ("a = 1 IS UNKNOWN", &[], 'T'),
    ("a = 1 IS NOT UNKNOWN", &[("a", "1")], 'T'),
    ("(a IS NULL) IS TRUE", &[], 'T'),
    ("NOT a = 1 IS NULL", &[], 'F'),
    // LIKE.
    ("a LIKE 'x%'", &[("a", "xyz")], 'T'),
    ("a LIKE 'x%'", &[], 'U'),
    ("a NOT LIKE 'x%'", &[], 'U'),
    ("a NOT LIKE 'x%'", &[("a", "ax")], 'T'),
    ("a LIKE '_'", &[("a", "é")], 'T'),
    ("a LIKE 'X%'", &[("a", "xyz")], 'F'),
    ("a ILIKE 'X%'", &[("a", "xyz")], 'T'),
    ("a NOT ILIKE '%Y%'", &[("a", "xyz")], 'F'),
    ("a LIKE '10!%' ESCAPE '!'", &[("a", "10%")], 'T'),
    ("a LIKE '10!%' ESCAPE '!'", &[("a", "100")], 'F'),
    (r"a LIKE '10\%'", &[("a", r"10\0")], 'T'),
    ("a LIKE ''", &[("a", "")], 'T'),
    // CONTAINS, STARTSWITH, ENDSWITH.
    ("a CONTAINS 'yz'", &[("a", "xyz")], 'T'),
    ("a contains 'YZ'", &[("a", "xyz")], 'F'),
    ("a CONTAINS 'x'", &[], 'U'),
    ("a NOT CONTAINS 'x'", &[], 'U'),
    ("a NOT CONTAINS 'q'", &[("a", "xyz")], 'T'),
    ("NOT a CONTAINS 'q' AND a STARTSWITH 'x'", &[("a", "xyz")], 'T'),
    ("a STARTSWITH ''", &[("a", "x")], 'T'),
    ("a ENDSWITH 'yz'", &[("a", "xyz")], 'T'),
    ("a NOT ENDSWITH 'yz'", &[("a", "xyz")], 'F'),
    ("a CONTAINS '%'", &[("a", "xyz")], 'F'),
    // Names.
    ("\"a/b.c\" = 1", &[("a/b.c", "1")], 'T'),
    ("\"say \"\"hi\"\"\" = 1", &[("say \"hi\"", "1")], 'T'),
    ("\"$a\" = 1", &[("$a", "1")], 'T'),
    ("\"and\" = 1 AND \"null\" IS NULL", &[("and", "1")], 'T'),
    ("a$b = 1 AND _ = 2 AND größe = 3", &[("a$b", "1"), ("_", "2"), ("größe", "3")], 'T'),
    ("A = 1", &[("a", "1")], 'U'),
    ("date = 1 AND select = 2 AND case = 3 AND order = 4", &[("date", "1"), ("select", "2"), ("case", "3"), ("order", "4")], 'T'),
    ("unknown IS UNKNOWN", &[], 'T'),
    ("date IN ('x') OR interval NOT IN ('y')", &[("date", "x")], 'T'),
    ("(a) = (1)", &[("a", "1")], 'T'),
    // Arithmetic is exact for whole numbers; what has no result is UNKNOWN.
    ("a + 1 = 2", &[("a", "1.0")], 'T'),
    ("a + b * 2 = 7", &[("a", "1"), ("b", "3")], 'T'),
    ("(a + b) * 2 = 8", &[("a", "1"), ("b", "3")], 'T'),
    ("a - b - 1 = 1", &[("a", "5"), ("b", "3")], 'T'),
    ("-a < 0", &[("a", "5")], 'T'),
    ("a = -(-b)", &[("a", "5.0"), ("b", "5")], 'T'),
    ("a + 0 = -(-b)", &[("a", "5"), ("b", "5")], 'T'),
    ("a / 2 = 2.5", &[("a", "5")], 'T'),
    ("a / 2 = 3", &[("a", "6")], 'T'),
    ("a / 0 = 1", &[("a", "5")], 'U'),
    ("a % 3 = -2", &[("a", "-5")], 'T'),
    ("a % 0.0 IS NULL", &[("a", "5")], 'T'),
    ("a + 1 = 9223372036854775808", &[("a", "9223372036854775807")], 'T'),
    ("a * 1 = 9007199254740993", &[("a", "9007199254740993")], 'T'),
    ("a + 1 > 0", &[("a", "x")], 'U'),
    ("a + 1 > 0", &[], 'U'),
    ("a + 1 > b", &[("a", "1"), ("b", "1.5")], 'T'),
    ("b < a + 1", &[("a", "1"), ("b", "1.5")], 'T'),
    ("a BETWEEN b - 1 AND b + 1", &[("a", "1"), ("b", "2")], 'T'),
    ("2 + 3 * 4 = 14", &[], 'T'),
    ("1 / 0 IS NULL", &[], 'T'),
    // Functions and CAST.
    ("lower(a) = 'xyz'", &[("a", "XyZ")], 'T'),
    ("upper(a) LIKE 'X%'", &[("a", "xyz")], 'T'),
    ("lower(a) IN ('é')", &[("a", "É")], 'T'),
    ("lower(a) = lower(b)", &[("a", "X"), ("b", "x")], 'T'),
    ("length(a) = 3", &[("a", "aéz")], 'T'),
    ("length(a) > 3", &[], 'U'),
    ("coalesce(a, b, '0') = '0'", &[], 'T'),
    ("coalesce(a, b) = 2", &[("b", "2.0")], 'T'),
    ("coalesce(a, 'false')", &[("a", "true")], 'T'),
    ("regexp_like(a, '^x.z$')", &[("a", "xyz")], 'T'),
    ("NOT regexp_like(a, 'q+')", &[("a", "xyz")], 'T'),
    ("regexp_like(lower(a), '(?i)X')", &[], 'U'),
    ("CAST(a AS BIGINT) = 5", &[("a", "5.9")], 'T'),
    ("CAST(a AS DOUBLE) = 5.9", &[("a", "5.9")], 'T'),
    ("CAST(a AS BIGINT) IS NULL", &[("a", "x")], 'T'),
    ("CAST(a AS BOOLEAN)", &[("a", "TRUE")], 'T'),
    ("CAST(a + 1 AS TEXT) = '6'", &[("a", "5")], 'T'),
    ("CAST(a AS TIMESTAMP) < TIMESTAMP '2013-01-02'", &[("a", "2013-01-01T12:00:00Z")], 'T'),
    ("a < DATE '2013-01-02'", &[("a", "2013-01-01 12:00:00")], 'T'),
    ("a < DATE '2013-01-02'", &[("a", "x")], 'U'),
    ("CAST(a AS TIMESTAMP) + INTERVAL '1 day 1.5 hours' = TIMESTAMP '2013-01-02T01:30:00Z'", &[("a", "2013-01-01")], 'T'),
    ("CAST(a AS TIMESTAMP) - CAST(b AS TIMESTAMP) > INTERVAL '90' SECOND", &[("a", "2013-01-02"), ("b", "2013-01-01")], 'T'),
    ("TIMESTAMP '9999-12-31T00:00:00Z' > TIMESTAMP '2013-01-01'", &[], 'T'),
    ("-INTERVAL '2 hours' < INTERVAL '1' HOUR * 2", &[], 'T'),
    // Names in a list.
    ("a IN (b, 'x')", &[("a", "y"), ("b", "y")], 'T'),
    ("a IN (b, 'x')", &[("a", "x")], 'T'),
    ("a NOT IN (b, 'x')", &[("a", "y")], 'U'),
    ("'x' IN (a, b)", &[("b", "x")], 'T'),
    ("'x' IN ('y', 'x')", &[], 'T'),
    ("5 IN (a + 1)", &[("a", "4")], 'T'),
    // Blanks and comments.
    ("\ta\r\n=\n1\u{a0}", &[("a", "1")], 'T'),
    ("a = 1 -- the rest", &[("a", "1")], 'T'),
    ("a /* a /* nested */ comment */ = 1", &[("a", "1")], 'T'),
];

/// Expression and its error.
#[rustfmt::skip]
const ERRORS: &[(&str, &str)] = &[
    ("", "column 1: expected a name, a number or text, found the end"),
    ("a =", "column 4: expected a name, a number or text, found the end"),
    ("a = 1 foo", "column 7: expected an operator, AND, OR or the end, found `foo`"),
    ("a = 1;", "column 6: expected an operator, AND, OR or the end, found `;`"),
    ("a = 1 #", "column 7: operator `#` is not part of this dialect"),
    ("a = 1 )", "column 7: expected an operator, AND, OR or the end, found `)`"),
    ("a foo 'x'", "column 3: expected an operator, AND, OR or the end, found `foo`"),
    ("(a = 1", "column 7: expected an operator, AND, OR or `)`, found the end"),
    ("a = 1 AND", "column 10: expected a name, a number or text, found the end"),
    ("a = 1 OR OR b = 1", "column 10: expected a name, a number or text, found `OR`"),
    ("é = 1 AND\n b ! 2", "line 2, column 4: operator `!` is not part of this dialect"),
    ("a = 'x", "column 5: a text that starts here has no end"),
    ("\"a = 1", "column 1: a quoted name that starts here has no end"),
    ("a = 1 /* x", "column 7: a comment that starts here has no end"),
    ("a = 1 = 1", "column 7: a condition on the left of `=` is not part of this dialect; write IS TRUE, IS FALSE or IS UNKNOWN"),
    ("(a = 1) = TRUE", "column 9: a condition on the left of `=` is not part of this dialect; write IS TRUE, IS FALSE or IS UNKNOWN"),
    ("a = (b = 1)", "column 5: expected a name, a number or text, found `(`"),
    ("a == 1", "column 3: operator `==` is not part of this dialect; equality is written ="),
    ("order-id > 5", "column 6: without blanks around it, operator `-` is not part of this dialect; a name with such a character is written in double quotes: \"a-b\""),
    ("a.b = 1", "column 2: `.` is not part of this dialect; a field of the body is written $.a.b, a name with a dot in double quotes: \"a.b\""),
    ("a[1] = 1", "column 2: `[` is not part of this dialect; a name with such a character is written in double quotes: \"a-b\""),
    ("CASE WHEN a THEN b END", "column 1: `CASE` is not part of this dialect"),
    ("a = 5L", "column 5: a literal like `5L` is not part of this dialect"),
    ("a = 0x10", "column 5: a literal like `X'10'` is not part of this dialect"),
    ("a = 5abc", "column 6: expected an operator, AND, OR or the end, found `abc`"),
    ("a = 'a' 'b'", "column 9: expected an operator, AND, OR or the end, found `'b'`"),
    ("a = 1e999", "column 5: number 1e999 is out of range"),
    ("a IS 5", "column 6: expected NULL, TRUE, FALSE or UNKNOWN, found `5`"),
    ("a IS NULL IS NULL", "column 11: expected AND, OR or the end, found `IS`"),
    ("a IS DISTINCT FROM b", "column 6: expected NULL, TRUE, FALSE or UNKNOWN, found `DISTINCT`"),
    ("a BETWEEN 1 OR 2", "column 13: expected AND and the upper bound, found `OR`"),
    ("a IN 'x'", "column 6: expected `(` and a list, found `'x'`"),
    ("a IN ()", "column 7: expected a name, a number or text, found `)`"),
    ("a IN ('x' 'y')", "column 11: expected `,` or `)`, found `'y'`"),
    ("a IN (TRUE)", "column 7: expected a name, text or a number, found `TRUE`"),
    ("a LIKE b", "column 8: expected text in single quotes, found `b`"),
    ("a LIKE 5", "column 8: expected text in single quotes, found `5`"),
    ("a LIKE 'x' ESCAPE 'ab'", "column 19: bad pattern: ESCAPE takes exactly one character"),
    ("a LIKE 'x!y' ESCAPE '!'", "column 8: bad pattern: the escape character must stand before %, _ or itself"),
    ("a CONTAINS b", "column 12: expected text in single quotes, found `b`"),
    ("a NOT = 1", "column 3: expected an operator, AND, OR or the end, found `NOT`"),
    ("NOT", "column 4: expected a name, a number or text, found the end"),
    ("5", "column 1: expected a condition, found `5`"),
    ("a = 1 AND 'x'", "column 11: expected a condition, found `'x'`"),
    ("a < TRUE", "column 5: an order of TRUE and FALSE is not part of this dialect"),
    ("1 = TRUE", "column 1: a number against TRUE or FALSE is not part of this dialect"),
    ("$ = 1", "column 3: expected `.` and a field, or a column, after `$`, found `=`"),
    ("$. = 1", "column 4: expected a field's name, found `=`"),
    ("$.a.1 = 1", "column 4: expected an operator, AND, OR or the end, found `.1`"),
    ("$topic.x = 1", "column 7: `.` is not part of this dialect; a field of the body is written $.a.b, a name with a dot in double quotes: \"a.b\""),
    ("\"\" = 1", "column 1: expected a name between the quotes, found `\"\"`"),
    ("`a` = 1", "column 1: expected a name, a number or text, found ```"),
    ("a = ?", "column 5: a literal like `?` is not part of this dialect"),
    ("like = 1", "column 1: expected a name, a number or text, found `like`"),
    ("a + = 2", "column 5: expected a name, a number or text, found `=`"),
    ("a + (b = 1) = 2", "column 5: expected a name, a number or text, found `(`"),
    ("a/b = 2", "column 2: without blanks around it, operator `/` is not part of this dialect; a name with such a character is written in double quotes: \"a-b\""),
    ("a + 1", "column 1: expected a condition, found `a + 1`"),
    ("lower(a, b) = 'x'", "column 1: `lower` with so many arguments is not part of this dialect"),
    ("CAST(a AS BLOB) = 1", "column 11: type `BLOB` is not part of this dialect; there are BIGINT, DOUBLE, TEXT, BOOLEAN and TIMESTAMP"),
    ("CAST(a, 1) = 1", "column 7: expected AS and a type, found `,`"),
    ("a = TIMESTAMP 'noon'", "column 15: expected a time like '2013-01-31T12:00:00Z', found `'noon'`"),
    ("a = INTERVAL '1' MONTH", "column 18: expected an operator, AND, OR or the end, found `MONTH`"),
    ("a = INTERVAL '1 month'", "column 14: expected a length of time like '5 minutes', found `'1 month'`"),
    ("regexp_like(a, '(')", "column 16: bad pattern: it is no regular expression (look-around and back references are none here)"),
    ("regexp_like(a, b)", "column 16: expected text in single quotes, found `b`"),
    ("a COLLATE x = 1", "column 3: `COLLATE` is not part of this dialect"),
    ("a::int = 1", "column 2: operator `::` is not part of this dialect"),
    ("a = ALL (1)", "column 5: a function like `ALL` is not part of this dialect; there are lower, upper, length, coalesce, regexp_like and CAST"),
];

#[test]
fn each_expression_has_its_answer_by_row_and_by_column() {
    for (text, properties, expected) in ANSWERS {
        let filter = Filter::parse(text, Dialect::Sluice).unwrap_or_else(|error| panic!("{text}: {error}"));
        let expected = match expected {
            'T' => Some(true),
            'F' => Some(false),
            _ => None,
        };
        assert_eq!(by_row(&filter, properties), expected, "by row: {text} with {properties:?}");
        assert_eq!(by_column(&filter, properties), expected, "by column: {text} with {properties:?}");
    }
}

#[test]
fn each_bad_expression_says_what_is_wrong_and_where() {
    let mut wrong = Vec::new();
    for (text, expected) in ERRORS {
        let error = Filter::parse(text, Dialect::Sluice).expect_err(text);
        if error.to_string() != *expected || text.get(error.span.clone()).is_none() {
            wrong.push(format!("{text}\n  {error} at {:?}\n  {expected}", error.span));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_error_covers_the_bytes_of_its_place() {
    let text = "größe = 'ä' AND\n  straße LIKE 5 OR x";
    let error = Filter::parse(text, Dialect::Sluice).unwrap_err();
    assert_eq!((error.line, error.column), (2, 15));
    assert_eq!(text.get(error.span).unwrap(), "5");
}

/// The answer by row.
fn by_row(filter: &Filter, properties: &Properties) -> Option<bool> {
    filter.row(&|name| properties.iter().find(|(key, _)| *key == name).map(|(_, value)| *value))
}

/// The answer by column, for the second of three rows; the others have no properties.
fn by_column(filter: &Filter, properties: &Properties) -> Option<bool> {
    let resolve = |name: &Name| {
        let Name::Property(name) = name else { return None };
        let (_, value) = properties.iter().find(|(key, _)| key == name)?;
        Some(Arc::new(StringViewArray::from(vec![None, Some(*value), None])) as ArrayRef)
    };
    let answers = filter.columns(3, &resolve).expect("properties fit every test");
    let mask = filter.mask(3, &resolve).expect("as before");
    assert_eq!(mask.null_count(), 0);
    let answer = answers.is_valid(1).then(|| answers.value(1));
    assert_eq!(mask.value(1), answer == Some(true));
    answer
}
