//! Events on their way to the master: kept until answered, sent again to every newly connected master.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use yuntai_proto::control::{EventAnswer, GatewayEvent, StandbyEvent};
use yuntai_proto::{Frame, Header, Kind, VolumeId};

use super::conn::{Conn, Flusher};
use super::served::Served;
use super::standby::Place;
use super::Gateway;

#[derive(Debug)]
struct Pending {
    volume: VolumeId,
    served: Weak<Served>,
    /// Who waits for a volume, in place of the volume.
    place: Weak<Place>,
    /// Its number in the volume.
    event: u64,
    body: Bytes,
    /// Outlives its volume.
    lasting: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Hub {
    /// Masters' connections, the newest last: that one is told.
    masters: RefCell<Vec<Rc<Conn>>>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    next: Cell<u64>,
}

impl Hub {
    /// A volume has something to tell.
    pub fn raise(&self, flusher: &Flusher, served: &Rc<Served>, event: u64, body: &GatewayEvent) {
        let number = self.number();
        let json = Bytes::from(serde_json::to_vec(body).expect("our own records always encode"));
        let lasting = matches!(body, GatewayEvent::Fenced { .. });
        match body {
            GatewayEvent::BootSet { ranges, .. } => {
                tracing::info!(
                    volume = served.name(),
                    event = number,
                    ranges = ranges.len(),
                    "boot set for the master"
                );
            }
            _ => tracing::info!(volume = served.name(), event = number, body = ?body, "event for the master"),
        }
        let volume = served.id;
        let (served, place) = (Rc::downgrade(served), Weak::new());
        self.keep(flusher, number, Pending { volume, served, place, event, body: json, lasting });
    }

    /// A volume that is awaited here is wanted now.
    pub fn raise_wanted(&self, flusher: &Flusher, place: &Rc<Place>, body: &StandbyEvent) {
        let number = self.number();
        let StandbyEvent::Wanted { volume, .. } = *body;
        let body = Bytes::from(serde_json::to_vec(body).expect("our own records always encode"));
        let (served, place) = (Weak::new(), Rc::downgrade(place));
        self.keep(flusher, number, Pending { volume, served, place, event: 0, body, lasting: false });
    }

    fn number(&self) -> u64 {
        let number = self.next.get() + 1;
        self.next.set(number);
        number
    }

    fn keep(&self, flusher: &Flusher, number: u64, pending: Pending) {
        if let Some(master) = self.masters.borrow().last() {
            send(flusher, master, number, &pending);
        }
        self.pending.borrow_mut().insert(number, pending);
    }

    /// A master has connected: from now on it is told, beginning with what nobody has answered.
    pub fn connected(&self, flusher: &Flusher, master: &Rc<Conn>) {
        self.masters.borrow_mut().push(Rc::clone(master));
        self.send_all(flusher, master);
    }

    fn send_all(&self, flusher: &Flusher, master: &Rc<Conn>) {
        for (number, pending) in &*self.pending.borrow() {
            send(flusher, master, *number, pending);
        }
    }

    /// A connection is gone. If it was the one that is told, the newest that still stands is told from now on.
    pub fn disconnected(&self, flusher: &Flusher, conn: &Rc<Conn>) {
        let mut masters = self.masters.borrow_mut();
        let told = masters.last().is_some_and(|master| Rc::ptr_eq(master, conn));
        masters.retain(|master| !Rc::ptr_eq(master, conn));
        if let (true, Some(master)) = (told, masters.last()) {
            self.send_all(flusher, master);
        }
    }

    /// The master answered.
    pub fn answered(&self, gateway: &Rc<Gateway>, frame: &Frame) {
        let Some(pending) = self.pending.borrow_mut().remove(&frame.header.request_id) else { return };
        let answer = serde_json::from_slice::<EventAnswer>(&frame.body)
            .unwrap_or_else(|error| EventAnswer::Refused { reason: format!("unreadable answer: {error}") });
        tracing::info!(event = frame.header.request_id, answer = ?answer, "the master answered");
        if let Some(place) = pending.place.upgrade() {
            place.answered(gateway, &answer);
        }
        if let Some(served) = pending.served.upgrade() {
            served.apply(crate::Event::Answer { event: pending.event, answer });
        }
    }

    /// A volume is over: nobody needs its events any more, except that it was fenced.
    pub fn forget(&self, served: &Rc<Served>) {
        let same = |pending: &Pending| pending.served.as_ptr() == Rc::as_ptr(served);
        self.pending.borrow_mut().retain(|_, pending| pending.lasting || !same(pending));
    }

    /// Events that nobody has answered.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.pending.borrow().len()
    }
}

fn send(flusher: &Flusher, master: &Rc<Conn>, number: u64, pending: &Pending) {
    let mut header = Header::new(Kind::Event, number);
    header.volume = pending.volume;
    master.push(&Frame::new(header, pending.body.clone(), Bytes::new()));
    flusher.mark(master);
}
