//! What doctor reports: findings, each with its cure; what could not be checked; and notes, which
//! are neither.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use clap::ValueEnum;
use mayfly_daemon::output::{Look, Tone, printable};
use serde::Serialize;

/// Something that doctor looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DoctorCheck {
    Prefix,
    Daemons,
    Versions,
    Haproxy,
    Certificates,
    Environments,
    Parents,
    Header,
    Archive,
    Clock,
    Engine,
    Names,
    Router,
    OutsideNames,
    Etcd,
}

impl fmt::Display for DoctorCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub check: DoctorCheck,
    #[serde(rename = "where")]
    pub place: String,
    pub what: String,
    pub cure: String,
}

/// A check that could not be made, in whole or in part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unchecked {
    pub check: DoctorCheck,
    pub why: String,
}

#[derive(Debug, Default, Serialize)]
pub struct Examination {
    pub findings: Vec<Finding>,
    pub unchecked: Vec<Unchecked>,
    pub notes: Vec<String>,
    pub ignored: Vec<DoctorCheck>,
}

impl Examination {
    /// Nothing yet. Nothing will be said of these checks.
    pub fn ignoring(checks: &[DoctorCheck]) -> Self {
        Self {
            ignored: checks.to_vec(),
            ..Self::default()
        }
    }

    /// Whether nothing is said of a check.
    pub fn ignores(&self, check: DoctorCheck) -> bool {
        self.ignored.contains(&check)
    }

    pub fn push(
        &mut self,
        check: DoctorCheck,
        place: impl Into<String>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) {
        if !self.ignores(check) {
            self.findings.push(Finding {
                check,
                place: place.into(),
                what: what.into(),
                cure: cure.into(),
            });
        }
    }

    /// Adds what could not be checked.
    pub fn cannot(&mut self, check: DoctorCheck, why: impl Into<String>) {
        if !self.ignores(check) {
            let why = why.into();
            self.unchecked.push(Unchecked { check, why });
        }
    }

    /// Brings all of it into its order.
    pub fn sort(&mut self) {
        self.findings.sort();
        self.findings.dedup();
        self.unchecked.sort();
        self.unchecked.dedup();
        self.ignored.sort();
        self.ignored.dedup();
    }

    /// What the program ends with.
    pub fn exit_code(&self) -> u8 {
        match (self.findings.is_empty(), self.unchecked.is_empty()) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 0,
        }
    }

    /// All of it for people. The last line is the sum.
    pub fn text(&self, look: Look) -> String {
        let mut text = String::new();
        for Finding {
            check,
            place,
            what,
            cure,
        } in &self.findings
        {
            let head = look.paint(Tone::Bad, &check.to_string());
            let (place, what, cure) = (printable(place), printable(what), printable(cure));
            text += &format!("{head}: {place}: {what}\n  cure: {cure}\n");
        }
        // One reason often concerns several checks.
        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for Unchecked { check, why } in &self.unchecked {
            reasons.entry(why).or_default().push(check.to_string());
        }
        for (why, checks) in reasons {
            let head = look.paint(Tone::Pending, "not checked");
            text += &format!("{head}: {}: {}\n", checks.join(", "), printable(why));
        }
        for note in &self.notes {
            text += &format!("note: {}\n", printable(note));
        }
        if !self.ignored.is_empty() {
            let names: Vec<String> = self.ignored.iter().map(DoctorCheck::to_string).collect();
            text += &format!("ignored: {}\n", names.join(", "));
        }
        text + &self.sum(look) + "\n"
    }

    fn sum(&self, look: Look) -> String {
        let counted = |count: usize, one: &str, more: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {more}"),
        };
        let findings = self.findings.len();
        let unchecked: BTreeSet<DoctorCheck> = self.unchecked.iter().map(|one| one.check).collect();
        let unchecked = counted(
            unchecked.len(),
            "check could not be made in full",
            "checks could not be made in full",
        );
        match (findings, self.unchecked.is_empty()) {
            (0, true) => look.paint(Tone::Good, "nothing was found"),
            (0, false) => look.paint(Tone::Pending, &format!("nothing was found, but {unchecked}")),
            (_, complete) => {
                let mut sum = counted(findings, "fault was found", "faults were found");
                if !complete {
                    sum += &format!("; {unchecked}");
                }
                look.paint(Tone::Bad, &sum)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_checked_is_never_healthy() {
        let mut found = Examination::default();
        assert_eq!(
            (found.exit_code(), &*found.text(Look::default())),
            (0, "nothing was found\n")
        );
        found.cannot(DoctorCheck::Names, "the engine is away\n");
        found.cannot(DoctorCheck::Etcd, "the engine is away\n");
        assert_eq!(found.exit_code(), 3);
        assert_eq!(
            found.text(Look::default()),
            "not checked: names, etcd: the engine is away\\n\n\
             nothing was found, but 2 checks could not be made in full\n"
        );
        found.push(
            DoctorCheck::OutsideNames,
            "web@1",
            "x does not resolve",
            "give a server",
        );
        assert_eq!(found.exit_code(), 1);
        assert_eq!(
            found.text(Look::default()),
            "outside-names: web@1: x does not resolve\n  cure: give a server\n\
             not checked: names, etcd: the engine is away\\n\n\
             1 fault was found; 2 checks could not be made in full\n"
        );
    }

    #[test]
    fn an_ignored_check_says_nothing() {
        let mut found = Examination::ignoring(&[DoctorCheck::Names]);
        found.push(DoctorCheck::Names, "web@1", "x", "y");
        found.cannot(DoctorCheck::Names, "z");
        assert_eq!(found.exit_code(), 0);
        assert_eq!(found.text(Look::default()), "ignored: names\nnothing was found\n");
    }
}
