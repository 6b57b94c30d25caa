//! Host names: looked up by the C library, which a static program brings along.
//!
//! The C library looks names up in modules that `/etc/nsswitch.conf` lists, and loads those that it does not have itself
//! from the system. Into a static program it would load one that was made for another version of itself, and abort the
//! process (measured: glibc 2.36 on Debian 11, "Assertion `sym != NULL' failed"). So a static program looks in
//! `/etc/hosts` and asks the name servers of `/etc/resolv.conf`, for which it has the modules, and nothing else.
#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// Finds the addresses of a host, in the order in which they should be tried. Blocks.
///
/// # Errors
/// When there is no such host, or a name server does not answer.
pub fn look_up(address: impl ToSocketAddrs) -> io::Result<Vec<SocketAddr>> {
    keep_to_own_modules();
    Ok(address.to_socket_addrs()?.collect())
}

/// As [`look_up`] with `HOST:PORT`, without blocking.
pub(crate) async fn look_up_async(address: &str) -> io::Result<Vec<SocketAddr>> {
    keep_to_own_modules();
    Ok(tokio::net::lookup_host(address).await?.collect())
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
fn keep_to_own_modules() {
    use std::ffi::{c_char, c_int};
    use std::sync::Once;

    // SOURCE: glibc, nss/nss.h.
    unsafe extern "C" {
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: both are C strings that live as long as the program, and other threads look names up only through
        // this module, after this.
        let _ = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
        // It fails only without memory, and then does nothing: the system's list holds.
    });
}

#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
fn keep_to_own_modules() {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::look_up;

    #[test]
    fn numbers_need_no_name_server() {
        let found = look_up("127.0.0.1:8407").unwrap();
        assert_eq!(found, ["127.0.0.1:8407".parse().unwrap()]);
        assert_eq!(look_up(("::1", 8407)).unwrap(), ["[::1]:8407".parse().unwrap()]);
        assert!(look_up("127.0.0.1").is_err());
    }
}
