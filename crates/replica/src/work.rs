//! Background work: what is done when nobody waits for it, or too long for one turn. Jobs read the disk on other threads, one
//! that somebody waits for and one that nobody does at a time; what they found is taken up in the turn that hears of it.

use std::collections::BTreeMap;
use std::io;

use yuntai_proto::control::WorkerStatus;
use yuntai_proto::data::Refusal;
use yuntai_store::vfs::Vfs;
use yuntai_store::{ScanJob, ScrubJob};

use crate::api::{Action, Now};
use crate::claims::invalid;
use crate::looking::Looking;
use crate::pace::{Meter, Pace};
use crate::replica::Replica;
use crate::scrubbing::Scrubbing;
use crate::sweeping::Sweeps;

/// So many requests between two ticks are a busy foreground.
const BUSY_REQUESTS: u32 = 16;
/// Background work takes so many times as long when the foreground is busy.
const BUSY_WEIGHT: u64 = 4;
const PULL_BYTES_PER_S: u64 = 4 << 30;

/// A piece of background work.
pub enum WorkJob<V: Vfs> {
    /// Somebody waits for it.
    Urgent(ScanJob<V>),
    /// Nobody does.
    Scan(ScanJob<V>),
    /// Nor for this.
    Scrub(ScrubJob<V>),
}

impl<V: Vfs> WorkJob<V> {
    /// Does somebody wait for it?
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::Urgent(_))
    }

    /// Do the next piece; true when all is done.
    ///
    /// # Errors
    /// What the system says; the job is given back all the same.
    pub fn step(&mut self) -> io::Result<bool> {
        match self {
            Self::Urgent(job) | Self::Scan(job) => job.step(),
            Self::Scrub(job) => job.run().map(|()| true),
        }
    }
}

/// All background work of a server.
pub(crate) struct Work {
    pub(crate) scrubbing: Scrubbing,
    pub(crate) sweeps: Sweeps,
    pub(crate) looking: Looking,
    pub(crate) pull_pace: Pace,
    pub(crate) pull_meter: Meter,
    pub(crate) checkpoint_meter: Meter,
    /// A job is on its way: urgent, and not.
    urgent_out: bool,
    out: bool,
    /// Whose turn it is among those that nobody waits for.
    turn: usize,
    requests: u32,
    pub(crate) weight: u64,
    /// The last time that was told.
    pub(crate) seen: Now,
}

impl Work {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            scrubbing: Scrubbing::new(now),
            sweeps: Sweeps::default(),
            looking: Looking::default(),
            pull_pace: Pace::new(PULL_BYTES_PER_S),
            pull_meter: Meter::default(),
            checkpoint_meter: Meter::default(),
            urgent_out: false,
            out: false,
            turn: 0,
            requests: 0,
            weight: 1,
            seen: now,
        }
    }

    /// A request of the foreground came.
    pub(crate) fn request(&mut self) {
        self.requests += 1;
    }
}

impl<V: Vfs> Replica<V> {
    pub(crate) fn tick_work(&mut self, now: Now) {
        self.work.seen = now;
        self.work.weight = if self.work.requests > BUSY_REQUESTS { BUSY_WEIGHT } else { 1 };
        self.work.requests = 0;
    }

    /// Take out what sweeps found, and send the next jobs on their way.
    pub(crate) fn go_on_working(&mut self, now: Now) {
        self.take_out_swept(now);
        if !self.work.urgent_out {
            if let Some(job) = self.next_look() {
                self.work.urgent_out = true;
                self.act(Action::Work(Box::new(WorkJob::Urgent(job))));
            }
        }
        if self.work.out {
            return;
        }
        // Each in its turn, so that none of them holds the others up.
        for _ in 0..3 {
            self.work.turn = (self.work.turn + 1) % 3;
            let job = match self.work.turn {
                0 => self.next_scrub(now).map(WorkJob::Scrub),
                1 => self.next_sweep(now).map(WorkJob::Scan),
                _ => self.next_account(now).map(WorkJob::Scan),
            };
            if let Some(job) = job {
                self.work.out = true;
                return self.act(Action::Work(Box::new(job)));
            }
        }
    }

    pub(crate) fn worked(&mut self, job: WorkJob<V>, result: io::Result<()>, now: Now) {
        if let Err(error) = &result {
            tracing::warn!(%error, "a piece of background work failed");
        }
        match job {
            WorkJob::Urgent(job) => {
                self.work.urgent_out = false;
                self.looked(job, result);
            }
            WorkJob::Scan(job) => {
                self.work.out = false;
                self.scanned(job, result, now);
            }
            WorkJob::Scrub(job) => {
                self.work.out = false;
                self.scrubbed(&job, result, now);
            }
        }
    }

    pub(crate) fn tune(&mut self, tunables: &BTreeMap<String, u64>) -> Result<(), Refusal> {
        const NAMES: [&str; 4] = ["scrub_bytes_per_s", "scrub_period_s", "sweep_bytes_per_s", "pull_bytes_per_s"];
        if let Some(name) = tunables.keys().find(|name| !NAMES.contains(&name.as_str())) {
            return Err(invalid(format!("tunables: {name}: must be one of {NAMES:?}")));
        }
        for (name, value) in tunables {
            match name.as_str() {
                "scrub_bytes_per_s" => self.work.scrubbing.pace.set(*value),
                "scrub_period_s" => self.set_scrub_period(*value),
                "sweep_bytes_per_s" => self.work.sweeps.pace.set(*value),
                _ => self.work.pull_pace.set(*value),
            }
        }
        Ok(())
    }

    /// Every kind of background work, and how far it is.
    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        let now_us = self.work.seen.us;
        let mut all = vec![self.scrub_status()];
        all.extend(self.sweep_statuses());
        all.push(WorkerStatus {
            name: "pull".into(),
            state: match (self.work.pull_pace.limit, self.pulls.len()) {
                (0, _) => "off",
                (_, 0) => "idle",
                _ => "running",
            }
            .into(),
            done: self.pulls.values().map(|job| job.bytes).sum(),
            unit: "bytes".into(),
            bytes_per_s: self.work.pull_meter.rate(now_us),
            limit_bytes_per_s: self.work.pull_pace.limit,
            note: format!("chunks: {}", self.pulls.len()),
            ..WorkerStatus::default()
        });
        all.push(WorkerStatus {
            name: "checkpoint".into(),
            state: if self.store.checkpointing() { "running" } else { "idle" }.into(),
            total: self.store.journal_bytes(),
            unit: "bytes".into(),
            bytes_per_s: self.work.checkpoint_meter.rate(now_us),
            ..WorkerStatus::default()
        });
        all
    }
}
