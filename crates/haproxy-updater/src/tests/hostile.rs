//! Whatever HAProxy answers at its run-time socket and whatever lies in the files that it is started from: nothing panics,
//! and what comes through can stand in a command. scripts/fuzz.sh runs all properties named `any_...`.

#[path = "../../../core/tests/spoil/mod.rs"]
mod spoil;

use crate::haproxy::answers;
use crate::haproxy::commands::{Command, RuntimeRequest, complaint, requests};
use crate::haproxy::maps::Map;
use crate::haproxy::rows::slot_row;
use crate::haproxy::sockets::{Socket, Trouble};
use crate::haproxy::tokens::{ConfigPath, Word};
use mayfly_core::routing::Table;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;

use spoil::{is_plain, octets, spoilt};

/// As HAProxy 2.6.12 and 3.0.11 answer.
const ANSWERS: [&str; 7] = [
    "Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nPid: 9\nDescription: mayfly 0f\n\n",
    "0x55d7a0 dev/backend backend@0.0.1\n0x55d7a1 qa/backend backend@^1\n0x55d7a2 # x\n\n",
    "/etc/ssl/ca.pem - 2 certificate(s)\n@system-ca - 140 certificate(s)\n\n",
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n3 slot-1 1 127.0.0.1:19001 127.0.0.1 2 8 50 100 0 6 3 4 6 0 0 0 - 19001 - 0 0 - - 0\n3 slot-1 2 fd00::1:19002 fd00::1 0 1 0 0 0 8 2 0 14 0 0 0 - 19002 - 0 0 - - 0\n4 other 2 a 127.0.0.1 0 0 0 0 0 8 2 0 6 0 0 0 - 19002 - 0 0 - - 0\n\n",
    "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max\nslot-1/127.0.0.1:19001 3/1 127.0.0.1 19001 - 1000 7 9\nslot-1/fd00::1:19002 3/2 fd00::1 19002 - 1000 0 0\n\n",
    "New server registered.\n\nNo such server.\nentry not found.\n\n",
    "a@0.0.1 slot-7\nb@latest slot-12\n",
];

fn an_answer() -> impl Strategy<Value = String> {
    let good = ANSWERS.iter().map(|answer| answer.as_bytes().to_vec()).collect();
    let long = (octets(12), 0usize..20_000).prop_map(|(unit, times)| unit.repeat(times));
    // As the socket reads it.
    prop_oneof![6 => spoilt(good), 2 => octets(300), 1 => long]
        .prop_map(|octets| String::from_utf8_lossy(&octets).into_owned())
}

proptest! {
    #[test]
    fn any_answer_is_understood_or_refused(answer in an_answer(), other in an_answer()) {
        if let Ok(info) = answers::info(&answer) {
            prop_assert!(info.version.lines().count() <= 1);
        }
        if let Ok(map) = answers::map(&answer) {
            prop_assert!(map.rows.keys().all(|key| is_plain(key)), "{:?}", map.rows);
            prop_assert_eq!(answers::uses(&answer).is_some(), true);
        }
        if let Ok(slots) = answers::servers(&answer) {
            for name in slots.values().flat_map(|servers| servers.keys()) {
                prop_assert!(is_plain(name.as_str()));
            }
        }
        if let Ok(leaving) = answers::leaving(&answer, &other) {
            prop_assert!(leaving.keys().all(|name| is_plain(name.as_str())));
        }
        if let Ok(dead) = answers::found_dead(&answer) {
            prop_assert!(dead.keys().all(|(_, name)| is_plain(name.as_str())));
        }
        answers::ca_files(&answer);
        prop_assert!(complaint(&answer).len() <= answer.len() && !complaint(&answer).contains('\n'));
    }

    #[test]
    fn any_line_of_a_map_that_lies_there_is_a_slot_or_none(text in an_answer()) {
        let rows = text.lines().filter_map(|line| line.split_once(' '));
        for (backend, slot) in rows.filter_map(|(key, value)| slot_row(key, value.trim())) {
            prop_assert!(is_plain(&backend.to_string()) && slot.0 > 0);
        }
    }

    /// No text becomes a second command, a second row, or the end of a payload.
    #[test]
    fn any_words_stay_in_their_command(words in prop::collection::vec((octets(12), octets(12), 0u8..4), 1..60)) {
        let parsed = words.iter().filter_map(|(key, value, kind)| {
            let word = |octets: &[u8]| String::from_utf8_lossy(octets).parse::<Word>().ok();
            let (key, value, map) = (word(key)?, word(value)?, Map::Table(Table::Edge));
            Some(match kind {
                0 => Command::SetRow { map, key, value },
                1 => Command::DeleteRow { map, key },
                2 => Command::ReplaceMap { map, rows: vec![(key.clone(), value.clone()), (value, key)] },
                _ => Command::AddRow { map, key, value },
            })
        });
        let commands: Vec<Command> = parsed.collect();
        let maps: ConfigPath = "/maps".parse().unwrap();
        let mut count = 0;
        for request in requests(&commands, &maps) {
            match request {
                RuntimeRequest::Plain(text) if text.contains("<<") => {
                    // The first line, a row in each line, and an empty one.
                    let rows = text.strip_suffix("\n\n").unwrap();
                    prop_assert!(rows.lines().skip(1).all(|row| row.split(' ').count() == 2), "{text:?}");
                    count += rows.lines().count() - 1;
                }
                RuntimeRequest::Plain(text) => {
                    let line = text.strip_suffix('\n').unwrap();
                    prop_assert!(!line.contains('\n'));
                    for command in line.split(';') {
                        prop_assert!([4, 5].contains(&command.split(' ').count()), "{command:?}");
                        count += 1;
                    }
                }
                RuntimeRequest::Replace { payloads, .. } => {
                    let rows = payloads.concat();
                    prop_assert!(rows.lines().all(|row| row.split(' ').count() == 2), "{rows:?}");
                    prop_assert_eq!(rows.lines().count(), 2);
                    count += 1;
                }
            }
        }
        prop_assert_eq!(count, commands.len());
    }
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let endless = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let octets = vec![b'x'; 1 << 20];
        while stream.write_all(&octets).await.is_ok() {}
    });
    let path: ConfigPath = path.to_str().unwrap().parse().unwrap();
    let answer = Socket::new(&path).ask("show info\n").await;
    assert!(
        matches!(&answer, Err(Trouble::Broken { reason, .. }) if reason.contains("more than")),
        "{:?}",
        answer.map(|answer| answer.len())
    );
    endless.await.unwrap();
}
