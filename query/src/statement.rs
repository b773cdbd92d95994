//! What a statement may be before anything is planned: its length, its depth, and that it only reads.

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::Error;

/// A statement's length, in bytes.
const BYTES_MAX: usize = 64 * 1024;

/// Words between two commas of one pair of parentheses. Each of them may be an operator, and operators in a row nest
/// as deep as there are of them.
const WORDS_MAX: usize = 1500;

/// Refuses what would take too much to parse, or too deep a stack to plan.
pub(crate) fn check(text: &str) -> Result<(), Error> {
    if text.len() > BYTES_MAX {
        return Err(Error::TooLong { bytes: text.len(), max: BYTES_MAX });
    }
    // What is not made of tokens is told by the parser.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else { return Ok(()) };
    let mut outer = Vec::new();
    let mut words = 0_usize;
    for token in tokens {
        match token {
            Token::Whitespace(_) => {}
            Token::LParen | Token::LBracket | Token::LBrace => outer.push(std::mem::replace(&mut words, 0)),
            Token::RParen | Token::RBracket | Token::RBrace => words = outer.pop().unwrap_or(words) + 1,
            Token::Comma => words = 0,
            _ => words += 1,
        }
        if words > WORDS_MAX {
            return Err(Error::TooDeep { max: WORDS_MAX });
        }
    }
    Ok(())
}

/// Refuses what does not only read.
pub(crate) fn check_reads(statement: &Statement) -> Result<(), Error> {
    let is_read = match statement {
        Statement::Statement(statement) => match &**statement {
            ast::Statement::Query(_) | ast::Statement::ExplainTable { .. } => true,
            ast::Statement::Explain { statement, .. } => matches!(**statement, ast::Statement::Query(_)),
            _ => false,
        },
        Statement::Explain(explain) => return check_reads(&explain.statement),
        _ => false,
    };
    if is_read {
        return Ok(());
    }
    let text = statement.to_string();
    let what = text.split_whitespace().next().unwrap_or("the statement").to_uppercase();
    Err(Error::ReadOnly { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_pass_and_deep_chains_do_not() {
        let list = vec!["1"; 5000].join(", ");
        assert!(check(&format!("select a from t where a in ({list})")).is_ok());
        let sum = vec!["f(1)"; 2000].join(" + ");
        assert!(matches!(check(&format!("select {sum}")), Err(Error::TooDeep { .. })));
        let any = vec!["a = 1"; 300].join(" or ");
        assert!(check(&format!("select a from t where {any}")).is_ok());
        assert!(matches!(check(&" ".repeat(BYTES_MAX + 1)), Err(Error::TooLong { .. })));
        for odd in ["select '", ")))(((", ",,,,", ""] {
            assert!(check(odd).is_ok(), "{odd}");
        }
    }
}
