//! Leaders and followers, in every order.

use super::*;
use lariat_schema::vocabulary::Strategy;
use proptest::prelude::*;

fn parts(params: &str) -> Parts {
    Parts {
        chain_at: 0,
        strategy: Strategy::Priority,
        transport: None,
        pin: None,
        method: "eth_call",
        params: Some(Bytes::copy_from_slice(params.as_bytes())),
    }
}

fn key(params: &str) -> Key {
    Key::new(parts(params), 1)
}

fn leader<'f, T>(flights: &'f Flights<T>, params: &str) -> Leader<'f, T> {
    match flights.join(key(params)) {
        Joined::Leader(leader) => leader,
        Joined::Follower(_) | Joined::Alone => panic!("no leader"),
    }
}

fn follower<T>(flights: &Flights<T>, params: &str) -> Follower<T> {
    match flights.join(key(params)) {
        Joined::Follower(follower) => follower,
        Joined::Leader(_) | Joined::Alone => panic!("no follower"),
    }
}

#[test]
fn a_call_differs_by_every_part_of_it() {
    let usual = parts("[1]");
    let others = [
        Parts { chain_at: 1, ..usual.clone() },
        Parts { strategy: Strategy::Fastest, ..usual.clone() },
        Parts { transport: Some(Transport::Http), ..usual.clone() },
        Parts { pin: Some(0), ..usual.clone() },
        Parts { method: "eth_getLogs", ..usual.clone() },
        Parts { params: None, ..usual.clone() },
        parts("[1] "),
    ];
    for other in others {
        assert_ne!(Key::new(other.clone(), 1), Key::new(usual.clone(), 1), "{other:?}");
        assert_ne!(Key::new(other.clone(), 1).hash, Key::new(usual.clone(), 1).hash, "{other:?}");
    }
    assert_eq!(Key::new(usual.clone(), 1), Key::new(usual, 1));
}

#[test]
fn calls_of_one_hash_are_not_taken_for_each_other() {
    let flights = Flights::<u32>::default();
    let collides = |params| Key { hash: 7, parts: parts(params) };
    let first = flights.join(collides("[1]"));
    let second = flights.join(collides("[2]"));
    assert!(matches!((first, second), (Joined::Leader(_), Joined::Leader(_))));
}

#[tokio::test]
async fn followers_get_the_leaders_answer_and_later_calls_lead_anew() {
    let flights = Flights::default();
    let leads = leader(&flights, "[1]");
    let (first, second) = (follower(&flights, "[1]"), follower(&flights, "[1]"));
    leads.finish(|| 5);
    assert_eq!((first.outcome().await, second.outcome().await), (Some(5), Some(5)));
    drop(leader(&flights, "[1]"));
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_not_made() {
    let flights = Flights::<u32>::default();
    leader(&flights, "[1]").finish(|| unreachable!("nobody follows"));
    let leads = leader(&flights, "[1]");
    drop(follower(&flights, "[1]"));
    leads.finish(|| unreachable!("nobody follows any more"));
    assert!(flights.shards.iter().all(|shard| shard.lock().is_empty()));
}

#[tokio::test]
async fn a_leader_that_is_dropped_lets_its_followers_go_on_at_once() {
    let flights = Flights::<u32>::default();
    let leads = leader(&flights, "[1]");
    let follows = follower(&flights, "[1]");
    let waiting = tokio::spawn(async move { follows.outcome().await });
    tokio::task::yield_now().await;
    drop(leads);
    assert_eq!(waiting.await.unwrap(), None);
}

#[tokio::test]
async fn a_displaced_leader_ends_for_its_own_followers_and_leaves_the_next_one_alone() {
    let flights = Flights::default();
    let stuck = leader(&flights, "[1]");
    let follows = follower(&flights, "[1]");
    flights.displace(&key("[1]"), &follows);
    let next = leader(&flights, "[1]");
    flights.displace(&key("[1]"), &follows);
    let follows_next = follower(&flights, "[1]");
    stuck.finish(|| 1);
    assert_eq!(follows.outcome().await, Some(1));
    drop(follower(&flights, "[1]"));
    next.finish(|| 2);
    assert_eq!(follows_next.outcome().await, Some(2));
    assert!(flights.shards.iter().all(|shard| shard.lock().is_empty()));
}

#[test]
fn what_finds_no_room_goes_alone() {
    let flights = Flights::<u32>::default();
    let _leads = leader(&flights, "[1]");
    let followers: Vec<_> = (0..MAX_FOLLOWERS).map(|_| follower(&flights, "[1]")).collect();
    assert!(matches!(flights.join(key("[1]")), Joined::Alone));
    drop(followers);
    assert!(matches!(flights.join(key("[1]")), Joined::Follower(_)));
    let full = Flights::<u32>::default();
    let same_shard = |n: usize| Key { hash: 0, parts: Parts { chain_at: n, ..parts("[1]") } };
    let _leaders: Vec<_> = (0..MAX_LEADERS_PER_SHARD).map(|n| full.join(same_shard(n))).collect();
    assert!(matches!(full.join(same_shard(MAX_LEADERS_PER_SHARD)), Joined::Alone));
    assert!(matches!(full.join(same_shard(0)), Joined::Follower(_)));
}

/// What a simulated call does; times are turns of the scheduler, so that every run of a story is the same.
#[derive(Debug, Clone, Copy)]
struct Story {
    params: u8,
    arrives: u32,
    /// How long it takes if it leads.
    takes: u32,
    /// When its client goes away, if it does.
    leaves: Option<u32>,
    /// Whether it ends without anything to share.
    fails: bool,
}

prop_compose! {
    fn story()(
        params in 0u8..3, arrives in 0u32..20, takes in 1u32..20, leaves in proptest::option::of(0u32..30),
        fails in proptest::bool::weighted(0.2),
    ) -> Story {
        Story { params, arrives, takes, leaves, fails }
    }
}

async fn turns(turns: u32) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// One call as the engine makes it: it joins until it has an answer, and asks by itself where it must.
async fn make(flights: &Flights<u8>, story: Story) -> u8 {
    loop {
        match flights.join(key(&story.params.to_string())) {
            Joined::Leader(leads) => {
                turns(story.takes).await;
                if !story.fails {
                    leads.finish(|| story.params);
                }
                return story.params;
            }
            Joined::Follower(follows) => {
                if let Some(answer) = follows.outcome().await {
                    return answer;
                }
            }
            Joined::Alone => return story.params,
        }
    }
}

proptest! {
    #[test]
    fn no_call_is_lost_and_none_gets_the_answer_to_another(stories in proptest::collection::vec(story(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let flights = Arc::new(Flights::default());
            let calls: Vec<_> = stories.iter().map(|story| {
                let (flights, story) = (flights.clone(), *story);
                tokio::spawn(async move {
                    turns(story.arrives).await;
                    let leaves = async {
                        match story.leaves {
                            Some(leaves) => turns(leaves).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        answer = make(&flights, story) => Some(answer),
                        () = leaves => None,
                    }
                })
            }).collect();
            for (call, story) in calls.into_iter().zip(&stories) {
                match call.await.unwrap() {
                    Some(answer) => assert_eq!(answer, story.params),
                    None => assert!(story.leaves.is_some(), "a call whose client stayed got no answer"),
                }
            }
            assert!(flights.shards.iter().all(|shard| shard.lock().is_empty()), "a leader's place was not given back");
        });
    }
}
