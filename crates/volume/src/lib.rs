//! The volume client: fan-out, degrade, reconcile, hydrate; and the NBD front of it.
//!
//! [`Volume`] is a state machine without I/O: no socket, no clock, no randomness. It is driven by
//! [`Volume::apply`]`(event, now, &mut actions)`, by the gateway on real sockets ([`gateway`]) and by the simulator on
//! made-up ones. The rules that it keeps stand at [`Volume`].
//!
//! ```text
//! let mut volume = Volume::new(open, session, Config::default());   // `session`: a random number, one per open
//! let mut actions = Vec::new();
//! volume.apply(Event::Tick, now_us, &mut actions);                   // the first tick starts the claims
//! for action in actions.drain(..) { /* Connect → Event::Connected | Event::Closed; Send → Event::Frame; … */ }
//! ```
//! What the caller owes it: a [`Event::Tick`] every 10 ms (every 50 ms while nothing happens); frames of one link in
//! order in both directions; after [`Action::Drop`] nothing more of that link; every [`Action::Raise`] is answered some
//! time (and is sent again to a new master until it is); after [`Action::Closed`] the volume is thrown away.

pub mod api;
mod background;
mod boot;
mod chunk;
pub mod gateway;
mod guest;
mod heal;
mod hedge;
mod hydrate;
pub mod level;
mod links;
mod loss;
mod members;
mod moves;
mod mutate;
pub mod nbd;
mod operate;
mod read;
mod rebuild;
mod runs;
mod server;
mod shown;
mod source;
pub mod stats;
mod volume;
mod workers;

pub use api::*;
pub use background::Shared;
pub use volume::Volume;
