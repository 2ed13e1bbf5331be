//! When environments were last used, to a minute or two: pure, with the time as an argument. The
//! row that HAProxy notes says only that there was a request since it was taken away. So each row
//! is taken away a minute after it was first seen, and the next request writes it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::lifetime::Moment;
use mayfly_core::records::traffic::MOST_USED;
use mayfly_daemon::file::write_if_different;
use tokio::time::Instant;

/// How long a row stays after it was seen.
const STAYS: Duration = Duration::from_secs(60);

/// By environment.
pub type Moments = BTreeMap<EnvironmentName, Moment>;

/// What is known of the last uses.
#[derive(Debug, Default)]
pub struct LastUses {
    at: Moments,
    /// The rows that are there, and since when they were seen.
    rows: BTreeMap<EnvironmentName, Instant>,
}

impl LastUses {
    /// What was known when this program was last there.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let at = serde_json::from_slice(&text).with_context(|| {
            format!(
                "cannot read the times of last use of environments from {}",
                file.display()
            )
        })?;
        Ok(Self {
            at,
            rows: BTreeMap::new(),
        })
    }

    /// HAProxy has a row for `name`, and the environments of `line` are used by that. Says whether
    /// the row is to be taken away.
    pub fn note<'a>(
        &mut self,
        name: &EnvironmentName,
        line: impl Iterator<Item = &'a EnvironmentName>,
        now: Instant,
        clock: SystemTime,
    ) -> bool {
        if let Some(seen) = self.rows.get(name) {
            return now.saturating_duration_since(*seen) >= STAYS;
        }
        self.rows.insert(name.clone(), now);
        for used in line {
            self.at.insert(used.clone(), minute(clock));
        }
        false
    }

    /// HAProxy has these rows now. Those that it lacks went with a process that was replaced.
    pub fn there_are(&mut self, rows: &BTreeSet<EnvironmentName>) {
        self.rows.retain(|name, _| rows.contains(name));
    }

    /// These rows were taken away.
    pub fn forgotten(&mut self, names: &BTreeSet<EnvironmentName>) {
        self.rows.retain(|name, _| !names.contains(name));
    }

    /// An environment has ended: one of the same name is another one.
    pub fn gone(&mut self, name: &EnvironmentName) {
        self.at.remove(name);
        self.rows.remove(name);
    }

    /// The last uses of the environments that exist, those that were used last.
    pub fn latest(&self, exists: impl Fn(&EnvironmentName) -> bool) -> Moments {
        let mut all: Vec<_> = self.at.iter().filter(|(name, _)| exists(name)).collect();
        if all.len() > MOST_USED {
            all.sort_by(|a, b| b.1.cmp(a.1));
            all.truncate(MOST_USED);
        }
        let all = all.into_iter();
        all.map(|(name, at)| (name.clone(), *at)).collect()
    }
}

/// Keeps them for the next start. Blocks.
///
/// # Errors
/// When the file cannot be written.
pub fn save(file: &Path, uses: &Moments) -> anyhow::Result<()> {
    write_if_different(file, &serde_json::to_vec(uses)?, 0o644).map(drop)
}

/// The minute that a moment is in: so a record changes once a minute.
fn minute(time: SystemTime) -> Moment {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let minutes = Duration::from_secs(since.as_secs() / 60 * 60);
    Moment::of(SystemTime::UNIX_EPOCH + minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> EnvironmentName {
        text.parse().unwrap()
    }

    fn shown(uses: &LastUses) -> Vec<(String, String)> {
        let all = uses.latest(|_| true);
        all.iter()
            .map(|(name, at)| (name.to_string(), at.to_string()))
            .collect()
    }

    #[test]
    fn a_row_is_noted_once_and_taken_away_after_a_minute() {
        let (mut uses, begun) = (LastUses::default(), Instant::now());
        let clock: Moment = "2030-01-31T18:00:59Z".parse().unwrap();
        let look = |uses: &mut LastUses, seconds| {
            let span = Duration::from_secs(seconds);
            let line = [name("child"), name("parent")];
            uses.note(&line[0], line.iter(), begun + span, clock.time() + span)
        };
        let first = |minute: &str| {
            let at = format!("2030-01-31T18:{minute}:00Z");
            vec![("child".to_owned(), at.clone()), ("parent".to_owned(), at)]
        };
        assert!(!look(&mut uses, 0) && !look(&mut uses, 59));
        assert_eq!(shown(&uses), first("00"));
        assert!(look(&mut uses, 60), "it is taken away");
        uses.forgotten(&[name("child")].into());
        assert!(!look(&mut uses, 75), "and there was a request again");
        assert_eq!(shown(&uses), first("02"));
        // The process was replaced, and the new one has no row yet.
        uses.there_are(&BTreeSet::new());
        assert!(!look(&mut uses, 600), "a request again");
        assert_eq!(shown(&uses), first("10"));
        uses.gone(&name("child"));
        assert_eq!(shown(&uses), first("10")[1..]);
    }

    #[test]
    fn last_uses_survive_a_restart_and_a_damaged_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("used.json");
        assert!(shown(&LastUses::load(&file).unwrap()).is_empty());
        let mut uses = LastUses::default();
        for number in 0..1_200_u64 {
            let of = name(&format!("e{number}"));
            let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(60 * number);
            uses.note(&of, [&of].into_iter(), Instant::now(), clock);
        }
        let latest = uses.latest(|name| name.as_str() != "e1199");
        assert_eq!(latest.len(), 1_000);
        assert!(!latest.contains_key(&name("e198")) && latest.contains_key(&name("e199")));
        save(&file, &latest).unwrap();
        assert_eq!(LastUses::load(&file).unwrap().latest(|_| true), latest);
        std::fs::write(&file, "{").unwrap();
        let error = format!("{:#}", LastUses::load(&file).unwrap_err());
        assert!(error.contains("used.json"), "{error}");
    }
}
