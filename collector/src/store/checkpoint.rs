//! What the next start reads in place of the log before the manifest's cut: verdicts, rows that wait for their root, what
//! is counted and not written, and what there is to know of the log's segments.
//!
//! It is written with every seal, before the manifest that names it, and belongs to the cut of that manifest. Nothing
//! depends on it: where it could not be written or read again, the start reads the log from the beginning of the dedup
//! window on and comes to the same state, later. Adding to an older checkpoint was rejected: most verdicts are as young as the
//! last seal at the load where the size matters, so that it would save nothing.
//!
//! The form: a magic, a JSON head, verdicts as plain numbers in pieces of bounded size, each of these with its length and
//! checksum; then the waiting rows as entries of the log, after a preamble with the schemas.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use lariat_schema::tables::Table;
use serde::{Deserialize, Serialize};

use super::manifest::CheckpointEntry;
use crate::columns::count;
use crate::keep::Policies;
use crate::keep::memory::{Fell, Memory, WaitingRows};
use crate::keep::verdict::Packed;
use crate::log::entry::{self, BadEntry, Packer};
use crate::log::segment::sync_folder;
use crate::log::{Entry, Facts, Header, InForce, Schemas, preamble};
use crate::span_metrics;

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"LARIATC1";
/// Version of this form. Another one is as good as none.
const VERSION: u8 = 1;
/// Bytes of a verdict: steady time, key, verdict.
const VERDICT_BYTES: usize = 8 + 16 + 8;
/// Verdicts of one piece: a megabyte.
const PIECE_VERDICTS: usize = 32_768;

/// All of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Checkpoint {
    /// The first entry of the log that is not in it.
    pub(crate) lsn: u64,
    pub(crate) keeper: Memory,
    pub(crate) span_metrics: span_metrics::memory::Memory,
    /// Complete segments of the log.
    pub(crate) segments: Vec<Facts>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u8,
    lsn: u64,
    policies: Policies,
    second: i64,
    kept_whole: HashMap<String, u64>,
    whole: usize,
    drawn: usize,
    /// Entries that have waiting rows.
    waiting: usize,
    span_metrics: span_metrics::memory::Memory,
    segments: Vec<Facts>,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadCheckpoint {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it has {found} bytes instead of {wanted}")]
    Length { found: u64, wanted: u64 },
    #[error("it ends early, or is no checkpoint")]
    Short,
    #[error("a checksum is wrong")]
    Checksum,
    #[error("its head: {0}")]
    Head(#[from] serde_json::Error),
    #[error("its version is {found}, this program reads {VERSION}")]
    Version { found: u8 },
    #[error("it ends before entry {found} of the log instead of {wanted}")]
    Cut { found: u64, wanted: u64 },
    #[error("a verdict of it cannot be")]
    Verdict,
    #[error("rows that wait: {0}")]
    Rows(#[from] BadEntry),
    #[error("it has other waiting rows than the manifest")]
    Waiting,
}

impl Checkpoint {
    /// Writes it, durably.
    pub(crate) fn save(&self, folder: &Path, name: String) -> Result<CheckpointEntry, BadCheckpoint> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(&name);
        let written = File::create(&path).map_err(BadCheckpoint::from).and_then(|file| self.write(file));
        match written {
            Ok(bytes) => {
                sync_folder(folder)?;
                Ok(CheckpointEntry { name, bytes })
            }
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn write(&self, file: File) -> Result<u64, BadCheckpoint> {
        let Self { lsn, keeper, span_metrics, segments } = self;
        let head = Head {
            version: VERSION,
            lsn: *lsn,
            policies: keeper.policies.clone(),
            second: keeper.second,
            kept_whole: keeper.kept_whole.clone(),
            whole: keeper.whole.len(),
            drawn: keeper.drawn.len(),
            waiting: keeper.waiting.len(),
            span_metrics: span_metrics.clone(),
            segments: segments.clone(),
        };
        let mut out = BufWriter::with_capacity(1 << 18, file);
        out.write_all(MAGIC)?;
        put_piece(&mut out, &serde_json::to_vec(&head)?)?;
        let mut piece = Vec::new();
        for verdicts in [&keeper.whole, &keeper.drawn] {
            for some in verdicts.chunks(PIECE_VERDICTS) {
                piece.clear();
                for Fell { at, key, verdict } in some {
                    piece.extend_from_slice(&at.to_le_bytes());
                    piece.extend_from_slice(&key.to_le_bytes());
                    piece.extend_from_slice(&verdict.bits().to_le_bytes());
                }
                put_piece(&mut out, &piece)?;
            }
        }
        if !keeper.waiting.is_empty() {
            put_rows(&mut out, *lsn, &keeper.waiting)?;
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }

    /// Reads what a manifest names: the cut and the waiting rows are the manifest's.
    pub(crate) fn load(
        folder: &Path,
        entry: &CheckpointEntry,
        lsn: u64,
        waiting: &[(u64, Vec<usize>)],
    ) -> Result<Self, BadCheckpoint> {
        let bytes = std::fs::read(folder.join(&entry.name))?;
        if count(bytes.len()) != entry.bytes {
            return Err(BadCheckpoint::Length { found: count(bytes.len()), wanted: entry.bytes });
        }
        Self::read(&bytes, lsn, waiting)
    }

    /// The same from its bytes.
    pub(crate) fn read(bytes: &[u8], lsn: u64, waiting: &[(u64, Vec<usize>)]) -> Result<Self, BadCheckpoint> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(BadCheckpoint::Short)?;
        let head: Head = serde_json::from_slice(piece(&mut rest)?)?;
        if head.version != VERSION {
            return Err(BadCheckpoint::Version { found: head.version });
        }
        if head.lsn != lsn {
            return Err(BadCheckpoint::Cut { found: head.lsn, wanted: lsn });
        }
        if head.waiting != waiting.len() {
            return Err(BadCheckpoint::Waiting);
        }
        let (whole, drawn) = (verdicts(&mut rest, head.whole)?, verdicts(&mut rest, head.drawn)?);
        let waiting = if waiting.is_empty() { Vec::new() } else { rows(rest, waiting)? };
        let Head { policies, second, kept_whole, span_metrics, segments, .. } = head;
        let keeper = Memory { policies, second, kept_whole, whole, drawn, waiting };
        Ok(Self { lsn, keeper, span_metrics, segments })
    }
}

fn put_piece(out: &mut impl Write, piece: &[u8]) -> io::Result<()> {
    let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32fast::hash(piece).to_le_bytes())?;
    out.write_all(piece)
}

fn piece<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadCheckpoint> {
    let (length, checksum) = (u32::from_le_bytes(take(rest)?), u32::from_le_bytes(take(rest)?));
    let length = usize::try_from(length).map_err(|_| BadCheckpoint::Short)?;
    let (piece, tail) = rest.split_at_checked(length).ok_or(BadCheckpoint::Short)?;
    *rest = tail;
    if crc32fast::hash(piece) == checksum { Ok(piece) } else { Err(BadCheckpoint::Checksum) }
}

fn verdicts(rest: &mut &[u8], wanted: usize) -> Result<Vec<Fell>, BadCheckpoint> {
    let mut found = Vec::with_capacity(wanted.min(rest.len() / VERDICT_BYTES));
    while found.len() < wanted {
        let piece = piece(rest)?;
        if piece.is_empty() {
            return Err(BadCheckpoint::Short);
        }
        for mut bytes in piece.chunks(VERDICT_BYTES) {
            let at = i64::from_le_bytes(take(&mut bytes)?);
            let key = u128::from_le_bytes(take(&mut bytes)?);
            let verdict = Packed::from_bits(u64::from_le_bytes(take(&mut bytes)?)).ok_or(BadCheckpoint::Verdict)?;
            found.push(Fell { at, key, verdict });
        }
    }
    if found.len() == wanted { Ok(found) } else { Err(BadCheckpoint::Short) }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], BadCheckpoint> {
    let (taken, tail) = bytes.split_first_chunk::<N>().ok_or(BadCheckpoint::Short)?;
    *bytes = tail;
    Ok(*taken)
}

fn put_rows(out: &mut impl Write, lsn: u64, waiting: &[WaitingRows]) -> Result<(), BadCheckpoint> {
    let mut packer = Packer::new()?;
    let mut frame = Vec::new();
    entry::write(&preamble(lsn, &InForce::default())?, &mut frame)?;
    out.write_all(&frame)?;
    for one in waiting {
        let (packed, row_bytes) = packer.pack(&one.picked().map_err(BadEntry::from)?)?;
        let header = Header {
            version: entry::VERSION,
            lsn: one.lsn,
            commit_unix_nanos: one.at.commit_unix_nanos,
            jumped_nanos: one.at.jumped_nanos,
            table: Some(Table::Spans),
            trusted: one.trusted,
            decisions: 0,
            rejected: 0,
            received: Vec::new(),
            row_bytes,
            policies: None,
        };
        frame.clear();
        entry::write(&Entry { header, keys: Vec::new(), packed }, &mut frame)?;
        out.write_all(&frame)?;
    }
    Ok(())
}

fn rows(mut rest: &[u8], wanted: &[(u64, Vec<usize>)]) -> Result<Vec<WaitingRows>, BadCheckpoint> {
    let mut next = || {
        let (entry, length) = entry::read(rest)?;
        rest = rest.get(length..).unwrap_or_default();
        Ok::<Entry, BadCheckpoint>(entry)
    };
    let schemas = Schemas::unpack(&next()?)?;
    let mut found = Vec::new();
    for (lsn, rows) in wanted {
        let entry = next()?;
        let batch = schemas.rows(&entry)?.ok_or(BadCheckpoint::Waiting)?;
        if entry.header.lsn != *lsn || entry.header.table != Some(Table::Spans) || batch.num_rows() != rows.len() {
            return Err(BadCheckpoint::Waiting);
        }
        found.push(WaitingRows {
            lsn: *lsn,
            at: entry.header.moment(),
            trusted: entry.header.trusted,
            rows: rows.clone(),
            places: (0..rows.len()).collect(),
            batch,
        });
    }
    Ok(found)
}

/// Deletes what no manifest names: checkpoints of seals that did not come to their end, and those that were replaced.
pub(crate) fn delete_others(folder: &Path, named: Option<&CheckpointEntry>) {
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()) {
        let name = path.file_name().and_then(|name| name.to_str());
        if named.is_none_or(|named| name != Some(&*named.name))
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(file = %path.display(), %error, "cannot delete a checkpoint that is not needed: the next start does");
        }
    }
}

#[cfg(test)]
mod tests {
    use lariat_schema::vocabulary::KeepReason;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fixtures::{batch, span};
    use crate::keep::verdict::Verdict;
    use crate::log::Moment;

    fn checkpoint(verdicts: u64) -> (Checkpoint, Vec<(u64, Vec<usize>)>) {
        let fell = |whole| {
            move |at: u64| Fell {
                at: i64::try_from(at).unwrap() - 5,
                key: u128::from(at) << 70 | 3,
                verdict: Packed::of(Verdict {
                    mark: at
                        .is_multiple_of(3)
                        .then_some(crate::keep::spans::Mark { reason: KeepReason::Rate, threshold: None }),
                    whole,
                }),
            }
        };
        let at = |nanos| Moment { commit_unix_nanos: nanos, jumped_nanos: 3 };
        let rows = [span(1, 2, Some(1), json!({})), span(1, 3, Some(1), json!({})), span(1, 4, Some(1), json!({}))];
        let batch = batch(Table::Spans, &rows);
        let waiting = vec![
            WaitingRows {
                lsn: 7,
                at: at(70),
                trusted: true,
                rows: vec![4, 6],
                places: vec![0, 2],
                batch: batch.clone(),
            },
            WaitingRows { lsn: 9, at: at(90), trusted: false, rows: vec![0], places: vec![1], batch },
        ];
        let keeper = Memory {
            policies: Policies::default(),
            second: -4,
            kept_whole: HashMap::from([("public".to_owned(), 9)]),
            whole: (0..verdicts).map(fell(true)).collect(),
            drawn: (0..verdicts / 2).map(fell(false)).collect(),
            waiting,
        };
        let segments = vec![Facts { first_lsn: 1, last_lsn: 4, last_steady_nanos: -9, bytes: 1 << 20 }];
        let checkpoint = Checkpoint { lsn: 12, keeper, segments, ..Checkpoint::default() };
        (checkpoint, vec![(7, vec![4, 6]), (9, vec![0])])
    }

    /// As rows come back: without those that do not wait.
    fn compact(mut checkpoint: Checkpoint) -> Checkpoint {
        for one in &mut checkpoint.keeper.waiting {
            one.batch = one.picked().unwrap();
            one.places = (0..one.rows.len()).collect();
        }
        checkpoint
    }

    #[test]
    fn what_was_saved_is_loaded_whole_and_only_for_the_manifest_that_it_was_saved_for() {
        let folder = tempfile::tempdir().unwrap();
        for verdicts in [0, 1, 1_000, 70_000] {
            let (saved, waiting) = checkpoint(verdicts);
            let entry = saved.save(folder.path(), "one".to_owned()).unwrap();
            assert_eq!(Checkpoint::load(folder.path(), &entry, 12, &waiting).unwrap(), compact(saved));
            assert!(matches!(
                Checkpoint::load(folder.path(), &entry, 13, &waiting),
                Err(BadCheckpoint::Cut { found: 12, wanted: 13 })
            ));
            assert!(Checkpoint::load(folder.path(), &entry, 12, &waiting[..1]).is_err());
            assert!(Checkpoint::load(folder.path(), &entry, 12, &[(7, vec![4]), (9, vec![0])]).is_err());
        }
        delete_others(folder.path(), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_damage_to_it_goes_unnoticed(at in any::<prop::sample::Index>(), bits in 1..=255_u8, cut in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let (saved, waiting) = checkpoint(100);
            let entry = saved.save(folder.path(), "one".to_owned()).unwrap();
            let path = folder.path().join("one");
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= bits }
            prop_assert!(Checkpoint::read(&bytes, 12, &waiting).is_err());
            std::fs::write(&path, &bytes).unwrap();
            prop_assert!(Checkpoint::load(folder.path(), &entry, 12, &waiting).is_err());
        }
    }
}
