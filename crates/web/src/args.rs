//! The command line. A type checks each argument while it is parsed, so a mistake is reported with
//! what would be right, before anything starts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::ensure;
use clap::{Args, Parser};
use mayfly_core::names::Hostname;
use mayfly_daemon::args::CommonArgs;
use mayfly_state::markdown::edge_url;

const EXAMPLES: &str = "\
Examples:
  mayfly-web                                             the page at http://127.0.0.1:8620/
  mayfly-web --bind 10.0.0.7:8620 --token-file /etc/mayfly/web.token \\
    --tls-certificate /etc/mayfly/web.pem --tls-key /etc/mayfly/web.key
  mayfly-web --base-path /mayfly --host ops.example.com  behind a proxy on the same host
  curl http://127.0.0.1:8620/v1/state
  curl 'http://127.0.0.1:8620/v1/environments/temp-1?wait=60s'

Exit codes: 0 success, 1 failure, 2 wrong usage.";

/// Serves a page and a read-only API that show what Mayfly does
///
/// mayfly-web reads etcd and writes nothing. Its etcd user needs a role that can only read.
#[derive(Debug, Parser)]
#[command(name = "mayfly-web", version, about, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub web: WebArguments,
}

#[derive(Debug, Clone, Args)]
pub struct WebArguments {
    /// Listens at this address; an address other than loopback needs --token-file or
    /// --without-token
    #[arg(
        long,
        env = "MAYFLY_WEB_BIND",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8620"
    )]
    pub bind: SocketAddr,

    /// Accepts only requests with the token in this file: `Authorization: Bearer <token>`
    ///
    /// When the file changes, mayfly-web reads it again.
    #[arg(long, env = "MAYFLY_WEB_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Accepts requests without a token even if the address is not a loopback address
    #[arg(long, env = "MAYFLY_WEB_WITHOUT_TOKEN", conflicts_with = "token_file")]
    pub without_token: bool,

    /// Serves HTTPS with the certificates in this PEM file
    ///
    /// When the file changes, mayfly-web reads it again.
    #[arg(
        long,
        env = "MAYFLY_WEB_TLS_CERTIFICATE",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_certificate: Option<PathBuf>,

    /// Reads the private key of --tls-certificate from this PEM file
    #[arg(
        long,
        env = "MAYFLY_WEB_TLS_KEY",
        value_name = "FILE",
        requires = "tls_certificate"
    )]
    pub tls_key: Option<PathBuf>,

    /// Serves the page and the API below this path, such as /mayfly
    ///
    /// Use this flag behind a proxy that passes on the whole path.
    #[arg(
        long,
        env = "MAYFLY_WEB_BASE_PATH",
        value_name = "PATH",
        default_value = "",
        value_parser = base_path
    )]
    pub base_path: String,

    /// Accepts requests for localhost, for IP addresses and for these host names, separated by
    /// commas. With --token-file, accepts requests for every host name.
    ///
    /// Without a token, mayfly-web refuses requests for any other host name. So the web page of
    /// another site cannot read the API through a host name of that site.
    #[arg(
        long = "host",
        env = "MAYFLY_WEB_HOST",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub hosts: Vec<Hostname>,

    /// Links each environment to this URL, with the environment's prefix in place of `*`, such as
    /// https://*.example.com
    ///
    /// The links are in the Markdown output, and on the page of mayfly-web. The flag is needed
    /// because the routers do not know the domain.
    #[arg(long, env = "MAYFLY_WEB_EDGE_URL", value_name = "URL", value_parser = edge_url)]
    pub edge_url: Option<String>,
}

impl WebArguments {
    /// Whether the arguments go together.
    ///
    /// # Errors
    /// When anybody in the network could read the API.
    pub fn check(&self) -> anyhow::Result<()> {
        let is_closed = self.bind.ip().is_loopback() || self.token_file.is_some() || self.without_token;
        ensure!(
            is_closed,
            "--bind {} is not a loopback address, so everyone who reaches it could read \
             everything; require a token with --token-file, or give --without-token",
            self.bind
        );
        Ok(())
    }

    /// Whether the token crosses the network as it is, unless a proxy with HTTPS is in front.
    pub fn sends_token_in_clear_text(&self) -> bool {
        self.token_file.is_some() && self.tls_certificate.is_none() && !self.bind.ip().is_loopback()
    }

    /// What a link to the page looks like, as far as it is known here.
    pub fn link(&self, bound: SocketAddr) -> String {
        let scheme = if self.tls_certificate.is_some() {
            "https"
        } else {
            "http"
        };
        let shown = match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], bound.port())),
            _ => bound,
        };
        format!("{scheme}://{shown}{}/", self.base_path)
    }
}

/// A path without a closing slash: empty for the root.
fn base_path(text: &str) -> Result<String, String> {
    let path = text.trim_end_matches('/');
    let segment = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed)
    };
    let is_path = path
        .strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(segment));
    match path.is_empty() || is_path {
        true => Ok(path.to_owned()),
        false => Err("a base path is a slash and names of letters, digits, - _ . ~, as /mayfly".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<WebArguments, clap::Error> {
        let words = line.split(' ').filter(|word| !word.is_empty());
        Arguments::try_parse_from(std::iter::once("mayfly-web").chain(words)).map(|all| all.web)
    }

    #[test]
    fn nothing_but_loopback_is_open_to_all() {
        for (line, is_closed) in [
            ("", true),
            ("--bind [::1]:1", true),
            ("--bind 0.0.0.0:1", false),
            ("--bind 10.0.0.1:1", false),
            ("--bind 10.0.0.1:1 --token-file t", true),
            ("--bind 10.0.0.1:1 --without-token", true),
        ] {
            let checked = parse(line).unwrap().check();
            assert_eq!(checked.is_ok(), is_closed, "{line}");
            if let Err(error) = checked {
                assert!(error.to_string().contains("--token-file"), "{error}");
            }
        }
    }

    #[test]
    fn a_token_without_https_is_noticed() {
        for (line, clear) in [
            ("--token-file t", false),
            ("--bind 10.0.0.1:1 --token-file t", true),
            (
                "--bind 10.0.0.1:1 --token-file t --tls-certificate c --tls-key k",
                false,
            ),
            ("--bind 10.0.0.1:1 --without-token", false),
        ] {
            assert_eq!(parse(line).unwrap().sends_token_in_clear_text(), clear, "{line}");
        }
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (line, part) in [
            ("--bind 8620", "invalid socket address"),
            ("--base-path mayfly", "as /mayfly"),
            ("--base-path /a//b", "as /mayfly"),
            ("--base-path /../x", "as /mayfly"),
            ("--tls-key k", "--tls-certificate"),
            ("--token-file t --without-token", "cannot be used with"),
            ("--host a_b", "a_b"),
            ("--edge-url https://www.example.com", "as https://*.example.com"),
            (
                "--edge-url javascript://*.example.com",
                "as https://*.example.com",
            ),
            (
                "--edge-url https://*.a.example@*.b.example",
                "as https://*.example.com",
            ),
            ("more", "unexpected"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
        assert_eq!(parse("--base-path /a/b/").unwrap().base_path, "/a/b");
        assert_eq!(parse("--base-path /").unwrap().base_path, "");
        let url = "https://*.example.com:8443/";
        assert_eq!(
            parse(&format!("--edge-url {url}")).unwrap().edge_url.as_deref(),
            Some(url)
        );
    }

    #[test]
    fn a_link_leads_to_the_page() {
        let arguments = parse("--bind 0.0.0.0:8620 --without-token --base-path /ops").unwrap();
        assert_eq!(arguments.link(arguments.bind), "http://127.0.0.1:8620/ops/");
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
