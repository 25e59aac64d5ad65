//! Damaged replicas, found by a scrubber or said at a claim, are brought level in the background; and the operator's
//! way out where nothing else is left.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use yuntai_proto::data::ChunkState;
use yuntai_proto::{ChunkIndex, Kind, ServerId};

use crate::api::Micros;
use crate::chunk::{Role, Standing};
use crate::rebuild::Rebuild;
use crate::server::Asked;
use crate::volume::Volume;

/// When no queued replica could be healed, they are looked through again after this.
const LOOK_AGAIN_US: Micros = 500_000;

/// Replicas to be healed, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Heals {
    pub queue: BTreeSet<(ChunkIndex, ServerId)>,
    /// The one that is being healed.
    pub active: Option<(ChunkIndex, ServerId)>,
    /// Servers that could not give a replica everything that it has damaged.
    pub in_vain: BTreeMap<(ChunkIndex, ServerId), BTreeSet<ServerId>>,
    /// Replicas that lack something which none of those that count could give.
    pub lacking: BTreeSet<(ChunkIndex, ServerId)>,
    look_at: Micros,
}

impl Volume {
    /// Blocks of these replicas are damaged.
    pub(crate) fn want_heal(&mut self, id: ServerId, chunks: &[ChunkIndex]) -> Result<usize, String> {
        if !self.is_writer() {
            return Err(format!("volume {:#x} is open read-only: nothing is healed through it", self.spec.volume));
        }
        let here = |number: &&ChunkIndex| {
            let chunk = self.chunks.get(**number as usize);
            chunk.is_some_and(|chunk| chunk.index_of(id).is_some_and(|at| chunk.replicas[at].role == Role::Member))
        };
        let queued: Vec<(ChunkIndex, ServerId)> = chunks.iter().filter(here).map(|number| (*number, id)).collect();
        let count = queued.len();
        self.heals.queue.extend(queued);
        self.heals.look_at = 0;
        self.tend_heals();
        Ok(count)
    }

    /// What a server says at its claim that it has damaged.
    pub(crate) fn heal_claimed(&mut self, id: ServerId) {
        if self.is_writer() {
            let damaged = self.servers[&id].claimed.values().filter(|state| state.damaged);
            let chunks: Vec<ChunkIndex> = damaged.map(|state| state.chunk).collect();
            let known = self.chunks.len();
            let here = chunks
                .into_iter()
                .filter(|number| (*number as usize) < known && self.chunks[*number as usize].index_of(id).is_some());
            self.heals.queue.extend(here.map(|number| (number, id)).collect::<Vec<_>>());
        }
    }

    /// One at a time: while a replica is healed it does not count as whole, so writes to its chunk wait for the pull of
    /// what differs. A replica is taken out only if two others have the chunk whole, as long as there are three.
    pub(crate) fn tend_heals(&mut self) {
        if !self.serving() || !self.is_writer() {
            return;
        }
        if let Some((number, id)) = self.heals.active {
            let chunk = &self.chunks[number as usize];
            let under_way = chunk.index_of(id).is_some_and(|at| chunk.replicas[at].standing != Standing::Whole);
            if under_way {
                return;
            }
            self.heals.active = None;
            self.counters.healed_chunks += 1;
        }
        if self.heals.queue.is_empty() || self.heals.look_at > self.now {
            return;
        }
        self.heals.queue.retain(|(number, id)| self.chunks[*number as usize].index_of(*id).is_some());
        let due = self.heals.queue.iter().copied().find(|(number, id)| self.can_heal(*number, *id));
        let Some((number, id)) = due else {
            self.heals.look_at = self.now + LOOK_AGAIN_US;
            return;
        };
        self.heals.queue.remove(&(number, id));
        self.heals.active = Some((number, id));
        let index = self.chunks[number as usize].index_of(id).expect("just looked up");
        self.note(Some(id), Some(number), "its damaged blocks are taken from another server");
        self.take_out_to_heal(number, index);
    }

    /// A whole replica has damaged blocks: it pulls them.
    pub(crate) fn take_out_to_heal(&mut self, number: ChunkIndex, index: usize) {
        self.heals.in_vain.remove(&(number, self.chunks[number as usize].replicas[index].server));
        self.set_standing(number, index, Standing::Behind { retry_at: 0 });
        let chunk = &mut self.chunks[number as usize];
        chunk.replicas[index].level_at = Some(chunk.last.sequence);
        self.schedule_rebuilds();
    }

    /// A source has not got every block that a replica lacks which is only being healed. The next one may. When none is
    /// left the replica goes on as it is: it has every mutation, what could be healed is, and what is damaged is known
    /// there. Waiting for a better source would keep back all that only this replica has.
    pub(crate) fn heal_from_next(&mut self, dest: ServerId, source: ServerId, number: ChunkIndex, attempt: u64) {
        self.heals.in_vain.entry((number, dest)).or_default().insert(source);
        if self.pull_source(number, dest).is_none() {
            self.note(Some(dest), Some(number), "no server has all of its damaged blocks: it goes on with some");
            if self.heals.active == Some((number, dest)) {
                self.heals.active = None;
            }
            return self.on_pulled(dest, number, attempt);
        }
        self.rebuilds.remove(&(number, dest));
        let Some(index) = self.chunks[number as usize].index_of(dest) else { return };
        self.set_standing(number, index, Standing::Behind { retry_at: 0 });
        // It got everything since the rebuild began.
        let chunk = &mut self.chunks[number as usize];
        chunk.replicas[index].level_at = Some(chunk.last.sequence);
        self.schedule_rebuilds();
    }

    fn can_heal(&self, number: ChunkIndex, id: ServerId) -> bool {
        let chunk = &self.chunks[number as usize];
        let Some(index) = chunk.index_of(id) else { return false };
        let others = (chunk.required & chunk.whole & !chunk.joining & !(1 << index)).count_ones();
        let enough = if chunk.replicas.len() > 2 { 2 } else { 1 };
        chunk.serving
            && chunk.replicas[index].standing == Standing::Whole
            && self.servers.get(&id).is_some_and(|server| server.dialer.ready())
            && others >= enough
    }

    /// The chunk waits since none of its in-sync replicas holds a whole history: each was in a rebuild, or was given up
    /// as damaged. The operator accepts what is lost: the one that is furthest is declared whole, and the others pull
    /// from it.
    pub(crate) fn salvage(&mut self, number: ChunkIndex) -> Result<(ServerId, u64), String> {
        if !self.is_writer() || !self.serving() {
            return Err("the volume is not open for writing".to_owned());
        }
        if self.settled.get(number as usize) != Some(&false) {
            return Err(format!("chunk {number} does not wait for a survivor"));
        }
        let (replicas, barred) = self.barred_of(number);
        if !barred {
            return Err(format!("chunk {number}: not all of its in-sync servers {replicas:?} have been heard"));
        }
        let claim = |id: &ServerId| self.servers[id].claim_of(number);
        let best = replicas.into_iter().max_by_key(|id| claim(id).position).expect("a barred chunk has replicas");
        let state = claim(&best);
        self.note(Some(best), Some(number), format!("salvaged at {:?}: the operator accepts the loss", state.position));
        self.settled[number as usize] = true;
        let chunk = &mut self.chunks[number as usize];
        chunk.open_at(state.position);
        let from = state.position.sequence + 1;
        for index in 0..self.chunks[number as usize].replicas.len() {
            let chosen = self.chunks[number as usize].replicas[index].server == best;
            let standing = if chosen { Standing::Rebuilding { from } } else { Standing::Behind { retry_at: 0 } };
            self.set_standing(number, index, standing);
        }
        let attempt = self.id();
        self.rebuilds.retain(|(chunk, _), _| *chunk != number);
        self.rebuilds.insert(
            (number, best),
            Rebuild { from, attempt, pull: None, level: false, salvage: true, accepts_loss: false },
        );
        let mut header = self.header(Kind::BeginRebuild, number);
        header.sequence = from;
        self.ask(best, Asked::Begin { chunk: number, attempt }, header, Bytes::new(), Bytes::new());
        Ok((best, state.position.sequence))
    }

    /// The in-sync servers of a chunk that has no survivor, and whether all were heard and none may be one.
    pub(crate) fn barred_of(&self, number: ChunkIndex) -> (Vec<ServerId>, bool) {
        let chunk = &self.chunks[number as usize];
        let in_sync = |(index, _): &(usize, &crate::chunk::Replica)| chunk.required >> index & 1 == 1;
        let members: Vec<ServerId> =
            chunk.replicas.iter().enumerate().filter(in_sync).map(|(_, replica)| replica.server).collect();
        let barred = |id: &ServerId| self.servers[id].dialer.ready() && self.servers[id].claim_of(number).rebuilding;
        let all = !members.is_empty() && members.iter().all(barred);
        (members, all)
    }

    /// A salvaged replica was lost before it was whole: the chunk waits again.
    pub(crate) fn salvage_failed(&mut self, number: ChunkIndex, id: ServerId) {
        self.note(Some(id), Some(number), "it was lost before it was salvaged");
        let server = self.servers.get_mut(&id);
        if let Some(server) = server {
            let claim = ChunkState { rebuilding: true, ..server.claim_of(number) };
            server.claimed.insert(number, claim);
        }
        self.settled[number as usize] = false;
    }
}
