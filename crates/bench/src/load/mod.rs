//! Load by wrk, with a script that spreads the requests over all environments. What the script prints at the end is read here.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mayfly_e2e::process::run;

/// Spreads requests and says how they went.
const SCRIPT: &str = include_str!("load.lua");

/// A side of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Environments by host, the service by path.
    Edge,
    /// Environments by `x-mayfly`, the service by host.
    Internal,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Edge, Self::Internal];

    /// As in names of measures, and as the script takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Internal => "internal",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Load<'a> {
    pub to: SocketAddr,
    /// How the requests say what they want.
    pub side: Side,
    /// Whether by TLS, whose certificate is not checked.
    pub tls: bool,
    /// The number of the first environment.
    pub first: usize,
    pub environments: usize,
    /// Over how many services, inside.
    pub services: usize,
    /// What each request says beside.
    pub headers: &'a [(&'a str, &'a str)],
    /// How many connections, each kept alive.
    pub connections: usize,
    pub time: Duration,
    /// A file to which a line for each answer is added, and the hosts or header values that every fourth request is for.
    pub log: Option<(&'a Path, &'a [String])>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Complete answers.
    pub requests: u64,
    /// Answers of another status than 2xx or 3xx, and requests without a complete answer.
    pub failed: u64,
    /// Answers a second.
    pub rate: f64,
    /// 99th percentile of the time for an answer.
    pub p99: Duration,
}

impl Load<'_> {
    /// Runs it.
    ///
    /// # Errors
    /// When wrk is missing or fails.
    pub async fn run(&self, directory: &Path) -> Result<Report> {
        // Two loads may run at the same time.
        let script = directory.join(format!("load-{}.lua", self.side.as_str()));
        std::fs::write(&script, SCRIPT).context("write the script for wrk")?;
        let mut command = Command::new("wrk");
        command.args(["--threads", "1", "--timeout", "5s", "--connections"]);
        command.arg(self.connections.to_string());
        command.arg("--duration").arg(format!("{}s", self.time.as_secs()));
        command.arg("--script").arg(&script);
        for (name, value) in self.headers {
            command.args(["--header", &format!("{name}: {value}")]);
        }
        let scheme = if self.tls { "https" } else { "http" };
        command.arg(format!("{scheme}://{}/", self.to)).arg("--");
        command.arg(self.side.as_str());
        let numbers = [self.environments, self.services, self.first];
        command.args(numbers.map(|number| number.to_string()));
        if let Some((log, often)) = self.log {
            command.arg(log).args(often);
        }
        let done = run(&command, self.time + Duration::from_secs(60)).await?.ok()?;
        read(&done).with_context(|| format!("wrk says: {done}"))
    }
}

fn read(printed: &str) -> Result<Report> {
    let line = printed.lines().find_map(|line| line.strip_prefix("RESULT "));
    let line = line.context("no result")?;
    let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    ensure!(numbers.len() == 4, "{} numbers in {line:?}", numbers.len());
    Ok(Report {
        requests: numbers[0] as u64,
        failed: numbers[1] as u64,
        rate: numbers[0] / (numbers[2] / 1e6),
        p99: Duration::from_secs_f64(numbers[3] / 1e6),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_the_script_is_read() {
        let report = read("Running 3s test\nRESULT 3000 2 3000000 1500\n").unwrap();
        assert_eq!((report.requests, report.failed), (3000, 2));
        assert_eq!(report.rate, 1000.0);
        assert_eq!(report.p99, Duration::from_micros(1500));
        assert!(read("RESULT 1 2").is_err() && read("").is_err());
    }
}
