//! What goes into a [`Volume`](crate::Volume) and what comes out.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use yuntai_proto::control::{EventAnswer, GatewayEvent, Move, OpenVolume};
use yuntai_proto::{ChunkIndex, Frame, LayerId, ServerId};

/// Microseconds of a clock that never goes back; any origin. The volume has no clock of its own.
pub type Micros = u64;

/// One connection to one server. Every [`Action::Connect`] names a new one, so an event of an older connection can
/// never be taken for one of the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Figures that an operator may change; the defaults are the contract's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Servers that do not answer a claim at open within this are degraded.
    pub claim_wait_us: Micros,
    /// The oldest unanswered request may be this old; then the server counts as hung.
    pub hung_us: Micros,
    /// A lost connection may come back within this before its server is degraded.
    pub reconnect_grace_us: Micros,
    /// A connection attempt (with handshake) may take this long.
    pub connect_wait_us: Micros,
    /// First wait between two attempts to reach a server; doubles each time.
    pub backoff_min_us: Micros,
    /// Longest wait between two attempts.
    pub backoff_max_us: Micros,
    /// One pull of one chunk may take this long.
    pub pull_wait_us: Micros,
    /// Chunks of a volume that are rebuilt at the same time.
    pub rebuilds_max: usize,
    /// Moving replicas of a volume that pull at the same time.
    pub moves_max: usize,
    /// How fast replicas on returning and joining servers are rebuilt, of all volumes of the gateway together, while its
    /// guests are idle (0 = not at all, `u64::MAX` = no limit). Bringing in-sync servers level is never limited.
    pub rebuild_bytes_per_s: u64,
    /// The same while a guest of the gateway does I/O, if it is less.
    pub rebuild_busy_bytes_per_s: u64,
    /// Bytes of guest requests that are worked on at the same time; more wait in arrival order.
    pub in_flight_bytes_max: u64,
    /// Bytes sent to a returning server and not answered; above it its connection is dropped, so that a slow one
    /// cannot fill the gateway's memory.
    pub unanswered_bytes_max: u64,
    /// Background copying from sources, of all volumes of the gateway together, while its guests are idle (0 = none).
    pub hydrate_bytes_per_s: u64,
    /// The same while one of them does I/O.
    pub hydrate_busy_bytes_per_s: u64,
    /// Pieces (of 1 MiB) that background copying has in flight.
    pub hydrate_pieces_max: usize,
    /// A closing volume waits this long for its last flush.
    pub close_wait_us: Micros,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            claim_wait_us: 2_000_000,
            hung_us: 1_000_000,
            reconnect_grace_us: 50_000,
            connect_wait_us: 1_000_000,
            backoff_min_us: 100_000,
            backoff_max_us: 2_000_000,
            pull_wait_us: 60_000_000,
            rebuilds_max: 4,
            moves_max: 4,
            rebuild_bytes_per_s: 400 << 20,
            rebuild_busy_bytes_per_s: 50 << 20,
            in_flight_bytes_max: 64 << 20,
            unanswered_bytes_max: 64 << 20,
            hydrate_bytes_per_s: 200 << 20,
            hydrate_busy_bytes_per_s: 20 << 20,
            hydrate_pieces_max: 4,
            close_wait_us: 5_000_000,
        }
    }
}

impl Config {
    /// Change limits by name; all or nothing.
    ///
    /// # Errors
    /// The name that is not known, and those that are.
    pub fn tune(&mut self, tunables: &BTreeMap<String, u64>) -> Result<(), String> {
        let mut changed = self.clone();
        for (name, value) in tunables {
            *match name.as_str() {
                "rebuild_bytes_per_s" => &mut changed.rebuild_bytes_per_s,
                "rebuild_busy_bytes_per_s" => &mut changed.rebuild_busy_bytes_per_s,
                "hydrate_bytes_per_s" => &mut changed.hydrate_bytes_per_s,
                "hydrate_busy_bytes_per_s" => &mut changed.hydrate_busy_bytes_per_s,
                _ => {
                    return Err(format!(
                        "tunable {name:?} is not known; a gateway has rebuild_bytes_per_s, rebuild_busy_bytes_per_s, \
                         hydrate_bytes_per_s and hydrate_busy_bytes_per_s"
                    ))
                }
            } = *value;
        }
        *self = changed;
        Ok(())
    }
}

/// What a guest asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRequest {
    /// Chosen by the asker, unique among its unanswered requests; comes back in [`Action::Reply`].
    pub id: u64,
    /// What is to be done.
    pub op: GuestOp,
}

/// A guest's operation. Offsets and lengths are in bytes and need no alignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestOp {
    /// Read. Answer: [`GuestData::Read`].
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write. Answer: [`GuestData::Done`].
    Write {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: Bytes,
        /// On stable storage before the answer.
        fua: bool,
    },
    /// Make zeros. Answer: [`GuestData::Done`].
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes; may be longer than any other request.
        len: u64,
        /// On stable storage before the answer.
        fua: bool,
        /// A trim: blocks that are covered in part may be left as they are.
        may_trim: bool,
    },
    /// Everything answered so far on stable storage. Answer: [`GuestData::Done`].
    Flush,
    /// Where is data? Answer: [`GuestData::Extents`].
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
}

/// A piece of what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// So many zeros.
    Zero(usize),
    /// Bytes, checked against their checksum.
    Data(Bytes),
}

/// One run of equal state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// There is data (false: a hole that reads as zeros).
    pub data: bool,
}

/// A successful answer to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestData {
    /// Written, zeroed, flushed.
    Done,
    /// Exactly the bytes asked for, in order.
    Read(Vec<Part>),
    /// Runs that cover the asked range.
    Extents(Vec<Extent>),
}

/// Why a guest's request was not done. A server's failure is never among them, as long as one of its peers has what is
/// asked for, or may have it: then the volume stalls and retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestError {
    /// Beyond the end of the volume, or too long.
    Invalid,
    /// A write beyond the end.
    NoSpace,
    /// A write to a read-only volume.
    ReadOnly,
    /// A block of it is damaged on every replica.
    Lost,
    /// The volume is closing, or was fenced.
    Shutdown,
}

/// What the master asks of an open volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// Write to `head` from now on, then make durable what came before, then answer [`ControlAnswer::Snapshot`].
    Snapshot {
        /// The grown tree.
        parents: Vec<LayerId>,
        /// The new head.
        head: LayerId,
    },
    /// Take over a longer placement, a larger size, newer addresses or tokens, moves that are wanted, and those that
    /// were committed without our hearing of it. Never shrinks.
    Reopen(Box<OpenVolume>),
    /// The moves that are wanted now, all of them. Answer: [`ControlAnswer::Moves`], at once.
    Moves {
        /// Which.
        moves: Vec<Move>,
        /// Addresses of the joining servers.
        servers: BTreeMap<ServerId, String>,
    },
    /// Damage was found on a server: bring these replicas level again. Answer: [`ControlAnswer::Heal`], at once.
    Heal {
        /// Whose disk it is.
        server: ServerId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Take the best barred replica as the survivor. Answer: [`ControlAnswer::Salvage`].
    Salvage {
        /// The chunk.
        chunk: ChunkIndex,
    },
    /// Change limits by name, see [`Config::tune`]. Answer: [`ControlAnswer::Tuned`].
    Tune {
        /// Name → value.
        tunables: BTreeMap<String, u64>,
    },
    /// Flush, then stop ([`Action::Closed`] follows the answer).
    Close,
}

/// A move that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedMove {
    /// Which.
    #[serde(flatten)]
    pub wanted: Move,
    /// Why.
    pub reason: String,
}

/// Answer to a [`ControlRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlAnswer {
    /// The old head is frozen and durable.
    Snapshot {
        /// The head that is written now.
        head: LayerId,
    },
    /// Taken over.
    Reopened,
    /// The list is noted.
    Moves {
        /// Joining replicas that there are now.
        under_way: Vec<Move>,
        /// What cannot be.
        refused: Vec<RefusedMove>,
    },
    /// So many of the replicas are there and will be healed.
    Heal {
        /// How many.
        queued: usize,
    },
    /// The chunk goes on with what this server has.
    Salvage {
        /// Whose replica it is.
        server: ServerId,
        /// How far its history goes.
        sequence: u64,
    },
    /// Changed.
    Tuned,
    /// Stopped.
    Closed {
        /// Whether the last flush was answered in time.
        flushed: bool,
    },
}

/// Why a volume stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It was asked to.
    Asked,
    /// Another writer holds it.
    Fenced,
}

/// What happens to a volume.
#[derive(Clone, Debug)]
pub enum Event {
    /// A guest's request.
    Guest(GuestRequest),
    /// The connection stands and both sides have proved the cluster secret. The volume claims on it by itself.
    Connected {
        /// From [`Action::Connect`].
        link: LinkId,
    },
    /// The connection was lost, or could not be made.
    Closed {
        /// From [`Action::Connect`].
        link: LinkId,
        /// For a person.
        reason: String,
    },
    /// A frame came.
    Frame {
        /// On this connection.
        link: LinkId,
        /// The frame.
        frame: Frame,
    },
    /// The master answered an [`Action::Raise`].
    Answer {
        /// Its number.
        event: u64,
        /// What it said.
        answer: EventAnswer,
    },
    /// The master asks something.
    Control {
        /// Comes back in [`Action::ControlReply`].
        id: u64,
        /// What.
        request: ControlRequest,
    },
    /// Time has passed. To be given at least every 10 ms (more often does no harm).
    Tick,
}

/// What is to be done for a volume, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Connect and shake hands; answer with [`Event::Connected`] or [`Event::Closed`].
    Connect {
        /// The new connection's name.
        link: LinkId,
        /// The server's number.
        server: ServerId,
        /// `host:port`.
        address: String,
    },
    /// Send a frame. Frames of one connection must arrive in order; there is no limit here that the volume does not
    /// keep itself.
    Send {
        /// On this connection.
        link: LinkId,
        /// The frame.
        frame: Frame,
    },
    /// Forget the connection at once, with whatever it has not sent. No event of it is expected any more.
    Drop {
        /// From [`Action::Connect`].
        link: LinkId,
    },
    /// Answer a guest.
    Reply {
        /// The request's.
        id: u64,
        /// The answer.
        result: Result<GuestData, GuestError>,
    },
    /// Tell the master; again and again to whoever is master until [`Event::Answer`] comes.
    Raise {
        /// Number of the event in this volume.
        event: u64,
        /// The event.
        body: GatewayEvent,
    },
    /// Answer the master.
    ControlReply {
        /// The request's.
        id: u64,
        /// The answer, or why not.
        result: Result<ControlAnswer, String>,
    },
    /// The volume serves from now on (comes once). Guests' requests that came before were kept.
    Opened,
    /// The volume is over: every guest request was answered, and no further action comes.
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// Something for the log.
    Note {
        /// The server, where it is about one.
        server: Option<ServerId>,
        /// The chunk, where it is about one.
        chunk: Option<ChunkIndex>,
        /// What happened.
        text: String,
    },
}
