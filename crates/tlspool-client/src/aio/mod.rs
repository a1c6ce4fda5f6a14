//! The asynchronous client on tokio.
//!
//! [`Pool`] does what [`crate::Pool`] does, with a task per connection that reads. Dropping the
//! future of a request gives up on it. A `Pool` belongs to the runtime it was first used in.

mod link;
mod pool;
#[cfg(test)]
mod tests;

pub use pool::{Plaintext, Pool};
