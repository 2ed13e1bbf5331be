//! What a connection to etcd needs: authorities and a certificate for TLS, a user with its
//! password. Files are read with each new connection, so a file that is renewed in place takes
//! effect without a restart. No message shows a password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use etcd_client::{Certificate, ConnectOptions, Identity as TlsIdentity, TlsOptions};
use mayfly_core::records::lifetime::Moment;

use super::Endpoint;
use super::certificate;

/// What every certificate in a PEM file begins with.
const PEM_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// How etcd is known, and how it knows us; the default is neither TLS nor user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdAccess {
    /// For endpoints with `https://`.
    pub tls: Option<Tls>,
    /// For an etcd with authentication.
    pub user: Option<User>,
}

/// The files for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that etcd may be certified by.
    pub authorities: PathBuf,
    /// What to show to an etcd that wants a certificate.
    pub identity: Option<Identity>,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The file of the certificate, with those between it and its authority.
    pub certificate: PathBuf,
    /// The file of its private key.
    pub key: PathBuf,
}

/// A user of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password, or where that stands.
    pub password: Password,
}

/// A password. It can be used and not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(PasswordSource);

#[derive(Clone, PartialEq, Eq)]
enum PasswordSource {
    File(PathBuf),
    Text(String),
}

impl Password {
    /// The one in this file, read with each login; the end of its line is not part of it.
    pub fn in_file(path: PathBuf) -> Self {
        Self(PasswordSource::File(path))
    }

    /// This one.
    pub fn of_text(text: String) -> Self {
        Self(PasswordSource::Text(text))
    }

    fn read(&self) -> Result<String, String> {
        let path = match &self.0 {
            PasswordSource::Text(text) => return Ok(text.clone()),
            PasswordSource::File(path) => path,
        };
        let text = read("--etcd-password-file", path)?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(format!("--etcd-password-file {} is empty", path.display()));
        }
        Ok(password.to_owned())
    }

    /// Where it comes from, for a message.
    pub(super) fn origin(&self) -> String {
        match &self.0 {
            PasswordSource::File(path) => format!("--etcd-password-file {}", path.display()),
            PasswordSource::Text(_) => "MAYFLY_ETCD_PASSWORD".to_owned(),
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl EtcdAccess {
    /// The options of a connection with what TLS needs, read now.
    pub(super) fn encrypted(
        &self,
        options: ConnectOptions,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<ConnectOptions, String> {
        let Some(tls) = &self.tls else {
            return Ok(options);
        };
        let authorities = read("--etcd-ca", &tls.authorities)?;
        if !authorities.contains(PEM_CERTIFICATE) {
            return Err(format!(
                "--etcd-ca {} holds no certificate",
                tls.authorities.display()
            ));
        }
        let mut files = TlsOptions::new()
            .domain_name(endpoint.host())
            .timeout(limit)
            .ca_certificate(Certificate::from_pem(authorities));
        if let Some(identity) = &tls.identity {
            let certificate = read("--etcd-cert", &identity.certificate)?;
            let key = read("--etcd-key", &identity.key)?;
            if !certificate.contains(PEM_CERTIFICATE) {
                return Err(format!(
                    "--etcd-cert {} holds no certificate",
                    identity.certificate.display()
                ));
            }
            files = files.identity(TlsIdentity::from_pem(certificate, key));
        }
        Ok(options.with_tls(files))
    }

    /// The options of a connection with user and password, read now.
    pub(super) fn logged_in(&self, options: ConnectOptions) -> Result<ConnectOptions, String> {
        match &self.user {
            None => Ok(options),
            Some(user) => Ok(options.with_user(user.name.clone(), user.password.read()?)),
        }
    }

    /// The name of the user.
    pub(super) fn user_name(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.name.as_str())
    }

    /// Adds to what our side of TLS says which file it is about; `None` when it is not about TLS.
    pub(super) fn explain(&self, reason: &str) -> Option<String> {
        let authorities = self.tls.as_ref()?.authorities.display();
        if reason.contains("UnknownIssuer") {
            return Some(format!(
                "{reason}: no authority in --etcd-ca {authorities} has signed etcd's certificate"
            ));
        }
        if reason.contains("tls handshake eof") {
            return Some(format!(
                "{reason}: perhaps etcd does not use TLS at this address; if so, give --etcd an \
                 address with http://"
            ));
        }
        reason.contains("certificate").then(|| reason.to_owned())
    }

    /// What it means that etcd ended a connection with TLS before it gave a first answer: by TLS
    /// 1.3 it takes the connection first and looks at our certificate then, so that its reason
    /// seldom comes through. `None` when it may be anything.
    pub(super) fn explain_end(&self, reason: &str) -> Option<String> {
        let tls = self.tls.as_ref()?;
        let ends = [
            "received fatal alert",
            "connection closed",
            "connection reset",
            "broken pipe",
        ];
        if !ends.iter().any(|end| reason.to_lowercase().contains(end)) {
            return None;
        }
        let Some(Identity { certificate, .. }) = &tls.identity else {
            return Some(format!(
                "{reason}: perhaps etcd requires a client certificate: give --etcd-cert and \
                 --etcd-key"
            ));
        };
        let certificate = certificate.display();
        Some(match tls.identity.as_ref().and_then(Identity::expired) {
            Some(end) => format!("{reason}: the certificate of --etcd-cert {certificate} expired at {end}"),
            None => format!(
                "{reason}: perhaps etcd does not accept the certificate of --etcd-cert \
                 {certificate}"
            ),
        })
    }

    /// Which files are meant when TLS cannot use them.
    pub(super) fn unusable(&self, reason: &str) -> String {
        match self.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
            Some(Identity { certificate, key }) => format!(
                "cannot use --etcd-cert {} with --etcd-key {}: {reason}",
                certificate.display(),
                key.display()
            ),
            None => reason.to_owned(),
        }
    }
}

impl Identity {
    /// When the certificate has ended, if it has.
    fn expired(&self) -> Option<Moment> {
        let pem = std::fs::read_to_string(&self.certificate).ok()?;
        let end = certificate::end(&pem)?;
        (end < SystemTime::now()).then(|| Moment::of(end))
    }
}

fn read(flag: &str, path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {flag} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_read_anew_each_time_and_a_missing_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let password = Password::in_file(path.clone());
        let error = password.read().unwrap_err();
        assert!(
            error.contains("--etcd-password-file") && error.contains(path.to_str().unwrap()),
            "{error}"
        );
        std::fs::write(&path, "one two\r\n").unwrap();
        assert_eq!(password.read().unwrap(), "one two");
        std::fs::write(&path, "three").unwrap();
        assert_eq!(password.read().unwrap(), "three");
        std::fs::write(&path, "\n").unwrap();
        assert!(password.read().unwrap_err().ends_with("is empty"));
    }

    #[test]
    fn a_password_has_no_text_of_its_own() {
        let access = EtcdAccess {
            tls: None,
            user: Some(User {
                name: "me".to_owned(),
                password: Password::of_text("secret".to_owned()),
            }),
        };
        assert!(!format!("{access:?}").contains("secret"));
    }
}
