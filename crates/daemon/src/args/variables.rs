//! How every program reads its command line, and what variables of the environment mean in all of
//! them: an empty one counts as not set, a boolean one takes the words that people use, and a
//! message about a value names the variable that it came from. This is done to clap's command as a
//! whole, so that no flag can be forgotten.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use clap::builder::{Resettable, StyledStr};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, CommandFactory, Error, FromArgMatches};

/// The value of a variable of the environment, if it is set.
type VariableLookup<'a> = &'a dyn Fn(&OsStr) -> Option<OsString>;

/// Reads the command line and the environment; ends the process where they are wrong or ask for
/// help.
pub fn parse<Program: CommandFactory + FromArgMatches>() -> Program {
    parse_as(Program::command())
}

/// As [`parse`], by a command that is not quite the one of the type.
pub fn parse_as<Program: FromArgMatches>(command: Command) -> Program {
    let look: VariableLookup<'_> = &|name| std::env::var_os(name);
    let mut prepared = prepared(command.clone(), look);
    let matches = prepared.try_get_matches_from_mut(std::env::args_os());
    let parsed = matches
        .and_then(|matches| Program::from_arg_matches(&matches).map_err(|error| error.format(&mut prepared)));
    parsed.unwrap_or_else(|error| match error.kind() {
        // In the help every variable stands.
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            command.get_matches();
            error.exit()
        }
        _ => with_variables(error, &command, look).exit(),
    })
}

/// The command without the variables that are empty, and with flags that take the usual words in
/// theirs.
fn prepared(command: Command, look: VariableLookup<'_>) -> Command {
    let argument = |arg: Arg| match arg.get_env() {
        Some(name) if look(name).is_some_and(|value| value.is_empty()) => {
            arg.env(Resettable::<clap::builder::OsStr>::Reset)
        }
        Some(_) if matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) => {
            arg.value_parser(truth)
        }
        _ => arg,
    };
    command
        .mut_args(argument)
        .mut_subcommands(|command| prepared(command, look))
}

/// What a boolean variable says.
fn truth(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("it must be 1, true, yes or on, or 0, false, no or off".to_owned()),
    }
}

/// The error, with the variables that gave what it is about.
fn with_variables(mut error: Error, command: &Command, look: VariableLookup<'_>) -> Error {
    let mut tips = BTreeSet::new();
    let mut command = command.clone();
    command.build();
    collect(&error, &command, look, &mut tips);
    if !tips.is_empty() {
        let tips = tips.into_iter().map(StyledStr::from).collect();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

fn collect(error: &Error, command: &Command, look: VariableLookup<'_>, tips: &mut BTreeSet<String>) {
    let blamed = |arg: &Arg| {
        [ContextKind::InvalidArg, ContextKind::PriorArg]
            .into_iter()
            .filter_map(|kind| error.get(kind))
            .any(|context| match context {
                ContextValue::String(blamed) => *blamed == arg.to_string(),
                ContextValue::Strings(all) => all.contains(&arg.to_string()),
                _ => false,
            })
    };
    let bad = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(bad)) => bad.as_str(),
        _ => "",
    };
    for arg in command.get_arguments() {
        let Some(name) = arg.get_env() else { continue };
        let Some(value) = look(name).filter(|value| !value.is_empty()) else {
            continue;
        };
        let name = name.to_string_lossy();
        // clap does not say which argument is not UTF-8.
        if error.kind() == ErrorKind::InvalidUtf8 && value.to_str().is_none() {
            tips.insert(format!("the variable {name} is not UTF-8"));
        }
        // Where the command line gave another value, the variable does not count.
        let text = value.to_string_lossy();
        if blamed(arg) && text.contains(bad) {
            tips.insert(format!("{arg} was set by the variable {name}"));
            let is_quoted = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
            if is_quoted('"') || is_quoted('\'') {
                tips.insert(format!("the quotes are part of {name}: write it without them"));
            }
        }
    }
    for command in command.get_subcommands() {
        collect(error, command, look, tips);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[arg(long, env = "TEST_FAST")]
        fast: bool,
        #[arg(long, env = "TEST_SPAN", value_name = "TIME", value_parser = crate::args::duration)]
        span: Option<std::time::Duration>,
        #[arg(long, env = "TEST_NAME", conflicts_with = "fast")]
        name: Option<String>,
        #[arg(env = "TEST_NUMBERS", value_delimiter = ',')]
        numbers: Vec<u8>,
        #[command(subcommand)]
        command: Option<Sub>,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Sub {
        Run {
            #[arg(long, env = "TEST_SLOW")]
            slow: bool,
        },
    }

    #[test]
    fn the_words_of_a_boolean() {
        for word in ["1", "true", "YES", "On", " true "] {
            assert_eq!(truth(word), Ok(true), "{word}");
        }
        for word in ["0", "FALSE", "no", "Off"] {
            assert_eq!(truth(word), Ok(false), "{word}");
        }
        for word in ["", "2", "maybe", "y"] {
            assert!(truth(word).is_err(), "{word}");
        }
    }

    #[test]
    fn an_empty_variable_is_none() {
        let command = prepared(Program::command(), &|_| Some(OsString::new()));
        let run = command.find_subcommand("run").unwrap();
        for arg in command.get_arguments().chain(run.get_arguments()) {
            assert_eq!(arg.get_env(), None, "{arg}");
        }
        // And one that is not, nor one that is not set at all.
        for value in [None, Some("x".into())] {
            let command = prepared(Program::command(), &|_| value.clone());
            assert!(command.get_arguments().any(|arg| arg.get_env().is_some()));
        }
    }

    /// What is said of a command line when the variable has the value.
    fn reported(line: &str, variable: &str, value: &str) -> String {
        let look: VariableLookup<'_> = &|name| (name == variable).then(|| value.into());
        let words = std::iter::once("x").chain(line.split_whitespace());
        let error = prepared(Program::command(), look)
            .try_get_matches_from(words)
            .unwrap_err();
        with_variables(error, &Program::command(), look).to_string()
    }

    #[test]
    fn a_message_names_the_variable_that_gave_the_value() {
        // As clap says it of a value from either place; it does not say from which.
        for (line, variable, value, named) in [
            ("--span soon", "TEST_SPAN", "soon", true),
            ("--span soon", "TEST_SPAN", "5s", false),
            ("--span soon", "TEST_NAME", "soon", false),
            ("1,many", "TEST_NUMBERS", "1,many", true),
            ("--name a --fast", "TEST_FAST", "1", true),
            ("--name a --fast", "TEST_NAME", "a", true),
        ] {
            let reported = reported(line, variable, value);
            let tip = format!("was set by the variable {variable}");
            assert_eq!(
                reported.contains(&tip),
                named,
                "{line} {variable}={value}: {reported}"
            );
        }
        let quoted = reported("--span \"5s\"", "TEST_SPAN", "\"5s\"");
        assert!(quoted.contains("the quotes are part of TEST_SPAN"), "{quoted}");
    }
}
