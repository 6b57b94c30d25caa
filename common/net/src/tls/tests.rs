//! Whoever shows a certificate without owning its key gets nowhere.

#![allow(clippy::unwrap_used)]

use super::*;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::net::Ipv4Addr;

/// Shows one identity's certificate and signs with another's key.
#[derive(Debug)]
struct Stolen(Arc<CertifiedKey>);

impl Stolen {
    fn new(shown: &Identity, owned: &Identity) -> Arc<Self> {
        let key = provider().key_provider.load_private_key(owned.private_key()).unwrap();
        Arc::new(Self(Arc::new(CertifiedKey::new(vec![shown.certificate()], key))))
    }
}

impl ResolvesServerCert for Stolen {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Stolen {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn server_with(certificate: Arc<dyn ResolvesServerCert>) -> quinn::ServerConfig {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyKey { algorithms }))
        .with_cert_resolver(certificate);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()))
}

fn client_with(
    vault: Fingerprint,
    certificate: Arc<dyn ResolvesClientCert>,
) -> quinn::ClientConfig {
    let provider = provider();
    let pin = Pin {
        expected: vault,
        found: Mutex::new(None),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pin))
        .with_client_cert_resolver(certificate);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// Tells whether client and server come to talk: a byte each way.
fn talk(server: quinn::ServerConfig, client: quinn::ClientConfig) -> bool {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let server = quinn::Endpoint::server(server, any).unwrap();
        let address = server.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let connection = server.accept().await?.await.ok()?;
            let (mut send, mut receive) = connection.accept_bi().await.ok()?;
            receive.read_exact(&mut [0]).await.ok()?;
            send.write_all(&[1]).await.ok()?;
            send.finish().ok()?;
            send.stopped().await.ok()
        });
        let endpoint = quinn::Endpoint::client(any).unwrap();
        let asking = async move {
            let connection = endpoint.connect_with(client, address, "umbra").ok()?.await.ok()?;
            let (mut send, mut receive) = connection.open_bi().await.ok()?;
            send.write_all(&[1]).await.ok()?;
            receive.read_exact(&mut [0]).await.ok()
        };
        let heard = asking.await.is_some();
        answering.abort();
        heard
    })
}

#[test]
fn a_certificate_is_worth_nothing_without_its_key() {
    let [vault, agent, thief] = [(); 3].map(|()| Identity::generate().unwrap());
    let pinned = vault.fingerprint();
    let honest_client = || client(&agent, pinned).unwrap().0;
    assert!(talk(server(&vault).unwrap(), honest_client()));
    assert!(talk(server_with(Stolen::new(&vault, &vault)), honest_client()));
    assert!(!talk(server_with(Stolen::new(&vault, &thief)), honest_client()));
    assert!(!talk(server(&thief).unwrap(), honest_client()));
    let honest_server = || server(&vault).unwrap();
    assert!(talk(honest_server(), client_with(pinned, Stolen::new(&agent, &agent))));
    assert!(!talk(honest_server(), client_with(pinned, Stolen::new(&agent, &thief))));
}

#[test]
fn a_client_without_a_certificate_is_not_let_in() {
    let vault = Identity::generate().unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(client(&vault, vault.fingerprint()).unwrap().1)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    assert!(!talk(server(&vault).unwrap(), config));
}

#[test]
fn another_protocol_is_not_spoken() {
    let [vault, agent] = [(); 2].map(|()| Identity::generate().unwrap());
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyKey { algorithms }))
        .with_single_cert(vec![vault.certificate()], vault.private_key())
        .unwrap();
    tls.alpn_protocols = vec![b"umbra/0".to_vec()];
    let config =
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    assert!(!talk(config, client(&agent, vault.fingerprint()).unwrap().0));
}
