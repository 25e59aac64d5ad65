//! A gateway: the real volume, and which of its links is which connection.

use std::collections::{BTreeMap, VecDeque};

use yuntai_proto::control::OpenVolume;
use yuntai_proto::VolumeId;
use yuntai_volume::{Action, Config, Event, GuestRequest, LinkId, Volume};

use crate::net::ConnId;

/// One gateway with one open volume.
pub struct Gateway {
    /// The volume; none once it is closed or its process was killed.
    pub volume: Option<Volume>,
    /// The generation that it was granted.
    pub generation: u64,
    /// The host that it runs on: as many as there are gateways, but for those that were begun twice.
    pub host: usize,
    /// It has the volume open for the store's own work: no guest is there.
    pub tends: bool,
    /// It serves.
    pub opened: bool,
    /// Its clock has jumped so far ahead.
    pub ahead_us: u64,
    /// Guests' requests on their way to it, in order.
    pub asked: VecDeque<GuestRequest>,
    /// Connections of its links.
    pub links: BTreeMap<LinkId, ConnId>,
    names: BTreeMap<ConnId, LinkId>,
    /// Another volume of the same host, in some runs: the second one, or the source that is tended.
    pub beside: Beside,
}

/// A gateway's other volume.
#[derive(Default)]
pub struct Beside {
    /// Which one.
    pub id: VolumeId,
    /// The generation that it was granted.
    pub generation: u64,
    /// None if there is none, or it is over.
    pub volume: Option<Volume>,
    /// Connections of its links.
    pub links: BTreeMap<LinkId, ConnId>,
}

impl Beside {
    /// A volume that is about to be opened.
    #[must_use]
    pub fn new(spec: OpenVolume, session: u64) -> Self {
        let (id, generation) = (spec.volume, spec.generation);
        let volume = Some(Volume::new(spec, session, Config::default()));
        Self { id, generation, volume, links: BTreeMap::new() }
    }

    /// The link of a connection that still counts.
    #[must_use]
    pub fn link(&self, conn: ConnId) -> Option<LinkId> {
        self.links.iter().find(|(_, of)| **of == conn).map(|(link, _)| *link)
    }

    /// The volume has forgotten a link; returns its connection.
    pub fn unbind(&mut self, link: LinkId) -> Option<ConnId> {
        self.links.remove(&link)
    }
}

impl Gateway {
    /// A gateway that is about to open a volume.
    #[must_use]
    pub fn new(spec: OpenVolume, session: u64) -> Self {
        let config = Config { hydrate_bytes_per_s: 8 << 20, pull_wait_us: 10_000_000, ..Config::default() };
        let generation = spec.generation;
        let volume = Some(Volume::new(spec, session, config));
        Self {
            volume,
            generation,
            host: 0,
            tends: false,
            opened: false,
            ahead_us: 0,
            asked: VecDeque::new(),
            links: BTreeMap::new(),
            names: BTreeMap::new(),
            beside: Beside::default(),
        }
    }

    /// A volume that is open here, and its generation.
    #[must_use]
    pub fn has(&self, volume: VolumeId) -> Option<(&Volume, u64)> {
        let first = self.volume.as_ref().map(|open| (open, self.generation));
        let second = self.beside.volume.as_ref().map(|open| (open, self.beside.generation));
        first.into_iter().chain(second).find(|(open, _)| open.spec().volume == volume)
    }

    /// Give an event to the volume, and take what it wants done.
    pub fn turn(&mut self, event: Event, now_us: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(volume) = &mut self.volume {
            volume.apply(event, now_us + self.ahead_us, &mut actions);
        }
        actions
    }

    /// A link is this connection.
    pub fn bind(&mut self, link: LinkId, conn: ConnId) {
        self.links.insert(link, conn);
        self.names.insert(conn, link);
    }

    /// The link of a connection that still counts.
    #[must_use]
    pub fn link(&self, conn: ConnId) -> Option<LinkId> {
        self.names.get(&conn).copied()
    }

    /// The volume has forgotten a link; returns its connection.
    pub fn unbind(&mut self, link: LinkId) -> Option<ConnId> {
        let conn = self.links.remove(&link)?;
        self.names.remove(&conn);
        Some(conn)
    }
}
