//! Checkers that look into every part at once, as no part of the real thing could. What a guest notices may take three
//! failures in a row; these see the first.

use std::collections::BTreeMap;

use rand::Rng;
use yuntai_proto::control::GatewayEvent;
use yuntai_proto::{ChunkIndex, ServerId, VolumeId};
use yuntai_store::LayerTree;

use crate::history::{sector_tag, SECTOR_BYTES};
use crate::server::Server;
use crate::world::World;

/// Up to which mutation each chunk is acknowledged.
pub type Marks = BTreeMap<ChunkIndex, u64>;

/// Of so many answered flushes, about, one is checked on images of the disks.
const IMAGE_EVERY: u32 = 12;

impl World {
    /// Up to where the present gateway has acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> Marks {
        let Some(volume) = self.gateways.last().and_then(|gateway| gateway.volume.as_ref()) else {
            return Marks::new();
        };
        (0..self.master.chunks(self.volume)).map(|chunk| (chunk, volume.acknowledged(chunk))).collect()
    }

    /// Servers that count, by the record, and have lost nothing since the last flush; with a chunk of theirs.
    fn counted(&self, chunk: ChunkIndex) -> Vec<ServerId> {
        let record = &self.master.records[&self.volume];
        let counts = |id: &ServerId| !record.stale.contains(id) && !self.lossy.contains(id);
        self.master.placement(self.volume)[chunk as usize].iter().copied().filter(counts).collect()
    }

    /// Does a gateway speak for the volume: the last one, of the newest generation?
    fn is_present(&self, index: usize) -> bool {
        let generation = self.master.records[&self.volume].generation;
        index + 1 == self.gateways.len() && self.gateways[index].generation == generation
    }

    /// Invariants 2 and 3: what is acknowledged is on every server that the record counts as in sync.
    pub fn check_acknowledged(&mut self, index: usize) {
        if !self.is_present(index) || self.flipping {
            return;
        }
        for (chunk, mark) in self.acknowledged() {
            for id in self.counted(chunk) {
                let volume = self.volume;
                let Some(replica) = self.servers.get_mut(&id).and_then(|server| server.replica.as_mut()) else {
                    continue;
                };
                let has = replica.store().chunk_state(volume, chunk).map_or(0, |state| state.position.sequence);
                if has < mark {
                    let text = format!("server {id} counts as in sync with {has} of {mark} acknowledged mutations");
                    self.wrong.push(format!("{text} of chunk {chunk}"));
                }
            }
        }
    }

    /// Invariants 2 and 5: what is flushed outlives a power cut, on each of the servers alone.
    pub fn check_flushed(&mut self, index: usize, marks: &Marks) {
        if !self.is_present(index) || self.flipping || !self.rng.gen_ratio(1, IMAGE_EVERY) {
            return;
        }
        let bias = self.rng.gen_range(0..4);
        for (chunk, mark) in marks {
            for id in self.counted(*chunk) {
                let rng = &mut self.rng;
                let mut choose = |n: usize| match bias {
                    0 => 0,
                    1 if rng.gen_bool(0.9) => n - 1,
                    _ => rng.gen_range(0..n),
                };
                let disk = self.servers[&id].disk.image(&mut choose);
                if let Err(wrong) = self.check_image(id, disk, (*chunk, *mark)) {
                    self.wrong.push(format!("the power of server {id} might go now: {wrong}"));
                }
            }
        }
        self.coverage.hit("a disk was looked at as a power cut would leave it");
    }

    fn check_image(
        &mut self,
        id: ServerId,
        disk: yuntai_store::vfs::memory::MemVfs,
        (chunk, mark): (ChunkIndex, u64),
    ) -> Result<(), String> {
        let mut server = Server::new(id);
        server.disk = disk;
        server.start(self.now).map_err(|error| format!("its store does not open: {error}"))?;
        let store = server.replica.as_mut().expect("just started").store();
        if store.lost_durable() {
            return Err("its store says that durable records are lost".into());
        }
        let Some(state) = store.chunk_state(self.volume, chunk).filter(|state| !state.rebuilding) else {
            return if mark == 0 { Ok(()) } else { Err(format!("chunk {chunk} is not there or half built")) };
        };
        if state.position.sequence < mark {
            return Err(format!("{} of {mark} flushed mutations of chunk {chunk} are left", state.position.sequence));
        }
        let record = &self.master.records[&self.volume];
        let tree = LayerTree::new(&record.parents).ok_or("the tree is odd")?;
        let key = yuntai_store::LayerKey { volume: self.volume, chunk, layer: record.head };
        let first = yuntai_proto::CHUNK_BYTES / SECTOR_BYTES * u64::from(chunk);
        let mut blocks: Vec<u64> = self.guest.history.sectors().map(|sector| sector / 8).collect();
        blocks.dedup();
        for block in blocks.into_iter().filter(|block| (first / 8..first / 8 + 16384).contains(block)) {
            let within = u16::try_from(block - first / 8).expect("a block of a chunk");
            let read = store.read(key, &tree, within, 1).map_err(|error| format!("chunk {chunk}: {error}"))?;
            if read.body[0] == 0 && record.source.is_some() {
                continue; // the source has it
            }
            for (index, sector) in (block * 8..).enumerate().take(8) {
                let bytes = read.data.get(index * SECTOR_BYTES as usize..).unwrap_or_default();
                let tag = bytes.get(..SECTOR_BYTES as usize).map_or(Ok(0), sector_tag)?;
                self.guest.history.check_flushed(sector, tag)?;
            }
        }
        Ok(())
    }

    /// Invariant 4: what is proposed for the in-sync set has every chunk whole.
    pub fn check_proposal(&mut self, index: usize, body: &GatewayEvent) {
        let GatewayEvent::Readmit { volume, server, .. } = body else { return };
        if self.is_present(index) {
            self.check_whole(*volume, *server);
        }
    }

    fn check_whole(&mut self, volume: VolumeId, id: ServerId) {
        let Some(replica) = self.servers.get_mut(&id).and_then(|server| server.replica.as_mut()) else { return };
        let placement = &self.master.records[&volume].placement;
        let placed = |chunk: ChunkIndex| placement.get(chunk as usize).is_some_and(|replicas| replicas.contains(&id));
        let states = replica.store().chunk_states(volume);
        if let Some(half) = states.iter().find(|state| state.rebuilding && placed(state.chunk)) {
            let chunk = half.chunk;
            self.wrong.push(format!("server {id} is proposed while its chunk {chunk} is half built"));
        }
    }
}
