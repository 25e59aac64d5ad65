//! One chunk as its writer sees it: where each replica stands, which mutations are on their way, who waits for whom.

use std::collections::VecDeque;

use bytes::Bytes;
use yuntai_proto::{mutant, Kind, LayerId, Position, ServerId, IN_SYNC_MIN};

use crate::api::Micros;
use crate::level::History;

/// Where one replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Gets every mutation and has every one before.
    Whole,
    /// Lacks something; gets nothing until its rebuild begins (not before `retry_at`).
    Behind { retry_at: Micros },
    /// Gets mutations from `from` on; what is older is being pulled.
    Rebuilding { from: u64 },
}

/// What a replica is for its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The record names it.
    Member,
    /// Is to take over from another one; nobody waits for it.
    Joining,
    /// Is to take over, and counts: the record may name it any moment.
    Counting,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Replica {
    pub server: ServerId,
    pub role: Role,
    pub standing: Standing,
    /// The damaged block that it was taken out for last, and when.
    pub damage: Option<(usize, Micros)>,
    /// It is not whole only because blocks are damaged: it has every mutation up to this one.
    pub level_at: Option<u64>,
}

/// For whom a mutation is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A piece of a guest's request.
    Piece(u64),
    /// A block copied from the source; `hydrate` if by background copying.
    Fill { hydrate: Option<u64>, blocks: usize },
}

/// What is written.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub kind: Kind,
    pub layer: LayerId,
    pub block: usize,
    pub blocks: usize,
    pub body: Bytes,
    pub data: Bytes,
    pub durable: bool,
}

/// A mutation that not every in-sync server has answered yet.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub payload: Payload,
    pub owner: Owner,
    pub sent_at: Micros,
    /// One bit per replica, by its index in the placement.
    pub acked: u8,
    pub done: bool,
}

/// How a piece stands to its overlapping neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Read,
    /// Replaces whole blocks.
    Replace,
    /// Reads a block, changes some of its bytes, writes it.
    Merge,
}

/// A piece that others may have to wait for, or that waits itself. In order of arrival.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    pub piece: u64,
    pub start: usize,
    pub end: usize,
    pub class: Class,
    pub waiting: bool,
    /// Has its number in the history.
    pub sequenced: bool,
}

/// A read that is done but overlaps mutations whose fate is open.
#[derive(Debug)]
pub(crate) struct Parked {
    pub read: u64,
    pub waits_for: Vec<u64>,
}

#[derive(Debug)]
pub(crate) struct Chunk {
    pub replicas: Vec<Replica>,
    /// One bit per replica in the in-sync set (or about to be taken into it).
    pub required: u8,
    /// The bit of the replica that is not a member (yet).
    pub joining: u8,
    /// One bit per replica that is `Whole`.
    pub whole: u8,
    /// Every in-sync replica was level once since the open.
    pub serving: bool,
    pub opened: Position,
    pub last: Position,
    pub log: VecDeque<Mutation>,
    pub log_base: u64,
    pub active: Vec<Active>,
    pub parked: Vec<Parked>,
}

impl Replica {
    fn new(server: ServerId, role: Role, standing: Standing) -> Self {
        Self { server, role, standing, damage: None, level_at: None }
    }
}

impl Chunk {
    pub fn new(placement: &[ServerId]) -> Self {
        let behind = Standing::Behind { retry_at: 0 };
        let replica = |server: &ServerId| Replica::new(*server, Role::Member, behind);
        Self {
            replicas: placement.iter().map(replica).collect(),
            required: 0,
            joining: 0,
            whole: 0,
            serving: false,
            opened: Position::default(),
            last: Position::default(),
            log: VecDeque::new(),
            log_base: 1,
            active: Vec::new(),
            parked: Vec::new(),
        }
    }

    pub fn index_of(&self, server: ServerId) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.server == server)
    }

    /// One more replica, the last one; its place.
    pub fn add_joining(&mut self, server: ServerId) -> usize {
        let index = self.replicas.len();
        self.replicas.push(Replica::new(server, Role::Joining, Standing::Behind { retry_at: 0 }));
        self.joining |= 1 << index;
        index
    }

    /// The replica that was to join, the last one, goes.
    pub fn drop_joining(&mut self, server: ServerId) {
        if self.replicas.last().is_some_and(|last| last.server == server && last.role != Role::Member) {
            self.drop_last();
        }
    }

    fn drop_last(&mut self) {
        let bit = 1 << (self.replicas.len() - 1);
        self.replicas.pop();
        self.required &= !bit;
        self.joining &= !bit;
        self.whole &= !bit;
        self.log.iter_mut().for_each(|mutation| mutation.acked &= !bit);
    }

    /// The last replica gets the place of `from`, which goes.
    pub fn take_over(&mut self, from: ServerId) {
        let (Some(at), last) = (self.index_of(from), self.replicas.len() - 1) else { return };
        let moved = |mask: u8| (mask & !(1 << at)) | ((mask >> last & 1) << at);
        self.replicas[at] = self.replicas[last];
        (self.required, self.joining, self.whole) = (moved(self.required), moved(self.joining), moved(self.whole));
        self.log.iter_mut().for_each(|mutation| mutation.acked = moved(mutation.acked));
        self.drop_last();
    }

    /// The chunk's history begins (for this writer) at `survivor`.
    pub fn open_at(&mut self, survivor: Position) {
        self.opened = survivor;
        self.last = survivor;
        self.log_base = survivor.sequence + 1;
    }

    pub fn history(&self, generation: u64) -> History {
        History { generation, opened: self.opened, log_base: self.log_base, last: self.last.sequence }
    }

    /// Acknowledged: every in-sync replica has it, each of them is whole, and at least two of them are the record's.
    ///
    /// *Invariant 2, acknowledged means on every in-sync replica.* After a crash any in-sync replica may be all that is
    /// left, so what the guest was told is there must be on each. A majority would not do: it is the master's record
    /// that says who may be read from, and it is not asked for each write. A flush is answered when each of them has
    /// synced its journal and what it wrote in place, and it stands behind every write that was sent before it
    /// (`replica/src/replica.rs`). Tests: `a_write_is_on_every_server_before_it_is_acknowledged`,
    /// `a_flush_waits_for_a_server_that_is_being_levelled`; mutants "one answer is enough", "a flush waits for one
    /// server only", "a flush is answered without a sync", "a flush overtakes what was sent before it", "a sync leaves
    /// out what was written in place".
    pub fn complete(&self, acked: u8) -> bool {
        if mutant::is("one answer is enough") && acked & self.required != 0 {
            return true;
        }
        let least = if mutant::is("one in sync is enough") { 1 } else { IN_SYNC_MIN };
        let members = (self.required & !self.joining).count_ones() as usize;
        self.required & !(acked & self.whole) == 0 && members >= least
    }

    pub fn level(&self) -> bool {
        self.required & !self.whole == 0 && self.required != 0
    }

    pub fn entry(&mut self, sequence: u64) -> Option<&mut Mutation> {
        let index = usize::try_from(sequence.checked_sub(self.log_base)?).ok()?;
        self.log.get_mut(index)
    }

    /// Owners of mutations that are acknowledged now and were not before; forgets the front of the log.
    pub fn take_completed(&mut self, out: &mut Vec<(Owner, Micros)>) {
        for index in 0..self.log.len() {
            let mutation = &self.log[index];
            if !mutation.done && self.complete(mutation.acked) {
                out.push((mutation.owner, mutation.sent_at));
                let mutation = &mut self.log[index];
                mutation.done = true;
            }
        }
        while self.log.front().is_some_and(|front| front.done) {
            self.log.pop_front();
            self.log_base += 1;
        }
    }

    /// Whether a piece must wait for one of the first `before` active ones.
    ///
    /// Two replacements of the same block need no waiting: their numbers order them on every replica. A merge must see
    /// everything before it and let nothing in between; a read must not return what may still be undone by a crash.
    pub fn conflicts(&self, before: usize, start: usize, end: usize, class: Class) -> bool {
        self.active[..before].iter().any(|other| {
            let overlaps = other.start < end && start < other.end;
            overlaps
                && match (class, other.class) {
                    (_, Class::Read) => false,
                    (Class::Read | Class::Merge, _) => true,
                    (Class::Replace, _) => !other.sequenced,
                }
        })
    }

    /// Mutations on their way that a read of `[start, end)` may or may not have seen.
    pub fn open_fates(&self, start: usize, end: usize) -> Vec<u64> {
        let overlapping = |other: &&Active| other.sequenced && other.start < end && start < other.end;
        self.active.iter().filter(overlapping).map(|other| other.piece).collect()
    }

    pub fn remove_active(&mut self, piece: u64) {
        if let Some(index) = self.active.iter().position(|other| other.piece == piece) {
            self.active.remove(index);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
