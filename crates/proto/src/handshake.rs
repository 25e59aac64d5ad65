//! The handshake of a connection as two small state machines, without I/O: the shells of the chunk server, of the
//! gateway and of every client feed them frames, send what they answer, and put a clock around them.
//!
//! ```text
//! server → Challenge{nonce}      client → Auth{client, nonce, mac}      server → AuthOk{mac, server, version} | Error
//! ```

use bytes::Bytes;
use serde::{de::DeserializeOwned, Serialize};
use thiserror::Error;

use crate::auth::{check_proof, hex, proof, Auth, AuthOk, Challenge};
use crate::data::Refusal;
use crate::frame::{Frame, Header, Kind};

/// A peer that has not proved itself may not make us keep more than this of its bytes: use it with
/// [`Frame::parse_within`] until the handshake is done.
pub const HANDSHAKE_BODY_BYTES_MAX: usize = 4096;
/// How long a peer may take for the whole handshake before it is cut.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;
/// Longest name that a client may give itself.
const CLIENT_NAME_BYTES_MAX: usize = 128;

/// Why a handshake failed. The connection is closed after it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HandshakeError {
    /// Another frame than the one that is due.
    #[error("expected a frame of kind {expected:?} in the handshake, got {got:?}")]
    Unexpected {
        /// What is due.
        expected: Kind,
        /// What came.
        got: Kind,
    },
    /// The frame's body is not what its kind says.
    #[error("malformed {kind:?} body: {message}")]
    Body {
        /// The frame's kind.
        kind: Kind,
        /// What is wrong.
        message: String,
    },
    /// The proof is wrong.
    #[error("{name:?} does not know this cluster's secret")]
    Proof {
        /// What the peer calls itself.
        name: String,
    },
    /// The server refused us.
    #[error("the server refused the handshake: {0}")]
    Refused(Refusal),
}

/// A JSON body of a frame that is not on the hot path.
///
/// # Panics
/// Never for our own types: they always encode, and far below the limit of a body.
#[must_use]
pub fn json_frame<T: Serialize>(header: Header, body: &T) -> Frame {
    let json = serde_json::to_vec(body).expect("our own records always encode");
    Frame::new(header, Bytes::from(json), Bytes::new())
}

/// The answer "refused" to a request.
#[must_use]
pub fn refusal_frame(request: &Header, refusal: &Refusal) -> Frame {
    let mut header = *request;
    header.kind = Kind::Error;
    json_frame(header, refusal)
}

/// Read a frame's JSON body.
///
/// # Errors
/// [`HandshakeError::Body`] with what is wrong in it.
pub fn json_body<T: DeserializeOwned>(frame: &Frame) -> Result<T, HandshakeError> {
    serde_json::from_slice(&frame.body)
        .map_err(|error| HandshakeError::Body { kind: frame.header.kind, message: error.to_string() })
}

fn expect_kind(frame: &Frame, expected: Kind) -> Result<(), HandshakeError> {
    if frame.header.kind == expected {
        return Ok(());
    }
    Err(HandshakeError::Unexpected { expected, got: frame.header.kind })
}

/// The server's side: made with the first frame to send, consumed by the client's answer.
#[derive(Debug)]
pub struct ServerHandshake {
    secret: Vec<u8>,
    server: String,
    version: String,
    nonce: String,
}

impl ServerHandshake {
    /// Begin. `random` is 32 fresh random bytes. The frame is the first to send.
    #[must_use]
    pub fn new(secret: &[u8], server: &str, version: &str, random: [u8; 32]) -> (Self, Frame) {
        let nonce = hex(&random);
        let challenge = json_frame(Header::new(Kind::Challenge, 0), &Challenge { nonce: nonce.clone() });
        let this = Self { secret: secret.to_vec(), server: server.to_owned(), version: version.to_owned(), nonce };
        (this, challenge)
    }

    /// The client's answer: its name and the frame to send it. After an error send [`refusal_frame`] with
    /// [`Refusal::Denied`] if you like, and close.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn finish(self, frame: &Frame) -> Result<(String, Frame), HandshakeError> {
        expect_kind(frame, Kind::Auth)?;
        let auth: Auth = json_body(frame)?;
        if auth.client.len() > CLIENT_NAME_BYTES_MAX || auth.nonce.len() != 64 {
            let message = format!("client must have at most {CLIENT_NAME_BYTES_MAX} bytes and nonce exactly 64");
            return Err(HandshakeError::Body { kind: Kind::Auth, message });
        }
        check_proof(&self.secret, "client", &self.nonce, &auth.nonce, &auth.client, &auth.mac)
            .map_err(|_| HandshakeError::Proof { name: auth.client.clone() })?;
        let mac = proof(&self.secret, "server", &self.nonce, &auth.nonce, &auth.client);
        let ok = AuthOk { mac, server: self.server, version: self.version };
        Ok((auth.client, json_frame(Header::new(Kind::AuthOk, frame.header.request_id), &ok)))
    }
}

/// What the client does next.
#[derive(Debug)]
pub enum ClientStep {
    /// Send this and wait for the next frame.
    Send(Frame),
    /// The server has proved itself too: requests may be sent.
    Done {
        /// What the server calls itself: "cs:3", "gateway:h1".
        server: String,
        /// Its program's version.
        version: String,
    },
}

/// The client's side.
#[derive(Debug)]
pub struct ClientHandshake {
    secret: Vec<u8>,
    client: String,
    nonce: String,
    server_nonce: Option<String>,
}

impl ClientHandshake {
    /// Begin: wait for the server's first frame. `random` is 32 fresh random bytes.
    #[must_use]
    pub fn new(secret: &[u8], client: &str, random: [u8; 32]) -> Self {
        Self { secret: secret.to_vec(), client: client.to_owned(), nonce: hex(&random), server_nonce: None }
    }

    /// A frame from the server.
    ///
    /// # Errors
    /// [`HandshakeError`]: close the connection.
    pub fn on_frame(&mut self, frame: &Frame) -> Result<ClientStep, HandshakeError> {
        if frame.header.kind == Kind::Error {
            return Err(HandshakeError::Refused(json_body(frame)?));
        }
        let Some(server_nonce) = &self.server_nonce else {
            expect_kind(frame, Kind::Challenge)?;
            let challenge: Challenge = json_body(frame)?;
            let mac = proof(&self.secret, "client", &challenge.nonce, &self.nonce, &self.client);
            let auth = Auth { client: self.client.clone(), nonce: self.nonce.clone(), mac };
            self.server_nonce = Some(challenge.nonce);
            return Ok(ClientStep::Send(json_frame(Header::new(Kind::Auth, 0), &auth)));
        };
        expect_kind(frame, Kind::AuthOk)?;
        let ok: AuthOk = json_body(frame)?;
        check_proof(&self.secret, "server", server_nonce, &self.nonce, &self.client, &ok.mac)
            .map_err(|_| HandshakeError::Proof { name: ok.server.clone() })?;
        Ok(ClientStep::Done { server: ok.server, version: ok.version })
    }
}

#[cfg(test)]
mod tests;
