//! Where plaintext comes from: a block's frame is read, decoded with the model and the primer that it
//! names, and checked end to end. Whoever wants bytes of a file asks the [`BlockReader`].

mod cache;
mod error;
mod queue;
mod reader;
mod store_models;

pub use cache::{CacheStats, Landing};
pub use error::ReadError;
pub use queue::{Urgency, WorkQueue};
pub use reader::{Attempt, BlockReader, LastPrimer, Policy};
pub use store_models::StoreModels;
