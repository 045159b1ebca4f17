//! What happens to a request's bytes whatever they came over: decompress, decode, hand over, wait until it is durable,
//! and until it is queued to be sent on where that is wanted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::Beside;
use super::body::{Compression, decompress};
use super::budget::{Budget, Reservation};
use super::counters::Counters;
use super::refusal::{RETRY_SOON, Refusal};
use crate::columns::bytes_of;
use crate::decode::{Decoding, Form, Mapping, Senders, decode_mapped};
use crate::forward::{Coding, Forwarder, Request};
use crate::held::Part;
use crate::ingest::Ingest;

/// Above this many bytes a body is decoded off the threads that serve connections: decoding takes about a
/// millisecond per 256 KiB, and a connection should not wait a millisecond for its neighbour.
const INLINE_BYTES: usize = 64 << 10;
/// The same for a compressed body, which may be a thousand times its size.
const INLINE_COMPRESSED_BYTES: usize = 4 << 10;
/// Bodies decoded off those threads at one time. Each may overshoot the budget by what its rows take, so their number
/// bounds the memory as well as the processors that decoding takes from routing.
const DECODERS: usize = 2;
/// Requests being read, decoded or waiting to be durable. Beyond it the budget would be shared by requests that
/// each have read too little to ever finish.
const REQUESTS_IN_PROGRESS: usize = 1_024;
/// A request whose bytes take longer than this holds its reservation for nothing.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(30);

/// The way in, shared by both listeners.
pub(super) struct Intake {
    pub(super) token: Option<Arc<str>>,
    pub(super) counters: Arc<Counters>,
    pub(super) max_request_bytes: usize,
    budget: Arc<Budget>,
    in_progress: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    ingest: Arc<dyn Ingest>,
    mapping: ArcSwapOption<Mapping>,
    senders: Arc<Senders>,
    forwarder: Option<Forwarder>,
}

/// A request's bytes as they were sent, all read.
pub(super) struct Sent {
    pub(super) form: Form,
    /// How often it was sent on before it came here.
    pub(super) hops: u8,
    pub(super) compression: Compression,
    pub(super) bytes: Bytes,
    pub(super) reservation: Reservation,
}

/// The acknowledgement: everything accepted is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Receipt {
    pub(super) rejected: u64,
    /// Why for rejected records, or a warning if there are none.
    pub(super) message: Option<String>,
}

impl Intake {
    pub(super) fn new(
        ingest: Arc<dyn Ingest>,
        Beside { token, counters, forwarder }: Beside,
        max_request_bytes: usize,
        in_flight_bytes: usize,
    ) -> Self {
        Self {
            token,
            budget: Budget::new(in_flight_bytes, Arc::clone(&counters)),
            counters,
            max_request_bytes,
            in_progress: Arc::new(Semaphore::new(REQUESTS_IN_PROGRESS)),
            decoders: Arc::new(Semaphore::new(DECODERS)),
            ingest,
            mapping: ArcSwapOption::empty(),
            senders: Arc::default(),
            forwarder,
        }
    }

    /// Reads spans of other proxies as the mapping says, from the next request on.
    pub(super) fn set_mapping(&self, mapping: Option<Arc<Mapping>>) {
        self.mapping.store(mapping);
    }

    /// Bytes that requests hold at the moment.
    pub(super) fn in_flight_bytes(&self) -> usize {
        self.budget.used()
    }

    /// Lets a request begin, as long as too many are not under way.
    pub(super) fn begin(&self) -> Result<(tokio::sync::OwnedSemaphorePermit, Reservation), Refusal> {
        let permit = Arc::clone(&self.in_progress)
            .try_acquire_owned()
            .map_err(|_| Refusal::Overloaded { retry_after: RETRY_SOON })?;
        Ok((permit, self.budget.reservation()))
    }

    /// Takes a request in. Returns once its records are durable.
    pub(super) async fn take(&self, sent: Sent) -> Result<Receipt, Refusal> {
        self.ingest.has_room(sent.bytes.len())?;
        let onward = self.onward(&sent);
        let (decoding, mut reservation) = self.decode(sent).await?;
        self.counters.held.set(Part::Senders, self.senders.bytes());
        let Decoding { decoded, malformed_selections } = decoding;
        let held = onward.as_ref().map_or(0, |(_, request)| request.body.len());
        reservation.become_bytes(bytes_of(&decoded.batch) + held);
        let receipt = Receipt { rejected: decoded.rejected, message: decoded.reason.clone() };
        let (signal, body_bytes) = (decoded.signal, decoded.body_bytes);
        if decoded.batch.num_rows() > 0 || decoded.rejected > 0 {
            self.ingest.ingest(decoded).await?;
            // After the log and before the answer: what is acknowledged is in both, what is refused in neither.
            if let Some((forwarder, request)) = onward {
                forwarder.queue(request).await;
            }
        }
        self.counters.acknowledged(body_bytes);
        self.counters.rejected(signal, receipt.rejected);
        self.counters.malformed_selections(malformed_selections);
        Ok(receipt)
    }

    /// The request as it is to be sent on.
    fn onward(&self, sent: &Sent) -> Option<(&Forwarder, Request)> {
        let forwarder = self.forwarder.as_ref().filter(|forwarder| forwarder.wants(sent.form.signal))?;
        let request = Request {
            signal: sent.form.signal,
            encoding: sent.form.encoding,
            coding: match sent.compression {
                Compression::Identity => Coding::Identity,
                Compression::Gzip => Coding::Gzip,
                Compression::Zstd => Coding::Zstd,
            },
            hops: sent.hops,
            received_unix_nanos: now_unix_nanos(),
            body: sent.bytes.clone(),
        };
        Some((forwarder, request))
    }

    async fn decode(&self, sent: Sent) -> Result<(Decoding, Reservation), Refusal> {
        let limit = self.max_request_bytes;
        let inline = match sent.compression {
            Compression::Identity => sent.bytes.len() <= INLINE_BYTES,
            Compression::Gzip | Compression::Zstd => sent.bytes.len() <= INLINE_COMPRESSED_BYTES,
        };
        if inline {
            return read(sent, limit, self.mapping.load().as_deref(), &self.senders);
        }
        let permit = Arc::clone(&self.decoders).acquire_owned().await.map_err(|_| Refusal::ShuttingDown)?;
        let (mapping, senders) = (self.mapping.load_full(), Arc::clone(&self.senders));
        let decoding = tokio::task::spawn_blocking(move || {
            let decoding = read(sent, limit, mapping.as_deref(), &senders);
            drop(permit);
            decoding
        });
        decoding.await.map_err(|error| {
            tracing::error!(%error, "decoding a request failed");
            Refusal::Failed
        })?
    }
}

/// Decompresses and decodes. Beside the body, its rows are reserved at the body's size before they are built.
fn read(
    sent: Sent,
    limit: usize,
    mapping: Option<&Mapping>,
    senders: &Senders,
) -> Result<(Decoding, Reservation), Refusal> {
    let Sent { form, compression, bytes, mut reservation, .. } = sent;
    let body = decompress(compression, bytes, limit, &mut reservation)?;
    reservation.grow(body.len())?;
    let decoding = decode_mapped(&body, form, now_unix_nanos(), mapping, Some(senders))
        .map_err(|error| Refusal::Malformed { reason: error.to_string() })?;
    Ok((decoding, reservation))
}

fn now_unix_nanos() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}
