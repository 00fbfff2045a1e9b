//! Whether the server is too old for the ledger. Each connection asks once; without the question, an old server looks like
//! one under whose keys something else lies.

use std::collections::HashMap;
use std::io;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue as _, RedisResult, Value};

/// The oldest Redis that knows `ZADD ... GT`, `ZRANGE ... REV` and `XRANGE` with an exclusive begin. Valkey began with 7.2.
const OLDEST: (u32, u32) = (6, 2);

/// Fails where the server says that it is older. One that does not say it (a user may lack the right to ask, a proxy may
/// know neither command) is taken as it is.
pub(super) async fn refuse_an_old_server(connection: &mut impl ConnectionLike) -> RedisResult<()> {
    // HELLO needs no right of the user, but came with Redis 6; INFO is everywhere, but may be forbidden.
    let greeting = redis::cmd("HELLO").arg(2).query_async::<Value>(connection).await;
    let mut version = greeting.ok().and_then(in_greeting);
    if version.is_none() {
        let info = redis::cmd("INFO").arg("server").query_async::<String>(connection).await;
        version = info.ok().as_deref().and_then(in_info).map(str::to_owned);
    }
    match version {
        Some(version) if is_too_old(&version) => Err(too_old(&version).into()),
        _ => Ok(()),
    }
}

/// What HELLO calls the version.
fn in_greeting(greeting: Value) -> Option<String> {
    let mut fields = HashMap::<String, Value>::from_redis_value(greeting).ok()?;
    String::from_redis_value(fields.remove("version")?).ok()
}

/// What INFO calls the version.
fn in_info(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("redis_version:"))
}

/// Not, where it is no version as Redis writes them.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) < OLDEST,
        _ => false,
    }
}

fn too_old(version: &str) -> io::Error {
    let (major, minor) = OLDEST;
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("Redis {version} is older than {major}.{minor}, whose commands the ledger needs: upgrade it"),
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::connect::Connector;
    use super::*;
    use crate::ledger::config::RedisConfig;

    #[test]
    fn redis_before_6_2_is_too_old_and_what_is_no_version_is_not() {
        for old in ["2.8.0", "5.0.14", "6.0.16", "6.1.240", "6.0"] {
            assert!(is_too_old(old), "{old}");
        }
        for good in [
            "6.2.0",
            "6.2.14",
            "7.0.15",
            "7.2.4",
            "8.1.1",
            "10.0.0",
            "255.255.255",
            "6",
            "",
            "x.y",
            "v6.0",
        ] {
            assert!(!is_too_old(good), "{good}");
        }
    }

    #[test]
    fn the_version_is_found_in_both_replies() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let fields = [
            text("server"),
            text("redis"),
            text("version"),
            text("6.0.16"),
            text("proto"),
            Value::Int(2),
        ];
        assert_eq!(in_greeting(Value::Array(fields.to_vec())).as_deref(), Some("6.0.16"));
        let pairs = vec![(text("id"), Value::Int(7)), (text("version"), text("7.2.4"))];
        assert_eq!(in_greeting(Value::Map(pairs)).as_deref(), Some("7.2.4"));
        assert_eq!(in_greeting(Value::Array(vec![text("server"), text("redis")])), None);
        assert_eq!(in_greeting(Value::Okay), None);
        assert_eq!(
            in_info("# Server\r\nredis_version:5.0.7\r\nredis_mode:standalone\r\n"),
            Some("5.0.7")
        );
        assert_eq!(in_info("# Server\r\n"), None);
    }

    /// Answers HELLO and INFO so, and everything else with OK; its address.
    async fn server(hello: &'static str, info: &'static str) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut asked).await {
                    let asked = String::from_utf8_lossy(&asked[..length]);
                    let answer = match () {
                        () if asked.contains("HELLO") => hello,
                        () if asked.contains("INFO") => info,
                        () => "+OK\r\n",
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        Ok(address)
    }

    async fn connect(hello: &'static str, info: &'static str) -> Option<String> {
        let address = server(hello, info).await.unwrap();
        let mut connector = Connector::new(RedisConfig::standalone(address));
        connector.connect().await.err().map(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_old_server_is_named_and_one_that_does_not_tell_is_taken() {
        const UNKNOWN: &str = "-ERR unknown command `HELLO`, with args beginning with: `2`, \r\n";
        const FORBIDDEN: &str = "-NOPERM this user has no permissions to run this command\r\n";
        let six = "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.0.16\r\n";
        let seven = "*2\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n";
        let five = "$19\r\nredis_version:5.0.7\r\n";
        assert_eq!(
            connect(six, FORBIDDEN).await.as_deref(),
            Some("Redis 6.0.16 is older than 6.2, whose commands the ledger needs: upgrade it")
        );
        let error = connect(UNKNOWN, five).await.expect("refused");
        assert!(error.starts_with("Redis 5.0.7 is older than 6.2"), "{error}");
        assert_eq!(connect(seven, FORBIDDEN).await, None);
        assert_eq!(connect(UNKNOWN, FORBIDDEN).await, None);
        assert_eq!(connect(FORBIDDEN, "$0\r\n\r\n").await, None);
    }
}
