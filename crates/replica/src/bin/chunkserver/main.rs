//! `yuntai-chunkserver <config.json>`, or `yuntai-chunkserver --config <yuntai.json> --id <number>`: serves one disk's
//! chunk store.

mod config;
mod handshake;
mod jobs;
mod peer;
mod server;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use yuntai_replica::{Config as ReplicaConfig, Now, Replica};
use yuntai_store::vfs::OsVfs;
use yuntai_store::{OpenError, Options, Store};

use config::Config;

/// Exit codes, so that a supervisor can tell what a restart would help.
const BAD_CONFIG: u8 = 2;
const LOCKED: u8 = 3;
const BAD_STORE: u8 = 4;
const DISK: u8 = 5;

struct Failure {
    code: u8,
    message: String,
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("YUNTAI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

fn open_store(config: &Config) -> Result<Store<OsVfs>, Failure> {
    let failure = |code, message: String| Failure { code, message: format!("{}: {message}", config.path.display()) };
    let vfs = OsVfs::new(&config.path).map_err(|error| failure(DISK, error.to_string()))?;
    let options = config.store_options(Options::new(config.server, rand::random()));
    Store::open(vfs, options).map_err(|error| {
        let code = match error {
            OpenError::Locked => LOCKED,
            OpenError::Io(_) => DISK,
            _ => BAD_STORE,
        };
        failure(code, error.to_string())
    })
}

/// A checkpoint and a start have two files of every layer open that they touch.
fn raise_file_limit() {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// What guests wrote is for nobody else on this machine, whatever the umask was when the store was made.
fn keep_private(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    rustix::process::umask(rustix::fs::Mode::from(0o077));
    if let Err(error) = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)) {
        if error.kind() != std::io::ErrorKind::NotFound {
            tracing::warn!(%error, path = %folder.display(), "the store's folder cannot be made private");
        }
    }
}

fn run() -> Result<(), Failure> {
    let bad_config = |message| Failure { code: BAD_CONFIG, message };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let config = Config::of(&arguments).map_err(bad_config)?;
    let secrets = config.read_secrets().map_err(bad_config)?;
    raise_file_limit();
    keep_private(&config.path);
    let store = open_store(&config)?;
    let usage = store.usage();
    tracing::info!(
        server = config.server,
        chunks = usage.chunks,
        journal_bytes = usage.journal_bytes,
        lost_durable = store.lost_durable(),
        "store open"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Fewer turns around the loop between two looks at the sockets cost latency, more cost nothing here.
        .event_interval(31)
        .build()
        .map_err(|error| Failure { code: DISK, message: format!("no event loop: {error}") })?;
    let mut replica_config = config.replica_config(ReplicaConfig::new(config.server, &secrets.token));
    replica_config.run = yuntai_proto::auth::hex(&rand::random::<[u8; 16]>());
    let replica = Replica::new(replica_config, store, Now { us: 0, unix_s: 0 });
    tokio::task::LocalSet::new()
        .block_on(&runtime, server::serve(&config, secrets.cluster, replica))
        .map_err(|message| Failure { code: BAD_CONFIG, message })
}

fn main() -> ExitCode {
    start_logging();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{}", failure.message);
            eprintln!("yuntai-chunkserver: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
