//! A chunk server: the real replica and store over a disk in memory.

use yuntai_proto::{ServerId, VolumeId};
use yuntai_replica::{Action, Config, Event, Now, Replica};
use yuntai_store::vfs::memory::MemVfs;
use yuntai_store::{OpenError, Options, Store};

use crate::master::TOKEN_SECRET;

/// Small, so that segments turn and checkpoints happen in a run of some thousand writes.
const SEGMENT_BYTES: u64 = 256 << 10;
const JOURNAL_BYTES_MAX: u64 = 1 << 20;
/// One turn's mutations more than the limit may be in the journal.
const JOURNAL_BYTES_SLACK: u64 = 512 << 10;
const CHECKPOINT_BYTES: u64 = 384 << 10;
/// Low, so that both ways of a write are taken.
const IN_PLACE_BLOCKS_MIN: u16 = 2;
/// The same with who writes in place.
const WRITE_APART_BYTES_MIN: usize = 12 << 10;
const CHECKPOINT_EVERY_US: u64 = 700_000;
/// Some room is kept, and some is given back in the middle of things.
const SPARE_LAYERS_MAX: usize = 6;
const AGE_SPARES_EVERY_US: u64 = 600_000;

/// One server. `replica` is none while its process does not run.
pub struct Server {
    /// Its number.
    pub id: ServerId,
    /// Its disk; it outlives processes.
    pub disk: MemVfs,
    /// Its process.
    pub replica: Option<Replica<MemVfs>>,
    /// Starts so far: what was meant for an earlier process never reaches a later one.
    pub incarnation: u64,
    /// Starts that failed since the last one that did not.
    pub failed_starts: u32,
    /// The highest fence ever seen here: it must never go back.
    pub fence: u64,
    /// Its disk takes its time.
    pub slow: bool,
    /// Its clocks are so far ahead: the one that only goes on, and the one on the wall.
    pub clock: Clock,
}

/// How wrong a server's clocks are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Jumps of the clock that never goes back.
    pub ahead_us: u64,
    /// The wall clock's error, either way.
    pub wall_s: i64,
}

impl Server {
    /// A server with an empty disk, not started.
    #[must_use]
    pub fn new(id: ServerId) -> Self {
        Self {
            id,
            disk: MemVfs::new(),
            replica: None,
            incarnation: 0,
            failed_starts: 0,
            fence: 0,
            slow: false,
            clock: Clock::default(),
        }
    }

    /// Start the process over the disk as it is.
    ///
    /// # Errors
    /// The store does not open.
    pub fn start(&mut self, now_us: u64) -> Result<(), OpenError> {
        let mut uuid = [0; 16];
        uuid[..4].copy_from_slice(&self.id.to_le_bytes());
        let mut options = Options::new(self.id, uuid);
        options.segment_bytes = SEGMENT_BYTES;
        options.journal_bytes_max = JOURNAL_BYTES_MAX;
        options.in_place_blocks_min = IN_PLACE_BLOCKS_MIN;
        options.write_apart_bytes_min = WRITE_APART_BYTES_MIN;
        options.spare_layers_max = SPARE_LAYERS_MAX;
        let store = match Store::open(self.disk.clone(), options.clone()) {
            Err(OpenError::Io(_)) => {
                // A disk that fails once while the process starts: the supervisor starts it again.
                self.disk = self.disk.restart();
                Store::open(self.disk.clone(), options)?
            }
            other => other?,
        };
        let mut config = Config::new(self.id, TOKEN_SECRET);
        config.checkpoint_bytes = CHECKPOINT_BYTES;
        config.checkpoint_every_us = CHECKPOINT_EVERY_US;
        config.age_spares_every_us = AGE_SPARES_EVERY_US;
        self.replica = Some(Replica::new(config, store, self.now(now_us)));
        self.incarnation += 1;
        Ok(())
    }

    /// Give an event to the process.
    pub fn apply(&mut self, event: Event<MemVfs>, now_us: u64) {
        let now = self.now(now_us);
        if let Some(replica) = &mut self.replica {
            replica.apply(event, now);
        }
    }

    /// Take what it wants done about its events.
    pub fn turn(&mut self, now_us: u64) -> Vec<Action<MemVfs>> {
        let now = self.now(now_us);
        self.replica.as_mut().map_or_else(Vec::new, |replica| replica.turn(now))
    }

    /// The journal's limit holds, whatever the disk does.
    ///
    /// # Errors
    /// It does not.
    pub fn check_journal(&mut self) -> Result<bool, String> {
        let Some(replica) = &mut self.replica else { return Ok(false) };
        let bytes = replica.store().journal_bytes();
        if bytes > JOURNAL_BYTES_MAX + JOURNAL_BYTES_SLACK {
            return Err(format!("server {}: {bytes} bytes of journal, the limit is {JOURNAL_BYTES_MAX}", self.id));
        }
        Ok(bytes >= JOURNAL_BYTES_MAX)
    }

    /// Check that the fence of a volume has not gone back.
    ///
    /// # Errors
    /// It has.
    pub fn check_fence(&mut self, volume: VolumeId) -> Result<(), String> {
        let Some(replica) = &mut self.replica else { return Ok(()) };
        let generation = replica.store().fence(volume).generation;
        if generation < self.fence {
            return Err(format!("server {}: the fence went back from {} to {generation}", self.id, self.fence));
        }
        self.fence = generation;
        Ok(())
    }
}

impl Server {
    pub(crate) fn now(&self, us: u64) -> Now {
        let wall = 1_000_000_000 + us / 1_000_000;
        Now { us: us + self.clock.ahead_us, unix_s: wall.saturating_add_signed(self.clock.wall_s) }
    }
}
