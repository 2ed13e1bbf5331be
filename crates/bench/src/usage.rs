//! What a process takes: memory and CPU time, as the kernel counts them.

use std::time::Duration;

use anyhow::{Context, Result};

/// Resident memory of a process in MB (10^6 octets), program text and shared libraries included.
///
/// # Errors
/// When there is no such process.
pub fn memory(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no VmRSS in {path}"))?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// CPU time that a process and its threads have taken, in steps of 10 ms.
///
/// # Errors
/// When there is no such process.
pub fn cpu(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // After the program's name, which is in parentheses and may hold anything; utime and stime are fields 14 and 15 of all.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // The kernel shows 100 ticks a second on every architecture that Debian has.
    Ok(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_takes_time() {
        let own = std::process::id();
        assert!(memory(own).unwrap() > 1.0);
        let (before, start) = (cpu(own).unwrap(), std::time::Instant::now());
        while cpu(own).unwrap() < before + Duration::from_millis(20) {
            assert!(start.elapsed() < Duration::from_secs(10), "no time is counted");
        }
    }
}
