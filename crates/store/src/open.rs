//! Opening a store: superblock, fences, checkpoint, replay.

use std::collections::BTreeMap;
use std::io;

use crate::chunk::{Chunk, Layer};
use crate::error::OpenError;
use crate::fences::Fences;
use crate::files::FileCache;
use crate::groups::LayerKey;
use crate::journal::replay::{replay, Start};
use crate::journal::Journal;
use crate::overlay::Overlay;
use crate::owners::OwnerCache;
use crate::store::{Options, Store};
use crate::superblock::open_or_format;
use crate::table::{Table, TableError, NAME as CHECKPOINT};
use crate::vfs::{read_file, Vfs};
use crate::write::{apply, Batch};

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
        .map(|(id, allocated_bytes)| Layer { id, overlay: Overlay::default(), on_disk: true, allocated_bytes })
        .collect();
    Chunk { position: row.position, rebuilding: row.rebuilding, layers, ..Chunk::default() }
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
        let table = read_table(&vfs)?;
        let start = Start { first_segment: table.first_segment, next_lsn: table.next_lsn };
        let alive = |volume: u64| !fences.get(volume).deleted;
        let mut chunks: BTreeMap<_, _> = table
            .rows
            .into_iter()
            .filter(|row| alive(row.volume))
            .map(|row| ((row.volume, row.chunk), chunk_of(row)))
            .collect();
        let mut owners = OwnerCache::new(options.owner_cache_bytes);
        let replayed = replay(&vfs, &identity, start, &mut |header, body, segment, data_offset| {
            if alive(header.volume) {
                let chunk: &mut Chunk = chunks.entry((header.volume, header.chunk)).or_default();
                apply(chunk, &mut owners, header, body, segment, data_offset);
                // A session lives in memory only: after a start a rebuild begins again.
                chunk.session = None;
            }
        })?;
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
            checkpointing: false,
            doomed: Vec::new(),
            space: vfs.space()?,
            damaged_blocks: 0,
            lost_durable,
            checkpointed_lsn: start.next_lsn - 1,
            vfs,
            options,
        };
        store.doomed = store.left_of(&doomed)?;
        if lost_durable {
            store.mark_all_rebuilding()?;
        }
        Ok(store)
    }

    /// Those of the deleted volumes that still have a folder.
    fn left_of(&self, deleted: &[u64]) -> io::Result<Vec<u64>> {
        let folders = self.vfs.list(crate::superblock::VOLUMES)?;
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
