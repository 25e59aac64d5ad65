//! NBD on a unix socket: a listener per volume, a task per client.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{unix, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::{spawn_local, AbortHandle};
use yuntai_proto::Strangers;

use super::conn::Conn;
use super::served::{Served, RECEIVE_BYTES, RECEIVE_BYTES_MIN};
use super::standby::Place;
use super::Gateway;
use crate::api::{GuestData, GuestError, GuestOp};
use crate::nbd::codec::{command, Request};
use crate::nbd::negotiate::{Agreed, Negotiation, Step};
use crate::nbd::transmit::{refuse, reply, take, Want};

/// Clients of one volume that are through the negotiation.
const CLIENTS_MAX: usize = 16;
/// Clients of one volume that are not: one more takes the place of the one that has been at it longest.
const STRANGERS_MAX: usize = 256;
/// Requests of one client that are worked on; above it nothing more is read from it.
const REQUESTS_MAX: usize = 256;
/// Bytes of requests of one client, and bytes of replies that it has not fetched.
const CLIENT_BYTES_MAX: u64 = 40 << 20;
/// Bytes of requests of all clients of a volume.
const VOLUME_BYTES_MAX: u64 = 128 << 20;
/// Requests of one client in one turn; then the others come first.
const TURN: usize = 64;
/// A client must be through the negotiation by then.
const NEGOTIATION: Duration = Duration::from_secs(10);

/// A client that has been let in.
#[derive(Debug)]
pub struct Client {
    /// Where its replies go.
    pub conn: Rc<Conn>,
    agreed: Agreed,
    requests: Cell<usize>,
    bytes: Cell<u64>,
    room: Notify,
    cut: Notify,
}

impl Client {
    /// Answer one of its requests.
    pub(crate) fn answer(&self, request: &Request, bytes: u64, result: Result<GuestData, GuestError>) {
        self.requests.set(self.requests.get() - 1);
        self.bytes.set(self.bytes.get() - bytes);
        self.room.notify_one();
        if !self.conn.is_dead() && !self.conn.with_outbox(|out| reply(out, request, self.agreed, result)) {
            self.cut.notify_one();
        }
    }

    fn full(&self, served: &Served) -> bool {
        self.requests.get() >= REQUESTS_MAX
            || self.bytes.get() >= CLIENT_BYTES_MAX
            || self.conn.queued_bytes() as u64 >= CLIENT_BYTES_MAX
            || served.guest_bytes.get() >= VOLUME_BYTES_MAX
    }
}

/// A listener and its clients; dropping it cuts them all off.
#[derive(Debug)]
pub struct Exporting {
    path: PathBuf,
    listener: AbortHandle,
    clients: Rc<RefCell<Vec<AbortHandle>>>,
    renewal: Rc<Renewal>,
}

impl Exporting {
    /// Let the clients of now go when what they asked is answered: an NBD client learns of a new size only when it
    /// connects.
    pub fn renew(&self) {
        self.renewal.times.set(self.renewal.times.get() + 1);
        self.renewal.asked.notify_waiters();
    }
}

/// How often the clients were asked to come again.
#[derive(Debug, Default)]
struct Renewal {
    times: Cell<u64>,
    asked: Notify,
}

impl Drop for Exporting {
    fn drop(&mut self) {
        self.listener.abort();
        self.clients.borrow().iter().for_each(AbortHandle::abort);
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the clients of a listener share.
struct Door {
    strangers: Strangers<AbortHandle>,
    /// One reference more for each client that is through the negotiation.
    inside: Rc<()>,
    renewal: Rc<Renewal>,
}

/// Path of an export's socket.
#[must_use]
pub fn socket_path(gateway: &Gateway, export: &str) -> PathBuf {
    gateway.config.nbd_dir.join(format!("{export}.sock"))
}

/// Names become file names.
///
/// # Errors
/// With what is wrong with it.
pub fn check_name(gateway: &Gateway, export: &str) -> Result<(), String> {
    let plain = export.chars().all(|one| one.is_ascii_alphanumeric() || "-_.".contains(one));
    if !plain || export.starts_with('.') {
        return Err(format!("export {export:?}: use letters, digits, '-', '_' and '.', not '.' in front"));
    }
    let len = socket_path(gateway, export).as_os_str().len();
    if len > 107 {
        return Err(format!("export {export:?}: its socket's path has {len} bytes, and the system allows 107"));
    }
    Ok(())
}

/// Listen for a volume's clients.
///
/// # Errors
/// The socket cannot be bound.
pub(crate) fn offer(gateway: &Rc<Gateway>, place: &Rc<Place>) -> Result<Exporting, String> {
    let path = socket_path(gateway, &place.described().name);
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    if let Err(error) = std::fs::remove_file(&path) {
        if error.kind() != std::io::ErrorKind::NotFound {
            return Err(named(error));
        }
    }
    // Bound under another name and moved when its mode is right: nobody can connect in between.
    let hidden = path.with_extension("new");
    let _ = std::fs::remove_file(&hidden); // left by a crash, or not there
    let listener = UnixListener::bind(&hidden).map_err(named)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
    std::fs::rename(&hidden, &path).map_err(named)?;
    let clients: Rc<RefCell<Vec<AbortHandle>>> = Rc::default();
    let renewal: Rc<Renewal> = Rc::default();
    let task = accept(Rc::clone(gateway), Rc::clone(place), listener, Rc::clone(&clients), Rc::clone(&renewal));
    let listener = spawn_local(task).abort_handle();
    Ok(Exporting { path, listener, clients, renewal })
}

async fn accept(
    gateway: Rc<Gateway>,
    place: Rc<Place>,
    listener: UnixListener,
    clients: Rc<RefCell<Vec<AbortHandle>>>,
    renewal: Rc<Renewal>,
) {
    let door = Rc::new(Door { strangers: Strangers::new(STRANGERS_MAX), inside: Rc::default(), renewal });
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(volume = place.name(), %error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let number = door.strangers.number();
        let (gateway, place, here) = (Rc::clone(&gateway), Rc::clone(&place), Rc::clone(&door));
        let task = spawn_local(async move {
            client(&gateway, &place, stream, &here, number).await;
            here.strangers.remove(number);
        });
        if let Some(oldest) = door.strangers.add(number, task.abort_handle()) {
            oldest.abort();
        }
        let mut clients = clients.borrow_mut();
        if clients.len() >= 2 * (CLIENTS_MAX + STRANGERS_MAX) {
            clients.retain(|client| !client.is_finished());
        }
        clients.push(task.abort_handle());
    }
}

async fn client(gateway: &Rc<Gateway>, place: &Rc<Place>, stream: UnixStream, door: &Door, number: u64) {
    let times = door.renewal.times.get();
    let (mut reader, writer) = stream.into_split();
    let conn = Conn::unix(writer);
    let work = async {
        let mut buffer = BytesMut::new();
        let talk = negotiate(gateway, place, &conn, &mut reader, &mut buffer);
        let Ok(Some(agreed)) = tokio::time::timeout(NEGOTIATION, talk).await else { return };
        door.strangers.remove(number);
        let held = Rc::clone(&door.inside);
        if Rc::strong_count(&held) - 2 >= CLIENTS_MAX {
            if let Some(untold) = door.strangers.tell(Instant::now()) {
                tracing::warn!(volume = place.name(), untold, "too many clients: one was turned away");
            }
            return;
        }
        let client = Rc::new(Client {
            conn: Rc::clone(&conn),
            agreed,
            requests: Cell::new(0),
            bytes: Cell::new(0),
            room: Notify::new(),
            cut: Notify::new(),
        });
        tokio::select! {
            () = transmit(gateway, place, &client, &mut reader, &mut buffer, (&door.renewal, times)) => {}
            () = client.cut.notified() => {}
        }
        drop(held);
    };
    tokio::select! {
        () = work => {}
        () = conn.drain() => {}
    }
}

async fn negotiate(
    gateway: &Gateway,
    place: &Place,
    conn: &Rc<Conn>,
    reader: &mut unix::OwnedReadHalf,
    buffer: &mut BytesMut,
) -> Option<Agreed> {
    let mut out = BytesMut::new();
    let mut negotiation = Negotiation::new(place.described(), &mut out);
    loop {
        let step = negotiation.feed(buffer, &mut out);
        conn.push_bytes(&out.split().freeze());
        gateway.flusher.mark(conn);
        match step {
            Step::Transmit(agreed) => return Some(agreed),
            Step::Close => {
                gateway.flusher.flush();
                return None;
            }
            Step::More => {}
        }
        buffer.reserve(RECEIVE_BYTES_MIN);
        if !matches!(reader.read_buf(buffer).await, Ok(1..)) {
            return None;
        }
    }
}

async fn transmit(
    gateway: &Rc<Gateway>,
    place: &Rc<Place>,
    client: &Rc<Client>,
    reader: &mut unix::OwnedReadHalf,
    buffer: &mut BytesMut,
    (renewal, times): (&Renewal, u64),
) {
    let mut turn = 0;
    loop {
        while let Some(want) = take(buffer, client.agreed, place.read_only()) {
            match want {
                Want::Op(request, GuestOp::Flush) if place.served().is_none() => {
                    // Through a place that nobody has taken yet nothing was written.
                    client.conn.with_outbox(|out| reply(out, &request, client.agreed, Ok(GuestData::Done)));
                    gateway.flusher.mark(&client.conn);
                }
                Want::Op(request, op) => {
                    let served = place.wanted(gateway).await;
                    let bytes = match request.command {
                        command::READ | command::WRITE => u64::from(request.len),
                        _ => 0,
                    };
                    client.requests.set(client.requests.get() + 1);
                    client.bytes.set(client.bytes.get() + bytes);
                    served.submit(client, request, bytes, op);
                }
                Want::Refuse(request, number) => {
                    client.conn.with_outbox(|out| refuse(out, &request, client.agreed, number));
                    gateway.flusher.mark(&client.conn);
                }
                Want::Leave => return finish(client).await,
            }
            while place.served().is_some_and(|served| client.full(&served)) {
                // A reply makes room and wakes us; the time limit is for room that others make.
                let _ = tokio::time::timeout(Duration::from_millis(20), client.room.notified()).await;
                if has_left(reader).await {
                    return;
                }
            }
            turn += 1;
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        if buffer.capacity() - buffer.len() < RECEIVE_BYTES_MIN {
            buffer.reserve(RECEIVE_BYTES);
        }
        let asked = renewal.asked.notified();
        if renewal.times.get() != times {
            return finish(client).await;
        }
        tokio::select! {
            read = reader.read_buf(buffer) => if !matches!(read, Ok(1..)) { return },
            () = asked => return finish(client).await,
        }
        turn = 0;
    }
}

/// Nothing is read from a client that is full, so its end has to be looked for.
async fn has_left(reader: &unix::OwnedReadHalf) -> bool {
    match tokio::time::timeout(Duration::ZERO, reader.ready(Interest::READABLE)).await {
        Ok(Ok(ready)) => ready.is_read_closed(),
        Ok(Err(_)) => true,
        Err(_) => false,
    }
}

/// A client that takes its leave gets the answers that are under way, within reason.
async fn finish(client: &Client) {
    let all = async {
        while client.requests.get() > 0 || client.conn.queued_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
}
