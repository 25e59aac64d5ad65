//! Figures of one volume.

use std::collections::BTreeMap;

use serde::Serialize;
use yuntai_proto::control::{Move, WorkerStatus};
use yuntai_proto::{ChunkIndex, ServerId};

use crate::api::Micros;

/// Counts of durations: bucket `n` holds those below 2^n µs (and not below 2^(n-1)); the last one everything above.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Histogram {
    /// One count per power of two.
    pub buckets: [u64; 26],
    /// Sum of all durations.
    pub sum_us: u64,
    /// Number of durations.
    pub count: u64,
    /// The longest.
    pub max_us: Micros,
}

impl Histogram {
    /// Count one duration.
    pub fn add(&mut self, us: Micros) {
        let bucket = (64 - us.leading_zeros()) as usize;
        self.buckets[bucket.min(25)] += 1;
        self.sum_us += us;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    /// What `of` in `all` durations do not exceed, rounded up to the end of its bucket.
    #[must_use]
    pub fn quantile_us(&self, of: u64, all: u64) -> Micros {
        let wanted = (self.count * of).div_ceil(all);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return (1 << bucket).min(self.max_us.max(1));
            }
        }
        self.max_us
    }

    /// Let what was counted so far count half.
    pub(crate) fn fade(&mut self) {
        self.buckets.iter_mut().for_each(|count| *count /= 2);
        self.count = self.buckets.iter().sum();
        self.sum_us /= 2;
    }
}

/// Counted since the open.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Guest reads.
    pub reads: u64,
    /// Guest writes, zeroes and trims.
    pub writes: u64,
    /// Guest flushes.
    pub flushes: u64,
    /// Bytes the guest read.
    pub read_bytes: u64,
    /// Bytes the guest wrote.
    pub written_bytes: u64,
    /// Blocks that were found damaged on a replica and served from another.
    pub damaged_blocks: u64,
    /// Guest requests that got an error, since every replica of a block is damaged.
    pub lost_requests: u64,
    /// Requests that took longer than a second.
    pub stalls: u64,
    /// The longest of them.
    pub longest_stall_us: Micros,
    /// Servers taken out of the in-sync set.
    pub degrades: u64,
    /// Servers taken back.
    pub readmits: u64,
    /// Chunks rebuilt on a server.
    pub rebuilt_chunks: u64,
    /// Replicas that moved to another server.
    pub moved_chunks: u64,
    /// Damaged replicas of chunks that were brought level.
    pub healed_chunks: u64,
    /// Blocks copied from the source.
    pub filled_blocks: u64,
    /// Those of them that background copying brought.
    pub hydrated_blocks: u64,
    /// Reads that had to ask the source.
    pub lazy_reads: u64,
    /// From the guest's request to its answer.
    pub read_us: Histogram,
    /// From the guest's request to its answer.
    pub write_us: Histogram,
    /// From the guest's request to its answer.
    pub flush_us: Histogram,
    /// Of that, from the sending of a mutation to the last server's answer.
    pub replicate_us: Histogram,
    /// From the guest's request to the start of a piece of it: the wait for its turn, for others, for its chunk.
    pub queue_us: Histogram,
    /// From asking a replica for blocks to its answer.
    pub replica_read_us: Histogram,
    /// From asking a replica to make everything durable to its answer.
    pub replica_flush_us: Histogram,
    /// Reads that another replica was asked for as well.
    pub hedged_reads: u64,
    /// Those of them that the second one answered first.
    pub hedges_won: u64,
    /// From asking a source to its answer.
    pub source_us: Histogram,
}

/// One server as the volume sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ServerStats {
    /// "up", "claiming", "connecting" or "down".
    pub link: &'static str,
    /// In the in-sync set.
    pub in_sync: bool,
    /// Chunks that it must still pull.
    pub behind_chunks: u64,
    /// Requests that it has not answered.
    pub unanswered: u64,
    /// From a mutation's or read's sending to the answer.
    pub answer_us: Histogram,
}

/// A joining replica.
#[derive(Clone, Debug, Serialize)]
pub struct MoveStats {
    /// Which.
    #[serde(flatten)]
    pub wanted: Move,
    /// The master was asked to commit it.
    pub raised: bool,
}

/// A chunk whose in-sync replicas were all heard, and none of them holds a whole history.
#[derive(Clone, Debug, Serialize)]
pub struct BarredChunk {
    /// Which.
    pub chunk: ChunkIndex,
    /// Its in-sync servers.
    pub servers: Vec<ServerId>,
}

/// A volume's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// Its number.
    pub volume: u64,
    /// `vol-<16 hex digits>`.
    pub name: String,
    /// The generation that is served.
    pub generation: u64,
    /// "claiming", "serving", "closing" or "closed".
    pub phase: &'static str,
    /// Its size.
    pub size_bytes: u64,
    /// The layer that is written.
    pub head: u32,
    /// Guest requests not yet answered.
    pub in_flight: u64,
    /// Age of the oldest of them.
    pub oldest_us: Micros,
    /// Chunks of the volume.
    pub chunks: u64,
    /// Chunks `[0, n)` no longer need the source.
    pub hydrated_chunks: ChunkIndex,
    /// Counters.
    pub counters: Counters,
    /// Its servers.
    pub servers: BTreeMap<ServerId, ServerStats>,
    /// What it does in the background.
    pub workers: Vec<WorkerStatus>,
    /// Joining replicas.
    pub moves: Vec<MoveStats>,
    /// Why requests wait; empty if they do not.
    pub waiting: String,
    /// Chunks that wait for the operator.
    pub barred: Vec<BarredChunk>,
}
