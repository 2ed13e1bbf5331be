//! What is particular to environments: they have a life with an end, a history, and prefixes and
//! headers of their own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mayfly_core::claims::Claim;
use mayfly_core::environment_file::{self, FoundEnvironment, ParsedEnvironments};
use mayfly_core::keys::{Key, KeyRange, KeySpace};
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::lifetime::{Life, Moment};
use mayfly_core::records::{Environment, Record, Source};
use mayfly_core::yaml::Mark;
use mayfly_daemon::environments::{Written, register, unregister};
use mayfly_daemon::store::{Guard, LeaseId, Store, StoreError};

use crate::files_in::origin::{self, Origin};
use crate::resource::{self, Part, Resource};

pub type EnvironmentEntry = resource::FileRecord<Environments>;

/// The places of an environment in its file.
#[derive(Debug, Clone, Copy)]
pub struct EnvironmentMarks {
    pub name: Mark,
    pub prefix: Mark,
    pub header: Mark,
}

#[derive(Debug, Clone, Default)]
pub struct Environments;

impl Resource for Environments {
    type Name = EnvironmentName;
    type Record = Environment;
    type Life = Life;
    type Found = FoundEnvironment;
    type Marks = EnvironmentMarks;

    const NOUN: &'static str = "environments";
    const METRIC: &'static str = "environment";
    const FOLDER: &'static str = "";
    const HAS_HISTORY: bool = true;

    fn parse(content: &[u8]) -> ParsedEnvironments {
        environment_file::parse(content)
    }

    fn split(found: FoundEnvironment, source: Source) -> (Environment, EnvironmentMarks) {
        let mut environment = found.environment;
        environment.shrink();
        environment.source = Some(source);
        let marks = EnvironmentMarks {
            name: found.name,
            prefix: found.prefix,
            header: found.header,
        };
        (environment, marks)
    }

    fn name(environment: &Environment) -> &EnvironmentName {
        &environment.name
    }

    fn source(environment: &Environment) -> Option<&Source> {
        environment.source.as_ref()
    }

    fn title(name: &EnvironmentName) -> String {
        format!("environment {name}")
    }

    fn copy_of(origin: &Origin) -> Option<&EnvironmentName> {
        match origin {
            Origin::Copy(name) => Some(name),
            Origin::Person | Origin::Edited { .. } => None,
        }
    }

    fn edits_copy(environment: &Environment, origin: &Origin) -> bool {
        let at_home = |source: &Source| source.file == origin::home(&environment.name);
        matches!(origin, Origin::Edited { of, .. } if *of == environment.name)
            && environment.source.as_ref().is_some_and(at_home)
    }

    fn range(keyspace: &KeySpace) -> KeyRange {
        keyspace.registry()
    }

    fn key(name: EnvironmentName, part: Part) -> Key {
        match part {
            Part::Record => Key::Environment(name),
            Part::History => Key::History(name),
        }
    }

    fn of_key(key: Key) -> Option<(EnvironmentName, Part)> {
        match key {
            Key::Environment(name) => Some((name, Part::Record)),
            Key::History(name) => Some((name, Part::History)),
            _ => None,
        }
    }

    fn of_record(record: Record) -> Option<(Arc<Environment>, Option<Life>)> {
        let (Record::Environment(mut environment) | Record::History(mut environment)) = record else {
            return None;
        };
        let life = environment.life.take();
        Some((Arc::new(environment), life))
    }

    fn claims(environment: &Environment) -> Vec<Claim> {
        Claim::keys_of(environment).into()
    }

    fn is_switching(life: &Life) -> bool {
        !life.previous.is_empty()
    }

    fn ends(environment: &Environment, life: Option<&Life>) -> Option<Moment> {
        if environment.protected || environment.expires.is_none() {
            return None;
        }
        with_life(environment, life).ends_at()
    }

    fn time_to_live(environment: &Environment, life: Option<&Life>, now: SystemTime) -> Option<Duration> {
        if environment.expires.is_none() && environment.idle.is_none() {
            return None;
        }
        with_life(environment, life).time_to_live(now)
    }

    fn is_idle(environment: &Environment) -> bool {
        environment.idle.is_some()
    }

    fn is_protected(environment: &Environment) -> bool {
        environment.protected
    }

    fn refused(life: &Life) -> Option<&str> {
        life.refused.as_deref()
    }

    async fn put(
        store: &Store,
        environment: &Environment,
        life: &Life,
        (guard, before): (Guard, Option<LeaseId>),
    ) -> Result<Option<Written>, StoreError> {
        let record = with_life(environment, Some(life));
        register(store, &record, guard, before, SystemTime::now()).await
    }

    async fn delete(
        store: &Store,
        name: &EnvironmentName,
        guard: Guard,
        forget: bool,
    ) -> Result<bool, StoreError> {
        unregister(store, name, guard, forget).await
    }
}

/// An environment with its life.
pub fn with_life(record: &Environment, life: Option<&Life>) -> Environment {
    Environment {
        life: life.cloned(),
        ..record.clone()
    }
}
