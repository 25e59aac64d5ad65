//! Which faults a run has, and how often: swarm testing (Groce et al., "Swarm Testing", ISSTA 2012). A run that has a
//! little of everything seldom gets deep into anything, so most runs leave out about half of the faults and exaggerate
//! some of the others.

use rand::rngs::StdRng;
use rand::Rng;

/// A thing that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The connections of the gateway and a server break.
    Break,
    /// A way is cut: gateway to server.
    CutTo,
    /// Server to gateway.
    CutFrom,
    /// Both.
    CutBoth,
    /// Gateway to master, or back.
    CutMaster,
    /// One server from another.
    CutPeers,
    /// Frames are lost, doubled, swapped.
    Rough,
    /// A server stands still.
    Freeze,
    /// The gateway stands still.
    FreezeGateway,
    /// Clocks jump.
    Clocks,
    /// A server's process is killed.
    Kill,
    /// Every server's process is killed.
    KillAll,
    /// The gateway's process is killed.
    NoGateway,
    /// The volume is opened elsewhere.
    MoveAway,
    /// The gateway is begun again beside itself.
    Twin,
    /// A server's power is cut.
    Power,
    /// The power of a host with the gateway and a server is cut.
    PowerOfHost,
    /// All power is cut.
    PowerOfAll,
    /// A disk is full.
    Full,
    /// A disk is slow.
    Slow,
    /// A disk fails once.
    Fail,
    /// A bit flips.
    Flip,
    /// A snapshot is taken (which is no fault).
    Snapshot,
    /// Two volumes are frozen together.
    Group,
    /// A snapshot is deleted.
    Delete,
    /// The volume is rolled back to a snapshot.
    Rollback,
    /// The volume is detached.
    Detach,
    /// The volume grows.
    Grow,
    /// Another master leads.
    Elect,
    /// A server is to be emptied, or need not be any more.
    Drain,
    /// The master from a server, or back.
    CutControl,
}

const USUAL: [(Kind, u32); 31] = [
    (Kind::Break, 12),
    (Kind::CutTo, 8),
    (Kind::CutFrom, 8),
    (Kind::CutBoth, 4),
    (Kind::CutMaster, 5),
    (Kind::CutPeers, 3),
    (Kind::Rough, 3),
    (Kind::Freeze, 7),
    (Kind::FreezeGateway, 3),
    (Kind::Clocks, 2),
    (Kind::Kill, 10),
    (Kind::KillAll, 4),
    (Kind::NoGateway, 5),
    (Kind::MoveAway, 7),
    (Kind::Twin, 2),
    (Kind::Power, 8),
    (Kind::PowerOfHost, 6),
    (Kind::PowerOfAll, 5),
    (Kind::Full, 2),
    (Kind::Slow, 3),
    (Kind::Fail, 2),
    (Kind::Flip, 6),
    (Kind::Snapshot, 8),
    (Kind::Group, 8),
    (Kind::Delete, 6),
    (Kind::Rollback, 5),
    (Kind::Detach, 7),
    (Kind::Grow, 1),
    (Kind::Elect, 4),
    (Kind::Drain, 5),
    (Kind::CutControl, 4),
];

/// The faults of one run.
pub struct Mix {
    weights: Vec<(Kind, u32)>,
    /// Time between two of them.
    pub every_us: std::ops::Range<u64>,
    /// How likely the leader wants one more move, each turn.
    pub moving: f64,
}

impl Mix {
    /// Chosen for a run. Bits flip only where no unsynced writes are lost, and the other way round.
    #[must_use]
    pub fn new(rng: &mut StdRng, flipping: bool) -> Self {
        let swarm = rng.gen_bool(0.7);
        let never = |kind: Kind| {
            let power = matches!(kind, Kind::Power | Kind::PowerOfHost | Kind::PowerOfAll);
            (power && flipping) || (kind == Kind::Flip && !flipping)
        };
        let mut weights: Vec<(Kind, u32)> = USUAL.into_iter().filter(|(kind, _)| !never(*kind)).collect();
        for (kind, weight) in weights.iter_mut().filter(|_| swarm) {
            *weight = match rng.gen_range(0..4) {
                0 | 1 if *kind != Kind::Flip => 0,
                0..=2 => *weight,
                _ => *weight * 4,
            };
        }
        if weights.iter().all(|(_, weight)| *weight == 0) {
            weights = vec![(Kind::Break, 1)];
        }
        let every_us = if rng.gen_bool(0.3) { 20_000..500_000 } else { 50_000..1_500_000 };
        let moving = [0.0, 0.2, 0.5, 0.9][rng.gen_range(0..4)];
        Self { weights, every_us, moving }
    }

    /// The next one.
    pub fn next(&self, rng: &mut StdRng) -> Kind {
        let all: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.gen_range(0..all);
        for (kind, weight) in &self.weights {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        unreachable!("below the sum of all")
    }
}
