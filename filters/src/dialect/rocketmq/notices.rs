//! Notices of dialect `rocketmq`: each place where its reading is not SQL's, in plain words.

use std::ops::Range;

use super::lexer::{Kind, is_name_part};
use super::operands::{Node, Tree};
use super::{Parser, Word};
use crate::error::Error;
use crate::expr::{Literal, Op, Value};
use crate::notice::{Notice, Quirk};
use crate::steps;

/// Beyond this a double does not hold each whole number.
const EXACT_MAX: u64 = 1 << 53;

/// A notice, and whether it only matters inside of another test.
pub(super) struct Draft {
    notice: Notice,
    only_inside: bool,
}

/// The notices that matter, by place, each once.
pub(super) fn settle(drafts: Vec<Draft>) -> Vec<Notice> {
    let mut notices: Vec<Notice> =
        drafts.into_iter().filter(|draft| !draft.only_inside).map(|draft| draft.notice).collect();
    notices.sort_by_key(|notice| {
        steps::add(1);
        (notice.span.start, notice.span.end, notice.quirk)
    });
    notices.dedup_by(|a, b| a.span == b.span && a.quirk == b.quirk);
    notices
}

impl Parser<'_> {
    fn notice(&mut self, span: Range<usize>, quirk: Quirk, text: impl Into<String>) {
        let notice = Notice { span, quirk, text: text.into() };
        self.draft(notice, false);
    }

    fn draft(&mut self, notice: Notice, only_inside: bool) {
        if only_inside {
            self.only_inside.push(self.notices.len());
        }
        self.notices.push(Draft { notice, only_inside });
    }

    /// What lies in the span is part of a test that tells FALSE and UNKNOWN apart.
    pub(super) fn notice_inside(&mut self, span: &Range<usize>) {
        // Drafts come in the order of their ends, so those inside are the last ones.
        while let Some(draft) = self.only_inside.last().and_then(|last| self.notices.get_mut(*last)) {
            steps::add(1);
            if draft.notice.span.start < span.start {
                break;
            }
            draft.only_inside = false;
            self.only_inside.pop();
        }
    }

    /// A `NOT` right before what a comparison or a test takes as its left side.
    pub(super) fn notice_not(&mut self, node: &Node) {
        if let Some(not) = &node.not {
            let operand = self.text.get(not.end..node.span.end).unwrap_or_default().trim();
            let text = format!(
                "NOT belongs to {} alone, before the comparison; write NOT (…) around the whole",
                super::super::shown(operand)
            );
            self.notice(not.clone(), Quirk::TightNot, text);
        }
    }

    pub(super) fn notice_bare(&mut self, span: &Range<usize>) {
        let text = format!("the property {} alone is FALSE, even if it is `true`", self.shown(span));
        self.notice(span.clone(), Quirk::BareProperty, text);
    }

    pub(super) fn notice_search(&mut self, span: &Range<usize>, is_empty: bool) {
        if is_empty {
            let text = "an empty text counts as part of nothing, so this is always FALSE, with NOT too";
            self.notice(span.clone(), Quirk::EmptyPart, text);
        } else {
            let text = "without the property this is FALSE, not unknown, with NOT too".to_owned();
            let notice = Notice { span: span.clone(), quirk: Quirk::SearchMissing, text };
            self.draft(notice, true);
        }
    }

    pub(super) fn notice_minus(&mut self, node: &Node, start: usize) {
        let span = start..node.span.end;
        if self.text.get(start..start + 2) == Some("--") {
            let text = "two minus signs and no comment, which would need a line end";
            self.notice(span.clone(), Quirk::MinusMinus, text);
        }
        let is_number = match &node.tree {
            Tree::Literal(Literal::Int(_) | Literal::Long(_) | Literal::Double(_)) => true,
            Tree::Value(Value::Literal(literal)) => !matches!(literal, Literal::Null),
            _ => false,
        };
        if !is_number {
            let text = format!("a minus before {} is null, even if that is a number", self.shown(&node.span));
            self.notice(span, Quirk::Minus, text);
        }
    }

    pub(super) fn notice_compare(&mut self, left: &Node, op: Op, right: &Node) {
        let span = left.span.start..right.span.end;
        self.notice_not(left);
        if let Some(not) = &right.not {
            self.notice(
                not.clone(),
                Quirk::TightNot,
                "NOT belongs to the right side of the comparison alone",
            );
        }
        for node in [left, right] {
            if matches!(node.tree, Tree::Condition(_)) {
                self.notice_inside(&node.span);
                let text = format!("{} is a side of this comparison", self.shown(&node.span));
                self.notice(span.clone(), Quirk::Chain, text);
            }
        }
        if !op.is_order() && !matches!(right.tree, Tree::Literal(_)) {
            let (text, only_inside) = match (&left.tree, op) {
                (Tree::Literal(_) | Tree::Value(Value::Literal(_)), Op::Eq) => {
                    ("without the property on the right this is FALSE, not unknown", true)
                }
                (Tree::Literal(_) | Tree::Value(Value::Literal(_)), _) => {
                    ("without the property on the right this is TRUE; write it on the left", false)
                }
                (_, Op::Eq) => ("TRUE if both sides are missing, FALSE if only the right one is", false),
                _ => ("FALSE if both sides are missing, TRUE if only the right one is", false),
            };
            let is_number = matches!(&right.tree, Tree::Value(Value::Literal(literal)) if !matches!(literal, Literal::Null));
            if !is_number {
                let notice = Notice { span: span.clone(), quirk: Quirk::MissingEqual, text: text.to_owned() };
                self.draft(notice, only_inside);
            }
        }
        match (constant(left), constant(right)) {
            (None, None) if op.is_order() => {
                let text =
                    "both sides count as numbers; if one is none, nothing is delivered, whatever else holds";
                self.notice(span, Quirk::PropertyOrder, text);
            }
            (None, Some(literal)) => self.notice_conversion(left, literal, true, span),
            (Some(literal), None) => self.notice_conversion(right, literal, false, span),
            (Some(left), Some(right)) => self.notice_constants(left, right, span),
            (None, None) => {}
        }
    }

    /// What a property counts as against a literal.
    fn notice_conversion(&mut self, node: &Node, literal: &Literal, first: bool, span: Range<usize>) {
        if !matches!(node.tree, Tree::Property(_)) {
            if matches!(node.tree, Tree::Condition(_)) && !matches!(literal, Literal::Truth(_)) {
                let text = "TRUE and FALSE never equal a number or a text; some such comparisons end all";
                self.notice(span, Quirk::TruthNumber, text);
            }
            return;
        }
        let name = self.shown(&node.span);
        match literal {
            Literal::Int(_) | Literal::Long(_) => {
                let bits = if matches!(literal, Literal::Int(_)) { 32 } else { 64 };
                let text = format!(
                    "if {name} is no whole number of {bits} bits, such as 5.5 or abc, nothing is delivered, whatever else holds"
                );
                self.notice(span, Quirk::WholeNumber, text);
            }
            Literal::Double(_) => {
                let text = format!(
                    "{name} counts as a number of Java's (1.5f, 0x1p3 and NaN, the largest, are some); if it is none, nothing is delivered"
                );
                self.notice(span, Quirk::Double, text);
            }
            Literal::Truth(_) if first => {
                let text = format!("each text of {name} but `true` counts as FALSE");
                self.notice(span, Quirk::TruthText, text);
            }
            Literal::Truth(_) => {
                let text = format!("nothing is delivered where {name} is there; write it on the left");
                self.notice(span, Quirk::TruthText, text);
            }
            _ => {}
        }
    }

    fn notice_constants(&mut self, left: &Literal, right: &Literal, span: Range<usize>) {
        let is_number =
            |literal: &Literal| matches!(literal, Literal::Int(_) | Literal::Long(_) | Literal::Double(_));
        let is_large = |literal: &Literal| match literal {
            Literal::Long(value) => value.unsigned_abs() > EXACT_MAX,
            _ => false,
        };
        match (left, right) {
            (Literal::Truth(_), right) if is_number(right) => {
                self.notice(span, Quirk::TruthNumber, "TRUE and FALSE never equal a number");
            }
            (left, Literal::Truth(_)) if is_number(left) => {
                self.notice(span, Quirk::TruthNumber, "TRUE and FALSE never equal a number");
            }
            (whole, Literal::Double(_)) | (Literal::Double(_), whole) if is_large(whole) => {
                self.notice(span, Quirk::Rounded, "the whole number is rounded to a double first");
            }
            (Literal::Text(_), right) if is_number(right) => {
                self.notice(span, Quirk::WholeNumber, "a text that is no number of this type ends all");
            }
            (left, Literal::Text(_)) if is_number(left) => {
                self.notice(span, Quirk::WholeNumber, "a text that is no number of this type ends all");
            }
            _ => {}
        }
    }

    /// Text behind the complete expression. Its first token must be one.
    pub(super) fn notice_ignored(&mut self, bare: bool, was_null_test: bool) -> Result<(), Error> {
        let kind = self.peek()?;
        let Some(token) = self.peeked.clone().filter(|_| kind != Kind::End) else { return Ok(()) };
        let first = self.shown(&token.span);
        let touches = token.span.start == self.last;
        let before = self.text.as_bytes().get(self.last.saturating_sub(1)).copied().unwrap_or_default();
        let reason = match kind {
            Kind::Name(name) if name.eq_ignore_ascii_case("like") => {
                "there is no LIKE: the expression ends before it; CONTAINS, STARTSWITH and ENDSWITH search"
                    .to_owned()
            }
            Kind::Minus if self.text.get(token.span.start..token.span.start + 2) == Some("--") => {
                "without a line end this is no comment, but ignored text".to_owned()
            }
            Kind::Plus | Kind::Minus => {
                format!("there is no arithmetic, and names hold no {first}: the expression ends before it")
            }
            Kind::Compare(_) if was_null_test => {
                format!("{first} does not follow IS NULL: the expression ends before it")
            }
            Kind::Text(_) if before == b'\'' => {
                "texts are not joined: the expression ends before the second".to_owned()
            }
            Kind::Name(_) | Kind::Integer(_) | Kind::Word(Word::And | Word::Or)
                if touches && is_name_part(before) =>
            {
                format!("the number ends before {first}, and with it the expression")
            }
            _ => format!("the expression is complete before {first}"),
        };
        let whole = if bare { "; what is left is the property alone, which is never TRUE" } else { "" };
        let text = format!("{reason}; all from here on is ignored{whole}");
        self.notice(token.span.start..self.text.len(), Quirk::Ignored, text);
        Ok(())
    }
}

fn constant(node: &Node) -> Option<&Literal> {
    match &node.tree {
        Tree::Literal(literal) | Tree::Value(Value::Literal(literal)) => Some(literal),
        _ => None,
    }
}
