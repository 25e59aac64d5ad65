//! Background half of lazy load: chunk by chunk, what the base layer lacks is copied from the source, slowly while the
//! guest works. Chunks below the mark need no source any more; the master hears of it only when that is durable.

use std::collections::{BTreeMap, VecDeque};

use yuntai_proto::control::{BlockRange, EventAnswer, GatewayEvent, OpenVolume};
use yuntai_proto::{ChunkIndex, BLOCK_BYTES, CHUNK_BLOCKS};

use crate::api::Micros;
use crate::guest::FlushFor;
use crate::members::Raised;
use crate::read::{Purpose, ReadJob, Stage};
use crate::volume::{Phase, Volume};

/// Blocks per piece: 1 MiB.
const PIECE_BLOCKS: usize = 256;
const PIECE_BYTES: u64 = (PIECE_BLOCKS * BLOCK_BYTES) as u64;
/// Least time between two reports to the master (the last one is not held back).
const REPORT_US: Micros = 1_000_000;
/// An answer to background copying that takes longer than this is slow.
const SLOW_US: Micros = 50_000;
/// The pause after it.
const PAUSE_TIMES: u64 = 4;
const PAUSE_MAX_US: Micros = 2_000_000;
/// What looking at a piece costs, even if nothing has to be copied.
const PIECE_COST_BYTES: u64 = 16 << 10;

/// A piece under way.
#[derive(Debug)]
struct Piece {
    /// When it was begun, or, with fills, when the source had answered.
    began: Micros,
    /// Fills that are not acknowledged (`None`: still reading).
    fills: Option<usize>,
}

/// How far the background copying is.
#[derive(Debug)]
pub(crate) struct Hydration {
    /// Chunks `[0, done)` have everything.
    done: ChunkIndex,
    /// Next block to look at in chunk `done`.
    block: usize,
    /// What is copied before that, in pieces: what others read first.
    boot: VecDeque<BlockRange>,
    /// The source is slow: nothing more is asked of it before this.
    not_before: Micros,
    pieces: BTreeMap<u64, Piece>,
    reported: ChunkIndex,
    reported_at: Micros,
    reporting: bool,
}

impl Hydration {
    pub fn new(spec: &OpenVolume) -> Self {
        let done = spec.hydrated_chunks;
        let valid = |range: &&BlockRange| {
            let within = usize::from(range.block) + usize::from(range.blocks) <= CHUNK_BLOCKS;
            within && (range.chunk as usize) < spec.placement.len()
        };
        let pieces = spec.boot_set.iter().filter(valid).flat_map(|range| {
            let (first, end) = (range.block, range.block + range.blocks);
            (first..end).step_by(PIECE_BLOCKS).map(move |block| {
                let blocks = (end - block).min(PIECE_BLOCKS as u16);
                BlockRange { chunk: range.chunk, block, blocks }
            })
        });
        Self {
            done,
            block: 0,
            boot: pieces.collect(),
            not_before: 0,
            pieces: BTreeMap::new(),
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

    /// How fast may be copied now.
    pub(crate) fn hydrate_rate(&self) -> u64 {
        let full = self.config.hydrate_bytes_per_s;
        // What a guest is about to ask for anyway is foreground.
        if self.busy() && self.hydration.boot.is_empty() {
            full.min(self.config.hydrate_busy_bytes_per_s)
        } else {
            full
        }
    }

    pub(crate) fn tick_hydration(&mut self) {
        let active = self.phase == Phase::Serving && !self.spec.sources.is_empty() && self.keeps_copies();
        if !active || self.config.hydrate_bytes_per_s == 0 {
            return;
        }
        self.background.refill(self.hydrate_rate(), self.now);
        self.pump_hydration();
        self.report_hydration();
    }

    fn pump_hydration(&mut self) {
        while self.hydration.pieces.len() < self.config.hydrate_pieces_max && self.background.allowed() {
            if self.hydration.not_before > self.now || !self.background.begin(PIECE_BYTES, self.now) {
                return;
            }
            let Some(BlockRange { chunk, block, blocks }) = self.next_piece() else {
                return self.background.end(PIECE_BYTES, self.now);
            };
            let piece = self.id();
            self.background.spend(PIECE_COST_BYTES);
            self.hydration.pieces.insert(piece, Piece { began: self.now, fills: None });
            self.begin_read(ReadJob {
                purpose: Purpose::Hydrate(piece),
                chunk,
                block: usize::from(block),
                blocks: usize::from(blocks),
                states_only: true,
                stage: Stage::Own,
                tried: Vec::new(),
                bad: Vec::new(),
                asked: Vec::new(),
                hedged: false,
                runs: None,
                fills: Vec::new(),
                asked_at: self.now,
            });
        }
    }

    fn in_a_source(&self, number: ChunkIndex) -> bool {
        self.spec.sources.iter().any(|source| (number as usize) < source.placement.len())
    }

    fn next_piece(&mut self) -> Option<BlockRange> {
        while let Some(range) = self.hydration.boot.front().copied() {
            if !self.chunks[range.chunk as usize].serving {
                self.urgent.insert(range.chunk);
                return None;
            }
            self.hydration.boot.pop_front();
            if self.needs_source(range.chunk) && self.in_a_source(range.chunk) {
                return Some(range);
            }
        }
        loop {
            let number = self.hydration.done;
            let chunk = self.chunks.get(number as usize)?;
            if !self.in_a_source(number) {
                self.hydration.block = CHUNK_BLOCKS; // beyond the end of every source
            }
            if self.hydration.block >= CHUNK_BLOCKS {
                if !self.hydration.pieces.is_empty() {
                    return None;
                }
                self.hydration.done += 1;
                self.hydration.block = 0;
                continue;
            }
            if !chunk.serving {
                self.urgent.insert(number);
                return None;
            }
            let block = self.hydration.block;
            self.hydration.block += PIECE_BLOCKS;
            return Some(BlockRange { chunk: number, block: block as u16, blocks: PIECE_BLOCKS as u16 });
        }
    }

    /// A source answered background copying, or this volume's servers kept what it said. Servers that are slow have much
    /// to do, often for many volumes that begin at once: they are left alone for a multiple of that time, so that however
    /// many they are, they serve guests first.
    pub(crate) fn copying_took(&mut self, took: Micros) {
        if took > SLOW_US {
            self.hydration.not_before = self.now + (took * PAUSE_TIMES).min(PAUSE_MAX_US);
        }
    }

    /// A piece was looked at; so many fills follow.
    pub(crate) fn hydrate_read(&mut self, piece: u64, fills: usize) {
        if fills == 0 {
            self.end_piece(piece);
        } else if let Some(piece) = self.hydration.pieces.get_mut(&piece) {
            (piece.began, piece.fills) = (self.now, Some(fills));
        }
    }

    fn end_piece(&mut self, piece: u64) {
        if self.hydration.pieces.remove(&piece).is_some() {
            self.background.end(PIECE_BYTES, self.now);
        }
        self.pump_hydration();
    }

    pub(crate) fn fill_done(&mut self, hydrate: Option<u64>, blocks: usize) {
        let bytes = (blocks * BLOCK_BYTES) as u64;
        let Some(id) = hydrate else { return self.background.end(bytes, self.now) };
        self.counters.hydrated_blocks += blocks as u64;
        self.background.spend(bytes);
        let Some(Piece { began, fills: Some(left) }) = self.hydration.pieces.get_mut(&id) else { return };
        *left -= 1;
        if *left == 0 {
            let took = self.now - *began;
            self.copying_took(took);
            self.end_piece(id);
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
