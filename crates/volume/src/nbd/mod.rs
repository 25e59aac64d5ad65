//! The NBD front: fixed newstyle negotiation, simple and structured replies, `base:allocation`.
//!
//! Everything here is without I/O: [`negotiate`] eats bytes and makes bytes, [`transmit`] turns requests into
//! [`GuestOp`](crate::GuestOp)s and answers into bytes, [`codec`] knows the layouts. The protocol is the one of the NBD
//! project's `proto.md`.

pub mod codec;
pub mod negotiate;
pub mod transmit;
