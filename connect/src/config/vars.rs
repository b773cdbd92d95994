//! `${VAR}`, `${VAR:default}` and `${file:name}` in the values of a document.
//!
//! Expanded in the tree and never in the text, so that a value can not bring YAML of its own.

use super::Problem;
use super::tree::{Node, Value};

/// Looks up one reference, the text between `${` and `}`; `Err` says why there is no value.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// Puts the values of variables into the texts of the tree; `$${` stands for a plain `${`.
pub fn expand(node: &mut Node, lookup: Lookup<'_>, problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => match expand_text(text, lookup) {
            Ok((expanded, used)) => {
                *text = expanded;
                node.secret = used;
            }
            Err(message) => {
                problems.push(Problem { place: node.place, path: String::new(), message });
                node.value = Value::Unset;
            }
        },
        Value::Seq(nodes) => nodes.iter_mut().for_each(|n| expand(n, lookup, problems)),
        Value::Map(pairs) => pairs.iter_mut().for_each(|(_, _, n)| expand(n, lookup, problems)),
        _ => {}
    }
}

fn expand_text(text: &str, lookup: Lookup<'_>) -> Result<(String, bool), String> {
    let (mut out, mut rest, mut used) = (String::new(), text, false);
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(plain) = before.strip_suffix('$') {
            out.push_str(plain);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (name, after) =
            after.split_once('}').ok_or_else(|| format!("`${{{after}` has no closing `}}`"))?;
        out.push_str(&lookup(name)?);
        used = true;
        rest = after;
    }
    out.push_str(rest);
    Ok((out, used))
}

/// The usual lookup: environment variables through `env`, files through `read`.
pub fn lookup<'a>(
    env: impl Fn(&str) -> Option<String> + 'a,
    read: impl Fn(&str) -> std::io::Result<String> + 'a,
) -> impl Fn(&str) -> Result<String, String> + 'a {
    move |reference| {
        if let Some(name) = reference.strip_prefix("file:") {
            return read(name)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("cannot read `${{file:{name}}}`: {error}"));
        }
        let (name, default) = match reference.split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(valid) {
            return Err(format!(
                "`${{{reference}}}` is not a variable: write ${{NAME}}, ${{NAME:default}} or ${{file:path}}"
            ));
        }
        env(name)
            .or_else(|| default.map(str::to_owned))
            .ok_or_else(|| format!("variable `{name}` is not set; set it, or write ${{{name}:default}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_defaults_files_and_escapes_expand() {
        let env = |name: &str| (name == "A").then(|| "1".to_owned());
        let read = |name: &str| match name {
            "key" => Ok("secret\n".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        let look = lookup(env, read);
        let check = |given: &str| expand_text(given, &look).map(|(text, _)| text);
        assert_eq!(check("x${A}y${B:two}").as_deref(), Ok("x1ytwo"));
        assert_eq!(check("${file:key}").as_deref(), Ok("secret"));
        assert_eq!(check("$${A}").as_deref(), Ok("${A}"));
        assert!(check("${B}").unwrap_err().contains("`B` is not set"));
        assert!(check("${B").unwrap_err().contains("no closing"));
        assert!(check("${file:other}").unwrap_err().contains("file:other"));
        assert!(check("${a b}").unwrap_err().contains("not a variable"));
    }
}
