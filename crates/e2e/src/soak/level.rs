//! What processes use, and whether it grows: the slope of all samples of a process, which a single
//! high sample does not move.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Of all samples, so many are used for a slope: all pairs of them are compared.
const SAMPLES: usize = 400;

/// What a process uses at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Private memory in MB (10^6 bytes): no program text, no mapped files.
    pub memory: f64,
    /// Open descriptors.
    pub descriptors: f64,
}

impl Usage {
    /// That of a process now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(process: u32) -> Result<Self> {
        let path = format!("/proc/{process}/status");
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes: f64 = line
            .and_then(|line| line.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("no RssAnon in {path}"))?;
        let path = format!("/proc/{process}/fd");
        let descriptors = std::fs::read_dir(&path).with_context(|| format!("list {path}"))?;
        Ok(Self {
            memory: kilobytes * 1024.0 / 1e6,
            descriptors: descriptors.count() as f64,
        })
    }
}

/// The samples of all processes, by name and process id.
#[derive(Debug)]
pub struct Samples {
    begun: Instant,
    all: BTreeMap<(String, u32), Vec<(f64, Usage)>>,
}

/// How what a process uses has changed over all of its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Trend {
    pub process: String,
    /// Between the first and the last sample.
    pub lasted: Duration,
    pub memory: Line,
    pub descriptors: Line,
}

/// The middle one of all values, and by how much the line through them rises from end to end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    pub median: f64,
    pub rise: f64,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            all: BTreeMap::new(),
        }
    }
}

impl Samples {
    /// Adds what a process uses now; nothing if it has just ended.
    pub fn take(&mut self, name: &str, process: u32) {
        if let Ok(usage) = Usage::of(process) {
            let samples = self.all.entry((name.to_owned(), process)).or_default();
            samples.push((self.begun.elapsed().as_secs_f64(), usage));
        }
    }

    /// The trend of each process that has enough samples.
    pub fn trends(&self) -> Vec<Trend> {
        let enough = self.all.iter().filter(|(_, samples)| samples.len() >= 10);
        enough
            .map(|((name, _), samples)| {
                let line = |what: fn(&Usage) -> f64| {
                    Line::through(
                        &samples
                            .iter()
                            .map(|(at, usage)| (*at, what(usage)))
                            .collect::<Vec<_>>(),
                    )
                };
                Trend {
                    process: name.clone(),
                    lasted: Duration::from_secs_f64(samples[samples.len() - 1].0 - samples[0].0),
                    memory: line(|usage| usage.memory),
                    descriptors: line(|usage| usage.descriptors),
                }
            })
            .collect()
    }
}

impl Line {
    /// By Theil and Sen: the median of the slopes of all pairs.
    fn through(points: &[(f64, f64)]) -> Self {
        let step = points.len().div_ceil(SAMPLES).max(1);
        let points: Vec<_> = points.iter().step_by(step).copied().collect();
        let pairs = points
            .iter()
            .enumerate()
            .flat_map(|(number, from)| points[number + 1..].iter().map(move |to| (from, to)));
        let slopes = pairs
            .filter(|(from, to)| to.0 > from.0)
            .map(|(from, to)| (to.1 - from.1) / (to.0 - from.0));
        let time = points[points.len() - 1].0 - points[0].0;
        Self {
            median: median(points.iter().map(|(_, value)| *value).collect()),
            rise: median(slopes.collect()) * time,
        }
    }
}

impl Trend {
    /// Whether it does not grow: memory by 2 MB and a tenth at most, descriptors by 4 and a tenth
    /// (HAProxy keeps a changing number of idle connections).
    pub fn is_level(&self) -> bool {
        self.memory.rise <= 2.0 + self.memory.median / 10.0
            && self.descriptors.rise <= 4.0 + self.descriptors.median / 10.0
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(memory: impl Fn(f64) -> f64, descriptors: impl Fn(f64) -> f64) -> Trend {
        let line = |value: &dyn Fn(f64) -> f64| {
            Line::through(
                &(0..1000)
                    .map(|at| (f64::from(at), value(f64::from(at))))
                    .collect::<Vec<_>>(),
            )
        };
        Trend {
            process: "p".to_owned(),
            lasted: Duration::from_secs(999),
            memory: line(&memory),
            descriptors: line(&descriptors),
        }
    }

    #[test]
    fn growth_shows_and_noise_does_not() {
        let noise = |at: f64| (at * 7.0) % 13.0 / 4.0;
        assert!(trend(|at| 20.0 + noise(at), |at| 30.0 + noise(at)).is_level());
        // Now and then something large, which goes.
        assert!(trend(|at| if at % 50.0 < 5.0 { 90.0 } else { 20.0 }, |_| 30.0).is_level());
        assert!(!trend(|at| 20.0 + noise(at) + at / 200.0, |_| 30.0).is_level());
        assert!(!trend(|_| 20.0, |at| 30.0 + noise(at) + at / 100.0).is_level());
        assert!(trend(|at| 50.0 - at / 100.0, |_| 30.0).is_level());
    }

    #[test]
    fn the_line_of_a_line_is_itself() {
        let points: Vec<_> = (0..100).map(|at| (f64::from(at), f64::from(at) * 2.0)).collect();
        let line = Line::through(&points);
        assert!((line.rise - 198.0).abs() < 1e-9 && (line.median - 100.0).abs() < 1e-9);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.memory > 0.1 && usage.descriptors >= 1.0);
        let mut samples = Samples::default();
        for _ in 0..10 {
            samples.take("own", std::process::id());
        }
        assert_eq!(samples.trends().len(), 1);
    }
}
