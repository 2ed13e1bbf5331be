//! docs/reference/cli/ is what the command lines say: one page a program, made from clap's own commands, and an index.
//!
//! `MAYFLY_UPDATE_GOLDEN=1 cargo test -p mayfly --test reference` writes the pages; look at the difference before you
//! commit it.

// Clippy knows of #[test] functions only; what they share is test code too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use programs::programs;

mod programs;

const WIDTH: usize = 100;
const MADE: &str = "<!-- Made from the command line of the program by crates/mayfly/tests/reference.rs. -->";

/// What is written in the place of a value's name.
const VALUES: [(&str, &str); 34] = [
    (
        "ADDRESS",
        "an IP address or `*`, with a port: `127.0.0.1:9101`, `*:80`, `[::1]:80`; of a name server the address alone",
    ),
    ("AMOUNT", "bytes, or with a unit: `64k`, `512m`, `2g`"),
    ("BYTES", "bytes, or with a unit: `64k`, `512m`, `2g`"),
    ("COOKIES", "the value of the header `cookie`: `mayfly=temp-1`"),
    ("DIR", "the path of a directory"),
    ("DIRECTORY", "the path of a directory"),
    ("ENV", "the name of an environment: `temp-1`"),
    (
        "FILE",
        "the path of a file; for `mayfly lint` and `check` also a directory, or `-` for standard input",
    ),
    (
        "FILTER",
        "a log level (`error`, `warn`, `info`, `debug`, `trace`), or a filter: `info,mayfly_daemon=debug`",
    ),
    ("HOST", "an IP address, a host name, or `auto`"),
    ("HOST:PORT", "a host and a port: `10.0.0.10:80`"),
    ("IP", "an IP address"),
    ("KEY", "the beginning of keys in etcd: `/mayfly`"),
    ("KEY=VALUE", "a name and a text: `zone=north`"),
    ("M", "a number"),
    ("N", "a number; `--cpus` takes fractions: `0.5`"),
    ("NAME", "a name, as the text of the flag says"),
    (
        "NAME[=VALUE]",
        "the name of a variable, or with its value: `DOCKER_ACCOUNT_NAME=team`",
    ),
    (
        "NAME|NETWORK",
        "a host name (`billing.example`, `*.internal`), an address or a network (`10.0.0.0/8`)",
    ),
    ("NUMBER", "a number"),
    ("PATH", "a path"),
    (
        "PATTERN",
        "a name in which `*` matches any characters: `registry.example/team/*`",
    ),
    ("PATTERN=NUMBER", "such a pattern and a number: `pr-*=20`"),
    ("PORT", "a port: 1 to 65535"),
    ("SERVICE", "the name of a service: `backend` or `backend.service`"),
    ("SERVICE=PATH", "a service and a public path: `web=/`"),
    ("SHARE", "a percentage, or `off`: `10%`"),
    (
        "TIME",
        "a span of time: `500ms`, `15s`, `2min`, `8h`; a bare number counts seconds",
    ),
    ("URL", "a URL: `http://127.0.0.1:2379`"),
    ("URL|HOST|ENV", "a URL, a host name, or an environment"),
    ("VALUE", "a text"),
    ("VERSION", "a version: `0.0.2`"),
    (
        "ssh://HOST",
        "a host to log in to: `ssh://router.example.com`, `ssh://ada@router:2222`",
    ),
    ("tcp|PATH", "`tcp`, or the path of an HTTP check: `/health`"),
];

#[test]
fn the_reference_of_the_command_line_is_true() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli");
    let mut wanted: BTreeMap<PathBuf, String> = programs()
        .iter()
        .map(|program| (format!("{}.md", program.get_name()).into(), page(program)))
        .collect();
    wanted.insert("index.md".into(), index(&programs()));
    if std::env::var_os("MAYFLY_UPDATE_GOLDEN").is_some() {
        for (name, text) in &wanted {
            fs::write(directory.join(name), text).unwrap();
        }
    }
    let there: BTreeSet<PathBuf> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into())
        .collect();
    let names: BTreeSet<PathBuf> = wanted.keys().cloned().collect();
    assert_eq!(
        there, names,
        "MAYFLY_UPDATE_GOLDEN=1 writes the pages; remove what is too much"
    );
    for (name, text) in &wanted {
        let found = fs::read_to_string(directory.join(name)).unwrap();
        assert!(
            found == *text,
            "{} is old: MAYFLY_UPDATE_GOLDEN=1 writes it",
            name.display()
        );
    }
}

#[test]
fn every_kind_of_value_is_described() {
    let mut used = BTreeSet::new();
    for program in programs() {
        for (_, argument) in everything(&program) {
            let is_listed = !argument.get_possible_values().is_empty();
            if takes_value(&argument) && !is_listed {
                used.insert(value_name(&argument));
            }
        }
    }
    let described: BTreeSet<String> = VALUES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(used, described);
}

/// Every argument of a program and its commands, each with the name of its command, if it has one.
fn everything(program: &Command) -> Vec<(String, Arg)> {
    let own = shown(program)
        .into_iter()
        .map(|argument| (String::new(), argument.clone()));
    let commands = program.get_subcommands().flat_map(|command| {
        let all = shown(command).into_iter();
        all.map(|argument| (command.get_name().to_owned(), argument.clone()))
            .collect::<Vec<_>>()
    });
    own.chain(commands).collect()
}

fn shown(command: &Command) -> Vec<&Arg> {
    command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .collect()
}

fn takes_value(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
}

fn value_name(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    names
        .iter()
        .map(|name| name.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

fn page(program: &Command) -> String {
    let mut built = program.clone();
    built.build();
    let name = program.get_name();
    let mut text = format!("# {name}\n\n{MADE}\n\n{}", about(program));
    text += &usage(&mut built);
    let commands: Vec<&Command> = program.get_subcommands().collect();
    if !commands.is_empty() {
        text += "## Commands\n\n| command | what it does |\n|---|---|\n";
        for command in &commands {
            let title = command_title(program, command);
            let _ = writeln!(
                text,
                "| [{}](#{}) | {} |",
                command.get_name(),
                anchor(&title),
                cell(&summary(command))
            );
        }
        text.push('\n');
    }
    text += &examples("## Examples", program);
    let (common, own): (Vec<&Arg>, Vec<&Arg>) = shown(program)
        .into_iter()
        .partition(|argument| argument.get_help_heading() == Some("Common options"));
    text += &section("## Options", "", &own);
    for command in commands {
        let _ = write!(
            text,
            "## {}\n\n{}",
            command_title(program, command),
            about(command)
        );
        let same = built.find_subcommand_mut(command.get_name()).unwrap();
        text += &usage(same);
        for argument in shown(command) {
            text += &entry(command.get_name(), argument);
        }
        text += &examples("", command);
    }
    text += &section("## Common options", "", &common);
    text.trim_end().to_owned() + "\n"
}

fn command_title(program: &Command, command: &Command) -> String {
    format!("{} {}", program.get_name(), command.get_name())
}

fn section(title: &str, command: &str, arguments: &[&Arg]) -> String {
    match arguments {
        [] => String::new(),
        arguments => {
            let entries = arguments.iter().map(|argument| entry(command, argument));
            format!("{title}\n\n{}", entries.collect::<String>())
        }
    }
}

/// The first sentence of what a command is for.
fn summary(command: &Command) -> String {
    sentence(&command.get_about().map(ToString::to_string).unwrap_or_default())
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    paragraphs(&about.map(ToString::to_string).unwrap_or_default())
}

fn usage(built: &mut Command) -> String {
    let usage = built.render_usage().to_string();
    format!("```text\n{}\n```\n\n", usage.trim_start_matches("Usage:").trim())
}

/// What follows the options in the help: examples, exit codes and the like.
fn examples(title: &str, command: &Command) -> String {
    let Some(after) = command.get_after_help() else {
        return String::new();
    };
    let title = if title.is_empty() {
        String::new()
    } else {
        format!("{title}\n\n")
    };
    format!("{title}```text\n{}\n```\n\n", after.to_string().trim_end())
}

/// The title of an argument: its flag, or the name of its value; after the name of its command.
fn title(command: &str, argument: &Arg) -> String {
    let name = match argument.get_long() {
        Some(long) => format!("--{long}"),
        None => value_name(argument),
    };
    format!("{command} {name}").trim_start().to_owned()
}

fn entry(command: &str, argument: &Arg) -> String {
    let (help, default) = help_and_default(argument);
    let mut facts = vec![format!("`{}`", form(argument))];
    let aliases = argument.get_visible_aliases().unwrap_or_default();
    facts.extend(aliases.iter().map(|alias| format!("also `--{alias}`")));
    facts.extend(
        argument
            .get_env()
            .map(|name| format!("variable `{}`", name.to_string_lossy())),
    );
    facts.extend(argument.is_required_set().then(|| "required".to_owned()));
    facts.extend(default.map(|default| format!("default {default}")));
    facts.extend(
        argument
            .get_value_delimiter()
            .map(|_| "several with commas".to_owned()),
    );
    let repeats = matches!(argument.get_action(), ArgAction::Append);
    facts.extend(repeats.then(|| "may be repeated".to_owned()));
    let mut text = format!(
        "### `{}`\n\n{}\n\n",
        title(command, argument),
        wrap(&facts.join(" · "))
    );
    text += &paragraphs(&help);
    let values = argument.get_possible_values();
    if takes_value(argument) && !values.is_empty() {
        for value in values.iter().filter(|value| !value.is_hide_set()) {
            let help = value
                .get_help()
                .map(|help| format!(": {}", escape(help.to_string().trim_end_matches('.'))));
            text += &wrap(&format!("- `{}`{}", value.get_name(), help.unwrap_or_default()));
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

/// How it is written on the command line.
fn form(argument: &Arg) -> String {
    let value = match takes_value(argument) {
        true => value_name(argument),
        false => String::new(),
    };
    let Some(long) = argument.get_long() else {
        return value;
    };
    let short = argument
        .get_short()
        .map(|short| format!("-{short}, "))
        .unwrap_or_default();
    format!("{short}--{long} {value}").trim_end().to_owned()
}

/// The help, and the default as clap or, in brackets at its end, the help says it.
fn help_and_default(argument: &Arg) -> (String, Option<String>) {
    let help = argument.get_long_help().or(argument.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| format!("`{}`", value.to_string_lossy()))
        .collect();
    if takes_value(argument) && !defaults.is_empty() {
        return (help, Some(defaults.join(", ")));
    }
    match help
        .split_once(" [default: ")
        .and_then(|(before, after)| Some((before, after.split_once(']')?)))
    {
        Some((before, (default, rest))) => (format!("{before}{rest}"), Some(escape(default))),
        None => (help, None),
    }
}

/// Text of a help as Markdown, each paragraph wrapped, and an empty line after it.
fn paragraphs(help: &str) -> String {
    let all = help
        .split("\n\n")
        .filter(|paragraph| !paragraph.trim().is_empty());
    all.map(|paragraph| wrap(&escape(&sentence(paragraph))) + "\n\n")
        .collect()
}

/// With a full stop at its end.
fn sentence(text: &str) -> String {
    let text = text.trim();
    let is_whole = text.is_empty() || text.ends_with(['.', ':', '!', '?']);
    format!("{text}{}", if is_whole { "" } else { "." })
}

/// Words in lines of at most 100 columns.
fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            let indent = if lines[0].starts_with("- ") { "  " } else { "" };
            lines.push(format!("{indent}{word}"));
        }
    }
    lines.join("\n")
}

/// Plain text as Markdown: outside of code spans nothing of it is markup.
fn escape(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(at, part)| match at % 2 {
        0 => part.split(' ').map(escape_word).collect::<Vec<_>>().join(" "),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("`")
}

fn escape_word(word: &str) -> String {
    // A flag, with what punctuation is around it.
    if let Some((before, flag)) = word.split_once("--") {
        let end = flag
            .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
            .unwrap_or(flag.len());
        let (name, after) = flag.split_at(end);
        if !name.is_empty() && !before.contains(char::is_alphanumeric) {
            return format!("{before}`--{name}`{after}");
        }
    }
    let mut escaped = String::new();
    for (at, letter) in word.char_indices() {
        let is_markup = match letter {
            '*' | '<' => true,
            '_' => at == 0 || at + 1 == word.len(),
            // These begin a quotation, a heading or a list where a line begins with them.
            '>' | '#' => at == 0,
            '-' | '+' => word.len() == 1,
            _ => false,
        };
        if is_markup {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// Markdown in a cell of a table.
fn cell(text: &str) -> String {
    escape(text).replace('|', "\\|")
}

/// The anchor of a title that is a command or a flag.
fn anchor(title: &str) -> String {
    let letter = |letter: char| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        letter => letter.is_alphanumeric().then_some(letter),
    };
    title.to_lowercase().chars().filter_map(letter).collect()
}

const RULES: &str = "\
Every flag of a daemon has an environment variable. So does each flag of `mayfly` that an operator
sets once. A flag wins over its variable.

- A variable that is empty counts as not set.
- If a flag takes no value, its variable is `1`, `true`, `yes` or `on`, or `0`, `false`, `no` or
  `off`.
- The common options may be written before or after a command.
- Exit codes: 0 success, 1 failure, 2 wrong command line.
- `--help` shows each flag with its default and the present value of its variable; `-h` is shorter.
  `--version` prints the version.
";

fn index(programs: &[Command]) -> String {
    let mut text = format!("# Command line\n\n{MADE}\n\n| program | what it does |\n|---|---|\n");
    for program in programs {
        let name = program.get_name();
        let _ = writeln!(text, "| [{name}]({name}.md) | {} |", cell(&summary(program)));
    }
    let _ = write!(
        text,
        "\n{RULES}\n## Values\n\n| value | what is written |\n|---|---|\n"
    );
    for (name, meaning) in VALUES {
        let _ = writeln!(
            text,
            "| `{}` | {} |",
            name.replace('|', "\\|"),
            meaning.replace('|', "\\|")
        );
    }
    text += "\n## Variables\n\n| variable | flag |\n|---|---|\n";
    let mut variables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for program in programs {
        for (command, argument) in everything(program) {
            if let Some(variable) = argument.get_env() {
                let (name, title) = (program.get_name(), title(&command, &argument));
                let link = format!(
                    "[{name} {}]({name}.md#{})",
                    title.replace('|', "\\|"),
                    anchor(&title)
                );
                variables
                    .entry(variable.to_string_lossy().into_owned())
                    .or_default()
                    .insert(link);
            }
        }
    }
    for (variable, flags) in variables {
        let flags: Vec<String> = flags.into_iter().collect();
        let _ = writeln!(text, "| `{variable}` | {} |", flags.join(", "));
    }
    text
}
