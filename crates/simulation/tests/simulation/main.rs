//! The simulation: the loops of the daemons run in one thread and in virtual time, against an etcd
//! that is a value of the test ([`etcd`]). Everything that could differ between two runs follows
//! from one number, the seed: time and randomness of the process ([`clock`]), the network
//! ([`etcd::network`]), and what the test does ([`scenario`], [`world`]). [`truth`] notes what must
//! never happen, and [`final_state`] what must be so in the end. [`trace`] shows whether two runs
//! were the same.
//!
//! Each seed is a process of its own, since tokio numbers the runtimes of a process: this program
//! starts itself with the test `replay`.
//!
//! `MAYFLY_SIM_SEEDS` and `MAYFLY_SIM_SEED` say how many seeds, and which is the first;
//! `MAYFLY_SIM_TRACE=1` prints what happens.

// A test that cannot start a daemon fails.
#![allow(clippy::unwrap_used)]

mod clock;
mod engine;
mod etcd;
mod final_state;
mod haproxy;
mod lost_answer;
mod random;
mod scenario;
mod trace;
mod truth;
mod world;

use std::process::Command;
use std::time::{Duration, Instant};

/// The seed of the process that replays one.
const SEED: &str = "MAYFLY_SIM_REPLAY";

/// How long a seed may take in real time; it takes a fraction of a second.
const LONGEST: Duration = Duration::from_secs(100);

/// How many seeds a test run tries, if they take no longer than [`BUDGET`].
const SEEDS: u64 = 1000;
/// How long each half of the seeds of a test run may take in real time: one takes about a second of
/// a processor in a debug build, and a sixth of that with optimisation.
const BUDGET: Duration = Duration::from_secs(50);

/// Runs the test of one seed, if this is the process for it.
#[test]
fn replay() {
    let Some(seed) = number(SEED) else { return };
    let is_printed = std::env::var_os("MAYFLY_SIM_TRACE").is_some();
    if is_printed {
        let filter = std::env::var("MAYFLY_LOG").unwrap_or_else(|_| "warn".to_owned());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stdout)
            .init();
    }
    std::thread::spawn(move || {
        // What goes round without an end never lets virtual time pass.
        std::thread::sleep(LONGEST);
        eprintln!("seed {seed}: it has not come to its end within {LONGEST:?}");
        std::process::exit(1);
    });
    let outcome = clock::simulate(seed, move || scenario::run(seed, is_printed));
    println!("{}", outcome.summary());
    assert!(
        outcome.faults.is_empty(),
        "seed {seed}:\n  {}",
        outcome.faults.join("\n  ")
    );
}

#[test]
fn a_seed_replays_bit_by_bit() {
    for seed in [1, 2, 3] {
        let [first, second] = [(), ()].map(|()| {
            let mut command = command(seed);
            // Logs have paths that differ from run to run.
            command.env("MAYFLY_SIM_TRACE", "1").env("MAYFLY_LOG", "off");
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            // The harness says how long it took.
            let lines = said.lines().filter(|line| !line.starts_with("test "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        });
        assert!(first.len() > 100, "{first:?}");
        assert_eq!(first, second);
    }
}

#[test]
fn seeds_of_the_first_half_find_nothing() {
    seeds_find_nothing(0, 2);
}

#[test]
fn seeds_of_the_second_half_find_nothing() {
    seeds_find_nothing(1, 2);
}

/// For `scripts/simulate.sh --mutants`, which counts the seeds until one fails.
#[test]
#[ignore = "the same seeds as in both halves"]
fn seeds_in_order_find_nothing() {
    seeds_find_nothing(0, 1);
}

/// Tries seeds, from the first one plus `from` on, every one or every second one.
fn seeds_find_nothing(from: u64, step: usize) {
    let (first, count) = (
        number("MAYFLY_SIM_SEED").unwrap_or(1),
        number("MAYFLY_SIM_SEEDS").unwrap_or(SEEDS),
    );
    let most = number("MAYFLY_SIM_FAILURES").unwrap_or(5);
    let has_limit = number("MAYFLY_SIM_SEEDS").is_none();
    let (begun, mut tried) = (Instant::now(), 0);
    let (mut failures, mut slowest) = (0, Duration::ZERO);
    for seed in (first + from..first + count).step_by(step) {
        if has_limit && begun.elapsed() >= BUDGET {
            break;
        }
        tried += 1;
        match play(seed) {
            Ok(summary) => slowest = slowest.max(settled(&summary)),
            Err(failure) => {
                failures += 1;
                println!(
                    "{failure}\nto see what happens: MAYFLY_SIM_TRACE=1 ./scripts/simulate.sh --replay {seed}\n"
                );
                if failures >= most {
                    break;
                }
            }
        }
    }
    let of = count.div_ceil(step as u64);
    println!(
        "tried {tried} of {of} seeds in {:.0?}; the slowest settled after {slowest:?}",
        begun.elapsed()
    );
    assert_eq!(failures, 0, "seeds failed: see above");
}

/// What plays a seed in a process of its own.
fn command(seed: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "replay", "--nocapture", "--test-threads=1"]);
    command.env(SEED, seed.to_string()).env_remove("MAYFLY_SIM_TRACE");
    command
}

/// Plays a seed: its summary, or what went wrong.
fn play(seed: u64) -> Result<String, String> {
    let output = command(seed).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // The harness says the name of the test in the same line.
    let summary = said
        .lines()
        .find_map(|line| line.find("seed ").map(|at| line[at..].to_owned()));
    match summary {
        Some(summary) if output.status.success() => Ok(summary),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let lines = errors
                .lines()
                .filter(|line| !line.is_empty() && !line.contains("RUST_BACKTRACE"));
            Err(lines.take(12).collect::<Vec<_>>().join("\n"))
        }
    }
}

fn settled(summary: &str) -> Duration {
    let millis = summary.rsplit(' ').nth(1).and_then(|millis| millis.parse().ok());
    Duration::from_millis(millis.unwrap_or_default())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
