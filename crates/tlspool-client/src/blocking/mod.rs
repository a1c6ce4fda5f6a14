//! The blocking client: [`Pool`], which threads share.

mod cancel;
mod link;
mod pool;
mod service;
#[cfg(test)]
mod tests;

pub use cancel::Cancel;
pub use pool::Pool;
pub use service::Service;
