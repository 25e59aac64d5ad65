//! The chunk server as a state machine without sockets, threads or clocks, over one [`yuntai_store::Store`].
//!
//! It enforces who may write (tokens, generations, sessions), in which order (sequences without gaps), what an answer
//! promises (an `Ack` of a durable write or a flush comes after the journal is on the disk), and limits. The shell in
//! `bin/chunkserver` gives it sockets and two helper threads; the simulator gives it a seed.

pub mod api;
mod claims;
mod control;
mod looking;
mod orders;
mod pace;
mod pull;
mod replica;
mod scrubbing;
mod serve;
mod sweeping;
mod tend;
mod work;

pub use api::{Action, Config, ConnectionId, DialId, Event, Now};
pub use replica::Replica;
pub use work::WorkJob;

#[cfg(test)]
mod tests;
