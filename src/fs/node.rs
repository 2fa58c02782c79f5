//! Inodes in use: attributes as they are now, dirty data, open counts.
//!
//! Lock order: names → `Node::stage` → `Node::state` (ascending inode number where there are
//! several) → the table → the store's locks.

use super::dirty::Dirty;
use super::{FsError, Result};
use crate::store::{Reservation, Store};
use crate::types::{Attr, Ino};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of an inode beyond the store.
#[derive(Debug)]
pub struct NodeState {
    /// Attributes now; the store may still have older ones.
    pub attr: Attr,
    /// Size that the store has: what was written beyond is not in it yet.
    pub stored_size: u64,
    /// `attr` has what the store has not.
    pub attr_dirty: bool,
    /// Written, not staged.
    pub dirty: Dirty,
    /// Being staged now; below `dirty`.
    pub staging: Arc<Dirty>,
    /// Room for the dirty data.
    pub reserved: Vec<Reservation>,
    /// Sum of `reserved`, in bytes.
    pub reserved_bytes: u64,
    /// Open file handles.
    pub open: u32,
    /// Deleted: nothing may be written any more.
    pub gone: bool,
    /// Plaintext bytes mapped in the store, if counted.
    pub mapped: Option<u64>,
    /// Where the last read ended, and how many in a row began where the one before ended.
    pub read_end: u64,
    pub streak: u32,
}

impl NodeState {
    /// Attributes fit for the store before the dirty data are: with the size it has.
    pub fn durable(&self, attr: Attr) -> Attr {
        Attr { size: if attr.is_file() { self.stored_size } else { attr.size }, ..attr }
    }

    /// Nothing here that the store has not.
    pub fn is_clean(&self) -> bool {
        !self.attr_dirty && self.dirty.is_empty() && self.staging.is_empty()
    }
}

/// An inode in use.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub ino: Ino,
    /// Held while data are staged, and by whoever cuts data out.
    pub stage: Mutex<()>,
    state: Mutex<NodeState>,
}

impl Node {
    /// Locks the state.
    pub fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All inodes in use, by number.
#[derive(Debug, Default)]
pub struct Nodes {
    table: Mutex<HashMap<Ino, Arc<Node>>>,
}

/// A node that stays in the table while this lives.
#[derive(Debug)]
pub struct Held<'a> {
    nodes: &'a Nodes,
    node: Arc<Node>,
}

impl Deref for Held<'_> {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut table = self.nodes.table();
        // Two owners: the table and this. Nobody else can get at it while the table is locked.
        if Arc::strong_count(&self.node) == 2
            && let Ok(s) = self.node.state.try_lock()
            && s.open == 0
            && (s.gone || s.is_clean())
        {
            table.remove(&self.node.ino);
        }
    }
}

impl Nodes {
    fn table(&self) -> MutexGuard<'_, HashMap<Ino, Arc<Node>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of an inode, from the store if it is not in use yet.
    pub fn hold(&self, store: &Store, ino: Ino) -> Result<Held<'_>> {
        let mut table = self.table();
        let node = if let Some(node) = table.get(&ino) {
            Arc::clone(node)
        } else {
            let attr = store.inode(ino)?.ok_or(FsError::NotFound)?;
            let state = NodeState {
                attr,
                stored_size: attr.size,
                attr_dirty: false,
                dirty: Dirty::default(),
                staging: Arc::default(),
                reserved: Vec::new(),
                reserved_bytes: 0,
                open: 0,
                gone: false,
                mapped: None,
                read_end: 0,
                streak: 0,
            };
            let node = Arc::new(Node { ino, stage: Mutex::default(), state: Mutex::new(state) });
            table.insert(ino, Arc::clone(&node));
            node
        };
        Ok(Held { nodes: self, node })
    }

    /// Inodes in the table.
    pub fn inos(&self) -> Vec<Ino> {
        self.table().keys().copied().collect()
    }

    /// Attributes if the node is in use.
    pub fn attr(&self, ino: Ino) -> Option<Attr> {
        let node = Arc::clone(self.table().get(&ino)?);
        let attr = node.state().attr;
        drop(Held { nodes: self, node });
        Some(attr)
    }
}
