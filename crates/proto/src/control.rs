//! Control: what the master asks of gateways and chunk servers, and what gateways tell the master. JSON bodies.
//!
//! `Control` → `ControlReply` (`{"ok": …}` or `{"error": "…"}`), and `Event` → `EventReply` the other way.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::data::ChunkState;
use crate::types::{ChunkIndex, LayerId, ServerId, VolumeId};

/// JSON's keys are texts, and inside a tagged enum serde does not turn them into numbers by itself.
fn by_server<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<ServerId, String>, D::Error> {
    let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
    let number = |text: &str| {
        text.parse().map_err(|_| D::Error::custom(format!("servers has the key {text:?}: a server's number is due")))
    };
    texts.into_iter().map(|(key, address)| Ok((number(&key)?, address))).collect()
}

/// Everything a gateway must know to serve a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenVolume {
    /// The volume.
    pub volume: VolumeId,
    /// The generation that the master granted.
    pub generation: u64,
    /// Signed write token (or read token when `read_only`).
    pub token: String,
    /// Signed read token, handed to servers that pull.
    pub read_token: String,
    /// Size in bytes, a multiple of 4,096.
    pub size_bytes: u64,
    /// Refuse writes of the guest's.
    pub read_only: bool,
    /// The layer tree: index = layer, value = parent.
    pub parents: Vec<LayerId>,
    /// The layer that is written (or that is shown, when `read_only`).
    pub head: LayerId,
    /// Per chunk the servers of its replicas.
    pub placement: Vec<Vec<ServerId>>,
    /// Where each server listens: `host:port`.
    #[serde(deserialize_with = "by_server")]
    pub servers: BTreeMap<ServerId, String>,
    /// Servers that are not in the in-sync set of this volume.
    pub stale: Vec<ServerId>,
    /// Where absent blocks come from, first to be asked first. Empty when hydrated.
    pub sources: Vec<Source>,
    /// Chunks `[0, hydrated_chunks)` need no source.
    pub hydrated_chunks: ChunkIndex,
    /// Name of the NBD export and of its socket (`<nbd_dir>/<export>.sock`); empty = do not export (hydration only).
    pub export: String,
    /// Replicas on this server are read first, if in sync.
    pub prefer: Vec<ServerId>,
    /// Replicas that are to move, as in [`GatewayRequest::Moves`].
    #[serde(default)]
    pub moves: Vec<Move>,
    /// What other disks made from the same source read first: copied before the rest. In the order of reading.
    #[serde(default)]
    pub boot_set: Vec<BlockRange>,
    /// Servers whose disks the operator has declared lost: what only they had is not waited for while they are away.
    #[serde(default)]
    pub given_up: Vec<ServerId>,
    /// With `read_only`: the store's own work goes on all the same. `None` (an older master): nothing but reads.
    #[serde(default)]
    pub upkeep: Option<Upkeep>,
}

/// What lets a gateway repair, move, heal and hydrate a volume that it shows read-only: it holds the volume's generation
/// as a writer does, and it alone; only the guest may not write. An older gateway does not know this field, and reads
/// under `token`, a read token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upkeep {
    /// Signed write token.
    pub token: String,
    /// The head in the master's record. If it is not the layer that is shown, then that one is frozen.
    pub head: LayerId,
    /// Keep what is read from sources, and copy the rest in the background.
    pub hydrate: bool,
}

/// A replica of a chunk that is to be somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Move {
    /// The chunk.
    pub chunk: ChunkIndex,
    /// The server that is left; it has a place in the chunk's placement.
    pub from: ServerId,
    /// The server that takes over; it has none.
    pub to: ServerId,
}

/// Neighbouring blocks of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRange {
    /// The chunk.
    pub chunk: ChunkIndex,
    /// First block in it.
    pub block: u16,
    /// Blocks.
    pub blocks: u16,
}

/// One volume's part of [`GatewayRequest::SnapshotGroup`]; the fields as in [`GatewayRequest::Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOf {
    /// The volume.
    pub volume: VolumeId,
    /// Must match.
    pub generation: u64,
    /// The grown tree.
    pub parents: Vec<LayerId>,
    /// The new head.
    pub head: LayerId,
}

/// A frozen layer of another volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The volume.
    pub volume: VolumeId,
    /// The layer to read as of.
    pub layer: LayerId,
    /// Its layer tree.
    pub parents: Vec<LayerId>,
    /// Signed read token.
    pub token: String,
    /// Its size in bytes; beyond it there is nothing.
    pub size_bytes: u64,
    /// Per chunk the servers that are in sync.
    pub placement: Vec<Vec<ServerId>>,
    /// Where each server listens.
    #[serde(deserialize_with = "by_server")]
    pub servers: BTreeMap<ServerId, String>,
}

/// Master (or operator's tool) → gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum GatewayRequest {
    /// Serve a volume. Answer: [`Opened`]. Opening again with the same generation answers the same.
    Open(Box<OpenVolume>),
    /// Keep a place for a volume that another gateway writes until a live migration has come here: offer its export,
    /// and hold what clients ask until the volume is opened here. Answer: [`Opened`] with generation 0. Asking again
    /// with the same ticket answers the same; another ticket takes the place of an older one.
    Standby {
        /// The volume.
        volume: VolumeId,
        /// Which migration it is for; comes back in [`StandbyEvent::Wanted`].
        ticket: String,
        /// Its size now.
        size_bytes: u64,
        /// Name of the NBD export, as in [`OpenVolume`].
        export: String,
    },
    /// The migration will not come: cut its clients off. Fine if there is no such place, or it was taken.
    EndStandby {
        /// The volume.
        volume: VolumeId,
        /// Only the place of this migration.
        ticket: String,
    },
    /// Flush, stop serving, forget. Closing what is not open is fine. Answer `{"flushed": bool, "generation": n}`: all of
    /// that generation is durable on every in-sync replica. Of what is not open that is so only if this process closed
    /// it. (An older gateway names no generation, and says so of everything that is not open.)
    Close {
        /// The volume.
        volume: VolumeId,
        /// Refuse if another generation is open here.
        generation: u64,
    },
    /// From now on write to `head`; then flush what came before and answer.
    Snapshot {
        /// The volume.
        volume: VolumeId,
        /// Must match.
        generation: u64,
        /// The grown tree.
        parents: Vec<LayerId>,
        /// The new head.
        head: LayerId,
    },
    /// The same for several volumes at one moment: the writers of all of them are held, then every head is switched,
    /// then they go on. What was acknowledged on any of them before is in the snapshots of all, and nothing that was
    /// begun after. Refused without a change if one of them is not open here under its generation.
    SnapshotGroup {
        /// The volumes.
        volumes: Vec<SnapshotOf>,
    },
    /// The moves that are wanted of this volume now, all of them: one that is not listed any more is given up, unless
    /// its [`GatewayEvent::Moved`] is on its way. Each joining replica is streamed to and pulls from the others; it
    /// counts only when the master has answered [`EventAnswer::Placed`]. Answer `{"ok": {}}`.
    Moves {
        /// The volume.
        volume: VolumeId,
        /// Must match.
        generation: u64,
        /// All wanted moves.
        moves: Vec<Move>,
        /// Addresses of servers, the joining ones too.
        #[serde(deserialize_with = "by_server")]
        servers: BTreeMap<ServerId, String>,
    },
    /// A scrubber found damage: bring these replicas level again, from the others.
    Heal {
        /// The volume.
        volume: VolumeId,
        /// Must match.
        generation: u64,
        /// Whose disk it is.
        server: ServerId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// The operator accepts the loss of what only barred replicas of this chunk may have had: take the best one as the
    /// survivor. Only for a chunk that waits because none of its in-sync replicas may be one.
    Salvage {
        /// The volume.
        volume: VolumeId,
        /// Must match.
        generation: u64,
        /// The chunk.
        chunk: ChunkIndex,
    },
    /// Limits of background work, by name; a name that is not known is an error. `rebuild_bytes_per_s`,
    /// `hydrate_bytes_per_s`, `hydrate_busy_bytes_per_s`; 0 = no work of that kind.
    Tune {
        /// Name → value.
        tunables: BTreeMap<String, u64>,
    },
    /// Grow.
    Resize {
        /// The volume.
        volume: VolumeId,
        /// Must match.
        generation: u64,
        /// New size, not below the old one.
        size_bytes: u64,
        /// The whole placement, longer than before.
        placement: Vec<Vec<ServerId>>,
        /// Addresses of servers.
        #[serde(deserialize_with = "by_server")]
        servers: BTreeMap<ServerId, String>,
    },
    /// Let the volume's NBD clients go as soon as what they asked is answered. Those that come back see the present
    /// size; nothing that was asked is lost or done twice by us. Answer `{"ok": {}}`.
    Renew {
        /// The volume.
        volume: VolumeId,
        /// Must match.
        generation: u64,
    },
    /// Every open volume with figures: answer `{"volumes": […], "pid": …, "version": …}`.
    Status {},
}

/// Answer to [`GatewayRequest::Open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Path of the NBD socket in the gateway's file system; empty when not exported.
    pub socket: String,
    /// The generation that is being served.
    pub generation: u64,
}

/// Gateway → master. Sent again to a new master until answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum GatewayEvent {
    /// `server` missed a write. Answer [`EventAnswer::Stale`] once it is out of the in-sync set in etcd, or
    /// [`EventAnswer::Refused`] (too few left: go on waiting for it), or [`EventAnswer::Fenced`].
    Degrade {
        /// The volume.
        volume: VolumeId,
        /// Its generation here.
        generation: u64,
        /// The server.
        server: ServerId,
        /// For a person.
        reason: String,
    },
    /// Every chunk of the volume on `server` is whole again. Answer [`EventAnswer::Stale`] with the new set.
    Readmit {
        /// The volume.
        volume: VolumeId,
        /// Its generation here.
        generation: u64,
        /// The server.
        server: ServerId,
    },
    /// Chunks `[0, chunks)` no longer need the source. Answer [`EventAnswer::Ok`].
    Hydrated {
        /// The volume.
        volume: VolumeId,
        /// Its generation here.
        generation: u64,
        /// One past the last hydrated chunk of the unbroken run from 0.
        chunks: ChunkIndex,
    },
    /// These joining replicas have everything. Answer [`EventAnswer::Placed`] with those that are in the placement in
    /// etcd now (a move that is already there counts), or [`EventAnswer::Refused`], or [`EventAnswer::Fenced`].
    Moved {
        /// The volume.
        volume: VolumeId,
        /// Its generation here.
        generation: u64,
        /// Which.
        moves: Vec<Move>,
    },
    /// What the guest read first. Answer [`EventAnswer::Ok`].
    BootSet {
        /// The volume.
        volume: VolumeId,
        /// Its generation here.
        generation: u64,
        /// In the order of reading, without repetition.
        ranges: Vec<BlockRange>,
    },
    /// A chunk server fenced us: the volume is closed here.
    Fenced {
        /// The volume.
        volume: VolumeId,
        /// The generation that lost.
        generation: u64,
    },
}

/// Gateway → master, of a volume that is not open here yet; as [`GatewayEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum StandbyEvent {
    /// A client of a [`GatewayRequest::Standby`] wants to read or write: the guest runs here now. Answer
    /// [`EventAnswer::Ok`] once the volume is opened here under a new generation, [`EventAnswer::Fenced`] if this
    /// migration may not have it any more, [`EventAnswer::Refused`] if it is to be asked again.
    Wanted {
        /// The volume.
        volume: VolumeId,
        /// Which migration.
        ticket: String,
    },
}

/// Master → gateway, answer to an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum EventAnswer {
    /// Noted.
    Ok {},
    /// Committed: the servers that are now out of the in-sync set.
    Stale {
        /// All of them.
        stale: Vec<ServerId>,
    },
    /// Committed: these moves are done, the others are not.
    Placed {
        /// Which.
        moves: Vec<Move>,
    },
    /// Not now.
    Refused {
        /// Why.
        reason: String,
    },
    /// A newer generation was granted.
    Fenced {},
}

/// Master (or operator's tool) → chunk server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ServerRequest {
    /// Answer: [`ServerStatus`].
    Status {},
    /// One of those below that say so, signed by the master: [`crate::order::Order`]. Answered as that one is.
    Order {
        /// The signed text.
        order: String,
    },
    /// Drop everything of a volume, durably fencing it for ever. Answer `{"ok": true}`. Only as an order.
    DeleteVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// Let gateways in. A server with a new, empty store refuses every claim until the master has seen to it that no
    /// volume counts on what the disk before it had. Durable. Answer `{"ok": true}`; fine if it is admitted. Only as an
    /// order.
    Admit {
        /// [`ServerStatus::store`]; another one is refused.
        store: String,
    },
    /// Which volumes are here. Answer `{"ok": [volume, …]}`.
    Volumes {},
    /// Which chunks of a volume are here. Answer `{"ok": [ChunkState, …]}`.
    Inventory {
        /// The volume.
        volume: VolumeId,
    },
    /// Drop replicas that the placement does not know any more. One that has moved on since (its position is not the
    /// given one) stays. Answer `{"ok": [chunk, …]}`: what is not here now. Only as an order.
    DropChunks {
        /// The volume.
        volume: VolumeId,
        /// The master's term: a lower one than was ever heard here is refused.
        term: u64,
        /// What to drop, as [`ServerRequest::Inventory`] had it.
        chunks: Vec<ChunkState>,
    },
    /// Free the blocks of layers that no live layer shows any more, in the background. Ask again until it is done:
    /// answer `{"ok": {"done": bool, "freed_bytes": n}}`. The same question as before goes on or answers the same.
    /// Only as an order.
    Sweep {
        /// The volume.
        volume: VolumeId,
        /// The master's term: a lower one than was ever heard here is refused.
        term: u64,
        /// The layer tree.
        parents: Vec<LayerId>,
        /// Layers that somebody may read as of, or write: snapshots, heads, layers that clones stand on.
        live: Vec<LayerId>,
    },
    /// What layers occupy here, counted in the background. Ask again until it is done:
    /// answer `{"ok": {"done": bool, "layers": [LayerUsage, …]}}`, layers without blocks left out.
    Account {
        /// The volume.
        volume: VolumeId,
        /// The layer tree.
        parents: Vec<LayerId>,
        /// As in [`ServerRequest::Sweep`].
        live: Vec<LayerId>,
        /// Count these chunks only, so that each chunk of a volume is counted at one of its servers.
        chunks: Vec<ChunkIndex>,
    },
    /// What differs between two layers' contents, from the metadata alone. Answer `{"ok": [ChangedRange, …]}`, in order.
    /// A block is listed if the layer that it is read from differs; `since` = none lists everything that is there.
    Changes {
        /// The volume.
        volume: VolumeId,
        /// The layer tree.
        parents: Vec<LayerId>,
        /// Read as of this layer before.
        since: Option<LayerId>,
        /// Read as of this layer now.
        node: LayerId,
        /// Which chunks, at most 64.
        chunks: Vec<ChunkIndex>,
    },
    /// Walk over the whole disk now rather than when it is due.
    Scrub {},
    /// Limits of background work, by name; a name that is not known is an error. `scrub_bytes_per_s`,
    /// `scrub_period_s`, `sweep_bytes_per_s`, `pull_bytes_per_s`; 0 = no work of that kind.
    Tune {
        /// Name → value.
        tunables: BTreeMap<String, u64>,
    },
}

/// What one layer of a volume occupies on one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerUsage {
    /// The layer.
    pub layer: LayerId,
    /// Bytes of its blocks.
    pub bytes: u64,
    /// If it is live: bytes, in it and in dead layers above it, that no other live layer shows.
    pub exclusive_bytes: u64,
    /// If it is live: bytes that one sees when reading as of it.
    pub visible_bytes: u64,
}

/// Neighbouring blocks that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRange {
    /// The chunk.
    pub chunk: ChunkIndex,
    /// First block in it.
    pub block: u16,
    /// Blocks.
    pub blocks: u16,
    /// They are data now; false: zeros, or nothing.
    pub data: bool,
}

/// One kind of background work, as everybody shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// `scrub`, `sweep`, `account`, `pull`, `checkpoint`, `rebuild`, `move`, `hydrate`, `heal`.
    pub name: String,
    /// The volume that it works on, if it is one.
    pub volume: Option<VolumeId>,
    /// `idle`, `running`, `waiting` (for its rate, for the guest, for a peer) or `off`.
    pub state: String,
    /// How far, in `unit`.
    pub done: u64,
    /// Of how much; 0 = not known.
    pub total: u64,
    /// `bytes`, `blocks`, `chunks`.
    pub unit: String,
    /// How fast it has been lately.
    pub bytes_per_s: u64,
    /// How fast it may be; 0 = no limit.
    pub limit_bytes_per_s: u64,
    /// For a person.
    pub note: String,
}

/// A replica with damaged blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedChunk {
    /// The volume.
    pub volume: VolumeId,
    /// The chunk.
    pub chunk: ChunkIndex,
    /// How many blocks.
    pub blocks: u32,
    /// The first of them, at most 32.
    #[serde(default)]
    pub named: Vec<u16>,
}

/// What a chunk server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its number.
    pub server: ServerId,
    /// Its process id.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// Bytes that the store occupies.
    pub used_bytes: u64,
    /// Bytes that the file system could still give.
    pub free_bytes: u64,
    /// Size of the file system.
    pub total_bytes: u64,
    /// Chunks that it holds.
    pub replicas: u64,
    /// Volumes that it holds.
    pub volumes: u64,
    /// Bytes of journal not yet applied.
    pub journal_bytes: u64,
    /// Blocks found damaged so far.
    pub damaged_blocks: u64,
    /// Refuses new chunks because it is full.
    pub full: bool,
    /// Name of the store: random, made with it.
    #[serde(default)]
    pub store: String,
    /// Gateways are let in; see [`ServerRequest::Admit`].
    #[serde(default)]
    pub admitted: bool,
    /// Name of this run of the process: orders are for one. Empty: a server from before there were orders.
    #[serde(default)]
    pub run: String,
    /// The disk had lost durable records when the store was opened.
    #[serde(default)]
    pub lost_durable: bool,
    /// Background work.
    #[serde(default)]
    pub workers: Vec<WorkerStatus>,
    /// Replicas with damaged blocks that are not healed yet; at most 1,000.
    #[serde(default)]
    pub damaged: Vec<DamagedChunk>,
    /// When the last whole scrub ended, in seconds since 1970; 0 = never.
    #[serde(default)]
    pub scrubbed_at_s: u64,
}

#[cfg(test)]
mod tests;
