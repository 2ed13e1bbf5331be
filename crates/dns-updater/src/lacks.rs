//! Logs that routers or environments are missing. In the first seconds after a start nothing counts
//! as missing: it may be about to be registered, as when everything starts at once.

use std::time::Duration;

use tracing::{info, warn};

/// A router registers within a second of its HAProxy's start, and that may come some seconds after
/// ours.
const SETTLING: Duration = Duration::from_secs(10);

/// What has been there since the start, and what was logged last.
#[derive(Debug, Default)]
pub struct Lacks {
    had_router: bool,
    router_missed: bool,
    had_environment: bool,
    environment_missed: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    Info(String),
    Warn(String),
}

impl Notice {
    pub fn log(self) {
        match self {
            Self::Info(text) => info!("{text}"),
            Self::Warn(text) => warn!("{text}"),
        }
    }
}

impl Lacks {
    /// What is new about routers, this long after the start; `known` addresses are used while none
    /// is live.
    pub fn routers(&mut self, without: bool, known: usize, since_start: Duration) -> Option<Notice> {
        self.had_router |= !without;
        let missed = without && (self.had_router || since_start >= SETTLING);
        if std::mem::replace(&mut self.router_missed, missed) == missed {
            return None;
        }
        Some(match (missed, known) {
            (false, _) => Notice::Info("names resolve to live routers".to_owned()),
            (true, 0) => Notice::Warn(
                "no router is registered yet, so only static records resolve; check that \
                 haproxy-updater and HAProxy run"
                    .to_owned(),
            ),
            (true, known) => {
                let addresses = match known {
                    1 => "address".to_owned(),
                    known => format!("{known} addresses"),
                };
                Notice::Warn(format!(
                    "no router is live, but names still resolve to the last {addresses}; check that \
                     haproxy-updater and HAProxy run"
                ))
            }
        })
    }

    /// What is new about environments.
    pub fn environments(&mut self, without: bool) -> Option<Notice> {
        let had = self.had_environment;
        self.had_environment |= !without;
        if std::mem::replace(&mut self.environment_missed, without) == without {
            return None;
        }
        let text = match (without, had) {
            (true, true) => "etcd no longer has any environment",
            (true, false) => "etcd has no environment yet",
            (false, true) => "etcd has environments again",
            (false, false) => "etcd has environments now",
        };
        Some(Notice::Info(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(notice: Option<Notice>) -> String {
        match notice {
            None => "-".to_owned(),
            Some(Notice::Info(text)) => text,
            Some(Notice::Warn(text)) => format!("WARN {text}"),
        }
    }

    #[test]
    fn a_router_is_missed_once_it_has_been_there_or_is_late() {
        let seconds = Duration::from_secs;
        let mut lacks = Lacks::default();
        assert_eq!(text(lacks.routers(true, 0, seconds(0))), "-");
        assert_eq!(text(lacks.routers(true, 0, seconds(9))), "-");
        assert!(text(lacks.routers(true, 0, seconds(10))).starts_with(
            "WARN no router is \
                                                                       registered yet"
        ));
        assert_eq!(text(lacks.routers(true, 0, seconds(12))), "-");
        assert_eq!(
            text(lacks.routers(false, 1, seconds(14))),
            "names resolve to live routers"
        );
        assert!(text(lacks.routers(true, 1, seconds(15))).starts_with("WARN no router is live"));

        let mut lacks = Lacks::default();
        assert_eq!(
            text(lacks.routers(true, 2, seconds(0))),
            "-",
            "those of the last run"
        );
        assert_eq!(text(lacks.routers(false, 2, seconds(1))), "-", "as is usual");
        assert!(text(lacks.routers(true, 2, seconds(2))).starts_with("WARN no router is live"));
    }

    #[test]
    fn environments_are_gone_or_back_only_if_there_were_some() {
        let mut lacks = Lacks::default();
        for (without, expected) in [
            (true, "etcd has no environment yet"),
            (true, "-"),
            (false, "etcd has environments now"),
            (true, "etcd no longer has any environment"),
            (false, "etcd has environments again"),
        ] {
            assert_eq!(text(lacks.environments(without)), expected);
        }
        assert_eq!(text(Lacks::default().environments(false)), "-", "as is usual");
    }
}
