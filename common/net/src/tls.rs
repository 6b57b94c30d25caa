//! TLS 1.3 with pinned keys, and the bounds of a QUIC connection.
//!
//! Names and dates in certificates are not looked at (a rescue stick's clock may say 1970); the
//! signature over the handshake is verified, so a peer has proven to own the key that it shows.

use crate::error::{NetError, Result};
use crate::identity::Identity;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError,
    PeerIncompatible, SignatureScheme,
};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use umbra_common::wire::{ALPN, Fingerprint};

/// Most bytes that a peer may send ahead on all streams of a connection.
const RECEIVE_WINDOW_BYTES: u32 = 16 << 20;
/// Most bytes that a peer may send ahead on one stream. All object streams together stay within
/// the window of the connection: one that waits for the vault's budget cannot keep the body of
/// another, which has its share, from arriving.
const STREAM_WINDOW_BYTES: u32 = RECEIVE_WINDOW_BYTES / MAX_LANES;
/// Most bytes that a peer may send ahead before it was welcomed: an unknown key has nothing to
/// say but Enroll.
const STRANGER_WINDOW_BYTES: u32 = 64 << 10;
/// Streams for objects.
pub(crate) const MAX_LANES: u32 = 8;
/// Control stream and requests.
pub(crate) const MAX_REQUESTS: u32 = 32;
/// Silence after which a connection is taken for lost.
const IDLE: Duration = Duration::from_secs(20);
/// Longest packet in bytes (UDP payload): what a jumbo frame of 9000 bytes carries over IPv6. The
/// path's own limit is found by probes. Larger ones, which only loopback has, gain nothing more.
const MAX_PACKET_BYTES: u16 = 9000 - 40 - 8;
/// Packets that may arrive before one acknowledges them, unless time says so first. The default of
/// two makes half of all packets acknowledgements.
const UNACKNOWLEDGED_PACKETS: u32 = 10;
/// Time after which fewer packets are acknowledged too. With the default of 25 ms a window of fewer
/// packets than the above stood still for that long, again and again until it had grown: a second
/// at the start of each transfer on loopback.
const ACK_DELAY: Duration = Duration::from_millis(2);
/// Bytes under way before the first acknowledgement: seven of the longest packets, as the ten
/// packets of RFC 9002 (7.2) are meant. They are paced.
const INITIAL_WINDOW_BYTES: u64 = 64 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Names the key in a certificate.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Result<Fingerprint, TlsError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(Fingerprint::of_spki(parsed.subject_public_key_info().as_ref()))
}

/// The keys that a client saw while it shook hands.
#[derive(Debug)]
pub(crate) struct Pin {
    expected: Fingerprint,
    found: Mutex<Option<Fingerprint>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pin {
    /// Returns the key that was shown, if it is not the pinned one.
    pub(crate) fn wrong_key(&self) -> Option<Fingerprint> {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let found = fingerprint(end_entity)?;
        if found == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Err(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Takes any client key whose owner proves to have it; what it may do is the session's matter.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        fingerprint(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Makes the agent's side: shows `identity`, takes `vault` and nobody else.
pub(crate) fn client(
    identity: &Identity,
    vault: Fingerprint,
) -> Result<(quinn::ClientConfig, Arc<Pin>)> {
    let provider = provider();
    let pin = Arc::new(Pin {
        expected: vault,
        found: Mutex::new(None),
        algorithms: provider.signature_verification_algorithms,
    });
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| key_error(identity, error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&pin) as Arc<dyn ServerCertVerifier>)
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())
        .map_err(|error| key_error(identity, error))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.enable_early_data = false;
    tls.resumption = Resumption::disabled();
    let quic = QuicClientConfig::try_from(tls).map_err(|error| key_error(identity, error))?;
    let mut config = quinn::ClientConfig::new(Arc::new(quic));
    let mut transport = transport();
    // A vault opens no streams.
    transport.max_concurrent_uni_streams(0_u32.into()).max_concurrent_bidi_streams(0_u32.into());
    config.transport_config(Arc::new(transport));
    Ok((config, pin))
}

/// Makes the vault's side: shows `identity`, takes every client that has a key.
pub(crate) fn server(identity: &Identity) -> Result<quinn::ServerConfig> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| key_error(identity, error))?
        .with_client_cert_verifier(Arc::new(AnyKey { algorithms }))
        .with_single_cert(vec![identity.certificate()], identity.private_key())
        .map_err(|error| key_error(identity, error))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.max_early_data_size = 0;
    tls.send_tls13_tickets = 0;
    let quic = QuicServerConfig::try_from(tls).map_err(|error| key_error(identity, error))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(quic));
    let mut transport = transport();
    // More is granted with the welcome.
    transport
        .receive_window(STRANGER_WINDOW_BYTES.into())
        .max_concurrent_uni_streams(0_u32.into())
        .max_concurrent_bidi_streams(1_u32.into());
    config.transport_config(Arc::new(transport));
    config.max_incoming(1024);
    config.incoming_buffer_size(64 << 10);
    config.incoming_buffer_size_total(16 << 20);
    Ok(config)
}

/// Makes the endpoint of a vault tell agents of an earlier process at once that their connections
/// are gone (stateless reset, RFC 9000 10.3), instead of letting them wait out the idle time.
pub(crate) fn endpoint(identity: &Identity) -> quinn::EndpointConfig {
    let secret = identity.derive("umbra 1 quic stateless reset");
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    let _ = config.max_udp_payload_size(MAX_PACKET_BYTES);
    let secret = identity.derive("umbra 1 quic connection ids");
    let key = u64::from_le_bytes(secret.first_chunk().copied().unwrap_or_default());
    config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(key)));
    config
}

/// Makes the endpoint of an agent.
pub(crate) fn client_endpoint(local: SocketAddr) -> std::io::Result<quinn::Endpoint> {
    let mut config = quinn::EndpointConfig::default();
    let _ = config.max_udp_payload_size(MAX_PACKET_BYTES);
    let socket = crate::socket::bind(local)?;
    quinn::Endpoint::new(config, None, socket, Arc::new(quinn::TokioRuntime))
}

/// Grants a peer that was welcomed what a session needs.
pub(crate) fn welcome(connection: &quinn::Connection) {
    connection.set_receive_window(RECEIVE_WINDOW_BYTES.into());
    connection.set_max_concurrent_bi_streams(MAX_REQUESTS.saturating_add(1).into());
    connection.set_max_concurrent_uni_streams(MAX_LANES.into());
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_PACKET_BYTES);
    let mut acknowledgements = quinn::AckFrequencyConfig::default();
    acknowledgements
        .ack_eliciting_threshold(UNACKNOWLEDGED_PACKETS.into())
        .max_ack_delay(Some(ACK_DELAY));
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    transport
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acknowledgements))
        .congestion_controller_factory(Arc::new(congestion))
        .receive_window(RECEIVE_WINDOW_BYTES.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .send_window(u64::from(RECEIVE_WINDOW_BYTES))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        // 20 s is far below the limit of the type.
        .max_idle_timeout(IDLE.try_into().ok());
    transport
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn key_error(
    identity: &Identity,
    error: impl std::error::Error + Send + Sync + 'static,
) -> NetError {
    NetError::Key {
        what: format!("TLS cannot use the key {}", identity.fingerprint()),
        source: Box::new(error),
    }
}

#[cfg(test)]
mod tests;
