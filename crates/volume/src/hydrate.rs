//! Background half of lazy load: chunk by chunk, what the base layer lacks is copied from the source, slowly while the
//! guest works. Chunks below the mark need no source any more; the master hears of it only when that is durable.

use std::collections::BTreeMap;

use yuntai_proto::control::{EventAnswer, GatewayEvent};
use yuntai_proto::{ChunkIndex, BLOCK_BYTES, CHUNK_BLOCKS};

use crate::api::Micros;
use crate::guest::FlushFor;
use crate::members::Raised;
use crate::read::{Purpose, ReadJob, Stage};
use crate::volume::{Phase, Volume};

/// Blocks per piece: 1 MiB.
const PIECE_BLOCKS: usize = 256;
/// The guest counts as active for this long after its last request.
const BUSY_US: Micros = 200_000;
/// Least time between two reports to the master (the last one is not held back).
const REPORT_US: Micros = 1_000_000;
/// What looking at a piece costs, even if nothing has to be copied.
const PIECE_COST_BYTES: u64 = 16 << 10;

/// How far the background copying is.
#[derive(Debug)]
pub(crate) struct Hydration {
    /// Chunks `[0, done)` have everything.
    done: ChunkIndex,
    /// Next block to look at in chunk `done`.
    block: usize,
    /// Pieces under way → fills that are not acknowledged (`None`: still reading).
    pieces: BTreeMap<u64, Option<usize>>,
    /// What may be copied now, in bytes; may be overdrawn by one piece.
    allowance: i64,
    refilled_at: Micros,
    reported: ChunkIndex,
    reported_at: Micros,
    reporting: bool,
}

impl Hydration {
    pub fn new(done: ChunkIndex) -> Self {
        Self {
            done,
            block: 0,
            pieces: BTreeMap::new(),
            allowance: 0,
            refilled_at: 0,
            reported: done,
            reported_at: 0,
            reporting: false,
        }
    }
}

impl Volume {
    /// Whether an absent block of this chunk may be in a source.
    pub(crate) fn needs_source(&self, chunk: ChunkIndex) -> bool {
        !self.spec.sources.is_empty() && chunk >= self.hydration.done
    }

    pub(crate) fn hydrated_chunks(&self) -> ChunkIndex {
        if self.spec.sources.is_empty() {
            return self.chunks.len() as ChunkIndex;
        }
        self.hydration.done.min(self.chunks.len() as ChunkIndex)
    }

    pub(crate) fn tick_hydration(&mut self) {
        let active = self.phase == Phase::Serving && !self.spec.sources.is_empty() && self.writable();
        if !active || self.config.hydrate_bytes_per_s == 0 {
            return;
        }
        let busy = self.now.saturating_sub(self.last_guest) < BUSY_US && self.last_guest > 0;
        let rate = if busy { self.config.hydrate_busy_bytes_per_s } else { self.config.hydrate_bytes_per_s };
        let passed = self.now.saturating_sub(self.hydration.refilled_at).min(100_000);
        self.hydration.refilled_at = self.now;
        let ceiling = (rate / 10) as i64;
        self.hydration.allowance = (self.hydration.allowance + (rate * passed / 1_000_000) as i64).min(ceiling);
        self.pump_hydration();
        self.report_hydration();
    }

    fn pump_hydration(&mut self) {
        while self.hydration.pieces.len() < self.config.hydrate_pieces_max && self.hydration.allowance > 0 {
            let number = self.hydration.done;
            let Some(chunk) = self.chunks.get(number as usize) else { return };
            if !self.spec.sources.iter().any(|source| (number as usize) < source.placement.len()) {
                self.hydration.block = CHUNK_BLOCKS; // beyond the end of every source
            }
            if self.hydration.block >= CHUNK_BLOCKS {
                if !self.hydration.pieces.is_empty() {
                    return;
                }
                self.hydration.done += 1;
                self.hydration.block = 0;
                continue;
            }
            if !chunk.serving {
                self.urgent.insert(number);
                return;
            }
            let piece = self.id();
            let block = self.hydration.block;
            self.hydration.block += PIECE_BLOCKS;
            self.hydration.allowance -= PIECE_COST_BYTES as i64;
            self.hydration.pieces.insert(piece, None);
            self.begin_read(ReadJob {
                purpose: Purpose::Hydrate(piece),
                chunk: number,
                block,
                blocks: PIECE_BLOCKS,
                states_only: true,
                stage: Stage::Own,
                tried: Vec::new(),
                runs: None,
                fills: Vec::new(),
                asked_at: self.now,
            });
        }
    }

    /// A piece was looked at; so many fills follow.
    pub(crate) fn hydrate_read(&mut self, piece: u64, fills: usize) {
        if fills == 0 {
            self.hydration.pieces.remove(&piece);
            self.pump_hydration();
        } else {
            self.hydration.pieces.insert(piece, Some(fills));
        }
    }

    pub(crate) fn fill_done(&mut self, hydrate: Option<u64>, blocks: usize) {
        let bytes = (blocks * BLOCK_BYTES) as u64;
        self.fill_bytes = self.fill_bytes.saturating_sub(bytes);
        let Some(piece) = hydrate else { return };
        self.hydration.allowance -= bytes as i64;
        if let Some(Some(left)) = self.hydration.pieces.get_mut(&piece) {
            *left -= 1;
            if *left == 0 {
                self.hydration.pieces.remove(&piece);
                self.pump_hydration();
            }
        }
    }

    fn report_hydration(&mut self) {
        let done = self.hydrated_chunks();
        let all = done as usize == self.chunks.len();
        let due = all || self.now.saturating_sub(self.hydration.reported_at) >= REPORT_US;
        if done <= self.hydration.reported || self.hydration.reporting || !due {
            return;
        }
        self.hydration.reporting = true;
        self.hydration.reported_at = self.now;
        self.barrier(FlushFor::Hydrated { chunks: done });
    }

    /// Everything below `chunks` is on stable storage of every in-sync server.
    pub(crate) fn hydration_durable(&mut self, chunks: ChunkIndex) {
        let (volume, generation) = (self.spec.volume, self.spec.generation);
        self.raise(Raised::Hydrated(chunks), GatewayEvent::Hydrated { volume, generation, chunks });
    }

    pub(crate) fn hydrated_answered(&mut self, chunks: ChunkIndex, answer: &EventAnswer) {
        self.hydration.reporting = false;
        if let EventAnswer::Refused { reason } = answer {
            return self.note(None, None, format!("the master refused the hydration mark {chunks}: {reason}"));
        }
        self.hydration.reported = self.hydration.reported.max(chunks);
        self.spec.hydrated_chunks = self.hydration.reported;
        if chunks as usize >= self.chunks.len() {
            self.note(None, None, "hydrated: the source is not needed any more");
        }
    }
}
