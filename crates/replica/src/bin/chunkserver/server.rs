//! The shell: sockets, clock and threads around the state machine. One thread does everything that is quick; what a
//! connection's frames ask for is staged, appended, answered and sent in one go, without changing tasks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver};
use tokio::sync::Notify;
use tokio::task::{spawn_local, AbortHandle};
use yuntai_proto::frame::FrameError;
use yuntai_proto::{Intake, Kind, Pulse, Strangers, BLOCK_BYTES};
use yuntai_replica::{Action, ConnectionId, DialId, Event, Now, Replica};
use yuntai_store::vfs::OsVfs;
use yuntai_tls::Tls;

use crate::config::Config;
use crate::handshake;
use crate::jobs::Jobs;
use crate::peer::{Peer, UNSENT_BYTES_MAX, UNSENT_BYTES_PAUSE};

const TICK: Duration = Duration::from_millis(20);
/// The same while nothing happens.
const IDLE_TICK: Duration = Duration::from_millis(100);
/// A turn ends when what came asks for so much to be read.
const TURN_READ_BYTES: usize = 4 << 20;
/// Wait before a paused connection is looked at again.
const PAUSE: Duration = Duration::from_millis(2);
/// Peers that have not proved themselves yet.
const STRANGERS_MAX: usize = 256;
/// How long a checkpoint that is running at the end is waited for.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(20);
/// The disk broke a promise.
const EXIT_DISK: i32 = 5;

struct Server {
    name: String,
    secret: Vec<u8>,
    tls: Option<Tls>,
    start: Instant,
    replica: RefCell<Replica<OsVfs>>,
    peers: RefCell<BTreeMap<ConnectionId, Rc<Peer>>>,
    jobs: Jobs,
    next_connection: Cell<ConnectionId>,
    strangers: Strangers<AbortHandle>,
    pulse: Pulse,
    woken: Notify,
}

impl Server {
    fn now(&self) -> Now {
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        #[allow(clippy::cast_possible_truncation, reason = "584,000 years")]
        let us = self.start.elapsed().as_micros() as u64;
        Now { us, unix_s }
    }

    fn event(self: &Rc<Self>, event: Event<OsVfs>) {
        if !matches!(event, Event::Tick) && self.pulse.touch() {
            self.woken.notify_one();
        }
        self.replica.borrow_mut().apply(event, self.now());
    }

    /// End the turn and carry out what comes of it.
    fn turn(self: &Rc<Self>) {
        let actions = self.replica.borrow_mut().turn(self.now());
        let mut touched: Vec<(ConnectionId, Rc<Peer>)> = Vec::new();
        for action in actions {
            match action {
                Action::Send { connection, frame } => {
                    let known = touched.iter().find(|(of, _)| *of == connection);
                    let peer = known.map(|(_, peer)| Rc::clone(peer));
                    let found = peer.or_else(|| self.peers.borrow().get(&connection).cloned());
                    if let Some(peer) = found {
                        peer.push(&frame);
                        if known.is_none() {
                            touched.push((connection, peer));
                        }
                    }
                }
                Action::Close { connection, reason } => {
                    if let Some(peer) = self.peers.borrow_mut().remove(&connection) {
                        tracing::info!(connection, reason, "closing");
                        peer.flush();
                        peer.close();
                    }
                }
                Action::Write(job) => self.jobs.write(&job),
                Action::Sync(ticket) => self.jobs.sync(ticket),
                Action::Checkpoint(job) => self.jobs.checkpoint(job),
                Action::Drop(unlinked) => self.jobs.drop(unlinked),
                Action::Work(job) => self.jobs.work(job),
                Action::Dial { dial, address } => {
                    spawn_local(Rc::clone(self).dial(dial, address));
                }
                Action::Die { reason } => {
                    eprintln!("yuntai-chunkserver: {reason}");
                    std::process::exit(EXIT_DISK);
                }
            }
        }
        for (connection, peer) in touched {
            peer.flush();
            if peer.unsent_bytes() > UNSENT_BYTES_MAX {
                tracing::warn!(connection, bytes = peer.unsent_bytes(), "the peer does not read: cut");
                peer.close();
            }
        }
    }

    fn add_peer(self: &Rc<Self>, stream: TcpStream) -> (ConnectionId, Rc<Peer>, OwnedReadHalf) {
        let (reader, writer) = stream.into_split();
        let connection = self.next_connection.get();
        self.next_connection.set(connection + 1);
        let peer = Peer::new(writer);
        self.peers.borrow_mut().insert(connection, Rc::clone(&peer));
        spawn_local(Rc::clone(&peer).drain());
        (connection, peer, reader)
    }

    /// A connection from outside, from its first byte to its last.
    async fn accepted(self: Rc<Self>, stream: TcpStream, number: u64) {
        let peer = stream.peer_addr().ok();
        let proved = self.prove(stream).await;
        self.strangers.remove(number);
        let (stream, name, buffer) = match proved {
            Ok(proved) => proved,
            Err(error) => {
                if let Some(untold) = self.strangers.tell(Instant::now()) {
                    tracing::warn!(%error, ?peer, untold, "handshake failed");
                }
                return;
            }
        };
        let (connection, peer, reader) = self.add_peer(stream);
        self.event(Event::Opened { connection, name });
        self.turn();
        self.read(connection, peer, reader, buffer).await;
    }

    async fn prove(&self, stream: TcpStream) -> std::io::Result<(TcpStream, String, BytesMut)> {
        let mut stream = yuntai_tls::accept(self.tls.as_ref(), stream).await?;
        let (name, buffer) = handshake::accept(&mut stream, &self.secret, &self.name).await?;
        Ok((stream, name, buffer))
    }

    /// A connection that the state machine asked for.
    async fn dial(self: Rc<Self>, dial: DialId, address: String) {
        match handshake::dial(&address, self.tls.as_ref(), &self.secret, &self.name).await {
            Ok((stream, buffer)) => {
                let (connection, peer, reader) = self.add_peer(stream);
                self.event(Event::Dialed { dial, connection });
                self.turn();
                self.read(connection, peer, reader, buffer).await;
            }
            Err(error) => {
                self.event(Event::DialFailed { dial, reason: format!("{address}: {error}") });
                self.turn();
            }
        }
    }

    /// Read, turn by turn, until either side ends it.
    async fn read(
        self: Rc<Self>,
        connection: ConnectionId,
        peer: Rc<Peer>,
        mut reader: OwnedReadHalf,
        begun: BytesMut,
    ) {
        let mut intake = Intake::new(begun);
        loop {
            let followed = self.frames(connection, &mut intake);
            self.turn();
            while self.is_paused(connection, &peer) {
                tokio::time::sleep(PAUSE).await;
            }
            match followed {
                _ if peer.is_closed() => break,
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    tracing::warn!(connection, %error, "the peer's frames cannot be followed");
                    break;
                }
            }
            let mut room = intake.room();
            let read = tokio::select! {
                biased;
                read = reader.read_buf(&mut room) => read,
                () = peer.ended.notified() => break,
            };
            if !matches!(read, Ok(1..)) {
                break;
            }
        }
        peer.close();
        self.peers.borrow_mut().remove(&connection);
        self.event(Event::Closed { connection });
        self.turn();
    }

    /// Take the frames of one turn from the buffer: true if that was all, false if the answers would grow too large.
    fn frames(self: &Rc<Self>, connection: ConnectionId, intake: &mut Intake) -> Result<bool, FrameError> {
        let mut asked_bytes = 0;
        while asked_bytes < TURN_READ_BYTES {
            let Some(frame) = intake.frame()? else { return Ok(true) };
            if matches!(frame.header.kind, Kind::Read | Kind::ReadLayer) {
                asked_bytes += frame.header.blocks as usize * BLOCK_BYTES;
            }
            self.event(Event::Frame { connection, frame });
        }
        Ok(false)
    }

    fn is_paused(&self, connection: ConnectionId, peer: &Peer) -> bool {
        !peer.is_closed() && (peer.unsent_bytes() > UNSENT_BYTES_PAUSE || !self.replica.borrow().wants(connection))
    }

    async fn accept_all(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let number = self.strangers.number();
                    let task = spawn_local(Rc::clone(&self).accepted(stream, number));
                    if let Some(oldest) = self.strangers.add(number, task.abort_handle()) {
                        oldest.abort();
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn tick_all(self: Rc<Self>) {
        loop {
            let _ = tokio::time::timeout(self.pulse.wait(), self.woken.notified()).await;
            self.event(Event::Tick);
            self.turn();
        }
    }

    /// Make everything durable and apply it, so that the next start has nothing to replay.
    async fn finish(&self, done: &mut UnboundedReceiver<Event<OsVfs>>) {
        let deadline = tokio::time::Instant::now() + SHUTDOWN_WAIT;
        self.replica.borrow_mut().commit_all();
        while self.replica.borrow_mut().store().checkpointing() {
            match tokio::time::timeout_at(deadline, done.recv()).await {
                Ok(Some(event)) => self.replica.borrow_mut().apply(event, self.now()),
                Ok(None) | Err(_) => break,
            }
        }
        let mut replica = self.replica.borrow_mut();
        let store = replica.store();
        store.keep_no_spares();
        let Some(mut job) = store.begin_checkpoint() else {
            return tracing::warn!("ending in the middle of a checkpoint; the next start replays the journal");
        };
        let result = loop {
            match job.step() {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
        };
        match result {
            Ok(()) => drop(store.end_checkpoint(job)),
            Err(error) => tracing::warn!(%error, "no checkpoint at the end; the next start replays the journal"),
        }
    }
}

/// Serve until SIGTERM or SIGINT.
pub(crate) async fn serve(config: &Config, secret: Vec<u8>, replica: Replica<OsVfs>) -> Result<(), String> {
    let listener =
        TcpListener::bind(config.listen).await.map_err(|error| format!("listen: {}: {error}", config.listen))?;
    let listening = listener.local_addr().map_err(|error| format!("listen: {}: {error}", config.listen))?;
    let tls = config.tls.as_ref().map(Tls::load).transpose()?;
    let (sender, mut done) = unbounded_channel();
    let jobs = Jobs::start(&sender).map_err(|error| format!("no helper threads: {error}"))?;
    let server = Rc::new(Server {
        name: format!("cs:{}", config.server),
        secret,
        tls,
        start: Instant::now(),
        replica: RefCell::new(replica),
        peers: RefCell::default(),
        jobs,
        next_connection: Cell::new(1),
        strangers: Strangers::new(STRANGERS_MAX),
        pulse: Pulse::new(TICK, IDLE_TICK),
        woken: Notify::new(),
    });
    let signals = || Ok::<_, std::io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?));
    let (mut terminate, mut interrupt) = signals().map_err(|error| format!("signals: {error}"))?;
    let accepting = spawn_local(Rc::clone(&server).accept_all(listener));
    let ticking = spawn_local(Rc::clone(&server).tick_all());
    // The real address: whoever asked for port 0 learns the port from this line.
    tracing::info!(listen = %listening, server = config.server, "serving");
    loop {
        tokio::select! {
            event = done.recv() => {
                if let Some(event) = event {
                    server.event(event);
                    server.turn();
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("ending");
    accepting.abort();
    ticking.abort();
    server.turn();
    server.peers.borrow().values().for_each(|peer| peer.close());
    server.finish(&mut done).await;
    tracing::info!("ended");
    Ok(())
}
