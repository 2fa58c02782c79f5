//! Inodes in use: attributes as they are now, dirty data, open counts.
//!
//! Lock order: names → `Node::stage` → `Node::state` (ascending inode number where there are
//! several) → the table → the store's locks. `Node::shown` comes last of all.
//!
//! Who changes an inode keeps its state locked until the log has the change, and so may wait for the
//! disk. Who only wants its attributes takes `shown`, which is never held while anything is waited
//! for; nor is the table.

use super::dirty::Dirty;
use super::{FsError, Result, lock};
use crate::store::{Reservation, Store};
use crate::types::{Attr, Ino};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};

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
    /// Changes with what is mapped in the store.
    pub mappings: u64,
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
    shown: Mutex<Shown>,
}

/// What `stat` shows of an inode: its state when it was last let go of.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    /// Attributes.
    pub attr: Attr,
    /// As in [`NodeState`].
    pub stored_size: u64,
    /// As in [`NodeState`].
    pub gone: bool,
    /// As in [`NodeState`].
    pub mapped: Option<u64>,
    /// As in [`NodeState`].
    pub mappings: u64,
    /// Bytes written that are not in the store.
    pub dirty: u64,
}

impl Shown {
    fn of(s: &NodeState) -> Self {
        Self {
            attr: s.attr,
            stored_size: s.stored_size,
            gone: s.gone,
            mapped: s.mapped,
            mappings: s.mappings,
            dirty: s.dirty.bytes() + s.staging.bytes(),
        }
    }
}

/// A locked state. What was done to it is shown once this goes.
#[derive(Debug)]
pub struct StateGuard<'a> {
    shown: &'a Mutex<Shown>,
    state: MutexGuard<'a, NodeState>,
    changed: bool,
}

impl Deref for StateGuard<'_> {
    type Target = NodeState;
    fn deref(&self) -> &NodeState {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut NodeState {
        self.changed = true;
        &mut self.state
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        if self.changed {
            *lock(self.shown) = Shown::of(&self.state);
        }
    }
}

impl Node {
    fn guard<'a>(&'a self, state: MutexGuard<'a, NodeState>) -> StateGuard<'a> {
        StateGuard { shown: &self.shown, state, changed: false }
    }

    /// Locks the state.
    pub fn state(&self) -> StateGuard<'_> {
        self.guard(lock(&self.state))
    }

    /// What `stat` shows; waits for nobody.
    pub fn shown(&self) -> Shown {
        *lock(&self.shown)
    }

    /// Notes how many bytes are mapped in the store, counted while `mappings` was what it is, unless
    /// somebody has the state now.
    pub fn note_mapped(&self, mappings: u64, mapped: u64) {
        if let Ok(state) = self.state.try_lock()
            && state.mappings == mappings
        {
            self.guard(state).mapped = Some(mapped);
        }
    }
}

/// All inodes in use, by number.
#[derive(Debug, Default)]
pub struct Nodes {
    table: Mutex<Table>,
}

/// Counts of nodes that left.
const SHARES: usize = 32;

#[derive(Debug, Default)]
struct Table {
    nodes: HashMap<Ino, Arc<Node>>,
    /// How many nodes have left, some inodes counted together. As long as it stays the same, an inode
    /// that was not in the table has not been changed.
    left: [u64; SHARES],
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
            table.nodes.remove(&self.node.ino);
            table.left[share(self.node.ino)] += 1;
        }
    }
}

fn share(ino: Ino) -> usize {
    ino.0 as usize % SHARES
}

impl Nodes {
    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// The node of an inode, from the store if it is not in use yet.
    pub fn hold(&self, store: &Store, ino: Ino) -> Result<Held<'_>> {
        let mut table = self.table();
        loop {
            if let Some(node) = table.nodes.get(&ino) {
                return Ok(Held { nodes: self, node: Arc::clone(node) });
            }
            let left = table.left[share(ino)];
            drop(table);
            let attr = store.inode(ino)?.ok_or(FsError::NotFound)?;
            table = self.table();
            // It may have come, been changed and left meanwhile: then these attributes are old.
            if table.left[share(ino)] != left || table.nodes.contains_key(&ino) {
                continue;
            }
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
                mappings: 0,
                read_end: 0,
                streak: 0,
            };
            let (stage, shown) = (Mutex::default(), Mutex::new(Shown::of(&state)));
            let node = Arc::new(Node { ino, stage, state: Mutex::new(state), shown });
            table.nodes.insert(ino, Arc::clone(&node));
            return Ok(Held { nodes: self, node });
        }
    }

    /// Inodes in the table.
    pub fn inos(&self) -> Vec<Ino> {
        self.table().nodes.keys().copied().collect()
    }

    /// Attributes if the node is in use.
    pub fn attr(&self, ino: Ino) -> Option<Attr> {
        let table = self.table();
        Some(table.nodes.get(&ino)?.shown().attr)
    }
}
