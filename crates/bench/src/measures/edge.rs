//! What each part of the edge costs: TLS beside a bare HAProxy with TLS, and routers with links,
//! with access, with large heads and of an older build beside one with none of it. The older build
//! is compared by its internal side, too. Each is loaded in
//! turns with what it is measured by, and the median of the ratios counts.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mayfly_e2e::mayfly::Mayfly;
use mayfly_e2e::port;
use mayfly_e2e::process::binary;
use mayfly_e2e::tls::Authority;

use crate::fleet::{self, Scale, VERSIONS};
use crate::load::{Load, Side};
use crate::measures::throughput::{CONNECTIONS, Rounds};
use crate::peers::haproxy::Haproxy;
use crate::probe::Probe;
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;
use crate::variants::Variant;

/// All environments of this measure, and as many beside them that are open to a user alone.
pub const SCALE: Scale = Scale::new(100, 20);
/// The number of the first of those.
const GUARDED: usize = 50_000;
const READY: Duration = Duration::from_secs(60);

/// A system by name, and how it is loaded.
type Loaded<'a> = (&'a str, Load<'a>);

/// Runs all of it. `before` is a haproxy-updater of an older build.
///
/// # Errors
/// When something does not start, or a request fails.
pub async fn run(
    scaled: &ScaledMayfly,
    rounds: &Rounds,
    before: Option<&Path>,
    results: &mut Results,
) -> Result<()> {
    let place = scaled.mayfly.directory();
    let authority = Authority::new(place, "edge").await?;
    let certificate = authority.certify("*.example.com").await?;
    let certificates = place.join("edge-certificates");
    std::fs::create_dir_all(&certificates).context("make a directory")?;
    std::fs::copy(&certificate, certificates.join("a.pem")).context("copy a certificate")?;
    let certificates = certificates.to_str().context("a path of the bench")?;
    let login = guard(scaled).await?;

    let tls = port::free();
    let bind = tls.to_string();
    let own = binary("haproxy-updater")?;
    let flags = ["--edge-tls-bind", &bind, "--edge-certificates", certificates];
    let with_tls = Variant::start(scaled, "tls", &own, &flags).await?;
    let links = Variant::start(scaled, "links", &own, &["--share-links", "all"]).await?;
    let large = Variant::start(scaled, "large", &own, &["--large-heads"]).await?;
    let (bare, bare_tls) = (Haproxy::bare(scaled)?, Haproxy::bare_tls(scaled, &certificate)?);
    let plain = |to: SocketAddr| Load {
        to,
        side: Side::Edge,
        tls: false,
        first: 0,
        environments: scaled.scale.environments,
        services: scaled.scale.services,
        headers: &[],
        connections: CONNECTIONS,
        time: rounds.time,
        log: None,
    };
    let by_tls = |to| Load {
        tls: true,
        ..plain(to)
    };
    let mayfly = plain(scaled.mayfly.edge);
    // Another environment than that of the host, so that nothing is spared.
    let cookie = [("cookie", "mayfly=env-00001")];
    let login = [("authorization", login.as_str())];
    let by_cookie = Load {
        headers: &cookie,
        ..plain(links.edge)
    };
    let guarded = Load {
        first: GUARDED,
        headers: &login,
        ..mayfly.clone()
    };
    let of_mayfly = ("mayfly", mayfly);
    let mut pairs: Vec<(&str, Loaded, &Loaded, Goal)> = Vec::new();
    let of_bare = ("bare haproxy", plain(bare.edge));
    let of_bare_tls = ("bare haproxy, TLS", by_tls(bare_tls.edge));
    pairs.push(("edge share of bare", of_mayfly.clone(), &of_bare, Goal::None));
    let this = ("mayfly, TLS", by_tls(tls));
    pairs.push(("TLS share of bare TLS", this, &of_bare_tls, Goal::None));
    let listens = ("mayfly, TLS beside", plain(with_tls.edge));
    let links_on = ("mayfly, links on", plain(links.edge));
    let heads = ("mayfly, large heads", plain(large.edge));
    for (this, goal) in [
        (listens, Goal::None),
        (links_on, Goal::AtLeast(0.97)),
        (("mayfly, by cookie", by_cookie), Goal::None),
        (("mayfly, by password", guarded), Goal::None),
        (heads, Goal::None),
    ] {
        pairs.push(("edge share of plain", this, &of_mayfly, goal));
    }
    let older = match before {
        Some(program) => Some(Variant::start(scaled, "before", program, &[]).await?),
        None => None,
    };
    let within = |to| Load {
        side: Side::Internal,
        ..plain(to)
    };
    let of_internal = ("mayfly", within(scaled.mayfly.internal));
    let of_older = older.as_ref().map(|older| {
        let name = "mayfly before";
        [(name, plain(older.edge)), (name, within(older.internal))]
    });
    if let Some([edge, internal]) = &of_older {
        let goal = Goal::AtLeast(0.99);
        pairs.push(("edge share of before", of_mayfly.clone(), edge, goal));
        pairs.push(("internal share of before", of_internal, internal, goal));
    }
    for (measure, this, base, goal) in &pairs {
        compare(scaled, measure, this, base, (rounds, *goal), results).await?;
    }
    Ok(())
}

/// Loads two systems in turns, and notes how much of the second's rate the first reaches.
async fn compare(
    scaled: &ScaledMayfly,
    measure: &str,
    (name, this): &Loaded<'_>,
    (base_name, base): &Loaded<'_>,
    (rounds, goal): (&Rounds, Goal),
    results: &mut Results,
) -> Result<()> {
    let (mut shares, mut rates) = (Vec::new(), Vec::new());
    for round in 0..rounds.count {
        // Who comes first may find a warmer machine.
        let order = if round % 2 == 0 {
            [this, base]
        } else {
            [base, this]
        };
        let mut both = Vec::new();
        for load in order {
            let report = load.run(scaled.mayfly.directory()).await?;
            ensure!(
                report.failed == 0,
                "{} requests to {name} or {base_name} failed",
                report.failed
            );
            both.push(report.rate);
        }
        if round % 2 == 1 {
            both.reverse();
        }
        rates.push(both[0]);
        shares.push(both[0] / both[1]);
    }
    let rate = (median(&mut rates), "requests/s");
    results.add(format!("{measure}, rate"), *name, scaled.scale, rate, Goal::None);
    let share = (median(&mut shares), "of 1");
    results.add(measure, *name, scaled.scale, share, goal);
    Ok(())
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Adds environments that are open to one user, and to a network that nobody is in. Gives what the
/// user says in `authorization`.
async fn guard(scaled: &ScaledMayfly) -> Result<String> {
    let (user, password, hash) = user(&scaled.mayfly).await?;
    for number in 0..scaled.scale.environments {
        let web = VERSIONS[fleet::version(number, 0)];
        let text = fleet::yaml(GUARDED + number, scaled.scale.services, web);
        let access = format!("access:\n  users: {{{user}: \"{hash}\"}}\n  from: [10.0.0.0/8]\n");
        scaled.add(&fleet::environment(GUARDED + number), &(text + &access))?;
    }
    let login = format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
    for number in 0..scaled.scale.environments {
        let host = fleet::host(GUARDED + number);
        let edge = scaled.mayfly.edge;
        Probe::new(edge, &host, &[("authorization", &login)])
            .until(READY, |answer| answer.status == 200)
            .with_context(|| format!("{host} with the password"))?;
        let shut_out = Probe::new(edge, &host, &[]).ask()?;
        ensure!(shut_out.status == 401, "{host} is open: {shut_out:?}");
    }
    Ok(login)
}

/// A user, the password, and its hash, as an operator makes them.
async fn user(mayfly: &Mayfly) -> Result<(String, String, String)> {
    let name = fleet::environment(0);
    let arguments = ["access", &name, "--user", "guest", "--format", "json"];
    let made = mayfly.run("mayfly", &arguments).await?.ok()?;
    let made: serde_json::Value = serde_json::from_str(&made).context("read `mayfly access`")?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("a text");
    let hash = &made["access"]["users"]["guest"];
    Ok(("guest".to_owned(), text(&made["password"])?, text(hash)?))
}
