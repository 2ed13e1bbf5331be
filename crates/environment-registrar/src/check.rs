//! The command `check`: says what is wrong with files, without etcd. Besides the faults of each file it finds what the
//! given files can't have together: a name, prefix or header twice, and environments that extend each other in a circle
//! or over too many levels.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use mayfly_core::environment_file::{self, Parsed, SIZE_LIMIT, too_long};
use mayfly_core::names::EnvironmentName;
use mayfly_core::yaml::Mark;

use crate::scan::{self, Content};

/// Most environments that one can inherit from, one through the other.
const LEVELS: usize = 3;

/// Checks files and prints the outcome to standard output. The exit code is 1 if there is a fault.
///
/// # Errors
/// When the outcome can't be printed.
pub fn run(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let texts: Vec<(String, Parsed)> = expand(files)
        .into_iter()
        .map(|path| (shown(&path), read(&path)))
        .collect();
    let checked = check(&texts);
    let mut out = io::stdout().lock();
    out.write_all(checked.text.as_bytes())
        .context("cannot print the outcome")?;
    Ok(if checked.faults == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The files, with the environment files of each directory in its place.
fn expand(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        let entries = if path.is_dir() { path.read_dir().ok() } else { None };
        let Some(entries) = entries else {
            files.push(path.clone());
            continue;
        };
        let is_one = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| scan::is_environment_file(&name.to_string_lossy()))
        };
        let mut inside: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(is_one)
            .collect();
        inside.sort();
        files.append(&mut inside);
    }
    files
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") {
        "(standard input)".to_owned()
    } else {
        path.display().to_string()
    }
}

fn read(path: &Path) -> Parsed {
    if path == Path::new("-") {
        let mut content = Vec::new();
        return match io::stdin().lock().take(SIZE_LIMIT + 1).read_to_end(&mut content) {
            Ok(_) if content.len() as u64 > SIZE_LIMIT => {
                Parsed::unreadable(Mark::START, too_long(content.len() as u64))
            }
            Ok(_) => environment_file::parse(&content),
            Err(error) => Parsed::unreadable(Mark::START, format!("cannot be read: {error}")),
        };
    }
    let (directory, name) = (
        path.parent().unwrap_or(Path::new("")),
        path.file_name().unwrap_or_default(),
    );
    match scan::look(directory, &name.to_string_lossy()).map(|found| found.content) {
        Some(Content::Octets(content)) => environment_file::parse(&content),
        Some(Content::Unreadable(reason)) => Parsed::unreadable(Mark::START, reason),
        None => Parsed::unreadable(Mark::START, "there is no such file"),
    }
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What to print: a line for each fault, one for each good file, and a summary.
    pub text: String,
    /// How many faults there are.
    pub faults: usize,
}

/// Checks files that have been read, given with their names as they are to be shown.
pub fn check(files: &[(String, Parsed)]) -> Checked {
    let across = across(files);
    let mut checked = Checked {
        text: String::new(),
        faults: 0,
    };
    let mut bad_files = 0;
    for (index, (file, parsed)) in files.iter().enumerate() {
        let own = parsed
            .faults
            .iter()
            .map(|fault| (fault.mark, fault.field.as_str(), fault.message.as_str()));
        let others = across.iter().filter(|clash| clash.file == index);
        let mut faults: Vec<_> = own
            .chain(others.map(|clash| (clash.mark, clash.field, clash.message.as_str())))
            .collect();
        faults.sort_by_key(|(mark, ..)| *mark);
        for (mark, field, message) in &faults {
            let field = if field.is_empty() {
                String::new()
            } else {
                format!("{field}: ")
            };
            checked.text += &format!("{file}:{}:{}: {field}{message}\n", mark.line, mark.column);
        }
        if faults.is_empty() {
            checked.text += &format!(
                "{file}: ok, {}\n",
                counted(parsed.environments.len(), "environment")
            );
        } else {
            bad_files += 1;
        }
        checked.faults += faults.len();
    }
    if checked.faults > 0 {
        let (faults, all) = (counted(checked.faults, "fault"), counted(files.len(), "file"));
        checked.text += &format!("{faults} in {bad_files} of {all}\n");
    }
    checked
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A fault that only several files together have.
struct Clash {
    file: usize,
    mark: Mark,
    field: &'static str,
    message: String,
}

fn across(files: &[(String, Parsed)]) -> Vec<Clash> {
    let mut clashes = Vec::new();
    let mut taken: [BTreeMap<String, (usize, usize)>; 3] = Default::default();
    let mut parents: BTreeMap<&EnvironmentName, &EnvironmentName> = BTreeMap::new();
    let all = files
        .iter()
        .enumerate()
        .flat_map(|(file, (_, parsed))| parsed.environments.iter().map(move |e| (file, e)));
    for (file, found) in all.clone() {
        let environment = &found.environment;
        let claims = [
            ("name", environment.name.to_string(), found.name),
            ("prefix", environment.prefix.to_string(), found.prefix),
            ("header", environment.header.to_string(), found.header),
        ];
        for ((field, text, mark), taken) in claims.into_iter().zip(&mut taken) {
            match taken.get(&text) {
                Some((other, _)) if *other == file => {}
                Some((other, line)) => {
                    let place = format!("{}:{line}", files[*other].0);
                    let message = format!("{field} {text:?} is taken at {place}: each may occur once");
                    clashes.push(Clash {
                        file,
                        mark,
                        field,
                        message,
                    });
                    if field == "name" {
                        // Its defaults are taken too, then: that need not be said.
                        break;
                    }
                }
                None => {
                    taken.insert(text, (file, mark.line));
                }
            }
        }
        if let Some(parent) = &environment.extends {
            parents.entry(&environment.name).or_insert(parent);
        }
    }
    for (file, found) in all {
        if let Some(message) = lineage_fault(&found.environment.name, &parents) {
            clashes.push(Clash {
                file,
                mark: found.name,
                field: "extends",
                message,
            });
        }
    }
    clashes
}

/// What is wrong with the line of environments that one inherits from, as far as the files tell it.
fn lineage_fault(
    name: &EnvironmentName,
    parents: &BTreeMap<&EnvironmentName, &EnvironmentName>,
) -> Option<String> {
    let mut line = vec![name];
    while let Some(parent) = parents.get(line[line.len() - 1]) {
        let circle = line.contains(parent);
        line.push(parent);
        let path = || {
            line.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" -> ")
        };
        if circle {
            return Some(format!(
                "{}: environments can't extend each other in a circle",
                path()
            ));
        }
        if line.len() > LEVELS + 1 {
            return Some(format!("{}: at most {LEVELS} levels are followed", path()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_texts(texts: &[(&str, &str)]) -> Checked {
        let files: Vec<_> = texts
            .iter()
            .map(|(name, text)| (name.to_string(), environment_file::parse(text.as_bytes())))
            .collect();
        check(&files)
    }

    #[test]
    fn good_files_are_counted() {
        let checked = check_texts(&[
            ("a.yaml", "name: a"),
            ("b.yaml", "- name: b\n- {name: c, extends: a}"),
            ("e.yaml", ""),
        ]);
        let expected = "a.yaml: ok, 1 environment\nb.yaml: ok, 2 environments\ne.yaml: ok, 0 environments\n";
        assert_eq!(
            checked,
            Checked {
                text: expected.to_owned(),
                faults: 0
            }
        );
    }

    #[test]
    fn faults_have_a_line_each() {
        let checked = check_texts(&[("a.yaml", "name: a\nowner: me\n---\n["), ("b.yaml", "name: b")]);
        assert_eq!(checked.faults, 2);
        let lines: Vec<_> = checked.text.lines().collect();
        assert!(
            lines[0].starts_with("a.yaml:2:1: owner: unknown field: known are"),
            "{}",
            lines[0]
        );
        assert!(lines[1].starts_with("a.yaml:5:1: not YAML"), "{}", lines[1]);
        assert_eq!(
            lines[2..],
            ["b.yaml: ok, 1 environment", "2 faults in 1 of 2 files"]
        );
    }

    #[test]
    fn what_must_be_unique_is_so_over_all_files() {
        let checked = check_texts(&[
            ("a.yaml", "name: a\nheader: h"),
            ("b.yaml", "name: a"),
            ("c.yaml", "- {name: c, prefix: www-a}\n- {name: d, header: h}"),
        ]);
        let expected = "a.yaml: ok, 1 environment\n\
            b.yaml:1:7: name: name \"a\" is taken at a.yaml:1: each may occur once\n\
            c.yaml:1:21: prefix: prefix \"www-a\" is taken at a.yaml:1: each may occur once\n\
            c.yaml:2:21: header: header \"h\" is taken at a.yaml:2: each may occur once\n\
            3 faults in 2 of 3 files\n";
        assert_eq!(checked.text, expected);
    }

    #[test]
    fn lines_of_extends_end_and_are_short() {
        let chain = "- {name: a, extends: elsewhere}\n- {name: b, extends: a}\n- {name: c, extends: b}\n";
        assert_eq!(check_texts(&[("a.yaml", chain)]).faults, 0);
        let checked = check_texts(&[("a.yaml", chain), ("b.yaml", "{name: d, extends: c}")]);
        let expected = "b.yaml:1:8: extends: d -> c -> b -> a -> elsewhere: at most 3 levels are followed\n";
        assert!(
            checked.faults == 1 && checked.text.contains(expected),
            "{}",
            checked.text
        );
        let circle = check_texts(&[
            ("a.yaml", "{name: a, extends: b}"),
            ("b.yaml", "{name: b, extends: a}"),
        ]);
        assert_eq!(circle.faults, 2);
        assert!(
            circle
                .text
                .contains("a.yaml:1:8: extends: a -> b -> a: environments can't"),
            "{}",
            circle.text
        );
    }
}
