//! The control listener: the master (and an operator's tool) asks, the gateway answers.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use serde_json::{json, Value};
use tokio::io::AsyncReadExt;
use tokio::net::{tcp, TcpListener, TcpStream};
use tokio::task::{spawn_local, AbortHandle};
use yuntai_proto::control::{GatewayRequest, OpenVolume, Opened, SnapshotOf};
use yuntai_proto::frame::HEADER_BYTES;
use yuntai_proto::handshake::{ServerHandshake, HANDSHAKE_BODY_BYTES_MAX, HANDSHAKE_TIMEOUT_MS};
use yuntai_proto::{Frame, Header, Kind, Strangers, VolumeId, BLOCK_BYTES, CHUNK_BYTES};

use super::conn::Conn;
use super::export::{check_name, socket_path};
use super::served::Served;
use super::{random, standby, Gateway};
use crate::api::{ControlAnswer, ControlRequest};

/// Connections of peers that have proved themselves; one more is closed at once.
const CONNECTIONS_MAX: usize = 64;
/// Connections of those that have not.
const STRANGERS_MAX: usize = 256;
/// Receive buffer of a proved peer.
const BUFFER_BYTES: usize = 16 << 10;
/// Requests of one connection that are not answered yet.
const REQUESTS_MAX: usize = 256;
/// Volumes of one gateway.
const VOLUMES_MAX: usize = 4096;
/// Volumes that were closed well and are remembered. What is forgotten counts as not durable, which harms nobody.
const CLOSED_MAX: usize = 4096;

/// What the connections share.
struct Door {
    strangers: Strangers<AbortHandle>,
    proved: Rc<()>,
}

/// For ever.
pub async fn listen(gateway: Rc<Gateway>, listener: TcpListener) {
    let door = Rc::new(Door { strangers: Strangers::new(STRANGERS_MAX), proved: Rc::default() });
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let number = door.strangers.number();
                let (gateway, here) = (Rc::clone(&gateway), Rc::clone(&door));
                let task = spawn_local(async move {
                    let Err(error) = serve(gateway, stream, &here, number).await else { return };
                    if let Some(untold) = here.strangers.tell(Instant::now()) {
                        tracing::info!(%peer, error, untold, "control connection ended");
                    }
                });
                if let Some(oldest) = door.strangers.add(number, task.abort_handle()) {
                    oldest.abort();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(gateway: Rc<Gateway>, stream: TcpStream, door: &Door, number: u64) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let tls = yuntai_tls::accept(gateway.tls.as_ref(), stream).await;
    let stream = tls.inspect_err(|_| door.strangers.remove(number)).map_err(|error| format!("TLS: {error}"))?;
    let (mut reader, writer) = stream.into_split();
    let conn = Conn::tcp(writer);
    let result = tokio::select! {
        result = prove_and_talk(&gateway, &conn, &mut reader, door, number) => result,
        () = conn.drain() => Err("it cannot be written to".to_owned()),
    };
    door.strangers.remove(number);
    gateway.hub.disconnected(&gateway.flusher, &conn);
    result
}

async fn prove_and_talk(
    gateway: &Rc<Gateway>,
    conn: &Rc<Conn>,
    reader: &mut tcp::OwnedReadHalf,
    door: &Door,
    number: u64,
) -> Result<(), String> {
    let mut buffer = BytesMut::with_capacity(HEADER_BYTES + HANDSHAKE_BODY_BYTES_MAX);
    let (handshake, challenge) =
        ServerHandshake::new(&gateway.secret, &gateway.name(), env!("CARGO_PKG_VERSION"), random());
    conn.push(&challenge);
    gateway.flusher.mark(conn);
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let first = tokio::time::timeout(limit, next(reader, &mut buffer, HANDSHAKE_BODY_BYTES_MAX));
    let Some(frame) = first.await.map_err(|_| "no handshake in time".to_owned())?? else { return Ok(()) };
    let (name, ok) = handshake.finish(&frame).map_err(|error| error.to_string())?;
    door.strangers.remove(number);
    let held = Rc::clone(&door.proved);
    if Rc::strong_count(&held) - 2 >= CONNECTIONS_MAX {
        return Err(format!("{CONNECTIONS_MAX} peers are connected: {name} was turned away"));
    }
    buffer.reserve(BUFFER_BYTES);
    conn.push(&ok);
    gateway.flusher.mark(conn);
    let result = talk(gateway, conn, reader, buffer, &name).await;
    drop(held);
    result
}

async fn talk(
    gateway: &Rc<Gateway>,
    conn: &Rc<Conn>,
    reader: &mut tcp::OwnedReadHalf,
    mut buffer: BytesMut,
    name: &str,
) -> Result<(), String> {
    tracing::info!(client = name, "control connection");
    let master = name.starts_with("master:");
    if master {
        gateway.hub.connected(&gateway.flusher, conn);
    }
    let pending = Rc::new(());
    while let Some(frame) = next(reader, &mut buffer, yuntai_proto::frame::BODY_BYTES_MAX).await? {
        match frame.header.kind {
            Kind::EventReply if master => gateway.hub.answered(gateway, &frame),
            Kind::Control if Rc::strong_count(&pending) <= REQUESTS_MAX => {
                let (gateway, conn, held) = (Rc::clone(gateway), Rc::clone(conn), Rc::clone(&pending));
                spawn_local(async move {
                    let body = match answer(&gateway, &frame).await {
                        Ok(value) => json!({ "ok": value }),
                        Err(error) => json!({ "error": error }),
                    };
                    reply(&gateway, &conn, &frame.header, &body);
                    drop(held);
                });
            }
            Kind::Control => {
                let error = format!("{REQUESTS_MAX} requests are unanswered: wait for some of them");
                reply(gateway, conn, &frame.header, &json!({ "error": error }));
            }
            kind => return Err(format!("{name} sent a frame of kind {kind:?} on a control connection")),
        }
    }
    Ok(())
}

fn reply(gateway: &Gateway, conn: &Rc<Conn>, request: &Header, body: &Value) {
    let mut header = Header::new(Kind::ControlReply, request.request_id);
    header.volume = request.volume;
    conn.push(&Frame::new(header, Bytes::from(body.to_string()), Bytes::new()));
    gateway.flusher.mark(conn);
}

async fn next(
    reader: &mut tcp::OwnedReadHalf,
    buffer: &mut BytesMut,
    body_max: usize,
) -> Result<Option<Frame>, String> {
    loop {
        if let Some(frame) = Frame::parse_within(buffer, body_max, 0).map_err(|error| error.to_string())? {
            return Ok(Some(frame));
        }
        if reader.read_buf(buffer).await.map_err(|error| error.to_string())? == 0 {
            return Ok(None);
        }
    }
}

async fn answer(gateway: &Rc<Gateway>, frame: &Frame) -> Result<Value, String> {
    let request: GatewayRequest =
        serde_json::from_slice(&frame.body).map_err(|error| format!("malformed request: {error}"))?;
    match request {
        GatewayRequest::Status {} => Ok(status(gateway)),
        GatewayRequest::Open(spec) => {
            let opened = open(gateway, *spec).await?;
            Ok(json!(opened))
        }
        GatewayRequest::Standby { volume, ticket, size_bytes, export } => {
            Ok(json!(standby::begin(gateway, volume, ticket, size_bytes, export)?))
        }
        GatewayRequest::EndStandby { volume, ticket } => {
            standby::end(gateway, volume, &ticket);
            Ok(json!({}))
        }
        GatewayRequest::Close { volume, generation } => close(gateway, volume, generation).await,
        GatewayRequest::Snapshot { volume, generation, parents, head } => {
            let served = open_volume(gateway, volume, generation)?;
            let begun = std::time::Instant::now();
            let wait = served.control(ControlRequest::Snapshot { parents, head });
            // The switch happens within the first poll; guests are held up for no longer than that.
            let (answered, pause) = timed(wait, begun).await;
            match answered? {
                ControlAnswer::Snapshot { head } => {
                    let took_us = begun.elapsed().as_micros() as u64;
                    Ok(json!({ "head": head, "pause_us": pause.as_micros() as u64, "took_us": took_us }))
                }
                other => Err(format!("unexpected answer {other:?}")),
            }
        }
        GatewayRequest::Resize { volume, generation, size_bytes, placement, servers } => {
            let served = open_volume(gateway, volume, generation)?;
            let mut spec = served.spec();
            (spec.size_bytes, spec.placement) = (size_bytes, placement);
            spec.servers.extend(servers);
            check(gateway, &spec)?;
            served.control(ControlRequest::Reopen(Box::new(spec))).await?;
            Ok(json!({ "size_bytes": size_bytes }))
        }
        GatewayRequest::Renew { volume, generation } => {
            let served = open_volume(gateway, volume, generation)?;
            if let Some(exporting) = &*served.exporting.borrow() {
                exporting.renew();
            }
            Ok(json!({}))
        }
        GatewayRequest::Moves { volume, generation, moves, servers } => {
            let served = open_volume(gateway, volume, generation)?;
            match served.control(ControlRequest::Moves { moves, servers }).await? {
                ControlAnswer::Moves { under_way, refused } => {
                    Ok(json!({ "under_way": under_way, "refused": refused }))
                }
                other => Err(format!("unexpected answer {other:?}")),
            }
        }
        GatewayRequest::SnapshotGroup { volumes } => snapshot_group(gateway, volumes).await,
        GatewayRequest::Heal { volume, generation, server, chunks } => {
            let served = open_volume(gateway, volume, generation)?;
            match served.control(ControlRequest::Heal { server, chunks }).await? {
                ControlAnswer::Heal { queued } => Ok(json!({ "queued": queued })),
                other => Err(format!("unexpected answer {other:?}")),
            }
        }
        GatewayRequest::Salvage { volume, generation, chunk } => {
            let served = open_volume(gateway, volume, generation)?;
            match served.control(ControlRequest::Salvage { chunk }).await? {
                ControlAnswer::Salvage { server, sequence } => Ok(json!({ "server": server, "sequence": sequence })),
                other => Err(format!("unexpected answer {other:?}")),
            }
        }
        GatewayRequest::Tune { tunables } => {
            gateway.volume_config().tune(&tunables)?;
            gateway.tuned.borrow_mut().extend(tunables.clone());
            for served in gateway.all() {
                // One that closes meanwhile needs no limits.
                let _ = served.control(ControlRequest::Tune { tunables: tunables.clone() }).await;
            }
            Ok(json!({}))
        }
    }
}

/// Switch all volumes within one turn of the process's only thread: no request of any guest is looked at in between, so
/// that none that was begun after an answer of one volume can be in the snapshot of another. Then wait for all.
async fn snapshot_group(gateway: &Rc<Gateway>, volumes: Vec<SnapshotOf>) -> Result<Value, String> {
    let begun = std::time::Instant::now();
    let mut members = Vec::with_capacity(volumes.len());
    for one in volumes {
        let served = open_volume(gateway, one.volume, one.generation)?;
        served.may_snapshot(&one.parents, one.head).map_err(|error| format!("{}: {error}", served.name()))?;
        if members.iter().any(|(other, _): &(Rc<Served>, SnapshotOf)| other.id == one.volume) {
            return Err(format!("{} is in the group twice", served.name()));
        }
        members.push((served, one));
    }
    let switch = |(served, one): (Rc<Served>, SnapshotOf)| {
        let wait = served.ask(ControlRequest::Snapshot { parents: one.parents, head: one.head });
        (served, wait)
    };
    let waits: Vec<_> = members.into_iter().map(switch).collect();
    let pause_us = begun.elapsed().as_micros() as u64;
    let mut heads = serde_json::Map::new();
    for (served, wait) in waits {
        let answer = wait.await.unwrap_or_else(|_| Err("the volume was closed meanwhile".to_owned()));
        match answer.map_err(|error| format!("{}: {error}", served.name()))? {
            ControlAnswer::Snapshot { head } => heads.insert(served.id.to_string(), json!(head)),
            other => return Err(format!("unexpected answer {other:?}")),
        };
    }
    Ok(json!({ "heads": heads, "pause_us": pause_us, "took_us": begun.elapsed().as_micros() as u64 }))
}

/// The result, and how long the first poll took: that is when the volume was touched.
async fn timed<T>(future: impl std::future::Future<Output = T>, begun: std::time::Instant) -> (T, Duration) {
    let mut future = std::pin::pin!(future);
    let mut first = None;
    let result = std::future::poll_fn(|context| {
        let polled = future.as_mut().poll(context);
        first.get_or_insert_with(|| begun.elapsed());
        polled
    })
    .await;
    (result, first.unwrap_or_default())
}

fn status(gateway: &Gateway) -> Value {
    let volumes: Vec<Value> = gateway.all().iter().map(|served| json!(served.stats())).collect();
    let standbys: Vec<Value> = gateway
        .standbys
        .borrow()
        .iter()
        .map(|(volume, one)| json!({ "volume": volume, "ticket": one.ticket() }))
        .collect();
    json!({
        "volumes": volumes,
        "standbys": standbys,
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "host": gateway.config.host,
        "unanswered_events": gateway.hub.unanswered(),
    })
}

fn open_volume(gateway: &Gateway, volume: VolumeId, generation: u64) -> Result<Rc<Served>, String> {
    let served = gateway.volume(volume).ok_or_else(|| format!("volume vol-{volume:016x} is not open here"))?;
    if served.generation != generation {
        let here = served.generation;
        return Err(format!("generation {generation} of {}: generation {here} is open here", served.name()));
    }
    Ok(served)
}

async fn open(gateway: &Rc<Gateway>, spec: OpenVolume) -> Result<Opened, String> {
    check(gateway, &spec)?;
    let generation = spec.generation;
    let served = match gateway.volume(spec.volume) {
        Some(here) if here.generation > generation => {
            return Err(format!("generation {generation}: {} is open here under {}", here.name(), here.generation));
        }
        Some(here) if here.generation == generation => {
            here.control(ControlRequest::Reopen(Box::new(spec))).await?;
            here
        }
        older => {
            if let Some(older) = older {
                older.over(gateway, "a newer generation was opened here");
            }
            if gateway.volumes.borrow().len() >= VOLUMES_MAX {
                return Err(format!("{VOLUMES_MAX} volumes are open here: close some first"));
            }
            let served = Served::new(gateway, spec);
            gateway.closed.borrow_mut().remove(&served.id);
            gateway.volumes.borrow_mut().insert(served.id, Rc::clone(&served));
            served.apply(crate::Event::Tick);
            served
        }
    };
    if let Err(error) = served.wait_open().await {
        served.over(gateway, &error);
        return Err(error);
    }
    let socket = match served.export.as_str() {
        "" => String::new(),
        export => socket_path(gateway, export).display().to_string(),
    };
    Ok(Opened { socket, generation })
}

/// What is not open may have been lost with a former process, and what that one had on its way is on some replicas
/// only. So all is durable only where this process closed that generation itself.
async fn close(gateway: &Rc<Gateway>, volume: VolumeId, generation: u64) -> Result<Value, String> {
    if gateway.volume(volume).is_none() {
        let flushed = gateway.closed.borrow().get(&volume) == Some(&generation);
        return Ok(json!({ "flushed": flushed, "generation": generation }));
    }
    let served = open_volume(gateway, volume, generation)?;
    served.stop_guests();
    match served.close().await? {
        ControlAnswer::Closed { flushed } => {
            if flushed {
                let mut closed = gateway.closed.borrow_mut();
                closed.insert(volume, generation);
                if closed.len() > CLOSED_MAX {
                    closed.pop_first();
                }
            }
            Ok(json!({ "flushed": flushed, "generation": generation }))
        }
        other => Err(format!("unexpected answer {other:?}")),
    }
}

/// A specification that could not be served is refused with the field that is wrong.
fn check(gateway: &Gateway, spec: &OpenVolume) -> Result<(), String> {
    let size = spec.size_bytes;
    if size == 0 || size % BLOCK_BYTES as u64 != 0 {
        return Err(format!("size_bytes {size} must be a multiple of {BLOCK_BYTES} above 0"));
    }
    let chunks = size.div_ceil(CHUNK_BYTES);
    if spec.placement.len() as u64 != chunks {
        return Err(format!("placement has {} chunks, size_bytes {size} needs {chunks}", spec.placement.len()));
    }
    for (chunk, servers) in spec.placement.iter().enumerate() {
        let distinct: BTreeSet<_> = servers.iter().collect();
        if servers.is_empty() || servers.len() > 8 || distinct.len() != servers.len() {
            return Err(format!("placement of chunk {chunk} is {servers:?}: 1 to 8 distinct servers are needed"));
        }
        if let Some(server) = servers.iter().find(|server| !spec.servers.contains_key(server)) {
            return Err(format!("servers lacks the address of server {server}, which chunk {chunk} is placed on"));
        }
    }
    let tree = spec.parents.iter().enumerate().all(|(layer, parent)| layer == 0 || (*parent as usize) < layer);
    if spec.parents.is_empty() || !tree || spec.head as usize >= spec.parents.len() {
        return Err(format!(
            "parents {:?} with head {}: each layer's parent must come before it",
            spec.parents, spec.head
        ));
    }
    if spec.export.is_empty() {
        return Ok(());
    }
    check_name(gateway, &spec.export)
}
