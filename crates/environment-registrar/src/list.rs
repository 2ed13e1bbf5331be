//! The command `list`: the environments that are registered in etcd, for people and for programs.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use mayfly_core::environment_file::list_to_yaml;
use mayfly_core::keys::Key;
use mayfly_core::records::{self, Environment};
use mayfly_daemon::store::Store;

use crate::args::Format;

/// Prints the environments to standard output, and to standard error what in etcd is none.
///
/// # Errors
/// When etcd does not answer, or the list can't be printed.
pub async fn run(store: &Store, format: Format) -> anyhow::Result<ExitCode> {
    let listing = store.list(&store.keyspace().environments()).await?;
    let mut environments = Vec::new();
    for entry in listing.entries {
        let record = match store.keyspace().parse(&entry.key) {
            Ok(Key::Environment(name)) => {
                records::parse_environment(&name, &entry.value).map_err(|error| error.to_string())
            }
            Ok(_) => Err("not the key of an environment".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match record {
            Ok(environment) => environments.push(environment),
            Err(reason) => eprintln!("{:?} is set aside: {reason}", entry.key),
        }
    }
    let text = match format {
        Format::Table => table(&environments),
        Format::Json => serde_json::to_string_pretty(&environments).context("cannot write JSON")? + "\n",
        Format::Yaml => list_to_yaml(&environments),
    };
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("cannot print the list")?;
    Ok(ExitCode::SUCCESS)
}

/// The environments as a table, one line for each.
fn table(environments: &[Environment]) -> String {
    if environments.is_empty() {
        return "no environments\n".to_owned();
    }
    let header = [
        "NAME", "PREFIX", "HEADER", "EXTENDS", "EXPIRES", "SERVICES", "SOURCE",
    ]
    .map(str::to_owned);
    let mut rows = vec![header];
    for environment in environments {
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
        rows.push([
            environment.name.to_string(),
            environment.prefix.to_string(),
            environment.header.to_string(),
            or_dash(environment.extends.as_ref().map(ToString::to_string)),
            or_dash(environment.expires.map(|expires| expires.to_string())),
            or_dash(Some(services.join(" "))),
            // The name of a file can hold anything that a terminal would act upon.
            or_dash(source.map(|s| format!("{} ({})", s.file.escape_debug(), s.registrar))),
        ]);
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let json = r#"[
            {"name": "prod", "prefix": "www", "header": "prod",
             "services": [{"name": "frontend", "version": "0.0.1", "routes": ["/"]}, {"name": "backend", "version": "^1.2"}],
             "source": {"registrar": "host-1", "file": "prod\u001b.yaml"}},
            {"name": "temp-1", "prefix": "www-temp-1", "header": "t", "extends": "prod", "expires": "8h"}
        ]"#;
        let environments: Vec<Environment> = serde_json::from_str(json).unwrap();
        let expected = "\
NAME    PREFIX      HEADER  EXTENDS  EXPIRES  SERVICES                      SOURCE
prod    www         prod    -        -        frontend:0.0.1 backend:^1.2  prod\\u{1b}.yaml (host-1)
temp-1  www-temp-1  t       prod     8h       -                             -
";
        let found = table(&environments);
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeezed(&found), squeezed(expected));
        let columns: Vec<_> = found.lines().map(|line| line.find("  ").is_some()).collect();
        assert_eq!(columns, [true, true, true]);
        assert_eq!(table(&[]), "no environments\n");
    }
}
