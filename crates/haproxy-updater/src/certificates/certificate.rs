//! A certificate with its chain and private key, as a PEM file has them: read, judged by itself,
//! and written again without what HAProxy's socket would stumble over (an empty line ends a
//! payload). What OpenSSL would refuse in Debian is refused here, with the reason, since HAProxy
//! does not start with a file that it does not take.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use sha2::{Digest as _, Sha256};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::haproxy::tls::MOST_PEM;

/// Signatures with MD5 or SHA-1, which Debian's OpenSSL does not take.
const WEAK: [&str; 3] = [
    "1.2.840.113549.1.1.4",
    "1.2.840.113549.1.1.5",
    "1.2.840.10045.4.1",
];

/// A certificate that can be served while it is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The hosts that it is made out to, in lower case.
    pub names: BTreeSet<String>,
    /// RSA, ECDSA or Ed25519: of two with the same names but other keys HAProxy offers what a
    /// client can do.
    pub key: &'static str,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// In hexadecimal digits.
    pub serial: String,
    pem: SecretText,
    digest: [u8; 32],
}

/// A text that can be used and not be shown: it holds a private key.
#[derive(Clone, PartialEq, Eq)]
struct SecretText(String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

impl Certificate {
    /// Reads a file: the certificate first, then its chain; the private key anywhere.
    ///
    /// # Errors
    /// When it is none that HAProxy can serve; in words for the operator, without any of its
    /// content.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let sections = Sections::read(bytes)?;
        let signing = any_supported_type(&sections.key).map_err(|_| {
            "the private key is of a kind that cannot be used: use RSA from 2048 bits, P-256, P-384 or Ed25519"
                .to_owned()
        })?;
        let key = match signing.algorithm() {
            rustls::SignatureAlgorithm::RSA => "RSA",
            rustls::SignatureAlgorithm::ED25519 => "Ed25519",
            _ => "ECDSA",
        };
        let chain = sections
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()));
        let certified = CertifiedKey::new(chain.map(CertificateDer::into_owned).collect(), signing);
        match certified.keys_match() {
            Ok(()) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(
                    "the private key does not belong to the first certificate of the file".to_owned(),
                );
            }
            Err(error) => return Err(format!("its first certificate cannot be read: {error}")),
        }
        let mut first = None;
        for (place, der) in sections.chain.iter().enumerate() {
            let read = x509_cert::Certificate::from_der(der)
                .map_err(|error| format!("certificate {} cannot be read: {error}", place + 1))?;
            let is_root = read.tbs_certificate.issuer == read.tbs_certificate.subject;
            let algorithm = read.signature_algorithm.oid.to_string();
            if WEAK.contains(&algorithm.as_str()) && (place == 0 || !is_root) {
                let number = place + 1;
                return Err(format!(
                    "certificate {number} is signed with MD5 or SHA-1, which is not accepted"
                ));
            }
            first.get_or_insert(read);
        }
        let first = first.ok_or_else(no_certificate)?.tbs_certificate;
        let names = names(&first)?;
        if names.is_empty() {
            return Err("its certificate names no host (subject alternative name)".to_owned());
        }
        // A first byte of zero says only that the number is positive.
        let serial = first.serial_number.as_bytes();
        let serial = serial.strip_prefix(&[0]).unwrap_or(serial);
        let pem = sections.pem();
        if pem.len() > MOST_PEM {
            let bytes = pem.len();
            return Err(format!(
                "certificate, chain and key have {bytes} bytes, more than the {MOST_PEM} that HAProxy accepts: leave the root certificate out"
            ));
        }
        Ok(Self {
            names,
            key,
            not_before: first.validity.not_before.to_system_time(),
            not_after: first.validity.not_after.to_system_time(),
            serial: hex::encode(serial),
            digest: Sha256::digest(&pem).into(),
            pem: SecretText(pem),
        })
    }

    /// What HAProxy gets: it has the private key.
    pub fn pem(&self) -> &str {
        &self.pem.0
    }

    /// Tells it from every other one.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// The parts of a PEM file that count.
struct Sections {
    chain: Vec<Vec<u8>>,
    key: PrivateKeyDer<'static>,
}

fn no_certificate() -> String {
    "it holds no certificate".to_owned()
}

impl Sections {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let has = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        if bytes.is_empty() {
            return Err("it is empty".to_owned());
        }
        if !has("-----BEGIN ") {
            // A sequence of ASN.1.
            return Err(match bytes[0] {
                0x30 => "it is DER, not PEM: `openssl x509 -inform der` converts a certificate, `openssl pkey -inform der` a key",
                _ => "it is not PEM",
            }
            .to_owned());
        }
        if has("BEGIN ENCRYPTED PRIVATE KEY") || has("Proc-Type: 4,ENCRYPTED") {
            return Err("its private key is encrypted: `openssl pkey` removes the passphrase".to_owned());
        }
        let (mut chain, mut keys) = (Vec::new(), Vec::new());
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
            let (kind, der) = section.map_err(|error| format!("it is broken PEM: {error}"))?;
            match kind {
                SectionKind::Certificate => chain.push(der),
                _ => keys.extend(PrivateKeyDer::from_pem(kind, der)),
            }
        }
        if chain.is_empty() {
            return Err(no_certificate());
        }
        match (keys.pop(), keys.len()) {
            (Some(key), 0) => Ok(Self { chain, key }),
            (None, _) => {
                Err("it contains no private key: certificate, chain and key belong in one file".to_owned())
            }
            (Some(_), more) => Err(format!("it holds {} private keys", more + 1)),
        }
    }

    fn pem(&self) -> String {
        let label = match &self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let mut text = String::new();
        let chain = self.chain.iter().map(|der| ("CERTIFICATE", der.as_slice()));
        for (label, der) in chain.chain([(label, self.key.secret_der())]) {
            let body = BASE64.encode(der);
            text.push_str(&format!("-----BEGIN {label}-----\n"));
            for line in body.as_bytes().chunks(64) {
                text.push_str(&String::from_utf8_lossy(line));
                text.push('\n');
            }
            text.push_str(&format!("-----END {label}-----\n"));
        }
        text
    }
}

fn names(certificate: &x509_cert::TbsCertificate) -> Result<BTreeSet<String>, String> {
    let found = certificate
        .get::<SubjectAltName>()
        .map_err(|error| format!("the names of its certificate cannot be read: {error}"))?;
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        GeneralName::IpAddress(octets) => match octets.as_bytes().len() {
            4 => <[u8; 4]>::try_from(octets.as_bytes())
                .ok()
                .map(|ip| IpAddr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(octets.as_bytes())
                .ok()
                .map(|ip| IpAddr::from(ip).to_string()),
        },
        _ => None,
    };
    let all = found.iter().flat_map(|(_, names)| &names.0);
    Ok(all.filter_map(name).collect())
}
