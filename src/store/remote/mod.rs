//! Beyond one disk: what an archive is made of as immutable objects in an object store, and manifests that
//! say which of them it consists of.

mod attached;
pub(in crate::store) mod blobs;
pub mod bundle;
pub mod cache;
mod clone;
pub(in crate::store) mod complete;
pub mod error;
mod evict;
pub mod fetch;
mod follow;
pub mod gc;
pub mod home;
pub mod lineage;
pub(in crate::store) mod link;
pub mod manifest;
#[cfg(feature = "remote")]
mod object;
pub(in crate::store) mod open;
mod pull;
mod scrub;
pub mod sealed;
mod source;
pub mod steady;
pub(in crate::store) mod tier;
pub(in crate::store) mod upload;
pub(in crate::store) mod view;

pub use cache::CacheFigures;
pub use clone::{Cloned, clone, unfinished};

pub use error::RemoteError;
pub use evict::Evicted;
pub use follow::Changed;
pub use gc::{Collected, GRACE};
pub use link::{Link, RemoteStatus, RemoteUse};
pub use open::{PATIENCE, canonical, is_url};
pub use pull::Pulled;
pub use scrub::RemoteScrubbed;
pub use steady::Requests;
pub use tier::Tier;
pub use upload::Uploaded;
pub use view::{Reached, View};
