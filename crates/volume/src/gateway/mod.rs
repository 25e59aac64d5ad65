//! The gateway process: real sockets around [`Volume`](crate::Volume)s. One thread, so nothing is locked.
//!
//! Every connection has a task that reads what has come, parses all of it and hands it to the volume; what the volume
//! wants sent is queued, and the [`conn::Flusher`] writes each queue once per turn of the loop with one vectored
//! write. So a burst of requests costs one system call per peer, not one per request.

pub mod config;
pub mod conn;
pub mod control;
pub mod export;
pub mod hub;
pub mod served;
pub mod standby;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::RngCore;
use tokio::sync::Notify;
use yuntai_proto::{Pulse, VolumeId};
use yuntai_tls::Tls;

use crate::api::Micros;
use crate::background::Shared;
use config::GatewayConfig;
use conn::Flusher;
use hub::Hub;
use served::Served;
use standby::Standby;

/// Time between two ticks of the volumes.
const TICK: Duration = Duration::from_millis(10);
/// The same while nothing happens. A volume takes a much longer gap for a pause of this process.
const IDLE_TICK: Duration = Duration::from_millis(100);

/// What all tasks of the process share.
#[derive(Debug)]
pub struct Gateway {
    /// As read from its file.
    pub config: GatewayConfig,
    /// The cluster secret.
    pub secret: Vec<u8>,
    /// Between hosts, if it is wanted.
    pub tls: Option<Tls>,
    /// Writes queues out.
    pub flusher: Flusher,
    /// Events on their way to the master.
    pub hub: Hub,
    /// Limits of background work that were set since the start.
    pub tuned: RefCell<BTreeMap<String, u64>>,
    /// Room and pace of background copying, of all volumes together.
    pub(crate) shared: Shared,
    pulse: Pulse,
    woken: Notify,
    /// Open volumes.
    pub volumes: RefCell<BTreeMap<VolumeId, Rc<Served>>>,
    /// Volume → the generation under which it was closed here last, with everything durable: whoever did not get the
    /// answer asks again.
    pub(crate) closed: RefCell<BTreeMap<VolumeId, u64>>,
    /// Volumes that migrations bring here.
    pub standbys: RefCell<BTreeMap<VolumeId, Standby>>,
    started: Instant,
}

impl Gateway {
    /// A gateway without volumes.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn new(config: GatewayConfig, secret: Vec<u8>) -> Result<Rc<Self>, String> {
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        Ok(Rc::new(Self {
            config,
            secret,
            tls,
            flusher: Flusher::default(),
            hub: Hub::default(),
            tuned: RefCell::default(),
            shared: Shared::default(),
            pulse: Pulse::new(TICK, IDLE_TICK),
            woken: Notify::new(),
            volumes: RefCell::default(),
            closed: RefCell::default(),
            standbys: RefCell::default(),
            started: Instant::now(),
        }))
    }

    /// Microseconds since the start.
    #[must_use]
    pub fn now(&self) -> Micros {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The name that this process proves itself under.
    #[must_use]
    pub fn name(&self) -> String {
        format!("gateway:{}", self.config.host)
    }

    /// The figures for a volume, as they are set now.
    #[must_use]
    pub fn volume_config(&self) -> crate::Config {
        let mut config = self.config.volume();
        // They were checked when they were set.
        let _ = config.tune(&self.tuned.borrow());
        config
    }

    /// The volume, if it is open.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<Rc<Served>> {
        self.volumes.borrow().get(&id).cloned()
    }

    /// Something happened to a volume: it ticks often for a while.
    pub(crate) fn touch(&self) {
        if self.pulse.touch() {
            self.woken.notify_one();
        }
    }

    fn all(&self) -> Vec<Rc<Served>> {
        self.volumes.borrow().values().cloned().collect()
    }
}

/// Fresh random bytes.
#[must_use]
pub fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    rand::thread_rng().fill_bytes(&mut bytes);
    bytes
}

/// Serve until `stop` resolves, then flush every volume and return.
///
/// # Errors
/// The control listener cannot be bound.
pub async fn run(gateway: Rc<Gateway>, stop: impl std::future::Future<Output = ()>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(&gateway.config.listen).await?;
    tracing::info!(listen = gateway.config.listen, host = gateway.config.host, "gateway is up");
    let flusher = Rc::clone(&gateway);
    tokio::task::spawn_local(async move { flusher.flusher.run().await });
    tokio::task::spawn_local(control::listen(Rc::clone(&gateway), listener));
    let ticker = Rc::clone(&gateway);
    tokio::task::spawn_local(async move {
        loop {
            let wait = ticker.pulse.wait();
            let _ = tokio::time::timeout(wait, ticker.woken.notified()).await;
            ticker.all().into_iter().for_each(|served| served.apply(crate::Event::Tick));
        }
    });
    stop.await;
    drop(gateway.standbys.take());
    let volumes = gateway.all();
    tracing::info!(volumes = volumes.len(), "stopping: flushing every volume");
    for served in &volumes {
        served.stop_guests();
    }
    let closing: Vec<_> = volumes
        .into_iter()
        .map(|served| {
            tokio::task::spawn_local(async move {
                if let Err(error) = served.close().await {
                    tracing::warn!(volume = served.name(), error, "closing failed");
                }
            })
        })
        .collect();
    for one in closing {
        if let Err(error) = one.await {
            tracing::warn!(%error, "closing failed");
        }
    }
    gateway.flusher.flush();
    Ok(())
}
