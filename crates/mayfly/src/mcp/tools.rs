//! The tools, made from the command line of `mayfly`: a tool has the name and the help of its
//! command, and its schema has a property for each argument. So none of them can fall behind.
//!
//! No tool reads a file of the host: what a command says of a file can have the file's content, and
//! an agent may not see all that the user who runs this program can read.

use std::any::TypeId;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};
use serde_json::{Map, Value, json};

/// What a command does to what is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Reads,
    /// It adds something, or prolongs a life.
    Adds,
    /// It can take something away.
    Destroys,
}

impl Effect {
    pub fn changes(self) -> bool {
        self != Self::Reads
    }
}

/// The commands that are tools. Not among them: `access`, whose password would be in the agent's
/// record; commands for the operator's own files; and this one.
const TOOLS: [(&str, Effect); 11] = [
    ("status", Effect::Reads),
    ("explain", Effect::Reads),
    ("wait", Effect::Reads),
    ("diff", Effect::Reads),
    ("lint", Effect::Reads),
    ("schema", Effect::Reads),
    ("keep", Effect::Adds),
    ("relaunch", Effect::Adds),
    ("apply", Effect::Destroys),
    ("delete", Effect::Destroys),
    ("confirm", Effect::Destroys),
];
/// Commands that read standard input where a file is `-`.
const WITH_STDIN: [&str; 2] = ["apply", "lint"];
/// Arguments that mean nothing to an agent: a call has one answer, without colour.
const LEFT_OUT: [&str; 3] = ["watch", "color", "help"];
/// The only file that a tool reads.
const STDIN: &str = "-";
/// The argument that names the environment files, which standard input is if no other is named.
const FILES: &str = "files";

/// A command, as an agent sees it.
#[derive(Debug)]
pub struct Tool {
    pub name: String,
    description: String,
    pub effect: Effect,
    arguments: Vec<Arg>,
    has_stdin: bool,
}

/// A call: the arguments of the command line, and what its standard input has.
#[derive(Debug, PartialEq, Eq)]
pub struct ToolCall {
    pub arguments: Vec<String>,
    pub stdin: Option<String>,
}

/// The tools of the program with this command line.
pub fn of(mut program: Command, read_only: bool) -> Vec<Tool> {
    // Only a command that was built has what flags are global.
    program.build();
    let offered = TOOLS.iter().filter(|(_, effect)| !read_only || !effect.changes());
    offered
        .filter_map(|(name, effect)| Some(Tool::of(program.find_subcommand(name)?, *effect)))
        .collect()
}

impl Tool {
    fn of(command: &Command, effect: Effect) -> Self {
        let about = command.get_long_about().or(command.get_about());
        let arguments = command.get_arguments().filter(|arg| {
            !arg.is_global_set() && !LEFT_OUT.contains(&arg.get_id().as_str()) && !arg.is_hide_set()
        });
        Self {
            name: command.get_name().to_owned(),
            description: about.map(ToString::to_string).unwrap_or_default(),
            effect,
            arguments: arguments.cloned().collect(),
            has_stdin: WITH_STDIN.contains(&command.get_name()),
        }
    }

    /// The tool as the protocol has it.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "inputSchema": self.schema(),
            "annotations": {
                "title": format!("mayfly {}", self.name),
                "readOnlyHint": !self.effect.changes(),
                "destructiveHint": self.effect == Effect::Destroys,
                "idempotentHint": self.name != "relaunch",
                "openWorldHint": false,
            },
        })
    }

    /// The schema of its arguments.
    pub fn schema(&self) -> Value {
        let mut properties = Map::new();
        for arg in &self.arguments {
            properties.insert(arg.get_id().to_string(), property(arg));
        }
        if self.has_stdin {
            let text = "The content of the file that is named `-`, as YAML. If no argument names a file, \
                        `files` is this file";
            properties.insert("stdin".to_owned(), json!({"type": "string", "description": text}));
        }
        let required = self.arguments.iter().filter(|arg| self.is_required(arg));
        let mut required: Vec<&str> = required.map(|arg| arg.get_id().as_str()).collect();
        required.extend(self.has_stdin.then_some("stdin"));
        json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    }

    /// Whether a call has to have this argument. A file can only be standard input, which is the
    /// argument `stdin`.
    fn is_required(&self, arg: &Arg) -> bool {
        arg.is_required_set() && !(self.has_stdin && is_file(arg))
    }

    /// The command line of a call with these arguments.
    ///
    /// # Errors
    /// When they do not fit the schema, in words for who called.
    pub fn arguments(&self, given: &Value) -> Result<ToolCall, String> {
        let nothing = Map::new();
        let given = match given {
            Value::Null => &nothing,
            Value::Object(given) => given,
            _ => return Err("the arguments are no JSON object".to_owned()),
        };
        let known = |name: &str| {
            (self.has_stdin && name == "stdin") || self.arguments.iter().any(|arg| arg.get_id() == name)
        };
        if let Some(name) = given.keys().find(|name| !known(name)) {
            let mut all: Vec<&str> = self.arguments.iter().map(|arg| arg.get_id().as_str()).collect();
            all.extend(self.has_stdin.then_some("stdin"));
            return Err(format!(
                "the tool {} has no argument {name:?}; it has {}",
                self.name,
                all.join(", ")
            ));
        }
        // The only file that a tool has is meant, so an agent need not say so.
        let mut of_files = self.arguments.iter().filter(|arg| is_file(arg));
        let is_named = |arg: &Arg| match given.get(arg.get_id().as_str()) {
            None | Some(Value::Null) => false,
            Some(Value::Array(values)) => !values.is_empty(),
            Some(_) => true,
        };
        let names_none = self.has_stdin && !of_files.any(is_named);
        let stdin_alone = json!([STDIN]);
        let (mut flags, mut positional) = (vec![self.name.clone()], vec!["--".to_owned()]);
        for arg in &self.arguments {
            let name = arg.get_id().as_str();
            let value = match names_none && name == FILES {
                true => Some(&stdin_alone),
                false => given.get(name),
            };
            let values = match value {
                None | Some(Value::Null) if self.is_required(arg) => {
                    return Err(format!("the tool {} needs the argument {name:?}", self.name));
                }
                None | Some(Value::Null) => continue,
                Some(value) => values(arg, value).map_err(|fault| format!("{name}: {fault}"))?,
            };
            match arg.get_long() {
                Some(long) if !arg.get_action().takes_values() => {
                    flags.extend(values.iter().map(|_| format!("--{long}")));
                }
                // A value that begins with a dash is no flag so.
                Some(long) => flags.extend(values.iter().map(|value| format!("--{long}={value}"))),
                None => positional.extend(values),
            }
        }
        flags.extend(positional);
        let stdin = match given.get("stdin") {
            None | Some(Value::Null) if self.has_stdin => {
                return Err(format!("the tool {} needs the argument \"stdin\"", self.name));
            }
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => return Err("the argument stdin is no text".to_owned()),
        };
        Ok(ToolCall {
            arguments: flags,
            stdin,
        })
    }
}

fn property(arg: &Arg) -> Value {
    let help = arg.get_long_help().or(arg.get_help());
    let mut description = help.map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<String> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    if !defaults.is_empty() && is_value(arg) {
        description += &format!(" [default: {}]", defaults.join(" "));
    }
    if is_file(arg) {
        description += " [here only `-`, whose content is the argument stdin]";
    }
    let possible = arg.get_possible_values();
    let possible: Vec<&str> = possible
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| value.get_name())
        .collect();
    let mut schema = match () {
        () if !is_value(arg) => json!({"type": "boolean"}),
        () if is_file(arg) && is_list(arg) => {
            json!({"type": "array", "items": {"type": "string", "enum": [STDIN]}})
        }
        () if is_file(arg) => json!({"type": "string", "enum": [STDIN]}),
        () if is_list(arg) => json!({"type": "array", "items": {"type": "string"}}),
        () if is_number(arg) => json!({"type": "integer", "minimum": 0}),
        () if !possible.is_empty() => json!({"type": "string", "enum": possible}),
        () => json!({"type": "string"}),
    };
    schema["description"] = description.into();
    schema
}

fn is_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn is_list(arg: &Arg) -> bool {
    let several = arg.get_num_args().is_some_and(|range| range.max_values() > 1);
    several || matches!(arg.get_action(), ArgAction::Append)
}

fn is_number(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<usize>()
}

/// Whether the command would read a file of this name.
fn is_file(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<PathBuf>()
}

/// The values of an argument as the command line has them; of a switch one if it is on.
fn values(arg: &Arg, given: &Value) -> Result<Vec<String>, String> {
    let text = |value: &Value| match value {
        Value::String(text) if is_file(arg) && text != STDIN => Err(format!(
            "{value}: a tool reads no file of its host: give {STDIN:?}, and the content as stdin"
        )),
        Value::String(text) => Ok(text.clone()),
        _ => Err(format!("{value} is no text")),
    };
    match given {
        Value::Bool(on) if !is_value(arg) => Ok(on.then(String::new).into_iter().collect()),
        _ if !is_value(arg) => Err(format!("{given} is neither true nor false")),
        Value::Array(values) if is_list(arg) => values.iter().map(text).collect(),
        _ if is_list(arg) => Err(format!("{given} is no list of texts")),
        Value::Number(number) if is_number(arg) && number.is_u64() => Ok(vec![number.to_string()]),
        _ if is_number(arg) => Err(format!("{given} is no whole number")),
        value => Ok(vec![text(value)?]),
    }
}
