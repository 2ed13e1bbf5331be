//! The tree keeps its shape: every module says in a head comment what it is for, none passes 600
//! lines, and modules do not import each other in a circle.
//!
//! The rule for circles: a module and everything below it are one thing, so a child may use what its
//! parent has, and a parent its children. Of the modules that stand side by side, none may need
//! itself by way of the others, whatever part of it does. Tests may use anything. What counts is
//! each path from `crate`, `super` or `self`.

// A test that cannot read the tree fails.
#![allow(clippy::unwrap_used)]

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sources::{Sources, product, sources};

/// The most lines of a file.
const MOST_LINES: usize = 600;

/// What a module is called: nothing for the root of a crate.
type Name = Vec<String>;

#[test]
fn every_module_has_a_head_comment() {
    assert_eq!(without_head(&sources()), [] as [String; 0]);
}

#[test]
fn no_module_is_too_long() {
    assert_eq!(too_long(&sources()), [] as [String; 0]);
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    assert_eq!(circles(&sources()), [] as [String; 0]);
}

#[test]
fn each_fault_is_found() {
    let planted = |files: &[(&str, &str)]| -> Sources {
        let of = |(path, text): &(&str, &str)| (PathBuf::from(path), (*text).to_owned());
        files.iter().map(of).collect()
    };
    let head = planted(&[("src/a.rs", "//! Good.\n"), ("src/b.rs", "use std::fmt;\n")]);
    assert_eq!(without_head(&head), ["src/b.rs"]);
    let long = planted(&[("src/a.rs", &"\n".repeat(600)), ("src/b.rs", &"\n".repeat(601))]);
    assert_eq!(too_long(&long), ["src/b.rs: 601 lines"]);
    for (files, expected) in [
        // Children and parents are one thing, whatever the tests of a module use.
        (
            &[
                ("src/lib.rs", "mod a;\npub use a::b::B;"),
                ("src/a.rs", "mod b;\nuse self::b::B;"),
                (
                    "src/a/b.rs",
                    "use super::A;\nuse crate::B;\n#[cfg(test)]\nmod tests {\n    use crate::c::C;\n}",
                ),
                (
                    "src/c.rs",
                    "// crate::b::B\nuse crate::a::{\n    A,\n    b::B,\n};",
                ),
            ][..],
            &[][..],
        ),
        (
            &[
                ("src/a.rs", "use crate::{b::B, c};"),
                ("src/b.rs", "super::a::f()"),
                ("src/c.rs", ""),
            ],
            &["src: a -> b -> a"],
        ),
        // By way of a part, and of a third.
        (
            &[
                ("src/a.rs", "mod b;"),
                ("src/a/b.rs", "use crate::c::*;"),
                ("src/c/mod.rs", "fn f(d: &crate::d::D) {}"),
                ("src/d.rs", "use super::{a as x};"),
            ],
            &["src: a -> c -> d -> a"],
        ),
        (
            &[
                ("src/a/b.rs", "use super::c;"),
                ("src/a/c.rs", "use super::b::d::D;"),
                ("src/a/b/d.rs", ""),
            ],
            &["src: a::b -> a::c -> a::b"],
        ),
    ] {
        assert_eq!(circles(&planted(files)), expected, "{files:?}");
    }
}

fn without_head(sources: &Sources) -> Vec<String> {
    let bad = sources.iter().filter(|(_, text)| !text.starts_with("//! "));
    bad.map(|(path, _)| path.display().to_string()).collect()
}

fn too_long(sources: &Sources) -> Vec<String> {
    let counted = sources.iter().map(|(path, text)| (path, text.lines().count()));
    let bad = counted.filter(|(_, lines)| *lines > MOST_LINES);
    bad.map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect()
}

/// One circle of each crate and each place in its tree, where there is one.
fn circles(sources: &Sources) -> Vec<String> {
    let mut crates: BTreeMap<String, BTreeMap<Name, String>> = BTreeMap::new();
    for (path, text) in sources {
        if let Some((root, name)) = module(path) {
            crates.entry(root).or_default().insert(name, product(text));
        }
    }
    let mut found = Vec::new();
    for (root, modules) in crates {
        let mut edges: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
        let mut used = BTreeSet::new();
        for (name, text) in &modules {
            let paths = paths(text).into_iter();
            used.extend(paths.filter_map(|path| Some((name, resolve(&modules, name, &path)?))));
        }
        for (from, to) in used {
            let common = from
                .iter()
                .zip(to)
                .take_while(|(one, other)| one == other)
                .count();
            // Neither is above the other.
            if common < from.len() && common < to.len() {
                edges.entry(&from[..=common]).or_default().insert(&to[..=common]);
            }
        }
        let mut told = BTreeSet::new();
        for start in edges.keys() {
            if let Some(circle) = way(&edges, start, start).filter(|_| !told.contains(start)) {
                let names: Vec<String> = circle.iter().map(|name| name.join("::")).collect();
                found.push(format!("{root}: {}", names.join(" -> ")));
                told.extend(circle);
            }
        }
    }
    found
}

/// The crate of a file, by the folder of its root, and the module's name. Nothing for tests, and for
/// programs of one file.
fn module(path: &Path) -> Option<(String, Name)> {
    let path = path.with_extension("");
    let mut parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let src = parts.iter().position(|part| *part == "src")?;
    let root = match parts.get(src + 1) {
        Some(&"bin") => src + 3,
        _ => src + 1,
    };
    if parts.contains(&"tests") || parts.len() <= root {
        return None;
    }
    if parts.last() == Some(&"mod") || parts.len() == root + 1 && ["lib", "main"].contains(&parts[root]) {
        parts.pop();
    }
    let name = parts[root..].iter().map(|part| (*part).to_owned()).collect();
    Some((parts[..root].join("/"), name))
}

/// Every path that begins in a known place.
fn paths(text: &str) -> Vec<Name> {
    let mut all = Vec::new();
    for (at, _) in text.match_indices("::") {
        let begin = text[..at]
            .rfind(|letter: char| !is_of_a_word(letter))
            .map_or(0, |at| at + 1);
        let known = ["crate", "super", "self"].contains(&&text[begin..at]);
        if known && !text[..begin].ends_with("::") {
            path(&text[begin..], &Name::new(), &mut all);
        }
    }
    all
}

/// Reads one path, or with braces several; gives what stands after it.
fn path<'t>(text: &'t str, before: &Name, all: &mut Vec<Name>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut list) = text.strip_prefix('{') {
        loop {
            let rest = path(list, before, all);
            // After a name there can be `as another`.
            let Some(end) = rest.find([',', '}', ';']) else {
                return "";
            };
            list = &rest[end + 1..];
            if !rest[end..].starts_with(',') || list.trim_start().starts_with('}') {
                return list.trim_start().trim_start_matches('}');
            }
        }
    }
    let end = text
        .find(|letter: char| !is_of_a_word(letter))
        .unwrap_or(text.len());
    let mut name = before.clone();
    name.push(text[..end].to_owned());
    match text[end..].strip_prefix("::") {
        Some(rest) => path(rest, &name, all),
        None => {
            all.push(name);
            &text[end..]
        }
    }
}

fn is_of_a_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The module that a path in another module leads to, or into.
fn resolve<'m>(modules: &'m BTreeMap<Name, String>, from: &Name, path: &Name) -> Option<&'m Name> {
    let up = path.iter().take_while(|part| *part == "super").count();
    let mut name = match path[0].as_str() {
        "crate" => Name::new(),
        _ => from[..from.len().checked_sub(up)?].to_vec(),
    };
    for part in path.iter().skip(up.max(1)) {
        name.push(part.clone());
        if !modules.contains_key(&name) {
            name.pop();
            break;
        }
    }
    modules.get_key_value(&name).map(|(name, _)| name)
}

/// The shortest way along the edges, both ends included.
fn way<'m>(
    edges: &BTreeMap<&'m [String], BTreeSet<&'m [String]>>,
    from: &'m [String],
    to: &[String],
) -> Option<Vec<&'m [String]>> {
    let mut ways = vec![vec![from]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in edges.get(way.last()?).into_iter().flatten().copied() {
                let mut way = way.clone();
                way.push(next);
                if next == to {
                    return Some(way);
                }
                if seen.insert(next) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}
