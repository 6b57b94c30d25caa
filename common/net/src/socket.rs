//! UDP sockets with room for what arrives while nobody looks.

use std::net::{SocketAddr, UdpSocket};

use rustix::net::sockopt;

/// Bytes of packets that a socket may keep in each direction. The system's default has room for
/// fewer than four of the largest packets; it caps what an ordinary user may ask for.
const BUFFER_BYTES: usize = 4 << 20;

/// Binds a socket.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    // Without them it is slower, no more.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES);
    let _ = sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES);
    Ok(socket)
}
