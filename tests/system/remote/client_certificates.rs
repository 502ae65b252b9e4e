//! A front-end proxy that requires a known client certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use headwater::receiver::TlsFiles;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{copy, copy_bidirectional, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::connection_settings::{certify, push_with, sandbox, says};
use super::{Receiver, serves_tree};

/// A TLS proxy in front of a receiver without TLS. Dropping it stops it.
struct TlsProxy {
    address: SocketAddr,
    _runtime: Runtime,
}

impl TlsProxy {
    /// Starts a proxy with the certificate `own` that accepts clients trusted by `known`.
    fn start(own: &TlsFiles, known: &TlsFiles, to: SocketAddr) -> Self {
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&known.cert).unwrap()).unwrap();
        let visitors =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let chain = vec![CertificateDer::from_pem_file(&own.cert).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
        let config = config
            .with_client_cert_verifier(visitors.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor.accept(stream).into_fallible().await {
                        Ok(mut visitor) => {
                            let mut receiver = TcpStream::connect(to).await.unwrap();
                            copy_bidirectional(&mut visitor, &mut receiver).await.ok();
                        }
                        // TLS has sent the reason. Reads remaining data: otherwise the close would
                        // be a reset, which drops the reason.
                        Err((_, mut refused)) => drop(copy(&mut refused, &mut sink()).await),
                    }
                });
            }
        });
        Self { address, _runtime: runtime }
    }
}

#[test]
fn only_the_trusted_client_certificate_is_accepted() {
    let sandbox = sandbox();
    let receiver = Receiver::start(&sandbox.path("web"));
    let [own, known, _] = [("localhost", "edge"), ("me.example", "me"), ("other.example", "other")]
        .map(|(name, file)| certify(&sandbox, name, file));
    let front = TlsProxy::start(&own, &known, receiver.address());
    let url = format!("https://localhost:{}/", front.address.port());
    let shows = |name: &str| {
        format!("ca = 'edge.pem'\nclient_cert = '{name}.pem'\nclient_key = '{name}.key'")
    };
    for (lines, words) in [
        ("ca = 'edge.pem'".to_owned(), "none was sent"),
        (shows("other"), "it rejects the client certificate"),
    ] {
        says(&push_with(&sandbox, &url, &lines).expect(&[4]), &["TLS", words]);
        assert!(!sandbox.path("web").exists());
    }
    push_with(&sandbox, &url, &shows("me")).expect(&[0]);
    assert!(serves_tree(&sandbox, "web"));
    sandbox.run(&["status"]).expect(&[0]);
}
