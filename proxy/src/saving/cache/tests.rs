//! The cache against a model chain that grows and is reorganised.

use super::super::cacheability::{cacheability, of_call};
use super::super::finality::{depth, final_height};
use super::*;
use crate::profiles;
use proptest::prelude::*;

const ROOM: u64 = 1 << 20;

fn catalog() -> profiles::Catalog {
    let text = "chains:\n  e: { chain_id: 4242, providers: [{ id: a, url: 'http://a' }] }\n  f: { chain_id: 1, providers: [{ id: a, url: 'http://a' }] }\n";
    profiles::parse("public", text, &|_| None).unwrap()
}

fn reply(result: &str) -> Reply {
    Reply::read(&Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#)), 1).unwrap()
}

fn params(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(cache: &Cache, chain: &CachedChain, asked: &str, result: &str) {
    let place = cache.find(chain, "eth_call", Some(&params(asked))).unwrap_err();
    cache.keep(place, &reply(result));
}

fn get(cache: &Cache, chain: &CachedChain, asked: &str) -> Option<Bytes> {
    cache.find(chain, "eth_call", Some(&params(asked))).ok().and_then(|reply| reply.result)
}

#[test]
fn an_answer_is_found_by_chain_method_and_every_byte_of_the_parameters() {
    let (cache, catalog) = (Cache::new(ROOM), catalog());
    let chains: Vec<_> = catalog.profiles[0].chains.iter().map(|chain| cache.chain(chain)).collect();
    put(&cache, &chains[0], "[1]", "\"one\"");
    assert_eq!(get(&cache, &chains[0], "[1]").as_deref(), Some(&b"\"one\""[..]));
    assert_eq!(get(&cache, &chains[0], "[1] "), None);
    assert_eq!(get(&cache, &chains[1], "[1]"), None);
    assert!(cache.find(&chains[0], "eth_getCode", Some(&params("[1]"))).is_err());
    let figures = cache.figures();
    assert_eq!((figures.hits.load(Ordering::Relaxed), figures.misses.load(Ordering::Relaxed)), (1, 4));
}

#[test]
fn it_stays_within_its_bytes_and_keeps_nothing_that_would_fill_it() {
    let (cache, catalog) = (Cache::new(ROOM), catalog());
    let chain = cache.chain(&catalog.profiles[0].chains[0]);
    for n in 0..200 {
        put(&cache, &chain, &format!("[{n}]"), &format!("\"{}\"", "x".repeat(20_000)));
    }
    let bytes = cache.bytes();
    assert!(bytes <= ROOM && bytes > ROOM / 2, "{bytes}");
    assert!(cache.figures().evictions.load(Ordering::Relaxed) > 0);
    put(&cache, &chain, "[\"large\"]", &format!("\"{}\"", "x".repeat(200_000)));
    assert_eq!(get(&cache, &chain, "[\"large\"]"), None);
}

#[test]
fn a_chain_that_falls_by_more_than_its_depth_is_forgotten_even_by_calls_under_way() {
    let (cache, catalog) = (Cache::new(ROOM), catalog());
    let chain = cache.chain(&catalog.profiles[0].chains[0]);
    cache.observe(&chain, 1_000);
    put(&cache, &chain, "[1]", "\"one\"");
    let under_way = cache.find(&chain, "eth_call", Some(&params("[2]"))).unwrap_err();
    cache.observe(&chain, 1_000 - depth(4_242) + 1);
    assert!(get(&cache, &chain, "[1]").is_some(), "what is younger than final is not kept anyway");
    cache.observe(&chain, 1_000 - depth(4_242));
    assert_eq!(get(&cache, &chain, "[1]"), None);
    cache.keep(under_way, &reply("\"two\""));
    assert_eq!(get(&cache, &chain, "[2]"), None);
    assert_eq!(cache.figures().purges.load(Ordering::Relaxed), 1);
}

/// What happens to the model chain, or is asked of it.
#[derive(Debug, Clone, Copy)]
enum Step {
    Grow(u64),
    /// The newest blocks are replaced by others, and one more.
    Reorganise(u64),
    /// Another network stands behind the name, which has hardly any block.
    Reset,
    Ask(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u64..100).prop_map(Step::Grow),
        (1u64..=64).prop_map(Step::Reorganise),
        Just(Step::Reset),
        (0u64..400).prop_map(Step::Ask),
        (0u64..400).prop_map(Step::Ask),
    ]
}

proptest! {
    #[test]
    fn whatever_the_chain_does_a_hit_is_what_a_provider_would_say(steps in proptest::collection::vec(step(), 1..150)) {
        let (cache, catalog) = (Cache::new(ROOM), catalog());
        let chain = cache.chain(&catalog.profiles[0].chains[0]);
        // The fork of each block: two blocks of one number and other forks are other blocks.
        let (mut blocks, mut fork) = (vec![0u32; 100], 0);
        for step in steps {
            match step {
                Step::Grow(by) => blocks.extend(std::iter::repeat_n(fork, usize::try_from(by).unwrap())),
                Step::Reorganise(depth) => {
                    fork += 1;
                    let kept = blocks.len().saturating_sub(usize::try_from(depth).unwrap());
                    blocks.iter_mut().skip(kept).for_each(|block| *block = fork);
                    blocks.push(fork);
                }
                Step::Reset => {
                    fork += 1;
                    blocks = vec![fork; blocks.len().saturating_sub(66).clamp(1, 70)];
                }
                Step::Ask(number) => {
                    let final_height = final_height(std::iter::once(blocks.len() as u64 - 1), 4_242);
                    let asked = params(&format!("[\"0x{number:x}\",false]"));
                    let method = "eth_getBlockByNumber";
                    if of_call(method, Some(&asked), final_height).is_none() {
                        continue;
                    }
                    let truth = format!("{{\"number\":\"0x{number:x}\",\"fork\":{}}}", blocks[usize::try_from(number).unwrap()]);
                    match cache.find(&chain, method, Some(&asked)) {
                        Ok(kept) => prop_assert_eq!(kept.result.as_deref(), Some(truth.as_bytes())),
                        Err(place) => {
                            if cacheability(method, Some(&asked), truth.as_bytes(), final_height).is_some() {
                                cache.keep(place, &reply(&truth));
                            }
                        }
                    }
                }
            }
            // A probe follows whatever happened.
            cache.observe(&chain, blocks.len() as u64 - 1);
        }
    }
}
