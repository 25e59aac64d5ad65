//! Wire and on-disk records of the block store, their versions and checksums.
//!
//! Everything that two processes, or one process before and after a restart, must agree on stands here and nowhere
//! else: the frame ([`frame`]), what goes in it ([`data`] on the hot path, [`control`] beside it), who may speak
//! ([`auth`], [`handshake`]) and the words that all of them use ([`types`]).

pub mod auth;
pub mod control;
pub mod data;
pub mod frame;
pub mod handshake;
pub mod intake;
pub mod mutant;
pub mod order;
pub mod outbox;
pub mod pulse;
pub mod strangers;
pub mod types;

pub use frame::{Frame, Header, Kind};
pub use intake::Intake;
pub use outbox::Outbox;
pub use pulse::Pulse;
pub use strangers::Strangers;
pub use types::*;
