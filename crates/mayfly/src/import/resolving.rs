//! Which services that stay in the compose file have to resolve `*.service`, which the overlay lets
//! them, and what the report says where the overlay cannot do it alone.

use super::decide::{Decided, Role};
use super::faults::SpotMessage;
use super::outcome::{ImportWishes, ImportedService};

impl ImportedService {
    /// Whether names of Mayfly are resolved in its network. The code of a routed service may call
    /// others by addresses that no compose file shows.
    pub(super) fn resolves(&self) -> bool {
        let stays = !self.is_launched && !matches!(self.it.role, Role::Off(_));
        stays && (self.it.routed().is_some() || !self.calls.is_empty() || self.it.lends_network)
    }

    /// The server of names that the overlay gives it.
    pub(super) fn dns<'w>(&self, wishes: &'w ImportWishes) -> Option<&'w String> {
        let service = &self.it.service;
        let is_new = |dns: &&String| !service.dns.contains(dns);
        wishes
            .dns
            .as_ref()
            .filter(is_new)
            .filter(|_| takes(&self.it) && self.resolves())
    }
}

/// Whether the overlay may give it `dns`. The engine refuses that in the network of another
/// container; and in a network that does not reach Mayfly's dnsmasq, no name would be resolved any
/// more.
fn takes(it: &Decided) -> bool {
    matches!(it.service.network_mode.as_deref(), None | Some("host"))
}

/// Whether a network mode is the network of another container.
fn is_borrowed(it: &Decided) -> bool {
    let mode = it.service.network_mode.as_deref().unwrap_or_default();
    mode.starts_with("service:") || mode.starts_with("container:")
}

/// The service whose network this one is in, at last, if the compose file has it.
fn owner(outcomes: &[ImportedService], mut at: usize) -> Option<usize> {
    for _ in outcomes {
        if !is_borrowed(&outcomes[at].it) {
            return Some(at);
        }
        at = outcomes[at].it.lender?;
    }
    None
}

/// Notes which services lend their networks to services that resolve names of Mayfly, and remarks
/// what the overlay cannot change.
pub(super) fn resolving(outcomes: &mut [ImportedService], wishes: &ImportWishes) {
    let network = &wishes.network;
    for at in 0..outcomes.len() {
        let outcome = &outcomes[at];
        if !outcome.resolves() || !is_borrowed(&outcome.it) {
            continue;
        }
        match owner(outcomes, at) {
            Some(owner) => outcomes[owner].it.lends_network = true,
            None => {
                let mode = outcome.it.service.network_mode.as_deref().unwrap_or_default();
                let (kind, name) = mode.split_once(':').unwrap_or_default();
                let why = match kind {
                    "service" => "is not imported",
                    _ => "is not in the compose file",
                };
                let message = format!(
                    "this service uses the network of the {kind} `{name}`, which {why}: connect `{name}` to the network \
                     `{network}`, and set the `dns` of `{name}` to Mayfly's dnsmasq"
                );
                remark(&mut outcomes[at], "network_mode", message);
            }
        }
    }
    for outcome in outcomes.iter_mut().filter(|it| it.resolves()) {
        let mode = outcome.it.service.network_mode.as_deref();
        match mode {
            Some("host") => {
                let message = format!(
                    "the service is in the host's network: its calls of routed services work only if the host reaches \
                     the network `{network}`, as Linux does with an engine that runs as root"
                );
                remark(outcome, "network_mode", message);
            }
            Some(mode) if !is_borrowed(&outcome.it) => {
                let message = format!(
                    "`{mode}` keeps the service out of Mayfly's network, so calls of routed services fail here: \
                     remove `network_mode`, and import again"
                );
                remark(outcome, "network_mode", message);
            }
            _ => {}
        }
        let own = &outcome.it.service.dns;
        let is_asked_later = wishes.dns.is_some() && !own.is_empty() && own.first() != wishes.dns.as_ref();
        if is_asked_later && takes(&outcome.it) {
            let message = "the engine asks the first of these servers before Mayfly's dnsmasq, so `*.service` does not \
                           resolve: remove `dns` here, and give Mayfly's dnsmasq the other servers as upstream";
            remark(outcome, "dns", message);
        }
    }
}

/// Says something whatever the service is.
fn remark(outcome: &mut ImportedService, key: &str, message: impl Into<String>) {
    let spot = outcome.it.service.places.get(key).copied();
    let field = outcome.it.field(key);
    let spot = spot.unwrap_or(outcome.it.spot);
    outcome
        .it
        .service
        .always
        .push(SpotMessage::new(spot, field, message));
}
