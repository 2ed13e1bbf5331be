//! What the answers of a [`super::probe`] mean. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::finding::{DoctorCheck, Examination};
use super::probe::{Lookup, ProbeAnswers};
use super::records::listed;

/// The checks that only a look from inside can make.
pub const CHECKS: [DoctorCheck; 4] = [
    DoctorCheck::Names,
    DoctorCheck::Router,
    DoctorCheck::OutsideNames,
    DoctorCheck::Etcd,
];

/// What is known outside.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Where the internal sides of routers are.
    pub routers: BTreeSet<IpAddr>,
    /// The name that is none of Mayfly's.
    pub outside: String,
    /// Whether it should resolve everywhere: an operator says so, or it does on this host.
    pub is_expected: bool,
}

/// Turns what one container sees into findings. `place` names the containers that see the same.
pub fn judge(
    place: &str,
    networks: &[String],
    known: &Surroundings,
    answers: &ProbeAnswers,
    found: &mut Examination,
) {
    let asked = match answers.name_servers.as_slice() {
        [] => "the container has no name server".to_owned(),
        servers => format!("the container asks {}", servers.join(", ")),
    };
    names(place, &asked, known, answers, found);
    for (router, wrong) in &answers.routers {
        // What is none is found already.
        if !wrong.is_empty() && known.routers.contains(router) {
            found.push(
                DoctorCheck::Router,
                place,
                format!("the router {router} does not answer at port 80: {wrong}"),
                format!(
                    "connect HAProxy to the network {}, and let its internal side listen there (--internal-bind *:80)",
                    networks.join(" or ")
                ),
            );
        }
    }
    let Lookup { error, .. } = &answers.outside;
    match error {
        Some(error) if known.is_expected => found.push(
            DoctorCheck::OutsideNames,
            place,
            format!("{} does not resolve: {error}; {asked}", known.outside),
            "let dnsmasq forward other names: --server=127.0.0.11 in a container, else the resolver of its host",
        ),
        Some(error) => found.cannot(
            DoctorCheck::OutsideNames,
            format!(
                "{place}: {} does not resolve: {error}; this host cannot resolve the name either: give a name that resolves with --outside",
                known.outside
            ),
        ),
        None => {}
    }
    if !answers.etcd.is_empty() {
        let places: Vec<String> = answers.etcd.iter().cloned().collect();
        found.push(
            DoctorCheck::Etcd,
            place,
            format!(
                "the container reaches etcd at {}, so any service can change every route",
                listed(&places)
            ),
            "give etcd and the daemons a network of their own, or a firewall: docs/security.md",
        );
    }
}

fn names(place: &str, asked: &str, known: &Surroundings, answers: &ProbeAnswers, found: &mut Examination) {
    let failed: Vec<(&String, &String)> = answers
        .names
        .iter()
        .filter_map(|(name, lookup)| Some((name, lookup.error.as_ref()?)))
        .collect();
    if let Some((_, error)) = failed.first() {
        let names: Vec<String> = failed.iter().map(|(name, _)| (*name).clone()).collect();
        found.push(
            DoctorCheck::Names,
            place,
            format!("cannot resolve {}: {error}; {asked}", listed(&names)),
            "give the container dnsmasq as its name server: `dns:` in a compose file, --dns of the launcher",
        );
    }
    if known.routers.is_empty() {
        found.cannot(
            DoctorCheck::Names,
            format!("{place}: no router reports its address"),
        );
        return;
    }
    let mut astray: Vec<String> = Vec::new();
    for (name, lookup) in &answers.names {
        let others = lookup.addresses.difference(&known.routers);
        astray.extend(others.map(|address| format!("{name} resolves to {address}")));
    }
    if !astray.is_empty() {
        let routers: Vec<String> = known.routers.iter().map(ToString::to_string).collect();
        found.push(
            DoctorCheck::Names,
            place,
            format!("{}, which is no router ({})", listed(&astray), listed(&routers)),
            "remove what else answers for the name: a static record, `extra_hosts`, or a container of that name",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(address: &str) -> Lookup {
        match address.parse() {
            Ok(address) => Lookup {
                addresses: [address].into(),
                error: None,
            },
            Err(_) => Lookup::failed(address.to_owned()),
        }
    }

    /// What is found where `web.service` and a name outside resolve so, the router answers so, and
    /// etcd is reached there.
    fn found(name: &str, outside: &str, router: &str, etcd: &[&str]) -> Vec<(DoctorCheck, String)> {
        let known = Surroundings {
            routers: ["10.0.0.2".parse().unwrap()].into(),
            outside: "example.com".to_owned(),
            is_expected: true,
        };
        let answers = ProbeAnswers {
            names: [("web.service".to_owned(), lookup(name))].into(),
            routers: [("10.0.0.2".parse().unwrap(), router.to_owned())].into(),
            outside: lookup(outside),
            etcd: etcd.iter().map(ToString::to_string).collect(),
            name_servers: vec!["127.0.0.11".to_owned()],
        };
        let mut found = Examination::default();
        judge(
            "web@1 (container w)",
            &["net".to_owned()],
            &known,
            &answers,
            &mut found,
        );
        assert_eq!(found.unchecked, []);
        found
            .findings
            .into_iter()
            .map(|one| (one.check, one.what))
            .collect()
    }

    #[test]
    fn each_fault_is_found_and_nothing_else() {
        assert_eq!(found("10.0.0.2", "1.2.3.4", "", &[]), []);
        for (faults, check, words) in [
            (
                found("unknown host", "1.2.3.4", "", &[]),
                DoctorCheck::Names,
                "cannot resolve web.service",
            ),
            (
                found("10.0.0.9", "1.2.3.4", "", &[]),
                DoctorCheck::Names,
                "10.0.0.9, which is no router",
            ),
            (
                found("10.0.0.2", "1.2.3.4", "refused", &[]),
                DoctorCheck::Router,
                "port 80: refused",
            ),
            (
                found("10.0.0.2", "unknown host", "", &[]),
                DoctorCheck::OutsideNames,
                "example.com does not",
            ),
            (
                found("10.0.0.2", "1.2.3.4", "", &["etcd:2379"]),
                DoctorCheck::Etcd,
                "etcd:2379",
            ),
        ] {
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].0 == check && faults[0].1.contains(words), "{faults:?}");
        }
    }
}
