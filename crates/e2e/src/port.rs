//! Loopback addresses and ports that no other test uses. Every test process takes an address of its own out of
//! 127.64.0.0/10, derived from its process id, and hands out ports there; so tests run side by side without a
//! race between finding a free port and using it, and without meeting what listens on 127.0.0.1.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Below the range from which Linux takes local ports for outgoing connections (32768 and up).
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(FIRST);
static NEXT_ADDRESS: AtomicU32 = AtomicU32::new(1);

/// The loopback address that belongs to this test process alone. Process ids fit: Linux keeps them below 2^22.
pub fn own_ip() -> Ipv4Addr {
    let id = std::process::id() & 0x3f_ffff;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) | id)
}

/// Another loopback address, for a test that needs several hosts: out of 127.128.0.0/9, each returned once.
pub fn another_ip() -> Ipv4Addr {
    let n = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed) & 0xff;
    let id = std::process::id() & 0x7fff;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 128, 0, 0)) | (id << 8) | n)
}

/// A free TCP and UDP port of [`own_ip`], never returned twice by this process.
///
/// # Panics
/// When every port of the range has been handed out or is taken.
pub fn free() -> SocketAddr {
    free_at(IpAddr::V4(own_ip()))
}

/// A free TCP and UDP port of `ip`, never returned twice by this process.
///
/// # Panics
/// When every port of the range has been handed out or is taken.
pub fn free_at(ip: IpAddr) -> SocketAddr {
    loop {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        assert!(port < LAST, "no free port is left on {ip}");
        let address = SocketAddr::new(ip, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Listens on an address that [`free`] gave. A process that another thread is starting holds a copy of the socket with which
/// that found the port to be free, from its fork until its exec: for so long the address is in use.
///
/// # Errors
/// When it still is after a second, or cannot be listened on.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && start.elapsed() < Duration::from_secs(1) =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.with_context(|| format!("listen on {address}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_handed_out_once_and_can_be_bound() {
        let (a, b) = (free(), free());
        assert_ne!(a, b);
        TcpListener::bind(a).unwrap();
        UdpSocket::bind(b).unwrap();
        let held = listen(b).unwrap();
        let soon = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            drop(held);
        });
        listen(b).unwrap();
        soon.join().unwrap();
        assert!(a.ip().is_loopback() && another_ip().is_loopback());
    }
}
