//! The pages of the book that are made of the types: one for each connector, their list, and the keys of a pipeline.
//!
//! `docs/connectors/NAME.intro.md` is what a person wrote of a connector, and stands at the top of its page.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use sluice_connect::config::tree;

use crate::management;
use crate::root;
use crate::settings::{self, Setting};

const HOW: &str = "SLUICE_UPDATE_DOCS=1 cargo test --workspace --test docs";
/// The line of `SUMMARY.md` below which the connectors stand.
const ABOVE: &str = "- [All connectors](connectors/README.md)";

/// A page that is made, below `docs/src`.
struct Made {
    path: String,
    text: String,
}

/// The features of the command line's crate: all, and those of the default build.
fn features() -> (Vec<String>, Vec<String>) {
    let manifest = fs::read_to_string(root().join("cli/Cargo.toml")).unwrap();
    let (_, section) = manifest.split_once("[features]").unwrap();
    let section = section.split("\n[").next().unwrap();
    let mut all = Vec::new();
    let mut of_default = Vec::new();
    for line in section.lines() {
        let Some((name, list)) = line.split_once(" = ") else { continue };
        if name == "default" {
            of_default = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        } else {
            all.push(name.to_owned());
        }
    }
    (all, of_default)
}

/// The first pipeline of `examples/` that has this connector, with what stands above it.
fn example(half: &str, name: &str) -> Option<String> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
        let text = fs::read_to_string(file).unwrap();
        for document in tree::documents(&text) {
            let Ok(tree) = tree::parse(&document) else { continue };
            if tree.find(&[half, name]).is_some() {
                let shown = file.strip_prefix(root()).unwrap().display().to_string();
                return Some(format!("Of `{shown}`:\n\n```yaml\n{}\n```\n", document.text.trim_end()));
            }
        }
    }
    None
}

fn table(settings: &[Setting]) -> String {
    let mut text = "| Key | Value | Default | Meaning |\n|---|---|---|---|\n".to_owned();
    for Setting { key, kind, default, meaning } in settings {
        writeln!(text, "| `{key}` | {kind} | {default} | {meaning} |").unwrap();
    }
    text
}

fn made() -> Vec<Made> {
    let document = settings::document();
    let (features, of_default) = features();
    let mut found = Vec::new();
    let mut list = format!(
        "<!-- Made of the types: {HOW} -->\n\n# All connectors\n\nThe settings on these pages are made of the program's own types, the \
         same that `sluice lint` and the management API (`/connector-plugins`) use. A size is written `128MiB`, a time `5m`.\n"
    );
    let mut summary = String::new();
    for (half, title) in [("source", "Sources"), ("sink", "Sinks")] {
        write!(list, "\n## {title}\n\n| {} | Is | Build |\n|---|---|---|\n", &title[..title.len() - 1])
            .unwrap();
        for (name, words, settings) in settings::connectors(&document, half) {
            let page = format!("{half}-{name}");
            let intro = root().join(format!("docs/connectors/{page}.intro.md"));
            let intro = fs::read_to_string(intro).unwrap_or_default();
            let build = match (features.contains(&name), of_default.contains(&name)) {
                (false, _) => "always",
                (true, true) => "default",
                (true, false) => "`--features`",
            };
            writeln!(list, "| [`{name}`]({page}.md) | {words} | {build} |").unwrap();
            writeln!(summary, "  - [{} `{name}`](connectors/{page}.md)", &title[..title.len() - 1]).unwrap();
            let mut text = format!(
                "<!-- Made of the types and of docs/connectors/{page}.intro.md: {HOW} -->\n\n# {} `{name}`\n\n{words}\n",
                &title[..title.len() - 1]
            );
            match build {
                "default" => {
                    writeln!(text, "\nIt is in the default build, not in `--no-default-features`.").unwrap()
                }
                "`--features`" => writeln!(text, "\nIt is in builds with `--features {name}`.").unwrap(),
                _ => {}
            }
            if !intro.is_empty() {
                write!(text, "\n{}\n", intro.trim()).unwrap();
            }
            if !intro.contains("```yaml") {
                let example = example(half, &name).unwrap_or_else(|| {
                    panic!("{page}: neither its intro nor examples/ has a pipeline with it")
                });
                write!(text, "\n## Example\n\n{example}").unwrap();
            }
            write!(text, "\n## Settings\n\nBelow `{half}.{name}`:\n\n{}", table(&settings)).unwrap();
            found.push(Made { path: format!("connectors/{page}.md"), text });
        }
    }
    list.push_str(
        "\n*Build*: `always` is in each build; `default` in the one without options and not in `--no-default-features`; `--features` in builds \
         that ask for it.\n\nA sink is one file and one line of a registry: `ARCHITECTURE.md` says how to add one, and a source.\n",
    );
    found.push(Made { path: "connectors/README.md".to_owned(), text: list });
    let text = format!(
        "<!-- Made of the types: {HOW} -->\n\n# Keys of a pipeline\n\nThe keys of a document but those of [connectors](README.md). What they do \
         is in [The pipeline file](../pipeline-file.md), [Bodies and schemas](../bodies.md) and [Steps](../steps.md).\n\n{}",
        table(&settings::of_pipeline(&document))
    );
    found.push(Made { path: "connectors/pipeline.md".to_owned(), text });
    let text = format!(
        "<!-- Made of the OpenAPI document: {HOW} -->\n\n# Paths of the management API\n\nWhat `sluice connect --rest` answers, see [As a \
         service](service.md). Bodies are described by `/openapi.json`. `/metrics` is there, too.\n\n{}",
        management::paths()
    );
    found.push(Made { path: "operations/paths.md".to_owned(), text });
    summary.push_str("  - [Keys of a pipeline](connectors/pipeline.md)\n");

    let standing = fs::read_to_string(root().join("docs/src/SUMMARY.md")).unwrap();
    let (before, after) = standing.split_once(&format!("{ABOVE}\n")).unwrap();
    let after: String = after.split_inclusive('\n').skip_while(|line| line.starts_with("  ")).collect();
    found.push(Made { path: "SUMMARY.md".to_owned(), text: format!("{before}{ABOVE}\n{summary}{after}") });
    found
}

#[test]
fn pages_of_connectors_are_those_of_the_types() {
    let folder = root().join("docs/src");
    let made = made();
    if std::env::var("SLUICE_UPDATE_DOCS").is_ok() {
        for Made { path, text } in &made {
            fs::write(folder.join(path), text).unwrap();
        }
    }
    let mut stale = Vec::new();
    for Made { path, text } in &made {
        if fs::read_to_string(folder.join(path)).ok().as_ref() != Some(text) {
            stale.push(path.clone());
        }
    }
    for entry in fs::read_dir(folder.join("connectors")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !made.iter().any(|one| one.path == format!("connectors/{name}")) {
            stale.push(format!("connectors/{name}: no such connector"));
        }
    }
    assert!(stale.is_empty(), "not of these types; write them anew by `{HOW}`: {}", stale.join(", "));
}

#[test]
fn every_intro_is_of_a_connector() {
    let made = made();
    for entry in fs::read_dir(root().join("docs/connectors")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let page = name.strip_suffix(".intro.md").unwrap_or_else(|| panic!("{name} is no intro"));
        assert!(made.iter().any(|one| one.path == format!("connectors/{page}.md")), "{name}");
    }
}

#[test]
fn every_setting_says_what_it_means() {
    let document = settings::document();
    let mut without = Vec::new();
    for half in ["source", "sink"] {
        for (name, _, settings) in settings::connectors(&document, half) {
            let silent = settings.iter().filter(|one| one.meaning.is_empty() || one.kind.is_empty());
            without.extend(silent.map(|one| format!("{half}.{name}.{}", one.key)));
        }
    }
    let silent = settings::of_pipeline(&document);
    without.extend(silent.iter().filter(|one| one.meaning.is_empty()).map(|one| one.key.clone()));
    assert!(without.is_empty(), "no words, or no type, for: {}", without.join(", "));
}
