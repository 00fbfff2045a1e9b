//! One connection, kept up: a task makes it, watches it and makes it anew; callers use what there is.
//!
//! ```text
//! Connecting --ok--> Up --failed call or ping--> Connecting --failed--> Down --back-off, ok--> Up
//! ```
//!
//! While connecting for the first time after it was up, callers wait (bounded); while down, they are told at once.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind, Value};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use super::connect::{Connection, Connector};
use crate::ledger::{LedgerError, config::RedisConfig};

/// How often an idle connection is tried.
const PING_EVERY: Duration = Duration::from_secs(2);

/// A connection that fails sooner than this counts as one that was not made, so that a server that lets us in and then
/// refuses everything is not asked without pause.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The callers' end. The task behind it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    failed: mpsc::Sender<u64>,
    patience: Duration,
    store: Arc<str>,
}

#[derive(Clone)]
enum State {
    Connecting,
    Up { generation: u64, connection: Connection },
    Down(RedisError),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connecting => f.write_str("Connecting"),
            Self::Up { generation, .. } => write!(f, "Up({generation})"),
            Self::Down(error) => write!(f, "Down({error})"),
        }
    }
}

/// What callers ask of the store.
#[derive(Clone, Copy)]
pub(super) enum Ask<'a> {
    Script(&'a ScriptInvocation<'a>),
    Command(&'a Cmd),
}

impl Link {
    /// Starts the task; within a tokio runtime.
    pub(super) fn start(config: &RedisConfig) -> Self {
        let (publish, state) = watch::channel(State::Connecting);
        let (failed, failures) = mpsc::channel(16);
        let store: Arc<str> = config.addresses.join(",").into();
        let keeper = Keeper {
            connector: Connector::new(config.clone()),
            publish,
            failures,
            store: store.clone(),
        };
        tokio::spawn(keeper.run());
        Self {
            state,
            failed,
            patience: config.connect_timeout.get(),
            store,
        }
    }

    /// Asks the store once; once more where it is certain that nothing was done.
    pub(super) async fn ask<T: FromRedisValue>(&self, ask: Ask<'_>) -> Result<T, LedgerError> {
        let reply = match self.ask_once(ask).await {
            Err(error) if was_not_done(&error) => self.ask_once(ask).await,
            reply => reply,
        };
        let reply = reply.map_err(|error| self.error(error))?;
        redis::from_redis_value(reply).map_err(|error| self.error(error.into()))
    }

    /// An error of ours to a reply that is not what was asked for.
    pub(super) fn unexpected(&self, what: &'static str) -> LedgerError {
        self.error((ErrorKind::UnexpectedReturnType, what).into())
    }

    async fn ask_once(&self, ask: Ask<'_>) -> Result<Value, RedisError> {
        let (generation, mut connection) = self.connection().await?;
        let reply = match ask {
            Ask::Script(script) => script.invoke_async(&mut connection).await,
            Ask::Command(command) => command.query_async(&mut connection).await,
        };
        if let Err(error) = &reply
            && spoils_the_connection(error)
        {
            // When the queue is full the keeper knows already.
            let _known = self.failed.try_send(generation);
            if was_not_done(error) {
                // The caller asks again and must not be given the same connection.
                let renewed =
                    |state: &State| !matches!(state, State::Up { generation: same, .. } if *same == generation);
                let mut state = self.state.clone();
                let _slow = time::timeout(self.patience, state.wait_for(renewed)).await;
            }
        }
        reply
    }

    async fn connection(&self) -> Result<(u64, Connection), RedisError> {
        let mut state = self.state.clone();
        let known = time::timeout(
            self.patience,
            state.wait_for(|state| !matches!(state, State::Connecting)),
        )
        .await;
        match known.ok().and_then(Result::ok).as_deref() {
            Some(State::Up { generation, connection }) => Ok((*generation, connection.clone())),
            Some(State::Down(error)) => Err(error.clone()),
            Some(State::Connecting) | None => {
                Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "not connected yet").into())
            }
        }
    }

    fn error(&self, error: RedisError) -> LedgerError {
        let (store, refused, rejected) = (self.store.to_string(), is_refusal(&error), is_rejection(&error));
        let source = error.into();
        if refused {
            LedgerError::Refused { store, source }
        } else if rejected {
            LedgerError::Rejected { store, source }
        } else {
            LedgerError::Unavailable { store, source }
        }
    }
}

/// The task's end.
struct Keeper {
    connector: Connector,
    publish: watch::Sender<State>,
    failures: mpsc::Receiver<u64>,
    store: Arc<str>,
}

impl Keeper {
    async fn run(mut self) {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(SHORTEST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .without_max_times()
            .with_jitter();
        let mut pause = pauses.build();
        for generation in 0.. {
            let error = match self.connector.connect().await {
                Ok(connection) => {
                    tracing::info!(server.addr = %self.store, "the ledger's store is connected");
                    let since = Instant::now();
                    self.publish.send_replace(State::Up {
                        generation,
                        connection: connection.clone(),
                    });
                    let Some(error) = self.watch(generation, connection).await else {
                        return;
                    };
                    tracing::warn!(server.addr = %self.store, %error, "the connection to the ledger's store failed");
                    if since.elapsed() >= SETTLED_AFTER {
                        pause = pauses.build();
                        self.publish.send_replace(State::Connecting);
                        continue;
                    }
                    error
                }
                Err(error) => {
                    self.log(&error);
                    error
                }
            };
            self.publish.send_replace(State::Down(error));
            tokio::select! {
                () = time::sleep(pause.next().unwrap_or(LONGEST_PAUSE)) => {}
                () = self.publish.closed() => return,
            }
        }
    }

    /// Waits until the connection has failed; none when nobody uses it any more.
    async fn watch(&mut self, generation: u64, mut connection: Connection) -> Option<RedisError> {
        loop {
            let failed = tokio::select! {
                failed = self.failures.recv() => failed? == generation,
                () = time::sleep(PING_EVERY) => false,
            };
            let tried = redis::cmd("PING").query_async::<Value>(&mut connection).await;
            match tried {
                Err(error) => return Some(error),
                // It answers, but a call found it of no use: a replica that was the master, say.
                Ok(_) if failed => return Some((ErrorKind::Client, "a call found the connection of no use").into()),
                Ok(_) => {}
            }
        }
    }

    /// Once loudly, then softly until it is up again.
    fn log(&self, error: &RedisError) {
        if matches!(&*self.publish.borrow(), State::Down(_)) {
            tracing::debug!(server.addr = %self.store, %error, "the ledger's store cannot be reached still");
        } else {
            tracing::warn!(server.addr = %self.store, %error, "the ledger's store cannot be reached; trying on");
        }
    }
}

/// Whether the store said, before it did anything, that it would not.
fn was_not_done(error: &RedisError) -> bool {
    use ServerErrorKind::{ClusterDown, MasterDown, TryAgain};
    is_of_a_replica(error) || matches!(error.kind(), ErrorKind::Server(MasterDown | ClusterDown | TryAgain))
}

/// Whether the server is a replica, which takes no writes. A script's first write finds that out. Before Redis 7 the
/// error of a command within a script is wrapped into one of the script's own.
fn is_of_a_replica(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || is_wrapped(error, "READONLY You can't write against a read only replica")
}

fn is_wrapped(error: &RedisError, message: &str) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
        && error.detail().is_some_and(|detail| detail.contains(message))
}

/// Whether the store will say the same however often it is asked: a key of ours holds something else, a script fails.
/// A store that is full, or cannot write its file (OOM, MISCONF), may say something else soon.
fn is_rejection(error: &RedisError) -> bool {
    let may_pass = ["OOM ", "MISCONF "].iter().any(|reason| is_wrapped(error, reason));
    match error.kind() {
        ErrorKind::UnexpectedReturnType => true,
        ErrorKind::Server(ServerErrorKind::ResponseError) => !may_pass && !is_of_a_replica(error),
        _ => error.code() == Some("WRONGTYPE"),
    }
}

/// Whether another connection may do better.
fn spoils_the_connection(error: &RedisError) -> bool {
    use ServerErrorKind::{CrossSlot, ExecAbort, NoPerm, NoScript, ResponseError, TryAgain};
    match error.kind() {
        ErrorKind::Server(ResponseError) => is_of_a_replica(error),
        ErrorKind::Server(kind) => !matches!(kind, NoPerm | TryAgain | NoScript | ExecAbort | CrossSlot),
        ErrorKind::UnexpectedReturnType | ErrorKind::InvalidClientConfig => false,
        // Of the data, or of the server's room: it would say the same on any connection.
        ErrorKind::Extension => !matches!(
            error.code(),
            Some("WRONGTYPE" | "OOM" | "MISCONF" | "NOREPLICAS" | "BUSY")
        ),
        _ => true,
    }
}

fn is_refusal(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm)
    ) || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
        || is_wrapped(error, "The user executing the script can't")
}
