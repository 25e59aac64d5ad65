//! One server as a volume sees it: its connection, what it was asked and has not answered.

use std::collections::{BTreeMap, BTreeSet};

use yuntai_proto::data::ChunkState;
use yuntai_proto::{ChunkIndex, ServerId};

use crate::api::{Config, LinkId, Micros};
use crate::stats::Histogram;

/// A connection that held for so long was a good one.
const STABLE_US: Micros = 1_000_000;

/// What a server was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Claim,
    Layers,
    Mutation {
        chunk: ChunkIndex,
        sequence: u64,
    },
    Flush {
        flush: u64,
    },
    /// Makes mutations durable that it had before it was lost and that were sent as durable.
    Cover {
        mutations: Vec<(ChunkIndex, u64)>,
    },
    Read {
        read: u64,
    },
    Begin {
        chunk: ChunkIndex,
        attempt: u64,
    },
    Pull {
        chunk: ChunkIndex,
        source: ServerId,
        attempt: u64,
    },
    End {
        chunk: ChunkIndex,
        attempt: u64,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Outstanding {
    pub asked: Asked,
    pub sent_at: Micros,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    Connecting,
    Claiming,
    Ready,
}

impl LinkState {
    /// The server answers, but has not said yet what it has.
    pub fn claims(self) -> bool {
        self == Self::Claiming
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub id: LinkId,
    pub state: LinkState,
    /// When its state began.
    pub since: Micros,
    /// Layers that the server was told of on it.
    pub layers: usize,
    pub outstanding: BTreeMap<u64, Outstanding>,
    pub unanswered_bytes: u64,
}

impl Link {
    pub fn new(id: LinkId, now: Micros) -> Self {
        let outstanding = BTreeMap::new();
        Self { id, state: LinkState::Connecting, since: now, layers: 0, outstanding, unanswered_bytes: 0 }
    }

    /// Why the server counts as hung, if it does. Only time that we were `awake` counts: after a pause of our own the
    /// answers may lie in the socket already.
    pub fn overdue(&self, now: Micros, awake: Micros, config: &Config) -> Option<&'static str> {
        let age = |since: Micros| now.saturating_sub(since.max(awake));
        if self.state == LinkState::Connecting {
            return (age(self.since) > config.connect_wait_us).then_some("no connection in time");
        }
        if self.unanswered_bytes > config.unanswered_bytes_max {
            return Some("too far behind with its answers");
        }
        // A few long requests (pulls) may stand in front of the oldest ordinary one.
        let late = |one: &Outstanding| match one.asked {
            Asked::Pull { .. } => age(one.sent_at) > config.pull_wait_us,
            Asked::Claim => age(one.sent_at) > config.claim_wait_us,
            _ => age(one.sent_at) > config.hung_us,
        };
        let not_pull = |one: &&Outstanding| !matches!(one.asked, Asked::Pull { .. });
        let oldest = self.outstanding.values().find(not_pull);
        let pulls = self.outstanding.values().take_while(|one| matches!(one.asked, Asked::Pull { .. }));
        pulls.chain(oldest).any(late).then_some("hung: its oldest request is unanswered for too long")
    }
}

/// A way to some server: one of the volume's own, or one of a source's.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub address: String,
    pub link: Option<Link>,
    pub retry_at: Micros,
    pub backoff_us: Micros,
}

impl Dialer {
    pub fn new(address: String) -> Self {
        Self { address, link: None, retry_at: 0, backoff_us: 0 }
    }

    pub fn ready(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.state == LinkState::Ready)
    }

    /// The connection is gone. It is tried again at once, the time after that later and later, until one was good for
    /// a while.
    pub fn lost(&mut self, now: Micros, config: &Config) -> Option<Link> {
        let link = self.link.take()?;
        if link.state == LinkState::Ready && now.saturating_sub(link.since) > STABLE_US {
            self.backoff_us = 0;
        }
        self.retry_at = now + self.backoff_us;
        self.backoff_us = (self.backoff_us * 2).clamp(config.backoff_min_us, config.backoff_max_us);
        Some(link)
    }
}

/// A wish to take a server out of the in-sync set.
#[derive(Clone, Debug)]
pub(crate) struct DegradeWish {
    pub reason: String,
    /// Refused before: ask again at this time.
    pub ask_at: Micros,
    /// The master said it: that the server is well does not end the wish.
    pub told: bool,
    /// The master answered once that too few would be left.
    pub refused: bool,
}

/// One of the volume's own servers.
#[derive(Debug)]
pub(crate) struct Server {
    pub id: ServerId,
    pub dialer: Dialer,
    /// Its answers count: in the in-sync set, or about to be taken into it.
    pub required: bool,
    /// Replicas on it that count, if the server is in the in-sync set.
    pub places: usize,
    /// When its connection was lost (or first wanted).
    pub lost_at: Micros,
    /// The last attempt to connect to it failed.
    pub unreachable: bool,
    pub degrade: Option<DegradeWish>,
    /// What it said when it was claimed; a chunk that is not listed is empty.
    pub claimed: BTreeMap<ChunkIndex, ChunkState>,
    /// Chunks of it that are not `Whole` (joining replicas left out).
    pub not_whole: BTreeSet<ChunkIndex>,
    /// Not to be proposed for readmission before this time.
    pub readmit_at: Micros,
    /// Others are read from first until then.
    pub slow_until: Micros,
    pub answer_us: Histogram,
}

impl Server {
    pub fn new(id: ServerId, address: String) -> Self {
        Self {
            id,
            dialer: Dialer::new(address),
            required: false,
            places: 0,
            lost_at: 0,
            unreachable: false,
            degrade: None,
            claimed: BTreeMap::new(),
            not_whole: BTreeSet::new(),
            readmit_at: 0,
            slow_until: 0,
            answer_us: Histogram::default(),
        }
    }

    pub fn claim_of(&self, chunk: ChunkIndex) -> ChunkState {
        let empty =
            ChunkState { chunk, position: yuntai_proto::Position::default(), rebuilding: false, damaged: false };
        self.claimed.get(&chunk).copied().unwrap_or(empty)
    }
}

impl Server {
    /// Its connection's state in a word.
    pub fn link_name(&self) -> &'static str {
        match self.dialer.link.as_ref().map(|link| link.state) {
            None => "down",
            Some(LinkState::Connecting) => "connecting",
            Some(LinkState::Claiming) => "claiming",
            Some(LinkState::Ready) => "up",
        }
    }
}
