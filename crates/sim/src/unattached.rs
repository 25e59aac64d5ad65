//! A volume that nobody has attached: the guest's host let go of it, or is given up; snapshots, rollback and growth go on
//! in the record alone; and when the store has work on it the leader opens it at some gateway, without a guest
//! (`yuntai/pangu/tending.py`; who may speak is `rules.py`). Attaching ends that at once, by a newer generation; so does
//! the lack of work, and what changes the record under the tender: then the generation is the same, and the tender is
//! told at its next event that it has no say any more.

use rand::Rng;
use yuntai_proto::control::GatewayEvent;
use yuntai_proto::VolumeId;
use yuntai_volume::ControlRequest;

use crate::attached::of_body;
use crate::faults::Fault;
use crate::gateway::Gateway;
use crate::net::Node;
use crate::world::{Job, World};

/// A tender goes after so many turns in a row without work, as `IDLE_TURNS` of tending.py.
pub(crate) const IDLE_TURNS: u32 = 3;

/// Why the gateway of a volume is closing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// To be rolled back.
    Rollback,
    /// Its guest is shut down.
    Detach,
}

impl World {
    /// The guest's volume under its generation.
    pub(crate) fn of(&self) -> (VolumeId, u64) {
        (self.volume, self.master.records[&self.volume].generation)
    }

    /// Is there anybody who reads and writes?
    pub(crate) fn attached(&self) -> bool {
        self.master.records[&self.volume].attached
    }

    /// The guest is shut down and the volume detached; or its host is given up, and the volume detached by force.
    pub(crate) fn begin_detach(&mut self) {
        let last = self.gateways.len() - 1;
        if self.pair.is_some() || !self.attached() {
            return; // the second volume has its writer on the same host
        }
        if self.rng.gen_bool(0.3) {
            self.detach_by_force();
            if self.rng.gen_bool(0.5) {
                self.cut_off(last);
            }
            self.attach_later();
        } else if self.seen_gateway(self.volume) == Some(last) && self.gateways[last].opened {
            self.note("the volume is closed to be detached".into());
            self.closing = Some((last, Closing::Detach));
            let delay = self.delay();
            self.after(delay, Job::Order(last, self.of(), 0, ControlRequest::Close));
        }
    }

    pub(crate) fn detach_by_force(&mut self) {
        self.note("the volume is detached by force".into());
        self.coverage.hit("a volume was detached by force");
        let record = self.master.records.get_mut(&self.volume).expect("the volume exists");
        (record.attached, record.holder, record.unfenced) = (false, None, true);
    }

    /// Somebody wants it again some time.
    fn attach_later(&mut self) {
        let wait = self.rng.gen_range(100_000..6_000_000);
        self.after(wait, Job::Heal(Fault::Detached));
    }

    /// A clone that nobody attaches at once: it may be hydrated by a tender.
    pub(crate) fn begin_unattached(&mut self) {
        self.note("the volume is made, and attached some time later".into());
        self.attach_later();
    }

    /// The gateway has closed the volume, and said whether all is durable.
    pub(crate) fn detached(&mut self, index: usize, flushed: bool) {
        let Some((_, why)) = self.closing.take_if(|(closing, _)| *closing == index) else { return };
        let head = self.master.records[&self.volume].head;
        if flushed {
            self.seal(head);
            self.snapshots_done(head);
        }
        let record = self.master.records.get_mut(&self.volume).expect("the volume exists");
        (record.attached, record.holder, record.unfenced) = (false, None, !flushed);
        self.coverage.hit("a volume was detached");
        match why {
            Closing::Rollback => {
                self.roll_back();
                let wait = self.rng.gen_range(1_000..500_000);
                self.after(wait, Job::Heal(Fault::Detached));
            }
            Closing::Detach => self.attach_later(),
        }
    }

    /// It is attached again, unless it is.
    pub(crate) fn attach(&mut self) {
        if self.attached() {
            return;
        }
        let last = self.gateways.len() - 1;
        if self.master.records[&self.volume].holder.is_some() {
            self.coverage.hit("an attachment ended the tending");
            match self.rng.gen_range(0..3) {
                0 => self.dismiss(last),
                1 => self.cut_off(last),
                _ => {}
            }
        }
        self.open_gateway(Vec::new());
    }

    /// Tell a gateway to let go, as a courtesy.
    fn dismiss(&mut self, index: usize) {
        let delay = self.delay();
        self.after(delay, Job::Order(index, self.of(), 0, ControlRequest::Close));
    }

    /// What the store has to do on a volume that nobody has attached.
    pub(crate) fn has_work(&self, volume: VolumeId) -> bool {
        let stale = &self.master.records[&volume].stale;
        let behind = stale.iter().any(|id| self.leader.announced.contains(id));
        let damaged = volume == self.volume && self.leader.damaged;
        !self.master.wanted(volume).is_empty() || behind || damaged || self.master.reads_source(volume)
    }

    /// The leader's turn at a volume that nobody has attached.
    pub(crate) fn tend(&mut self) {
        if self.attached() {
            return;
        }
        let last = self.gateways.len() - 1;
        if self.faulty && self.rng.gen_bool(0.06) {
            match self.rng.gen_range(0..5) {
                0..=1 => self.snapshot(),
                2..=3 => self.roll_back(),
                _ => self.grow(),
            }
        }
        let work = self.has_work(self.volume);
        match self.master.records[&self.volume].holder {
            None if work => self.open_tender(),
            None => {}
            // It lost the volume, or its process ended: whether it is to be tended still is looked at anew.
            Some(_) if self.gateways[last].volume.is_none() => self.untended(),
            Some(_) if work => self.leader.idle = 0,
            Some(_) => {
                self.leader.idle += 1;
                if self.leader.idle >= IDLE_TURNS {
                    self.coverage.hit("tending ended for lack of work");
                    self.untended();
                    self.dismiss(last);
                }
            }
        }
    }

    pub(crate) fn open_tender(&mut self) {
        self.note(format!("gateway {} tends the volume", self.gateways.len()));
        self.coverage.hit("a volume was tended");
        self.leader.idle = 0;
        let (spec, session) = (self.master.grant(self.volume, Vec::new()), self.rng.gen());
        let mut gateway = Gateway::new(spec, session);
        gateway.tends = true;
        self.add_gateway(gateway);
    }

    /// Nobody tends any more, without a newer generation.
    pub(crate) fn untended(&mut self) {
        let record = self.master.records.get_mut(&self.volume).expect("the volume exists");
        if !record.attached {
            record.holder = None;
        }
    }

    /// A tender's event is answered.
    pub(crate) fn tender_heard(&mut self, index: usize, event: &GatewayEvent, fenced: bool) {
        if !self.gateways[index].tends || of_body(event).0 != self.volume {
            return;
        }
        if fenced {
            if self.gateways[index].generation == self.master.records[&self.volume].generation {
                self.coverage.hit("a tender had no say any more");
            }
            return;
        }
        match event {
            GatewayEvent::Moved { .. } => self.coverage.hit("a tender moved a replica"),
            GatewayEvent::Readmit { .. } => self.coverage.hit("a tender brought a server back"),
            GatewayEvent::Hydrated { .. } => self.coverage.hit("a tender hydrated a clone"),
            _ => {}
        }
    }

    /// The way between a gateway and the master is cut for a while.
    pub(crate) fn cut_off(&mut self, index: usize) {
        self.last(Fault::Cut(Node::Gateway(index), Node::Master));
    }
}
