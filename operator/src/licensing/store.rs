//! Where the memory of a resource is kept: in Kubernetes beside it, in a file, or nowhere.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use futures::future::BoxFuture;

use super::round::Memory;

/// Keeps a resource's memory. It must never be written by two: a store that sees somebody else's writing refuses to save,
/// and so nothing is begun.
pub trait Store: Send + Sync {
    /// What was saved last; an empty memory when nothing was.
    fn load(&self) -> BoxFuture<'_, anyhow::Result<Memory>>;

    /// Saves it. It must have reached its store when the future is done.
    fn save<'a>(&'a self, memory: &'a Memory) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// Kept as long as the process: for drills. After a restart it is not known what was tried before.
#[derive(Debug, Default)]
pub struct InMemory(Mutex<Memory>);

impl Store for InMemory {
    fn load(&self) -> BoxFuture<'_, anyhow::Result<Memory>> {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move { Ok(memory) })
    }

    fn save<'a>(&'a self, memory: &'a Memory) -> BoxFuture<'a, anyhow::Result<()>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = memory.clone();
        Box::pin(async { Ok(()) })
    }
}

/// Kept in a file, which is replaced as a whole.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
}

impl FileStore {
    /// The file need not exist yet; its directory must.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn read(&self) -> anyhow::Result<Memory> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Memory::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        };
        serde_json::from_slice(&text).with_context(|| format!("{} is no journal", self.path.display()))
    }

    fn write(&self, memory: &Memory) -> anyhow::Result<()> {
        let fresh = self.path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(memory)?)?;
            // Only what is on the disk lets a step begin.
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Store for FileStore {
    fn load(&self) -> BoxFuture<'_, anyhow::Result<Memory>> {
        Box::pin(async { self.read() })
    }

    fn save<'a>(&'a self, memory: &'a Memory) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { self.write(memory) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::licensing::journal::Kind;

    #[tokio::test]
    async fn a_file_keeps_what_was_saved_and_a_broken_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(&folder.path().join("journal.json"));
        assert_eq!(store.load().await.unwrap(), Memory::default());
        let mut memory = Memory::default();
        memory.journal.begin("kms01", "Office2016", Kind::Activate, "mark", 1);
        store.save(&memory).await.unwrap();
        assert_eq!(store.load().await.unwrap(), memory);
        std::fs::write(folder.path().join("journal.json"), "{").unwrap();
        assert!(
            store.load().await.is_err(),
            "what cannot be read is not taken for empty"
        );
    }
}
