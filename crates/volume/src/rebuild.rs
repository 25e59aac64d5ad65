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
/// A pull's part of the rate is changed when it is off by more than this part of it.
const PACE_PART: u64 = 4;

/// A pull under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulling {
    pub source: ServerId,
    /// Its share of the rate, in bytes a second; 0 = as fast as can be.
    pub limit: u64,
    pub asked_at: Micros,
}

/// A rebuild under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rebuild {
    /// First mutation that streams.
    pub from: u64,
    /// Tells this rebuild's answers from an earlier one's of the same chunk.
    pub attempt: u64,
    /// The pull that is under way.
    pub pull: Option<Pulling>,
    /// The replica has every mutation before `from`: only damaged blocks are taken anew.
    pub level: bool,
    /// The replica is declared whole without a pull.
    pub salvage: bool,
    /// It was told to go on without what no source can give.
    pub accepts_loss: bool,
}

impl Volume {
    /// Start as many rebuilds as are allowed: chunks that guests wait for, then in-sync servers, then returning ones.
    pub(crate) fn schedule_rebuilds(&mut self) {
        if !self.serving() || !self.is_writer() {
            return;
        }
        self.count_pulls();
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

    fn may_begin(&self, number: ChunkIndex, id: ServerId) -> bool {
        !self.is_background(number, id) || self.background.may_pull(self.rebuild_rate())
    }

    /// Does it take part in the gateway's rate?
    fn is_paced(&self, (number, id): (ChunkIndex, ServerId), rebuild: &Rebuild) -> bool {
        !rebuild.salvage && self.is_background(number, id)
    }

    fn count_pulls(&mut self) {
        let paced = self.rebuilds.iter().filter(|(key, rebuild)| self.is_paced(**key, rebuild)).count();
        self.background.set_pulls(paced);
    }

    fn limit_of(&self, key: (ChunkIndex, ServerId), rebuild: &Rebuild) -> u64 {
        if self.is_paced(key, rebuild) {
            self.background.share(self.rebuild_rate().max(1))
        } else {
            0
        }
    }

    /// Pulls of any volume began or ended, or a guest began to work or to rest: those under way are asked for again with
    /// what they may take now. A server goes on where it is. Those that take long are asked for again, too, so that only
    /// a server that does not answer is taken for hung.
    pub(crate) fn pace_pulls(&mut self) {
        self.count_pulls();
        let old = self.config.pull_wait_us / 2;
        let mut due = Vec::new();
        for ((number, id), rebuild) in &self.rebuilds {
            let Some(pull) = rebuild.pull else { continue };
            let limit = self.limit_of((*number, *id), rebuild);
            let other = pull.limit.abs_diff(limit) > pull.limit.max(limit) / PACE_PART;
            if other || self.now.saturating_sub(pull.asked_at) > old {
                due.push((*number, *id, pull.source, limit));
            }
        }
        for (number, id, source, limit) in due {
            let attempt = self.id();
            if let Some(rebuild) = self.rebuilds.get_mut(&(number, id)) {
                rebuild.attempt = attempt;
            }
            self.ask_pull(id, number, source, limit);
        }
    }

    pub(crate) fn pull_from(&mut self, id: ServerId, number: ChunkIndex, source: ServerId) {
        let Some(rebuild) = self.rebuilds.get(&(number, id)) else { return };
        let limit = self.limit_of((number, id), rebuild);
        self.ask_pull(id, number, source, limit);
    }

    fn ask_pull(&mut self, id: ServerId, number: ChunkIndex, source: ServerId, limit: u64) {
        let now = self.now;
        let Some(address) = self.servers.get(&source).map(|server| server.dialer.address.clone()) else { return };
        let Some(rebuild) = self.rebuilds.get_mut(&(number, id)) else { return };
        rebuild.pull = Some(Pulling { source, limit, asked_at: now });
        let Rebuild { from, attempt, accepts_loss: accept_loss, .. } = *rebuild;
        let pull = Pull {
            source: address,
            token: self.spec.read_token.clone(),
            min_sequence: from - 1,
            bytes_per_s_max: limit,
            accept_loss,
        };
        let header = self.header(Kind::Pull, number);
        self.ask(id, Asked::Pull { chunk: number, source, attempt }, header, json(&pull), Bytes::new());
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
            && self.may_begin(number, id)
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
        if !level {
            // Who was asked by a heal before that was not asked for what has been written since.
            self.heals.in_vain.remove(&(number, id));
        }
        let mut header = self.header(Kind::BeginRebuild, number);
        header.sequence = from;
        self.set_standing(number, index, Standing::Rebuilding { from });
        let attempt = self.id();
        self.rebuilds
            .insert((number, id), Rebuild { from, attempt, pull: None, level, salvage: false, accepts_loss: false });
        self.count_pulls();
        // From here on its own history is no choice any more, should the survivor be lost.
        let server = self.servers.get_mut(&id).expect("it is ready");
        let claim = ChunkState { rebuilding: true, ..server.claim_of(number) };
        server.claimed.insert(number, claim);
        self.ask(id, Asked::Begin { chunk: number, attempt }, header, Bytes::new(), Bytes::new());
    }

    pub(crate) fn rebuild(&self, id: ServerId, number: ChunkIndex, attempt: u64) -> Option<Rebuild> {
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
        self.pull_from(id, number, source);
    }

    pub(crate) fn on_pulled(&mut self, id: ServerId, number: ChunkIndex, attempt: u64) {
        if self.rebuild(id, number, attempt).is_none() {
            return;
        }
        if let Some(rebuild) = self.rebuilds.get_mut(&(number, id)) {
            rebuild.pull = None;
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
        self.heals.lacking.remove(&(number, id));
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
    /// In a chunk that serves, another source is tried (see `crate::loss`). In one that does not serve yet, what the
    /// chosen survivor has more than another in-sync server was never acknowledged (or never flushed, if the power
    /// failed), and since the open nobody has read it. So the chunk goes on with the other one's history, or, if the only
    /// other one has begun to pull already, with that plus what it got: writes that were not acknowledged were all on
    /// their way at once, so that any part of them is a lawful outcome, as long as all replicas have the same.
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
            self.pull_from_next(dest, source, number, attempt, block);
        }
    }

    /// The connection of a server that was being rebuilt is lost: it starts anew when it is back.
    pub(crate) fn rebuilds_lost(&mut self, id: ServerId) {
        // Who knows what it comes back with.
        self.heals.lacking.retain(|(_, server)| *server != id);
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
