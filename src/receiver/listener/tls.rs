//! The TLS certificate: read at the start and on reload.

use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use crate::receiver::{ServeError, TlsFiles};

/// The certificate in use.
#[derive(Clone)]
pub(crate) struct Tls {
    files: TlsFiles,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    pub(crate) fn open(files: &TlsFiles) -> Result<Self, ServeError> {
        let config = Arc::new(RwLock::new(Arc::new(config(files)?)));
        Ok(Self { files: files.clone(), config })
    }

    /// Reads the files again, for new connections. On an error the old certificate stays.
    pub(crate) fn reload(&self) -> Result<(), ServeError> {
        let new = Arc::new(config(&self.files)?);
        *self.config.write() = new;
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read()))
    }
}

fn config(files: &TlsFiles) -> Result<ServerConfig, ServeError> {
    fn words<E: std::error::Error + Send + Sync + 'static>(
        path: &Path,
    ) -> impl Fn(E) -> ServeError {
        move |source| ServeError::Certificate { path: path.to_owned(), source: Box::new(source) }
    }
    let chain = CertificateDer::pem_file_iter(&files.cert).map_err(words(&files.cert))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(words(&files.cert))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(words(&files.key))?;
    // The provider is named, because nothing installs a default one for the process.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(words(&files.cert))?
        // Tokens tell who the client is.
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(words(&files.cert))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
