//! The gateway's configuration: a file of its own, or the cloud's one file that every process reads.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::api::Config;

/// What the gateway takes from the cloud's file (`yuntai.json`); the rest of it is for others.
#[derive(Debug, Deserialize)]
struct CloudConfig {
    host: String,
    address: String,
    gateway_port: u16,
    run_dir: PathBuf,
    secrets_dir: PathBuf,
    tls: Option<yuntai_tls::Files>,
}

/// JSON of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// This host's name: the process calls itself `gateway:<host>`.
    pub host: String,
    /// Where the master reaches it: `address:port`.
    pub listen: String,
    /// Folder of the NBD sockets.
    pub nbd_dir: PathBuf,
    /// File with the cluster secret: 64 hex digits.
    pub cluster_secret_file: PathBuf,
    /// Background copying from sources, of all volumes together, while the guests are idle; 0 switches it off.
    #[serde(default)]
    pub hydrate_bytes_per_s: Option<u64>,
    /// The same while one of them does I/O.
    #[serde(default)]
    pub hydrate_busy_bytes_per_s: Option<u64>,
    /// Speed of rebuilding replicas on returning and joining servers; 0 switches it off.
    #[serde(default)]
    pub rebuild_bytes_per_s: Option<u64>,
    /// Bytes of guest requests that one volume works on at the same time.
    #[serde(default)]
    pub in_flight_bytes_max: Option<u64>,
    /// Certificates, where connections between hosts are to be encrypted.
    #[serde(default)]
    pub tls: Option<yuntai_tls::Files>,
}

impl GatewayConfig {
    /// Read a file of its own, and the secret that it names.
    ///
    /// # Errors
    /// A message that names the file and what is wrong in it.
    pub fn load(path: &Path) -> Result<(Self, Vec<u8>), String> {
        read::<Self>(path)?.with_secret()
    }

    /// Read the cloud's file, and the secret in the folder that it names.
    ///
    /// # Errors
    /// A message that names the file and what is wrong in it.
    pub fn load_cloud(path: &Path) -> Result<(Self, Vec<u8>), String> {
        let cloud: CloudConfig = read(path)?;
        let config = Self {
            host: cloud.host,
            listen: format!("{}:{}", cloud.address, cloud.gateway_port),
            nbd_dir: cloud.run_dir.join("nbd"),
            cluster_secret_file: cloud.secrets_dir.join("cluster"),
            hydrate_bytes_per_s: None,
            hydrate_busy_bytes_per_s: None,
            rebuild_bytes_per_s: None,
            in_flight_bytes_max: None,
            tls: cloud.tls,
        };
        config.with_secret()
    }

    fn with_secret(self) -> Result<(Self, Vec<u8>), String> {
        let config = self;
        let file = &config.cluster_secret_file;
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("cluster_secret_file {}: cannot read it: {error}", file.display()))?;
        let secret = yuntai_proto::auth::parse_secret(&text)
            .ok_or_else(|| format!("cluster_secret_file {}: it must hold 64 hex digits", file.display()))?;
        Ok((config, secret))
    }

    /// The figures for each volume.
    #[must_use]
    pub fn volume(&self) -> Config {
        let default = Config::default();
        Config {
            hydrate_bytes_per_s: self.hydrate_bytes_per_s.unwrap_or(default.hydrate_bytes_per_s),
            hydrate_busy_bytes_per_s: self.hydrate_busy_bytes_per_s.unwrap_or(default.hydrate_busy_bytes_per_s),
            rebuild_bytes_per_s: self.rebuild_bytes_per_s.unwrap_or(default.rebuild_bytes_per_s),
            in_flight_bytes_max: self.in_flight_bytes_max.unwrap_or(default.in_flight_bytes_max),
            ..default
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}
