//! The master as the simulator needs it: it grants generations, keeps the in-sync set, and answers gateways' events by
//! the same rules as `yuntai/pangu/rules.py`. Its record is etcd: it survives everything.

use std::collections::{BTreeMap, BTreeSet};

use yuntai_proto::auth::{sign_token, Rights, Token};
use yuntai_proto::control::{EventAnswer, GatewayEvent, Move, OpenVolume, Source, Upkeep};
use yuntai_proto::{mutant, LayerId, ServerId, VolumeId, CHUNK_BYTES, IN_SYNC_MIN};

/// The secret that tokens are signed with in the simulator.
pub const TOKEN_SECRET: &[u8] = b"simulated token secret";
/// Tokens never expire here.
const FOR_EVER: u64 = u64::MAX;

/// A volume's record.
#[derive(Clone, Debug)]
pub struct Record {
    /// The volume.
    pub volume: VolumeId,
    /// Its size.
    pub size_bytes: u64,
    /// The newest generation granted.
    pub generation: u64,
    /// The layer tree.
    pub parents: Vec<LayerId>,
    /// The layer that is written.
    pub head: LayerId,
    /// Per chunk the servers of its replicas.
    pub placement: Vec<Vec<ServerId>>,
    /// Snapshots, and whether they are done; those that are deleted are not here.
    pub snapshots: BTreeMap<LayerId, bool>,
    /// Server → of how many dead layers it has freed everything.
    pub swept: BTreeMap<ServerId, usize>,
    /// Servers out of the in-sync set.
    pub stale: BTreeSet<ServerId>,
    /// Chunks that need no source.
    pub hydrated_chunks: u32,
    /// Where absent blocks come from.
    pub source: Option<(VolumeId, LayerId)>,
    /// Some guest's host has it. If not, it may still be open for the store's own work.
    pub attached: bool,
    /// The host whose gateway has it open under the present generation.
    pub holder: Option<usize>,
    /// It was detached by force: its writer may still be at work, and what that one left not be durable.
    pub unfenced: bool,
}

/// Every volume's record, and where servers are.
pub struct Master {
    /// By volume.
    pub records: BTreeMap<VolumeId, Record>,
    /// A server that is to be empty.
    pub draining: Option<ServerId>,
    /// Servers that have not confirmed yet that a deleted volume is gone.
    pub deleting: BTreeSet<ServerId>,
    /// The highest term that was given to a leader.
    pub term: u64,
    /// Moves that the leader wants. In its memory only.
    pub wanted: BTreeMap<VolumeId, BTreeSet<Move>>,
    servers: Vec<ServerId>,
}

impl Master {
    /// A master of these servers.
    #[must_use]
    pub fn new(servers: &[ServerId]) -> Self {
        Self {
            records: BTreeMap::new(),
            draining: None,
            deleting: BTreeSet::new(),
            term: 0,
            wanted: BTreeMap::new(),
            servers: servers.to_vec(),
        }
    }

    /// A new volume of `chunks` chunks, three replicas each, spread over the servers.
    pub fn create(&mut self, volume: VolumeId, chunks: u32, source: Option<(VolumeId, LayerId)>) {
        let count = self.servers.len();
        let turned = |chunk: u32| (0..3).map(move |step| (chunk as usize + step) % count);
        let placement = (0..chunks).map(|chunk| turned(chunk).map(|at| self.servers[at]).collect()).collect();
        let record = Record {
            volume,
            size_bytes: u64::from(chunks) * CHUNK_BYTES,
            generation: 0,
            parents: vec![0, 0],
            head: 1,
            placement,
            snapshots: BTreeMap::new(),
            swept: BTreeMap::new(),
            stale: BTreeSet::new(),
            hydrated_chunks: if source.is_some() { 0 } else { chunks },
            source,
            attached: false,
            holder: None,
            unfenced: false,
        };
        self.records.insert(volume, record);
    }

    /// The moves that are wanted of a volume.
    #[must_use]
    pub fn wanted(&self, volume: VolumeId) -> BTreeSet<Move> {
        self.wanted.get(&volume).cloned().unwrap_or_default()
    }

    /// May the volume still read from its source?
    #[must_use]
    pub fn reads_source(&self, volume: VolumeId) -> bool {
        let record = &self.records[&volume];
        record.source.is_some() && u64::from(record.hydrated_chunks) * CHUNK_BYTES < record.size_bytes
    }

    /// How many chunks a volume has.
    #[must_use]
    pub fn chunks(&self, volume: VolumeId) -> u32 {
        u32::try_from(self.records[&volume].size_bytes / CHUNK_BYTES).expect("few chunks")
    }

    /// Where a volume's chunks are.
    #[must_use]
    pub fn placement(&self, volume: VolumeId) -> Vec<Vec<ServerId>> {
        self.records[&volume].placement.clone()
    }

    fn token(volume: VolumeId, generation: u64) -> String {
        let rights = if generation == 0 { Rights::Read } else { Rights::Write };
        sign_token(TOKEN_SECRET, &Token { volume, rights, generation, expires_unix_s: FOR_EVER })
    }

    /// Where servers listen.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<ServerId, String> {
        self.servers.iter().map(|server| (*server, format!("sim:{server}"))).collect()
    }

    fn source_of(&self, record: &Record) -> Option<Source> {
        let (volume, layer) = record.source?;
        let source = self.records.get(&volume)?;
        let mut placement = source.placement.clone();
        placement.iter_mut().for_each(|chunk| chunk.retain(|server| !source.stale.contains(server)));
        Some(Source {
            volume,
            layer,
            parents: source.parents.clone(),
            token: Self::token(volume, 0),
            size_bytes: source.size_bytes,
            placement,
            servers: self.addresses(),
        })
    }

    /// Grant the next generation of a volume: what its gateway must know.
    pub fn grant(&mut self, volume: VolumeId, prefer: Vec<ServerId>) -> OpenVolume {
        self.records.get_mut(&volume).expect("the volume exists").generation += 1;
        self.describe(volume, prefer)
    }

    /// What the gateway of the current generation must know, as of now.
    #[must_use]
    pub fn describe(&self, volume: VolumeId, prefer: Vec<ServerId>) -> OpenVolume {
        let record = &self.records[&volume];
        let whole = u64::from(record.hydrated_chunks) * CHUNK_BYTES >= record.size_bytes;
        OpenVolume {
            volume,
            generation: record.generation,
            token: Self::token(volume, record.generation),
            read_token: Self::token(volume, 0),
            size_bytes: record.size_bytes,
            read_only: false,
            parents: record.parents.clone(),
            head: record.head,
            placement: record.placement.clone(),
            servers: self.addresses(),
            stale: record.stale.iter().copied().collect(),
            sources: if whole { Vec::new() } else { self.source_of(record).into_iter().collect() },
            hydrated_chunks: record.hydrated_chunks,
            export: String::new(),
            prefer,
            moves: self.wanted(volume).iter().copied().collect(),
            boot_set: Vec::new(),
            given_up: Vec::new(),
            upkeep: None,
        }
    }

    /// A snapshot's transaction: the head is frozen, a child of it is the new head. What nobody writes stands still.
    pub fn snapshot(&mut self, volume: VolumeId) {
        let record = self.records.get_mut(&volume).expect("the volume exists");
        record.snapshots.insert(record.head, !record.attached);
        record.parents.push(record.head);
        record.head = LayerId::try_from(record.parents.len() - 1).expect("few layers");
    }

    /// What a gateway must know that shows a snapshot, and goes on with the store's work on the volume.
    pub fn mount(&mut self, volume: VolumeId, node: LayerId) -> OpenVolume {
        let spec = self.grant(volume, Vec::new());
        let upkeep = Some(Upkeep { token: spec.token, head: spec.head, hydrate: node % 2 == 0 });
        OpenVolume { token: spec.read_token.clone(), read_only: true, head: node, upkeep, ..spec }
    }

    /// One chunk more, on these servers.
    pub fn grow(&mut self, volume: VolumeId, replicas: Vec<ServerId>) {
        let record = self.records.get_mut(&volume).expect("the volume exists");
        let whole = u64::from(record.hydrated_chunks) * CHUNK_BYTES >= record.size_bytes;
        record.placement.push(replicas);
        record.size_bytes += CHUNK_BYTES;
        if !record.attached {
            record.holder = None; // who tends it would not know of the new chunk
        }
        // What needs no source goes on needing none: what is added was never in it.
        record.hydrated_chunks += u32::from(whole);
    }

    /// Answer an event of a host's gateway, by the record.
    pub fn answer(&mut self, host: usize, event: &GatewayEvent) -> EventAnswer {
        let (GatewayEvent::Degrade { volume, generation, .. }
        | GatewayEvent::Readmit { volume, generation, .. }
        | GatewayEvent::Hydrated { volume, generation, .. }
        | GatewayEvent::Moved { volume, generation, .. }
        | GatewayEvent::BootSet { volume, generation, .. }
        | GatewayEvent::Fenced { volume, generation }) = event;
        // As `yuntai/pangu/desk.py` does: of a volume that was deleted meanwhile an event may still be on its way.
        let Some(record) = self.records.get_mut(volume) else { return EventAnswer::Fenced {} };
        if *generation != record.generation || record.holder != Some(host) {
            return EventAnswer::Fenced {};
        }
        match event {
            GatewayEvent::Degrade { server, .. } => {
                let mut stale = record.stale.clone();
                stale.insert(*server);
                let least = if mutant::is("one in sync is enough") { 1 } else { IN_SYNC_MIN };
                let enough = |chunk: &&Vec<ServerId>| chunk.iter().filter(|s| !stale.contains(s)).count() >= least;
                if !record.placement.iter().filter(|chunk| chunk.contains(server)).all(|chunk| enough(&chunk)) {
                    return EventAnswer::Refused { reason: "fewer than two would be left".into() };
                }
                record.stale = stale;
            }
            GatewayEvent::Readmit { server, .. } => {
                record.stale.remove(server);
            }
            GatewayEvent::Hydrated { chunks, .. } => {
                record.hydrated_chunks = record.hydrated_chunks.max(*chunks);
                return EventAnswer::Ok {};
            }
            GatewayEvent::Moved { moves, .. } => return self.commit_moves(*volume, moves),
            GatewayEvent::BootSet { .. } | GatewayEvent::Fenced { .. } => return EventAnswer::Ok {},
        }
        EventAnswer::Stale { stale: record.stale.iter().copied().collect() }
    }
}
