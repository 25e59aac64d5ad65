//! One open volume in the process: carries out what its state machine says.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{spawn_local, AbortHandle};
use yuntai_proto::control::OpenVolume;
use yuntai_proto::handshake::{ClientHandshake, ClientStep, HANDSHAKE_BODY_BYTES_MAX, HANDSHAKE_TIMEOUT_MS};
use yuntai_proto::{Frame, LayerId, VolumeId};

use super::conn::Conn;
use super::export::{self, Client};
use super::standby::Place;
use super::{random, standby, Gateway};
use crate::api::{Action, ControlAnswer, ControlRequest, Event, GuestOp, GuestRequest, LinkId};
use crate::nbd::codec::Request;
use crate::Volume;

/// Receive buffer of a connection.
pub(crate) const RECEIVE_BYTES: usize = 128 << 10;
/// Below this much room the buffer is renewed.
pub(crate) const RECEIVE_BYTES_MIN: usize = 16 << 10;

#[derive(Debug)]
struct Peer {
    task: AbortHandle,
    conn: Option<Rc<Conn>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Guest {
    client: Rc<Client>,
    request: Request,
    bytes: u64,
}

type ControlDone = oneshot::Sender<Result<ControlAnswer, String>>;

/// See the module.
#[derive(Debug)]
pub struct Served {
    /// The volume.
    pub id: VolumeId,
    /// The generation.
    pub generation: u64,
    /// Name of the export; empty: none.
    pub export: String,
    /// Refuses writes.
    pub read_only: bool,
    gateway: Weak<Gateway>,
    volume: RefCell<Volume>,
    spare: RefCell<Vec<Action>>,
    peers: RefCell<BTreeMap<LinkId, Peer>>,
    guests: RefCell<HashMap<u64, Guest>>,
    next_guest: Cell<u64>,
    /// Bytes of requests of all clients that were handed over and not answered.
    pub(crate) guest_bytes: Cell<u64>,
    controls: RefCell<HashMap<u64, ControlDone>>,
    next_control: Cell<u64>,
    opened: RefCell<Opening>,
    pub(crate) exporting: RefCell<Option<export::Exporting>>,
}

#[derive(Debug)]
enum Opening {
    Waiting(Vec<oneshot::Sender<Result<(), String>>>),
    Done(Result<(), String>),
}

impl Served {
    /// Begin to open; the claims go out with the first tick, which the caller gives.
    #[must_use]
    pub fn new(gateway: &Rc<Gateway>, spec: OpenVolume) -> Rc<Self> {
        let session = rand::thread_rng().gen();
        Rc::new(Self {
            id: spec.volume,
            generation: spec.generation,
            export: spec.export.clone(),
            read_only: spec.read_only,
            gateway: Rc::downgrade(gateway),
            volume: RefCell::new(Volume::new(spec, session, gateway.volume_config()).sharing(&gateway.shared)),
            spare: RefCell::default(),
            peers: RefCell::default(),
            guests: RefCell::default(),
            next_guest: Cell::new(0),
            guest_bytes: Cell::new(0),
            controls: RefCell::default(),
            next_control: Cell::new(0),
            opened: RefCell::new(Opening::Waiting(Vec::new())),
            exporting: RefCell::default(),
        })
    }

    /// `vol-<16 hex digits>`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("vol-{:016x}", self.id)
    }

    /// Size, as it is now.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.volume.borrow().spec().size_bytes
    }

    /// A copy of what is served.
    #[must_use]
    pub fn spec(&self) -> OpenVolume {
        self.volume.borrow().spec().clone()
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> crate::stats::Stats {
        self.volume.borrow().stats()
    }

    /// Give the volume an event and do what it says.
    pub fn apply(self: &Rc<Self>, event: Event) {
        let Some(gateway) = self.gateway.upgrade() else { return };
        if !matches!(event, Event::Tick) {
            gateway.touch();
        }
        let mut actions = std::mem::take(&mut *self.spare.borrow_mut());
        self.volume.borrow_mut().apply(event, gateway.now(), &mut actions);
        for action in actions.drain(..) {
            self.perform(&gateway, action);
        }
        *self.spare.borrow_mut() = actions;
    }

    fn perform(self: &Rc<Self>, gateway: &Rc<Gateway>, action: Action) {
        match action {
            Action::Send { link, frame } => {
                if let Some(conn) = self.peers.borrow().get(&link).and_then(|peer| peer.conn.as_ref()) {
                    conn.push(&frame);
                    gateway.flusher.mark(conn);
                }
            }
            Action::Reply { id, result } => self.reply(gateway, id, result),
            Action::Connect { link, address, .. } => {
                let task = spawn_local(peer(Rc::clone(self), Rc::clone(gateway), link, address)).abort_handle();
                self.peers.borrow_mut().insert(link, Peer { task, conn: None });
            }
            Action::Drop { link } => {
                self.peers.borrow_mut().remove(&link);
            }
            Action::Raise { event, body } => gateway.hub.raise(&gateway.flusher, self, event, &body),
            Action::ControlReply { id, result } => {
                if let Some(done) = self.controls.borrow_mut().remove(&id) {
                    let _ = done.send(result); // whoever asked may have gone
                }
            }
            Action::Opened => self.serve_guests(gateway),
            Action::Closed { reason } => {
                tracing::info!(volume = self.name(), generation = self.generation, ?reason, "volume is closed");
                self.over(gateway, "the volume was closed");
            }
            Action::Note { server, chunk, text } => {
                tracing::info!(volume = self.name(), generation = self.generation, server, chunk, "{text}");
            }
        }
    }

    fn reply(&self, gateway: &Gateway, id: u64, result: Result<crate::GuestData, crate::GuestError>) {
        let Some(guest) = self.guests.borrow_mut().remove(&id) else { return };
        self.guest_bytes.set(self.guest_bytes.get() - guest.bytes);
        guest.client.answer(&guest.request, guest.bytes, result);
        gateway.flusher.mark(&guest.client.conn);
    }

    /// A client's request.
    pub(crate) fn submit(self: &Rc<Self>, client: &Rc<Client>, request: Request, bytes: u64, op: GuestOp) {
        let id = self.next_guest.get() + 1;
        self.next_guest.set(id);
        self.guest_bytes.set(self.guest_bytes.get() + bytes);
        self.guests.borrow_mut().insert(id, Guest { client: Rc::clone(client), request, bytes });
        self.apply(Event::Guest(GuestRequest { id, op }));
    }

    fn serve_guests(self: &Rc<Self>, gateway: &Rc<Gateway>) {
        let result = if self.export.is_empty() { Ok(()) } else { self.offer(gateway) };
        match &result {
            Ok(()) => tracing::info!(volume = self.name(), generation = self.generation, "volume is open"),
            Err(error) => tracing::error!(volume = self.name(), error, "the export cannot be offered"),
        }
        if let Opening::Waiting(waiting) = self.opened.replace(Opening::Done(result.clone())) {
            for one in waiting {
                let _ = one.send(result.clone()); // whoever asked may have gone
            }
        }
    }

    /// Let clients in, or take over those that wait for the volume.
    fn offer(self: &Rc<Self>, gateway: &Rc<Gateway>) -> Result<(), String> {
        let exporting = match standby::take(gateway, self) {
            Some(exporting) => exporting,
            None => export::offer(gateway, &Place::of(self))?,
        };
        *self.exporting.borrow_mut() = Some(exporting);
        Ok(())
    }

    /// Wait until the volume serves.
    ///
    /// # Errors
    /// It was closed or fenced meanwhile, or the export could not be offered.
    pub async fn wait_open(&self) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        match &mut *self.opened.borrow_mut() {
            Opening::Done(result) => return result.clone(),
            Opening::Waiting(waiting) => waiting.push(done),
        }
        wait.await.unwrap_or_else(|_| Err("the volume was closed meanwhile".to_owned()))
    }

    /// Ask the volume something.
    ///
    /// # Errors
    /// What it says, or that it was closed meanwhile.
    pub async fn control(self: &Rc<Self>, request: ControlRequest) -> Result<ControlAnswer, String> {
        self.ask(request).await.unwrap_or_else(|_| Err("the volume was closed meanwhile".to_owned()))
    }

    /// Ask the volume something: it has heard it when this returns, and answers later.
    pub fn ask(self: &Rc<Self>, request: ControlRequest) -> oneshot::Receiver<Result<ControlAnswer, String>> {
        let id = self.next_control.get() + 1;
        self.next_control.set(id);
        let (done, wait) = oneshot::channel();
        self.controls.borrow_mut().insert(id, done);
        self.apply(Event::Control { id, request });
        wait
    }

    /// Whether a snapshot of this kind could be taken now.
    ///
    /// # Errors
    /// Why not.
    pub fn may_snapshot(&self, parents: &[LayerId], head: LayerId) -> Result<(), String> {
        self.volume.borrow().may_snapshot(parents, head)
    }

    /// Flush, stop.
    ///
    /// # Errors
    /// It was closed by somebody else meanwhile.
    pub async fn close(self: &Rc<Self>) -> Result<ControlAnswer, String> {
        self.control(ControlRequest::Close).await
    }

    /// Take no new requests; clients are cut off without answers, so that they come back and ask again.
    pub fn stop_guests(&self) {
        self.exporting.borrow_mut().take();
    }

    /// Forget everything at once. What was acknowledged is on the servers.
    pub fn over(self: &Rc<Self>, gateway: &Rc<Gateway>, reason: &str) {
        self.stop_guests();
        self.peers.borrow_mut().clear();
        self.guests.borrow_mut().clear();
        self.controls.borrow_mut().clear();
        gateway.hub.forget(self);
        if let Opening::Waiting(waiting) = self.opened.replace(Opening::Done(Err(reason.to_owned()))) {
            for one in waiting {
                let _ = one.send(Err(reason.to_owned())); // whoever asked may have gone
            }
        }
        let mut volumes = gateway.volumes.borrow_mut();
        if volumes.get(&self.id).is_some_and(|served| Rc::ptr_eq(served, self)) {
            volumes.remove(&self.id);
        }
    }
}

/// A connection to a server, from dialling to its end.
async fn peer(served: Rc<Served>, gateway: Rc<Gateway>, link: LinkId, address: String) {
    let reason = match connect(&gateway, &address).await {
        Ok((stream, buffer)) => {
            let (reader, writer) = stream.into_split();
            let conn = Conn::tcp(writer);
            if let Some(peer) = served.peers.borrow_mut().get_mut(&link) {
                peer.conn = Some(Rc::clone(&conn));
            }
            served.apply(Event::Connected { link });
            tokio::select! {
                reason = receive(&served, link, reader, buffer) => reason,
                () = conn.drain() => "it cannot be written to".to_owned(),
            }
        }
        Err(reason) => reason,
    };
    // Removed without being dropped: dropping it would abort this very task before it has told the volume.
    let me = served.peers.borrow_mut().remove(&link);
    served.apply(Event::Closed { link, reason });
    drop(me);
}

async fn receive(
    served: &Rc<Served>,
    link: LinkId,
    mut reader: tokio::net::tcp::OwnedReadHalf,
    mut buffer: BytesMut,
) -> String {
    loop {
        if buffer.capacity() - buffer.len() < RECEIVE_BYTES_MIN {
            buffer.reserve(RECEIVE_BYTES);
        }
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return "closed by the server".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        loop {
            match Frame::parse(&mut buffer) {
                Ok(Some(frame)) => served.apply(Event::Frame { link, frame }),
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
    }
}

/// Connect and prove each other the cluster secret.
async fn connect(gateway: &Gateway, address: &str) -> Result<(TcpStream, BytesMut), String> {
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let shaken = tokio::time::timeout(limit, async {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let tls = yuntai_tls::connect(gateway.tls.as_ref(), stream).await;
        let mut stream = tls.map_err(|error| format!("TLS: {error}"))?;
        let mut handshake = ClientHandshake::new(&gateway.secret, &gateway.name(), random());
        let mut buffer = BytesMut::with_capacity(RECEIVE_BYTES);
        loop {
            let parsed = Frame::parse_within(&mut buffer, HANDSHAKE_BODY_BYTES_MAX, 0);
            let Some(frame) = parsed.map_err(|error| error.to_string())? else {
                if stream.read_buf(&mut buffer).await.map_err(|error| error.to_string())? == 0 {
                    return Err("closed in the handshake".to_owned());
                }
                continue;
            };
            match handshake.on_frame(&frame).map_err(|error| error.to_string())? {
                ClientStep::Send(frame) => {
                    let bytes = [&frame.header.encode()[..], &frame.body].concat();
                    stream.write_all(&bytes).await.map_err(|error| error.to_string())?;
                }
                ClientStep::Done { .. } => return Ok((stream, buffer)),
            }
        }
    });
    shaken.await.unwrap_or_else(|_| Err("no handshake in time".to_owned()))
}
