//! Bringing replicas level: begin (new mutations stream from here on), pull (what is older, from a peer), end.

use bytes::Bytes;
use yuntai_proto::data::{ChunkState, Pull};
use yuntai_proto::{mutant, ChunkIndex, Kind, Position, ServerId};

use crate::api::Micros;
use crate::chunk::{Role, Standing};
use crate::links::json;
use crate::moves::Stage;
use crate::server::Asked;
use crate::volume::Volume;

/// A refused rebuild is tried again after this.
const RETRY_US: Micros = 500_000;

/// A rebuild under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rebuild {
    /// First mutation that streams.
    pub from: u64,
    /// Tells this rebuild's answers from an earlier one's of the same chunk.
    pub attempt: u64,
    /// Its share of the rate, in bytes a second; 0 = as fast as can be.
    pub limit: u64,
    /// The replica has every mutation before `from`: only damaged blocks are taken anew.
    pub level: bool,
    /// The replica is declared whole without a pull.
    pub salvage: bool,
}

impl Volume {
    /// Start as many rebuilds as are allowed: chunks that guests wait for, then in-sync servers, then returning ones.
    pub(crate) fn schedule_rebuilds(&mut self) {
        if !self.serving() || !self.is_writer() {
            return;
        }
        let counts = |key: &(ChunkIndex, ServerId)| !self.is_joining(key.0, key.1);
        let mut free = self.config.rebuilds_max.saturating_sub(self.rebuilds.keys().copied().filter(counts).count());
        while free > 0 {
            let Some((chunk, server)) = self.next_rebuild() else { break };
            self.begin_rebuild(chunk, server);
            free -= 1;
        }
        while let Some((chunk, server)) = self.next_join() {
            self.begin_rebuild(chunk, server);
        }
    }

    /// Nobody waits for it.
    fn is_background(&self, number: ChunkIndex, id: ServerId) -> bool {
        let chunk = &self.chunks[number as usize];
        chunk.index_of(id).is_none_or(|at| chunk.required >> at & 1 == 0)
    }

    /// What one more background pull gets of the rate: what the others have left, divided by those that will want some.
    fn share(&self) -> u64 {
        let rate = self.rebuild_rate();
        if rate == u64::MAX {
            return 0;
        }
        let slots = (self.config.rebuilds_max + self.config.moves_max).max(1);
        let (mut pulling, mut used) = (0, 0u64);
        for rebuild in self.rebuilds.values().filter(|rebuild| rebuild.limit > 0) {
            pulling += 1;
            used += rebuild.limit;
        }
        let returning = self.servers.values().filter(|server| !server.required).map(|server| server.not_whole.len());
        let joining = self.moves.joins.values().filter(|join| join.stage == Stage::Pulling).count();
        let waiting = (returning.sum::<usize>() + joining).min(slots).saturating_sub(pulling).max(1);
        (rate.saturating_sub(used) / waiting as u64).max(rate / slots as u64).max(1)
    }

    fn is_joining(&self, number: ChunkIndex, id: ServerId) -> bool {
        let chunk = &self.chunks[number as usize];
        chunk.index_of(id).is_some_and(|at| chunk.replicas[at].role == Role::Joining)
    }

    /// Joining replicas are few at a time: [`Config::moves_max`](crate::Config::moves_max).
    fn next_join(&self) -> Option<(ChunkIndex, ServerId)> {
        let pulling = self.moves.joins.values().filter(|join| join.stage == Stage::Pulling);
        let ready = |id: &ServerId| self.servers.get(id).is_some_and(|server| server.dialer.ready());
        pulling
            .map(|join| (join.wanted.chunk, join.wanted.to))
            .find(|(chunk, to)| ready(to) && self.can_rebuild(*chunk, *to))
    }

    fn next_rebuild(&self) -> Option<(ChunkIndex, ServerId)> {
        let reachable = || self.servers.values().filter(|server| server.dialer.ready() && !server.not_whole.is_empty());
        let ordered = || {
            let in_sync = reachable().filter(|server| server.required);
            in_sync.chain(reachable().filter(|server| !server.required))
        };
        let urgent = ordered().find_map(|server| {
            let waited_for = self.urgent.iter().filter(|chunk| server.not_whole.contains(chunk));
            waited_for.map(|chunk| (*chunk, server.id)).find(|(chunk, id)| self.can_rebuild(*chunk, *id))
        });
        urgent.or_else(|| {
            ordered().find_map(|server| {
                let all = server.not_whole.iter().map(|chunk| (*chunk, server.id));
                all.into_iter().find(|(chunk, id)| self.can_rebuild(*chunk, *id))
            })
        })
    }

    fn can_rebuild(&self, number: ChunkIndex, id: ServerId) -> bool {
        let chunk = &self.chunks[number as usize];
        let Some(index) = chunk.index_of(id) else { return false };
        let Standing::Behind { retry_at } = chunk.replicas[index].standing else { return false };
        // One in-sync replica at a time (see `Volume`). One whose rebuild was begun and failed counts too: until it is
        // whole, the next one's history is the only other one that could serve if the survivor is lost.
        let begun = |id: ServerId| self.servers[&id].claim_of(number).rebuilding;
        let other_in_sync = chunk.required >> index & 1 == 1
            && chunk.replicas.iter().enumerate().any(|(other, replica)| {
                let counts = other != index && chunk.required >> other & 1 == 1;
                let under_way = matches!(replica.standing, Standing::Rebuilding { .. });
                let failed = replica.standing != Standing::Whole && begun(replica.server) && !begun(id);
                counts && (under_way || failed)
            });
        let counts = chunk.required >> index & 1 == 1;
        let allowed = self.rebuild_rate() > 0 || counts;
        retry_at <= self.now
            && allowed
            && (self.settled[number as usize] || (!counts && self.is_provisional(number)))
            && !other_in_sync
            && self.pull_source(number, id).is_some()
    }

    /// An in-sync server that has the chunk whole; not always the same one, and after a failed pull another one.
    pub(crate) fn pull_source(&self, number: ChunkIndex, dest: ServerId) -> Option<ServerId> {
        let chunk = &self.chunks[number as usize];
        let in_vain = self.heals.in_vain.get(&(number, dest));
        let count = chunk.replicas.len();
        (0..count).map(|step| (step + number as usize + self.failed_pulls) % count).find_map(|index| {
            let server = chunk.replicas[index].server;
            let good = (chunk.required & chunk.whole) >> index & 1 == 1;
            let good = good && !in_vain.is_some_and(|asked| asked.contains(&server));
            (good && server != dest && self.servers[&server].dialer.ready()).then_some(server)
        })
    }

    fn begin_rebuild(&mut self, number: ChunkIndex, id: ServerId) {
        let chunk = &self.chunks[number as usize];
        let index = chunk.index_of(id).expect("the caller looked it up");
        let from = chunk.last.sequence + 1;
        let level = chunk.replicas[index].level_at == Some(chunk.last.sequence);
        let mut header = self.header(Kind::BeginRebuild, number);
        header.sequence = from;
        self.set_standing(number, index, Standing::Rebuilding { from });
        let attempt = self.id();
        self.rebuilds.insert((number, id), Rebuild { from, attempt, limit: 0, level, salvage: false });
        // From here on its own history is no choice any more, should the survivor be lost.
        let server = self.servers.get_mut(&id).expect("it is ready");
        let claim = ChunkState { rebuilding: true, ..server.claim_of(number) };
        server.claimed.insert(number, claim);
        self.ask(id, Asked::Begin { chunk: number, attempt }, header, Bytes::new(), Bytes::new());
    }

    fn rebuild(&self, id: ServerId, number: ChunkIndex, attempt: u64) -> Option<Rebuild> {
        self.rebuilds.get(&(number, id)).copied().filter(|rebuild| rebuild.attempt == attempt)
    }

    pub(crate) fn on_rebuild_begun(&mut self, id: ServerId, number: ChunkIndex, attempt: u64) {
        let Some(rebuild) = self.rebuild(id, number, attempt) else { return };
        if rebuild.salvage || mutant::is("a rebuild ends without a pull") {
            return self.on_pulled(id, number, attempt);
        }
        let Some(source) = self.pull_source(number, id) else {
            return self.rebuild_failed(id, number, attempt, "no in-sync server to pull from");
        };
        let limit = if self.is_background(number, id) { self.share() } else { 0 };
        if let Some(rebuild) = self.rebuilds.get_mut(&(number, id)) {
            rebuild.limit = limit;
        }
        let pull = Pull {
            source: self.servers[&source].dialer.address.clone(),
            token: self.spec.read_token.clone(),
            min_sequence: rebuild.from - 1,
            bytes_per_s_max: limit,
        };
        let header = self.header(Kind::Pull, number);
        self.ask(id, Asked::Pull { chunk: number, source, attempt }, header, json(&pull), Bytes::new());
    }

    pub(crate) fn on_pulled(&mut self, id: ServerId, number: ChunkIndex, attempt: u64) {
        if self.rebuild(id, number, attempt).is_none() {
            return;
        }
        // Everything given out so far was either pulled or streamed before this frame.
        let Position { generation, sequence } = self.chunks[number as usize].last;
        let mut header = self.header(Kind::EndRebuild, number);
        (header.generation, header.sequence) = (generation, sequence);
        self.ask(id, Asked::End { chunk: number, attempt }, header, Bytes::new(), Bytes::new());
    }

    pub(crate) fn on_rebuild_ended(&mut self, id: ServerId, number: ChunkIndex, attempt: u64) {
        let Some(rebuild) = self.rebuild(id, number, attempt) else { return };
        self.rebuilds.remove(&(number, id));
        self.heals.in_vain.remove(&(number, id));
        self.counters.rebuilt_chunks += 1;
        let chunk = &mut self.chunks[number as usize];
        let Some(index) = chunk.index_of(id) else { return };
        let (base, last) = (chunk.log_base, chunk.last);
        for (offset, mutation) in chunk.log.iter_mut().enumerate() {
            if base + (offset as u64) < rebuild.from {
                mutation.acked |= 1 << index; // pulled, and durable by the end of the rebuild
            }
        }
        let server = self.servers.get_mut(&id).expect("it answered");
        server.claimed.insert(number, ChunkState { chunk: number, position: last, rebuilding: false, damaged: false });
        self.set_standing(number, index, Standing::Whole);
        self.after_change(number);
        self.send_flushes(id);
        self.wake_stalled_reads();
        self.schedule_rebuilds();
        if self.is_joining(number, id) {
            self.tend_moves();
        } else if self.servers[&id].not_whole.is_empty() {
            self.note(Some(id), None, "every chunk is whole there");
            self.tick_members();
        }
    }

    pub(crate) fn rebuild_failed(&mut self, id: ServerId, number: ChunkIndex, attempt: u64, reason: &str) {
        let Some(rebuild) = self.rebuild(id, number, attempt) else { return };
        self.rebuilds.remove(&(number, id));
        if rebuild.salvage {
            self.salvage_failed(number, id);
        }
        self.heals.in_vain.remove(&(number, id));
        self.failed_pulls = self.failed_pulls.wrapping_add(1);
        self.note(Some(id), Some(number), format!("rebuild failed: {reason}"));
        let retry_at = self.now + RETRY_US;
        if let Some(index) = self.chunks[number as usize].index_of(id) {
            self.set_standing(number, index, Standing::Behind { retry_at });
        }
        if !self.is_joining(number, id) {
            self.wish_degrade(id, "it cannot be brought level");
        }
    }

    /// A block that `dest` wants to pull is damaged at `source`.
    ///
    /// In a chunk that serves, another source is tried, and this one is rebuilt itself. In one that does not serve yet,
    /// what the chosen survivor has more than another in-sync server was never acknowledged (or never flushed, if the
    /// power failed), and since the open nobody has read it. So the chunk goes on with the other one's history, or, if
    /// the only other one has begun to pull already, with that plus what it got: writes that were not acknowledged were
    /// all on their way at once, so that any part of them is a lawful outcome, as long as all replicas have the same.
    pub(crate) fn source_damaged(
        &mut self,
        dest: ServerId,
        source: ServerId,
        number: ChunkIndex,
        attempt: u64,
        block: usize,
    ) {
        let Some(rebuild) = self.rebuild(dest, number, attempt) else { return };
        let chunk = &self.chunks[number as usize];
        let in_sync = |server: ServerId| chunk.index_of(server).is_some_and(|at| chunk.required >> at & 1 == 1);
        let untouched = chunk.replicas.iter().map(|replica| replica.server).any(|server| {
            let state = &self.servers[&server];
            server != source && in_sync(server) && state.dialer.ready() && !state.claim_of(number).rebuilding
        });
        let (fresh, dest_counts) = (!chunk.serving && self.is_writer(), in_sync(dest));
        if fresh && (untouched || dest_counts) {
            self.counters.damaged_blocks += 1;
            self.note(
                Some(source),
                Some(number),
                format!("block {block} is damaged there, and nowhere else: given up"),
            );
            let server = self.servers.get_mut(&source).expect("it was pulled from");
            let claim = ChunkState { rebuilding: true, ..server.claim_of(number) };
            server.claimed.insert(number, claim);
        }
        if fresh && untouched {
            self.settled[number as usize] = false;
            self.rebuilds.remove(&(number, dest));
            if let Some(index) = self.chunks[number as usize].index_of(dest) {
                self.set_standing(number, index, Standing::Behind { retry_at: 0 });
            }
            self.settle(number);
            self.schedule_rebuilds();
        } else if fresh && dest_counts {
            if let Some(index) = self.chunks[number as usize].index_of(source) {
                self.set_standing(number, index, Standing::Behind { retry_at: 0 });
            }
            self.on_pulled(dest, number, attempt);
        } else if rebuild.level {
            self.heal_from_next(dest, source, number, attempt);
            self.damaged(source, number, block);
        } else {
            self.rebuild_failed(dest, number, attempt, &format!("block {block} is damaged at server {source}"));
            self.damaged(source, number, block);
        }
    }

    /// The connection of a server that was being rebuilt is lost: it starts anew when it is back.
    pub(crate) fn rebuilds_lost(&mut self, id: ServerId) {
        let numbers: Vec<ChunkIndex> = self.rebuilds.keys().filter(|key| key.1 == id).map(|key| key.0).collect();
        for number in numbers {
            let rebuild = self.rebuilds.remove(&(number, id));
            self.heals.in_vain.remove(&(number, id));
            if rebuild.is_some_and(|rebuild| rebuild.salvage) {
                self.salvage_failed(number, id);
            }
            if let Some(index) = self.chunks[number as usize].index_of(id) {
                self.set_standing(number, index, Standing::Behind { retry_at: 0 });
            }
        }
    }
}
