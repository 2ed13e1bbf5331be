//! Runs a whole Mayfly under random faults, and prints what it endured. `scripts/soak.sh` builds
//! and runs it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use mayfly_e2e::soak::{Endured, Soak};

/// Runs a whole Mayfly under random faults, changes and load
#[derive(Debug, Parser)]
#[command(name = "mayfly-soak")]
struct Arguments {
    /// How long it lasts, in hours
    #[arg(long, default_value_t = 1.0, conflicts_with = "minutes")]
    hours: f64,
    /// How long it lasts, in minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// Chooses the faults and their times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Requests a second
    #[arg(long, default_value_t = 600)]
    rate: u32,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let minutes = arguments.minutes.unwrap_or(arguments.hours * 60.0);
    let soak = Soak {
        lasts: Duration::try_from_secs_f64(minutes * 60.0).context("how long it lasts")?,
        seed: arguments.seed,
        rate: arguments.rate,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start a runtime")?;
    // On this thread: processes end with the thread that started them.
    let endured = runtime.block_on(soak.run())?;
    print(&endured, minutes, arguments.seed);
    let faults = endured.faults();
    for fault in &faults {
        eprintln!("broken: {fault}");
    }
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(endured: &Endured, minutes: f64, seed: u64) {
    let report = &endured.report;
    println!(
        "{minutes} minutes, seed {seed}: {} requests, {} failed, {} while HAProxy was down or damaged\n",
        report.requests,
        report.failures.len(),
        report.excused
    );
    for failure in &endured.failures {
        println!(
            "failed after {:.2} s: {}",
            failure.when.as_secs_f64(),
            failure.why.trim()
        );
        for line in failure.under_way.iter().chain(&failure.log) {
            println!("    {line}");
        }
    }
    println!("| fault or change | times |\n|---|---:|");
    for (what, times) in &endured.events {
        println!("| {what} | {times} |");
    }
    println!("\n| right again | slowest |\n|---|---:|");
    for (what, time) in &endured.slowest {
        println!("| {what} | {:.2} s |", time.as_secs_f64());
    }
    println!("\n| process | followed | memory | grows by | descriptors | grow by | level |");
    println!("|---|---:|---:|---:|---:|---:|---|");
    for trend in &endured.trends {
        println!(
            "| {} | {:.0} s | {:.1} MB | {:+.2} MB | {:.0} | {:+.1} | {} |",
            trend.process,
            trend.lasted.as_secs_f64(),
            trend.memory.median,
            trend.memory.rise,
            trend.descriptors.median,
            trend.descriptors.rise,
            if trend.is_level() { "yes" } else { "**no**" }
        );
    }
}
