//! The two helper threads: one syncs the journal, one runs checkpoints.

use std::sync::mpsc::{channel, Sender};

use tokio::sync::mpsc::UnboundedSender;
use yuntai_replica::Event;
use yuntai_store::vfs::OsVfs;
use yuntai_store::{CheckpointJob, SyncTicket};

/// Where the helpers are given work.
pub(crate) struct Jobs {
    syncs: Sender<SyncTicket<OsVfs>>,
    checkpoints: Sender<Box<CheckpointJob<OsVfs>>>,
}

fn helper<T: Send + 'static>(
    name: &str,
    done: UnboundedSender<Event<OsVfs>>,
    work: impl Fn(T) -> Event<OsVfs> + Send + 'static,
) -> std::io::Result<Sender<T>> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        for job in receiver {
            if done.send(work(job)).is_err() {
                return;
            }
        }
    })?;
    Ok(sender)
}

impl Jobs {
    /// Start the helpers; what they have done comes as events.
    pub(crate) fn start(done: &UnboundedSender<Event<OsVfs>>) -> std::io::Result<Self> {
        let syncs = helper("sync", done.clone(), |ticket: SyncTicket<OsVfs>| {
            let result = ticket.run();
            Event::Synced { ticket, result }
        })?;
        let checkpoints = helper("checkpoint", done.clone(), |mut job: Box<CheckpointJob<OsVfs>>| {
            let result = loop {
                match job.step() {
                    Ok(true) => break Ok(()),
                    Ok(false) => {}
                    Err(error) => break Err(error),
                }
            };
            Event::Checkpointed { job, result }
        })?;
        Ok(Self { syncs, checkpoints })
    }

    /// The helpers end only when this value does, so giving them work cannot fail before.
    pub(crate) fn sync(&self, ticket: SyncTicket<OsVfs>) {
        self.syncs.send(ticket).expect("the sync thread lives as long as the server");
    }

    pub(crate) fn checkpoint(&self, job: Box<CheckpointJob<OsVfs>>) {
        self.checkpoints.send(job).expect("the checkpoint thread lives as long as the server");
    }
}
