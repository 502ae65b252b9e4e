//! The receiver: answers what origins ask of the sites of this machine.
//!
//! A thin handler over [`crate::store`]: it speaks [`crate::protocol`] over TCP,
//! TLS or standard input and output, and promises that nobody without a token
//! changes anything, that a slow or hostile peer costs its deadline and no one
//! else, that memory is bounded whatever arrives, and that no token is ever
//! told. Nothing that arrives is believed: the store computes every id.
//!
//! Refuses to know what a fleet is, where settings come from, and who reads
//! the log. The only room that uses `hyper`, `hyper-util`, `http-body-util` and
//! `tokio`.

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
    /// Tokens would travel in the clear.
    #[error("{listen} can be reached from other machines, and there is neither TLS nor a proxy in front")]
    InTheClear {
        /// The address.
        listen: SocketAddr,
    },
    /// Anybody could push.
    #[error("{listen} can be reached from other machines, and no token would be asked for")]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// There is nothing to serve.
    #[error("there is no site to serve")]
    NoSites,
    /// The address cannot be had.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A directory cannot be a mirror.
    #[error("cannot serve {}", path.display())]
    Site {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// The files of a site cannot be given to the group that is to read them.
    #[error("cannot serve {}", path.display())]
    Group {
        /// The directory of the site.
        path: PathBuf,
        /// Why.
        source: GroupError,
    },
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The system hands out no threads or connections.
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}
