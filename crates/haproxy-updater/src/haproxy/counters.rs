//! What HAProxy counts of itself: the requests of each slot. It answers with one line for each
//! backend, and none for the servers: at 2,000 slots of 5 servers that takes 25 ms of its time
//! instead of 300, in small pieces between which it serves requests.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::haproxy::answers::{self, Process};
use crate::haproxy::tokens::Slot;

/// Asks for the counters of all backends, and of which process they are.
pub const ALL: &str = "show info;show stat -1 2 -1";
/// The same as one command, which is all that a master process passes on.
pub const ALL_OF_OLD: &str = "show stat -1 2 -1";

/// What has been counted of one slot since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that have ended, whoever answered them.
    pub requests: u64,
    /// Those with a status from 500 to 599.
    pub errors: u64,
    /// Connections that could not be made, each try for itself.
    pub connection_errors: u64,
    /// The time until the answer began, in the mean of the last 512 requests or so. (The times that
    /// HAProxy has beside it hold the wait of a client between two requests.)
    pub mean_ms: u64,
}

/// The counters of all slots.
pub type SlotCounters = BTreeMap<Slot, Counters>;

/// What one process has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessCounters {
    pub process: Process,
    pub slots: SlotCounters,
}

/// Reads the answer to [`ALL`].
///
/// # Errors
/// When it is not that.
pub fn reading(answer: &str) -> anyhow::Result<ProcessCounters> {
    let start = answer
        .find("# pxname")
        .with_context(|| format!("HAProxy shows no counters: {answer:.100}"))?;
    let (info, stat) = answer.split_at(start);
    Ok(ProcessCounters {
        process: answers::process(info)?,
        slots: slots(stat)?,
    })
}

/// Reads the answer to `show stat`, as far as it is about the backends of slots.
///
/// # Errors
/// When it has no header, lacks a column, or a counter is not a number.
pub fn slots(answer: &str) -> anyhow::Result<SlotCounters> {
    let mut slots = SlotCounters::new();
    rows(answer, |slot, row, counters| {
        if row == "BACKEND" {
            slots.insert(slot, counters);
        }
    })?;
    Ok(slots)
}

/// Reads the answers to `show stat` of the servers of some slots: the mean of each slot, by the
/// requests of each server.
///
/// # Errors
/// As [`slots`].
pub fn means_of_servers(answer: &str) -> anyhow::Result<BTreeMap<Slot, u64>> {
    let mut sums: BTreeMap<Slot, (u128, u128)> = BTreeMap::new();
    rows(answer, |slot, row, counters| {
        if row != "BACKEND" && counters.requests > 0 {
            let (times, requests) = sums.entry(slot).or_default();
            *times += u128::from(counters.mean_ms) * u128::from(counters.requests);
            *requests += u128::from(counters.requests);
        }
    })?;
    let mean = |(times, requests)| u64::try_from(times / requests).unwrap_or(u64::MAX);
    Ok(sums.into_iter().map(|(slot, sum)| (slot, mean(sum))).collect())
}

/// Gives the slot, the name and the counters of each line. Columns are found by their names. The
/// header comes again before each answer, where several follow each other.
fn rows<'a>(answer: &'a str, mut take: impl FnMut(Slot, &'a str, Counters)) -> anyhow::Result<()> {
    const STATUSES: [&str; 6] = [
        "hrsp_1xx",
        "hrsp_2xx",
        "hrsp_3xx",
        "hrsp_4xx",
        "hrsp_5xx",
        "hrsp_other",
    ];
    let header = answer
        .lines()
        .find_map(|line| line.strip_prefix("# "))
        .filter(|header| header.starts_with("pxname,svname,"))
        .with_context(|| format!("HAProxy shows no counters: {answer:.100}"))?;
    let columns: BTreeMap<&str, usize> = header
        .split(',')
        .enumerate()
        .map(|(at, name)| (name, at))
        .collect();
    let column = |name: &str| {
        let found = columns.get(name).copied();
        found.with_context(|| format!("HAProxy's counters have no column {name}"))
    };
    let mut statuses = [0; 6];
    for (at, name) in statuses.iter_mut().zip(STATUSES) {
        *at = column(name)?;
    }
    let (failed, mean) = (column("econ")?, column("rtime")?);
    let mut fields = Vec::with_capacity(columns.len());
    for line in answer.lines().filter(|line| line.starts_with("slot-")) {
        fields.clear();
        fields.extend(line.split(','));
        let field = |at: usize| fields.get(at).copied().unwrap_or_default();
        let Ok(slot) = field(0).parse::<Slot>() else {
            continue;
        };
        // What a kind of line does not have is empty.
        let number = |at: usize| match field(at) {
            "" => Ok(0),
            text => text
                .parse::<u64>()
                .with_context(|| format!("a counter of {slot} is not a number: {text:.40}")),
        };
        let mut requests = 0_u64;
        for at in statuses {
            requests = requests.saturating_add(number(at)?);
        }
        let [_, _, _, _, errors, _] = statuses;
        let counters = Counters {
            requests,
            errors: number(errors)?,
            connection_errors: number(failed)?,
            mean_ms: number(mean)?,
        };
        take(slot, field(1), counters);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As HAProxy 2.6.12 answers, without the columns that are not read.
    const ANSWER: &str = "Name: HAProxy\nVersion: 2.6.12\nPid: 21928\nUptime_sec: 2\nStart_time_sec: 1795957617\n\n\
        # pxname,svname,econ,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,rtime,ttime,\n\
        edge,FRONTEND,,1,2,3,4,5,6,,,\n\
        slot-1,BACKEND,7,0,90,1,2,10,3,104,938,\n\
        slot-2,BACKEND,0,0,0,0,0,0,0,0,0,\n\
        refused-edge,BACKEND,0,0,0,0,9,0,0,0,0,\n\n";

    #[test]
    fn the_counters_of_the_slots_and_their_process() {
        let read = reading(ANSWER).unwrap();
        let process = Process {
            pid: 21928,
            started: 1_795_957_617,
        };
        assert_eq!(read.process, process);
        let one = Counters {
            requests: 106,
            errors: 10,
            connection_errors: 7,
            mean_ms: 104,
        };
        let all = [(Slot(1), one), (Slot(2), Counters::default())];
        assert_eq!(read.slots, all.into());
        for broken in [
            "Unknown command\n",
            &ANSWER.replace("Pid:", "Id:"),
            &ANSWER.replace("Start_time_sec:", "Start:"),
            &ANSWER.replace("hrsp_5xx", "hrsp_6xx"),
            &ANSWER.replace("7,0,90", "7,0,many"),
        ] {
            assert!(reading(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn the_mean_of_servers_goes_by_their_requests() {
        let head = "# pxname,svname,econ,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,rtime,\n";
        let answer = format!(
            "{head}slot-3,10.0.0.1:80,0,0,30,0,0,0,0,10,\nslot-3,10.0.0.2:80,0,0,0,0,0,10,0,50,\n\n\
             {head}slot-4,10.0.0.1:80,0,0,0,0,0,0,0,0,\n\n"
        );
        assert_eq!(means_of_servers(&answer).unwrap(), [(Slot(3), 20)].into());
        assert!(means_of_servers("No such proxy.\n").is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_read_to_its_end(answer in "(# pxname,svname,|econ|hrsp_[1-5]xx|hrsp_other|rtime|slot-[0-9]{1,11}|BACKEND|Pid: |[0-9]{1,25}|[,\n]|\\PC){0,60}") {
            let _ = reading(&answer);
            let _ = means_of_servers(&answer);
        }
    }
}
