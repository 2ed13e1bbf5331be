//! What explains a failed request: HAProxy's own log of it, and what was under way.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// haproxy-updater's own.
const TEMPLATE: &str = include_str!("../../../haproxy-updater/templates/haproxy.cfg.tera");
/// How far a line of HAProxy may be from the moment at which the client saw the failure.
const AROUND: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(200));
/// What has begun so long before a failure may be its cause.
const BEFORE: Duration = Duration::from_secs(5);
/// Lines of HAProxy that are kept for a failure, the last ones.
const LINES: usize = 12;

/// A request that failed, and what was seen around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Since the begin of the load.
    pub when: Duration,
    pub why: String,
    /// What HAProxy logged then: of each request that was tried again or failed, the time in
    /// milliseconds, the number of tries after the first, and the access log's line with backend,
    /// server and termination flags.
    pub log: Vec<String>,
    /// What began and what became right shortly before.
    pub under_way: Vec<String>,
}

/// When the load began, by the clock of the log.
#[derive(Debug, Clone, Copy)]
pub struct Begin(SystemTime);

/// The default template, with a log of the requests that were tried again or that failed.
pub fn template() -> String {
    let changes = [
        (
            "    option dontlognull\n",
            "    option dontlognull\n    option dontlog-normal\n",
        ),
        ("    log-format \"", "    log-format \"%[date(0,ms)] %rc "),
    ];
    changes
        .into_iter()
        .fold(TEMPLATE.to_owned(), |template, (from, to)| {
            assert_eq!(template.matches(from).count(), 1, "{from:?} in the template");
            template.replace(from, to)
        })
}

impl Begin {
    /// It begins now.
    pub fn now() -> Self {
        Self(SystemTime::now())
    }

    /// Explains a failure by HAProxy's log, and by what was noted with its time.
    pub fn explain(&self, when: Duration, why: String, log: &str, noted: &[(Duration, String)]) -> Failure {
        let under_way = noted
            .iter()
            .filter(|(at, _)| (when.saturating_sub(BEFORE)..=when).contains(at))
            .map(|(at, what)| format!("{:.2} s before: {what}", (when - *at).as_secs_f64()));
        Failure {
            when,
            why,
            log: self.around(when, log),
            under_way: under_way.collect(),
        }
    }

    /// The last lines of requests around a moment. HAProxy's other lines have no time.
    fn around(&self, when: Duration, log: &str) -> Vec<String> {
        let moment = self.0.duration_since(UNIX_EPOCH).unwrap_or_default() + when;
        let span = moment.saturating_sub(AROUND.0).as_millis()..=(moment + AROUND.1).as_millis();
        let is_then = |line: &&str| {
            let first = line.split(' ').next();
            first
                .and_then(|time| time.parse().ok())
                .is_some_and(|time| span.contains(&time))
        };
        let mut lines: Vec<String> = log.lines().filter(is_then).map(str::to_owned).collect();
        lines.split_off(lines.len().saturating_sub(LINES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_has_a_log() {
        assert!(template().contains("dontlog-normal") && template().contains("%rc"));
    }

    #[test]
    fn a_failure_comes_with_the_log_and_the_events_around_it() {
        let begin = Begin(UNIX_EPOCH + Duration::from_secs(1_000));
        let log = "[NOTICE] (1) : New worker (2) forked\n\
                   1027000 0 127.0.0.1:1 edge slot-1/a -- long before\n\
                   1029900 6 127.0.0.1:1 edge slot-1/b 503 SC--\n\
                   Server slot-1/b is DOWN\n\
                   1030400 1 127.0.0.1:1 edge slot-1/c -- after\n";
        let second = Duration::from_secs;
        let noted = [
            (second(20), "HAProxy killed".to_owned()),
            (second(29), "a version changed".to_owned()),
            (second(31), "etcd killed".to_owned()),
        ];
        let failure = begin.explain(second(30), "status 503".to_owned(), log, &noted);
        assert_eq!(failure.log, ["1029900 6 127.0.0.1:1 edge slot-1/b 503 SC--"]);
        assert_eq!(failure.under_way, ["1.00 s before: a version changed"]);
    }
}
