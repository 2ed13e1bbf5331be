//! Previews for pull requests: deploy/ci against a repository of environments and the read API, as a
//! forge runs it.

mod forge;

use std::time::Duration;

use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::run;
use serde_json::json;

use forge::{Forge, Kill, PullRequest};

/// More than any job has.
const MOST_STEPS: usize = 100;

async fn is_gone(mayfly: &Mayfly, host: &str) {
    eventually(SOON, &format!("{host} is gone"), async || {
        let answer = mayfly.get(host, "/").await;
        answer.is_ok_and(|answer| [404, 410].contains(&answer.status))
    })
    .await;
}

#[tokio::test]
async fn a_pull_request_has_a_preview_from_its_first_push_to_its_end() {
    let mayfly = Mayfly::start().await.unwrap();
    let forge = Forge::start(&mayfly).await;
    let mut instances = Vec::new();
    for version in ["0.0.1", "pr-1-b", "pr-1-c", "pr-2-b"] {
        instances.push(mayfly.instance("web", version).await.unwrap());
    }
    let first = PullRequest::of(1);
    let done = forge.up(&first, 1, "web=pr-1-b").await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let link =
        "<!-- mayfly preview pr-1 -->\nThe environment `pr-1` answers at <https://www-pr-1.example.com/>.\n";
    assert!(done.stdout.starts_with(link), "{done:?}");
    assert!(done.stdout.contains("\nIt ends at 20"), "it expires: {done:?}");
    mayfly.answers("www-pr-1.example.com", "web@pr-1-b").await;
    // The same service of the base, and another push.
    mayfly.answers("www-qa.example.com", "web@0.0.1").await;
    forge.up(&first, 2, "web=pr-1-c").await.ok().unwrap();
    mayfly.answers("www-pr-1.example.com", "web@pr-1-c").await;

    // The job of the first push, which is late or run again, changes nothing and comments nothing.
    let late = forge.up(&first, 1, "web=pr-1-b").await;
    assert_eq!((late.code, late.stdout.as_str()), (Some(0), ""), "{late:?}");
    assert!(late.stderr.contains("job up 2 came after job 1"), "{late:?}");
    assert!(forge.file("pr-1.yaml").await.unwrap().contains("\"pr-1-c\""));

    // The branch has another name now, and another pull request is stacked on it.
    let renamed = PullRequest {
        branch: "renamed".to_owned(),
        ..first.clone()
    };
    forge.up(&renamed, 3, "web=pr-1-b").await.ok().unwrap();
    let stacked = PullRequest {
        onto: "renamed".to_owned(),
        ..PullRequest::of(2)
    };
    forge.up(&stacked, 4, "web=pr-2-b").await.ok().unwrap();
    assert_eq!(forge.files().await, ["pr-1.yaml", "pr-2.yaml", "qa.yaml"]);
    mayfly.answers("www-pr-1.example.com", "web@pr-1-b").await;
    mayfly.answers("www-pr-2.example.com", "web@pr-2-b").await;

    // It is merged, which a forge calls closed, too. Its last push is built more slowly than that.
    let merged = forge.down(&renamed, 6).await;
    assert_eq!(merged.code, Some(0), "{merged:?}");
    assert_eq!(
        merged.stdout,
        "<!-- mayfly preview pr-1 -->\nThe preview `pr-1` is removed.\n"
    );
    is_gone(&mayfly, "www-pr-1.example.com").await;
    let late = forge.up(&renamed, 5, "web=pr-1-c").await;
    assert_eq!((late.code, late.stdout.as_str()), (Some(0), ""), "{late:?}");
    assert_eq!(forge.files().await, ["pr-2.yaml", "qa.yaml"]);
    mayfly.answers("www-pr-2.example.com", "web@pr-2-b").await;

    // It is opened again, and closed. Removing it twice is no error.
    forge.up(&first, 7, "web=pr-1-c").await.ok().unwrap();
    mayfly.answers("www-pr-1.example.com", "web@pr-1-c").await;
    forge.down(&first, 8).await.ok().unwrap();
    forge.down(&first, 8).await.ok().unwrap();
    is_gone(&mayfly, "www-pr-1.example.com").await;

    // A close that comes before the first push leaves a mark, too.
    let early = PullRequest::of(3);
    forge.down(&early, 10).await.ok().unwrap();
    let late = forge.up(&early, 9, "web=pr-1-c").await;
    assert_eq!((late.code, late.stdout.as_str()), (Some(0), ""), "{late:?}");

    // A fork's starts nothing.
    let fork = PullRequest {
        head: "stranger/shop".to_owned(),
        ..PullRequest::of(4)
    };
    let nothing = forge.up(&fork, 11, "web=pr-1-c").await;
    assert_eq!(
        (nothing.code, nothing.stdout.as_str()),
        (Some(0), ""),
        "{nothing:?}"
    );
    assert!(
        nothing.stderr.contains("nothing starts for a fork"),
        "{nothing:?}"
    );
    assert_eq!(forge.files().await, ["pr-2.yaml", "qa.yaml"]);

    // Nobody closes the last one.
    let brief = forge.with("PREVIEW_LIFE", "5s").with("PREVIEW_TIMEOUT", "5");
    let last = brief.up(&stacked, 12, "web=pr-2-b").await;
    println!("the last job, which may come after the end: {last:?}");
    is_gone(&mayfly, "www-pr-2.example.com").await;
}

#[tokio::test]
async fn a_preview_that_fails_says_why() {
    let mut mayfly = Mayfly::start().await.unwrap();
    mayfly.registrar = None;
    mayfly
        .start_registrar(&["--max-environments-of", "pr-*=2"])
        .unwrap();
    let forge = Forge::start(&mayfly).await;
    let _instance = mayfly.instance("web", "0.0.1").await.unwrap();
    // Long enough for the push to be in etcd, so that the reason is that of the version.
    let patient = forge.with("PREVIEW_TIMEOUT", "15");
    let failed = patient.up(&PullRequest::of(1), 1, "web=pr-1-x").await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let comment = "<!-- mayfly preview pr-1 -->\nThe environment `pr-1` is not in force yet, at \
                   <https://www-pr-1.example.com/>:\n\n- `no instance of web@pr-1-x is live";
    assert!(failed.stdout.starts_with(comment), "{failed:?}");

    // The hooks refuse what claims the prefix of another.
    mayfly.save("mine.yaml", "name: mine\nprefix: www-pr-2\n");
    let failed = forge.up(&PullRequest::of(2), 2, "web=0.0.1").await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(
        failed.stdout.contains("The preview `pr-2` failed: "),
        "{failed:?}"
    );
    assert!(failed.stdout.contains("\n    remote: "), "{failed:?}");
    assert!(failed.stdout.contains("www-pr-2"), "{failed:?}");

    // The registrar has no room for more of this source.
    let third = forge.up(&PullRequest::of(3), 3, "web=0.0.1").await;
    assert_eq!(third.code, Some(0), "{third:?}");
    let failed = forge.up(&PullRequest::of(4), 4, "web=0.0.1").await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stdout.contains("is not registered:"), "{failed:?}");
    assert!(
        failed.stdout.contains("there is no room for environment pr-4"),
        "{failed:?}"
    );

    // The key of CI may change the files of previews, and nothing else.
    let key = forge.with_key("20 1024 'pr-*.yaml'");
    key.up(&PullRequest::of(3), 5, "web=0.0.1").await.ok().unwrap();
    let failed = key
        .with("PREVIEW_NAME", "prod")
        .up(&PullRequest::of(5), 5, "web=0.0.1")
        .await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let reason = "    remote: mayfly: refused: this key may not change prod-5.yaml, only pr-*.yaml";
    assert!(failed.stdout.contains(reason), "{failed:?}");
    assert_eq!(
        forge.files().await,
        ["pr-1.yaml", "pr-3.yaml", "pr-4.yaml", "qa.yaml"]
    );

    // The same table on the command line, and what a pattern matches ends.
    let status = mayfly
        .run("mayfly", &["status", "pr-3", "--format", "markdown"])
        .await;
    let status = status.unwrap().ok().unwrap();
    assert!(
        status.starts_with("The environment `pr-3` answers at `www-pr-3`.\n"),
        "{status}"
    );
    let all = mayfly.run("mayfly", &["status", "--format", "markdown"]).await;
    assert!(all.unwrap().stdout.contains("\n| `pr-3` | `www-pr-3` | at 20"));
    let unsure = mayfly.run("mayfly", &["delete", "pr-*"]).await.unwrap();
    assert_eq!(unsure.code, Some(1), "{unsure:?}");
    assert_eq!(unsure.stdout, "matches: pr-1\nmatches: pr-3\n");
    assert!(unsure.stderr.contains("--yes"), "{unsure:?}");
    let ask = async |answer: &str, names: &str| {
        let command = mayfly.command("mayfly").unwrap();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        // A terminal, as `script` makes one.
        let inside = format!("{} delete {names}", words.join(" "));
        let line = format!("echo {answer} | script --quiet --return --command \"{inside}\" /dev/null");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &line]).env("SHELL", "/bin/sh");
        run(&shell, SOON).await.unwrap()
    };
    // Who says no expects that nothing ends.
    let no = ask("n", "pr-1 'pr-*'").await;
    assert!(no.stdout.contains("end 2 environments? [y/N] "), "{no:?}");
    assert!(
        no.code == Some(1) && no.stdout.contains("error: nothing was deleted"),
        "{no:?}"
    );
    let yes = ask("y", "'*-1'").await;
    assert!(
        yes.code == Some(0) && yes.stdout.contains("pr-1 deleted"),
        "{yes:?}"
    );
    let deleted = mayfly.run("mayfly", &["delete", "pr-*", "--yes"]).await.unwrap();
    assert!(
        deleted.code == Some(0) && deleted.stdout.contains("pr-3 deleted"),
        "{deleted:?}"
    );
    let none = mayfly.run("mayfly", &["delete", "x-*", "--yes"]).await.unwrap();
    assert!(
        none.code == Some(1) && none.stderr.contains("no environment matches x-*"),
        "{none:?}"
    );

    // What is wrong with a setting shows at once.
    let brief = forge.with("PREVIEW_TIMEOUT", "1");
    for (name, value, code, part) in [
        (
            "PREVIEW_API",
            "http://127.0.0.1:1",
            1,
            "mayfly-web does not answer",
        ),
        ("PREVIEW_API", "@/nowhere", 1, "answers 404"),
        ("PREVIEW_REPOSITORY", "", 2, "PREVIEW_REPOSITORY is not set"),
        ("PREVIEW_NUMBER", "1;id", 2, "PREVIEW_NUMBER is not a number"),
        ("PREVIEW_JOB", "", 2, "PREVIEW_JOB is not a number"),
        ("PREVIEW_EXTENDS", "pr-2", 2, "PREVIEW_EXTENDS is a preview"),
        ("PREVIEW_EXTENDS", "q\na", 2, "PREVIEW_EXTENDS is not the name"),
        ("PREVIEW_LIFE", "0d", 2, "such as 8h or 14d"),
        ("PREVIEW_LIFE", "soon", 2, "such as 8h or 14d"),
        ("PREVIEW_SERVICES", "*", 2, "no service before"),
        ("PREVIEW_SERVICES", "web=a\"b", 2, "no version of web"),
        ("PREVIEW_SERVICES", "", 2, "has no service, such as"),
        ("PREVIEW_NAME", "Pr", 2, "PREVIEW_NAME is not"),
        ("PREVIEW_SSH_KEY", "key", 2, "PREVIEW_KNOWN_HOSTS is not set"),
    ] {
        let value = value.replace('@', &forge.api);
        let wrong = brief
            .with(name, &value)
            .up(&PullRequest::of(5), 6, "web=0.0.1")
            .await;
        assert_eq!(wrong.code, Some(code), "{name}={value}: {wrong:?}");
        let said = format!("{}{}", wrong.stdout, wrong.stderr);
        assert!(said.contains(part), "{name}={value}: {wrong:?}");
    }
}

#[tokio::test]
async fn jobs_that_are_killed_or_run_at_once_leave_nothing_half_done() {
    let mayfly = Mayfly::start().await.unwrap();
    let forge = Forge::start(&mayfly).await;
    let mut instances = Vec::new();
    for version in ["0.0.1", "a", "b"] {
        instances.push(mayfly.instance("web", version).await.unwrap());
    }
    let event = PullRequest::of(1);
    // Each job is killed one step later than the one before it.
    let mut steps = 0;
    loop {
        steps += 1;
        let version = if steps % 2 == 0 { "web=a" } else { "web=b" };
        let killed = forge.killed_at(Kill(steps), &event, steps, version).await;
        if killed.code == Some(0) {
            break;
        }
        assert!(killed.code.is_none() && steps < MOST_STEPS, "{killed:?}");
        // What is in the repository is whole, and the registrar takes it.
        if let Some(file) = forge.file("pr-1.yaml").await {
            assert!(file.contains("\nexpires: ") && file.ends_with("\"\n"), "{file}");
        }
        assert_eq!(forge.deployed().await, forge.files().await);
    }
    assert!(steps > 8, "{steps}");
    let version = if steps % 2 == 0 { "web@a" } else { "web@b" };
    mayfly.answers("www-pr-1.example.com", version).await;
    let mut down = 0;
    loop {
        let killed = forge.killed_at(Kill(down + 1), &event, steps + down, "").await;
        if killed.code == Some(0) {
            break;
        }
        assert!(killed.code.is_none() && down < MOST_STEPS, "{killed:?}");
        down += 1;
    }
    assert!(down > 8, "{down}");
    assert_eq!(forge.files().await, ["qa.yaml"]);
    is_gone(&mayfly, "www-pr-1.example.com").await;

    // Jobs of several pull requests at once, two of one, while a person pushes, too.
    let events: Vec<PullRequest> = [1, 2, 3, 2].map(PullRequest::of).into();
    let at = |index: usize| forge.up(&events[index], 100, "web=a");
    let (one, two, three, again) = tokio::join!(at(0), at(1), at(2), at(3));
    for done in [&one, &two, &three, &again] {
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    let commented = [&two, &again]
        .iter()
        .filter(|done| !done.stdout.is_empty())
        .count();
    assert!(commented >= 1, "{two:?} {again:?}");
    assert_eq!(
        forge.files().await,
        ["pr-1.yaml", "pr-2.yaml", "pr-3.yaml", "qa.yaml"]
    );
    for number in 1..=3 {
        mayfly
            .answers(&format!("www-pr-{number}.example.com"), "web@a")
            .await;
    }

    // GitLab runs the same script, here with its own template.
    let variables = json!({"CI_MERGE_REQUEST_IID": "7", "CI_PIPELINE_ID": "500",
        "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "example/shop", "CI_MERGE_REQUEST_PROJECT_PATH": "example/shop"});
    let up = forge.gitlab("preview", &variables, "web=b").await;
    assert_eq!(up.code, Some(0), "{up:?}");
    assert!(up.stdout.contains("The environment `pr-7` answers at "), "{up:?}");
    mayfly.answers("www-pr-7.example.com", "web@b").await;
    let down = forge.gitlab("stop-preview", &variables, "").await;
    assert!(down.stdout.contains("The preview `pr-7` is removed."), "{down:?}");
    is_gone(&mayfly, "www-pr-7.example.com").await;
    // A job of the pipeline that was stopped does not bring it back.
    let late = forge.gitlab("preview", &variables, "web=b").await;
    assert!(
        late.code == Some(0) && !late.stdout.contains("answers"),
        "{late:?}"
    );
}

#[tokio::test]
async fn the_script_is_sound() {
    let mut command = std::process::Command::new("shellcheck");
    command
        .args(["--shell", "sh"])
        .arg(forge::directory().join("preview.sh"));
    let checked = run(&command, Duration::from_secs(30)).await.unwrap();
    assert_eq!(
        (checked.code, checked.stdout.as_str()),
        (Some(0), ""),
        "{checked:?}"
    );
}
