//! The metrics in the text format of Prometheus (0.0.4), from OpenMetrics text. The two differ in
//! how a counter and an info are named where their types are reported, and in the end.

use std::collections::BTreeMap;

/// The type of the content of the text format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// OpenMetrics text as it is in the text format.
pub(super) fn classic(openmetrics: &str) -> String {
    let types: BTreeMap<&str, &str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let comment = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        match comment {
            Some((word @ ("HELP" | "TYPE"), rest)) => {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                let (ending, kind) = match types.get(name).copied().unwrap_or_default() {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    "gauge" => ("", "gauge"),
                    "histogram" => ("", "histogram"),
                    "summary" => ("", "summary"),
                    _ => ("", "untyped"),
                };
                let help = if word == "TYPE" { kind } else { help };
                text += &format!("# {word} {name}{ending} {help}\n");
            }
            // `# UNIT` and `# EOF`.
            _ if line.starts_with('#') => {}
            _ => text += &format!("{line}\n"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_e2e::metrics::check;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::{Registry, Unit};

    #[test]
    fn every_kind_of_metric_is_reported_as_promtool_takes_it() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        counter.inc_by(3);
        registry.register("mayfly_reloads", "Reloads", counter);
        registry.register("mayfly_ready", "Whether", Gauge::<i64>::default());
        registry.register("mayfly_build", "Which", Info::new(vec![("version", "1 2")]));
        let family = Family::<Vec<(String, String)>, Counter>::default();
        family
            .get_or_create(&vec![("way".to_owned(), "map".to_owned())])
            .inc();
        registry.register("mayfly_writes", "By way", family);
        let histogram = Histogram::new([0.1, 1.0]);
        histogram.observe(0.5);
        registry.register_with_unit("mayfly_delay", "How long", Unit::Seconds, histogram);
        let mut openmetrics = String::new();
        encode(&mut openmetrics, &registry).unwrap();
        assert!(check(&openmetrics).is_err(), "{openmetrics}");
        let text = classic(&openmetrics);
        check(&text).unwrap();
        for line in [
            "# HELP mayfly_reloads_total Reloads.",
            "# TYPE mayfly_reloads_total counter",
            "mayfly_reloads_total 3",
            "# TYPE mayfly_build_info gauge",
            "mayfly_build_info{version=\"1 2\"} 1",
            "# TYPE mayfly_delay_seconds histogram",
            "mayfly_delay_seconds_bucket{le=\"+Inf\"} 1",
            "mayfly_writes_total{way=\"map\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains("EOF") && !text.contains("UNIT"), "{text}");
    }
}
