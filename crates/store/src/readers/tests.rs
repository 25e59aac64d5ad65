use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Blocks that the cases play with; they are spread over words and groups.
const SPOTS: [u16; 6] = [0, 1, 63, 64, 5000, 16383];

/// What a layer has of each spot: 0 nothing, 1 zeros, 2 data, 3 a lost entry.
type Have = Vec<(LayerId, [u8; 6])>;

fn presences(have: &Have) -> Vec<Presence> {
    let mut all: Vec<Presence> = Vec::new();
    for (layer, spots) in have {
        let mut presence = Presence { layer: *layer, ..Presence::default() };
        for (block, what) in SPOTS.iter().zip(spots) {
            let bits = match what {
                0 => continue,
                1 => [true, true, false],
                2 => [true, true, true],
                _ => [true, false, false],
            };
            let of = [&mut presence.there, &mut presence.known, &mut presence.data];
            of.into_iter().zip(bits).filter(|(_, set)| *set).for_each(|(of, _)| of.set(*block));
        }
        all.push(presence);
    }
    all
}

fn what(have: &Have, layer: LayerId, spot: usize) -> u8 {
    have.iter().find(|(of, _)| *of == layer).map_or(0, |(_, spots)| spots[spot])
}

/// The way from a layer to the root.
fn way(parents: &[LayerId], layer: LayerId) -> Vec<LayerId> {
    let mut way = vec![layer];
    while *way.last().unwrap() != 0 {
        way.push(parents[*way.last().unwrap() as usize]);
    }
    way
}

/// Every layer that a read as of `layer` may look at for the spot: down to the first entry that is known.
fn looks_at(parents: &[LayerId], have: &Have, layer: LayerId, spot: usize) -> Vec<LayerId> {
    let way = way(parents, layer);
    let end = way.iter().position(|of| matches!(what(have, *of, spot), 1 | 2)).map_or(way.len(), |at| at + 1);
    way[..end].iter().copied().filter(|of| what(have, *of, spot) != 0).collect()
}

fn shown(parents: &[LayerId], have: &Have, layer: LayerId, spot: usize) -> Option<LayerId> {
    way(parents, layer).into_iter().find(|of| what(have, *of, spot) != 0)
}

fn cases() -> impl Strategy<Value = (Vec<LayerId>, Vec<bool>, Have)> {
    (1usize..12).prop_flat_map(|layers| {
        let parents = (1..layers).map(|layer| 0..layer as LayerId).collect::<Vec<_>>();
        let spots = || prop_oneof![4 => Just(0u8), 1 => Just(1u8), 4 => Just(2u8), 1 => Just(3u8)];
        let have = vec(prop::option::of([spots(), spots(), spots(), spots(), spots(), spots()]), layers);
        (parents, vec(any::<bool>(), layers), have).prop_map(|(above, live, have)| {
            let parents = std::iter::once(0).chain(above).collect();
            let have = (0..).zip(have).filter_map(|(layer, spots)| spots.map(|spots| (layer, spots))).collect();
            (parents, live, have)
        })
    })
}

proptest! {
    #[test]
    fn freed_is_exactly_what_no_live_layer_looks_at((parents, live, have) in cases()) {
        let lively: Vec<LayerId> = (0..).zip(&live).filter(|(_, live)| **live).map(|(layer, _)| layer).collect();
        let question = Question::new(&parents, &lively).unwrap();
        let freed = free(&question, &presences(&have));
        for (layer, spots) in &have {
            for (spot, block) in SPOTS.iter().enumerate() {
                let read = lively.iter().any(|of| looks_at(&parents, &have, *of, spot).contains(layer));
                let is_freed = freed.iter().filter(|freed| freed.layer == *layer).any(|freed| {
                    freed.runs.iter().any(|(first, blocks)| (*first..=*first + (*blocks - 1)).contains(block))
                });
                let due = spots[spot] != 0 && !read && !live[*layer as usize];
                prop_assert_eq!(is_freed, due, "layer {} block {}", layer, block);
            }
            let left = freed.iter().find(|freed| freed.layer == *layer).map(|freed| freed.all);
            let none_read = !live[*layer as usize]
                && (0..SPOTS.len()).all(|spot| {
                    spots[spot] == 0 || !lively.iter().any(|of| looks_at(&parents, &have, *of, spot).contains(layer))
                });
            prop_assert_eq!(left == Some(true), none_read);
        }
    }

    #[test]
    fn accounts_agree_with_counting_one_by_one((parents, live, mut have) in cases()) {
        // A lost entry is neither here nor there for a count.
        have.iter_mut().flat_map(|(_, spots)| spots).filter(|what| **what == 3).for_each(|what| *what = 2);
        let lively: Vec<LayerId> = (0..).zip(&live).filter(|(_, live)| **live).map(|(layer, _)| layer).collect();
        let question = Question::new(&parents, &lively).unwrap();
        let usage = account(&question, &presences(&have));
        for layer in 0..parents.len() as LayerId {
            let mut due = LayerUsage { layer, ..LayerUsage::default() };
            for spot in 0..SPOTS.len() {
                due.bytes += BLOCK * u64::from(what(&have, layer, spot) == 2);
                if !live[layer as usize] {
                    continue;
                }
                let own = shown(&parents, &have, layer, spot).filter(|of| what(&have, *of, spot) == 2);
                due.visible_bytes += BLOCK * u64::from(own.is_some());
                let alone = |of: &LayerId| lively.iter().all(|other| {
                    *other == layer || shown(&parents, &have, *other, spot) != Some(*of)
                });
                due.exclusive_bytes += BLOCK * u64::from(own.as_ref().is_some_and(alone));
            }
            let found = usage.iter().find(|of| of.layer == layer).copied();
            let none = LayerUsage { layer, ..LayerUsage::default() };
            prop_assert_eq!(found.unwrap_or(none), due);
        }
    }

    #[test]
    fn changes_are_where_the_owner_differs((parents, _, mut have) in cases(), picks in (0usize..12, 0usize..12)) {
        have.iter_mut().flat_map(|(_, spots)| spots).filter(|what| **what == 3).for_each(|what| *what = 1);
        let question = Question::new(&parents, &[]).unwrap();
        let (since, node) = ((picks.0 % parents.len()) as LayerId, (picks.1 % parents.len()) as LayerId);
        let found = changes(&question, &presences(&have), 9, (Some(since), node)).unwrap();
        let everything = changes(&question, &presences(&have), 9, (None, node)).unwrap();
        for (spot, block) in SPOTS.iter().enumerate() {
            let of = |ranges: &[ChangedRange]| {
                let within = |range: &&ChangedRange| (range.block..=range.block + (range.blocks - 1)).contains(block);
                ranges.iter().find(within).map(|range| range.data)
            };
            let (before, now) = (shown(&parents, &have, since, spot), shown(&parents, &have, node, spot));
            let data = now.is_some_and(|owner| what(&have, owner, spot) == 2);
            prop_assert_eq!(of(&found), (before != now).then_some(data));
            prop_assert_eq!(of(&everything), now.map(|_| data));
        }
        prop_assert!(found.iter().all(|range| range.chunk == 9));
    }
}

#[test]
fn layers_newer_than_the_question_are_left_alone() {
    let have: Have = vec![(0, [2; 6]), (1, [2; 6]), (2, [2; 6])];
    let question = Question::new(&[0, 0], &[1]).unwrap();
    let freed = free(&question, &presences(&have));
    assert_eq!(freed.iter().map(|freed| (freed.layer, freed.all)).collect::<Vec<_>>(), [(0, true)]);
    assert!(Question::new(&[0, 0], &[2]).is_none());
    assert!(Question::new(&[0, 5], &[1]).is_none());
}

#[test]
fn a_lost_entry_covers_nothing_and_is_no_answer() {
    // Layer 1 is dead; what the live layer 2 has at the first spot is lost here, so layer 1's may be what is shown.
    let have: Have = vec![(1, [2, 2, 0, 0, 0, 0]), (2, [3, 2, 0, 0, 0, 0])];
    let question = Question::new(&[0, 0, 1], &[2]).unwrap();
    let freed = free(&question, &presences(&have));
    assert_eq!((freed.len(), &freed[0].runs[..]), (1, &[(1, 1)][..]));
    assert_eq!(changes(&question, &presences(&have), 0, (None, 2)), Err(0));
}

#[test]
fn a_thousand_layers_are_settled_in_a_moment() {
    let parents: Vec<LayerId> = (0..1000u32).map(|layer| layer.saturating_sub(1)).collect();
    let have: Have = (0..1000).map(|layer| (layer, [2, 0, 2, u8::from(layer % 2 == 0) * 2, 0, 2])).collect();
    let question = Question::new(&parents, &[500, 999]).unwrap();
    let freed = free(&question, &presences(&have));
    let blocks: usize = freed.iter().flat_map(|freed| &freed.runs).map(|(_, blocks)| *blocks as usize).sum();
    assert_eq!(blocks, 3 * 998 + 500 - 2, "all but what 500 and 999 show");
    let usage = account(&question, &presences(&have));
    assert_eq!(usage.iter().map(|of| of.exclusive_bytes).sum::<u64>(), 8 * BLOCK);
}
