//! Looks at certificates, with a stand-in for HAProxy that fails where it is told to.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::super::{CertificateTurn, EdgeCertificates};
use super::made;
use crate::metrics::Metrics;

/// What stands in for HAProxy: it answers as the real one does, has one certificate, and fails
/// where it is told to.
struct Stand {
    asked: Arc<Mutex<Vec<String>>>,
    /// A command that begins so is answered by this, once; by nothing at all if it is empty.
    fails: Arc<Mutex<Option<(&'static str, &'static str)>>>,
}

impl Stand {
    fn start(directory: &Path) -> Self {
        let listener = UnixListener::bind(directory.join("sock")).unwrap();
        let (asked, fails) = (Arc::default(), Arc::default());
        let stand = Self { asked, fails };
        let (asked, fails) = (stand.asked.clone(), stand.fails.clone());
        let kept = directory.join("tls").display().to_string();
        tokio::spawn(async move {
            let mut pending = false;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 32_768];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let command = request.lines().next().unwrap_or_default().replace(&kept, "");
                let failure = fails
                    .lock()
                    .unwrap()
                    .take_if(|(begin, _)| command.starts_with(*begin));
                let answer = match (failure, command.split(' ').next().unwrap_or_default()) {
                    (Some((_, "")), _) => {
                        std::future::pending::<()>().await;
                        return;
                    }
                    (Some((_, answer)), _) => answer.to_owned(),
                    (None, "set") if pending => "Transaction updated for certificate!\n".to_owned(),
                    (None, "set") => {
                        pending = true;
                        "Transaction created for certificate!\n".to_owned()
                    }
                    (None, "commit" | "abort") => {
                        pending = false;
                        "Success!\n".to_owned()
                    }
                    (None, _) if command.starts_with("show info") => format!(
                        "Pid: 7\nStart_time_sec: 1\n# {kept}/crt-list\n{kept}/default:1\n{kept}/a.pem:2\n"
                    ),
                    (None, _) if pending => format!("# transaction\n*{kept}/default\n"),
                    (None, _) => String::new(),
                };
                asked.lock().unwrap().push(command);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        stand
    }

    /// What it was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn fail(&self, command: &'static str, answer: &'static str) {
        *self.fails.lock().unwrap() = Some((command, answer));
    }
}

async fn world(place: &Path) -> (Stand, EdgeCertificates) {
    let (_, good) = made(place).await;
    let directory = place.join("certificates");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a.pem"), good.both().unwrap()).unwrap();
    let stand = Stand::start(place);
    let path = |name: &str| place.join(name).to_str().unwrap().parse().unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    let found = EdgeCertificates::start(&directory, &path("sock"), &path("tls"), metrics).await;
    (stand, found)
}

/// One look; the faults that are reported then.
async fn look(certificates: &mut EdgeCertificates) -> Vec<String> {
    loop {
        let turn = certificates.next().await;
        let is_end = matches!(turn, CertificateTurn::Conclude(_));
        certificates.turn(turn, None).unwrap();
        if is_end {
            // Those of the tests end soon.
            let notes = certificates
                .notes()
                .filter(|note| !note.contains("it expires at"));
            return notes.collect();
        }
    }
}

#[tokio::test]
async fn trouble_in_the_middle_of_a_change_is_no_refusal_and_ends_the_change_first() {
    let place = tempfile::tempdir().unwrap();
    let (stand, mut certificates) = world(place.path()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let (_, other) = made(elsewhere.path()).await;
    tokio::time::pause();
    assert!(certificates.are_kept() && stand.asked().is_empty(), "files only");
    stand.fail("commit", "what?");
    let refused = look(&mut certificates).await;
    assert!(
        refused[0].contains("a.pem: HAProxy does not accept this certificate: what?"),
        "{refused:?}"
    );
    stand.asked();
    let again = look(&mut certificates).await;
    assert_eq!(
        (refused, stand.asked().len()),
        (again, 1),
        "not asked again so soon"
    );
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(look(&mut certificates).await, [""; 0], "but later");

    fs::write(place.path().join("certificates/a.pem"), other.both().unwrap()).unwrap();
    stand.fail("commit", "Operations on certificates are currently locked!\n");
    let mut said = Vec::new();
    while said.is_empty() {
        said = look(&mut certificates).await;
    }
    assert!(
        said[0].contains(
            "cannot serve the certificates of this directory: HAProxy refused a command: Operations"
        ),
        "{said:?}"
    );
    stand.asked();
    assert_eq!(look(&mut certificates).await, [""; 0]);
    let expected = [
        "show info;show ssl crt-list -n /crt-list",
        "show ssl cert",
        "abort ssl cert /default",
        "set ssl cert /default <<",
        "commit ssl cert /default",
        "set ssl cert /a.pem <<",
        "commit ssl cert /a.pem",
    ];
    assert_eq!(stand.asked(), expected);
}

#[tokio::test]
async fn a_haproxy_that_does_not_answer_is_reported_and_holds_nothing_up() {
    let place = tempfile::tempdir().unwrap();
    let (stand, mut certificates) = world(place.path()).await;
    tokio::time::pause();
    stand.fail("show info", "");
    let turn = certificates.next().await;
    certificates.turn(turn, None).unwrap();
    let begun = tokio::time::Instant::now();
    let turn = certificates.next().await;
    assert!(matches!(turn, CertificateTurn::Late), "{turn:?}");
    let changed = certificates.turn(turn, None).unwrap();
    assert!(changed.status && !changed.certificates);
    let notes: Vec<String> = certificates.notes().collect();
    assert!(notes[0].contains("takes more than 10 s"), "{notes:?}");
    let said = look(&mut certificates).await;
    assert!(
        said[0].contains("cannot serve the certificates of this directory: HAProxy's answer"),
        "{said:?}"
    );
    assert_eq!(begun.elapsed().as_secs(), 20);
}
