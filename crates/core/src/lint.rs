//! Finds the faults in files of environments and service definitions, without etcd: those of each
//! file, and conflicts between files (a name, prefix or header twice, a service defined twice,
//! environments that extend each other in a circle or over too many levels). It also finds
//! addresses that routers would refuse. The caller reads the files.

mod around;
mod parents;
mod services;

use crate::printable::printable;
use std::collections::BTreeMap;

pub use around::Around;
use around::ClaimsBefore;
use parents::unknown_parents;
use serde::Serialize;
use services::unknown_services;

use crate::claims::{Claim, Claims, Seniority, rank};
use crate::definition_file;
use crate::environment_file::{FoundEnvironment, NamedAddress, ParsedEnvironments};
use crate::file::{Fault, Subject};
use crate::names::{EnvironmentName, ServiceName};
use crate::outside::{AddressRule, MOST_OF_ONE};
use crate::records::EXTENDS_LIMIT;
use crate::shorten::counted;
use crate::yaml::Mark;

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The files, in the order in which they were given.
    pub files: Vec<CheckedFile>,
    /// How many faults there are.
    pub faults: usize,
    /// Notes beside the faults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// What is no fault, and worth a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// What it is about, as it is to be shown.
    pub file: String,
    /// The message.
    pub message: String,
}

/// A note about one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedFile {
    /// Its name, as it is to be shown.
    pub file: String,
    /// What it holds without a fault of its own, in its order.
    #[serde(flatten)]
    pub holds: Holds,
    /// What is wrong with it, in its order.
    pub faults: Vec<Fault>,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// Environments.
    Environments(Vec<EnvironmentName>),
    /// Definitions of these services.
    Definitions(Vec<ServiceName>),
}

impl Holds {
    /// How many of what, for people.
    fn counted(&self) -> String {
        match self {
            Self::Environments(names) => counted(names.len(), "environment"),
            Self::Definitions(names) => counted(names.len(), "definition"),
        }
    }
}

impl Checked {
    /// For people and for editors that jump to `file:line:column`: a line for each fault, one for
    /// each good file, and a summary if there is a fault.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut bad_files = 0;
        for CheckedFile { file, holds, faults } in &self.files {
            let file = printable(file);
            for Fault {
                mark, field, message, ..
            } in faults
            {
                let field = if field.is_empty() {
                    String::new()
                } else {
                    format!("{field}: ")
                };
                text += &format!("{file}:{}:{}: {field}{message}\n", mark.line, mark.column);
            }
            if faults.is_empty() {
                text += &format!("{file}: ok, {}\n", holds.counted());
            } else {
                bad_files += 1;
            }
        }
        for Note { file, message } in &self.notes {
            text += &format!("{}: note: {message}\n", printable(file));
        }
        if self.faults > 0 {
            let (faults, all) = (counted(self.faults, "fault"), counted(self.files.len(), "file"));
            text += &format!("{faults} in {bad_files} of {all}\n");
        }
        text
    }
}

/// Checks files that have been read, given with their names as they are to be shown: those of
/// environments, and those of definitions. The rule is that of the routers for addresses outside.
pub fn check(
    files: &[(String, ParsedEnvironments)],
    definitions: &[(String, definition_file::ParsedDefinitions)],
    rule: &AddressRule,
) -> Checked {
    check_among(files, definitions, Around::default(), rule)
}

/// As [`check`], with what is around the files: what that has is taken, and some of what it had
/// must not go. Its own faults are not reported.
pub fn check_among(
    files: &[(String, ParsedEnvironments)],
    definitions: &[(String, definition_file::ParsedDefinitions)],
    around: Around<'_>,
    rule: &AddressRule,
) -> Checked {
    let mut checked = Vec::with_capacity(files.len() + definitions.len());
    for (file, parsed) in files {
        let names = parsed.entries.iter().map(|found| found.environment.name.clone());
        checked.push(CheckedFile {
            file: file.clone(),
            holds: Holds::Environments(names.collect()),
            faults: parsed.faults.clone(),
        });
    }
    for (file, parsed) in definitions {
        let names = parsed.entries.iter().map(|found| found.definition.name.clone());
        checked.push(CheckedFile {
            file: file.clone(),
            holds: Holds::Definitions(names.collect()),
            faults: parsed.faults.clone(),
        });
    }
    // What is beside them comes first, and so has what it has.
    let all: Vec<_> = around.beside.iter().chain(files).collect();
    for (file, fault) in across(&all, around) {
        if let Some(file) = file.checked_sub(around.beside.len()) {
            checked[file].faults.push(fault);
        }
    }
    for (file, (_, parsed)) in files.iter().enumerate() {
        let faults = parsed
            .entries
            .iter()
            .flat_map(|found| refused_addresses(found, rule));
        checked[file].faults.extend(faults);
    }
    let all_definitions: Vec<_> = around.definitions_beside.iter().chain(definitions).collect();
    for (file, fault) in defined_twice(&all_definitions, around) {
        if let Some(file) = file.checked_sub(around.definitions_beside.len()) {
            checked[files.len() + file].faults.push(fault);
        }
    }
    checked.extend(around::lost(around.before, &all));
    for file in &mut checked {
        file.faults.sort_by_key(|fault| fault.mark);
    }
    let mut notes = unknown_parents(&all, around.beside.len());
    notes.extend(unknown_services(&all, around.beside.len(), &all_definitions));
    Checked {
        faults: checked.iter().map(|file| file.faults.len()).sum(),
        notes,
        files: checked,
    }
}

/// The faults that only several files of environments together have, each with the position of the
/// file in which it is reported.
fn across(files: &[&(String, ParsedEnvironments)], around: Around<'_>) -> Vec<(usize, Fault)> {
    let all = files
        .iter()
        .enumerate()
        .flat_map(|(file, (_, parsed))| parsed.entries.iter().map(move |found| (file, found)));
    let all: Vec<_> = all.collect();
    let past = ClaimsBefore::of(around.before, files);
    let mut claims = Claims::default();
    for (place, (file, found)) in all.iter().enumerate() {
        let (name, environment) = (files[*file].0.as_str(), &found.environment);
        let is_beside = *file < around.beside.len();
        let seniority = if is_beside {
            Seniority::Beside
        } else {
            past.seniority(name, environment)
        };
        let claimed = Claim::all_of(environment).map(|claim| {
            let had = is_beside || past.had(&claim, name, environment);
            (claim, had)
        });
        claims.put(place, rank(seniority, environment, name), claimed);
    }
    claims.settle();
    let mut faults = Vec::new();
    let mut parents: BTreeMap<&EnvironmentName, &EnvironmentName> = BTreeMap::new();
    for (place, (file, found)) in all.iter().enumerate() {
        let environment = &found.environment;
        let mut is_named = true;
        for (claim, rival) in claims.rivals(&place) {
            let (other, holder) = &all[*rival];
            let message = taken_at(
                claim.field(),
                claim.as_str(),
                &files[*other].0,
                mark(claim, holder).line,
            );
            faults.push((
                *file,
                fault(&environment.name, mark(claim, found), claim.field(), message),
            ));
            // If a name is taken, so are its defaults: that need not be reported.
            if let Claim::Name(_) = claim {
                is_named = false;
                break;
            }
        }
        if let Some(parent) = environment.extends.as_ref().filter(|_| is_named) {
            parents.insert(&environment.name, parent);
        }
    }
    for (file, found) in all {
        let name = &found.environment.name;
        if let Some(message) = lineage_fault(name, &parents) {
            faults.push((file, fault(name, found.name, "extends", message)));
        }
    }
    faults
}

/// Where a file makes a claim.
fn mark(claim: &Claim, found: &FoundEnvironment) -> Mark {
    match claim {
        Claim::Name(_) => found.name,
        Claim::Prefix(_) => found.prefix,
        Claim::Header(_) => found.header,
    }
}

/// The addresses of an environment that routers would set aside, whatever they resolve to, and the
/// first of too many.
fn refused_addresses(found: &FoundEnvironment, rule: &AddressRule) -> Vec<Fault> {
    let fault = |address: &NamedAddress, message: String| Fault {
        field: address.field.clone(),
        ..fault(&found.environment.name, address.mark, "", message)
    };
    let (refused, counting): (Vec<_>, Vec<_>) = found
        .addresses
        .iter()
        .map(|address| (address, rule.refuses(&address.upstream)))
        .partition(|(_, reason)| reason.is_some());
    let refused = refused
        .into_iter()
        .filter_map(|(address, reason)| Some(fault(address, reason?)));
    let over = counting.get(MOST_OF_ONE).map(|(address, _)| {
        let message = format!(
            "an environment may name at most {MOST_OF_ONE} addresses, and this one names {}: name \
             fewer",
            found.addresses.len()
        );
        fault(address, message)
    });
    refused.chain(over).collect()
}

/// The services that several files of definitions define, each with the position of the file in
/// which it is reported.
fn defined_twice(
    files: &[&(String, definition_file::ParsedDefinitions)],
    around: Around<'_>,
) -> Vec<(usize, Fault)> {
    let mut faults = Vec::new();
    let mut taken: BTreeMap<&ServiceName, (usize, usize)> = BTreeMap::new();
    let all = files
        .iter()
        .enumerate()
        .flat_map(|(file, (_, parsed))| parsed.entries.iter().map(move |e| (file, e)));
    let mut all: Vec<_> = all.collect();
    let homes = around::homes(around.definitions_before);
    all.sort_by_cached_key(|(file, found)| {
        let name = &files[*file].0;
        let is_beside = *file < around.definitions_beside.len();
        let is_home = homes.contains(&(&found.definition.name, around::base(name)));
        (!is_beside, !is_home, name)
    });
    for (file, found) in all {
        let name = &found.definition.name;
        let (other, line) = *taken.entry(name).or_insert((file, found.name.line));
        if other != file {
            faults.push((
                file,
                Fault {
                    mark: found.name,
                    field: "name".to_owned(),
                    message: taken_at("service", name.as_str(), &files[other].0, line),
                    subject: Some(Subject::Service(name.clone())),
                },
            ));
        }
    }
    faults
}

fn taken_at(what: &str, text: &str, file: &str, line: usize) -> String {
    format!("{what} {text:?} is taken at {file}:{line}: each can be used only once")
}

fn fault(environment: &EnvironmentName, mark: Mark, field: &str, message: String) -> Fault {
    Fault {
        mark,
        field: field.to_owned(),
        message,
        subject: Some(Subject::Environment(environment.clone())),
    }
}

/// What is wrong with the line of environments that one inherits from, as far as `parents` tells
/// it: a circle, or too many levels.
pub fn lineage_fault(
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
        if line.len() > EXTENDS_LIMIT + 1 {
            return Some(format!("{}: at most {EXTENDS_LIMIT} levels are followed", path()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment_file;

    fn check_texts(texts: &[(&str, &str)]) -> Checked {
        let files: Vec<_> = texts
            .iter()
            .map(|(name, text)| (name.to_string(), environment_file::parse(text.as_bytes())))
            .collect();
        check(&files, &[], &AddressRule::default())
    }

    #[test]
    fn a_parent_that_is_probably_misspelt_is_noted() {
        let checked = check_texts(&[
            ("a.yaml", "name: prod"),
            (
                "b.yaml",
                "- {name: qa, extends: prd}\n- {name: temp, extends: elsewhere}",
            ),
        ]);
        assert_eq!(checked.faults, 0);
        assert!(
            checked
                .text()
                .ends_with("b.yaml: note: qa extends `prd`, which no file has: did you mean `prod`?\n"),
            "{}",
            checked.text()
        );
        assert_eq!(checked.notes.len(), 1);
    }

    #[test]
    fn good_files_are_counted() {
        let checked = check_texts(&[
            ("a.yaml", "name: a"),
            ("b.yaml", "- name: b\n- {name: c, extends: a}"),
            ("e.yaml", "# none yet"),
        ]);
        let expected = "a.yaml: ok, 1 environment\nb.yaml: ok, 2 environments\ne.yaml: ok, 0 environments\n";
        assert_eq!((checked.text().as_str(), checked.faults), (expected, 0));
    }

    #[test]
    fn faults_have_a_line_each() {
        let checked = check_texts(&[("a.yaml", "name: a\nowner: me\n---\n["), ("b.yaml", "name: b")]);
        assert_eq!(checked.faults, 2);
        let text = checked.text();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("a.yaml:2:1: owner: unknown field: the known fields are"),
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
            b.yaml:1:7: name: name \"a\" is taken at a.yaml:1: each can be used only once\n\
            c.yaml:1:21: prefix: prefix \"www-a\" is taken at a.yaml:1: each can be used only once\n\
            c.yaml:2:21: header: header \"h\" is taken at a.yaml:2: each can be used only once\n\
            3 faults in 2 of 3 files\n";
        assert_eq!(checked.text(), expected);
    }

    #[test]
    fn a_protected_environment_has_what_a_rival_claims_whose_file_comes_first() {
        let prod = "{name: prod, prefix: www, protected: true}";
        let checked = check_texts(&[
            ("aaa.yaml", "{name: aaa, prefix: www, header: prod}"),
            ("prod.yaml", prod),
        ]);
        let expected = "aaa.yaml:1:21: prefix: prefix \"www\" is taken at prod.yaml:1: each can be used only once\n\
            aaa.yaml:1:34: header: header \"prod\" is taken at prod.yaml:1: each can be used only once\n\
            prod.yaml: ok, 1 environment\n2 faults in 1 of 2 files\n";
        assert_eq!(checked.text(), expected);
        // The order in which files are named means nothing to a registrar.
        let checked = check_texts(&[("b.yaml", "name: x"), ("a.yaml", "name: x")]);
        assert!(
            checked.text().starts_with("b.yaml:1:7: name: "),
            "{}",
            checked.text()
        );
    }

    #[test]
    fn who_does_not_get_all_that_it_claims_has_nothing() {
        let checked = check_texts(&[
            ("a.yaml", "{name: a, prefix: p}"),
            ("b.yaml", "{name: b, prefix: p, header: h}"),
            ("c.yaml", "{name: c, header: h}"),
        ]);
        let expected = "a.yaml: ok, 1 environment\n\
            b.yaml:1:19: prefix: prefix \"p\" is taken at a.yaml:1: each can be used only once\n\
            c.yaml: ok, 1 environment\n1 fault in 1 of 3 files\n";
        assert_eq!(checked.text(), expected);
    }

    #[test]
    fn lines_of_extends_end_and_are_short() {
        let chain = "- {name: a, extends: elsewhere}\n- {name: b, extends: a}\n- {name: c, extends: b}\n";
        assert_eq!(check_texts(&[("a.yaml", chain)]).faults, 0);
        let checked = check_texts(&[("a.yaml", chain), ("b.yaml", "{name: d, extends: c}")]);
        let expected = "b.yaml:1:8: extends: d -> c -> b -> a -> elsewhere: at most 3 levels are followed\n";
        assert!(
            checked.faults == 1 && checked.text().contains(expected),
            "{}",
            checked.text()
        );
        let circle = check_texts(&[
            ("a.yaml", "{name: a, extends: b}"),
            ("b.yaml", "{name: b, extends: a}"),
        ]);
        assert_eq!(circle.faults, 2);
        assert!(
            circle
                .text()
                .contains("a.yaml:1:8: extends: a -> b -> a: environments can't"),
            "{}",
            circle.text()
        );
    }

    #[test]
    fn addresses_that_routers_refuse_are_faults() {
        let text = "name: a\nservices:\n- {name: s, address: '127.0.0.1:2379'}\n- {name: t, address: 'b.internal:80'}\n";
        let checked = check_texts(&[("a.yaml", text)]);
        let expected = "a.yaml:3:22: services[0].address: 127.0.0.1:2379 is a loopback address, allowed only by \
                        an --allow-address within 127.0.0.0/8\n1 fault in 1 of 1 file\n";
        assert_eq!(checked.text(), expected);
        let files = [("a.yaml".to_owned(), environment_file::parse(text.as_bytes()))];
        let faults = |allowed: &[&str]| {
            let allowed = allowed.iter().map(|entry| entry.parse().unwrap()).collect();
            check(&files, &[], &AddressRule::new(allowed, [].into(), 9)).faults
        };
        assert_eq!(
            faults(&["127.0.0.1"]),
            0,
            "what the name resolves to is not known here"
        );
        assert_eq!(faults(&["127.0.0.1", "*.example"]), 0);
        assert_eq!(faults(&["*.example"]), 2);
        assert_eq!(check(&files, &[], &AddressRule::off()).faults, 0);
    }

    #[test]
    fn too_many_addresses_are_a_fault() {
        let services = |count: usize| -> String {
            (0..count)
                .map(|n| format!("\n- {{name: s{n}, address: '10.0.0.1:{}'}}", n + 1))
                .collect()
        };
        let text = |count| format!("name: a\nservices:{}", services(count));
        assert_eq!(check_texts(&[("a.yaml", &text(100))]).faults, 0);
        let checked = check_texts(&[("a.yaml", &text(300))]);
        assert_eq!(
            checked.text().lines().next().unwrap(),
            "a.yaml:103:25: services[100].address: an environment may name at most 100 addresses, and this one names 300: name fewer"
        );
        assert_eq!(checked.faults, 1);
    }

    #[test]
    fn a_service_may_be_defined_once() {
        let definition = |name: &str| format!("{{name: {name}, image: 'a:{{{{ version }}}}', port: 80}}");
        let texts = [
            ("services/a.yaml", definition("a")),
            (
                "services/b.yaml",
                format!("- {}\n- {}", definition("b"), definition("a")),
            ),
            ("services/c.yaml", "{name: c, ports: ['80:80']}".to_owned()),
        ];
        let parsed = texts.map(|(file, text)| (file.to_owned(), definition_file::parse(text.as_bytes())));
        let environments = [("a.yaml".to_owned(), environment_file::parse(b"name: a"))];
        let checked = check(&environments, &parsed, &AddressRule::default());
        let text = checked.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "a.yaml: ok, 1 environment",
                "services/a.yaml: ok, 1 definition",
                "services/b.yaml:2:10: name: service \"a\" is taken at services/a.yaml:1: each can \
                 be used only once"
            ]
        );
        assert!(
            lines[3].starts_with("services/c.yaml:1:1: image: missing"),
            "{}",
            lines[3]
        );
        let json = serde_json::to_value(&checked.files[2]).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "file": "services/b.yaml", "definitions": ["b", "a"], "faults": [
                    {"line": 2, "column": 10, "field": "name", "service": "a",
                     "message": "service \"a\" is taken at services/a.yaml:1: each can be used only once"},
                ],
            })
        );
    }

    #[test]
    fn programs_get_the_same_as_json() {
        let checked = check_texts(&[("a.yaml", "name: a"), ("b.yaml", "- name: a\n- {nmae: b}")]);
        let expected = serde_json::json!({
            "files": [
                {"file": "a.yaml", "environments": ["a"], "faults": []},
                {"file": "b.yaml", "environments": ["a"], "faults": [
                    {"line": 1, "column": 9, "field": "name", "environment": "a",
                     "message": "name \"a\" is taken at a.yaml:1: each can be used only once"},
                    {"line": 2, "column": 3, "field": "[1].name",
                     "message": "missing: every environment needs a name"},
                    {"line": 2, "column": 4, "field": "[1].nmae",
                     "message": "unknown field: did you mean `name`?"},
                ]},
            ],
            "faults": 3,
        });
        assert_eq!(serde_json::to_value(&checked).unwrap(), expected);
    }
}
