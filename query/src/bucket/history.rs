//! The fleet's members in the bucket: what every query service knows of them, and what the stores tell of their own boots.
//!
//! Each query service has one object, under an id that stays with its data directory, and replaces it whole when something
//! has happened. It reads those of the others. So one that starts with an empty directory knows last week's fleet, and no
//! two ever write to one place.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStoreExt as _};
use futures::{StreamExt as _, TryStreamExt as _};
use lariat_schema::bucket::{MEMBERSHIP_DIR, StoreManifest, membership_path};
use lariat_schema::ids::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::poll::{LOOK_TIMEOUT, Shelf, Tag};
use crate::membership::{End, EndedBy, Member, Tenure};
use crate::topology::{NODE_API_PORT, Topology, now_unix_nanos};

/// Version of the object; fields are only ever added within one.
const VERSION: u32 = 1;
/// File with the id of a query service, below its data directory.
const ID_FILE: &str = "query_service_id";
/// Query services whose knowledge is read: more than ever share a fleet, those that are gone included.
const MAX_SERVICES: usize = 256;
/// Bytes of one object: thousands of members with some hundred tenures each.
const MAX_BYTES: u64 = 64 << 20;
/// Pause between two versions of the own object while much happens.
const WRITE_EVERY: Duration = Duration::from_secs(10);
/// The own object is written anew so often even where nothing happens: it says until when members were seen.
const WRITE_ANYHOW: Duration = Duration::from_secs(3_600);

/// What a query service knows, as it stands in the bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct History {
    version: u32,
    query_service: Uuid,
    written_unix_nanos: i64,
    members: Vec<Member>,
}

/// The id that stays with a data directory.
pub(crate) fn service_id(data_dir: &FilePath) -> io::Result<Uuid> {
    let path = data_dir.join(ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(data_dir)?;
            let id = Uuid::new_v4();
            // Beside it and then in its place: a crash leaves none or a whole one.
            let beside = data_dir.join(format!("{ID_FILE}.new"));
            std::fs::write(&beside, id.to_string())?;
            std::fs::rename(beside, path)?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

/// Brings what is known of members into the bucket and back.
pub(crate) struct Chronicle {
    shelf: Arc<Shelf>,
    topology: Arc<Topology>,
    /// None without a data directory: then nothing is written, since each start would leave an object of its own.
    own: Option<Uuid>,
    tags: HashMap<Path, Tag>,
    written: Option<(Vec<Member>, Instant)>,
}

impl Chronicle {
    pub(crate) fn new(shelf: Arc<Shelf>, topology: Arc<Topology>, own: Option<Uuid>) -> Self {
        Self { shelf, topology, own, tags: HashMap::new(), written: None }
    }

    /// Learns what the stores and the other query services tell, and tells what is known here.
    pub(crate) async fn round(&mut self) {
        let (_, retire_after_nanos) = self.topology.members();
        let now = now_unix_nanos();
        let told: Vec<Member> =
            self.shelf.catalog().stores().map(|said| of_manifest(said, retire_after_nanos, now)).collect();
        self.topology.learn_members(&told);
        let exchanged = tokio::time::timeout(LOOK_TIMEOUT, self.exchange()).await;
        let failed = match exchanged {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        self.shelf.failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(failed, "cannot share what is known of the members through the bucket");
    }

    async fn exchange(&mut self) -> datafusion::object_store::Result<()> {
        let listing = self.shelf.objects.list(Some(&Path::from(MEMBERSHIP_DIR))).take(MAX_SERVICES);
        let listed: Vec<ObjectMeta> = listing.try_collect().await?;
        let own = self.own.map(|own| Path::from(membership_path(own)));
        for object in listed.into_iter().filter(|object| Some(&object.location) != own.as_ref()) {
            let tag = Tag::of(&object);
            if object.size > MAX_BYTES || self.tags.get(&object.location) == Some(&tag) {
                continue;
            }
            let bytes = self.shelf.objects.get(&object.location).await?.bytes().await?;
            match serde_json::from_slice::<History>(&bytes) {
                Ok(history) if history.version == VERSION => self.topology.learn_members(&history.members),
                Ok(history) => tracing::warn!(
                    object = %object.location,
                    version = history.version,
                    "what another query service knows is of another version and is left out"
                ),
                Err(error) => {
                    tracing::warn!(object = %object.location, %error, "no history of members: it is left out")
                }
            }
            self.tags.insert(object.location, tag);
        }
        self.tell().await
    }

    async fn tell(&mut self) -> datafusion::object_store::Result<()> {
        let Some(own) = self.own else { return Ok(()) };
        let (members, _) = self.topology.members();
        if members.is_empty() || !self.is_due(&members) {
            return Ok(());
        }
        let history = History { version: VERSION, query_service: own, written_unix_nanos: now_unix_nanos(), members };
        let bytes = serde_json::to_vec(&history)
            .map_err(|error| datafusion::object_store::Error::Generic { store: "membership", source: error.into() })?;
        self.shelf.objects.put(&Path::from(membership_path(own)), bytes.into()).await?;
        self.written = Some((history.members, Instant::now()));
        Ok(())
    }

    fn is_due(&self, members: &[Member]) -> bool {
        let Some((before, at)) = &self.written else { return true };
        let same = |(mine, before): (&Member, &Member)| {
            Member { last_seen_unix_nanos: before.last_seen_unix_nanos, ..mine.clone() } == *before
        };
        let news = members.len() != before.len() || !members.iter().zip(before).all(same);
        at.elapsed() >= if news { WRITE_EVERY } else { WRITE_ANYHOW }
    }
}

/// What a store tells of its node's life: it is expected from its first boot, between its farewells, and for as long as a
/// lost node is after it last wrote.
fn of_manifest(said: &StoreManifest, retire_after_nanos: i64, now: i64) -> Member {
    let oldest_row = || said.tables.iter().flat_map(|table| &table.files).map(|file| file.times.from_unix_nanos).min();
    let mut tenures: Vec<Tenure> = Vec::new();
    for boot in &said.boots {
        if tenures.last().is_none_or(|tenure| tenure.end.is_some()) {
            tenures.push(Tenure { from_unix_nanos: boot.started_unix_nanos, end: None });
        }
        if let (Some(tenure), Some(at)) = (tenures.last_mut(), boot.farewell_unix_nanos) {
            let at_unix_nanos = at.max(tenure.from_unix_nanos);
            tenure.end = Some(End { at_unix_nanos, by: EndedBy::Farewell });
        }
    }
    if tenures.is_empty() {
        let from_unix_nanos = oldest_row().unwrap_or(said.written_unix_nanos).min(said.written_unix_nanos);
        tenures.push(Tenure { from_unix_nanos, end: None });
    }
    let aged = said.written_unix_nanos.saturating_add(retire_after_nanos);
    if let Some(tenure) = tenures.last_mut().filter(|tenure| tenure.end.is_none() && aged <= now) {
        tenure.end = Some(End { at_unix_nanos: aged, by: EndedBy::Age });
    }
    Member {
        store_id: said.store_id,
        node_id: said.node_id.clone(),
        region: said.region.clone(),
        address: address_of(&said.node_id),
        last_seen_unix_nanos: said.written_unix_nanos,
        boot_id: said.boots.last().map(|boot| boot.boot_id),
        lost_unix_nanos: None,
        tenures,
    }
}

/// The address in a node's name, if it has one.
fn address_of(node_id: &NodeId) -> String {
    let Some((_, place)) = node_id.as_str().split_once('@') else { return String::new() };
    match (place.parse::<SocketAddr>(), place.parse::<IpAddr>()) {
        (Ok(address), _) => address.to_string(),
        (_, Ok(ip)) => SocketAddr::new(ip, NODE_API_PORT).to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::object_store::ObjectStore;
    use datafusion::object_store::memory::InMemory;
    use lariat_schema::bucket::manifest_path;
    use lariat_schema::ids::{BootId, StoreId};
    use lariat_schema::node_api::{Boot, NodeIdentity, NodeInfo};

    use super::*;
    use crate::topology::ClusterConfig;

    const DAY: i64 = 86_400_000_000_000;

    fn boot(number: u8, started: i64, farewell: Option<i64>) -> Boot {
        Boot {
            boot_id: BootId::from_bytes([number; 16]),
            started_unix_nanos: started,
            known_from_unix_nanos: started,
            statuses: Vec::new(),
            heartbeats: Vec::new(),
            proxy_farewell_unix_nanos: None,
            farewell_unix_nanos: farewell,
        }
    }

    fn manifest(written: i64, boots: Vec<Boot>) -> StoreManifest {
        StoreManifest {
            version: 1,
            store_id: StoreId(Uuid::from_u128(9)),
            node_id: "lariat@10.0.0.9".into(),
            region: "eu-west".into(),
            written_unix_nanos: written,
            boots,
            tables: Vec::new(),
        }
    }

    #[test]
    fn a_store_that_has_told_nothing_for_long_is_expected_until_a_lost_node_would_be() {
        let boots = vec![boot(1, 10, Some(50)), boot(2, 80, None), boot(3, 95, None)];
        let member = of_manifest(&manifest(100, boots.clone()), DAY, 200);
        let ends: Vec<_> = member.tenures.iter().map(|tenure| (tenure.from_unix_nanos, tenure.end)).collect();
        assert_eq!(ends, [(10, Some(End { at_unix_nanos: 50, by: EndedBy::Farewell })), (80, None)]);
        assert_eq!((member.address.as_str(), member.boot_id), ("10.0.0.9:4319", Some(BootId::from_bytes([3; 16]))));
        let member = of_manifest(&manifest(100, boots), DAY, 7 * DAY);
        assert_eq!(member.ended(), Some(End { at_unix_nanos: 100 + DAY, by: EndedBy::Age }));
        assert_eq!(of_manifest(&manifest(100, Vec::new()), DAY, 200).tenures.len(), 1);
    }

    #[test]
    fn the_address_in_a_name_is_the_node_apis() {
        for (name, address) in [
            ("lariat@10.0.0.1", "10.0.0.1:4319"),
            ("lariat@10.0.0.1:5000", "10.0.0.1:5000"),
            ("lariat@::1", "[::1]:4319"),
            ("lariat@host", ""),
            ("lariat", ""),
        ] {
            assert_eq!(address_of(&name.into()), address, "{name}");
        }
    }

    #[test]
    fn the_id_of_a_query_service_stays_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("query");
        let id = service_id(&at).unwrap();
        assert_eq!(service_id(&at).unwrap(), id);
        std::fs::write(at.join(ID_FILE), "nothing").unwrap();
        assert!(service_id(&at).is_err());
    }

    fn service(objects: &Arc<InMemory>, own: Option<Uuid>) -> (Chronicle, Arc<Topology>) {
        let topology = Topology::open(&ClusterConfig::default(), None).unwrap();
        let shelf = Arc::new(Shelf::over(Arc::clone(objects) as Arc<dyn ObjectStore>, String::new()));
        (Chronicle::new(shelf, Arc::clone(&topology), own), topology)
    }

    #[tokio::test]
    async fn one_that_starts_with_nothing_knows_last_weeks_fleet_from_another_and_from_the_stores() {
        let objects = Arc::new(InMemory::new());
        let (mut first, its_topology) = service(&objects, Some(Uuid::from_u128(1)));
        let now = now_unix_nanos();
        let met = NodeInfo {
            identity: NodeIdentity {
                node_id: "lariat@10.0.0.1".into(),
                region: "us-east".into(),
                boot_id: BootId::from_bytes([1; 16]),
            },
            store_id: StoreId(Uuid::from_u128(1)),
            version: "0".to_owned(),
            started_unix_nanos: now - 7 * DAY,
            now_unix_nanos: now,
            watermark_unix_nanos: now,
            has_proxy: false,
            ranges: Vec::new(),
            forward: None,
            boots: vec![boot(1, now - 7 * DAY, None)],
        };
        its_topology.learn("10.0.0.1:4319", true);
        let met = crate::topology::Met { info: met, clock: crate::topology::ClockOffset::default() };
        its_topology.report("10.0.0.1:4319", crate::topology::state::Event::Looked, Ok(met));
        its_topology.retire("lariat@10.0.0.1").unwrap_err();
        let gone = manifest(now - 5 * DAY, vec![boot(2, now - 6 * DAY, None)]);
        let path = Path::from(manifest_path(gone.store_id));
        objects.put(&path, serde_json::to_vec(&gone).unwrap().into()).await.unwrap();
        first.round().await;

        let (mut fresh, topology) = service(&objects, None);
        fresh.shelf.look().await;
        fresh.round().await;
        let (members, _) = topology.members();
        let told: Vec<_> = members.iter().map(|member| (member.node_id.as_str(), member.is_expected())).collect();
        assert_eq!(told, [("lariat@10.0.0.1", true), ("lariat@10.0.0.9", false)]);
        assert_eq!(members[0].tenures[0].from_unix_nanos, now - 7 * DAY);
        assert_eq!(members[1].ended().unwrap().at_unix_nanos, now - 4 * DAY);

        // What happens there later is heard here, and what is heard twice changes nothing.
        let before = objects.list(None).count().await;
        fresh.round().await;
        assert_eq!(topology.members().0, members);
        assert_eq!(objects.list(None).count().await, before, "one without a directory writes nothing");
    }
}
