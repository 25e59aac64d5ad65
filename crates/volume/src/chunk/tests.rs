use super::*;

fn chunk(required: u8, whole: u8) -> Chunk {
    let mut chunk = Chunk::new(&[1, 2, 3]);
    chunk.required = required;
    chunk.whole = whole;
    chunk
}

#[test]
pub(crate) fn only_whole_in_sync_replicas_count_and_all_of_them_must() {
    let table = [
        ("all three", 0b111, 0b111, 0b111, true),
        ("one has not answered", 0b111, 0b111, 0b011, false),
        ("the silent one is out of the set", 0b011, 0b111, 0b011, true),
        ("one answers while it still pulls", 0b111, 0b011, 0b111, false),
        ("a stale one's answer does not replace an in-sync one's", 0b011, 0b111, 0b101, false),
        ("one alone is never enough", 0b001, 0b111, 0b111, false),
        ("none", 0, 0b111, 0b111, false),
    ];
    for (name, required, whole, acked, expected) in table {
        assert_eq!(chunk(required, whole).complete(acked), expected, "{name}");
    }
}

#[test]
fn who_waits_for_whom() {
    let active = |class, sequenced: bool| Active { piece: 1, start: 4, end: 8, class, waiting: !sequenced, sequenced };
    let table = [
        ("replace after sent replace", Class::Replace, active(Class::Replace, true), false),
        ("replace after unsent replace", Class::Replace, active(Class::Replace, false), true),
        ("replace after unsent merge", Class::Replace, active(Class::Merge, false), true),
        ("replace after sent merge", Class::Replace, active(Class::Merge, true), false),
        ("merge after sent replace", Class::Merge, active(Class::Replace, true), true),
        ("merge after sent merge", Class::Merge, active(Class::Merge, true), true),
        ("read after sent replace", Class::Read, active(Class::Replace, true), true),
        ("read after unsent merge", Class::Read, active(Class::Merge, false), true),
        ("merge after waiting read", Class::Merge, active(Class::Read, false), false),
        ("read after waiting read", Class::Read, active(Class::Read, false), false),
    ];
    for (name, class, other, expected) in table {
        let mut chunk = chunk(0b111, 0b111);
        chunk.active.push(other);
        assert_eq!(chunk.conflicts(1, 7, 9, class), expected, "{name}");
        assert!(!chunk.conflicts(1, 8, 9, class), "{name}: neighbours do not overlap");
        assert!(!chunk.conflicts(0, 7, 9, class), "{name}: what came later does not count");
    }
}

#[test]
fn the_log_is_forgotten_from_the_front_only() {
    let mut chunk = chunk(0b111, 0b111);
    let payload = Payload {
        kind: Kind::Zero,
        layer: 1,
        block: 0,
        blocks: 1,
        body: Bytes::new(),
        data: Bytes::new(),
        durable: false,
    };
    for piece in 0..3 {
        let owner = Owner::Piece(piece);
        chunk.log.push_back(Mutation { payload: payload.clone(), owner, sent_at: 0, acked: 0, done: false });
    }
    let mut done = Vec::new();
    chunk.entry(2).unwrap().acked = 0b111;
    chunk.take_completed(&mut done);
    assert_eq!((done.as_slice(), chunk.log_base), (&[(Owner::Piece(1), 0)][..], 1));
    chunk.entry(1).unwrap().acked = 0b111;
    done.clear();
    chunk.take_completed(&mut done);
    assert_eq!((done.as_slice(), chunk.log_base, chunk.log.len()), (&[(Owner::Piece(0), 0)][..], 3, 1));
    assert!(chunk.entry(1).is_none() && chunk.entry(2).is_none() && chunk.entry(3).is_some());
}
