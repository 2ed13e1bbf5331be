//! Which certificates are to be served, of those that the files hold and those that are served
//! already: a pure function. A file that cannot be served leaves its former certificate in use, and
//! so do files that are all gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mayfly_core::records::lifetime::Moment;

use crate::certificates::certificate::Certificate;
use crate::certificates::scan::CertificateContent;
use crate::haproxy::tls::CertificateName;

/// A certificate that ends sooner is told of: who renews by a program does so 30 days before.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// The file of the certificate for clients that name no host.
const DEFAULT: &str = "default.pem";

/// Certificates by the names of their files.
pub type Certificates = BTreeMap<CertificateName, Arc<Certificate>>;

/// The certificate for clients that ask for no host, or for one that none names.
pub fn default_of(certificates: &Certificates) -> Option<(&CertificateName, &Arc<Certificate>)> {
    let by_name = certificates.iter().find(|(name, _)| name.as_str() == DEFAULT);
    by_name.or_else(|| certificates.first_key_value())
}

/// What is to be served, and what is wrong with files, in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CertificateChoice {
    pub certificates: Certificates,
    /// Files that are not served as they are, and why.
    pub faults: BTreeMap<String, String>,
}

/// Chooses. `refused` says of a certificate why HAProxy has not taken it.
pub fn choose(
    files: &BTreeMap<String, CertificateContent>,
    served: &Certificates,
    now: SystemTime,
    refused: &dyn Fn(&Certificate) -> Option<String>,
) -> CertificateChoice {
    let mut choice = CertificateChoice::default();
    for (file, content) in files {
        let name: CertificateName = match file.parse() {
            Ok(name) => name,
            Err(error) => {
                choice.faults.insert(file.clone(), format!("{error}"));
                continue;
            }
        };
        let judged = content.clone().and_then(|certificate| {
            let fault = refused(&certificate).or_else(|| fault(&certificate, now));
            fault.map_or(Ok(certificate), Err)
        });
        match (judged, served.get(&name)) {
            (Ok(certificate), _) => drop(choice.certificates.insert(name, certificate)),
            (Err(reason), Some(former)) => {
                let is_same = content.as_ref().is_ok_and(|certificate| certificate == former);
                let what = if is_same {
                    "this certificate"
                } else {
                    "the former certificate"
                };
                choice
                    .faults
                    .insert(file.clone(), format!("{reason}; {what} stays in use"));
                choice.certificates.insert(name, former.clone());
            }
            (Err(reason), None) => drop(choice.faults.insert(file.clone(), reason)),
        }
    }
    if choice.certificates.is_empty() {
        choice.certificates.clone_from(served);
    }
    leave_out_shorter(&mut choice);
    choice
}

/// What else an operator should know of certificates, by their files. `is_prefix` says of the first
/// label of a host whether an environment answers there.
pub fn notes(
    certificates: &Certificates,
    now: SystemTime,
    is_prefix: &dyn Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    let note = |(name, certificate): (&CertificateName, &Arc<Certificate>)| {
        Some((name.to_string(), note(certificate, now, is_prefix)?))
    };
    certificates.iter().filter_map(note).collect()
}

fn fault(certificate: &Certificate, now: SystemTime) -> Option<String> {
    if certificate.not_after <= now {
        return Some(format!("it expired at {}", Moment::of(certificate.not_after)));
    }
    (certificate.not_before > now).then(|| {
        let begin = Moment::of(certificate.not_before);
        format!("it is valid only from {begin} on")
    })
}

/// Of two for the same names HAProxy would serve the one that it has had for longer, so the one
/// that is valid for longer replaces the other. Equal ones do no harm. `default.pem` is never left
/// out, or clients that name no host would get the certificate of another file.
fn leave_out_shorter(choice: &mut CertificateChoice) {
    let mut best: BTreeMap<_, &CertificateName> = BTreeMap::new();
    let certificates = &choice.certificates;
    for (name, certificate) in certificates {
        let place = best.entry((&certificate.names, certificate.key)).or_insert(name);
        if certificates[*place].not_after < certificate.not_after {
            *place = name;
        }
    }
    let mut left_out = Vec::new();
    for (name, certificate) in certificates {
        let best = best[&(&certificate.names, certificate.key)];
        let better = &certificates[best];
        if better == certificate {
            continue;
        }
        let end = Moment::of(better.not_after);
        let span = match better.not_after > certificate.not_after {
            true => "for longer",
            false => "as long",
        };
        let why = format!("has the same names and is valid {span}, until {end}");
        let reason = match name.as_str() {
            DEFAULT => format!("replaced by {best}, which {why}"),
            _ => format!("not used, because {best} {why}"),
        };
        left_out.push((name.clone(), better.clone(), reason));
    }
    for (name, better, reason) in left_out {
        match name.as_str() {
            DEFAULT => choice.certificates.insert(name.clone(), better),
            _ => choice.certificates.remove(&name),
        };
        choice.faults.insert(name.to_string(), reason);
    }
}

fn note(certificate: &Certificate, now: SystemTime, is_prefix: &dyn Fn(&str) -> bool) -> Option<String> {
    let left = certificate.not_after.duration_since(now).unwrap_or_default();
    if left < SOON && !left.is_zero() {
        let end = Moment::of(certificate.not_after);
        let span = match left.as_secs() / 86_400 {
            0 => "less than a day".to_owned(),
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        };
        return Some(format!("it expires at {end}, in {span}; renew it"));
    }
    let is_for_one = |name: &String| {
        let label = name.split('.').next().unwrap_or_default();
        label == "*" || is_prefix(label) || name.parse::<std::net::IpAddr>().is_ok()
    };
    (!certificate.names.iter().any(is_for_one)).then(|| {
        let names: Vec<&str> = certificate.names.iter().take(5).map(String::as_str).collect();
        format!(
            "none of its names belongs to the prefix of an environment ({})",
            names.join(", ")
        )
    })
}
