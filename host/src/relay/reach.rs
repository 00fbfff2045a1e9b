//! Reaches a licensed host at one of several addresses, much as RFC 8305 ("Happy Eyeballs") advises: a dead address, such
//! as that of a family without a route, costs a moment and not all of the time.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

/// How long an address is tried before the next is tried beside it (RFC 8305, section 5, "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

/// What the first of the attempts brings that succeeds; the others end with it. An attempt begins when the one before
/// has failed, or has had its head start. If all fail, the last error; none where there is no address.
pub(super) async fn first<T, E, F>(addresses: &[SocketAddr], attempt: impl Fn(SocketAddr) -> F) -> Result<T, Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.iter();
    let mut trying = FuturesUnordered::new();
    let mut last = None;
    loop {
        match waiting.next() {
            Some(address) => trying.push(attempt(*address)),
            None if trying.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            biased;
            Some(ended) = trying.next() => match ended {
                Ok(reached) => return Ok(reached),
                Err(error) => last = Some(error),
            },
            () = tokio::time::sleep(HEAD_START), if waiting.len() != 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Instant, sleep};

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count)
            .map(|port| SocketAddr::from(([192, 0, 2, 1], port)))
            .collect()
    }

    /// Tries as many addresses as there are outcomes: each comes after so many milliseconds. Returns who was first, or
    /// failed last, and when.
    async fn of(outcomes: &[(u64, bool)]) -> (Result<u16, Option<u16>>, u128) {
        let begun = Instant::now();
        let count = u16::try_from(outcomes.len()).expect("few");
        let first = first(&addresses(count), |address| {
            let (millis, reached) = outcomes[usize::from(address.port()) - 1];
            async move {
                sleep(Duration::from_millis(millis)).await;
                if reached {
                    Ok(address.port())
                } else {
                    Err(address.port())
                }
            }
        })
        .await;
        (first, begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_silent_or_fails_costs_a_moment() {
        assert_eq!(of(&[(10, true), (10, true)]).await, (Ok(1), 10));
        assert_eq!(of(&[(60_000, true), (10, true)]).await, (Ok(2), 260));
        assert_eq!(of(&[(10, false), (10, true)]).await, (Ok(2), 20));
        assert_eq!(of(&[(60_000, false), (60_000, false), (5, true)]).await, (Ok(3), 505));
        assert_eq!(
            of(&[(300, true), (200, true)]).await,
            (Ok(1), 300),
            "the slow first is not given up"
        );
        assert_eq!(of(&[(400, false), (10, false)]).await, (Err(Some(1)), 400));
        assert_eq!(of(&[]).await, (Err(None), 0));
    }

    /// A listener whose queue is full: the kernel drops what more comes, as a black hole does.
    async fn black_hole() -> (Socket, Vec<TcpStream>, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("bound");
        socket.listen(0).expect("listens");
        let address = socket
            .local_addr()
            .expect("address")
            .as_socket()
            .expect("an IP address");
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(HEAD_START, TcpStream::connect(address)).await {
            queued.push(stream);
        }
        (socket, queued, address)
    }

    #[tokio::test]
    async fn behind_a_black_hole_the_next_address_is_reached() {
        let (_socket, _queued, dead) = black_hole().await;
        let well = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = well.local_addr().expect("address");
        let reached = first(&[dead, address], TcpStream::connect).await.expect("reached");
        assert_eq!(reached.peer_addr().expect("address"), address);
    }
}
