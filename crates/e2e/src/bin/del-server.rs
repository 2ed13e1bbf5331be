//! Adds and deletes servers of a HAProxy under load, and prints whether it survived.
//! `scripts/del-server.sh` builds and runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use mayfly_e2e::del_server::{DelServer, Manner};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Servers {
    /// Nothing listens at their address
    Refuse,
    /// They close each connection without an answer
    Close,
    /// Two refuse, two close
    Both,
}

/// Adds and deletes servers of a HAProxy under load
#[derive(Debug, Parser)]
#[command(name = "mayfly-del-server")]
struct Arguments {
    /// How long it lasts, in seconds
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// How long a disabled server waits for its deletion, in seconds
    #[arg(long, default_value_t = 0.0)]
    delay: f64,
    /// What the servers do that come and go
    #[arg(long, value_enum, default_value_t = Servers::Refuse)]
    servers: Servers,
    /// Repeats a failed try at the same server after a second: a deletion amid it is certain
    #[arg(long)]
    same: bool,
    /// Clients, each with one request at a time
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// The program
    #[arg(long, default_value = "haproxy")]
    program: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let run = DelServer {
        program: arguments.program,
        lasts: Duration::from_secs(arguments.seconds),
        delay: Duration::try_from_secs_f64(arguments.delay)?,
        manner: match arguments.servers {
            Servers::Refuse => Manner::Refuse,
            Servers::Close => Manner::Close,
            Servers::Both => Manner::Both,
        },
        same: arguments.same,
        clients: arguments.clients,
    };
    let survival = run.run().await?;
    println!("| servers | failed try | delay | rounds of four | requests | failed | not deleted | HAProxy |");
    println!("|---|---|---:|---:|---:|---:|---:|---|");
    let end = match &survival.ended {
        None => "runs".to_owned(),
        Some((after, how)) => format!("**ended** after {:.0} s: {how}", after.as_secs_f64()),
    };
    println!(
        "| {} | {} | {} s | {} | {} | {} | {} | {end} |",
        format!("{:?}", run.manner).to_lowercase(),
        if arguments.same {
            "same server"
        } else {
            "another server"
        },
        arguments.delay,
        survival.rounds,
        survival.requests,
        survival.failed,
        survival.kept
    );
    Ok(match survival.ended {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}
