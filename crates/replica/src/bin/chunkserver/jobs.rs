//! The helper threads: some write in place, one syncs the journal, one runs checkpoints, one gives the room of unlinked
//! files back, one does what somebody waits for and one what nobody waits for.

use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use yuntai_replica::{Event, WorkJob};
use yuntai_store::vfs::OsVfs;
use yuntai_store::{CheckpointJob, SyncTicket, Unlinked, WriteJob};

/// Threads that write in place.
const WRITERS: usize = 3;

/// Where the helpers are given work.
pub(crate) struct Jobs {
    writers: Vec<Sender<Arc<WriteJob<OsVfs>>>>,
    syncs: Sender<SyncTicket<OsVfs>>,
    checkpoints: Sender<Box<CheckpointJob<OsVfs>>>,
    unlinked: Sender<Box<Unlinked<OsVfs>>>,
    urgent: Sender<Box<WorkJob<OsVfs>>>,
    work: Sender<Box<WorkJob<OsVfs>>>,
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

/// One of several that help with the same job; the one that ends it says so.
fn writer(number: usize, done: UnboundedSender<Event<OsVfs>>) -> std::io::Result<Sender<Arc<WriteJob<OsVfs>>>> {
    let (sender, receiver) = channel::<Arc<WriteJob<OsVfs>>>();
    std::thread::Builder::new().name(format!("write-{number}")).spawn(move || {
        for job in receiver {
            if job.help() && done.send(Event::Written(job)).is_err() {
                return;
            }
        }
    })?;
    Ok(sender)
}

/// Takes things to their end.
fn dropper<T: Send + 'static>(name: &str) -> std::io::Result<Sender<T>> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name(name.into()).spawn(move || receiver.into_iter().for_each(drop))?;
    Ok(sender)
}

/// Step by step to the end, or to the first error.
fn run(mut step: impl FnMut() -> std::io::Result<bool>) -> std::io::Result<()> {
    while !step()? {}
    Ok(())
}

impl Jobs {
    /// Start the helpers; what they have done comes as events.
    pub(crate) fn start(done: &UnboundedSender<Event<OsVfs>>) -> std::io::Result<Self> {
        let syncs = helper("sync", done.clone(), |ticket: SyncTicket<OsVfs>| {
            let result = ticket.run();
            Event::Synced { ticket, result }
        })?;
        let checkpoints = helper("checkpoint", done.clone(), |mut job: Box<CheckpointJob<OsVfs>>| {
            let result = run(|| job.step());
            Event::Checkpointed { job, result }
        })?;
        let unlinked = dropper("unlinked")?;
        let work = |mut job: Box<WorkJob<OsVfs>>| {
            let result = run(|| job.step());
            Event::Worked { job, result }
        };
        let urgent = helper("urgent", done.clone(), work)?;
        let work = helper("work", done.clone(), work)?;
        let writers = (0..WRITERS).map(|number| writer(number, done.clone())).collect::<Result<_, _>>()?;
        Ok(Self { writers, syncs, checkpoints, unlinked, urgent, work })
    }

    /// The helpers end only when this value does, so giving them work cannot fail before.
    pub(crate) fn write(&self, job: &Arc<WriteJob<OsVfs>>) {
        for writer in self.writers.iter().take(job.pieces()) {
            writer.send(Arc::clone(job)).expect("the write threads live as long as the server");
        }
    }

    pub(crate) fn sync(&self, ticket: SyncTicket<OsVfs>) {
        self.syncs.send(ticket).expect("the sync thread lives as long as the server");
    }

    pub(crate) fn checkpoint(&self, job: Box<CheckpointJob<OsVfs>>) {
        self.checkpoints.send(job).expect("the checkpoint thread lives as long as the server");
    }

    pub(crate) fn drop(&self, unlinked: Box<Unlinked<OsVfs>>) {
        self.unlinked.send(unlinked).expect("the unlinked thread lives as long as the server");
    }

    pub(crate) fn work(&self, job: Box<WorkJob<OsVfs>>) {
        let to = if job.is_urgent() { &self.urgent } else { &self.work };
        to.send(job).expect("the work threads live as long as the server");
    }
}
