//! The alert rules and the board of deploy/monitoring: promtool accepts and tests the rules, and
//! every query names only metrics and labels that the real daemons have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::{eventually, port};
use serde_json::Value;

/// What Prometheus itself adds to each series.
const OF_PROMETHEUS: [&str; 3] = ["instance", "job", "le"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn promtool(arguments: &[&str]) -> String {
    let done = Command::new("promtool")
        .args(arguments)
        .current_dir(root().join("deploy/monitoring"))
        .output()
        .expect("run promtool: install the package prometheus, as scripts/test.sh does");
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "promtool {arguments:?}: {said}");
    said.into_owned()
}

#[test]
fn promtool_accepts_and_tests_the_rules() {
    promtool(&["check", "rules", "mayfly.rules.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "mayfly.rules.test.yml"]);
    // Each alert is tested, and described.
    let (tests, guide) = (
        read("deploy/monitoring/mayfly.rules.test.yml"),
        read("docs/guides/monitoring.md"),
    );
    for alert in alerts().keys() {
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "{alert} is not tested"
        );
        assert!(guide.contains(&format!("`{alert}`")), "{alert} is not described");
    }
}

/// The expression of each alert.
fn alerts() -> BTreeMap<String, String> {
    let rules: Value = serde_yaml::from_str(&read("deploy/monitoring/mayfly.rules.yml")).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all: BTreeMap<_, _> = rules
        .map(|rule| (text(&rule["alert"]), text(&rule["expr"])))
        .collect();
    assert!(all.len() > 10);
    all
}

/// The queries of the board: those of its panels, and those of its variables.
fn queries() -> Vec<String> {
    let board: Value = serde_json::from_str(&read("deploy/monitoring/mayfly.json")).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let variables = board["templating"]["list"].as_array().unwrap().iter();
    let mut all: Vec<String> = targets.filter_map(|target| text(&target["expr"])).collect();
    all.extend(variables.filter_map(|variable| text(&variable["query"]["query"])));
    assert!(all.len() > 20);
    all
}

/// A query in parts: names and numbers, and single characters. Texts in quotes are left out.
fn parts(query: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_:$.".contains(letter);
        let length = match first {
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            _ if is_name(first) => rest.find(|letter| !is_name(letter)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (part, after) = rest.split_at(length);
        if first != '"' {
            parts.push(part);
        }
        rest = after.trim_start();
    }
    parts
}

/// The metrics of a query, each with the labels that are asked of it; and the labels that the
/// result is grouped by or that a variable lists.
fn names(query: &str) -> (BTreeMap<&str, BTreeSet<&str>>, BTreeSet<&str>) {
    let parts = parts(query);
    let (mut metrics, mut grouped) = (BTreeMap::<_, BTreeSet<_>>::new(), BTreeSet::new());
    for (at, part) in parts.iter().enumerate() {
        let words = |open: usize, close: &str| {
            let inside = parts[open + 1..].iter().take_while(move |part| **part != close);
            let names = inside.filter(|part| part.starts_with(|letter: char| letter.is_ascii_lowercase()));
            names.copied().collect::<Vec<_>>()
        };
        if part.starts_with("mayfly_") || *part == "up" {
            let labels = metrics.entry(*part).or_default();
            if parts.get(at + 1) == Some(&"{") {
                labels.extend(words(at + 1, "}"));
            }
        }
        if matches!(*part, "by" | "on" | "without") {
            grouped.extend(words(at + 1, ")"));
        }
        if *part == "label_values" {
            grouped.extend(words(at + 1, ")").into_iter().skip(1));
        }
    }
    (metrics, grouped)
}

#[test]
fn the_names_of_a_query_are_found() {
    let query = r#"sum by (service) (rate(mayfly_a_total{job=~"by (x)", version="1"}[5m])) / mayfly_b > 0"#;
    let (metrics, grouped) = names(query);
    let found: Vec<_> = metrics
        .into_iter()
        .map(|(name, of)| (name, Vec::from_iter(of)))
        .collect();
    assert_eq!(
        found,
        [("mayfly_a_total", vec!["job", "version"]), ("mayfly_b", vec![])]
    );
    assert_eq!(Vec::from_iter(grouped), ["service"]);
    let (metrics, grouped) = names("label_values(mayfly_a_total, service)");
    assert_eq!((metrics.len(), Vec::from_iter(grouped)), (1, vec!["service"]));
}

/// The metrics of the reference, with their labels.
fn described() -> BTreeMap<String, BTreeSet<String>> {
    let page = read("docs/reference/metrics.md");
    let names = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let names = names.filter(|name| name.starts_with("mayfly_"));
    names
        .map(|name| {
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let labels = labels
                .trim_end_matches('}')
                .split(',')
                .filter(|label| !label.is_empty());
            (name.to_owned(), labels.map(str::to_owned).collect())
        })
        .collect()
}

/// Whether haproxy-updater registers a metric of this name.
fn is_registered(name: &str) -> bool {
    let own = name
        .trim_start_matches("mayfly_haproxy_")
        .trim_end_matches("_total");
    read("crates/haproxy-updater/src/metrics.rs").contains(&format!("\"{own}\""))
}

/// The families of what daemons serve, with the labels of their series.
fn served(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut families = BTreeMap::<String, BTreeSet<String>>::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
            families.entry(family.clone()).or_default();
        } else if let Some((_, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels = rest
                .split("=\"")
                .filter_map(|part| part.rsplit(['{', ',', '"']).next());
            let count = rest.matches("=\"").count();
            families
                .get_mut(&family)
                .unwrap()
                .extend(labels.take(count).map(str::to_owned));
        }
    }
    families
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_and_the_board_name_only_what_daemons_serve() {
    let updater = port::free();
    let mayfly = Mayfly::start_with(&["--admin", &updater.to_string()])
        .await
        .unwrap();
    let _instance = mayfly.instance("frontend", "0.0.1").await.unwrap();
    mayfly.save(
        "dev.yaml",
        "{name: dev, services: [{name: frontend, version: 0.0.1, route: /}]}",
    );
    mayfly.answers("www-dev.example.com", "frontend@0.0.1").await;
    let (environments, hosts) = (mayfly.environments(), mayfly.directory().join("hosts/x"));
    let (environments, hosts) = (environments.to_str().unwrap(), hosts.to_str().unwrap());
    // No engine answers there, and the numbers are served all the same.
    let engine = "unix:///nowhere/docker.sock";
    let page = port::free().to_string();
    let daemons: [(&str, Vec<&str>); 5] = [
        ("environment-registrar", vec!["watch", environments]),
        ("dns-updater", vec!["watch", "--hosts-file", hosts]),
        ("container-registrar", vec!["docker", "--docker", engine]),
        ("container-launcher", vec!["--docker", engine]),
        ("mayfly-web", vec!["--bind", &page]),
    ];
    let (mut processes, mut admins) = (Vec::new(), vec![updater]);
    for (daemon, arguments) in daemons {
        let admin = port::free();
        let mut command = mayfly.command(daemon).unwrap();
        command.args(arguments).args(["--admin", &admin.to_string()]);
        // The launcher has its node already, and mayfly-web has none.
        if !["container-launcher", "mayfly-web"].contains(&daemon) {
            command.args(["--node", "other"]);
        }
        processes.push(mayfly.spawn(&format!("{daemon}-other"), &command).unwrap());
        admins.push(admin);
    }
    let mut served = BTreeMap::<String, BTreeSet<String>>::new();
    for admin in admins {
        let text = eventually(SOON * 3, "the daemon serves its numbers", async || {
            let answer = Request::get("x", "/metrics").send(admin).await.ok()?;
            // The router shows requests once it has read HAProxy.
            let is_read = admin != updater || answer.body.contains("mayfly_requests_total{");
            (answer.status == 200 && is_read).then_some(answer.body)
        })
        .await;
        mayfly_e2e::metrics::check(&text).unwrap();
        for (name, labels) in self::served(&text) {
            served.entry(name).or_default().extend(labels);
        }
    }

    // The reference names them all, with their labels, and no others.
    let described = described();
    for (name, labels) in &served {
        let known = described.get(name);
        let known = known.unwrap_or_else(|| panic!("docs/reference/metrics.md lacks {name}"));
        let mut labels = labels.clone();
        labels.remove("le");
        // A family without a series shows no label.
        assert!(
            labels.is_empty() || labels == *known,
            "{name}: {labels:?}, {known:?}"
        );
    }
    for (name, labels) in &described {
        // A family with labels is served from its first series on.
        let may_come = !labels.is_empty() && is_registered(name);
        assert!(served.contains_key(name) || may_come, "no daemon serves {name}");
    }

    let alerts = alerts();
    let queries = queries();
    let all = alerts.values().chain(&queries);
    let mut faults = Vec::new();
    for query in all {
        let (metrics, grouped) = names(query);
        let mut known: BTreeSet<&str> = OF_PROMETHEUS.into();
        for (metric, labels) in metrics {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|ending| metric.strip_suffix(ending))
                .unwrap_or(metric);
            let Some(of) = described.get(family) else {
                if metric != "up" {
                    faults.push(format!("no daemon serves {metric}: {query}"));
                }
                continue;
            };
            known.extend(of.iter().map(String::as_str));
            let has = |label: &str| of.contains(label) || OF_PROMETHEUS.contains(&label);
            for label in labels.into_iter().filter(|label| !has(label)) {
                faults.push(format!("{metric} has no label {label}: {query}"));
            }
        }
        for label in grouped.into_iter().filter(|label| !known.contains(label)) {
            faults.push(format!("nothing has the label {label}: {query}"));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}
