//! Control: what the master asks of gateways and chunk servers, and what gateways tell the master. JSON bodies.
//!
//! `Control` → `ControlReply` (`{"ok": …}` or `{"error": "…"}`), and `Event` → `EventReply` the other way.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

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
    /// Refuse writes.
    pub read_only: bool,
    /// The layer tree: index = layer, value = parent.
    pub parents: Vec<LayerId>,
    /// The layer that is written (or that is read, when `read_only`).
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
    /// Flush, stop serving, forget. Closing what is not open is fine.
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
    /// A chunk server fenced us: the volume is closed here.
    Fenced {
        /// The volume.
        volume: VolumeId,
        /// The generation that lost.
        generation: u64,
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
    /// Drop everything of a volume, durably fencing it for ever. Answer `{"ok": true}`.
    DeleteVolume {
        /// The volume.
        volume: VolumeId,
    },
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
}

#[cfg(test)]
mod tests;
