//! What goes into a [`Replica`](crate::Replica) and what comes out.
//!
//! The shell gives events with [`Replica::apply`](crate::Replica::apply) as they come and ends every turn with
//! [`Replica::turn`](crate::Replica::turn): only there the mutations of the turn are appended (in one write) and
//! answered. A shell with one event per turn is correct, only slower.

use std::io;
use std::sync::Arc;

use yuntai_proto::{Frame, ServerId};
use yuntai_store::vfs::Vfs;
use yuntai_store::{CheckpointJob, SyncTicket, Unlinked, WriteJob};

use crate::work::WorkJob;

/// One connection, in or out. The shell never uses a number twice.
pub type ConnectionId = u64;
/// One attempt to reach a peer.
pub type DialId = u64;

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Microseconds of a clock that never goes back; any origin.
    pub us: u64,
    /// Seconds since 1970, for the age of tokens.
    pub unix_s: u64,
}

/// Figures that an operator may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The server's number.
    pub server: ServerId,
    /// The program's version, for `Status`.
    pub version: String,
    /// Process id, for `Status`.
    pub pid: u32,
    /// Random, for `Status`: orders are for one run of the process.
    pub run: String,
    /// What signs tokens and orders.
    pub token_secret: Vec<u8>,
    /// More connections than this are refused.
    pub connections_max: usize,
    /// A connection is not read while so many bytes of its mutations wait for room in the journal.
    pub waiting_bytes_max: usize,
    /// Most pulls at the same time; more are refused as busy.
    pub pulls_max: usize,
    /// A pull whose source says nothing for so long has failed.
    pub pull_silence_us: u64,
    /// A `Versions` request waits so long for the sequence that it asks for.
    pub versions_wait_us: u64,
    /// From so many bytes of journal on a checkpoint is begun.
    pub checkpoint_bytes: u64,
    /// A journal that holds anything is checkpointed at least so often.
    pub checkpoint_every_us: u64,
    /// A layer that was not written in place for two or three times so long keeps no room for it.
    pub age_spares_every_us: u64,
}

impl Config {
    /// The usual figures.
    #[must_use]
    pub fn new(server: ServerId, token_secret: &[u8]) -> Self {
        Self {
            server,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            run: "run".to_owned(),
            token_secret: token_secret.to_vec(),
            connections_max: 1024,
            waiting_bytes_max: 16 << 20,
            pulls_max: 16,
            pull_silence_us: 10_000_000,
            versions_wait_us: 2_000_000,
            checkpoint_bytes: 256 << 20,
            checkpoint_every_us: 30_000_000,
            age_spares_every_us: 60_000_000,
        }
    }
}

/// What happened.
pub enum Event<V: Vfs> {
    /// Somebody has connected and proved the cluster secret.
    Opened {
        /// The new connection.
        connection: ConnectionId,
        /// What the peer calls itself.
        name: String,
    },
    /// A frame came, on a connection of either direction.
    Frame {
        /// Where.
        connection: ConnectionId,
        /// What.
        frame: Frame,
    },
    /// A connection of either direction is gone.
    Closed {
        /// Which.
        connection: ConnectionId,
    },
    /// A connection asked for by [`Action::Dial`] stands, handshake and all.
    Dialed {
        /// Whose it is.
        dial: DialId,
        /// Its number from now on.
        connection: ConnectionId,
    },
    /// A connection asked for by [`Action::Dial`] could not be made.
    DialFailed {
        /// Whose it was.
        dial: DialId,
        /// Why, for a person.
        reason: String,
    },
    /// The job of [`Action::Write`] is done: somebody's [`WriteJob::help`] said true.
    Written(Arc<WriteJob<V>>),
    /// The ticket of [`Action::Sync`] has been run.
    Synced {
        /// The ticket.
        ticket: SyncTicket<V>,
        /// How it went.
        result: io::Result<()>,
    },
    /// The job of [`Action::Checkpoint`] has been stepped to its end, or to its first error.
    Checkpointed {
        /// The job.
        job: Box<CheckpointJob<V>>,
        /// How it went.
        result: io::Result<()>,
    },
    /// The job of [`Action::Work`] has been stepped to its end, or to its first error.
    Worked {
        /// The job.
        job: Box<WorkJob<V>>,
        /// How it went.
        result: io::Result<()>,
    },
    /// Time has passed: at least every 50 ms.
    Tick,
}

/// What is to be done.
pub enum Action<V: Vfs> {
    /// Send a frame. A connection that is gone meanwhile swallows it.
    Send {
        /// Where.
        connection: ConnectionId,
        /// What.
        frame: Frame,
    },
    /// Close a connection. No [`Event::Closed`] needs to follow.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Why, for the log.
        reason: String,
    },
    /// [`WriteJob::help`], on as many threads as there are; then [`Event::Written`]. Until then what was staged is neither
    /// answered nor visible. At most one is on its way.
    Write(Arc<WriteJob<V>>),
    /// Run the ticket, on another thread if there is one; then [`Event::Synced`]. At most one is on its way.
    Sync(SyncTicket<V>),
    /// Step the job until it says that it is done, on another thread if there is one; then [`Event::Checkpointed`]. At
    /// most one is on its way, beside at most one sync.
    Checkpoint(Box<CheckpointJob<V>>),
    /// Drop it, on another thread if there is one. Nothing follows.
    Drop(Box<Unlinked<V>>),
    /// Step the job until it says that it is done, on another thread if there is one; then [`Event::Worked`]. At most
    /// one that is urgent and one that is not are on their way, beside syncs and checkpoints.
    Work(Box<WorkJob<V>>),
    /// Connect to a chunk server and do the client's handshake as "cs:<own number>"; then [`Event::Dialed`] or
    /// [`Event::DialFailed`].
    Dial {
        /// To be echoed.
        dial: DialId,
        /// `host:port`.
        address: String,
    },
    /// The disk did not keep a promise that others rely on: end the process at once, without writing anything. The next
    /// start replays what is really there.
    Die {
        /// Why.
        reason: String,
    },
}
