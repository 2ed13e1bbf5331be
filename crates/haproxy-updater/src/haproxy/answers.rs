//! Reads HAProxy's answers: pure functions from the text of `show info`, `show map`, `show servers
//! state` and `show servers conn` to what Mayfly knows. Columns are found by their names, since
//! versions add some.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use mayfly_core::names::EnvironmentName;
use smol_str::SmolStr;

use crate::haproxy::maps::Rows;
use crate::haproxy::servers::{ActualServer, ActualServers, Admin};
use crate::haproxy::tokens::{ServerName, Slot, is_word};

/// What a process of HAProxy says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// `2.6.12-1+deb12u4`.
    pub version: String,
    /// The description of its configuration; empty when it has none.
    pub description: String,
}

/// Reads the answer to `show info`.
///
/// # Errors
/// When it names no version.
pub fn info(answer: &str) -> anyhow::Result<Info> {
    let version = info_field(answer, "version")
        .with_context(|| format!("`show info` names no version: {answer:.100}"))?;
    Ok(Info {
        version: version.to_owned(),
        description: info_field(answer, "description").unwrap_or_default().to_owned(),
    })
}

/// A field of the answer to `show info`.
pub fn info_field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = answer.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim())
}

/// A process of HAProxy: counters begin with it. A number alone is not enough: in a container each
/// start has the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// When it started, in seconds since 1970.
    pub started: u64,
    pub pid: u32,
}

/// Reads which process it is from the answer to `show info`.
///
/// # Errors
/// When that does not say so.
pub fn process(answer: &str) -> anyhow::Result<Process> {
    let number = |name: &str| {
        let field = info_field(answer, name);
        let field = field.with_context(|| format!("`show info` has no {name}: {answer:.100}"))?;
        let number: u64 = field
            .parse()
            .with_context(|| format!("`{name}` is not a number: {field:.40}"))?;
        anyhow::Ok(number)
    };
    Ok(Process {
        started: number("Start_time_sec")?,
        pid: u32::try_from(number("Pid")?).context("`Pid` is not the number of a process")?,
    })
}

/// What HAProxy says in a log of its start that failed: the alerts, or everything if there is none.
pub fn alerts(log: &str) -> String {
    let alerts = log.lines().filter(|line| line.contains("[ALERT]")).map(str::trim);
    let alerts = alerts.collect::<Vec<_>>().join("; ");
    let reason = if alerts.is_empty() { log.trim() } else { &alerts };
    reason.chars().take(1000).collect()
}

/// The rows of one map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapRows {
    /// Key -> value; empty for a key with several rows of different values.
    pub rows: Rows,
    /// Whether it has rows with keys that Mayfly would never make and cannot name in a command.
    pub foreign: bool,
}

/// Reads the answer to `show map <map>`: an address, a key and a value on each line.
///
/// # Errors
/// When it is not that, as for a map that the process does not have.
pub fn map(answer: &str) -> anyhow::Result<MapRows> {
    let (mut rows, mut foreign) = (Vec::new(), false);
    for line in answer.lines().filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let (address, key, value) = (words.next(), words.next(), words.next());
        let (Some(address), Some(key)) = (address, key) else {
            bail!("{line}")
        };
        if !address.starts_with("0x") {
            bail!("{line}");
        }
        if is_word(key) {
            rows.push((
                SmolStr::new(key),
                SmolStr::new(value.unwrap_or_default().trim_end()),
            ));
        } else {
            foreign = true;
        }
    }
    // They come as they were added, mostly in order; sorted, they become a map in one go.
    rows.sort_unstable();
    rows.dedup_by(|(key, value), (before, kept)| {
        let again = key == before;
        if again && value != kept {
            *kept = SmolStr::default();
        }
        again
    });
    Ok(MapRows {
        rows: rows.into_iter().collect(),
        foreign,
    })
}

/// Reads the answer to `show map` without a map: the number of rows of each, by its file.
///
/// # Errors
/// When it has no header, or a map without a number.
pub fn counts(answer: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut lines = answer.lines().skip_while(|line| !line.starts_with('#'));
    lines
        .next()
        .with_context(|| format!("HAProxy lists no maps: {answer:.100}"))?;
    let mut counts = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let file = line.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
        let count = line.rsplit_once("entry_cnt=").map(|(_, count)| count.trim());
        let (Some((file, _)), Some(count)) = (file, count) else {
            continue;
        };
        let count = count
            .parse()
            .with_context(|| format!("the number of rows of {file} is not a number"))?;
        counts.insert(file.to_owned(), count);
    }
    Ok(counts)
}

/// Reads the answer to `show ssl ca-file`: the names of the files that are loaded. An HAProxy
/// without TLS does not know the command, and has none.
pub fn ca_files(answer: &str) -> BTreeSet<String> {
    let lines = answer.lines().filter(|line| line.ends_with(" certificate(s)"));
    let names = lines.filter_map(|line| line.rsplit_once(" - ").map(|(name, _)| name.to_owned()));
    names.collect()
}

/// Reads the answer to `show map` of the uses: the environments that requests came for; `None`
/// without such a map.
pub fn uses(answer: &str) -> Option<BTreeSet<EnvironmentName>> {
    let rows = map(answer).ok()?.rows;
    Some(rows.keys().filter_map(|name| name.parse().ok()).collect())
}

/// Reads the answer to `show servers state`: the servers of the slots. Servers of other backends,
/// and servers whose names cannot be part of a command, are not Mayfly's and are skipped.
///
/// # Errors
/// When the answer has no header or lacks a column.
pub fn servers(answer: &str) -> anyhow::Result<BTreeMap<Slot, ActualServers>> {
    let table = AnswerTable::read(answer)?;
    let mut slots: BTreeMap<Slot, ActualServers> = BTreeMap::new();
    for row in &table.rows {
        let field = |name: &str| table.field(row, name);
        let Ok(slot) = field("be_name")?.parse::<Slot>() else {
            continue;
        };
        let Ok(name) = field("srv_name")?.parse::<ServerName>() else {
            continue;
        };
        let (ip, port) = (field("srv_addr")?, field("srv_port")?);
        let address = if ip.contains(':') {
            format!("[{ip}]:{port}")
        } else {
            format!("{ip}:{port}")
        };
        let admin_bits: u32 = field("srv_admin_state")?
            .parse()
            .context("`srv_admin_state` is not a number")?;
        let check_bits: u32 = field("srv_check_state")?
            .parse()
            .context("`srv_check_state` is not a number")?;
        let weight = field("srv_uweight")?
            .parse()
            .context("`srv_uweight` is not a number")?;
        let admin = match admin_bits {
            bits if bits & MAINTENANCE != 0 => Admin::Maint,
            bits if bits & DRAIN != 0 => Admin::Drain,
            _ => Admin::Ready,
        };
        let server = ActualServer {
            address,
            admin,
            weight,
            checked: check_bits & CHECK_ENABLED != 0,
        };
        slots.entry(slot).or_default().insert(name, server);
    }
    Ok(slots)
}

/// HAProxy's `CHK_RES_FAILED`, the result of a check.
const CHECK_FAILED: &str = "2";
/// HAProxy's `SRV_ADMF_*`: forced, inherited, from the configuration, by DNS.
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;
/// Forced or inherited drain.
const DRAIN: u32 = 0x08 | 0x10;
/// HAProxy's `CHK_ST_ENABLED`.
const CHECK_ENABLED: u32 = 0x04;

/// What decides whether a leaving server can be removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeavingServer {
    /// Connections that carry a request.
    pub used: u64,
    /// Whether its health checks found it dead.
    pub dead: bool,
}

/// Reads the answers to `show servers conn` and `show servers state` of one backend, for leaving
/// servers.
///
/// # Errors
/// When an answer has no header or lacks a column.
pub fn leaving(connections: &str, state: &str) -> anyhow::Result<BTreeMap<ServerName, LeavingServer>> {
    let mut servers: BTreeMap<ServerName, LeavingServer> = BTreeMap::new();
    let table = AnswerTable::read(connections)?;
    for row in &table.rows {
        let (_, name) = table
            .field(row, "bkname/svname")?
            .split_once('/')
            .unwrap_or_default();
        let Ok(name) = name.parse() else { continue };
        let used = table
            .field(row, "used_cur")?
            .parse()
            .context("`used_cur` is not a number")?;
        servers.entry(name).or_default().used = used;
    }
    let table = AnswerTable::read(state)?;
    for row in &table.rows {
        let Ok(name) = table.field(row, "srv_name")?.parse::<ServerName>() else {
            continue;
        };
        if let Some(server) = servers.get_mut(&name) {
            // In maintenance there are no checks, and HAProxy calls every server down. What the last
            // check before it found stays.
            let unchecked = matches!(table.field(row, "srv_admin_state")?.parse::<u32>(), Ok(bits) if bits & MAINTENANCE != 0);
            server.dead = match unchecked {
                true => table.field(row, "srv_check_result")? == CHECK_FAILED,
                false => table.field(row, "srv_op_state")? == "0",
            };
        }
    }
    Ok(servers)
}

/// Reads the answer to `show servers state`: the servers of the slots that are checked, and whether
/// they were found dead.
///
/// # Errors
/// When the answer has no header or lacks a column.
pub fn found_dead(answer: &str) -> anyhow::Result<BTreeMap<(Slot, ServerName), bool>> {
    let table = AnswerTable::read(answer)?;
    let mut dead = BTreeMap::new();
    for row in &table.rows {
        let field = |name: &str| table.field(row, name);
        let (Ok(slot), Ok(name)) = (field("be_name")?.parse(), field("srv_name")?.parse()) else {
            continue;
        };
        let number = |name: &str| -> anyhow::Result<u32> {
            field(name)?
                .parse()
                .with_context(|| format!("`{name}` is not a number"))
        };
        // In maintenance there are no checks, and HAProxy calls every server down.
        let checked = number("srv_admin_state")? & MAINTENANCE == 0;
        if checked && number("srv_check_state")? & CHECK_ENABLED != 0 {
            dead.insert((slot, name), number("srv_op_state")? == 0);
        }
    }
    Ok(dead)
}

/// A table of words with a header that begins with `#`.
struct AnswerTable<'a> {
    columns: BTreeMap<&'a str, usize>,
    rows: Vec<Vec<&'a str>>,
}

impl<'a> AnswerTable<'a> {
    fn read(answer: &'a str) -> anyhow::Result<Self> {
        let mut lines = answer.lines().skip_while(|line| !line.starts_with('#'));
        let header = lines
            .next()
            .with_context(|| format!("HAProxy shows no table: {answer:.100}"))?;
        let columns = header
            .trim_start_matches(['#', ' '])
            .split_whitespace()
            .enumerate();
        let columns = columns.map(|(place, name)| (name, place)).collect();
        let rows = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(Self {
            columns,
            rows: rows.filter(|row| !row.is_empty()).collect(),
        })
    }

    fn field(&self, row: &[&'a str], name: &str) -> anyhow::Result<&'a str> {
        let place = self
            .columns
            .get(name)
            .with_context(|| format!("HAProxy's table has no column {name}"))?;
        row.get(*place)
            .copied()
            .with_context(|| format!("a line of HAProxy's table has no {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As HAProxy 2.6.12 and 3.0.11 answer.
    const STATE: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n\
        3 slot-1 1 127.0.0.1:19001 127.0.0.1 2 8 50 100 0 6 3 4 6 0 0 0 - 19001 - 0 0 - - 0\n\
        3 slot-1 2 fd00::1:19002 fd00::1 0 1 0 0 0 8 2 0 14 0 0 0 - 19002 - 0 0 - - 0\n\
        3 slot-2 2 a 127.0.0.1 0 0 7 0 0 8 2 0 2 0 0 0 - 19002 - 0 0 - - 0\n\
        4 other 2 a 127.0.0.1 0 0 0 0 0 8 2 0 6 0 0 0 - 19002 - 0 0 - - 0\n\n";

    #[test]
    fn which_process_it_is() {
        let info = "Name: HAProxy\nPid: 24851\nUptime: 0d 0h00m01s\nStart_time_sec: 1795957668\n";
        let expected = Process {
            pid: 24_851,
            started: 1_795_957_668,
        };
        assert_eq!(process(info).unwrap(), expected);
        for broken in [
            "Pid: 1\n",
            &info.replace("24851", "many"),
            &info.replace("24851", "9999999999"),
        ] {
            assert!(process(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn info_of_a_process() {
        let read =
            info("Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 1\ndescription: mayfly abc\n").unwrap();
        assert_eq!(
            read,
            Info {
                version: "2.6.12-1+deb12u4".into(),
                description: "mayfly abc".into()
            }
        );
        assert!(info("Unknown command").is_err());
    }

    #[test]
    fn authorities_that_are_loaded() {
        let answer = "# transaction\n*/a.pem - 1 certificate(s)\n# filename\n@system-ca - 145 certificate(s)\n/a - b.pem - 2 certificate(s)\n\n";
        assert_eq!(
            ca_files(answer).into_iter().collect::<Vec<_>>(),
            ["*/a.pem", "/a - b.pem", "@system-ca"]
        );
        assert!(ca_files("Unknown command: 'ssl', but maybe...\n").is_empty());
    }

    #[test]
    fn rows_with_double_and_foreign_ones() {
        let read = map("0x1 a b\n0x2 c 012 x y\n0x3 a c\n0x4 d e\n0x5 d e\n0x6 a;b c\n\n").unwrap();
        let rows = [("a", ""), ("c", "012 x y"), ("d", "e")];
        assert_eq!(
            read.rows,
            rows.map(|(key, value)| (key.into(), value.into())).into()
        );
        assert!(read.foreign);
        assert!(map("Unknown map identifier. Please use #<id> or <file>.\n").is_err());
        assert_eq!(map("\n").unwrap(), MapRows::default());
    }

    #[test]
    fn rows_are_counted() {
        // As HAProxy 2.6.12 answers; 3.0.11 has the same.
        let answer = "# id (file) description\n\
            -1 (/maps/a.map) pattern loaded from file '/maps/a.map' used by map at file '/h.cfg' line 10. curr_ver=1 next_ver=1 entry_cnt=12\n\
            0 () acl 'path' file '/h.cfg' line 3. curr_ver=0 next_ver=0 entry_cnt=1\n\n";
        let read = counts(answer).unwrap();
        assert_eq!(read["/maps/a.map"], 12);
        assert!(counts("Permission denied\n").is_err());
        assert!(counts(&answer.replace("=12", "=x")).is_err());
    }

    #[test]
    fn servers_of_the_slots() {
        let read = servers(STATE).unwrap();
        let server = |slot, name: &str| read[&Slot(slot)][&name.parse().unwrap()].clone();
        assert_eq!(read.len(), 2);
        assert_eq!(
            server(1, "127.0.0.1:19001"),
            ActualServer {
                address: "127.0.0.1:19001".into(),
                admin: Admin::Drain,
                weight: 50,
                checked: true
            }
        );
        assert_eq!(
            server(1, "fd00::1:19002"),
            ActualServer {
                address: "[fd00::1]:19002".into(),
                admin: Admin::Maint,
                weight: 0,
                checked: true
            }
        );
        assert!(!server(2, "a").checked);
        assert!(servers("No such backend.\n").is_err());
    }

    #[test]
    fn servers_that_were_found_dead() {
        let read = |answer: &str| {
            let servers = found_dead(answer).unwrap().into_iter();
            servers
                .map(|((slot, name), dead)| (slot.0, name.as_str().to_owned(), dead))
                .collect::<Vec<_>>()
        };
        let alive = (1, "127.0.0.1:19001".to_owned(), false);
        assert_eq!(
            read(STATE),
            std::slice::from_ref(&alive),
            "neither in maintenance nor unchecked"
        );
        let down = STATE.replace("fd00::1 0 1", "fd00::1 0 0");
        assert_eq!(read(&down), [alive, (1, "fd00::1:19002".to_owned(), true)]);
        assert!(found_dead("No such backend.\n").is_err());
    }

    #[test]
    fn servers_that_are_to_go() {
        let connections = "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max\n\
            slot-1/127.0.0.1:19001 3/1 127.0.0.1 19001 - 1000 7 9\nslot-1/fd00::1:19002 3/2 fd00::1 19002 - 1000 0 0\n\n";
        let read = leaving(connections, STATE).unwrap();
        assert_eq!(
            read[&"127.0.0.1:19001".parse().unwrap()],
            LeavingServer { used: 7, dead: false }
        );
        assert_eq!(
            read[&"fd00::1:19002".parse().unwrap()],
            LeavingServer { used: 0, dead: true },
            "found dead before its maintenance"
        );
        let alive = STATE.replace("1 0 0 0 8 2 0 14", "1 0 0 0 6 3 4 14");
        assert!(!leaving(connections, &alive).unwrap()[&"fd00::1:19002".parse().unwrap()].dead);
        let down = STATE.replace("fd00::1 0 1", "fd00::1 0 8");
        assert!(leaving(connections, &down).unwrap()[&"fd00::1:19002".parse().unwrap()].dead);
    }
}
