//! HTTPS: the certificate and key of two files, which are read again when they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, anyhow, bail, ensure};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{Error, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tracing::info;

use crate::files::WatchedFiles;

/// The files and what was read of them.
#[derive(Debug)]
pub struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    state: RwLock<TlsState>,
}

#[derive(Debug)]
struct TlsState {
    config: Arc<ServerConfig>,
    reading: WatchedFiles<2>,
}

impl TlsFiles {
    /// Reads both files.
    ///
    /// # Errors
    /// When one cannot be read, or they do not fit.
    pub fn read(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            state: RwLock::new(TlsState {
                reading: WatchedFiles::of([certificate, key]),
                config: read(certificate, key)?,
            }),
        })
    }

    /// Reads them again if one has changed. Files that do not fit yet change nothing.
    pub fn refresh(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let (certificate, key) = (self.certificate.as_path(), self.key.as_path());
        let former = "the former certificate stays in use";
        let read = || read(certificate, key);
        if let Some(config) = state.reading.again([certificate, key], read, former) {
            state.config = config;
            info!("the new certificate `{}` is in use", certificate.display());
        }
    }

    /// Accepts a connection with what the files have now.
    pub fn acceptor(&self) -> TlsAcceptor {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.config.clone().into()
    }
}

fn read(certificate: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let (shown, shown_key) = (certificate.display(), key.display());
    let pem = fs::read(certificate).with_context(|| format!("cannot read the certificate `{shown}`"))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("`{shown}` is no PEM file of certificates"))?;
    ensure!(!chain.is_empty(), "`{shown}` has no certificate in PEM");
    let pem = fs::read(key).with_context(|| format!("cannot read the private key `{shown_key}`"))?;
    let key = match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => bail!("`{shown_key}` has no private key in PEM"),
        Err(error) => {
            return Err(error).with_context(|| format!("`{shown_key}` is no PEM file of a private key"));
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS has no protocol version")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                anyhow!("the key `{shown_key}` does not belong to the certificate `{shown}`")
            }
            error => anyhow!("cannot use the certificate `{shown}` with the key `{shown_key}`: {error}"),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
