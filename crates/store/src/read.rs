//! Reads: as of a layer over its ancestors, or of exactly one layer. Every block is checked before it leaves.
//!
//! *Invariant 6, checksums end to end.* Disks return other bytes than were written, rarely and without an error, and so
//! do memory and networks. The checksum of a block is made at the gateway and stays with it: the server checks it when
//! it comes, stores it apart from the bytes, checks it here, and the gateway checks it again. A block that fails is
//! read from another replica, and the chunk is pulled anew. Tests: `a_flipped_bit_is_found_and_refused`,
//! `a_damaged_block_is_served_from_another_server_and_the_chunk_pulled_anew`; mutants "checksums are not looked at",
//! "the gateway does not look at checksums".

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use yuntai_proto::data::Refusal;
use yuntai_proto::{block_crc, mutant, BlockEntry, BlockState, LayerId, BLOCK_BYTES, CHUNK_BLOCKS};

use crate::files::Handles;
use crate::groups::{self, Half, LayerKey, Slot, Stored, GROUP_BYTES, GROUP_ENTRIES};
use crate::overlay::{Run, Source};
use crate::owners::NOBODY;
use crate::store::{refusal_of, Store};
use crate::tree::LayerTree;
use crate::vfs::{Vfs, VfsFile};

/// Up to so many layers are looked through one after the other; above, an owner map is made.
const WALK_MAX: usize = 3;
/// A group that does not decode may just be being written by a checkpoint on another thread: look again so often.
pub(crate) const GROUP_TRIES: usize = 4;

/// The answer to a read, in the form of the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBlocks {
    /// Per block state u8, then per block CRC u32.
    pub body: Bytes,
    /// The blocks of state `Data`, in order.
    pub data: Bytes,
}

/// Where a block's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Journal { segment: u64, offset: u64 },
    Files(Half),
}

/// What a layer says of a block.
#[derive(Clone, Copy, Debug)]
struct Found {
    slot: Slot,
    layer: LayerId,
    place: Place,
}

const NOTHING: Found = Found { slot: groups::ABSENT, layer: 0, place: Place::Nowhere };

impl Found {
    fn is_absent(&self) -> bool {
        matches!(self.slot, Slot::Entry(BlockEntry { state: BlockState::Absent, .. }))
    }
}

/// A read that knows where everything is, and has not fetched it yet. Good until the next change of the store.
pub struct PlannedRead {
    key: LayerKey,
    block: u16,
    /// Empty: there is nothing of the chunk.
    found: Vec<Found>,
    blocks: u16,
}

impl<V: Vfs> Store<V> {
    /// Find out where the blocks of a read are.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn plan_read(
        &mut self,
        key: LayerKey,
        tree: &LayerTree,
        block: u16,
        blocks: u16,
    ) -> Result<PlannedRead, Refusal> {
        let found = self.look_up(&key, tree, block, blocks)?.unwrap_or_default();
        Ok(PlannedRead { key, block, found, blocks })
    }

    /// Let the disk begin with a read that is going to be done, so that several of them overlap.
    pub fn begin_read(&mut self, planned: &PlannedRead) {
        let blocks: Vec<(u16, Found, u32)> =
            (planned.block..).zip(&planned.found).map(|(block, found)| (block, *found, 0)).collect();
        for run in blocks.chunk_by(follows) {
            let (block, found, _) = run[0];
            let len = (run.len() * BLOCK_BYTES) as u64;
            match found.place {
                Place::Nowhere => {}
                Place::Journal { segment, offset } => {
                    if let Some(segment) = self.journal.segments.get(&segment) {
                        segment.file.will_read(offset, len);
                    }
                }
                Place::Files(half) => {
                    // The read itself says what is wrong.
                    if let Ok(handles) = self.files.get(&self.vfs, &LayerKey { layer: found.layer, ..planned.key }) {
                        handles.data.will_read(half.offset(block), len);
                    }
                }
            }
        }
    }

    /// Do a planned read.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn finish_read(&mut self, planned: &PlannedRead) -> Result<ReadBlocks, Refusal> {
        if planned.found.is_empty() {
            return Ok(absent(planned.blocks));
        }
        self.fetch(&planned.key, planned.block, &planned.found, true)
    }

    /// Read as of a layer.
    ///
    /// # Errors
    /// [`Refusal::Damaged`] with the first damaged block, [`Refusal::Invalid`], [`Refusal::Io`], and
    /// [`Refusal::Busy`] while the chunk is being rebuilt.
    pub fn read(&mut self, key: LayerKey, tree: &LayerTree, block: u16, blocks: u16) -> Result<ReadBlocks, Refusal> {
        let planned = self.plan_read(key, tree, block, blocks)?;
        self.finish_read(&planned)
    }

    /// As [`Store::read`], but without the bytes.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read_states(
        &mut self,
        key: LayerKey,
        tree: &LayerTree,
        block: u16,
        blocks: u16,
    ) -> Result<ReadBlocks, Refusal> {
        match self.look_up(&key, tree, block, blocks)? {
            Some(found) => self.fetch(&key, block, &found, false),
            None => Ok(absent(blocks)),
        }
    }

    /// `None`: there is nothing of the chunk.
    fn look_up(
        &mut self,
        key: &LayerKey,
        tree: &LayerTree,
        block: u16,
        blocks: u16,
    ) -> Result<Option<Vec<Found>>, Refusal> {
        check_range(block, blocks)?;
        if key.layer as usize >= tree.len() {
            return Err(Refusal::Invalid { message: format!("layer {}: not below {}", key.layer, tree.len()) });
        }
        let Some(chunk) = self.chunks.get(&(key.volume, key.chunk)) else { return Ok(None) };
        if chunk.rebuilding {
            return Err(Refusal::Busy { message: "the chunk is being rebuilt here".into() });
        }
        self.resolve(key, tree, block, blocks).map(Some).map_err(|error| refusal_of(&error))
    }

    /// Read exactly one layer, without its ancestors.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read_layer(&mut self, key: LayerKey, block: u16, blocks: u16) -> Result<ReadBlocks, Refusal> {
        check_range(block, blocks)?;
        if self.chunks.get(&(key.volume, key.chunk)).is_some_and(|chunk| chunk.rebuilding) {
            return Err(Refusal::Busy { message: "the chunk is being rebuilt here".into() });
        }
        let found = self.layer(&key, block, blocks).map_err(|error| refusal_of(&error))?;
        self.fetch(&key, block, &found, true)
    }

    fn resolve(&mut self, key: &LayerKey, tree: &LayerTree, block: u16, blocks: u16) -> io::Result<Vec<Found>> {
        let chunk = &self.chunks[&(key.volume, key.chunk)];
        let many = chunk.layers.len() > WALK_MAX;
        if many && self.owners.get(key).is_some() {
            return self.resolve_by_owner(key, block, blocks);
        }
        let candidates: Vec<LayerId> = match &chunk.layers[..] {
            // The usual chunk: never snapshotted, not cloned.
            [only] if only.id == key.layer => return self.layer(key, block, blocks),
            layers => layers
                .iter()
                .rev()
                .map(|layer| layer.id)
                .filter(|id| *id <= key.layer && tree.is_ancestor(*id, key.layer))
                .collect(),
        };
        if candidates.len() > WALK_MAX {
            let owners = self.owner_map(key, &candidates)?;
            self.owners.insert(*key, owners);
            return self.resolve_by_owner(key, block, blocks);
        }
        let mut found = vec![NOTHING; blocks as usize];
        for layer in candidates {
            if found.iter().all(|found| !found.is_absent()) {
                break;
            }
            let of_layer = self.layer(&LayerKey { layer, ..*key }, block, blocks)?;
            for (found, of_layer) in found.iter_mut().zip(of_layer) {
                if found.is_absent() {
                    *found = of_layer;
                }
            }
        }
        Ok(found)
    }

    /// With the owner map, which is there.
    fn resolve_by_owner(&mut self, key: &LayerKey, block: u16, blocks: u16) -> io::Result<Vec<Found>> {
        let range = block as usize..block as usize + blocks as usize;
        let owners: Vec<LayerId> = self.owners.get(key).map(|map| map[range].to_vec()).unwrap_or_default();
        let mut found = Vec::with_capacity(owners.len());
        for run in owners.chunk_by(|left, right| left == right) {
            #[allow(clippy::cast_possible_truncation, reason = "blocks of a chunk")]
            let (first, len) = (block + found.len() as u16, run.len() as u16);
            match run[0] {
                NOBODY => found.extend(std::iter::repeat_n(NOTHING, run.len())),
                layer => found.extend(self.layer(&LayerKey { layer, ..*key }, first, len)?),
            }
        }
        Ok(found)
    }

    fn owner_map(&mut self, key: &LayerKey, candidates: &[LayerId]) -> io::Result<Box<[LayerId]>> {
        let mut owners = vec![NOBODY; CHUNK_BLOCKS].into_boxed_slice();
        for &layer in candidates {
            // An ancestor's map tells of it and of all above it.
            if let Some(known) = self.owners.get(&LayerKey { layer, ..*key }) {
                let unowned = owners.iter_mut().zip(known).filter(|(owner, _)| **owner == NOBODY);
                unowned.for_each(|(owner, known)| *owner = *known);
                break;
            }
            let of_layer = self.layer(&LayerKey { layer, ..*key }, 0, CHUNK_BLOCKS_U16)?;
            for (owner, found) in owners.iter_mut().zip(of_layer) {
                if *owner == NOBODY && !found.is_absent() {
                    *owner = layer;
                }
            }
        }
        Ok(owners)
    }

    /// What one layer says of a range.
    fn layer(&mut self, key: &LayerKey, block: u16, blocks: u16) -> io::Result<Vec<Found>> {
        let mut found = vec![Found { layer: key.layer, ..NOTHING }; blocks as usize];
        let layer = self.chunks.get(&(key.volume, key.chunk)).and_then(|chunk| chunk.layer(key.layer));
        let Some(layer) = layer else { return Ok(found) };
        let mut covered = 0;
        if !layer.overlay.is_empty() {
            for (first, run) in layer.overlay.range(block, blocks) {
                covered += run.blocks;
                for index in 0..run.blocks {
                    let place = place_of(&run, index);
                    let slot = run.slot(index);
                    found[(first - block + index) as usize] = Found { slot, layer: key.layer, place };
                }
            }
        }
        if !layer.on_disk || covered == blocks {
            return Ok(found);
        }
        let mut in_journal = vec![false; blocks as usize];
        for (first, run) in layer.overlay.range(block, blocks) {
            in_journal[(first - block) as usize..][..run.blocks as usize].fill(true);
        }
        let handles = self.files.get(&self.vfs, key)?;
        let stored = read_slots(&handles, key, block, blocks)?;
        for ((found, stored), in_journal) in found.iter_mut().zip(stored).zip(in_journal) {
            if !in_journal {
                *found = Found { slot: stored.slot, layer: key.layer, place: Place::Files(stored.half) };
            }
        }
        Ok(found)
    }

    /// Entries of a whole layer, in order of blocks.
    pub(crate) fn layer_slots(&mut self, key: &LayerKey) -> Result<Vec<Slot>, Refusal> {
        let found = self.layer(key, 0, CHUNK_BLOCKS_U16).map_err(|error| refusal_of(&error))?;
        Ok(found.into_iter().map(|found| found.slot).collect())
    }

    /// Which blocks of a layer are there; damaged ones are.
    pub(crate) fn present(&mut self, key: &LayerKey, block: u16, blocks: u16) -> Result<Vec<bool>, Refusal> {
        let found = self.layer(key, block, blocks).map_err(|error| refusal_of(&error))?;
        Ok(found.iter().map(|found| !found.is_absent()).collect())
    }

    /// Bring (if wanted) and check the bytes.
    fn fetch(&mut self, key: &LayerKey, block: u16, found: &[Found], bytes: bool) -> Result<ReadBlocks, Refusal> {
        let mut states = BytesMut::with_capacity(found.len() * 5);
        let mut crcs = Vec::with_capacity(found.len());
        let mut wanted = 0;
        for (block, found) in (block..).zip(found) {
            let Slot::Entry(entry) = found.slot else {
                return Err(self.mark_damaged(LayerKey { layer: found.layer, ..*key }, block));
            };
            states.put_u8(entry.state as u8);
            crcs.push(entry.crc);
            wanted += usize::from(entry.state == BlockState::Data);
        }
        crcs.iter().for_each(|crc| states.put_u32_le(*crc));
        if !bytes {
            return Ok(ReadBlocks { body: states.freeze(), data: Bytes::new() });
        }
        let mut data = BytesMut::zeroed(wanted * BLOCK_BYTES);
        let blocks: Vec<(u16, Found, u32)> = (block..)
            .zip(found)
            .zip(&crcs)
            .filter(|((_, found), _)| matches!(found.slot, Slot::Entry(entry) if entry.state == BlockState::Data))
            .map(|((block, found), crc)| (block, *found, *crc))
            .collect();
        let mut filled = 0;
        for run in blocks.chunk_by(follows) {
            let into = &mut data[filled..filled + run.len() * BLOCK_BYTES];
            filled += into.len();
            self.read_run(key, run[0].0, &run[0].1, into).map_err(|error| refusal_of(&error))?;
            for ((block, found, crc), bytes) in run.iter().zip(into.chunks_exact(BLOCK_BYTES)) {
                if block_crc(bytes) != *crc && !mutant::is("checksums are not looked at") {
                    return Err(self.mark_damaged(LayerKey { layer: found.layer, ..*key }, *block));
                }
            }
        }
        Ok(ReadBlocks { body: states.freeze(), data: data.freeze() })
    }

    fn read_run(&mut self, key: &LayerKey, block: u16, found: &Found, into: &mut [u8]) -> io::Result<()> {
        let read = match found.place {
            Place::Nowhere => 0,
            Place::Journal { segment, offset } => {
                let segment = self.journal.segments.get(&segment);
                let segment = segment.ok_or_else(|| io::Error::other("the journal segment of a block is gone"))?;
                segment.file.read_at(into, offset)?
            }
            Place::Files(half) => {
                let handles = self.files.get(&self.vfs, &LayerKey { layer: found.layer, ..*key })?;
                handles.data.read_at(into, half.offset(block))?
            }
        };
        // What is missing stays zeros, and the checksum says whether that is right.
        into[read..].fill(0);
        Ok(())
    }
}

#[allow(clippy::cast_possible_truncation, reason = "16,384")]
pub(crate) const CHUNK_BLOCKS_U16: u16 = CHUNK_BLOCKS as u16;

fn check_range(block: u16, blocks: u16) -> Result<(), Refusal> {
    if blocks == 0 || block as usize + blocks as usize > CHUNK_BLOCKS {
        let message = format!("blocks {block}+{blocks}: must be 1 or more and end within {CHUNK_BLOCKS}");
        return Err(Refusal::Invalid { message });
    }
    Ok(())
}

fn absent(blocks: u16) -> ReadBlocks {
    ReadBlocks { body: Bytes::from(vec![0; blocks as usize * 5]), data: Bytes::new() }
}

/// Do the bytes of two blocks lie one behind the other?
fn follows(left: &(u16, Found, u32), right: &(u16, Found, u32)) -> bool {
    match (left.1.place, right.1.place) {
        (Place::Files(a), Place::Files(b)) => a == b && left.1.layer == right.1.layer && left.0 + 1 == right.0,
        (Place::Journal { segment: a, offset: from }, Place::Journal { segment: b, offset: to }) => {
            a == b && from + BLOCK_BYTES as u64 == to
        }
        _ => false,
    }
}

/// Where the bytes of a block of a run are.
fn place_of(run: &Run, index: u16) -> Place {
    match (&run.source, run.place(index)) {
        (Source::InPlace { half, .. }, _) => Place::Files(*half),
        (_, Some((segment, offset))) => Place::Journal { segment, offset },
        (_, None) => Place::Nowhere,
    }
}

/// Entries of a range from the entry file.
pub(crate) fn read_slots<V: Vfs>(
    handles: &Handles<V>,
    key: &LayerKey,
    block: u16,
    blocks: u16,
) -> io::Result<Vec<Stored>> {
    let (first, _) = groups::place_of(block);
    let (last, _) = groups::place_of(block + (blocks - 1));
    let mut raw = vec![0; (last - first + 1) * GROUP_BYTES];
    let mut decoded = Vec::with_capacity(last - first + 1);
    handles.entries.read_at(&mut raw, (first * GROUP_BYTES) as u64)?;
    for number in first..=last {
        let mut group = None;
        for attempt in 0..GROUP_TRIES {
            let bytes = &mut raw[(number - first) * GROUP_BYTES..][..GROUP_BYTES];
            if attempt > 0 {
                std::thread::yield_now();
                handles.entries.read_at(bytes, (number * GROUP_BYTES) as u64)?;
            }
            group = groups::decode(key, number, bytes.first_chunk().expect("a group's length"));
            if group.is_some() {
                break;
            }
        }
        decoded.push(group.unwrap_or([Stored::LOST; GROUP_ENTRIES]));
    }
    let skip = block as usize - first * GROUP_ENTRIES;
    Ok(decoded.into_iter().flatten().skip(skip).take(blocks as usize).collect())
}
