//! `mayfly mcp`: the commands as tools of the Model Context Protocol, over standard input and
//! output. Each tool is made from the command line of its command ([`tools`]), and a call runs this
//! very program with it ([`call`]), so that an agent gets what a person gets. This module speaks
//! the protocol: a message of JSON-RPC is one line.

mod call;
mod tools;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Command;
use mayfly_daemon::shutdown::Shutdown;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use call::common_arguments;
use tools::Tool;

/// The versions of the protocol that are spoken, the newest last. What this server uses of them is
/// the same in all; that of 2025-03-26 is not among them, since it has batches.
const VERSIONS: [&str; 3] = ["2024-11-05", "2025-06-18", "2025-11-25"];
/// Longer messages are refused, far above any file of environments.
const LONGEST: u64 = 8 << 20;
/// How long calls may go on after the client has closed standard input: then nobody may be there to
/// cancel them, and a `wait` can last for hours.
const LAST_CALLS: Duration = Duration::from_secs(5);
/// What is said to a message that is too long.
const TOO_LONG: &str = "the message is longer than 8 MiB";
/// What an agent has to know before it calls a tool.
const INSTRUCTIONS: &str = "Mayfly gives a team short-lived virtual environments. An environment is a \
named choice of service versions; it owns no container. Look first: `status` shows all environments and \
what needs attention, `explain` shows where one request goes. Check a file with `lint` before `apply`. \
After a change call `wait`. Only tools with readOnlyHint false change anything. An environment that is \
registered from a file belongs to that file: change the file rather than the environment.";

const EXAMPLES: &str = "\
Examples:
  mayfly --etcd http://etcd-1:2379 mcp
  mayfly mcp --read-only                offers only the tools that change nothing

Most clients have a file with servers. An entry looks like this:
  {\"mcpServers\": {\"mayfly\": {\"command\": \"mayfly\", \"args\": [\"--etcd\", \"http://etcd-1:2379\", \"mcp\"]}}}

Tools that only read: status, explain, wait, diff, lint, schema. Tools that change something: apply, keep, relaunch,
delete, confirm. Of these, apply, delete and confirm are marked as destructive, so that clients ask before they call
them.

The client starts the program, and closes standard input to end the program. Calls that still run then get 5 s to end.
Flags such as --etcd apply to every tool.";

/// Offers the commands as tools to an agent, over standard input and output (Model Context
/// Protocol)
///
/// The server speaks version 2025-11-25 of the protocol, and 2025-06-18 and 2024-11-05. The tools
/// have the permissions of the etcd user that the command line names.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Offers only tools that change nothing
    #[arg(long)]
    pub read_only: bool,
}

/// Serves the client until it closes standard input; then calls get [`LAST_CALLS`] to end.
///
/// # Errors
/// When standard output can't be written.
pub async fn run(args: &Args, tool: Command, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let common = common_arguments(&tool, std::env::args_os());
    let server = Server::new(tools::of(tool, args.read_only), common);
    let write = |answer: &Value| {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{answer}").and_then(|()| stdout.flush())
    };
    serve(server, messages(), shutdown, write).await?;
    Ok(ExitCode::SUCCESS)
}

/// Answers messages until there are no more, and calls until they are done or [`LAST_CALLS`] is
/// over: the programs of calls end with the server.
async fn serve(
    mut server: Server,
    mut lines: mpsc::Receiver<Result<Vec<u8>, RpcError>>,
    shutdown: &Shutdown,
    mut write: impl FnMut(&Value) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut is_open = true;
    let last = tokio::time::sleep(LAST_CALLS);
    tokio::pin!(last);
    while is_open || !server.calls.is_empty() {
        let answer = tokio::select! {
            () = shutdown.begun() => break,
            () = &mut last, if !is_open => break,
            line = lines.recv(), if is_open => match line {
                Some(Ok(line)) => server.take(&line),
                Some(Err(fault)) => Some(answered(&Value::Null, Err(fault))),
                None => {
                    // What was asked before is still answered, if that does not take long.
                    is_open = false;
                    last.as_mut().reset(Instant::now() + LAST_CALLS);
                    None
                }
            },
            Some(done) = server.calls.join_next() => match done {
                Ok((id, answer)) => {
                    server.running.remove(&id.to_string());
                    Some(answered(&id, Ok(answer)))
                }
                // It was cancelled: then no answer is expected.
                Err(_) => None,
            },
        };
        if let Some(answer) = answer {
            write(&answer)?;
        }
    }
    Ok(())
}

/// The messages of standard input. A thread of its own reads them: nothing can interrupt such a
/// read, and the end of the program must not wait for it.
fn messages() -> mpsc::Receiver<Result<Vec<u8>, RpcError>> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        while let Some(line) = next_line(&mut stdin) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The next line; a fault for one that is too long, all of which is skipped.
fn next_line(input: &mut impl BufRead) -> Option<Result<Vec<u8>, RpcError>> {
    let mut line = Vec::new();
    let length = input.by_ref().take(LONGEST).read_until(b'\n', &mut line).ok()?;
    if length as u64 == LONGEST && !line.ends_with(b"\n") {
        input.skip_until(b'\n').ok()?;
        return Some(Err((-32600, TOO_LONG.to_owned())));
    }
    (length > 0).then_some(Ok(line))
}

/// What a client is served by.
struct Server {
    tools: Vec<Tool>,
    /// The flags of every call.
    common: Vec<OsString>,
    calls: JoinSet<(Value, Value)>,
    /// The calls by the text of their id.
    running: HashMap<String, AbortHandle>,
}

/// A fault of JSON-RPC: its code, and a message.
type RpcError = (i64, String);

impl Server {
    fn new(tools: Vec<Tool>, common: Vec<OsString>) -> Self {
        Self {
            tools,
            common,
            calls: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// Takes a message; gives the answer, unless there is none, or it comes later.
    fn take(&mut self, line: &[u8]) -> Option<Value> {
        if line.trim_ascii().is_empty() {
            return None;
        }
        let Ok(message) = serde_json::from_slice::<Value>(line) else {
            return Some(answered(
                &Value::Null,
                Err((-32700, "the message is not JSON".to_owned())),
            ));
        };
        let (id, method) = (&message["id"], message["method"].as_str());
        let is_id = id.is_string() || id.is_i64() || id.is_u64();
        match method {
            Some(method) if message.get("id").is_none() => {
                self.notified(method, &message["params"]);
                None
            }
            Some("tools/call") if is_id => match self.call(id, &message["params"]) {
                Ok(()) => None,
                Err(fault) => Some(answered(id, Err(fault))),
            },
            Some(method) if is_id => Some(answered(id, self.asked(method, &message["params"]))),
            // An answer to a question that was never asked.
            None if message.get("result").or(message.get("error")).is_some() => None,
            _ => {
                let fault = "a request has a method, and an id that is a text or a whole number";
                Some(answered(&Value::Null, Err((-32600, fault.to_owned()))))
            }
        }
    }

    fn notified(&mut self, method: &str, params: &Value) {
        if method == "notifications/cancelled" {
            if let Some(call) = self.running.remove(&params["requestId"].to_string()) {
                // The program of the call ends with it.
                call.abort();
            }
        }
    }

    fn asked(&self, method: &str, params: &Value) -> Result<Value, RpcError> {
        match method {
            "initialize" => {
                let asked = params["protocolVersion"].as_str();
                let version = asked.filter(|version| VERSIONS.contains(version));
                Ok(json!({
                    "protocolVersion": version.unwrap_or(VERSIONS[VERSIONS.len() - 1]),
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "mayfly", "title": "Mayfly", "version": env!("CARGO_PKG_VERSION")},
                    "instructions": INSTRUCTIONS,
                }))
            }
            "ping" => Ok(json!({})),
            "tools/list" => Ok(json!({"tools": self.tools.iter().map(Tool::to_json).collect::<Vec<_>>()})),
            method => Err((-32601, format!("there is no method {method}"))),
        }
    }

    fn call(&mut self, id: &Value, params: &Value) -> Result<(), RpcError> {
        let name = params["name"].as_str().unwrap_or_default();
        let tool = self.tools.iter().find(|tool| tool.name == name);
        let tool = tool.ok_or_else(|| (-32602, format!("there is no tool {name}")))?;
        let arguments = tool.arguments(&params["arguments"]);
        let (common, changes, id) = (self.common.clone(), tool.effect.changes(), id.clone());
        let key = id.to_string();
        let call = self.calls.spawn(async move {
            // What is wrong with the arguments is for the agent, which can correct them.
            let answer = match arguments {
                Ok(arguments) => call::run(common, arguments, changes).await,
                Err(fault) => call::answer(&fault, true),
            };
            (id, answer)
        });
        self.running.insert(key, call);
        Ok(())
    }
}

fn answered(id: &Value, outcome: Result<Value, RpcError>) -> Value {
    match outcome {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err((code, message)) => {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
        }
    }
}

#[cfg(test)]
mod tests;
