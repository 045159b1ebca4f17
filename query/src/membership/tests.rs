//! Joins, returns, farewells and retirements, over restarts and torn files.

use std::io::Write as _;

use super::*;

const STORE: &str = "0192f0c4-8a5b-7c3d-9e1f-0123456789ab";
const HOUR: i64 = 3_600 * NANOS_PER_SECOND;
const DAY: i64 = 24 * HOUR;

fn boot(number: u8) -> BootId {
    BootId::from_bytes([number; 16])
}

fn info(node_id: &str, number: u8, started: i64) -> NodeInfo {
    serde_json::from_value(serde_json::json!({
        "node_id": node_id, "region": "us-east", "boot_id": boot(number), "store_id": STORE, "version": "0",
        "started_unix_nanos": started, "now_unix_nanos": 0, "watermark_unix_nanos": 0, "has_proxy": true, "ranges": [],
    }))
    .unwrap()
}

fn store() -> StoreId {
    STORE.parse().unwrap()
}

fn open(dir: &std::path::Path, now: i64) -> Membership {
    Membership::open(Some(dir.to_owned()), DAY, now).unwrap()
}

fn only(members: &Membership) -> Member {
    let [member] = members.members().try_into().unwrap();
    member
}

#[test]
fn a_member_is_remembered_over_a_restart_and_under_its_newest_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = open(dir.path(), 0);
    assert!(first.seen(&info("lariat@a", 1, 10), "a:4319", 10).unwrap());
    assert!(!first.seen(&info("lariat@a", 1, 10), "a:4319", 20).unwrap());
    assert!(first.seen(&info("lariat@b", 2, 30), "b:4319", 30).unwrap());
    drop(first);
    let member = only(&open(dir.path(), 40));
    assert_eq!((member.node_id.as_str(), member.expected()), ("lariat@b", vec![TimeRange::new(10, i64::MAX)]));
}

#[test]
fn a_torn_last_line_is_cut_off_and_later_lines_are_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(MEMBERSHIP_FILE);
    let mut first = open(dir.path(), 0);
    first.seen(&info("lariat@a", 1, 10), "a:4319", 10).unwrap();
    drop(first);
    let whole = std::fs::read(&path).unwrap();
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"event\":\"fare").unwrap();
    let mut members = open(dir.path(), 0);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    assert!(members.farewell(store(), boot(1), 50).unwrap());
    drop(members);
    assert_eq!(only(&open(dir.path(), 60)).ended().unwrap(), End { at_unix_nanos: 50, by: EndedBy::Farewell });
}

#[test]
fn a_file_from_before_events_had_names_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let old = format!(
        "{{\"store_id\":\"{STORE}\",\"node_id\":\"lariat@a\",\"region\":\"us\",\"address\":\"a:4319\",\
         \"since_unix_nanos\":5,\"last_seen_unix_nanos\":9}}\n"
    );
    std::fs::write(dir.path().join(MEMBERSHIP_FILE), old).unwrap();
    let member = only(&open(dir.path(), 10));
    assert_eq!((member.last_seen_unix_nanos, member.expected()), (9, vec![TimeRange::new(5, i64::MAX)]));
}

#[test]
fn a_farewell_ends_the_expected_time_at_that_moment_and_the_next_boot_begins_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = open(dir.path(), 0);
    members.seen(&info("lariat@a", 1, 10), "a:4319", 10).unwrap();
    assert!(members.farewell(store(), boot(1), 100).unwrap());
    assert!(!members.farewell(store(), boot(1), 101).unwrap());
    // What the ending boot still answers is no return.
    assert!(!members.seen(&info("lariat@a", 1, 10), "a:4319", 102).unwrap());
    assert!(!only(&members).is_expected());
    assert!(members.seen(&info("lariat@a", 2, 200), "a:4319", 205).unwrap());
    // A late farewell of the earlier boot is not the later one's.
    assert!(!members.farewell(store(), boot(1), 210).unwrap());
    let expected = vec![TimeRange::new(10, 100), TimeRange::new(200, i64::MAX)];
    assert_eq!(only(&members).expected(), expected);
    drop(members);
    assert_eq!(only(&open(dir.path(), 300)).expected(), expected);
}

#[test]
fn an_operator_retires_by_name_or_store_and_a_return_is_a_new_tenure() {
    let mut members = Membership::open(None, DAY, 0).unwrap();
    members.seen(&info("lariat@a", 1, 10), "a:4319", 10).unwrap();
    assert_eq!(members.retire("lariat@b", 50).unwrap(), Retirement::Unknown);
    let Retirement::Done(member) = members.retire("lariat@a", 50).unwrap() else { panic!() };
    assert_eq!(member.ended().unwrap(), End { at_unix_nanos: 50, by: EndedBy::Operator });
    assert!(matches!(members.retire(STORE, 60).unwrap(), Retirement::Already(_)));
    members.seen(&info("lariat@a", 1, 10), "a:4319", 70).unwrap();
    assert_eq!(only(&members).expected(), [TimeRange::new(10, 50), TimeRange::new(50, i64::MAX)]);
}

#[test]
fn a_lost_member_is_expected_for_a_day_and_then_retired() {
    let mut members = Membership::open(None, DAY, 0).unwrap();
    members.seen(&info("lariat@a", 1, 10), "a:4319", 10).unwrap();
    members.lost(store()).unwrap();
    assert!(!members.retire_aged(10 + DAY - 1).unwrap());
    assert!(members.retire_aged(10 + DAY).unwrap());
    assert_eq!(only(&members).ended().unwrap(), End { at_unix_nanos: 10 + DAY, by: EndedBy::Age });
}

#[test]
fn time_in_which_no_query_service_looked_retires_nobody() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), 0).seen(&info("lariat@a", 1, 10), "a:4319", 10).unwrap();
    let mut later = open(dir.path(), 3 * DAY);
    assert!(!later.retire_aged(3 * DAY + HOUR).unwrap());
    assert!(later.retire_aged(4 * DAY).unwrap());
}

#[test]
fn a_long_file_is_written_anew_with_the_same_meaning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(MEMBERSHIP_FILE);
    let line = |at: i64| {
        let event = Event::Seen {
            at_unix_nanos: at,
            store_id: store(),
            node_id: "lariat@a".into(),
            region: "us".into(),
            address: "a:4319".to_owned(),
            boot_id: Some(boot(1)),
            started_unix_nanos: 1,
            since_unix_nanos: 1,
        };
        serde_json::to_string(&event).unwrap() + "\n"
    };
    std::fs::write(&path, (0..5_000).map(line).collect::<String>()).unwrap();
    let member = only(&open(dir.path(), 0));
    assert_eq!(member.last_seen_unix_nanos, 4_999);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    assert_eq!(only(&open(dir.path(), 0)), member);
}
