//! What a push must not take away or claim: environments that others extend, protected ones, and what
//! the operator's own files in the directories have.

use std::fs;

use mayfly_e2e::mayfly::Mayfly;

use super::{Repository, definition};

const FORCE: &str = "to delete these environments anyway: git push -o force";

#[tokio::test]
async fn an_environment_that_others_extend_or_that_is_protected_is_deleted_by_force_only() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    mayfly.save("own.yaml", "{name: own, extends: qa}\n");
    repository.write("dev.yaml", "name: dev\n");
    repository.write("qa.yaml", "name: qa\n");
    repository.write("prod.yaml", "name: prod\nprotected: true\n");
    repository.write(
        "temp.yaml",
        "- {name: t1, extends: dev}\n- {name: t2, extends: dev}\n",
    );
    repository.pushed().await;

    let heirs = "dev.yaml:1:7: name: environment \"dev\" is deleted, but others extend it: t1 (temp.yaml:1), t2 (temp.yaml:2)";
    repository.remove("dev.yaml");
    repository
        .refused(&[heirs, FORCE, "refused: nothing of main"])
        .await;
    // Renamed away: the environment, the file to none of environments, and into a folder.
    repository.write("dev.yaml", "name: devel\n");
    repository.refused(&[heirs, FORCE]).await;
    for to in ["dev.yaml.off", "old/dev.yaml"] {
        repository.remove("dev.yaml");
        repository.write(to, "name: dev\n");
        repository.refused(&[heirs, FORCE]).await;
    }
    repository.remove("qa.yaml");
    repository
        .refused(&["others extend it: own (/", "own.yaml:1)", FORCE])
        .await;
    let protected = "prod.yaml:1:7: name: environment \"prod\" is deleted, but is protected: write `protected: false` first";
    repository.remove("prod.yaml");
    repository.refused(&[protected, FORCE]).await;
    for file in ["dev.yaml", "qa.yaml", "prod.yaml", "temp.yaml"] {
        repository.remove(file);
    }
    repository.refused(&[protected, FORCE]).await;
    // Force is said only where it would help.
    repository.remove("dev.yaml");
    repository.write("bad.yaml", "name: Bad\n");
    let push = repository.push("main").await;
    assert!(
        push.code == Some(1) && !push.stderr.contains("-o force"),
        "{push:?}"
    );
    repository.line("reset --quiet --hard HEAD~1").await;

    // Neither a move nor a change deletes anything, and what nobody needs may go.
    repository.remove("dev.yaml");
    repository.remove("prod.yaml");
    repository.write("all.yaml", "- name: dev\n  idle: 8h\n- {name: prod}\n");
    repository.pushed().await;
    repository.remove("all.yaml");
    repository.write("dev.yaml", "name: dev\n");
    repository.pushed().await;
    assert_eq!(
        repository.names(),
        ["dev.yaml", "own.yaml", "qa.yaml", "temp.yaml"]
    );
    repository.remove("dev.yaml");
    repository.line("add --all").await;
    repository.line("commit --message=gone").await;
    let other = repository.git("push -o forced origin HEAD:main").await;
    assert_eq!(other.code, Some(1), "{other:?}");
    repository.line("push -o ci.skip -o force origin HEAD:main").await;
    assert_eq!(repository.names(), ["own.yaml", "qa.yaml", "temp.yaml"]);
}

#[tokio::test]
async fn what_the_operators_own_files_have_cannot_be_claimed_by_a_push() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    mayfly.save("prod.yaml", "name: prod\nprefix: www\nprotected: true\n");
    mayfly.save("broken.yaml", "name: [\n");
    let services = repository.deployed.with_file_name("services");
    fs::write(services.join("own.yaml"), definition("billing", 80)).unwrap();
    repository.write("dev.yaml", "name: dev\n");
    repository.pushed().await;

    let own = mayfly.environments().join("prod.yaml");
    for (text, line, claim) in [
        ("{name: a, prefix: www}", 2, "prefix: prefix \"www\""),
        ("{name: a, header: prod}", 1, "header: header \"prod\""),
        ("{name: prod, prefix: other}", 1, "name: name \"prod\""),
    ] {
        repository.write("aaa.yaml", text);
        let reason = format!(
            "{claim} is taken at {}:{line}: each can be used only once",
            own.display()
        );
        repository.refused(&["aaa.yaml:1:", &reason]).await;
    }
    repository.write("services/aaa.yaml", &definition("billing", 81));
    let reason = format!(
        "service \"billing\" is taken at {}:1",
        services.join("own.yaml").display()
    );
    repository
        .refused(&["services/aaa.yaml:1:7: name: ", &reason])
        .await;

    // The registrar's copies of what etcd has are nobody's, and files of pushes make room for each other.
    let mark =
        "# mayfly write-back of temp, follows etcd until you change this file: sha256 00\nname: temp\n";
    mayfly.save("temp.yaml", mark);
    repository.remove("dev.yaml");
    repository.write("all.yaml", "- name: dev\n- name: temp\n");
    repository.pushed().await;
    assert_eq!(
        repository.names(),
        ["all.yaml", "broken.yaml", "prod.yaml", "temp.yaml"]
    );
}
