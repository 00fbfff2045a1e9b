//! The accept loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::net::TcpListener;

use super::{Server, connection};

/// How long accepting rests when the system has no descriptor or memory left for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the server drains. Those that the kernel has completed by then are still taken, because
/// closing the listener would reset them.
pub async fn accept(listener: TcpListener, server: Arc<Server>) {
    let port = listener.local_addr().map_or(0, |address| address.port());
    let drain = server.drain.clone();
    let mut drained = std::pin::pin!(drain.cancelled());
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            // Reached only when nothing was there to accept.
            () = &mut drained => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                server.metrics.connections.inc();
                let peer = peer.ip().to_canonical();
                match server.admission.connection(peer) {
                    Ok((slot, kind)) => {
                        let task = connection::run(stream, peer, port, kind, Arc::clone(&server), slot);
                        server.connections.spawn(task);
                    }
                    Err(refusal) => server.refused(refusal, peer, None),
                }
            }
            // The client gave up before it was accepted.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(held_back) = server.accept_quiet.pass(Instant::now()) {
                    if lacks_files(&error) {
                        tracing::error!(%error, held_back, "cannot accept connections: raise the limit of open files");
                    } else {
                        tracing::error!(%error, held_back, "cannot accept connections");
                    }
                }
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Whether the process or the system has as many files open as it may.
fn lacks_files(error: &std::io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_files_is_one_of_the_limit_of_open_files() {
        let lacks = |errno: Errno| lacks_files(&std::io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!(lacks(Errno::MFILE) && lacks(Errno::NFILE));
        assert!(!lacks(Errno::NOMEM) && !lacks(Errno::PERM));
        assert!(!lacks_files(&std::io::ErrorKind::Other.into()));
    }
}
