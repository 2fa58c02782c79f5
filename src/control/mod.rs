//! Status and commands of a mounted store, over a socket in the store.
