//! The cut against a model of stores that do everything a store does, before the catalog is read, between that and the
//! pin, and after it: no row comes twice, and none that was committed before the pin is missing.

use std::collections::{BTreeMap, BTreeSet};

use lariat_schema::bucket::{TableInBucket, VERSION};
use lariat_schema::layout::file_path;
use lariat_schema::time_range::TimeRange;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const TABLE: Table = Table::Spans;
const STORES: usize = 3;

/// What a store does next. Rows are numbers, and a row's number is its time and its commit time.
#[derive(Debug, Clone, Copy)]
enum Step {
    Commit,
    Seal,
    /// The files that are not final become one.
    Merge {
        is_final: bool,
    },
    /// The oldest final file goes into the bucket.
    Upload,
    /// The store says in the bucket what it has there.
    Tell,
    /// The oldest local copy of an uploaded file goes.
    GiveUp,
    /// The oldest uploaded file is past its retention.
    Forget,
}

#[derive(Debug, Clone)]
struct File {
    sequence: u64,
    rows: Vec<i64>,
    is_final: bool,
    uploaded: bool,
    local: bool,
}

impl File {
    fn times(&self) -> TimeRange {
        TimeRange::new(self.rows[0], self.rows[self.rows.len() - 1] + 1)
    }
}

#[derive(Debug, Clone)]
struct Store {
    id: StoreId,
    next_row: i64,
    next_sequence: u64,
    hot: Vec<i64>,
    files: Vec<File>,
    /// Never deleted here, as a bucket's lifecycle rules are not shorter than the retention.
    objects: BTreeMap<u64, Vec<i64>>,
    told: Option<StoreManifest>,
}

impl Store {
    fn new(number: usize) -> Self {
        Self {
            id: StoreId(Uuid::from_u128(number as u128 + 1)),
            next_row: 0,
            next_sequence: 1,
            hot: Vec::new(),
            files: Vec::new(),
            objects: BTreeMap::new(),
            told: None,
        }
    }

    fn sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence - 1
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Commit => {
                self.hot.push(self.next_row);
                self.next_row += 1;
            }
            Step::Seal if !self.hot.is_empty() => {
                let (rows, sequence) = (std::mem::take(&mut self.hot), self.sequence());
                self.files.push(File { sequence, rows, is_final: false, uploaded: false, local: true });
            }
            Step::Merge { is_final } => {
                let open: Vec<File> = self.files.extract_if(.., |file| !file.is_final).collect();
                let mut rows: Vec<i64> = open.into_iter().flat_map(|file| file.rows).collect();
                rows.sort_unstable();
                if !rows.is_empty() {
                    let sequence = self.sequence();
                    self.files.push(File { sequence, rows, is_final, uploaded: false, local: true });
                }
            }
            Step::Upload => {
                if let Some(file) = self.files.iter_mut().find(|file| file.is_final && !file.uploaded) {
                    file.uploaded = true;
                    self.objects.insert(file.sequence, file.rows.clone());
                }
            }
            Step::Tell => self.told = Some(self.manifest()),
            Step::GiveUp => {
                if let Some(file) = self.files.iter_mut().find(|file| file.uploaded && file.local) {
                    file.local = false;
                }
            }
            Step::Forget => {
                if let Some(at) = self.files.iter().position(|file| file.uploaded) {
                    self.files.remove(at);
                }
            }
            Step::Seal => {}
        }
    }

    fn manifest(&self) -> StoreManifest {
        let only_here = self.files.iter().filter(|file| !file.uploaded).flat_map(|file| &file.rows);
        let cut = only_here.chain(&self.hot).min().copied().unwrap_or(self.next_row);
        let file = |file: &File| FileInBucket {
            path: file_path(TABLE, self.id, file.rows[0], file.sequence),
            bytes: file.rows.len() as u64,
            rows: file.rows.len() as u64,
            crc32: 0,
            times: file.times(),
            commits: file.times(),
            only_here: !file.local,
            weights: None,
        };
        StoreManifest {
            version: VERSION,
            store_id: self.id,
            node_id: "lariat@a".into(),
            region: "local".into(),
            written_unix_nanos: self.next_row,
            boots: Vec::new(),
            tables: vec![TableInBucket {
                table: TABLE,
                cut_unix_nanos: cut,
                gone: Vec::new(),
                files: self.files.iter().filter(|file| file.uploaded).map(file).collect(),
            }],
        }
    }

    /// Rows that a leaf reads of a snapshot.
    fn read(&self, without: &[u64]) -> Vec<i64> {
        let files = self.files.iter().filter(|file| !without.contains(&file.sequence));
        files.flat_map(|file| &file.rows).chain(&self.hot).copied().collect()
    }
}

fn steps(max: usize) -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        4 => Just(Step::Commit),
        2 => Just(Step::Seal),
        1 => Just(Step::Merge { is_final: false }),
        2 => Just(Step::Merge { is_final: true }),
        2 => Just(Step::Upload),
        2 => Just(Step::Tell),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec((0..STORES, step), 0..max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_row_comes_from_two_places_and_none_is_missing(
        before in steps(60),
        until_pinned in steps(20),
        afterwards in steps(20),
        answers in prop::collection::vec(any::<bool>(), STORES),
        obeys in prop::collection::vec(prop::bool::weighted(0.9), STORES),
        readable in prop::collection::vec(prop::bool::weighted(0.9), STORES),
        bounds in (prop::option::of(0_i64..10), prop::option::of(0_i64..10)),
    ) {
        let mut stores: Vec<Store> = (0..STORES).map(Store::new).collect();
        before.iter().for_each(|(store, step)| stores[*store].take(*step));
        let mut catalog = Catalog::default();
        stores.iter().filter_map(|store| store.told.clone()).for_each(|told| catalog.insert(Arc::new(told)));
        until_pinned.iter().for_each(|(store, step)| stores[*store].take(*step));
        let pinned: Vec<Store> = stores.clone();
        afterwards.iter().for_each(|(store, step)| stores[*store].take(*step));

        let number = |id: StoreId| stores.iter().position(|store| store.id == id).unwrap();
        let asked = Asked { from_unix_nanos: bounds.0, to_unix_nanos: bounds.1 };
        let answering: Vec<Answering> = (0..STORES)
            .filter(|store| answers[*store])
            .map(|store| Answering { store_id: pinned[store].id, leaves_files_out: obeys[store] })
            .collect();
        let cut = cut(TABLE, asked, &answering, &catalog, |store| readable[number(store)]);

        let mut found: Vec<Vec<i64>> = vec![Vec::new(); STORES];
        for (store, without) in &cut.nodes {
            // A node that cannot leave files out reads all that it has.
            let without: &[u64] = if obeys[number(*store)] { without } else { &[] };
            found[number(*store)].extend(pinned[number(*store)].read(without));
        }
        for file in &cut.files {
            let (store, sequence) = named_file(TABLE, &file.path).unwrap();
            prop_assert_eq!(store, file.store_id);
            prop_assert!(readable[number(store)]);
            found[number(store)].extend(&stores[number(store)].objects[&sequence]);
        }
        for store in 0..STORES {
            let rows: BTreeSet<i64> = found[store].iter().copied().collect();
            prop_assert_eq!(rows.len(), found[store].len(), "a row of store {} comes twice: {:?}", store, found[store]);
            prop_assert!(rows.iter().all(|row| *row < stores[store].next_row));
            let wanted: BTreeSet<i64> = match (answers[store], catalog.get(pinned[store].id)) {
                (true, _) => pinned[store].read(&[]).into_iter().collect(),
                (false, Some(told)) if readable[store] => {
                    // Everything before the cut, apart from what was forgotten before it was told.
                    let table = &told.tables[0];
                    let told: BTreeSet<i64> = table.files.iter().flat_map(|file| {
                        stores[store].objects[&named_file(TABLE, &file.path).unwrap().1].clone()
                    }).collect();
                    prop_assert!(told.iter().all(|row| *row < stores[store].next_row));
                    told
                }
                (false, _) => BTreeSet::new(),
            };
            let in_time = |row: &&i64| asked.touches(TimeRange::new(**row, **row + 1));
            let missing: Vec<&i64> = wanted.iter().filter(in_time).filter(|row| !rows.contains(row)).collect();
            prop_assert!(missing.is_empty(), "store {} lacks {:?}", store, missing);
        }
    }

    #[test]
    fn everything_before_a_cut_is_in_the_bucket_or_was_there_and_is_forgotten(before in steps(80)) {
        let mut stores: Vec<Store> = (0..STORES).map(Store::new).collect();
        for (store, step) in before {
            stores[store].take(step);
            let store = &stores[store];
            let Some(told) = &store.told else { continue };
            let all: BTreeSet<i64> = store.objects.values().flatten().copied().collect();
            let cut = told.tables[0].cut_unix_nanos;
            prop_assert!((0..cut).all(|row| all.contains(&row)), "{:?}", store);
        }
    }
}
