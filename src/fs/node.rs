//! Inodes in use: what is known of them beyond the store.

use super::dirty::Dirty;
use super::{Fs, FsError, Result, lock};
use crate::store::Reservation;
use crate::types::{Attr, Ino};
use std::sync::{Arc, Mutex};

/// An inode that is open, or has unstaged changes, or is being worked on.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub ino: Ino,
    /// Everything else.
    pub state: Mutex<NodeState>,
}

/// What a node's lock guards.
#[derive(Debug, Default)]
pub struct NodeState {
    /// Attributes; newer than the store's if `attr_dirty`. `None` before the first use, and once
    /// the inode is gone.
    pub attr: Option<Attr>,
    /// `attr` has to be stored.
    pub attr_dirty: bool,
    /// Unstaged bytes.
    pub dirty: Dirty,
    /// Room for them.
    pub reserved: Vec<Reservation>,
    /// Open handles.
    pub opens: u64,
    /// A write failed in the background: told at the next fsync or close.
    pub failed: Option<FsError>,
}

impl NodeState {
    /// True if nothing would be lost by forgetting the node.
    fn idle(&self) -> bool {
        self.opens == 0 && !self.attr_dirty && self.dirty.is_empty()
    }
}

impl Fs {
    /// The node, if the inode is in use.
    pub(super) fn active(&self, ino: Ino) -> Option<Arc<Node>> {
        lock(&self.nodes).get(&ino).cloned()
    }

    /// The node, made if need be. [`Self::put_node`] it when done.
    pub(super) fn node(&self, ino: Ino) -> Arc<Node> {
        let make = || Arc::new(Node { ino, state: Mutex::default() });
        Arc::clone(lock(&self.nodes).entry(ino).or_insert_with(make))
    }

    /// Forgets a node that nobody needs any more.
    pub(super) fn put_node(&self, node: Arc<Node>) {
        let ino = node.ino;
        let idle = lock(&node.state).idle();
        drop(node);
        if idle {
            let mut nodes = lock(&self.nodes);
            // The map's own reference is the last one: nobody can be about to use it.
            if nodes.get(&ino).is_some_and(|n| {
                Arc::strong_count(n) == 1 && n.state.try_lock().is_ok_and(|s| s.idle())
            }) {
                nodes.remove(&ino);
            }
        }
    }

    /// The attributes under a node's lock, read from the store if need be.
    pub(super) fn attr_of(&self, ino: Ino, state: &mut NodeState) -> Result<Attr> {
        if let Some(a) = state.attr {
            return Ok(a);
        }
        let a = self.store.inode(ino)?.ok_or(FsError::NotFound)?;
        state.attr = Some(a);
        Ok(a)
    }

    /// Runs `work` on a node's locked state.
    pub(super) fn with_node<T>(
        &self,
        ino: Ino,
        work: impl FnOnce(&mut NodeState) -> Result<T>,
    ) -> Result<T> {
        let node = self.node(ino);
        let result = work(&mut lock(&node.state));
        self.put_node(node);
        result
    }
}
