//! The world: a queue of things that happen at times, and what each makes happen next.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use yuntai_proto::control::{EventAnswer, GatewayEvent, ServerRequest};
use yuntai_proto::data::Refusal;
use yuntai_proto::{Frame, Kind, LayerId, ServerId, VolumeId};
use yuntai_replica::{DialId, Event as ServerEvent, WorkJob};
use yuntai_store::vfs::memory::MemVfs;
use yuntai_store::{CheckpointJob, SyncTicket, WriteJob};
use yuntai_volume::{ControlAnswer, Event, LinkId};

use crate::coverage::Coverage;
use crate::faults::Fault;
use crate::gateway::Gateway;
use crate::group::{Group, Pair};
use crate::guest::Guest;
use crate::leader::Leader;
use crate::master::Master;
use crate::mix::Mix;
use crate::net::{ConnId, Cut, Net, Node, Parcel, Side};
use crate::server::Server;
use crate::snapshots::Frozen;
use crate::unattached::Closing;

/// Microseconds of virtual time.
pub type Micros = u64;

const GATEWAY_TICK_US: Micros = 10_000;
const SERVER_TICK_US: Micros = 50_000;
/// What cannot happen now is tried again after this.
pub const RETRY_US: Micros = 10_000;

/// A thing that happens.
pub enum Job {
    /// A dialer's connection reaches its acceptor.
    Establish(ConnId, Dialer),
    /// Something may arrive at an end.
    Arrive(ConnId, Side),
    /// A gateway's clock.
    GatewayTick(usize),
    /// A server's clock, of that incarnation.
    ServerTick(ServerId, u64),
    /// Data that goes in place is there.
    Write(ServerId, u64, Arc<WriteJob<MemVfs>>),
    /// A sync ends.
    Synced(ServerId, u64, SyncTicket<MemVfs>),
    /// A server ends its turn: it answers all that came since the last one.
    Turn(ServerId, u64),
    /// A checkpoint does its next step.
    Checkpoint(ServerId, u64, Box<CheckpointJob<MemVfs>>),
    /// A server's background job goes on.
    Work(ServerId, u64, Box<WorkJob<MemVfs>>),
    /// A gateway's event reaches the master.
    Raised(usize, u64, GatewayEvent),
    /// The master's answer about a volume under its generation reaches the gateway.
    Answered(usize, u64, (VolumeId, u64), EventAnswer),
    /// A master's order about a volume under its generation reaches the gateway, under a number.
    Order(usize, (VolumeId, u64), u64, yuntai_volume::ControlRequest),
    /// A gateway hears of a new size.
    Grow(usize, u64, Vec<Vec<ServerId>>),
    /// Both volumes of a host are to be frozen at one moment.
    Group(usize, Group),
    /// The writer of two volumes has its turn.
    Pair,
    /// The answer to such an order reaches the master.
    Reported(usize, u64, Result<ControlAnswer, String>),
    /// The gateway's answer to a question is waited for no longer.
    Untold(u64),
    /// A server's answer is waited for no longer.
    Unanswered(ConnId),
    /// The leader of that term has its turn.
    Master(u64),
    /// The next of a guest's requests reaches its gateway.
    Ask(usize),
    /// The guest does something.
    Guest,
    /// A fault begins.
    Fault,
    /// A fault ends.
    Heal(Fault),
}

/// Who dialed.
#[derive(Clone, Copy)]
pub enum Dialer {
    /// A gateway's link.
    Link(usize, LinkId),
    /// A link of the gateway's other volume.
    Beside(usize, LinkId),
    /// A server's pull.
    Pull(ServerId, u64, DialId),
    /// A master's request.
    Master,
}

/// Everything there is.
pub struct World {
    /// Virtual time.
    pub now: Micros,
    /// All chance.
    pub rng: StdRng,
    queue: BTreeMap<(Micros, u64), Job>,
    order: u64,
    /// Chunk servers.
    pub servers: BTreeMap<ServerId, Server>,
    /// Gateways, the present one last.
    pub gateways: Vec<Gateway>,
    /// The master.
    pub master: Master,
    /// What the volume's frozen nodes show.
    pub frozen: BTreeMap<LayerId, Frozen>,
    /// A gateway that closes the volume, and why.
    pub closing: Option<(usize, Closing)>,
    /// Somebody who writes to two volumes, in some runs.
    pub pair: Option<Pair>,
    /// What the leading master knows by heart.
    pub leader: Leader,
    /// Masters' requests to servers, whoever leads now.
    pub requests: BTreeMap<ConnId, (ServerId, ServerRequest)>,
    /// Connections.
    pub net: Net,
    /// The guest.
    pub guest: Guest,
    /// The volume that the guest uses.
    pub volume: VolumeId,
    /// The guest goes on asking.
    pub working: bool,
    /// Faults go on beginning.
    pub faulty: bool,
    /// In this run bits flip; in the others the power is cut.
    pub flipping: bool,
    /// What was reached.
    pub coverage: Coverage,
    /// What went wrong: the run has failed.
    pub wrong: Vec<String>,
    /// Gateway of each unanswered request.
    pub asked_of: BTreeMap<u64, usize>,
    /// Servers that lost unsynced writes since the last flush that was asked after it.
    pub lossy: std::collections::BTreeSet<ServerId>,
    /// When unsynced writes were last lost.
    pub lost_at: Micros,
    /// When each unanswered flush was asked, and what was acknowledged then.
    pub flushes: BTreeMap<u64, (Micros, crate::eyes::Marks)>,
    /// Some frames do not say what was meant.
    pub liars: bool,
    /// The newest gateway has served: the guest is on its host and does not go back.
    pub newest_served: bool,
    /// What goes wrong in this run.
    pub mix: Mix,
    /// Servers that have been given events and not ended their turn.
    pub(crate) turning: std::collections::BTreeSet<ServerId>,
    /// The last lines of what happened, for a person.
    pub log: std::collections::VecDeque<String>,
}

impl World {
    /// A world of `count` servers with empty disks, all running.
    #[must_use]
    pub fn new(seed: u64, count: ServerId) -> Self {
        let ids: Vec<ServerId> = (1..=count).collect();
        let mut world = Self {
            now: 1_000,
            rng: StdRng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            order: 0,
            servers: ids.iter().map(|id| (*id, Server::new(*id))).collect(),
            gateways: Vec::new(),
            master: Master::new(&ids),
            frozen: BTreeMap::new(),
            closing: None,
            pair: None,
            leader: Leader::default(),
            requests: BTreeMap::new(),
            net: Net::default(),
            guest: Guest::new(),
            volume: 0,
            working: false,
            faulty: false,
            flipping: seed % 4 == 0,
            coverage: Coverage::default(),
            wrong: Vec::new(),
            asked_of: BTreeMap::new(),
            lossy: std::collections::BTreeSet::new(),
            lost_at: 0,
            flushes: BTreeMap::new(),
            liars: false,
            newest_served: false,
            mix: Mix::new(&mut StdRng::seed_from_u64(!seed), seed % 4 == 0),
            turning: std::collections::BTreeSet::new(),
            log: std::collections::VecDeque::new(),
        };
        ids.into_iter().for_each(|id| world.start_server(id));
        world.elect();
        world
    }

    /// Note something for the log of a failing run.
    pub fn note(&mut self, text: String) {
        if self.log.len() == 400 {
            self.log.pop_front();
        }
        self.log.push_back(format!("{:>10} {text}", self.now));
    }

    /// Have something happen `delay` from now.
    pub fn after(&mut self, delay: Micros, job: Job) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), job);
    }

    pub(crate) fn delay(&mut self) -> Micros {
        if self.rng.gen_bool(0.02) {
            self.rng.gen_range(500..20_000)
        } else {
            self.rng.gen_range(20..400)
        }
    }

    pub(crate) fn disk_delay(&mut self, id: ServerId, usual: std::ops::Range<Micros>) -> Micros {
        let delay = self.rng.gen_range(usual);
        if self.servers[&id].slow {
            delay * 100
        } else {
            delay
        }
    }

    /// Let the next thing happen; false if it would be after `end`, or something is wrong.
    pub fn step(&mut self, end: Micros) -> bool {
        let Some(entry) = self.queue.first_entry() else { return false };
        if entry.key().0 > end || !self.wrong.is_empty() {
            return false;
        }
        let ((at, _), job) = entry.remove_entry();
        self.now = at;
        self.happen(job);
        true
    }

    /// Whose process has to run for this to happen.
    fn actor(&self, job: &Job) -> Option<Node> {
        match job {
            Job::GatewayTick(index)
            | Job::Order(index, ..)
            | Job::Group(index, _)
            | Job::Grow(index, ..)
            | Job::Ask(index) => Some(Node::Gateway(*index)),
            Job::Turn(id, _) => Some(Node::Server(*id)),
            _ => None,
        }
    }

    fn happen(&mut self, job: Job) {
        if self.actor(&job).is_some_and(|node| self.net.is_frozen(node)) {
            return self.after(RETRY_US, job);
        }
        match job {
            Job::Ask(index) => {
                if let Some(request) = self.gateways[index].asked.pop_front() {
                    self.gateway_event(index, Event::Guest(request));
                }
            }
            Job::Establish(conn, dialer) => self.establish(conn, dialer),
            Job::Arrive(conn, side) => self.arrive(conn, side),
            Job::GatewayTick(index) => {
                if self.gateways[index].volume.is_some() {
                    self.after(GATEWAY_TICK_US, Job::GatewayTick(index));
                    self.gateway_event(index, Event::Tick);
                    self.beside_event(index, Event::Tick);
                }
            }
            Job::ServerTick(id, incarnation) => {
                if self.is_current(id, incarnation) {
                    self.after(SERVER_TICK_US, Job::ServerTick(id, incarnation));
                    if !self.net.is_frozen(Node::Server(id)) {
                        self.server_event(id, ServerEvent::Tick);
                        self.look_at_disk(id);
                        self.check_journal(id);
                    }
                }
            }
            Job::Turn(id, incarnation) => self.end_turn(id, incarnation),
            Job::Write(id, incarnation, job) => self.written(id, incarnation, job),
            Job::Synced(id, incarnation, ticket) => self.synced(id, incarnation, ticket),
            Job::Checkpoint(id, incarnation, job) => self.checkpoint(id, incarnation, job),
            Job::Work(id, incarnation, job) => self.work(id, incarnation, job),
            Job::Raised(index, event, body) => self.raised(index, event, body),
            Job::Answered(index, event, of, answer) => self.answered(index, event, of, answer),
            Job::Group(index, group) => self.freeze_together(index, group),
            Job::Pair => self.pair_turn(),
            Job::Order(index, of, id, request) => {
                if self.net.passes(Node::Master, Node::Gateway(index)) {
                    self.event_of(index, of, Event::Control { id, request });
                } else {
                    self.after(RETRY_US, Job::Order(index, of, id, request));
                }
            }
            Job::Reported(index, id, answer) => {
                if self.net.passes(Node::Gateway(index), Node::Master) {
                    self.reported(id, answer);
                } else {
                    self.after(RETRY_US, Job::Reported(index, id, answer));
                }
            }
            Job::Grow(index, size, placement) => self.told_size(index, size, placement),
            Job::Untold(question) => self.untold(question),
            Job::Unanswered(conn) => self.unanswered(conn),
            Job::Master(term) => self.master_turn(term),
            Job::Guest => self.guest_turn(),
            Job::Fault => self.begin_fault(),
            Job::Heal(fault) => self.end_fault(&fault),
        }
    }

    pub(crate) fn check_journal(&mut self, id: ServerId) {
        match self.servers.get_mut(&id).expect("a server of this world").check_journal() {
            Ok(false) => {}
            Ok(true) => self.coverage.hit("a journal was full"),
            Err(wrong) => self.wrong.push(wrong),
        }
    }

    pub(crate) fn is_current(&self, id: ServerId, incarnation: u64) -> bool {
        self.servers[&id].incarnation == incarnation && self.servers[&id].replica.is_some()
    }

    // Connections.

    fn establish(&mut self, conn: ConnId, dialer: Dialer) {
        let (Some(from), Some(to)) = (self.net.end(conn, Side::Dialer), self.net.end(conn, Side::Acceptor)) else {
            return;
        };
        if !self.net.passes(from, to) || !self.net.passes(to, from) {
            self.after(RETRY_US, Job::Establish(conn, dialer));
            return;
        }
        let Node::Server(server) = to else { unreachable!("only servers accept") };
        let up = self.servers[&server].replica.is_some();
        if up {
            let name = format!("{from:?}");
            self.server_event(server, ServerEvent::Opened { connection: conn, name });
        }
        match dialer {
            Dialer::Link(index, link) if up => self.gateway_event(index, Event::Connected { link }),
            Dialer::Link(index, link) => {
                self.gateways[index].unbind(link);
                self.net.let_go(conn, Side::Dialer);
                self.gateway_event(index, Event::Closed { link, reason: "connection refused".into() });
            }
            // Another volume may have that place by now, with a link of the same number.
            Dialer::Beside(index, link) if self.gateways[index].beside.links.get(&link) != Some(&conn) => {
                self.close(conn, Side::Dialer);
            }
            Dialer::Beside(index, link) if up => self.beside_event(index, Event::Connected { link }),
            Dialer::Beside(index, link) => {
                self.gateways[index].beside.unbind(link);
                self.net.let_go(conn, Side::Dialer);
                self.beside_event(index, Event::Closed { link, reason: "connection refused".into() });
            }
            Dialer::Pull(id, incarnation, dial) if self.is_current(id, incarnation) => {
                let event = if up {
                    ServerEvent::Dialed { dial, connection: conn }
                } else {
                    ServerEvent::DialFailed { dial, reason: "connection refused".into() }
                };
                self.server_event(id, event);
            }
            Dialer::Pull(..) => self.close(conn, Side::Dialer),
            Dialer::Master => match self.requests.get(&conn).filter(|_| up).cloned() {
                Some((id, request)) => {
                    let request = self.ordered(conn, id, request);
                    let header = yuntai_proto::Header::new(Kind::Control, 1);
                    self.post(conn, Side::Acceptor, yuntai_proto::handshake::json_frame(header, &request));
                }
                None => self.unanswered(conn),
            },
        }
    }

    pub(crate) fn post(&mut self, conn: ConnId, to: Side, mut frame: Frame) {
        if self.liars && self.rng.gen_ratio(1, 150) {
            frame = crate::fuzz::lie(&mut self.rng, &frame);
        }
        self.look_at(&frame);
        if self.net.end(conn, Side::Dialer) == Some(Node::Master) && to == Side::Dialer {
            let answer = yuntai_proto::handshake::json_body(&frame).unwrap_or_default();
            self.check_dropped(conn, &answer);
        }
        let fate = if self.net.is_rough(conn, to) { self.rng.gen_range(0..60) } else { 60 };
        let copies = match fate {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            if self.net.send(conn, to, Parcel::Frame(frame.clone())) {
                let delay = self.delay();
                self.after(delay, Job::Arrive(conn, to));
            }
        }
        match fate {
            0 => self.coverage.hit("a frame was lost"),
            1 => self.coverage.hit("a frame came twice"),
            2 => {
                self.net.swap_last(conn, to);
                self.coverage.hit("a frame overtook another");
            }
            _ => {}
        }
    }

    /// One end closes a connection: the other end is told some time later.
    pub fn close(&mut self, conn: ConnId, side: Side) {
        if self.net.let_go(conn, side) && self.net.send(conn, side.other(), Parcel::Closed) {
            let delay = self.delay();
            self.after(delay, Job::Arrive(conn, side.other()));
        }
    }

    fn arrive(&mut self, conn: ConnId, side: Side) {
        let Some(node) = self.net.end(conn, side) else { return };
        if let Node::Server(id) = node {
            // A replica whose journal is full does not read; a frozen one neither.
            if self.servers[&id].replica.as_ref().is_some_and(|replica| !replica.wants(conn)) {
                self.after(RETRY_US, Job::Arrive(conn, side));
                return;
            }
        }
        match self.net.arrive(conn, side) {
            Err(Cut) => self.after(RETRY_US, Job::Arrive(conn, side)),
            Ok(None) => {}
            Ok(Some(parcel)) => match node {
                Node::Gateway(index) => self.arrive_at_gateway(index, conn, parcel),
                Node::Server(id) => self.server_event(
                    id,
                    match parcel {
                        Parcel::Frame(frame) => ServerEvent::Frame { connection: conn, frame },
                        Parcel::Closed => ServerEvent::Closed { connection: conn },
                    },
                ),
                Node::Master => {
                    if let Parcel::Frame(frame) = parcel {
                        self.server_said(conn, &yuntai_proto::handshake::json_body(&frame).unwrap_or_default());
                        self.close(conn, Side::Dialer);
                    } else {
                        self.unanswered(conn);
                    }
                }
            },
        }
    }

    fn arrive_at_gateway(&mut self, index: usize, conn: ConnId, parcel: Parcel) {
        let Some(link) = self.gateways[index].link(conn) else { return self.arrive_beside(index, conn, parcel) };
        match parcel {
            Parcel::Frame(frame) => self.gateway_event(index, Event::Frame { link, frame }),
            Parcel::Closed => {
                self.gateways[index].unbind(link);
                self.gateway_event(index, Event::Closed { link, reason: "connection reset".into() });
            }
        }
    }

    fn look_at(&mut self, frame: &Frame) {
        match frame.header.kind {
            Kind::Fill => self.coverage.hit("a block was filled from the source"),
            Kind::Pull => self.coverage.hit("a chunk was pulled"),
            Kind::EndRebuild => self.coverage.hit("a chunk was rebuilt"),
            Kind::Error => match serde_json_refusal(frame) {
                Some(Refusal::OutOfOrder { .. }) => self.coverage.hit("a server refused an order"),
                Some(Refusal::Damaged { .. }) => self.coverage.hit("a damaged block was found"),
                _ => {}
            },
            _ => {}
        }
    }

    /// A read, a pull or the scrubber may find damage, and not each of them says so in a frame: the server knows.
    fn look_at_disk(&mut self, id: ServerId) {
        let replica = self.servers.get_mut(&id).and_then(|server| server.replica.as_mut());
        if replica.is_some_and(|replica| !replica.store().damaged(1).is_empty()) {
            self.coverage.hit("a damaged block was found");
        }
    }
}

fn serde_json_refusal(frame: &Frame) -> Option<Refusal> {
    yuntai_proto::handshake::json_body(frame).ok()
}
