//! What two observers know of one member, made one. Query services start and end at different times and lose sight of
//! different nodes, so each has a part of the history; the union is the membership log.
//!
//! Both histories are laid out as moments, and folded anew: who saw a member after its end saw it return, except that a
//! boot which has said farewell does not come back. The order of the two does not matter, and to make a union twice
//! changes nothing, so that observers may learn from each other in any order and again and again.

use std::collections::BTreeSet;

use lariat_schema::ids::BootId;
use lariat_schema::time_range::NANOS_PER_SECOND;

use super::{End, EndedBy, MAX_TENURES, Member, Tenure};

/// How far the clocks of two observers may lie apart.
const SKEW_NANOS: i64 = 5 * NANOS_PER_SECOND;

/// Moments of a history, in the order in which they count when they are at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Ended(EndedBy),
    Began,
    /// The end of a tenure without length.
    EndedAtOnce(EndedBy),
    Seen(Option<BootId>),
}

/// The union.
pub(super) fn union(left: &Member, right: &Member) -> Member {
    let mut moments: Vec<(i64, Moment)> = moments(left).chain(moments(right)).collect();
    moments.sort_unstable();
    let farewells: BTreeSet<BootId> = [left, right].into_iter().filter_map(farewell_boot).collect();
    let mut tenures: Vec<Tenure> = Vec::new();
    for (at, moment) in moments {
        let open = tenures.last_mut().filter(|tenure| tenure.end.is_none());
        match (moment, open) {
            (Moment::Began, None) => tenures.push(Tenure { from_unix_nanos: at, end: None }),
            (Moment::Ended(by) | Moment::EndedAtOnce(by), Some(open)) => {
                open.end = Some(End { at_unix_nanos: at, by });
            }
            (Moment::Seen(boot), None) => {
                let end = tenures.last().and_then(|tenure| tenure.end);
                if let Some(end) = end.filter(|end| returned(*end, at, boot, &farewells)) {
                    tenures.push(Tenure { from_unix_nanos: end.at_unix_nanos, end: None });
                }
            }
            (Moment::Began | Moment::Seen(_), Some(_)) | (Moment::Ended(_) | Moment::EndedAtOnce(_), None) => {}
        }
    }
    while tenures.len() > MAX_TENURES {
        let oldest = tenures.remove(0);
        tenures[0].from_unix_nanos = oldest.from_unix_nanos;
    }
    let (older, newer) = if key(left) <= key(right) { (left, right) } else { (right, left) };
    let address = if newer.address.is_empty() { older.address.clone() } else { newer.address.clone() };
    Member { address, tenures, ..newer.clone() }
}

/// Who knows more lately; of two that know the same, either.
fn key(member: &Member) -> (i64, bool, Option<BootId>, &str, &str, &str) {
    let lost = member.lost_unix_nanos.is_some();
    (
        member.last_seen_unix_nanos,
        lost,
        member.boot_id,
        member.node_id.as_str(),
        member.region.as_str(),
        &member.address,
    )
}

fn moments(member: &Member) -> impl Iterator<Item = (i64, Moment)> {
    let of_tenure = |tenure: &Tenure| {
        let end = tenure.end.map(|end| {
            let at_once = end.at_unix_nanos <= tenure.from_unix_nanos;
            (end.at_unix_nanos, if at_once { Moment::EndedAtOnce(end.by) } else { Moment::Ended(end.by) })
        });
        [Some((tenure.from_unix_nanos, Moment::Began)), end].into_iter().flatten()
    };
    let seen = (member.last_seen_unix_nanos, Moment::Seen(member.boot_id));
    member.tenures.iter().flat_map(of_tenure).chain([seen])
}

fn farewell_boot(member: &Member) -> Option<BootId> {
    member.boot_id.filter(|_| member.ended().is_some_and(|end| end.by == EndedBy::Farewell))
}

/// Whether who was seen at a moment after an end has come back.
fn returned(end: End, at: i64, boot: Option<BootId>, farewells: &BTreeSet<BootId>) -> bool {
    let later = at > end.at_unix_nanos.saturating_add(SKEW_NANOS);
    match end.by {
        EndedBy::Farewell => later && boot.is_some_and(|boot| !farewells.contains(&boot)),
        EndedBy::Operator | EndedBy::Age => later,
    }
}

#[cfg(test)]
mod tests {
    use lariat_schema::ids::StoreId;
    use proptest::prelude::*;

    use super::*;

    const S: i64 = NANOS_PER_SECOND;

    fn boot(number: u8) -> Option<BootId> {
        Some(BootId::from_bytes([number; 16]))
    }

    fn member(tenures: &[(i64, Option<(i64, EndedBy)>)], last_seen: i64, boot_id: Option<BootId>) -> Member {
        let tenure = |(from, end): &(i64, Option<(i64, EndedBy)>)| Tenure {
            from_unix_nanos: from * S,
            end: end.map(|(at, by)| End { at_unix_nanos: at * S, by }),
        };
        Member {
            store_id: StoreId(uuid::Uuid::nil()),
            node_id: "lariat@a".into(),
            region: "local".into(),
            address: "a:1".to_owned(),
            last_seen_unix_nanos: last_seen * S,
            boot_id,
            lost_unix_nanos: None,
            tenures: tenures.iter().map(tenure).collect(),
        }
    }

    fn of_union(left: &Member, right: &Member) -> Vec<(i64, Option<(i64, EndedBy)>)> {
        let tenures = union(left, right).tenures;
        tenures
            .iter()
            .map(|tenure| (tenure.from_unix_nanos / S, tenure.end.map(|end| (end.at_unix_nanos / S, end.by))))
            .collect()
    }

    #[test]
    fn a_farewell_that_one_of_two_heard_is_one_also_when_the_other_saw_the_boot_a_moment_later() {
        let heard = member(&[(0, Some((100, EndedBy::Farewell)))], 99, boot(1));
        let absent = member(&[(0, None)], 99, boot(1));
        let late = member(&[(0, None)], 107, boot(1));
        for other in [absent, late] {
            assert_eq!(of_union(&heard, &other), [(0, Some((100, EndedBy::Farewell)))]);
        }
        let returned = member(&[(0, None)], 207, boot(2));
        assert_eq!(of_union(&heard, &returned), [(0, Some((100, EndedBy::Farewell))), (100, None)]);
    }

    #[test]
    fn who_lost_sight_of_a_node_that_the_other_sees_does_not_end_it() {
        let lost = member(&[(0, Some((100, EndedBy::Age)))], 10, boot(1));
        let sees = member(&[(0, None)], 500, boot(1));
        let expected = union(&lost, &sees).expected();
        assert!(expected.iter().any(|range| range.to_unix_nanos == i64::MAX), "{expected:?}");
        assert_eq!(expected.iter().map(|range| range.from_unix_nanos).min(), Some(0));
        assert_eq!(expected[0].to_unix_nanos, expected[1].from_unix_nanos, "no time between them is unexpected");
        let did_not = member(&[(0, None)], 103, boot(1));
        assert!(union(&lost, &did_not).ended().is_some());
    }

    /// A life of boots, each with its beginning and end and whether it said farewell.
    fn life() -> impl Strategy<Value = Vec<(i64, i64, bool)>> {
        prop::collection::vec((10_i64..50, 10_i64..50, any::<bool>()), 1..6).prop_map(|steps| {
            let mut at = 0;
            steps
                .into_iter()
                .map(|(lives, pause, farewell)| {
                    let from = at;
                    at += lives + pause;
                    (from, from + lives, farewell)
                })
                .collect()
        })
    }

    /// What somebody knows who looked from one moment to another.
    fn observed(life: &[(i64, i64, bool)], from: i64, to: i64) -> Option<Member> {
        let mut tenures: Vec<(i64, Option<(i64, EndedBy)>)> = Vec::new();
        let (mut last_seen, mut boot_id) = (0, None);
        for (number, (began, ended, farewell)) in life.iter().enumerate() {
            if *ended < from || *began > to {
                continue;
            }
            (last_seen, boot_id) = ((*ended - 1).min(to), boot(u8::try_from(number).unwrap()));
            // The first boot that a node still remembers is its first.
            if tenures.last().is_none_or(|(_, end)| end.is_some()) {
                tenures.push((*began, None));
            }
            if *farewell && *ended <= to {
                tenures.last_mut().unwrap().1 = Some((*ended, EndedBy::Farewell));
            }
        }
        (!tenures.is_empty()).then(|| member(&tenures, last_seen, boot_id))
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter_and_a_union_made_again_is_the_same(
            life in life(), a in 0_i64..400, b in 0_i64..400, c in 0_i64..400, d in 0_i64..400,
        ) {
            let (Some(left), Some(right)) = (observed(&life, a.min(b), a.max(b)), observed(&life, c.min(d), c.max(d)))
            else { return Ok(()) };
            let both = union(&left, &right);
            prop_assert_eq!(&both, &union(&right, &left));
            prop_assert_eq!(&both, &union(&both, &left));
            prop_assert_eq!(&both, &union(&both, &right));
            prop_assert_eq!(&both, &union(&both, &both));
        }

        #[test]
        fn whoever_saw_everything_learns_nothing_from_one_who_saw_a_part(life in life(), a in 0_i64..400, b in 0_i64..400) {
            let all = observed(&life, 0, 10_000).unwrap();
            let Some(part) = observed(&life, a.min(b), a.max(b)) else { return Ok(()) };
            prop_assert_eq!(union(&all, &part), all);
        }
    }
}
