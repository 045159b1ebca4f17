//! What is read of an event: where it stands and what tells it from others. Everything else passes through unread.

use bytes::Bytes;
use serde::Deserialize;

use super::subject::Kind;

/// What tells one event of a stream from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    Head([u8; 32]),
    Log {
        block: [u8; 32],
        index: u64,
        removed: bool,
    },
    /// Pending transactions are not told from one another.
    Pending,
}

/// An event, with the bytes that clients get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    /// Number of its block; 0 where it has none.
    pub(super) number: u64,
    pub(super) identity: Identity,
    pub(super) raw: Bytes,
}

#[derive(Deserialize)]
struct RawHead<'a> {
    #[serde(borrow)]
    number: &'a str,
    #[serde(borrow)]
    hash: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLog<'a> {
    #[serde(borrow)]
    block_number: &'a str,
    #[serde(borrow)]
    block_hash: &'a str,
    #[serde(borrow)]
    log_index: &'a str,
    #[serde(default)]
    removed: bool,
}

/// Reads an event; none where it is not one of that kind.
pub(super) fn read(kind: Kind, raw: Bytes) -> Option<Notice> {
    let (number, identity) = match kind {
        Kind::NewHeads => {
            let head: RawHead<'_> = serde_json::from_slice(&raw).ok()?;
            (quantity(head.number)?, Identity::Head(hash(head.hash)?))
        }
        Kind::Logs => {
            let log: RawLog<'_> = serde_json::from_slice(&raw).ok()?;
            let (block, index) = (hash(log.block_hash)?, quantity(log.log_index)?);
            (quantity(log.block_number)?, Identity::Log { block, index, removed: log.removed })
        }
        Kind::PendingTransactions => (0, Identity::Pending),
    };
    Some(Notice { number, identity, raw })
}

/// A quantity of the execution API.
pub(super) fn quantity(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text.strip_prefix("0x")?, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_head_and_a_log_are_known_by_their_block_and_place() {
        let hash = format!("0x{}", "0b".repeat(32));
        let head = read(Kind::NewHeads, format!(r#"{{"parentHash":"0x","number":"0x10","hash":"{hash}"}}"#).into());
        let head = head.unwrap();
        assert_eq!((head.number, head.identity), (16, Identity::Head([11; 32])));
        let log =
            format!(r#"{{"blockNumber":"0x10","blockHash":"{hash}","logIndex":"0x2","data":"0x","removed":true}}"#);
        let log = read(Kind::Logs, log.into()).unwrap();
        assert_eq!(log.identity, Identity::Log { block: [11; 32], index: 2, removed: true });
        assert!(read(Kind::Logs, Bytes::from_static(b"{}")).is_none());
        assert!(read(Kind::PendingTransactions, Bytes::from_static(b"\"0x1\"")).is_some());
    }

    proptest! {
        #[test]
        fn no_event_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for kind in [Kind::NewHeads, Kind::Logs, Kind::PendingTransactions] {
                let _ = read(kind, Bytes::from(bytes.clone()));
            }
        }
    }
}
