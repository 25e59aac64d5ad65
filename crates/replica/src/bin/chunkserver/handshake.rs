//! Both sides of the handshake on a socket, within the time that a peer is given.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use yuntai_proto::data::Refusal;
use yuntai_proto::handshake::{
    refusal_frame, ClientHandshake, ClientStep, ServerHandshake, HANDSHAKE_BODY_BYTES_MAX, HANDSHAKE_TIMEOUT_MS,
};
use yuntai_proto::{Frame, Header, Kind, Outbox};
use yuntai_tls::Tls;

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);

async fn receive(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Frame> {
    loop {
        let parsed = Frame::parse_within(buffer, HANDSHAKE_BODY_BYTES_MAX, 0);
        if let Some(frame) = parsed.map_err(io::Error::other)? {
            return Ok(frame);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn send(stream: &mut TcpStream, frame: &Frame) -> io::Result<()> {
    let mut outbox = Outbox::new();
    outbox.push(frame);
    while !outbox.is_empty() {
        let mut slices = [io::IoSlice::new(&[]); 4];
        let used = outbox.slices(&mut slices);
        let written = stream.write_vectored(&slices[..used]).await?;
        outbox.advance(written);
    }
    Ok(())
}

async fn accept_now(stream: &mut TcpStream, secret: &[u8], name: &str) -> io::Result<(String, BytesMut)> {
    let mut buffer = BytesMut::with_capacity(8192);
    let (handshake, challenge) = ServerHandshake::new(secret, name, env!("CARGO_PKG_VERSION"), rand::random());
    send(stream, &challenge).await?;
    let auth = receive(stream, &mut buffer).await?;
    match handshake.finish(&auth) {
        Ok((client, ok)) => {
            send(stream, &ok).await?;
            Ok((client, buffer))
        }
        Err(error) => {
            let refusal = Refusal::Denied { message: error.to_string() };
            send(stream, &refusal_frame(&Header::new(Kind::Error, auth.header.request_id), &refusal)).await?;
            Err(io::Error::other(error))
        }
    }
}

/// The server's side: the client's name, and what it sent behind its proof.
pub(crate) async fn accept(stream: &mut TcpStream, secret: &[u8], name: &str) -> io::Result<(String, BytesMut)> {
    stream.set_nodelay(true)?;
    timeout(HANDSHAKE_TIMEOUT, accept_now(stream, secret, name)).await?
}

/// Connect, and do the client's side.
pub(crate) async fn dial(
    address: &str,
    tls: Option<&Tls>,
    secret: &[u8],
    name: &str,
) -> io::Result<(TcpStream, BytesMut)> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let mut stream = yuntai_tls::connect(tls, stream).await?;
    let mut buffer = BytesMut::with_capacity(8192);
    let mut handshake = ClientHandshake::new(secret, name, rand::random());
    let prove = async {
        loop {
            let frame = receive(&mut stream, &mut buffer).await?;
            match handshake.on_frame(&frame).map_err(io::Error::other)? {
                ClientStep::Send(frame) => send(&mut stream, &frame).await?,
                ClientStep::Done { .. } => return Ok::<(), io::Error>(()),
            }
        }
    };
    timeout(HANDSHAKE_TIMEOUT, prove).await??;
    Ok((stream, buffer))
}
