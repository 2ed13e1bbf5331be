//! A call of a tool: this program is run with the command line of the call, and what it prints is
//! the answer.

use std::ffi::OsString;
use std::process::Stdio;

use clap::Command;
use clap::builder::Resettable;
use clap::parser::ValueSource;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process;

use super::tools::ToolCall;

/// Longer answers are cut: an agent pays for what it reads.
const LONGEST: usize = 256 << 10;

/// The flags that were given to this program itself, such as `--etcd`: they hold for every call.
/// Variables of the environment do so by themselves.
pub fn common_arguments(program: &Command, line: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let plain = |command: Command| command.mut_args(|arg| arg.env(Resettable::<clap::builder::OsStr>::Reset));
    let program = plain(program.clone());
    // The command line was read already, so it is right.
    let Ok(matches) = program.clone().try_get_matches_from(line) else {
        return Vec::new();
    };
    let matches = matches.subcommand().map_or(&matches, |(_, matches)| matches);
    let mut arguments = Vec::new();
    for arg in program.get_arguments().filter(|arg| arg.is_global_set()) {
        let (id, Some(long)) = (arg.get_id().as_str(), arg.get_long()) else {
            continue;
        };
        if matches.value_source(id) == Some(ValueSource::CommandLine) {
            for value in matches.get_raw(id).into_iter().flatten() {
                let mut argument = OsString::from(format!("--{long}="));
                argument.push(value);
                arguments.push(argument);
            }
        }
    }
    arguments
}

/// Runs a call to its end. A command that only reads answers with exit code 1, too: that two
/// environments differ is no failure.
pub async fn run(common: Vec<OsString>, call: ToolCall, changes: bool) -> Value {
    match finished(common, call).await {
        Ok(Finished { code, stdout, stderr }) => {
            let failed = code != Some(0) && (changes || stdout.is_empty());
            let mut text = stdout;
            if !stderr.is_empty() {
                text = format!("{text}{}{stderr}", if text.is_empty() { "" } else { "\n" });
            }
            if code != Some(0) {
                let code = code.map_or("by a signal".to_owned(), |code| format!("with exit code {code}"));
                text += &format!("\n(ended {code})\n");
            }
            answer(&text, failed)
        }
        Err(error) => answer(&format!("the command cannot be run: {error}"), true),
    }
}

struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn finished(common: Vec<OsString>, call: ToolCall) -> std::io::Result<Finished> {
    let mut command = process::Command::new(std::env::current_exe()?);
    command.args(common).args(call.arguments);
    let stdin = match call.stdin {
        Some(_) => Stdio::piped(),
        None => Stdio::null(),
    };
    // A call that is cancelled ends.
    command.kill_on_drop(true);
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let input = child.stdin.take().zip(call.stdin);
    let write = async move {
        if let Some((mut stdin, text)) = input {
            // Who does not read it says why.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), write);
    let output = output?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Finished {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// The answer of a tool.
pub fn answer(text: &str, failed: bool) -> Value {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = match end < text.len() {
        true => format!(
            "{}\n(cut: {} more bytes; ask for one environment)",
            &text[..end],
            text.len() - end
        ),
        false => text.to_owned(),
    };
    json!({"content": [{"type": "text", "text": text}], "isError": failed})
}
