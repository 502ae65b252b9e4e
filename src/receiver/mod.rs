//! The receiver: handles requests from origins for the sites on this machine.
//!
//! A thin layer over [`crate::store`] that serves [`crate::protocol`] over TCP, TLS or standard
//! input and output. It guarantees that a client without a token changes nothing, that a slow or
//! hostile client can use up only its own deadline, that memory use is bounded whatever data
//! arrives, and that tokens are never disclosed. It trusts nothing that arrives: the store computes
//! every id.
//!
//! It does not know about fleets, configuration files or log formats. It is the only module that
//! uses `hyper`, `hyper-util`, `http-body-util` and `tokio`.

mod address;
mod http;
mod listener;
mod settings;
mod sites;

pub use http::auth::{AuthPolicy, ParsePermissionError, Permission, Token, TokenId, TokenRecord};
pub use http::log::{Log, LogRecord, NoLog, log_panics};
pub use listener::server::{Handle, Server};
pub use listener::stdio::receive;
pub use settings::{Exposure, Hook, ReceiverLimits, ReceiverSettings, SiteSettings, TlsFiles};
pub use sites::served_permissions::{GroupError, ServedPermissions};

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::fsx::IoError;
use crate::store::StoreError;

/// Why a receiver does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Tokens would be sent unencrypted.
    #[error(
        "{listen} can be reached from other machines, but there is neither TLS nor a proxy in front"
    )]
    InTheClear {
        /// The address.
        listen: SocketAddr,
    },
    /// Any client could push.
    #[error("{listen} can be reached from other machines, but does not require a token")]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// The settings contain no site.
    #[error("there is no site to serve")]
    NoSites,
    /// The receiver cannot listen on the address.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why the receiver cannot listen.
        source: std::io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why the file cannot be used.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The directory cannot be used as a mirror.
    #[error("cannot serve {}", path.display())]
    Site {
        /// The directory.
        path: PathBuf,
        /// Why the directory cannot be used.
        source: StoreError,
    },
    /// A site's files cannot be given to the configured group.
    #[error("cannot serve {}", path.display())]
    Group {
        /// The site's directory.
        path: PathBuf,
        /// Why the group cannot be used.
        source: GroupError,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The system cannot create threads or connections.
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}
