//! Orders: requests of the master to a chunk server that destroy something, or let a disk in.
//!
//! Every gateway knows the cluster's secret, and a gateway runs beside guests. What one that was taken over could do to
//! the volumes of its own host is bounded by their tokens; that it must not be able to have a server drop the chunks of
//! all others, orders see to: they are signed with the key that signs tokens, which masters have and gateways have not.
//! An order is good for one server, one run of its process, one term, once, and for some minutes.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

use crate::auth::{hex, unhex};
use crate::control::ServerRequest;
use crate::types::ServerId;

/// An order is taken for so long, by the server's clock.
pub const ORDER_GOOD_S: u64 = 600;
/// Signed before the JSON, so that an order is never taken for a token, nor a token for an order.
const CONTEXT: &[u8] = b"order:";

/// `<JSON>.<hex HMAC-SHA256(token secret, "order:" ‖ JSON)>`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Who is to do it.
    pub server: ServerId,
    /// [`crate::control::ServerStatus::run`] of that server.
    pub run: String,
    /// The master's term: a lower one than was ever heard there is refused.
    pub term: u64,
    /// When it was signed.
    pub issued_unix_s: u64,
    /// Random: two orders are never the same.
    pub nonce: String,
    /// What is to be done.
    pub request: ServerRequest,
}

/// Why an order is not followed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OrderError {
    /// Not the master's.
    #[error("its signature is wrong")]
    Signature,
    /// For somebody else.
    #[error("it is for server {0}")]
    Server(ServerId),
    /// Of before a restart, perhaps.
    #[error("it is for another run of this server: ask for its status first")]
    Run,
    /// Too old, or the clocks differ.
    #[error("it was signed at {0} (seconds since 1970), more than {ORDER_GOOD_S} s away by this server's clock")]
    Time(u64),
}

fn mac_of(secret: &[u8], json: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(CONTEXT);
    mac.update(json.as_bytes());
    mac
}

/// Sign an order.
///
/// # Panics
/// Never: an order always encodes.
#[must_use]
pub fn sign_order(secret: &[u8], order: &Order) -> String {
    let json = serde_json::to_string(order).expect("an order always encodes");
    let mac = hex(&mac_of(secret, &json).finalize().into_bytes());
    format!("{json}.{mac}")
}

/// Check whose order it is, for whom, and when it was made.
///
/// # Errors
/// [`OrderError`].
pub fn check_order(
    secret: &[u8],
    text: &str,
    server: ServerId,
    run: &str,
    now_unix_s: u64,
) -> Result<Order, OrderError> {
    let (json, mac) = text.rsplit_once('.').ok_or(OrderError::Signature)?;
    let given = unhex(mac).ok_or(OrderError::Signature)?;
    mac_of(secret, json).verify_slice(&given).map_err(|_| OrderError::Signature)?;
    let order: Order = serde_json::from_str(json).map_err(|_| OrderError::Signature)?;
    if order.server != server {
        return Err(OrderError::Server(order.server));
    }
    if order.run != run {
        return Err(OrderError::Run);
    }
    if order.issued_unix_s.abs_diff(now_unix_s) > ORDER_GOOD_S {
        return Err(OrderError::Time(order.issued_unix_s));
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret";

    fn order() -> Order {
        let request = ServerRequest::DeleteVolume { volume: 7 };
        Order { server: 3, run: "r".into(), term: 5, issued_unix_s: 1_000_000, nonce: "n".into(), request }
    }

    #[test]
    fn an_order_is_for_one_server_one_run_and_some_minutes() {
        let text = sign_order(SECRET, &order());
        let check = |server, run, now| check_order(SECRET, &text, server, run, now).map(|order| order.term);
        assert_eq!(check(3, "r", 1_000_600), Ok(5));
        assert_eq!(check(3, "r", 999_400), Ok(5));
        assert_eq!(check(3, "r", 1_000_601), Err(OrderError::Time(1_000_000)));
        assert_eq!(check(4, "r", 1_000_000), Err(OrderError::Server(3)));
        assert_eq!(check(3, "s", 1_000_000), Err(OrderError::Run));
    }

    #[test]
    fn what_is_signed_otherwise_is_no_order() {
        let text = sign_order(SECRET, &order());
        let refused = |text: &str| check_order(SECRET, text, 3, "r", 1_000_000).map(|_| ()).unwrap_err();
        assert_eq!(refused(&sign_order(b"another", &order())), OrderError::Signature);
        assert_eq!(refused(&text.replace("\"volume\":7", "\"volume\":8")), OrderError::Signature);
        assert_eq!(refused(&text[..text.len() - 2]), OrderError::Signature);
        let json = serde_json::to_string(&order()).unwrap();
        let mut as_token = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
        as_token.update(json.as_bytes());
        let mac = hex(&as_token.finalize().into_bytes());
        assert_eq!(refused(&format!("{json}.{mac}")), OrderError::Signature);
        assert_eq!(refused(""), OrderError::Signature);
    }
}
