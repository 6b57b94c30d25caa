//! A UDP relay on loopback between an agent and a vault: it counts what is sent, and cuts the line on demand.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

const POLL: Duration = Duration::from_millis(50);
const LARGEST_DATAGRAM_BYTES: usize = 65_536;

#[derive(Debug, Default)]
struct State {
    bytes_up: AtomicU64,
    is_cut: AtomicBool,
    is_over: AtomicBool,
}

/// The relay. It ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
    /// The port to which agents connect.
    pub port: u16,
}

impl Proxy {
    /// Starts relaying to a vault on 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub fn start(vault_port: u16) -> Result<Self> {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind the relay")?;
        front.set_read_timeout(Some(POLL))?;
        let port = front.local_addr()?.port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || relay_up(&front, vault_port, &shared));
        Ok(Self { state, thread: Some(thread), port })
    }

    /// Bytes of UDP payload from agents to the vault so far, lost ones included.
    pub fn bytes_up(&self) -> u64 {
        self.state.bytes_up.load(Ordering::SeqCst)
    }

    /// While cut, every datagram in both directions is lost.
    pub fn set_cut(&self, is_cut: bool) {
        self.state.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A panic of the relay shows as a failed connection in the test.
            let _ = thread.join();
        }
    }
}

fn relay_up(front: &UdpSocket, vault_port: u16, state: &Arc<State>) {
    let mut backs: HashMap<SocketAddr, UdpSocket> = HashMap::new();
    let mut threads = Vec::new();
    let mut buffer = vec![0; LARGEST_DATAGRAM_BYTES];
    while !state.is_over.load(Ordering::SeqCst) {
        let (len, from) = match front.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if is_retryable(&error) => continue,
            Err(_) => break,
        };
        let Some(datagram) = buffer.get(..len) else { continue };
        state.bytes_up.fetch_add(datagram.len().try_into().unwrap_or(u64::MAX), Ordering::SeqCst);
        if state.is_cut.load(Ordering::SeqCst) {
            continue;
        }
        let back = match backs.entry(from) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let Ok((back, thread)) = new_back(front, from, vault_port, state) else { continue };
                threads.push(thread);
                new.insert(back)
            }
        };
        // A datagram that cannot be handed on is a lost one, as on any network.
        let _ = back.send(datagram);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn new_back(
    front: &UdpSocket,
    agent: SocketAddr,
    vault_port: u16,
    state: &Arc<State>,
) -> Result<(UdpSocket, JoinHandle<()>)> {
    let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    back.connect((Ipv4Addr::LOCALHOST, vault_port))?;
    back.set_read_timeout(Some(POLL))?;
    let (front, down, state) = (front.try_clone()?, back.try_clone()?, Arc::clone(state));
    let thread = std::thread::spawn(move || {
        let mut buffer = vec![0; LARGEST_DATAGRAM_BYTES];
        while !state.is_over.load(Ordering::SeqCst) {
            let len = match down.recv(&mut buffer) {
                Ok(len) => len,
                // The vault may be away for a while: its port then refuses.
                Err(error) if is_retryable(&error) => continue,
                Err(_) => break,
            };
            if !state.is_cut.load(Ordering::SeqCst)
                && let Some(datagram) = buffer.get(..len)
            {
                let _ = front.send_to(datagram, agent);
            }
        }
    });
    Ok((back, thread))
}

fn is_retryable(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::Duration;

    use anyhow::Result;

    use super::Proxy;

    #[test]
    fn it_relays_counts_and_cuts() -> Result<()> {
        let vault = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        vault.set_read_timeout(Some(Duration::from_millis(300)))?;
        let proxy = Proxy::start(vault.local_addr()?.port())?;
        let agent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        agent.set_read_timeout(Some(Duration::from_secs(5)))?;
        agent.connect((Ipv4Addr::LOCALHOST, proxy.port))?;
        let mut buffer = [0; 16];
        agent.send(b"hello")?;
        let (len, back) = vault.recv_from(&mut buffer)?;
        assert_eq!(&buffer[..len], b"hello");
        vault.send_to(b"yes", back)?;
        let len = agent.recv(&mut buffer)?;
        assert_eq!(&buffer[..len], b"yes");
        proxy.set_cut(true);
        agent.send(b"lost")?;
        assert!(vault.recv_from(&mut buffer).is_err());
        proxy.set_cut(false);
        agent.send(b"again")?;
        let (len, _) = vault.recv_from(&mut buffer)?;
        assert_eq!(&buffer[..len], b"again");
        assert_eq!(proxy.bytes_up(), 14);
        Ok(())
    }
}
