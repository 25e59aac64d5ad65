//! The gateway's configuration file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::api::Config;

/// JSON, given as the program's one argument.
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
    /// Background copying from a source while the guest is idle; 0 switches it off.
    #[serde(default)]
    pub hydrate_bytes_per_s: Option<u64>,
    /// The same while the guest does I/O.
    #[serde(default)]
    pub hydrate_busy_bytes_per_s: Option<u64>,
    /// Speed limit of rebuilding a returning server; 0 = none.
    #[serde(default)]
    pub rebuild_bytes_per_s: Option<u64>,
    /// Bytes of guest requests that one volume works on at the same time.
    #[serde(default)]
    pub in_flight_bytes_max: Option<u64>,
}

impl GatewayConfig {
    /// Read the file and the secret that it names.
    ///
    /// # Errors
    /// A message that names the file and what is wrong in it.
    pub fn load(path: &Path) -> Result<(Self, Vec<u8>), String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let config: Self = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
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
            pull_bytes_per_s_max: self.rebuild_bytes_per_s.unwrap_or(default.pull_bytes_per_s_max),
            in_flight_bytes_max: self.in_flight_bytes_max.unwrap_or(default.in_flight_bytes_max),
            ..default
        }
    }
}
