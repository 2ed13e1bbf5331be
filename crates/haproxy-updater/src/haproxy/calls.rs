//! The calls without an environment that a process of HAProxy has counted, by the address that they
//! came from: the stick table of the internal side, as `show table` shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, bail};

/// Asks for the table alone, as for [`crate::haproxy::master::ask_old_workers`].
pub const SHOW: &str = "show table internal";
/// What HAProxy answers where its configuration has no such table.
const NO_TABLE: &str = "No such table";

/// The rows of the table: how many calls have come from an address since the table has it. HAProxy
/// forgets it ten minutes after the last call.
pub type CallTable = BTreeMap<IpAddr, u64>;

/// Reads the answer to [`SHOW`]; `None` where there is no such table.
///
/// # Errors
/// When a line of it cannot be understood.
pub fn table(answer: &str) -> anyhow::Result<Option<CallTable>> {
    if answer.trim() == NO_TABLE {
        return Ok(None);
    }
    let mut lines = answer.lines().skip_while(|line| !line.starts_with('#'));
    if lines.next().is_none() {
        bail!("HAProxy shows no table: {answer:.100}");
    }
    let rows = lines.filter(|line| line.starts_with("0x")).map(row);
    rows.collect::<anyhow::Result<_>>().map(Some)
}

/// Reads one row: `0x1f: key=::ffff:10.0.0.7 use=0 exp=599637 http_req_cnt=4`.
fn row(line: &str) -> anyhow::Result<(IpAddr, u64)> {
    let field = |name: &str| {
        let mut words = line.split_whitespace();
        let value = words.find_map(|word| word.strip_prefix(name)?.split_once('='));
        value
            .map(|(_, value)| value)
            .with_context(|| format!("a row of HAProxy's table has no {name}: {line:.200}"))
    };
    let address: IpAddr = field("key")?
        .parse()
        .with_context(|| format!("a key of HAProxy's table is no address: {line:.200}"))?;
    let calls = field("http_req_cnt")?
        .parse()
        .with_context(|| format!("`http_req_cnt` is not a number: {line:.200}"))?;
    Ok((address.to_canonical(), calls))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_of_both_versions() {
        // HAProxy 2.6.12, then 3.0.11, with a rate that earlier templates stored.
        let answer = "# table: internal, type: ipv6, size:10240, used:2\n\
            0x7ff4f40426a0: key=::ffff:127.0.0.1 use=0 exp=599637 http_req_cnt=4 http_req_rate(600000)=3\n\
            0x7f9636159b10: key=fd00::7 use=0 exp=599822 shard=0 http_req_cnt=2 http_req_rate(600000)=2\n\n";
        let read = table(answer).unwrap().unwrap();
        let expected = [("127.0.0.1".parse().unwrap(), 4), ("fd00::7".parse().unwrap(), 2)];
        assert_eq!(read, CallTable::from(expected));
        let empty = "# table: internal, type: ipv6, size:10240, used:0\n\n";
        assert_eq!(table(empty).unwrap(), Some(CallTable::new()));
        assert_eq!(table("No such table\n\n").unwrap(), None);
        assert!(table("Permission denied\n\n").is_err());
        let faulty = table(&answer.replace("http_req_cnt=2", "http_req_cnt=x")).unwrap_err();
        assert!(
            faulty.to_string().contains("`http_req_cnt` is not a number"),
            "{faulty}"
        );
    }

    proptest! {
        /// Whatever HAProxy answers: nothing panics.
        #[test]
        fn any_table_is_read_to_its_end(answer in "(# table|0x1|: key=|use=|http_req_cnt=|http_req_rate\\(6\\)=|[0-9a-f:.]{1,25}|[ \n=]|\\PC){0,40}") {
            let _ = table(&answer);
        }
    }
}
