//! The TLS certificate: read at the start and on reload.

use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{Error, ServerConfig};

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

    /// Reads the files again, for new connections. On an error, the old certificate stays in use.
    pub(crate) fn reload(&self) -> Result<(), ServeError> {
        let new = Arc::new(config(&self.files)?);
        *self.config.write() = new;
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read()))
    }
}

/// The error for a key that cannot be used with its certificate. `why` continues the phrase "the
/// key FILE".
fn unusable(files: &TlsFiles, why: &str) -> ServeError {
    let source = format!("the key {} {why}", files.key.display()).into();
    ServeError::Certificate { path: files.cert.clone(), source }
}

fn config(files: &TlsFiles) -> Result<ServerConfig, ServeError> {
    fn certificate_error<E: std::error::Error + Send + Sync + 'static>(
        path: &Path,
    ) -> impl Fn(E) -> ServeError {
        move |source| ServeError::Certificate { path: path.to_owned(), source: Box::new(source) }
    }
    let chain =
        CertificateDer::pem_file_iter(&files.cert).map_err(certificate_error(&files.cert))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(certificate_error(&files.cert))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(certificate_error(&files.key))?;
    // The provider is named, because nothing installs a default provider for the process.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(certificate_error(&files.cert))?
        // Clients identify themselves with tokens.
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            Error::InconsistentKeys(_) => unusable(files, "belongs to another certificate"),
            Error::General(_) => unusable(
                files,
                "has an algorithm that is not supported: use ECDSA with P-256 or P-384, Ed25519, \
                 or RSA",
            ),
            other => certificate_error(&files.cert)(other),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::error_chain;

    #[test]
    fn key_of_another_certificate_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles { cert: dir.path().join("c.pem"), key: dir.path().join("k.pem") };
        let [key, other] = [(); 2].map(|()| rcgen::KeyPair::generate().unwrap());
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, other.serialize_pem()).unwrap();
        let words = |files: &TlsFiles| Tls::open(files).map(|_| ()).map_err(|e| error_chain(&e));
        let error = words(&files).unwrap_err();
        assert!(error.ends_with("k.pem belongs to another certificate"), "{error}");
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        words(&files).unwrap();
    }
}
