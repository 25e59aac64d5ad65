//! Who may speak: a mutual proof of the cluster secret per connection, and a token per volume.
//!
//! The handshake is a challenge and response in both directions, so that neither side can replay the other (the
//! construction is that of RFC 5802's client and server proofs, without the salting: the secret is 32 random bytes).

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

use crate::types::VolumeId;

/// Server → client: 32 random bytes in hex.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Challenge {
    /// Hex of 32 random bytes.
    pub nonce: String,
}

/// Client → server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Auth {
    /// Who speaks: "gateway:h1", "cs:3", "master:h1", "operator".
    pub client: String,
    /// Hex of 32 random bytes.
    pub nonce: String,
    /// Hex of HMAC-SHA256(secret, "client" ‖ server nonce ‖ client nonce ‖ client), the nonces as their hex text.
    pub mac: String,
}

/// Server → client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthOk {
    /// Hex of HMAC-SHA256(secret, "server" ‖ server nonce ‖ client nonce ‖ client).
    pub mac: String,
    /// "cs:3", "gateway:h1".
    pub server: String,
    /// The program's version.
    pub version: String,
}

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rights {
    /// Read frozen layers; any number of readers.
    Read,
    /// Read and write under the token's generation.
    Write,
}

/// Signed by the master, checked by chunk servers: `<JSON>.<hex HMAC-SHA256(token secret, JSON)>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The one volume it is for.
    pub volume: VolumeId,
    /// What may be done.
    pub rights: Rights,
    /// The generation that was granted (0 for `Read`).
    pub generation: u64,
    /// Unix time after which it is refused.
    pub expires_unix_s: u64,
}

/// Why somebody was not let in.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AuthError {
    /// The proof is wrong: another secret, or a replay.
    #[error("the peer does not know this cluster's secret")]
    Proof,
    /// Not a token of ours.
    #[error("the token is malformed or its signature is wrong")]
    Token,
    /// Too old.
    #[error("the token expired at {0}")]
    Expired(u64),
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Read hex; `None` if it is not hex.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() % 2 != 0 || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Read the text of a secret's file: 32 bytes as 64 hex digits, white space around them.
#[must_use]
pub fn parse_secret(text: &str) -> Option<Vec<u8>> {
    unhex(text.trim()).filter(|secret| secret.len() == 32)
}

fn mac_of(secret: &[u8], parts: &[&str]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part.as_bytes());
    }
    mac
}

/// The proof of `role` ("client" or "server").
#[must_use]
pub fn proof(secret: &[u8], role: &str, server_nonce: &str, client_nonce: &str, client: &str) -> String {
    hex(&mac_of(secret, &[role, server_nonce, client_nonce, client]).finalize().into_bytes())
}

/// Check a proof in constant time.
///
/// # Errors
/// [`AuthError::Proof`].
pub fn check_proof(
    secret: &[u8],
    role: &str,
    server_nonce: &str,
    client_nonce: &str,
    client: &str,
    mac: &str,
) -> Result<(), AuthError> {
    let given = unhex(mac).ok_or(AuthError::Proof)?;
    mac_of(secret, &[role, server_nonce, client_nonce, client]).verify_slice(&given).map_err(|_| AuthError::Proof)
}

/// Sign a token.
///
/// # Panics
/// Never: a token always encodes.
#[must_use]
pub fn sign_token(secret: &[u8], token: &Token) -> String {
    let json = serde_json::to_string(token).expect("a token always encodes");
    let mac = hex(&mac_of(secret, &[&json]).finalize().into_bytes());
    format!("{json}.{mac}")
}

/// Check a token's signature and age.
///
/// # Errors
/// [`AuthError::Token`] or [`AuthError::Expired`].
pub fn check_token(secret: &[u8], text: &str, now_unix_s: u64) -> Result<Token, AuthError> {
    let (json, mac) = text.rsplit_once('.').ok_or(AuthError::Token)?;
    let given = unhex(mac).ok_or(AuthError::Token)?;
    mac_of(secret, &[json]).verify_slice(&given).map_err(|_| AuthError::Token)?;
    let token: Token = serde_json::from_str(json).map_err(|_| AuthError::Token)?;
    if token.expires_unix_s < now_unix_s {
        return Err(AuthError::Expired(token.expires_unix_s));
    }
    Ok(token)
}
