//! Beyond one disk: what an archive is made of as immutable objects in an object store, and manifests that
//! say which of them it consists of.

mod attached;
mod bundle;
mod cache;
mod clone;
pub(in crate::store) mod error;
mod fetch;
mod follow;
pub(in crate::store) mod gc;
pub(in crate::store) mod home;
pub(in crate::store) mod lineage;
pub(in crate::store) mod link;
pub(in crate::store) mod manifest;
#[cfg(feature = "remote")]
mod object;
pub(in crate::store) mod open;
mod pull;
mod scrub;
pub(in crate::store) mod sealed;
pub(in crate::store) mod steady;
pub(in crate::store) mod upload;
pub(in crate::store) mod view;

pub use cache::CacheFigures;
pub use clone::{Cloned, clone, unfinished};
pub use error::RemoteError;
pub use follow::Changed;
pub use gc::{Collected, GRACE};
pub use link::{Link, RemoteStatus};
pub use open::{PATIENCE, canonical, is_url};
pub use pull::Pulled;
pub use scrub::RemoteScrubbed;
pub use steady::Requests;
pub use upload::Uploaded;
pub use view::{Reached, View};
