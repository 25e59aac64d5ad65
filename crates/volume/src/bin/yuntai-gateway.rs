//! The volume gateway: serves a compute host's volumes over NBD.
//!
//! `yuntai-gateway --config /etc/yuntai/yuntai.json` takes its part of the cloud's configuration;
//! `yuntai-gateway OWN.json` takes a file of its own: `{"host": "h1", "listen": "10.78.0.1:7200", "nbd_dir":
//! "/run/yuntai/nbd", "cluster_secret_file": "/etc/yuntai/secrets/cluster"}`. SIGTERM or SIGINT: flush every volume,
//! then exit.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{signal, SignalKind};
use yuntai_volume::gateway::{config::GatewayConfig, run, Gateway};

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("YUNTAI_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).init();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "yuntai-gateway cannot run");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (config, secret) = match arguments.as_slice() {
        [option, path] if option == "--config" => GatewayConfig::load_cloud(Path::new(path))?,
        [path] => GatewayConfig::load(Path::new(path))?,
        _ => return Err("usage: yuntai-gateway --config CLOUD.json | yuntai-gateway OWN.json".to_owned()),
    };
    std::fs::create_dir_all(&config.nbd_dir)
        .map_err(|error| format!("nbd_dir {}: {error}", config.nbd_dir.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot be made: {error}"))?;
    let listen = config.listen.clone();
    let gateway = Gateway::new(config, secret)?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        run(gateway, stop).await.map_err(|error| format!("listen {listen}: {error}"))
    })
}
