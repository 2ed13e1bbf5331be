//! What a server gives for pushes: CPU and memory before any hook runs, the names of branches and
//! tags, their number, and the space of all objects.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use mayfly_e2e::mayfly::Mayfly;
use mayfly_e2e::process::{Finished, run};

use super::Repository;

impl Repository {
    /// Runs git in the clone, with the repository as `server:PATH` behind an ssh that forces this
    /// command; without one it runs what the client asks for.
    async fn by_ssh(&self, forced: &str, words: &[&str]) -> Finished {
        let script = self.clone.join(".git/ssh");
        let forced = match forced {
            "" => "exec sh -c \"$SSH_ORIGINAL_COMMAND\"".to_owned(),
            limits => format!("exec '{}' {limits}", self.limited()),
        };
        let text = format!("#!/bin/sh\nexport SSH_CONNECTION=there SSH_ORIGINAL_COMMAND=\"$2\"\n{forced}\n");
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = self.git_command();
        command
            .current_dir(&self.clone)
            .args(words)
            .env("GIT_SSH", script)
            .env("GIT_SSH_VARIANT", "simple");
        run(&command, Duration::from_secs(60)).await.unwrap()
    }

    fn limited(&self) -> String {
        // As a word between single quotes.
        let path = self.bare.join("hooks/limited.sh");
        path.to_str().unwrap().replace('\'', "'\\''")
    }

    /// Names of the objects and other files of the repository, but for its hooks and settings.
    fn kept(&self) -> Vec<String> {
        let mut kept = Vec::new();
        let mut directories = vec![self.bare.join("objects"), self.bare.join("refs")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => directories.push(path),
                    false => kept.push(path.to_str().unwrap().to_owned()),
                }
            }
        }
        kept.sort();
        kept
    }
}

#[tokio::test]
async fn a_push_by_ssh_costs_no_more_than_its_limits() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    let server = format!("server:{}", repository.bare.display());
    repository.write("dev.yaml", "name: dev\n");
    repository.line("add --all").await;
    repository.line("commit --message=first").await;

    let push = ["push", &server, "HEAD:main"];
    let taken = repository.by_ssh("\"\"", &push).await;
    assert_eq!(taken.code, Some(0), "{taken:?}");
    assert!(taken.stderr.contains("1 written"), "{taken:?}");
    assert!(!taken.stderr.contains("note: "), "{taken:?}");
    let listed = repository.by_ssh("\"\"", &["ls-remote", &server]).await;
    assert!(listed.stdout.contains("refs/heads/main"), "{listed:?}");

    // 320 MiB of zeros in a third of a MiB, as a file, and 96 MiB as the message of a commit.
    let (blob, message) = (
        repository.clone.join(".git/zeros"),
        repository.clone.join(".git/message"),
    );
    fs::File::create(&blob).unwrap().set_len(320 << 20).unwrap();
    fs::write(&message, vec![b'#'; 96 << 20]).unwrap();
    let blob = repository
        .line("-c core.bigFileThreshold=1m -c core.compression=9 hash-object -w .git/zeros")
        .await;
    let zeros = repository.commit(&[("100644", b"zeros", &blob)]).await;
    let long = repository.line("commit-tree -F .git/message HEAD^{tree}").await;
    let before = repository.kept();
    for (limits, commit, told) in [("1", &zeros, "abnormal exit"), ("20 64", &long, "Out of memory")] {
        let refused = repository
            .by_ssh(limits, &["push", &server, &format!("{commit}:refs/heads/bomb")])
            .await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(told), "{refused:?}");
        assert_eq!(repository.kept(), before);
    }

    // Nothing but git is run, and the pusher is told where there are no limits.
    let other = [
        "push",
        "--receive-pack=touch pwned; git-receive-pack",
        &server,
        "HEAD:main",
    ];
    let refused = repository.by_ssh("\"\"", &other).await;
    assert!(refused.code != Some(0), "{refused:?}");
    assert!(!repository.clone.join("pwned").exists());
    repository.write("dev.yaml", "name: dev\nidle: 8h\n");
    repository.line("add --all").await;
    repository.line("commit --message=second").await;
    let told = repository.by_ssh("", &push).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    let note = "note: pushes by ssh have no limits of CPU and memory here";
    assert!(told.stderr.contains(note), "{told:?}");
}

#[tokio::test]
async fn no_branch_or_tag_takes_the_name_of_another() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    // Also before there is one that is deployed.
    repository.write("dev.yaml", "name: dev\n");
    repository.line("add --all").await;
    repository.line("commit --message=first").await;
    let apart = "git could not tell them apart: choose another name";
    let push = "push origin HEAD:refs/tags/main";
    repository
        .harmless(
            push,
            &[&format!("refs/tags/main: there is a branch main, and {apart}")],
        )
        .await;
    repository.pushed().await;
    repository
        .line("push origin HEAD:refs/heads/work HEAD:refs/tags/v1")
        .await;
    for (name, told) in [
        ("refs/tags/main", apart),
        ("refs/tags/work", apart),
        ("refs/heads/v1", "there is a tag v1"),
        // Both at once.
        ("refs/heads/x HEAD:refs/tags/x", apart),
        ("refs/heads/HEAD", "the name of another ref"),
        ("refs/tags/HEAD", "the name of another ref"),
        ("refs/heads/refs/heads/main", "the name of another ref"),
        ("refs/heads/heads/main", "the name of another ref"),
        ("refs/tags/heads/main", "the name of another ref"),
        ("refs/heads/tags/v1", "the name of another ref"),
        ("refs/heads/remotes/main", "the name of another ref"),
    ] {
        repository
            .harmless(&format!("push origin HEAD:{name}"), &[told])
            .await;
    }
    // What there was before can be deleted and changed, and then its name is free.
    repository
        .server("update-ref refs/tags/main refs/heads/main")
        .await;
    repository
        .server("update-ref refs/heads/heads/old refs/heads/main")
        .await;
    repository
        .line("push origin :refs/tags/main :refs/heads/heads/old")
        .await;
    repository
        .line("push origin :refs/heads/work HEAD:refs/tags/work")
        .await;
    repository.line("push origin HEAD:refs/heads/feature/main").await;
}

#[tokio::test]
async fn many_pushes_do_not_fill_the_server() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    repository.write("dev.yaml", "name: dev\n");
    repository.pushed().await;
    let head = repository.line("rev-parse HEAD").await;
    for number in 0..98 {
        let path = repository.bare.join(format!("refs/heads/b{number}"));
        fs::write(path, format!("{head}\n")).unwrap();
    }
    let told = "at most 100 branches and tags are kept: delete old ones first";
    repository
        .harmless("push origin HEAD:refs/heads/last HEAD:refs/tags/v1", &[told])
        .await;
    repository.line("push origin HEAD:refs/heads/last").await;
    repository
        .harmless("push origin HEAD:refs/tags/v1", &[told])
        .await;
    // One for another, and what is there goes on.
    repository
        .line("push origin :refs/heads/b7 HEAD:refs/tags/v1")
        .await;
    repository.write("dev.yaml", "name: dev\nidle: 8h\n");
    repository.pushed().await;

    // What gc has not removed counts, too.
    let rubbish = repository.bare.join("objects/pack/tmp_pack_rubbish");
    let file = fs::File::create(&rubbish).unwrap();
    file.set_len((1 << 30) + (1 << 20)).unwrap();
    repository.write("dev.yaml", "name: dev\nidle: 9h\n");
    repository
        .refused(&[
            "the repository has 1025 MiB, more than 1024 MiB",
            "git gc --prune=now",
        ])
        .await;
    repository.line("push origin :refs/heads/b8").await;
    fs::remove_file(&rubbish).unwrap();
    repository.pushed().await;
}

#[tokio::test]
async fn a_key_that_may_change_some_files_makes_only_environments_of_their_names() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    // What others pushed is not judged by the rules of the key.
    repository.write("dev.yaml", "- name: dev\n- name: other\n  protected: true\n");
    repository.write("pr-0.yaml", "name: zero\n");
    repository.pushed().await;
    let (main, deployed) = (repository.main().await, repository.deployed());
    let server = format!("server:{}", repository.bare.display());
    let push = async |file: &str, text: &str| {
        repository.write(file, text);
        repository.line("add --all").await;
        repository.line("commit --message=preview").await;
        repository
            .by_ssh("20 1024 'pr-*.yaml'", &["push", &server, "HEAD:main"])
            .await
    };
    let only = "only the environment pr-1 may be in this file";
    for (text, reason) in [
        ("name: prod\n", format!("pr-1.yaml:1:7: name: {only}")),
        (
            "- name: pr-1\n- name: prod\n",
            format!("pr-1.yaml:2:9: name: {only}"),
        ),
        (
            "name: pr-1\n---\nname: prod\n",
            format!("pr-1.yaml:3:7: name: {only}"),
        ),
        (
            "name: pr-1\nprotected: true\n",
            "pr-1.yaml:1:7: protected: this field may not be set".to_owned(),
        ),
    ] {
        let refused = push("pr-1.yaml", text).await;
        assert_eq!(refused.code, Some(1), "{text}: {refused:?}");
        assert!(refused.stderr.contains(&reason), "{text}: {refused:?}");
        assert_eq!(
            (repository.main().await, repository.deployed()),
            (main.clone(), deployed.clone())
        );
        repository.line("reset --quiet --hard HEAD~1").await;
    }
    let taken = push("pr-1.yaml", "name: pr-1\nexpires: 1h\n").await;
    assert_eq!(taken.code, Some(0), "{taken:?}");
    repository.remove("pr-1.yaml");
    let removed = push("pr-2.yaml", "name: pr-2\n").await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert_eq!(
        repository.deployed().into_keys().collect::<Vec<_>>(),
        ["dev.yaml", "pr-0.yaml", "pr-2.yaml"]
    );
}
