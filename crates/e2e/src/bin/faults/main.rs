//! Runs every fault in full length and prints the table of docs/reliability.md. `scripts/faults.sh` builds and runs it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use mayfly_e2e::faults::loaded::Outcome;
use mayfly_e2e::faults::{Fault, Length, all, upgrades};

/// Breaks each part of Mayfly under load, and says what was kept of its promises.
#[derive(Debug, Parser)]
#[command(name = "mayfly-faults")]
struct Arguments {
    /// The short forms that ./scripts/test.sh runs, too
    #[arg(long)]
    short: bool,
    /// Only these faults
    #[arg(value_name = "FAULT")]
    faults: Vec<String>,
    /// The directory with the programs of an earlier version: these are replaced by those of this
    /// version and back, in place of any fault
    #[arg(long, value_name = "DIRECTORY")]
    before: Option<PathBuf>,
}

/// The faults of these names, or all.
fn chosen(arguments: &Arguments) -> Result<Vec<Fault>> {
    let faults = match &arguments.before {
        Some(before) => upgrades(
            &before
                .canonicalize()
                .with_context(|| format!("find {}", before.display()))?,
        ),
        None => all(),
    };
    let names: Vec<_> = faults.iter().map(|fault| fault.name).collect();
    for name in &arguments.faults {
        if !names.contains(&name.as_str()) {
            bail!("there is no fault {name}; there are {}", names.join(" "));
        }
    }
    let wanted =
        |fault: &Fault| arguments.faults.is_empty() || arguments.faults.iter().any(|name| name == fault.name);
    Ok(faults.into_iter().filter(wanted).collect())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let length = if arguments.short {
        Length::Short
    } else {
        Length::Full
    };
    let faults = match chosen(&arguments) {
        Ok(faults) => faults,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let mut rows = vec![
        "| fault | requests | failed | time to converge | promise |".to_owned(),
        "|---|---:|---:|---:|---|".to_owned(),
    ];
    let mut broken = 0;
    for fault in &faults {
        eprintln!("{:5.0} s  {}", start.elapsed().as_secs_f64(), fault.name);
        let (row, kept) = row(fault.what, run(fault, length), length);
        rows.push(row);
        broken += usize::from(!kept);
    }
    println!("{}", rows.join("\n"));
    if broken > 0 {
        eprintln!("{broken} promises were not kept");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Each case has a runtime of its own on this thread: its processes end with the thread that started them.
fn run(fault: &Fault, length: Length) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start a runtime")?;
    match catch_unwind(AssertUnwindSafe(|| runtime.block_on(fault.run(length)))) {
        Ok(outcome) => outcome,
        Err(panic) => bail!(
            "{}",
            panic
                .downcast_ref::<String>()
                .map_or("it panicked", String::as_str)
        ),
    }
}

fn row(what: &str, outcome: Result<Outcome>, length: Length) -> (String, bool) {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            let error = format!("{error:#}").replace(['\n', '|'], " ");
            return (format!("| {what} | | | | **broken**: {error} |"), false);
        }
    };
    let broken = outcome.broken(length);
    let told = if broken.is_empty() {
        "kept".to_owned()
    } else {
        format!("**broken**: {}", broken.join("; "))
    };
    let report = &outcome.report;
    let excused = match report.excused {
        0 => String::new(),
        excused => format!(" (and {excused} {})", outcome.excuse),
    };
    let seen = outcome.seen().join(", ");
    let row = format!(
        "| {what} | {} | {}{excused} | {seen} | {told} |",
        report.requests,
        report.failures.len()
    );
    (row, broken.is_empty())
}
