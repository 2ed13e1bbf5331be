//! The surroundings of a check: files that exist already, whose names are in use, and the files as
//! they were before, of which some environments must not be deleted.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckedFile, Holds, fault};
use crate::claims::{Claim, Seniority};
use crate::definition_file;
use crate::environment_file::ParsedEnvironments;
use crate::names::{EnvironmentName, ServiceName};
use crate::records::Environment;

/// How many of the environments that extend one are named.
const NAMED: usize = 10;

/// Files that are not checked themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// Files of environments that are there beside the checked ones.
    pub beside: &'a [(String, ParsedEnvironments)],
    /// Files of service definitions likewise.
    pub definitions_beside: &'a [(String, definition_file::ParsedDefinitions)],
    /// Files of environments whose place the checked ones take.
    pub before: &'a [(String, ParsedEnvironments)],
    /// Files of service definitions likewise.
    pub definitions_before: &'a [(String, definition_file::ParsedDefinitions)],
}

/// The environments of before, to know who has had a name, prefix or header and who claims it only
/// now.
pub(super) struct ClaimsBefore<'a> {
    before: BTreeMap<&'a EnvironmentName, (&'a str, &'a Environment)>,
    /// Which of them are still in their file.
    at_home: BTreeSet<&'a EnvironmentName>,
}

impl<'a> ClaimsBefore<'a> {
    pub(super) fn of(
        before: &'a [(String, ParsedEnvironments)],
        now: &[&'a (String, ParsedEnvironments)],
    ) -> Self {
        let before: BTreeMap<_, _> = before.iter().flat_map(entries).collect();
        let is_home = |(name, (file, _)): &(&EnvironmentName, (&str, &Environment))| {
            before.get(name).is_some_and(|(home, _)| home == file)
        };
        let now = now.iter().flat_map(|file| entries(file));
        let at_home = now.filter(is_home).map(|(name, _)| name).collect();
        Self { before, at_home }
    }

    pub(super) fn seniority(&self, file: &str, environment: &Environment) -> Seniority {
        Seniority::of(
            self.before.get(&environment.name).copied(),
            base(file),
            environment,
        )
    }

    /// Whether an environment had before what it claims. A copy in another file is not the one that
    /// had it.
    pub(super) fn had(&self, claim: &Claim, file: &str, environment: &Environment) -> bool {
        let name = &environment.name;
        self.before.get(name).is_some_and(|(home, had)| {
            let is_home = *home == base(file);
            claim.is_of(had) && (is_home || !self.at_home.contains(name))
        })
    }
}

fn entries(
    (file, parsed): &(String, ParsedEnvironments),
) -> impl Iterator<Item = (&EnvironmentName, (&str, &Environment))> {
    let environments = parsed.entries.iter().map(|found| &found.environment);
    environments.map(move |environment| (&environment.name, (base(file), environment)))
}

/// The services that files of before define, each with the file.
pub(super) fn homes(
    before: &[(String, definition_file::ParsedDefinitions)],
) -> BTreeSet<(&ServiceName, &str)> {
    let defined = before.iter().flat_map(|(file, parsed)| {
        let names = parsed.entries.iter().map(|found| &found.definition.name);
        names.map(move |name| (name, base(file)))
    });
    defined.collect()
}

/// The name of a file in its directory.
pub(super) fn base(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

/// The files of before that hold environments which must not go: those that others extend, and
/// protected ones. `now` is all that is there afterwards.
pub(super) fn lost(
    before: &[(String, ParsedEnvironments)],
    now: &[&(String, ParsedEnvironments)],
) -> Vec<CheckedFile> {
    let mut there = BTreeSet::new();
    let mut heirs: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (file, found) in now
        .iter()
        .flat_map(|(file, parsed)| parsed.entries.iter().map(move |e| (file, e)))
    {
        let environment = &found.environment;
        there.insert(&environment.name);
        if let Some(parent) = &environment.extends {
            let heir = format!("{} ({file}:{})", environment.name, found.name.line);
            heirs.entry(parent).or_default().push(heir);
        }
    }
    let faulty: Vec<_> = now
        .iter()
        .filter(|(_, parsed)| !parsed.faults.is_empty())
        .collect();
    let mut files = Vec::new();
    for (file, parsed) in before {
        let mut faults = Vec::new();
        for found in &parsed.entries {
            let name = &found.environment.name;
            // Where a file has a fault of its own, that is reported.
            if there.contains(name) || faulty.iter().any(|(_, parsed)| parsed.may_hold(name)) {
                continue;
            }
            let shown = name.as_str();
            let message = if let Some(heirs) = heirs.get(name) {
                format!(
                    "environment {shown:?} is deleted, but others extend it: {}: let these \
                     environments extend another one first",
                    listed(heirs)
                )
            } else if found.environment.protected {
                format!(
                    "environment {shown:?} is deleted, but is protected: write `protected: \
                     false` first"
                )
            } else {
                continue;
            };
            faults.push(fault(name, found.name, "name", message));
        }
        if !faults.is_empty() {
            let names = parsed.entries.iter().map(|found| found.environment.name.clone());
            files.push(CheckedFile {
                file: file.clone(),
                holds: Holds::Environments(names.collect()),
                faults,
            });
        }
    }
    files
}

fn listed(texts: &[String]) -> String {
    let mut list = texts[..texts.len().min(NAMED)].join(", ");
    if texts.len() > NAMED {
        list += &format!(" and {} more", texts.len() - NAMED);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment_file;
    use crate::lint::{Checked, check_among};
    use crate::outside::AddressRule;

    fn parsed(texts: &[(&str, &str)]) -> Vec<(String, ParsedEnvironments)> {
        let read = |(name, text): &(&str, &str)| (name.to_string(), environment_file::parse(text.as_bytes()));
        texts.iter().map(read).collect()
    }

    fn checked(files: &[(&str, &str)], beside: &[(&str, &str)], before: &[(&str, &str)]) -> Checked {
        let around = Around {
            beside: &parsed(beside),
            before: &parsed(before),
            ..Around::default()
        };
        check_among(&parsed(files), &[], around, &AddressRule::off())
    }

    #[test]
    fn what_is_taken_beside_is_reported_at_the_checked_file_only() {
        let beside = [
            ("/etc/z/prod.yaml", "# of the operator\nname: prod\nprefix: www"),
            ("/etc/z/broken.yaml", "nmae: [\n"),
            ("/etc/z/twice.yaml", "name: prod"),
        ];
        let files = [
            ("aaa.yaml", "{name: a, prefix: www}"),
            ("b.yaml", "{name: b, extends: prod}"),
        ];
        let expected = "aaa.yaml:1:19: prefix: prefix \"www\" is taken at /etc/z/prod.yaml:3: each \
            can be used only once\nb.yaml: ok, 1 environment\n1 fault in 1 of 2 files\n";
        assert_eq!(checked(&files, &beside, &[]).text(), expected);
        let circle = checked(&files[1..], &[("p.yaml", "{name: prod, extends: b}")], &[]);
        assert!(circle.faults == 1 && circle.text().starts_with("b.yaml:1:8: extends: b -> prod -> b"));
    }

    #[test]
    fn who_was_there_before_is_not_blamed_for_what_a_rival_claims() {
        let before = [("prod.yaml", "{name: prod, prefix: www}"), ("b.yaml", "name: b")];
        let blamed = |files: &[(&str, &str)]| {
            let text = checked(files, &[], &before).text();
            text.lines().next().unwrap().to_owned()
        };
        let [prod, b] = before;
        for (rival, expected) in [
            // A new one, one that changes, a copy, all in files whose names come first.
            (
                ("aaa.yaml", "{name: aaa, prefix: www}"),
                "aaa.yaml:1:21: prefix: prefix \"www\" is taken at prod.yaml:1",
            ),
            (
                ("aaa.yaml", "{name: aaa, header: prod}"),
                "aaa.yaml:1:21: header: header \"prod\" is taken at prod.yaml:1",
            ),
            (
                ("aaa.yaml", "{name: aaa, prefix: www, protected: true}"),
                "aaa.yaml:1:21: prefix: ",
            ),
            (
                ("a copy.yaml", "{name: prod, prefix: www}"),
                "a copy.yaml:1:8: name: name \"prod\" is taken at prod.yaml:1",
            ),
        ] {
            let found = blamed(&[rival, prod, b]);
            assert!(found.starts_with(expected), "{found}");
        }
        let found = blamed(&[("b.yaml", "{name: b, prefix: www}"), prod]);
        assert!(found.starts_with("b.yaml:1:19: prefix: "), "{found}");
        // It keeps its prefix although its header changes, or its file.
        for holder in [
            ("prod.yaml", "{name: prod, prefix: www, header: new}"),
            ("z.yaml", "{name: prod, prefix: www}"),
        ] {
            let found = blamed(&[("b.yaml", "{name: b, prefix: www}"), holder]);
            let expected = format!("b.yaml:1:19: prefix: prefix \"www\" is taken at {}:1", holder.0);
            assert!(found.starts_with(&expected), "{found}");
        }
        // What one gives up, another may have.
        assert_eq!(
            checked(
                &[("a.yaml", "{name: a, prefix: www}"), ("prod.yaml", "name: prod")],
                &[],
                &before
            )
            .faults,
            0
        );
    }

    #[test]
    fn a_protected_one_has_not_what_is_beside() {
        let beside = [("/etc/z/z.yaml", "{name: z, prefix: www}")];
        let found = checked(
            &[("a.yaml", "{name: a, prefix: www, protected: true}")],
            &beside,
            &[],
        )
        .text();
        assert!(
            found.starts_with("a.yaml:1:19: prefix: prefix \"www\" is taken at /etc/z/z.yaml:1"),
            "{found}"
        );
    }

    #[test]
    fn a_service_that_was_defined_before_is_not_blamed() {
        let parse = |file: &str| {
            let text = "{name: a, image: 'a:{{ version }}', port: 80}";
            (file.to_owned(), definition_file::parse(text.as_bytes()))
        };
        let around = Around {
            definitions_before: &[parse("services/z.yaml")],
            ..Around::default()
        };
        let files = [parse("services/a.yaml"), parse("services/z.yaml")];
        let checked = check_among(&[], &files, around, &AddressRule::off());
        let expected = "services/a.yaml:1:8: name: service \"a\" is taken at services/z.yaml:1";
        assert!(checked.text().starts_with(expected), "{}", checked.text());
    }

    #[test]
    fn a_service_that_is_defined_beside_is_taken() {
        let parse = |file: &str| {
            let text = "{name: a, image: 'a:{{ version }}', port: 80}";
            vec![(file.to_owned(), definition_file::parse(text.as_bytes()))]
        };
        let around = Around {
            definitions_beside: &parse("/etc/z/services/z.yaml"),
            ..Around::default()
        };
        let checked = check_among(&[], &parse("services/a.yaml"), around, &AddressRule::off());
        let expected = "services/a.yaml:1:8: name: service \"a\" is taken at /etc/z/services/z.yaml:1";
        assert!(checked.text().starts_with(expected), "{}", checked.text());
    }

    #[test]
    fn what_others_extend_and_what_is_protected_must_not_go() {
        let before = [
            ("dev.yaml", "- name: dev\n- name: qa\n- {name: old}"),
            ("prod.yaml", "{name: prod, protected: true}"),
        ];
        let files = [(
            "temp.yaml",
            "- {name: t1, extends: dev}\n- {name: t2, extends: dev}",
        )];
        let beside = [("/etc/z/own.yaml", "{name: own, extends: qa}")];
        let expected = "temp.yaml: ok, 2 environments\n\
            dev.yaml:1:9: name: environment \"dev\" is deleted, but others extend it: t1 (temp.yaml:1), t2 \
            (temp.yaml:2): let these environments extend another one first\n\
            dev.yaml:2:9: name: environment \"qa\" is deleted, but others extend it: own (/etc/z/own.yaml:1): let these environments extend another one first\n\
            prod.yaml:1:8: name: environment \"prod\" is deleted, but is protected: write `protected: false` first\n\
            3 faults in 2 of 3 files\n";
        assert_eq!(checked(&files, &beside, &before).text(), expected);
        // All of them, to the last.
        assert_eq!(checked(&[], &[], &before).faults, 1);
    }

    #[test]
    fn what_moves_changes_or_is_in_a_faulty_file_has_not_gone() {
        let before = [
            ("dev.yaml", "name: dev"),
            ("prod.yaml", "{name: prod, protected: true}"),
        ];
        let heir = ("t.yaml", "{name: t, extends: dev}");
        for now in [
            ("all.yaml", "- name: dev\n- {name: prod}"),
            (
                "dev.yaml",
                "- {name: dev, owner: me}\n- {name: prod, prefix: '?'}",
            ),
            ("dev.yaml", "["),
        ] {
            let found = checked(&[now, heir], &[], &before).text();
            assert!(!found.contains("goes"), "{found}");
        }
        let moved = [("/etc/z/own.yaml", "- name: dev\n- name: prod")];
        assert_eq!(checked(&[heir], &moved, &before).faults, 0);
    }

    #[test]
    fn of_many_heirs_some_are_named() {
        let text: String = (0..13)
            .map(|n| format!("- {{name: t{n}, extends: dev}}\n"))
            .collect();
        let found = checked(&[("t.yaml", text.as_str())], &[], &[("dev.yaml", "name: dev")]).text();
        assert!(
            found.contains("t9 (t.yaml:10) and 3 more: let these environments"),
            "{found}"
        );
    }
}
