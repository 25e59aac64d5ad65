//! The writing half of a connection, and the one place where queues are written out.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;

use bytes::Bytes;
use tokio::net::{tcp, unix};
use tokio::sync::Notify;
use yuntai_proto::outbox::Outbox;
use yuntai_proto::Frame;

/// Pieces of one vectored write.
const SLICES: usize = 128;

#[derive(Debug)]
enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl Writer {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(slices),
            Self::Unix(half) => half.try_write_vectored(slices),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.writable().await,
            Self::Unix(half) => half.writable().await,
        }
    }
}

/// What is to be sent on one connection.
#[derive(Debug)]
pub struct Conn {
    writer: Writer,
    outbox: RefCell<Outbox>,
    /// In the flusher's list.
    queued: Cell<bool>,
    /// The socket is full: its own task waits for it.
    blocked: Cell<bool>,
    wait: Notify,
    /// Nothing can be sent any more.
    dead: Cell<bool>,
}

impl Conn {
    /// Over TCP.
    #[must_use]
    pub fn tcp(half: tcp::OwnedWriteHalf) -> Rc<Self> {
        Self::new(Writer::Tcp(half))
    }

    /// Over a unix socket.
    #[must_use]
    pub fn unix(half: unix::OwnedWriteHalf) -> Rc<Self> {
        Self::new(Writer::Unix(half))
    }

    fn new(writer: Writer) -> Rc<Self> {
        Rc::new(Self {
            writer,
            outbox: RefCell::new(Outbox::new()),
            queued: Cell::new(false),
            blocked: Cell::new(false),
            wait: Notify::new(),
            dead: Cell::new(false),
        })
    }

    /// Queue a frame. The caller marks the connection at the flusher.
    pub fn push(&self, frame: &Frame) {
        if !self.dead.get() {
            self.outbox.borrow_mut().push(frame);
        }
    }

    /// Queue bytes.
    pub fn push_bytes(&self, bytes: &Bytes) {
        if !self.dead.get() {
            self.outbox.borrow_mut().push_bytes(bytes);
        }
    }

    /// Queue something of another protocol.
    pub fn with_outbox<T>(&self, use_it: impl FnOnce(&mut Outbox) -> T) -> T {
        use_it(&mut self.outbox.borrow_mut())
    }

    /// Bytes that wait.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.outbox.borrow().len()
    }

    /// Nothing can be sent any more.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Write as much as the socket takes.
    fn flush(&self) {
        if self.blocked.get() || self.dead.get() {
            return;
        }
        let mut outbox = self.outbox.borrow_mut();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = outbox.slices(&mut slices);
            match self.writer.try_write_vectored(&slices[..used]) {
                Ok(written) => outbox.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.set(true);
                    self.wait.notify_one();
                    return;
                }
                Err(_) => {
                    self.dead.set(true);
                    *outbox = Outbox::new();
                    self.wait.notify_one();
                    return;
                }
            }
        }
    }

    /// Run beside the reader: carry on when a full socket has room again. Returns when nothing can be sent any more.
    pub async fn drain(&self) {
        loop {
            self.wait.notified().await;
            if self.dead.get() {
                return;
            }
            if self.writer.writable().await.is_err() {
                self.dead.set(true);
                return;
            }
            self.blocked.set(false);
            self.flush();
        }
    }
}

/// Writes every marked connection once per turn: its task is woken by the first mark and runs after all the tasks that
/// were ready before it.
#[derive(Debug, Default)]
pub struct Flusher {
    marked: RefCell<Vec<Rc<Conn>>>,
    wake: Notify,
}

impl Flusher {
    /// There is something to send on `conn`.
    pub fn mark(&self, conn: &Rc<Conn>) {
        if !conn.queued.replace(true) {
            let mut marked = self.marked.borrow_mut();
            if marked.is_empty() {
                self.wake.notify_one();
            }
            marked.push(Rc::clone(conn));
        }
    }

    /// Write now.
    pub fn flush(&self) {
        let marked = std::mem::take(&mut *self.marked.borrow_mut());
        for conn in marked {
            conn.queued.set(false);
            conn.flush();
        }
    }

    /// For ever.
    pub async fn run(&self) {
        loop {
            self.wake.notified().await;
            self.flush();
        }
    }
}
