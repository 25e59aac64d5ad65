//! What only a master may have done: requests that destroy, or let a disk in, come as signed orders
//! ([`yuntai_proto::order`]) or not at all.

use std::collections::{HashSet, VecDeque};

use serde_json::Value;
use yuntai_proto::control::ServerRequest;
use yuntai_proto::data::Refusal;
use yuntai_proto::mutant;
use yuntai_proto::order::check_order;
use yuntai_store::vfs::Vfs;

use crate::api::Now;
use crate::replica::Replica;

/// So many orders are remembered: weeks of them, and what could come again is minutes old.
const FOLLOWED_MAX: usize = 1 << 16;

/// Orders that were followed, by what makes each its own. Forgotten by their number, not by the clock: one that jumps
/// ahead and back again must not bring an order back.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    known: HashSet<String>,
    oldest_first: VecDeque<String>,
}

impl Followed {
    /// Note one; false if it was noted before.
    fn take(&mut self, nonce: String) -> bool {
        if !self.known.insert(nonce.clone()) {
            return false;
        }
        self.oldest_first.push_back(nonce);
        if let Some(oldest) = (self.oldest_first.len() > FOLLOWED_MAX).then(|| self.oldest_first.pop_front()).flatten()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// The name of a request that must come as an order.
pub(crate) fn ordered(request: &ServerRequest) -> Option<&'static str> {
    Some(match request {
        ServerRequest::DeleteVolume { .. } => "delete_volume",
        ServerRequest::Admit { .. } => "admit",
        ServerRequest::DropChunks { .. } => "drop_chunks",
        ServerRequest::Sweep { .. } => "sweep",
        _ => return None,
    })
}

/// Why a request is refused that came without a signature; `None` if it needs none.
pub(crate) fn needs_order(request: &ServerRequest) -> Option<Refusal> {
    let op = ordered(request).filter(|_| !mutant::is("who knows the cluster's secret may destroy"))?;
    let message = format!("{op} must come as an order that a master has signed: is the master older than this server?");
    Some(Refusal::Denied { message })
}

impl<V: Vfs> Replica<V> {
    pub(crate) fn follow(&mut self, text: &str, now: Now) -> Result<Value, Refusal> {
        let refused = |why: String| Refusal::Denied { message: format!("order: {why}") };
        let order = check_order(&self.config.token_secret, text, self.config.server, &self.config.run, now.unix_s)
            .map_err(|error| refused(error.to_string()))?;
        let Some(op) = ordered(&order.request) else {
            return Err(refused("what it asks for needs none, or is one itself".into()));
        };
        self.store.hear_term(order.term)?;
        if !self.followed.take(order.nonce) {
            return Err(refused("it was followed before".into()));
        }
        tracing::debug!(term = order.term, op, "order");
        self.control(order.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_followed_once_and_few_are_remembered() {
        let mut followed = Followed::default();
        for number in 0..FOLLOWED_MAX + 10 {
            assert!(followed.take(number.to_string()));
            assert!(!followed.take(number.to_string()));
        }
        assert!(!followed.take("10".into()));
        assert_eq!((followed.known.len(), followed.oldest_first.len()), (FOLLOWED_MAX, FOLLOWED_MAX));
    }
}
