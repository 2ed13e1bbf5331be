//! How a program authenticates itself to etcd and verifies etcd: the flags for TLS, user and
//! password. The password itself is no flag, since every account of the machine sees the arguments
//! of a process.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::store::{Endpoint, EtcdAccess, Identity, Password, Tls, User};

/// The variable that holds the password where no file does.
const PASSWORD: &str = "MAYFLY_ETCD_PASSWORD";
/// The authorities of the system, as Debian's ca-certificates keeps them.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The flags; each file is read again with every new connection.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Common options")]
pub struct AccessArgs {
    /// Trusts the certificate authorities in this PEM file for etcd's TLS [default: the system's]
    #[arg(long, env = "MAYFLY_ETCD_CA", value_name = "FILE", global = true)]
    pub etcd_ca: Option<PathBuf>,

    /// Presents the certificate in this PEM file to etcd
    ///
    /// The program reads the file again for each connection. So you can replace the file while the
    /// program runs.
    ///
    /// Example: --etcd https://etcd-1:2379,https://etcd-2:2379 --etcd-ca ca.pem --etcd-cert me.pem
    /// --etcd-key me.key --etcd-user mayfly-dns-updater --etcd-password-file
    /// /etc/mayfly/passwords/mayfly-dns-updater
    #[arg(long, env = "MAYFLY_ETCD_CERT", value_name = "FILE", global = true)]
    pub etcd_cert: Option<PathBuf>,

    /// Reads the private key of --etcd-cert from this PEM file
    #[arg(long, env = "MAYFLY_ETCD_KEY", value_name = "FILE", global = true)]
    pub etcd_key: Option<PathBuf>,

    /// Logs in to etcd as this user. deploy/etcd-roles.sh creates a user for each program.
    #[arg(long, env = "MAYFLY_ETCD_USER", value_name = "NAME", global = true)]
    pub etcd_user: Option<String>,

    /// Reads the password of --etcd-user from this file [default: the variable
    /// MAYFLY_ETCD_PASSWORD]
    #[arg(long, env = "MAYFLY_ETCD_PASSWORD_FILE", value_name = "FILE", global = true)]
    pub etcd_password_file: Option<PathBuf>,
}

impl AccessArgs {
    /// What the flags and the variable of the password say together.
    ///
    /// # Errors
    /// When something is missing, or does not go with these endpoints.
    pub fn access(&self, endpoints: &[Endpoint]) -> anyhow::Result<EtcdAccess> {
        let variable = match std::env::var(PASSWORD) {
            Ok(password) => Some(password),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => bail!("{PASSWORD} is not UTF-8"),
        };
        self.access_with(endpoints, variable)
    }

    fn access_with(&self, endpoints: &[Endpoint], variable: Option<String>) -> anyhow::Result<EtcdAccess> {
        let encrypted = endpoints.iter().filter(|endpoint| endpoint.is_tls()).count();
        if encrypted != 0 && encrypted != endpoints.len() {
            bail!("--etcd has endpoints with https:// and others without it: use only one kind");
        }
        let identity = match (&self.etcd_cert, &self.etcd_key) {
            (Some(certificate), Some(key)) => Some(Identity {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            (None, None) => None,
            (Some(_), None) => bail!("--etcd-cert needs --etcd-key, the private key of that certificate"),
            (None, Some(_)) => bail!("--etcd-key needs --etcd-cert, the certificate of that key"),
        };
        if encrypted == 0 && (self.etcd_ca.is_some() || identity.is_some()) {
            bail!(
                "--etcd-ca, --etcd-cert and --etcd-key need TLS, but --etcd has no endpoint with \
                 https://"
            );
        }
        let tls = (encrypted != 0).then(|| Tls {
            authorities: self.etcd_ca.clone().unwrap_or(SYSTEM_AUTHORITIES.into()),
            identity,
        });
        let password = match (&self.etcd_password_file, variable) {
            (Some(file), _) => Some(Password::in_file(file.clone())),
            (None, Some(text)) if !text.is_empty() => Some(Password::of_text(text)),
            _ => None,
        };
        let user = match (&self.etcd_user, password) {
            (Some(name), Some(password)) => Some(User {
                name: name.clone(),
                password,
            }),
            (None, None) => None,
            (Some(name), None) => {
                bail!(
                    "--etcd-user {name} needs a password: set --etcd-password-file, or the \
                     environment variable {PASSWORD}"
                )
            }
            (None, Some(_)) => {
                bail!(
                    "a password for etcd is set (--etcd-password-file or {PASSWORD}), but no user: \
                     set --etcd-user, too"
                )
            }
        };
        Ok(EtcdAccess { tls, user })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(endpoints: &str, args: AccessArgs, variable: Option<&str>) -> Result<EtcdAccess, String> {
        let endpoints: Vec<Endpoint> = endpoints.split(',').map(|text| text.parse().unwrap()).collect();
        let read = args.access_with(&endpoints, variable.map(str::to_owned));
        read.map_err(|error| error.to_string())
    }

    fn user(name: &str) -> AccessArgs {
        AccessArgs {
            etcd_user: Some(name.to_owned()),
            ..AccessArgs::default()
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_what_is_missing() {
        let ca = || AccessArgs {
            etcd_ca: Some("ca.pem".into()),
            ..AccessArgs::default()
        };
        let certificate = || AccessArgs {
            etcd_cert: Some("me.pem".into()),
            ..AccessArgs::default()
        };
        let key = || AccessArgs {
            etcd_key: Some("me.key".into()),
            ..AccessArgs::default()
        };
        for (endpoints, args, variable, part) in [
            (
                "https://a,http://b",
                AccessArgs::default(),
                None,
                "use only one kind",
            ),
            ("http://a", ca(), None, "no endpoint with https://"),
            ("https://a", certificate(), None, "--etcd-cert needs --etcd-key"),
            ("https://a", key(), None, "--etcd-key needs --etcd-cert"),
            ("a", user("me"), None, "--etcd-user me needs a password"),
            ("a", user("me"), Some(""), "--etcd-user me needs a password"),
            ("a", AccessArgs::default(), Some("secret"), "set --etcd-user, too"),
        ] {
            let message = access(endpoints, args, variable).unwrap_err();
            assert!(message.contains(part), "{part}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn without_authorities_the_system_decides_and_a_password_is_never_shown() {
        assert_eq!(
            access("a", AccessArgs::default(), None).unwrap(),
            EtcdAccess::default()
        );
        let access = access("https://a,https://b", user("me"), Some("secret")).unwrap();
        assert_eq!(
            access.tls.as_ref().unwrap().authorities,
            PathBuf::from(SYSTEM_AUTHORITIES)
        );
        assert!(!format!("{access:?}").contains("secret"), "{access:?}");
    }
}
