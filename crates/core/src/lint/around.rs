//! What is around the files of a check: files that are there already, whose names are taken, and
//! files as they were before, of which some environments must not go.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckedFile, Holds, fault};
use crate::definition_file;
use crate::environment_file::Parsed;

/// How many of the environments that extend one are named.
const NAMED: usize = 10;

/// Files that are not checked themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// Files of environments that are there beside the checked ones.
    pub beside: &'a [(String, Parsed)],
    /// Files of service definitions likewise.
    pub definitions_beside: &'a [(String, definition_file::Parsed)],
    /// Files of environments whose place the checked ones take.
    pub before: &'a [(String, Parsed)],
}

/// The files of before that hold environments which must not go: those that others extend, and
/// protected ones. `now` is all that is there afterwards.
pub(super) fn lost(before: &[(String, Parsed)], now: &[&(String, Parsed)]) -> Vec<CheckedFile> {
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
            // Where a file has a fault of its own, that is told.
            if there.contains(name) || faulty.iter().any(|(_, parsed)| parsed.may_hold(name)) {
                continue;
            }
            let shown = name.as_str();
            let message = if let Some(heirs) = heirs.get(name) {
                format!(
                    "environment {shown:?} goes, but others extend it: {}: let them extend another one first",
                    listed(heirs)
                )
            } else if found.environment.protected {
                format!("environment {shown:?} goes, but is protected: write protected: false first")
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

    fn parsed(texts: &[(&str, &str)]) -> Vec<(String, Parsed)> {
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
    fn what_is_taken_beside_is_told_at_the_checked_file_only() {
        let beside = [
            ("/etc/z/prod.yaml", "# of the operator\nname: prod\nprefix: www"),
            ("/etc/z/broken.yaml", "nmae: [\n"),
            ("/etc/z/twice.yaml", "name: prod"),
        ];
        let files = [
            ("aaa.yaml", "{name: a, prefix: www}"),
            ("b.yaml", "{name: b, extends: prod}"),
        ];
        let expected = "aaa.yaml:1:19: prefix: prefix \"www\" is taken at /etc/z/prod.yaml:3: each may occur \
                        once\nb.yaml: ok, 1 environment\n1 fault in 1 of 2 files\n";
        assert_eq!(checked(&files, &beside, &[]).text(), expected);
        let circle = checked(&files[1..], &[("p.yaml", "{name: prod, extends: b}")], &[]);
        assert!(circle.faults == 1 && circle.text().starts_with("b.yaml:1:8: extends: b -> prod -> b"));
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
            dev.yaml:1:9: name: environment \"dev\" goes, but others extend it: t1 (temp.yaml:1), t2 \
            (temp.yaml:2): let them extend another one first\n\
            dev.yaml:2:9: name: environment \"qa\" goes, but others extend it: own (/etc/z/own.yaml:1): let \
            them extend another one first\n\
            prod.yaml:1:8: name: environment \"prod\" goes, but is protected: write protected: false first\n\
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
        assert!(found.contains("t9 (t.yaml:10) and 3 more: let them"), "{found}");
    }
}
