//! What all systems of a run route: environments and services by number, each with the same choice everywhere. Pure,
//! so that Mayfly's files, Envoy's resources and Caddy's routes say the same.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    pub environments: usize,
    /// Services of each; the first has the route `/`.
    pub services: usize,
}

impl Scale {
    pub const fn new(environments: usize, services: usize) -> Self {
        Self {
            environments,
            services,
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.environments, self.services)
    }
}

/// The versions of every service; one instance of each runs.
pub const VERSIONS: [&str; 2] = ["1.0.0", "2.0.0"];

/// The name of an environment; its prefix is `www-<name>`.
pub fn environment(number: usize) -> String {
    format!("env-{number:05}")
}

/// The host that leads to an environment from outside.
pub fn host(number: usize) -> String {
    format!("www-{}.example.com", environment(number))
}

/// The name of a service; the first is the one with a route.
pub fn service(number: usize) -> String {
    match number {
        0 => "web".to_owned(),
        _ => format!("service-{number:02}"),
    }
}

/// Which of [`VERSIONS`] an environment has of a service before anything changes.
pub fn version(environment: usize, service: usize) -> usize {
    (environment + service) % VERSIONS.len()
}

/// The file of an environment that has `web` of its first service.
pub fn yaml(number: usize, services: usize, web: &str) -> String {
    let mut text = format!("name: {}\nservices:\n", environment(number));
    text.push_str(&format!("  - {{name: web, version: {web}, route: /}}\n"));
    for other in 1..services {
        let version = VERSIONS[version(number, other)];
        text.push_str(&format!("  - {{name: {}, version: {version}}}\n", service(other)));
    }
    text
}
