//! The command `list`: the environments that are registered in etcd, and whether they have all that
//! they need, for people and for programs.

use std::collections::BTreeMap;
use std::process::ExitCode;

use mayfly_core::environment_file::list_to_yaml;
use mayfly_core::index::Index;
use mayfly_core::keys::Kind;
use mayfly_core::outside::AddressRule;
use mayfly_core::records::{Environment, Record};
use mayfly_daemon::output::{self, TextTable, printable};
use mayfly_daemon::store::Store;
use mayfly_daemon::watch;
use serde::Serialize;

use crate::args::{Format, ListOptions};

/// An environment with what is known of it beside its record.
#[derive(Debug, Serialize)]
struct ListedEnvironment {
    #[serde(flatten)]
    environment: Environment,
    /// Whether it is routed and every service, own or inherited, has enough live instances.
    complete: bool,
    /// Why not, or what of its newest record is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

impl ListedEnvironment {
    fn of(index: &Index, environment: Environment) -> Self {
        let view = index.view(&environment.name);
        Self {
            complete: view.as_ref().is_some_and(|view| view.complete),
            missing: view.map(|view| view.reasons()).unwrap_or_default(),
            environment,
        }
    }

    fn state(&self) -> String {
        match (self.complete, self.missing.is_empty()) {
            (true, true) => "complete".to_owned(),
            (true, false) => format!("complete, but {}", self.missing.join("; ")),
            (false, _) => self.missing.join("; "),
        }
    }
}

/// Prints the environments to standard output, and to standard error what in etcd is none.
///
/// # Errors
/// When etcd does not answer, or the list can't be printed.
pub async fn run(store: &Store, options: &ListOptions) -> anyhow::Result<ExitCode> {
    // Instances too: they tell what is missing.
    let batch = watch::look(store, &store.keyspace().routing()).await?;
    if batch.is_empty() {
        store.ensure_used().await?;
    }
    for aside in batch.set_aside.iter() {
        if store.keyspace().kind(&aside.key) == Some(Kind::Environment) {
            output::complain(&format!(
                "{} is set aside: {}",
                printable(&aside.key),
                aside.reason
            ));
        }
    }
    // What addresses the routers allow, only they know: `mayfly status` asks them.
    let mut index = Index::new(store.keyspace().clone())
        .with_least_instances(options.min_instances)
        .with_rule(AddressRule::off());
    let mut environments = Vec::new();
    for stored in batch.records() {
        if let Record::Environment(environment) = &stored.record {
            environments.push(environment.clone());
        }
        index.put(stored.record, stored.revision);
    }
    // Whether host names lead somewhere is the routers' business.
    index.believe_names(BTreeMap::new());
    index.resolve();
    let listed = |environments: Vec<Environment>| -> Vec<ListedEnvironment> {
        environments
            .into_iter()
            .map(|environment| ListedEnvironment::of(&index, environment))
            .collect()
    };
    match options.format {
        Format::Table => output::print(&table(&listed(environments)))?,
        Format::Json => output::print(&output::json(&listed(environments))?)?,
        Format::Yaml => output::print_as_it_is(&list_to_yaml(&environments))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The environments as a table, one line for each.
fn table(environments: &[ListedEnvironment]) -> String {
    if environments.is_empty() {
        return "no environments\n".to_owned();
    }
    let mut table = TextTable::new([
        "NAME", "PREFIX", "HEADER", "EXTENDS", "EXPIRES", "SERVICES", "SOURCE", "STATE",
    ]);
    for listed in environments {
        let environment = &listed.environment;
        let or_dash = |text: Option<String>| {
            text.filter(|text| !text.is_empty())
                .unwrap_or_else(|| "-".to_owned())
        };
        let services: Vec<_> = environment
            .services
            .iter()
            .map(|s| format!("{}:{}", s.name, s.version))
            .collect();
        let source = environment.source.as_ref();
        table.row([
            environment.name.to_string(),
            environment.prefix.to_string(),
            environment.header.to_string(),
            or_dash(environment.extends.as_ref().map(ToString::to_string)),
            or_dash(environment.expires.map(|expires| expires.to_string())),
            or_dash(Some(services.join(" "))),
            or_dash(source.map(|s| format!("{} ({})", s.file, s.registrar))),
            listed.state(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let json = r#"[
            {"name": "other", "prefix": "www-other", "header": "other"},
            {"name": "prod", "prefix": "www", "header": "prod",
             "services": [{"name": "frontend", "version": "0.0.1", "routes": ["/"]}, {"name": "backend", "version": "^1.2"}],
             "source": {"registrar": "host-1", "file": "prod\u001b.yaml"}},
            {"name": "temp-1", "prefix": "www-temp-1", "header": "t", "extends": "prod", "expires": "8h"}
        ]"#;
        let environments: Vec<Environment> = serde_json::from_str(json).unwrap();
        let mut index = Index::default();
        for environment in &environments {
            index.put(Record::Environment(environment.clone()), 1);
        }
        let instance = serde_json::from_str(r#"{"address": "10.0.0.1:80"}"#).unwrap();
        let backend = "frontend@0.0.1".parse().unwrap();
        index.put(Record::Instance(backend, "x".parse().unwrap(), instance), 1);
        index.resolve();
        let environments: Vec<ListedEnvironment> = environments
            .into_iter()
            .map(|environment| ListedEnvironment::of(&index, environment))
            .collect();
        let expected = "\
NAME    PREFIX      HEADER  EXTENDS  EXPIRES  SERVICES                      SOURCE                     STATE
other   www-other   other   -        -        -                             -                          complete
prod    www         prod    -        -        frontend:0.0.1 backend:^1.2  prod\\u{1b}.yaml (host-1)  no live version of backend fits ^1.2
temp-1  www-temp-1  t       prod     8h       -                             -                          no live version of backend fits ^1.2 (inherited from prod)
";
        let found = table(&environments);
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeezed(&found), squeezed(expected));
        let columns: Vec<_> = found.lines().map(|line| line.find("  ").is_some()).collect();
        assert_eq!(columns, [true, true, true, true]);
        assert_eq!(table(&[]), "no environments\n");
    }
}
