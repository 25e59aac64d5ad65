//! Snapshots of two volumes at one moment, by the rules of `yuntai/pangu/snapshots.py` (`take_group`) and
//! `yuntai/pangu/serving.py` (`_finish_group`): one transaction, then one word to the gateway that has both, again and
//! again until it has switched.
//!
//! Somebody on the host writes a number to the first volume, waits until it is durable, writes it to the second one, and
//! goes on with the next number. So at each moment the first one's number is not below the second one's, and so it must
//! be in what is frozen together.

use bytes::Bytes;
use rand::Rng;
use yuntai_proto::{LayerId, VolumeId};
use yuntai_volume::{
    Action, ControlAnswer, ControlRequest, Event, GuestData, GuestError, GuestOp, GuestRequest, LinkId, Part,
};

use crate::history::{sector_bytes, sector_tag, Tag, SECTOR_BYTES};
use crate::net::{ConnId, Node, Parcel, Side};
use crate::world::{Dialer, Job, World, RETRY_US};

/// The second volume.
pub const BESIDE: VolumeId = 3;
/// Where the number stands on the first volume: far from where the guest works.
const OFFSET: u64 = 32 << 20;
/// Requests with this bit are the writer's.
pub const PAIR: u64 = 1 << 40;
const EVERY_US: std::ops::Range<u64> = 2_000..30_000;

/// Who writes to both volumes.
#[derive(Default)]
pub struct Pair {
    number: u64,
    /// The request whose answer is waited for.
    waits: Option<u64>,
    /// The gateway on whose host it runs.
    gateway: usize,
    /// What is to be frozen together and is not known to be.
    pub pending: Option<Group>,
    /// Pairs of nodes that were frozen together.
    pub frozen: Vec<(LayerId, LayerId)>,
    /// The last number that was read.
    pub read: Option<Tag>,
}

/// The heads that are written from now on, with their trees: of the first volume, of the second.
#[derive(Clone, Debug)]
pub struct Group([(LayerId, Vec<LayerId>); 2]);

fn write(id: u64, offset: u64, tag: Tag) -> Event {
    let data = Bytes::copy_from_slice(&sector_bytes(tag));
    Event::Guest(GuestRequest { id: PAIR | id, op: GuestOp::Write { offset, data, fua: true } })
}

impl World {
    /// The writer goes on, if what it waited for has come.
    pub(crate) fn pair_turn(&mut self) {
        let wait = self.rng.gen_range(EVERY_US);
        self.after(wait, Job::Pair);
        let index = self.guests_gateway();
        let gateway = &self.gateways[index];
        let there = gateway.volume.is_some() && gateway.beside.volume.is_some();
        let Some(pair) = &mut self.pair else { return };
        if !self.working || !there || self.net.is_frozen(Node::Gateway(index)) {
            return;
        }
        if pair.gateway != index {
            // The host died, and the writer with it: it begins again with the next number.
            (pair.gateway, pair.waits) = (index, None);
        }
        if pair.waits.is_none() {
            pair.number += 1;
            pair.waits = Some(2 * pair.number);
            let event = write(2 * pair.number, OFFSET, pair.number);
            self.gateway_event(index, event);
        }
    }

    /// The writer has an answer.
    pub(crate) fn pair_answered(&mut self, id: u64, result: &Result<GuestData, GuestError>) {
        let Some(pair) = &mut self.pair else { return };
        if let Ok(GuestData::Read(parts)) = result {
            pair.read = match parts.first() {
                Some(Part::Data(bytes)) => sector_tag(&bytes[..SECTOR_BYTES as usize]).ok(),
                _ => Some(0),
            };
        }
        let id = id & !PAIR;
        if pair.waits != Some(id) {
            return;
        }
        pair.waits = None;
        if id % 2 == 0 && result.is_ok() {
            pair.waits = Some(id + 1);
            let (index, event) = (pair.gateway, write(id + 1, 0, pair.number));
            self.beside_event(index, event);
        }
    }

    /// Give an event to a gateway's other volume and do what it wants.
    pub(crate) fn beside_event(&mut self, index: usize, event: Event) {
        let now = self.now + self.gateways[index].ahead_us;
        let mut actions = Vec::new();
        if let Some(volume) = &mut self.gateways[index].beside.volume {
            volume.apply(event, now, &mut actions);
        }
        for action in actions {
            match action {
                Action::Connect { link, server, .. } => {
                    let conn = self.net.connect(Node::Gateway(index), Node::Server(server));
                    self.gateways[index].beside.links.insert(link, conn);
                    let delay = self.delay();
                    self.after(delay, Job::Establish(conn, Dialer::Beside(index, link)));
                }
                Action::Send { link, frame } => {
                    if let Some(conn) = self.gateways[index].beside.links.get(&link) {
                        self.post(*conn, Side::Acceptor, frame);
                    }
                }
                Action::Drop { link } => self.drop_beside(index, link),
                Action::Reply { id, result } => self.pair_answered(id, &result),
                Action::Raise { event, body } => {
                    let delay = self.delay();
                    self.after(delay, Job::Raised(index, event, body));
                }
                Action::ControlReply { result: Ok(ControlAnswer::Snapshot { head }), .. } => {
                    let record = self.master.records.get_mut(&BESIDE).expect("it exists");
                    record.snapshots.range_mut(..head).for_each(|(_, done)| *done = true);
                }
                Action::ControlReply { id, result } => {
                    let delay = self.delay();
                    self.after(delay, Job::Reported(index, id, result));
                }
                Action::Closed { .. } => self.gateways[index].beside.volume = None,
                Action::Opened | Action::Note { .. } => {}
            }
        }
    }

    pub(crate) fn drop_beside(&mut self, index: usize, link: LinkId) {
        if let Some(conn) = self.gateways[index].beside.unbind(link) {
            self.net.lose_in_flight(conn, Side::Acceptor);
            self.close(conn, Side::Dialer);
        }
    }

    pub(crate) fn arrive_beside(&mut self, index: usize, conn: ConnId, parcel: Parcel) {
        let Some(link) = self.gateways[index].beside.link(conn) else { return };
        match parcel {
            Parcel::Frame(frame) => self.beside_event(index, Event::Frame { link, frame }),
            Parcel::Closed => {
                self.gateways[index].beside.unbind(link);
                self.beside_event(index, Event::Closed { link, reason: "connection reset".into() });
            }
        }
    }

    /// Both volumes are frozen in the record at once.
    pub(crate) fn snapshot_group(&mut self) {
        if self.pair.as_ref().is_none_or(|pair| pair.pending.is_some()) {
            return;
        }
        let nodes = (self.master.records[&self.volume].head, self.master.records[&BESIDE].head);
        self.snapshot_record();
        self.master.snapshot(BESIDE);
        let head_of = |volume: &VolumeId| {
            let record = &self.master.records[volume];
            (record.head, record.parents.clone())
        };
        let group = Group([head_of(&self.volume), head_of(&BESIDE)]);
        self.note(format!("nodes {nodes:?} of the two volumes are frozen together"));
        let pair = self.pair.as_mut().expect("just seen");
        pair.pending = Some(group);
        pair.frozen.push(nodes);
        self.finish_snapshots();
    }

    /// The gateway is told of a group, unless it is known to have switched.
    pub(crate) fn finish_group(&mut self) -> bool {
        let Some((node, other)) = self.pair.as_ref().and_then(|pair| pair.frozen.last().copied()) else { return false };
        let done = |volume: &VolumeId, node: &LayerId| {
            self.master.records[volume].snapshots.get(node).is_none_or(|done| *done)
        };
        let done = done(&self.volume, &node) && done(&BESIDE, &other);
        let index = self.seen_gateway(self.volume);
        let Some(pair) = &mut self.pair else { return false };
        if done {
            pair.pending = None;
        }
        let Some(group) = pair.pending.clone() else { return false };
        if let Some(index) = index {
            let delay = self.delay();
            self.after(delay, Job::Group(index, group));
        }
        true
    }

    /// As the gateway's shell does it: refused without a change if one of them may not be frozen now.
    pub(crate) fn freeze_together(&mut self, index: usize, group: Group) {
        if !self.net.passes(Node::Master, Node::Gateway(index)) {
            return self.after(RETRY_US, Job::Group(index, group));
        }
        let gateway = &self.gateways[index];
        let (Some(first), Some(second)) = (&gateway.volume, &gateway.beside.volume) else { return };
        let Group([(head, parents), (other_head, other_parents)]) = group;
        if first.may_snapshot(&parents, head).is_err() || second.may_snapshot(&other_parents, other_head).is_err() {
            return self.coverage.hit("a group was not frozen now");
        }
        self.coverage.hit("two volumes were frozen at one moment");
        let order = |parents, head| Event::Control { id: 0, request: ControlRequest::Snapshot { parents, head } };
        self.gateway_event(index, order(parents, head));
        self.beside_event(index, order(other_parents, other_head));
    }

    /// Read the number on one of the mounted volumes.
    pub(crate) fn ask_number(&mut self, first: bool) {
        let index = self.gateways.len() - 1;
        self.pair.as_mut().expect("there is a pair").read = None;
        let op = GuestOp::Read { offset: if first { OFFSET } else { 0 }, len: SECTOR_BYTES as u32 };
        let event = Event::Guest(GuestRequest { id: PAIR, op });
        if first {
            self.gateway_event(index, event);
        } else {
            self.beside_event(index, event);
        }
    }
}
