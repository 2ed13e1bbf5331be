//! Files of certificates as people bring them, made by openssl; what is chosen of them; and what is
//! kept for a start of HAProxy.

mod looks;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mayfly_e2e::tls::{Authority, Certified};

use super::certificate::Certificate;
use super::choice::{CertificateChoice, Certificates, choose, notes};
use super::kept;
use super::scan::CertificateContent;

fn openssl(directory: &Path, arguments: &str) -> Vec<u8> {
    let made = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(made.status.success(), "{arguments}: {made:?}");
    made.stdout
}

/// The words for a file that is refused.
fn reason(bytes: impl AsRef<[u8]>) -> String {
    Certificate::read(bytes.as_ref()).expect_err("a fault")
}

async fn made(directory: &Path) -> (Authority, Certified) {
    let authority = Authority::new(directory, "ca").await.unwrap();
    let names = ["DNS:www.example.com", "DNS:*.Example.com", "IP:10.0.0.1"];
    let made = authority.certify_as("www", &names, &[]).await.unwrap();
    (authority, made)
}

#[tokio::test]
async fn what_people_bring_is_read_or_refused_with_a_reason() {
    let place = tempfile::tempdir().unwrap();
    let (authority, good) = made(place.path()).await;
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let (certificate, key) = (text(&good.certificate), text(&good.key));
    let root = fs::read_to_string(authority.certificate()).unwrap();

    let plain = format!("{certificate}{root}{key}");
    let read = Certificate::read(plain.as_bytes()).unwrap();
    let names: Vec<&str> = read.names.iter().map(String::as_str).collect();
    assert_eq!(names, ["*.example.com", "10.0.0.1", "www.example.com"]);
    assert_eq!(read.key, "ECDSA");
    let left = read.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(47 * 3600) && left < Duration::from_secs(49 * 3600));
    assert!(read.not_before <= SystemTime::now());
    let serial = openssl(place.path(), "x509 -noout -serial -in ca.www.crt");
    let serial = String::from_utf8(serial).unwrap().trim().to_ascii_lowercase();
    assert_eq!(serial, format!("serial={}", read.serial));
    assert!(!format!("{read:?}").contains("PRIVATE"), "{read:?}");

    // The same in another guise is the same: HAProxy's socket gets neither empty lines nor words
    // around it.
    let described = String::from_utf8(openssl(place.path(), "x509 -text -in ca.www.crt")).unwrap();
    for other in [
        format!("{key}\n\n{described}\n\n{root}\n"),
        plain.replace('\n', "\r\n"),
        format!("Bag Attributes\n    friendlyName: www\n{plain}"),
        read.pem().to_owned(),
    ] {
        assert_eq!(Certificate::read(other.as_bytes()).unwrap(), read, "{other}");
    }
    assert!(!read.pem().contains("\n\n") && read.pem().ends_with("-----END PRIVATE KEY-----\n"));

    for kind in [
        "rsa -pkeyopt rsa_keygen_bits:2048",
        "ed25519",
        "ec -pkeyopt ec_paramgen_curve:P-384",
    ] {
        openssl(
            place.path(),
            &format!(
                "req -x509 -nodes -subj /CN=a -addext subjectAltName=DNS:a -newkey {kind} -keyout k -out c"
            ),
        );
        let both = text(&place.path().join("c")) + &text(&place.path().join("k"));
        assert!(Certificate::read(both.as_bytes()).is_ok(), "{kind}");
        if kind.starts_with("rsa") {
            openssl(place.path(), "rsa -traditional -in k -out k1");
            let both = text(&place.path().join("c")) + &text(&place.path().join("k1"));
            assert!(
                Certificate::read(both.as_bytes())
                    .unwrap()
                    .pem()
                    .contains("BEGIN RSA PRIVATE KEY")
            );
        }
    }

    let other = authority.certify_as("other", &["DNS:other"], &[]).await.unwrap();
    assert_eq!(
        reason(certificate.clone() + &text(&other.key)),
        "the private key does not belong to the first certificate of the file"
    );
    assert_eq!(
        reason(format!("{root}{certificate}{key}")),
        "the private key does not belong to the first certificate of the file"
    );
    assert_eq!(reason(""), "it is empty");
    assert_eq!(reason("hello"), "it is not PEM");
    assert_eq!(reason(&key), "it holds no certificate");
    assert!(reason(&certificate).starts_with("it contains no private key"));
    assert_eq!(reason(format!("{plain}{key}")), "it holds 2 private keys");
    assert!(reason(openssl(place.path(), "x509 -in ca.www.crt -outform der")).starts_with("it is DER"));
    assert!(
        reason(plain.replacen(
            "-----BEGIN CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n!",
            1
        ))
        .starts_with("it is broken PEM")
    );
    let cut = &plain[..certificate.len() / 2];
    assert!(
        reason(cut).contains("broken PEM") || reason(cut).contains("no certificate"),
        "{}",
        reason(cut)
    );

    let encrypted = "its private key is encrypted: `openssl pkey` removes the passphrase";
    openssl(
        place.path(),
        "pkey -in ca.www.key -aes128 -passout pass:secret -out k",
    );
    assert_eq!(
        reason(certificate.clone() + &text(&place.path().join("k"))),
        encrypted
    );
    openssl(
        place.path(),
        "ec -in ca.www.key -aes128 -passout pass:secret -out k",
    );
    assert_eq!(
        reason(certificate.clone() + &text(&place.path().join("k"))),
        encrypted
    );

    for (arguments, part) in [
        (
            "-newkey rsa -pkeyopt rsa_keygen_bits:1024 -addext subjectAltName=DNS:a",
            "of a kind that cannot be used",
        ),
        (
            "-newkey ec -pkeyopt ec_paramgen_curve:P-521 -addext subjectAltName=DNS:a",
            "of a kind that cannot be used",
        ),
        ("-newkey ed25519", "names no host"),
        (
            "-newkey rsa -pkeyopt rsa_keygen_bits:2048 -sha1 -addext subjectAltName=DNS:a",
            "signed with MD5 or SHA-1",
        ),
    ] {
        openssl(
            place.path(),
            &format!("req -x509 -nodes -subj /CN=a {arguments} -keyout k -out c"),
        );
        let found = reason(text(&place.path().join("c")) + &text(&place.path().join("k")));
        assert!(found.contains(part), "{arguments}: {found}");
    }
    let long = reason(format!("{certificate}{}{key}", root.repeat(30)));
    assert!(
        long.contains("more than the 15000 that HAProxy accepts"),
        "{long}"
    );
}

#[tokio::test]
async fn no_cut_and_no_swapped_byte_makes_it_panic() {
    let place = tempfile::tempdir().unwrap();
    let (_, good) = made(place.path()).await;
    let bytes = good.both().unwrap().into_bytes();
    for end in 0..bytes.len() {
        let _ = Certificate::read(&bytes[..end]);
    }
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] = other[at].wrapping_add(1);
        let _ = Certificate::read(&other);
    }
}

/// Certificates for the small language of the test below, made once each.
struct Made {
    authority: Authority,
    known: BTreeMap<String, Arc<Certificate>>,
    number: u32,
    /// When it began, so that the same number of days is the same moment.
    start: SystemTime,
}

impl Made {
    /// `www+9#2`: for `www.example.com`, nine days from now on, the second of these.
    async fn one(&mut self, text: &str) -> Arc<Certificate> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let (host, rest) = text.split_at(text.find(['+', '-', '>']).unwrap());
        let days: i64 = rest[1..].split('#').next().unwrap().parse().unwrap();
        let (from, to) = match &rest[..1] {
            "+" => (-1, days),
            "-" => (-90, -days),
            _ => (days, days + 90),
        };
        self.number += 1;
        let name = format!("made-{}", self.number);
        let host = format!("DNS:{host}.example.com");
        let made = self
            .authority
            .certify_between(&name, &[&host], &day(self.start, from), &day(self.start, to))
            .await;
        let both = made.unwrap().both().unwrap();
        let certificate = Arc::new(Certificate::read(both.as_bytes()).unwrap());
        self.known.insert(text.to_owned(), certificate.clone());
        certificate
    }

    async fn certificates(&mut self, text: &str) -> Certificates {
        let mut all = Certificates::new();
        for (file, what) in text.split_whitespace().map(|part| part.split_once('=').unwrap()) {
            all.insert(file.parse().unwrap(), self.one(what).await);
        }
        all
    }

    async fn files(&mut self, text: &str) -> BTreeMap<String, CertificateContent> {
        let mut all = BTreeMap::new();
        for (file, what) in text.split_whitespace().map(|part| part.split_once('=').unwrap()) {
            let content = match what {
                "bad" => Err("bad".to_owned()),
                what => Ok(self.one(what).await),
            };
            all.insert(file.to_owned(), content);
        }
        all
    }

    fn text(&self, certificates: &Certificates) -> String {
        let name = |one: &Arc<Certificate>| {
            let mut known = self.known.iter();
            known
                .find(|(_, certificate)| *certificate == one)
                .unwrap()
                .0
                .clone()
        };
        let all = certificates
            .iter()
            .map(|(file, one)| format!("{file}={}", name(one)));
        all.collect::<Vec<_>>().join(" ")
    }
}

/// A moment so many days and an hour from a start, as openssl takes it.
fn day(start: SystemTime, days: i64) -> String {
    let seconds = days * 86_400 + 3_600;
    let text = openssl_date(start, seconds);
    text.chars()
        .filter(char::is_ascii_alphanumeric)
        .filter(|c| *c != 'T')
        .collect()
}

fn openssl_date(start: SystemTime, seconds: i64) -> String {
    let span = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { start - span } else { start + span };
    mayfly_core::records::lifetime::Moment::of(time).to_string()
}

#[tokio::test]
async fn what_is_served_of_what_the_files_hold() {
    let place = tempfile::tempdir().unwrap();
    let authority = Authority::new(place.path(), "ca").await.unwrap();
    let mut made = Made {
        authority,
        known: BTreeMap::new(),
        number: 0,
        start: SystemTime::now(),
    };
    // Files; served before; served then; what is said, in its order, by its beginning.
    for (files, before, after, said) in [
        ("a.pem=*+90", "", "a.pem=*+90", &[][..]),
        ("a.pem=*+90#2", "a.pem=*+90", "a.pem=*+90#2", &[]),
        (
            "a.pem=*+90 b.pem=www+90",
            "a.pem=*+90",
            "a.pem=*+90 b.pem=www+90",
            &[],
        ),
        ("b.pem=www+90", "a.pem=*+90 b.pem=www+90", "b.pem=www+90", &[]),
        // Faults.
        ("a.pem=bad", "", "", &["a.pem: bad"]),
        (
            "a.pem=bad b.pem=www+90",
            "a.pem=*+90",
            "a.pem=*+90 b.pem=www+90",
            &["a.pem: bad; the former certificate stays in use"],
        ),
        ("a.pem=*-5", "", "", &["a.pem: it expired at "]),
        (
            "a.pem=*-5",
            "a.pem=*+90",
            "a.pem=*+90",
            &["a.pem: it expired at "],
        ),
        ("a.pem=*-5", "a.pem=*-5", "a.pem=*-5", &["a.pem: it expired at "]),
        (
            "a.pem=*>5",
            "a.pem=*+90",
            "a.pem=*+90",
            &["a.pem: it is valid only from "],
        ),
        ("a.pem=*>5", "", "", &["a.pem: it is valid only from "]),
        (
            "a%b.pem=*+90",
            "",
            "",
            &["a%b.pem: the name of the file may have"],
        ),
        // All gone at once is no removal.
        ("", "a.pem=*+90", "a.pem=*+90", &[]),
        ("b.pem=bad", "a.pem=*+90", "a.pem=*+90", &["b.pem: bad"]),
        // Notes.
        ("a.pem=*+9", "", "a.pem=*+9", &["a.pem: it expires at "]),
        (
            "a.pem=www+90 b.pem=none+90",
            "",
            "a.pem=www+90 b.pem=none+90",
            &[
                "b.pem: none of its names belongs to the prefix of an environment \
                 (none.example.com)",
            ],
        ),
        // Two for the same names.
        (
            "a.pem=*+90 b.pem=*+95",
            "a.pem=*+90",
            "b.pem=*+95",
            &["a.pem: not used, because b.pem has the same names and is valid for longer"],
        ),
        (
            "a.pem=*-5 b.pem=*+95",
            "a.pem=*-5",
            "b.pem=*+95",
            &["a.pem: not used, because b.pem has the same names"],
        ),
        // One that is valid as long does not take the place of one that is in use.
        (
            "a.pem=*+90 b.pem=*+90#2",
            "a.pem=*+90",
            "a.pem=*+90",
            &["b.pem: not used, because a.pem has the same names and is valid as long, until "],
        ),
        // A copy of another file, or a link to it.
        (
            "a.pem=*+90 b.pem=www+90 default.pem=www+90",
            "",
            "a.pem=*+90 b.pem=www+90 default.pem=www+90",
            &[],
        ),
        // A copy that was not renewed with the file.
        (
            "a.pem=*+90 b.pem=www+95 default.pem=www+90",
            "a.pem=*+90 b.pem=www+90 default.pem=www+90",
            "a.pem=*+90 b.pem=www+95 default.pem=www+95",
            &[
                "default.pem: replaced by b.pem, which has the same names and is valid for longer, \
                 until ",
            ],
        ),
        (
            "b.pem=www+90 default.pem=www+95",
            "",
            "default.pem=www+95",
            &["b.pem: not used, because default.pem has the same names and is valid for longer"],
        ),
        // What HAProxy has refused.
        ("a.pem=refused+90", "", "", &["a.pem: no"]),
        (
            "a.pem=refused+90",
            "a.pem=*+90",
            "a.pem=*+90",
            &["a.pem: no; the former certificate stays in use"],
        ),
    ] {
        let (given, served) = (made.files(files).await, made.certificates(before).await);
        let refused = |certificate: &Certificate| {
            certificate
                .names
                .contains("refused.example.com")
                .then(|| "no".to_owned())
        };
        let now = SystemTime::now();
        let CertificateChoice { certificates, faults } = choose(&given, &served, now, &refused);
        let case = format!("{files} | {before}");
        assert_eq!(made.text(&certificates), after, "{case}");
        let mut all = notes(&certificates, now, &|label| label == "www");
        all.extend(faults);
        let all: Vec<String> = all.iter().map(|(file, text)| format!("{file}: {text}")).collect();
        assert_eq!(all.len(), said.len(), "{case}: {all:?}");
        for (text, beginning) in all.iter().zip(said) {
            assert!(text.starts_with(beginning), "{case}: {text}");
        }
    }
}

#[tokio::test]
async fn what_is_kept_is_read_again_and_nobody_else_may_read_it() {
    let place = tempfile::tempdir().unwrap();
    let (_, good) = made(place.path()).await;
    let one = Arc::new(Certificate::read(good.both().unwrap().as_bytes()).unwrap());
    let directory = place.path().join("tls");
    let name = |text: &str| text.parse().unwrap();
    let all = Certificates::from([(name("a.pem"), one.clone()), (name("b.pem"), one.clone())]);
    kept::write(&directory, &Certificates::new()).unwrap();
    assert!(!directory.exists());
    kept::write(&directory, &all).unwrap();
    assert_eq!(kept::read(&directory), all);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&directory), 0o750);
    let list = fs::read_to_string(directory.join("crt-list")).unwrap();
    assert_eq!(list.lines().count(), 3);
    for path in list.lines() {
        assert_eq!(mode(path.as_ref()), 0o640, "{path}");
    }
    assert!(list.lines().next().unwrap().ends_with("/tls/default"));

    // One that is damaged is none, and comes again; one that is no longer in use goes.
    fs::write(directory.join("a.pem"), "broken").unwrap();
    let fewer = Certificates::from([(name("b.pem"), one)]);
    assert_eq!(kept::read(&directory), fewer);
    kept::write(&directory, &all).unwrap();
    assert_eq!(kept::read(&directory), all);
    kept::write(&directory, &fewer).unwrap();
    assert!(!directory.join("a.pem").exists());

    // What is not ours stays.
    fs::write(directory.join("other.pem"), "").unwrap();
    assert!(kept::remove(&directory).unwrap());
    let left: Vec<_> = fs::read_dir(&directory).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(directory.join("other.pem").exists());
    kept::write(&directory, &all).unwrap();
    assert!(kept::remove(&directory).unwrap() && !directory.exists());
    assert!(!kept::remove(&directory).unwrap());
}
