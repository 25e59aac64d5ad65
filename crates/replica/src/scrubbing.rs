//! The scrubber: goes over the whole disk on a period, piece by piece at its rate, and slower while there is other work.

use std::io;

use yuntai_proto::control::WorkerStatus;
use yuntai_store::vfs::Vfs;
use yuntai_store::{LayerKey, ScrubJob, ScrubMark};

use crate::api::Now;
use crate::pace::{Meter, Pace};
use crate::replica::Replica;

const SCRUB_BYTES_PER_S: u64 = 20 << 20;
const SCRUB_PERIOD_S: u64 = 7 * 24 * 3600;
/// How often it is written down how far it is.
const SAVE_EVERY_US: u64 = 60_000_000;
const FIRST: LayerKey = LayerKey { volume: 0, chunk: 0, layer: 0 };

/// How far it is, and how fast it may go.
pub(crate) struct Scrubbing {
    pub(crate) pace: Pace,
    period_s: u64,
    meter: Meter,
    /// Where the next piece begins.
    at: Option<(LayerKey, u16)>,
    /// The walk was looked for in the store's mark.
    begun: bool,
    save_due_us: u64,
    to_save: Option<ScrubMark>,
    found: u64,
}

impl Scrubbing {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            pace: Pace::new(SCRUB_BYTES_PER_S),
            period_s: SCRUB_PERIOD_S,
            meter: Meter::default(),
            at: None,
            begun: false,
            save_due_us: now.us + SAVE_EVERY_US,
            to_save: None,
            found: 0,
        }
    }
}

impl<V: Vfs> Replica<V> {
    /// Begin now, unless one is under way.
    pub(crate) fn scrub_now(&mut self) {
        let mark = self.store.scrub_mark();
        self.work.scrubbing.to_save = Some(ScrubMark { next_due_s: self.work.seen.unix_s.max(1), ..mark });
    }

    pub(crate) fn set_scrub_period(&mut self, period_s: u64) {
        let mark = self.store.scrub_mark();
        self.work.scrubbing.period_s = period_s;
        let since = if mark.ended_s > 0 { mark.ended_s } else { self.work.seen.unix_s };
        let next_due_s = since.saturating_add(period_s).max(1);
        if mark.next_due_s != next_due_s {
            self.work.scrubbing.to_save = Some(ScrubMark { next_due_s, ..mark });
        }
    }

    pub(crate) fn next_scrub(&mut self, now: Now) -> Option<ScrubJob<V>> {
        if let Some(mark) = self.work.scrubbing.to_save.take() {
            return Some(self.store.set_scrub_mark(mark));
        }
        let scrubbing = &mut self.work.scrubbing;
        let mark = self.store.scrub_mark();
        if !scrubbing.begun {
            scrubbing.begun = true;
            scrubbing.at = mark.at.map(|at| (at, 0));
        }
        if scrubbing.period_s == 0 || !scrubbing.pace.may(now.us) {
            return None;
        }
        if now.us >= scrubbing.save_due_us {
            scrubbing.save_due_us = now.us + SAVE_EVERY_US;
            let next_due_s = if mark.next_due_s == 0 { now.unix_s + scrubbing.period_s } else { mark.next_due_s };
            let here = ScrubMark { next_due_s, at: scrubbing.at.map(|(key, _)| key), ..mark };
            if here != mark {
                return Some(self.store.set_scrub_mark(here));
            }
        }
        let (key, block) = match scrubbing.at {
            Some(at) => at,
            None if mark.next_due_s > 0 && now.unix_s >= mark.next_due_s => {
                tracing::info!("scrub begun");
                (scrubbing.found, scrubbing.at) = (0, Some((FIRST, 0)));
                (FIRST, 0)
            }
            None => return None,
        };
        match self.store.layer_from(key) {
            Some(found) => {
                let at = if found == key { (key, block) } else { (found, 0) };
                scrubbing.at = Some(at);
                Some(self.store.scrub_job(at.0, at.1))
            }
            None => {
                tracing::info!(damaged_blocks = scrubbing.found, "scrub ended");
                scrubbing.at = None;
                let next_due_s = now.unix_s + scrubbing.period_s;
                Some(self.store.set_scrub_mark(ScrubMark { next_due_s, ended_s: now.unix_s, at: None }))
            }
        }
    }

    pub(crate) fn scrubbed(&mut self, job: &ScrubJob<V>, result: io::Result<()>, now: Now) {
        if job.is_mark() {
            return;
        }
        let damaged = job.suspects.iter().filter(|block| self.store.confirm_damage(&job.key, **block)).count();
        if job.takes_too_much {
            self.store.note_spare(job.key);
        }
        let scrubbing = &mut self.work.scrubbing;
        scrubbing.found += damaged as u64;
        scrubbing.meter.add(now.us, job.bytes);
        scrubbing.pace.spend(now.us, job.bytes.max(4096), self.work.weight);
        let key = job.key;
        let behind = match key.layer.checked_add(1) {
            Some(layer) => LayerKey { layer, ..key },
            None => LayerKey { chunk: key.chunk.saturating_add(1), layer: 0, ..key },
        };
        scrubbing.at = match job.next.filter(|_| result.is_ok()) {
            Some(block) => Some((key, block)),
            None => Some((behind, 0)),
        };
    }

    pub(crate) fn scrub_status(&self) -> WorkerStatus {
        let scrubbing = &self.work.scrubbing;
        let now = self.work.seen;
        let mark = self.store.scrub_mark();
        let off = scrubbing.pace.limit == 0 || scrubbing.period_s == 0;
        let state = match scrubbing.at {
            _ if off => "off",
            None => "idle",
            Some(_) if scrubbing.pace.may(now.us) => "running",
            Some(_) => "waiting",
        };
        let (done, total) = self.store.scrub_progress(scrubbing.at.map_or(FIRST, |(key, _)| key));
        let hours = mark.next_due_s.saturating_sub(now.unix_s) / 3600;
        WorkerStatus {
            name: "scrub".into(),
            state: state.into(),
            done,
            total,
            unit: "bytes".into(),
            bytes_per_s: scrubbing.meter.rate(now.us),
            limit_bytes_per_s: scrubbing.pace.limit,
            note: match scrubbing.at {
                Some(_) => format!("damaged blocks: {}", scrubbing.found),
                None if mark.next_due_s == 0 => String::new(),
                None => format!("next in {hours} h"),
            },
            ..WorkerStatus::default()
        }
    }
}
