//! What was measured, against what was promised: the table, and `results.json` with one object per measure, system and
//! scale.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing was promised; the figure is there to compare with.
    None,
}

impl Goal {
    /// Whether a figure is as promised; `None` where nothing was.
    pub fn is_met(self, figure: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(figure <= most),
            Self::AtLeast(least) => Some(figure >= least),
            Self::None => None,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured, such as `change p99`.
    pub measure: String,
    /// On what: `mayfly`, a peer, or a daemon.
    pub system: String,
    /// At what scale, such as `1000 x 20`.
    pub scale: String,
    pub figure: f64,
    pub unit: &'static str,
    pub goal: Goal,
    pub met: Option<bool>,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Results {
    figures: Vec<Figure>,
}

impl Results {
    /// Adds a figure, and says it at once: a run takes minutes.
    pub fn add(
        &mut self,
        measure: impl Into<String>,
        system: impl Into<String>,
        scale: impl ToString,
        (figure, unit): (f64, &'static str),
        goal: Goal,
    ) {
        let figure = Figure {
            measure: measure.into(),
            system: system.into(),
            scale: scale.to_string(),
            figure,
            unit,
            goal,
            met: goal.is_met(figure),
        };
        eprintln!("    {}", line(&figure));
        self.figures.push(figure);
    }

    /// Adds median and 99th percentile of times, in milliseconds.
    pub fn add_times(
        &mut self,
        measure: &str,
        system: &str,
        scale: impl ToString,
        times: &[Duration],
        (p50, p99): (Goal, Goal),
    ) {
        let scale = scale.to_string();
        for (name, percent, goal) in [("p50", 50, p50), ("p99", 99, p99)] {
            let figure = millis(percentile(times, percent));
            self.add(format!("{measure} {name}"), system, &scale, (figure, "ms"), goal);
        }
    }

    /// The figure of a measure.
    pub fn find(&self, measure: &str, system: &str, scale: impl ToString) -> Option<f64> {
        let scale = scale.to_string();
        let found = self
            .figures
            .iter()
            .find(|figure| figure.measure == measure && figure.system == system && figure.scale == scale);
        found.map(|figure| figure.figure)
    }

    /// The figures that are not as promised.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.figures.iter().filter(|figure| figure.met == Some(false));
        missed.map(line).collect()
    }

    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let mut table =
            String::from("| measure | scale | system | figure | goal | met |\n|---|---|---|---:|---|---|\n");
        for figure in &self.figures {
            let met = match figure.met {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "",
            };
            table.push_str(&format!(
                "| {} | {} | {} | {} {} | {} | {met} |\n",
                figure.measure,
                figure.scale,
                figure.system,
                number(figure.figure),
                figure.unit,
                goal(figure),
            ));
        }
        table
    }

    /// Writes all figures as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.figures).context("write figures as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }
}

fn line(figure: &Figure) -> String {
    let met = match figure.met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    };
    let text = format!(
        "{:<36} {:<12} {:<22} {:>12} {:<10} {:<18} {met}",
        figure.measure,
        figure.scale,
        figure.system,
        number(figure.figure),
        figure.unit,
        goal(figure),
    );
    text.trim_end().to_owned()
}

fn goal(figure: &Figure) -> String {
    match figure.goal {
        Goal::AtMost(most) => format!("at most {}", number(most)),
        Goal::AtLeast(least) => format!("at least {}", number(least)),
        Goal::None => String::new(),
    }
}

fn number(figure: f64) -> String {
    match figure {
        _ if figure == figure.trunc() || figure.abs() >= 1000.0 => format!("{figure:.0}"),
        _ if figure.abs() >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.3}"),
    }
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The smallest of the values that is at least as large as so many percent of them; zero of none.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(200));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }

    #[test]
    fn what_is_missed_is_said() {
        let mut results = Results::default();
        results.add("a", "mayfly", "1", (1.0, "ms"), Goal::AtMost(1.0));
        results.add("b", "mayfly", "1", (0.9, "x"), Goal::AtLeast(0.95));
        results.add("c", "peer", "1", (9.0, "x"), Goal::None);
        let missed = results.missed();
        assert!(missed.len() == 1 && missed[0].starts_with("b "), "{missed:?}");
    }
}
