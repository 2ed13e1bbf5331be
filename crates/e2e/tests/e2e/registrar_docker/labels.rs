//! Labels that are misspelt, in the wrong place, or another Mayfly's: where a word is due, and
//! where none is.

use mayfly_e2e::docker::SWARM_NETWORK;

use super::*;

#[tokio::test]
async fn a_misspelt_label_is_told_of_and_what_is_another_mayfly_s_is_not() {
    let (mayfly, engine) = etcd_and_engine().await;
    engine.docker(&["network", "create", "other"]).await.unwrap();
    run(&engine, "before", &[&["--label", "mayfly.servce=backend"]]).await;
    let registrar = registrar(&mayfly, &engine.host_url(), &["--network", NETWORK]);
    run(&engine, "after", &[&["--label", "Mayfly.Service=backend"]]).await;
    let elsewhere = [&BACKEND[..], &["--network", "other"]].concat();
    run(&engine, "forgotten", &[&elsewhere]).await;
    // Of these nobody wants to know.
    run(
        &engine,
        "another-s",
        &[&elsewhere, &["--label", "mayfly.prefix=/another"]],
    )
    .await;
    run(&engine, "tool", &[&["--label", "mayfly.role=tool"]]).await;
    run(
        &engine,
        "good",
        &[&BACKEND, &["--label", "mayfly.prefix=/mayfly"]],
    )
    .await;
    until(&mayfly, &[("good", "up")]).await;
    let told = [
        ("before", "\"mayfly.servce\": did you mean mayfly.service?"),
        ("after", "\"Mayfly.Service\": did you mean mayfly.service?"),
        (
            "forgotten",
            "only on other; connect it to `mayfly`, or, if it belongs to another Mayfly",
        ),
    ];
    until_aside(&mayfly, &told).await;
    let log = registrar.output();
    assert_eq!(log.matches("container before is set aside").count(), 1, "{log}");
    for (name, _) in told {
        engine.docker(&["rm", "--force", name]).await.unwrap();
    }
    until_aside(&mayfly, &[]).await;
}

#[tokio::test]
async fn labels_of_a_swarm_s_service_are_told_of() {
    let (mayfly, engine) = etcd_and_engine().await;
    engine.swarm_init().await.unwrap();
    let _registrar = registrar(&mayfly, &engine.host_url(), &["--network", SWARM_NETWORK]);
    let create = async |name: &str, flag: &str| {
        let labels = [flag, "mayfly.service=backend", flag, "mayfly.port=8080"];
        let start = [
            "service",
            "create",
            "--quiet",
            "--name",
            name,
            "--network",
            SWARM_NETWORK,
        ];
        let all = [&start[..], &labels, &["team/backend:0.0.1"]].concat();
        engine.docker(&all).await.unwrap();
    };
    create("right", "--container-label").await;
    create("wrong", "--label").await;
    eventually(
        SOON,
        "one is registered, the other is told of",
        async || -> Result<()> {
            let (found, aside) = (
                registered(&mayfly).await?,
                mayfly.set_aside("container-registrar").await?,
            );
            ensure!(
                found.len() == 1 && found.keys().all(|name| name.starts_with("right.")),
                "{found:?}"
            );
            let told = |(key, reason): &(String, String)| {
                key == "swarm service wrong" && reason.contains("`mayfly.service` is a label of the service")
            };
            ensure!(aside.len() == 1 && aside.iter().all(told), "{aside:?}");
            Ok(())
        },
    )
    .await;
    engine.docker(&["service", "rm", "wrong"]).await.unwrap();
    until_aside(&mayfly, &[]).await;
}
