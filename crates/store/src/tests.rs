//! The store as a whole, over a disk in memory.

use bytes::Bytes;
use yuntai_proto::data::Refusal;
use yuntai_proto::{block_crc, BlockState, Position, BLOCK_BYTES};

use crate::vfs::memory::MemVfs;
use crate::{LayerKey, LayerTree, Mutation, MutationKind, Options, Staged, Store};

mod basic;
mod crash;
mod full;
mod layers;
mod mutants;
mod rebuild;

pub(crate) const VOLUME: u64 = 0x77;

pub(crate) fn options() -> Options {
    Options {
        segment_bytes: 256 << 10,
        journal_bytes_max: 8 << 20,
        in_place_blocks_min: 2,
        spare_layers_max: 1,
        ..Options::new(1, [9; 16])
    }
}

pub(crate) fn open(vfs: &MemVfs) -> Store<MemVfs> {
    Store::open(vfs.clone(), options()).unwrap()
}

pub(crate) fn key(chunk: u32, layer: u32) -> LayerKey {
    LayerKey { volume: VOLUME, chunk, layer }
}

/// A block whose every 8 bytes say who wrote it.
pub(crate) fn content(tag: u64) -> Bytes {
    Bytes::from(tag.to_le_bytes().repeat(BLOCK_BYTES / 8))
}

pub(crate) fn mutation(kind: MutationKind, chunk: u32, layer: u32, sequence: u64, block: u16) -> Mutation {
    Mutation {
        kind,
        volume: VOLUME,
        chunk,
        layer,
        position: Position { generation: 1, sequence },
        block,
        blocks: 1,
        body: Bytes::new(),
        data: Bytes::new(),
    }
}

pub(crate) fn write(chunk: u32, layer: u32, sequence: u64, block: u16, tags: &[u64]) -> Mutation {
    let data: Vec<u8> = tags.iter().flat_map(|tag| content(*tag)).collect();
    let body: Vec<u8> = data.chunks(BLOCK_BYTES).flat_map(|block| block_crc(block).to_le_bytes()).collect();
    let blocks = tags.len() as u16;
    let base = mutation(MutationKind::Write, chunk, layer, sequence, block);
    Mutation { blocks, body: body.into(), data: data.into(), ..base }
}

/// `None` is zeros.
pub(crate) fn fill(chunk: u32, sequence: u64, block: u16, tags: &[Option<u64>]) -> Mutation {
    let states = tags.iter().map(|tag| if tag.is_some() { 2 } else { 1 });
    let crcs = tags.iter().flat_map(|tag| tag.map_or(0, |tag| block_crc(&content(tag))).to_le_bytes());
    let body: Vec<u8> = states.chain(crcs).collect();
    let data: Vec<u8> = tags.iter().flatten().flat_map(|tag| content(*tag)).collect();
    let blocks = tags.len() as u16;
    let base = mutation(MutationKind::Fill, chunk, 0, sequence, block);
    Mutation { blocks, body: body.into(), data: data.into(), ..base }
}

pub(crate) fn zero(chunk: u32, layer: u32, sequence: u64, block: u16, blocks: u16) -> Mutation {
    Mutation { blocks, ..mutation(MutationKind::Zero, chunk, layer, sequence, block) }
}

pub(crate) fn put(store: &mut Store<MemVfs>, mutation: &Mutation) {
    if store.stage(mutation).unwrap() == Staged::CommitFirst {
        store.commit().unwrap();
        assert_eq!(store.stage(mutation).unwrap(), Staged::New);
    }
    store.commit().unwrap();
}

pub(crate) fn sync(store: &mut Store<MemVfs>) {
    if let Some(ticket) = store.sync_ticket() {
        ticket.run().unwrap();
        store.synced(&ticket);
    }
}

pub(crate) fn checkpoint(store: &mut Store<MemVfs>) {
    let mut job = store.begin_checkpoint().unwrap();
    while !job.step().unwrap() {}
    store.end_checkpoint(job);
}

/// What a read says of each block: `None` absent, `Some(0)` zeros, else the tag.
pub(crate) fn tags(blocks: &crate::ReadBlocks) -> Vec<Option<u64>> {
    let count = blocks.body.len() / 5;
    let mut data = blocks.data.chunks_exact(BLOCK_BYTES);
    let tag = |state: &u8| match BlockState::try_from(*state).unwrap() {
        BlockState::Absent => None,
        BlockState::Zero => Some(0),
        BlockState::Data => {
            let block = data.next().unwrap();
            let tag = u64::from_le_bytes(block[..8].try_into().unwrap());
            assert_eq!(block, &content(tag)[..]);
            Some(tag)
        }
    };
    blocks.body[..count].iter().map(tag).collect()
}

pub(crate) fn line(layers: u32) -> LayerTree {
    let parents: Vec<u32> = (0..layers).map(|layer| layer.saturating_sub(1)).collect();
    LayerTree::new(&parents).unwrap()
}

pub(crate) fn read(
    store: &mut Store<MemVfs>,
    chunk: u32,
    block: u16,
    blocks: u16,
) -> Result<Vec<Option<u64>>, Refusal> {
    store.read(key(chunk, 1), &line(2), block, blocks).map(|blocks| tags(&blocks))
}

/// A small generator, so that a failing case can be told by its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) >> 33) as usize % n
    }

    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
}
