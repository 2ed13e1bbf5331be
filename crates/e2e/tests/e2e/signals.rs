//! Commands that end by themselves ask for no shutdown: the first signal ends them, also in a read
//! that nothing can interrupt, and as process 1 of a container.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::{Process, Signal, run};
use rustix::process::{Pid, kill_process};

/// A pipe with a name, in the directory of a Mayfly.
async fn pipe(mayfly: &Mayfly, name: &str) -> PathBuf {
    let path = mayfly.directory().join(name);
    let made = run(Command::new("mkfifo").arg(&path), SOON).await.unwrap();
    made.ok().unwrap();
    path
}

/// The other end of a pipe that the process reads, once it does.
async fn while_it_reads(path: &Path) -> File {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || File::options().write(true).open(path));
    tokio::time::timeout(SOON, opened)
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

/// How a command ends at a signal while it reads this pipe.
async fn ended_by(mayfly: &Mayfly, name: &str, command: &Command, path: &Path, signal: Signal) -> ExitStatus {
    let mut process: Process = mayfly.spawn(name, command).unwrap();
    let _open = while_it_reads(path).await;
    process.signal(signal).unwrap();
    process.wait(SOON).await.unwrap()
}

#[tokio::test]
async fn a_command_that_reads_ends_with_the_first_signal() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let pipe = pipe(&mayfly, "pipe").await;
    for (program, arguments, signal, number) in [
        ("mayfly", &["lint"][..], Signal::Int, 2),
        ("mayfly", &["apply", "--file"], Signal::Term, 15),
        ("mayfly", &["restore"], Signal::Int, 2),
        ("mayfly", &["import", "compose"], Signal::Hup, 1),
        ("environment-registrar", &["check"], Signal::Int, 2),
    ] {
        let mut command = mayfly.command(program).unwrap();
        command.args(arguments).arg(&pipe);
        let status = ended_by(&mayfly, program, &command, &pipe, signal).await;
        // A shell makes 128 + n of it, and ends its script.
        assert_eq!(status.signal(), Some(number), "{program} {arguments:?}: {status}");
    }
}

/// Whether a process has a handler for the signal with this number.
fn catches(process: i32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .unwrap();
    // A set of bits, that of signal 1 the lowest.
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}

#[tokio::test]
async fn process_1_ends_with_the_first_signal() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let pipe = pipe(&mayfly, "pipe").await;
    for (program, argument, signal, number) in [
        ("mayfly", "lint", Signal::Int, 2),
        ("environment-registrar", "check", Signal::Term, 15),
    ] {
        let tool = mayfly.command(program).unwrap();
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--kill-child",
            "--",
        ]);
        command.arg(tool.get_program()).args(tool.get_args());
        command.arg(argument).arg(&pipe);
        let mut process = mayfly.spawn(program, &command).unwrap();
        let _open = while_it_reads(&pipe).await;
        let parent = process.id();
        let child = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let child: i32 = child.trim().parse().unwrap();
        // Its handlers may come a moment later than the read.
        eventually(SOON, "the signal has a handler", async || catches(child, number)).await;
        kill_process(Pid::from_raw(child).unwrap(), signal.into()).unwrap();
        let status = process.wait(SOON).await.unwrap();
        assert_eq!(status.code(), Some(128 + number), "{program}: {status}");
    }
}
