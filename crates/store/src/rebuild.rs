//! Making a chunk whole from a peer while new mutations stream in.
//!
//! `begin_rebuild` marks the chunk durably: it is nobody's survivor until `end_rebuild`. From then on the stream's
//! mutations are applied as they come and remembered; `compare` holds the peer's entries against ours and says what to
//! fetch, and at once takes out what the peer has not; `put_pulled` puts what was fetched. None of them touches a block
//! that the stream wrote. The peer's entries are of a moment at or after the stream's beginning, so what it had changed
//! by then and the entries do not show yet, the stream brings.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use yuntai_proto::data::{Refusal, VersionsReply};
use yuntai_proto::{
    mutant, BlockEntry, BlockState, ChunkIndex, LayerId, Position, VolumeId, BASE_LAYER, BLOCK_BYTES, ENTRY_BYTES,
};

use crate::groups::{LayerKey, Slot};
use crate::read::CHUNK_BLOCKS_U16;
use crate::record::Kind;
use crate::store::Store;
use crate::vfs::Vfs;

/// Most blocks of one fetched run.
const RUN_BLOCKS_MAX: usize = 128;
/// Most bytes of one page of entries.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Most layers of one page: each costs a look at its entry file.
const PAGE_LAYERS_MAX: usize = 32;

/// Neighbouring blocks to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRun {
    /// The layer.
    pub layer: LayerId,
    /// First block.
    pub block: u16,
    /// What the source has for each; all of state `Data`.
    pub entries: Vec<BlockEntry>,
}

/// What came out of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullPlan {
    /// To be fetched and given to [`Store::put_pulled`].
    pub runs: Vec<PullRun>,
}

/// Blocks that a source, or all of them, cannot give; with the entry where it is known.
pub type Lacking = BTreeMap<(LayerId, u16), Option<BlockEntry>>;

fn begin_first() -> Refusal {
    Refusal::Busy { message: "no rebuild of this chunk is going on here: begin it again".into() }
}

impl<V: Vfs> Store<V> {
    /// Begin (again) to rebuild a chunk; the stream's first mutation will be the one after `position`. Staged: it is
    /// in force after the commit, and durable after a sync.
    ///
    /// # Errors
    /// [`Refusal::Full`] for a new chunk on a full disk.
    pub fn begin_rebuild(&mut self, volume: VolumeId, chunk: ChunkIndex, position: Position) -> Result<(), Refusal> {
        if !self.chunks.contains_key(&(volume, chunk)) {
            self.check_not_dropped(volume, chunk)?;
            if self.is_above(self.options.rebuild_percent) {
                return Err(Refusal::Full);
            }
        }
        let key = LayerKey { volume, chunk, layer: BASE_LAYER };
        self.stage_record(Kind::Begin, key, position, (0, 0), &[], Bytes::new());
        Ok(())
    }

    /// The chunk is whole, up to `position`. Staged.
    ///
    /// # Errors
    /// [`Refusal::OutOfOrder`] if the stream stands elsewhere; [`Refusal::Busy`] if no rebuild is going on.
    pub fn end_rebuild(&mut self, volume: VolumeId, chunk: ChunkIndex, position: Position) -> Result<(), Refusal> {
        let state = self.chunks.get(&(volume, chunk)).ok_or_else(begin_first)?;
        if !state.rebuilding && state.position == position {
            return Ok(());
        }
        let Some(session) = state.session.as_deref().filter(|_| state.rebuilding) else { return Err(begin_first()) };
        let streamed = state.position.sequence > session.begin.sequence;
        if position.sequence != state.position.sequence || (streamed && position != state.position) {
            return Err(Refusal::OutOfOrder { expected: state.position.sequence + 1 });
        }
        let key = LayerKey { volume, chunk, layer: BASE_LAYER };
        self.stage_record(Kind::End, key, position, (0, 0), &[], Bytes::new());
        Ok(())
    }

    /// Every entry of a chunk from layer `first` on, as many layers as fit one page; and the layer to ask from next.
    ///
    /// # Errors
    /// [`Refusal::Busy`] while the chunk is being rebuilt.
    pub fn versions(
        &mut self,
        volume: VolumeId,
        chunk: ChunkIndex,
        first: LayerId,
    ) -> Result<(VersionsReply, Option<LayerId>), Refusal> {
        let Some(state) = self.chunks.get(&(volume, chunk)) else { return Ok(Default::default()) };
        if state.rebuilding {
            return Err(Refusal::Busy { message: "the chunk is being rebuilt here".into() });
        }
        let mut reply = VersionsReply { position: state.position, ..VersionsReply::default() };
        let layers: Vec<LayerId> = state.layers.iter().map(|layer| layer.id).filter(|id| *id >= first).collect();
        let room = PAGE_BYTES_MAX / (8 + ENTRY_BYTES);
        for (index, layer) in layers.into_iter().enumerate() {
            if index == PAGE_LAYERS_MAX {
                return Ok((reply, Some(layer)));
            }
            let key = LayerKey { volume, chunk, layer };
            let (before, lost) = (reply.entries.len(), reply.lost.len());
            for (block, slot) in (0..).zip(self.layer_slots(&key)?) {
                match slot {
                    Slot::Lost => {
                        self.mark_damaged(key, block);
                        reply.lost.push((layer, block));
                    }
                    Slot::Entry(entry) if entry.state == BlockState::Absent => {}
                    Slot::Entry(entry) => reply.entries.push((layer, block, entry)),
                }
            }
            if before > 0 && reply.entries.len() > room {
                reply.entries.truncate(before);
                reply.lost.truncate(lost);
                return Ok((reply, Some(layer)));
            }
        }
        Ok((reply, None))
    }

    /// Hold a page of the source's entries, of the layers `first..=last`, against ours. Takes out (staged) what the
    /// source has not, notes zeros, and returns what must be fetched. What the source has `lost` stays as it is here.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if no rebuild is going on; [`Refusal::Io`].
    pub fn compare(
        &mut self,
        volume: VolumeId,
        chunk: ChunkIndex,
        (first, last): (LayerId, LayerId),
        theirs: &[(LayerId, u16, BlockEntry)],
        lost: &[(LayerId, u16)],
    ) -> Result<PullPlan, Refusal> {
        debug_assert!(self.is_settled(), "commit first");
        if let Some((_, block, _)) = theirs.iter().find(|(_, block, _)| *block >= CHUNK_BLOCKS_U16) {
            return Err(Refusal::Invalid { message: format!("block {block}: a chunk has {CHUNK_BLOCKS_U16}") });
        }
        let state = self.chunks.get(&(volume, chunk)).filter(|state| state.rebuilding && state.session.is_some());
        let state = state.ok_or_else(begin_first)?;
        let mut layers: Vec<LayerId> = state.layers.iter().map(|layer| layer.id).collect();
        layers.extend(theirs.iter().map(|(layer, _, _)| *layer));
        layers.retain(|layer| (first..=last).contains(layer));
        layers.sort_unstable();
        layers.dedup();
        let mut plan = PullPlan::default();
        for layer in layers {
            let key = LayerKey { volume, chunk, layer };
            let mut wanted = vec![BlockEntry::default(); CHUNK_BLOCKS_U16 as usize];
            for (_, block, entry) in theirs.iter().filter(|(of, _, _)| *of == layer) {
                wanted[*block as usize] = *entry;
            }
            let lost = lost.iter().filter(|(of, _)| *of == layer).map(|(_, block)| *block).collect();
            self.compare_layer(&key, &wanted, &lost, &mut plan)?;
        }
        if first == BASE_LAYER {
            self.session(volume, chunk)?.compared = true;
        }
        Ok(plan)
    }

    fn session(&mut self, volume: VolumeId, chunk: ChunkIndex) -> Result<&mut crate::chunk::Session, Refusal> {
        let chunk = self.chunks.get_mut(&(volume, chunk)).filter(|chunk| chunk.rebuilding);
        chunk.and_then(|chunk| chunk.session.as_deref_mut()).ok_or_else(begin_first)
    }

    fn compare_layer(
        &mut self,
        key: &LayerKey,
        wanted: &[BlockEntry],
        lost: &BTreeSet<u16>,
        plan: &mut PullPlan,
    ) -> Result<(), Refusal> {
        let ours = self.layer_slots(key)?;
        let chunk = self.chunks.get(&(key.volume, key.chunk)).ok_or_else(begin_first)?;
        let damaged = &chunk.damaged;
        let session = chunk.session.as_deref().ok_or_else(begin_first)?;
        let mut fetch: Vec<(u16, BlockEntry)> = Vec::new();
        let mut settle: Vec<(u16, BlockEntry)> = Vec::new();
        for ((block, theirs), ours) in (0..).zip(wanted).zip(&ours) {
            let same = *ours == Slot::Entry(*theirs) && !damaged.contains(&(key.layer, block));
            let absent = theirs.state == BlockState::Absent;
            let filled = key.layer == BASE_LAYER && session.filled.has(block);
            // A block that the stream's fill wrote stays, unless the source had it from before the stream.
            let keep = filled && (absent || theirs.position.sequence > session.begin.sequence);
            if same || session.wrote(key.layer, block) || keep || lost.contains(&block) {
                continue;
            }
            if theirs.state != BlockState::Data {
                settle.push((block, *theirs));
                continue;
            }
            fetch.push((block, *theirs));
        }
        for run in fetch.chunk_by(|left, right| left.0 + 1 == right.0) {
            for part in run.chunks(RUN_BLOCKS_MAX) {
                let entries = part.iter().map(|(_, entry)| *entry).collect();
                plan.runs.push(PullRun { layer: key.layer, block: part[0].0, entries });
            }
        }
        for run in settle.chunk_by(|left, right| left.0 + 1 == right.0) {
            let entries: Vec<BlockEntry> = run.iter().map(|(_, entry)| *entry).collect();
            self.stage_pulled(key, run[0].0, &entries, Bytes::new());
        }
        Ok(())
    }

    /// What no source could give is lost: a read says so, until it is written anew. What the stream wrote is not. Staged.
    ///
    /// An entry that a source knew is kept: whoever comes back with that very block is then known to have it. Where none
    /// knew it, what is here may be right, and is not given up.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if no rebuild is going on, or the journal is full; [`Refusal::SourceDamaged`] if what is here of
    /// a block may be all that is left of it.
    pub fn put_lost(&mut self, volume: VolumeId, chunk: ChunkIndex, lost: &Lacking) -> Result<(), Refusal> {
        debug_assert!(self.batch.is_empty(), "commit first");
        if self.journal_full() {
            return Err(Refusal::Busy { message: "the journal is full until a checkpoint is through".into() });
        }
        let session = self.session(volume, chunk)?;
        let filled = |layer: LayerId, block: u16| layer == BASE_LAYER && session.filled.has(block);
        let streamed = |layer: LayerId, block: u16| session.wrote(layer, block) || filled(layer, block);
        let gone: Vec<(LayerId, u16, Option<BlockEntry>)> = lost
            .iter()
            .map(|((layer, block), entry)| (*layer, *block, *entry))
            .filter(|(layer, block, _)| !streamed(*layer, *block))
            .collect();
        for (layer, block, _) in gone.iter().filter(|(_, _, entry)| entry.is_none()) {
            if self.has_sound(&LayerKey { volume, chunk, layer: *layer }, *block)? {
                return Err(Refusal::SourceDamaged { chunk, block: *block });
            }
        }
        let position = self.chunks.get(&(volume, chunk)).map_or(Position::default(), |chunk| chunk.position);
        for (layer, block, entry) in gone {
            tracing::error!(
                volume = format!("{volume:016x}"),
                chunk,
                layer,
                block,
                "no replica has this block any more"
            );
            let key = LayerKey { volume, chunk, layer };
            let body = entry.unwrap_or_default().encode();
            self.stage_record(Kind::Lost, key, position, (block, 1), &body, Bytes::new());
        }
        Ok(())
    }

    /// Is there something of this block here that is not known to be damaged?
    fn has_sound(&mut self, key: &LayerKey, block: u16) -> Result<bool, Refusal> {
        let chunk = self.chunks.get(&(key.volume, key.chunk));
        let damaged = chunk.is_some_and(|chunk| chunk.damaged.contains(&(key.layer, block)));
        let ours = self.layer_slots(key)?[block as usize];
        Ok(!damaged && matches!(ours, Slot::Entry(entry) if entry.state != BlockState::Absent))
    }

    pub(crate) fn stage_pulled(&mut self, key: &LayerKey, block: u16, entries: &[BlockEntry], data: Bytes) {
        let body: Vec<u8> = entries.iter().flat_map(BlockEntry::encode).collect();
        let blocks = u16::try_from(entries.len()).expect("blocks of a chunk");
        let position = self.chunks.get(&(key.volume, key.chunk)).map_or(Position::default(), |chunk| chunk.position);
        self.stage_record(Kind::Pulled, *key, position, (block, blocks), &body, data);
    }

    /// Put fetched blocks, except those that the stream has written meanwhile. `states`, `crcs` and `data` are the
    /// source's answer; a block that has changed there since the comparison is left to the stream. Staged.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if no rebuild is going on; [`Refusal::Invalid`] if the answer does not fit the question.
    pub fn put_pulled(
        &mut self,
        volume: VolumeId,
        chunk: ChunkIndex,
        run: &PullRun,
        answer: &crate::ReadBlocks,
    ) -> Result<(), Refusal> {
        debug_assert!(self.is_settled(), "commit first");
        if self.journal_full() {
            return Err(Refusal::Busy { message: "the journal is full until a checkpoint is through".into() });
        }
        let odd = || Refusal::Invalid { message: "the source's answer does not fit what was asked".into() };
        let count = run.entries.len();
        if answer.body.len() != count * 5 {
            return Err(odd());
        }
        let session = self.session(volume, chunk)?;
        // Blocks, and where their bytes begin in the answer.
        let mut taken: Vec<(u16, BlockEntry, usize)> = Vec::with_capacity(count);
        let mut data_at = 0;
        for (index, entry) in run.entries.iter().enumerate() {
            if answer.body[index] != BlockState::Data as u8 {
                continue;
            }
            let at = data_at;
            let data = answer.data.get(at..at + BLOCK_BYTES).ok_or_else(odd)?;
            data_at += BLOCK_BYTES;
            let crc = answer.body[count + index * 4..].first_chunk().map(|crc| u32::from_le_bytes(*crc));
            let block = run.block + u16::try_from(index).map_err(|_| odd())?;
            let streamed = session.wrote(run.layer, block) && !mutant::is("a pull overwrites the stream");
            if crc == Some(entry.crc) && !streamed {
                if yuntai_proto::block_crc(data) != entry.crc {
                    return Err(odd());
                }
                taken.push((block, *entry, at));
            }
        }
        let key = LayerKey { volume, chunk, layer: run.layer };
        for part in taken.chunk_by(|left, right| left.0 + 1 == right.0) {
            let entries: Vec<BlockEntry> = part.iter().map(|(_, entry, _)| *entry).collect();
            // Neighbours that were all taken lie side by side in the answer, which can go to the disk as it came.
            let from = part[0].2;
            let data = answer.data.slice(from..from + part.len() * BLOCK_BYTES);
            self.stage_pulled(&key, part[0].0, &entries, data);
        }
        Ok(())
    }
}
