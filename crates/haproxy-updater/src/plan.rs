//! Computes the commands that make what HAProxy has what it should have: a pure function. It looks
//! at the touched places only, unless everything is in doubt. The order lets no request see half of
//! a change: servers first, then each row after those that it refers to; removal goes in the
//! opposite order, servers last.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_core::records::InstanceState;
use mayfly_core::routing::{Servers, Table, Touched};
use mayfly_core::version::BackendId;

use crate::actual::ActualRouting;
use crate::haproxy::commands::Command;
use crate::haproxy::maps::{Map, Rows};
use crate::haproxy::rows::{RowText, each_row, slot_row};
use crate::haproxy::servers::Admin;
use crate::haproxy::tokens::{CaFile, ServerName, Slot, Word};
use crate::haproxy::wanted::Wanted;

mod differences;

use differences::{Differences, differences};

/// What has to be looked at.
#[derive(Debug, Clone, Copy)]
pub enum PlanScope<'a> {
    /// These places; the rest is as it should be, and they are as they were before.
    Touched(&'a Touched),
    Everything,
}

/// Commands, in order, and what cannot be done at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimePlan {
    /// What to send to HAProxy now.
    pub commands: Vec<Command>,
    /// Slots that were looked at; nothing that was known of leaving servers in them holds any more.
    pub slots: BTreeSet<Slot>,
    /// Servers that are to be removed when their connections have ended.
    pub leaving: BTreeSet<(Slot, ServerName)>,
    /// Servers behind TLS that this process cannot have: it has not loaded the file with the
    /// authorities.
    pub untrusted: BTreeSet<(Slot, ServerName)>,
    /// Texts that no command may carry. Core makes none.
    pub refused: Vec<String>,
}

/// Above this many changed rows of one map, or removed ones, the whole map is swapped: each such
/// command searches the map.
const SWAP_ABOVE: usize = 1_000;

/// Plans how `actual` becomes what is wanted.
pub fn plan(scope: PlanScope<'_>, wanted: &Wanted<'_>, actual: &ActualRouting) -> RuntimePlan {
    let mut plan = RuntimePlan::default();
    let mut early = Vec::new();
    let mut late = Vec::new();
    for (slot, servers) in slots(scope, wanted, actual) {
        plan.slots.insert(slot);
        plan_slot(
            slot,
            servers,
            wanted.ca_file,
            actual,
            &mut early,
            &mut late,
            &mut plan,
        );
    }
    plan.commands = early;
    let mut removals = Vec::new();
    for map in Map::ALL.into_iter().filter(|map| !actual.absent.contains(map)) {
        let differences = match scope {
            PlanScope::Touched(touched) => touched_rows(map, touched, wanted, actual),
            PlanScope::Everything => all_rows(map, wanted, actual),
        };
        plan_map(map, differences, wanted, actual, &mut plan, &mut removals);
    }
    for mut commands in removals.into_iter().rev() {
        plan.commands.append(&mut commands);
    }
    plan.commands.append(&mut late);
    plan
}

/// The slots to look at, with the servers that each should have.
fn slots<'a>(
    scope: PlanScope<'_>,
    wanted: &Wanted<'a>,
    actual: &ActualRouting,
) -> BTreeMap<Slot, Option<&'a Servers>> {
    let mut slots = BTreeMap::new();
    match scope {
        PlanScope::Touched(touched) => {
            for backend in &touched.backends {
                // Where it was, in case that it is nowhere or elsewhere now; unless another backend
                // is there.
                let key = backend.to_string();
                let row = actual.row(Map::Slots, &key);
                let before = row.and_then(|slot| Some(slot_row(&key, slot)?.1));
                let given_on = |slot: &Slot| wanted.pool.assigned().any(|(_, other)| other == *slot);
                if let Some(slot) =
                    before.filter(|slot| wanted.pool.slot(backend) == Some(*slot) || !given_on(slot))
                {
                    slots.insert(slot, None);
                }
            }
            for backend in &touched.backends {
                if let Some(slot) = wanted.pool.slot(backend) {
                    slots.insert(slot, wanted.routing.servers(backend));
                }
            }
        }
        PlanScope::Everything => {
            slots.extend(actual.servers.keys().map(|slot| (*slot, None)));
            slots.extend(
                wanted
                    .pool
                    .assigned()
                    .map(|(backend, slot)| (slot, wanted.routing.servers(backend))),
            );
        }
    }
    slots
}

fn plan_slot(
    slot: Slot,
    servers: Option<&Servers>,
    ca_file: &CaFile,
    actual: &ActualRouting,
    early: &mut Vec<Command>,
    late: &mut Vec<Command>,
    plan: &mut RuntimePlan,
) {
    let present = actual.servers.get(&slot);
    let mut wanted = BTreeSet::new();
    for (id, state) in servers.into_iter().flatten() {
        let name = ServerName::from(id);
        let admin = match state.state {
            InstanceState::Up => Admin::Ready,
            InstanceState::Draining => Admin::Drain,
        };
        let set_state = Command::SetState {
            slot,
            name: name.clone(),
            admin,
        };
        let enable_health = Command::EnableHealth {
            slot,
            name: name.clone(),
        };
        match present.and_then(|servers| servers.get(&name)) {
            None if id.tls.is_some() && !actual.ca_files.contains(ca_file.as_str()) => {
                plan.untrusted.insert((slot, name.clone()));
            }
            None => early.extend([
                Command::AddServer {
                    slot,
                    name: name.clone(),
                    id: id.clone(),
                    ca_file: ca_file.clone(),
                    weight: state.weight,
                },
                set_state,
                enable_health,
            ]),
            Some(server) => {
                if server.address != id.address.to_string() {
                    early.push(Command::SetAddress {
                        slot,
                        name: name.clone(),
                        address: id.address,
                    });
                }
                // One that goes out of rotation does so only when what replaces it is in, and
                // before it gets a weight.
                let turn = if admin == Admin::Ready {
                    &mut *early
                } else {
                    &mut *late
                };
                if server.admin != admin {
                    turn.push(set_state);
                    if server.admin == Admin::Maint && admin == Admin::Ready {
                        // Out of maintenance the first failed check takes a server out, and one
                        // that began before another instance was there may still fail.
                        turn.push(Command::SetHealthy {
                            slot,
                            name: name.clone(),
                        });
                    }
                }
                if server.weight != u16::from(state.weight) {
                    turn.push(Command::SetWeight {
                        slot,
                        name: name.clone(),
                        weight: state.weight,
                    });
                }
                if !server.checked {
                    early.push(enable_health);
                }
            }
        }
        wanted.insert(name);
    }
    for (name, server) in present
        .into_iter()
        .flatten()
        .filter(|(name, _)| !wanted.contains(name))
    {
        plan.leaving.insert((slot, name.clone()));
        if server.admin == Admin::Ready {
            late.push(Command::SetState {
                slot,
                name: name.clone(),
                admin: Admin::Drain,
            });
        }
    }
}

fn touched_rows(map: Map, touched: &Touched, wanted: &Wanted<'_>, actual: &ActualRouting) -> Differences {
    match map {
        // HAProxy has what was wanted before.
        Map::Table(table) => {
            let changed = touched.rows(table, wanted.routing);
            let mut differences = Differences::new();
            for RowText { key, value } in changed.before.iter().map(RowText::of) {
                differences.entry(key).or_default().0 = Some(value);
            }
            for RowText { key, value } in changed.now.iter().map(RowText::of) {
                differences.entry(key).or_default().1 = Some(value);
            }
            differences
        }
        Map::Slots => {
            let slot = |backend: &BackendId| wanted.pool.slot(backend).map(|slot| slot.to_string());
            let differences = touched.backends.iter().map(|backend| {
                let key = backend.to_string();
                let present = actual.row(map, &key).map(str::to_owned);
                (key, (present, slot(backend)))
            });
            differences.collect()
        }
        Map::Default if touched.tables(wanted.routing).contains(&Table::Headers) => {
            all_rows(map, wanted, actual)
        }
        Map::Default | Map::Witness | Map::Uses => Differences::new(),
    }
}

fn all_rows(map: Map, wanted: &Wanted<'_>, actual: &ActualRouting) -> Differences {
    // Neither is a matter of what is wanted: one says which process this is, the other what it has
    // seen.
    if matches!(map, Map::Witness | Map::Uses) {
        return Differences::new();
    }
    let none = Rows::new();
    let present = actual.rows.get(&map).unwrap_or(&none);
    differences(present, |show| each_row(map, wanted, show))
}

fn plan_map(
    map: Map,
    differences: Differences,
    wanted: &Wanted<'_>,
    actual: &ActualRouting,
    plan: &mut RuntimePlan,
    removals: &mut Vec<Vec<Command>>,
) {
    let (mut adds, mut sets, mut removes) = (Vec::new(), Vec::new(), Vec::new());
    let mut going = Vec::new();
    for (key, (present, value)) in differences {
        if present == value {
            continue;
        }
        let Ok(word) = key.parse::<Word>() else {
            plan.refused.push(key);
            continue;
        };
        let Some(value) = value else {
            let present = present.and_then(|present| present.parse().ok());
            going.extend(present.map(|present| (word.clone(), present)));
            removes.push(Command::DeleteRow { map, key: word });
            continue;
        };
        match (value.parse::<Word>(), present) {
            (Ok(value), None) => adds.push(Command::AddRow {
                map,
                key: word,
                value,
            }),
            (Ok(value), Some(_)) => sets.push(Command::SetRow {
                map,
                key: word,
                value,
            }),
            (Err(_), _) => plan.refused.push(value),
        }
    }
    let all = || {
        let mut rows = Vec::new();
        each_row(map, wanted, |key, value| {
            rows.extend(key.parse().ok().zip(value.parse().ok()));
        });
        rows
    };
    if actual.foreign.contains(&map) || sets.len() > SWAP_ABOVE {
        // What goes stays until its turn: rows of other maps still refer to it, or are restricted by it.
        // A row whose value no command can carry goes at once.
        let delete = |(key, _): &(Word, Word)| Command::DeleteRow {
            map,
            key: key.clone(),
        };
        removes = going.iter().map(delete).collect();
        let rows = all().into_iter().chain(going).collect();
        plan.commands.push(Command::ReplaceMap { map, rows });
    } else {
        plan.commands.append(&mut adds);
        plan.commands.append(&mut sets);
    }
    if removes.len() > SWAP_ABOVE {
        removes = vec![Command::ReplaceMap { map, rows: all() }];
    }
    removals.push(removes);
}

#[cfg(test)]
mod tests;
