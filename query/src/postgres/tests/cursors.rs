//! Answers that are read bit by bit: portals with a limit of rows, cursors of SQL, and copies.

use super::*;
use crate::engine::tests::streaming::{ROWS_PER_NODE, large_fleet, rows_read, stalled, until_done};

/// The numbers of 300 spans, in an order that does not change.
const ORDERED: &str = "SELECT duration_ns FROM spans ORDER BY duration_ns";

fn execute(portal: &str, most: u32) -> Vec<u8> {
    [framed(b'E', &[portal.as_bytes(), &[0], &most.to_be_bytes()].concat()), framed(b'S', b"")].concat()
}

fn tag(messages: &[Message]) -> Option<String> {
    let body = &messages.iter().find(|message| message.0 == b'C')?.1;
    Some(String::from_utf8_lossy(&body[..body.len() - 1]).into_owned())
}

fn kinds(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.0)).filter(|kind| *kind != 'D').collect()
}

fn columns(rows: &[Vec<Option<String>>]) -> Vec<i64> {
    rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_goes_on_where_its_limit_of_rows_stopped_it() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    let expected = columns(&client.rows(ORDERED).await);
    client.rows("BEGIN").await;
    let parse = framed(b'P', &[&b"\0"[..], &text(ORDERED), &[0, 0]].concat());
    client.send(&[parse, framed(b'B', b"p\0\0\0\0\0\0\0\0"), framed(b'S', b"")].concat()).await;
    client.until(b'Z').await;
    let mut found = Vec::new();
    for (most, told) in [(7, "sZ"), (100, "sZ"), (0, "CZ"), (10, "CZ")] {
        client.send(&execute("p", most)).await;
        let messages = client.until(b'Z').await;
        assert_eq!(kinds(&messages), told, "{most}: {:?}", error(&messages));
        found.extend(columns(&rows(&messages)));
    }
    assert_eq!(found, expected);
    client.rows("COMMIT").await;
    client.send(&execute("p", 1)).await;
    assert!(error(&client.until(b'Z').await).is_some(), "a portal ends with its transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_fetched_from_moved_and_closed() {
    let fleet = Fleet::start(3).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    let expected = columns(&client.rows(ORDERED).await);
    let both = client.query(&format!("BEGIN; DECLARE c NO SCROLL CURSOR FOR {ORDERED}")).await;
    assert_eq!(kinds(&both), "CCZ");
    let (mut at, mut found) = (0, Vec::new());
    for (sql, rows_of, told) in [
        ("FETCH c", 1, "FETCH 1"),
        ("FETCH FORWARD 9 FROM c", 9, "FETCH 9"),
        ("MOVE 20 IN c", 0, "MOVE 20"),
        ("FETCH ALL FROM C", 270, "FETCH 270"),
        ("FETCH 5 FROM c", 0, "FETCH 0"),
    ] {
        let messages = client.query(sql).await;
        assert_eq!((tag(&messages).as_deref(), rows(&messages).len()), (Some(told), rows_of), "{sql}");
        found.push((at, columns(&rows(&messages))));
        at += rows_of + if sql.starts_with("MOVE") { 20 } else { 0 };
    }
    for (from, part) in found {
        assert_eq!(part, expected[from..from + part.len()]);
    }
    assert_eq!(tag(&client.query("CLOSE c").await).as_deref(), Some("CLOSE CURSOR"));
    assert_eq!(error(&client.query("FETCH c").await).unwrap()[&'C'], "34000");
    assert_eq!(error(&client.query("FETCH c").await).unwrap()[&'C'], "25P02");
    client.rows("ROLLBACK").await;
    for (sql, code) in [
        ("DECLARE c CURSOR FOR SELECT 1", "25P01"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM spams", "42P01"),
        ("DECLARE c CURSOR WITH HOLD FOR DROP TABLE spans", "25006"),
        ("FETCH PRIOR FROM c", "55000"),
        ("CLOSE c", "34000"),
    ] {
        assert_eq!(error(&client.query(sql).await).unwrap()[&'C'], code, "{sql}");
    }
    client.rows("DECLARE c CURSOR WITH HOLD FOR SELECT 1 AS one").await;
    assert_eq!(error(&client.query("DECLARE c CURSOR WITH HOLD FOR SELECT 1").await).unwrap()[&'C'], "42P03");
    client.rows("BEGIN; COMMIT").await;
    assert_eq!(client.rows("FETCH c").await, [[Some("1".to_owned())]], "it outlives transactions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_with_a_value_is_described_and_fetched_in_binary_as_drivers_do() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    client.rows("BEGIN").await;
    client
        .send(&extended(
            "DECLARE \"C\" CURSOR FOR SELECT duration_ns FROM spans WHERE duration_ns = $1",
            &["7000"],
            false,
        ))
        .await;
    assert_eq!(error(&client.until(b'Z').await), None);
    client.send(&[framed(b'D', b"PC\0"), framed(b'S', b"")].concat()).await;
    let described = client.until(b'Z').await;
    assert!(described[0].0 == b'T' && described[0].1.windows(11).any(|bytes| bytes == b"duration_ns"), "{described:?}");
    client.send(&extended("FETCH FORWARD 10 FROM \"C\"", &[], true)).await;
    let fetched = client.until(b'Z').await;
    assert_eq!(kinds(&fetched), "12TCZ", "{:?}", error(&fetched));
    let row = fetched.iter().find(|message| message.0 == b'D').unwrap();
    assert_eq!(row.1[6..], 7_000_i64.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cursor_has_not_fetched_is_not_read_and_closing_it_frees_the_nodes() {
    let fleet = large_fleet().await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    client.rows("BEGIN; DECLARE c CURSOR FOR SELECT time, name FROM spans").await;
    assert_eq!(client.rows("FETCH 100 FROM c").await.len(), 100);
    assert!(stalled(&fleet).await < ROWS_PER_NODE * 2 * 8 / 10);
    client.rows("CLOSE c").await;
    until_done(&fleet).await;
    assert!(rows_read(&fleet) < ROWS_PER_NODE * 2);
    client.rows("DECLARE c CURSOR FOR SELECT time, name FROM spans").await;
    stalled(&fleet).await;
    client.rows("ROLLBACK").await;
    until_done(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_copied_as_text() {
    let fleet = Fleet::start(1).await;
    let query = fleet.query().await;
    let mut client = Client::connect(&query).await;
    let copied = |messages: &[Message]| -> String {
        let lines = messages.iter().filter(|message| message.0 == b'd').map(|message| message.1.clone());
        String::from_utf8(lines.flatten().collect()).unwrap()
    };
    let sql = "COPY (SELECT duration_ns, chain, CAST(NULL AS TEXT) AS none FROM spans ORDER BY duration_ns LIMIT 2) TO STDOUT";
    let messages = client.query(sql).await;
    assert_eq!((kinds(&messages).as_str(), tag(&messages).as_deref()), ("HddcCZ", Some("COPY 2")));
    assert_eq!(copied(&messages), "0\tethereum\t\\N\n1000\tbase\t\\N\n");
    let messages = client.query(&format!("{sql} (FORMAT csv, HEADER)")).await;
    assert_eq!(copied(&messages), "duration_ns,chain,none\n0,ethereum,\n1000,base,\n");
    for (sql, code) in [("COPY spams TO STDOUT", "42P01"), ("COPY (DROP TABLE spans) TO STDOUT", "25006")] {
        assert_eq!(error(&client.query(sql).await).unwrap()[&'C'], code, "{sql}");
    }
}
