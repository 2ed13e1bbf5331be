//! `mayfly keep`: extends the life of an environment, whatever its record says, and brings back one
//! that has ended.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{bail, ensure};
use mayfly_core::keys::Key;
use mayfly_core::names::{EnvironmentName, NameError};
use mayfly_core::records::ended::{Ended, Why};
use mayfly_core::records::lifetime::{Expiry, Idle, Life, Moment};
use mayfly_core::records::{self, Environment};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::retry::Tries;
use mayfly_daemon::store::Guard;
use mayfly_daemon::{environments, output};

use crate::clash::clashes;
use mayfly_state::state::unknown;

use crate::registry::{Registry, is_local};

const EXAMPLES: &str = "\
Examples:
  mayfly keep temp-1 8h           keeps temp-1 for at least 8 hours from now
  mayfly keep temp-1 2days

If an ended environment has neither `expires` nor `idle`, it comes back with `expires`: the end of the given time. The
command never shortens a life: an environment that expires later, or is in use, stays as long as before. Of an ended
environment, only its own `expires` and `idle` count, and no earlier `mayfly keep`. To shorten the time that an earlier
`mayfly keep` gave, delete the environment and keep it again.";

/// Longer times are typing mistakes: nothing would end the environment. Files may have them, since
/// earlier versions took them, and an environment must not be refused because of an upgrade.
const LONGEST: Duration = Duration::from_secs(10 * 31_557_600);

/// Extends the life of an environment, or brings back an ended environment
///
/// The environment lives for at least the given time from now, whether it is used or not. An
/// environment that has ended is registered again with its last content, and its registrar restores
/// its file.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The environment to keep
    #[arg(value_name = "NAME")]
    pub name: EnvironmentName,

    /// Keeps the environment for this long, counted from now, such as 90m, 8h or 2days; at most
    /// 10years
    #[arg(value_name = "TIME", value_parser = keep_time)]
    pub time: Idle,
}

/// The time to keep an environment, unless it is a typing mistake.
fn keep_time(text: &str) -> Result<Idle, String> {
    let time: Idle = text.parse().map_err(|error: NameError| error.to_string())?;
    match time.span() <= LONGEST {
        true => Ok(time),
        false => Err(
            "this is longer than 10 years: give a shorter time, or set `protected: true` in the \
                      environment's file"
                .to_owned(),
        ),
    }
}

/// Keeps an environment and says until when.
///
/// # Errors
/// When there never was one of that name, nothing ends it, another has its prefix or header by now,
/// or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    // Whoever changes it at the same moment, such as a router that saw a request, makes us look
    // again.
    let mut tries = Tries::default();
    while tries.next().await {
        let registry = Registry::read(&store).await?;
        let now = SystemTime::now();
        // The value too: it may hold more than this version of Mayfly knows.
        let (before, value, environment, guard, lease) = match registry.live.get(&args.name) {
            Some(live) => {
                let record = live.record.as_ref().map_err(|reason| {
                    anyhow::anyhow!("the record of environment {} is not valid: {reason}", args.name)
                })?;
                let kept = kept(record, args.time, now)?;
                let entry = store.get(&Key::Environment(args.name.clone())).await?;
                let Some(entry) = entry.filter(|entry| entry.mod_revision == live.revision.changed) else {
                    continue;
                };
                let guard = Guard::ModRevision(entry.mod_revision);
                (record.clone(), entry.value, kept, guard, entry.lease)
            }
            None => {
                if !registry.ended.contains_key(&args.name) {
                    let ended = store.get(&Key::Ended(args.name.clone())).await?;
                    let ended = ended.and_then(|entry| records::parse(&entry.value).ok());
                    bail!("{}", gone(&registry, &args.name, ended.as_ref()));
                }
                let (before, back) = revived(&registry, args, now)?;
                let history = store.get(&Key::History(args.name.clone())).await?;
                let Some(entry) = history else { continue };
                (before.clone(), entry.value, back, Guard::Absent, None)
            }
        };
        let value = records::amended(&value, &before, &environment)?;
        let written = environments::register_value(&store, (&environment, value), guard, lease, now).await?;
        if written.is_some() {
            output::print(&report(&environment, guard == Guard::Absent))?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    bail!("another writer keeps changing {}: try again", args.name)
}

/// An environment that is registered, kept.
fn kept(environment: &Environment, time: Idle, now: SystemTime) -> anyhow::Result<Environment> {
    let name = &environment.name;
    ensure!(
        !environment.protected,
        "cannot extend {name}: it is protected, so it does not end by itself"
    );
    ensure!(
        !is_local(environment),
        "cannot extend {name}: it belongs to `mayfly local`, and ends with that command"
    );
    ensure!(
        environment.expires.is_some() || environment.idle.is_some(),
        "cannot extend {name}: without `expires` and `idle`, it does not end by itself"
    );
    Ok(prolonged(environment, time, now, false))
}

/// Why nothing can be kept of an environment whose content is not there: how it ended, if that is
/// known, or which was meant.
fn gone(registry: &Registry, name: &EnvironmentName, ended: Option<&Ended>) -> String {
    match ended {
        // Not what would bring it back: where its content is gone, `mayfly keep` is no way.
        Some(Ended {
            at, why: Why::File, ..
        }) => {
            format!(
                "cannot extend {name}: it ended at {at}: {}",
                Why::File.in_words(name.as_str())
            )
        }
        Some(Ended { at, .. }) => format!(
            "cannot bring {name} back: it ended at {at}, and etcd no longer has its content: register it \
             again"
        ),
        None => unknown(name, registry.live.keys().chain(registry.ended.keys())),
    }
}

/// An environment that has ended, as it was and as it comes back.
fn revived<'a>(
    registry: &'a Registry,
    args: &Args,
    now: SystemTime,
) -> anyhow::Result<(&'a Environment, Environment)> {
    let Some(environment) = registry.ended.get(&args.name) else {
        bail!("{}", gone(registry, &args.name, None));
    };
    let clashes = clashes(registry, &[environment]);
    ensure!(
        clashes.is_empty(),
        "{} cannot come back: {}",
        args.name,
        clashes.join("; ")
    );
    let mut back = prolonged(environment, args.time, now, true);
    // What an earlier `mayfly keep` set, below, ends with the life that it was for.
    let kept = environment.life.as_ref().and_then(|life| life.kept_until);
    if kept.is_some_and(|kept| back.expires == Some(Expiry::At(kept.time()))) {
        back.expires = None;
    }
    // Nothing would end it otherwise, and the time that was asked for would mean nothing.
    if back.expires.is_none() && back.idle.is_none() && !back.protected {
        let until = Moment::of(now).after(args.time.span());
        back.expires = Some(Expiry::At(until.time()));
    }
    Ok((environment, back))
}

fn prolonged(environment: &Environment, time: Idle, now: SystemTime, revived: bool) -> Environment {
    let now = Moment::of(now);
    let life = environment.life.clone().unwrap_or_else(|| Life::beginning(now));
    let until = now.after(time.span());
    Environment {
        life: Some(Life {
            // An earlier `mayfly keep` was for the life that has ended.
            kept_until: life.kept_until.filter(|_| !revived).max(Some(until)),
            revived: life.revived || revived,
            // Of one that comes back, its registrar says again what it thinks of the file.
            refused: life.refused.filter(|_| !revived),
            ..life
        }),
        ..environment.clone()
    }
}

fn report(environment: &Environment, back: bool) -> String {
    let name = &environment.name;
    let kept_until = environment.life.as_ref().and_then(|life| life.kept_until);
    let end = if environment.protected {
        None
    } else {
        environment.ends_at()
    };
    let lives = match (end, environment.idle, kept_until) {
        (Some(end), None, _) => format!("lives until {end}"),
        (Some(end), Some(idle), Some(kept)) if kept < end => {
            format!(
                "lives until {kept}; after that, while it gets a request at least every {idle}, until {end}"
            )
        }
        (Some(end), Some(_), _) => format!("lives until {end}"),
        (None, Some(idle), Some(kept)) => {
            format!("lives until {kept}; after that, while it gets a request at least every {idle}")
        }
        _ if environment.protected => "is protected, so it lives until it is deleted".to_owned(),
        _ => "lives until it is deleted".to_owned(),
    };
    if back {
        format!("{name} is back; it {lives}\n")
    } else {
        format!("{name} {lives}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn environment(fields: Value) -> Environment {
        let mut record = json!({
            "name": "a", "prefix": "a", "header": "a",
            "life": {"registered_at": "2030-01-31T11:00:00Z", "kept_until": "2030-01-31T13:00:00Z"},
        });
        record
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        serde_json::from_value(record).unwrap()
    }

    /// What is said of keeping it at noon.
    fn keep(fields: Value, time: &str) -> String {
        let noon = "2030-01-31T12:00:00Z".parse::<Moment>().unwrap().time();
        match kept(&environment(fields), time.parse().unwrap(), noon) {
            Ok(environment) => report(&environment, false),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_end_is_reported() {
        for (fields, time, expected) in [
            (
                json!({"expires": "30m"}),
                "2h",
                "a lives until 2030-01-31T14:00:00Z\n",
            ),
            // Never shorter than it was.
            (
                json!({"expires": "30m"}),
                "5m",
                "a lives until 2030-01-31T13:00:00Z\n",
            ),
            (
                json!({"expires": "8h"}),
                "5m",
                "a lives until 2030-01-31T19:00:00Z\n",
            ),
            (
                json!({"idle": "10m"}),
                "2h",
                "a lives until 2030-01-31T14:00:00Z; after that, while it gets a request at least every 10m\n",
            ),
            (
                json!({"idle": "10m", "expires": "8h"}),
                "2h",
                "a lives until 2030-01-31T14:00:00Z; after that, while it gets a request at least every 10m, until 2030-01-31T19:00:00Z\n",
            ),
            (
                json!({"idle": "10m", "expires": "1h"}),
                "2h",
                "a lives until 2030-01-31T14:00:00Z\n",
            ),
            (
                json!({}),
                "2h",
                "cannot extend a: without `expires` and `idle`, it does not end by itself",
            ),
            (
                json!({"source": {"registrar": "mayfly_local.pc", "file": "b:80"}}),
                "2h",
                "cannot extend a: it belongs to `mayfly local`, and ends with that command",
            ),
            (
                json!({"protected": true}),
                "2h",
                "cannot extend a: it is protected, so it does not end by itself",
            ),
        ] {
            assert_eq!(keep(fields.clone(), time), expected, "{fields}");
        }
    }

    /// The same, and its newest version was refused.
    fn refused(fields: Value) -> Environment {
        let mut environment = environment(fields);
        let life = environment.life.take();
        environment.life = life.map(|life| Life {
            refused: Some("bad".to_owned()),
            ..life
        });
        environment
    }

    #[test]
    fn what_lives_stays_the_older_version() {
        let noon = "2030-01-31T12:00:00Z".parse::<Moment>().unwrap().time();
        let kept = kept(&refused(json!({"expires": "30m"})), "2h".parse().unwrap(), noon).unwrap();
        assert_eq!(kept.life.unwrap().refused.as_deref(), Some("bad"));
    }

    #[test]
    fn how_one_ended_is_said_before_which_other_may_be_meant() {
        let mut registry = Registry::default();
        registry
            .ended
            .insert("t3".parse().unwrap(), environment(json!({})));
        let said = |why: Option<&str>| {
            let record = |why| json!({"prefix": "t4", "at": "2030-01-31T11:00:00Z", "why": why});
            let ended = why.map(|why| serde_json::from_value(record(why)).unwrap());
            gone(&registry, &"t4".parse().unwrap(), ended.as_ref())
        };
        assert_eq!(
            said(Some("file")),
            "cannot extend t4: it ended at 2030-01-31T11:00:00Z: its file is gone; put the file back to \
             bring it back"
        );
        assert_eq!(
            said(Some("expired")),
            "cannot bring t4 back: it ended at 2030-01-31T11:00:00Z, and etcd no longer has its content: \
             register it again"
        );
        assert_eq!(said(None), "there is no environment t4; did you mean t3?");
    }

    #[test]
    fn a_typing_mistake_is_refused() {
        for good in ["90m", "10years"] {
            assert_eq!(
                keep_time(good).unwrap().to_string().replace(' ', ""),
                good.replace("90m", "1h30m")
            );
        }
        assert!(
            keep_time("99999999999999h")
                .unwrap_err()
                .starts_with("this is longer than 10 years")
        );
        assert!(keep_time("11years").is_err());
        let error = keep_time("soon").unwrap_err();
        assert!(error.contains("is not a span of time"), "{error}");
    }

    #[test]
    fn an_earlier_keep_ends_with_the_life_that_it_was_for() {
        let noon = "2030-01-31T12:00:00Z".parse::<Moment>().unwrap().time();
        let args = Args {
            name: "a".parse().unwrap(),
            time: "1h".parse().unwrap(),
        };
        let life = json!({"registered_at": "2030-01-31T11:00:00Z", "kept_until": "2030-03-01T11:00:00Z"});
        for (fields, until) in [
            (json!({"life": life, "expires": "30m"}), "2030-01-31T13:00:00Z"),
            (json!({"life": life, "expires": "8h"}), "2030-01-31T19:00:00Z"),
            // The end that it came back with before.
            (
                json!({"life": life, "expires": "2030-03-01T11:00:00Z"}),
                "2030-01-31T13:00:00Z",
            ),
        ] {
            let mut registry = Registry::default();
            registry.ended.insert(args.name.clone(), environment(fields));
            let (_, back) = revived(&registry, &args, noon).unwrap();
            assert_eq!(
                report(&back, true),
                format!("a is back; it lives until {until}\n")
            );
        }
    }

    #[test]
    fn what_has_ended_comes_back() {
        let mut registry = Registry::default();
        let args = Args {
            name: "a".parse().unwrap(),
            time: "1h".parse().unwrap(),
        };
        let noon = "2030-01-31T12:00:00Z".parse::<Moment>().unwrap().time();
        let error = revived(&registry, &args, noon).unwrap_err();
        assert_eq!(error.to_string(), "there is no environment a");
        registry
            .ended
            .insert("temp-1".parse().unwrap(), environment(json!({})));
        let typo = Args {
            name: "temp1".parse().unwrap(),
            time: args.time,
        };
        let error = revived(&registry, &typo, noon).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no environment temp1; did you mean temp-1?"
        );
        registry
            .ended
            .insert(args.name.clone(), refused(json!({"expires": "30m"})));
        let (_, back) = revived(&registry, &args, noon).unwrap();
        let life = back.life.clone().unwrap();
        assert!(life.revived && life.refused.is_none());
        assert_eq!(
            report(&back, true),
            "a is back; it lives until 2030-01-31T13:00:00Z\n"
        );
        // One that nothing ended by itself lives for the time that was asked for.
        for (fields, expected) in [
            (json!({"life": null}), "lives until 2030-01-31T13:00:00Z"),
            (
                json!({"protected": true}),
                "is protected, so it lives until it is deleted",
            ),
        ] {
            registry
                .ended
                .insert(args.name.clone(), environment(fields.clone()));
            let (_, back) = revived(&registry, &args, noon).unwrap();
            assert_eq!(
                report(&back, true),
                format!("a is back; it {expected}\n"),
                "{fields}"
            );
        }
    }
}
