//! Plans are played on a model of HAProxy: whatever happens to the records, and whatever HAProxy has, the end is what
//! is wanted, no state in between leads a request nowhere, and no text but the planned commands reaches a socket.

use std::collections::BTreeSet;

use mayfly_core::index::Index;
use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Record;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::haproxy::commands::{RuntimeRequest, requests};
use crate::haproxy::servers::{ActualServer, ActualServers};
use crate::haproxy::slots::{Pool, allot};

/// An index, a pool and what HAProxy has, without HAProxy.
struct World {
    index: Index,
    pool: Pool,
    actual: ActualRouting,
    waiting: BTreeSet<BackendId>,
    ca_file: CaFile,
    revision: i64,
}

/// `environments/dev`
fn parse(key: &str) -> Key {
    KeySpace::default().parse(&format!("/mayfly/{key}")).unwrap()
}

impl World {
    fn new(slots: u32) -> Self {
        Self {
            index: Index::new(KeySpace::default()),
            pool: Pool::new(slots),
            actual: ActualRouting::default(),
            waiting: BTreeSet::new(),
            ca_file: CaFile::default(),
            revision: 0,
        }
    }

    fn put(&mut self, key: &str, value: &str) {
        assert!(self.put_hostile(key, value), "{key} {value}");
    }

    /// As the watch does: what cannot be read changes nothing. Says whether it can.
    fn put_hostile(&mut self, key: &str, value: &str) -> bool {
        let Ok(key) = KeySpace::default().parse(&format!("/mayfly/{key}")) else {
            return false;
        };
        let Ok(record) = Record::decode(&key, value.as_bytes()) else {
            return false;
        };
        self.revision += 1;
        self.index.put(record, self.revision);
        true
    }

    fn delete(&mut self, key: &str) {
        self.index.gone(&parse(key));
    }

    fn wanted<'a>(&'a self, default_environment: &'a EnvironmentName) -> Wanted<'a> {
        Wanted {
            routing: self.index.routing(),
            pool: &self.pool,
            default_environment: Some(default_environment),
            ca_file: &self.ca_file,
        }
    }

    fn plan(&mut self, everything: bool) -> RuntimePlan {
        let mut touched = self.index.resolve();
        let servers = &self.actual.servers;
        let is_empty = |slot: Slot| !servers.contains_key(&slot);
        allot(
            &mut self.pool,
            self.index.routing(),
            &mut touched,
            &mut self.waiting,
            everything,
            is_empty,
        );
        let default_environment = "e0".parse().unwrap();
        let scope = if everything {
            PlanScope::Everything
        } else {
            PlanScope::Touched(&touched)
        };
        plan(scope, &self.wanted(&default_environment), &self.actual)
    }

    /// Plays a plan, with a look at every state in between.
    fn play(&mut self, plan: &RuntimePlan, look: impl Fn(&World)) {
        for command in &plan.commands {
            if let Command::DeleteRow { map, key } = command {
                let is_there = self.actual.row(*map, key.as_str()).is_some();
                assert!(is_there, "HAProxy has no {key} in {map}");
            }
            self.actual.play(command);
            look(self);
        }
    }

    /// Leaving servers lose their connections.
    fn see_off(&mut self, plan: &RuntimePlan) {
        for (slot, name) in &plan.leaving {
            self.actual.play(&Command::DeleteServer {
                slot: *slot,
                name: name.clone(),
            });
        }
    }

    fn assert_as_wanted(&self) {
        let default_environment = "e0".parse().unwrap();
        let wanted = self.wanted(&default_environment);
        for map in Map::ALL {
            let mut rows = BTreeMap::new();
            each_row(map, &wanted, |key, value| {
                rows.insert(key.into(), value.into());
            });
            assert_eq!(
                self.actual.rows.get(&map).cloned().unwrap_or_default(),
                rows,
                "{map}"
            );
        }
        let mut servers: BTreeMap<Slot, ActualServers> = BTreeMap::new();
        for (backend, slot) in self.pool.assigned() {
            for (id, state) in self.index.routing().servers(backend).into_iter().flatten() {
                let admin = match state.state {
                    InstanceState::Up => Admin::Ready,
                    InstanceState::Draining => Admin::Drain,
                };
                let address = id.address.to_string();
                let server = ActualServer {
                    address,
                    admin,
                    weight: state.weight.into(),
                    checked: true,
                };
                servers
                    .entry(slot)
                    .or_default()
                    .insert(ServerName::from(id), server);
            }
        }
        assert_eq!(self.actual.servers, servers);
    }

    /// Every row refers to one that exists.
    fn assert_whole(&self) {
        let rows = |map: Map| self.actual.rows.get(&map).into_iter().flatten();
        for (_, header) in rows(Map::Table(Table::Edge)) {
            assert!(
                self.actual.row(Map::Table(Table::Headers), header).is_some(),
                "edge leads to {header}"
            );
        }
        for (key, value) in rows(Map::Table(Table::Routes)) {
            let (environment, service) = (key.split('/').next().unwrap(), value.split(':').nth(1).unwrap());
            let version = self
                .actual
                .row(Map::Table(Table::Versions), &format!("{environment}/{service}"));
            assert!(version.is_some(), "route {key} leads to {service}");
        }
        for (backend, slot) in rows(Map::Slots) {
            let has_instances = self.index.routing().servers(&backend.parse().unwrap()).is_some();
            assert!(
                !has_instances || self.actual.servers.contains_key(&slot.parse().unwrap()),
                "{backend} at {slot}"
            );
        }
    }
}

#[test]
fn a_restricted_environment_has_no_parents_or_versions_without_its_access() {
    let services = json!([{"name": "s", "version": "0.0.1", "routes": ["/"]}]);
    let environment = |name: &str, more: serde_json::Value| {
        let mut record = json!({"name": name, "prefix": name, "header": name});
        let more = more.as_object().unwrap().clone();
        record.as_object_mut().unwrap().extend(more);
        record.to_string()
    };
    let restricted = json!({"services": services, "access": {"from": ["10.0.0.0/8"]}});
    for everything in [false, true] {
        let mut world = World::new(4);
        world.put("backends/s/0.0.1/a", r#"{"address":"10.0.0.1:80"}"#);
        world.put("environments/e1", &environment("e1", restricted.clone()));
        world.put(
            "environments/e2",
            &environment("e2", json!({"services": services})),
        );
        let plan = world.plan(everything);
        world.play(&plan, World::assert_whole);
        // Open ones that become restricted together with what they have, and the other way round.
        let secret = json!([{"name": "secret", "version": "0.0.1", "routes": ["/"]}]);
        for record in [
            json!({"extends": "e1"}),
            json!({"services": services}),
            json!({"services": secret, "access": {"from": ["10.0.0.0/8"]}}),
            json!({"services": services}),
        ] {
            world.put("environments/e2", &environment("e2", record));
            let plan = world.plan(everything);
            let is_restricted = |world: &World| world.actual.row(Map::Table(Table::Access), "e2").is_some();
            world.play(&plan, |world| {
                let row = |table, key: &str| world.actual.row(Map::Table(table), key).is_some();
                let has_secrets = row(Table::Parents, "e2") || row(Table::Versions, "e2/secret");
                assert!(!has_secrets || is_restricted(world), "{:?}", plan.commands);
            });
            world.see_off(&plan);
        }
        world.assert_as_wanted();
    }
}

/// So many that maps are swapped in place of a command for each row.
#[test]
fn very_many_that_end_at_once_are_routed_whole_and_restricted_to_their_end() {
    const COUNT: usize = SWAP_ABOVE + 10;
    for everything in [false, true] {
        let mut world = World::new(2_000);
        for number in 0..COUNT {
            let instance = format!(r#"{{"address":"10.{}.{}.1:80"}}"#, number / 250, number % 250);
            world.put(&format!("backends/s/0.0.{number}/a"), &instance);
            let (name, version) = (format!("e{number}"), format!("0.0.{number}"));
            let record = json!({
                "name": name, "prefix": name, "header": name,
                "services": [{"name": "s", "version": version, "routes": ["/"]}],
                "access": {"from": ["10.0.0.0/8"]},
            });
            world.put(&format!("environments/{name}"), &record.to_string());
        }
        let plan = world.plan(everything);
        world.play(&plan, |_| ());
        // Others take their places.
        for number in 0..COUNT {
            world.delete(&format!("environments/e{number}"));
            world.delete(&format!("backends/s/0.0.{number}/a"));
        }
        world.put("backends/s/9.0.0/a", r#"{"address":"10.200.0.1:80"}"#);
        let new = json!({
            "name": "new", "prefix": "new", "header": "new",
            "services": [{"name": "s", "version": "9.0.0", "routes": ["/"]}],
        });
        world.put("environments/new", &new.to_string());
        let plan = world.plan(everything);
        let swaps = plan.commands.iter();
        let swaps = swaps.filter(|command| matches!(command, Command::ReplaceMap { .. }));
        assert!(swaps.count() >= 5, "{}", plan.commands.len());
        world.play(&plan, |world| {
            let rows = |table| world.actual.rows.get(&Map::Table(table)).into_iter().flatten();
            for (key, backend) in rows(Table::Versions) {
                let name = key.split('/').next().unwrap();
                let is_restricted = world.actual.row(Map::Table(Table::Access), name).is_some();
                assert!(name == "new" || is_restricted, "{name} is open");
                assert!(
                    world.actual.row(Map::Slots, backend).is_some(),
                    "{backend} has no slot"
                );
            }
            world.assert_whole();
        });
        world.see_off(&plan);
        world.assert_as_wanted();
    }
}

#[derive(Debug, Clone)]
enum HistoryStep {
    Environment {
        name: u8,
        prefix: u8,
        header: u8,
        extends: Option<u8>,
        services: Vec<(u8, u8, u8)>,
    },
    NoEnvironment(u8),
    Instance {
        service: u8,
        version: u8,
        port: u8,
        draining: bool,
        h2c: bool,
        weight: u16,
    },
    NoInstance {
        service: u8,
        version: u8,
        port: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<HistoryStep>> {
    let services = proptest::collection::vec((0u8..4, 0u8..5, 0u8..5), 0..4);
    let environment = (0u8..4, 0u8..5, 0u8..5, proptest::option::of(0u8..4), services);
    let step = prop_oneof![
        3 => environment.prop_map(|(name, prefix, header, extends, services)| HistoryStep::Environment { name, prefix, header, extends, services }),
        1 => (0u8..4).prop_map(HistoryStep::NoEnvironment),
        3 => (0u8..4, 0u8..4, 0u8..3, any::<bool>(), any::<bool>(), 0u16..257)
            .prop_map(|(service, version, port, draining, h2c, weight)| HistoryStep::Instance { service, version, port, draining, h2c, weight }),
        2 => (0u8..4, 0u8..4, 0u8..3).prop_map(|(service, version, port)| HistoryStep::NoInstance { service, version, port }),
    ];
    proptest::collection::vec(step, 1..30)
}

impl World {
    fn take(&mut self, step: &HistoryStep) {
        match step {
            HistoryStep::Environment {
                name,
                prefix,
                header,
                extends,
                services,
            } => {
                let services = services.iter().map(|(service, version, route)| {
                    let version = ["0.0.1", "0.0.2", "latest", "^0.0.2", ">=9"][usize::from(*version)];
                    let routes: &[&str] =
                        [&[][..], &["/"], &["/api"], &["/api/v2", "/x"], &["/y"]][usize::from(*route)];
                    json!({"name": format!("s{service}"), "version": version, "routes": routes})
                });
                let mut record = json!({"name": format!("e{name}"), "prefix": format!("p{prefix}"),
                    "header": format!("h{header}"), "services": services.collect::<Vec<_>>()});
                if let Some(parent) = extends {
                    record["extends"] = json!(format!("e{parent}"));
                }
                self.put(&format!("environments/e{name}"), &record.to_string());
            }
            HistoryStep::NoEnvironment(name) => self.delete(&format!("environments/e{name}")),
            HistoryStep::Instance {
                service,
                version,
                port,
                draining,
                h2c,
                weight,
            } => {
                let record = json!({"address": format!("10.0.0.1:{}", 8000 + u32::from(*port)), "weight": weight,
                    "state": if *draining { "draining" } else { "up" }, "protocol": if *h2c { "h2c" } else { "http" }});
                self.put(
                    &format!("backends/s{service}/0.0.{version}/i{port}"),
                    &record.to_string(),
                );
            }
            HistoryStep::NoInstance {
                service,
                version,
                port,
            } => {
                self.delete(&format!("backends/s{service}/0.0.{version}/i{port}"));
            }
        }
    }
}

proptest! {
    /// Looking at touched places only leads where looking at everything would, through whole states.
    #[test]
    fn touched_places_are_enough(steps in steps(), see_off in proptest::collection::vec(any::<bool>(), 30)) {
        let mut world = World::new(20);
        for (step, see_off) in steps.iter().zip(see_off) {
            world.take(step);
            let plan = world.plan(false);
            prop_assert!(plan.refused.is_empty());
            world.play(&plan, World::assert_whole);
            if see_off {
                // Servers leave sooner or later; what is left of earlier rounds goes now, too.
                let rest = world.plan(true);
                prop_assert_eq!(&rest.commands, &vec![], "nothing was missed");
                world.see_off(&rest);
                world.assert_as_wanted();
            }
        }
    }

    /// Whatever HAProxy has, one plan over everything makes it what is wanted.
    #[test]
    fn everything_is_repaired(
        steps in steps(),
        junk in proptest::collection::vec((0usize..7, "e[0-3](/s[0-3])?|p[0-4]|s[0-3]@0[.]0[.][0-3]|junk", "h[0-4]|e[0-3]|slot-[0-9]|"), 0..20),
        servers in proptest::collection::vec((1u32..12, 0u16..4, 0usize..3, 0u16..300, any::<bool>()), 0..10),
        foreign in any::<bool>(),
    ) {
        let mut world = World::new(20);
        steps.iter().for_each(|step| world.take(step));
        for (map, key, value) in junk {
            world.actual.rows.entry(Map::ALL[map]).or_default().insert(key.into(), value.into());
        }
        if foreign {
            world.actual.foreign.insert(Map::Table(Table::Edge));
        }
        for (slot, port, admin, weight, checked) in servers {
            let address = format!("10.0.0.1:{}", 8000 + port);
            let admin = [Admin::Ready, Admin::Drain, Admin::Maint][admin];
            let server = ActualServer { address: address.clone(), admin, weight, checked };
            world.actual.servers.entry(Slot(slot)).or_default().insert(address.parse().unwrap(), server);
        }
        let plan = world.plan(true);
        world.play(&plan, |_| ());
        world.see_off(&plan);
        world.assert_as_wanted();
        prop_assert!(world.actual.foreign.is_empty());
        prop_assert_eq!(world.plan(true).commands, vec![]);
    }

    /// Hostile records: each request is exactly its commands, whatever stood in the records.
    #[test]
    fn no_text_from_outside_makes_a_command(
        texts in proptest::collection::vec("[ -~\\n\\t]{0,12}|[a-z]{1,3}(;|\n| |<<|\\\\|\"|#|\\{)[a-z ]{0,8}|[a-z]{1,6}", 8),
    ) {
        let mut world = World::new(4);
        let [name, prefix, header, service, version, route, address, instance] = &texts[..] else { unreachable!() };
        let record = json!({"name": name, "prefix": prefix, "header": header, "extends": name,
            "services": [{"name": service, "version": version, "routes": [route, "/"]}]});
        world.put_hostile(&format!("environments/{name}"), &record.to_string());
        let record = json!({"name": "good", "prefix": "good", "header": header,
            "services": [{"name": "s", "version": version, "routes": [format!("/{route}")]}]});
        world.put_hostile("environments/good", &record.to_string());
        for address in [address.as_str(), "10.0.0.1:80"] {
            let record = json!({"address": address}).to_string();
            world.put_hostile(&format!("backends/{service}/{version}/{instance}"), &record);
        }
        let plan = world.plan(false);
        prop_assert!(plan.refused.is_empty());
        let words = ["add map", "set map", "add server", "set server", "enable health"];
        let mut count = 0;
        for request in requests(&plan.commands, &"/maps".parse().unwrap()) {
            let RuntimeRequest::Plain(text) = request else { unreachable!("no swap of so few rows") };
            prop_assert!(text.len() < 16_384 && text.is_ascii());
            match text.split_once(" <<\n") {
                Some((head, payload)) => {
                    prop_assert!(head.starts_with("add map /maps/") && !head.contains([';', '\n']));
                    let rows = payload.strip_suffix("\n\n").unwrap();
                    prop_assert!(rows.lines().all(|row| row.split(' ').count() == 2 && !row.starts_with('#')), "{rows:?}");
                    count += rows.lines().count();
                }
                None => {
                    let line = text.strip_suffix('\n').unwrap();
                    prop_assert!(!line.contains(['\n', '\\', '"']) && !line.contains("<<"));
                    prop_assert!(line.split(';').all(|part| words.iter().any(|word| part.starts_with(word))), "{line:?}");
                    count += line.split(';').count();
                }
            }
        }
        prop_assert_eq!(count, plan.commands.len());
    }
}

#[test]
fn servers_come_first_and_go_last() {
    let mut world = World::new(4);
    let environment = |version: &str| {
        json!({"name": "e0", "prefix": "www", "header": "h", "services": [{"name": "s", "version": version, "routes": ["/"]}]}).to_string()
    };
    let texts = |plan: &RuntimePlan| -> Vec<String> {
        let requests = requests(&plan.commands, &"/m".parse().unwrap());
        requests
            .into_iter()
            .map(|request| match request {
                RuntimeRequest::Plain(text) => {
                    let id = mayfly_core::routing::ServerId {
                        address: "10.0.0.1:80".parse().unwrap(),
                        protocol: Default::default(),
                        tls: None,
                    };
                    text.replace(
                        &crate::haproxy::commands::server_options(&id, 100, &CaFile::default()),
                        "OPTIONS",
                    )
                }
                RuntimeRequest::Replace { path, .. } => path,
            })
            .collect()
    };
    world.put("backends/s/0.0.1/a", r#"{"address":"10.0.0.1:80"}"#);
    world.put("environments/e0", &environment("0.0.1"));
    let plan = world.plan(false);
    insta::assert_debug_snapshot!(texts(&plan), @r#"
    [
        "add server slot-1/10.0.0.1:80 10.0.0.1:80 OPTIONS;set server slot-1/10.0.0.1:80 state ready;enable health slot-1/10.0.0.1:80;add map /m/slots.map s@0.0.1 slot-1;add map /m/versions.map e0/s s@0.0.1;add map /m/routes.map e0/ 001:s;add map /m/headers.map h e0;add map /m/links.map e0 h;add map /m/edge.map www h;add map /m/default.map e0 h\n",
    ]
    "#);
    world.play(&plan, |_| ());

    world.put("backends/s/0.0.2/b", r#"{"address":"10.0.0.2:80"}"#);
    world.put("environments/e0", &environment("0.0.2"));
    world.delete("backends/s/0.0.1/a");
    let plan = world.plan(false);
    insta::assert_debug_snapshot!(texts(&plan), @r#"
    [
        "add server slot-2/10.0.0.2:80 10.0.0.2:80 OPTIONS;set server slot-2/10.0.0.2:80 state ready;enable health slot-2/10.0.0.2:80;add map /m/slots.map s@0.0.2 slot-2;set map /m/versions.map e0/s s@0.0.2;del map /m/slots.map s@0.0.1;set server slot-1/10.0.0.1:80 state drain\n",
    ]
    "#);
    world.play(&plan, |_| ());
    world.see_off(&plan);

    world.delete("environments/e0");
    world.delete("backends/s/0.0.2/b");
    insta::assert_debug_snapshot!(texts(&world.plan(false)), @r#"
    [
        "del map /m/default.map e0;del map /m/edge.map www;del map /m/links.map e0;del map /m/headers.map h;del map /m/routes.map e0/;del map /m/versions.map e0/s;del map /m/slots.map s@0.0.2;set server slot-2/10.0.0.2:80 state drain\n",
    ]
    "#);
}

#[test]
fn servers_behind_tls_wait_for_the_authorities() {
    let mut world = World::new(4);
    world.put(
        "backends/s/1/a",
        r#"{"address":"https://10.0.0.1:443","weight":7}"#,
    );
    world.put("backends/s/1/b", r#"{"address":"10.0.0.2:80"}"#);
    let plan = world.plan(false);
    let names = |plan: &RuntimePlan| -> Vec<String> {
        let adds = plan.commands.iter().filter_map(|command| match command {
            Command::AddServer { name, .. } => Some(name.to_string()),
            _ => None,
        });
        adds.collect()
    };
    assert_eq!(names(&plan), ["10.0.0.2:80"]);
    assert_eq!(
        plan.untrusted
            .iter()
            .map(|(_, name)| name.as_str())
            .collect::<Vec<_>>(),
        ["10.0.0.1:443-tls-10.0.0.1"]
    );
    world.play(&plan, |_| ());
    world.actual.ca_files.insert(world.ca_file.to_string());
    let plan = world.plan(true);
    assert_eq!(names(&plan), ["10.0.0.1:443-tls-10.0.0.1"]);
    assert!(plan.untrusted.is_empty());
    world.play(&plan, |_| ());
    world.assert_as_wanted();
}
