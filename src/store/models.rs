//! The model files of a store.

use super::{Result, Store, StoreError};

impl Store {
    fn model_path(&self, id: &[u8; 32]) -> std::path::PathBuf {
        self.path().join("models").join(blake3::Hash::from_bytes(*id).to_hex().as_str())
    }

    /// Keeps a model's canonical file, durably.
    pub fn put_model_file(&self, id: &[u8; 32], bytes: &[u8]) -> Result<()> {
        let path = self.model_path(id);
        let io = |source| StoreError::Io { what: format!("write {}", path.display()), source };
        std::fs::write(&path, bytes).map_err(io)
    }

    /// A model's canonical file.
    pub fn model_file(&self, id: &[u8; 32]) -> Result<Vec<u8>> {
        let path = self.model_path(id);
        let io = |source| StoreError::Io { what: format!("read {}", path.display()), source };
        std::fs::read(&path).map_err(io)
    }

    /// Deletes a model's file.
    pub fn remove_model_file(&self, id: &[u8; 32]) -> Result<()> {
        let path = self.model_path(id);
        let io = |source| StoreError::Io { what: format!("delete {}", path.display()), source };
        std::fs::remove_file(&path).map_err(io)
    }
}
