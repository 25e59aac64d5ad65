//! TLS between hosts, where the configuration asks for it: TLS 1.3, both sides with a certificate of the cluster's own
//! authority.
//!
//! The proof of the cluster's secret says who speaks at the beginning of a connection; TLS keeps it so for every byte
//! that follows, and keeps others from reading them. The rest of the program knows nothing of it: what it is given is
//! the near end of a loopback connection, and a task moves the bytes between its far end and the TLS session. That
//! costs a copy in each direction, for those only who use it.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{copy_bidirectional_with_sizes, AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{version::TLS13, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name that every certificate of a cluster has: which host it is, the handshake behind it says.
pub const NAME: &str = "yuntai.internal";
/// A peer must be through the TLS handshake by then.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Each direction's piece.
const COPY_BYTES: usize = 64 << 10;

/// Where the certificates are, all PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// This host's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The certificate of the cluster's authority: who has none from it is not let in.
    pub ca: PathBuf,
}

/// Ready to be used on any number of connections.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Tls")
    }
}

fn certificates(field: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(format!("tls.{field}: {}: holds no certificate", path.display())),
        Err(error) => Err(format!("tls.{field}: {}: {error}", path.display())),
    }
}

impl Tls {
    /// Read the files.
    ///
    /// # Errors
    /// A message that names the field, the file and what is wrong in it.
    pub fn load(files: &Files) -> Result<Self, String> {
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for one in certificates("ca", &files.ca)? {
            roots.add(one).map_err(|error| format!("tls.ca: {}: {error}", files.ca.display()))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("cert", &files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| format!("tls.key: {}: {error}", files.key.display()))?;
        let wrong = |error| format!("tls.cert: {}: it cannot be used with tls.key: {error}", files.cert.display());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| format!("tls.ca: {}: {error}", files.ca.display()))?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(wrong)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(wrong)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(wrong)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(wrong)?;
        Ok(Self { acceptor: Arc::new(server).into(), connector: Arc::new(client).into() })
    }

    /// The server's side.
    ///
    /// # Errors
    /// The peer has no certificate of ours, speaks something else, or takes too long.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TcpStream> {
        stream.set_nodelay(true)?;
        let far = timeout(HANDSHAKE, self.acceptor.accept(stream)).await??;
        bridge(far).await
    }

    /// The client's side.
    ///
    /// # Errors
    /// The server has no certificate of ours, speaks something else, or takes too long.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<TcpStream> {
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).expect("a constant that is one");
        let far = timeout(HANDSHAKE, self.connector.connect(name, stream)).await??;
        bridge(far).await
    }
}

/// The near end of a connection whose far end is moved to and from `session` until either side ends.
async fn bridge(mut session: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<TcpStream> {
    let (near, mut far) = pair().await?;
    tokio::spawn(async move {
        // Whoever reads at the near end sees the end of the stream, whatever the reason was.
        let _ = copy_bidirectional_with_sizes(&mut far, &mut session, COPY_BYTES, COPY_BYTES).await;
    });
    Ok(near)
}

/// Two ends of one loopback connection. Somebody else on this machine may be quicker than our own dial: he is let go.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    loop {
        let (far, peer) = listener.accept().await?;
        if peer == near.local_addr()? {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

/// [`Tls::accept`], or the stream as it is where there is no TLS.
///
/// # Errors
/// As there.
pub async fn accept(tls: Option<&Tls>, stream: TcpStream) -> io::Result<TcpStream> {
    match tls {
        Some(tls) => tls.accept(stream).await,
        None => Ok(stream),
    }
}

/// [`Tls::connect`], or the stream as it is where there is no TLS.
///
/// # Errors
/// As there.
pub async fn connect(tls: Option<&Tls>, stream: TcpStream) -> io::Result<TcpStream> {
    match tls {
        Some(tls) => tls.connect(stream).await,
        None => Ok(stream),
    }
}
