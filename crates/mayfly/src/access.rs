//! `mayfly access`: makes a password for an environment, and shows it once, with the lines for the
//! environment's file.

use std::process::ExitCode;

use anyhow::ensure;
use mayfly_core::environment_file::access_to_yaml;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::access::{ACCESS_LIMIT, Access, PASSWORD_PREFIX, PasswordHash, UserName};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Format, complain};
use serde::Serialize;

use mayfly_state::state::State;

const EXAMPLES: &str = "\
Examples:
  mayfly access temp-1                      a password for the user guest
  mayfly access temp-1 --user alice         one more user, or a new password
  mayfly access temp-1 --format json | jq -r .password

Put the printed lines into the file of the environment. The edge then admits only the users and the networks of
`access`. This also applies to every environment that extends this environment and has no `access` of its own.

The lines also have the users and networks that etcd has now. If the file has more of them, add these. An environment
has at most 100 users and 100 networks.

The environment need not exist yet. So an environment can have `access` from its first moment.

JSON: {\"environment\", \"user\", \"password\", \"access\": {\"users\": {user: hash}, \"from\": [network]}}

Exit codes: 0 success; 1 etcd does not answer, or the environment has 100 users; 2 the command line is wrong.";

/// Creates a password for an environment, and prints it with the lines for the environment's file
///
/// Only this command shows the password: the file, etcd and the routers have only a salted hash.
/// The printed lines also have the users and networks that the environment has in etcd.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The environment
    #[arg(value_name = "ENV")]
    pub environment: EnvironmentName,

    /// The user who gets the password
    #[arg(long, value_name = "NAME", default_value = "guest")]
    pub user: UserName,

    /// Prints the output in this format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Serialize)]
struct AccessOutput<'a> {
    environment: &'a EnvironmentName,
    user: &'a UserName,
    password: String,
    access: Access,
}

/// Makes a password and prints it.
///
/// # Errors
/// When etcd does not answer, there is no room for one more user, or it cannot be printed.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let state = State::read(&common.store()?, 1).await?;
    let environment = state.index.environment(&args.environment);
    if environment.is_none() {
        complain(&format!("note: {}", state.unknown(&args.environment)));
    }
    let mut access = environment
        .and_then(|environment| environment.access.clone())
        .unwrap_or_default();
    let password = password(rand::random());
    let hash = PasswordHash::of(&password, rand::random());
    add(&mut access, args.user.clone(), hash)?;
    let made = AccessOutput {
        environment: &args.environment,
        user: &args.user,
        password,
        access,
    };
    output::print(&match args.format {
        Format::Json => output::json(&made)?,
        Format::Table => text(&made),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text(made: &AccessOutput<'_>) -> String {
    format!(
        "user      {}\npassword  {}   (shown only now)\n\nIn the file of {}:\n\n{}",
        made.user,
        made.password,
        made.environment,
        access_to_yaml(&made.access)
    )
}

fn password(octets: [u8; 16]) -> String {
    format!("{PASSWORD_PREFIX}{}", hex::encode(octets))
}

/// Adds a user, or gives one another password.
fn add(access: &mut Access, user: UserName, hash: PasswordHash) -> anyhow::Result<()> {
    access.users.insert(user, hash);
    let count = access.users.len();
    ensure!(
        count <= ACCESS_LIMIT,
        "an environment can have at most {ACCESS_LIMIT} users, and the new user would be number {count}: first remove a user from the environment's file"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::environment_file;

    #[test]
    fn what_is_printed_stands_in_a_file() {
        let (environment, user) = ("temp-1".parse().unwrap(), "alice@example.com".parse().unwrap());
        let password = password([7; 16]);
        assert_eq!(password, format!("mayfly-{}", "07".repeat(16)));
        let other: UserName = "bob".parse().unwrap();
        let access = Access {
            users: [(&user, &*password), (&other, "x")]
                .map(|(user, password)| (user.clone(), PasswordHash::of(password, [1; 16])))
                .into(),
            from: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        };
        let made = AccessOutput {
            environment: &environment,
            user: &user,
            password: password.clone(),
            access: access.clone(),
        };
        let printed = text(&made);
        let (secret, lines) = printed.split_once("In the file of temp-1:\n\n").unwrap();
        assert!(
            secret.contains(&password) && !lines.contains(&password),
            "{printed}"
        );
        let parsed = environment_file::parse(format!("name: temp-1\n{lines}").as_bytes());
        assert_eq!(parsed.faults, []);
        let read = parsed.entries[0].environment.access.clone().unwrap();
        assert_eq!(read, access);
        assert!(read.users[&user].fits(&password));
    }

    #[test]
    fn there_is_room_for_a_hundred_users() {
        let hash = PasswordHash::of("x", [1; 16]);
        let mut access = Access::default();
        for number in 0..ACCESS_LIMIT {
            add(&mut access, format!("u{number}").parse().unwrap(), hash.clone()).unwrap();
        }
        let other = PasswordHash::of("y", [1; 16]);
        add(&mut access, "u7".parse().unwrap(), other).expect("another password");
        let error = add(&mut access, "one-more".parse().unwrap(), hash).unwrap_err();
        assert!(error.to_string().contains("at most 100 users"), "{error}");
    }
}
