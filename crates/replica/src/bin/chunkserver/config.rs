//! The configuration: a file of the server's own, or the cloud's `yuntai.json` and the server's number in it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::Deserialize;
use yuntai_proto::auth::parse_secret;
use yuntai_proto::ServerId;
use yuntai_replica::Config as ReplicaConfig;
use yuntai_store::Options;

/// One JSON object; unknown fields are refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The server's number, above 0.
    pub(crate) server: ServerId,
    /// The store's folder; made if missing.
    pub(crate) path: PathBuf,
    /// Address and port to listen on.
    pub(crate) listen: SocketAddr,
    /// File with the secret that every peer must know: 64 hex digits.
    cluster_secret_file: PathBuf,
    /// File with the secret that signs tokens: 64 hex digits.
    token_secret_file: PathBuf,
    /// Listen on every address of the machine if `listen` says so.
    #[serde(default)]
    allow_any_address: bool,
    /// Journal's limit.
    journal_bytes_max: Option<u64>,
    /// From so many bytes of journal on a checkpoint is begun.
    checkpoint_bytes: Option<u64>,
    /// Most connections.
    connections_max: Option<usize>,
    /// From this share of the disk on new chunks are refused.
    full_percent: Option<u64>,
    /// From so many bytes at a time on, other threads write what goes in place.
    write_apart_bytes_min: Option<usize>,
    /// Certificates, where connections between hosts are to be encrypted.
    pub(crate) tls: Option<yuntai_tls::Files>,
    /// Let gateways in without a master's word, also to a new store: what a server without a master wants.
    #[serde(default = "yes")]
    admitted: bool,
}

/// The parts of the cloud's `yuntai.json` that concern a chunk server.
#[derive(Deserialize)]
struct Cloud {
    address: IpAddr,
    #[serde(default = "usual_secrets_dir")]
    secrets_dir: PathBuf,
    chunkservers: Vec<CloudServer>,
    tls: Option<yuntai_tls::Files>,
}

fn usual_secrets_dir() -> PathBuf {
    "/etc/yuntai/secrets".into()
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct CloudServer {
    id: ServerId,
    port: u16,
    path: PathBuf,
}

/// What the files hold.
pub(crate) struct Secrets {
    pub(crate) cluster: Vec<u8>,
    pub(crate) token: Vec<u8>,
}

fn read_secret(field: &str, path: &Path) -> Result<Vec<u8>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{field}: {}: {error}", path.display()))?;
    parse_secret(&text).ok_or_else(|| format!("{field}: {}: must hold 64 hex digits (32 bytes)", path.display()))
}

fn within(field: &str, value: Option<u64>, low: u64, high: u64) -> Result<(), String> {
    match value {
        Some(value) if !(low..=high).contains(&value) => Err(format!("{field}: {value}: must be {low} to {high}")),
        _ => Ok(()),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// How to call the program.
pub(crate) const USAGE: &str = "usage: yuntai-chunkserver <config.json> | --config <yuntai.json> --id <number>";

impl Config {
    /// From the command line.
    pub(crate) fn of(arguments: &[String]) -> Result<Self, String> {
        let (path, config) = match arguments {
            [path] if !path.starts_with('-') => (path, read_json(Path::new(path))),
            [config, path, id, number] if config == "--config" && id == "--id" => {
                let number = number.parse().map_err(|_| format!("--id: {number:?}: must be a number"))?;
                (path, Self::of_cloud(Path::new(path), number))
            }
            _ => return Err(USAGE.into()),
        };
        let config = config.map_err(|error| format!("{path}: {error}"))?;
        config.check().map_err(|error| format!("{path}: {error}"))?;
        Ok(config)
    }

    fn of_cloud(path: &Path, number: ServerId) -> Result<Self, String> {
        let cloud: Cloud = read_json(path)?;
        let known: Vec<ServerId> = cloud.chunkservers.iter().map(|server| server.id).collect();
        let server = cloud.chunkservers.into_iter().find(|server| server.id == number);
        let server = server.ok_or_else(|| format!("chunkservers: {known:?}: no server {number} among them"))?;
        Ok(Self {
            server: number,
            path: server.path,
            listen: SocketAddr::new(cloud.address, server.port),
            cluster_secret_file: cloud.secrets_dir.join("cluster"),
            token_secret_file: cloud.secrets_dir.join("token"),
            allow_any_address: false,
            journal_bytes_max: None,
            checkpoint_bytes: None,
            connections_max: None,
            full_percent: None,
            write_apart_bytes_min: None,
            tls: cloud.tls,
            // The master lets gateways in, once no volume counts on what the disk before this one had.
            admitted: false,
        })
    }

    fn check(&self) -> Result<(), String> {
        if self.server == 0 {
            return Err("server: 0: must be 1 or more".into());
        }
        if self.listen.ip().is_unspecified() && !self.allow_any_address {
            return Err(format!(
                "listen: {}: would listen on every address; name one, or set allow_any_address to true",
                self.listen
            ));
        }
        within("journal_bytes_max", self.journal_bytes_max, 16 << 20, 1 << 40)?;
        within("checkpoint_bytes", self.checkpoint_bytes, 1 << 20, self.journal_bytes_max.unwrap_or(1 << 30))?;
        within("connections_max", self.connections_max.map(|value| value as u64), 1, 100_000)?;
        within("full_percent", self.full_percent, 1, 100)?;
        within("write_apart_bytes_min", self.write_apart_bytes_min.map(|value| value as u64), 4096, 1 << 30)
    }

    pub(crate) fn read_secrets(&self) -> Result<Secrets, String> {
        Ok(Secrets {
            cluster: read_secret("cluster_secret_file", &self.cluster_secret_file)?,
            token: read_secret("token_secret_file", &self.token_secret_file)?,
        })
    }

    pub(crate) fn store_options(&self, default: Options) -> Options {
        Options {
            journal_bytes_max: self.journal_bytes_max.unwrap_or(default.journal_bytes_max),
            full_percent: self.full_percent.unwrap_or(default.full_percent),
            write_apart_bytes_min: self.write_apart_bytes_min.unwrap_or(default.write_apart_bytes_min),
            admitted: self.admitted,
            ..default
        }
    }

    pub(crate) fn replica_config(&self, default: ReplicaConfig) -> ReplicaConfig {
        let quarter = self.journal_bytes_max.map_or(default.checkpoint_bytes, |bytes| bytes / 4);
        ReplicaConfig {
            connections_max: self.connections_max.unwrap_or(default.connections_max),
            checkpoint_bytes: self.checkpoint_bytes.unwrap_or(quarter),
            ..default
        }
    }
}
