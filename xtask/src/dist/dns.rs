//! A name server that knows one name, for programs that ask over the network.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// Where it listens: loopback, and not where another name server of this machine may.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 84, 7, 53);

/// The one name that is known, as it stands in a question. SOURCE: RFC 1035, section 4.1.2.
const KNOWN: &[u8] = b"\x03dns\x04test\x00";
const TYPE_A: [u8; 2] = [0, 1];
const HEADER_BYTES: usize = 12;
const POLL: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
pub(super) struct NameServer {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Starts to answer on [`ADDRESS`].
    ///
    /// # Errors
    /// When the port cannot be had.
    pub(super) fn start() -> Result<Self> {
        let socket = UdpSocket::bind(SocketAddrV4::new(ADDRESS, 53))
            .with_context(|| format!("no name server on {ADDRESS}"))?;
        socket.set_read_timeout(Some(POLL))?;
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut question = [0; 512];
            while !told.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                if let Some(answer) = question.get(..length).and_then(answer) {
                    // Lost like any datagram: it is asked again.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // It has nothing to tell.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The answer to one question: 127.0.0.1 for the known name, no such name for all others. SOURCE: RFC 1035, section 4.1.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let (header, rest) = question.split_at_checked(HEADER_BYTES)?;
    let name_bytes = rest.iter().position(|&byte| byte == 0)? + 1;
    let asked = rest.get(..name_bytes + 4)?;
    let is_known = asked.starts_with(KNOWN);
    let has_address = is_known && asked.get(name_bytes..name_bytes + 2)? == TYPE_A;
    let mut answer = header.get(..2)?.to_vec();
    // A response, recursion desired and available; one question, perhaps one answer, nothing more.
    let code = if is_known { 0x80 } else { 0x83 };
    answer.extend([0x81, code, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend(asked);
    if has_address {
        // The name of the question, type A, class IN, 60 s, 4 bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::answer;

    fn question(name: &[u8], kind: u8) -> Vec<u8> {
        let mut question = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(name);
        question.extend([0, kind, 0, 1]);
        question
    }

    #[test]
    fn one_name_is_known() {
        let known = answer(&question(b"\x03dns\x04test\x00", 1)).unwrap();
        assert_eq!(known.get(..8).unwrap(), [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1]);
        assert!(known.ends_with(&[127, 0, 0, 1]));
        let six = answer(&question(b"\x03dns\x04test\x00", 28)).unwrap();
        assert_eq!(six.get(2..8).unwrap(), [0x81, 0x80, 0, 1, 0, 0]);
        let unknown = answer(&question(b"\x02no\x04test\x00", 1)).unwrap();
        assert_eq!(unknown.get(2..8).unwrap(), [0x81, 0x83, 0, 1, 0, 0]);
        assert!(answer(b"short").is_none() && answer(&[1; 64]).is_none());
    }
}
