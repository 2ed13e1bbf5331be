//! An environment variable means the same in every program that has it, and a name of an argument
//! in every subcommand.

use std::collections::{BTreeMap, BTreeSet};

use clap::Command;
use programs::programs;

mod programs;

/// Variables that differ, and why.
const DIFFERING: [(&str, &str); 5] = [
    (
        "MAYFLY_DEFAULT_ENVIRONMENT",
        "a router decides it, and `explain` asks the routers",
    ),
    (
        "MAYFLY_DISTRUST",
        "each daemon keeps something else, and a router asks HAProxy's check, so it needs less time",
    ),
    (
        "MAYFLY_DOMAIN",
        "routers and dnsmasq need one, and `explain` asks the routers",
    ),
    (
        "MAYFLY_LOG",
        "a daemon's log is all that it prints, and a tool's output is not to be mixed with one",
    ),
    (
        "MAYFLY_NETWORK",
        "it is the containers' network: the launcher lets them join it and needs one, the registrar takes their \
         addresses there and finds the only one by itself",
    ),
];

/// What a program says of a variable: its help, and its default.
type Meaning = (String, Vec<String>);
/// The programs that say so, for each variable.
type Found = BTreeMap<String, BTreeMap<Meaning, BTreeSet<String>>>;

fn collect(command: &Command, program: &str, found: &mut Found) {
    for argument in command.get_arguments() {
        let Some(variable) = argument.get_env() else {
            continue;
        };
        let help = argument.get_long_help().or(argument.get_help());
        let defaults = argument.get_default_values().iter();
        let meaning = (
            help.map(ToString::to_string).unwrap_or_default(),
            defaults
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
        );
        let variable = variable.to_string_lossy().into_owned();
        let meanings = found.entry(variable).or_default();
        meanings.entry(meaning).or_default().insert(program.to_owned());
    }
    for subcommand in command.get_subcommands() {
        collect(subcommand, &format!("{program} {}", subcommand.get_name()), found);
    }
}

#[test]
fn a_variable_means_the_same_everywhere() {
    let mut found = Found::new();
    for command in programs() {
        collect(&command, command.get_name(), &mut found);
    }
    assert!(found.len() > 50 && found.contains_key("MAYFLY_ETCD"), "{found:?}");
    for (variable, meanings) in &found {
        let is_known = DIFFERING.iter().any(|(differing, _)| differing == variable);
        assert_eq!(meanings.len() > 1, is_known, "{variable}: {meanings:#?}");
    }
    for (variable, _) in DIFFERING {
        assert!(found.contains_key(variable), "{variable} is gone");
    }
}

/// Arguments of subcommands that share their value with one for all subcommands, and mean to.
const SHARED: [(&str, &str); 1] = [("mayfly import", "prefix")];

/// The arguments of subcommands that have the id of one for all subcommands: clap gives both the
/// same value, also the default of the other.
fn sharing(
    command: &Command,
    program: &str,
    above: &BTreeSet<String>,
    found: &mut BTreeSet<(String, String)>,
) {
    let mut global = above.clone();
    for argument in command.get_arguments() {
        let id = argument.get_id().to_string();
        if above.contains(&id) {
            found.insert((program.to_owned(), id.clone()));
        }
        if argument.is_global_set() {
            global.insert(id);
        }
    }
    for subcommand in command.get_subcommands() {
        let program = format!("{program} {}", subcommand.get_name());
        sharing(subcommand, &program, &global, found);
    }
}

#[test]
fn no_argument_gets_the_value_of_one_for_all_subcommands() {
    let mut found = BTreeSet::new();
    for command in programs() {
        sharing(&command, command.get_name(), &BTreeSet::new(), &mut found);
    }
    let shared = SHARED.map(|(program, id)| (program.to_owned(), id.to_owned()));
    assert_eq!(found, BTreeSet::from(shared));
}
