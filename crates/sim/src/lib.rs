//! The simulator: the real volume, replica and store in one thread, under one seed, in virtual time.
//!
//! The idea is that of FoundationDB's and TigerBeetle's simulators: everything that is not deterministic (time, network,
//! disks, scheduling) is made here from one random number, so that a failing run is replayed exactly by its seed. What
//! runs is the code that runs in production; only the shells around it (tokio, sockets, threads) are ours.
//!
//! [`run::run`] is one run: a guest works while [`faults`] break connections, freeze and kill servers, cut the power,
//! fail disks and move the volume to another gateway; then everything is healed, and the disk must come back
//! (liveness), must hold what it acknowledged ([`history`]), and its replicas must be equal.

mod attached;
pub mod commits;
pub mod coverage;
pub mod eyes;
pub mod faults;
pub mod fuzz;
pub mod gateway;
pub mod golden;
pub mod group;
pub mod guest;
pub mod history;
pub mod leader;
pub mod master;
pub mod mix;
pub mod mutants;
pub mod net;
pub mod others;
pub mod run;
pub mod server;
mod serving;
pub mod snapshots;
mod tending;
mod unattached;
pub mod world;

pub use run::{run, Failure};
