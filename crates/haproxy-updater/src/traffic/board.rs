//! The requests of each backend as metrics: what was read last, all at once. A backend that has no
//! slot any more has no series any more.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Requests, TrafficTotals};

/// A backend, and what is known of it.
#[derive(Debug)]
struct BoardRow {
    labels: [(&'static str, String); 2],
    requests: Requests,
    mean_ms: Option<u64>,
}

/// What is shown at `/metrics`. Cheap to clone; all clones show the same.
#[derive(Debug, Clone, Default)]
pub struct Board {
    rows: Arc<Mutex<Vec<BoardRow>>>,
}

impl Board {
    /// Shows what is known now.
    pub fn show(&self, traffic: &TrafficTotals) {
        let rows = traffic.totals().map(|(backend, total)| BoardRow {
            labels: [
                ("service", backend.service.to_string()),
                ("version", backend.version.to_string()),
            ],
            requests: total.requests,
            mean_ms: total.mean_ms,
        });
        let rows = rows.collect();
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }
}

impl Collector for Board {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        type Count = fn(&Requests) -> u64;
        let counters: [(&str, &str, Count); 3] = [
            (
                "mayfly_requests",
                "Requests to a backend that have ended, since it has its slot",
                |requests| requests.ended,
            ),
            (
                "mayfly_request_errors",
                "Requests to a backend that ended with a status from 500 to 599",
                |requests| requests.errors,
            ),
            (
                "mayfly_request_connection_errors",
                "Connections to instances of a backend that could not be made",
                |requests| requests.connection_errors,
            ),
        ];
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, help, count) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for row in rows.iter() {
                let metric = family.encode_family(&row.labels)?;
                ConstCounter::new(count(&row.requests)).encode(metric)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "mayfly_request_mean_seconds",
            "Seconds until the answer of a backend began, in the mean of its last 512 requests or so",
            None,
            MetricType::Gauge,
        )?;
        for row in rows.iter() {
            if let Some(mean) = row.mean_ms {
                let metric = family.encode_family(&row.labels)?;
                ConstGauge::new(mean as f64 / 1_000.0).encode(metric)?;
            }
        }
        Ok(())
    }
}
