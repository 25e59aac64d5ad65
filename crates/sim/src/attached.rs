//! What gateways are given and what they want done, and what the master answers them.

use rand::Rng;
use yuntai_proto::control::{EventAnswer, GatewayEvent};
use yuntai_proto::{ServerId, VolumeId};
use yuntai_volume::{Action, CloseReason, ControlAnswer, Event};

use crate::gateway::{Beside, Gateway};
use crate::group::BESIDE;
use crate::net::{Node, Side};
use crate::others::SOURCE;
use crate::world::{Dialer, Job, World, RETRY_US};

impl World {
    /// Grant the next generation to a new gateway.
    pub fn open_gateway(&mut self, prefer: Vec<ServerId>) {
        let spec = self.master.grant(self.volume, prefer);
        let session = self.rng.gen();
        self.note(format!(
            "gateway {} opens generation {} stale {:?}",
            self.gateways.len(),
            spec.generation,
            spec.stale
        ));
        let mut gateway = Gateway::new(spec, session);
        if self.pair.is_some() {
            let (spec, session) = (self.master.grant(BESIDE, Vec::new()), self.rng.gen());
            gateway.beside = Beside::new(spec, session);
        }
        self.add_gateway(gateway);
    }

    /// A gateway that is to be the present one, on a host of its own.
    pub fn add_gateway(&mut self, gateway: Gateway) {
        let host = self.gateways.len();
        self.add_gateway_at(host, gateway);
    }

    pub(crate) fn add_gateway_at(&mut self, host: usize, mut gateway: Gateway) {
        gateway.host = host;
        let record = self.master.records.get_mut(&self.volume).expect("the volume exists");
        (record.attached, record.holder) = (!gateway.tends, Some(host));
        if let Some(record) = self.master.records.get_mut(&BESIDE) {
            (record.attached, record.holder) = (true, Some(host));
        }
        self.gateways.push(gateway);
        // A volume that is open again is not detached, whatever its former gateway answers now.
        self.closing = None;
        self.newest_served = false;
        self.after(0, Job::GatewayTick(self.gateways.len() - 1));
    }

    /// Kill a gateway's process: its connections break and its guests' requests are never answered.
    pub fn kill_gateway(&mut self, index: usize) {
        if self.gateways[index].volume.as_ref().is_some_and(|volume| !volume.spec().moves.is_empty()) {
            self.coverage.hit("a gateway died in the middle of a move");
        }
        self.gateways[index].volume = None;
        self.gateways[index].opened = false;
        self.gateways[index].beside = Beside::default();
        self.hang_up(Node::Gateway(index));
        self.forget_requests(index);
    }

    fn forget_requests(&mut self, index: usize) {
        let gone: Vec<u64> = self.asked_of.iter().filter(|(_, of)| **of == index).map(|(id, _)| *id).collect();
        for id in gone {
            self.asked_of.remove(&id);
            self.flushes.remove(&id);
            self.guest.forget(id);
        }
    }

    /// Give an event to a gateway and do what it wants.
    pub fn gateway_event(&mut self, index: usize, event: Event) {
        let now = self.now;
        let mut opened = false;
        for action in self.gateways[index].turn(event, now) {
            match action {
                Action::Connect { link, server, .. } => {
                    let conn = self.net.connect(Node::Gateway(index), Node::Server(server));
                    self.gateways[index].bind(link, conn);
                    let delay = self.delay();
                    self.after(delay, Job::Establish(conn, Dialer::Link(index, link)));
                }
                Action::Send { link, frame } => {
                    if let Some(conn) = self.gateways[index].links.get(&link) {
                        self.post(*conn, Side::Acceptor, frame);
                    }
                }
                Action::Drop { link } => {
                    if let Some(conn) = self.gateways[index].unbind(link) {
                        self.net.lose_in_flight(conn, Side::Acceptor);
                        self.close(conn, Side::Dialer);
                    }
                }
                Action::Reply { id, result } => self.reply(id, &result),
                Action::Raise { event, body } => {
                    self.check_proposal(index, &body);
                    let delay = self.delay();
                    self.after(delay, Job::Raised(index, event, body));
                }
                Action::ControlReply { id, result } => {
                    if !matches!(result, Ok(ControlAnswer::Moves { .. })) {
                        self.note(format!("gateway {index} control: {result:?}"));
                    }
                    match result {
                        Ok(ControlAnswer::Snapshot { head }) => self.seal(head),
                        Ok(ControlAnswer::Closed { flushed }) => self.detached(index, flushed),
                        _ => {}
                    }
                    let delay = self.delay();
                    self.after(delay, Job::Reported(index, id, result));
                }
                Action::Opened => {
                    self.note(format!("gateway {index} serves"));
                    opened = true;
                    self.newest_served |= index + 1 == self.gateways.len();
                    let head = self.gateways[index].volume.as_ref().map_or(0, |volume| volume.spec().head);
                    self.bound(head);
                    // Who tends has fenced the last writer, but seen to nothing that it left: see `_settle` of serving.py.
                    let (tends, generation) = (self.gateways[index].tends, self.gateways[index].generation);
                    let record = self.master.records.get_mut(&self.volume).expect("the volume exists");
                    record.unfenced &= tends || generation != record.generation;
                }
                Action::Closed { reason } => {
                    self.note(format!("gateway {index} is closed: {reason:?}"));
                    if reason == CloseReason::Fenced {
                        self.coverage.hit("a gateway was fenced");
                    }
                    self.gateways[index].volume = None;
                    self.gateways[index].opened = false;
                    self.forget_requests(index);
                }
                Action::Note { server, chunk, text } => {
                    if text.contains("to bring level") {
                        self.coverage.hit("a chunk was levelled at open");
                    }
                    self.note(format!("gateway {index} server {server:?} chunk {chunk:?}: {text}"));
                }
            }
        }
        // Only now: what it begins to rebuild in the very turn of its open is levelling.
        self.gateways[index].opened |= opened && self.gateways[index].volume.is_some();
    }

    /// Give an event to one of a gateway's volumes.
    pub(crate) fn event_of(&mut self, index: usize, of: (VolumeId, u64), event: Event) {
        if of.0 == self.volume {
            self.gateway_event(index, event);
        } else if of == (self.gateways[index].beside.id, self.gateways[index].beside.generation) {
            self.beside_event(index, event);
        }
    }

    pub(crate) fn raised(&mut self, index: usize, event: u64, body: GatewayEvent) {
        if !self.net.passes(Node::Gateway(index), Node::Master) {
            self.after(RETRY_US, Job::Raised(index, event, body));
            return;
        }
        if matches!(body, GatewayEvent::Moved { .. }) && self.leader.locked(of_body(&body).0) {
            if self.rng.gen_bool(0.8) {
                return self.after(RETRY_US, Job::Raised(index, event, body));
            }
            self.coverage.hit("a move was not committed now");
            let delay = self.delay();
            let answer = EventAnswer::Refused { reason: "the volume is being worked on; ask again".into() };
            return self.after(delay, Job::Answered(index, event, of_body(&body), answer));
        }
        let answer = self.master.answer(self.gateways[index].host, &body);
        self.tender_heard(index, &body, answer == EventAnswer::Fenced {});
        let placed = matches!(&answer, EventAnswer::Placed { moves } if !moves.is_empty());
        if self.rng.gen_bool(0.04) {
            // The leader dies with the answer; the gateway asks the next one the same.
            self.coverage.hit("a master died between a transaction and its answer");
            if placed {
                self.coverage.hit("the answer to a move was lost");
            }
            self.elect();
            let election = self.rng.gen_range(10_000..3_000_000);
            return self.after(election, Job::Raised(index, event, body));
        }
        match (&body, &answer) {
            (GatewayEvent::Degrade { .. }, EventAnswer::Stale { .. }) => {
                self.coverage.hit("a server left the in-sync set")
            }
            (GatewayEvent::Degrade { .. }, EventAnswer::Refused { .. }) => {
                self.coverage.hit("leaving the in-sync set was refused");
            }
            (GatewayEvent::Readmit { .. }, EventAnswer::Stale { .. }) => self.coverage.hit("a server was readmitted"),
            (GatewayEvent::Moved { volume, .. }, EventAnswer::Placed { .. }) if placed => {
                self.coverage.hit("a replica moved");
                match *volume {
                    SOURCE => self.coverage.hit("a replica of a source moved"),
                    BESIDE => self.coverage.hit("a replica of a second volume moved"),
                    _ => {}
                }
            }
            (GatewayEvent::Moved { .. }, EventAnswer::Placed { .. }) => self.coverage.hit("a move was refused"),
            _ => {}
        }
        self.note(format!("gateway {index} raised {body:?}: {answer:?}"));
        let delay = self.delay();
        self.after(delay, Job::Answered(index, event, of_body(&body), answer));
    }

    pub(crate) fn answered(&mut self, index: usize, event: u64, of: (VolumeId, u64), answer: EventAnswer) {
        if self.net.passes(Node::Master, Node::Gateway(index)) {
            self.event_of(index, of, Event::Answer { event, answer });
        } else {
            self.after(RETRY_US, Job::Answered(index, event, of, answer));
        }
    }
}

/// The volume of an event, and under which generation.
pub(crate) fn of_body(body: &GatewayEvent) -> (VolumeId, u64) {
    let (GatewayEvent::Degrade { volume, generation, .. }
    | GatewayEvent::Readmit { volume, generation, .. }
    | GatewayEvent::Hydrated { volume, generation, .. }
    | GatewayEvent::Moved { volume, generation, .. }
    | GatewayEvent::BootSet { volume, generation, .. }
    | GatewayEvent::Fenced { volume, generation }) = body;
    (*volume, *generation)
}
