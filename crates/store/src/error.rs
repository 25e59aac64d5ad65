//! Why a store cannot be opened.

use std::io;

use thiserror::Error;
use yuntai_proto::ServerId;

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the folder is locked: another chunk server is running on it")]
    Locked,
    /// A part of it is not whole.
    #[error("{what} is damaged; empty the folder and let this server be rebuilt from its peers")]
    Damaged {
        /// The file.
        what: &'static str,
    },
    /// Written by another build.
    #[error(
        "{what} has format version {version}; this build knows {} only: use the build that wrote it",
        crate::FORMAT_VERSION
    )]
    Version {
        /// The file.
        what: &'static str,
        /// Its version.
        version: u32,
    },
    /// The folder of another server.
    #[error("the folder belongs to chunk server {found}, not to {expected}: check `path` and `server`")]
    Server {
        /// Whose it is.
        found: ServerId,
        /// Who asks.
        expected: ServerId,
    },
    /// Not a store, and not empty.
    #[error("the folder is not a chunk store and holds {name:?}: give an empty folder")]
    Foreign {
        /// What is in it.
        name: String,
    },
    /// The disk failed.
    #[error("I/O error: {0}")]
    Io(#[from] io::Error),
}
