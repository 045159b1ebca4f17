//! The two ends: with a farewell to those under way, and without.

use tokio::sync::Semaphore;

use super::*;

/// Makes every request durable only when told.
struct Held {
    entered: Semaphore,
    released: Semaphore,
}

#[async_trait]
impl Ingest for Held {
    async fn ingest(&self, decoded: Decoded) -> Result<Committed, Refused> {
        self.entered.add_permits(1);
        self.released.acquire().await.unwrap().forget();
        Ok(Committed { accepted: decoded.batch.num_rows() as u64, deduplicated: 0 })
    }
}

async fn holding() -> (Receiver, Arc<Held>, tokio::task::JoinHandle<Result<(), tonic::Status>>) {
    let ingest = Arc::new(Held { entered: Semaphore::new(0), released: Semaphore::new(0) });
    let receiver = start(config(), Arc::clone(&ingest) as Arc<dyn Ingest>, None).await.unwrap();
    let mut client = client(&receiver).await;
    let call = tokio::spawn(async move { client.export(request(vec![span(0, "x")])).await.map(|_| ()) });
    ingest.entered.acquire().await.unwrap().forget();
    (receiver, ingest, call)
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_receiver_ends() {
    let (receiver, ingest, call) = holding().await;
    assert!(receiver.in_flight_bytes() > 0);
    let (address, counters) = (receiver.grpc_address(), receiver.counters());
    let ending = tokio::spawn(receiver.shutdown(Duration::from_secs(30)));
    for _ in 0..300 {
        if tokio::net::TcpStream::connect(address).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "a connection was accepted after the end began");
    assert!(!call.is_finished());
    ingest.released.add_permits(1);
    call.await.unwrap().unwrap();
    assert!(ending.await.unwrap());
    assert_eq!(counters.counts().requests, 1);
}

#[tokio::test]
async fn a_request_that_outlasts_the_deadline_is_dropped_and_the_end_says_so() {
    let (receiver, _ingest, call) = holding().await;
    let counters = receiver.counters();
    assert!(!receiver.shutdown(Duration::from_millis(50)).await);
    assert!(call.await.unwrap().is_err());
    assert_eq!(counters.counts().requests, 0);
}

#[tokio::test]
async fn more_connections_than_allowed_are_closed_and_counted() {
    let one = Config { max_connections: 1, ..config() };
    let receiver = start(one, Arc::new(Collecting::default()), None).await.unwrap();
    let _first = client(&receiver).await;
    let mut refused = false;
    for _ in 0..300 {
        let mut second = tokio::net::TcpStream::connect(receiver.http_address()).await.unwrap();
        let mut byte = [0; 1];
        let read = tokio::io::AsyncReadExt::read(&mut second, &mut byte);
        refused = matches!(tokio::time::timeout(Duration::from_millis(100), read).await, Ok(Ok(0) | Err(_)));
        if refused {
            break;
        }
    }
    assert!(refused);
    assert!(receiver.counters().counts().refused_connections >= 1);
}
