//! When a move may be written into the placement: the rules of `yuntai/pangu/moves.py` and `yuntai/pangu/commits.py`.
//! (Each server is a rack of its own here, and all are registered and admitted.)

use yuntai_proto::control::{EventAnswer, Move};
use yuntai_proto::{ServerId, VolumeId};

use crate::master::{Master, Record};

impl Master {
    /// Write the moves that may be: one transaction. A move that is in the placement already is done.
    pub fn commit_moves(&mut self, volume: VolumeId, moves: &[Move]) -> EventAnswer {
        let draining = self.draining;
        let record = self.records.get_mut(&volume).expect("the volume exists");
        let mut done = Vec::new();
        let mut changed = false;
        for one in moves {
            let replicas = &mut record.placement[one.chunk as usize];
            if replicas.contains(&one.to) && !replicas.contains(&one.from) {
                done.push(*one);
            } else if may_move(replicas, &record.stale, draining, one) {
                replicas.iter_mut().filter(|server| **server == one.from).for_each(|server| *server = one.to);
                done.push(*one);
                changed = true;
            }
        }
        if changed {
            forget_unplaced(record);
        }
        if let Some(wanted) = self.wanted.get_mut(&volume) {
            wanted.retain(|one| !done.contains(one));
        }
        EventAnswer::Placed { moves: done }
    }
}

fn may_move(
    replicas: &[ServerId],
    stale: &std::collections::BTreeSet<ServerId>,
    draining: Option<ServerId>,
    one: &Move,
) -> bool {
    let whole = replicas.contains(&one.from) && !replicas.contains(&one.to);
    whole && !stale.contains(&one.to) && draining != Some(one.to)
}

/// Servers that have no place in the volume any more are not out of its in-sync set either.
fn forget_unplaced(record: &mut Record) {
    let placement = &record.placement;
    record.stale.retain(|server| placement.iter().any(|replicas| replicas.contains(server)));
}
