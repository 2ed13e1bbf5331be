//! The rows of HAProxy's maps as text: the one place that writes their keys and values, and that
//! reads them again where HAProxy, or a file that it starts from, has them. The template of
//! haproxy.cfg looks them up in this form. How a backend is spelt (`backend@0.0.2`) is
//! [`BackendId`]'s, here as everywhere.

use mayfly_core::routing::Row;
use mayfly_core::version::BackendId;

use crate::haproxy::maps::Map;
use crate::haproxy::tokens::Slot;
use crate::haproxy::wanted::Wanted;

/// Shows all rows that a map should have, in the order of their keys; those of environments by
/// environment first. Nothing is allocated for each: there may be half a million.
pub fn each_row(map: Map, wanted: &Wanted<'_>, mut show: impl FnMut(&str, &str)) {
    match map {
        Map::Table(table) => {
            let mut texts = RowText::default();
            for row in wanted.routing.rows(table) {
                texts.write(&row);
                show(&texts.key, &texts.value);
            }
        }
        Map::Slots => {
            for (backend, slot) in wanted.pool.assigned() {
                show(&backend.to_string(), &slot.to_string());
            }
        }
        Map::Default => {
            let name = wanted.default_environment;
            let rows = name.and_then(|name| Some((name, wanted.routing.environment(name)?)));
            if let Some((name, rows)) = rows {
                show(name.as_str(), rows.header.as_str());
            }
        }
        Map::Witness | Map::Uses => {}
    }
}

/// A row of the map of slots.
pub fn slot_row(key: &str, value: &str) -> Option<(BackendId, Slot)> {
    Some((key.parse().ok()?, value.parse().ok()?))
}

/// Key and value of a row, in memory that is used again for the next one.
#[derive(Debug, Default)]
pub struct RowText {
    pub key: String,
    pub value: String,
}

impl RowText {
    /// The texts of one row.
    pub fn of(row: &Row<'_>) -> Self {
        let mut texts = Self::default();
        texts.write(row);
        texts
    }

    /// Puts the texts of another row in place of these.
    pub fn write(&mut self, row: &Row<'_>) {
        let Self { key, value } = self;
        key.clear();
        value.clear();
        let join = |text: &mut String, parts: &[&str]| parts.iter().for_each(|part| text.push_str(part));
        match row {
            Row::Ended(name, ended) | Row::EndedName(name, ended) => {
                let by_name = matches!(row, Row::EndedName(..));
                key.push_str(if by_name {
                    name.as_str()
                } else {
                    ended.prefix.as_str()
                });
                join(
                    value,
                    &[name.as_str(), "/", &ended.at.to_string(), "/", ended.why.as_str()],
                );
            }
            Row::Host(backend, upstream) => {
                join(key, &[backend.service.as_str(), "@", backend.version.as_str()]);
                value.push_str(&upstream.authority());
            }
            // Where no version fits, the value names the range, which is never a backend in use, so
            // that HAProxy's answer can say what is missing.
            Row::Version(name, choice) => {
                let service = choice.service().as_str();
                join(key, &[name.as_str(), "/", service]);
                join(value, &[service, "@", choice.version()]);
            }
            Row::Parent(name, parent) => {
                key.push_str(name.as_str());
                value.push_str(parent.as_str());
            }
            Row::User(name, user, hash) => {
                join(key, &[name.as_str(), "/", user.as_str()]);
                value.push_str(&hash.to_string());
            }
            // The digits that all addresses of the network begin with, after the family.
            Row::Network(name, network) => {
                let family = if network.is_ipv4() { "/4:" } else { "/6:" };
                join(key, &[name.as_str(), family, &network.digits()]);
                value.push('1');
            }
            Row::Access(name, admission) => {
                key.push_str(name.as_str());
                join(value, &[admission.owner.as_str(), ":", admission.kind.as_str()]);
            }
            // By the length of the path HAProxy finds the longest route among own and inherited
            // ones.
            Row::Route(name, path, service) => {
                let path = path.with_slash();
                join(key, &[name.as_str(), &path]);
                join(value, &[&format!("{:03}:", path.len()), service.as_str()]);
            }
            Row::Header(header, name) => {
                key.push_str(header.as_str());
                value.push_str(name.as_str());
            }
            Row::Protected(prefix, name) => {
                key.push_str(prefix.as_str());
                value.push_str(name.as_str());
            }
            Row::Link(name, header) => {
                key.push_str(name.as_str());
                value.push_str(header.as_str());
            }
            Row::Edge(prefix, header) => {
                key.push_str(prefix.as_str());
                value.push_str(header.as_str());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::index::Index;
    use mayfly_core::keys::KeySpace;
    use mayfly_core::records::Record;
    use mayfly_core::routing::Table;

    #[test]
    fn rows_as_the_template_reads_them() {
        let mut index = Index::default();
        for (key, value) in [
            (
                "environments/prod",
                r#"{"name": "prod", "prefix": "www", "header": "p", "protected": true, "services": [{"name": "web", "version": "2", "routes": ["/", "/shop"]},
                {"name": "api", "version": "^1"}, {"name": "old", "version": "https://old.internal"}]}"#,
            ),
            (
                "environments/qa",
                r#"{"name": "qa", "prefix": "qa", "header": "qa", "extends": "prod"}"#,
            ),
            (
                "ended/dev",
                r#"{"prefix": "www-dev", "at": "2030-01-31T18:00:00Z", "why": "idle"}"#,
            ),
        ] {
            let key = KeySpace::default().parse(&format!("/mayfly/{key}")).unwrap();
            index.put(Record::decode(&key, value.as_bytes()).unwrap(), 1);
        }
        index.resolve();
        let rows = Table::ALL
            .into_iter()
            .flat_map(|table| index.routing().rows(table));
        let texts = rows.map(|row| RowText::of(&row));
        let texts: Vec<String> = texts.map(|text| format!("{} {}", text.key, text.value)).collect();
        assert_eq!(
            texts,
            [
                "www-dev dev/2030-01-31T18:00:00Z/idle",
                "dev dev/2030-01-31T18:00:00Z/idle",
                "old@https://old.internal:443 old.internal",
                "prod/api api@^1",
                "prod/old old@https://old.internal:443",
                "prod/web web@2",
                "qa prod",
                "prod/ 001:web",
                "prod/shop/ 006:web",
                "p prod",
                "qa qa",
                "www prod",
                "prod p",
                "qa qa",
                "qa qa",
                "www p",
            ]
        );
    }

    #[test]
    fn slots_are_read_from_their_map() {
        assert_eq!(
            slot_row("a@0.0.1", "slot-7"),
            Some(("a@0.0.1".parse().expect("a backend"), Slot(7)))
        );
        for (key, value) in [
            ("", ""),
            ("a@0.0.1", ""),
            ("a", "slot-7"),
            ("a@1", "slot-x"),
            ("#", "a@1 slot-7"),
        ] {
            assert_eq!(slot_row(key, value), None, "{key} {value}");
        }
    }
}
