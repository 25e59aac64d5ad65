//! One connection: its send queue, and who sends it.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;

use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use yuntai_proto::{Frame, Outbox};

/// Pieces of one vectored write.
const PIECES: usize = 64;
/// A peer that lets so much pile up does not read: it is cut.
pub(crate) const UNSENT_BYTES_MAX: usize = 64 << 20;
/// A peer is not read while so much of its answers waits.
pub(crate) const UNSENT_BYTES_PAUSE: usize = 8 << 20;

/// The sending side of a connection.
pub(crate) struct Peer {
    socket: OwnedWriteHalf,
    outbox: RefCell<Outbox>,
    /// The socket took no more: [`Peer::drain`] goes on.
    blocked: Notify,
    closed: Cell<bool>,
    /// Ends the reading side.
    pub(crate) ended: Notify,
}

impl Peer {
    pub(crate) fn new(socket: OwnedWriteHalf) -> Rc<Self> {
        Rc::new(Self {
            socket,
            outbox: RefCell::default(),
            blocked: Notify::new(),
            closed: Cell::new(false),
            ended: Notify::new(),
        })
    }

    pub(crate) fn push(&self, frame: &Frame) {
        self.outbox.borrow_mut().push(frame);
    }

    pub(crate) fn unsent_bytes(&self) -> usize {
        self.outbox.borrow().len()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// No more frames. What was queued before may still go out, if the socket takes it at once.
    pub(crate) fn close(&self) {
        if !self.closed.replace(true) {
            self.ended.notify_one();
            self.blocked.notify_one();
        }
    }

    /// Send what the socket takes now; the rest is left to [`Peer::drain`].
    pub(crate) fn flush(&self) {
        let mut outbox = self.outbox.borrow_mut();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let used = outbox.slices(&mut slices);
            match self.socket.try_write_vectored(&slices[..used]) {
                Ok(written) => outbox.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.notify_one();
                    return;
                }
                Err(_) => return self.close(),
            }
        }
    }

    /// Go on sending whenever the socket was full, until the connection is closed.
    pub(crate) async fn drain(self: Rc<Self>) {
        loop {
            self.blocked.notified().await;
            while !self.closed.get() && self.unsent_bytes() > 0 {
                if self.socket.writable().await.is_err() {
                    self.close();
                    break;
                }
                self.flush();
            }
            if self.closed.get() {
                return;
            }
        }
    }
}
