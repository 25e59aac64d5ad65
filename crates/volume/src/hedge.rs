//! Reads that one replica does not answer in time are asked of another one as well; the first answer counts.
//!
//! A read may be answered by any in-sync replica at any moment between its beginning and its end, and no answer is given
//! before the fate of what overlaps it is settled. So asking twice changes nothing but the load, and that is bounded: one
//! extra read for twenty that were made.

use yuntai_proto::ServerId;

use crate::api::Micros;
use crate::read::{Purpose, Stage};
use crate::stats::Histogram;
use crate::volume::Volume;

/// A read is not hedged before, and always after, such a time.
const DELAY_US: std::ops::RangeInclusive<Micros> = 5_000..=50_000;
/// With fewer reads than this their spread is not known.
const KNOWN: u64 = 100;
/// Reads for one hedge.
const READS_PER_HEDGE: u64 = 20;
/// Hedges that may be saved up.
const SAVED_MAX: u64 = 64;
/// A server that was overtaken is not read from for so long, if there is another.
const SLOW_US: Micros = 1_000_000;
/// What was measured counts half after this.
const FADE_US: Micros = 5_000_000;

/// How fast reads are lately, and how many more may be hedged.
#[derive(Debug)]
pub(crate) struct Hedges {
    recent: Histogram,
    faded_at: Micros,
    /// In reads: a hedge costs [`READS_PER_HEDGE`].
    credit: u64,
}

impl Default for Hedges {
    fn default() -> Self {
        Self { recent: Histogram::default(), faded_at: 0, credit: SAVED_MAX * READS_PER_HEDGE }
    }
}

impl Hedges {
    /// Twice what 99 of 100 reads take.
    fn delay(&self) -> Micros {
        if self.recent.count < KNOWN {
            return *DELAY_US.end();
        }
        (self.recent.quantile_us(99, 100) * 2).clamp(*DELAY_US.start(), *DELAY_US.end())
    }
}

impl Volume {
    /// One read more that may be hedged.
    pub(crate) fn count_read(&mut self) {
        self.hedges.credit = (self.hedges.credit + 1).min(SAVED_MAX * READS_PER_HEDGE);
    }

    /// A replica answered a read, `first` the one that was asked first.
    pub(crate) fn read_answered(&mut self, server: ServerId, first: ServerId, took: Micros) {
        self.hedges.recent.add(took);
        self.counters.replica_read_us.add(took);
        if server != first {
            self.counters.hedges_won += 1;
            let now = self.now;
            if let Some(slow) = self.servers.get_mut(&first) {
                slow.slow_until = now + SLOW_US;
            }
        }
    }

    pub(crate) fn tick_hedges(&mut self) {
        if self.now.saturating_sub(self.hedges.faded_at) >= FADE_US {
            self.hedges.faded_at = self.now;
            self.hedges.recent.fade();
        }
        if self.reads.is_empty() {
            return;
        }
        let (delay, awake, now) = (self.hedges.delay(), self.awake_since, self.now);
        let late = |job: &crate::read::ReadJob| {
            let waits = job.stage == Stage::Own && job.asked.len() == 1 && !job.hedged;
            let foreground = !matches!(job.purpose, Purpose::Hydrate(_));
            waits && foreground && now.saturating_sub(job.asked_at.max(awake)) >= delay
        };
        let due: Vec<u64> = self.reads.iter().filter(|(_, job)| late(job)).map(|(id, _)| *id).collect();
        for id in due {
            if self.hedges.credit < READS_PER_HEDGE {
                return;
            }
            if self.ask_replica(id) {
                self.hedges.credit -= READS_PER_HEDGE;
                self.counters.hedged_reads += 1;
                if let Some(job) = self.reads.get_mut(&id) {
                    job.hedged = true;
                }
            }
        }
    }
}
