//! Connections against a provider that is a few lines of TCP, so that what it sends and when is known to the byte.

use std::sync::atomic::AtomicUsize;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn pair() -> (Box<Lane>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    (Lane::over(MaybeHttpsStream::Http(TokioIo::new(ours))).await.unwrap(), theirs)
}

fn request() -> Request<Body> {
    let request = Request::post("/").header("host", "provider");
    request.body(Full::new(Bytes::from_static(b"{}"))).unwrap()
}

/// Reads one request to its end.
async fn heard(theirs: &mut TcpStream) {
    let mut all = Vec::new();
    while !all.ends_with(b"\r\n\r\n{}") {
        assert_ne!(theirs.read_buf(&mut all).await.unwrap(), 0, "closed in the midst of a request");
    }
}

async fn exchange(lane: &mut Lane) -> Bytes {
    let response = lane.send(request()).await.map_err(|unsent| unsent.error).unwrap();
    lane.drive(response.into_body().collect()).await.unwrap().to_bytes()
}

#[tokio::test]
async fn one_connection_carries_one_call_after_the_other_and_each_is_woken_by_its_reply_alone() {
    let (mut lane, mut theirs) = pair().await;
    let provider = tokio::spawn(async move {
        for _ in 0..50 {
            heard(&mut theirs).await;
            theirs.write_all(REPLY).await.unwrap();
        }
        theirs
    });
    let polls = AtomicUsize::new(0);
    for _ in 0..50 {
        let mut exchange = Box::pin(exchange(&mut lane));
        let body = poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            exchange.as_mut().poll(cx)
        });
        assert_eq!(body.await, "ok");
        drop(exchange);
        assert!(lane.is_free());
    }
    // One to send, one to receive; a few more where the system wakes for nothing, or one half at a time.
    let polls = polls.into_inner();
    assert!((100..120).contains(&polls), "{polls} polls for 50 calls");
    provider.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_gives_the_request_back_unwritten() {
    let (mut lane, mut theirs) = pair().await;
    let (sent, ()) = tokio::join!(exchange(&mut lane), async {
        heard(&mut theirs).await;
        theirs.write_all(REPLY).await.unwrap();
    });
    assert_eq!(sent, "ok");
    assert!(lane.is_free());
    drop(theirs);
    let unsent = loop {
        // Until the system has told of the end, the connection is taken to stand.
        match lane.connection.as_mut().map(|it| Pin::new(it).poll(&mut Context::from_waker(Waker::noop()))) {
            Some(Poll::Pending) => tokio::task::yield_now().await,
            _ => break lane.send(request()).await.unwrap_err(),
        }
    };
    assert!(unsent.request.is_some() && !lane.is_free());
}

#[tokio::test]
async fn a_reply_that_comes_in_single_bytes_is_read_to_its_end() {
    let (mut lane, mut theirs) = pair().await;
    let (body, ()) = tokio::join!(exchange(&mut lane), async {
        heard(&mut theirs).await;
        for byte in REPLY {
            theirs.write_all(std::slice::from_ref(byte)).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(body, "ok");
    assert!(lane.is_free());
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_midst_of_a_reply_is_an_error_and_not_used_again() {
    for cut in [0, 20, REPLY.len() - 1] {
        let (mut lane, mut theirs) = pair().await;
        let got = tokio::join!(
            async {
                match lane.send(request()).await {
                    Ok(response) => lane.drive(response.into_body().collect()).await.is_ok(),
                    Err(unsent) => unsent.request.is_some(),
                }
            },
            async {
                heard(&mut theirs).await;
                theirs.write_all(&REPLY[..cut]).await.unwrap();
                drop(theirs);
            }
        );
        assert!(!got.0, "{cut}");
        assert!(!lane.is_free(), "{cut}");
    }
}

#[tokio::test]
async fn what_happens_on_another_thread_while_the_task_is_at_work_wakes_it_afterwards() {
    let gate = Arc::new(Gate::default());
    let woken = Arc::new(Gate::default());
    let task = Waker::from(woken.clone());
    gate.shut(&task);
    gate.wake_by_ref();
    assert!(!woken.woken.load(Ordering::SeqCst), "while it is at work it sees for itself");
    gate.open();
    assert!(woken.woken.swap(false, Ordering::SeqCst));
    gate.wake_by_ref();
    assert!(!woken.woken.swap(false, Ordering::SeqCst), "a task that was woken once is asked for anew");
    gate.shut(&task);
    gate.woken.store(false, Ordering::SeqCst);
    gate.leave();
    gate.wake_by_ref();
    assert!(!woken.woken.load(Ordering::SeqCst), "and one that has what it wanted never");
}
