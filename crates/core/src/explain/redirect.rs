//! The redirect of requests in clear text to HTTPS.

use super::{ErrorAnswer, Walk};

impl Walk<'_> {
    /// Whether the request is answered by the address that it should have asked for.
    pub(super) fn redirect(&mut self, host: &str) -> Result<(), ErrorAnswer> {
        let Some(port) = self.settings.redirect_to_https.filter(|_| !self.request.tls) else {
            return Ok(());
        };
        let path = &self.request.path;
        // What is no host could make the address lead anywhere.
        if !is_host(host) {
            let note = "a redirect cannot name this host";
            self.step("redirect", host, None, Some(note.to_owned()));
            return Ok(());
        }
        let port = match port {
            443 => String::new(),
            port => format!(":{port}"),
        };
        let query = match self.request.query.as_str() {
            "" => String::new(),
            query => format!("?{query}"),
        };
        let found = format!("https://{host}{port}{path}{query}");
        let note = "the request is in clear text (--redirect-to-https)";
        self.step("redirect", host, Some(found), Some(note.to_owned()));
        Err((308, "ask again by https.".to_owned()))
    }
}

/// Whether the router redirects to a host.
fn is_host(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    !host.is_empty() && host.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use crate::explain::{Request, Responder, Settings, ShareLinks, Side};
    use crate::index::Index;

    /// Where a request is redirected to, if it is.
    fn redirected(port: Option<u16>, side: Side, tls: bool, host: &str, query: &str) -> Option<String> {
        let settings = Settings {
            domain: "service".parse().unwrap(),
            default_environment: None,
            allow_header_at_edge: false,
            share_links: ShareLinks::All,
            health_path: Some("/health".to_owned()),
            redirect_to_https: port,
        };
        let request = |path: &str| Request {
            side,
            tls,
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            cookie: String::new(),
            from: None,
            login: None,
            value: None,
        };
        let index = Index::default();
        let health = index.explain(&settings, &request("/health")).answer;
        let is_healthy = matches!(health, Responder::Router { status: 200, .. });
        assert_eq!(is_healthy, side == Side::Edge);
        let explanation = index.explain(&settings, &request("/a;b"));
        let is_redirected = matches!(explanation.answer, Responder::Router { status: 308, .. });
        let first = explanation.steps.into_iter().next();
        let found = first.filter(|step| step.step == "redirect")?.found;
        assert_eq!(found.is_some(), is_redirected);
        found
    }

    #[test]
    fn a_request_in_clear_text_is_sent_to_https_at_the_same_place() {
        for (port, side, tls, host, query, expected) in [
            (
                Some(443),
                Side::Edge,
                false,
                "WWW.x.:80",
                "",
                Some("https://www.x/a;b"),
            ),
            (
                Some(8443),
                Side::Edge,
                false,
                "www.x",
                "mayfly=qa",
                Some("https://www.x:8443/a;b?mayfly=qa"),
            ),
            (Some(443), Side::Edge, true, "www.x", "", None),
            (Some(443), Side::Internal, false, "www.x", "", None),
            (None, Side::Edge, false, "www.x", "", None),
            (Some(443), Side::Edge, false, "", "", None),
            (Some(443), Side::Edge, false, "a.x/<script>", "", None),
        ] {
            let found = redirected(port, side, tls, host, query);
            assert_eq!(found.as_deref(), expected, "{port:?} {side:?} {tls} {host}");
        }
    }
}
