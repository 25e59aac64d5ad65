//! Figures of one volume.

use std::collections::BTreeMap;

use serde::Serialize;
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
    /// Blocks copied from the source.
    pub filled_blocks: u64,
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
}
