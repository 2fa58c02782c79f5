//! The kernel's side: mount, adaptor (unpack, call, reply), unmount.

mod mount;

pub use mount::{MountError, MountOptions, Session, Unmounter, mount, unmount};
