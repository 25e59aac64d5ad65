//! The store's state, and what is asked of it as a whole.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use yuntai_proto::control::DamagedChunk;
use yuntai_proto::data::{ChunkState, Refusal};
use yuntai_proto::{mutant, ChunkIndex, ServerId, VolumeId};

use crate::chunk::Chunk;
use crate::fences::{Fence, Fences};
use crate::files::FileCache;
use crate::garbage::Doomed;
use crate::groups::LayerKey;
use crate::journal::{InPlace, Journal, SyncTicket};
use crate::marks::Marks;
use crate::owners::OwnerCache;
use crate::scrub::ScrubMark;
use crate::spares::Spares;
use crate::vfs::{Space, Vfs};
use crate::write::{Batch, Writing};

/// Damaged blocks of a chunk that are named.
const NAMED_MAX: usize = 32;

/// How a store is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's number; must match the folder's.
    pub server: ServerId,
    /// Random; names the store if it has to be made.
    pub uuid: [u8; 16],
    /// No mutation is taken while the journal is longer than this.
    pub journal_bytes_max: u64,
    /// A segment's length, about.
    pub segment_bytes: u64,
    /// Owner maps kept in memory.
    pub owner_cache_bytes: usize,
    /// Chunk files kept open (two per layer of a chunk).
    pub open_layers_max: usize,
    /// Writes of at least so many blocks go straight to the chunk's data file, if the half that is not in use is free.
    pub in_place_blocks_min: u16,
    /// From so many bytes on it is worth letting other threads write a batch in place: see [`Store::begin_commit`].
    pub write_apart_bytes_min: usize,
    /// So many layers at most keep the room that they do not need for the next write in place.
    pub spare_layers_max: usize,
    /// From this share of the disk on, new chunks are refused.
    pub full_percent: u64,
    /// From this share of the disk on, no chunk that is new here is rebuilt here.
    pub rebuild_percent: u64,
    /// Gateways are let in without a master's word, also to a new, empty store.
    pub admitted: bool,
}

impl Options {
    /// What a server on a disk of its own uses, without a master that would admit it.
    #[must_use]
    pub fn new(server: ServerId, uuid: [u8; 16]) -> Self {
        Self {
            server,
            uuid,
            journal_bytes_max: 1 << 30,
            segment_bytes: 64 << 20,
            owner_cache_bytes: 32 << 20,
            open_layers_max: 4096,
            in_place_blocks_min: 16,
            write_apart_bytes_min: 512 << 10,
            spare_layers_max: 256,
            full_percent: 90,
            rebuild_percent: 85,
            admitted: true,
        }
    }
}

/// Room, taken and left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of this store's files.
    pub used_bytes: u64,
    /// Bytes that the file system could still give.
    pub free_bytes: u64,
    /// Size of the file system.
    pub total_bytes: u64,
    /// Chunks here.
    pub chunks: u64,
    /// Volumes here.
    pub volumes: u64,
    /// Journal.
    pub journal_bytes: u64,
    /// Blocks found damaged since the start.
    pub damaged_blocks: u64,
    /// New chunks are refused.
    pub full: bool,
}

/// One disk's chunk store.
pub struct Store<V: Vfs> {
    pub(crate) vfs: V,
    pub(crate) options: Options,
    /// Stands in every record.
    pub(crate) tag: u32,
    pub(crate) journal: Journal<V>,
    pub(crate) fences: Fences<V>,
    pub(crate) chunks: BTreeMap<(VolumeId, ChunkIndex), Chunk>,
    pub(crate) owners: OwnerCache,
    pub(crate) files: FileCache<V>,
    pub(crate) batch: Batch<V>,
    pub(crate) writing: Option<Writing<V>>,
    pub(crate) checkpointing: bool,
    /// What the next checkpoint clears away.
    pub(crate) doomed: Doomed,
    /// Chunks and volumes that went away since the start.
    pub(crate) drops: u64,
    /// There are layers that a sweep has emptied.
    pub(crate) emptied: bool,
    pub(crate) uuid: [u8; 16],
    pub(crate) marks: Marks,
    pub(crate) scrub: ScrubMark,
    pub(crate) space: Space,
    pub(crate) damaged_blocks: u64,
    pub(crate) lost_durable: bool,
    pub(crate) checkpointed_lsn: u64,
    /// Data files written in place and not synced since.
    pub(crate) in_place: BTreeMap<LayerKey, InPlace<V>>,
    /// Bytes written in place since the last checkpoint began.
    pub(crate) in_place_bytes: u64,
    pub(crate) detoured_bytes: u64,
    pub(crate) spares: Spares,
}

/// What a failed disk operation is to the asker.
pub(crate) fn refusal_of(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Refusal::Full,
        _ => Refusal::Io { message: error.to_string() },
    }
}

impl<V: Vfs> Store<V> {
    /// The disk had lost durable records when the store was opened; every chunk waits for a rebuild.
    #[must_use]
    pub fn lost_durable(&self) -> bool {
        self.lost_durable
    }

    /// Who may write a volume.
    #[must_use]
    pub fn fence(&self, volume: VolumeId) -> Fence {
        self.fences.get(volume)
    }

    /// From now on, and after any crash, only this generation and session may write. Durable when it returns.
    ///
    /// *Invariant 1, one writer.* A host that was given up may still run its guest: it hangs, is cut off, and wakes up
    /// when the volume is open elsewhere. No lease and no clock can keep its writes out, as it may have sent them
    /// before it hung. What can is the replica: it takes writes of the highest generation that it has ever seen,
    /// remembers that one before it says so (or a restart would forget who was fenced), and of one generation it takes
    /// one session, as a supervisor may start a gateway twice. The writer that comes also ends what earlier connections
    /// may do (`replica/src/claims.rs`). Tests: `fences_hold`, `a_higher_generation_fences_a_lower_for_ever`; mutants
    /// "fence in memory only", "a lower generation is let in", "another session of the same generation is let in", "an
    /// older writer's connection stays good".
    ///
    /// # Errors
    /// [`Refusal::Fenced`] if it would go back; [`Refusal::Io`] or [`Refusal::Full`] if the disk failed.
    pub fn raise_fence(&mut self, volume: VolumeId, generation: u64, session: u64) -> Result<(), Refusal> {
        let known = self.fences.get(volume);
        if known.deleted {
            return Err(Refusal::Fenced { generation: u64::MAX, session: 0 });
        }
        if (generation, session) == (known.generation, known.session) && generation > 0 {
            return Ok(());
        }
        if generation == known.generation && mutant::is("another session of the same generation is let in")
            || generation < known.generation && mutant::is("a lower generation is let in")
        {
            return Ok(());
        }
        if generation <= known.generation {
            return Err(Refusal::Fenced { generation: known.generation, session: known.session });
        }
        let fence = Fence { generation, session, deleted: false };
        self.fences.set(volume, fence).map_err(|error| refusal_of(&error))
    }

    /// Volumes with chunks here.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeId> {
        let mut volumes: Vec<VolumeId> = self.chunks.keys().map(|(volume, _)| *volume).collect();
        volumes.dedup();
        volumes
    }

    /// Where every chunk of a volume stands.
    #[must_use]
    pub fn chunk_states(&self, volume: VolumeId) -> Vec<ChunkState> {
        let of_volume = (volume, 0)..=(volume, ChunkIndex::MAX);
        self.chunks
            .range(of_volume)
            .map(|((_, index), chunk)| ChunkState {
                chunk: *index,
                position: chunk.position,
                rebuilding: chunk.rebuilding,
                damaged: !chunk.damaged.is_empty(),
            })
            .collect()
    }

    /// Chunks with blocks that are known to be damaged, at most `limit`.
    #[must_use]
    pub fn damaged(&self, limit: usize) -> Vec<DamagedChunk> {
        let broken = self.chunks.iter().filter(|(_, chunk)| !chunk.damaged.is_empty());
        let of = |((volume, chunk), state): (&(VolumeId, ChunkIndex), &Chunk)| DamagedChunk {
            volume: *volume,
            chunk: *chunk,
            blocks: u32::try_from(state.damaged.len()).unwrap_or(u32::MAX),
            named: state.damaged.iter().map(|(_, block)| *block).take(NAMED_MAX).collect(),
        };
        broken.take(limit).map(of).collect()
    }

    /// Where one chunk stands, if there is anything of it.
    #[must_use]
    pub fn chunk_state(&self, volume: VolumeId, index: ChunkIndex) -> Option<ChunkState> {
        let chunk = self.chunks.get(&(volume, index))?;
        Some(ChunkState {
            chunk: index,
            position: chunk.position,
            rebuilding: chunk.rebuilding,
            damaged: !chunk.damaged.is_empty(),
        })
    }

    /// Ask the file system anew how much room there is: once a second is enough.
    ///
    /// # Errors
    /// What the system says; the old figures stay.
    pub fn refresh_space(&mut self) -> io::Result<()> {
        self.space = self.vfs.space()?;
        Ok(())
    }

    /// So full that new chunks are refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_above(self.options.full_percent)
    }

    pub(crate) fn is_above(&self, percent: u64) -> bool {
        let used = self.space.total_bytes.saturating_sub(self.space.free_bytes);
        u128::from(used) * 100 >= u128::from(self.space.total_bytes) * u128::from(percent)
    }

    /// Room, as of the last [`Store::refresh_space`].
    #[must_use]
    pub fn usage(&self) -> Usage {
        let layers = self.chunks.values().flat_map(|chunk| &chunk.layers);
        Usage {
            used_bytes: layers.map(|layer| layer.allocated_bytes).sum::<u64>() + self.journal.bytes(),
            free_bytes: self.space.free_bytes,
            total_bytes: self.space.total_bytes,
            chunks: self.chunks.len() as u64,
            volumes: self.volumes().len() as u64,
            journal_bytes: self.journal.bytes(),
            damaged_blocks: self.damaged_blocks,
            full: self.is_full(),
        }
    }

    /// The last record appended.
    #[must_use]
    pub fn appended_lsn(&self) -> u64 {
        self.journal.next_lsn - 1
    }

    /// The last record known to be durable.
    #[must_use]
    pub fn synced_lsn(&self) -> u64 {
        self.journal.synced_lsn
    }

    /// The last record that is in the chunk files.
    #[must_use]
    pub fn checkpointed_lsn(&self) -> u64 {
        self.checkpointed_lsn
    }

    /// Bytes of journal.
    #[must_use]
    pub fn journal_bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// The journal has no room until a checkpoint is through: hold mutations back.
    ///
    /// *Invariant 7, limits on everything.* What only grows under load ends as a disk that is full or a process that is
    /// killed, on all replicas at the same time, since they get the same writes. So the journal has a size, and above
    /// it the server reads no more from its writers, whose queues are bounded in turn, down to the guest, which waits.
    /// A disk without room is the same: no error for the guest but a replica that is left out, or a write that waits
    /// (`on_refused` in `volume/src/volume.rs`). Tests: `a_full_journal_holds_mutations_back_until_a_checkpoint`,
    /// `a_full_disk_is_no_error_to_the_guest`, `tests/full.rs`; mutants "the journal has no limit", "a full disk is an
    /// error to the guest".
    #[must_use]
    pub fn journal_full(&self) -> bool {
        !mutant::is("the journal has no limit")
            && self.staged_bytes() + self.journal.bytes() >= self.options.journal_bytes_max
    }

    /// What has to be done to make everything appended so far durable; `None` if it is.
    #[must_use]
    pub fn sync_ticket(&self) -> Option<SyncTicket<V>> {
        let mut ticket = self.journal.sync_ticket()?;
        let copy = |in_place: &InPlace<V>| InPlace { handles: Arc::clone(&in_place.handles), ..*in_place };
        ticket.in_place = self.in_place.iter().map(|(key, in_place)| (*key, copy(in_place))).collect();
        Some(ticket)
    }

    /// The ticket ran well.
    pub fn synced(&mut self, ticket: &SyncTicket<V>) {
        self.journal.synced(ticket);
        self.in_place.retain(|_, in_place| in_place.lsn > ticket.lsn);
    }

    /// Bytes written in place since the last checkpoint began: such blocks can be written in place again only after one.
    #[must_use]
    pub fn in_place_bytes(&self) -> u64 {
        self.in_place_bytes
    }

    /// Bytes of large writes that went through the journal only because their blocks were written in place since the last
    /// checkpoint began: with one they would not have to.
    #[must_use]
    pub fn detoured_bytes(&self) -> u64 {
        self.detoured_bytes
    }

    /// A block here is not what it should be.
    pub(crate) fn mark_damaged(&mut self, key: LayerKey, block: u16) -> Refusal {
        if let Some(chunk) = self.chunks.get_mut(&(key.volume, key.chunk)) {
            if chunk.damaged.insert((key.layer, block)) {
                self.damaged_blocks += 1;
                tracing::error!(
                    volume = format!("{:016x}", key.volume),
                    chunk = key.chunk,
                    layer = key.layer,
                    block,
                    "a block is damaged on this disk"
                );
            }
        }
        Refusal::Damaged { chunk: key.chunk, block }
    }
}
