//! The pages of the book, what stands in them, and whether what they name is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::root;

/// A page of Markdown.
pub(crate) struct Page {
    /// Below the folder of the workspace.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A fenced block of a page.
pub(crate) struct Block {
    /// `page:line`, of the fence.
    pub(crate) place: String,
    /// The word after the fence.
    pub(crate) language: String,
    pub(crate) text: String,
}

/// All pages below `docs/src`, sorted.
pub(crate) fn pages() -> Vec<Page> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                found.push(page(&path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "the book has {} pages", found.len());
    found
}

fn page(path: &Path) -> Page {
    Page { path: path.strip_prefix(root()).unwrap().to_owned(), text: fs::read_to_string(path).unwrap() }
}

impl Page {
    /// Its fenced blocks.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut found = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), open.take()) {
                (Some(language), None) => {
                    let place = format!("{}:{}", self.path.display(), number + 1);
                    open = Some(Block { place, language: language.trim().to_owned(), text: String::new() });
                }
                (Some(_), Some(block)) => found.push(block),
                (None, Some(mut block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", self.path.display());
        found
    }

    /// Its lines outside of blocks, with their numbers.
    pub(crate) fn prose(&self) -> Vec<(usize, &str)> {
        let mut is_code = false;
        let mut found = Vec::new();
        for (number, line) in self.text.lines().enumerate() {
            if line.starts_with("```") {
                is_code = !is_code;
            } else if !is_code {
                found.push((number + 1, line));
            }
        }
        found
    }

    /// The rows of each table with these titles, as cells without their escapes, with their places.
    pub(crate) fn tables(&self, titles: &[&str]) -> Vec<(String, Vec<String>)> {
        let mut found = Vec::new();
        let mut is_in = false;
        for (number, line) in self.prose() {
            let cells = cells(line);
            if cells == titles {
                is_in = true;
            } else if cells.is_empty() {
                is_in = false;
            } else if is_in && !line.starts_with("|---") {
                assert_eq!(cells.len(), titles.len(), "{}:{number}: {line}", self.path.display());
                found.push((format!("{}:{number}", self.path.display()), cells));
            }
        }
        found
    }

    /// What `#…` may name in it, as mdBook makes it of headings.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose().into_iter().filter(|(_, line)| line.starts_with('#'));
        headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The cells of a line of a table; none if it is no such line.
fn cells(line: &str) -> Vec<String> {
    let Some(inner) = line.strip_prefix('|').and_then(|rest| rest.strip_suffix('|')) else {
        return Vec::new();
    };
    let inner = inner.replace("\\|", "\u{0}");
    inner.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

/// The text within a code span that is all of a cell.
pub(crate) fn code(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).unwrap_or(cell)
}

/// The targets of the links of a line.
fn links(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, after)) = after.split_once(')') else { break };
        // In a code span it is no link.
        if before.matches('`').count().is_multiple_of(2) {
            found.push(target);
            rest = after;
        } else {
            rest = after.split_once('`').map_or("", |(_, after)| after);
        }
    }
    found
}

/// The code spans of a line.
fn spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{}", path.display()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn every_link_leads_somewhere() {
    let outside = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "interop/README.md", "benches/README.md"];
    let mut all = pages();
    all.extend(outside.iter().map(|name| page(&root().join(name))));
    let mut wrong = Vec::new();
    for page in &all {
        let is_of_book = page.path.starts_with("docs/src");
        for (number, line) in page.prose() {
            for target in links(line) {
                let is_elsewhere = target.starts_with("https://") || target.starts_with("http://");
                if is_elsewhere {
                    continue;
                }
                let (file, name) = target.split_once('#').unwrap_or((target, ""));
                let path = match file {
                    "" => page.path.clone(),
                    file => plain(&page.path.parent().unwrap().join(file)),
                };
                let other = all.iter().find(|other| other.path == path);
                let is_there = if is_of_book {
                    // The book is served without the rest of the repository.
                    path.starts_with("docs/src") && root().join(&path).is_file()
                } else {
                    root().join(&path).exists()
                };
                let is_named = name.is_empty() || other.is_some_and(|other| other.anchors().contains(name));
                if !is_there || !is_named {
                    wrong.push(format!("{}:{number}: {target}", page.path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "links to nothing:\n{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_summary_once() {
    let summary = page(&root().join("docs/src/SUMMARY.md"));
    let mut listed: Vec<&str> = summary.text.lines().flat_map(links).collect();
    let count = listed.len();
    listed.sort_unstable();
    listed.dedup();
    assert_eq!(listed.len(), count, "a page stands in SUMMARY.md twice");
    let pages = pages();
    let names = pages.iter().map(|page| page.path.strip_prefix("docs/src").unwrap().to_str().unwrap());
    let mut there: Vec<&str> = names.filter(|name| *name != "SUMMARY.md").collect();
    there.sort_unstable();
    assert_eq!(there, listed);
}

#[test]
fn every_test_and_script_that_the_book_names_is_there() {
    let (mut tests, mut wrong) = (0, Vec::new());
    for page in pages() {
        for (number, line) in page.prose() {
            for span in spans(line) {
                let place = format!("{}:{number}", page.path.display());
                if let Some((file, name)) = span.split_once(".rs::") {
                    tests += 1;
                    let text = fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
                    let is_ignored = |before: &str| {
                        before
                            .trim_end()
                            .lines()
                            .rev()
                            .take_while(|l| l.starts_with("#["))
                            .any(|l| l.contains("ignore"))
                    };
                    match text.split_once(&format!("fn {name}(")) {
                        None => wrong.push(format!("{place}: no test {span}")),
                        Some((before, _)) if is_ignored(before) => {
                            wrong.push(format!("{place}: {span} is ignored"));
                        }
                        Some(_) => {}
                    }
                    continue;
                }
                let path = span.split([' ', ':']).next().unwrap_or_default();
                let is_path =
                    ["interop/", "examples/", "benches/", ".ci/"].iter().any(|p| path.starts_with(p));
                if is_path && !root().join(path).exists() {
                    wrong.push(format!("{place}: no file {path}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tests > 40, "the guarantees name {tests} tests");
}

#[test]
fn the_book_is_plain_and_loads_nothing_from_elsewhere() {
    for page in pages() {
        for (number, line) in page.prose() {
            let place = format!("{}:{number}: {line}", page.path.display());
            assert!(!line.contains("](http") || !line.trim_start().starts_with('!'), "{place}");
            assert!(!line.contains("<script") && !line.contains("<img"), "{place}");
        }
    }
}
