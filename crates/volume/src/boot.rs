//! What a guest reads first from a volume that is loaded lazily: remembered, and told to the master, so that other
//! volumes made from the same source copy it before the rest.

use std::collections::BTreeMap;

use yuntai_proto::control::{BlockRange, GatewayEvent};
use yuntai_proto::{ChunkIndex, BLOCK_BYTES, CHUNK_BLOCKS};

use crate::api::Micros;
use crate::members::Raised;
use crate::volume::Volume;

/// So long after the open.
const COLLECT_US: Micros = 60_000_000;
const RANGES_MAX: usize = 4096;
const BLOCKS_MAX: usize = (256 << 20) / BLOCK_BYTES;

/// What was read on demand so far.
#[derive(Debug, Default)]
pub(crate) struct BootSet {
    /// Reads are noted until then; 0 = they are not.
    until: Micros,
    /// By chunk a bit per block.
    seen: BTreeMap<ChunkIndex, Vec<u64>>,
    /// In the order of reading.
    ranges: Vec<BlockRange>,
    blocks: usize,
}

impl Volume {
    /// The volume serves. Only the first guest of a volume of which nothing was copied yet shows the whole boot; and
    /// where one is known already, most of it will be here before the guest asks.
    pub(crate) fn begin_boot_set(&mut self) {
        let fresh = !self.spec.sources.is_empty() && self.spec.hydrated_chunks == 0 && self.spec.boot_set.is_empty();
        if fresh && !self.spec.read_only {
            self.boot.until = self.now + COLLECT_US;
        }
    }

    /// A guest waits for these blocks of the source.
    pub(crate) fn note_boot_read(&mut self, chunk: ChunkIndex, block: usize, blocks: usize) {
        let boot = &mut self.boot;
        if boot.until == 0 {
            return;
        }
        let seen = boot.seen.entry(chunk).or_insert_with(|| vec![0; CHUNK_BLOCKS / 64]);
        for block in block..block + blocks {
            let (word, bit) = (block / 64, 1 << (block % 64));
            if seen[word] & bit != 0 || boot.blocks == BLOCKS_MAX {
                continue;
            }
            let next = |last: &BlockRange| last.chunk == chunk && usize::from(last.block + last.blocks) == block;
            let full = boot.ranges.len() == RANGES_MAX;
            match boot.ranges.last_mut().filter(|last| next(last)) {
                Some(last) => last.blocks += 1,
                None if full => return,
                None => boot.ranges.push(BlockRange { chunk, block: block as u16, blocks: 1 }),
            }
            seen[word] |= bit;
            boot.blocks += 1;
        }
    }

    pub(crate) fn tick_boot_set(&mut self) {
        let boot = &mut self.boot;
        if boot.until == 0 || self.now < boot.until {
            return;
        }
        let ranges = std::mem::take(boot).ranges;
        if !ranges.is_empty() {
            let (volume, generation) = (self.spec.volume, self.spec.generation);
            self.raise(Raised::BootSet, GatewayEvent::BootSet { volume, generation, ranges });
        }
    }
}
