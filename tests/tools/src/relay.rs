//! A TCP relay that can be told to misbehave while it runs: slow, narrow, cut, stalled, refusing. It stands between two
//! real processes, so that a test of a network fault needs neither root nor a changed program.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Connections relayed at once; more are reset and counted.
const CONNECTIONS_MAX: usize = 1_024;
/// Bytes moved at once: small, so that a changed fault takes hold soon.
const CHUNK_BYTES: usize = 16 * 1024;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the relay does to the bytes that pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelayFaults {
    /// Each chunk waits this long, in each direction, milliseconds.
    pub delay_ms: u64,
    /// Bytes per second in each direction of each connection. None: no limit.
    pub bytes_per_second: Option<u64>,
    /// A connection is reset after this many bytes in one direction. None: never.
    pub cut_after_bytes: Option<u64>,
    /// A connection stays open and passes nothing more after this many bytes in one direction. None: never.
    pub stall_after_bytes: Option<u64>,
    /// Nothing is read or written, and connections stay open.
    pub stalled: bool,
    /// New connections are reset at once.
    pub refuse: bool,
}

/// What passed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCounts {
    /// Connections relayed.
    pub connections: u64,
    /// Connections reset at once: refused, beyond the bound, or with a target that cannot be reached.
    pub refused: u64,
    /// Connections reset later.
    pub cut: u64,
    /// Bytes from clients to the target.
    pub bytes_up: u64,
    /// Bytes from the target to clients.
    pub bytes_down: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// A running relay. Dropping it ends it.
#[derive(Debug)]
pub struct RelayHandle {
    address: SocketAddr,
    faults: watch::Sender<RelayFaults>,
    resets: watch::Sender<u64>,
    counters: Arc<Counters>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _guard: DropGuard,
}

#[derive(Clone)]
struct Relay {
    target: Arc<str>,
    faults: watch::Receiver<RelayFaults>,
    resets: watch::Receiver<u64>,
    counters: Arc<Counters>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Listens on `listen` and relays to `target`, a `host:port`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn start(listen: SocketAddr, target: &str) -> io::Result<RelayHandle> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let faults = watch::Sender::new(RelayFaults::default());
    let resets = watch::Sender::new(0);
    let relay = Relay {
        target: Arc::from(target),
        faults: faults.subscribe(),
        resets: resets.subscribe(),
        counters: Arc::default(),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    let (counters, tasks, stop) = (Arc::clone(&relay.counters), relay.tasks.clone(), relay.stop.clone());
    relay.tasks.clone().spawn(relay.accept(listener));
    Ok(RelayHandle { address, faults, resets, counters, tasks, _guard: stop.clone().drop_guard(), stop })
}

impl RelayHandle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Misbehaves like this from now on, also on open connections.
    pub fn set_faults(&self, faults: RelayFaults) {
        self.faults.send_replace(faults);
    }

    /// How it misbehaves now.
    #[must_use]
    pub fn faults(&self) -> RelayFaults {
        self.faults.borrow().clone()
    }

    /// Resets every open connection, on both sides.
    pub fn reset_connections(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }

    /// What passed so far.
    #[must_use]
    pub fn counts(&self) -> RelayCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RelayCounts {
            connections: load(&self.counters.connections),
            refused: load(&self.counters.refused),
            cut: load(&self.counters.cut),
            bytes_up: load(&self.counters.bytes_up),
            bytes_down: load(&self.counters.bytes_down),
        }
    }

    /// Ends it and waits until its port is free.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Relay {
    async fn accept(self, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((client, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let permit = if self.faults.borrow().refuse { None } else { Arc::clone(&permits).try_acquire_owned().ok() };
            let Some(permit) = permit else {
                self.refuse(&client);
                continue;
            };
            let relay = self.clone();
            self.tasks.spawn(async move {
                relay.connection(client).await;
                drop(permit);
            });
        }
    }

    fn refuse(&self, client: &TcpStream) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        // It fails only on a socket that is already gone.
        let _ = client.set_zero_linger();
    }

    async fn connection(mut self, client: TcpStream) {
        let Ok(target) = TcpStream::connect(&*self.target).await else {
            self.refuse(&client);
            return;
        };
        // Where the option fails the connection still works, only slower.
        let _ = (client.set_nodelay(true), target.set_nodelay(true));
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.resets.mark_unchanged();
        let (mut client_read, mut client_write) = client.into_split();
        let (mut target_read, mut target_write) = target.into_split();
        let (mut up_faults, mut down_faults) = (self.faults.clone(), self.faults.clone());
        let counters = Arc::clone(&self.counters);
        let up = pump(&mut client_read, &mut target_write, &mut up_faults, &counters.bytes_up);
        let down = pump(&mut target_read, &mut client_write, &mut down_faults, &counters.bytes_down);
        let whole = tokio::select! {
            ends = async { tokio::try_join!(up, down) } => ends.is_ok(),
            _ = self.resets.changed() => false,
            () = self.stop.cancelled() => true,
        };
        if !whole {
            self.counters.cut.fetch_add(1, Ordering::Relaxed);
            // They fail only on sockets that are already gone.
            let _ = (client_write.as_ref().set_zero_linger(), target_write.as_ref().set_zero_linger());
            // A half that is dropped closes its direction cleanly, and the peer would see an end instead of a reset.
            client_write.forget();
            target_write.forget();
        }
    }
}

/// Why a connection is cut.
struct Cut;

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Self {
        Self
    }
}

async fn not_stalled(faults: &mut watch::Receiver<RelayFaults>) -> Result<RelayFaults, Cut> {
    faults.wait_for(|faults| !faults.stalled).await.map(|faults| faults.clone()).map_err(|_| Cut)
}

async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    faults: &mut watch::Receiver<RelayFaults>,
    passed: &AtomicU64,
) -> Result<(), Cut> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut moved = 0_u64;
    loop {
        not_stalled(faults).await?;
        let n = from.read(&mut chunk).await?;
        // It may have been told to stall while it waited for these bytes.
        let now = not_stalled(faults).await?;
        if n == 0 {
            to.shutdown().await?;
            return Ok(());
        }
        let n_u64 = u64::try_from(n).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_millis(now.delay_ms)).await;
        if let Some(rate) = now.bytes_per_second {
            tokio::time::sleep(Duration::from_secs_f64(n_u64 as f64 / rate.max(1) as f64)).await;
        }
        if let Some(before) =
            now.stall_after_bytes.map(|stall| stall.saturating_sub(moved)).filter(|room| *room < n_u64)
        {
            let part = usize::try_from(before).unwrap_or(n);
            to.write_all(&chunk[..part]).await?;
            passed.fetch_add(before, Ordering::Relaxed);
            let on = |faults: &RelayFaults| faults.stall_after_bytes.is_none_or(|stall| stall >= moved + n_u64);
            faults.wait_for(on).await.map_err(|_| Cut)?;
            to.write_all(&chunk[part..n]).await?;
            moved += n_u64;
            passed.fetch_add(n_u64 - before, Ordering::Relaxed);
            continue;
        }
        let allowed = now.cut_after_bytes.map_or(n_u64, |cut| cut.saturating_sub(moved).min(n_u64));
        let part = usize::try_from(allowed).unwrap_or(n);
        to.write_all(&chunk[..part]).await?;
        moved += allowed;
        passed.fetch_add(allowed, Ordering::Relaxed);
        if allowed < n_u64 {
            to.flush().await?;
            return Err(Cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    /// A server that sends back what it gets.
    async fn echo() -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind(SocketAddr::from(LOOPBACK)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        (address, task)
    }

    async fn relay() -> (RelayHandle, TcpStream) {
        let (target, _) = echo().await;
        let relay = start(SocketAddr::from(LOOPBACK), &target.to_string()).await.unwrap();
        let stream = TcpStream::connect(relay.address()).await.unwrap();
        (relay, stream)
    }

    async fn round_trip(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        Ok(back)
    }

    #[tokio::test]
    async fn bytes_pass_unchanged_and_are_counted() {
        let (relay, mut stream) = relay().await;
        assert_eq!(round_trip(&mut stream, b"hello").await.unwrap(), b"hello");
        let counts = relay.counts();
        assert_eq!((counts.connections, counts.bytes_up, counts.bytes_down), (1, 5, 5));
    }

    #[tokio::test]
    async fn a_delay_holds_bytes_back_in_each_direction() {
        let (relay, mut stream) = relay().await;
        relay.set_faults(RelayFaults { delay_ms: 60, ..RelayFaults::default() });
        let started = Instant::now();
        round_trip(&mut stream, b"hello").await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(120), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_narrow_relay_takes_its_time() {
        let (relay, mut stream) = relay().await;
        relay.set_faults(RelayFaults { bytes_per_second: Some(10_000), ..RelayFaults::default() });
        let started = Instant::now();
        round_trip(&mut stream, &[7; 1_000]).await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_cut_lets_exactly_so_many_bytes_pass() {
        let (relay, mut stream) = relay().await;
        relay.set_faults(RelayFaults { cut_after_bytes: Some(3), ..RelayFaults::default() });
        let error = round_trip(&mut stream, b"hello").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!((relay.counts().bytes_up, relay.counts().cut), (3, 1));
    }

    #[tokio::test]
    async fn a_stall_lets_exactly_so_many_bytes_pass_and_the_rest_once_it_is_over() {
        let (relay, mut stream) = relay().await;
        relay.set_faults(RelayFaults { stall_after_bytes: Some(3), ..RelayFaults::default() });
        stream.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back[..3]).await.unwrap();
        assert!(timeout(Duration::from_millis(150), stream.read_exact(&mut back[3..])).await.is_err());
        assert_eq!(relay.counts().bytes_up, 3);
        relay.set_faults(RelayFaults::default());
        stream.read_exact(&mut back[3..]).await.unwrap();
        assert_eq!(&back, b"hello");
    }

    #[tokio::test]
    async fn a_stalled_relay_holds_everything_until_it_goes_on() {
        let (relay, mut stream) = relay().await;
        relay.set_faults(RelayFaults { stalled: true, ..RelayFaults::default() });
        stream.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        assert!(timeout(Duration::from_millis(150), stream.read_exact(&mut back)).await.is_err());
        relay.set_faults(RelayFaults::default());
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
    }

    #[tokio::test]
    async fn a_refusing_relay_resets_new_connections_and_a_reset_ends_old_ones() {
        let (relay, mut stream) = relay().await;
        round_trip(&mut stream, b"hello").await.unwrap();
        relay.set_faults(RelayFaults { refuse: true, ..RelayFaults::default() });
        let mut refused = TcpStream::connect(relay.address()).await.unwrap();
        assert!(round_trip(&mut refused, b"hello").await.is_err());
        assert_eq!(round_trip(&mut stream, b"still").await.unwrap(), b"still");
        relay.reset_connections();
        let mut end = [0; 1];
        assert_eq!(stream.read(&mut end).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
