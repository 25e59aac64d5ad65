//! Places kept for volumes that another gateway still writes: where live migrations come to.
//!
//! QEMU at the destination of a migration connects to its disks long before the guest runs there. Only one gateway may
//! write a volume, so it cannot be opened here yet; what is offered instead is an export of the right size that holds
//! whatever is asked of it. The first read or write says that the guest runs here. Then, and not before, the master is
//! asked; it grants the next generation to this gateway and has it open the volume, and what was held goes on.
//!
//! Why this loses nothing: QEMU keeps the destination's disks inactive until the source has stopped its guest, drained
//! and flushed its disks, made them inactive too and said so. So the first request here comes after the source's last
//! answer, and an acknowledged write of the source is on every in-sync replica, where the claims of the new generation
//! find it. Should anything of the source write all the same (it took the migration for failed, say), the generation
//! at the replicas refuses it.
//!
//! It relies on nothing being read before: the format is raw and named, so nothing is probed, and the disk's geometry is
//! given in the domain, or QEMU would look for a partition table when it makes the device. A flush is answered here:
//! nothing was written through this place yet.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use yuntai_proto::control::{EventAnswer, Opened, StandbyEvent};
use yuntai_proto::{VolumeId, BLOCK_BYTES};

use super::export::{check_name, offer, socket_path, Exporting};
use super::served::Served;
use super::Gateway;
use crate::nbd::negotiate::Export;

/// Volumes that may be awaited at the same time.
const STANDBYS_MAX: usize = 1024;
/// Time until a master that refused is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a listener leads to: an open volume, or the place of one that is to come.
#[derive(Debug)]
pub struct Place {
    volume: VolumeId,
    export: String,
    /// The size until the volume is here.
    size_bytes: u64,
    /// Which migration is awaited; empty when the volume was here from the start.
    ticket: String,
    served: RefCell<Option<Rc<Served>>>,
    filled: Notify,
    asked: Cell<bool>,
}

impl Place {
    /// The place of a volume that is open.
    #[must_use]
    pub fn of(served: &Rc<Served>) -> Rc<Self> {
        Rc::new(Self {
            volume: served.id,
            export: served.export.clone(),
            size_bytes: served.size_bytes(),
            ticket: String::new(),
            served: RefCell::new(Some(Rc::clone(served))),
            filled: Notify::new(),
            asked: Cell::new(true),
        })
    }

    /// `vol-<16 hex digits>`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("vol-{:016x}", self.volume)
    }

    /// The open volume, if it is here.
    #[must_use]
    pub fn served(&self) -> Option<Rc<Served>> {
        self.served.borrow().clone()
    }

    /// What an NBD client is told.
    #[must_use]
    pub fn described(&self) -> Export {
        let served = self.served();
        Export {
            name: self.export.clone(),
            size_bytes: served.as_ref().map_or(self.size_bytes, |served| served.size_bytes()),
            read_only: self.read_only(),
        }
    }

    /// Writes are refused.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.served().is_some_and(|served| served.read_only)
    }

    /// Wait for the volume, and see to it that it comes.
    pub async fn wanted(self: &Rc<Self>, gateway: &Rc<Gateway>) -> Rc<Served> {
        loop {
            if let Some(served) = self.served() {
                return served;
            }
            // One thread: the volume cannot come between the look and the wait.
            let filled = self.filled.notified();
            if !self.asked.replace(true) {
                self.ask(gateway);
            }
            filled.await;
        }
    }

    fn ask(self: &Rc<Self>, gateway: &Rc<Gateway>) {
        tracing::info!(volume = self.name(), ticket = self.ticket, "the guest runs here now: asking for its volume");
        let event = StandbyEvent::Wanted { volume: self.volume, ticket: self.ticket.clone() };
        gateway.hub.raise_wanted(&gateway.flusher, self, &event);
    }

    fn fill(&self, served: &Rc<Served>) {
        *self.served.borrow_mut() = Some(Rc::clone(served));
        self.filled.notify_waiters();
    }

    /// The master answered what [`Self::wanted`] asked.
    pub fn answered(self: &Rc<Self>, gateway: &Rc<Gateway>, answer: &EventAnswer) {
        if self.served().is_some() {
            return;
        }
        match answer {
            EventAnswer::Fenced {} => end(gateway, self.volume, &self.ticket),
            // It was opened here and is gone again already, or the master waits for something.
            _ => {
                let (gateway, here) = (Rc::clone(gateway), Rc::clone(self));
                spawn_local(async move {
                    tokio::time::sleep(ASK_AGAIN).await;
                    let awaited = gateway.standbys.borrow().get(&here.volume).is_some_and(|one| one.is(&here));
                    if awaited && here.served().is_none() {
                        here.ask(&gateway);
                    }
                });
            }
        }
    }
}

/// A place that is not taken yet, with its listener. Dropping it cuts the clients off.
#[derive(Debug)]
pub struct Standby {
    place: Rc<Place>,
    exporting: Exporting,
}

impl Standby {
    fn is(&self, place: &Rc<Place>) -> bool {
        Rc::ptr_eq(&self.place, place)
    }

    /// Which migration it is for.
    #[must_use]
    pub fn ticket(&self) -> &str {
        &self.place.ticket
    }
}

/// Keep a place.
///
/// # Errors
/// A field is wrong, there are too many, or the socket cannot be bound.
pub fn begin(
    gateway: &Rc<Gateway>,
    volume: VolumeId,
    ticket: String,
    size_bytes: u64,
    export: String,
) -> Result<Opened, String> {
    if size_bytes == 0 || size_bytes % BLOCK_BYTES as u64 != 0 {
        return Err(format!("size_bytes {size_bytes} must be a multiple of {BLOCK_BYTES} above 0"));
    }
    if ticket.is_empty() || export.is_empty() {
        return Err("ticket and export must not be empty: a place is kept for one migration".to_owned());
    }
    check_name(gateway, &export)?;
    let socket = socket_path(gateway, &export).display().to_string();
    let same = gateway.standbys.borrow().get(&volume).is_some_and(|one| one.ticket() == ticket);
    if !same {
        if gateway.standbys.borrow().len() >= STANDBYS_MAX {
            return Err(format!("{STANDBYS_MAX} volumes are awaited here: wait until some have come"));
        }
        // What is still open here lost its generation to where the volume is now; its socket has the same name.
        if let Some(older) = gateway.volume(volume) {
            older.over(gateway, "the volume is awaited here from another gateway");
        }
        gateway.standbys.borrow_mut().remove(&volume);
        let place = Rc::new(Place {
            volume,
            export,
            size_bytes,
            ticket,
            served: RefCell::default(),
            filled: Notify::new(),
            asked: Cell::new(false),
        });
        let exporting = offer(gateway, &place)?;
        tracing::info!(volume = place.name(), ticket = place.ticket, "a volume is awaited");
        gateway.standbys.borrow_mut().insert(volume, Standby { place, exporting });
    }
    Ok(Opened { socket, generation: 0 })
}

/// Nobody will come.
pub fn end(gateway: &Gateway, volume: VolumeId, ticket: &str) {
    let mut standbys = gateway.standbys.borrow_mut();
    if standbys.get(&volume).is_some_and(|one| one.ticket() == ticket) {
        let standby = standbys.remove(&volume);
        drop(standbys);
        tracing::info!(volume = format!("vol-{volume:016x}"), ticket, "a volume is no longer awaited");
        drop(standby);
    }
}

/// The volume is open here: give it the place that was kept, if there is one, with the clients in it.
pub fn take(gateway: &Gateway, served: &Rc<Served>) -> Option<Exporting> {
    let mut standbys = gateway.standbys.borrow_mut();
    if standbys.get(&served.id)?.place.export != served.export {
        return None;
    }
    let standby = standbys.remove(&served.id)?;
    drop(standbys);
    standby.place.fill(served);
    Some(standby.exporting)
}
