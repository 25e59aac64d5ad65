//! Who is right after a crash: pure functions over what servers say when they are claimed.
//!
//! *Invariant 4, replicas agree after any crash.* A crash leaves each replica with another end of the history. If a
//! reader were served before they agree, the same block could answer differently from one moment to the next, and a
//! file system's journal would be replayed by what one replica says and read from another. So mutations of a chunk are
//! numbered, a replica holds a prefix of them, at the open the longest prefix is taken and the others get what they
//! lack, and a read does not show a write that may still be lost. Half-built replicas hold no prefix and are no
//! candidates. Tests: `level/tests.rs`, `the_longest_history_wins_at_open_and_the_others_pull_one_after_the_other`,
//! `a_read_on_its_way_waits_for_a_write_that_overtakes_it`, `stream_and_pull_in_any_order_end_equal`; the mutants with
//! 4 in `crates/sim/src/mutants.rs`.

use yuntai_proto::data::ChunkState;
use yuntai_proto::{mutant, Position};

/// The history that a chunk goes on with: the longest that any in-sync server holds whole.
///
/// A write was acknowledged only if *every* in-sync server had it, so each candidate has all acknowledged writes and
/// the maximum is a matter of agreement, not of safety: a write that was never acknowledged survives if the longest
/// history has it, and then on all replicas. A rebuilding replica holds no prefix of the history, so it never counts.
/// `None`: no candidate, the chunk must wait.
#[must_use]
pub fn survivor(claims: &[ChunkState]) -> Option<Position> {
    let whole = |claim: &&ChunkState| !claim.rebuilding || mutant::is("a half-built replica counts as whole");
    let mut positions = claims.iter().filter(whole).map(|claim| claim.position);
    if mutant::is("the survivor is the first") {
        return positions.next();
    }
    positions.max()
}

/// What this writer knows of a chunk's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// This writer's generation.
    pub generation: u64,
    /// Where the chunk stood when this writer opened it.
    pub opened: Position,
    /// The first mutation that the writer still holds and could send again (one past the last if it holds none).
    pub log_base: u64,
    /// The last mutation that was given out.
    pub last: u64,
}

/// From which mutation on a (re)claimed server must be sent the log to be level again, or `None` if the log does not
/// reach back that far, or the server's history is another one: then it has to pull.
///
/// Mutations below `log_base` were acknowledged by every in-sync server, so an in-sync server that now stands below
/// it has lost some (a power cut before a flush) and must not count until it has pulled them.
#[must_use]
pub fn resume_from(claim: &ChunkState, history: &History) -> Option<u64> {
    let held = claim.position;
    if claim.rebuilding {
        return None;
    }
    if mutant::is("a server that comes back lacks nothing") {
        return Some(history.log_base);
    }
    if held == history.opened {
        return (history.log_base == history.opened.sequence + 1).then_some(history.log_base);
    }
    let ours = held.generation == history.generation && held.sequence > history.opened.sequence;
    let reached = held.sequence + 1 >= history.log_base && held.sequence <= history.last;
    (ours && reached).then_some(held.sequence + 1)
}

#[cfg(test)]
mod tests;
