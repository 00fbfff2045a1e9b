//! Listening sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: is the port taken, or below 1024 without the right to bind it?")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Listens on `address`. Accepted connections inherit TCP_NODELAY, which saves a system call for each.
///
/// An IPv6 wildcard takes IPv4 clients too unless `v6_only`. Then it is every address of the machine, so a kernel without
/// IPv6 listens on the IPv4 wildcard instead.
///
/// # Errors
/// The address is taken or not ours.
pub fn listen(address: SocketAddr, v6_only: bool) -> Result<TcpListener, ListenError> {
    let everywhere = address.ip() == Ipv6Addr::UNSPECIFIED && !v6_only;
    match bind(address, v6_only) {
        Err(error) if everywhere && lacks_family(&error) => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), false)
        }
        bound => bound,
    }
    .map_err(|source| ListenError { address, source })
}

/// Whether the kernel was started without the address family (`ipv6.disable=1`).
fn lacks_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Raises the process' limit of open files as far as it may: each connection is one. Returns the limit.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit).is_ok();
    (if raised { limit.maximum } else { before }).unwrap_or(u64::MAX)
}

fn bind(address: SocketAddr, v6_only: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
