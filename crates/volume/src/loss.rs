//! Blocks that nobody has any more.
//!
//! A disk that rots where it held the last good copy must not take the rest of the chunk with it: a rebuild without end
//! would keep the chunk from ever having a third replica. So what no source can give is marked as lost on the replica
//! that is made (durably, until it is written anew), and the rebuild ends. A guest that asks for such a block gets an
//! error, for that block only: never zeros, never what was there before, never another replica's older bytes.
//!
//! Lost is only what nobody can bring back. Every replica that counts must be in reach and have said that it has not got
//! it, and one that does not count, because it was away, may have it: it is waited for, however long it takes, until it
//! is back and has tried (or is back with an empty disk), or until the operator says that its disk is gone. The mark keeps the checksum where it is known, so that a
//! replica which has the block after all is known by it, and the others are healed from there.

use bytes::Bytes;
use yuntai_proto::{mutant, BlockState, ChunkIndex, ServerId};

use crate::api::Micros;
use crate::chunk::{Role, Standing};
use crate::read::{Purpose, Stage};
use crate::runs::Run;
use crate::volume::Volume;

/// A rebuild that waits for somebody who is away is tried again after this, or when a replica comes to count.
const RETRY_US: Micros = 5_000_000;

impl Volume {
    /// `source` has not got everything that a replica lacks: the next one may. When none is left, and nobody else may
    /// have it, the rebuild goes on without it.
    pub(crate) fn pull_from_next(
        &mut self,
        dest: ServerId,
        source: ServerId,
        number: ChunkIndex,
        attempt: u64,
        block: usize,
    ) {
        self.heals.in_vain.entry((number, dest)).or_default().insert(source);
        if let Some(next) = self.pull_source(number, dest) {
            self.pull_from(dest, number, next);
            return self.damaged(source, number, block);
        }
        self.heals.lacking.insert((number, dest));
        if self.rebuild(dest, number, attempt).is_none_or(|rebuild| rebuild.accepts_loss) {
            self.rebuild_failed(dest, number, attempt, &format!("block {block} is damaged at server {source}"));
            return self.damaged(source, number, block);
        }
        if let Some(other) = self.may_bring(number, dest) {
            let reason = format!("no server that counts has block {block}, and server {other} may bring it back");
            self.rebuild_failed(dest, number, attempt, &reason);
            if let Some(index) = self.chunks[number as usize].index_of(dest) {
                self.set_standing(number, index, Standing::Behind { retry_at: self.now + RETRY_US });
            }
            return self.damaged(source, number, block);
        }
        self.note(Some(dest), Some(number), format!("block {block} is lost: nobody has it"));
        if let Some(rebuild) = self.rebuilds.get_mut(&(number, dest)) {
            rebuild.accepts_loss = true;
        }
        self.pull_from(dest, number, source);
    }

    /// A server that may have what `dest` lacks and no source could give. Whoever counts, is whole and in reach was
    /// asked. Of the others one that lacks something itself has tried: the two do not wait for each other. But a replica
    /// that is to take over from a member does not do so while that member's may be better.
    fn may_bring(&self, number: ChunkIndex, dest: ServerId) -> Option<ServerId> {
        let chunk = &self.chunks[number as usize];
        let member = |index: usize| chunk.replicas[index].role == Role::Member;
        let takes_over = chunk.index_of(dest).is_some_and(|index| !member(index));
        let may = |(index, server): &(usize, ServerId)| {
            let ready = self.servers[server].dialer.ready();
            if chunk.required >> index & 1 == 1 {
                return !ready || chunk.whole >> index & 1 == 0;
            }
            if self.is_given_up(*server) {
                return false;
            }
            !ready || !self.heals.lacking.contains(&(number, *server)) || (takes_over && member(*index))
        };
        let others = chunk.replicas.iter().map(|replica| replica.server).enumerate().filter(|(_, id)| *id != dest);
        others.into_iter().find(may).map(|(_, id)| id)
    }

    /// The operator has declared its disk lost, and it has not come back all the same. While it counts this says nothing:
    /// the master takes it out of the in-sync set first.
    fn is_given_up(&self, id: ServerId) -> bool {
        self.spec.given_up.contains(&id) && !self.servers[&id].dialer.ready()
    }

    /// The block for which a read cannot be answered: every replica counts and has said that it is damaged there. One
    /// that does not count may be on its way with it, unless it was given up: the reader waits.
    pub(crate) fn lost_block(&self, id: u64) -> Option<usize> {
        let job = self.reads.get(&id).filter(|job| job.stage == Stage::Own)?;
        let (Purpose::Piece(_) | Purpose::Merge(_)) = job.purpose else { return None };
        let block = job.bad.first()?.1;
        let chunk = &self.chunks[job.chunk as usize];
        let lacks = |(index, server): (usize, ServerId)| {
            let counts = chunk.required >> index & 1 == 1;
            if counts {
                job.bad.contains(&(server, block))
            } else {
                self.is_given_up(server)
            }
        };
        chunk.replicas.iter().map(|replica| replica.server).enumerate().all(lacks).then_some(block)
    }

    pub(crate) fn fail_read(&mut self, id: u64, block: usize) {
        let Some(job) = self.reads.get_mut(&id) else { return };
        if mutant::is("a lost block is zeros") {
            job.runs = Some(vec![Run { state: BlockState::Absent, blocks: job.blocks, data: Bytes::new() }]);
            return self.finish_read(id);
        }
        let number = job.chunk;
        let (Purpose::Piece(piece) | Purpose::Merge(piece)) = job.purpose else { return };
        self.reads.remove(&id);
        self.note(None, Some(number), format!("block {block} is lost: its reader gets an error"));
        self.chunks[number as usize].remove_active(piece);
        if let Some(op) = self.pieces.get(&piece).and_then(|piece| self.ops.get_mut(&piece.op)) {
            op.failed = true;
        }
        self.piece_done(piece);
        self.wake(number);
    }
}
