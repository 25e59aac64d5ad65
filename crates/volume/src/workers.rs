//! What the volume does in the background, for whoever asks, and how fast it may.

use std::collections::BTreeMap;

use yuntai_proto::control::WorkerStatus;
use yuntai_proto::{ChunkIndex, BLOCK_BYTES, CHUNK_BYTES};

use crate::api::Micros;
use crate::moves::Stage;
use crate::stats::{BarredChunk, MoveStats};
use crate::volume::{Phase, Volume};

/// The guest counts as active for this long after its last request.
const BUSY_US: Micros = 200_000;
/// A rate is of this long.
const RATE_US: Micros = 2_000_000;
/// A request that waits for so long has a reason that is worth saying.
const WAITING_US: Micros = 1_000_000;
/// Chunks that are named one by one.
const NAMED_MAX: usize = 64;

/// Counts of one kind of work since there was last nothing to do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    /// The counter when the work began.
    base: u64,
    left: u64,
    /// The counter and the time of the present and the last reading.
    read: [(u64, Micros); 2],
}

impl Work {
    fn update(&mut self, counter: u64, left: u64, now: Micros) {
        if left == 0 && self.left == 0 {
            self.base = counter;
        }
        self.left = left;
        if now.saturating_sub(self.read[1].1) >= RATE_US {
            self.read = [self.read[1], (counter, now)];
        }
    }

    /// Counted a second, lately.
    fn rate(&self) -> u64 {
        let [(before, then), (count, now)] = self.read;
        (count - before) * 1_000_000 / now.saturating_sub(then).max(1)
    }
}

/// One per kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Works {
    rebuild: Work,
    moves: Work,
    heal: Work,
    hydrate: Work,
}

impl Volume {
    /// A guest of this gateway is at work: what is done in the background goes slower.
    pub(crate) fn busy(&self) -> bool {
        let guest_at = self.background.guest_at();
        guest_at > 0 && self.now.saturating_sub(guest_at) < BUSY_US
    }

    /// How fast replicas may be rebuilt now, all together.
    pub(crate) fn rebuild_rate(&self) -> u64 {
        let full = self.config.rebuild_bytes_per_s;
        if self.busy() {
            full.min(self.config.rebuild_busy_bytes_per_s)
        } else {
            full
        }
    }

    /// Change limits by name.
    pub(crate) fn tune(&mut self, tunables: &BTreeMap<String, u64>) -> Result<(), String> {
        let mut config = self.config.clone();
        config.tune(tunables)?;
        self.config = config;
        self.schedule_rebuilds();
        Ok(())
    }

    fn behind_chunks(&self) -> u64 {
        self.servers.values().map(|server| server.not_whole.len() as u64).sum()
    }

    fn heals_left(&self) -> u64 {
        self.heals.queue.len() as u64 + u64::from(self.heals.active.is_some())
    }

    pub(crate) fn tick_works(&mut self) {
        let (now, behind, heals) = (self.now, self.behind_chunks(), self.heals_left());
        let pieces = self.chunks.len() as u64 - u64::from(self.hydrated_chunks());
        let (counters, works) = (&self.counters, &mut self.works);
        works.rebuild.update(counters.rebuilt_chunks, behind, now);
        works.moves.update(counters.moved_chunks, self.moves.wanted.len() as u64, now);
        works.heal.update(counters.healed_chunks, heals, now);
        works.hydrate.update(counters.hydrated_blocks, pieces, now);
    }

    /// All of it. Rates of replicas are counted in whole chunks: only the servers know how many bytes of them differed.
    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        let (works, counters) = (&self.works, &self.counters);
        let limit = self.rebuild_rate();
        let status = |name: &str, work: &Work, count: u64, left: u64, running: bool| {
            let state = match (left, limit, running) {
                (0, _, _) => "idle",
                (_, 0, false) => "off",
                (_, _, false) => "waiting",
                _ => "running",
            };
            WorkerStatus {
                name: name.to_owned(),
                volume: Some(self.spec.volume),
                state: state.to_owned(),
                done: if left == 0 { 0 } else { count - work.base.min(count) },
                total: if left == 0 { 0 } else { count - work.base.min(count) + left },
                unit: "chunks".to_owned(),
                bytes_per_s: work.rate() * CHUNK_BYTES,
                limit_bytes_per_s: if limit == u64::MAX { 0 } else { limit },
                note: String::new(),
            }
        };
        let joining = |number: ChunkIndex| self.moves.joins.contains_key(&number);
        let rebuilding = self.rebuilds.keys().any(|(number, _)| !joining(*number));
        let (behind, wanted, heals) = (self.behind_chunks(), self.moves.wanted.len() as u64, self.heals_left());
        let mut out = vec![
            status("rebuild", &works.rebuild, counters.rebuilt_chunks, behind, rebuilding),
            status("move", &works.moves, counters.moved_chunks, wanted, !self.moves.joins.is_empty()),
            status("heal", &works.heal, counters.healed_chunks, heals, self.heals.active.is_some()),
        ];
        if !self.spec.sources.is_empty() {
            out.push(self.hydrate_status());
        }
        out
    }

    fn hydrate_status(&self) -> WorkerStatus {
        let (done, total) = (u64::from(self.hydrated_chunks()), self.chunks.len() as u64);
        let limit = self.hydrate_rate();
        let state = match (total - done, limit) {
            (0, _) => "idle",
            (_, 0) => "off",
            _ if self.phase == Phase::Serving && self.keeps_copies() => "running",
            _ => "waiting",
        };
        WorkerStatus {
            name: "hydrate".to_owned(),
            volume: Some(self.spec.volume),
            state: state.to_owned(),
            done,
            total,
            unit: "chunks".to_owned(),
            bytes_per_s: self.works.hydrate.rate() * BLOCK_BYTES as u64,
            limit_bytes_per_s: limit,
            note: String::new(),
        }
    }

    /// Every joining replica that there is.
    pub(crate) fn move_stats(&self) -> Vec<MoveStats> {
        let joins = self.moves.joins.values();
        joins.map(|join| MoveStats { wanted: join.wanted, raised: join.stage == Stage::Raised }).collect()
    }

    /// Chunks that wait for [`Volume::salvage`].
    pub(crate) fn barred(&self) -> Vec<BarredChunk> {
        if !self.serving() {
            return Vec::new();
        }
        let unsettled = (0..).zip(&self.settled).filter(|(_, settled)| !**settled).map(|(number, _)| number);
        let barred = unsettled.filter_map(|chunk: ChunkIndex| {
            let (servers, barred) = self.barred_of(chunk);
            barred.then_some(BarredChunk { chunk, servers })
        });
        barred.take(NAMED_MAX).collect()
    }

    /// Why requests wait, if they do; for a person.
    pub(crate) fn waiting(&self) -> String {
        let down: Vec<String> = self
            .servers
            .values()
            .filter(|server| server.required && !server.dialer.ready())
            .map(|server| format!("cs-{}", server.id))
            .collect();
        let down = down.join(", ");
        if self.phase == Phase::Claiming {
            return format!("the open waits for {down}");
        }
        let oldest = self.ops.values().map(|op| op.arrived).min();
        if oldest.is_none_or(|at| self.now.saturating_sub(at) < WAITING_US) {
            return String::new();
        }
        let few = self.chunks.iter().position(|chunk| !chunk.log.is_empty() && !chunk.complete(u8::MAX));
        let unready = self.urgent.first();
        match (down.is_empty(), unready, few) {
            (false, _, _) => format!("requests wait for {down}: the master has not taken it out of the in-sync set"),
            (true, Some(chunk), _) => format!("requests wait until chunk {chunk} is level"),
            (true, None, Some(chunk)) => format!("writes wait: chunk {chunk} has too few replicas that are whole"),
            (true, None, None) => "requests wait for answers".to_owned(),
        }
    }
}
