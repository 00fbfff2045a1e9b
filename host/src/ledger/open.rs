//! From configuration to a ledger.

use std::{error::Error, fmt, sync::Arc};

use super::{
    Ledger, LedgerConfig, LedgerKey, MemoryLedger,
    redis::{RedisLedger, files},
};
use crate::config::place::SectionProblem;
use crate::keyfile::KeyFileError;

/// A ledger and the key to it: the one stores, the other gives clients their pseudonyms.
#[derive(Clone)]
pub struct Opened {
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// Its key.
    pub key: LedgerKey,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

/// Why a ledger cannot be opened. A store that is away is no reason: it is waited for.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration cannot be.
    #[error("the ledger's configuration cannot be: {0}")]
    Config(SectionProblem),
    /// The ledger key cannot be read.
    #[error("the ledger key cannot be read")]
    Key(#[from] KeyFileError),
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes for a ledger key")]
    Random(#[from] getrandom::Error),
}

/// What is wrong with each file that `config` names, and the setting that names it: for who checks a configuration
/// without opening the ledger.
pub(crate) fn file_problems(config: &LedgerConfig) -> Vec<(String, Box<dyn Error>)> {
    let key = config.key_file.as_deref().and_then(|path| LedgerKey::read(path).err());
    let key = key.map(|error| ("keyFile".to_owned(), error.into()));
    let redis = config.redis.iter().flat_map(files::problems);
    let redis = redis.map(|(setting, error)| (format!("redis.{setting}"), error.into()));
    key.into_iter().chain(redis).collect()
}

/// Opens the ledger that `config` describes. Connections are made in the background; within a tokio runtime only.
pub fn open(config: &LedgerConfig) -> Result<Opened, OpenError> {
    if let Some(problem) = config.problems().into_iter().next() {
        return Err(OpenError::Config(problem));
    }
    let key = match &config.key_file {
        Some(path) => LedgerKey::read(path)?,
        None => LedgerKey::ephemeral()?,
    };
    let ledger: Arc<dyn Ledger> = match &config.redis {
        Some(redis) => Arc::new(RedisLedger::start(redis, key.clone())),
        None => Arc::new(MemoryLedger::new()),
    };
    Ok(Opened { ledger, key })
}
