//! TLS: an authority of the test's own, certificates of it (made by openssl), a client that
//! believes it, and an HAProxy that takes TLS off and passes the request to an instance.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::eventually;
use crate::process::{Process, run};

const LIMIT: Duration = Duration::from_secs(10);

/// An authority that makes certificates.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    name: String,
}

impl Authority {
    /// A new one, whose files begin with `name` and lie in `directory`.
    ///
    /// # Errors
    /// When openssl is missing or fails.
    pub async fn new(directory: &Path, name: &str) -> Result<Self> {
        let authority = Self {
            directory: directory.into(),
            name: name.into(),
        };
        let (key, certificate) = (authority.path("key"), authority.path("pem"));
        let subject = format!("/CN=Authority {name}");
        let mut arguments = vec![
            "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt",
        ];
        arguments.extend([
            "ec_paramgen_curve:P-256",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
        ]);
        openssl(&[arguments, vec![&certificate]].concat()).await?;
        Ok(authority)
    }

    fn path(&self, ending: &str) -> String {
        let path = self.directory.join(format!("{}.{ending}", self.name));
        path.to_string_lossy().into_owned()
    }

    /// Its own certificate, as `--ca-file` takes it.
    pub fn certificate(&self) -> String {
        self.path("pem")
    }

    /// A certificate with its key for a host name, in one file.
    ///
    /// # Errors
    /// When openssl fails.
    pub async fn certify(&self, host: &str) -> Result<PathBuf> {
        let made = self.certify_as(host, &[&format!("DNS:{host}")], &[]).await?;
        let both = [&made.certificate, &made.key]
            .map(std::fs::read)
            .into_iter()
            .collect::<Result<Vec<_>, _>>();
        let path = PathBuf::from(self.path(&format!("{host}.both")));
        std::fs::write(&path, both.context("read a certificate")?.concat()).context("write a certificate")?;
        Ok(path)
    }

    /// A certificate and its key, in files named after `name`, for these names (`DNS:etcd`, `IP:127.0.0.1`); `arguments`
    /// are openssl's, such as `-days 1`. Made anew, it replaces the former.
    ///
    /// # Errors
    /// When openssl fails.
    pub async fn certify_as(&self, name: &str, names: &[&str], arguments: &[&str]) -> Result<Certified> {
        let file = |ending: &str| self.path(&format!("{name}.{ending}"));
        let (key, request, certificate) = (file("key"), file("csr"), file("crt"));
        let subject = format!("/CN={name}");
        let mut asked = vec![
            "req",
            "-nodes",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ];
        asked.extend(["-subj", &subject, "-keyout", &key, "-out", &request]);
        openssl(&asked).await?;
        let extensions = file("names");
        std::fs::write(&extensions, format!("subjectAltName={}\n", names.join(",")))
            .context("write a name")?;
        let (own, own_key) = (self.path("pem"), self.path("key"));
        let mut made = vec!["x509", "-req", "-in", &request, "-CA", &own, "-CAkey", &own_key];
        made.extend(["-CAcreateserial", "-extfile", &extensions, "-out", &certificate]);
        made.extend(if arguments.is_empty() {
            &["-days", "2"]
        } else {
            arguments
        });
        openssl(&made).await?;
        Ok(Certified {
            certificate: certificate.into(),
            key: key.into(),
        })
    }
}

impl Authority {
    /// As [`Authority::certify_as`], valid between two moments, such as `20200101000000Z`.
    ///
    /// # Errors
    /// When openssl fails.
    pub async fn certify_between(
        &self,
        name: &str,
        names: &[&str],
        from: &str,
        to: &str,
    ) -> Result<Certified> {
        let made = self.certify_as(name, names, &[]).await?;
        let file = |ending: &str| self.path(&format!("{name}.{ending}"));
        let (config, index) = (file("conf"), file("index"));
        let directory = self.directory.display();
        let text = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase={index}\nnew_certs_dir={directory}\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n\
             [p]\ncommonName=supplied\n"
        );
        std::fs::write(&index, "").context("write a file")?;
        std::fs::write(&config, text).context("write a file")?;
        let (own, own_key) = (self.path("pem"), self.path("key"));
        let mut asked = vec!["ca", "-batch", "-notext", "-config", &config];
        asked.extend([
            "-cert",
            &own,
            "-keyfile",
            &own_key,
            "-startdate",
            from,
            "-enddate",
            to,
        ]);
        let (names, request, certificate) = (file("names"), file("csr"), file("crt"));
        asked.extend(["-extfile", &names, "-in", &request, "-out", &certificate]);
        openssl(&asked).await?;
        Ok(made)
    }

    /// A client that believes this authority.
    ///
    /// # Errors
    /// When its certificate cannot be read.
    pub fn client(&self) -> Result<TlsClient> {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_file(self.certificate()).context("read an authority")?;
        roots.add(own).context("take an authority")?;
        let client = ClientConfig::builder().with_root_certificates(roots);
        Ok(TlsClient {
            config: client.with_no_client_auth(),
        })
    }
}

/// A client that believes one authority.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: ClientConfig,
}

impl TlsClient {
    /// Opens a connection for a host and agrees on a protocol: `h2` or `http/1.1`.
    ///
    /// # Errors
    /// When the handshake fails, or the server speaks another protocol.
    pub async fn connect(&self, to: SocketAddr, host: &str, protocol: &str) -> Result<TlsStream<TcpStream>> {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let host = host.split(':').next().unwrap_or_default();
        let name = ServerName::try_from(host.to_owned()).context("the name of a host")?;
        let stream = TcpStream::connect(to).await.context("connect")?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = tokio::time::timeout(LIMIT, connecting)
            .await
            .context("a handshake")??;
        let agreed = stream.get_ref().1.alpn_protocol();
        anyhow::ensure!(agreed == Some(protocol.as_bytes()), "it speaks {agreed:?}");
        Ok(stream)
    }

    /// The certificate that a server shows for a host, as DER.
    ///
    /// # Errors
    /// As [`TlsClient::connect`].
    pub async fn certificate(&self, to: SocketAddr, host: &str) -> Result<Vec<u8>> {
        let stream = self.connect(to, host, "http/1.1").await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(shown.first().context("a certificate")?.to_vec())
    }
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
}

impl Certified {
    /// Both as one text, the way HAProxy takes them.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn both(&self) -> Result<String> {
        let read = |path: &Path| std::fs::read_to_string(path).context("read a certificate");
        Ok(read(&self.certificate)? + &read(&self.key)?)
    }

    /// The certificate as DER.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn der(&self) -> Result<Vec<u8>> {
        let der = CertificateDer::from_pem_file(&self.certificate).context("read a certificate")?;
        Ok(der.to_vec())
    }
}

async fn openssl(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(arguments);
    run(&command, LIMIT).await?.ok().context("openssl").map(drop)
}

/// An HAProxy that speaks TLS and passes requests to an instance; its answers say in `x-sni` which name was asked for.
#[derive(Debug)]
pub struct Terminator {
    _process: Process,
}

impl Terminator {
    /// Starts one at `at` with a certificate for the instance at `to`.
    ///
    /// # Errors
    /// When HAProxy does not start.
    pub async fn start(directory: &Path, at: SocketAddr, certificate: &Path, to: SocketAddr) -> Result<Self> {
        let config = directory.join(format!("tls-{}.cfg", at.port()));
        let certificate = certificate.display();
        let text = format!(
            "defaults\n    mode http\n    timeout connect 5s\n    timeout client 1m\n    timeout server 1m\n\
             listen tls\n    bind {at} ssl crt {certificate} alpn h2,http/1.1\n    \
             http-response set-header x-sni %[ssl_fc_sni]\n    server instance {to}\n"
        );
        std::fs::write(&config, text).context("write a configuration")?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(&config);
        let log = directory.join(format!("tls-{}.log", at.port()));
        let process = Process::spawn("haproxy (TLS)", &command, &log)?;
        eventually(LIMIT, "the TLS server listens", async || {
            TcpStream::connect(at).await
        })
        .await;
        Ok(Self { _process: process })
    }
}
