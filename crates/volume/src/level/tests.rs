use super::*;

fn at(generation: u64, sequence: u64) -> ChunkState {
    ChunkState { chunk: 0, position: Position { generation, sequence }, rebuilding: false, damaged: false }
}

fn rebuilding(generation: u64, sequence: u64) -> ChunkState {
    ChunkState { rebuilding: true, ..at(generation, sequence) }
}

#[test]
fn the_longest_whole_history_survives() {
    type Row<'a> = (&'a str, &'a [ChunkState], Option<(u64, u64)>);
    let table: &[Row] = &[
        ("nothing was ever written", &[at(0, 0), at(0, 0), at(0, 0)], Some((0, 0))),
        ("all alike", &[at(3, 9), at(3, 9), at(3, 9)], Some((3, 9))),
        ("one is a write ahead", &[at(3, 9), at(3, 10), at(3, 9)], Some((3, 10))),
        ("one is behind", &[at(3, 9), at(3, 7)], Some((3, 9))),
        ("a newer generation beats a longer history", &[at(3, 90), at(4, 12)], Some((4, 12))),
        ("a rebuilding replica never counts", &[rebuilding(5, 99), at(4, 12)], Some((4, 12))),
        ("an empty one against a written one", &[at(0, 0), at(1, 1)], Some((1, 1))),
        ("only rebuilding ones: wait", &[rebuilding(5, 99), rebuilding(5, 98)], None),
        ("nobody answered: wait", &[], None),
    ];
    for (name, claims, expected) in table {
        let expected = expected.map(|(generation, sequence)| Position { generation, sequence });
        assert_eq!(survivor(claims), expected, "{name}");
        let mut reversed = claims.to_vec();
        reversed.reverse();
        assert_eq!(survivor(&reversed), expected, "{name}, in another order");
    }
}

#[test]
fn a_returning_server_gets_the_log_or_pulls() {
    // Opened at (3, 10) by generation 4, which has given out 11..=20 and still holds 15..=20.
    let history = History { generation: 4, opened: Position { generation: 3, sequence: 10 }, log_base: 15, last: 20 };
    let table: &[(&str, ChunkState, Option<u64>)] = &[
        ("has all", at(4, 20), Some(21)),
        ("lacks what the log holds", at(4, 17), Some(18)),
        ("lacks exactly the log", at(4, 14), Some(15)),
        ("lost an acknowledged write", at(4, 13), None),
        ("stands where the volume was opened", at(3, 10), None),
        ("another history: unacknowledged leftovers of generation 3", at(3, 17), None),
        ("beyond what was given out", at(4, 21), None),
        ("a newer writer's", at(5, 15), None),
        ("in a rebuild", rebuilding(4, 20), None),
        ("empty", at(0, 0), None),
    ];
    for (name, claim, expected) in table {
        assert_eq!(resume_from(claim, &history), *expected, "{name}");
    }
    let fresh = History { log_base: 11, last: 12, ..history };
    assert_eq!(resume_from(&at(3, 10), &fresh), Some(11), "nothing was forgotten since the open");
    assert_eq!(resume_from(&at(3, 11), &fresh), None, "a leftover of generation 3 beyond the survivor");
    let blank = History { generation: 1, opened: Position::default(), log_base: 1, last: 0 };
    assert_eq!(resume_from(&at(0, 0), &blank), Some(1), "an empty chunk");
}
