//! Opening a store: superblock, fences, checkpoint, replay.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use yuntai_proto::{ChunkIndex, VolumeId, BLOCK_BYTES};

use crate::apply::apply;
use crate::chunk::{Chunk, Layer};
use crate::error::OpenError;
use crate::fences::Fences;
use crate::files::{FileCache, Handles};
use crate::garbage::Doomed;
use crate::groups::LayerKey;
use crate::journal::replay::{replay, Start, Visitor};
use crate::journal::Journal;
use crate::marks::Marks;
use crate::owners::OwnerCache;
use crate::record::Header;
use crate::scrub::ScrubMark;
use crate::spares::Spares;
use crate::store::{Options, Store};
use crate::superblock::{open_or_format, VOLUMES};
use crate::table::{Table, TableError, NAME as CHECKPOINT};
use crate::vfs::{read_file, Vfs, VfsFile};
use crate::write::Batch;

fn read_table<V: Vfs>(vfs: &V) -> Result<Table, OpenError> {
    match read_file(vfs, CHECKPOINT) {
        Ok(bytes) => Table::decode(&bytes).map_err(|error| match error {
            TableError::Damaged => OpenError::Damaged { what: CHECKPOINT },
            TableError::Version(version) => OpenError::Version { what: CHECKPOINT, version },
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Table { next_lsn: 1, first_segment: 1, rows: Vec::new() })
        }
        Err(error) => Err(error.into()),
    }
}

fn chunk_of(row: crate::table::Row) -> Chunk {
    let layers = row
        .layers
        .into_iter()
        .map(|(id, allocated_bytes)| Layer { on_disk: true, has_files: true, allocated_bytes, ..Layer::new(id) })
        .collect();
    Chunk { position: row.position, rebuilding: row.rebuilding, layers, ..Chunk::default() }
}

/// The state that a replay makes again.
struct Rebuilt<'a, V: Vfs> {
    vfs: &'a V,
    fences: &'a Fences<V>,
    chunks: BTreeMap<(VolumeId, ChunkIndex), Chunk>,
    owners: OwnerCache,
    /// Data files that hold what records have put in place.
    files: BTreeMap<LayerKey, Handles<V>>,
}

impl<V: Vfs> Rebuilt<'_, V> {
    /// What this start has seen the next one must see too.
    fn settle(&self) -> io::Result<()> {
        for (key, handles) in &self.files {
            handles.data.sync()?;
            self.vfs.sync_dir(&LayerKey::folder(key.volume))?;
        }
        if !self.files.is_empty() {
            self.vfs.sync_dir(VOLUMES)?;
        }
        Ok(())
    }
}

impl<V: Vfs> Visitor for Rebuilt<'_, V> {
    fn read_in_place(&mut self, header: &Header, data: &mut Vec<u8>) -> io::Result<bool> {
        if self.fences.get(header.volume).deleted {
            return Ok(false);
        }
        data.clear();
        let key = LayerKey { volume: header.volume, chunk: header.chunk, layer: header.layer };
        let handles = match self.files.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => match Handles::open(self.vfs, &key) {
                Ok(handles) => entry.insert(handles),
                // The file's name was not durable, so neither was the record.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                Err(error) => return Err(error),
            },
        };
        let half = header.in_place.unwrap_or_default();
        data.resize(header.blocks as usize * BLOCK_BYTES, 0);
        let read = handles.data.read_at(data, half.offset(header.block))?;
        data.truncate(read);
        Ok(true)
    }

    fn visit(&mut self, header: &Header, body: &[u8], segment: u64, data_offset: u64) {
        if self.fences.get(header.volume).deleted {
            return;
        }
        let chunk = self.chunks.entry((header.volume, header.chunk)).or_default();
        apply(chunk, &mut self.owners, header, body, segment, data_offset);
        // A session lives in memory only: after a start a rebuild begins again.
        chunk.session = None;
    }
}

impl<V: Vfs> Store<V> {
    /// Open the store in a folder, or make one in an empty folder.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open(vfs: V, options: Options) -> Result<Self, OpenError> {
        vfs.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked,
            _ => error.into(),
        })?;
        let identity = open_or_format(&vfs, options.server, options.uuid)?;
        let fences = Fences::open(&vfs)?.ok_or(OpenError::Damaged { what: "fences.log" })?;
        let marks = Marks::read(&vfs)?;
        let table = read_table(&vfs)?;
        let start = Start { first_segment: table.first_segment, next_lsn: table.next_lsn };
        let alive = |volume: u64| !fences.get(volume).deleted;
        let chunks: BTreeMap<_, _> = table
            .rows
            .into_iter()
            .filter(|row| alive(row.volume))
            .map(|row| ((row.volume, row.chunk), chunk_of(row)))
            .collect();
        let owners = OwnerCache::new(options.owner_cache_bytes);
        let mut rebuilt = Rebuilt { vfs: &vfs, fences: &fences, chunks, owners, files: BTreeMap::new() };
        let replayed = replay(&vfs, &identity, start, &mut rebuilt)?;
        rebuilt.settle()?;
        let Rebuilt { mut chunks, owners, .. } = rebuilt;
        let lost_durable = replayed.damaged;
        if lost_durable {
            chunks.values_mut().for_each(|chunk| chunk.rebuilding = true);
        }
        let journal = Journal::resume(vfs.clone(), identity, options.segment_bytes, replayed)?;
        let doomed: Vec<u64> = fences.deleted().collect();
        let mut store = Self {
            tag: identity.tag(),
            journal,
            fences,
            chunks,
            owners,
            files: FileCache::new(options.open_layers_max),
            batch: Batch::default(),
            writing: None,
            checkpointing: false,
            doomed: Doomed::default(),
            drops: 0,
            emptied: false,
            uuid: identity.uuid,
            marks,
            scrub: ScrubMark::read(&vfs)?,
            space: vfs.space()?,
            damaged_blocks: 0,
            lost_durable,
            checkpointed_lsn: start.next_lsn - 1,
            in_place: BTreeMap::new(),
            in_place_bytes: 0,
            detoured_bytes: 0,
            spares: Spares::default(),
            vfs,
            options,
        };
        store.doomed.volumes = store.left_of(&doomed)?;
        store.doomed.layers = store.strays()?;
        if lost_durable {
            store.mark_all_rebuilding()?;
        }
        Ok(store)
    }

    /// Those of the deleted volumes that still have a folder.
    fn left_of(&self, deleted: &[u64]) -> io::Result<BTreeSet<u64>> {
        let folders = self.vfs.list(VOLUMES)?;
        let name = |volume: &u64| LayerKey::folder(*volume).rsplit('/').next().unwrap_or_default().to_owned();
        Ok(deleted.iter().copied().filter(|volume| folders.binary_search(&name(volume)).is_ok()).collect())
    }

    /// The marks must outlive the next crash too: write the whole table now.
    fn mark_all_rebuilding(&mut self) -> io::Result<()> {
        let Some(mut job) = self.begin_checkpoint() else { return Ok(()) };
        while !job.step()? {}
        self.end_checkpoint(job);
        Ok(())
    }
}
