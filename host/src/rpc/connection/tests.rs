use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpListener;

use super::*;
use crate::rpc::{Answer, Association, FaultStatus, Limits, Offer};

const LE: DataRepresentation = DataRepresentation::LITTLE_ENDIAN;

/// A server of one connection. A stub of `fault` gets a fault, `hang` no answer, `close` the connection's end,
/// `twice` two answers, and any other stub itself.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut server = Association::new(Arc::new(Offer::kms()), Limits::default(), NonZeroU32::MIN, 1688);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        loop {
            if let Some(call) = server.receive(&mut input, &mut output).unwrap() {
                let echo = Answer::Stub(call.stub.clone());
                match &call.stub[..] {
                    b"close" => return,
                    b"hang" => {}
                    b"fault" => server.answer(&call, Answer::Fault(FaultStatus::SERVER_TOO_BUSY), &mut output),
                    b"twice" => (0..2).for_each(|_| server.answer(&call, echo.clone(), &mut output)),
                    _ => server.answer(&call, echo, &mut output),
                }
            }
            stream.write_all(&output).await.unwrap();
            output.clear();
            if stream.read_buf(&mut input).await.unwrap() == 0 {
                return;
            }
        }
    });
    address
}

async fn connected() -> Connection {
    let options = ConnectOptions {
        call_timeout: Duration::from_millis(200),
        ..ConnectOptions::default()
    };
    Connection::connect(server().await, &options).await.unwrap()
}

#[tokio::test]
async fn a_connection_is_bound_once_and_called_often() {
    let mut connection = connected().await;
    assert_eq!(connection.offered().features, Some(0b10));
    assert_eq!(connection.syntax(), Some(TransferSyntax::Ndr64));
    for length in [0, 5, 4000] {
        let stub = Bytes::from(vec![1; length]);
        assert_eq!(connection.call(0, LE, &stub).await.unwrap(), Reply::Stub(stub, LE));
        assert!(connection.is_usable());
    }
    let busy = connection.call(0, LE, b"fault").await.unwrap();
    assert_eq!(busy, Reply::Fault(FaultStatus::SERVER_TOO_BUSY));
    assert!(connection.is_usable());
}

#[tokio::test]
async fn alter_context_adds_a_transfer_syntax() {
    let mut connection = connected().await;
    let ndr = TransferSyntax::Ndr;
    assert!(matches!(
        connection.call_in(ndr, 0, LE, b"x").await,
        Err(CallError::NotAccepted(_))
    ));
    let outcome = connection
        .alter_context(&Proposal::one(Interface::KMS, ndr))
        .await
        .unwrap();
    assert_eq!(outcome.syntaxes, [ndr]);
    assert_eq!(
        connection.call_in(ndr, 0, LE, b"x").await.unwrap(),
        Reply::Stub(Bytes::from_static(b"x"), LE)
    );
}

#[tokio::test]
async fn a_call_that_times_out_makes_the_connection_unusable() {
    let mut connection = connected().await;
    assert!(matches!(
        connection.call(0, LE, b"hang").await,
        Err(CallError::Timeout(_))
    ));
    assert!(!connection.is_usable());
    assert!(matches!(connection.call(0, LE, b"x").await, Err(CallError::Unusable)));
}

#[tokio::test]
async fn an_abandoned_call_makes_the_connection_unusable() {
    let mut connection = connected().await;
    let abandoned = timeout(Duration::from_millis(1), connection.call(0, LE, b"hang"));
    assert!(abandoned.await.is_err());
    assert!(!connection.is_usable());
}

#[tokio::test]
async fn a_closed_connection_is_an_error_and_is_noticed_before_the_next_call() {
    let mut connection = connected().await;
    assert!(matches!(
        connection.call(0, LE, b"close").await,
        Err(CallError::Broken(_))
    ));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ConnectOptions::default();
    let connect = Connection::connect(listener.local_addr().unwrap(), &options);
    let accept = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut server = Association::new(Arc::new(Offer::kms()), Limits::default(), NonZeroU32::MIN, 1688);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        while output.is_empty() {
            stream.read_buf(&mut input).await.unwrap();
            server.receive(&mut input, &mut output).unwrap();
        }
        stream.write_all(&output).await.unwrap();
        stream
    };
    let (connection, stream) = tokio::join!(connect, accept);
    let connection = connection.unwrap();
    assert!(connection.is_usable());
    drop(stream);
    connection.stream.readable().await.unwrap();
    assert!(!connection.is_usable());
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_makes_the_connection_unusable() {
    let mut connection = connected().await;
    assert!(matches!(connection.call(0, LE, b"twice").await, Ok(Reply::Stub(..))));
    if connection.input.is_empty() {
        connection.stream.readable().await.unwrap();
    }
    assert!(!connection.is_usable());
}

#[tokio::test]
async fn each_step_of_connecting_can_fail() {
    let category = |result: Result<Connection, ConnectError>| result.unwrap_err().category();
    let patience = Duration::from_millis(50);
    let options = ConnectOptions {
        bind_timeout: patience,
        ..ConnectOptions::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(category(Connection::connect(address, &options).await), "bind_timeout");
    let close = async { drop(listener.accept().await.unwrap()) };
    drop(listener.accept().await.unwrap());
    let (result, ()) = tokio::join!(Connection::connect(address, &options), close);
    assert_eq!(category(result), "reset");
    drop(listener);
    assert_eq!(category(Connection::connect(address, &options).await), "connect");
    let other = Interface {
        minor: 9,
        ..Interface::KMS
    };
    let options = ConnectOptions {
        proposal: Proposal::like_windows(other),
        ..ConnectOptions::default()
    };
    assert_eq!(
        category(Connection::connect(server().await, &options).await),
        "rejected"
    );
}
